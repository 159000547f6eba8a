"""A validation split for files that have none: a share of the training clips, whole conversations at a time."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from msabench.data.feature_rows import FeatureRows
from msabench.data.file_words import conversation_of
from msabench.data.frames import Bools
from msabench.data.raw import RawCorpus, RawSplit
from msabench.errors import MSABenchError


@dataclass(frozen=True)
class ValidShare:
    """What is taken from the training split.

    Attributes:
        share: Share of its clips, in (0, 1), that is come as close to as whole conversations allow.
        seed: Which ones, at least 0. Not the seed of a training: all trainings select on the same clips.
    """

    share: float
    seed: int = 0

    @classmethod
    def of(cls, share: float | None, seed: int | None) -> ValidShare | None:
        """What two options say together; None if nothing is to be taken.

        Raises:
            MSABenchError: A number is out of its range, or there is a seed alone.
        """
        if share is None:
            if seed is not None:
                raise MSABenchError(f"valid_seed {seed} is of no use without valid_share; give both")
            return None
        if not 0 < share < 1:
            raise MSABenchError(f"valid_share {share} is not allowed; give a share of the training clips, such as 0.1")
        if seed is not None and seed < 0:
            raise MSABenchError(f"valid_seed {seed} is not allowed; give a number from 0 on")
        return cls(float(share), seed or 0)

    @property
    def suffix(self) -> str:
        """What it adds to the revision of a file."""
        return f"-valid{self.share!r}" + (f"s{self.seed}" if self.seed else "")

    def chosen(self, ids: list[str]) -> Bools:
        """Which clips are taken: bool ``(N,)``.

        Conversations come in the order of a hash of the seed and their name, so that the order of the clips does not
        matter; each is taken that brings the number of clips nearer to the share.

        Args:
            ids: Ids of the training clips, of two conversations at least.
        """
        names = [conversation_of(clip) for clip in ids]
        sizes = Counter(names)
        order = sorted(sizes, key=lambda name: hashlib.sha256(f"valid/{self.seed}/{name}".encode()).digest())
        target, taken = self.share * len(ids), 0
        chosen: set[str] = set()
        for name in order:
            if sizes[name] < 2 * (target - taken) and len(chosen) < len(order) - 1:
                chosen.add(name)
                taken += sizes[name]
        if not chosen:
            chosen.add(min(order, key=lambda name: sizes[name]))
        return np.array([name in chosen for name in names])


def with_valid(path: Path, raw: RawCorpus, share: ValidShare | None) -> RawCorpus:
    """A corpus with a validation split, its own or one that is taken from the training split.

    Args:
        path: The file, for messages.
        raw: The corpus as read.
        share: What to take; None if the file must have a validation split.

    Raises:
        MSABenchError: There is neither a validation split nor a share, or there are both, or nothing to share out.
    """
    if "valid" in raw.splits:
        if share is not None:
            raise MSABenchError(
                f"valid_share {share.share} is not allowed for {path}, which has a validation split of "
                f"{len(raw.splits['valid'].ids):,} clips"
            )
        return raw
    if share is None:
        raise MSABenchError(
            f"{path} has no validation split (valid); --data.valid_share 0.1 (--valid_share of verbs without a config) "
            "would take a tenth of the training clips for it, whole conversations at a time"
        )
    train = raw.splits["train"]
    n_conversations = len({conversation_of(clip) for clip in train.ids})
    if n_conversations < 2:
        raise MSABenchError(
            f"{path}: valid_share {share.share} cannot be taken from {len(train.ids):,} training clips of a single "
            "conversation; give the file a validation split"
        )
    chosen = share.chosen(train.ids)
    valid = _rows(train, chosen)
    n_valid = len({conversation_of(clip) for clip in valid.ids})
    note = (
        f"valid: {len(valid.ids):,} of {len(train.ids):,} training clips, {n_valid:,} of {n_conversations:,} "
        f"conversations, taken by valid_share {share.share} and valid_seed {share.seed}, since the file has no "
        "validation split"
    )
    splits = {"train": _rows(train, ~chosen), "valid": valid, "test": raw.splits["test"]}
    return replace(raw, splits=splits, notes=[*raw.notes, note])


def _rows(split: RawSplit, rows: Bools) -> RawSplit:
    return RawSplit(
        features={
            modality: values.picked(rows) if isinstance(values, FeatureRows) else values[rows]
            for modality, values in split.features.items()
        },
        lengths={modality: lengths[rows] for modality, lengths in split.lengths.items()},
        labels=split.labels[rows],
        ids=[clip for clip, here in zip(split.ids, rows, strict=True) if here],
        tokens=None if split.tokens is None else split.tokens[rows],
        observed={modality: mask[rows] for modality, mask in split.observed.items()},
    )

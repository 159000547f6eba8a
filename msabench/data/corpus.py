"""A corpus in memory (or mapped from the store): plain tensors, one set per split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from msabench.data.info import SPLITS, DatasetInfo
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.patterns import Clips


@dataclass
class SplitData:
    """One split. N clips; T_m steps and D_m features of modality m.

    Attributes:
        features: modality -> float32 ``(N, T_m, D_m)``; zero on padding.
        lengths: modality -> int64 ``(N,)`` in [0, T_m], number of existing steps.
        labels: float32 ``(N,)``, or int64 ``(N, 4)`` in {0, 1} for IEMOCAP's emotions.
        ids: Clip ids, unique in the split.
        uid: int64 ``(N, 2)`` in [0, 2**32): low and high word of each clip's key for mask draws.
        tokens: int64 ``(N, 3, T_l)`` ids, attention mask, token types; None if the file has none.
        observed: modality -> bool ``(N, T_m)``, False on frames that were never observed (a tracker lost the face);
            they exist, and nothing sees them. Only modalities that the file says so of.
    """

    features: dict[str, Tensor]
    lengths: dict[str, Tensor]
    labels: Tensor
    ids: list[str]
    uid: Tensor
    tokens: Tensor | None = None
    observed: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_bytes(self) -> int:
        """Size of the features in bytes."""
        return sum(t.numel() * t.element_size() for t in self.features.values())

    def clips(self, padding: dict[str, str]) -> Clips:
        """What masks depend on; ``padding`` is the corpus's."""
        seq_lens = {modality: self.features[modality].shape[1] for modality in MODALITIES}
        return Clips(self.uid, self.lengths, seq_lens, padding, self.observed)

    def to(self, device: torch.device) -> SplitData:
        """The split on a device."""
        return replace(
            self,
            features={m: t.to(device) for m, t in self.features.items()},
            lengths={m: t.to(device) for m, t in self.lengths.items()},
            labels=self.labels.to(device),
            uid=self.uid.to(device),
            tokens=None if self.tokens is None else self.tokens.to(device),
            observed={m: t.to(device) for m, t in self.observed.items()},
        )


@dataclass
class Corpus:
    """All splits of one corpus in one feature family.

    Attributes:
        info: Facts about the corpus.
        features: Feature family and alignment, e.g. ``mult-aligned``.
        revision: First 12 digits of the feature file's sha256, or the generator's revision.
        splits: ``train``, ``valid``, ``test``, as far as they were opened.
        padding: modality -> ``end`` or ``front``, the side on which the file pads.
        ids_from_file: False when the file has no ids and rows stand in for them.
        notes: What was found and cleaned when the file was read, in words for users.
    """

    info: DatasetInfo
    features: str
    revision: str
    splits: dict[str, SplitData]
    padding: dict[str, str] = field(default_factory=lambda: dict.fromkeys(("text", "audio", "vision"), "end"))
    ids_from_file: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def split_sizes(self) -> tuple[int, ...]:
        """Clips in train, valid and test, as far as these were opened."""
        return tuple(len(self.splits[name]) for name in SPLITS if name in self.splits)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Modalities of which no training clip has a frame that is not 0: a method cannot have learnt from them."""
        return tuple(m for m in self.splits["train"].features if not _shows(self.splits["train"], m))

    def doubts(self) -> list[str]:
        """What a user should know before training on it, one sentence each."""
        doubts = [
            f"no training clip of {self.info.name} has a frame of {modality} that is not 0, so that no method learns "
            "anything from it; scores that rest on it alone are marked in tables"
            for modality in self.unseen
        ]
        listed = self.info.split_sizes
        if listed is not None and len(self.splits) == len(listed) and self.split_sizes != listed:
            found, known = ("/".join(map(str, sizes)) for sizes in (self.split_sizes, listed))
            doubts.append(
                f"the splits have {found} clips, but {known} are listed for {self.info.name}; unless this is "
                f"{self.info.title}, train on it as custom: every table warns"
            )
        return doubts

    def record_fields(self) -> dict[str, Any]:
        """The fields of ``JobRecord`` that are known from the corpus."""
        return {"unseen": list(self.unseen), "split_sizes": list(self.split_sizes)}


def has_frames(split: SplitData, modality: str) -> Tensor:
    """Which clips have at least one observed frame of a modality: bool ``(N,)``."""
    there = split.lengths[modality] > 0
    return there & split.observed[modality].any(1) if modality in split.observed else there


def _shows(split: SplitData, modality: str, chunk: int = 512) -> bool:
    """Whether any clip shows anything of a modality; text does by its token ids where there are any."""
    if not has_frames(split, modality).any():
        return False
    if modality == "text" and split.tokens is not None:
        return True
    return any(bool(part.any()) for part in torch.split(split.features[modality], chunk))


def all_zero_as_absent(corpus: Corpus) -> Corpus:
    """A corpus in which a modality that is zero in all frames of a clip counts as not there in that clip.

    Text counts by its token ids where the file has them. What was not finite is zero already.

    Returns:
        The corpus with lengths of 0 for such clips and a revision of its own, since it has other test masks.
    """
    splits = {name: with_zeros_absent(split) for name, split in corpus.splits.items()}
    return replace(corpus, splits=splits, revision=f"{corpus.revision}-zero-absent")


def with_zeros_absent(split: SplitData) -> SplitData:
    """A split in which a modality that is zero in all frames of a clip has no frame in it, see above."""
    judged = [m for m in split.features if m != "text" or split.tokens is None]
    lengths = {
        m: torch.where(all_zero(split.features[m]), 0, length) if m in judged else length
        for m, length in split.lengths.items()
    }
    return replace(split, lengths=lengths)


def all_zero(values: Tensor, chunk: int = 512) -> Tensor:
    """Which clips are zero in all frames: bool ``(N,)``.

    Args:
        values: float32 ``(N, T, D)``.
        chunk: Clips to look at together, so that a mapped corpus is never whole in memory.
    """
    return torch.cat([~part.any(dim=2).any(dim=1) for part in torch.split(values, chunk)])


def clip_uids(dataset: str, split: str, ids: list[str]) -> Tensor:
    """Keys of clips for mask draws: the first 8 bytes of sha256 of ``dataset/split/id``, little-endian.

    Returns:
        int64 ``(N, 2)``: low and high 32-bit word.
    """
    digests = [hashlib.sha256(f"{dataset}/{split}/{clip}".encode()).digest() for clip in ids]
    words = [[int.from_bytes(d[:4], "little"), int.from_bytes(d[4:8], "little")] for d in digests]
    return torch.tensor(words, dtype=torch.int64).reshape(len(ids), 2)

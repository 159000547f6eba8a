"""A corpus in memory (or mapped from the store): plain tensors, one set per split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from msabench.data.info import DatasetInfo

SPLITS = ("train", "valid", "test")


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
    """

    features: dict[str, Tensor]
    lengths: dict[str, Tensor]
    labels: Tensor
    ids: list[str]
    uid: Tensor
    tokens: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_bytes(self) -> int:
        """Size of the features in bytes."""
        return sum(t.numel() * t.element_size() for t in self.features.values())

    def to(self, device: torch.device) -> SplitData:
        """The split on a device."""
        return replace(
            self,
            features={m: t.to(device) for m, t in self.features.items()},
            lengths={m: t.to(device) for m, t in self.lengths.items()},
            labels=self.labels.to(device),
            uid=self.uid.to(device),
            tokens=None if self.tokens is None else self.tokens.to(device),
        )


@dataclass
class Corpus:
    """All splits of one corpus in one feature family.

    Attributes:
        info: Facts about the corpus.
        features: Feature family and alignment, e.g. ``mult-aligned``.
        revision: First 12 digits of the feature file's sha256, or the generator's revision.
        splits: ``train``, ``valid``, ``test``.
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


def clip_uids(dataset: str, split: str, ids: list[str]) -> Tensor:
    """Keys of clips for mask draws: the first 8 bytes of sha256 of ``dataset/split/id``, little-endian.

    Returns:
        int64 ``(N, 2)``: low and high 32-bit word.
    """
    digests = [hashlib.sha256(f"{dataset}/{split}/{clip}".encode()).digest() for clip in ids]
    words = [[int.from_bytes(d[:4], "little"), int.from_bytes(d[4:8], "little")] for d in digests]
    return torch.tensor(words, dtype=torch.int64).reshape(len(ids), 2)

"""What a reader hands on: plain numpy arrays, not yet checked against each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class RawSplit:
    """One split as read. N clips; T_m steps and D_m features of modality m.

    Attributes:
        features: modality -> float32 ``(N, T_m, D_m)``.
        lengths: modality -> int64 ``(N,)``.
        labels: float32 ``(N,)``, or int64 ``(N, 4)`` in {0, 1} for IEMOCAP's emotions.
        ids: Clip ids.
        tokens: int64 ``(N, 3, T_l)`` ids, attention mask, token types; None if there are none.
    """

    features: dict[str, NDArray[np.float32]]
    lengths: dict[str, NDArray[np.int64]]
    labels: NDArray[np.float32] | NDArray[np.int64]
    ids: list[str]
    tokens: NDArray[np.int64] | None = None


@dataclass
class RawCorpus:
    """All splits as read; see ``Corpus`` for the fields."""

    splits: dict[str, RawSplit]
    padding: dict[str, str] = field(default_factory=lambda: dict.fromkeys(("text", "audio", "vision"), "end"))
    ids_from_file: bool = True
    notes: list[str] = field(default_factory=list)

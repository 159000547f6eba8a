"""What a reader hands on: plain numpy arrays, not yet checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from msabench.data.feature_rows import FeatureRows


@dataclass
class RawSplit:
    """One split as read. N clips; T_m steps and D_m features of modality m.

    Attributes:
        features: modality -> float32 ``(N, T_m, D_m)``; what is large may have stayed in its file.
        lengths: modality -> int64 ``(N,)``.
        labels: float32 ``(N,)``, or int64 ``(N, 4)`` in {0, 1} for IEMOCAP's emotions.
        ids: Clip ids.
        tokens: int64 ``(N, 3, T_l)`` ids, attention mask, token types; None if there are none.
        observed: modality -> bool ``(N, T_m)``, False on frames that the file says were not observed; only modalities
            that it says so of.
    """

    features: Mapping[str, NDArray[np.float32] | FeatureRows]
    lengths: dict[str, NDArray[np.int64]]
    labels: NDArray[np.float32] | NDArray[np.int64]
    ids: list[str]
    tokens: NDArray[np.int64] | None = None
    observed: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def all_zero(self, modality: str) -> list[str]:
        """Ids of clips that have frames of a modality, all of which are 0; none for text where there are token ids."""
        if modality == "text" and self.tokens is not None:
            return []
        values = self.features[modality]
        present = values.present if isinstance(values, FeatureRows) else np.any(np.asarray(values), axis=2)
        rows = zip(self.ids, np.asarray(np.any(present, axis=1)), self.lengths[modality], strict=True)
        return [clip for clip, any_frame, length in rows if length > 0 and not any_frame]


@dataclass
class RawCorpus:
    """All splits as read; see ``Corpus`` for the fields."""

    splits: dict[str, RawSplit]
    padding: dict[str, str] = field(default_factory=lambda: dict.fromkeys(("text", "audio", "vision"), "end"))
    ids_from_file: bool = True
    notes: list[str] = field(default_factory=list)

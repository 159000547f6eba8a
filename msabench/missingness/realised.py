"""What removing whole modalities by chance came to: which clips kept which, and the share of pairs that is missing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from msabench.missingness.conditions import LETTERS, MODALITIES, SUBSETS, Cell
from msabench.missingness.patterns import Clips, Masks


@dataclass(frozen=True)
class Realised:
    """What a cell's masks leave of whole modalities.

    Attributes:
        missing: Share of (clip, modality) pairs without an observed frame, of those that have one in the file, in
            [0, 1].
        subsets: One of ``SUBSETS`` -> clips that have frames of just these modalities; clips without any count nowhere.
    """

    missing: float
    subsets: dict[str, int]

    @classmethod
    def of(cls, cell: Cell, masks: Masks, clips: Clips) -> Realised | None:
        """Of a cell that removes modalities by chance; None for others.

        Args:
            cell: The test situation.
            masks: Its masks.
            clips: The clips they are of.
        """
        if not cell.removal:
            return None
        seen = torch.stack([masks.observed[m].any(1) for m in MODALITIES], dim=1)
        exists = torch.stack([_exists(clips, m) for m in MODALITIES], dim=1)
        missing = 1 - float(seen.sum()) / float(exists.sum()) if exists.any() else 0.0
        code = (seen.long() * torch.tensor([4, 2, 1], device=seen.device)).sum(1).bincount(minlength=8).tolist()
        subsets = {s: code[sum(4 >> list(LETTERS).index(letter) for letter in s)] for s in SUBSETS}
        return cls(missing, subsets)


def _exists(clips: Clips, modality: str) -> torch.Tensor:
    if modality not in clips.observed:
        return clips.lengths[modality] > 0
    return (clips.valid(modality) & clips.observed[modality]).any(1)

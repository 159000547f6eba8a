"""What is observed in a test cell, as arrays by clip: what methods see, and what programs elsewhere are told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msabench.data.datamodule import MSADataModule
from msabench.missingness.conditions import MODALITIES, Cell
from msabench.missingness.patterns import Masks, mask_hash

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class ObservedMasks:
    """The masks of a split's N clips, in file order; T_m are the steps of modality m. The fields are as in ``Batch``.

    Attributes:
        ids: Clip ids, N.
        observed: modality -> bool ``(N, T_m)``, True where a frame is observed.
        valid: modality -> bool ``(N, T_m)``, True where a frame exists; all True for a clip's removed modality unless
            the protocol says ``lengths: keep``, so that not even its length is told.
        hash: What records call the masks: 16 hex digits.
    """

    ids: list[str]
    observed: dict[str, Flags]
    valid: dict[str, Flags]
    hash: str

    @classmethod
    def of(cls, ids: list[str], masks: Masks) -> ObservedMasks:
        """Masks as drawn, with the ids of their clips."""
        observed, valid = ({m: field[m].cpu().numpy() for m in MODALITIES} for field in (masks.observed, masks.valid))
        return cls(list(ids), observed, valid, mask_hash(masks))


def observed(data: MSADataModule, cell: Cell, mask_seed: int, split: str = "test") -> ObservedMasks:
    """What is observed in a cell: the masks that ``evaluate`` applies.

    Args:
        data: The data; gives the clips and the missingness protocol.
        cell: The test situation.
        mask_seed: Seed of the masks, from 0 on; without effect in cells without random masks.
        split: ``test``, or ``train`` or ``valid`` to have the same situation there.

    Raises:
        MSABenchError: The corpus cannot be opened, or the seed is out of its range.
    """
    return ObservedMasks.of(data.corpus.splits[split].ids, data.cell_masks(cell, mask_seed, split))

"""``msabench.masks``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from msabench.api.loading import as_data
from msabench.data.datamodule import MSADataModule
from msabench.data.info import SPLITS
from msabench.errors import MSABenchError, one_of
from msabench.evaluation.observed import ObservedMasks, observed
from msabench.missingness.conditions import Cell
from msabench.missingness.patterns import training_masks, validation_masks

ClipMasks = dict[str, dict[str, NDArray[np.bool_]]]
"""Clip id -> modality -> bool ``(T_m,)``."""


def masks(
    data: MSADataModule | str | Path,
    cell: str | Cell | None = None,
    *,
    mask_seed: int | None = None,
    split: Literal["train", "valid", "test"] = "test",
    epoch: int | None = None,
) -> ClipMasks:
    """What is observed of each clip: exactly what batches of the data module have.

    With a cell, the masks of that test situation; they do not depend on the training regime. Without one, those of
    the data's training regime: on ``valid`` the masks that select the checkpoint, the same in every epoch, on
    ``train`` those of an epoch of a training with the data's seed.

    Args:
        data: From ``load``, or what it takes.
        cell: The test situation, e.g. ``inter/la`` or ``intra/0.3``; None for the training regime.
        mask_seed: Seed of the masks, from 0 on; without effect in cells without random masks. None for 0 in a cell,
            and for the data's on ``valid``.
        split: The clips: ``train``, ``valid`` or ``test``.
        epoch: Epoch of the training masks, from 0 on; on ``train`` without a cell, and nowhere else.

    Returns:
        Clip id -> modality (``text``, ``audio``, ``vision``) -> bool ``(T_m,)``, True where a frame exists and is
        observed. T_m is the length of the corpus's sequences; padding stands where the file has it and is False.

    Raises:
        MSABenchError: The data cannot be opened, the cell or split is unknown, or the arguments do not fit together.

    Example:
        >>> data = load("synth", size=(24, 8, 10), length=8)
        >>> masks(data, "inter/la")["test000$_$0"]["vision"].any()
        np.False_
    """
    data = as_data(data)
    if split not in SPLITS:
        raise one_of("split", split, SPLITS)
    if mask_seed is not None and mask_seed < 0:
        raise MSABenchError(f"mask seed {mask_seed} is not allowed; give a number from 0 on")
    if cell is not None:
        if epoch is not None:
            raise MSABenchError(f"epoch {epoch} is about training masks and cannot go with cell {cell}; leave one out")
        found = observed(data, cell if isinstance(cell, Cell) else Cell.parse(cell), mask_seed or 0, split)
    else:
        found = _of_regime(data, mask_seed, split, epoch)
    return {clip: {m: found.observed[m][row] for m in found.observed} for row, clip in enumerate(found.ids)}


def _of_regime(data: MSADataModule, mask_seed: int | None, split: str, epoch: int | None) -> ObservedMasks:
    if split == "test":
        raise MSABenchError("the test split has masks in cells only; give a cell, e.g. inter/la or intra/0.3")
    if split == "valid" and data.selection != "val":
        raise MSABenchError(f"selection {data.selection} looks at no validation clips; give a cell, or selection val")
    if (epoch is None) == (split == "train"):
        raise MSABenchError(
            "masks of the training split without a cell are those of an epoch; give epoch"
            if epoch is None
            else f"validation masks are the same in every epoch; leave epoch {epoch} out"
        )
    if split == "train" and mask_seed is not None:
        raise MSABenchError(f"training masks follow the data's seed, {data.seed}; leave mask_seed {mask_seed} out")
    clips = data.corpus.splits[split].clips(data.corpus.padding)
    if epoch is None:
        drawn = validation_masks(data.missing, clips, data.mask_seed if mask_seed is None else mask_seed)
    else:
        [drawn] = training_masks(data.missing, clips, data.seed, epoch)
    return ObservedMasks.of(data.corpus.splits[split].ids, drawn)

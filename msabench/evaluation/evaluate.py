"""Evaluates in every distinct cell of a grid, from features that are loaded once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from msabench.data.batch import Batch, stacked
from msabench.data.datamodule import MSADataModule
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.evaluation.predictor import MethodPredictor, Predictor
from msabench.interruption import check
from msabench.methods.base import MSAMethod
from msabench.missingness.conditions import Cell, checked_mask_seeds, distinct
from msabench.missingness.patterns import Masks, blind_share, dropped_share, mask_hash
from msabench.missingness.realised import Realised
from msabench.results.predictions import CellPredictions, Evaluation
from msabench.training.memory_fill import unfilled_memory

Floats = NDArray[np.float32]
Predicted = tuple[Floats, Floats | None]
"""Predictions and representations of a cell."""

CPU_BATCH = 96
"""Clips per forward pass on a CPU, the fastest size when measured; accelerators take the whole split if it fits."""

STACKED_CLIPS = 4096
"""Clips up to which an accelerator takes several cells into one forward pass, where a split has fewer."""

Situation = tuple[Cell, int | None]
"""A cell and the seed of its masks; None if its masks are not random."""


def evaluate_grid(
    method: MSAMethod,
    datamodule: MSADataModule,
    cells: Iterable[Cell],
    mask_seeds: Iterable[int] = (0, 1, 2),
    *,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    keep_representations: bool = False,
    stack_cells: bool | None = None,
) -> Evaluation:
    """Predict the test split in every distinct cell by a trained method, see ``predict_grid``.

    The method is left in evaluation mode on the device.

    Args:
        method: The trained method.
        datamodule: Its data; gives missingness protocol and normalisation.
        cells: Cells to evaluate; repetitions count once.
        mask_seeds: Seeds of the test masks, at least one, without repetition.
        batch_size: Clips per forward pass; None for 96 on a CPU and for the whole split, halved until it fits, on
            an accelerator. Predictions do not depend on it, up to rounding on an accelerator.
        device: Where to compute.
        keep_representations: Whether to keep the joint representations, ``Output.representation``.
        stack_cells: See ``predict_grid``; None for yes on an accelerator.

    Raises:
        MSABenchError: No mask seed, a repeated or negative one, predictions that are not finite, or representations
            asked of a method that returns none.
    """
    method.eval().to(device)
    predictor = MethodPredictor(method, keep_representations)
    if stack_cells is None:
        stack_cells = torch.device(device).type != "cpu"
    return predict_grid(
        predictor, datamodule, cells, mask_seeds, batch_size=batch_size, device=device, stack_cells=stack_cells
    )


def predict_grid(
    predictor: Predictor,
    datamodule: MSADataModule,
    cells: Iterable[Cell],
    mask_seeds: Iterable[int] = (0, 1, 2),
    *,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    stack_cells: bool = False,
) -> Evaluation:
    """Predict the test split in every distinct cell.

    Cells with random masks are predicted once per mask seed, others once. Gradients are off through ``no_grad``, so
    that a method may switch them on locally.

    Args:
        predictor: What predicts a batch.
        datamodule: The data; gives missingness protocol and normalisation.
        cells: Cells to evaluate; repetitions count once.
        mask_seeds: Seeds of the test masks, at least one, without repetition.
        batch_size: Clips per call; None for 96 on a CPU and for the whole split, halved until it fits, on an
            accelerator.
        device: Where the batches are made; the predictor has to be there.
        stack_cells: Whether a call may get clips of several cells and mask seeds, where ``batch_size`` is at least
            twice the split; without ``batch_size`` it is then at least 4096. The predictor is told the first cell.

    Raises:
        MSABenchError: No mask seed, a repeated or negative one, a cell that the data or what the predictor reads do not
            allow, or predictions that are not finite.
    """
    seeds = checked_mask_seeds(mask_seeds)
    started, processor_started = time.perf_counter(), time.process_time()
    device = torch.device(device)
    split = datamodule.corpus.splits["test"]
    clips = split.clips(datamodule.corpus.padding)
    size = batch_size or (CPU_BATCH if device.type == "cpu" else len(split))
    if stack_cells and batch_size is None:
        size = max(len(split), STACKED_CLIPS)
    asked = distinct(cells)
    datamodule.require(asked, predictor.needs)
    rest: list[Situation] = [(cell, seed) for cell in asked for seed in (seeds if cell.is_random else (None,))]
    entries = []
    while rest:
        count = max(size // max(len(split), 1), 1) if stack_cells else 1
        together, rest = rest[:count], rest[count:]
        masks = [datamodule.cell_masks(cell, seed or 0, device=device) for cell, seed in together]
        predict = partial(_predict_together, predictor, datamodule, together, masks, device)
        predicted, size = _halving(predict, size)
        for (cell, seed), held, (preds, representation) in zip(together, masks, predicted, strict=True):
            if not np.isfinite(preds).all():
                raise MSABenchError(f"{predictor.name} predicts values that are not finite in cell {cell}")
            home = clips if held.observed["text"].device.type == "cpu" else clips.to(device)
            realised = Realised.of(cell, held, home)
            entries.append(
                CellPredictions(
                    cell,
                    seed,
                    preds,
                    mask_hash(held),
                    dropped_share(held, home),
                    representation,
                    blind_share(held),
                    None if realised is None else realised.missing,
                    None if realised is None else realised.subsets,
                )
            )
    return Evaluation(
        metric_set=datamodule.corpus.info.metric_set,
        ids=list(split.ids),
        labels=split.labels.cpu().numpy(),
        cells=entries,
        seconds=time.perf_counter() - started,
        processor_seconds=time.process_time() - processor_started,
    )


def _predict_together(
    predictor: Predictor,
    datamodule: MSADataModule,
    situations: Sequence[Situation],
    masks: Sequence[Masks],
    device: torch.device,
    size: int,
) -> list[Predicted]:
    """Predict the split in some situations, as many of them in a call as fit into ``size`` clips."""
    count = max(size // max(len(datamodule.corpus.splits["test"]), 1), 1)
    found: list[Predicted] = []
    for start in range(0, len(situations), count):
        part = slice(start, start + count)
        found += _predict(predictor, datamodule, situations[part], masks[part], device, size)
    return found


def _predict(
    predictor: Predictor,
    datamodule: MSADataModule,
    situations: Sequence[Situation],
    masks: Sequence[Masks],
    device: torch.device,
    size: int,
) -> list[Predicted]:
    """Predict the split in one situation, batch by batch, or in several in one call."""
    needs = predictor.needs
    batches: Iterable[Batch] = (
        batch.for_inference()
        for (cell, seed), held in zip(situations, masks, strict=True)
        for batch in datamodule.cell_batches(cell, seed or 0, needs=needs, batch_size=size, device=device, masks=held)
    )
    if len(situations) > 1:
        batches = [stacked(*batches)]
    preds, kept = [], []
    with torch.no_grad(), unfilled_memory():
        for batch in batches:
            check()
            pred, representation = predictor(batch, situations[0][0])
            preds.append(pred)
            if representation is not None:
                kept.append(representation)
    array = partial(_array, datamodule, needs)
    each = torch.cat(preds).chunk(len(situations))
    each_kept = torch.cat(kept).chunk(len(situations)) if kept else [None] * len(situations)
    return [(array(rows), None if more is None else array(more)) for rows, more in zip(each, each_kept, strict=True)]


def _array(datamodule: MSADataModule, needs: Needs, values: torch.Tensor) -> Floats:
    in_order = datamodule.in_file_order(values, needs=needs)
    rows: Floats = in_order.float().cpu().numpy()
    return rows


def _halving(predict: Callable[[int], list[Predicted]], size: int) -> tuple[list[Predicted], int]:
    """Call with smaller batches until they fit; returns what it gave and the size that did."""
    while True:
        try:
            return predict(size), size
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
        # Outside the handler, so that the failed pass's tensors are no longer held by its traceback.
        torch.cuda.empty_cache()
        size = -(-size // 2)

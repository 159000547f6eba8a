"""Evaluates in every distinct cell of a grid, from features that are loaded once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

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


def evaluate_grid(
    method: MSAMethod,
    datamodule: MSADataModule,
    cells: Iterable[Cell],
    mask_seeds: Iterable[int] = (0, 1, 2),
    *,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    keep_representations: bool = False,
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

    Raises:
        MSABenchError: No mask seed, a repeated or negative one, predictions that are not finite, or representations
            asked of a method that returns none.
    """
    method.eval().to(device)
    predictor = MethodPredictor(method, keep_representations)
    return predict_grid(predictor, datamodule, cells, mask_seeds, batch_size=batch_size, device=device)


def predict_grid(
    predictor: Predictor,
    datamodule: MSADataModule,
    cells: Iterable[Cell],
    mask_seeds: Iterable[int] = (0, 1, 2),
    *,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
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

    Raises:
        MSABenchError: No mask seed, a repeated or negative one, or predictions that are not finite.
    """
    seeds = checked_mask_seeds(mask_seeds)
    started, processor_started = time.perf_counter(), time.process_time()
    device = torch.device(device)
    split = datamodule.corpus.splits["test"]
    clips = split.clips(datamodule.corpus.padding)
    size = batch_size or (CPU_BATCH if device.type == "cpu" else len(split))
    entries = []
    asked = distinct(cells)
    for cell in asked:
        datamodule.missing.require(cell)
    for cell in asked:
        for seed in seeds if cell.is_random else (None,):
            masks = datamodule.cell_masks(cell, seed or 0, device=device)
            predict = partial(_predict, predictor, datamodule, cell, seed or 0, masks, device)
            (preds, representation), size = _halving(predict, size)
            if not np.isfinite(preds).all():
                raise MSABenchError(f"{predictor.name} predicts values that are not finite in cell {cell}")
            home = clips if masks.observed["text"].device.type == "cpu" else clips.to(device)
            shares = dropped_share(masks, home)
            blind, realised = blind_share(masks), Realised.of(cell, masks, home)
            entries.append(
                CellPredictions(
                    cell,
                    seed,
                    preds,
                    mask_hash(masks),
                    shares,
                    representation,
                    blind,
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


def _predict(
    predictor: Predictor,
    datamodule: MSADataModule,
    cell: Cell,
    mask_seed: int,
    masks: Masks,
    device: torch.device,
    size: int,
) -> Predicted:
    needs = predictor.needs
    batches = datamodule.cell_batches(
        cell,
        mask_seed,
        needs=needs,
        batch_size=size,
        device=device,
        masks=masks,
    )
    preds, kept = [], []
    with torch.no_grad(), unfilled_memory():
        for batch in batches:
            check()
            pred, representation = predictor(batch.for_inference(), cell)
            preds.append(pred)
            if representation is not None:
                kept.append(representation)
    array = partial(_array, datamodule, needs)
    return array(preds), array(kept) if kept else None


def _array(datamodule: MSADataModule, needs: Needs, parts: list[torch.Tensor]) -> Floats:
    in_order = datamodule.in_file_order(torch.cat(parts), needs=needs)
    rows: Floats = in_order.float().cpu().numpy()
    return rows


def _halving(predict: Callable[[int], Predicted], size: int) -> tuple[Predicted, int]:
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

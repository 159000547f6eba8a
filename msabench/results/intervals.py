"""Intervals for the numbers of a table: a bootstrap over test clips and training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msabench.errors import MSABenchError
from msabench.evaluation import predictions
from msabench.metrics.weighted import weighted_metric
from msabench.results.aggregate import AVERAGES, DRAWS, LEVEL


def intervals(
    files: Sequence[Path], metric_set: str, metric: str, cells: Sequence[str], draws: int = DRAWS
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap interval of each cell's mean over training seeds of the mean over test masks.

    Each resample draws training seeds with replacement, and test clips with replacement; the clips are the same for all
    seeds, masks and cells. With few seeds the spread between seeds is known badly, and the interval is rough.

    Args:
        files: Stored predictions, one file a training seed.
        metric_set: Metric set of the corpus.
        metric: Metric key.
        cells: Cell names and keys of ``AVERAGES``.
        draws: Number of resamples.

    Returns:
        Cell -> lower and upper bound; NaN if the metric is undefined in a resample. Cells without predictions, and
        averages of which a cell is lacking, are left out.

    Raises:
        MSABenchError: A file is missing, or files hold different clips.
    """
    rng = np.random.default_rng(0)
    seed_shares = rng.multinomial(len(files), [1 / len(files)] * len(files), size=draws) / len(files)
    per_cell: dict[str, list[NDArray[np.float64]]] = {}
    clips: list[str] = []
    counts: NDArray[np.int64] | None = None
    for path in files:
        if not path.is_file():
            raise MSABenchError(
                f"there are no predictions {path}, which intervals are made of; leave them out, or run the suite into "
                "a store of your own"
            )
        by_cell: dict[str, list[predictions.StoredCell]] = {}
        for stored in predictions.read(path):
            by_cell.setdefault(stored.cell, []).append(stored)
        first = next(iter(by_cell.values()))[0]
        if counts is None:
            clips, n = first.ids, len(first.ids)
            counts = rng.multinomial(n, [1 / n] * n, size=draws)
        if first.ids != clips:
            raise MSABenchError(f"{path} holds other clips than {files[0]}; give results on one test set")
        for cell, drawn in by_cell.items():
            preds = np.stack([entry.preds for entry in drawn])
            values = weighted_metric(metric_set, metric, first.labels, preds, counts)
            per_cell.setdefault(cell, []).append(values.mean(axis=1))
    whole = {
        cell: (seed_shares * np.stack(seeds, axis=1)).sum(axis=1)
        for cell, seeds in per_cell.items()
        if len(seeds) == len(files)
    }
    found = {}
    for cell in cells:
        parts = [str(part) for part in AVERAGES.get(cell, ())] or [cell]
        if set(parts) <= set(whole):
            found[cell] = _percentiles(np.mean([whole[part] for part in parts], axis=0))
    return found


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    if np.isnan(values).any():
        return float("nan"), float("nan")
    low, high = np.percentile(values, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)

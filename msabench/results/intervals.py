"""Intervals for the numbers of a table: a bootstrap over test clips and training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msabench.results.aggregate import DRAWS
from msabench.results.resample import clip_counts, over_resamples, percentiles, read_runs, seed_shares, seed_values


def intervals(
    files: Sequence[Path], metric_set: str, metric: str, cells: Sequence[str], draws: int = DRAWS
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap interval of each cell's mean over training seeds of the mean over test masks.

    See ``resample`` for what is drawn. With few seeds the spread between seeds is known badly, and the interval is
    rough; with one seed it says nothing about other seeds.

    Args:
        files: Stored predictions, one file a training seed; in any order.
        metric_set: Metric set of the corpus.
        metric: Metric key.
        cells: Cell names and keys of ``AVERAGES``.
        draws: Number of resamples.

    Returns:
        Cell -> lower and upper bound; NaN if the metric is undefined in a resample. Cells that not every file has, and
        averages of which a cell is lacking, are left out.

    Raises:
        MSABenchError: A file is missing, or files hold different clips.
    """
    # Seeds are drawn by place, so that places must not depend on who calls.
    runs = read_runs(sorted(files))
    values = seed_values(runs, metric_set, metric, clip_counts(len(runs.ids), draws), cells)
    resampled = over_resamples(values, seed_shares(runs.n_seeds, draws))
    return {cell: percentiles(found) for cell, found in resampled.items()}

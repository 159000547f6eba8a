"""Intervals for the numbers of a table: a bootstrap over test clips and training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    return intervals_by_metric(files, metric_set, {metric: cells}, draws)[metric]


def intervals_by_metric(
    files: Sequence[Path], metric_set: str, wanted: Mapping[str, Sequence[str]], draws: int = DRAWS
) -> dict[str, dict[str, tuple[float, float]]]:
    """``intervals`` of several metrics, on predictions that are read once.

    Args:
        files: Stored predictions, one file a training seed; in any order.
        metric_set: Metric set of the corpus.
        wanted: Metric key -> cell names, keys of ``AVERAGES``, names of derived quantities.
        draws: Number of resamples.

    Returns:
        Metric key -> cell -> lower and upper bound.

    Raises:
        MSABenchError: A file is missing, or files hold different clips.
    """
    # Seeds are drawn by place, so that places must not depend on who calls.
    runs = read_runs(sorted(files))
    counts, shares = clip_counts(len(runs.ids), draws), seed_shares(runs.n_seeds, draws)
    found = {}
    for metric, cells in wanted.items():
        resampled = over_resamples(seed_values(runs, metric_set, metric, counts, cells), shares)
        found[metric] = {cell: percentiles(values) for cell, values in resampled.items()}
    return found

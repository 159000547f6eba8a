"""Paired comparisons of methods on one test set, and their correction for how many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msabench.errors import MSABenchError
from msabench.optional import require
from msabench.results.aggregate import DRAWS
from msabench.results.resample import (
    Floats,
    clip_counts,
    over_resamples,
    percentiles,
    read_runs,
    seed_shares,
    seed_values,
)


@dataclass(frozen=True)
class Resampled:
    """A metric of one method in every resample of the test clips.

    Attributes:
        ids: The test clips.
        seeds: Training seeds, ascending.
        estimates: Cell or average -> the metric itself, ``(1, seeds)``.
        values: Cell or average -> the metric in each resample, ``(draws, seeds)``.
    """

    ids: list[str]
    seeds: tuple[int, ...]
    estimates: dict[str, Floats]
    values: dict[str, Floats]


@dataclass(frozen=True)
class Difference:
    """A method against a baseline in one cell or average.

    Attributes:
        value: The method: mean over its training seeds of the mean over test masks.
        baseline: The baseline, likewise.
        low: Lower bound of the interval of ``value - baseline``; NaN if it is undefined in a resample.
        high: Upper bound, likewise.
        p: Two-sided p value of no difference, see ``two_sided``.
    """

    value: float
    baseline: float
    low: float
    high: float
    p: float

    @property
    def difference(self) -> float:
        """``value - baseline``."""
        return self.value - self.baseline


def resampled(
    files: Mapping[int, Path], metric_set: str, metric: str, cells: Sequence[str], draws: int = DRAWS
) -> Resampled:
    """Resample a method's test clips.

    Args:
        files: Training seed -> stored predictions.
        metric_set: Metric set of the corpus.
        metric: Metric key.
        cells: Cell names and keys of ``AVERAGES``; those that a seed lacks are left out.
        draws: Number of resamples.

    Raises:
        MSABenchError: A file is missing, or files hold different clips.
    """
    seeds = tuple(sorted(files))
    runs = read_runs([files[seed] for seed in seeds])
    n_clips = len(runs.ids)
    return Resampled(
        runs.ids,
        seeds,
        seed_values(runs, metric_set, metric, np.ones((1, n_clips)), cells),
        seed_values(runs, metric_set, metric, clip_counts(n_clips, draws), cells),
    )


def paired_differences(ours: Resampled, baseline: Resampled) -> dict[str, Difference]:
    """Compare two methods on the same resamples of the test clips.

    If both were trained under the same seeds, which gave them the same order of clips and the same holes in training,
    the seeds are drawn in pairs; else independently.

    Returns:
        Cell or average -> comparison, where both have it.

    Raises:
        MSABenchError: The methods were tested on different clips.
    """
    if ours.ids != baseline.ids:
        raise MSABenchError(
            f"the methods were tested on different clips ({len(ours.ids)} and {len(baseline.ids)}); "
            "pairs need one test set in one order"
        )
    own = _over_seeds(ours, stream=0 if seeds_paired(ours, baseline) else 1)
    base = _over_seeds(baseline, stream=0)
    found = {}
    for cell in own:
        if cell in base:
            drawn = own[cell] - base[cell]
            means = (float(ours.estimates[cell].mean()), float(baseline.estimates[cell].mean()))
            found[cell] = Difference(*means, *percentiles(drawn), two_sided(drawn))
    return found


def _over_seeds(found: Resampled, stream: int) -> dict[str, Floats]:
    draws = len(next(iter(found.values.values()), ()))
    return over_resamples(found.values, seed_shares(len(found.seeds), draws, stream))


def seeds_paired(ours: Resampled, baseline: Resampled) -> bool:
    """Whether the training seeds of two methods are drawn in pairs."""
    return ours.seeds == baseline.seeds


def two_sided(differences: Floats) -> float:
    """Two-sided p value of a bootstrap: the smallest level at which the percentile interval leaves out 0.

    Twice the smaller share of resamples on one side of 0, 0 itself counting on both, with one resample added to each,
    since no finite number of them shows that p is 0 (A. C. Davison and D. V. Hinkley, Bootstrap Methods and their
    Application, 1997, section 4.2).

    Args:
        differences: ``(draws,)``.

    Returns:
        In ``[2 / (draws + 1), 1]``; NaN if a difference is undefined.

    >>> two_sided(np.array([1.0, 2.0, 3.0, -1.0, 2.0, 1.0, 1.0])).__round__(3)
    0.5
    """
    if np.isnan(differences).any():
        return float("nan")
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (1 + len(differences)))


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> Floats:
    """Holm's correction: the chance of any false finding among them stays below the level.

    Args:
        p_values: ``(C,)`` in [0, 1]; NaN for comparisons that are undefined, which do not count.

    Returns:
        float64 ``(C,)`` corrected p values, NaN where they were.

    Raises:
        MSABenchError: statsmodels is not installed.
    """
    given = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(len(given), np.nan)
    defined = ~np.isnan(given)
    if defined.any():
        multitest = require("statsmodels.stats.multitest")
        corrected[defined] = multitest.multipletests(given[defined], method="holm")[1]
    return corrected

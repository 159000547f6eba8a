"""Average ranks of methods over blocks, the Friedman test, and Nemenyi's critical difference.

As in J. Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006. The tests there take
blocks for independent. Test situations of one corpus are not: they share models and clips. So their p values are too
small and the critical difference is too short; both say what a difference is at most worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from msabench.errors import MSABenchError
from msabench.optional import require
from msabench.results.resample import percentiles

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

ALPHA = 0.05
"""Level of the critical difference."""

FEWEST_METHODS = 3
FEWEST_BLOCKS = 5


@dataclass(frozen=True)
class Ranking:
    """Methods ranked within blocks. K methods, N blocks.

    Attributes:
        names: The methods, best average rank first.
        blocks: The blocks.
        ranks: ``(N, K)`` ranks, 1 is best, ties share their mean.
        last: ``(N, K)``, where a method was put last because its value is undefined or its predictions collapsed.
        friedman_p: p value of "all methods rank alike"; NaN if they do in every block.
        critical_difference: Smallest difference between average ranks that Nemenyi's test calls one at ``ALPHA``.
    """

    names: tuple[str, ...]
    blocks: tuple[str, ...]
    ranks: Floats
    last: NDArray[np.bool_]
    friedman_p: float
    critical_difference: float

    @property
    def average(self) -> Floats:
        """Average rank of each method, ``(K,)``."""
        mean: Floats = self.ranks.mean(axis=0)
        return mean

    def nemenyi(self) -> pd.DataFrame:
        """Nemenyi's p values of all pairs, ``(K, K)`` by name."""
        import pandas as pd

        found = require("scikit_posthocs").posthoc_nemenyi_friedman(self.ranks).to_numpy()
        return pd.DataFrame(found, index=self.names, columns=self.names)


def rank(values: Floats, last: NDArray[np.bool_], direction: str) -> Floats:
    """Rank methods within blocks.

    Args:
        values: ``(N, K)``; NaN where undefined.
        last: ``(N, K)``, which values rank behind all others, tied.
        direction: Whether more (``max``) or less (``min``) is better.

    Returns:
        float64 ``(N, K)``, 1 is best, ties share their mean; undefined values rank last, too.

    >>> rank(np.array([[0.9, 0.7, 0.7, np.nan]]), np.zeros((1, 4), bool), "max").tolist()
    [[1.0, 2.5, 2.5, 4.0]]
    """
    cost = -values if direction == "max" else values
    cost = np.where(last | np.isnan(values), np.inf, cost)
    ranks: Floats = require("scipy.stats").rankdata(cost, axis=1)
    return ranks


def ranking(
    names: Sequence[str], blocks: Sequence[str], values: Floats, last: NDArray[np.bool_], direction: str
) -> Ranking:
    """Rank methods over blocks and test whether they differ.

    Args:
        names: K methods.
        blocks: N blocks.
        values: ``(N, K)``; NaN where undefined.
        last: ``(N, K)``, which values count as worst although they are defined.
        direction: Whether more (``max``) or less (``min``) is better.

    Raises:
        MSABenchError: There are fewer than ``FEWEST_METHODS`` methods or ``FEWEST_BLOCKS`` blocks, or a library of the
            extra ``report`` is not installed.
    """
    n, k = values.shape
    if k < FEWEST_METHODS or n < FEWEST_BLOCKS:
        raise MSABenchError(
            f"ranks need at least {FEWEST_METHODS} methods and {FEWEST_BLOCKS} test situations that all of them have; "
            f"here are {k} methods and {n} test situations"
        )
    ranks = rank(values, last, direction)
    order = np.argsort(ranks.mean(axis=0), kind="stable")
    ranks, last = ranks[:, order], (last | np.isnan(values))[:, order]
    return Ranking(
        tuple(names[place] for place in order),
        tuple(blocks),
        ranks,
        last,
        _friedman(ranks),
        critical_difference(k, n),
    )


def rank_intervals(values: Floats, last: NDArray[np.bool_], direction: str) -> Floats:
    """Percentile intervals of average ranks over resamples.

    In a resample methods that are close change places, and those at the ends can only move inwards: the intervals lean
    to the middle, and that of the best or the worst method may leave out its own average rank.

    Args:
        values: ``(D, N, K)``, D resamples; NaN where undefined.
        last: ``(N, K)``, which values count as worst in every resample.
        direction: Whether more (``max``) or less (``min``) is better.

    Returns:
        float64 ``(K, 2)``: lower and upper bound.
    """
    draws, n, k = values.shape
    ranks = rank(values.reshape(-1, k), np.tile(last, (draws, 1)), direction)
    return np.array([percentiles(column) for column in ranks.reshape(draws, n, k).mean(axis=1).T])


def critical_difference(methods: int, blocks: int) -> float:
    """Nemenyi's critical difference of average ranks at ``ALPHA``: ``q sqrt(k (k + 1) / (6 N))``.

    ``q`` is the studentized range's quantile for k groups and infinite degrees of freedom, divided by the root of 2.

    Args:
        methods: k, at least 2.
        blocks: N, at least 1.
    """
    quantile = require("scipy.stats").studentized_range.ppf(1 - ALPHA, methods, np.inf)
    return float(quantile / np.sqrt(2) * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def _friedman(ranks: Floats) -> float:
    if np.ptp(ranks, axis=1).max() == 0:
        # Everything is tied, and the statistic is 0 / 0.
        return float("nan")
    return float(require("scipy.stats").friedmanchisquare(*ranks.T).pvalue)

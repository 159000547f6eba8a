"""Which pairs of accuracy and weighted F1 a two-class test split allows. Free of torch.

A confusion matrix of two classes is known from the hits in each. All of them are enumerated: for every accuracy the
highest and the lowest F1, and the convex hull of these points. A mean over rates, test masks or training runs is a mean
of such points, each from the same split, and so lies in the hull. The hull is exact up to rounding of doubles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SLACK = 1e-9
"""Percent points that rounding of doubles may cost; far below a printed digit."""


@dataclass(frozen=True)
class Envelope:
    """The convex hull of the possible points (accuracy, F1), both in percent.

    Attributes:
        top: ``(K, 2)`` corners of the upper boundary, accuracy ascending.
        bottom: ``(L, 2)`` corners of the lower boundary.
    """

    top: Floats
    bottom: Floats

    def f1_range(self, low: float, high: float) -> tuple[float, float]:
        """Lowest and highest F1 at accuracies in [low, high]."""
        return -_most(self.bottom * (1, -1), low, high), _most(self.top, low, high)

    def allows(self, accuracy: tuple[float, float], f1: tuple[float, float]) -> bool:
        """Whether some possible point lies in a box; both ranges are (low, high)."""
        lowest, highest = self.f1_range(*accuracy)
        return lowest <= f1[1] + SLACK and highest >= f1[0] - SLACK

    def least_accuracy(self, f1: float) -> float:
        """The lowest accuracy at which an F1 is possible; NaN where it is not."""
        x, y = self.top.T
        if f1 > y.max():
            return float("nan")
        # The upper boundary rises up to its highest corner.
        peak = int(y.argmax()) + 1
        return float(np.interp(f1, y[:peak], x[:peak]))


@lru_cache(maxsize=64)
def envelope(first: int, second: int, swapped: bool) -> Envelope:
    """The hull for a split with so many clips of two classes.

    Args:
        first: Clips of one class, at least 1.
        second: Clips of the other, at least 1.
        swapped: Whether F1 is ``f1_score(pred, true)``.
    """
    clips = first + second
    top, bottom = np.full(clips + 1, -np.inf), np.full(clips + 1, np.inf)
    right = np.arange(second + 1)
    for left in range(first + 1):
        f1 = weighted_f1(first, second, left, right, swapped)
        reached = slice(left, left + second + 1)
        np.maximum(top[reached], f1, out=top[reached])
        np.minimum(bottom[reached], f1, out=bottom[reached])
    accuracy = np.arange(clips + 1) / clips
    upper = _hull(np.column_stack([accuracy, top]))
    lower = _hull(np.column_stack([accuracy, -bottom])) * (1, -1)
    return Envelope(100 * upper, 100 * lower)


def weighted_f1(first: int, second: int, left: int, right: NDArray[np.int64], swapped: bool) -> Floats:
    """Weighted F1 in [0, 1] of confusion matrices, given as hits in each class.

    Args:
        first: Clips of one class.
        second: Clips of the other.
        left: Hits in the first class.
        right: ``(K,)`` hits in the second.
        swapped: Whether the predicted counts are the weights.
    """
    as_first = left + second - right
    as_second = first - left + right
    weights = (as_first, as_second) if swapped else (first, second)
    f1: Floats = weights[0] * (2 * left / (first + as_first)) + weights[1] * (2 * right / (second + as_second))
    return f1 / (first + second)


def _hull(points: Floats) -> Floats:
    """Upper convex hull of points with ascending abscissae (Andrew's monotone chain)."""
    corners: list[tuple[float, float]] = []
    for x, y in points.tolist():
        while len(corners) > 1:
            (x0, y0), (x1, y1) = corners[-2:]
            if (x1 - x0) * (y - y0) < (y1 - y0) * (x - x0):
                break
            corners.pop()
        corners.append((x, y))
    return np.array(corners)


def _most(boundary: Floats, low: float, high: float) -> float:
    """Highest value of a concave boundary over [low, high]."""
    x, y = boundary.T
    inside = y[(x >= low) & (x <= high)]
    return float(np.max([*np.interp([low, high], x, y), *inside]))

"""Metrics of many resamples at once: the functions of ``functional`` with a weight for each clip.

A resample of a test set is a vector of counts, how often each clip was drawn; a metric of it is that metric with counts
as weights. Every metric here is a ratio of weighted sums, so that thousands of resamples are a few matrix products.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.data.info import EMOTIONS
from msabench.metrics.functional import SIMS_CUTS, binned, is_constant
from msabench.metrics.spec import metric_spec

Array = NDArray[Any]
Floats = NDArray[np.float64]


class WeightedClips:
    """D weightings of N labelled clips, with what every metric of every prediction makes of them alone.

    Args:
        metric_set: ``sentiment``, ``sims`` or ``emotions``.
        labels: ``(N,)`` scores, or ``(N, 4)`` integers for ``emotions``.
        weights: ``(D, N)``, non-negative, e.g. counts of a bootstrap.
    """

    def __init__(self, metric_set: str, labels: Array, weights: Array) -> None:
        self.metric_set = metric_set
        self.labels = labels.clip(-1, 1) if metric_set == "sims" else labels
        self.weights: Floats = weights.astype(np.float64)
        # Sums of few whole numbers have no rounding, whatever their order.
        self.are_counts = bool(np.issubdtype(weights.dtype, np.integer))

    def is_exact(self, key: str) -> bool:
        """Whether a metric of several predictions is to the bit that of each: it counts clips, weighted by counts."""
        return self.are_counts and key not in ("mae", "corr")

    def metric(self, key: str, preds: Array) -> Floats:
        """One metric, see ``weighted_metric``."""
        metric_spec(key, self.metric_set)
        if self.metric_set == "emotions":
            return _emotion(key, self.labels, preds, self.weights)
        labels, preds = self.labels, preds.clip(-1, 1) if self.metric_set == "sims" else preds
        if key == "mae":
            errors = np.abs(preds.astype(np.float64) - labels.astype(np.float64))
            mae: Floats = self.weights @ errors.T / self._totals
            return mae
        if key == "corr":
            found = _correlation(*self._scores, preds.astype(np.float64), self._shares)
            return np.where([is_constant(pred) for pred in preds], np.nan, found)
        name, _, protocol = key.partition("_")
        protocol, swapped = protocol.removesuffix("swapped").rstrip("_"), key.endswith("_swapped")
        weights = self.weights
        true: Array
        pred: Array
        if self.metric_set == "sims":
            cuts = SIMS_CUTS["acc2" if name == "f1" else name]
            true, pred = binned(labels, cuts), binned(preds.reshape(-1), cuts).reshape(preds.shape)
        elif protocol == "non0":
            kept = labels != 0
            weights = self._of_signed
            true, pred = labels[kept] > 0, preds[:, kept] > 0
        elif protocol == "has0":
            true, pred = labels >= 0, preds >= 0
        else:
            bound = int(name.removeprefix("acc")) // 2
            true, pred = labels.clip(-bound, bound).round(), preds.clip(-bound, bound).round()
        return _f1(true, pred, weights, swapped) if name == "f1" else _accuracy(true, pred, weights)

    @cached_property
    def _totals(self) -> Floats:
        totals: Floats = self.weights.sum(1, keepdims=True)
        return totals

    @cached_property
    def _of_signed(self) -> Floats:
        """The weights of the clips whose label is not 0."""
        return self.weights[:, self.labels != 0]

    @cached_property
    def _shares(self) -> Floats:
        shares: Floats = self.weights / self._totals
        return shares

    @cached_property
    def _scores(self) -> tuple[Floats, Floats, Floats]:
        """Centred labels, and their mean and variance under each weighting."""
        labels = self.labels.astype(np.float64)
        # Centred first: sums of squares of values far from 0 would cancel.
        y = labels - labels.mean()
        mean = self._shares @ y[:, None]
        return y, mean, self._shares @ (y * y)[:, None] - mean**2


def weighted_metric(metric_set: str, key: str, labels: Array, preds: Array, weights: Array) -> Floats:
    """One metric of M predictions under D weightings of N clips.

    Args:
        metric_set: ``sentiment``, ``sims`` or ``emotions``.
        key: Metric key of the set.
        labels: ``(N,)`` scores, or ``(N, 4)`` integers for ``emotions``.
        preds: ``(M, N)`` scores, or ``(M, N, 4, 2)`` logits.
        weights: ``(D, N)``, non-negative, e.g. counts of a bootstrap.

    Returns:
        float64 ``(D, M)``, for weights of one equal to ``functional.compute``; NaN where the metric is undefined.

    Raises:
        MSABenchError: The set has no such metric.
    """
    return WeightedClips(metric_set, labels, weights).metric(key, preds)


def _emotion(key: str, labels: Array, preds: Array, weights: Floats) -> Floats:
    if key.endswith("_mean"):
        kind = key.removesuffix("_mean")
        mean: Floats = np.mean([_emotion(f"{kind}_{name}", labels, preds, weights) for name in EMOTIONS], axis=0)
        return mean
    kind, name = key.removesuffix("_swapped").split("_")
    column = EMOTIONS.index(name)
    true, pred = labels[:, column], preds[:, :, column].argmax(axis=-1)
    return _f1(true, pred, weights, key.endswith("_swapped")) if kind == "f1" else _accuracy(true, pred, weights)


def _accuracy(true: Array, pred: Array, weights: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        share: Floats = weights @ (pred == true).T.astype(np.float64) / weights.sum(1, keepdims=True)
    return share


def _f1(true: Array, pred: Array, weights: Floats, swapped: bool) -> Floats:
    total = np.zeros((len(weights), len(pred)))
    for value in (0, 1):
        support = weights @ (true == value).astype(np.float64)[:, None]
        predicted = weights @ (pred == value).T.astype(np.float64)
        hits = weights @ ((pred == value) & (true == value)).T.astype(np.float64)
        both = support + predicted
        total += (predicted if swapped else support) * 2 * hits / np.where(both > 0, both, 1)
    with np.errstate(invalid="ignore"):
        f1: Floats = total / weights.sum(1, keepdims=True)
    return f1


def _correlation(y: Floats, mean_y: Floats, variance_y: Floats, preds: Floats, share: Floats) -> Floats:
    x = preds - preds.mean(axis=1, keepdims=True)
    scale = np.abs(x).max(axis=1, keepdims=True)
    x = x / np.where(scale > 0, scale, 1)
    mean_x = share @ x.T
    covariance = share @ (x * y).T - mean_y * mean_x
    variances = (variance_y, share @ (x * x).T - mean_x**2)
    # A resample without variance has rounding errors for one.
    defined = (variances[0] > 1e-12 * (y @ y) / len(y)) & (variances[1] > 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = covariance / np.sqrt(variances[0] * variances[1])
    return np.where(defined, ratio.clip(-1, 1), np.nan)

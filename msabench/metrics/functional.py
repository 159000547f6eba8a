"""Metrics of the field as pure functions. NumPy in, floats out.

The conventions are those of the evaluation code that the field shares (thuiar/MMSA, ``utils/metricsTop.py``, and for
emotions yaohungt/Multimodal-Transformer, ``src/eval_metrics.py``). Two departures: nothing is rounded, and the weighted
F1 always takes the labels first; the exchanged order of some published code has keys of its own (``_swapped``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.data.info import EMOTIONS, METRIC_SETS
from msabench.errors import MSABenchError, one_of

Array = NDArray[Any]

SIMS_CUTS = {"acc2": (0.0,), "acc3": (-0.1, 0.1), "acc5": (-0.7, -0.1, 0.1, 0.7)}
"""CH-SIMS accuracies -> cuts between their right-closed bins."""


def compute(metric_set: str, labels: Array, preds: Array) -> dict[str, float]:
    """All metrics of a set.

    Args:
        metric_set: ``sentiment``, ``sims`` or ``emotions``.
        labels: ``(N,)`` float scores in label units; for ``emotions`` ``(N, 4)`` integers 0 or 1.
        preds: ``(N,)`` float scores; for ``emotions`` logits ``(N, 4, 2)``.

    Returns:
        Metric key -> value, in the order of ``metric_keys(metric_set)``. Accuracies and F1 in [0, 1], ``mae`` in label
        units, ``corr`` in [-1, 1]. NaN where a metric is undefined: ``corr`` if labels or predictions are constant,
        the ``_non0`` metrics if every label is 0.

    Raises:
        MSABenchError: Unknown metric set, no clips, wrong shapes, values that are not finite, or emotion labels
            other than 0 and 1.
    """
    labels, preds = _checked(metric_set, np.asarray(labels), np.asarray(preds))
    if metric_set == "sentiment":
        return sentiment_metrics(labels, preds)
    if metric_set == "sims":
        return sims_metrics(labels, preds)
    return emotion_metrics(labels, preds)


def is_collapsed(metric_set: str, labels: Array, preds: Array) -> bool:
    """Whether predictions fall into one class under a protocol of the set, so that a constant scores the same there.

    ``sentiment``: all are negative or all are non-negative (has-0); or, of the clips with labels other than 0, all are
    positive or all are non-positive (non-0). ``sims``: all positive or all non-positive. ``emotions``: for at least
    one of the four emotions, all clips or none; its accuracy and F1, and a quarter of the means, are a constant's.

    Args:
        metric_set: ``sentiment``, ``sims`` or ``emotions``.
        labels: As in ``compute``.
        preds: As in ``compute``.

    Raises:
        MSABenchError: As in ``compute``.
    """
    labels, preds = _checked(metric_set, np.asarray(labels), np.asarray(preds))
    if metric_set == "emotions":
        present = preds.argmax(axis=-1)
        return any(_is_constant(column) for column in present.T)
    if metric_set == "sims":
        return _is_constant(preds > 0)
    non0 = preds[labels != 0] > 0
    return _is_constant(preds >= 0) or (non0.size > 0 and _is_constant(non0))


def sentiment_metrics(labels: Array, preds: Array) -> dict[str, float]:
    """Metrics of CMU-MOSI and CMU-MOSEI: scores in [-3, 3], both ``(N,)``. See ``compute``."""
    kept = labels != 0
    non0 = (labels[kept] > 0, preds[kept] > 0)
    has0 = (labels >= 0, preds >= 0)
    return {
        "acc2_non0": accuracy(*non0),
        "acc2_has0": accuracy(*has0),
        "f1_non0": weighted_f1(*non0),
        "f1_has0": weighted_f1(*has0),
        "f1_non0_swapped": weighted_f1(*reversed(non0)),
        "f1_has0_swapped": weighted_f1(*reversed(has0)),
        "acc3": rounded_accuracy(labels, preds, 1),
        "acc5": rounded_accuracy(labels, preds, 2),
        "acc7": rounded_accuracy(labels, preds, 3),
        "mae": mean_absolute_error(labels, preds),
        "corr": pearson(labels, preds),
    }


def sims_metrics(labels: Array, preds: Array) -> dict[str, float]:
    """Metrics of CH-SIMS: scores clipped to [-1, 1] before everything else, both ``(N,)``. See ``compute``."""
    labels, preds = labels.clip(-1, 1), preds.clip(-1, 1)
    bins = {key: (binned(labels, cuts), binned(preds, cuts)) for key, cuts in SIMS_CUTS.items()}
    true, pred = bins["acc2"]
    return {
        "acc2": accuracy(true, pred),
        "f1": weighted_f1(true, pred),
        "f1_swapped": weighted_f1(pred, true),
        "acc3": accuracy(*bins["acc3"]),
        "acc5": accuracy(*bins["acc5"]),
        "mae": mean_absolute_error(labels, preds),
        "corr": pearson(labels, preds),
    }


def emotion_metrics(labels: Array, preds: Array) -> dict[str, float]:
    """Metrics of IEMOCAP: four binary problems, labels ``(N, 4)`` of 0 and 1, logits ``(N, 4, 2)``. See ``compute``."""
    found = preds.argmax(axis=-1)
    metrics: dict[str, float] = {}
    for column, emotion in enumerate(EMOTIONS):
        true, pred = labels[:, column], found[:, column]
        metrics[f"acc_{emotion}"] = accuracy(true, pred)
        metrics[f"f1_{emotion}"] = weighted_f1(true, pred)
        metrics[f"f1_{emotion}_swapped"] = weighted_f1(pred, true)
    for kind in ("acc", "f1"):
        metrics[f"{kind}_mean"] = float(np.mean([metrics[f"{kind}_{emotion}"] for emotion in EMOTIONS]))
    return metrics


def accuracy(true: Array, pred: Array) -> float:
    """Share of equal classes, ``(N,)`` each; NaN without clips."""
    return float((true == pred).mean()) if true.size else float("nan")


def weighted_f1(true: Array, pred: Array) -> float:
    """F1 of each class, averaged with the class counts of the first argument as weights.

    With ``s_c`` and ``p_c`` the counts of class c in ``true`` and ``pred`` and ``h_c`` its hits,
    ``sum_c s_c / N * 2 h_c / (s_c + p_c)``. The order of the arguments matters: for a class of share q that is always
    predicted, it is ``2 q^2 / (1 + q)``, and ``2 q / (1 + q)`` with exchanged arguments.

    Args:
        true: ``(N,)`` classes, non-negative integers or booleans.
        pred: ``(N,)`` likewise.

    Returns:
        Value in [0, 1]; NaN without clips.

    >>> weighted_f1(np.array([0, 0, 1]), np.array([0, 0, 0])).__round__(4)
    0.5333
    >>> weighted_f1(np.array([0, 0, 0]), np.array([0, 0, 1])).__round__(4)
    0.8
    """
    if not true.size:
        return float("nan")
    true, pred = true.astype(np.int64), pred.astype(np.int64)
    classes = int(max(true.max(), pred.max())) + 1
    support = np.bincount(true, minlength=classes)
    predicted = np.bincount(pred, minlength=classes)
    hits = np.bincount(true[true == pred], minlength=classes)
    # A class that neither argument has gets the harmless denominator 1.
    scores = 2 * hits / np.maximum(support + predicted, 1)
    return float((support * scores).sum() / true.size)


def rounded_accuracy(true: Array, pred: Array, bound: int) -> float:
    """Share of equal integers after clipping both ``(N,)`` to [-bound, bound] and rounding half to even.

    >>> rounded_accuracy(np.array([0.0, 2.0, 3.0]), np.array([0.5, 1.5, 2.4]), 3).__round__(4)
    0.6667
    """
    return accuracy(true.clip(-bound, bound).round(), pred.clip(-bound, bound).round())


def binned(values: Array, cuts: tuple[float, ...]) -> NDArray[np.int64]:
    """Class of each value ``(N,)``: the number of cuts below it, so that bins are closed on the right.

    >>> binned(np.array([-0.1, 0.0, 0.1, 0.2]), (-0.1, 0.1)).tolist()
    [0, 1, 1, 2]
    """
    # Cuts in the values' own precision: a float32 label 0.1 is above the float64 0.1.
    return np.searchsorted(np.asarray(cuts, dtype=values.dtype), values, side="left").astype(np.int64)


def score_class(metric_set: str, preds: Array) -> NDArray[np.int64]:
    """Class of each score ``(N,)`` as Acc-3 has it: 0 negative, 1 neutral, 2 positive.

    Args:
        metric_set: ``sims`` cuts at -0.1 and 0.1; any other set of scores rounds to -1, 0 or 1, half to even.
        preds: Scores in label units.

    >>> score_class("sentiment", np.array([-2.0, -0.5, 0.5, 0.6])).tolist()
    [0, 1, 1, 2]
    """
    if metric_set == "sims":
        return binned(preds.clip(-1, 1), SIMS_CUTS["acc3"])
    rounded: NDArray[np.int64] = preds.clip(-1, 1).round().astype(np.int64) + 1
    return rounded


def mean_absolute_error(true: Array, pred: Array) -> float:
    """Mean of ``|true - pred|`` over ``(N,)`` each, in float64."""
    return float(np.abs(true.astype(np.float64) - pred.astype(np.float64)).mean())


def pearson(true: Array, pred: Array) -> float:
    """Pearson correlation of two ``(N,)``, in float64; NaN if either is constant up to rounding.

    >>> pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])).__round__(6)
    1.0
    """
    if is_constant(true) or is_constant(pred):
        return float("nan")
    a, b = _standardised(true), _standardised(pred)
    return float(np.clip(a @ b, -1.0, 1.0))


def is_constant(values: Array) -> bool:
    """Whether ``(N,)`` values differ by rounding at most.

    A network that sees the same thing for every clip still answers with noise in the last digit, whose correlation with
    the labels means nothing.
    """
    if not np.issubdtype(values.dtype, np.floating):
        return _is_constant(values)
    return bool(np.ptp(values) <= 8 * np.finfo(values.dtype).eps * np.abs(values).max())


def _standardised(values: Array) -> NDArray[np.float64]:
    centred = values.astype(np.float64) - values.astype(np.float64).mean()
    # Scaled first, so that squares of tiny deviations do not vanish.
    centred /= np.abs(centred).max()
    scaled: NDArray[np.float64] = centred / np.sqrt(centred @ centred)
    return scaled


def _is_constant(values: Array) -> bool:
    return bool((values == values[0]).all())


def _checked(metric_set: str, labels: Array, preds: Array) -> tuple[Array, Array]:
    _check_preds(metric_set, preds)
    expected = preds.shape[:2] if metric_set == "emotions" else preds.shape
    if labels.shape != expected:
        raise MSABenchError(
            f"labels have shape {labels.shape} and predictions {preds.shape}; expected labels of shape {expected}"
        )
    if metric_set == "emotions":
        if not np.isin(labels, (0, 1)).all():
            raise MSABenchError(f"emotion labels hold {np.setdiff1d(labels, (0, 1))[0]}; allowed: 0 and 1")
        return labels.astype(np.int64), preds
    bad = int((~np.isfinite(labels)).sum())
    if bad:
        raise MSABenchError(f"{bad} of {labels.size} labels are not finite; metrics need finite labels")
    return _floating(labels), _floating(preds)


def _check_preds(metric_set: str, preds: Array) -> None:
    if metric_set not in METRIC_SETS:
        raise one_of("metric set", metric_set, METRIC_SETS)
    right = preds.shape[1:] == (len(EMOTIONS), 2) if metric_set == "emotions" else preds.ndim == 1
    if not right or not preds.size:
        expected = f"(N, {len(EMOTIONS)}, 2)" if metric_set == "emotions" else "(N,)"
        raise MSABenchError(f"predictions have shape {preds.shape}; {metric_set} metrics need {expected} with N >= 1")
    bad = int((~np.isfinite(preds)).sum())
    if bad:
        raise MSABenchError(f"{bad} of {preds.size} predictions are not finite; the model has diverged")


def _floating(values: Array) -> Array:
    return values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)

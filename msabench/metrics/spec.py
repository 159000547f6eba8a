"""What each metric is called, what it means and how it is printed. Free of torch.

A key names a metric and its protocol. ``_non0`` leaves out clips labelled 0, ``_has0`` counts them as non-negative;
``_swapped`` exchanges the arguments of the weighted F1, which some published code does, and exists only to read those
numbers: ours are always ``f1_score(true, pred)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from msabench.data.info import EMOTIONS, METRIC_SETS
from msabench.errors import MSABenchError, one_of


@dataclass(frozen=True)
class MetricSpec:
    """One metric.

    Attributes:
        key: Name in records, e.g. ``f1_non0``.
        title: Name to print, e.g. ``F1 (non-0)``.
        direction: Whether more (``max``) or less (``min``) is better.
        percent: Whether tables print it times 100.
        decimals: Decimal places that tables print.
        definitions: Metric set -> full definition; its keys are the sets that have the metric.
    """

    key: str
    title: str
    direction: Literal["max", "min"]
    percent: bool
    decimals: int
    definitions: Mapping[str, str]

    def format(self, value: float) -> str:
        """Print a value (or a standard deviation) as tables do: ``nan`` if it is undefined."""
        return f"{value * 100 if self.percent else value:.{self.decimals}f}"

    def signed(self, value: float) -> str:
        """Print a difference, with its sign: ``nan`` if it is undefined."""
        text = self.format(value)
        return text if text.startswith("-") or math.isnan(value) else f"+{text}"


_NON0 = "positive against negative, clips labelled 0 left out, a prediction > 0 is positive"
_HAS0 = "negative against non-negative over all clips, 0 is non-negative for labels and predictions"
_SIMS2 = "non-positive against positive, bins [-1, 0] and (0, 1] after clipping to [-1, 1]"
_CORRECT = "F1 averaged over the two classes with the labels' class counts as weights, f1_score(true, pred)"
_SWAPPED = "weighted F1 with exchanged arguments, f1_score(pred, true), only to read published numbers"


def _share(key: str, title: str, definitions: Mapping[str, str]) -> MetricSpec:
    return MetricSpec(key, title, "max", True, 2, definitions)


def _rounded(classes: int) -> str:
    bound = classes // 2
    return f"labels and predictions clipped to [-{bound}, {bound}] and rounded half to even, share of equal classes"


def _bins(cuts: str) -> str:
    return f"labels and predictions clipped to [-1, 1], right-closed bins cut at {cuts}, share of equal classes"


def _specs() -> Iterable[MetricSpec]:
    for suffix, printed, classes in (("non0", "non-0", _NON0), ("has0", "has-0", _HAS0)):
        yield _share(f"acc2_{suffix}", f"Acc-2 ({printed})", {"sentiment": f"accuracy, {classes}"})
    for suffix, printed, classes in (("non0", "non-0", _NON0), ("has0", "has-0", _HAS0)):
        yield _share(f"f1_{suffix}", f"F1 ({printed})", {"sentiment": f"{_CORRECT}; {classes}"})
    for suffix, printed, classes in (("non0", "non-0", _NON0), ("has0", "has-0", _HAS0)):
        yield _share(f"f1_{suffix}_swapped", f"F1 ({printed}, swapped)", {"sentiment": f"{_SWAPPED}; {classes}"})
    yield _share("acc2", "Acc-2", {"sims": f"accuracy, {_SIMS2}"})
    yield _share("f1", "F1", {"sims": f"{_CORRECT}; {_SIMS2}"})
    yield _share("f1_swapped", "F1 (swapped)", {"sims": f"{_SWAPPED}; {_SIMS2}"})
    yield _share("acc3", "Acc-3", {"sentiment": _rounded(3), "sims": _bins("-0.1, 0.1")})
    yield _share("acc5", "Acc-5", {"sentiment": _rounded(5), "sims": _bins("-0.7, -0.1, 0.1, 0.7")})
    yield _share("acc7", "Acc-7", {"sentiment": _rounded(7)})
    clipped = "of labels and predictions clipped to [-1, 1]"
    yield MetricSpec(
        "mae", "MAE", "min", False, 3, {"sentiment": "mean absolute error", "sims": f"mean absolute error {clipped}"}
    )
    pearson = "Pearson correlation of labels and predictions"
    yield MetricSpec(
        "corr",
        "Corr",
        "max",
        False,
        3,
        {
            "sentiment": f"{pearson}, undefined if either is constant",
            "sims": f"{pearson} clipped to [-1, 1], undefined if either is constant",
        },
    )
    for emotion in EMOTIONS:
        present = f"{emotion} against not {emotion}, the larger of two logits"
        yield _share(f"acc_{emotion}", f"Acc ({emotion})", {"emotions": f"accuracy, {present}"})
        yield _share(f"f1_{emotion}", f"F1 ({emotion})", {"emotions": f"{_CORRECT}; {present}"})
        yield _share(f"f1_{emotion}_swapped", f"F1 ({emotion}, swapped)", {"emotions": f"{_SWAPPED}; {present}"})
    names = ", ".join(EMOTIONS)
    yield _share("acc_mean", "Acc (mean)", {"emotions": f"mean of the four accuracies ({names})"})
    yield _share("f1_mean", "F1 (mean)", {"emotions": f"mean of the four weighted F1 scores ({names})"})


METRICS: dict[str, MetricSpec] = {spec.key: spec for spec in _specs()}
"""Every metric by key."""

DEFAULT_METRIC = {"sentiment": "f1_non0", "sims": "f1", "emotions": "f1_mean"}
"""Metric set -> the metric that tables show unless the corpus or the user names another."""


def metric_keys(metric_set: str) -> tuple[str, ...]:
    """Keys of a metric set, in the order of records and tables.

    Args:
        metric_set: ``sentiment``, ``sims`` or ``emotions``.

    Raises:
        MSABenchError: There is no such set.
    """
    if metric_set not in METRIC_SETS:
        raise one_of("metric set", metric_set, METRIC_SETS)
    return tuple(key for key, spec in METRICS.items() if metric_set in spec.definitions)


def metric_spec(key: str, metric_set: str | None = None) -> MetricSpec:
    """The metric of a key.

    Args:
        key: Metric key, e.g. ``f1_non0``.
        metric_set: Set that must have it; None accepts every known key.

    Raises:
        MSABenchError: The key is unknown, or the set does not have it; the message lists the allowed keys.
    """
    allowed = tuple(METRICS) if metric_set is None else metric_keys(metric_set)
    if key not in allowed:
        if metric_set is None:
            raise one_of("metric", key, allowed)
        raise MSABenchError(f"metric {key!r} is not one of the {metric_set} metrics; allowed: {', '.join(allowed)}")
    return METRICS[key]


def metric_set_of(keys: Iterable[str]) -> str:
    """The metric set that records with these metric keys belong to.

    Raises:
        MSABenchError: The keys fit no set.
    """
    given = set(keys)
    for metric_set in METRIC_SETS:
        # Each set's default metric belongs to it alone.
        if DEFAULT_METRIC[metric_set] in given:
            return metric_set
    raise MSABenchError(
        f"metrics {', '.join(sorted(given)) or '(none)'} belong to no metric set; "
        f"expected one of {', '.join(DEFAULT_METRIC.values())} among them"
    )

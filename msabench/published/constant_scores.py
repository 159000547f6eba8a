"""What constant answers score, to recognise printed numbers that they explain. Free of torch and pandas."""

from __future__ import annotations

from dataclasses import dataclass

from msabench.data.info import EMOTIONS
from msabench.data.registry import corpora
from msabench.published.numbers import AREAS, Number
from msabench.published.readings import readings

PLACES = 2
"""Decimal places, of percent, that a printed number must share with a constant's score; with fewer, chance hits."""

SIMS = "sims"
"""Name of the only protocol of the ``sims`` metrics."""


@dataclass(frozen=True)
class ConstantScore:
    """What a constant answer scores on a test split under one metric.

    Attributes:
        protocol: Which clips count and where classes part: ``non0``, ``has0``, or ``sims``.
        class_name: The class that is always predicted, e.g. ``non-negative``.
        key: Metric key, e.g. ``f1_has0_swapped``.
        value: The score in [0, 1], unrounded.
    """

    protocol: str
    class_name: str
    key: str
    value: float

    @property
    def percent(self) -> float:
        """The score in percent, as papers print it."""
        return 100 * self.value

    @property
    def reading(self) -> str:
        """The score in words, e.g. ``always negative under f1_has0, 39.32``."""
        return f"always {self.class_name} under {self.key}, {self.percent:.{PLACES}f}"


def accuracy_of_constant(share: float) -> float:
    """Accuracy of always predicting a class of share q: q."""
    return share


def f1_of_constant(share: float) -> float:
    """Weighted F1, ``f1_score(true, pred)``, of always predicting a class of share q: 2 q^2 / (1 + q).

    Only that class has hits. Its F1 is 2 q / (q + 1), its weight q.

    >>> round(100 * f1_of_constant(379 / 686), 2)
    39.32
    """
    return 2 * share**2 / (1 + share)


def swapped_f1_of_constant(share: float) -> float:
    """Weighted F1 with exchanged arguments, ``f1_score(pred, true)``, of the same answer: 2 q / (1 + q).

    The weights are now the predicted counts, so that the class that is never predicted drops out.

    >>> round(100 * swapped_f1_of_constant(317 / 457), 2)
    81.91
    """
    return 2 * share / (1 + share)


def class_counts(metric_set: str, counts: tuple[int, int, int]) -> dict[str, dict[str, int]]:
    """Clips of each class under each protocol of a metric set.

    Args:
        metric_set: ``sentiment`` or ``sims``; other sets have no such classes.
        counts: Clips with a label below, at and above 0.

    Returns:
        Protocol -> class -> clips.
    """
    below, zero, above = counts
    if metric_set == "sentiment":
        return {
            "has0": {"negative": below, "non-negative": zero + above},
            "non0": {"negative": below, "positive": above},
        }
    return {SIMS: {"non-positive": below + zero, "positive": above}} if metric_set == "sims" else {}


def constant_scores(dataset: str, counts: tuple[int, int, int] | None = None) -> list[ConstantScore]:
    """What the constant answers score on a corpus's test split: accuracy and both orders of weighted F1.

    Args:
        dataset: Corpus name.
        counts: (negative, zero, positive) clips of its test split; ``DatasetInfo.test_counts`` if not given.

    Returns:
        One score per protocol, class and metric; empty where class counts are not known.
    """
    info = corpora().get(dataset)
    counts = counts or (info.test_counts if info else None)
    if info is None or counts is None:
        return []
    protocols = class_counts(info.metric_set, counts)
    return [score for protocol, classes in protocols.items() for score in scores_of(protocol, classes)]


def scores_of(protocol: str, classes: dict[str, int]) -> list[ConstantScore]:
    """What the constant answers score under one protocol.

    Args:
        protocol: Its name, which also ends the keys (except for ``sims``).
        classes: Class -> clips.
    """
    suffix = "" if protocol == SIMS else f"_{protocol}"
    accuracy = "acc" if protocol in EMOTIONS else "acc2"
    scores = []
    for name, clips in classes.items():
        share = clips / sum(classes.values())
        for key, value in (
            (f"{accuracy}{suffix}", accuracy_of_constant(share)),
            (f"f1{suffix}", f1_of_constant(share)),
            (f"f1{suffix}_swapped", swapped_f1_of_constant(share)),
        ):
            scores.append(ConstantScore(protocol, name, key, value))
    return scores


def explaining(number: Number, scores: list[ConstantScore] | None = None) -> list[ConstantScore]:
    """The constant answers that would score exactly a printed number, at two decimal places.

    Every metric that the printed name can stand for is looked at, whatever key was assigned. That a number equals a
    score does not prove that it comes from a constant. Numbers printed with fewer places are taken at their digits
    (``59`` is 59.00), as more of them would be hit by chance.

    Args:
        number: A printed number.
        scores: Scores to look among; those of the number's corpus if not given.
    """
    if number.is_delta or not number.percent or number.cell in AREAS:
        return []
    printed = round(number.number, PLACES)
    possible = readings(number.dataset, number.metric, number.emotion)
    found = constant_scores(number.dataset) if scores is None else scores
    return [score for score in found if score.key in possible and round(score.percent, PLACES) == printed]

"""Printed scores that a constant answer explains, and those that it beats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msabench.audit.context import Context
from msabench.audit.finding import Finding, Place, finding
from msabench.audit.printed import Column, Label, less_is_better, span
from msabench.audit.splits import GT0, SplitFacts
from msabench.missingness.conditions import SUBSETS
from msabench.published.constant_scores import ConstantScore, explaining
from msabench.published.numbers import PROSE, Number
from msabench.published.readings import readings

NEAR = 0.3
"""Percent points within which a score is near a constant's. With twelve constants between 15 and 85, chance alone puts
about one score in ten there."""

ROW_NEAR = 1.5
"""Percent points within which all cells of a row without language must lie to be read as a collapse."""

WITHOUT_LANGUAGE = tuple(f"inter/{letters}" for letters in SUBSETS if "l" not in letters)

_RULE = "a number that a constant answer scores may come from one"

_Cells = Mapping[Column, Number]


def constants(context: Context) -> Iterator[Finding]:
    """Scores equal to a constant answer's, rows that lie on one, and single scores near one."""
    collapsed = dict(collapsed_rows(context))
    for label, scores in collapsed.items():
        yield _row_finding(label, context.rows[label], scores)
    for number in context.numbers:
        facts = context.split(number.dataset)
        if facts is None or number.is_delta or not number.percent:
            continue
        exact_scores = explaining(number, facts.scores)
        if exact_scores:
            yield _equal(number, exact_scores, facts)
        elif number.table != PROSE:
            near = [score for score in comparable(number, facts) if abs(score.percent - number.number) <= NEAR]
            if near:
                closest = min(near, key=lambda score: abs(score.percent - number.number))
                row = Label(*(getattr(number, name) for name in Label.__dataclass_fields__))
                yield _near(number, closest, facts, closest.key in {s.key for s in collapsed.get(row, [])})


def comparable(number: Number, facts: SplitFacts) -> list[ConstantScore]:
    """Constants' scores under every metric that a number's name can stand for."""
    keys = readings(number.dataset, number.metric, number.emotion)
    protocols = {score.protocol for score in facts.scores if score.key in keys}
    found = [score for score in facts.scores if score.key in keys]
    if {"has0", "non0"} <= protocols:
        # A plain name may stand for the third way to part the classes as well.
        found += [s for s in facts.scores if s.protocol == GT0 and s.key.startswith(number.metric)]
    return found


def collapsed_rows(context: Context) -> Iterator[tuple[Label, list[ConstantScore]]]:
    """Rows whose cells without language all lie on one constant's score, or equal one at least twice, and the scores.

    Several scores fit a row only if they are close to each other.
    """
    for label, cells in context.rows.items():
        facts = context.split(label.dataset)
        series: dict[tuple[str, str], list[Number]] = {}
        for (cell, emotion, metric), number in cells.items():
            if cell in WITHOUT_LANGUAGE and number.percent:
                series.setdefault((emotion, metric), []).append(number)
        scores = []
        for numbers in series.values():
            if facts is not None and len(numbers) == len(WITHOUT_LANGUAGE):
                scores += [score for score in comparable(numbers[0], facts) if _lies_on(numbers, score)]
        if scores:
            yield label, scores


def _lies_on(numbers: list[Number], score: ConstantScore) -> bool:
    if score.protocol == GT0:
        return False
    exact_hits = sum(bool(explaining(number, [score])) for number in numbers)
    return exact_hits > 1 or all(abs(number.number - score.percent) <= ROW_NEAR for number in numbers)


def _equal(number: Number, scores: list[ConstantScore], facts: SplitFacts) -> Finding:
    return finding(
        "constant",
        Place.of(number),
        certainty="inferred",
        severity="error",
        printed=number.value,
        expected=" or ".join(score.reading for score in scores),
        rule=_RULE,
        proof="Proven: a constant answer scores this number to the last printed digit. Inferred: that the model gives "
        f"one. Class counts {facts.source}.",
    )


def _near(number: Number, score: ConstantScore, facts: SplitFacts, in_collapsed_row: bool) -> Finding:
    if in_collapsed_row:
        proof = "Inferred: the other cells of the row without language lie on this constant as well."
    else:
        proof = "Nothing is shown: single scores come this near to some constant by chance."
    return finding(
        "constant_near",
        Place.of(number),
        certainty="inferred",
        severity="warning" if in_collapsed_row else "note",
        printed=number.value,
        expected=f"{score.reading}, {number.number - score.percent:+.2f}",
        rule=_RULE,
        proof=f"{proof} Class counts {facts.source}.",
    )


def _row_finding(label: Label, cells: _Cells, scores: list[ConstantScore]) -> Finding:
    numbers = [n for (cell, _, _), n in cells.items() if cell in WITHOUT_LANGUAGE and n.percent]
    return finding(
        "constant_row",
        Place(label.paper, label.table, label.dataset, label.features, label.method, label.variant),
        certainty="inferred",
        severity="error",
        printed=", ".join(f"{number.cell} {number.value}" for number in numbers),
        expected=" or ".join(score.reading for score in scores),
        rule=_RULE,
        proof=f"Proven: without language every cell is within {ROW_NEAR:g} points of one constant's score, or equals "
        "it more than once. Inferred: that the model answers almost every clip alike, and that its F1 is computed "
        "under that key.",
    )


def worse_than_constant(context: Context) -> Iterator[Finding]:
    """Rows with scores below those of the lowest reasonable constant, or errors above that of the best one.

    The lowest reasonable constant is the more frequent class under ``f1_score(true, pred)``, in the protocol that the
    printed name allows in which it scores least. Errors can be judged only where label files are at hand.
    """
    for label, cells in context.rows.items():
        facts = context.split(label.dataset)
        if facts is None:
            continue
        below: dict[float, list[Number]] = {}
        for number in cells.values():
            least = _least(number, facts)
            low, high = map(float, span(number))
            if least is not None and (low > least if less_is_better(number.metric) else high < least):
                below.setdefault(least, []).append(number)
        if below:
            yield finding(
                "worse_than_constant",
                Place(label.paper, label.table, label.dataset, label.features, label.method, label.variant),
                certainty="inferred",
                severity="warning",
                printed=", ".join(f"{n.cell} {n.metric} {n.value}" for group in below.values() for n in group),
                expected="; ".join(f"{group[0].metric} {least:.3f}" for least, group in below.items()),
                rule="a model that has learnt something beats the best constant answer",
                proof="Proven: the more frequent class, or the median, would score better on the usual test split. "
                f"Inferred: that the model was scored on it. Class counts {facts.source}.",
            )


def _least(number: Number, facts: SplitFacts) -> float | None:
    if number.metric == "mae":
        return facts.mae
    best: dict[str, float] = {}
    for score in comparable(number, facts):
        if score.protocol != GT0 and not score.key.endswith("_swapped"):
            best[score.protocol] = max(best.get(score.protocol, 0.0), score.percent)
    return min(best.values(), default=None)

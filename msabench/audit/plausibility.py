"""Numbers that cannot stand beside each other, and some that are hard to believe."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from msabench.audit.argument_order import protocols_of
from msabench.audit.collapse import WITHOUT_LANGUAGE
from msabench.audit.context import Context
from msabench.audit.envelope import envelope
from msabench.audit.finding import Finding, Place, finding
from msabench.audit.printed import (
    Column,
    Label,
    apart,
    better,
    column_of,
    exact,
    less_is_better,
    named,
    shown,
    span,
    table_name,
)
from msabench.published.numbers import PROSE, Number

COARSER = (("acc7", "acc5"), ("acc5", "acc3"))
"""Accuracies whose classes are unions of the other's classes, so that they cannot be lower."""

MAE_STEP = 0.05
"""Mean absolute error that one row must be ahead by, while it is behind in all else, to be hard to believe."""

SCALE_GAPS = {"f1": 10.0, "acc": 10.0, "mae": 0.2}
"""Metric -> gap between two papers' ranges of values from which they do not describe the same kind of model."""

_Cells = dict[Column, Number]


def accuracy_order(context: Context) -> Iterator[Finding]:
    """Acc-5 below Acc-7, or Acc-3 below Acc-5."""
    for label, cells in context.rows.items():
        for (cell, emotion, metric), fine in cells.items():
            for finer, coarser in COARSER:
                coarse = cells.get((cell, emotion, coarser)) if metric == finer else None
                if coarse is not None and apart(fine, coarse) and exact(coarse) < exact(fine):
                    yield _accuracy_order(label, fine, coarse)


def _accuracy_order(label: Label, fine: Number, coarse: Number) -> Finding:
    return finding(
        "accuracy_order",
        Place.of(coarse),
        certainty="proven",
        severity="error",
        printed=f"{coarse.metric} {coarse.value}, {fine.metric} {fine.value} ({label.name})",
        expected=f"at least {fine.value}",
        rule="a hit among more classes is one among unions of them as well, so that the coarser accuracy is not lower",
        proof="Proven for the field's definitions (scores clipped and rounded, bins that refine each other), also for "
        "means and where each is taken at its best epoch. Which number is wrong is open.",
    )


def without_language(context: Context) -> Iterator[Finding]:
    """Rows that score higher without language than with language alone."""
    for label, cells in context.rows.items():
        for (cell, emotion, metric), language in cells.items():
            if cell != "inter/l":
                continue
            rivals = [cells[where, emotion, metric] for where in WITHOUT_LANGUAGE if (where, emotion, metric) in cells]
            ahead = [rival for rival in rivals if better(rival, language)]
            if ahead:
                yield _without_language(label, language, ahead, context)


def _without_language(label: Label, language: Number, ahead: list[Number], context: Context) -> Finding:
    best = (min if less_is_better(language.metric) else max)(ahead, key=exact)
    return finding(
        "without_language",
        Place(label.paper, label.table, label.dataset, label.features, label.method, label.variant, metric=best.metric),
        certainty="inferred",
        severity="warning",
        printed=f"{language.cell} {language.value}; {', '.join(f'{n.cell} {n.value}' for n in ahead)}",
        expected=_needed_accuracy(best, context),
        rule="on these corpora language carries the most of the sentiment",
        proof="Proven: the row prints higher scores without language. Inferred: that the scores of a constant answer "
        "under exchanged arguments, which rise as a model collapses, explain it better than the model does.",
        suffix=language.emotion,
    )


def _needed_accuracy(number: Number, context: Context) -> str:
    """The accuracy that an F1 needs at least, in either order."""
    facts = context.split(number.dataset)
    if facts is None or not number.metric.startswith("f1"):
        return ""
    needed = []
    for protocol in protocols_of(number):
        if protocol in facts.classes:
            counts, f1 = facts.counts(protocol), float(span(number)[0])
            correct, swapped = (envelope(*counts, order).least_accuracy(f1) for order in (False, True))
            needed.append(
                f"{protocol}: at least {correct:.2f} in correct order, {swapped:.2f} with exchanged arguments"
            )
    return f"accuracy that {number.cell} {number.value} needs, {'; '.join(needed)}" if needed else ""


def mae_against_corr(context: Context) -> Iterator[Finding]:
    """Rows with a lower error than the row of highest correlation of their table and method, but worse in all else."""
    blocks: dict[tuple[str, ...], dict[str, dict[str, Number]]] = {}
    for label, cells in context.rows.items():
        for number in cells.values():
            cell = column_of(number)[4]
            block = (label.paper, label.table, label.dataset, label.features, label.method, cell)
            blocks.setdefault(block, {}).setdefault(label.variant, {})[number.metric] = number
    for rows in blocks.values():
        full = [row for row in rows.values() if {"mae", "corr"} <= row.keys()]
        best = max(full, key=lambda row: exact(row["corr"]), default=None)
        for row in full:
            if best is not None and row is not best and _too_good(row, best):
                yield _mae_against_corr(row, best)


def _too_good(row: dict[str, Number], best: dict[str, Number]) -> bool:
    others = [metric for metric in row if metric in best and metric != "mae"]
    worse = all(better(best[metric], row[metric]) for metric in others)
    return worse and len(others) > 1 and float(exact(best["mae"]) - exact(row["mae"])) >= MAE_STEP


def _mae_against_corr(row: dict[str, Number], best: dict[str, Number]) -> Finding:
    others = [metric for metric in row if metric in best and metric != "mae"]
    return finding(
        "mae_against_corr",
        Place.of(row["mae"]),
        certainty="inferred",
        severity="warning",
        printed=f"mae {row['mae'].value}; {', '.join(f'{metric} {row[metric].value}' for metric in others)}",
        expected=f"{named(best['mae'].method, best['mae'].variant)}: mae {best['mae'].value}; "
        f"{', '.join(f'{metric} {best[metric].value}' for metric in others)}",
        rule="a model that is behind in correlation, accuracy and F1 is seldom far ahead in mean absolute error",
        proof="Proven: the row is better in MAE and worse in all else. Inferred: that its MAE is of another corpus, "
        "scale or run.",
    )


def scales(context: Context) -> Iterator[Finding]:
    """Two papers whose values for one situation and metric are far apart, row against row."""
    groups: dict[tuple[str, str, str, str], dict[str, list[Number]]] = {}
    for number in context.numbers:
        if number.table != PROSE and not number.is_delta and number.cell.startswith("inter/"):
            key = (number.dataset, number.cell, number.emotion, number.metric)
            groups.setdefault(key, {}).setdefault(number.paper, []).append(number)
    for (*_, metric), papers in groups.items():
        gap = next((size for stem, size in SCALE_GAPS.items() if metric.startswith(stem)), None)
        for one, other in combinations(papers.values(), 2):
            if gap is not None:
                yield from _scale(one, other, gap)


def _scale(one: list[Number], other: list[Number], gap: float) -> Iterator[Finding]:
    lower, upper = (one, other) if exact(one[0]) < exact(other[0]) else (other, one)
    high, low = max(lower, key=exact), min(upper, key=exact)
    if float(exact(low) - exact(high)) < gap:
        return
    yield finding(
        "scale",
        Place(one[0].paper, "", one[0].dataset, cell=one[0].cell, emotion=one[0].emotion, metric=one[0].metric),
        certainty="inferred",
        severity="warning",
        printed=f"{table_name(high.paper, high.table)}: at most {shown(high)}; {table_name(low.paper, low.table)}: "
        f"at least {shown(low)}",
        rule="papers on one corpus, test situation and metric have overlapping ranges of numbers",
        proof=f"Proven: every number of one paper is at least {gap:g} away from every number of the other. Inferred: "
        "that their training, protocol or metric differs, so that they must not be compared.",
        suffix=f"{high.paper}:{low.paper}",
    )


def underlines(context: Context) -> Iterator[Finding]:
    """Numbers that a paper marks as second best and that are not."""
    columns: dict[tuple[str, ...], list[Number]] = {}
    for number in context.numbers:
        if number.table != PROSE and not number.is_delta:
            columns.setdefault(column_of(number), []).append(number)
    for numbers in columns.values():
        for number in numbers:
            if "underlined" not in number.note:
                continue
            ahead = [other for other in numbers if better(other, number)]
            distinct = len({exact(other) for other in ahead})
            if len(ahead) != 1:
                yield finding(
                    "underline",
                    Place.of(number),
                    certainty="inferred",
                    severity="note" if distinct == 1 else "warning",
                    printed=f"{shown(number)} marked as second best; better: {', '.join(map(shown, ahead)) or 'none'}",
                    expected="one better number in its column",
                    rule="an underlined number is the second best of its column",
                    proof="Proven: the column has another order. Inferred: that the underline means second best."
                    if distinct != 1
                    else "Nothing is wrong for certain: the best number is printed more than once.",
                )

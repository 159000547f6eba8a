"""Columns whose rows are computed in different ways."""

from __future__ import annotations

from collections.abc import Iterator

from msabench.audit.argument_order import Verdict, claimed_order, verdicts
from msabench.audit.collapse import WITHOUT_LANGUAGE, collapsed_rows, comparable
from msabench.audit.context import Context
from msabench.audit.finding import Finding, Place, finding
from msabench.audit.printed import column_of, named, span
from msabench.audit.splits import GT0
from msabench.published.numbers import PROSE, Number

_Found = dict[str, dict[str, str]]
"""Reading (``correct``, ``swapped``, ``has0``, ``non0``) -> row -> how it is known."""

_PAIRS = (("correct", "swapped"), ("has0", "non0"))
"""Readings that exclude each other."""


def mixed_metrics(context: Context) -> Iterator[Finding]:
    """Tables in which rows of one metric are computed in different argument orders, or under different protocols.

    A method whose rows are computed alike in each table, but not in all tables of the paper, is found as well.
    """
    blocks: dict[Place, tuple[_Found, Number]] = {}
    methods: dict[Place, tuple[_Found, Number]] = {}
    for number, readings in _known(context):
        row = named(number.method, number.variant)
        block = Place(number.paper, number.table, number.dataset, emotion=number.emotion, metric=number.metric)
        method = Place(number.paper, method=number.method, emotion=number.emotion, metric=number.metric)
        for groups, place, name in (
            (blocks, block, row),
            (methods, method, f"table {number.table} {number.dataset} {row}"),
        ):
            found, _ = groups.setdefault(place, ({}, number))
            for reading, how in readings.items():
                found.setdefault(reading, {}).setdefault(name, how)
    for groups in (blocks, methods):
        for place, (found, number) in groups.items():
            for pair in _PAIRS:
                if all(reading in found for reading in pair):
                    yield _mixed(place, {name: found[name] for name in pair}, claimed_order(number, context))


def _known(context: Context) -> Iterator[tuple[Number, dict[str, str]]]:
    """Numbers and what is known about how they are computed."""
    for pair in verdicts(context):
        orders = [_order(verdict) for verdict in pair]
        if orders[0] and len(set(orders)) == 1:
            yield pair[0].f1, {orders[0]: "accuracy"}
    for label, scores in collapsed_rows(context):
        for (cell, _, metric), number in context.rows[label].items():
            if cell in WITHOUT_LANGUAGE and metric.startswith("f1"):
                yield number, _readings_of({score.key for score in scores})
    for number in context.numbers:
        if number.evidence == "stated" and number.metric == "f1" and number.table != PROSE:
            yield number, {protocol: "stated" for protocol in ("has0", "non0") if protocol in number.key}


def _order(verdict: Verdict) -> str | None:
    if verdict.correct == verdict.swapped:
        return None
    return "correct" if verdict.correct else "swapped"


def _readings_of(keys: set[str]) -> dict[str, str]:
    orders = {"swapped" if key.endswith("_swapped") else "correct" for key in keys}
    readings = dict.fromkeys(orders, "constant") if len(orders) == 1 else {}
    for protocol in ("has0", "non0"):
        if all(protocol in key for key in keys):
            readings[protocol] = "constant"
    return readings


def _mixed(place: Place, readings: _Found, claimed: str | None) -> Finding:
    ways = {how for rows in readings.values() for how in rows.values()}
    # One column is one metric: where the paper says which, rows that cannot be that one contradict it.
    proven = ways == {"accuracy"} and claimed is not None
    known = {
        "accuracy": "from pairs of accuracy and F1",
        "constant": "from rows that lie on a constant's score",
        "stated": "from what the papers that the rows come from say",
    }
    sources = ", ".join(known[way] for way in sorted(ways))
    if proven:
        proof = f"Proven, {sources}: the rows are not the same metric."
    else:
        proof = f"Inferred, {sources}: the rows are not the same metric."
    return finding(
        "mixed_metric",
        place,
        certainty="proven" if proven else "inferred",
        severity="error" if proven or ways != {"accuracy"} else "warning",
        printed="; ".join(f"{reading}: {', '.join(rows)}" for reading, rows in readings.items()),
        rule="the numbers of one column are comparable only if they are computed alike",
        proof=f"{proof} They must not be ranked against each other.",
        suffix="order" if "swapped" in readings else "protocol",
    )


def beaten_by_constant(context: Context) -> Iterator[Finding]:
    """Columns with rows in exchanged order in which a constant answer, scored so, is above every printed number."""
    blocks = {
        (number.paper, number.table, number.dataset, number.metric)
        for number, readings in _known(context)
        if "swapped" in readings
    }
    columns: dict[tuple[str, ...], list[Number]] = {}
    for number in context.numbers:
        if (number.paper, number.table, number.dataset, number.metric) in blocks and not number.is_delta:
            columns.setdefault(column_of(number), []).append(number)
    beaten: dict[tuple[str, ...], list[tuple[Number, float, str]]] = {}
    for numbers in columns.values():
        facts = context.split(numbers[0].dataset)
        if facts is None:
            continue
        best = max(numbers, key=lambda number: number.number)
        scores = [score for score in comparable(best, facts) if score.key.endswith("_swapped")]
        protocols = {score.protocol: max(s.percent for s in scores if s.protocol == score.protocol) for score in scores}
        protocols.pop(GT0, None)
        if protocols and min(protocols.values()) > float(span(best)[1]):
            winner = max(scores, key=lambda score: score.percent)
            block = (best.paper, best.table, best.dataset, best.metric)
            beaten.setdefault(block, []).append((best, winner.percent, winner.reading))
    for (paper, table, dataset, metric), cells in beaten.items():
        best_of_each = ", ".join(f"{n.cell} {named(n.method, n.variant)} {n.value}" for n, _, _ in cells)
        yield finding(
            "constant_beats",
            Place(paper, table, dataset, metric=metric),
            certainty="inferred",
            severity="error",
            printed=f"best: {best_of_each}",
            expected=cells[0][2],
            rule="a column that a constant answer leads does not measure what a model has learnt",
            proof="Proven: a constant answer, scored with exchanged arguments as some rows are, is above every row. "
            "Inferred: that those rows are scored so.",
        )

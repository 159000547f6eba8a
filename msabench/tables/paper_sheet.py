"""Tables of papers, ready to print. Free of torch and pandas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from msabench.metrics.spec import METRICS
from msabench.published.constant_scores import explaining
from msabench.published.numbers import AREAS, Number
from msabench.published.tables import PaperColumn
from msabench.results.build import dataset_facts
from msabench.results.table import protocol_text
from msabench.tables.marks import label, marked
from msabench.tables.paper import OTHER, UNDETERMINED, PaperLine, PaperView, Reproduced, ReproducedRow, column_key
from msabench.tables.paper_legend import NOT_COMPARABLE, OTHERWISE, TITLES, UNSURE, legend
from msabench.tables.render import SECTION
from msabench.tables.sheet import Head, Item, Line, Sheet, ranked

HEADERS = {"avg_missing": "avg", "avg_intra": "mean", "avg_intra_to_1": "mean 0.1-1.0"}
"""Average -> header."""


def paper_sheet(view: PaperView) -> Sheet:
    """The printed form of a view."""
    labels = ["method"]
    if view.protocol:
        labels += [*(["source"] if view.show == "both" else []), "regime", "fidelity", "runs"]
    block = view.block
    features = f", {block.features} features" if block.features else ""
    caption = f"{view.table.caption[0].upper()}{view.table.caption[1:]}; accuracies and F1 in percent."
    heads = _heads(view.columns)
    printed = _Lines(view)
    groups = [printed.of(row) for row in view.lines]
    # Rows that belong together are set apart from what stands before and after them.
    apart = [len(group) > 1 or len(before) > 1 for before, group in zip([[], *groups], groups, strict=False)]
    return Sheet(
        heading=f"{view.table.title}: {dataset_facts(block.dataset).title}{features}",
        intro=(caption, _origin(view)),
        caveat=dataset_facts(block.dataset).caveat,
        labels=tuple(labels),
        brief=tuple(index for index, name in enumerate(labels) if name in ("method", "source", "regime")),
        columns=tuple(heads),
        lines=tuple(
            replace(line, apart=opens and place == 0)
            for opens, group in zip(apart, groups, strict=True)
            for place, line in enumerate(group)
        ),
        notes=tuple(legend(view)),
    )


def _origin(view: PaperView) -> str:
    """Where a view's numbers are from."""
    if view.protocol:
        return f"Reproduced: {protocol_text(view.protocol)}."
    return f"Second-hand, read in: {view.table.read_in}." if view.table.read_in else "Published."


def _heads(columns: Sequence[PaperColumn]) -> list[Head]:
    """Headers: of emotion, cell and metric those that differ; of two that differ the first stands above."""
    parts = []
    for column in columns:
        cell = HEADERS.get(column.cell) or (column.cell if column.cell in AREAS else column.cell.partition("/")[2])
        parts.append((column.emotion, cell, TITLES.get(column.metric, column.metric)))
    differing = [index for index in range(3) if len({part[index] for part in parts}) > 1] or [2]
    heads = []
    for part in parts:
        *above, text = (part[index] for index in differing)
        heads.append(Head(text, " ".join(above), block=part[0]))
    return heads


class _Lines:
    """Lines of a view, each number ranked among those that share its column, source and metric."""

    def __init__(self, view: PaperView) -> None:
        self._view = view
        self._ranks: dict[tuple[int, PaperColumn], int] = {}
        for column in view.columns:
            direction = METRICS[column.key].direction
            self._rank([line.published.get(column) for line in view.lines], column, direction)
            key = column_key(column, view.metric)
            runs = [run.numbers[column] for line in view.lines for run in line.reproduced]
            self._rank([number for number in runs if number.key == key], column, direction)

    def _rank(self, numbers: Sequence[Number | Reproduced | None], column: PaperColumn, direction: str) -> None:
        ranks = ranked([_digits(number) for number in numbers], direction)
        self._ranks |= {(id(number), column): rank for number, rank in zip(numbers, ranks, strict=True) if number}

    def of(self, line: PaperLine) -> list[Line]:
        """The published line, and two lines for each run: its numbers and their differences."""
        show, lines = self._view.show, []
        if line.published and show != "reproduced":
            items = tuple(self._published(line.published.get(column), column) for column in self._view.columns)
            beside = ("published", "", "", "") if self._view.protocol else ()
            lines.append(Line((line.row.label, *beside), items))
        for run in line.reproduced:
            items = tuple(self._reproduced(run, column) for column in self._view.columns)
            source = ("reproduced",) if show == "both" else ()
            about = (run.row.regime, run.row.fidelity, run.row.runs_of(number.entry for number in run.numbers.values()))
            lines.append(Line((label(run.row), *source, *about), items))
            if show == "both" and line.published:
                items = tuple(Item(_difference(run.numbers[column])) for column in self._view.columns)
                lines.append(Line((label(run.row), "difference", "", "", ""), items))
        return lines

    def _published(self, number: Number | None, column: PaperColumn) -> Item:
        if number is None:
            return Item("")
        text = number.value + number.mark + SECTION * bool(explaining(number))
        return Item(text, self._ranks[id(number), column])

    def _reproduced(self, run: ReproducedRow, column: PaperColumn) -> Item:
        number = run.numbers[column]
        text = marked(METRICS[number.key], number.entry, run.row.n_seeds)
        if number.entry is not None and number.key != column_key(column, self._view.metric):
            text += OTHERWISE
        return Item(text, self._ranks.get((id(number), column), 0))


def _digits(number: Number | Reproduced | None) -> str | None:
    if isinstance(number, Number):
        return number.value
    return METRICS[number.key].format(number.entry.mean) if number and number.entry else None


def _difference(number: Reproduced) -> str:
    if number.definition == OTHER:
        return NOT_COMPARABLE
    if number.difference is None:
        return "-"
    spec = METRICS[number.key]
    sign = "+" if number.difference > 0 else ""
    return sign + spec.format(number.difference) + UNSURE * (number.definition == UNDETERMINED)

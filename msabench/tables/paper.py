"""Tables of papers, published beside reproduced: what stands where, and which numbers may be compared.

Free of torch; pandas is imported only by ``reproductions``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msabench.published.numbers import Number
from msabench.published.readings import readings
from msabench.published.tables import PaperBlock, PaperColumn, PaperRow, PaperTable, recorded_cell
from msabench.results.aggregate import PROTOCOL
from msabench.results.table import CONSTANT, Entry, Row

if TYPE_CHECKING:
    from msabench.tables.reproductions import Reproductions, Run

SHOW = ("published", "reproduced", "both")

CONSTANT_CELL = "inter/lav"
"""Where the constant predictor is read off in tables whose rows have cells of their own; its answer never changes."""

SAME, UNDETERMINED, OTHER = "same", "undetermined", "other"
DEFINITIONS = {
    SAME: "the published number's metric is known, and the reproduced one is under it",
    UNDETERMINED: "the paper does not determine the published number's metric",
    OTHER: "the two are different metrics, so that a difference would mean nothing",
}
"""How a published and a reproduced number relate."""


@dataclass(frozen=True)
class Reproduced:
    """A reproduced number in a paper's table.

    Attributes:
        key: Its metric.
        entry: The number; None if there are no records of it.
        definition: One of ``DEFINITIONS``; empty where nothing is published.
        difference: Reproduced minus published in natural scale; None where they cannot be compared.
    """

    key: str
    entry: Entry | None
    definition: str
    difference: float | None


@dataclass(frozen=True)
class ReproducedRow:
    """A run of a method in a paper's table.

    Attributes:
        row: What was run.
        numbers: One a column.
    """

    row: Row
    numbers: dict[PaperColumn, Reproduced]


@dataclass(frozen=True)
class PaperLine:
    """One row of a paper's table.

    Attributes:
        row: The row.
        published: Column -> number.
        reproduced: Runs of its method and variant under the view's protocol.
    """

    row: PaperRow
    published: dict[PaperColumn, Number]
    reproduced: tuple[ReproducedRow, ...]


@dataclass(frozen=True)
class PaperView:
    """A block of a paper's table, with what was reproduced of it under one protocol.

    Attributes:
        table: The table.
        block: The block.
        columns: The block's columns that are shown.
        show: ``published``, ``reproduced`` or ``both``.
        protocol: Field of ``aggregate.PROTOCOL`` -> value of all that is reproduced; empty if nothing is.
        lines: Rows; the constant predictor's first where it was run.
        warnings: What makes the reproduced numbers doubtful.
        metric: The metric that selected the columns, see ``chosen_columns``.
        first: Whether no view before it has the same block.
    """

    table: PaperTable
    block: PaperBlock
    columns: tuple[PaperColumn, ...]
    show: str
    protocol: dict[str, str]
    lines: tuple[PaperLine, ...]
    warnings: tuple[str, ...] = ()
    metric: str | None = None
    first: bool = True

    @property
    def rows(self) -> list[Row]:
        """Every run that is shown."""
        return [run.row for line in self.lines for run in line.reproduced]


def chosen_columns(block: PaperBlock, metric: str | None) -> tuple[PaperColumn, ...]:
    """The columns of a block that a metric selects.

    Args:
        block: The block.
        metric: A name as printed (``f1``), or a key that the printed name can stand for (``f1_has0_swapped``); None
            selects all.
    """
    return tuple(
        column
        for column in block.columns
        if metric in (None, column.metric, *readings(block.dataset, column.metric, column.emotion))
    )


def paper_views(
    table: PaperTable,
    numbers: Sequence[Number],
    held: Reproductions | None = None,
    show: str = "both",
    *,
    datasets: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    metric: str | None = None,
) -> list[PaperView]:
    """A paper's table, block by block.

    What was reproduced under different protocols stands in views of its own, each beside the published numbers. A
    reproduced number comes from records of the block's corpus, the row's method and variant, features aligned as the
    paper says, and the number's cell.

    Args:
        table: The table.
        numbers: Printed numbers, of this table and others.
        held: What the store holds; None shows published numbers only.
        show: One of ``SHOW``.
        datasets: Corpora to show; None shows all.
        methods: Methods to show; None shows all.
        metric: See ``chosen_columns``. A key that is not the column's own is that of all reproduced numbers.

    Returns:
        Views in the order of the paper; none where nothing is left to show.

    Raises:
        MSABenchError: A number has no place in its table.
    """
    placed = table.numbers_in(numbers)
    views = []
    for block in table.blocks:
        columns = chosen_columns(block, metric)
        rows = [row for row in block.rows if methods is None or row.method in methods]
        if columns and rows and (datasets is None or block.dataset in datasets):
            published = {
                row: {column: placed[spot] for column in columns if (spot := block.spot(row, column)) in placed}
                for row in rows
            }
            beside = []
            if held is not None and show != "published":
                beside = _reproduced_views(table, published, _Numbers(held, block, columns, show, metric))
            if not beside and show != "reproduced":
                lines = tuple(PaperLine(row, known, ()) for row, known in published.items())
                beside = [PaperView(table, block, columns, show, {}, lines, metric=metric)]
            views += beside
    return views


def _reproduced_views(
    table: PaperTable, published: dict[PaperRow, dict[PaperColumn, Number]], shown: _Numbers
) -> list[PaperView]:
    """A block: one view per protocol under which any row was run."""
    held, block, show = shown.held, shown.block, shown.show
    runs = {row: held.runs(block.dataset, block.features, row.method, row.variant) for row in published}
    protocols = dict.fromkeys(run.protocol for found in runs.values() for run in found)
    constant = PaperRow(CONSTANT, cell=CONSTANT_CELL)
    candidates = {constant: held.runs(block.dataset, "", CONSTANT), **runs}
    views: list[PaperView] = []
    # Honest selection first; the sort is stable.
    for protocol in sorted(protocols, key=lambda protocol: protocol[PROTOCOL.index("selection")] != "val"):
        mine = {row: [run for run in found if run.protocol == protocol] for row, found in candidates.items()}
        if not mine[constant]:
            del mine[constant]
        lines = tuple(
            PaperLine(row, published.get(row, {}), tuple(shown.row(run, row, published.get(row, {})) for run in found))
            for row, found in mine.items()
        )
        about, warnings = dict(zip(PROTOCOL, protocol, strict=True)), tuple(held.warnings(protocol))
        views.append(
            PaperView(table, block, shown.columns, show, about, lines, warnings, shown.metric, first=not views)
        )
    return views


@dataclass(frozen=True)
class _Numbers:
    """Looks up the reproduced numbers of a block."""

    held: Reproductions
    block: PaperBlock
    columns: tuple[PaperColumn, ...]
    show: str
    metric: str | None

    def row(self, run: Run, row: PaperRow, published: dict[PaperColumn, Number]) -> ReproducedRow:
        beside = published if self.show == "both" else {}
        return ReproducedRow(
            run.row, {column: self.number(run, row, column, beside.get(column)) for column in self.columns}
        )

    def number(self, run: Run, row: PaperRow, column: PaperColumn, number: Number | None) -> Reproduced:
        key = column_key(column, self.metric)
        if number is not None and number.key and self.metric in (None, column.metric):
            # Like with like: the published number's own definition, unless the user asked for another one.
            key = number.key
        entry = self.held.entry(run, self.block.dataset, key, recorded_cell(self.block.cell(row, column)))
        if number is None:
            return Reproduced(key, entry, "", None)
        definition = SAME if number.key == key else OTHER if number.key else UNDETERMINED
        if entry is None or math.isnan(entry.mean) or definition == OTHER:
            return Reproduced(key, entry, definition, None)
        return Reproduced(key, entry, definition, entry.mean - number.number / (100 if number.percent else 1))


def column_key(column: PaperColumn, metric: str | None) -> str:
    """The metric key of a column's reproduced numbers: its own, unless the user named another one of its keys.

    Args:
        column: A column that ``chosen_columns`` gave for the metric.
        metric: As there.
    """
    return column.key if metric in (None, column.metric) else metric

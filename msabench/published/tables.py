"""Tables of papers as specifications: which rows and columns, in which order, and what stands where.

A specification holds no numbers: those are data, see ``numbers``. Free of torch and pandas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msabench.errors import MSABenchError
from msabench.missingness.conditions import AVERAGES, Cell
from msabench.published.numbers import AREAS, Number


@dataclass(frozen=True)
class PaperRow:
    """One row.

    Attributes:
        method: Method name.
        variant: ``default`` or the name of an ablation.
        cell: What is there at test, where that differs between rows; else empty.
    """

    method: str
    variant: str = "default"
    cell: str = ""

    @property
    def label(self) -> str:
        """Method with variant, e.g. ``prlf/step1``."""
        return self.method if self.variant == "default" else f"{self.method}/{self.variant}"


@dataclass(frozen=True)
class PaperColumn:
    """One column.

    Attributes:
        cell: A cell name as printed (``intra/0.0``, though it is ``inter/lav``) or a key of ``AVERAGES``; empty where
            each row has its own.
        metric: Metric as printed, see ``numbers.PRINTED``.
        key: Metric key under which reproduced numbers are shown, one for the whole column so that they compare: the
            first of ``readings``.
        emotion: IEMOCAP only.
    """

    cell: str
    metric: str
    key: str
    emotion: str = ""


Spot = tuple[str, str, str, str, str, str, str]
"""Where a number stands in a table: dataset, features, method, variant, cell, emotion, metric as printed."""


@dataclass(frozen=True)
class PaperBlock:
    """The part of a table with one corpus and one kind of features.

    Attributes:
        dataset: Corpus name.
        features: ``aligned``, ``unaligned``, or empty where the paper does not say.
        rows: Rows in order.
        columns: Columns in order.
    """

    dataset: str
    features: str
    rows: tuple[PaperRow, ...]
    columns: tuple[PaperColumn, ...]

    def cell(self, row: PaperRow, column: PaperColumn) -> str:
        """Cell of a number, as printed."""
        return column.cell or row.cell

    def spot(self, row: PaperRow, column: PaperColumn) -> Spot:
        """Where the number of a row and a column stands."""
        about = (self.dataset, self.features, row.method, row.variant)
        return (*about, self.cell(row, column), column.emotion, column.metric)

    @property
    def spots(self) -> list[Spot]:
        """Every spot, row by row."""
        return [self.spot(row, column) for row in self.rows for column in self.columns]


@dataclass(frozen=True)
class PaperTable:
    """One table of a paper.

    Attributes:
        paper: One of ``numbers.PAPERS``, or a source of ``second_hand``.
        label: As in the paper, e.g. ``1``, ``II``; of a second-hand source a word of ours.
        caption: What it shows, in our words.
        blocks: Its parts, in order.
        read_in: Where its numbers were read, if not in the paper; empty for the five papers.
    """

    paper: str
    label: str
    caption: str
    blocks: tuple[PaperBlock, ...]
    read_in: str = ""

    @property
    def title(self) -> str:
        """E.g. ``UMDF Table 1``."""
        return f"{self.paper.upper()} Table {self.label}"

    @property
    def datasets(self) -> tuple[str, ...]:
        """Its corpora, in order."""
        return tuple(dict.fromkeys(block.dataset for block in self.blocks))

    @property
    def methods(self) -> tuple[str, ...]:
        """Its methods, in order."""
        return tuple(dict.fromkeys(row.method for block in self.blocks for row in block.rows))

    def numbers_in(self, numbers: Iterable[Number]) -> dict[Spot, Number]:
        """The numbers of this table, by where they stand.

        Args:
            numbers: Printed numbers, of this table and others.

        Raises:
            MSABenchError: A number of this table has no place in it.
        """
        spots = {spot for block in self.blocks for spot in block.spots}
        found: dict[Spot, Number] = {}
        for number in numbers:
            if (number.paper, number.table) != (self.paper, self.label):
                continue
            spot = _spot_of(number)
            if spot not in spots:
                raise MSABenchError(
                    f"{self.title} has no row and column for {number.where}; its rows and columns stand in "
                    "msabench/published/layouts.py"
                )
            found[spot] = number
        return found


def _spot_of(number: Number) -> Spot:
    about = (number.dataset, number.features, number.method, number.variant)
    return (*about, number.cell, number.emotion, number.metric)


def is_of_kind(family: str, kind: str) -> bool:
    """Whether a feature family, e.g. ``mult-aligned``, is ``aligned`` or ``unaligned`` as asked; empty takes both."""
    return not kind or family.endswith(f"-{kind}")


def recorded_cell(cell: str) -> str:
    """The name under which records and summaries have a printed cell: ``intra/0.0`` is ``inter/lav``."""
    return cell if cell in (*AVERAGES, *AREAS) else str(Cell.parse(cell))


def with_datasets(tables: Iterable[PaperTable], datasets: Sequence[str]) -> list[PaperTable]:
    """The tables that have any of some corpora."""
    return [table for table in tables if set(table.datasets) & set(datasets)]

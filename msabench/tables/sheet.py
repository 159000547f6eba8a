"""A table ready to print: words in place, ranked, with what must be said above and below. Free of torch and pandas."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

BEST, SECOND = 1, 2
"""Ranks of a column's numbers that are emphasised."""

ENOUGH_FOR_SECOND = 3
"""Numbers a column must have before its second best is emphasised; of two, it is the worst."""


@dataclass(frozen=True)
class Head:
    """Header of one column of numbers.

    Attributes:
        text: What to print, e.g. ``la``, ``F1``.
        group: What stands above this column and its neighbours, e.g. ``happy``; empty if nothing does.
        block: Columns of one block stand together where lines are cut.
    """

    text: str
    group: str = ""
    block: str = ""

    @property
    def flat(self) -> str:
        """Header where there is one line of them, e.g. ``happy la``."""
        return f"{self.group} {self.text}".strip()


@dataclass(frozen=True)
class Item:
    """One number as printed.

    Attributes:
        text: With its marks; ``-`` where there is none.
        rank: ``BEST`` or ``SECOND`` of its column, else 0.
    """

    text: str
    rank: int = 0


@dataclass(frozen=True)
class Line:
    """One row.

    Attributes:
        labels: What stands before the numbers, one word or phrase a label column.
        items: One a column.
        apart: Whether it opens a group of rows.
    """

    labels: tuple[str, ...]
    items: tuple[Item, ...]
    apart: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table ready to print.

    Attributes:
        heading: One line.
        intro: Sentences above the table.
        caveat: What must be said about the corpus; may be empty.
        labels: Headers of the label columns.
        brief: Indices of the label columns that are repeated where the table goes on below.
        columns: Headers of the columns.
        lines: Rows.
        notes: Sentences below the table.
    """

    heading: str
    intro: tuple[str, ...]
    caveat: str
    labels: tuple[str, ...]
    brief: tuple[int, ...]
    columns: tuple[Head, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def ranks(self) -> set[int]:
        """Ranks that occur."""
        return {item.rank for line in self.lines for item in line.items} - {0}

    @property
    def blocks(self) -> list[tuple[int, ...]]:
        """Indices of columns, block by block."""
        places: dict[str, list[int]] = {}
        for index, head in enumerate(self.columns):
            places.setdefault(head.block, []).append(index)
        return [tuple(indices) for indices in places.values()]

    def groups(self, indices: Sequence[int]) -> Iterator[tuple[str, int]]:
        """Neighbouring columns with one group above them: the group, and how many columns it spans."""
        for group, columns in groupby(indices, key=lambda index: self.columns[index].group):
            yield group, len(list(columns))


def ranked(numbers: Sequence[str | None], direction: str) -> list[int]:
    """Rank the numbers of a column as they are printed, so that ties share a rank.

    Args:
        numbers: Printed numbers; None and ``nan`` are not ranked.
        direction: ``max`` or ``min``.

    Returns:
        ``BEST``, ``SECOND`` or 0 for each. Nothing is best of fewer than two, nothing second of fewer than three.

    >>> ranked(["1.0", "3.0", None, "2.0", "3.0"], "max")
    [0, 1, 0, 2, 1]
    """
    values = [math.nan if number is None else float(number) for number in numbers]
    order = sorted({value for value in values if not math.isnan(value)}, reverse=direction == "max")
    there = sum(not math.isnan(value) for value in values)
    ranks = {}
    if there >= 2:
        ranks[order[0]] = BEST
    if there >= ENOUGH_FOR_SECOND and len(order) > 1:
        ranks[order[1]] = SECOND
    return [ranks.get(value, 0) for value in values]

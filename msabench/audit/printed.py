"""Exact arithmetic of printed numbers, and the rows and test situations that they belong to. Free of torch and pandas.

A printed number stands for every value that rounds to it, ends included, so that a number rounded half up and one
rounded half to even are treated alike. Some papers drop trailing zeros (``64.3`` for 64.30). What is called proven
therefore rests on the digits that are printed; what the table's other numbers say about its precision is used for
inferences alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from msabench.metrics.spec import METRICS
from msabench.missingness.conditions import AVERAGES, Cell
from msabench.published.numbers import AREAS, PROSE, Number

_LESS_IS_BETTER = {key for key, spec in METRICS.items() if spec.direction == "min"} | {"cluster_variance"}


@dataclass(frozen=True, order=True)
class Label:
    """What tells one printed row from another."""

    paper: str
    table: str
    dataset: str
    features: str
    method: str
    variant: str

    @property
    def name(self) -> str:
        """Method, and variant where it is not the method in full."""
        return named(self.method, self.variant)


Column = tuple[str, str, str]
"""Situation, emotion, metric."""

Rows = dict[Label, dict[Column, Number]]


def named(method: str, variant: str) -> str:
    """``umdf`` or ``umdf/wo_dfim``."""
    return method if variant in ("", "default") else f"{method}/{variant}"


def exact(number: Number) -> Decimal:
    """The printed value."""
    return Decimal(number.value)


def places(number: Number) -> int:
    """Decimal places that are printed."""
    return len(number.value.partition(".")[2])


def half(decimals: int) -> Decimal:
    """Half a unit of the last of so many decimal places: how far rounding moves a value at most."""
    return Decimal(5).scaleb(-decimals - 1)


def span(number: Number) -> tuple[Decimal, Decimal]:
    """Lowest and highest value that rounds to a number as printed."""
    slack = half(places(number))
    return exact(number) - slack, exact(number) + slack


def apart(one: Number, other: Number) -> bool:
    """Whether no value rounds to both."""
    (low, high), (floor, ceiling) = span(one), span(other)
    return high < floor or ceiling < low


def less_is_better(metric: str) -> bool:
    """Whether a lower value of a printed metric is the better one."""
    return metric.removeprefix("delta_") in _LESS_IS_BETTER


def better(one: Number, other: Number) -> bool:
    """Whether one number is better than another of the same metric, and rounding cannot have turned them round."""
    if exact(one) == exact(other):
        return False
    lower, upper = (other, one) if exact(one) > exact(other) else (one, other)
    if span(lower)[1] > span(upper)[0]:
        return False
    return (one is lower) == less_is_better(one.metric)


def situation(number: Number) -> str:
    """The test situation; numbers of one method in one situation are comparable.

    ``complete``, ``inter/lav`` and ``intra/0.0`` are one. A set of modalities that was fixed in training as well is
    another situation than the same set in a test alone.
    """
    if number.cell in (*AVERAGES, *AREAS):
        return number.cell
    cell = str(Cell.parse(number.cell))
    return f"fixed {cell}" if number.protocol == "fixed" else cell


def column_of(number: Number) -> tuple[str, ...]:
    """What the rows of one printed column share; where rows differ in what is there throughout, it is one column."""
    cell = "" if number.protocol in ("complete", "fixed") else number.cell
    return (
        *(number.paper, number.table, number.dataset, number.features),
        *(cell, number.emotion, number.metric),
    )


def label_of(number: Number) -> Label:
    """The row that a number stands in."""
    return Label(number.paper, number.table, number.dataset, number.features, number.method, number.variant)


def rows_of(numbers: Iterable[Number]) -> Rows:
    """The numbers of tables by row and column; prose and differences are left out."""
    rows: Rows = {}
    for number in numbers:
        if number.table != PROSE and not number.is_delta:
            column = (situation(number), number.emotion, number.metric)
            rows.setdefault(label_of(number), {})[column] = number
    return rows


def shown(number: Number) -> str:
    """A number with its method, e.g. ``hrlf 64.59``."""
    return f"{named(number.method, number.variant)} {number.value}"


def table_name(paper: str, table: str) -> str:
    """``umdf prose`` or ``umdf table 1``."""
    return f"{paper} prose" if table == PROSE else f"{paper} table {table}"

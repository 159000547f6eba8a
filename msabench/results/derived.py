"""Quantities that are derived from several cells of a training. Free of torch.

Each is taken for every training seed, from the seed's means over test masks, and then over seeds. Where a cell that it
is made of has no records there is none: nothing is interpolated. docs/statistics.md says what each is good for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from msabench.errors import one_of
from msabench.metrics.spec import MetricSpec
from msabench.missingness.conditions import AVERAGES, SUBSETS, Cell
from msabench.results.table import Column

BLOCK = "derived"
"""Block of the columns of derived quantities."""

RELATIVE = "relative:"
"""``relative:avg_missing``, ``relative:inter/la``: the value there by that of complete clips."""

_COMPLETE = str(Cell())
_STEP = 0.1


@dataclass(frozen=True)
class Derived:
    """A quantity made of several cells.

    Attributes:
        key: Its name, which stands where cells and averages do.
        header: Header of its column.
        meaning: What it is, without the header; half a sentence.
        kind: ``area``: trapezoids over a curve, in the metric's unit times rate. ``relative``: the mean of the cells by
            the value of complete clips, for metrics of which more is better. ``spread``: largest minus smallest value
            of the cells, in the metric's unit.
        over: The cells that it is taken over, in order.
    """

    key: str
    header: str
    meaning: str
    kind: Literal["area", "relative", "spread"]
    over: tuple[str, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """Every cell that must be recorded."""
        return tuple(dict.fromkeys([*self.over, *([_COMPLETE] if self.kind == "relative" else [])]))

    def applies(self, metric: MetricSpec) -> bool:
        """Whether the quantity is defined for a metric: shares are of metrics of which more is better."""
        return self.kind != "relative" or metric.direction == "max"

    def spec(self, metric: MetricSpec) -> MetricSpec:
        """How values are printed, and whether more or less of it is better."""
        if self.kind == "relative":
            return replace(metric, key=self.key, title=self.header, percent=True, decimals=1)
        if self.kind == "spread":
            return replace(metric, key=self.key, title=self.header, direction="min")
        return replace(metric, key=self.key, title=self.header)

    def of(self, values: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """The quantity.

        Args:
            values: Cell -> values of any one shape, for all ``cells``.

        Returns:
            float64 of that shape; NaN where a value is, and in shares where that of complete clips is not above 0.
        """
        stacked = np.stack([np.asarray(values[cell], dtype=np.float64) for cell in self.over])
        if self.kind == "area":
            return np.asarray(_STEP * (stacked.sum(axis=0) - (stacked[0] + stacked[-1]) / 2))
        if self.kind == "spread":
            return np.asarray(stacked.max(axis=0) - stacked.min(axis=0))
        whole = np.asarray(values[_COMPLETE], dtype=np.float64)
        return np.asarray(stacked.mean(axis=0) / np.where(whole > 0, whole, np.nan))


def _area(last: int) -> Derived:
    rates = [f"{tenth / 10:.1f}" for tenth in range(last + 1)]
    key = f"auilc_{rates[-1]}"
    meaning = f"area under the metric over the rates 0.0, 0.1 to {rates[-1]}, by trapezoids, not divided by its width"
    return Derived(key, key, meaning, "area", tuple(str(Cell("lav", rate)) for rate in rates))


def _relative(where: str, key: str, header: str) -> Derived:
    """The share of complete clips' value that a cell or an average has."""
    over = tuple(map(str, AVERAGES.get(where, (where,))))
    said = f"{where} in percent of the value of complete clips"
    return Derived(key, header, said, "relative", over)


def _spread(key: str, letters: int, said: str) -> Derived:
    cells = tuple(str(Cell(subset)) for subset in SUBSETS if len(subset) == letters)
    return Derived(key, key, f"{said}; less is more even", "spread", cells)


SUMMARY = (
    _area(9),
    _area(10),
    _relative("avg_missing", f"{RELATIVE}avg_missing", "avg/lav"),
    _relative("avg_intra", f"{RELATIVE}avg_intra", "mean/0.0"),
    _relative("intra/0.5", "retention_0.5", "0.5/0.0"),
    _spread("spread_lost", 2, "what the dearest modality costs where it is missing, minus what the cheapest does"),
    _spread("spread_alone", 1, "value of the best modality alone minus that of the worst"),
)
"""What a table shows with ``--summary``."""

DERIVED = {found.key: found for found in (_area(5), *SUMMARY)}
"""Those that have names of their own, by name; ``auilc_0.5`` is what the field prints for SIMS."""


def derived(name: str) -> Derived | None:
    """The quantity of a name; None if the name is not one of these, but perhaps a cell's or an average's.

    Args:
        name: A key of ``DERIVED``, or ``relative:`` and a cell or an average.

    Raises:
        MSABenchError: What stands behind ``relative:`` is neither.
    """
    if name in DERIVED or not name.startswith(RELATIVE):
        return DERIVED.get(name)
    where = name.removeprefix(RELATIVE)
    where = where if where in AVERAGES else str(Cell.parse(where))
    return _relative(where, f"{RELATIVE}{where}", f"{where}/lav")


def quantities_of(names: Iterable[str]) -> tuple[str, ...]:
    """Keys of derived quantities by their names.

    Raises:
        MSABenchError: A name is not one of these.
    """
    found: dict[str, None] = {}
    for name in names:
        quantity = derived(name)
        if quantity is None:
            raise one_of("derived column", name, [*DERIVED, "or relative: with a cell or an average"])
        found[quantity.key] = None
    return tuple(found)


def columns_for(names: Iterable[str]) -> tuple[Column, ...]:
    """Columns of those of some names that are derived quantities."""
    found = [quantity for name in names if (quantity := derived(name)) is not None]
    return tuple(Column(quantity.key, quantity.header, BLOCK) for quantity in found)


def made_of(name: str) -> tuple[str, ...]:
    """The cells that a cell, an average or a derived quantity is made of."""
    quantity = derived(name)
    return quantity.cells if quantity else tuple(map(str, AVERAGES.get(name, (name,))))


def put_together(name: str, values: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """The value of a cell, an average or a derived quantity from those of its parts, cell -> values of one shape."""
    quantity = derived(name)
    if quantity is not None:
        return quantity.of(values)
    return np.asarray(np.mean([values[part] for part in made_of(name)], axis=0))


def spec_of(name: str, metric: MetricSpec) -> MetricSpec:
    """How a number of a cell, an average or a derived quantity is printed."""
    quantity = derived(name)
    return quantity.spec(metric) if quantity else metric


def meanings_of(names: Sequence[str]) -> list[str]:
    """What those of some names mean that are derived quantities, e.g. ``auilc_0.9 = area under ...``."""
    found = [quantity for name in names if (quantity := derived(name)) is not None]
    return [
        f"{quantity.header} = {quantity.meaning}"
        if quantity.key == quantity.header
        else f"{quantity.header} ({quantity.key}) = {quantity.meaning}"
        for quantity in found
    ]

"""Printed averages against the printed cells that they are taken over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from msabench.audit.context import Context
from msabench.audit.finding import Finding, Place, finding
from msabench.audit.printed import exact, half, places, situation
from msabench.missingness.conditions import AVERAGES
from msabench.published.numbers import PROSE, Number

_RULE = "a printed average is the mean of its cells, up to rounding of the cells and of the average"

_Key = tuple[str, ...]
_Series = dict[_Key, dict[str, dict[str, Number]]]
"""What an average and its cells share -> table -> situation -> number."""


def averages(context: Context) -> Iterator[Finding]:
    """Averages that differ from the mean of the cells printed beside them, or in another table of the paper.

    Three grades: no rounding of the digits printed can give it (proven); none can at the precision that the table
    prints elsewhere, so that it only fits if a cell was printed with fewer digits; rounding of the cells can.
    """
    cells: _Series = {}
    tables: dict[_Key, list[str]] = {}
    places_of: dict[tuple[str, str, str], int] = {}
    for number in context.numbers:
        if number.is_delta:
            continue
        if number.cell in AVERAGES:
            column = (number.paper, number.table, number.metric)
            places_of[column] = max(places_of.get(column, 0), places(number))
            if number.table != PROSE:
                tables.setdefault((*_series(number), number.cell), []).append(number.table)
        elif number.table != PROSE and number.protocol != "fixed":
            cells.setdefault(_series(number), {}).setdefault(number.table, {})[situation(number)] = number
    for number in context.numbers:
        if number.cell not in AVERAGES or number.is_delta:
            continue
        if number.table == PROSE and (*_series(number), number.cell) in tables:
            # A restatement; whether it restates faithfully is another check.
            continue
        operands = _operands(number, cells)
        if operands:
            found = _compare(number, operands, places_of[number.paper, number.table, number.metric])
            if found:
                yield found


def _series(number: Number) -> _Key:
    """What an average and its cells share, but for the table."""
    return (
        *(number.paper, number.dataset, number.features, number.method, number.variant),
        *(number.emotion, number.metric),
    )


def _operands(number: Number, cells: _Series) -> list[Number]:
    """The cells of an average, from its own table or else from the first that has all of them."""
    needed = [str(cell) for cell in AVERAGES[number.cell]]
    tables = cells.get(_series(number), {})
    for row in (tables.get(number.table, {}), *tables.values()):
        if all(name in row for name in needed):
            return [row[name] for name in needed]
    return []


def _compare(number: Number, operands: Sequence[Number], decimals_of_averages: int) -> Finding | None:
    mean = sum((Fraction(exact(cell)) for cell in operands), Fraction(0)) / len(operands)
    difference = abs(Fraction(exact(number)) - mean)
    own = sum((Fraction(half(places(cell))) for cell in operands), Fraction(0)) / len(operands)
    # Cells of one row are printed alike, but some papers drop trailing zeros.
    decimals = max(map(places, operands))
    in_table = min(decimals_of_averages, max(places(number), decimals))
    of_cells, of_average = Fraction(half(decimals)), Fraction(half(in_table))
    if difference <= of_average:
        return None
    low, high = (_rounded(mean + sign * of_cells, in_table) for sign in (-1, 1))
    common = {
        "printed": f"{number.value}; cells {' '.join(cell.value for cell in operands)} (table {operands[0].table})",
        "expected": f"{_rounded(mean, in_table)} (mean {float(mean):.4f}; reachable {low} to {high})",
        "rule": _RULE,
    }
    place = Place.of(number)
    if difference > own + Fraction(half(places(number))):
        proof = "Proven: no values that round to the printed cells have this mean. Which number is wrong is open."
        return finding("average", place, certainty="proven", severity="error", proof=proof, **common)
    if difference > of_cells + of_average:
        proof = (
            f"Inferred: at the {decimals} decimal places that the row prints elsewhere no cells have this mean; it "
            "fits only if trailing zeros were not dropped but numbers printed with fewer digits."
        )
        return finding("average", place, certainty="inferred", severity="warning", proof=proof, **common)
    proof = "Nothing is wrong for certain: rounding of the cells can explain the difference."
    return finding("average", place, certainty="inferred", severity="note", proof=proof, **common)


def _rounded(value: Fraction, decimals: int) -> Decimal:
    exact_value = Decimal(value.numerator) / Decimal(value.denominator)
    return exact_value.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)

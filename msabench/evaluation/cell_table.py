"""The metrics of one evaluation as text: a line per cell and mask seed. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence

from msabench.metrics.spec import METRICS
from msabench.missingness.conditions import Cell
from msabench.results.record import MANY_BLIND, CellRecord

_COLUMNS = 100
"""Characters of a printed line."""


def cell_table(records: Sequence[CellRecord], default_metric: str, unseen: Sequence[str]) -> str:
    """All metrics of an evaluation, in as many blocks as the width takes.

    Args:
        records: A record per cell and mask seed, of one metric set.
        default_metric: Key of the metric that stands first.
        unseen: Modalities that no training clip had.
    """
    # The default metric first; swapped F1 is for reading published numbers.
    names = sorted(records[0].metrics, key=lambda name: (name.endswith("_swapped"), name != default_metric))
    cells = ["cell", *(record.cell for record in records)]
    seeds = ["mask seed", *("-" if record.mask_seed is None else str(record.mask_seed) for record in records)]
    notes = ["note", *(_note(record, unseen) for record in records)]
    blocks: list[list[list[str]]] = [[cells, seeds, notes]]
    for name in names:
        column = [name, *(_shown(name, record.metrics[name]) for record in records)]
        if sum(_width(other) + 2 for other in blocks[-1]) + _width(column) > _COLUMNS:
            blocks.append([cells, seeds])
        blocks[-1].append(column)
    return "\n\n".join(
        "\n".join(
            "  ".join(f"{value:<{_width(column)}}" for value, column in zip(row, block, strict=True)).rstrip()
            for row in zip(*block, strict=True)
        )
        for block in blocks
    )


def _width(column: Sequence[str]) -> int:
    return max(map(len, column))


def _note(record: CellRecord, unseen: Sequence[str]) -> str:
    words = ["collapsed"] * record.collapsed
    if set(Cell.parse(record.cell).modalities) <= set(unseen):
        words.append("never seen in training")
    if record.blind is not None and record.blind >= MANY_BLIND:
        words.append(f"{record.blind:.0%} of clips without input")
    return ", ".join(words)


def _shown(name: str, value: float | None) -> str:
    return "-" if value is None else METRICS[name].format(value)

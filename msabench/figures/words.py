"""Words that figures of tables share: names of rows, and what the caption must say."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msabench.errors import MSABenchError
from msabench.figures.sheet import MOST_ROWS, stem_of
from msabench.methods.info import EXTERNAL
from msabench.results.chosen_rows import ChosenRows, full_name
from msabench.results.record import SCORED
from msabench.results.table import CONSTANT, Row, Table
from msabench.tables.marks import FIDELITIES

EXPERIMENTAL = "*"
COLLAPSED = "\N{MULTIPLICATION X}"


def check_count(chosen: ChosenRows) -> None:
    """Refuse more rows than can be told apart.

    Raises:
        MSABenchError: There are more than ``MOST_ROWS``.
    """
    names = [name for name, row in zip(chosen.names, chosen.table.rows, strict=True) if row.method != CONSTANT]
    if len(names) > MOST_ROWS:
        raise MSABenchError(
            f"{len(names)} rows cannot be told apart in one figure ({', '.join(names)}); name at most {MOST_ROWS} with "
            "--methods and --variants"
        )


def labels(chosen: ChosenRows) -> list[str]:
    """A label for each row: method, regime where several occur, a mark if experimental, its seeds where they differ."""
    rows = chosen.table.rows
    several = len({row.regime for row in rows if row.method != CONSTANT}) > 1
    counts = {row.n_seeds for row in rows}
    found = []
    for row in rows:
        name = full_name(row) if several and row.method != CONSTANT else row.label
        name += mark_of(row.fidelity)
        found.append(name + (f" (n={row.n_seeds})" if len(counts) > 1 else ""))
    return found


def mark_of(fidelity: str) -> str:
    """What stands behind the name of a row whose fidelity a reader must know."""
    return EXPERIMENTAL if fidelity == "experimental" else f" ({fidelity})" if fidelity in (EXTERNAL, SCORED) else ""


def axis_label(table: Table) -> str:
    """The metric with its unit and, where less is better, that."""
    metric = table.metric
    unit = ", %" if metric.percent else ""
    return f"{metric.title}{unit}" + (" (less is better)" if metric.direction == "min" else "")


def scale(table: Table) -> float:
    """What values are multiplied with to be shown."""
    return 100.0 if table.metric.percent else 1.0


def caption(
    chosen: ChosenRows, *sentences: str, cells: Sequence[str], pooled: bool = True, metric: bool = True
) -> list[str]:
    """What must be said inside a figure of a table's rows.

    Args:
        chosen: The rows.
        sentences: What is particular to the figure.
        cells: Cells and averages that are shown, for the marks.
        pooled: Whether the figure is over all training seeds of a row.
        metric: Whether the figure shows the table's metric.
    """
    table = chosen.table
    regimes = {row.regime for row in table.rows if row.method != CONSTANT}
    shown = [row.entries[cell] for row in table.rows for cell in cells if cell in row.entries]
    marks = []
    if any(entry.n_collapsed and not math.isnan(entry.mean) for entry in shown):
        marks.append(f"{COLLAPSED}: predictions collapsed into one class under at least one training seed.")
    if any(entry.unseen for entry in shown):
        marks.append("Some numbers shown rest on modalities alone that no training clip had.")
    if any(row.fidelity == "experimental" for row in table.rows):
        marks.append(f"{EXPERIMENTAL} {FIDELITIES['experimental']}.")
    if any(row.fidelity == SCORED for row in table.rows):
        marks.append(f"{FIDELITIES[SCORED]}.")
    return [
        f"{table.title}, {table.metric.title} [{table.metric.key}]." if metric else f"{table.title}.",
        *sentences,
        f"Training regime: {regimes.pop()}." if len(regimes) == 1 else "",
        seed_words(table.rows) if pooled else "",
        *marks,
        *(f"Left out: {sentence}." for sentence in chosen.left_out),
        *table.warnings,
        *protocol_words(table),
        table.caveat,
    ]


def seed_words(rows: Sequence[Row]) -> str:
    """How many training seeds rows have, a sentence."""
    counts = sorted({row.n_seeds for row in rows})
    return f"Training seeds: {counts[0]}." if len(counts) == 1 else f"Training seeds: {counts[0]} to {counts[-1]} (n)."


def protocol_words(table: Table) -> list[str]:
    """What is unusual in a table's protocol, sentences."""
    given = table.protocol
    said = []
    if given["selection"] != "val":
        said.append("SELECTED ON TEST." if given["selection"] == "test_best" else "Selection unknown.")
    if given["lengths"] != "hide":
        said.append("A removed modality shows its length.")
    if given["level"] != "vectors":
        said.append(f"Text dropped at level {given['level']} (fill {given['token_fill']}).")
    return said


def stem(kind: str, chosen: ChosenRows, chosen_tables: Sequence[ChosenRows], *more: str) -> str:
    """Name of a figure's files: kind, corpus, what tells its protocol from others drawn with it, metric."""
    table = chosen.table
    others = [other.table.protocol for other in chosen_tables if other.table.dataset == table.dataset]
    differing = [value for name, value in table.protocol.items() if len({other[name] for other in others}) > 1]
    return stem_of(kind, table.dataset, *differing, *more)

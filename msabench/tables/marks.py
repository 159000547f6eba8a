"""How a reproduced number is printed with its marks, and what the marks mean. Free of torch and pandas."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msabench.metrics.spec import MetricSpec
from msabench.results.study import TUNING
from msabench.results.table import Entry, Row
from msabench.tables.render import COLLAPSES, DAGGER, DOUBLE_DAGGER, PILCROW, PLUS_MINUS

FIDELITIES = {
    "experimental": "experimental = known by its title alone; what was built is a guess",
    "reconstructed": "reconstructed = parts are not in the paper and were filled in",
    "external": "external = from outside msabench, so that nobody here has read how faithful it is",
    "scored": "scored = predictions made elsewhere and only scored here, never best of a column; how they came about "
    "is what their maker says",
    "unknown": "unknown = not a registered method, so that nothing is known about how faithful it is",
}
"""Fidelity that a reader must be warned about -> the warning."""

UNSEEN = "rests on modalities alone that no training clip had, so that it says nothing about what the method learnt"
"""What the mark of an entry that is ``unseen`` means."""


def marked(metric: MetricSpec, entry: Entry | None, n_seeds: int) -> str:
    """A reproduced number with its spread and marks.

    Args:
        metric: Its metric.
        entry: The number; None prints a dash.
        n_seeds: Training seeds of its row.
    """
    if entry is None:
        return "-"
    text = metric.format(entry.mean)
    if entry.interval is not None:
        text += f" [{', '.join(map(metric.format, entry.interval))}]"
    elif not math.isnan(entry.std):
        text += PLUS_MINUS + metric.format(entry.std)
    if entry.n_seeds < n_seeds:
        text += f"({entry.n_seeds})"
    if entry.n_collapsed:
        text += DAGGER + (str(entry.n_collapsed) if entry.n_collapsed < entry.n_seeds else "")
    return text + PILCROW * entry.unseen


def label(row: Row) -> str:
    """A row's name, marked if a job of it failed."""
    return row.label + DOUBLE_DAGGER * bool(row.failures)


def with_tuning(header: Sequence[str], lines: Iterable[tuple[Row, list[str]]]) -> list[list[str]]:
    """A grid whose last column says how rows were tuned, if any of them was.

    Args:
        header: The other columns.
        lines: Each row with its other fields.
    """
    pairs = list(lines)
    if not any(row.tuning for row, _ in pairs):
        return [list(header), *(line for _, line in pairs)]
    return [[*header, TUNING], *([*line, row.tuning] for row, line in pairs)]


def most_seeds(rows: Sequence[Row]) -> int:
    """The largest number of training seeds of any row."""
    return max((row.n_seeds for row in rows), default=0)


def in_words(entry: Entry | None, row: Row, most: int, lacking: str = "no records") -> str:
    """The marks of a number as words, for programs: empty if there are none.

    Args:
        entry: The number; None if there are no records.
        row: Its row.
        most: The largest number of training seeds of any row of the table.
        lacking: What to say where there is no number.
    """
    words = []
    if entry is None:
        words.append(lacking)
    else:
        if entry.n_seeds < row.n_seeds:
            words.append(f"{entry.n_seeds} of {row.n_seeds} seeds")
        if entry.n_collapsed:
            words.append(f"collapsed in {entry.n_collapsed} of {entry.n_seeds} seeds")
        if entry.unseen:
            words.append("modalities never seen in training")
        if math.isnan(entry.mean):
            words.append("undefined")
    if row.n_seeds < most:
        words.append(f"row has {row.n_seeds} of up to {most} seeds")
    if row.failures:
        words.append(f"{len(row.failures)} failed")
    if row.fidelity in FIDELITIES:
        words.append(row.fidelity)
    return "; ".join(words)


def meanings(rows: Sequence[Row], shown: Iterable[tuple[Row, Entry | None]], metric_set: str) -> list[str]:
    """Sentences on the marks that occur.

    Args:
        rows: Rows of a table.
        shown: Every number of it with its row, as printed.
        metric_set: Metric set of the corpus.
    """
    pairs = list(shown)
    entries = [entry for _, entry in pairs if entry is not None]
    lines = []
    if any(entry is not None and entry.n_seeds < row.n_seeds for row, entry in pairs):
        lines.append("(n) = over n training seeds only.")
    fewer = [f"{row.label} ({row.n_seeds})" for row in rows if row.n_seeds < most_seeds(rows)]
    if fewer:
        lines.append(f"Fewer training seeds than other rows, which have up to {most_seeds(rows)}: {', '.join(fewer)}.")
    if len(entries) < len(pairs):
        lines.append("- = no records.")
    if any(entry.n_collapsed for entry in entries):
        lines.append(
            f"{DAGGER} = collapsed: {COLLAPSES[metric_set]}, so that a constant would score the same there; "
            f"{DAGGER}n = in n of the training seeds; in averages, in any situation averaged over."
        )
    if any(entry.unseen for entry in entries):
        lines.append(f"{PILCROW} = {UNSEEN}; in averages, any situation averaged over does.")
    if any(math.isnan(entry.mean) for entry in entries):
        lines.append("nan = undefined for at least one run, since predictions or labels are constant.")
    lines += [f"{meaning}." for name, meaning in FIDELITIES.items() if name in {row.fidelity for row in rows}]
    if any(row.failures for row in rows):
        lines.append(f"{DOUBLE_DAGGER} = has failed jobs.")
    return lines

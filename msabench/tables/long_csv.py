"""Tables as CSV: one number a line, reproduced and published alike. Free of torch and pandas."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator
from typing import Any

from msabench.published.constant_scores import explaining
from msabench.published.numbers import Number
from msabench.published.tables import PaperColumn, recorded_cell
from msabench.results.aggregate import PROTOCOL
from msabench.results.derived import BLOCK
from msabench.results.study import TUNING
from msabench.results.table import Entry, Row, Table
from msabench.tables.marks import in_words, most_seeds
from msabench.tables.paper import PaperLine, PaperView, Reproduced
from msabench.tables.render import csv_field

COLUMNS = (
    *PROTOCOL,
    *("method", "method_version", "variant", "regime", "config_hash", "fidelity", "seed", "metric"),
    *("block", "column", "cell", "mean", "std", "n_seeds", "n_mask_seeds", "n_collapsed"),
    *("low", "high", "marks"),
    *(
        "source",
        "paper",
        "table",
        "emotion",
        "printed_metric",
        "printed",
        "evidence",
        "note",
        "difference",
        "definition",
    ),
)
"""Columns of a CSV of tables.

``source`` is ``reproduced`` or ``published``. Numbers are unrounded and in natural scale, accuracies and F1 in [0, 1],
as in records; ``printed`` has the digits of the paper with the mark beside them. ``marks`` says in words what text
tables mark. From ``paper`` on, columns are empty outside tables of papers. On published lines ``metric`` is empty where
it is not known, and ``features`` is as the paper says. On reproduced lines of a paper's table ``difference`` is
reproduced minus published, and ``definition`` says whether the two are one metric, see ``paper.DEFINITIONS``.
Where a row has tuned settings, a last column ``tuning`` says which lines are of such rows.
"""

Record = dict[str, Any]


def render_csv(records: Iterable[Record]) -> str:
    """Lines as one CSV; columns that a line lacks are empty."""
    lines = list(records)
    columns = (*COLUMNS, *([TUNING] if any(TUNING in line for line in lines) else []))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_field(value) for name, value in line.items()} for line in lines)
    return out.getvalue().rstrip("\n")


def result_records(table: Table) -> Iterator[Record]:
    """The lines of a result table; cells without records have empty values and 0 seeds."""
    most = most_seeds(table.rows)
    for row in table.rows:
        for column in table.columns:
            place = {"metric": table.metric.key, "block": column.block, "column": column.header, "cell": column.key}
            lacking = "not to be derived" if column.block == BLOCK else "no records"
            yield table.protocol | about(row) | place | values(row.entries.get(column.key), row, most, lacking)


def about(row: Row) -> Record:
    """What a row is."""
    names = ("method", "method_version", "variant", "regime", "config_hash", "fidelity")
    seed = "" if row.seed is None else row.seed
    tuning = {TUNING: row.tuning} if row.tuning else {}
    return {name: getattr(row, name) for name in names} | {"seed": seed, "source": "reproduced"} | tuning


def values(entry: Entry | None, row: Row, most: int, lacking: str = "no records") -> Record:
    """A reproduced number with what it is taken over and its marks, see ``in_words``."""
    marks = {"marks": in_words(entry, row, most, lacking)}
    if entry is None:
        return {"n_seeds": 0, "n_mask_seeds": 0, "n_collapsed": 0} | marks
    low, high = entry.interval or (math.nan, math.nan)
    numbers = {"mean": entry.mean, "std": entry.std, "low": low, "high": high}
    counts = {name: getattr(entry, name) for name in ("n_seeds", "n_mask_seeds", "n_collapsed")}
    return {name: "" if math.isnan(value) else repr(value) for name, value in numbers.items()} | counts | marks


def paper_records(view: PaperView) -> Iterator[Record]:
    """The lines of a block of a paper's table; its published numbers come with its first view only."""
    most = most_seeds(view.rows)
    for line in view.lines:
        if view.first and view.show != "reproduced":
            for column, number in line.published.items():
                yield _place(view, line, column) | _published(number)
        for run in line.reproduced:
            for column, reproduced in run.numbers.items():
                place = view.protocol | about(run.row) | _place(view, line, column)
                yield place | values(reproduced.entry, run.row, most) | _compared(reproduced)


def _place(view: PaperView, line: PaperLine, column: PaperColumn) -> Record:
    cell = recorded_cell(view.block.cell(line.row, column))
    words = {"emotion": column.emotion, "printed_metric": column.metric}
    return {"paper": view.table.paper, "table": view.table.label, "cell": cell} | words


def _published(number: Number) -> Record:
    names = ("dataset", "features", "method", "variant", "evidence", "note")
    constants = [f"equals what a constant answer scores: {score.reading}" for score in explaining(number)]
    return {name: getattr(number, name) for name in names} | {
        "metric": number.key,
        "mean": repr(number.number / 100 if number.percent else number.number),
        "marks": "; ".join(constants),
        "source": "published",
        "printed": number.value + number.mark,
    }


def _compared(reproduced: Reproduced) -> Record:
    difference = "" if reproduced.difference is None else repr(reproduced.difference)
    return {"metric": reproduced.key, "difference": difference, "definition": reproduced.definition}

"""The page on training regimes: each method trained on complete and on missing data. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msabench.leaderboard.pages import Writer
from msabench.results.chosen_rows import ChosenRows
from msabench.results.record import JobRecord
from msabench.results.records import Records
from msabench.results.regime_changes import COMPLETE, MIXED
from msabench.tables.regimes import CELLS, grid, heading, kept_changes, legend

BESIDE = ("corr", "mae")
"""Metrics shown beside a corpus's usual one, where it has them."""


def write_regimes(
    writer: Writer, store: Path, datasets: Sequence[str], records: tuple[Records, list[JobRecord]]
) -> None:
    """Write the page.

    Args:
        writer: Writes pages.
        store: Folder of the result store.
        datasets: Corpora to show, in order.
        records: ``records()`` and ``failures()`` of the store.

    Raises:
        MSABenchError: A record or interval file is malformed.
    """
    parts = [part for dataset in datasets for part in kept_changes(store, dataset, BESIDE, records)]
    sections = [table_entry(part.chosen, heading(part), grid(part, CELLS), legend(part, CELLS)) for part in parts]
    writer.write("regimes.html", "regimes.html", "regimes", sections=sections, before=COMPLETE, after=MIXED)


def table_entry(chosen: ChosenRows, title: str, lines: list[list[str]], below: Sequence[str]) -> dict[str, object]:
    """A table of changes as templates show it.

    Args:
        chosen: The table that the rows are of.
        title: The heading; the revision of the data is added where there are several.
        lines: Header and rows.
        below: Sentences below.
    """
    header, *rows = lines
    table = chosen.table
    return {
        "heading": f"{title}, revision {chosen.revision}" if chosen.revision else title,
        "protocol": f"{table.protocol_text}.",
        "caveat": table.caveat,
        "header": header,
        "rows": rows,
        # Commands as code, in the notation of docstrings.
        "legend": [line.replace("`", "``") for line in below],
    }

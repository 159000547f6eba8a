"""The page on tuning: each method with the settings of its config and with tuned ones. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msabench.leaderboard.pages import Writer
from msabench.leaderboard.regime_page import BESIDE, table_entry
from msabench.results.record import JobRecord
from msabench.results.records import Records
from msabench.tables.regimes import CELLS
from msabench.tables.tuning import grid, heading, kept_tuning, legend


def write_tuning(
    writer: Writer, store: Path, datasets: Sequence[str], records: tuple[Records, list[JobRecord]]
) -> None:
    """Write the page.

    Args:
        writer: Writes pages.
        store: Folder of the result store.
        datasets: Corpora to show, in order.
        records: ``records()`` and ``failures()`` of the store.

    Raises:
        MSABenchError: A record, study or interval file is malformed.
    """
    parts = [part for dataset in datasets for part in kept_tuning(store, dataset, records, BESIDE)]
    sections = [table_entry(part.chosen, heading(part), grid(part, CELLS), legend(part, CELLS)) for part in parts]
    writer.write("tuning.html", "tuning.html", "tuning", sections=sections)

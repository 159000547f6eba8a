"""The page on training regimes: each method trained on complete and on missing data. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msabench.errors import MSABenchError
from msabench.leaderboard.pages import Writer
from msabench.metrics.spec import metric_keys
from msabench.results.regime_changes import COMPLETE, RegimeChanges, regime_changes
from msabench.results.regimes import CELLS, grid, heading, legend
from msabench.results.selection import Selection, select
from msabench.results.stored_intervals import read_intervals

AFTER = "mixed"
BESIDE = ("corr", "mae")
"""Metrics shown beside a corpus's usual one, where it has them."""


def write_regimes(writer: Writer, store: Path, datasets: Sequence[str]) -> None:
    """Write the page.

    Args:
        writer: Writes pages.
        store: Folder of the result store.
        datasets: Corpora to show, in order.

    Raises:
        MSABenchError: A record or interval file is malformed.
    """
    sections = []
    for dataset in datasets:
        stored = read_intervals(store, dataset)
        for selection in _selections(store, dataset):
            part = regime_changes(selection, CELLS, COMPLETE, AFTER, stored)
            if part.methods:
                sections.append(_entry(part))
    writer.write("regimes.html", "regimes.html", "regimes", sections=sections, before=COMPLETE, after=AFTER)


def _selections(store: Path, dataset: str) -> list[Selection]:
    """A corpus's tables in its usual metric, then in the others."""
    try:
        usual = select(store, [dataset], None, None)
    except MSABenchError:
        # Nothing but failures, the constant predictor, or variants: the page has nothing to compare.
        return []
    keys = metric_keys(usual[0].table.metric_set)
    return [*usual, *(part for key in BESIDE if key in keys for part in select(store, [dataset], None, key))]


def _entry(part: RegimeChanges) -> dict[str, object]:
    header, *rows = grid(part, CELLS)
    table = part.selection.table
    return {
        "heading": heading(part),
        "protocol": f"{table.protocol_text}.",
        "caveat": table.caveat,
        "header": header,
        "rows": rows,
        # Commands as code, in the notation of docstrings.
        "legend": [line.replace("`", "``") for line in legend(part, CELLS)],
    }

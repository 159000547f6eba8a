"""Writes ``leaderboard/README.md`` from the records. Free of torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from msabench.errors import MSABenchError
from msabench.files import write_text
from msabench.results.build import build_tables
from msabench.results.store import ResultStore
from msabench.results.table import CONSTANT, Table, columns_of
from msabench.tables import tuning
from msabench.tables.regimes import CELLS, kept_changes, section
from msabench.tables.render import render_markdown
from msabench.tables.result_sheet import result_sheet

COMMAND = "msabench leaderboard readme"

_HEAD = f"""<!-- Written by `{COMMAND}`; do not edit. -->
# Leaderboard

Our own records, one protocol a table; numbers of different protocols never stand in one. Each number is the mean over
training seeds of the mean over test masks. The row `constant` answers the same for every clip: what does not beat it has
learnt nothing there. Below each corpus stands what seeing missing data in training changes, method by method
(`msabench regimes`).

Other metrics: `msabench table --datasets synth --metric corr --committed`. Intervals, curves, the exact command
behind each record and the audit of published numbers: `msabench leaderboard build`.

| folder | what |
|---|---|
| [results](results) | the records, one file a job |
| [published](published/README.md) | numbers of five papers as printed; none of them is ours |

How to submit: [docs/leaderboard.md](../docs/leaderboard.md#submitting-records).
"""  # noqa: E501


def write_readme(store: Path, out: Path, check: bool = False) -> str:
    """Write the README, or check that it is up to date.

    Args:
        store: Folder of the result store.
        out: The file.
        check: Whether to compare only.

    Returns:
        What was done, one sentence.

    Raises:
        MSABenchError: A record file is malformed; with ``check``, the file is not what would be written.
    """
    text = readme_text(store)
    if check:
        if not out.is_file() or out.read_text(encoding="utf-8") != text:
            raise MSABenchError(f"{out} is not what the records of {store} give; write it anew with `{COMMAND}`")
        return f"{out} is up to date"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    return f"wrote {out}"


def readme_text(store: Path) -> str:
    """The README of a store: the usual metric of every corpus and protocol, ablations apart."""
    results = ResultStore(store)
    records, failures = results.records(), results.failures()
    held = sorted({*records.held("dataset"), *(job.key.dataset for job in failures)})
    parts = [_HEAD]
    if not held:
        parts.append("There are no records yet.\n")
    for dataset in held:
        for table in build_tables(records, failures, dataset, None, columns_of(["paper"]), tuning=None):
            parts.append(_section(table))
        # What seeing missing data in training changes.
        parts += [
            f"{section(part, CELLS, markdown=True)}\n"
            for part in kept_changes(store, dataset, records=(records, failures))
        ]
        # What tuned settings change, and what they took.
        parts += [
            f"{tuning.section(part, CELLS, markdown=True)}\n"
            for part in tuning.kept_tuning(store, dataset, (records, failures))
        ]
    return "\n".join(parts)


def _section(table: Table) -> str:
    full = [row for row in table.rows if row.variant == "default"]
    ablated = [row for row in table.rows if row.variant != "default"]
    text = render_markdown(result_sheet(replace(table, rows=full or table.rows))) + "\n"
    if not full or not ablated:
        return text
    constant = [row for row in full if row.method == CONSTANT]
    below = render_markdown(result_sheet(replace(table, rows=[*constant, *ablated])))
    return f"{text}\n<details>\n<summary>Ablations and variants</summary>\n\n{below}\n\n</details>\n"

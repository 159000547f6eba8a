"""``msabench regimes``: what seeing missing data in training changes, method by method. Free of torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msabench.errors import MSABenchError, one_of
from msabench.missingness.named import naming
from msabench.results.aggregate import DRAWS, LEVEL
from msabench.results.places import store_to_read
from msabench.results.table import AVERAGE_MEANINGS, CONSTANT, Table
from msabench.results.tuned import left_out_words
from msabench.tables.marks import FIDELITIES, UNSEEN, with_tuning
from msabench.tables.render import DAGGER, PILCROW, grid_csv, grid_markdown, grid_text

if TYPE_CHECKING:
    from msabench.metrics.spec import MetricSpec
    from msabench.results.chosen_rows import ChosenRows
    from msabench.results.record import JobRecord
    from msabench.results.records import Records
    from msabench.results.regime_changes import Change, RegimeChanges
    from msabench.results.table import Row

FORMATS = ("text", "markdown", "csv")
CELLS = ("inter/lav", "avg_missing")
"""What is shown unless asked otherwise: nothing missing, and the mean over the six missing conditions."""

_CSV_HEADER = (
    *("dataset", "revision", "features", "method", "variant", "fidelity", "metric", "cell", "before", "after"),
    *("value_before", "value_after", "change", "low", "high"),
    *("n_seeds_before", "n_seeds_after", "n_collapsed_before", "n_collapsed_after"),
)


@naming()
def regimes(
    datasets: list[str] | None = None,
    metric: str | None = None,
    methods: list[str] | None = None,
    variants: list[str] | None = None,
    cells: list[str] = list(CELLS),  # noqa: B006  the command line shows the default
    before: str = "complete",
    after: str = "mixed",
    store: Path | None = None,
    committed: bool = False,
    format: Literal["text", "markdown", "csv"] = "text",
    scored: bool = False,
    revision: list[str] | None = None,
    tuning: Literal["default", "tuned", "all"] | None = None,
) -> str:
    """Show what training under one regime instead of another changes, method by method.

    Args:
        datasets: Corpora; all in the store if not given.
        metric: Metric key, e.g. corr; each corpus's usual one if not given.
        methods: Methods; all but the constant predictor if not given.
        variants: Variants; only default if not given.
        cells: Averages ({averages}),
            grids ({grids})
            and cells. Methods are ordered by their gain in the last one.
        before: The regime to compare with, as tables print it.
        after: The other regime.
        store: Folder of the result store; runs/store, or what MSABENCH_STORE names, if not given.
        committed: Read the records in git, leaderboard/results, instead.
        format: How to print; csv is unrounded.
        scored: Show predictions from elsewhere as well, which were only scored here and whose regimes are as their
            maker states; without, only those that methods names.
        revision: Revisions of the data, as tables print them; all if not given.
        tuning: Rows of default settings, of tuned ones, or all; default ones if not given, tuned ones where there are
            only these.

    Returns:
        The text to print.

    Raises:
        MSABenchError: A name is unknown, or no method has records under both regimes.
    """
    if format not in FORMATS:
        raise one_of("format", format, FORMATS)
    from msabench.results.chosen_rows import cells_of, choose_rows, grid_of
    from msabench.results.regime_changes import regime_changes
    from msabench.results.stored_intervals import read_intervals

    wanted = cells_of(cells)
    place = store_to_read(store, committed)
    grid = grid_of(wanted)
    chosen_tables = choose_rows(
        place, datasets, methods, metric, variants, scored=scored, grid=grid, revision=revision, tuning=tuning
    )
    found = [
        regime_changes(chosen, wanted, before, after, read_intervals(place, chosen.table.dataset), place)
        for chosen in chosen_tables
    ]
    found = [part for part in found if part.methods]
    if not found:
        held = sorted({row.regime for chosen in chosen_tables for row in chosen.table.rows})
        raise MSABenchError(
            f"no method has records under both {before!r} and {after!r}; the regimes held are {', '.join(held)}"
        )
    if format == "csv":
        # Sentences inside would no longer be CSV.
        for line in dict.fromkeys(line for part in found for line in part.chosen.table.warnings):
            print(line, file=sys.stderr)
        return grid_csv(with_tuning(_CSV_HEADER, (line for part in found for line in _csv_lines(part))))
    return "\n\n".join(section(part, wanted, markdown=format == "markdown") for part in found)


def kept_changes(
    store: Path,
    dataset: str,
    beside: Sequence[str] = (),
    records: tuple[Records, list[JobRecord]] | None = None,
) -> list[RegimeChanges]:
    """What ``mixed`` changes on a corpus, by records and stored intervals alone, so that it is the same everywhere.

    Args:
        store: Folder of the result store.
        dataset: The corpus.
        beside: Metric keys besides the corpus's usual one; those that it has not are left out.
        records: ``records()`` and ``failures()`` of the store, from those who have read them.

    Returns:
        One entry for each metric and protocol that has methods trained under both regimes.

    Raises:
        MSABenchError: A record or interval file is malformed.
    """
    from msabench.results.build import metrics_in
    from msabench.results.chosen_rows import choose_rows
    from msabench.results.regime_changes import COMPLETE, MIXED, regime_changes
    from msabench.results.store import ResultStore
    from msabench.results.stored_intervals import read_intervals

    results = ResultStore(store)
    held, failures = records or (results.records([dataset]), results.failures())
    here = held.of(dataset=dataset)
    # What was only scored here was not trained under regimes that anybody here knows.
    ours = here.of(origin="")
    if not any(job["variant"] == "default" and job["method"] != CONSTANT for job in ours.jobs):
        return []
    keys = metrics_in(ours, dataset)
    stored = read_intervals(store, dataset)
    chosen_tables = [
        chosen
        for metric in (None, *(key for key in beside if key in keys))
        for chosen in choose_rows(store, [dataset], None, metric, records=(here, failures))
    ]
    found = [regime_changes(chosen, CELLS, COMPLETE, MIXED, stored) for chosen in chosen_tables]
    return [part for part in found if part.methods]


def section(part: RegimeChanges, cells: Sequence[str], *, markdown: bool) -> str:
    """One table with its heading and legend, as text or markdown.

    Args:
        part: The changes.
        cells: Cells to show, in order.
        markdown: Whether to print markdown.
    """
    return laid_out(part.chosen, heading(part), grid(part, cells), legend(part, cells), markdown=markdown)


def laid_out(chosen: ChosenRows, title: str, lines: list[list[str]], legend: Sequence[str], *, markdown: bool) -> str:
    """A table of comparisons with its heading, protocol, caveat and legend, as text or markdown.

    Args:
        chosen: The table that the rows are of.
        title: The heading.
        lines: Header and rows.
        legend: Sentences below.
        markdown: Whether to print markdown.
    """
    table = chosen.table
    head = [f"### {title}", "", f"{table.protocol_text}."] if markdown else [title, f"{table.protocol_text}."]
    if table.caveat:
        head += ["", f"**{table.caveat}**"] if markdown else [table.caveat]
    print_grid = grid_markdown if markdown else grid_text
    items = [f"- {line}" if markdown else line for line in legend]
    return "\n".join([*head, "", print_grid(lines), "", *items])


def heading(part: RegimeChanges) -> str:
    """Corpus, metric and the two regimes."""
    return f"{part.chosen.table.heading}: trained under {part.before} and under {part.after}"


def grid(part: RegimeChanges, cells: Sequence[str]) -> list[list[str]]:
    """Header and one line per method: three columns for each cell.

    Args:
        part: The changes.
        cells: Cells to show, in order.
    """
    metric = part.chosen.table.metric
    names = [short_name(cell) for cell in cells]
    header = ["method", "fidelity", "seeds"]
    lines = [header + [word for name in names for word in (f"{name}: {part.before}", part.after, "change")]]
    for method in part.methods:
        line = [method.row.label, method.row.fidelity, " and ".join(map(str, dict.fromkeys(method.seeds)))]
        for cell in cells:
            line += _words(metric, method.changes.get(cell))
        lines.append(line)
    return lines


def legend(part: RegimeChanges, cells: Sequence[str]) -> list[str]:
    """Sentences below the table.

    Args:
        part: The changes.
        cells: Cells shown.
    """
    metric = part.chosen.table.metric
    changes = [method.changes[cell] for method in part.methods for cell in cells if cell in method.changes]
    shown = [method for method in part.methods if (last := method.changes.get(cells[-1])) and last.is_shown]
    better = "more" if metric.direction == "max" else "less"
    lines = [
        f"change = {part.after} minus {part.before}{' in percent points' if metric.percent else ''}, {better} is "
        f"better, with its {LEVEL} % interval: paired bootstrap over test clips and training seeds, {DRAWS} resamples; "
        "* = it leaves out 0.",
        f"Of {len(part.methods)} methods, the change in {short_name(cells[-1])} leaves out 0 for {len(shown)}"
        f"{': ' if shown else ''}{', '.join(method.row.label for method in shown)}. Intervals are not corrected for "
        "their number; `msabench compare` corrects.",
    ]
    lines += [f"{AVERAGE_MEANINGS[cell]}." for cell in cells if cell in AVERAGE_MEANINGS]
    lines += marks_of(changes, {method.row.fidelity for method in part.methods})
    if part.left_out:
        lines.append(f"Not trained under both: {'; '.join(part.left_out)}.")
    return [*lines, *said_of_tuning(part.chosen.table), *part.chosen.table.warnings]


def said_of_tuning(table: Table) -> list[str]:
    """Which tuned rows a table leaves out although nobody asked for that, as a sentence; none if it leaves out none."""
    return [f"Left out: {left_out_words(table.tuned_left_out)}."] if table.tuned_left_out else []


def marks_of(changes: Sequence[Change], fidelities: Set[str]) -> list[str]:
    """What the marks of some comparisons mean, and what must be said of the methods' fidelities; sentences."""
    lines = []
    if any(change.before.n_collapsed or change.after.n_collapsed for change in changes):
        lines.append("†n = predictions collapsed into one class under n training seeds, see `msabench table`.")
    if any(change.before.unseen or change.after.unseen for change in changes):
        lines.append(f"{PILCROW} = {UNSEEN}.")
    if any(change.interval is None for change in changes):
        lines.append("No interval: the predictions that it is made of are not here.")
    return [*lines, *(f"{meaning}." for name, meaning in FIDELITIES.items() if name in fidelities)]


def short_name(cell: str) -> str:
    """A cell or average as the header of a column, e.g. ``la``, ``avg``."""
    return {"avg_missing": "avg", "avg_intra": "mean"}.get(cell, cell.removeprefix("inter/"))


def _words(metric: MetricSpec, change: Change | None) -> list[str]:
    return ["-", "-", "-"] if change is None else words_of(metric, change)


def words_of(metric: MetricSpec, change: Change) -> list[str]:
    """Both numbers with their marks, and the difference with its interval and a star where that leaves out 0."""
    values = [
        metric.format(entry.mean)
        + (f"{DAGGER}{entry.n_collapsed}" if entry.n_collapsed else "")
        + PILCROW * entry.unseen
        for entry in (change.before, change.after)
    ]
    word = metric.signed(change.difference)
    if change.interval is not None:
        low, high = (metric.signed(bound) for bound in change.interval)
        word += f" [{low}, {high}]{'*' if change.is_shown else ''}"
    return [*values, word]


def _csv_lines(part: RegimeChanges) -> list[tuple[Row, list[str]]]:
    table = part.chosen.table
    lines = []
    for method in part.methods:
        for cell, change in method.changes.items():
            low, high = change.interval or (math.nan, math.nan)
            numbers = (change.before.mean, change.after.mean, change.difference, low, high)
            about = [table.dataset, table.protocol["revision"], table.protocol["features"]]
            about += [method.row.method, method.row.variant, method.row.fidelity, table.metric.key, cell]
            counts = (*method.seeds, change.before.n_collapsed, change.after.n_collapsed)
            values = ["" if math.isnan(number) else repr(float(number)) for number in numbers]
            lines.append((method.row, [*about, part.before, part.after, *values, *map(str, counts)]))
    return lines

"""``msabench specialists``: one model for all conditions against one model per condition. Free of torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msabench.errors import MSABenchError, one_of
from msabench.results.aggregate import DRAWS, LEVEL
from msabench.results.places import store_to_read
from msabench.tables.marks import FIDELITIES, UNSEEN
from msabench.tables.render import DAGGER, PILCROW, grid_csv, grid_markdown, grid_text

if TYPE_CHECKING:
    from msabench.results.chosen_rows import ChosenRows
    from msabench.results.regime_changes import Change
    from msabench.results.specialists import Versus

FORMATS = ("text", "markdown", "csv")

_CSV_HEADER = (
    *("dataset", "revision", "features", "method", "variant", "fidelity", "metric", "home", "regime"),
    *("value_specialist", "value_one", "difference", "low", "high"),
    *("n_seeds_specialist", "n_seeds_one", "n_collapsed_specialist", "n_collapsed_one"),
)


def specialists(
    datasets: list[str] | None = None,
    metric: str | None = None,
    methods: list[str] | None = None,
    variants: list[str] | None = None,
    against: str | None = None,
    store: Path | None = None,
    committed: bool = False,
    format: Literal["text", "markdown", "csv"] = "text",
) -> str:
    """Show one model for all conditions beside one model per condition, each in the condition it was trained for.

    Args:
        datasets: Corpora; all in the store if not given.
        metric: Metric key, e.g. corr; each corpus's usual one if not given.
        methods: Methods; all if not given.
        variants: Variants; only default if not given.
        against: Regime of the models for all, as tables print it, e.g. mixed; every one that has specialists beside
            it if not given.
        store: Folder of the result store; runs/store, or what MSABENCH_STORE names, if not given.
        committed: Read the records in git, leaderboard/results, instead.
        format: How to print; csv is unrounded.

    Returns:
        The text to print.

    Raises:
        MSABenchError: A name is unknown, or no method has specialists beside a model for all.
    """
    if format not in FORMATS:
        raise one_of("format", format, FORMATS)
    from msabench.results.chosen_rows import choose_rows
    from msabench.results.specialists import HOMES, versus
    from msabench.results.stored_intervals import read_intervals

    place = store_to_read(store, committed)
    found = []
    for chosen in choose_rows(place, datasets, methods, metric, variants, grid=HOMES):
        rows = versus(chosen, read_intervals(place, chosen.table.dataset), against, place)
        if rows:
            found.append((chosen, rows))
    if not found:
        beside = f" beside {against!r}" if against else ""
        raise MSABenchError(
            f"no method in {place} has specialists{beside}; train some under regimes such as only(la) or random(0.3), "
            "e.g. `msabench run --suite specialists_smoke`"
        )
    if format == "csv":
        for line in dict.fromkeys(line for chosen, _ in found for line in chosen.table.warnings):
            print(line, file=sys.stderr)
        return grid_csv([list(_CSV_HEADER), *(line for chosen, rows in found for line in _csv_lines(chosen, rows))])
    return "\n\n".join(section(chosen, rows, markdown=format == "markdown") for chosen, rows in found)


def section(chosen: ChosenRows, rows: Sequence[Versus], *, markdown: bool) -> str:
    """One table with its heading and legend.

    Args:
        chosen: The table that the rows are of.
        rows: The comparisons.
        markdown: Whether to print markdown.
    """
    table = chosen.table
    title = f"{table.heading}: one model for all conditions against one per condition"
    head = [f"### {title}", "", f"{table.protocol_text}."] if markdown else [title, f"{table.protocol_text}."]
    if table.caveat:
        head += ["", f"**{table.caveat}**"] if markdown else [table.caveat]
    print_grid = grid_markdown if markdown else grid_text
    items = [f"- {line}" if markdown else line for line in legend(chosen, rows)]
    return "\n".join([*head, "", print_grid(grid(chosen, rows)), "", *items])


def grid(chosen: ChosenRows, rows: Sequence[Versus]) -> list[list[str]]:
    """Header and one line per method and home cell.

    Args:
        chosen: The table that the rows are of.
        rows: The comparisons.
    """
    lines = [["method", "fidelity", "condition", "specialist", "one for all", "trained under", "difference", "seeds"]]
    metric = chosen.table.metric
    for found in rows:
        for home, change in found.homes.items():
            name = "avg" if home == "avg_missing" else home.removeprefix("inter/")
            seeds = " and ".join(map(str, dict.fromkeys((change.before.n_seeds, found.seeds))))
            before, after = (_value(chosen, change, number) for number in ("before", "after"))
            difference = metric.signed(change.difference) + _interval(chosen, change)
            lines.append(
                [found.row.label, found.row.fidelity, name, before, after, found.row.regime, difference, seeds]
            )
    return lines


def legend(chosen: ChosenRows, rows: Sequence[Versus]) -> list[str]:
    """Sentences below the table.

    Args:
        chosen: The table that the rows are of.
        rows: The comparisons.
    """
    metric = chosen.table.metric
    changes = [change for found in rows for change in found.homes.values()]
    conditions = [change for change in changes if change.cell != "avg_missing"]
    better = "more" if metric.direction == "max" else "less"
    sign = 1 if metric.direction == "max" else -1
    wins = sum(change.is_shown and sign * change.difference > 0 for change in conditions)
    losses = sum(change.is_shown and sign * change.difference < 0 for change in conditions)
    lines = [
        "specialist = trained under this condition alone and tested in it; one for all = one model of the same "
        "method, trained under the regime beside it, tested in the same condition.",
        f"difference = one for all minus specialist{' in percent points' if metric.percent else ''}, {better} is "
        f"better, with its {LEVEL} % interval: paired bootstrap over test clips and training seeds, {DRAWS} resamples; "
        "* = it leaves out 0.",
        f"Of {len(conditions)} comparisons by condition, one for all is better in {wins}, the specialist in {losses}, "
        f"and {len(conditions) - wins - losses} leave it open. Intervals are not corrected for their number.",
    ]
    if any(change.cell == "avg_missing" for change in changes):
        lines.append("avg = mean over the six missing conditions: six specialists, each at home, against one model.")
    if any("/0.7" in change.cell and change.cell.startswith("random") for change in changes):
        lines.append("random/0.7 and random-table/0.7 realise 2/3: every clip keeps exactly one modality.")
    if any(change.before.n_collapsed or change.after.n_collapsed for change in changes):
        lines.append("†n = predictions collapsed into one class under n training seeds, see `msabench table`.")
    if any(change.before.unseen or change.after.unseen for change in changes):
        lines.append(f"{PILCROW} = {UNSEEN}.")
    if any(change.interval is None for change in changes):
        lines.append("No interval: the predictions that it is made of are not here.")
    held = {found.row.fidelity for found in rows}
    lines += [f"{meaning}." for name, meaning in FIDELITIES.items() if name in held]
    return [*lines, *chosen.table.warnings]


def _value(chosen: ChosenRows, change: Change, which: str) -> str:
    entry = change.before if which == "before" else change.after
    collapsed = f"{DAGGER}{entry.n_collapsed}" if entry.n_collapsed else ""
    return chosen.table.metric.format(entry.mean) + collapsed + PILCROW * entry.unseen


def _interval(chosen: ChosenRows, change: Change) -> str:
    if change.interval is None:
        return ""
    low, high = (chosen.table.metric.signed(bound) for bound in change.interval)
    return f" [{low}, {high}]{'*' if change.is_shown else ''}"


def _csv_lines(chosen: ChosenRows, rows: Sequence[Versus]) -> list[list[str]]:
    table = chosen.table
    lines = []
    for found in rows:
        for home, change in found.homes.items():
            low, high = change.interval or (math.nan, math.nan)
            numbers = (change.before.mean, change.after.mean, change.difference, low, high)
            about = [table.dataset, table.protocol["revision"], table.protocol["features"], found.row.method]
            about += [found.row.variant, found.row.fidelity, table.metric.key, home, found.row.regime]
            values = ["" if math.isnan(number) else repr(float(number)) for number in numbers]
            counts = (change.before.n_seeds, found.seeds, change.before.n_collapsed, change.after.n_collapsed)
            lines.append([*about, *values, *map(str, counts)])
    return lines

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
from msabench.tables.marks import with_tuning
from msabench.tables.regimes import FORMATS, laid_out, marks_of, said_of_tuning, words_of
from msabench.tables.render import grid_csv

if TYPE_CHECKING:
    from msabench.results.chosen_rows import ChosenRows
    from msabench.results.specialists import Versus
    from msabench.results.table import Row

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
    revision: list[str] | None = None,
    tuning: Literal["default", "tuned", "all"] | None = None,
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
        revision: Revisions of the data, as tables print them; all if not given.
        tuning: Rows of default settings, of tuned ones, or all; default ones if not given, tuned ones where there are
            only these.

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
    for chosen in choose_rows(place, datasets, methods, metric, variants, grid=HOMES, revision=revision, tuning=tuning):
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
        return grid_csv(with_tuning(_CSV_HEADER, (line for chosen, rows in found for line in _csv_lines(chosen, rows))))
    return "\n\n".join(section(chosen, rows, markdown=format == "markdown") for chosen, rows in found)


def section(chosen: ChosenRows, rows: Sequence[Versus], *, markdown: bool) -> str:
    """One table with its heading and legend.

    Args:
        chosen: The table that the rows are of.
        rows: The comparisons.
        markdown: Whether to print markdown.
    """
    title = f"{chosen.table.heading}: one model for all conditions against one per condition"
    return laid_out(chosen, title, grid(chosen, rows), legend(chosen, rows), markdown=markdown)


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
            before, after, difference = words_of(metric, change)
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
    lines += marks_of(changes, {found.row.fidelity for found in rows})
    return [*lines, *said_of_tuning(chosen.table), *chosen.table.warnings]


def _csv_lines(chosen: ChosenRows, rows: Sequence[Versus]) -> list[tuple[Row, list[str]]]:
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
            lines.append((found.row, [*about, *values, *map(str, counts)]))
    return lines

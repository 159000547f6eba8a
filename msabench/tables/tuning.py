"""``msabench tuning``: what tuned settings change, method by method, and what it took to find them. Free of torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msabench.errors import MSABenchError, one_of
from msabench.missingness.named import naming
from msabench.results.aggregate import DRAWS, LEVEL
from msabench.results.places import store_to_read
from msabench.results.table import AVERAGE_MEANINGS
from msabench.tables.regimes import CELLS, FORMATS, laid_out, marks_of, short_name, words_of
from msabench.tables.render import grid_csv

if TYPE_CHECKING:
    from msabench.results.record import JobRecord
    from msabench.results.records import Records
    from msabench.results.study import Study
    from msabench.results.tuning_changes import Spent, TuningChanges

_CSV_HEADER = (
    *(
        "dataset",
        "revision",
        "features",
        "method",
        "variant",
        "regime",
        "fidelity",
        "tuning",
        "study",
        "metric",
        "cell",
    ),
    *("value_default", "value_tuned", "change", "low", "high"),
    *("n_seeds_default", "n_seeds_tuned", "n_collapsed_default", "n_collapsed_tuned"),
    *("trials", "failed", "pruned", "seconds", "processor_seconds", "winner"),
)


@naming()
def tuning(
    datasets: list[str] | None = None,
    metric: str | None = None,
    methods: list[str] | None = None,
    variants: list[str] | None = None,
    cells: list[str] = list(CELLS),  # noqa: B006  the command line shows the default
    store: Path | None = None,
    committed: bool = False,
    format: Literal["text", "markdown", "csv"] = "text",
) -> str:
    """Show what tuned settings change, each method beside itself with the settings of its config, and what was spent.

    Args:
        datasets: Corpora; all in the store if not given.
        metric: Metric key, e.g. corr; each corpus's usual one if not given.
        methods: Methods; all that were tuned if not given.
        variants: Variants; only default if not given.
        cells: Averages ({averages}),
            grids ({grids})
            and cells. Methods are ordered by their gain in the last one.
        store: Folder of the result store; runs/store, or what MSABENCH_STORE names, if not given.
        committed: Read the records in git, leaderboard/results, instead.
        format: How to print; csv is unrounded.

    Returns:
        The text to print.

    Raises:
        MSABenchError: A name is unknown, a study is damaged, or no method has records of both settings.
    """
    if format not in FORMATS:
        raise one_of("format", format, FORMATS)
    from msabench.results.chosen_rows import cells_of
    from msabench.results.store import ResultStore

    wanted = cells_of(cells)
    place = store_to_read(store, committed)
    results = ResultStore(place)
    records = results.records(), results.failures()
    found = _changes(place, records, datasets, metric, methods, variants, wanted, place)
    left_out = [sentence for part in found for sentence in part.left_out]
    found = [part for part in found if part.methods]
    if not found:
        said = f"; there are {'; '.join(left_out)}" if left_out else ""
        raise MSABenchError(f"no method in {place} has records both of tuned settings and of its config's{said}")
    if format == "csv":
        # Sentences inside would no longer be CSV.
        warnings = [line for part in found for line in part.chosen.table.warnings]
        for line in dict.fromkeys([*(f"left out: {sentence}" for sentence in left_out), *warnings]):
            print(line, file=sys.stderr)
        return grid_csv([list(_CSV_HEADER), *(line for part in found for line in _csv_lines(part))])
    return "\n\n".join(section(part, wanted, markdown=format == "markdown") for part in found)


def kept_tuning(
    store: Path, dataset: str, records: tuple[Records, list[JobRecord]], beside: Sequence[str] = ()
) -> list[TuningChanges]:
    """What tuned settings change on a corpus, by records, studies and stored intervals alone.

    Args:
        store: Folder of the result store.
        dataset: The corpus.
        records: ``records()`` and ``failures()`` of the store.
        beside: Metric keys besides the corpus's usual one; those that it has not are left out.

    Returns:
        One entry for each metric and protocol that has methods with both settings.

    Raises:
        MSABenchError: A record, study or interval file is malformed.
    """
    from msabench.results.build import metrics_in

    held, failures = records
    here = held.of(dataset=dataset)
    if not any(job["tuning"] and job["variant"] == "default" for job in here.jobs):
        return []
    keys = metrics_in(here, dataset)
    found = [
        part
        for metric in (None, *(key for key in beside if key in keys))
        for part in _changes(store, (here, failures), [dataset], metric, None, None, CELLS, None)
    ]
    return [part for part in found if part.methods]


def _changes(
    store: Path,
    records: tuple[Records, list[JobRecord]],
    datasets: list[str] | None,
    metric: str | None,
    methods: list[str] | None,
    variants: list[str] | None,
    cells: Sequence[str],
    predictions: Path | None,
) -> list[TuningChanges]:
    """What tuned settings change, table by table; bounds that are not kept are made of ``predictions``."""
    from msabench.results.chosen_rows import choose_rows, grid_of
    from msabench.results.stored_intervals import read_intervals
    from msabench.results.study import studies
    from msabench.results.tuning_changes import tuning_changes

    held = records[0]
    tuned = sorted({job["method"] for job in held.jobs if job["tuning"]})
    known = {study.study_id: study for study in studies(store)}
    study_of = {job["job_id"]: job["study"] for job in held.jobs}
    chosen_tables = choose_rows(
        store, datasets, methods or tuned or None, metric, variants, records=records, grid=grid_of(cells), tuning="all"
    )
    return [
        tuning_changes(chosen, cells, known, study_of, read_intervals(store, chosen.table.dataset), predictions)
        for chosen in chosen_tables
    ]


def section(part: TuningChanges, cells: Sequence[str], *, markdown: bool) -> str:
    """One table with its heading and legend, as text or markdown.

    Args:
        part: The changes.
        cells: Cells to show, in order.
        markdown: Whether to print markdown.
    """
    return laid_out(part.chosen, heading(part), grid(part, cells), legend(part, cells), markdown=markdown)


def heading(part: TuningChanges) -> str:
    """Corpus and metric."""
    return f"{part.chosen.table.heading}: settings of the config and tuned ones"


def grid(part: TuningChanges, cells: Sequence[str]) -> list[list[str]]:
    """Header and one line per method: three columns for each cell, then what was spent.

    Args:
        part: The changes.
        cells: Cells to show, in order.
    """
    from msabench.results.tuning_changes import Spent

    metric = part.chosen.table.metric
    words = [word for cell in map(short_name, cells) for word in (f"{cell}: default", "tuned", "change")]
    lines = [["method", "regime", "fidelity", "seeds", *words, "trials", "seconds", "processor", "winner"]]
    for method, study in part.methods:
        seeds = " and ".join(map(str, dict.fromkeys(method.seeds)))
        line = [method.row.label, method.row.regime, method.row.fidelity, seeds]
        for cell in cells:
            change = method.changes.get(cell)
            line += ["-", "-", "-"] if change is None else words_of(metric, change)
        lines.append([*line, *spent_words(Spent.of(study)), f"trial {study.best.number}"])
    return lines


def spent_words(spent: Spent) -> list[str]:
    """Trials, seconds, and seconds of the processor, as tables print them."""
    notes = [f"{count} {what}" for what, count in (("failed", spent.failed), ("pruned", spent.pruned)) if count]
    trials = f"{spent.trials} ({', '.join(notes)})" if notes else str(spent.trials)
    return [
        trials,
        f"{spent.seconds:.0f}",
        "-" if spent.processor_seconds is None else f"{spent.processor_seconds:.0f}",
    ]


def legend(part: TuningChanges, cells: Sequence[str]) -> list[str]:
    """Sentences below the table.

    Args:
        part: The changes.
        cells: Cells shown.
    """
    metric = part.chosen.table.metric
    methods = [method for method, _ in part.methods]
    changes = [method.changes[cell] for method in methods for cell in cells if cell in method.changes]
    shown = [method for method in methods if (last := method.changes.get(cells[-1])) and last.is_shown]
    better = "more" if metric.direction == "max" else "less"
    lines = [
        f"change = tuned minus default{' in percent points' if metric.percent else ''}, {better} is better, with its "
        f"{LEVEL} % interval: paired bootstrap over test clips and training seeds, {DRAWS} resamples; * = it leaves "
        "out 0.",
        f"Of {len(methods)} rows, the change in {short_name(cells[-1])} leaves out 0 for {len(shown)}"
        f"{': ' if shown else ''}{', '.join(method.row.label for method in shown)}. Intervals are not corrected for "
        "their number; `msabench compare --tuning all` corrects.",
        "Settings were selected by the lowest val/task on the validation split, and trained anew under fresh seeds. "
        "trials and seconds = what the study spent, failed and pruned trials included; processor = seconds of the "
        "processor, of trials that did not fail. Trial 0 has the settings of the config.",
    ]
    lines += [settings_words(method.row.label, study) for method, study in part.methods]
    lines += [f"{AVERAGE_MEANINGS[cell]}." for cell in cells if cell in AVERAGE_MEANINGS]
    lines += marks_of(changes, {method.row.fidelity for method in methods})
    if part.left_out:
        lines.append(f"Set beside nothing: {'; '.join(part.left_out)}.")
    return [*lines, *part.chosen.table.warnings]


def settings_words(label: str, study: Study) -> str:
    """What a study selected, with the config's value where it differs; a sentence.

    Args:
        label: What the row is called.
        study: The study.
    """
    from msabench.results.study_settings import chosen_settings

    words = [
        f"{key.removeprefix('model.init_args.')} {plain(value)}" + (f" ({plain(given)})" if value != given else "")
        for key, value, given in chosen_settings(study)
    ]
    return f"{label}, study {study.study_id}, trial {study.best.number}: {', '.join(words)} (in brackets the config's)."


def plain(value: Any) -> str:
    """The value of a setting, as tables print it."""
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _csv_lines(part: TuningChanges) -> list[list[str]]:
    from msabench.results.tuning_changes import Spent

    table = part.chosen.table
    lines = []
    for method, study in part.methods:
        row, spent = method.row, Spent.of(study)
        about = [table.dataset, table.protocol["revision"], table.protocol["features"], row.method, row.variant]
        about += [row.regime, row.fidelity, row.tuning, study.study_id, table.metric.key]
        costs = [spent.trials, spent.failed, spent.pruned, spent.seconds, spent.processor_seconds]
        end = ["" if cost is None else repr(cost) for cost in (*costs, study.best.number)]
        for cell, change in method.changes.items():
            low, high = change.interval or (math.nan, math.nan)
            numbers = (change.before.mean, change.after.mean, change.difference, low, high)
            values = ["" if math.isnan(number) else repr(float(number)) for number in numbers]
            counts = (*method.seeds, change.before.n_collapsed, change.after.n_collapsed)
            lines.append([*about, cell, *values, *map(str, counts), *end])
    return lines

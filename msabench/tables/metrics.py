"""``msabench metrics``: metrics recomputed from stored predictions, beside what is recorded. Free of torch."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msabench.errors import MSABenchError, one_of, printable
from msabench.metrics.spec import METRICS, metric_keys, metric_spec
from msabench.missingness.conditions import parse_grid
from msabench.missingness.named import naming
from msabench.results.places import no_records, store_to_read
from msabench.results.store import ResultStore
from msabench.tables.render import grid_csv, grid_text

if TYPE_CHECKING:
    from msabench.results.record import JobKey
    from msabench.results.record_file import RecordFile

FORMATS = ("text", "csv")
HEADER = (
    *("dataset", "method", "variant", "regime", "seed", "job_id"),
    *("cell", "mask_seed", "metric", "value", "recorded", "difference"),
)
"""Columns of the CSV."""

_DIFFERS = "*"

_MOST_NAMED = 12
"""Rows of jobs without predictions that are named; the others are counted."""


@dataclass(frozen=True)
class Recomputed:
    """One metric in one cell of one job, under one mask seed.

    Attributes:
        key: The job's key.
        cell: Cell name.
        mask_seed: Seed of the masks; None for cells without random masks.
        metric: Metric key.
        value: What the predictions give; None if it is undefined.
        recorded: What the record says; None if it is undefined there, or not in it.
        in_record: Whether the record has it.
        in_predictions: Whether the predictions have the cell under this seed.
    """

    key: JobKey
    cell: str
    mask_seed: int | None
    metric: str
    value: float | None
    recorded: float | None
    in_record: bool = True
    in_predictions: bool = True

    @property
    def differs(self) -> bool:
        """Whether the record says something else; what it does not say differs from nothing."""
        return self.in_record and (not self.in_predictions or self.value != self.recorded)

    @property
    def difference(self) -> float | None:
        """The value minus the recorded one; None if either is undefined."""
        return None if self.value is None or self.recorded is None else self.value - self.recorded


@naming()
def metrics(
    datasets: list[str] | None = None,
    methods: list[str] | None = None,
    variants: list[str] | None = None,
    metric: list[str] | None = None,
    cells: list[str] | None = None,
    format: Literal["text", "csv"] = "text",
    store: Path | None = None,
    committed: bool = False,
) -> int:
    """Recompute metrics from stored predictions, and compare them with the records.

    Args:
        datasets: Corpora; all in the store if not given.
        methods: Methods; all in the store if not given.
        variants: Variants; all in the store if not given.
        metric: Metric keys, e.g. corr; all of each corpus's metric set if not given.
        cells: Grids ({grids})
            and cells, e.g. inter/la; all that are there if not given.
        format: How to print; csv is unrounded.
        store: Folder of the result store; runs/store, or what MSABENCH_STORE names, if not given.
        committed: Read the records in git, leaderboard/results, instead.

    Returns:
        Exit code: 1 if a value is another one than its record says, else 0.

    Raises:
        MSABenchError: A name is unknown, the store has no such records, no predictions of them are here, or a record
            or a file of predictions is damaged.
    """
    if format not in FORMATS:
        raise one_of("format", format, FORMATS)
    for key in metric or ():
        metric_spec(key)
    place = store_to_read(store, committed)
    files = _chosen(place, {"dataset": datasets, "method": methods, "variant": variants})
    for key in metric or ():
        if not any(key in metric_keys(file.metric_set) for file in files):
            metric_spec(key, files[0].metric_set)
    wanted = _cells(place, cells, files)
    found: list[Recomputed] = []
    missing: list[JobKey] = []
    n_jobs = 0
    for file in files:
        keys = [key for key in metric_keys(file.metric_set) if metric is None or key in metric]
        # Another corpus's metrics were asked for.
        if not keys:
            continue
        values = recomputed(place, file, keys, wanted)
        if values is None:
            missing.append(file.job.key)
        else:
            n_jobs += 1
            found += values
    if not n_jobs:
        raise MSABenchError(_without_predictions(place, missing))
    differing = [item for item in found if item.differs]
    if format == "csv":
        print(printable(grid_csv([list(HEADER), *map(_csv_line, found)])))
    else:
        legend = [f"{_DIFFERS} = another value than the record's."] if differing else []
        for part in (*_sections(found), *legend):
            print(printable(part), end="\n\n")
    said = [_summary(found, n_jobs), *(f"- {_difference(item)}" for item in differing)]
    if missing:
        said.append(_without_predictions(place, missing))
    # Sentences inside would no longer be CSV.
    print(printable("\n".join(said)), file=sys.stderr if format == "csv" else sys.stdout)
    return 1 if differing else 0


def recomputed(
    store: Path, file: RecordFile, keys: Sequence[str], cells: set[str] | None = None
) -> list[Recomputed] | None:
    """Recompute one finished job's metrics from its predictions.

    Args:
        store: Folder of the result store.
        file: The job's record.
        keys: Metric keys.
        cells: Names of cells; None takes all.

    Returns:
        Every metric of every (cell, mask seed) in the record, in its order, then of those that it does not have; None
        if the store has no predictions of the job.

    Raises:
        MSABenchError: The file of predictions is damaged.
    """
    from msabench.results import predictions

    job = file.job.key
    path = predictions.path_of(store, job)
    if not path.is_file():
        return None
    there = predictions.metrics_from_predictions(path, file.metric_set)
    recorded = {(cell.cell, cell.mask_seed): cell.metrics for cell in file.cells}
    return [
        Recomputed(
            job,
            *place,
            key,
            there[place][key] if place in there else None,
            recorded.get(place, {}).get(key),
            in_record=key in recorded.get(place, {}),
            in_predictions=place in there,
        )
        for place in dict.fromkeys([*recorded, *there])
        if cells is None or place[0] in cells
        for key in keys
        if place in there or key in recorded[place]
    ]


def _chosen(place: Path, wanted: dict[str, list[str] | None]) -> list[RecordFile]:
    """The finished jobs of a store that were asked for; refuses names that none has."""
    files = []
    for _, file in ResultStore(place).files():
        if isinstance(file, MSABenchError):
            raise file
        if file.job.status == "ok":
            files.append(file)
    if not files:
        raise no_records(place)
    for name, values in wanted.items():
        there = sorted({getattr(file.job.key, name) for file in files})
        for value in values or ():
            if value not in there:
                raise one_of(f"{name} in {place}", value, there)
        files = [file for file in files if values is None or getattr(file.job.key, name) in values]
    return files


def _cells(place: Path, asked: Sequence[str] | None, files: Iterable[RecordFile]) -> set[str] | None:
    """Names of the cells of grids and cells; each must be recorded, of a grid at least one."""
    if asked is None:
        return None
    held = list(dict.fromkeys(cell.cell for file in files for cell in file.cells))
    found: set[str] = set()
    for name in asked:
        cells = set(map(str, parse_grid(name)))
        if cells.isdisjoint(held):
            raise one_of(f"cell in {place}", name, held)
        found |= cells
    return found


def _sections(found: Sequence[Recomputed]) -> list[str]:
    """One table for each job: a line per (cell, mask seed), a column per metric."""
    by_job: dict[JobKey, list[Recomputed]] = defaultdict(list)
    for item in found:
        by_job[item.key].append(item)
    sections = []
    for key, items in by_job.items():
        columns = list(dict.fromkeys(item.metric for item in items))
        words = {(item.cell, item.mask_seed, item.metric): _word(item) for item in items}
        places = list(dict.fromkeys((item.cell, item.mask_seed) for item in items))
        grid = [["cell", "mask_seed", *columns]]
        grid += [
            [cell, _text(seed), *(words.get((cell, seed, name), "-") for name in columns)] for cell, seed in places
        ]
        sections.append(f"{_name(key)}, job {key.job_id}\n{grid_text(grid)}")
    return sections


def _word(item: Recomputed) -> str:
    """A value as tables print it, and whether its record says another."""
    spec = METRICS[item.metric]
    if not item.in_predictions:
        return f"none{_DIFFERS}"
    return spec.format(float("nan") if item.value is None else item.value) + _DIFFERS * item.differs


def _csv_line(item: Recomputed) -> list[str]:
    key = item.key
    about = (key.dataset, key.method, key.variant, key.regime, key.seed, key.job_id)
    return [
        *map(str, about),
        item.cell,
        _text(item.mask_seed, ""),
        item.metric,
        *(_text(number, "") for number in (item.value, item.recorded, item.difference)),
    ]


def _text(value: float | int | None, none: str = "-") -> str:
    return none if value is None else repr(value)


def _name(key: JobKey) -> str:
    variant = "" if key.variant == "default" else f"/{key.variant}"
    tuning = f" {key.tuning}" if key.tuning else ""
    return f"{key.dataset} {key.method}{variant}{tuning} ({key.regime}) seed {key.seed}"


def _summary(found: Sequence[Recomputed], n_jobs: int) -> str:
    n_values = sum(item.in_predictions for item in found)
    n_equal = sum(item.in_record and not item.differs for item in found)
    n_differing = sum(item.differs for item in found)
    n_new = sum(not item.in_record for item in found)
    new = f", {n_new} stand in no record" if n_new else ""
    return (
        f"{n_values} values recomputed from the predictions of {n_jobs} job{'s' * (n_jobs != 1)}: {n_equal} equal the "
        f"record exactly{new}, {n_differing} {'differs' if n_differing == 1 else 'differ'}"
        f"{':' if n_differing else '.'}"
    )


def _difference(item: Recomputed) -> str:
    masks = "" if item.mask_seed is None else f", masks {item.mask_seed}"
    value = _text(item.value, "undefined") if item.in_predictions else "not among the predictions"
    return (
        f"{_name(item.key)}, job {item.key.job_id}, {item.cell}{masks}, {item.metric}: {value}; recorded is "
        f"{_text(item.recorded, 'undefined')}"
    )


def _without_predictions(place: Path, missing: Sequence[JobKey]) -> str:
    """How many jobs have no predictions here, and which."""
    names: dict[str, list[int]] = defaultdict(list)
    for key in missing:
        names[_name(key).rpartition(" ")[0]].append(key.seed)
    shown = [f"{name} {', '.join(map(str, sorted(seeds)))}" for name, seeds in list(names.items())[:_MOST_NAMED]]
    if more := sum(map(len, list(names.values())[_MOST_NAMED:])):
        shown.append(f"and {more} more")
    have = "job has" if len(missing) == 1 else "jobs have"
    return (
        f"{len(missing)} {have} no predictions in {place}; predictions stay on the machine that made them: "
        f"{'; '.join(shown)}"
    )

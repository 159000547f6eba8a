"""Intervals kept beside the records. Free of torch.

Intervals are made of predictions, which hold labels and stay on the machine that made them. What is derived from them
is committed: ``<store>/<dataset>/intervals.csv``, one line per row of a table, metric and cell (averages and derived
columns among them, ``results.derived``), one per change from training on complete data to another regime, one per
change from default to tuned settings, and one per specialist beside a model for all conditions. A row is identified by
the jobs it is made of, the others by those of all their rows, so that an interval of other jobs is never shown.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from msabench.errors import MSABenchError, one_of
from msabench.files import write_text
from msabench.metrics.spec import METRICS, metric_keys
from msabench.missingness.conditions import AVERAGES, INTER
from msabench.results import predictions
from msabench.results.aggregate import DRAWS, jobs_by_row
from msabench.results.build import parts_of
from msabench.results.derived import DERIVED, derived, made_of
from msabench.results.intervals import intervals_by_metric
from msabench.results.places import PREDICTIONS
from msabench.results.regime_changes import COMPLETE, bounds_of_change, identity, pairs_of
from msabench.results.rows import RowKey, jobs_hash
from msabench.results.specialists import AVERAGE, bounds_at_home, groups_of, six_of
from msabench.results.store import ResultStore
from msabench.results.tuning_changes import tuned_pairs

FILENAME = "intervals.csv"
COLUMNS = ("jobs", "metric", "cell", "low", "high", "draws")
_HASH = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{16})?")

Interval = tuple[float, float]
Intervals = dict[tuple[str, str, str], Interval]
"""(identity of the jobs, metric, cell) -> lower and upper bound; NaN where a resample leaves the metric undefined.

The identity is ``rows.jobs_hash`` of a row, or ``regime_changes.identity`` of a change."""


def read_intervals(store: Path, dataset: str) -> Intervals:
    """Read a corpus's intervals; none if there is no file.

    Raises:
        MSABenchError: The file is malformed; names file and line.
    """
    path = store / dataset / FILENAME
    if not path.is_file():
        return {}
    found: Intervals = {}
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8")), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MSABenchError(f"{path} cannot be read as CSV: {error}") from error
    if not lines or tuple(lines[0]) != COLUMNS:
        raise MSABenchError(f"{path} has the columns {', '.join(lines[0] if lines else [])}; need {', '.join(COLUMNS)}")
    for number, line in enumerate(lines[1:], start=2):
        key, interval = _read_line(f"{path} line {number}", line)
        if key in found:
            raise MSABenchError(f"{path} line {number} repeats {', '.join(key)}")
        found[key] = interval
    return found


def _read_line(where: str, line: list[str]) -> tuple[tuple[str, str, str], Interval]:
    if len(line) != len(COLUMNS):
        raise MSABenchError(f"{where} has {len(line)} fields; expected {len(COLUMNS)}")
    jobs, metric, cell, *bounds, draws = line
    if not _HASH.fullmatch(jobs) or metric not in METRICS or draws != str(DRAWS):
        raise MSABenchError(
            f"{where} has jobs {jobs!r}, metric {metric!r} and draws {draws!r}; expected 16 hex digits or two times "
            f"16, a metric key and {DRAWS}"
        )
    try:
        low, high = (float(bound) if bound else math.nan for bound in bounds)
    except ValueError as error:
        raise MSABenchError(f"{where} has bounds {bounds}; expected numbers or nothing") from error
    if low > high:
        raise MSABenchError(f"{where} has the lower bound {low} above the upper bound {high}")
    return (jobs, metric, cell), (low, high)


def update_intervals(store: ResultStore, datasets: Sequence[str] | None = None, anew: bool = False) -> list[str]:
    """Make the intervals that are lacking, and drop those whose jobs are no longer a row or a change.

    Rows that have some are given what they lack of metrics, cells, averages and derived columns; what they have stays
    as it is.

    Args:
        store: The store. What is made needs its predictions here; rows whose predictions are not stay as they are.
        datasets: Corpora; None takes all of the store.
        anew: Whether to make those that are there anew as well.

    Returns:
        One sentence per corpus.

    Raises:
        MSABenchError: A corpus has no records, or a file is malformed.
    """
    records = store.records()
    held = sorted(records.held("dataset"))
    for name in datasets or ():
        if name not in held:
            raise one_of(f"dataset in {store.folder}", name, held)
    lines = []
    for name in held:
        if datasets is None or name in datasets:
            rows = {metric_set: jobs_by_row(part) for metric_set, part in parts_of(records, name).items()}
            known = {} if anew else read_intervals(store.folder, name)
            lines.append(_update(store.folder, name, rows, known))
    return lines


def _update(store: Path, dataset: str, by_set: dict[str, dict[RowKey, dict[int, str]]], there: Intervals) -> str:
    known: dict[str, Intervals] = {}
    for key, interval in there.items():
        known.setdefault(key[0], {})[key] = interval
    files = _prediction_files(store, dataset)
    # The same jobs may be a change of regime and, where they see one condition alone, specialist and model for all.
    makers: dict[str, tuple[list[str], list[Callable[[], Intervals]]]] = {}
    of_rows: dict[str, str] = {}
    for metric_set, by_row in by_set.items():
        rows = list(by_row.values())
        for jobs in rows:
            name, job_ids = jobs_hash(jobs.values()), list(jobs.values())
            makers[name] = job_ids, [partial(_intervals_of, name, job_ids, files, metric_set)]
            of_rows[name] = metric_set
        for after, before in ((rows[one], rows[other]) for one, other in pairs_of(list(by_row), COMPLETE)):
            name = identity(list(after.values()), list(before.values()))
            job_ids = [*after.values(), *before.values()]
            makers[name] = job_ids, [partial(_change_of, name, after, before, files, metric_set)]
        for after, before in ((rows[one], rows[other]) for one, other in tuned_pairs(list(by_row))):
            name = identity(list(after.values()), list(before.values()))
            change = partial(_change_of, name, after, before, files, metric_set)
            makers.setdefault(name, ([*after.values(), *before.values()], [change]))
        for place, homes in groups_of(list(by_row)):
            for group in filter(None, [*({home: homes[home]} for home in homes), six_of(homes, rows)]):
                specialists = {home: rows[other] for home, other in group.items()}
                job_ids = [job_id for by_seed in specialists.values() for job_id in by_seed.values()]
                name = identity(list(rows[place].values()), job_ids)
                versus = partial(_versus, name, rows[place], specialists, files, metric_set)
                makers.setdefault(name, ([*rows[place].values(), *job_ids], []))[1].append(versus)
    kept: dict[str, Intervals] = {}
    made = completed = added = lacking = incomplete = 0
    for name, (job_ids, made_by) in makers.items():
        if name in known:
            kept[name] = known[name]
            if name not in of_rows:
                continue
            if not all(job_id in files for job_id in job_ids):
                incomplete += 1
                continue
            kept[name] = _completed(known[name], [files[job_id] for job_id in job_ids], of_rows[name])
            completed += len(kept[name]) > len(known[name])
            added += len(kept[name]) - len(known[name])
        elif all(job_id in files for job_id in job_ids):
            # Nothing, where a specialist was not evaluated at home.
            if found := {key: interval for make in made_by for key, interval in make().items()}:
                kept[name] = found
                made += 1
        else:
            lacking += 1
    _write(store / dataset / FILENAME, kept)
    absent = f"; the predictions of {lacking} are not here, which stay without" if lacking else ""
    more = f", {added} added to {completed} that had some" if completed else ""
    had = f"{len(kept)} of {len(makers)} rows and changes of regime have intervals, {made} new{more}"
    as_was = f"; the predictions of {incomplete} rows are not here, which stay as they were" if incomplete else ""
    return f"{dataset}: {had}{absent}{as_was}"


def _prediction_files(store: Path, dataset: str) -> dict[str, Path]:
    return {path.stem: path for path in (store / PREDICTIONS / dataset).glob("*/*.parquet")}


def _intervals_of(name: str, job_ids: list[str], files: dict[str, Path], metric_set: str) -> Intervals:
    mine = [files[job_id] for job_id in job_ids]
    cells = dict.fromkeys(entry.cell for path in mine for entry in predictions.read(path))
    wanted = {key: [*cells, *AVERAGES, *DERIVED] for key in metric_keys(metric_set)}
    return {
        (name, metric, cell): interval
        for metric, by_cell in intervals_by_metric(mine, metric_set, wanted).items()
        for cell, interval in by_cell.items()
    }


def _completed(known: Intervals, files: list[Path], metric_set: str) -> Intervals:
    """A row's intervals with those that it lacks, as rows do that were made before a metric, a cell or a quantity was.

    What is there stays as it is.
    """
    name = next(iter(known))[0]
    in_each = [dict.fromkeys(entry.cell for entry in predictions.read(path)) for path in files]
    cells = [cell for cell in in_each[0] if all(cell in held for held in in_each)]
    possible = [cell for cell in (*cells, *AVERAGES, *DERIVED) if set(made_of(cell)) <= set(cells)]
    lacking: dict[str, list[str]] = {}
    for metric in metric_keys(metric_set):
        defined = [cell for cell in possible if (found := derived(cell)) is None or found.applies(METRICS[metric])]
        if absent := [cell for cell in defined if (name, metric, cell) not in known]:
            lacking[metric] = absent
    by_metric = intervals_by_metric(files, metric_set, lacking) if lacking else {}
    completed: Intervals = {}
    for metric in metric_keys(metric_set):
        here = {cell: bounds for (_, key, cell), bounds in known.items() if key == metric}
        made = by_metric.get(metric, {})
        order = dict.fromkeys([*(possible if made else ()), *here])
        completed |= {(name, metric, cell): (here | made)[cell] for cell in order if cell in here or cell in made}
    return completed


def _change_of(
    name: str, after: dict[int, str], before: dict[int, str], files: dict[str, Path], metric_set: str
) -> Intervals:
    ours, theirs = ({seed: files[job_id] for seed, job_id in jobs.items()} for jobs in (after, before))
    cells = [*map(str, INTER), *AVERAGES]
    return {
        (name, metric, cell): interval
        for metric in metric_keys(metric_set)
        for cell, interval in bounds_of_change(ours, theirs, metric_set, metric, cells).items()
    }


def _versus(
    name: str,
    one: dict[int, str],
    specialists: dict[str, dict[int, str]],
    files: dict[str, Path],
    metric_set: str,
) -> Intervals:
    ours = {seed: files[job_id] for seed, job_id in one.items()}
    theirs = {home: {seed: files[job_id] for seed, job_id in jobs.items()} for home, jobs in specialists.items()}
    if not all(_have(home, [*ours.values(), *jobs.values()]) for home, jobs in theirs.items()):
        return {}
    cell = next(iter(theirs)) if len(theirs) == 1 else AVERAGE
    return {
        (name, metric, cell): bounds_at_home(ours, theirs, metric_set, metric)[1] for metric in metric_keys(metric_set)
    }


def _have(cell: str, files: Sequence[Path]) -> bool:
    return all(any(entry.cell == cell for entry in predictions.read(path)) for path in files)


def _write(path: Path, rows: dict[str, Intervals]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for jobs in sorted(rows):
        for key, bounds in rows[jobs].items():
            writer.writerow([*key, *("" if math.isnan(bound) else f"{bound:.4f}" for bound in bounds), DRAWS])
    write_text(path, out.getvalue())

"""From records to tables: which records share a table, which rows it has, what must be said below it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from msabench.data.info import METRIC_SETS, DatasetInfo
from msabench.data.registry import recorded_info
from msabench.errors import MSABenchError, one_of
from msabench.methods.info import EXTERNAL
from msabench.methods.registry import methods as registered
from msabench.metrics.spec import DEFAULT_METRIC, MetricSpec, metric_keys, metric_spec
from msabench.missingness.conditions import LETTERS, Cell
from msabench.results.aggregate import PROTOCOL, ROW, Line, inconsistencies, over_seeds
from msabench.results.derived import BLOCK, made_of
from msabench.results.places import predictions_file
from msabench.results.record import MANY_BLIND, SCORED, JobRecord
from msabench.results.records import Job, Records
from msabench.results.table import CONSTANT, Column, Entry, Row, Table, failures_in
from msabench.results.tuned import MEANING, Shown, Tuning, left_out_words


def dataset_facts(name: str) -> DatasetInfo:
    """Facts of a corpus; records of one that is not registered are shown under its bare name."""
    return recorded_info(name) or DatasetInfo(name=name, title=name, caveat="This corpus is not registered.")


def parts_of(records: Records, dataset: str) -> dict[str, Records]:
    """A corpus's records by metric set; users' own files under one name may differ in it.

    Args:
        records: Records as ``ResultStore.records`` gives them.
        dataset: Corpus name.

    Returns:
        Metric set -> its records, in the order of ``METRIC_SETS``, without those that have none.
    """
    here = records.of(dataset=dataset)
    parts = {name: here.of(metric_set=name) for name in METRIC_SETS}
    return {name: part for name, part in parts.items() if len(part)}


def metrics_in(records: Records, dataset: str) -> tuple[str, ...]:
    """Keys of the metrics that a corpus's records have; those of the corpus if there are none."""
    sets = list(parts_of(records, dataset)) or [dataset_facts(dataset).metric_set]
    return tuple(dict.fromkeys(key for name in sets for key in metric_keys(name)))


def default_metric(dataset: str, metric_set: str) -> str:
    """The metric that tables over a corpus show unless asked otherwise."""
    usual = dataset_facts(dataset).default_metric
    return usual if usual in metric_keys(metric_set) else DEFAULT_METRIC[metric_set]


def build_tables(
    records: Records,
    failures: Sequence[JobRecord],
    dataset: str,
    metric: str | None,
    columns: tuple[Column, ...],
    *,
    methods: Sequence[str] | None = None,
    keep_seeds: bool = False,
    predictions: Path | None = None,
    tuning: Tuning | None = "all",
) -> list[Table]:
    """Tables of one corpus: one for each metric set and protocol found in its records.

    Args:
        records: Records as ``ResultStore.records`` gives them.
        failures: Failed jobs, as ``ResultStore.failures`` gives them.
        dataset: Corpus name.
        metric: Metric key, which leaves out jobs without it; None takes the usual one of each metric set.
        columns: Columns; those of derived quantities make rows have these.
        methods: Methods to show, in this order, besides the constant baseline; None shows all.
        keep_seeds: Whether each training seed is a row of its own.
        predictions: The store whose predictions intervals are taken from; None for no intervals.
        tuning: Which rows to show, of default and of tuned settings; None leaves it to ``tuned.Shown``, table by table.

    Raises:
        MSABenchError: No record of the corpus has the metric.
    """
    parts = parts_of(records, dataset)
    failed: dict[str, list[JobRecord]] = {}
    for job in failures:
        if job.key.dataset == dataset:
            failed.setdefault(_metric_set_of(job, parts), []).append(job)
    sets = [name for name in METRIC_SETS if name in parts or name in failed] or [dataset_facts(dataset).metric_set]
    having = [name for name in sets if metric is None or metric in metric_keys(name)]
    if not having:
        allowed = dict.fromkeys(key for name in sets for key in metric_keys(name))
        raise MSABenchError(
            f"metric {metric!r} is not one of the {' or '.join(sets)} metrics; allowed: {', '.join(allowed)}"
        )
    wanted = None if methods is None else {CONSTANT, *methods}
    shown = {name: part if wanted is None else part.among("method", wanted) for name, part in parts.items()}
    left_out = [
        f"Left out for lack of {metric}: jobs on {dataset} with {name} metrics ({len(part.jobs)})."
        for name, part in shown.items()
        if name not in having and len(part)
    ]
    tables = []
    nothing = records.keeping(lambda _: False)
    for name in having:
        part, found = (group.get(name, nothing) for group in (parts, shown))
        mine = [job for job in failed.get(name, ()) if wanted is None or job.key.method in wanted]
        spec = metric_spec(metric or default_metric(dataset, name), name)
        quantities = [column.key for column in columns if column.block == BLOCK]
        kept, failing, rules = _of_tuning(found, mine, tuning)
        rows = _rows_by_protocol(kept, failing, dataset, name, spec.key, keep_seeds, predictions, quantities)
        tables += _tables(part, rows, rules, dataset, name, spec, columns, methods, left_out)
    return tables


def _of_tuning(
    found: Records, failures: Sequence[JobRecord], tuning: Tuning | None
) -> tuple[Records, list[JobRecord], dict[tuple[str, ...], Shown]]:
    """The jobs whose rows are shown, of default or of tuned settings; and by which rule, for each protocol."""
    by_protocol: dict[tuple[str, ...], list[Job]] = {}
    for job in (*found.jobs, *(vars(failure.key) for failure in failures)):
        by_protocol.setdefault(tuple(job[name] for name in PROTOCOL), []).append(job)
    rules = {protocol: Shown(jobs, tuning) for protocol, jobs in by_protocol.items()}

    def keeps(job: Job) -> bool:
        return rules[tuple(job[name] for name in PROTOCOL)].keeps(job)

    return found.keeping(keeps), [failure for failure in failures if keeps(vars(failure.key))], rules


def _metric_set_of(failure: JobRecord, parts: Mapping[str, Records]) -> str:
    """The metric set of a failed job, which seldom says: that of the finished ones on the same data."""
    same = (name for name, part in parts.items() if failure.key.revision in part.held("revision"))
    usual = next(iter(parts), dataset_facts(failure.key.dataset).metric_set)
    return failure.metric_set or next(same, usual)


def _rows_by_protocol(
    found: Records,
    failures: Sequence[JobRecord],
    dataset: str,
    metric_set: str,
    metric: str,
    keep_seeds: bool,
    predictions: Path | None,
    quantities: Sequence[str],
) -> dict[tuple[str, ...], list[Row]]:
    """Rows of one metric set, by the values of ``PROTOCOL``."""
    rows: dict[tuple[str, ...], dict[tuple[Any, ...], Row]] = {}
    for line in over_seeds(found, metric, keep_seeds=keep_seeds, quantities=quantities):
        row = _row_of(rows, line, line.get("seed"))
        row.entries[line["cell"]] = entry_of(line)
    for row in (row for group in rows.values() for row in group.values()):
        _leave_out_undefined(row, quantities)
    # Cells may have different seeds, so that no cell need have all of them.
    finished: dict[tuple[Any, ...], list[Job]] = {}
    for job in found.jobs:
        names = (*PROTOCOL, *ROW, *(["seed"] if keep_seeds else []))
        finished.setdefault(tuple(job[name] for name in names), []).append(job)
    for jobs in finished.values():
        row = _row_of(rows, jobs[0], jobs[0]["seed"] if keep_seeds else None)
        row.n_seeds = len(jobs)
        if predictions is not None:
            _add_intervals(row, predictions, jobs, metric_set, metric)
    for failure in failures:
        row = _row_of(rows, vars(failure.key), failure.key.seed if keep_seeds else None)
        row.failures.append(failure_line(failure, row))
    # The config's hash tells a method from outside from one of ours that has its name.
    outside = {job["config_hash"] for job in found.jobs if job["external"]}
    for row in (row for group in rows.values() for row in group.values()):
        row.fidelity = SCORED if row.origin else EXTERNAL if row.config_hash in outside else row.fidelity
    return {protocol: list(group.values()) for protocol, group in rows.items()}


def _tables(
    part: Records,
    rows: Mapping[tuple[str, ...], list[Row]],
    rules: Mapping[tuple[str, ...], Shown],
    dataset: str,
    metric_set: str,
    spec: MetricSpec,
    columns: tuple[Column, ...],
    methods: Sequence[str] | None,
    left_out: Sequence[str],
) -> list[Table]:
    """The tables of one metric set."""
    info = dataset_facts(dataset)
    tables = []
    named_rows = [(dict(zip(PROTOCOL, protocol, strict=True)), group) for protocol, group in sorted(rows.items())]
    # Honest selection first; the sort is stable.
    for named, group in sorted(named_rows, key=lambda item: item[0]["selection"] != "val"):
        ordered = _ordered(group, methods)
        mark_alike(ordered)
        table = Table(dataset, info.title, info.caveat, named, spec, metric_set, columns, ordered)
        rule = rules[tuple(named.values())]
        table.tuned_left_out = rule.left_out
        table.warnings = [*doubts(part, named), *left_out]
        lacking = ["There are no tuned rows under this protocol."] * rule.lacking
        table.notes = [*_notes(table, methods), *lacking, *table.warnings]
        tables.append(table)
    return tables


def _row_of(rows: dict[tuple[str, ...], dict[tuple[Any, ...], Row]], job: Job, seed: int | None) -> Row:
    group = rows.setdefault(tuple(job[name] for name in PROTOCOL), {})
    about = {name: job[name] for name in ROW}
    key = (*about.values(), seed)
    if key not in group:
        known = registered().get(job["method"])
        group[key] = Row(**about, seed=seed, fidelity=known.fidelity if known else "unknown")
    return group[key]


def entry_of(line: Line) -> Entry:
    """The number of one line of ``over_seeds``. It counts over the seeds of the cell; the table's row has them all."""
    return Entry(*(line[name] for name in ("mean", "std", "n_seeds", "n_mask_seeds", "n_collapsed", "unseen")))


def _leave_out_undefined(row: Row, quantities: Sequence[str]) -> None:
    """Take out quantities that are undefined although all that they are made of is defined."""
    for name in quantities:
        entry = row.entries.get(name)
        if entry is not None and math.isnan(entry.mean):
            if not any(math.isnan(row.entries[part].mean) for part in made_of(name)):
                del row.entries[name]


def failure_line(job: JobRecord, row: Row) -> str:
    """What failed and why, e.g. ``umdf (mixed), seed 1111: RuntimeError: out of memory``."""
    return f"{row.label} ({row.regime}), seed {job.key.seed}: {' '.join(job.error.split())[:120]}"


def _add_intervals(row: Row, store: Path, jobs: Sequence[Job], metric_set: str, metric: str) -> None:
    """Give a row's entries their intervals, from the predictions of the jobs that they are means over."""
    from msabench.results.intervals import intervals

    files = [predictions_file(store, job["dataset"], row.method, job["job_id"]) for job in jobs]
    found = intervals(files, metric_set, metric, list(row.entries))
    row.entries = {key: replace(entry, interval=found.get(key)) for key, entry in row.entries.items()}


def _ordered(rows: list[Row], methods: Sequence[str] | None) -> list[Row]:
    given = list(methods or ())

    def position(row: Row) -> tuple[Any, ...]:
        place = given.index(row.method) if row.method in given else len(given)
        # What was only scored here stands below what was trained here.
        method = (row.method != CONSTANT or bool(row.origin), bool(row.origin), place, row.method)
        return (
            *method,
            row.variant != "default",
            row.variant,
            row.regime,
            row.tuning,
            row.method_version,
            row.config_hash,
            row.seed,
        )

    return sorted(rows, key=position)


def mark_alike(rows: list[Row]) -> None:
    """Tell apart rows of one method, variant, regime and tuning that differ in version or configuration."""
    for row in rows:
        alike = [r for r in rows if (r.name, r.regime, r.tuning) == (row.name, row.regime, row.tuning)]
        version = f"v{row.method_version}" if len({r.method_version for r in alike}) > 1 else ""
        config = f"#{row.config_hash[:8]}" if len({r.config_hash for r in alike}) > 1 else ""
        row.marks = tuple(mark for mark in (version, config) if mark)


def _notes(table: Table, methods: Sequence[str] | None) -> list[str]:
    notes = []
    present = {row.method for row in table.rows if row.entries}
    if CONSTANT not in {row.method for row in table.rows if row.entries and not row.origin}:
        notes.append(f"There are no records of {CONSTANT}, so the floor is not shown.")
    absent = [name for name in methods or () if name not in present and name != CONSTANT]
    if absent:
        notes.append(f"No records under this protocol: {', '.join(absent)}.")
    if any(row.marks for row in table.rows):
        notes.append("v, # = version of the method, hash of the configuration, where a method has several.")
    if any(row.tuning for row in table.rows):
        notes.append(f"{MEANING}.")
    if table.tuned_left_out:
        notes.append(f"Left out: {left_out_words(table.tuned_left_out)}.")
    return [*notes, *failures_in(table.rows)]


def doubts(records: Records, protocol: Mapping[str, str]) -> list[str]:
    """What makes numbers of a protocol doubtful, to be said wherever they are shown; sentences.

    Args:
        records: Records as ``ResultStore.records`` gives them.
        protocol: Field of ``aggregate.PROTOCOL`` -> value.
    """
    records = records.of(**protocol)
    found = [*inconsistencies(records), *_size_problems(records, dataset_facts(protocol["dataset"]))]
    unseen = sorted({modality for letters in records.held("unseen") for modality in map(LETTERS.__getitem__, letters)})
    if unseen:
        found.append(f"no training clip had {' or '.join(unseen)}")
    blind = np.zeros(len(records.cells))
    np.fmax.at(blind, records.cell, records.blind)
    shares = zip(records.cells, blind.tolist(), strict=True)
    many = {Cell.parse(cell): share for cell, share in shares if share >= MANY_BLIND}
    if many:
        where = ", ".join(f"{100 * many[cell]:.0f} % in {cell}" for cell in sorted(many))
        found.append(
            f"some test clips have no observed frame left and are answered blind: {where} (said from "
            f"{100 * MANY_BLIND:.0f} % on)"
        )
    return [f"Warning: {problem}." for problem in found]


def _size_problems(records: Records, info: DatasetInfo) -> list[str]:
    """Sizes of splits that are not the corpus's."""
    if info.split_sizes is None:
        return []
    listed = "/".join(map(str, info.split_sizes))
    whole = sorted({sizes for sizes in records.held("split_sizes") if sizes and sizes != listed})
    if whole:
        return [f"records have {', '.join(whole)} clips in train/valid/test; {info.title} has {listed}"]
    clips = [n for n in np.unique(records.n).tolist() if n != info.split_sizes[2]]
    return [f"records have {', '.join(map(str, clips))} test clips; {info.title} has {info.split_sizes[2]}"] * bool(
        clips
    )


def check_methods(methods: Sequence[str], records: Records, published: Sequence[str] = ()) -> None:
    """Refuse methods that are neither registered nor recorded.

    Args:
        methods: Names to check.
        records: Records as ``ResultStore.records`` gives them.
        published: Further names that are allowed, those in the papers' tables that are shown.

    Raises:
        MSABenchError: Names the first such method and the allowed ones.
    """
    allowed = sorted({*registered(), *records.held("method"), *published})
    for name in methods:
        if name not in allowed:
            raise one_of("method", name, allowed)

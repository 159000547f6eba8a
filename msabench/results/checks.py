"""What the lines of a record file must be. Free of torch."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from msabench.data.info import METRIC_SETS
from msabench.errors import MSABenchError
from msabench.metrics.spec import METRICS, metric_keys
from msabench.missingness.conditions import LETTERS, SUBSETS, Cell
from msabench.results.record import EXTERNAL_ORIGIN, OPTIONAL, SCHEMA_VERSION, CellRecord, JobKey, JobRecord
from msabench.results.tuned import reference_problem

_JOB_FILE = re.compile(r"^[0-9a-f]{16}(?:\.failed\.\d{8}T\d{6}Z)?\.jsonl$")
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "None": (type(None),),
    "list": (list,),
    "dict": (dict,),
}
"""Type in a record's annotations, without its parameters -> types that ``json`` reads it as."""


def check_lines(
    path: Path, lines: list[dict[str, Any]], folder: Path, *, first_only: bool = False
) -> tuple[JobRecord, list[CellRecord]]:
    """Check a file's lines and read them.

    Args:
        path: The file.
        lines: Its lines as plain data.
        folder: Folder of the store.
        first_only: Whether the job line alone is looked at.

    Raises:
        MSABenchError: A line is not what it must be, or the file is in the wrong place; names file and line.
    """
    if not lines:
        raise MSABenchError(f"{path} is empty; delete it and run the job again")
    job = _check_first(path, lines[0], folder)
    cells: list[CellRecord] = []
    if first_only:
        return job, cells
    job_id = job.key.job_id
    allowed = METRICS if job.metric_set is None else metric_keys(job.metric_set)
    seen: dict[tuple[str, int | None], int] = {}
    for number, line in enumerate(lines[1:], start=2):
        where = f"{path} line {number}"
        cell = _check_cell(where, line, job_id, allowed)
        first = seen.setdefault((cell.cell, cell.mask_seed), number)
        if first != number:
            raise MSABenchError(f"{where} repeats cell {cell.cell} with mask seed {cell.mask_seed} of line {first}")
        cells.append(cell)
    if (job.status == "ok") != bool(cells):
        rule = "at least one cell line" if job.status == "ok" else "no cell lines"
        raise MSABenchError(f"{path} holds {len(cells)} cell lines; a job with status {job.status} has {rule}")
    return job, cells


def _check_first(path: Path, line: dict[str, Any], folder: Path) -> JobRecord:
    where = f"{path} line 1"
    version = line.get("schema_version")
    if line.get("kind") != "job":
        raise MSABenchError(f"{where} has kind {line.get('kind')!r}; the first line of a record file has kind 'job'")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise MSABenchError(f"{where} has schema version {version!r}; this msabench reads 1 to {SCHEMA_VERSION}")
    _check_fields(where, line, JobKey)
    _check_fields(where, line, JobRecord)
    if line.get("origin", EXTERNAL_ORIGIN) != EXTERNAL_ORIGIN:
        raise MSABenchError(
            f"{where} has origin {line['origin']!r}; allowed: {EXTERNAL_ORIGIN}, or none for what msabench trained"
        )
    job = JobRecord.from_json(line)
    if wrong := reference_problem(job):
        raise MSABenchError(f"{where} {wrong}")
    for name in job.unseen or ():
        if name not in LETTERS.values():
            raise MSABenchError(
                f"{where} has the unknown modality {name!r} in unseen; allowed: {', '.join(LETTERS.values())}"
            )
    if any(type(size) is not int for size in job.split_sizes or ()):
        raise MSABenchError(f"{where} has split_sizes = {job.split_sizes!r}; expected whole numbers")
    if job.metric_set not in (None, *METRIC_SETS):
        raise MSABenchError(f"{where} has the unknown metric set {job.metric_set!r}; allowed: {', '.join(METRIC_SETS)}")
    if job.status not in ("ok", "failed"):
        raise MSABenchError(f"{where} has status {job.status!r}; allowed: ok, failed")
    job_id = job.key.job_id
    if line.get("job_id") != job_id:
        raise MSABenchError(f"{where} has job_id {line.get('job_id')!r}, but its key fields give {job_id!r}")
    suffix = "" if job.status == "ok" else ".failed.<time>"
    named = _JOB_FILE.match(path.name) and path.name.startswith(job_id) and bool(suffix) == (".failed." in path.name)
    if not named or path.parent != folder / job.key.dataset / job.key.method:
        expected = f"{job.key.dataset}/{job.key.method}/{job_id}{suffix}.jsonl"
        raise MSABenchError(f"{path} holds a record that belongs in {expected} below the store")
    return job


def _check_cell(where: str, line: dict[str, Any], job_id: str, metrics: Collection[str]) -> CellRecord:
    if line.get("kind") != "cell":
        raise MSABenchError(f"{where} has kind {line.get('kind')!r}; every line after the first has kind 'cell'")
    _check_fields(where, line, CellRecord)
    cell = CellRecord.from_json(line)
    if cell.job_id != job_id:
        raise MSABenchError(f"{where} belongs to job {cell.job_id}; expected {job_id}")
    try:
        name = canonical_cell(cell.cell)
    except MSABenchError as error:
        raise MSABenchError(f"{where}: {error}") from error
    if name != cell.cell:
        raise MSABenchError(f"{where} names cell {cell.cell!r}; its name is {name!r}")
    _check_values(where, "metric", cell.metrics, metrics)
    _check_values(where, "modality", cell.dropped, LETTERS.values())
    _check_values(where, "set of modalities", cell.subsets or {}, SUBSETS)
    return cell


def _check_values(where: str, what: str, values: Mapping[str, float | None], allowed: Collection[str]) -> None:
    for key, value in values.items():
        if key not in allowed:
            raise MSABenchError(f"{where} holds the unknown {what} {key!r}; allowed: {', '.join(allowed)}")
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise MSABenchError(f"{where} has {key} = {value!r}; expected a finite number or null")


def _check_fields(where: str, line: dict[str, Any], record: type) -> None:
    for name, annotation, allowed in _expected(record):
        if name not in line:
            if name in OPTIONAL:
                continue
            raise MSABenchError(f"{where} has no field {name!r}")
        # In Python, but not in JSON, a bool is an int: hence no isinstance.
        if type(line[name]) not in allowed or (type(line[name]) is int and abs(line[name]) >= 1 << 63):
            raise MSABenchError(f"{where} has {name} = {line[name]!r}; expected {annotation}")


@cache
def _expected(record: type) -> tuple[tuple[str, str, tuple[type, ...]], ...]:
    """Name, annotation and types of every field that stands at the top level of a line."""
    expected = []
    for field in fields(record):
        annotation = str(field.type)
        # "dict[str, float | None]" is a dict, "int | None" an int or None.
        names = [annotation.partition("[")[0]] if "[" in annotation else annotation.split(" | ")
        if field.name != "key":
            expected.append((field.name, annotation, tuple(kind for name in names for kind in _JSON_TYPES[name])))
    return tuple(expected)


@cache
def canonical_cell(cell: str) -> str:
    """The name of the cell that a name means.

    Raises:
        MSABenchError: It means none.
    """
    return str(Cell.parse(cell))

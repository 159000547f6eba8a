"""The store of records: one JSON-lines file per job, written once and never changed. Free of torch.

Layout below the store's folder (``leaderboard/results`` unless given):

- ``<dataset>/<method>/<job_id>.jsonl``: a finished job, its job line first, then one line per (cell, mask seed);
- ``<dataset>/<method>/<job_id>.failed.<UTC yyyymmddThhmmssZ>.jsonl``: a failed attempt, its job line alone;
- ``predictions/``: predictions per clip, not read here;
- ``.index.parquet``: derived from the files and rebuilt when one of them changes, so that reading thousands of files
  costs one listing. It may be deleted at any time.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msabench.data.files import sync
from msabench.errors import MSABenchError
from msabench.evaluation.record import OPTIONAL, SCHEMA_VERSION, CellRecord, JobKey, JobRecord
from msabench.metrics.spec import METRICS
from msabench.missingness.conditions import LETTERS, Cell

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_STORE = Path("leaderboard/results")
INDEX_NAME = ".index.parquet"
INDEX_VERSION = 1
PREDICTIONS = "predictions"

KEY_FIELDS = tuple(f.name for f in fields(JobKey))
CELL_FIELDS = ("cell", "mask_seed", "mask_hash", "n", "collapsed", *(f"dropped_{m}" for m in LETTERS.values()), "blind")
JOB_FIELDS = ("unseen", "split_sizes")
"""Fields of ``JobRecord`` that tables need: modalities by their letters, sizes as in ``1284/229/686``; may be empty."""

COLUMNS = ("job_id", *KEY_FIELDS, *JOB_FIELDS, *CELL_FIELDS, *METRICS)
"""Columns of ``ResultStore.frame``."""

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

Signature = dict[str, list[int]]


@dataclass(frozen=True)
class _Job:
    job: JobRecord
    cells: list[CellRecord]


class ResultStore:
    """Records below one folder.

    Adding is atomic and safe between processes: a file appears complete or not at all, and of two processes that add
    the same job one gets an error. Reading never needs a writable folder.

    Args:
        folder: The store's folder; need not exist before the first ``add``.
    """

    def __init__(self, folder: Path | str = DEFAULT_STORE) -> None:
        self.folder = Path(folder)

    # Writing.

    def add(self, job: JobRecord, cells: list[CellRecord]) -> Path:
        """Record a finished job.

        Args:
            job: The job, with status ``ok``.
            cells: Its cells, at least one; NaN metrics are stored as null.

        Returns:
            The file written.

        Raises:
            MSABenchError: The job is recorded already, the records contradict each other, or the folder cannot be
                written; nothing is left behind in any of these cases.
        """
        path = self._path(job.key)
        if job.status != "ok":
            raise MSABenchError(f"job {job.key.job_id} has status {job.status!r}; add takes ok, add_failure failed")
        lines = [_plain(job.to_json(), "job"), *(_plain(cell.to_json(), f"cell {cell.cell}") for cell in cells)]
        _check_job(path, lines, self.folder)
        with self._explained(job.key.job_id):
            if not _write_new(path, _encode(lines)):
                raise MSABenchError(f"job {job.key.job_id} is recorded already in {path}; records are never replaced")
        return path

    def add_failure(self, job: JobRecord) -> Path:
        """Record a failed attempt; a job may fail any number of times, and succeed later.

        Args:
            job: The job, with status ``failed`` and its error.

        Returns:
            The file written.

        Raises:
            MSABenchError: The status is not ``failed``, or the folder cannot be written.
        """
        if job.status != "failed":
            raise MSABenchError(f"job {job.key.job_id} has status {job.status!r}; add_failure takes failed, add ok")
        lines = [_plain(job.to_json(), "job")]
        now = datetime.now(UTC)
        with self._explained(job.key.job_id):
            while True:
                path = self._path(job.key, f".failed.{now:%Y%m%dT%H%M%SZ}")
                _check_job(path, lines, self.folder)
                if _write_new(path, _encode(lines)):
                    return path
                # Two attempts within a second.
                now += timedelta(seconds=1)

    # Reading.

    def has(self, job_id: str) -> bool:
        """Whether a finished job is recorded."""
        return any((folder / f"{job_id}.jsonl").is_file() for folder in self._folders())

    def jobs(self) -> list[JobRecord]:
        """Every job line, finished and failed, in the order of paths.

        Raises:
            MSABenchError: A file is malformed; names the file and the line.
        """
        return [self._read(name, first_only=True).job for name in self._files()]

    def failures(self) -> list[JobRecord]:
        """Job lines of failed attempts at jobs that have not succeeded since, the latest attempt of each.

        Raises:
            MSABenchError: A file is malformed; names the file and the line.
        """
        names = self._files()
        latest = {name[: name.index(".failed.")]: name for name in sorted(names) if ".failed." in name}
        return [self._read(name, first_only=True).job for stem, name in latest.items() if f"{stem}.jsonl" not in names]

    def frame(self, datasets: list[str] | None = None) -> pd.DataFrame:
        """All cell records of finished jobs.

        Args:
            datasets: Corpora to keep; None keeps all.

        Returns:
            One row per (job, cell, mask seed) with the columns ``COLUMNS``: ``job_id``, the fields of ``JobKey``,
            ``JOB_FIELDS``, ``cell``, ``mask_seed`` (nullable integer), ``mask_hash``, ``n``, ``collapsed``,
            ``dropped_<modality>``, ``blind``, and every metric key (NaN where a record has no value).

        Raises:
            MSABenchError: A file is malformed; names the file and the line.
        """
        frame = self._indexed()
        return frame if datasets is None else frame[frame["dataset"].isin(datasets)].reset_index(drop=True)

    def validate(self) -> list[str]:
        """Check every file: JSON, schema, job ids, place in the folder, unique (cell, mask seed).

        Returns:
            One sentence per malformed file; empty if all is well.
        """
        problems: list[str] = []
        for name in self._files():
            try:
                self._read(name)
            except MSABenchError as error:
                problems.append(str(error))
        return problems

    # Files.

    def _path(self, key: JobKey, suffix: str = "") -> Path:
        return self.folder / key.dataset / key.method / f"{key.job_id}{suffix}.jsonl"

    def _folders(self) -> Iterator[Path]:
        for dataset in _subfolders(self.folder):
            if dataset.name != PREDICTIONS:
                yield from _subfolders(dataset)

    def _files(self) -> Signature:
        """Path below the store -> [size, mtime in ns] of every record file."""
        found: Signature = {}
        for folder in self._folders():
            below = folder.relative_to(self.folder).as_posix()
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".jsonl") and not entry.name.startswith("."):
                        status = entry.stat()
                        found[f"{below}/{entry.name}"] = [status.st_size, status.st_mtime_ns]
        return dict(sorted(found.items()))

    def _read(self, name: str, *, first_only: bool = False) -> _Job:
        path = self.folder / name
        lines: list[dict[str, Any]] = []
        try:
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    lines.append(_decode(line, path, number))
                    if first_only:
                        break
        except (OSError, UnicodeDecodeError) as error:
            raise MSABenchError(f"{path} cannot be read: {error}") from error
        return _check_job(path, lines, self.folder, first_only=first_only)

    @contextmanager
    def _explained(self, job_id: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise MSABenchError(
                f"job {job_id} could not be recorded in {self.folder}: {reason}; nothing was written, mend this and "
                "run the job again"
            ) from error

    # Index.

    def _indexed(self) -> pd.DataFrame:
        import pandas as pd

        files = {name: stamp for name, stamp in self._files().items() if ".failed." not in name}
        known, frame = self._load_index()
        if known == files and frame is not None:
            return frame
        same = {name for name, stamp in files.items() if known.get(name) == stamp}
        fresh = _rows_frame([row for name in files if name not in same for row in _rows(self._read(name))])
        if frame is None or not same:
            frame = fresh
        else:
            kept = frame[frame["job_id"].isin({Path(name).stem for name in same})]
            frame = pd.concat([kept, fresh]) if len(fresh) else kept
        order = ["dataset", "method", "job_id"]
        frame = frame.sort_values(order, kind="stable").reset_index(drop=True)
        self._save_index(files, frame)
        return frame

    def _load_index(self) -> tuple[Signature, pd.DataFrame | None]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.folder / INDEX_NAME, use_threads=False)
            about = json.loads(table.schema.metadata[b"msabench"])
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            # Absent, damaged or foreign: rebuilt.
            return {}, None
        if about.get("version") != INDEX_VERSION or tuple(table.column_names) != COLUMNS:
            return {}, None
        frame = table.replace_schema_metadata(None).to_pandas()
        return about["files"], frame.astype({"mask_seed": "Int64"})

    def _save_index(self, files: Signature, frame: pd.DataFrame) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(frame, preserve_index=False)
        about = json.dumps({"version": INDEX_VERSION, "files": files})
        # The store may be read-only or the disk full: then there is no index, and reading is slower.
        with suppress(OSError), _temporary(self.folder / INDEX_NAME) as temporary:
            pq.write_table(table.replace_schema_metadata({"msabench": about}), temporary)
            temporary.replace(self.folder / INDEX_NAME)


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that nobody else uses; the file is gone at the end whatever happens."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _write_new(path: Path, content: bytes) -> bool:
    """Write a file that must not exist; False if it does. The file appears complete or not at all."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as temporary:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename, a link fails if another process was faster.
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:
            return _rename_new(temporary, path)
    sync(path.parent)
    return True


def _rename_new(temporary: Path, path: Path) -> bool:
    """``_write_new`` for file systems without hard links: a lock file instead."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        raise MSABenchError(
            f"another process is writing {path}; if none is running, delete the stale lock {lock}"
        ) from None
    try:
        if path.exists():
            return False
        temporary.replace(path)
        sync(path.parent)
        return True
    finally:
        lock.unlink()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON; undefined values are null")


_STRICT = json.JSONDecoder(parse_constant=_refuse)


def _encode(lines: list[dict[str, Any]]) -> bytes:
    text = "".join(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n" for line in lines)
    return text.encode()


def _decode(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        value = _STRICT.decode(line)
    except ValueError as error:
        raise MSABenchError(f"{path} line {number} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise MSABenchError(f"{path} line {number} holds a {type(value).__name__}; expected a JSON object")
    return value


def _plain(value: Any, where: str) -> Any:
    """Plain data for strict JSON: NaN becomes null, an infinity its name, a path or NumPy scalar its value."""
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise MSABenchError(f"{where} is a {type(value).__name__}; records hold numbers, strings, lists and mappings")


def _check_job(path: Path, lines: list[dict[str, Any]], folder: Path, *, first_only: bool = False) -> _Job:
    """Check a file's lines and read them; the error names file and line."""
    if not lines:
        raise MSABenchError(f"{path} is empty; delete it and run the job again")
    job = _check_first(path, lines[0], folder)
    cells: list[CellRecord] = []
    if first_only:
        return _Job(job, cells)
    job_id = job.key.job_id
    seen: dict[tuple[str, int | None], int] = {}
    for number, line in enumerate(lines[1:], start=2):
        where = f"{path} line {number}"
        cell = _check_cell(where, line, job_id)
        first = seen.setdefault((cell.cell, cell.mask_seed), number)
        if first != number:
            raise MSABenchError(f"{where} repeats cell {cell.cell} with mask seed {cell.mask_seed} of line {first}")
        cells.append(cell)
    if (job.status == "ok") != bool(cells):
        rule = "at least one cell line" if job.status == "ok" else "no cell lines"
        raise MSABenchError(f"{path} holds {len(cells)} cell lines; a job with status {job.status} has {rule}")
    return _Job(job, cells)


def _check_first(path: Path, line: dict[str, Any], folder: Path) -> JobRecord:
    where = f"{path} line 1"
    version = line.get("schema_version")
    if line.get("kind") != "job":
        raise MSABenchError(f"{where} has kind {line.get('kind')!r}; the first line of a record file has kind 'job'")
    if version != SCHEMA_VERSION:
        raise MSABenchError(f"{where} has schema version {version!r}; this msabench reads version {SCHEMA_VERSION}")
    _check_fields(where, line, JobKey)
    _check_fields(where, line, JobRecord)
    job = JobRecord.from_json(line)
    for name in job.unseen or ():
        if name not in LETTERS.values():
            raise MSABenchError(
                f"{where} has the unknown modality {name!r} in unseen; allowed: {', '.join(LETTERS.values())}"
            )
    if any(type(size) is not int for size in job.split_sizes or ()):
        raise MSABenchError(f"{where} has split_sizes = {job.split_sizes!r}; expected whole numbers")
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


def _check_cell(where: str, line: dict[str, Any], job_id: str) -> CellRecord:
    if line.get("kind") != "cell":
        raise MSABenchError(f"{where} has kind {line.get('kind')!r}; every line after the first has kind 'cell'")
    _check_fields(where, line, CellRecord)
    cell = CellRecord.from_json(line)
    if cell.job_id != job_id:
        raise MSABenchError(f"{where} belongs to job {cell.job_id}; expected {job_id}")
    try:
        name = _canonical(cell.cell)
    except MSABenchError as error:
        raise MSABenchError(f"{where}: {error}") from error
    if name != cell.cell:
        raise MSABenchError(f"{where} names cell {cell.cell!r}; its name is {name!r}")
    _check_values(where, "metric", cell.metrics, METRICS)
    _check_values(where, "modality", cell.dropped, LETTERS.values())
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
        if type(line[name]) not in allowed:
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
def _canonical(cell: str) -> str:
    return str(Cell.parse(cell))


def _rows(read: _Job) -> Iterator[dict[str, Any]]:
    key = {"job_id": read.job.key.job_id, **{name: getattr(read.job.key, name) for name in KEY_FIELDS}}
    key["unseen"] = "".join(letter for letter, name in LETTERS.items() if name in (read.job.unseen or ()))
    key["split_sizes"] = "/".join(map(str, read.job.split_sizes or ()))
    for cell in read.cells:
        dropped = {f"dropped_{modality}": share for modality, share in cell.dropped.items()}
        rest = {name: getattr(cell, name) for name in ("cell", "mask_seed", "mask_hash", "n", "collapsed", "blind")}
        yield {**key, **rest, **dropped, **cell.metrics}


def _rows_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
    strings = {f.name for f in fields(JobKey) if f.type == "str"} | {"job_id", "cell", "mask_hash", *JOB_FIELDS}
    kinds = {"method_version": "int64", "seed": "int64", "n": "int64", "mask_seed": "Int64", "collapsed": "bool"}
    return pd.DataFrame(
        {
            name: pd.Series(values, dtype="str" if name in strings else kinds.get(name, "float64"))
            for name, values in columns.items()
        }
    )

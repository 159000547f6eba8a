"""The store of records: one JSON-lines file per job, written once and never changed. Free of torch.

Layout below the store's folder:

- ``<dataset>/<method>/<job_id>.jsonl``: a finished job, its job line first, then one line per (cell, mask seed);
- ``<dataset>/<method>/<job_id>.failed.<UTC yyyymmddThhmmssZ>.jsonl``: a failed attempt, its job line alone;
- ``predictions/``: predictions per clip, not read here;
- ``.index``: derived from the files and rebuilt when one of them changes, so that reading thousands of files costs one
  listing. It may be deleted at any time.

A job line carries checksums of itself, of the cell lines, and of the file of predictions that lay in the store when the
job was recorded. Records of schema version 1 have none; they are read, and `msabench store verify` calls them
unverified. A damaged file stops whoever reads it: a mean that leaves it out would be another number.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msabench.errors import MSABenchError
from msabench.files import sync
from msabench.metrics.spec import METRICS
from msabench.missingness.conditions import LETTERS, Cell
from msabench.results.record import OPTIONAL, SCHEMA_VERSION, CellRecord, JobKey, JobRecord

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

COMMITTED_STORE = Path("leaderboard/results")
"""The records in git. ``msabench leaderboard add`` alone adds to them."""

STORE_VARIABLE = "MSABENCH_STORE"
"""Environment variable that names the store where none is given."""

INDEX_NAME = ".index"
INDEX_VERSION = 2
PREDICTIONS = "predictions"
CHECKSUMS = "checksums"
MAX_RECORD_BYTES = 16 << 20
"""A record file has a kilobyte a cell."""

STALE_SECONDS = 3600
"""Age at which a temporary file has no writer any more. Files of a store are written within seconds."""

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

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}(\.tmp)?")

Signature = dict[str, list[int]]


def default_store() -> Path:
    """The store where none is given: what MSABENCH_STORE names, else ``runs/store``."""
    return Path(os.environ.get(STORE_VARIABLE) or "runs/store").expanduser()


def store_to_write(store: Path | None) -> Path:
    """The store that a verb adds to.

    Args:
        store: As given; None for the default one.

    Raises:
        MSABenchError: It is the committed one.
    """
    chosen = store or default_store()
    if chosen.resolve() == COMMITTED_STORE.resolve():
        raise MSABenchError(
            f"{chosen} holds the committed records, which `msabench leaderboard add` alone adds to; give another "
            "--store"
        )
    return chosen


def store_to_read(store: Path | None, committed: bool = False) -> Path:
    """The store that a verb reads.

    Args:
        store: As given; None for the default one, which need not exist.
        committed: Whether the committed one was asked for.

    Raises:
        MSABenchError: Both are given, or there is no such store.
    """
    if committed and store is not None:
        raise MSABenchError(f"store {store} and committed cannot both be given; leave one out")
    chosen = COMMITTED_STORE if committed else store
    if chosen is None:
        return default_store()
    if not chosen.is_dir():
        committed = chosen == COMMITTED_STORE
        hint = (
            "go to the root of a clone of msabench" if committed else "`msabench run --suite SUITE --store` makes one"
        )
        raise MSABenchError(f"there is no store {chosen}; {hint}")
    return chosen


def no_records(store: Path) -> MSABenchError:
    """The error for a store without records."""
    default = store == default_store()
    given = "" if default else f" --store {store}"
    others = "; --committed reads those in a clone of msabench" if default else ""
    return MSABenchError(
        f"{store} holds no records; make some with `msabench run --suite SUITE{given}` (see `msabench suites`){others}"
    )


@dataclass(frozen=True)
class RecordFile:
    """One record file.

    Attributes:
        job: The job line.
        cells: The cell lines; empty for a failed job, and where the job line alone was read.
        checksums: ``job``, ``cells`` and ``predictions``, the last None if there were none; None altogether in records
            from before checksums.
    """

    job: JobRecord
    cells: list[CellRecord]
    checksums: dict[str, str | None] | None


class ResultStore:
    """Records below one folder.

    Adding is atomic and safe between processes: a file appears complete or not at all, and of two processes that add
    the same job one gets an error. Reading never needs a writable folder.

    Args:
        folder: The store's folder; need not exist before the first ``add``.
        indexed: Whether ``frame`` believes and writes the index; not for a store from somebody else.
    """

    def __init__(self, folder: Path | str, *, indexed: bool = True) -> None:
        self.folder = Path(folder)
        self.indexed = indexed

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

        from msabench.results.predictions import path_of

        with self._explained(job.key.job_id):
            if not _write_new(path, sealed(lines, file_checksum(path_of(self.folder, job.key)))):
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
                if _write_new(path, sealed(lines)):
                    return path
                # Two attempts within a second.
                now += timedelta(seconds=1)

    def sweep(self) -> list[Path]:
        """Delete temporary files that a killed process left, once they are older than ``STALE_SECONDS``.

        Returns:
            The files deleted.
        """
        swept = []
        for folder in (self.folder, *self._folders(), *self._folders(self.folder / PREDICTIONS)):
            for path in folder.iterdir() if folder.is_dir() else ():
                # Another process may be sweeping, or the store be read-only.
                with suppress(OSError):
                    if _TEMPORARY.fullmatch(path.name) and time.time() - path.lstat().st_mtime > STALE_SECONDS:
                        path.unlink()
                        swept.append(path)
        return swept

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

    def files(self) -> Iterator[tuple[Path, RecordFile | MSABenchError]]:
        """Every record file with what it holds, or what is wrong with it, in the order of paths."""
        for name in self._files():
            try:
                yield self.folder / name, self._read(name)
            except MSABenchError as error:
                yield self.folder / name, error

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
        """Check every file: JSON, schema, job ids, place in the folder, unique (cell, mask seed), checksums.

        Returns:
            One sentence per malformed file; empty if all is well.
        """
        return [str(found) for _, found in self.files() if isinstance(found, MSABenchError)]

    # Files.

    def _path(self, key: JobKey, suffix: str = "") -> Path:
        for name in (key.dataset, key.method):
            if not name or set(name) & set("/\\\0") or not name.strip("."):
                raise MSABenchError(
                    f"{name!r} of job {key.job_id} cannot be the name of a folder in the store; rename it"
                )
        return self.folder / key.dataset / key.method / f"{key.job_id}{suffix}.jsonl"

    def _folders(self, below: Path | None = None) -> Iterator[Path]:
        for dataset in _subfolders(below or self.folder):
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

    def _read(self, name: str, *, first_only: bool = False) -> RecordFile:
        path = self.folder / name
        try:
            # Opening a pipe would wait for its other end.
            if not path.is_file():
                raise MSABenchError(f"{path} is a pipe, folder or device, not a file; take it out of the store")
            if path.stat().st_size > MAX_RECORD_BYTES:
                raise MSABenchError(f"{path} has {path.stat().st_size} bytes; a record has at most {MAX_RECORD_BYTES}")
            with path.open("rb") as file:
                head, body = file.readline(), b"" if first_only else file.read()
            lines = [_decode(head, path, 1)] if head else []
            lines += [_decode(line, path, number) for number, line in enumerate(io.BytesIO(body), start=2)]
        except OSError as error:
            raise MSABenchError(f"{path} cannot be read: {error}") from error
        job, cells = _check_job(path, lines, self.folder, first_only=first_only)
        checksums = _checksums(path, lines[0])
        if checksums and not first_only and checksums["cells"] != _sha256(body):
            raise _damaged(path, "its cell lines")
        return RecordFile(job, cells, checksums)

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
        known, frame = self._load_index() if self.indexed else ({}, None)
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
        if self.indexed:
            self._save_index(files, frame)
        return frame

    def index_is_damaged(self) -> bool:
        """Whether there is an index that is not as it was written; it is rebuilt by whoever reads next."""
        path = self.folder / INDEX_NAME
        return path.exists() and _unwrapped(path) is None

    def _load_index(self) -> tuple[Signature, pd.DataFrame | None]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = _unwrapped(self.folder / INDEX_NAME)
        if content is None:
            return {}, None
        try:
            table = pq.read_table(pa.BufferReader(content), use_threads=False)
            about = json.loads(table.schema.metadata[b"msabench"])
            version, files = about["version"], about["files"]
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            # Foreign: rebuilt.
            return {}, None
        bare = table.replace_schema_metadata(None)
        if version != INDEX_VERSION or not isinstance(files, dict) or bare.schema != _table(_rows_frame([])).schema:
            return {}, None
        return files, bare.to_pandas().astype({"mask_seed": "Int64"})

    def _save_index(self, files: Signature, frame: pd.DataFrame) -> None:
        import pyarrow.parquet as pq

        content = io.BytesIO()
        about = json.dumps({"version": INDEX_VERSION, "files": files})
        # The store may be read-only or the disk full: then there is no index, and reading is slower.
        with suppress(OSError), _temporary(self.folder / INDEX_NAME) as temporary:
            pq.write_table(_table(frame).replace_schema_metadata({"msabench": about}), content)
            temporary.write_bytes(hashlib.sha256(content.getvalue()).digest() + content.getvalue())
            temporary.replace(self.folder / INDEX_NAME)


def recorded_checksum(predictions: Path) -> str | None:
    """What a job's record says of its predictions.

    Args:
        predictions: Where a store keeps them.

    Returns:
        The sha256 of the file; None if no store is around it, or its record is not there or from before checksums.

    Raises:
        MSABenchError: The record is damaged.
    """
    method, dataset, top, *_ = (*predictions.absolute().parents, Path(), Path(), Path())
    record = top.parent / dataset.name / method.name / f"{predictions.stem}.jsonl"
    if top.name != PREDICTIONS or not record.is_file():
        return None
    name = record.relative_to(top.parent).as_posix()
    checksums = ResultStore(top.parent)._read(name, first_only=True).checksums
    return checksums["predictions"] if checksums else None


def file_checksum(path: Path) -> str | None:
    """The sha256 of a file; None if there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _damaged(path: Path, what: str) -> MSABenchError:
    return MSABenchError(
        f"{path} is damaged: {what} are not those of its checksum; restore it, or delete it and run the job again "
        "(`msabench store verify` says what else is damaged)"
    )


def _unwrapped(path: Path) -> bytes | None:
    """What follows a file's checksum; None if there is no such file, or it is damaged."""
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError:
        return None
    digest, rest = content[:32], content[32:]
    return rest if digest == hashlib.sha256(rest).digest() else None


def _table(frame: pd.DataFrame) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


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


def sealed(lines: list[dict[str, Any]], predictions: str | None = None) -> bytes:
    """A record file's content, with its checksums in the job line.

    Args:
        lines: Job line, then cell lines, as plain data.
        predictions: The sha256 of the job's file of predictions.
    """
    first, cells = {**lines[0], CHECKSUMS: {}}, _encode(lines[1:])
    first[CHECKSUMS] |= {"cells": _sha256(cells), "predictions": predictions}
    first[CHECKSUMS] |= {"job": _sha256(_encode([first]))}
    return _encode([first]) + cells


def _checksums(path: Path, line: dict[str, Any]) -> dict[str, str | None] | None:
    """A job line's checksums, once it is what its own one says."""
    if line["schema_version"] == 1:
        return None
    given = line.get(CHECKSUMS)
    names = {"cells", "predictions", "job"}
    if not isinstance(given, dict) or given.keys() != names:
        raise MSABenchError(f"{path} line 1 has {CHECKSUMS} = {given!r}; expected those of {', '.join(sorted(names))}")
    rest = {name: value for name, value in given.items() if name != "job"}
    try:
        content = _encode([{**line, CHECKSUMS: rest}])
    except ValueError as error:
        # A number beyond all bounds reads as infinity.
        raise MSABenchError(f"{path} line 1 is not valid JSON: {error}") from error
    if _sha256(content) != given["job"]:
        raise _damaged(path, "the values of its job line")
    return given


def _decode(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = _STRICT.decode(line.decode())
    except UnicodeDecodeError as error:
        raise MSABenchError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
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


def _check_job(
    path: Path, lines: list[dict[str, Any]], folder: Path, *, first_only: bool = False
) -> tuple[JobRecord, list[CellRecord]]:
    """Check a file's lines and read them; the error names file and line."""
    if not lines:
        raise MSABenchError(f"{path} is empty; delete it and run the job again")
    job = _check_first(path, lines[0], folder)
    cells: list[CellRecord] = []
    if first_only:
        return job, cells
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
def _canonical(cell: str) -> str:
    return str(Cell.parse(cell))


def _rows(read: RecordFile) -> Iterator[dict[str, Any]]:
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

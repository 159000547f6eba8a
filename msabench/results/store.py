"""The store of records: one JSON-lines file per job, written once and never changed. Free of torch.

Layout below the store's folder:

- ``<dataset>/<method>/<job_id>.jsonl``: a finished job, its job line first, then one line per (cell, mask seed);
- ``<dataset>/<method>/<job_id>.failed.<UTC yyyymmddThhmmssZ>.jsonl``: a failed attempt, its job line alone;
- ``predictions/``: predictions per clip, not read here;
- ``studies/``: what was tried to tune a method, not read here (``results.study``);
- ``.index``: derived from the files and rebuilt when one of them changes, so that reading thousands of files costs one
  listing. It may be deleted at any time.

A job line carries checksums of itself, of the cell lines, and of the file of predictions that lay in the store when the
job was recorded. Records of schema version 1 have none; they are read, and `msabench store verify` calls them
unverified. A damaged file stops whoever reads it: a mean that leaves it out would be another number.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from msabench.errors import MSABenchError
from msabench.files import creating
from msabench.results.checks import check_lines
from msabench.results.index import Signature, frame_of, indexed_table, records_of
from msabench.results.places import PREDICTIONS, STUDIES, predictions_file
from msabench.results.record import CellRecord, JobKey, JobRecord
from msabench.results.record_file import RecordFile, file_checksum, plain, read_record, sealed

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from msabench.results.records import Records

STALE_SECONDS = 3600
"""Age at which a temporary file has no writer any more. Files of a store are written within seconds."""

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}(\.tmp)?")


class ResultStore:
    """Records below one folder.

    Adding is atomic and safe between processes: a file appears complete or not at all, and of two processes that add
    the same job one gets an error. Reading never needs a writable folder.

    Args:
        folder: The store's folder; need not exist before the first ``add``.
        indexed: Whether the index is believed and written; not for a store from somebody else.
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
        lines = [plain(job.to_json(), "job"), *(plain(cell.to_json(), f"cell {cell.cell}") for cell in cells)]
        check_lines(path, lines, self.folder)

        with self._explained(job.key.job_id):
            kept = predictions_file(self.folder, job.key.dataset, job.key.method, job.key.job_id)
            if not _write_new(path, sealed(lines, file_checksum(kept))):
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
        lines = [plain(job.to_json(), "job")]
        now = datetime.now(UTC)
        with self._explained(job.key.job_id):
            while True:
                path = self._path(job.key, f".failed.{now:%Y%m%dT%H%M%SZ}")
                check_lines(path, lines, self.folder)
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
        places = (self.folder / name for name in (PREDICTIONS, STUDIES))
        for folder in (self.folder, *self._folders(), *(folder for place in places for folder in self._folders(place))):
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
        frame = frame_of(self._table())
        return frame if datasets is None else frame[frame["dataset"].isin(datasets)].reset_index(drop=True)

    def records(self, datasets: list[str] | None = None) -> Records:
        """All cell records of finished jobs, as tables and statistics take them.

        Args:
            datasets: Corpora to keep; None keeps all.

        Raises:
            MSABenchError: A file is malformed; names the file and the line.
        """
        records = records_of(self._table())
        return records if datasets is None else records.among("dataset", datasets)

    def records_beside(self, other: ResultStore) -> Records:
        """All cell records of finished jobs of this store and of another one.

        Args:
            other: The other store.

        Raises:
            MSABenchError: A file is malformed; names the file and the line.
        """
        return records_of(self._table(), other._table())

    def validate(self) -> list[str]:
        """Check every file: JSON, schema, job ids, place in the folder, unique (cell, mask seed), checksums.

        Returns:
            One sentence per malformed file; empty if all is well.
        """
        return [str(found) for _, found in self.files() if isinstance(found, MSABenchError)]

    # Files.

    def _table(self) -> pa.Table:
        files = {name: stamp for name, stamp in self._files().items() if ".failed." not in name}
        return indexed_table(self.folder, files, self._read, indexed=self.indexed)

    def _path(self, key: JobKey, suffix: str = "") -> Path:
        for name in (key.dataset, key.method):
            if not name or set(name) & set("/\\\0") or not name.strip("."):
                raise MSABenchError(
                    f"{name!r} of job {key.job_id} cannot be the name of a folder in the store; rename it"
                )
        return self.folder / key.dataset / key.method / f"{key.job_id}{suffix}.jsonl"

    def _folders(self, below: Path | None = None) -> Iterator[Path]:
        for dataset in _subfolders(below or self.folder):
            if dataset.name not in (PREDICTIONS, STUDIES):
                yield from _subfolders(dataset)

    def _files(self) -> Signature:
        found: Signature = {}
        for folder in self._folders():
            below = folder.relative_to(self.folder).as_posix()
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".jsonl") and not entry.name.startswith("."):
                        status = entry.stat()
                        found[f"{below}/{entry.name}"] = [status.st_size, status.st_mtime_ns]
        return dict(sorted(found.items()))

    def _read(self, name: str, *, first_only: bool = False, parsed: bool = True) -> RecordFile:
        return read_record(self.folder / name, self.folder, first_only=first_only, parsed=parsed)

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


def _write_new(path: Path, content: bytes) -> bool:
    """Write a file that must not exist; False if it does. The file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with creating(path) as stream:
            stream.write(content)
    except FileExistsError:
        return False
    return True


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))

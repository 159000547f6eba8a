"""A record file: how its lines are written, read and held against their checksums. Free of torch."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msabench.data.info import METRIC_SETS
from msabench.data.registry import recorded_info
from msabench.errors import MSABenchError
from msabench.files import sha256_of
from msabench.metrics.spec import DEFAULT_METRIC, metric_set_of
from msabench.results.checks import check_lines
from msabench.results.places import PREDICTIONS
from msabench.results.record import CellRecord, JobRecord

CHECKSUMS = "checksums"
MAX_RECORD_BYTES = 16 << 20
"""A record file has a kilobyte a cell."""


@dataclass(frozen=True)
class RecordFile:
    """One record file.

    Attributes:
        job: The job line.
        cells: The cell lines; empty for a failed job, and where the job line alone was read or parsed.
        checksums: ``job``, ``cells`` and ``predictions``, the last None if there were none; None altogether in records
            from before checksums.
        unparsed: The cell lines as they stand in the file, where they were not parsed.
    """

    job: JobRecord
    cells: list[CellRecord]
    checksums: dict[str, str | None] | None
    unparsed: bytes = b""

    @property
    def metric_set(self) -> str:
        """The metric set of the cells: what the job line says, else what they imply by naming metrics at all."""
        return metric_set_in(self.job, {key for cell in self.cells for key in cell.metrics})


def metric_set_in(job: JobRecord, keys: Set[str]) -> str:
    """The metric set of a job's cells: what the job says, else what the metrics that its cells name imply."""
    if job.metric_set is not None:
        return job.metric_set
    if keys.isdisjoint(DEFAULT_METRIC.values()):
        info = recorded_info(job.key.dataset)
        return info.metric_set if info else METRIC_SETS[0]
    return metric_set_of(keys)


def read_record(path: Path, folder: Path, *, first_only: bool = False, parsed: bool = True) -> RecordFile:
    """Read a record file.

    Args:
        path: The file.
        folder: Folder of the store that it lies in.
        first_only: Whether to read the job line alone.
        parsed: Whether to parse and check the cell lines; if not, their checksum alone is verified.

    Raises:
        MSABenchError: It is none, in the wrong place, or damaged; names the file and the line.
    """
    head, body = _content(path, first_only)
    lines = [_decode(head, path, 1)] if head else []
    if parsed:
        lines += [_decode(line, path, number) for number, line in enumerate(io.BytesIO(body), start=2)]
    job, cells = check_lines(path, lines, folder, first_only=first_only or not parsed)
    checksums = _checksums(path, lines[0], head)
    if checksums and not first_only and checksums["cells"] != _sha256(body):
        raise _damaged(path, "its cell lines")
    return RecordFile(job, cells, checksums, b"" if parsed else body)


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
    checksums = read_record(record, top.parent, first_only=True).checksums
    return checksums["predictions"] if checksums else None


def file_checksum(path: Path) -> str | None:
    """The sha256 of a file; None if there is none."""
    return sha256_of(path) if path.is_file() else None


def plain(value: Any, where: str) -> Any:
    """Plain data for strict JSON: NaN becomes null, an infinity its name, a path or NumPy scalar its value.

    Args:
        value: What to store.
        where: What it is, for errors.

    Raises:
        MSABenchError: It holds something else.
    """
    if isinstance(value, dict):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, where) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise MSABenchError(f"{where} is a {type(value).__name__}; records hold numbers, strings, lists and mappings")


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


def _content(path: Path, first_only: bool = False) -> tuple[bytes, bytes]:
    """A file's first line and the rest, which is not read if the first is all that is asked for."""
    try:
        # Opening a pipe would wait for its other end.
        if not path.is_file():
            raise MSABenchError(f"{path} is a pipe, folder or device, not a file; take it out of the store")
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise MSABenchError(f"{path} has {path.stat().st_size} bytes; a record has at most {MAX_RECORD_BYTES}")
        with path.open("rb") as file:
            return file.readline(), b"" if first_only else file.read()
    except OSError as error:
        raise MSABenchError(f"{path} cannot be read: {error}") from error


def _checksums(path: Path, line: dict[str, Any], head: bytes) -> dict[str, str | None] | None:
    """A job line's checksums, once it, as it stands in the file or as it is parsed, is what its own one says."""
    if line["schema_version"] == 1:
        return None
    given = line.get(CHECKSUMS)
    names = {"cells", "predictions", "job"}
    if not isinstance(given, dict) or given.keys() != names:
        raise MSABenchError(f"{path} line 1 has {CHECKSUMS} = {given!r}; expected those of {', '.join(sorted(names))}")
    # As it was written: what was hashed stands there but for the hash itself, and need not be encoded again.
    own = f',"job":{json.dumps(given["job"])}'.encode()
    if head.count(own) == 1 and _sha256(head.replace(own, b"")) == given["job"]:
        return given
    rest = {name: value for name, value in given.items() if name != "job"}
    try:
        content = _encode([{**line, CHECKSUMS: rest}])
    except ValueError as error:
        # A number beyond all bounds reads as infinity.
        raise MSABenchError(f"{path} line 1 is not valid JSON: {error}") from error
    if _sha256(content) != given["job"]:
        raise _damaged(path, "the values of its job line")
    return given


def _encode(lines: list[dict[str, Any]]) -> bytes:
    text = "".join(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n" for line in lines)
    return text.encode()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON; undefined values are null")


_STRICT = json.JSONDecoder(parse_constant=_refuse)


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


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _damaged(path: Path, what: str) -> MSABenchError:
    return MSABenchError(
        f"{path} is damaged: {what} are not those of its checksum; restore it, or delete it and run the job again "
        "(`msabench store verify` says what else is damaged)"
    )

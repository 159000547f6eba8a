"""The index of a store: its cell records as one frame, derived from the record files. Free of torch."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msabench.files import replacing
from msabench.metrics.spec import METRICS
from msabench.missingness.conditions import LETTERS
from msabench.results.record import METHOD, JobKey
from msabench.results.record_file import RecordFile

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

INDEX_NAME = ".index"
INDEX_VERSION = 3

KEY_FIELDS = tuple(f.name for f in fields(JobKey))
CELL_FIELDS = ("cell", "mask_seed", "mask_hash", "n", "collapsed", *(f"dropped_{m}" for m in LETTERS.values()), "blind")
JOB_FIELDS = ("unseen", "split_sizes", "metric_set", "external")
"""Fields of ``JobRecord`` that tables need: modalities by their letters, and sizes as in ``1284/229/686``, which may be
empty; the metric set, which never is; whether the method came from outside msabench."""

COLUMNS = ("job_id", *KEY_FIELDS, *JOB_FIELDS, *CELL_FIELDS, *METRICS)
"""Columns of ``ResultStore.frame``."""

Signature = dict[str, list[int]]
"""Path below the store -> [size, mtime in ns] of every record file."""


def indexed_frame(
    folder: Path, files: Signature, read: Callable[[str], RecordFile], *, indexed: bool = True
) -> pd.DataFrame:
    """The cell records of some files, out of the index as far as it is of the same files.

    Args:
        folder: The store's folder.
        files: Its files of finished jobs, as they are now.
        read: Reads a file.
        indexed: Whether to believe and to write the index.

    Returns:
        A frame with the columns ``COLUMNS``.

    Raises:
        MSABenchError: A file is malformed; names the file and the line.
    """
    import pandas as pd

    known, frame = _load(folder) if indexed else ({}, None)
    if known == files and frame is not None:
        return frame
    same = {name for name, stamp in files.items() if known.get(name) == stamp}
    fresh = _rows_frame([row for name in files if name not in same for row in _rows(read(name))])
    if frame is None or not same:
        frame = fresh
    else:
        kept = frame[frame["job_id"].isin({Path(name).stem for name in same})]
        frame = pd.concat([kept, fresh]) if len(fresh) else kept
    order = ["dataset", "method", "job_id"]
    frame = frame.sort_values(order, kind="stable").reset_index(drop=True)
    if indexed:
        _save(folder, files, frame)
    return frame


def index_is_damaged(folder: Path) -> bool:
    """Whether a store has an index that is not as it was written; it is rebuilt by whoever reads next."""
    path = folder / INDEX_NAME
    return path.exists() and _unwrapped(path) is None


def _load(folder: Path) -> tuple[Signature, pd.DataFrame | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _unwrapped(folder / INDEX_NAME)
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


def _save(folder: Path, files: Signature, frame: pd.DataFrame) -> None:
    import pyarrow.parquet as pq

    content = io.BytesIO()
    about = json.dumps({"version": INDEX_VERSION, "files": files})
    # The store may be read-only or the disk full: then there is no index, and reading is slower.
    with suppress(OSError):
        pq.write_table(_table(frame).replace_schema_metadata({"msabench": about}), content)
        with replacing(folder / INDEX_NAME, durable=False) as stream:
            stream.write(hashlib.sha256(content.getvalue()).digest() + content.getvalue())


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


def _rows(read: RecordFile) -> Iterator[dict[str, Any]]:
    key = {"job_id": read.job.key.job_id, **{name: getattr(read.job.key, name) for name in KEY_FIELDS}}
    key["unseen"] = "".join(letter for letter, name in LETTERS.items() if name in (read.job.unseen or ()))
    key["split_sizes"] = "/".join(map(str, read.job.split_sizes or ()))
    key["metric_set"] = read.metric_set
    key["external"] = METHOD in read.job.provenance
    for cell in read.cells:
        dropped = {f"dropped_{modality}": share for modality, share in cell.dropped.items()}
        rest = {name: getattr(cell, name) for name in ("cell", "mask_seed", "mask_hash", "n", "collapsed", "blind")}
        yield {**key, **rest, **dropped, **cell.metrics}


def _rows_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
    strings = {f.name for f in fields(JobKey) if f.type == "str"} | {"job_id", "cell", "mask_hash", *JOB_FIELDS} - {
        "external"
    }
    kinds = {"method_version": "int64", "seed": "int64", "n": "int64", "mask_seed": "Int64"}
    kinds |= dict.fromkeys(("collapsed", "external"), "bool")
    return pd.DataFrame(
        {
            name: pd.Series(values, dtype="str" if name in strings else kinds.get(name, "float64"))
            for name, values in columns.items()
        }
    )

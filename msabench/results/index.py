"""The index of a store: its cell records as one frame, derived from the record files. Free of torch."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msabench.errors import MSABenchError
from msabench.files import replacing
from msabench.metrics.spec import METRICS
from msabench.missingness.conditions import LETTERS
from msabench.results.cell_lines import CellLines, cell_lines, read_columns
from msabench.results.record import METHOD, JobKey, JobRecord
from msabench.results.record_file import RecordFile, metric_set_in

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

CHUNK = 4 << 20
"""Bytes of cell lines that are read into columns at once: more takes more memory and no less time."""

Signature = dict[str, list[int]]
"""Path below the store -> [size, mtime in ns] of every record file."""


def indexed_frame(
    folder: Path, files: Signature, read: Callable[..., RecordFile], *, indexed: bool = True
) -> pd.DataFrame:
    """The cell records of some files, out of the index as far as it is of the same files.

    Args:
        folder: The store's folder.
        files: Its files of finished jobs, as they are now.
        read: Reads a file, as ``record_file.read_record`` does.
        indexed: Whether to believe and to write the index.

    Returns:
        A frame with the columns ``COLUMNS``.

    Raises:
        MSABenchError: A file is malformed; names the file and the line.
    """
    known, table = _load(folder) if indexed else ({}, None)
    if known == files and table is not None:
        return _frame(table)
    same = {name for name, stamp in files.items() if known.get(name) == stamp}
    fresh = _fresh([name for name in files if name not in same], read)
    table = fresh if table is None or not same else _merged(table, {Path(name).stem for name in same}, fresh)
    if indexed:
        _save(folder, files, table)
    return _frame(table)


def index_is_damaged(folder: Path) -> bool:
    """Whether a store has an index that is not as it was written; it is rebuilt by whoever reads next."""
    path = folder / INDEX_NAME
    return path.exists() and _unwrapped(path) is None


def _load(folder: Path) -> tuple[Signature, pa.Table | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _unwrapped(folder / INDEX_NAME)
    if content is None:
        return {}, None
    try:
        # ``read_table`` would import all of Arrow's data sets.
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
        about = json.loads(table.schema.metadata[b"msabench"])
        version, files = about["version"], about["files"]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        # Foreign: rebuilt.
        return {}, None
    bare = table.replace_schema_metadata(None)
    if version != INDEX_VERSION or not isinstance(files, dict) or bare.schema != _schema():
        return {}, None
    return files, bare


def _save(folder: Path, files: Signature, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    content = io.BytesIO()
    about = json.dumps({"version": INDEX_VERSION, "files": files})
    # The store may be read-only or the disk full: then there is no index, and reading is slower.
    with suppress(OSError):
        pq.write_table(table.replace_schema_metadata({"msabench": about}), content)
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


def _fresh(names: Iterable[str], read: Callable[..., RecordFile]) -> pa.Table:
    """The cell records of some files, by their path: as columns where their lines allow it, else line by line."""
    import pyarrow as pa

    parts = [_schema().empty_table()]
    waiting: list[tuple[str, CellLines]] = []

    def finish() -> None:
        if waiting:
            read_at_once = _columns([lines for _, lines in waiting])
            parts.append(_line_by_line([name for name, _ in waiting], read) if read_at_once is None else read_at_once)
            waiting.clear()

    size = 0
    # As the records are sorted: by corpus, method and job.
    for name in sorted(names, key=lambda name: name.split("/")):
        lines = _unparsed(name, read)
        if lines is None or (waiting and (size > CHUNK or lines.metrics != waiting[0][1].metrics)):
            finish()
            size = 0
        if lines is None:
            parts.append(_line_by_line([name], read))
        else:
            waiting.append((name, lines))
            size += len(lines.content)
    finish()
    return pa.concat_tables(parts)


def _unparsed(name: str, read: Callable[..., RecordFile]) -> CellLines | None:
    try:
        found = read(name, parsed=False)
        return cell_lines(found.job, found.unparsed)
    except MSABenchError:
        # Reading line by line says what is wrong.
        return None


def _columns(files: list[CellLines]) -> pa.Table | None:
    """The records of some files with the same metrics; None if their lines have to be read one by one."""
    import pyarrow as pa

    cells = read_columns(files)
    if cells is None:
        return None
    place = cells.column("place").combine_chunks()
    jobs = [_job_values(file.job, metric_set_in(file.job, set(file.metrics))) for file in files]
    columns = []
    for field in _schema():
        if field.name in jobs[0]:
            columns.append(pa.array([job[field.name] for job in jobs], field.type).take(place))
        elif field.name in cells.column_names:
            columns.append(cells.column(field.name).cast(field.type))
        else:
            columns.append(pa.nulls(len(place), field.type))
    return pa.table(columns, schema=_schema())


def _line_by_line(names: Iterable[str], read: Callable[..., RecordFile]) -> pa.Table:
    return _table(_rows_frame([row for name in names for row in _rows(read(name))]))


def _merged(table: pa.Table, kept: Set[str], fresh: pa.Table) -> pa.Table:
    """What an index holds of some jobs, and fresh records."""
    import pyarrow as pa
    import pyarrow.compute as pc

    same = table.filter(pc.is_in(table.column("job_id"), pa.array(sorted(kept), table.schema.field("job_id").type)))
    both = pa.concat_tables([same, fresh])
    # Arrow's own sort does not keep the order of a job's records.
    order = both.append_column("place", pa.array(range(both.num_rows))).sort_by(
        [(name, "ascending") for name in ("dataset", "method", "job_id", "place")]
    )
    return order.drop_columns("place")


def _frame(table: pa.Table) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    frame: pd.DataFrame = table.to_pandas()
    # Floats have no room for a seed of 64 bits.
    seeds: pd.Series[int] = table.column("mask_seed").to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    frame["mask_seed"] = seeds
    return frame


def _table(frame: pd.DataFrame) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


@cache
def _schema() -> pa.Schema:
    return _table(_rows_frame([])).schema


def _job_values(job: JobRecord, metric_set: str) -> dict[str, Any]:
    """What every record of a job has in common."""
    return {
        "job_id": job.key.job_id,
        **{name: getattr(job.key, name) for name in KEY_FIELDS},
        "unseen": "".join(letter for letter, name in LETTERS.items() if name in (job.unseen or ())),
        "split_sizes": "/".join(map(str, job.split_sizes or ())),
        "metric_set": metric_set,
        "external": METHOD in job.provenance,
    }


def _rows(read: RecordFile) -> Iterator[dict[str, Any]]:
    key = _job_values(read.job, read.metric_set)
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

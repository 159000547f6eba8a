"""The index of a store: its cell records as one table, derived from the record files. Free of torch.

Records out of an index are free of pandas as well. Arrow imports it for most conversions, so that columns are taken out
of Arrow's buffers.
"""

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
from msabench.results.tuned import study_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

    from msabench.results.records import Records

INDEX_NAME = ".index"
INDEX_VERSION = 4

KEY_FIELDS = tuple(f.name for f in fields(JobKey))
CELL_FIELDS = ("cell", "mask_seed", "mask_hash", "n", "collapsed", *(f"dropped_{m}" for m in LETTERS.values()), "blind")
JOB_FIELDS = ("unseen", "split_sizes", "metric_set", "external", "study")
"""Fields of ``JobRecord`` that tables need: modalities by their letters, and sizes as in ``1284/229/686``, which may be
empty; the metric set, which never is; whether the method came from outside msabench; id of the study that tuned the
settings, empty if none did."""

COLUMNS = ("job_id", *KEY_FIELDS, *JOB_FIELDS, *CELL_FIELDS, *METRICS)
"""Columns of ``ResultStore.frame``."""

CHUNK = 4 << 20
"""Bytes of cell lines that are read into columns at once: more takes more memory and no less time."""

Signature = dict[str, list[int]]
"""Path below the store -> [size, mtime in ns] of every record file."""


def indexed_table(folder: Path, files: Signature, read: Callable[..., RecordFile], *, indexed: bool = True) -> pa.Table:
    """The cell records of some files, out of the index as far as it is of the same files.

    Args:
        folder: The store's folder.
        files: Its files of finished jobs, as they are now.
        read: Reads a file, as ``record_file.read_record`` does.
        indexed: Whether to believe and to write the index.

    Returns:
        A table with the columns ``COLUMNS``, a job's rows one after another; texts may be dictionary-encoded.

    Raises:
        MSABenchError: A file is malformed; names the file and the line.
    """
    known, table = _load(folder) if indexed else ({}, None)
    if known == files and table is not None:
        return table
    same = {name for name, stamp in files.items() if known.get(name) == stamp}
    fresh = _fresh([name for name in files if name not in same], read)
    table = fresh if table is None or not same else _merged(table, {Path(name).stem for name in same}, fresh)
    if indexed:
        _save(folder, files, table)
    return table


def frame_of(table: pa.Table) -> pd.DataFrame:
    """A table of records as a frame with the columns ``COLUMNS``.

    Args:
        table: As ``indexed_table`` gives it.
    """
    import pandas as pd
    import pyarrow as pa

    table = table.cast(_schema())
    frame: pd.DataFrame = table.to_pandas()
    # Floats have no room for a seed of 64 bits.
    seeds: pd.Series[int] = table.column("mask_seed").to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    frame["mask_seed"] = seeds
    return frame


def records_of(*tables: pa.Table) -> Records:
    """The records of some tables.

    Args:
        *tables: As ``indexed_table`` gives them.
    """
    import numpy as np
    import pyarrow as pa

    from msabench.results.records import Records

    table = tables[0] if len(tables) == 1 else pa.concat_tables([table.cast(_schema()) for table in tables])
    job_id = _words(table.column("job_id"))[1]
    starts = np.flatnonzero(np.diff(job_id, prepend=-1))
    about = {name: _values(table.column(name))[starts].tolist() for name in ("job_id", *KEY_FIELDS, *JOB_FIELDS)}
    cells, cell = _words(table.column("cell"))
    seeds = table.column("mask_seed")
    return Records(
        jobs=[dict(zip(about, values, strict=True)) for values in zip(*about.values(), strict=True)],
        job=np.repeat(np.arange(len(starts)), np.diff(starts, append=len(job_id))),
        cells=cells,
        cell=cell,
        drawn=_there(seeds),
        mask_seed=_values(seeds),
        **{name: _values(table.column(name)) for name in ("mask_hash", "n", "collapsed", "blind")},
        columns={name: _values(table.column(name)) for name in METRICS},
        rows=np.arange(len(job_id)),
    )


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
        texts = [field.name for field in _schema() if field.type == pa.large_string()]
        file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
        table = file.read(use_threads=False).unify_dictionaries()
        about = json.loads(table.schema.metadata[b"msabench"])
        version, files = about["version"], about["files"]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        # Foreign: rebuilt.
        return {}, None
    bare = table.replace_schema_metadata(None)
    if version != INDEX_VERSION or not isinstance(files, dict) or bare.schema != _encoded():
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
    import pyarrow as pa

    return pa.Table.from_pylist([row for name in names for row in _rows(read(name))], schema=_schema())


def _merged(table: pa.Table, kept: Set[str], fresh: pa.Table) -> pa.Table:
    """What an index holds of some jobs, and fresh records."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = table.cast(_schema())
    same = table.filter(pc.is_in(table.column("job_id"), pa.array(sorted(kept), table.schema.field("job_id").type)))
    both = pa.concat_tables([same, fresh])
    # Arrow's own sort does not keep the order of a job's records.
    order = both.append_column("place", pa.array(range(both.num_rows))).sort_by(
        [(name, "ascending") for name in ("dataset", "method", "job_id", "place")]
    )
    return order.drop_columns("place")


@cache
def _schema() -> pa.Schema:
    import pyarrow as pa

    texts = {f.name for f in fields(JobKey) if f.type == "str"} | {"job_id", "cell", "mask_hash", *JOB_FIELDS}
    kinds = dict.fromkeys(texts, pa.large_string())
    kinds |= dict.fromkeys(("method_version", "seed", "n", "mask_seed"), pa.int64())
    kinds |= dict.fromkeys(("collapsed", "external"), pa.bool_())
    return pa.schema([(name, kinds.get(name, pa.float64())) for name in COLUMNS])


def _encoded() -> pa.Schema:
    """The schema with texts as places in a dictionary, of which there are few."""
    import pyarrow as pa

    return pa.schema(
        [
            field.with_type(pa.dictionary(pa.int32(), pa.string())) if field.type == pa.large_string() else field
            for field in _schema()
        ]
    )


def _words(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct texts of a column, and each row's place among them."""
    import pyarrow as pa

    array = (column if pa.types.is_dictionary(column.type) else column.dictionary_encode()).combine_chunks()
    return array.dictionary.to_pylist(), _numbers(array.indices).astype("int64")


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column as an array: texts as objects; where there is no value, NaN among floats and 0 among others."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_dictionary(column.type) or pa.types.is_large_string(column.type):
        words, places = _words(column)
        return np.array(words, dtype=object)[places]
    values = _numbers(column.combine_chunks())
    return np.where(_there(column), values, values.dtype.type("nan" if values.dtype.kind == "f" else 0))


def _numbers(array: pa.Array) -> NDArray[Any]:
    """Numbers or truth values as they lie in memory; anything where there is none."""
    import numpy as np
    import pyarrow as pa

    here = slice(array.offset, array.offset + len(array))
    data = array.buffers()[1]
    if pa.types.is_boolean(array.type):
        return _bits(data)[here]
    kind = "f" if pa.types.is_floating(array.type) else "i"
    return np.frombuffer(data, f"{kind}{array.type.bit_width // 8}")[here]


def _there(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Where a column has values."""
    import numpy as np

    array = column.combine_chunks()
    validity = array.buffers()[0]
    if validity is None:
        return np.ones(len(array), dtype=bool)
    return _bits(validity)[array.offset : array.offset + len(array)]


def _bits(buffer: pa.Buffer) -> NDArray[np.bool_]:
    import numpy as np

    return np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little").astype(bool)


def _job_values(job: JobRecord, metric_set: str) -> dict[str, Any]:
    """What every record of a job has in common."""
    return {
        "job_id": job.key.job_id,
        **{name: getattr(job.key, name) for name in KEY_FIELDS},
        "unseen": "".join(letter for letter, name in LETTERS.items() if name in (job.unseen or ())),
        "split_sizes": "/".join(map(str, job.split_sizes or ())),
        "metric_set": metric_set,
        "external": METHOD in job.provenance,
        "study": study_of(job.provenance),
    }


def _rows(read: RecordFile) -> Iterator[dict[str, Any]]:
    key = _job_values(read.job, read.metric_set)
    for cell in read.cells:
        dropped = {f"dropped_{modality}": share for modality, share in cell.dropped.items()}
        numbers = {**dropped, **cell.metrics, "blind": cell.blind}
        rest = {name: getattr(cell, name) for name in ("cell", "mask_seed", "mask_hash", "n", "collapsed")}
        # As large as integers may be in JSON, they are numbers like others.
        yield {**key, **rest, **{name: None if value is None else float(value) for name, value in numbers.items()}}

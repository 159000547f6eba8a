"""Cell lines of many files, read at once into columns. Free of torch.

``record_file.read_record`` makes an object of every line, which is most of what a store of thousands of files costs.
Here lines are taken as they are written, all in one form, and held against the same rules a column at a time. Lines of
any other form, and lines that break a rule, are not for this module: it returns None, and whoever asked reads the files
one by one, which takes every form of JSON and says what is wrong with which line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from msabench.errors import MSABenchError
from msabench.metrics.spec import METRICS, metric_keys
from msabench.missingness.conditions import LETTERS, SUBSETS
from msabench.results.checks import canonical_cell
from msabench.results.record import OPTIONAL, CellRecord, JobRecord

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_START = b'{"kind":"cell",'
_GROUPS = ("dropped", "metrics")
"""Fields that are mappings, in every line."""

_COUNTS = "subsets"
"""A mapping as well, in the lines of some cells alone."""

_SHAPE = b"{{}{}}\n"
_WITH_COUNTS = b"{{}{}{}}\n"
"""What is left of a line without everything but braces and its end."""

_ALL_BUT_SHAPE = bytes(byte for byte in range(256) if byte not in _SHAPE)


@dataclass(frozen=True)
class CellLines:
    """The cell lines of a file.

    Attributes:
        job: Its job, whose line has been checked.
        content: The lines, at least one, verified by their checksum if there is one.
        metrics: Metric keys of the first line, all of which the job's metric set has.
    """

    job: JobRecord
    content: bytes
    metrics: tuple[str, ...]


def cell_lines(job: JobRecord, content: bytes) -> CellLines | None:
    """A file's cell lines, if they may be of the form that is read here.

    Args:
        job: Its job, whose line has been checked.
        content: The lines as they stand in the file, verified by their checksum if there is one.
    """
    if job.status != "ok" or not content.startswith(_START) or not content.isascii():
        return None
    try:
        metrics = tuple(json.loads(content[: content.index(b"\n")])["metrics"])
        known = set(metrics) <= set(METRICS if job.metric_set is None else metric_keys(job.metric_set))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return CellLines(job, content, metrics) if known else None


def read_columns(files: Sequence[CellLines]) -> pa.Table | None:
    """Read the cell lines of several files.

    Args:
        files: Files with the same ``metrics``.

    Returns:
        One row per line, in order: ``place`` (int32, place of the file in ``files``), the fields of ``CellRecord`` that
        are no mappings, ``dropped_<modality>``, and the metrics; floats are null where a line has no value. None if a
        line is of another form, or is not what it must be.
    """
    import numpy as np
    import pyarrow as pa

    content = b"".join(file.content for file in files)
    counts = [file.content.count(b"\n") for file in files]
    rows = sum(counts)
    if not _one_object_a_line(content, rows):
        return None
    table = _parsed(content, files[0].metrics)
    if table is None or table.num_rows != rows:
        return None
    place = np.repeat(np.arange(len(files), dtype="int32"), counts)
    columns = {"place": pa.array(place)}
    for field, column in zip(table.schema, table.columns, strict=True):
        array = column.combine_chunks()
        if field.name == _COUNTS:
            # Checked by having been parsed; no table of records has them.
            continue
        if field.name in _GROUPS:
            prefix = "dropped_" if field.name == "dropped" else ""
            columns |= {f"{prefix}{inner.name}": array.field(number) for number, inner in enumerate(field.type)}
        else:
            columns[field.name] = array
    job_ids = pa.array([file.job.key.job_id for file in files]).take(columns["place"])
    if not columns["job_id"].equals(job_ids) or not _numbers_are_plain(columns.values(), content):
        return None
    return pa.table(columns) if _cells_are_canonical(columns["cell"], columns["mask_seed"], place) else None


def _one_object_a_line(content: bytes, rows: int) -> bool:
    """Whether each line is one object with two or three in it: what else an object may hold takes no braces.

    A quote inside of a text has a backslash before it. So what looks like a field's name and its colon is one, or the
    line is no JSON; and since the braces after ``dropped``, ``metrics`` and ``subsets`` are all that are opened within
    a line, the last one of it closes it. The parser, which would take two objects in one line, sees none of those.
    """
    shape = content.translate(None, _ALL_BUT_SHAPE)
    with_counts = shape.count(_WITH_COUNTS)
    return (
        shape.replace(_WITH_COUNTS, _SHAPE) == _SHAPE * rows
        and content.count(f'"{_COUNTS}":'.encode()) == with_counts
        and (not with_counts or content.count(f'"{_COUNTS}":{{'.encode()) == with_counts)
        and content.endswith(b"}\n")
        and content.count(b"}\n" + _START) == rows - 1
        and all(content.count(f'"{name}":{{'.encode()) == rows for name in _GROUPS)
        # In the columns a value that is lacking and one that is null look the same.
        and all(content.count(f'"{name}":'.encode()) == rows for name in _nullable_but_required())
    )


def _nullable_but_required() -> list[str]:
    return [field.name for field in fields(CellRecord) if _is_nullable(field.type) and field.name not in OPTIONAL]


def _is_nullable(annotation: Any) -> bool:
    return str(annotation).endswith("| None")


def _parsed(content: bytes, metrics: Sequence[str]) -> pa.Table | None:
    """The lines by their top-level fields; None if a field is unknown, repeated, of another type or lacking."""
    import pyarrow as pa
    import pyarrow.json

    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    types |= {
        name: pa.struct([(key, pa.float64()) for key in keys])
        for name, keys in zip(_GROUPS, (LETTERS.values(), metrics), strict=True)
    }
    types[_COUNTS] = pa.struct([(letters, pa.int64()) for letters in SUBSETS])
    kinds = {
        field.name: types[field.name if field.name in types else str(field.type).partition(" ")[0]]
        for field in fields(CellRecord)
    }
    try:
        table = pa.json.read_json(
            pa.BufferReader(content),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=len(content) + 1),
            parse_options=pa.json.ParseOptions(
                explicit_schema=pa.schema({"kind": pa.string(), **kinds}), unexpected_field_behavior="error"
            ),
        ).drop_columns("kind")
    except pa.ArrowException:
        return None
    lacking = [
        field.name
        for field in fields(CellRecord)
        if not _is_nullable(field.type) and table.column(field.name).null_count
    ]
    return None if lacking else table


def _numbers_are_plain(columns: Iterable[pa.Array], content: bytes) -> bool:
    """Whether every number is finite, and such that Python's parser, and its rule of 64 bits, give the same."""
    import numpy as np
    import pyarrow as pa

    zeros = False
    for column in columns:
        if not pa.types.is_integer(column.type) and not pa.types.is_floating(column.type):
            continue
        values = column.drop_null().to_numpy(zero_copy_only=False)
        # An integer in a column of floats is held against the rule as well, and not told from 1e19 here.
        if not np.all(np.abs(values.astype("float64")) < 2.0**63):
            return False
        zeros = zeros or bool(np.any(np.signbit(values) & (values == 0)))
    # Python reads -0 as the integer without a sign.
    return not zeros or (b":-0," not in content and b":-0}" not in content)


def _cells_are_canonical(cells: pa.Array, mask_seeds: pa.Array, place: np.ndarray[Any, Any]) -> bool:
    """Whether cells have their canonical names, and no file has one twice with the same mask seed."""
    import numpy as np

    names, seeds = cells.dictionary_encode(), mask_seeds.dictionary_encode()
    try:
        if any(canonical_cell(name) != name for name in names.dictionary.to_pylist()):
            return False
    except MSABenchError:
        return False
    seed = seeds.indices.fill_null(len(seeds.dictionary)).to_numpy()
    cell = names.indices.to_numpy()
    code = (place.astype("int64") * len(names.dictionary) + cell) * (len(seeds.dictionary) + 1) + seed
    return len(np.unique(code)) == len(code)

"""Files of predictions that were made elsewhere, as ``msabench score`` reads them: parquet or CSV. Free of torch.

A row per cell, mask seed and clip of the test split, in any order. Columns: ``id`` and ``cell`` (text), ``mask_seed``
(whole number, empty in cells without random masks), ``pred`` (for emotions ``pred_<emotion>_0`` and
``pred_<emotion>_1``, scores of absent and present, of which the larger one counts), and, unless a manifest of
``msabench masks export`` says it, ``mask_hash`` (text), the hash of the masks under which the row was predicted.
``label`` (``label_<emotion>``) may be there and must then be those of the corpus, so that predictions from a store of
msabench can be read as they are.

A parquet file may say in its metadata, as JSON under the key ``msabench``, which protocol it is of: a mapping with any
of ``PROTOCOL_KEYS``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from msabench.data.info import EMOTIONS
from msabench.errors import MSABenchError, nearest
from msabench.files import replacing
from msabench.results.predictions import MAX_BYTES, MAX_NAME, MAX_ROWS, Evaluation

PROTOCOL_KEYS = ("dataset", "revision", "features", "level", "lengths", "token_fill")
"""What a file may say of its protocol; values are text, as in ``JobKey``."""

METADATA_KEY = b"msabench"

SUFFIXES = (".parquet", ".csv")

_WORDS = ("id", "cell", "mask_hash")
SCORES = ("pred",)
EMOTION_SCORES = tuple(f"pred_{emotion}_{outcome}" for emotion in EMOTIONS for outcome in (0, 1))
LABELS = ("label",)
EMOTION_LABELS = tuple(f"label_{emotion}" for emotion in EMOTIONS)

_INDEX = re.compile(r"|__index_level_\d+__")
"""Columns that pandas writes unasked."""


@dataclass(frozen=True)
class ScoredFile:
    """A file as it was read. R rows.

    Attributes:
        path: The file.
        protocol: What it says of its protocol, some of ``PROTOCOL_KEYS``; empty if nothing.
        table: Its rows: text columns as dictionaries, all others float64.
    """

    path: Path
    protocol: dict[str, str]
    table: pa.Table

    @property
    def is_hashed(self) -> bool:
        """Whether it says on which masks its predictions were made."""
        return "mask_hash" in self.table.column_names


def write(path: Path, evaluation: Evaluation, protocol: Mapping[str, str] | None = None) -> None:
    """Write predictions for ``msabench score``, atomically. The same evaluation gives the same bytes.

    Args:
        path: The file, ending in .parquet or .csv; its folder is made, a file that is there is replaced.
        evaluation: What was predicted. Labels are not written.
        protocol: The protocol, any of ``PROTOCOL_KEYS``; kept in a parquet file, for which CSV has no place.

    Raises:
        MSABenchError: The suffix is another one, or a key of the protocol is unknown.
    """
    _suffix(path)
    said = _checked_protocol(path, dict(protocol or {}))
    n, cells = len(evaluation.ids), evaluation.cells
    seeds = [entry.mask_seed for entry in cells]
    columns: dict[str, Any] = {
        "id": pa.array(evaluation.ids * len(cells), pa.string()),
        "cell": pa.array(np.repeat([str(entry.cell) for entry in cells], n), pa.string()),
        "mask_seed": pa.array([seed for seed in seeds for _ in range(n)], pa.int64()),
    }
    preds = np.stack([entry.preds for entry in cells]).astype(np.float32).reshape(len(cells) * n, -1)
    names = SCORES if preds.shape[1] == 1 else EMOTION_SCORES
    columns |= {name: preds[:, number] for number, name in enumerate(names)}
    columns["mask_hash"] = pa.array(np.repeat([entry.mask_hash for entry in cells], n), pa.string())
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        if path.suffix == ".csv":
            pyarrow.csv.write_csv(table, stream)
        else:
            metadata = {METADATA_KEY: json.dumps(said, sort_keys=True)} if said else None
            pq.write_table(table.replace_schema_metadata(metadata), stream, compression="zstd")


def read(path: Path) -> ScoredFile:
    """Read a file of predictions from elsewhere.

    Args:
        path: A file that ends in .parquet or .csv.

    Raises:
        MSABenchError: There is no such file, it is too large or cannot be read, or a column is missing, unknown or of
            the wrong type.
    """
    suffix = _suffix(path)
    if not path.is_file():
        raise MSABenchError(f"there is no file {path}; give the predictions to score, a parquet or CSV file")
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise MSABenchError(f"{path} has {size} bytes; allowed are {MAX_BYTES}")
        content = path.read_bytes()
        table = _of_csv(content) if suffix == ".csv" else _of_parquet(path, content)
        protocol = _protocol_of(path, table)
        table = table.select([n for n, name in enumerate(table.column_names) if not _INDEX.fullmatch(name)])
        _check_columns(path, table)
        table = pa.table({name: _column(path, name, table[name]) for name in table.column_names})
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MSABenchError(f"{path} cannot be read as {suffix[1:]}: {reason}") from error
    return ScoredFile(path, protocol, table)


def _suffix(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise MSABenchError(f"{path} is not allowed as a file of predictions; give one that ends in .parquet or .csv")
    return path.suffix


def _of_csv(content: bytes) -> pa.Table:
    # Ids such as 007 are text, and a column without a number in its first rows is not.
    numbers = dict.fromkeys(("mask_seed", *SCORES, *EMOTION_SCORES, *LABELS, *EMOTION_LABELS), pa.float64())
    options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(_WORDS, pa.string()) | numbers)
    return pyarrow.csv.read_csv(pa.BufferReader(content), convert_options=options)


def _of_parquet(path: Path, content: bytes) -> pa.Table:
    file = pq.ParquetFile(pa.BufferReader(content))
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    unpacked = sum(group.column(n).total_uncompressed_size for group in groups for n in range(group.num_columns))
    if unpacked > MAX_BYTES:
        raise MSABenchError(f"{path} unpacks to {unpacked} bytes; allowed are {MAX_BYTES}")
    if file.metadata.num_rows > MAX_ROWS:
        raise _too_long(path, file.metadata.num_rows)
    return file.read()


def _too_long(path: Path, rows: int) -> MSABenchError:
    return MSABenchError(f"{path} has {rows} rows; allowed are 1 to {MAX_ROWS}")


def _check_columns(path: Path, table: pa.Table) -> None:
    names = table.column_names
    if not 0 < table.num_rows <= MAX_ROWS:
        raise _too_long(path, table.num_rows)
    allowed = ("id", "cell", "mask_seed", *SCORES, *EMOTION_SCORES, "mask_hash", *LABELS, *EMOTION_LABELS)
    for name in names:
        if names.count(name) > 1:
            raise MSABenchError(f"{path} has the column {name!r} {names.count(name)} times; give it once")
        if name not in allowed:
            close = nearest(name, allowed)
            hint = f"; did you mean {close}?" if close else ""
            usual = "id, cell, mask_seed, pred (emotions: pred_<emotion>_0 and _1), mask_hash"
            raise MSABenchError(f"{path} has the unknown column {name[:100]!r}; allowed: {usual}{hint}")
    for name in ("id", "cell", "mask_seed"):
        if name not in names:
            raise MSABenchError(f"{path} has no column {name!r}; it has: {', '.join(names)}")


def _column(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """A column as ``ScoredFile`` has it."""
    if name not in _WORDS:
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
            raise MSABenchError(f"{path} has {kind} in column {name!r}; expected numbers")
        return column.cast(pa.float64())
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise MSABenchError(f"{path} has {kind} in column {name!r}; expected text")
    if column.null_count:
        raise MSABenchError(f"{path} has {column.null_count} rows without {name!r}; give it in every row")
    words = column.cast(pa.string()).dictionary_encode().combine_chunks()
    longest = max(map(len, words.dictionary.to_pylist()), default=0)
    if longest > MAX_NAME:
        raise MSABenchError(f"{path} has text of {longest} characters in column {name!r}; allowed are {MAX_NAME}")
    return words


def _protocol_of(path: Path, table: pa.Table) -> dict[str, str]:
    text = (table.schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        return {}
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MSABenchError(f"{path} has metadata under the key msabench that are not valid JSON: {error}") from error
    return _checked_protocol(path, said)


def _checked_protocol(path: Path, said: Any) -> dict[str, str]:
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise MSABenchError(f"{path} has a protocol that is no mapping of words to words: {str(said)[:100]}")
    for name in said:
        if name not in PROTOCOL_KEYS:
            raise MSABenchError(
                f"{path} has the unknown word {name!r} in its protocol; allowed: {', '.join(PROTOCOL_KEYS)}"
            )
    return said

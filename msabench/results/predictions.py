"""Stored predictions: one parquet file per job, a row per (cell, mask seed, clip). Free of torch.

Columns: ``id`` and ``cell`` (strings), ``mask_seed`` (int64, null for cells without random masks), and for scores
``label`` and ``pred`` (float32), for emotions ``label_<emotion>`` (int64) and ``pred_<emotion>_0``,
``pred_<emotion>_1`` (float32 logits of absent and present).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msabench.data.info import EMOTIONS
from msabench.errors import MSABenchError
from msabench.files import replacing
from msabench.metrics import functional
from msabench.missingness.conditions import Cell
from msabench.results.places import predictions_file
from msabench.results.record import CellRecord, JobKey
from msabench.results.record_file import recorded_checksum

Floats = NDArray[np.float32]

MAX_ROWS = 5_000_000
"""Rows of a file: the paper grid with three mask seeds on 147,000 clips."""

MAX_BYTES = 1 << 28
"""Bytes of a file, and of what it unpacks to."""

MAX_NAME = 1000
"""Bytes of an id or a cell's name."""


@dataclass
class CellPredictions:
    """What a method predicted in one cell, with what is known of the cell's masks. N clips in file order.

    Attributes:
        cell: The test situation.
        mask_seed: Seed of the masks; None for cells without random masks.
        preds: float32 ``(N,)`` scores, or ``(N, 4, 2)`` logits of the emotions.
        mask_hash: Hash of the masks, 16 hex digits.
        dropped: modality -> share of existing frames that were dropped, in [0, 1].
        representation: float32 ``(N, H)``, the joint representation, if it was asked for.
        blind: Share of clips without any observed frame, in [0, 1]; None if it was not computed.
        missing_pairs: Share of missing (clip, modality) pairs, see ``CellRecord``; None likewise.
        subsets: Clips by what they have, see ``CellRecord``; None likewise.
    """

    cell: Cell
    mask_seed: int | None
    preds: Floats
    mask_hash: str
    dropped: dict[str, float]
    representation: Floats | None = None
    blind: float | None = None
    missing_pairs: float | None = None
    subsets: dict[str, int] | None = None


@dataclass
class Evaluation:
    """A method's predictions over a grid.

    Attributes:
        metric_set: Which metrics apply: ``sentiment``, ``sims`` or ``emotions``.
        ids: Clip ids, N.
        labels: float32 ``(N,)``, or int64 ``(N, 4)`` for the emotions.
        cells: One entry per cell, and per mask seed where masks are random, in table order.
        seconds: Wall time of everything, metrics apart.
        processor_seconds: Processor time of the same, user and system, over all threads of the process; with an
            accelerator the host's. None of predictions that were not made here.
    """

    metric_set: str
    ids: list[str]
    labels: NDArray[Any]
    cells: list[CellPredictions]
    seconds: float
    processor_seconds: float | None = None

    def records(self, job_id: str) -> list[CellRecord]:
        """The rows to store for a job: metrics of every entry of ``cells``."""
        return [
            CellRecord(
                job_id=job_id,
                cell=str(entry.cell),
                mask_seed=entry.mask_seed,
                mask_hash=entry.mask_hash,
                n=len(self.ids),
                dropped=entry.dropped,
                collapsed=functional.is_collapsed(self.metric_set, self.labels, entry.preds),
                metrics=stored_metrics(self.metric_set, self.labels, entry.preds),
                blind=entry.blind,
                missing_pairs=entry.missing_pairs,
                subsets=entry.subsets,
            )
            for entry in self.cells
        ]


@dataclass
class StoredCell:
    """Predictions of one (cell, mask seed). N clips.

    Attributes:
        cell: Cell name.
        mask_seed: Seed of the masks; None for cells without random masks.
        ids: Clip ids.
        labels: float32 ``(N,)``, or int64 ``(N, 4)`` for the emotions.
        preds: float32 ``(N,)`` scores, or ``(N, 4, 2)`` logits.
    """

    cell: str
    mask_seed: int | None
    ids: list[str]
    labels: NDArray[Any]
    preds: NDArray[np.float32]


_WORD = pa.dictionary(pa.int32(), pa.string())
_COLUMNS = {"id": _WORD, "cell": _WORD, "mask_seed": pa.int64()}
_SCORES = {"label": pa.float32(), "pred": pa.float32()}
_EMOTIONS = {
    **{f"label_{emotion}": pa.int64() for emotion in EMOTIONS},
    **{f"pred_{emotion}_{outcome}": pa.float32() for emotion in EMOTIONS for outcome in (0, 1)},
}


def path_of(store: Path, key: JobKey) -> Path:
    """Where a store keeps a job's predictions."""
    return predictions_file(store, key.dataset, key.method, key.job_id)


def write(path: Path, evaluation: Evaluation) -> None:
    """Write an evaluation's predictions, atomically. The same evaluation gives the same bytes.

    Args:
        path: The file; its folder is made. A file that is there is replaced.
        evaluation: What was predicted.
    """
    n, cells = len(evaluation.ids), evaluation.cells
    numbers = np.repeat(np.arange(len(cells), dtype=np.int32), n)
    clips = np.tile(np.arange(n, dtype=np.int32), len(cells))
    seeds = np.array([0 if entry.mask_seed is None else entry.mask_seed for entry in cells], dtype=np.int64)
    no_seed = np.array([entry.mask_seed is None for entry in cells], dtype=bool)
    names = list(dict.fromkeys(str(entry.cell) for entry in cells))
    cell_numbers = np.array([names.index(str(entry.cell)) for entry in cells], dtype=np.int32)
    columns: dict[str, Any] = {
        "id": pa.DictionaryArray.from_arrays(clips, evaluation.ids),
        "cell": pa.DictionaryArray.from_arrays(cell_numbers[numbers], names),
        "mask_seed": pa.array(seeds[numbers], mask=no_seed[numbers]),
    }
    preds = np.stack([entry.preds for entry in cells]).astype(np.float32)
    if evaluation.labels.ndim == 1:
        columns["label"] = np.tile(evaluation.labels.astype(np.float32), len(cells))
        columns["pred"] = preds.reshape(-1)
    else:
        for number, emotion in enumerate(EMOTIONS):
            columns[f"label_{emotion}"] = np.tile(evaluation.labels[:, number], len(cells))
            for outcome in (0, 1):
                columns[f"pred_{emotion}_{outcome}"] = preds[:, :, number, outcome].reshape(-1)
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        pq.write_table(table, stream, compression="zstd")


def read(path: Path) -> list[StoredCell]:
    """Read a job's predictions, in the order they were written.

    The file is read only as far as its size, its number of rows and its columns are admissible, since stores also come
    from contributors.

    Args:
        path: A file that ``write`` made.

    Raises:
        MSABenchError: There is no such file, it holds no predictions, or it is not what the record beside it has the
            checksum of.
    """
    if not path.is_file():
        raise MSABenchError(f"there are no predictions {path}; predictions stay on the machine that made them")
    expected = recorded_checksum(path)
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise _unfit(path, f"it has {size} bytes; allowed are {MAX_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise MSABenchError(f"{path} cannot be read: {error.strerror or error}") from error
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise MSABenchError(
            f"{path} is damaged: it is not the file that its record has the checksum of; restore it, or delete it with "
            "its record and run the job again"
        )
    try:
        return _cells(path, content)
    except (pa.ArrowException, OSError, KeyError, ValueError, MemoryError) as error:
        raise _unfit(path, (str(error).splitlines() or [type(error).__name__])[0]) from error


def _cells(path: Path, content: bytes) -> list[StoredCell]:
    file = pq.ParquetFile(pa.BufferReader(content))
    about, schema = file.metadata, file.schema_arrow
    allowed = [_COLUMNS | columns for columns in (_SCORES, _EMOTIONS)]
    if dict(zip(schema.names, schema.types, strict=True)) not in allowed or len(schema) != len(set(schema.names)):
        raise _unfit(path, f"its columns are {', '.join(f'{field.name} ({field.type})' for field in schema)}"[:1000])
    if not 0 < about.num_rows <= MAX_ROWS:
        raise _unfit(path, f"it has {about.num_rows} rows; allowed are 1 to {MAX_ROWS}")
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    unpacked = sum(group.column(number).total_uncompressed_size for group in groups for number in range(len(schema)))
    if unpacked > MAX_BYTES:
        raise _unfit(path, f"it unpacks to {unpacked} bytes; allowed are {MAX_BYTES}")
    table = file.read()
    for name in schema.names:
        if name != "mask_seed" and table[name].null_count:
            raise _unfit(path, f"{name} is empty in {table[name].null_count} rows")
    labels, preds = _values(table)
    cell_names, cells = _words(path, table["cell"])
    id_names, ids = _words(path, table["id"])
    no_seed = table["mask_seed"].is_null().to_numpy()
    seeds = table["mask_seed"].fill_null(0).to_numpy()
    changes = (np.diff(cells) != 0) | (np.diff(seeds) != 0) | (np.diff(no_seed))
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(cells)]
    return [
        StoredCell(
            cell_names[cells[start]],
            None if no_seed[start] else int(seeds[start]),
            id_names[ids[start:end]].tolist(),
            labels[start:end],
            preds[start:end],
        )
        for start, end in pairwise(bounds)
    ]


def _words(path: Path, column: pa.ChunkedArray) -> tuple[NDArray[np.object_], NDArray[np.int32]]:
    """The different words of a dictionary column, and which of them each row has."""
    whole = column.unify_dictionaries().combine_chunks()
    words = np.array(whole.dictionary.to_pylist(), dtype=object)
    longest = max(map(len, words), default=0)
    if longest > MAX_NAME:
        raise _unfit(path, f"it has a name of {longest} characters; allowed are {MAX_NAME}")
    return words, whole.indices.to_numpy()


def _unfit(path: Path, why: str) -> MSABenchError:
    return MSABenchError(f"{path} holds no predictions of msabench ({why})")


def stored_metrics(metric_set: str, labels: NDArray[Any], preds: NDArray[Any]) -> dict[str, float | None]:
    """Metrics as records keep them: unrounded, NaN as None.

    Args:
        metric_set: ``sentiment``, ``sims`` or ``emotions``.
        labels: ``(N,)`` scores or ``(N, 4)`` emotions.
        preds: ``(N,)`` scores or ``(N, 4, 2)`` logits.
    """
    values = functional.compute(metric_set, labels, preds)
    return {key: None if math.isnan(value) else float(value) for key, value in values.items()}


def metrics_from_predictions(path: Path, metric_set: str) -> dict[tuple[str, int | None], dict[str, float | None]]:
    """Recompute the metrics of a job's records from its stored predictions.

    Args:
        path: The job's file.
        metric_set: ``sentiment``, ``sims`` or ``emotions``.

    Returns:
        (cell, mask seed) -> metrics, exactly as in the records.
    """
    return {
        (entry.cell, entry.mask_seed): stored_metrics(metric_set, entry.labels, entry.preds) for entry in read(path)
    }


def _values(table: pa.Table) -> tuple[NDArray[Any], NDArray[np.float32]]:
    if "pred" in table.column_names:
        return table["label"].to_numpy(), table["pred"].to_numpy()
    labels = np.stack([table[f"label_{emotion}"].to_numpy() for emotion in EMOTIONS], axis=1)
    logits = [[table[f"pred_{emotion}_{outcome}"].to_numpy() for outcome in (0, 1)] for emotion in EMOTIONS]
    return labels, np.moveaxis(np.array(logits, dtype=np.float32), -1, 0)

"""Stored predictions: one parquet file per job, a row per (cell, mask seed, clip). Free of torch.

Columns: ``id`` and ``cell`` (strings), ``mask_seed`` (int64, null for cells without random holes), and for scores
``label`` and ``pred`` (float32), for emotions ``label_<emotion>`` (int64) and ``pred_<emotion>_0``,
``pred_<emotion>_1`` (float32 logits of absent and present).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msabench.data.files import replacing
from msabench.data.info import EMOTIONS
from msabench.errors import MSABenchError
from msabench.evaluation.record import JobKey
from msabench.metrics import functional

if TYPE_CHECKING:
    from msabench.evaluation.evaluate import Evaluation


@dataclass
class StoredCell:
    """Predictions of one (cell, mask seed). N clips.

    Attributes:
        cell: Cell name.
        mask_seed: Seed of the holes; None for cells without random holes.
        ids: Clip ids.
        labels: float32 ``(N,)``, or int64 ``(N, 4)`` for the emotions.
        preds: float32 ``(N,)`` scores, or ``(N, 4, 2)`` logits.
    """

    cell: str
    mask_seed: int | None
    ids: list[str]
    labels: NDArray[Any]
    preds: NDArray[np.float32]


def path_of(store: Path, key: JobKey) -> Path:
    """Where a store keeps a job's predictions."""
    return store / "predictions" / key.dataset / key.method / f"{key.job_id}.parquet"


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

    Args:
        path: A file that ``write`` made.

    Raises:
        MSABenchError: There is no such file or it holds no predictions.
    """
    if not path.is_file():
        raise MSABenchError(f"there are no predictions {path}; predictions stay on the machine that made them")
    try:
        table = pq.read_table(path)
        cells, ids = table["cell"].to_pylist(), table["id"].to_pylist()
        seeds = table["mask_seed"].to_pylist()
        labels, preds = _values(table)
    except (pa.ArrowInvalid, KeyError) as error:
        raise MSABenchError(f"{path} holds no predictions of msabench ({str(error).splitlines()[0]})") from error
    groups = list(zip(cells, seeds, strict=True))
    starts = [row for row in range(len(groups)) if row == 0 or groups[row] != groups[row - 1]]
    return [
        StoredCell(cells[start], seeds[start], ids[start:end], labels[start:end], preds[start:end])
        for start, end in zip(starts, [*starts[1:], len(groups)], strict=True)
    ]


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

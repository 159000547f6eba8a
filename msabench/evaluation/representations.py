"""Stored joint representations: one safetensors file per job, beside its predictions. Free of torch.

A tensor per (cell, mask seed), ``(N, H)``, named by the cell and, where masks are random, the mask seed:
``inter/la``, ``intra/0.5@0``. float16, or float32 where a value is too large for it. The metadata hold the clip ids.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from msabench.errors import MSABenchError
from msabench.files import replacing
from msabench.results.predictions import read as read_predictions

if TYPE_CHECKING:
    from msabench.results.predictions import CellPredictions, Evaluation

SUFFIX = ".representations.safetensors"
IDS_KEY = "msabench_ids"


@dataclass(frozen=True)
class Representations:
    """What a file holds. N clips.

    Attributes:
        ids: Clip ids, in the order of the predictions.
        cells: (cell name, mask seed) -> float16 or float32 ``(N, H)``; the seed is None for cells without random masks.
    """

    ids: list[str]
    cells: dict[tuple[str, int | None], NDArray[np.floating]]


def beside(predictions: Path) -> Path:
    """Where a store keeps a job's representations, beside its predictions."""
    return predictions.with_name(predictions.stem + SUFFIX)


def write(path: Path, evaluation: Evaluation) -> None:
    """Write an evaluation's representations, atomically. The same evaluation gives the same bytes.

    Args:
        path: The file; its folder is made. A file that is there is replaced.
        evaluation: What was evaluated, with representations kept.

    Raises:
        MSABenchError: Representations were not kept.
    """
    from safetensors.numpy import save

    tensors = {_name(entry): _packed(entry) for entry in evaluation.cells}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        stream.write(save(tensors, metadata={IDS_KEY: json.dumps(evaluation.ids)}))


def read(path: Path) -> Representations:
    """Read a job's representations.

    Args:
        path: A file that ``write`` made.

    Raises:
        MSABenchError: There is no such file or it holds no representations.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MSABenchError(
            f"there are no representations {path}; keep them with `msabench run --suite SUITE --keep-checkpoints` and "
            "`msabench evaluate --checkpoint runs/.../best.ckpt --grid intra/0.5 --keep representations --store STORE`"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            ids = json.loads(file.metadata()[IDS_KEY])
            cells = {}
            for name in file.keys():
                cell, _, seed = name.partition("@")
                cells[cell, int(seed) if seed else None] = file.get_tensor(name)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise MSABenchError(f"{path} holds no representations of msabench ({str(error).splitlines()[0]})") from error
    return Representations(ids, cells)


def require_same(path: Path, evaluation: Evaluation, checkpoint: Path) -> None:
    """Refuse a checkpoint that predicts something else than what is recorded of its job.

    Args:
        path: The job's stored predictions.
        evaluation: What the checkpoint predicts.
        checkpoint: The checkpoint, for the message.

    Raises:
        MSABenchError: The predictions of a cell that both have differ by more than rounding, or are not there.
    """
    stored = {(entry.cell, entry.mask_seed): entry for entry in read_predictions(path)}
    for entry in evaluation.cells:
        known = stored.get((str(entry.cell), entry.mask_seed))
        if known is None:
            continue
        if known.ids != evaluation.ids or not np.allclose(known.preds, entry.preds, rtol=1e-3, atol=1e-3):
            raise MSABenchError(
                f"{checkpoint} predicts something else in cell {entry.cell} than {path} holds of its job; "
                "keep representations of the checkpoint that was recorded"
            )


def _name(entry: CellPredictions) -> str:
    return str(entry.cell) if entry.mask_seed is None else f"{entry.cell}@{entry.mask_seed}"


def _packed(entry: CellPredictions) -> NDArray[np.floating]:
    if entry.representation is None:
        raise MSABenchError(f"no representations of cell {entry.cell} were kept")
    fits = np.abs(entry.representation).max(initial=0.0) <= np.finfo(np.float16).max
    return np.ascontiguousarray(entry.representation, dtype=np.float16 if fits else np.float32)

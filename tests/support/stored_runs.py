"""Made-up jobs with records and predictions, for what is computed from a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.missingness.conditions import GRIDS, Cell, distinct
from msabench.results import predictions
from msabench.results.predictions import CellPredictions, Evaluation
from msabench.results.record import JobRecord
from msabench.results.store import ResultStore
from tests.support.records import key

PAPER = distinct(GRIDS["paper"])

Predict = Callable[[NDArray[Any], Cell, np.random.Generator], NDArray[np.float64]]


def noisy(noise: float, bias: float = 0.0) -> Predict:
    """Labels with noise that grows with what is missing."""

    def predict(labels: NDArray[Any], cell: Cell, rng: np.random.Generator) -> NDArray[np.float64]:
        missing = 1 + float(cell.rate) + (3 - len(cell.available)) / 2
        return labels + bias + noise * missing * rng.normal(size=len(labels))

    return predict


def labels_of(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Scores in [-3, 3] with zeros among them."""
    return (np.random.default_rng(seed).integers(-15, 16, n) / 5).astype(np.float32)


def add_runs(
    folder: Path,
    method: str,
    predict: Predict,
    *,
    seeds: Iterable[int] = (1, 2, 3),
    n: int = 120,
    cells: Iterable[Cell] = PAPER,
    mask_seeds: tuple[int, ...] = (0, 1),
    labels: NDArray[Any] | None = None,
    metric_set: str = "sentiment",
    record: Callable[[JobRecord], None] = lambda job: None,
    **changes: object,
) -> list[JobRecord]:
    """Add a job per training seed, with records that follow from its predictions.

    ``changes`` go to the key; ``record`` may fill in more of the job. Where ``labels`` are not given they are
    ``labels_of(n)``.
    """
    store, labels = ResultStore(folder), labels_of(n) if labels is None else labels
    n = len(labels)
    cells, jobs = list(cells), []
    for seed in seeds:
        job = JobRecord(key(**{"dataset": "synth", "method": method, "seed": seed, **changes}))
        record(job)
        rng = np.random.default_rng([seed, *job.key.job_id.encode()])
        entries = [
            CellPredictions(
                cell,
                mask,
                predict(labels, cell, rng).astype(np.float32),
                f"{cell}:{mask}",
                dict.fromkeys(("text", "audio", "vision"), float(cell.rate)),
            )
            for cell in cells
            for mask in (mask_seeds if cell.is_random else (None,))
        ]
        evaluation = Evaluation(metric_set, [f"clip{i}" for i in range(n)], labels, entries, 1.0)
        predictions.write(predictions.path_of(folder, job.key), evaluation)
        store.add(job, evaluation.records(job.key.job_id))
        jobs.append(job)
    return jobs

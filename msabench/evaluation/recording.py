"""From an evaluated checkpoint to a record in a store. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msabench.evaluation.origin import Origin
from msabench.results import predictions
from msabench.results.claims import sole_writer
from msabench.results.job_identity import portable
from msabench.results.record import CellRecord, JobRecord
from msabench.results.store import ResultStore

if TYPE_CHECKING:
    from msabench.data.datamodule import MSADataModule
    from msabench.methods.base import MSAMethod
    from msabench.results.predictions import Evaluation


def record_of(
    made_by: Origin, method: MSAMethod, datamodule: MSADataModule, evaluation: Evaluation, mask_seeds: Sequence[int]
) -> JobRecord:
    """The job line of a checkpoint that was evaluated.

    Args:
        made_by: The job that made it.
        method: The method that was rebuilt from it.
        datamodule: The data module that was rebuilt from it.
        evaluation: What it predicts.
        mask_seeds: Seeds of the test masks.
    """
    return JobRecord(
        key=made_by.key,
        config=portable(made_by.config),
        eval_seconds=evaluation.seconds,
        eval_processor_seconds=evaluation.processor_seconds,
        mask_seeds=list(mask_seeds),
        padding=method.padding or None,
        metric_set=evaluation.metric_set,
        **datamodule.corpus.record_fields(),
        **made_by.finished.record_fields(),
    )


def add_record(store: Path, record: JobRecord, cells: list[CellRecord], evaluation: Evaluation) -> Path:
    """Add a record with its predictions to a store, or neither; the record comes last.

    Args:
        store: The store's folder.
        record: The job.
        cells: Its cells.
        evaluation: Its predictions.

    Returns:
        The record's file.

    Raises:
        MSABenchError: The job is recorded already, another process is running it, or the store cannot be written.
    """
    kept = predictions.path_of(store, record.key)
    with sole_writer(store, record.key.job_id):
        predictions.write(kept, evaluation)
        try:
            return ResultStore(store).add(record, cells)
        except BaseException:
            # Predictions of a job that is recorded are never those that were just written.
            if not ResultStore(store).has(record.key.job_id):
                kept.unlink(missing_ok=True)
            raise

"""Validation, test and prediction: never overridden, so that every number in a table went through the same lines."""

from __future__ import annotations

from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.engine.steps import Steps
from msabench.metrics.collection import PredictionMetrics


class EvaluationSteps(Steps):
    """Predicts from what a deployed model sees, and computes metrics over whole splits.

    Attributes:
        test_results: Cell -> metric -> value, after a test.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self._val_metrics = PredictionMetrics(spec.metric_set)
        self._test_metrics: dict[int, PredictionMetrics] = {}
        self.test_results: dict[str, dict[str, float]] = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Predict one validation batch."""
        assert batch.labels is not None
        self._val_metrics.update(self(batch.for_inference()).pred, batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/task`` (the selection criterion) and all metrics over the whole split."""
        pred, labels = self._val_metrics.predictions()
        val_task = self.task_loss(pred, labels)
        self.log("val/task", val_task, prog_bar=True)
        self.log_dict({f"val/{key}": value for key, value in self._val_metrics.compute().items()})
        self._val_metrics.reset()
        self.step_plateaus(val_task)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Predict one test batch; one data loader per cell."""
        assert batch.labels is not None
        metrics = self._test_metrics.setdefault(dataloader_idx, PredictionMetrics(self.spec.metric_set))
        metrics.update(self(batch.for_inference()).pred, batch.labels)

    def on_test_epoch_end(self) -> None:
        """Compute every cell's metrics; loggers get them as ``test/<cell>/<metric>``."""
        cells = self.trainer.datamodule.cells  # type: ignore[attr-defined]
        self.test_results = {str(cells[i]): metrics.compute() for i, metrics in sorted(self._test_metrics.items())}
        self._test_metrics = {}
        flat = {f"test/{cell}/{key}": v for cell, values in self.test_results.items() for key, v in values.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(flat)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Predictions of one batch."""
        return self(batch.for_inference()).pred

"""The one metric object: keeps predictions and labels, computes everything from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from msabench.errors import MSABenchError
from msabench.metrics.functional import compute
from msabench.metrics.spec import metric_keys


class PredictionMetrics(Metric):
    """Collects a split's predictions and computes a metric set from them.

    One object for all metrics, since a ``MetricCollection`` may merge has-0 and non-0 versions into one state
    (torchmetrics #2596). It is not synchronised over devices: each device predicts the whole split.

    Args:
        metric_set: ``sentiment``, ``sims`` or ``emotions``.

    Raises:
        MSABenchError: There is no such metric set.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    preds: list[Tensor]
    labels: list[Tensor]

    def __init__(self, metric_set: str) -> None:
        super().__init__(sync_on_compute=False)
        metric_keys(metric_set)
        self.metric_set = metric_set
        self.add_state("preds", default=[], dist_reduce_fx=None)
        self.add_state("labels", default=[], dist_reduce_fx=None)

    def update(self, pred: Tensor, labels: Tensor) -> None:
        """Keep one batch.

        Args:
            pred: ``(B,)`` scores, or ``(B, 4, 2)`` logits; any floating dtype.
            labels: ``(B,)`` scores, or ``(B, 4)`` int64.
        """
        self.preds.append(pred.detach())
        self.labels.append(labels)

    def predictions(self) -> tuple[Tensor, Tensor]:
        """Everything since the last reset: float32 predictions ``(N,)`` or ``(N, 4, 2)``, and labels, float32 or int64.

        Raises:
            MSABenchError: There was no update.
        """
        if not self.preds:
            raise MSABenchError("there are no predictions to compute metrics from; the split gave no batches")
        # Lists from updates; a tensor once torchmetrics has reduced the state.
        preds: Any = self.preds
        labels: Any = self.labels
        truth = dim_zero_cat(labels)
        return dim_zero_cat(preds).float(), truth.float() if truth.is_floating_point() else truth

    def compute(self) -> dict[str, float]:
        """All metrics of the set, see ``functional.compute``.

        Raises:
            MSABenchError: There was no update, or values are not finite.
        """
        preds, labels = self.predictions()
        with torch.no_grad():
            return compute(self.metric_set, labels.cpu().numpy(), preds.cpu().numpy())

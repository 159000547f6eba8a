"""A plain network of somebody's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo


class MyNet(MSAMethod):
    """Means over the observed steps of each modality, then two layers."""

    info = MethodInfo(
        name="my_net", title="My net", venue="", year=0, url="", fidelity="reference", smoke={"hidden": 4}
    )

    def __init__(self, spec: DataSpec, *, variant: str = "default", lr: float = 1e-3, hidden: int = 16) -> None:
        super().__init__(spec, variant=variant, lr=lr)
        self.net = nn.Sequential(
            nn.Linear(sum(spec.feature_dims.values()), hidden), nn.ReLU(), nn.Linear(hidden, self.n_outputs)
        )

    def forward(self, batch: Batch) -> Output:
        """Predict."""
        means = [batch.features[m].sum(1) / batch.observed[m].sum(1, keepdim=True).clamp(min=1) for m in batch.features]
        return Output(self.to_pred(self.net(torch.cat(means, dim=1))))

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """The task term."""
        assert batch.labels is not None
        return {"task": self.task_loss(out.pred, batch.labels)}

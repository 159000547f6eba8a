"""The floor of every table: one answer for every clip."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo


class Constant(MSAMethod):
    """Predicts the training labels' median, or each emotion's majority class, whatever it sees.

    The median minimises the absolute error. What a method has not learnt beyond this is no achievement of its own:
    several published cells equal the score of a constant.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
    """

    info = MethodInfo(
        name="constant",
        title="Constant predictor (training median or majority class)",
        venue="-",
        year=0,
        url="",
        fidelity="reference",
    )

    value: Tensor

    def __init__(self, spec: DataSpec, *, variant: str = "default") -> None:
        super().__init__(spec, variant=variant)
        self.register_buffer("value", torch.zeros(4, 2) if spec.task == "emotions" else torch.zeros(()))
        # There is nothing to optimise.
        self.automatic_optimization = False

    def on_fit_start(self) -> None:
        """Read the answer off the training labels."""
        labels = self.trainer.datamodule.corpus.splits["train"].labels  # type: ignore[attr-defined]
        if self.spec.task == "emotions":
            self.value.copy_(F.one_hot(labels.mode(dim=0).values, 2))
        else:
            self.value.copy_(labels.median())

    def forward(self, batch: Batch) -> Output:
        """The same answer for every clip."""
        return Output(pred=self.value.expand(batch.size, *self.value.shape))

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """The task term, for the log alone."""
        assert batch.labels is not None
        return {"task": self.task_loss(out.pred, batch.labels)}

"""The constant baseline of every table: one answer for every clip."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo

_HAIR = 1e-6


class Constant(MSAMethod):
    """Predicts the training labels' median, or each emotion's majority class, whatever it sees.

    The median minimises the absolute error. A median of exactly 0 (CMU-MOSEI) would count as negative wherever zero
    labels are dropped, and make the baseline lower than it is; it is moved by a hair to the more frequent sign. What a
    method has not learnt beyond this is no achievement of its own:
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
        reads=(),
    )

    value: Tensor

    def __init__(self, spec: DataSpec, *, variant: str = "default") -> None:
        super().__init__(spec, variant=variant)
        self.register_buffer("value", torch.zeros(4, 2) if spec.task == "emotions" else torch.zeros(()))

    def on_fit_start(self) -> None:
        """Read the answer off the training labels."""
        labels = self.trainer.datamodule.corpus.splits["train"].labels  # type: ignore[attr-defined]
        if self.spec.task == "emotions":
            self.value.copy_(F.one_hot(labels.mode(dim=0).values, 2))
        else:
            self.value.copy_(best_constant(labels))

    def forward(self, batch: Batch) -> Output:
        """The same answer for every clip."""
        return Output(pred=self.value.expand(batch.size, *self.value.shape))


def best_constant(labels: Tensor) -> Tensor:
    """The median of the labels ``(N,)``, or a hair beside it if it is 0, on the side of the more frequent sign."""
    median = labels.median()
    if median != 0:
        return median
    return torch.tensor(_HAIR if (labels > 0).sum() >= (labels < 0).sum() else -_HAIR)

"""What the engine asks of a method. ``methods/base.py`` says what each hook is for, and has the defaults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import lightning.pytorch as pl
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.info import MethodInfo

if TYPE_CHECKING:
    from msabench.methods.base import Output


class Hooks(pl.LightningModule, ABC):
    """Root of the engine's classes, so that each of them may call on the method.

    Args:
        spec: What the data look like.
    """

    info: ClassVar[MethodInfo]
    schedule: Mapping[str, tuple[str, ...]]
    variant: str

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.spec = spec

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Predict from what a deployed model sees."""

    @abstractmethod
    def training_forward(self, batch: Batch) -> Output:
        """Forward pass in training."""

    @abstractmethod
    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Named loss terms of the current stage and turn."""

    @abstractmethod
    def task_loss(self, pred: Tensor, labels: Tensor) -> Tensor:
        """The task term."""

    @abstractmethod
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser of the current turn."""

    @abstractmethod
    def prepare_stage(self, stage: str) -> None:
        """Freeze what a stage does not train."""

    @property
    def trains_anything(self) -> bool:
        """Whether any parameter is to be trained."""
        return any(parameter.requires_grad for parameter in self.parameters())

"""What the walk over a grid asks for predictions: a trained method, or anything else that can be called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod
from msabench.missingness.conditions import Cell


class Predictor(Protocol):
    """Predicts clips of one test cell."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def needs(self) -> Needs:
        """What its batches must bring."""

    def __call__(self, batch: Batch, cell: Cell) -> tuple[Tensor, Tensor | None]:
        """Predict a batch.

        Args:
            batch: B clips without anything that a deployed model would not see; the predictor may write into it.
            cell: The test situation, for messages.

        Returns:
            ``(B,)`` scores or ``(B, 4, 2)`` logits, and the joint representations ``(B, H)`` if they are to be kept.

        Raises:
            MSABenchError: There are none that can be used.
        """


@dataclass(frozen=True)
class MethodPredictor:
    """A trained method, in evaluation mode on the device of its batches.

    Attributes:
        method: The method.
        keep_representations: Whether to return ``Output.representation``.
    """

    method: MSAMethod
    keep_representations: bool = False

    @property
    def name(self) -> str:
        """The method's name."""
        return self.method.info.name

    @property
    def needs(self) -> Needs:
        """What the method says."""
        return self.method.data_needs

    def __call__(self, batch: Batch, cell: Cell) -> tuple[Tensor, Tensor | None]:
        """Predict a batch.

        Raises:
            MSABenchError: Representations are to be kept and the method returns none.
        """
        out = self.method(batch.in_type(self.method.dtype))  # type: ignore[arg-type]
        if self.keep_representations and out.representation is None:
            raise MSABenchError(
                f"{self.name} ({self.method.variant}) has no joint representation to keep; evaluate it "
                "without --keep representations"
            )
        return out.pred, out.representation if self.keep_representations else None


def dtype_of(module: torch.nn.Module) -> torch.dtype:
    """Type of a module's floating weights; float32 if it has none."""
    floating = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(floating, torch.float32)

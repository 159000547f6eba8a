"""What a method asks of the data module. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Needs:
    """What a method's batches must bring. Not ``MethodInfo.needs``, which is about modalities at test time.

    Attributes:
        tokens: Text comes as tokens, in training and in evaluation.
        conversations: A batch holds whole conversations, and ``batch_size`` counts these.
        views: A training batch has two corrupted versions of its clips.
        complete: A training batch has its clips without missingness.
        passes: Passes over the training split in an epoch, at least 1.
    """

    tokens: bool = False
    conversations: bool = False
    views: bool = False
    complete: bool = False
    passes: int = 1


PLAIN = Needs()
"""Features and masks, as they come."""


class ReadsData(Protocol):
    """What the data module has to know of a method."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of its weights."""

    @property
    def data_needs(self) -> Needs:
        """What its batches must bring."""

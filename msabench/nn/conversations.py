"""Clips of a batch laid out as conversations, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from msabench.data.batch import Batch


@dataclass(frozen=True)
class ConversationLayout:
    """Where each clip of a batch of B stands among C conversations of at most U clips.

    Clips of a conversation may lie anywhere in the batch; where some are absent the others close ranks.

    Attributes:
        column: int64 ``(B,)`` in [0, C), the clip's conversation.
        step: int64 ``(B,)`` in [0, U), its place in order of time.
        lengths: int64 ``(C,)`` in [1, U], clips of each conversation.
    """

    column: Tensor
    step: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, batch: Batch, *, context: bool = True) -> ConversationLayout:
        """The layout of a batch.

        Args:
            batch: Its ``conversation`` and ``turn`` are read; if it has none, every clip is a conversation of its own.
            context: Whether clips of a video belong together; otherwise, too, every clip stands alone.
        """
        if not context or batch.conversation is None or batch.turn is None:
            alone = torch.arange(batch.size, device=batch.last["text"].device)
            return cls(alone, torch.zeros_like(alone), torch.ones_like(alone))
        _, column, lengths = torch.unique(batch.conversation, return_inverse=True, return_counts=True)
        in_time = torch.argsort(column * (batch.turn.max() + 1) + batch.turn)
        first = lengths.cumsum(0) - lengths
        step = torch.empty_like(column)
        step[in_time] = torch.arange(len(column), device=column.device) - first[column[in_time]]
        return cls(column, step, lengths)

    @property
    def shape(self) -> tuple[int, int]:
        """(U, C)."""
        return int(self.lengths.max()), len(self.lengths)

    @property
    def mask(self) -> Tensor:
        """Which places hold a clip: bool ``(U, C)``."""
        steps = torch.arange(self.shape[0], device=self.lengths.device)
        return steps.unsqueeze(1) < self.lengths

    def pad(self, rows: Tensor) -> Tensor:
        """``(B, ...)`` clip by clip as ``(U, C, ...)``, time first, 0 where no clip is."""
        return rows.new_zeros(*self.shape, *rows.shape[1:]).index_put((self.step, self.column), rows)

    def unpad(self, padded: Tensor) -> Tensor:
        """``(U, C, ...)`` as ``(B, ...)`` in the order of the batch."""
        return padded[self.step, self.column]

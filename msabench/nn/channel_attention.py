"""Residual convolutions with channel attention, which refine a sequence that was generated (DiCMoR, IMDer).

After Zhang et al., "Image Super-Resolution Using Very Deep Residual Channel Attention Networks", ECCV 2018, over time
in place of an image's two axes; numerics after https://github.com/mdswyz/DiCMoR at 3d7e617.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_REDUCTION, _FEWEST = 16, 4
"""A gate is computed from a sixteenth of the channels, but from no fewer than 4: a single ReLU may be dead."""


class ChannelAttentionRefiner(nn.Module):
    """Widens a sequence to 2D channels, adds what a chain of blocks makes of it, and narrows it again.

    Args:
        dim: Features D of the sequence.
        layers: Blocks of the chain.
    """

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.widen = nn.Linear(dim, 2 * dim)
        self.blocks = nn.ModuleList(_Block(2 * dim) for _ in range(layers))
        self.last = nn.Conv1d(2 * dim, 2 * dim, 3, padding=1)
        self.narrow = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Refine ``(B, T, D)``."""
        wide = self.widen(x).transpose(1, 2)
        refined = wide
        for block in self.blocks:
            refined = block(refined)
        narrowed: Tensor = self.narrow((wide + self.last(refined)).transpose(1, 2))
        return narrowed


class _Block(nn.Module):
    """Two convolutions over time, whose output is added in proportion to a gate per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1)
        squeezed = max(_FEWEST, channels // _REDUCTION)
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean(2)))))
        return x + y * gate.unsqueeze(2)

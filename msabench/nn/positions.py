"""Position codes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """Sines and cosines of geometrically spaced frequencies, interleaved.

    ``table[t, 2i] = sin(t / 10000^(2i/dim))`` and ``table[t, 2i+1] = cos(t / 10000^(2i/dim))``.

    Source: Vaswani et al., NeurIPS 2017, section 3.5.

    Args:
        length: Number of positions T.
        dim: Width D; may be odd.

    Returns:
        float32 ``(T, D)`` in [-1, 1].
    """
    rates = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10000.0) / dim))
    angles = torch.arange(length, dtype=torch.float32).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :dim]


class SinusoidalPositions(nn.Module):
    """Adds ``sinusoidal_positions`` to a sequence of any length. Holds no weights and nothing in checkpoints.

    Args:
        dim: Width D of the sequence.
        length: Steps to compute beforehand; longer sequences work too.
    """

    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self.dim = dim
        self.table: Tensor
        self.register_buffer("table", sinusoidal_positions(length, dim), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add positions to float ``(..., T, D)``."""
        steps = x.shape[-2]
        if steps > len(self.table):
            self.table = sinusoidal_positions(steps, self.dim).to(self.table)
        return x + self.table[:steps]

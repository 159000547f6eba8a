"""Residual block and linear output, with which the descendants of MulT end."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualHead(nn.Module):
    """``r = x + W2 dropout(u)`` with ``u = ReLU(W1 x)``, then a linear layer on r.

    Args:
        features: Width of x and r.
        inner: Width of u.
        outputs: Width of the output.
        dropout: Dropout on u.
    """

    def __init__(self, features: int, inner: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.proj1 = nn.Linear(features, inner)
        self.proj2 = nn.Linear(inner, features)
        self.out_layer = nn.Linear(features, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map ``(B, features)`` to the output ``(B, outputs)``, u ``(B, inner)`` and r ``(B, features)``."""
        inner = F.relu(self.proj1(x))
        refined = x + self.proj2(self.dropout(inner))
        return self.out_layer(refined), inner, refined

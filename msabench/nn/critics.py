"""Critics: networks that score how well two things go together, for bounds on mutual information."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.errors import MSABenchError


class PairCritic(nn.Module):
    """A perceptron on ``[x_i, y_j]``, evaluated for all pairs of a batch.

    The same function as tiling both sides and concatenating them, at a fraction of the cost: the first layer is linear
    in the concatenation, so it is applied to N rows of x and of y instead of N x N pairs.

    Source: the concatenating critics of https://github.com/pliang279/FactorCL (MIT licence).

    Args:
        x_features: Features of x.
        y_features: Features of y.
        hidden: Width of every hidden layer.
        layers: Hidden layers after the first, at least 0.
    """

    def __init__(self, x_features: int, y_features: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        if min(x_features, y_features, hidden) < 1 or layers < 0:
            raise MSABenchError(
                f"a critic of hidden width {hidden} with {layers} more layers on {x_features} and {y_features} "
                "features is not allowed; widths must be at least 1 and layers at least 0"
            )
        self.x_features = x_features
        self.first = nn.Linear(x_features + y_features, hidden)
        self.others = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.last = nn.Linear(hidden, 1, bias=False)  # hidden units make a constant where a bound needs one

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Score all pairs: float ``(..., N, x_features)`` and ``(..., M, y_features)`` to ``(..., N, M)``."""
        weight = self.first.weight
        from_x = F.linear(x, weight[:, : self.x_features], self.first.bias)
        from_y = F.linear(y, weight[:, self.x_features :])
        hidden = (from_x.unsqueeze(-2) + from_y.unsqueeze(-3)).relu()
        for layer in self.others:
            hidden = layer(hidden).relu()
        scores: Tensor = self.last(hidden).squeeze(-1)
        return scores


def standardise(x: Tensor) -> Tensor:
    """Bring every feature to mean 0 and variance 1 over the batch, for critics.

    Mutual information does not change, but a critic sees what differs between clips instead of what they share.

    Args:
        x: float ``(..., N, D)``.

    Returns:
        Likewise; all 0 for a batch of one, and where a feature is constant.
    """
    variance, mean = torch.var_mean(x, dim=-2, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + 1e-5)

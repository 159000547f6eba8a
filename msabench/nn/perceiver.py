"""Vectors that read a context by attention, layer by layer, in the manner of the Perceiver.

Jaegle et al., "Perceiver: General Perception with Iterative Attention", ICML 2021; numerics after
https://github.com/YetZzzzzz/HME at 6f0c9a7, which takes them from https://github.com/lucidrains/perceiver-pytorch.
Layers are pre-norm, the context with a LayerNorm of its own in each, and feed-forward networks are gated.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Gated(nn.Module):
    """GEGLU: the first half of the features times the GELU of the second."""

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)


class Attend(nn.Module):
    """Attention from normalised queries to a normalised context, or to the queries themselves.

    Args:
        dim: Features d, a multiple of ``heads``.
        heads: Attention heads.
        keys: Vectors of the context; of a single one attention gives the same to every query, and there are no queries.
            None for attention of the queries among themselves.
    """

    def __init__(self, dim: int, heads: int, keys: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim) if keys != 1 else None
        self.norm_context = nn.LayerNorm(dim) if keys is not None else None
        self.to_q = nn.Linear(dim, dim, bias=False) if keys != 1 else None
        self.to_kv = nn.Linear(dim, dim if keys == 1 else 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """From ``x`` ``(B, T, d)`` to ``context`` ``(B, S, d)``, which is not read without ``keys``.

        Returns:
            float ``(B, T, d)``, or ``(B, 1, d)`` for a single key.
        """
        if self.norm is None or self.to_q is None:
            assert self.norm_context is not None
            return self.to_out(self.to_kv(self.norm_context(context)))
        x = self.norm(x)
        context = x if self.norm_context is None else self.norm_context(context)
        parts = (self.to_q(x), *self.to_kv(context).chunk(2, dim=2))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        weights = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(3)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


class _Layer(nn.Module):
    """Attention and a gated feed-forward network, each normalised before and added to its input."""

    def __init__(self, dim: int, heads: int, keys: int | None) -> None:
        super().__init__()
        self.attend = Attend(dim, heads, keys)
        self.feed_forward = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 8 * dim), _Gated(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attend(x, context)
        updated: Tensor = x + self.feed_forward(x)
        return updated


class Latents(nn.Module):
    """Learned vectors that read a context and then one another, layer by layer; their mean is kept.

    Args:
        dim: Features d.
        heads: Attention heads.
        layers: Number of layers.
        tokens: Number of learned vectors.
        keys: Vectors of the context.
    """

    def __init__(self, dim: int, heads: int, layers: int, tokens: int, keys: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(tokens, dim))
        self.layers = nn.ModuleList(_Layer(dim, heads, among) for _ in range(layers) for among in (keys, None))
        self.norm = nn.LayerNorm(dim)

    def forward(self, context: Tensor) -> Tensor:
        """Read ``(B, S, d)``; returns ``(B, d)``."""
        x = self.tokens.expand(len(context), -1, -1)
        for layer in self.layers:
            x = layer(x, context)
        mean: Tensor = self.norm(x.mean(1))
        return mean


class Cross(nn.Module):
    """One vector that reads a context, layer by layer.

    Args:
        dim: Features d.
        heads: Attention heads.
        layers: Number of layers.
        keys: Vectors of the context.
    """

    def __init__(self, dim: int, heads: int, layers: int, keys: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(dim, heads, keys) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Update ``(B, d)`` from ``(B, S, d)``."""
        x = x.unsqueeze(1)
        for layer in self.layers:
            x = layer(x, context)
        updated: Tensor = self.norm(x.squeeze(1))
        return updated

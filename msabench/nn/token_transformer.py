"""Transformer with learned tokens, the block family of ALMT, LNLN and RECAP.

Zhang et al., "Learning Language-guided Adaptive Hyper-modality Representation for Multimodal Sentiment Analysis",
EMNLP 2023, section 3.2; numerics after https://github.com/Haoyu-ha/ALMT and https://github.com/Haoyu-ha/LNLN. It
differs from ``torch.nn.TransformerEncoder`` in that the width of attention is free of the features' width, projections
of queries, keys and values have no bias, each has a LayerNorm of its own, and nothing is masked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.errors import MSABenchError


class Attention(nn.Module):
    """Multi-head attention without masks: ``(B, T, D)`` attends to ``(B, S, D)``.

    Args:
        dim: Features D of both.
        heads: Number of heads.
        dim_head: Features of a head; ``heads * dim_head`` need not be D.
    """

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_k = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_v = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from ``q`` ``(B, T, D)`` to ``k`` and ``v`` ``(B, S, D)``; returns ``(B, T, D)``."""
        q, k, v = (self._by_head(x) for x in (self.to_q(q), self.to_k(k), self.to_v(v)))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention and a GELU perceptron, each normalised before and added to its input.

    Args:
        dim: Features D.
        heads: Attention heads.
        dim_head: Features of a head.
        hidden: Width of the perceptron.
    """

    def __init__(self, dim: int, heads: int, dim_head: int, hidden: int) -> None:
        super().__init__()
        self.norm_q, self.norm_k, self.norm_v = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dim_head)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, target: Tensor, source: Tensor | None = None) -> Tensor:
        """Update ``(B, T, D)`` from ``(B, S, D)``, or from itself."""
        source = target if source is None else source
        x = target + self.attention(self.norm_q(target), self.norm_k(source), self.norm_v(source))
        return x + self.feed_forward(self.norm(x))


class TokenTransformer(nn.Module):
    """Blocks of self-attention over ``[learned tokens; sequence]`` with learned positions.

    Args:
        dim: Features D.
        steps: Longest sequence it can read, without the tokens.
        tokens: Number K of learned tokens in front, 0 for none. They start at zero and have positions too.
        layers: Number of blocks, at least 1; ``states`` alone does without any.
        heads: Attention heads.
        dim_head: Features of a head.
        hidden: Width of the perceptrons; None for D.
    """

    def __init__(
        self,
        dim: int,
        steps: int,
        *,
        tokens: int = 0,
        layers: int = 2,
        heads: int = 8,
        dim_head: int = 64,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(1, tokens, dim)) if tokens else None
        self.positions = nn.Parameter(torch.randn(1, tokens + steps, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, dim_head, hidden or dim) for _ in range(layers))

    def forward(self, x: Tensor, keep: int | None = None) -> Tensor:
        """Encode a sequence.

        Args:
            x: float ``(B, T, D)``.
            keep: Return only so many steps from the front; the last block then computes no others.

        Returns:
            float ``(B, K + T, D)`` or ``(B, keep, D)``, the tokens first.

        Raises:
            MSABenchError: The sequence has more steps than there are positions.
        """
        x = self._start(x)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        encoded: Tensor = last(x[:, :keep], x)
        return encoded

    def states(self, x: Tensor) -> list[Tensor]:
        """The sequence with positions, then what each block makes of it.

        Args:
            x: float ``(B, T, D)``.

        Returns:
            ``layers + 1`` tensors ``(B, K + T, D)``.

        Raises:
            MSABenchError: As for ``forward``.
        """
        states = [self._start(x)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def _start(self, x: Tensor) -> Tensor:
        if self.tokens is not None:
            x = torch.cat([self.tokens.expand(len(x), -1, -1), x], dim=1)
        if x.shape[1] > self.positions.shape[1]:
            raise MSABenchError(
                f"a sequence of {x.shape[1]} steps does not fit the {self.positions.shape[1]} positions of the encoder"
            )
        return x + self.positions[:, : x.shape[1]]


class TokenEmbedding(nn.Module):
    """Brings a sequence of any length to K tokens: linear map, then a ``TokenTransformer`` whose tokens are kept.

    Args:
        features: Features of the input.
        dim: Features D of the tokens.
        steps: Longest sequence.
        tokens: Number K of tokens, at least 1.
        layers: Number of blocks, at least 1.
        heads: Attention heads.
        dim_head: Features of a head.
        kept: Tokens that are given on, from the front, at least 1; None for all K. The others are context.

    Attributes:
        project: The linear map.
        transformer: What follows it.

    Raises:
        MSABenchError: There are no tokens, or not as many as are kept.
    """

    def __init__(
        self,
        features: int,
        dim: int,
        steps: int,
        *,
        tokens: int = 8,
        layers: int = 2,
        heads: int = 8,
        dim_head: int = 64,
        kept: int | None = None,
    ) -> None:
        super().__init__()
        if tokens < 1:
            raise MSABenchError(f"tokens {tokens} is not allowed; give at least 1")
        self.n_tokens = tokens if kept is None else kept
        if not 1 <= self.n_tokens <= tokens:
            raise MSABenchError(f"{kept} kept tokens are not allowed; give 1 to {tokens}, the number of tokens")
        self.project = nn.Linear(features, dim)
        self.transformer = TokenTransformer(dim, steps, tokens=tokens, layers=layers, heads=heads, dim_head=dim_head)

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``(B, T, features)`` as ``(B, K, D)``, or ``(B, kept, D)``."""
        return self.encode(self.project(x))

    def encode(self, projected: Tensor) -> Tensor:
        """What follows the linear map: ``(B, T, D)`` to ``(B, K, D)``."""
        tokens: Tensor = self.transformer(projected, keep=self.n_tokens)
        return tokens

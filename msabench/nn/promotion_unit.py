"""A Transformer unit by which one sequence promotes another, with masks: the block of EMT-DLFR.

Sun et al., "Efficient Multimodal Transformer with Dual-Level Feature Restoration for Robust Multimodal Sentiment
Analysis", IEEE Transactions on Affective Computing 2023; numerics after https://github.com/sunlicai/EMT-DLFR at
e9f0960. It differs from ``token_transformer`` in that keys can be masked, keys and values share a LayerNorm, and the
perceptron is gated.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

_EXPANSION = 4  # of the perceptron, official


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values without bias.

    Args:
        dim: Features d, a multiple of ``heads``.
        heads: Number of heads.
        dropout: Dropout on the weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, source: Tensor, keep: Tensor | None) -> Tensor:
        """Attend from ``(B, T, d)`` to ``(B, S, d)``, of which bool ``(B, S)`` says what may be read; None for all.

        A clip without anything to read gets the mean over all S.
        """
        k, v = self.to_kv(source).chunk(2, dim=2)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.to_q(x), k, v))
        mask = None
        if keep is not None:
            some = keep.any(1, keepdim=True)
            # Where all is masked a softmax would be NaN; queries of zero give every step the same weight.
            q = q * some[:, None, None]
            mask = (keep | ~some)[:, None, None]
        mixed = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class PromotionUnit(nn.Module):
    """A sequence is promoted by a source: cross-attention, self-attention and a gated perceptron, normalised before.

    Args:
        dim: Features d.
        heads: Heads of attention.
        attn_dropout: Dropout on weights of attention.
        ff_dropout: Dropout behind the perceptron.
    """

    def __init__(self, dim: int, heads: int, attn_dropout: float, ff_dropout: float) -> None:
        super().__init__()
        self.norm_cross, self.norm_source = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.cross = Attention(dim, heads, attn_dropout)
        self.norm_self = nn.LayerNorm(dim)
        self.own = Attention(dim, heads, attn_dropout)
        self.norm_ff = nn.LayerNorm(dim)
        self.to_gate = nn.Linear(dim, 2 * _EXPANSION * dim)
        self.from_gate = nn.Linear(_EXPANSION * dim, dim)
        self.dropout = nn.Dropout(ff_dropout)

    def forward(self, x: Tensor, source: Tensor, keep: Tensor | None, keep_source: Tensor | None) -> Tensor:
        """Promote ``(B, T, d)`` by ``(B, S, d)``; bool ``(B, T)`` and ``(B, S)`` say what may be read, None for all."""
        x = x + self.cross(self.norm_cross(x), self.norm_source(source), keep_source)
        normed = self.norm_self(x)
        x = x + self.own(normed, normed, keep)
        values, gates = self.to_gate(self.norm_ff(x)).chunk(2, dim=2)
        return x + self.dropout(self.from_gate(values * F.gelu(gates)))

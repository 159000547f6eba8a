"""Crossmodal transformer encoder of MulT and its descendants (DMD, EMOE, TETFN, TFR-Net, KT).

Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences", ACL 2019, sections 3.1-3.2;
numerics after https://github.com/yaohungt/Multimodal-Transformer at a670936. It differs from
``torch.nn.TransformerEncoder`` in that queries, keys and values share one LayerNorm, keys and values are embedded once
and not refreshed from layer to layer, and steps whose first feature is zero get no position code.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.errors import MSABenchError

_LONG = 128
"""Keys from which the fused attention kernel is faster than plain matrix products when it need not draw dropout."""


class CrossmodalEncoder(nn.Module):
    """Pre-norm transformer in which a target sequence attends to a source sequence, or to itself.

    Args:
        dim: Features D of both sequences.
        heads: Attention heads; divides ``dim``.
        layers: Number of layers.
        attn_dropout: Dropout on attention weights.
        relu_dropout: Dropout after the feed-forward network's ReLU.
        res_dropout: Dropout on both residual branches.
        embed_dropout: Dropout on embedded inputs; keys and values draw independently.
        positions: Whether sinusoidal position codes are added.
        zero_is_pad: Whether steps whose first raw feature is exactly zero get no position code, as in the official
            code. A missing modality behind a bias-free projection then carries no code at all.
        future_mask: Whether query i sees only keys j with ``j - i <= |T_source - T|``; the last query sees all.

    Raises:
        MSABenchError: ``heads`` does not divide ``dim``, or ``dim`` is too small for position codes.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        layers: int,
        *,
        attn_dropout: float = 0.0,
        relu_dropout: float = 0.0,
        res_dropout: float = 0.0,
        embed_dropout: float = 0.0,
        positions: bool = True,
        zero_is_pad: bool = True,
        future_mask: bool = True,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise MSABenchError(f"dim {dim} cannot be shared by {heads} heads; give a multiple of {heads}")
        if positions and dim < 4:
            raise MSABenchError(f"dim {dim} is too small for position codes; give at least 4")
        self.scale = math.sqrt(dim)
        self.embed_dropout = embed_dropout
        self.positions = positions
        self.zero_is_pad = zero_is_pad
        self.future_mask = future_mask
        self.layers = nn.ModuleList(_Layer(dim, heads, attn_dropout, relu_dropout, res_dropout) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, target: Tensor, source: Tensor | None = None, *, last_only: bool = False) -> Tensor:
        """Encode a sequence.

        Args:
            target: float ``(B, T, D)``.
            source: float ``(B, T_source, D)``, or None for self-attention.
            last_only: Return the last step alone. The value is the same; the last layer then computes nothing else.

        Returns:
            ``(B, T, D)``, or ``(B, 1, D)`` with ``last_only``.
        """
        hidden = self._dropped(self._embedded(target))
        key = value = None
        if source is not None:
            embedded = self._embedded(source)
            key = value = self._dropped(embedded)
            if self.training and self.embed_dropout > 0:
                value = self._dropped(embedded)
        keys = (target if source is None else source).shape[1]
        mask = _attention_mask(target.shape[1], keys, self.future_mask, target.device, hidden.dtype)
        for depth, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden, key, value, mask, last_only and depth == len(self.layers))
        return self.layer_norm(hidden)

    def _embedded(self, inputs: Tensor) -> Tensor:
        scaled = self.scale * inputs
        if not self.positions:
            return scaled
        codes = position_codes(inputs.shape[1], inputs.shape[2], inputs.device, inputs.dtype)
        return scaled + (codes * (inputs[..., :1] != 0) if self.zero_is_pad else codes)

    def _dropped(self, embedded: Tensor) -> Tensor:
        return F.dropout(embedded, self.embed_dropout, self.training)


class _Layer(nn.Module):
    """Attention and feed-forward network, each normalised before and added to its input."""

    def __init__(self, dim: int, heads: int, attn_dropout: float, relu_dropout: float, res_dropout: float) -> None:
        super().__init__()
        self.relu_dropout = relu_dropout
        self.res_dropout = res_dropout
        self.self_attn = _Attention(dim, heads, attn_dropout)
        self.fc1 = _xavier_linear(dim, 4 * dim)
        self.fc2 = _xavier_linear(4 * dim, dim)
        self.layer_norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])

    def forward(
        self, hidden: Tensor, key: Tensor | None, value: Tensor | None, mask: Tensor, last_only: bool
    ) -> Tensor:
        norm_attn, norm_ff = self.layer_norms
        query = norm_attn(hidden)
        if key is None:
            normed_key = normed_value = query
        else:
            normed_key = norm_attn(key)
            normed_value = normed_key if value is key else norm_attn(value)
        if last_only:
            hidden, query, mask = hidden[:, -1:], query[:, -1:], mask[-1:]
        attended = self.self_attn(query, normed_key, normed_value, mask)
        hidden = hidden + F.dropout(attended, self.res_dropout, self.training)
        inner = F.dropout(F.relu(self.fc1(norm_ff(hidden))), self.relu_dropout, self.training)
        return hidden + F.dropout(self.fc2(inner), self.res_dropout, self.training)


class _Attention(nn.Module):
    """Multi-head attention with packed projections; parameter names and shapes of ``nn.MultiheadAttention``."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = _xavier_linear(dim, dim)
        # The official code initialises the packed matrix as one.
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (self._by_head(projected) for projected in self._projected(query, key, value))
        dropout = self.dropout if self.training else 0.0
        # The fused backward pass is not deterministic on CUDA.
        fused = k.shape[1] > _LONG and dropout == 0 and (q.is_cpu or not torch.is_grad_enabled())
        if fused:
            attended = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0]
        else:
            scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=q.shape[2] ** -0.5)
            attended = torch.bmm(F.dropout(scores.softmax(dim=-1), dropout), v)
        joined = attended.view(query.shape[0], self.heads, *attended.shape[1:]).transpose(1, 2)
        return self.out_proj(joined.reshape(query.shape))

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        dim = query.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is key and key is value:
            return F.linear(query, weight, bias).chunk(3, dim=-1)
        q = F.linear(query, weight[:dim], bias[:dim])
        if key is value:
            return q, *F.linear(key, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        k = F.linear(key, weight[dim : 2 * dim], bias[dim : 2 * dim])
        return q, k, F.linear(value, weight[2 * dim :], bias[2 * dim :])

    def _by_head(self, projected: Tensor) -> Tensor:
        B, T, D = projected.shape
        return projected.view(B, T, self.heads, D // self.heads).transpose(1, 2).reshape(B * self.heads, T, -1)


def _xavier_linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


# Both tables are built outside inference mode, so that a cached one can be used in training afterwards.


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def position_codes(steps: int, dim: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Sinusoidal codes in fairseq's layout: first half sines, second half cosines, angles ``p * 10000^(-i/(D/2-1))``.

    Positions count from 1. An odd number of features gets a trailing zero.

    Args:
        steps: Number of steps T.
        dim: Features D, at least 4.
        device: Where the table is to be.
        dtype: Its floating type; computed in float32 at least.

    Returns:
        ``(T, D)``, shared between callers: do not write to it.
    """
    half, wide = dim // 2, torch.promote_types(dtype, torch.float32)
    rates = torch.exp(torch.arange(half, dtype=wide) * -(math.log(10000) / (half - 1)))
    angles = torch.arange(1, steps + 1, dtype=wide)[:, None] * rates
    codes = torch.cat([angles.sin(), angles.cos()], dim=1)
    return F.pad(codes, (0, dim - 2 * half)).to(device, dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _attention_mask(queries: int, keys: int, future_mask: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Additive mask ``(T, T_source)``: -inf where key j lies ahead of query i by more than ``|T_source - T|``."""
    mask = torch.zeros(queries, keys, dtype=dtype)
    if future_mask:
        ahead = torch.ones(queries, keys, dtype=torch.bool).triu(1 + abs(keys - queries))
        mask = mask.masked_fill(ahead, -math.inf)
    return mask.to(device)

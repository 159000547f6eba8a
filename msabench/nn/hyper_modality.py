"""A hyper-modality learnt under the guidance of language, and its fusion with language: the core of ALMT and LNLN.

Zhang et al., "Learning Language-guided Adaptive Hyper-modality Representation for Multimodal Sentiment Analysis",
EMNLP 2023, section 3; numerics after https://github.com/Haoyu-ha/ALMT (da94610) and
https://github.com/Haoyu-ha/LNLN (80a052c).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.errors import MSABenchError
from msabench.nn.token_transformer import Block, TokenTransformer


class HyperModalityLayer(nn.Module):
    """Language asks, audio and vision answer, and the hyper-modality takes up the sum of both answers.

    Each of the four inputs has a LayerNorm of its own. What the answer is added to is the *normalised* hyper-modality.

    Args:
        dim: Features D of all inputs, a multiple of ``heads``.
        heads: Attention heads of D / heads features each.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_language, self.norm_audio, self.norm_vision = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.norm_hyper = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k_audio, self.to_v_audio = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.to_k_vision, self.to_v_vision = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, language: Tensor, audio: Tensor, vision: Tensor, hyper: Tensor) -> Tensor:
        """Update ``hyper``; all are float ``(B, K, D)``, and so is what is returned."""
        audio, vision = self.norm_audio(audio), self.norm_vision(vision)
        query = self._by_head(self.to_q(self.norm_language(language)))
        heard = self._answer(query, self.to_k_audio(audio), self.to_v_audio(audio))
        seen = self._answer(query, self.to_k_vision(vision), self.to_v_vision(vision))
        hyper = self.norm_hyper(hyper)
        return hyper + self.to_out((heard + seen).transpose(1, 2).flatten(2))

    def _answer(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, self._by_head(key), self._by_head(value))

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class CrossTransformer(nn.Module):
    """Blocks in which a target attends to a source that stays as it is.

    One learned token, zero at first, stands in front of both; each side has positions of its own.

    Args:
        dim: Features D.
        steps: Longest source and target, without the token.
        layers: Number of blocks, at least 1.
        heads: Attention heads.
        dim_head: Features of a head.
    """

    def __init__(self, dim: int, steps: int, *, layers: int = 2, heads: int = 8, dim_head: int = 64) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.source_positions = nn.Parameter(torch.randn(1, 1 + steps, dim))
        self.target_positions = nn.Parameter(torch.randn(1, 1 + steps, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, dim_head, dim) for _ in range(layers))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Update ``target`` ``(B, T, D)`` from ``source`` ``(B, S, D)``; returns ``(B, 1 + T, D)``, the token first."""
        token = self.token.expand(len(target), -1, -1)
        source = torch.cat([token, source], dim=1) + self.source_positions[:, : 1 + source.shape[1]]
        target = torch.cat([token, target], dim=1) + self.target_positions[:, : 1 + target.shape[1]]
        for block in self.blocks:
            target = block(target, source)
        return target


class HyperModalityFusion(nn.Module):
    """Builds the hyper-modality along growing depths of language, then lets language attend to it.

    Args:
        dim: Features D of a token, a multiple of ``heads``.
        tokens: Tokens K of each modality.
        layers: Hyper-modality layers, at least 1; language has one Transformer layer less.
        fusion_layers: Blocks of the fusion, at least 1.
        heads: Attention heads.
        dim_head: Features of a head in language's Transformer and in the fusion.

    Raises:
        MSABenchError: ``heads`` does not divide ``dim``, or there is no layer.
    """

    def __init__(
        self,
        dim: int,
        tokens: int,
        *,
        layers: int = 3,
        fusion_layers: int = 2,
        heads: int = 8,
        dim_head: int = 64,
    ) -> None:
        super().__init__()
        if min(layers, fusion_layers, heads) < 1 or dim % heads:
            raise MSABenchError(
                f"hyper_layers {layers}, fusion_layers {fusion_layers} and heads {heads} must be at least 1, "
                f"and heads must divide dim {dim}"
            )
        self.hyper = nn.Parameter(torch.ones(1, tokens, dim))
        self.language = TokenTransformer(dim, tokens, layers=layers - 1, heads=heads, dim_head=dim_head)
        self.layers = nn.ModuleList(HyperModalityLayer(dim, heads) for _ in range(layers))
        self.fusion = CrossTransformer(dim, tokens, layers=fusion_layers, heads=heads, dim_head=dim_head)

    def forward(self, language: Tensor, audio: Tensor, vision: Tensor) -> Tensor:
        """Fuse three float ``(B, K, D)``; returns ``(B, 1 + K, D)``, the fusion's token first."""
        states = self.language.states(language)
        hyper = self.hyper.expand(len(language), -1, -1)
        for layer, state in zip(self.layers, states, strict=True):
            hyper = layer(state, audio, vision, hyper)
        fused: Tensor = self.fusion(hyper, states[-1])
        return fused

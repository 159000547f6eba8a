"""Encoder of one modality's sequence, and ways to make one vector of what it gives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msabench.errors import MSABenchError
from msabench.nn.positions import SinusoidalPositions


class ModalityEncoder(nn.Module):
    """A convolution over time, position codes and a Transformer encoder: ``(B, T, D)`` to ``(B, T, d)``.

    The convolution has a bias and keeps the length; as in Vaswani et al. 2017 its output is multiplied by sqrt(d), so
    that position codes do not outweigh it, and layers are post-norm with ReLU and a feed-forward width of 4d. Padding
    is not seen: it is set to zero, as the convolution's own margin is, and nothing attends to it. Missing frames are
    zeros that are seen, and carry the convolution's bias and their position.

    Args:
        in_features: Features D of the input.
        dim: Channels d; a multiple of ``heads``.
        steps: Usual number of steps; longer sequences work too.
        heads: Attention heads.
        layers: Transformer layers, at least 1.
        kernel_size: Steps that the convolution sees, at least 1.
        dropout: Dropout rate in [0, 1) of embedded sequences, attention weights and residual branches.

    Raises:
        MSABenchError: An argument outside its range.
    """

    def __init__(
        self,
        in_features: int,
        dim: int,
        *,
        steps: int,
        heads: int,
        layers: int = 2,
        kernel_size: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if dim < 1 or heads < 1 or dim % heads:
            raise MSABenchError(
                f"dim {dim} with {heads} heads is not allowed; dim must be a positive multiple of heads"
            )
        if min(layers, kernel_size) < 1:
            raise MSABenchError(f"layers {layers} and kernel_size {kernel_size} must both be at least 1")
        self.convolution = nn.Conv1d(in_features, dim, kernel_size, padding="same")
        self.positions = SinusoidalPositions(dim, steps)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout, batch_first=True) for _ in range(layers)
        )

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Encode a sequence.

        Args:
            x: float ``(B, T, D)``.
            valid: bool ``(B, T)``, the steps that exist. If none does, all are attended to, as zeros.

        Returns:
            float ``(B, T, d)``; what stands at padding means nothing.
        """
        x = x.masked_fill(~valid.unsqueeze(2), 0.0)
        h = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        h = self.dropout(self.positions(h.shape[2] ** 0.5 * h))
        padding = ~_some(valid)
        for layer in self.layers:
            h = layer(h, src_key_padding_mask=padding)
        return h


def mean_over(x: Tensor, valid: Tensor) -> Tensor:
    """Mean over the steps that exist, or over all if none does.

    Args:
        x: float ``(B, T, D)``.
        valid: bool ``(B, T)``.

    Returns:
        float ``(B, D)``.
    """
    weight = _some(valid).unsqueeze(2).to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1)


def at_step(x: Tensor, step: Tensor) -> Tensor:
    """One step of each sequence.

    Args:
        x: float ``(B, T, D)``.
        step: int64 ``(B,)``, e.g. ``batch.last[m]``; -1 is the last stored one.

    Returns:
        float ``(B, D)``.
    """
    return x[torch.arange(len(x), device=x.device), step]


def _some(valid: Tensor) -> Tensor:
    """The steps to use: softmax and mean over no step at all would be NaN."""
    return valid | ~valid.any(1, keepdim=True)

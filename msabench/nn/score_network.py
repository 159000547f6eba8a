"""U-net that estimates the score of noisy sequences, given a condition of the same shape.

Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR 2021, with crossmodal
attention to the condition at every level; numerics after https://github.com/mdswyz/IMDer at 1901a92.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.nn.crossmodal import CrossmodalEncoder

_BANDWIDTH = 30.0
_LEVELS = 4
_WIDENING = 2 ** (_LEVELS - 1)
"""The narrowest level has so many times the channels of the widest, and the widest so many times its steps."""
_GROUPS_FIRST, _GROUPS = 4, 32


class ScoreNetwork(nn.Module):
    """Four levels down and four up, each a convolution over time followed by attention to the condition.

    Levels have D, 2D, 4D and 8D channels and a half of the steps of the one above. The condition is convolved
    alongside, without skips. Time enters by random Fourier features through a linear layer per level, like a bias.
    Sequences whose length is no multiple of 8 are padded with zeros behind their end, and cut again.

    Args:
        dim: Features D of sequence and condition; a multiple of ``heads``, at least 4. 32 in the official code.
        heads: Heads of every attention.
        layers: Layers of every attention.

    Raises:
        MSABenchError: ``heads`` does not divide ``dim``, or ``dim`` is too small for position codes.
    """

    frequencies: Tensor

    def __init__(self, dim: int, heads: int, layers: int) -> None:
        super().__init__()
        widths = [dim * 2**level for level in range(_LEVELS)]
        time = _WIDENING * dim
        self.register_buffer("frequencies", torch.randn(time // 2) * _BANDWIDTH)
        self.embed = nn.Linear(time, time)

        def level(main: nn.Module, condition: nn.Module | None, width: int, groups: int | None) -> _Level:
            return _Level(main, condition, CrossmodalEncoder(width, heads, layers), width, groups, time)

        self.down = nn.ModuleList([level(_conv(dim, dim, 1), None, dim, _GROUPS_FIRST)])
        for above, width in pairwise(widths):
            self.down.append(level(_conv(above, width, 2), _conv(above, width, 2), width, _GROUPS))
        self.up = nn.ModuleList()
        for width, above in zip(widths[:0:-1], widths[-2::-1], strict=True):
            joined = width if width == widths[-1] else 2 * width
            self.up.append(level(_transposed(joined, above), _transposed(width, above), above, _GROUPS))
        last, last_condition = (nn.ConvTranspose1d(n * dim, dim, 3, padding=1) for n in (2, 1))
        self.up.append(level(last, last_condition, dim, None))

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Estimate the score times the standard deviation of the noise.

        Args:
            x: float ``(B, T, D)``, the noisy sequences.
            time: float ``(B,)``, in (0, 1].
            condition: float ``(B, T, D)``.

        Returns:
            float ``(B, T, D)``.
        """
        if not len(x):
            # Attention cannot tell how many features a head has of no clips, which a device may hold of many.
            return x
        steps = x.shape[1]
        h, condition = (F.pad(y.transpose(1, 2), (0, -steps % _WIDENING)) for y in (x, condition))
        angles = 2 * math.pi * time.unsqueeze(1) * self.frequencies
        embedded = F.silu(self.embed(torch.cat([angles.sin(), angles.cos()], dim=1)))
        passed: list[Tensor] = []
        for level in self.down:
            h, condition = level(h, condition, embedded)
            passed.append(h)
        skips = [None, *passed[-2::-1]]
        for level, skip in zip(self.up, skips, strict=True):
            h, condition = level(h if skip is None else torch.cat([h, skip], dim=1), condition, embedded)
        return h[:, :, :steps].transpose(1, 2)


class _Level(nn.Module):
    """Convolutions of sequence and condition, attention of one to the other, and a normalisation that time shifts."""

    def __init__(
        self,
        main: nn.Module,
        condition: nn.Module | None,
        attend: CrossmodalEncoder,
        width: int,
        groups: int | None,
        time: int,
    ) -> None:
        super().__init__()
        self.main = main
        self.condition = condition
        self.attend = attend
        self.time: nn.Linear | None = None
        self.norm: nn.GroupNorm | None = None
        if groups is not None:
            self.time = nn.Linear(time, width)
            self.norm = nn.GroupNorm(math.gcd(groups, width), width)

    def forward(self, h: Tensor, condition: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
        h = self.main(h)
        if self.condition is not None:
            condition = self.condition(condition)
        h = h + self.attend(h.transpose(1, 2), condition.transpose(1, 2)).transpose(1, 2)
        if self.time is not None and self.norm is not None:
            h = F.silu(self.norm(h + self.time(embedded).unsqueeze(2)))
        return h, condition


def _conv(channels: int, out: int, stride: int) -> nn.Conv1d:
    return nn.Conv1d(channels, out, 3, stride=stride, padding=1, bias=False)


def _transposed(channels: int, out: int) -> nn.ConvTranspose1d:
    return nn.ConvTranspose1d(channels, out, 3, stride=2, padding=1, output_padding=1, bias=False)

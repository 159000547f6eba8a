"""Bidirectional Mamba blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.errors import MSABenchError
from msabench.nn.selective_scan import selective_scan

_STEP_SIZES = (1e-3, 1e-1)  # at the start of training; never below the floor
_STEP_FLOOR = 1e-4


class BidirectionalMamba(nn.Module):
    """A Mamba block that reads a sequence from both sides, the "v2" block of Vision Mamba with halved output.

    A linear map gives each step E inner features and a gate z. In each direction, with weights of its own, a causal
    depthwise convolution and SiLU make u of the former; step sizes ``dt = softplus(W_dt d + b_dt)``, B and C are linear
    in u (d too, of width R = ceil(D / 16)); and ``y = scan(u, dt, -exp(A_log), B, C) + skip u``. Half the sum of both
    directions' y, times SiLU(z), goes through a last linear map.

    With several streams, each has weights of its own, but the state matrices A, one for each direction, are common to
    all: the bimodal block of TF-Mamba.

    Source: Zhu et al., "Vision Mamba", https://arxiv.org/abs/2401.09417; https://github.com/codemous/TF-Mamba at
    9a1f07f, whose initial weights these are.

    Args:
        dim: Features D.
        state: Numbers N in a channel's state.
        expand: Inner features E by D.
        kernel_size: Steps that the convolution sees.
        streams: Sequences S that are processed side by side.
        symmetric: Whether step sizes begin small, between 0.001 and 0.1, in both directions. Officially they do so
            ahead only: back they begin near 0.7, which forgets all but the last few steps.

    Raises:
        MSABenchError: A size below 1.
    """

    def __init__(
        self,
        dim: int,
        *,
        state: int = 16,
        expand: int = 2,
        kernel_size: int = 4,
        streams: int = 1,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        if min(dim, state, expand, kernel_size) < 1:
            raise MSABenchError(
                f"dim {dim}, state {state}, expand {expand} and kernel_size {kernel_size} must be at least 1"
            )
        self.dim, self.state, self.streams = dim, state, streams
        self.inner = expand * dim
        self.rank = math.ceil(dim / 16)
        # One lane for each stream and direction. Their weights are stacked, so that one product serves all.
        lanes = 2 * streams
        self.in_proj = _uniform(streams * 2 * self.inner, dim)
        self.conv_weight = _uniform(lanes * self.inner, kernel_size)
        self.conv_bias = nn.Parameter(_uniform(lanes * self.inner, kernel_size)[:, 0].detach().clone())
        self.x_proj = _uniform(lanes * (self.rank + 2 * state), self.inner)
        self.dt_weight = _uniform(lanes * self.inner, self.rank)
        low, high = (math.log(size) for size in _STEP_SIZES)
        dt = torch.empty(streams, 2, self.inner).uniform_(low, high).exp().clamp(min=_STEP_FLOOR)
        dt_bias = dt + (-torch.expm1(-dt)).log()  # the inverse of softplus
        if not symmetric:
            dt_bias[:, 1].uniform_(-(self.rank**-0.5), self.rank**-0.5)  # as of torch.nn.Linear
        self.dt_bias = nn.Parameter(dt_bias.flatten())
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(2 * self.inner, 1))
        self.skip = nn.Parameter(torch.ones(lanes * self.inner))
        self.out_proj = _uniform(streams * dim, self.inner)

    def forward(self, x: Tensor) -> Tensor:
        """Mix over time.

        Args:
            x: float ``(S, B, T, D)``, or ``(B, T, D)`` where there is one stream.

        Returns:
            float, of the same shape.
        """
        streams = x.view(self.streams, -1, *x.shape[-2:])
        inner, gate = _map(streams, self.in_proj).chunk(2, dim=3)
        lanes = torch.stack([inner, inner.flip(2)], dim=1).flatten(0, 1)  # (2 S, B, T, E), of a stream side by side
        u = F.silu(self._convolved(lanes))
        low, B, C = _map(u, self.x_proj).split([self.rank, self.state, self.state], dim=3)
        dt = F.softplus(_map(low, self.dt_weight) + self._by_lane(self.dt_bias))
        A = -torch.exp(self.A_log).view(2, self.inner, self.state).repeat(self.streams, 1, 1)
        y = selective_scan(u, dt, A, B, C) + self._by_lane(self.skip) * u
        ahead, back = y.unflatten(0, (self.streams, 2)).unbind(1)
        return _map(0.5 * (ahead + back.flip(2)) * F.silu(gate), self.out_proj).view(x.shape)

    def _convolved(self, lanes: Tensor) -> Tensor:
        """Each step from those up to it, as a sum over taps: faster on CPUs than a convolution of so many groups."""
        taps = self.conv_weight.view(len(lanes), 1, 1, self.inner, -1).unbind(4)
        padded, steps = F.pad(lanes, (0, 0, len(taps) - 1, 0)), lanes.shape[2]
        total = self._by_lane(self.conv_bias).expand_as(lanes)
        for first, tap in enumerate(taps):
            total = torch.addcmul(total, tap, padded[:, :, first : first + steps])
        return total

    def _by_lane(self, channels: Tensor) -> Tensor:
        return channels.view(-1, 1, 1, self.inner)


class MambaLayer(nn.Module):
    """``x + LayerNorm(block(x))``, with a LayerNorm for each stream.

    Args:
        dim: Features D.
        state: See ``BidirectionalMamba``.
        expand: See there.
        kernel_size: See there.
        streams: See there.

    Raises:
        MSABenchError: A size below 1.
    """

    def __init__(self, dim: int, *, state: int = 16, expand: int = 2, kernel_size: int = 4, streams: int = 1) -> None:
        super().__init__()
        self.mamba = BidirectionalMamba(dim, state=state, expand=expand, kernel_size=kernel_size, streams=streams)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in range(streams))

    def forward(self, *streams: Tensor) -> tuple[Tensor, ...]:
        """Update S sequences ``(B, T, D)``."""
        mixed = self.mamba(torch.stack(streams))
        return tuple(x + norm(y) for x, norm, y in zip(streams, self.norms, mixed, strict=True))


def _uniform(rows: int, fan_in: int) -> nn.Parameter:
    """Weights as of ``torch.nn.Linear``."""
    return nn.Parameter(torch.empty(rows, fan_in).uniform_(-(fan_in**-0.5), fan_in**-0.5))


def _map(x: Tensor, weight: Tensor) -> Tensor:
    """G linear maps side by side: ``(G, B, T, in)`` by ``(G out, in)`` to ``(G, B, T, out)``."""
    G, B, T, _ = x.shape
    return torch.bmm(x.reshape(G, B * T, -1), weight.view(G, -1, weight.shape[1]).mT).view(G, B, T, -1)

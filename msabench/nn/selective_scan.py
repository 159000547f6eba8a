"""The recurrence of selective state spaces: a linear one whose coefficients the input chooses."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def selective_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Run G scans side by side, from state 0.

    ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t`` and ``y_t = C_t h_t``, for each of E channels a state of N numbers. The
    exponential is exact, the input's term is Euler's.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", https://arxiv.org/abs/2312.00752,
    algorithm 2, with the discretisation of https://github.com/state-spaces/mamba. On a GPU its kernel is used if
    ``mamba_ssm`` is installed. Otherwise the steps follow one another, all else at once: at the lengths of clips this
    is faster than scans of logarithmic depth, which move the states, by far the largest thing here, more often.

    Args:
        u: float ``(G, B, T, E)``, the input.
        dt: float ``(G, B, T, E)``, step sizes, at least 0.
        A: float ``(G, E, N)``, below 0.
        B: float ``(G, B, T, N)``, what the input writes into the states.
        C: float ``(G, B, T, N)``, what is read from them.

    Returns:
        float ``(G, B, T, E)`` in the type of ``u``; computed in float32 at least, under autocast too.
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    inputs = [x.to(dtype) for x in (u, dt, A, B, C)]
    kernel = _kernel() if u.is_cuda else None
    with torch.autocast(u.device.type, enabled=False):
        y = _stepwise(*inputs) if kernel is None else _by_kernel(kernel, *inputs)
    return y.to(u.dtype)


def _stepwise(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    A = A.mT.unsqueeze(1)
    h = u.new_zeros(*u.shape[:2], *A.shape[2:])  # (G, B, N, E)
    y = []
    # Coefficients are made step by step: those of one step stay in the cache, those of all do not.
    for dt_t, input_t, B_t, C_t in zip(dt.unbind(2), (dt * u).unbind(2), B.unbind(2), C.unbind(2), strict=True):
        decay = torch.exp(dt_t.unsqueeze(2) * A)
        h = torch.addcmul(B_t.unsqueeze(3) * input_t.unsqueeze(2), decay, h)
        y.append((C_t.unsqueeze(2) @ h).squeeze(2))
    return torch.stack(y, dim=2)


def _by_kernel(kernel: Kernel, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    # The kernel has channels of one scan, in groups with a B and a C of their own: (B, G E, T) and (B, G, N, T).
    groups = [x.permute(1, 0, 3, 2).contiguous() for x in (u, dt, B, C)]
    u, dt, B, C = groups
    y = kernel(u.flatten(1, 2), dt.flatten(1, 2), A.flatten(0, 1), B, C)
    return y.unflatten(1, u.shape[1:3]).permute(1, 0, 3, 2)


@cache
def _kernel() -> Kernel | None:
    """The kernel of ``mamba_ssm``; None if it is not installed or was built for another torch."""
    try:
        kernel: Kernel = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    except ImportError:
        return None
    return kernel

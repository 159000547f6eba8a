"""Optimal transport between two samples, with entropic regularisation (Sinkhorn)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from msabench.errors import MSABenchError
from msabench.losses.distances import squared_distances


def transport_cost(a: Tensor, b: Tensor, eps: float = 0.05, iterations: int = 50) -> Tensor:
    """Cost ``<plan, C>`` of carrying one sample to another along the entropic plan, with ``C_ij = |a_i - b_j|^2``.

    The plan is ``argmin_plan <plan, C> - eps' H(plan)`` with uniform weights on both samples and
    ``eps' = eps * mean C``, so that it does not change when both samples are scaled. The plan is a constant to the
    gradient, which by the envelope theorem is then that of the regularised problem's minimum (``eps'`` held fixed); it
    needs no pass back through the iterations. Biased: 0 only if all points of both samples coincide.

    Source: Cuturi, NeurIPS 2013; envelope theorem: Feydy et al., AISTATS 2019, section 3.

    Args:
        a: float ``(N, D)``, one sample a row.
        b: float ``(M, D)``.
        eps: Regularisation as a multiple of the mean cost; positive.
        iterations: Sinkhorn iterations; at least 1.

    Returns:
        float ``()``, not negative.

    Raises:
        MSABenchError: ``eps`` or ``iterations`` is outside its range.
    """
    cost = squared_distances(a, b)
    return (sinkhorn_plan(cost, _scale(cost, eps), iterations) * cost).sum()


def sinkhorn_divergence(a: Tensor, b: Tensor, eps: float = 0.05, iterations: int = 50) -> Tensor:
    """Debiased Sinkhorn divergence ``S(a, b) - S(a, a) / 2 - S(b, b) / 2``, 0 for equal samples in any order.

    ``S = min_plan <plan, C> + eps' KL(plan || uniform)`` with the same ``eps' = eps * mean C(a, b)`` in all three
    terms; not negative, up to what the iterations leave. The gradient is as in ``transport_cost``.

    Source: Feydy et al., AISTATS 2019, eq. (3).

    Args:
        a: float ``(N, D)``, one sample a row.
        b: float ``(M, D)``.
        eps: Regularisation as a multiple of the mean cost between the samples; positive.
        iterations: Sinkhorn iterations; at least 1.

    Returns:
        float ``()``.

    Raises:
        MSABenchError: ``eps`` or ``iterations`` is outside its range.
    """
    between = squared_distances(a, b)
    scale = _scale(between, eps)

    def entropic(cost: Tensor) -> Tensor:
        plan = sinkhorn_plan(cost, scale, iterations)
        divergence = torch.xlogy(plan, plan).sum() + math.log(plan.numel())
        return (plan * cost).sum() + scale * divergence

    return entropic(between) - (entropic(squared_distances(a, a)) + entropic(squared_distances(b, b))) / 2


@torch.no_grad()
def sinkhorn_plan(cost: Tensor, eps: Tensor | float, iterations: int) -> Tensor:
    """Entropic transport plan between uniform weights, by Sinkhorn iterations on logarithms; a constant.

    Logarithms because ``exp(-cost / eps)`` underflows where ``eps`` is small against the cost.

    Args:
        cost: float ``(N, M)``.
        eps: Regularisation in units of the cost; positive.
        iterations: At least 1.

    Returns:
        float ``(N, M)``, not negative. Columns sum to ``1 / M``; rows to ``1 / N`` up to what the iterations leave.

    Raises:
        MSABenchError: ``iterations`` is outside its range.
    """
    if iterations < 1:
        raise MSABenchError(f"{iterations} Sinkhorn iterations are not allowed; give at least 1")
    kernel = -cost / eps
    log_rows, log_columns = -math.log(cost.shape[0]), -math.log(cost.shape[1])
    v = cost.new_zeros(1, cost.shape[1])
    for _ in range(iterations):
        u = log_rows - torch.logsumexp(kernel + v, dim=1, keepdim=True)
        v = log_columns - torch.logsumexp(kernel + u, dim=0, keepdim=True)
    return (kernel + u + v).exp()


def _scale(cost: Tensor, eps: float) -> Tensor:
    if eps <= 0:
        raise MSABenchError(f"a Sinkhorn regularisation of {eps} is not allowed; give a positive number")
    # Where all points coincide, any positive number does.
    return (eps * cost.detach().mean()).clamp(min=torch.finfo(cost.dtype).tiny)

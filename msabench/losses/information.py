"""Bounds on mutual information from a critic's scores of all pairs in a batch.

All take scores ``f(x_i, y_j)``, whose diagonal holds the pairs that belong together (the joint distribution) and whose
other entries stand for the product of the marginals. Bounds on *conditional* information, as FactorCL uses them, are
the same functions of a critic that sees the condition on both sides, ``f([x_i, c_i], [y_j, c'_j])``.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def infonce(scores: Tensor) -> Tensor:
    """InfoNCE, a lower bound on the mutual information ``I(X; Y)`` in nats.

    ``mean_j [f(x_j, y_j) - log mean_i exp f(x_i, y_j)]``: each y has to find its x among the batch's. It never exceeds
    ``log N`` and is 0 for a batch of one. Over all critics its largest value is reached by
    ``f = log p(x | y) / p(x)`` plus any function of y, so maximising it also fits the critic that ``club`` needs.

    Source: van den Oord et al. 2018, eq. (4), with the sign of a bound and ``log N`` added; the direction (negatives
    are x) and the averages as in https://github.com/pliang279/FactorCL.

    Args:
        scores: float ``(..., N, N)``, ``[i, j]`` is the score of ``x_i`` with ``y_j``.

    Returns:
        float ``(...)``, at most ``log N``.
    """
    joint = scores.diagonal(dim1=-2, dim2=-1)
    product = scores.logsumexp(dim=-2) - math.log(scores.shape[-2])
    return (joint - product).mean(dim=-1)


def club(scores: Tensor) -> Tensor:
    """CLUB, an upper bound on the mutual information ``I(X; Y)`` in nats, *if* the critic is the optimal one.

    ``mean f(x_i, y_i) - mean f(x_i, y_j)`` over the joint pairs and over all N x N pairs. With
    ``f = log p(x | y) / p(x)`` plus any function of y, its expectation exceeds ``I(X; Y)`` by the divergence of the
    product from the joint distribution; of another critic it bounds nothing. Never train a critic on it: it is linear
    in f and unbounded.

    Source: Cheng et al., ICML 2020, eq. (13); with a critic fitted by InfoNCE: Liang et al., NeurIPS 2023
    (FactorCL), eq. (7).

    Args:
        scores: float ``(..., N, N)``, ``[i, j]`` is the score of ``x_i`` with ``y_j``.

    Returns:
        float ``(...)``, 0 for a batch of one.
    """
    return scores.diagonal(dim1=-2, dim2=-1).mean(dim=-1) - scores.mean(dim=(-2, -1))


def jensen_shannon(scores: Tensor) -> Tensor:
    """Jensen-Shannon bound: how well a critic tells pairs that belong together from others.

    ``mean_i -softplus(-f(x_i, y_i)) + mean_{i != j} -softplus(f(x_i, y_j))``, never positive. Over all critics its
    largest value is reached by ``f = log p(x, y) / (p(x) p(y))`` and is ``2 JSD - 2 log 2``, with the Jensen-Shannon
    divergence between the joint distribution and the product of the marginals: -2 log 2 for independent x and y, and
    up to 0. It grows with the mutual information but is no estimate of it. Unlike InfoNCE it counts constants in f,
    and its critic may be trained by the same maximisation as the features.

    The product is represented by every pair that does not belong together, which is the mean over all N - 1 cyclic
    permutations of a batch; drawing one permutation has the same expectation with more noise.

    Source: Hjelm et al., ICLR 2019 (Deep InfoMax), eq. (4).

    Args:
        scores: float ``(..., N, N)``, ``[i, j]`` is the score of ``x_i`` with ``y_j``.

    Returns:
        float ``(...)``, at most 0. For a batch of one, which has no other pairs, 0 without a gradient.
    """
    n = scores.shape[-1]
    if n == 1:
        return scores.new_zeros(scores.shape[:-2])
    joint, every = -F.softplus(-scores.diagonal(dim1=-2, dim2=-1)), -F.softplus(scores)
    product = (every.sum(dim=(-2, -1)) - every.diagonal(dim1=-2, dim2=-1).sum(dim=-1)) / (n * (n - 1))
    return joint.mean(dim=-1) + product

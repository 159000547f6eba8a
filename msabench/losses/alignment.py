"""Losses that bring two distributions of features together."""

from __future__ import annotations

import torch
from torch import Tensor

from msabench.losses.distances import squared_distances

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Kernel widths, as multiples of the median squared distance (the family used by Long et al. 2015)."""


def mmd2(a: Tensor, b: Tensor, bandwidths: tuple[float, ...] = BANDWIDTHS, *, scale: float | None = None) -> Tensor:
    """Squared maximum mean discrepancy between two samples, as a V-statistic.

    ``mean k(a, a') + mean k(b, b') - 2 mean k(a, b)`` over all pairs, the diagonals included, which makes it a squared
    norm in the kernel's feature space: never negative, and 0 for equal samples. The kernel is a sum of Gaussians
    ``k(x, y) = sum_u exp(-|x - y|^2 / (u s))``, where ``s`` is the median squared distance over the distinct pairs of
    both samples together; ``s`` is a constant to the gradient. If half of the pairs or more coincide, ``s = 1``.
    Methods whose kernel has a width of its own give ``scale`` for s.

    Source: Gretton et al., JMLR 2012, eq. (5); kernel: Long et al., ICML 2015 (median heuristic, several widths).

    Args:
        a: float ``(N, D)``, one sample a row.
        b: float ``(M, D)``.
        bandwidths: Multiples u of s; all positive.
        scale: s, positive; None for the median.

    Returns:
        float ``()``, in [0, 2 * len(bandwidths)] up to rounding.
    """
    points = torch.cat([a, b])
    squared = squared_distances(points, points)
    s = _median_of_pairs(squared.detach()) if scale is None else scale
    kernel = torch.stack([torch.exp(-squared / (width * s)) for width in bandwidths]).sum(0)
    n = len(a)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def _median_of_pairs(squared: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(len(squared), len(squared), offset=1, device=squared.device)
    median = squared[rows, columns].median()
    return torch.where(median > 0, median, torch.ones_like(median))

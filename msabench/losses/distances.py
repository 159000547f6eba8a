"""Distances between the points of two samples."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs.

    By differences: products of large features would cancel, and equal points must have distance 0. In full precision,
    whatever the run's: there is no kernel for less.

    Args:
        a: float ``(N, D)``, one point a row.
        b: float ``(M, D)``.

    Returns:
        float ``(N, M)``, at least float32.
    """
    dtype = torch.promote_types(a.dtype, torch.float32)
    return torch.cdist(a.to(dtype), b.to(dtype), compute_mode="donot_use_mm_for_euclid_dist").square()

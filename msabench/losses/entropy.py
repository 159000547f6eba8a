"""Entropy of features."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_entropy(x: Tensor, shrinkage: float, *, diagonal: bool = False) -> Tensor:
    """Entropy of a Gaussian with the sample's covariance, ``1/2 log((2 pi e)^D det(C + shrinkage * I))``, in nats.

    A batch is smaller than its features are wide, so the covariance C alone is singular: its determinant is 0, the
    logarithm has no bound below, and the gradient no limit. The shrinkage bounds both. With N clips and centred
    features R, Sylvester's identity gives the determinant from the smaller of the two Gram matrices,
    ``log det(C + s I_D) = (D - N) log s + log det(R R^T / (N - 1) + s I_N)``.

    Args:
        x: float ``(..., N, D)``, one sample a row. A single row has covariance 0.
        shrinkage: s, in squared units of ``x``; positive.
        diagonal: Whether to take the diagonal of the covariance alone.

    Returns:
        float ``(...)``, at least float32.
    """
    n, width = x.shape[-2:]
    # In full precision, whatever the run's: the Gram matrix has eigenvalues from the shrinkage to a thousand times it.
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = (x - x.mean(dim=-2, keepdim=True)) / max(n - 1, 1) ** 0.5
        if diagonal:
            log_det = (centred.square().sum(-2) + shrinkage).log().sum(-1)
        else:
            gram = centred @ centred.mT if n < width else centred.mT @ centred
            side = gram.shape[-1]
            shrunk = gram + shrinkage * torch.eye(side, dtype=x.dtype, device=x.device)
            log_det = (width - side) * math.log(shrinkage) + torch.linalg.slogdet(shrunk).logabsdet
        return 0.5 * (width * math.log(2 * math.pi * math.e) + log_det)

"""Central moment discrepancy: two samples differ as far as their moments do."""

from __future__ import annotations

import torch
from torch import Tensor


def central_moment_discrepancy(a: Tensor, b: Tensor, moments: int = 5) -> Tensor:
    """CMD of two samples of bounded features, ``|E a - E b| + sum_{k=2}^K |E (a - E a)^k - E (b - E b)^k|``.

    Norms are Euclidean over the features; moments are of each feature alone, over the sample. The interval [0, 1] of
    sigmoid features has width 1, so nothing is scaled. Where two moments agree the gradient of their term is 0, so
    samples of one point are safe.

    Source: Zellinger et al., ICLR 2017, eq. (7).

    Args:
        a: float ``(N, D)``, one sample a row.
        b: float ``(M, D)``.
        moments: K, at least 1.

    Returns:
        float ``()``, not negative.
    """
    mean_a, mean_b = a.mean(0), b.mean(0)
    centred_a, centred_b = a - mean_a, b - mean_b
    differences = [mean_a - mean_b]
    differences += [centred_a.pow(k).mean(0) - centred_b.pow(k).mean(0) for k in range(2, moments + 1)]
    return torch.linalg.vector_norm(torch.stack(differences), dim=1).sum()

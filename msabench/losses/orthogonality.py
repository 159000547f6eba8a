"""Orthogonality: two codes of the same clips shall not share directions."""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonality(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared correlation of every feature of one code with every feature of the other, over the batch.

    Features are centred over the batch, then each clip's row is divided by its length, which is a constant to the
    gradient; the result is the mean of the squares of ``A^T B``.

    Source: the difference loss of Bousmalis et al., NeurIPS 2016, eq. (5), as https://github.com/declare-lab/MISA
    computes it: they print the sum of the squares, which is ``D E`` times ours, and do not normalise rows.

    Args:
        a: float ``(N, D)``, one clip a row.
        b: float ``(N, E)``, the same clips.

    Returns:
        float ``()``, not negative; 0 for a single clip.
    """
    return (_centred_rows(a).mT @ _centred_rows(b)).square().mean()


def _centred_rows(x: Tensor) -> Tensor:
    x = x - x.mean(0)
    # A row that equals the mean has no direction: it stays 0.
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True).detach() + 1e-6)

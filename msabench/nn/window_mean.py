"""Means over windows that bring one sequence to another's length."""

from __future__ import annotations

import torch
from torch import Tensor


def window_means(x: Tensor, steps: int) -> Tensor:
    """Shorten a sequence to so many windows of equal length, and average each.

    The last step is repeated until ``T`` is a multiple of ``steps``; padding at the end is averaged like content. As in
    ``AlignSubNet`` (``avg_pool``) of https://github.com/thuiar/MMSA at a94e65d.

    Args:
        x: float ``(B, T, D)``.
        steps: Windows S, at least 1. More than T repeats the last step up to S.

    Returns:
        float ``(B, S, D)``; ``x`` itself if T is S.
    """
    if x.shape[1] == steps:
        return x
    window = -(-x.shape[1] // steps)
    missing = window * steps - x.shape[1]
    filled = torch.cat([x, x[:, -1:].expand(-1, missing, -1)], dim=1)
    return filled.unflatten(1, (steps, window)).mean(2)

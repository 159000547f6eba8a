"""Losses that make predicted sequences agree with given ones."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Norm = Literal["l1", "l2", "smooth_l1"]


def frame_error(predicted: Tensor, target: Tensor, frames: Tensor, norm: Norm = "l2") -> Tensor:
    """Error of a predicted sequence, averaged over the frames that count and over their features.

    ``sum_f sum_j |p_fj - t_fj|^q / (n D)`` over the n frames f of all clips that count, with q = 2 for ``l2`` (the
    mean squared error) and 1 for ``l1``; ``smooth_l1`` is a half of the former below 1, and 1/2 less than the latter
    above. Every frame weighs the same, so longer clips weigh more.

    Args:
        predicted: float ``(B, T, D)``.
        target: float ``(B, T, D)``.
        frames: bool ``(B, T)``, the frames that count.
        norm: ``l1``, ``l2`` or ``smooth_l1``.

    Returns:
        float ``()``, at least 0; 0 where no frame counts. Values elsewhere have no influence.
    """
    error = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[norm]
    # Filled rather than multiplied by 0, which would keep a NaN.
    outside = ~frames.unsqueeze(2)
    total = error(predicted.masked_fill(outside, 0.0), target.masked_fill(outside, 0.0), reduction="sum")
    return total / (frames.sum().clamp(min=1) * predicted.shape[2])

"""Margin loss: vectors of equal labels are closer than those of different ones, the more so the more they differ."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def label_margin(vectors: Tensor, labels: Tensor, slope: float) -> Tensor:
    """How far pairs of equal labels fall short of being more similar than pairs of different labels by a margin.

    For an anchor i the mean over all its positives p (other vectors with the same label) and negatives n (another
    label) of ``max(0, slope * |y_i - y_n| - cos(x_i, x_p) + cos(x_i, x_n))``; then the mean over anchors that have
    both.

    Source: the margin loss of Li et al., CVPR 2023, as https://github.com/mdswyz/DMD at 516d4e1 computes it.

    Args:
        vectors: float ``(N, D)``.
        labels: float or int ``(N, ...)``; several labels per vector are compared by the sum of their distances.
        slope: Margin for a distance of 1, at least 0.

    Returns:
        float ``()``, not negative; 0 if no anchor has both.
    """
    lengths = (vectors.square().sum(1) + 1e-8).sqrt()
    cosine = (vectors @ vectors.T) / (lengths[:, None] * lengths)
    distance = (labels[:, None] - labels).abs().reshape(len(labels), len(labels), -1).sum(2)
    differs = distance != 0
    positives = ~differs & ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    triples = positives.sum(1) * differs.sum(1)
    # One row for each anchor with one of its positives: labels seldom agree, so these are far fewer than N^2.
    anchor, positive = positives.nonzero(as_tuple=True)
    shortfall = F.relu((slope * distance + cosine)[anchor] - cosine[anchor, positive].unsqueeze(1))
    summed = (shortfall * differs[anchor]).sum(1) / triples[anchor].clamp(min=1)
    return summed.sum() / (triples > 0).sum().clamp(min=1)

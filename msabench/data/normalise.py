"""Statistics for normalising features."""

from __future__ import annotations

import torch
from torch import Tensor

from msabench.data.corpus import SplitData
from msabench.missingness.patterns import complete_masks

Scale = dict[str, tuple[Tensor, Tensor]]
"""Modality -> mean and standard deviation of its features, float32 ``(D_m,)`` each."""

_MIN_STD = 1e-6


def statistics(split: SplitData, padding: dict[str, str], chunk: int = 512) -> Scale:
    """Mean and standard deviation of every feature over the existing frames of a split, computed in float64.

    Args:
        split: The training split.
        padding: modality -> side on which the file pads.
        chunk: Clips to look at together, so that a mapped corpus is never whole in memory.

    Returns:
        The statistics; a constant feature has standard deviation 1.
    """
    # A constant column carries nothing; dividing by its spread would blow up rounding noise.
    return {
        modality: (mean.float(), torch.where(std > _MIN_STD, std, torch.ones_like(std)).float())
        for modality, (mean, std) in _moments(split, padding, chunk).items()
    }


def deviations(split: SplitData, padding: dict[str, str], chunk: int = 512) -> dict[str, Tensor]:
    """Standard deviation of every feature over the existing frames of a split, float32 ``(D_m,)`` by modality.

    Arguments are those of ``statistics``; a constant feature has 0.
    """
    return {
        modality: torch.where(std > _MIN_STD, std, torch.zeros_like(std)).float()
        for modality, (_, std) in _moments(split, padding, chunk).items()
    }


def _moments(split: SplitData, padding: dict[str, str], chunk: int) -> Scale:
    """Mean and standard deviation of every feature over the existing frames, computed and given in float64."""
    clips = split.clips(padding)
    valid = complete_masks(clips).observed
    scale = {}
    for modality, values in split.features.items():
        count = valid[modality].sum().clamp(min=1)
        total = torch.zeros(values.shape[2], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for start in range(0, len(split), chunk):
            frames = values[start : start + chunk][valid[modality][start : start + chunk]].double()
            total += frames.sum(0)
        mean = total / count
        for start in range(0, len(split), chunk):
            frames = values[start : start + chunk][valid[modality][start : start + chunk]].double()
            # In place: these frames are by far the largest part of what is held.
            squares += frames.sub_(mean).square_().sum(0)
        scale[modality] = (mean, (squares / count).sqrt())
    return scale

"""How frames are dropped: each by itself, the same ones in all modalities, or in a run. Integers only.

Steps of a clip are counted from its first one. What happens at the same time in all modalities is decided on an axis
that a clip's modalities have in common: it has as many cells as the shortest of them has steps, and step t of n of any
of them lies in cell ``t * cells // n``. Where all have n steps, step t is cell t.
"""

from __future__ import annotations

import torch
from torch import Tensor

from msabench.missingness.philox import DRAW_BITS

COMMON = ("aligned", "block-aligned")
"""Ways of dropping that all modalities of a clip have in common."""

RUNS = ("block", "block-aligned")
"""Ways of dropping that take one run of steps."""


def axis(lengths: Tensor, available: Tensor) -> Tensor:
    """Cells of the axis that the modalities of clips have in common.

    Args:
        lengths: int64 ``(N, 3)`` steps of text, audio, vision.
        available: bool ``(N, 3)``; a modality that is not there has no say, since not even its length may be told.

    Returns:
        int64 ``(N,)``, at least 1.
    """
    longest = int(lengths.max()) if len(lengths) else 1
    counts = torch.where(available & (lengths > 0), lengths, max(longest, 1))
    return counts.amin(dim=1)


def steps(exist: Tensor) -> tuple[Tensor, Tensor]:
    """Number of every step, and how many there are.

    Args:
        exist: bool ``(N, T)``, one run of True per row.

    Returns:
        int64 ``(N, T)``, 0 at the first step and negative before it; int64 ``(N, 1)``.
    """
    position = torch.arange(exist.shape[1], device=exist.device)
    return position - exist.byte().argmax(dim=1, keepdim=True), exist.sum(dim=1, keepdim=True)


def run(count: Tensor, threshold: Tensor, start: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor]:
    """One run of dropped steps.

    It has ``(count * threshold + rounding) >> 24`` steps, which is the share on average whatever the length, and lies
    at ``start * (count - length + 1) >> 24``, uniform over all places. Both grow with the threshold such that a run
    holds those at lower ones.

    Args:
        count: int64 steps of clips, of any shape, at least 0.
        threshold: int64 share of them in 2**-24, in [0, 2**24]; broadcasts, like the others.
        start: int64 draws in [0, 2**24).
        rounding: int64 draws in [0, 2**24), independent of ``start``.

    Returns:
        First step and the one behind the last, int64.
    """
    length = count * threshold + rounding >> DRAW_BITS
    first = start * (count - length + 1) >> DRAW_BITS
    return first, first + length

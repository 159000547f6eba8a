"""One vector for a whole text."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

TextVector = Literal["first", "mean"]


def text_vector(states: Tensor, valid: Tensor, which: TextVector) -> Tensor:
    """Read a text's sequence of vectors as one.

    Args:
        states: float ``(B, T, D)``.
        valid: bool ``(B, T)``, the steps that exist.
        which: ``first`` for the first step, BERT's [CLS]; ``mean`` for the mean over existing steps, for features
            without a [CLS]. Steps that exist but were dropped count as the zeros they are.

    Returns:
        float ``(B, D)``; 0 for the mean of a text without any step.
    """
    if which == "first":
        return states[:, 0]
    weights = valid.unsqueeze(2).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)

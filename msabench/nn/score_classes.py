"""Sentiment scores as classes, for methods that classify and are measured by a score."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msabench.data.info import DataSpec
from msabench.errors import MSABenchError

_SIMS_EDGES = (-0.7, -0.1, 0.1, 0.7)
_SIMS_CENTRES = (-0.9, -0.4, 0.0, 0.4, 0.9)


class ScoreClasses(nn.Module):
    """Classes of a sentiment score, and the score that class probabilities stand for.

    MOSI and MOSEI style labels are rounded to whole numbers (seven classes for -3..3, halves to even, as Acc-7 does);
    CH-SIMS labels fall into the five bins of its Acc-5, ``(-inf, -.7] (-.7, -.1] (-.1, .1] (.1, .7] (.7, inf)``, whose
    centres are the means of the label values in them. Holds no weights and nothing in checkpoints.

    Args:
        spec: What the data look like.

    Attributes:
        n: Number C of classes.

    Raises:
        MSABenchError: Labels are no scores, or their range spans no whole numbers.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        if spec.task != "regression":
            raise MSABenchError(f"task {spec.task!r} has no score to make classes of; allowed: regression")
        low, high = spec.label_range
        if spec.metric_set == "sims":
            centres = torch.tensor(_SIMS_CENTRES)
        else:
            if high - low < 1:
                raise MSABenchError(f"labels in [{low}, {high}] span no two whole numbers to make classes of")
            centres = torch.arange(round(low), round(high) + 1, dtype=torch.float32)
        self.sims = spec.metric_set == "sims"
        self.n = len(centres)
        self.centres: Tensor
        self.register_buffer("centres", centres, persistent=False)

    def of(self, labels: Tensor) -> Tensor:
        """Class of each label: float ``(B,)`` to int64 ``(B,)`` in [0, C)."""
        if self.sims:
            return torch.bucketize(labels, torch.tensor(_SIMS_EDGES, device=labels.device))
        return (labels.round() - self.centres[0]).clamp(0, self.n - 1).long()

    def score(self, logits: Tensor) -> Tensor:
        """Expected score: ``(..., C)`` unnormalised log probabilities to ``(...)`` in label units."""
        return logits.softmax(dim=-1) @ self.centres

"""Sentiment scores as classes, for methods that classify and are measured by a score."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from msabench.data.info import EMOTIONS, DataSpec
from msabench.errors import MSABenchError
from msabench.nn.wide_buffers import WideBuffers

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
            # As labels are stored: -0.7 is on the edge in float32, and beside it once it is widened.
            edges = torch.tensor(_SIMS_EDGES, dtype=torch.float32, device=labels.device)
            return torch.bucketize(labels.float(), edges)
        return (labels.round() - self.centres[0]).clamp(0, self.n - 1).long()

    def score(self, logits: Tensor) -> Tensor:
        """Expected score: ``(..., C)`` unnormalised log probabilities to ``(...)`` in label units."""
        return logits.softmax(dim=-1) @ self.centres


class LabelClasses(WideBuffers):
    """The labels of any corpus as classes: E questions of K classes each, for losses that need classes throughout.

    A score is one question, by its polarity or by ``ScoreClasses``; four emotions are four questions with two answers.
    Polarity is that of the corpus's two-class accuracy: negative or not, for CH-SIMS positive or not. Its probability p
    stands for the score ``(2 p - 1) s``, whose sign is the class. s is the mean size of the labels that ``observe`` has
    seen, so that errors of this score are comparable with others; it is kept in checkpoints.

    Args:
        spec: What the data look like.
        kind: ``polarity`` or ``score``; the latter needs scores.

    Attributes:
        questions: E.
        n: Classes K of a question.

    Raises:
        MSABenchError: ``kind`` is ``score`` and labels are no scores, or their range spans no whole numbers; or it is
            ``polarity`` and scores have but one.
    """

    def __init__(self, spec: DataSpec, kind: Literal["polarity", "score"]) -> None:
        super().__init__()
        self.emotions = spec.task == "emotions"
        low, high = spec.label_range
        if kind == "polarity" and not self.emotions and not low < 0 < high:
            raise MSABenchError(f"labels in [{low}, {high}] have no polarity; the range must have 0 inside")
        self.sims = spec.metric_set == "sims"
        self.classes = ScoreClasses(spec) if kind == "score" else None
        self.questions = len(EMOTIONS) if self.emotions else 1
        self.n = 2 if self.classes is None else self.classes.n
        # Sum and number of sizes; one label in the middle of its half until others come.
        self.sizes: Tensor
        self.register_buffer("sizes", torch.tensor([(high - low) / 4, 1.0]))

    def observe(self, labels: Tensor) -> None:
        """Take note of the sizes of training labels, ``(B,)`` or ``(B, 4)``; changes scores by polarity alone."""
        if not self.emotions and self.classes is None:
            self.sizes += torch.stack([labels.abs().sum(), labels.new_tensor(len(labels))])

    def of(self, labels: Tensor) -> Tensor:
        """Classes of labels, float ``(B,)`` or int64 ``(B, 4)``: int64 ``(B, E)`` in [0, K)."""
        if self.emotions:
            return labels
        if self.classes is not None:
            return self.classes.of(labels).unsqueeze(1)
        return (labels > 0 if self.sims else labels >= 0).long().unsqueeze(1)

    def pred(self, logits: Tensor) -> Tensor:
        """What a method predicts: logits ``(B, E, K)`` to scores ``(B,)``, or emotions' ``(B, 4, 2)`` as they are."""
        if self.emotions:
            return logits
        if self.classes is not None:
            return self.classes.score(logits.squeeze(1))
        negative, positive = logits.squeeze(1).softmax(dim=-1).unbind(-1)
        total, count = self.sizes
        return (positive - negative) * total / count

"""Pseudo labels of single modalities, made while training from one label per clip (Self-MM, TETFN).

Yu, Xu, Yuan, Wu, "Learning Modality-Specific Representations with Self-Supervised Multi-Task Learning for Multimodal
Sentiment Analysis", AAAI 2021, sections ULGM and Optimization Objectives; numerics after the trainers of
https://github.com/thuiar/MMSA at a94e65d (``zero_is_positive``: https://github.com/thuiar/Self-MM at 1786283).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from msabench.nn.wide_buffers import WideBuffers

JOINT = "joint"
"""The branch of all modalities together; its labels are the human ones."""

_EPS = 1e-8


class PseudoLabels(nn.Module):
    """The unimodal label generation module (ULGM): no weights, but a memory of the training split.

    A clip whose unimodal features lie nearer to the positive clips' centre than its joint features do gets a higher
    label for that modality, and the other way round. With F the features of a branch s and c+ and c- the mean features
    of the clips whose label in that branch is positive or negative,

    ``delta_s = (|F - c-| - |F - c+|) / (|F - c+| + eps)``,
    ``new_s = (delta_s / delta_joint * y + y + delta_s - delta_joint) / 2``, limited to [-bound, bound],
    ``y_s <- (n - 1) / (n + 1) * y_s + 2 / (n + 1) * new_s``,

    where y is the human label and n the epoch, counted from 1; in the first one every ``y_s`` is y. Labels of a batch
    move by the centres that the batch before it left; then its features replace those remembered of its clips, and the
    centres are averaged anew over everything remembered, however old.

    Here n counts how often a clip was seen, which is the epoch if every epoch shows each clip once, and a clip gets its
    label when it is first seen; official codes label all clips beforehand. Only centres within the first epoch
    differ, and nothing reads those. A class without clips keeps its centre; in official codes it becomes NaN.
    The paper divides distances by the root of the width, which cancels but for eps; official codes do not.

    Args:
        clips: Training clips N.
        widths: Branch -> width of its features; ``joint`` and modalities.
        bound: Largest size H of a label.
        zero_is_positive: Whether clips with label 0 count as positive, as in Self-MM's own repository.
    """

    def __init__(self, clips: int, widths: Mapping[str, int], *, bound: float, zero_is_positive: bool = False) -> None:
        super().__init__()
        self.bound = bound
        self.zero_is_positive = zero_is_positive
        self.visits: Tensor
        self.register_buffer("visits", torch.zeros(clips, dtype=torch.int64))
        self.branches = nn.ModuleDict({branch: _Branch(clips, width) for branch, width in widths.items()})

    def losses(
        self, pred: Mapping[str, Tensor], features: Mapping[str, Tensor], human: Tensor, index: Tensor
    ) -> dict[str, Tensor]:
        """Loss of every modality for one training batch, which is then taken in.

        Args:
            pred: Modality -> float ``(B,)``, scores.
            features: Branch -> float ``(B, width)``.
            human: float ``(B,)``, labels of the clips.
            index: int64 ``(B,)``, their rows of the training split.

        Returns:
            Modality -> float ``()``, see ``pseudo_label_loss``.
        """
        labels = self.labels_of(index, human)
        self.update(index, features)
        return {m: pseudo_label_loss(pred[m], labels[m], human) for m in labels}

    def labels_of(self, index: Tensor, human: Tensor) -> dict[str, Tensor]:
        """Current labels of a batch. Clips seen for the first time get the human one in all branches.

        Args:
            index: int64 ``(B,)``, rows of the training split.
            human: float ``(B,)``, their labels.

        Returns:
            Modality -> float ``(B,)`` in [-bound, bound], unless human labels are outside. No gradient.
        """
        new = self.visits[index] == 0
        for branch in self._all().values():
            branch.labels[index] = torch.where(new, human, branch.labels[index])
        return {m: branch.labels[index] for m, branch in self._modalities().items()}

    @torch.no_grad()
    def update(self, index: Tensor, features: Mapping[str, Tensor]) -> None:
        """Move the labels of a batch, remember its features, and average the centres anew.

        Args:
            index: int64 ``(B,)``, rows of the training split, after ``labels_of``.
            features: Branch -> float ``(B, width)``.
        """
        n = self.visits[index] + 1
        joint = self._all()[JOINT]
        human, delta_joint = joint.labels[index], joint.leaning(features[JOINT])
        for m, branch in self._modalities().items():
            delta, old = branch.leaning(features[m]), branch.labels[index]
            ratio = delta / (delta_joint + _EPS)
            new = (ratio * human + (human + delta - delta_joint)) / 2
            moved = (n - 1) / (n + 1) * old + 2 / (n + 1) * new.clamp(-self.bound, self.bound)
            branch.labels[index] = torch.where(n > 1, moved, old)
        self.visits[index] = n
        seen = self.visits > 0
        for name, branch in self._all().items():
            branch.features[index] = features[name].to(branch.features.dtype)
            branch.average(seen, self.zero_is_positive)

    def _all(self) -> dict[str, _Branch]:
        return {name: cast(_Branch, branch) for name, branch in self.branches.items()}

    def _modalities(self) -> dict[str, _Branch]:
        return {name: branch for name, branch in self._all().items() if name != JOINT}


class _Branch(WideBuffers):
    """What is remembered of one branch: labels and latest features of all clips, and the centres of two classes."""

    labels: Tensor
    features: Tensor
    positive: Tensor
    negative: Tensor

    def __init__(self, clips: int, width: int) -> None:
        super().__init__()
        self.register_buffer("labels", torch.zeros(clips))
        self.register_buffer("features", torch.zeros(clips, width))
        self.register_buffer("positive", torch.zeros(width))
        self.register_buffer("negative", torch.zeros(width))

    def leaning(self, features: Tensor) -> Tensor:
        """Relative distance to the centres, ``(B, width)`` to ``(B,)``: above 0 nearer to the positive one."""
        to_positive = torch.linalg.vector_norm(features - self.positive, dim=-1)
        to_negative = torch.linalg.vector_norm(features - self.negative, dim=-1)
        return (to_negative - to_positive) / (to_positive + _EPS)

    def average(self, seen: Tensor, zero_is_positive: bool) -> None:
        above = self.labels >= 0 if zero_is_positive else self.labels > 0
        self._move(self.positive, above & seen)
        # A clip not seen yet has label 0.
        self._move(self.negative, self.labels < 0)

    def _move(self, centre: Tensor, members: Tensor) -> None:
        rows = members.nonzero().squeeze(1)
        if len(rows):
            centre.copy_(self.features.index_select(0, rows).mean(0))


def pseudo_label_loss(pred: Tensor, pseudo: Tensor, human: Tensor) -> Tensor:
    """L1 of one modality's predictions, weighted by how far its labels have moved: ``mean(tanh|p - y| |pred - p|)``.

    Source: Yu et al., AAAI 2021, section Optimization Objectives.

    Args:
        pred: float ``(B,)``.
        pseudo: float ``(B,)``, the modality's labels p.
        human: float ``(B,)``, the clips' labels y.

    Returns:
        float ``()``, at least 0; exactly 0 as long as labels have not moved.
    """
    return (torch.tanh((pseudo - human).abs()) * (pred - pseudo).abs()).mean()

"""Brings audio and vision onto the steps of the text by connectionist temporal classification (CTC)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec

ALIGNED = ("audio", "vision")


class CTCAligner(nn.Module):
    """Gives every source step a distribution over T target steps and a blank, and sums the source by it.

    ``x'_t = sum_s P(s, t) x_s``, with P the softmax of a recurrent network's states, as many as there are target steps
    and the blank, which comes first and is left out of the sum. The weights of a target step do not add up to 1. The
    aligner of https://github.com/yaohungt/Multimodal-Transformer (Tsai et al., ACL 2019), in MMSA and TF-Mamba too.
    Padding is read like any step.

    An LSTM's states lie between -1 and 1, and nothing widens them here. So a source step gives at most
    ``e^2 / (e^2 + T)`` of itself to one place, 13% with T = 50, and the rest to all others: what comes out is blurred.

    Args:
        features: Features D of a source step.
        steps: Target steps T.
    """

    def __init__(self, features: int, steps: int) -> None:
        super().__init__()
        self.position = nn.LSTM(features, steps + 1, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Align ``(B, S, D)``.

        Returns:
            The aligned sequence ``(B, T, D)``, and the logits of every step's place ``(B, S, T + 1)``, the blank first.
        """
        scores, _ = self.position(x)
        return scores.softmax(2)[:, :, 1:].transpose(1, 2) @ x, scores


def ctc_loss(scores: Tensor) -> Tensor:
    """How unlikely it is that a clip's steps visit all target steps, each once and in order.

    The negative log-probability of the labels 1, 2, ..., T, summed over all paths through the source steps.

    Args:
        scores: Logits ``(B, S, T + 1)`` of a ``CTCAligner``.

    Returns:
        float ``(B,)``, at least 0; 0, without gradient, where there are fewer source than target steps.
    """
    clips, steps, labels = scores.shape
    lengths = torch.full((clips,), steps), torch.full((clips,), labels - 1)
    targets = torch.arange(1, labels, device=scores.device).expand(clips, -1)
    # In float32 at least: there is no kernel for less.
    log_probs = scores.log_softmax(2, dtype=torch.promote_types(scores.dtype, torch.float32)).transpose(0, 1)
    return F.ctc_loss(log_probs, targets, *lengths, reduction="none", zero_infinity=True)


class AlignToText(nn.Module):
    """A CTC aligner for audio and one for vision, before a method that needs one frame per word.

    They align whatever they are given, also features with as many steps as the text has.

    Args:
        spec: What the data look like.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        steps = spec.seq_lens["text"]
        self.aligners = nn.ModuleDict({m: CTCAligner(spec.feature_dims[m], steps) for m in ALIGNED})

    def forward(self, batch: Batch) -> tuple[Batch, dict[str, Tensor]]:
        """Align a batch.

        Returns:
            The batch on the text's steps: an aligned frame exists where a word does, and is observed if anything of its
            modality is; a removed modality stays zero and removed. And the logits of both aligners, by modality. The
            complete version and views are left as they are.
        """
        aligned = {m: aligner(batch.features[m]) for m, aligner in self.aligners.items()}
        features = {m: sequence for m, (sequence, _) in aligned.items()}
        return onto_words(batch, features), {m: scores for m, (_, scores) in aligned.items()}

    def loss(self, scores: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The CTC losses of audio and vision, added up, float ``(B,)``. A removed modality has nothing to align.

        Args:
            scores: What ``forward`` gave for the batch.
            batch: The batch as it came in.
        """
        losses = [ctc_loss(scores[m]) * batch.observed[m].any(1) for m in ALIGNED]
        return torch.stack(losses).sum(0)


def onto_words(batch: Batch, features: Mapping[str, Tensor]) -> Batch:
    """The batch with aligned audio and vision.

    Args:
        batch: The batch as it came in.
        features: ``audio`` and ``vision`` on the steps of the text, ``(B, T, D_m)``.
    """
    text = batch.valid["text"]
    # A text without any word has no say in what exists.
    exists = text | ~text.any(1, keepdim=True)
    present = {m: batch.observed[m].any(1, keepdim=True) for m in features}
    return replace(
        batch,
        features={**batch.features, **features},
        valid={**batch.valid, **dict.fromkeys(features, exists)},
        observed={**batch.observed, **{m: exists & there for m, there in present.items()}},
        last={**batch.last, **dict.fromkeys(features, batch.last["text"])},
    )

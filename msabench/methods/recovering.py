"""What DiCMoR and IMDer share: everything but how a missing modality is guessed.

Stage ``complete`` trains text encoder, projections and a Multimodal Transformer on complete clips. Then text encoder
and projections are frozen, and stage ``task`` trains the rest: a missing modality's projected sequence is guessed from
those of the modalities that are there, refined, and read by the transformer like any other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod, Output
from msabench.missingness.conditions import LETTERS, MISSING_CONDITIONS, MODALITIES
from msabench.nn.channel_attention import ChannelAttentionRefiner
from msabench.nn.common_axis import at_steps, common_axis
from msabench.nn.crossmodal_head import CrossmodalHead
from msabench.nn.temporal import TemporalProjection
from msabench.nn.text import TextInput, parameter_groups


class Recovering(MSAMethod):
    """Guesses the projected sequences of missing modalities; a method adds ``guess`` and ``generative_errors``.

    A modality is missing where a clip has no observed frame of it; sequences are dictionaries modality ->
    ``(B, T, d)``. Where a clip has no modality at all nothing is guessed. The arguments are those of the methods.
    """

    complete_stages: ClassVar[tuple[str, ...]] = ("complete",)
    schedule: Mapping[str, tuple[str, ...]] = MappingProxyType({"complete": ("main",), "task": ("main",)})

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str,
        complete_epochs: int,
        complete_lr: float | None = None,
        dim: int,
        heads: int,
        layers: int,
        kernel_size: int,
        refiner_layers: int,
        idle_recovery: bool,
        dropout_text: float,
        attn_dropout: dict[str, float],
        head_dropouts: dict[str, float],
        text_encoder: str | None,
        finetune: bool,
        text_lr: float,
        **recipe: Any,
    ) -> None:
        super().__init__(spec, variant=variant, task_loss="l1", lr_factor=0.5, clip_by="value", **recipe)
        if complete_epochs < 1:
            raise MSABenchError(f"complete_epochs {complete_epochs} is not allowed; give at least 1")
        self.stage_epochs = {"complete": complete_epochs}
        self.complete_lr = complete_lr
        self.idle_recovery = idle_recovery
        self.dropout_text = dropout_text
        self.text_lr = text_lr
        self.text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
        widths = {**spec.feature_dims, "text": self.text.width}
        steps = spec.seq_lens["text"]
        self.project = nn.ModuleDict(
            {
                m: TemporalProjection(widths[m], dim, steps=steps, kernel_size=kernel_size, what=m, always=True)
                for m in MODALITIES
            }
        )
        self.steps = steps - kernel_size + 1
        self.merge = nn.ModuleDict({m: nn.Linear(2 * dim, dim) for m in MODALITIES})
        self.refine = nn.ModuleDict({m: ChannelAttentionRefiner(dim, refiner_layers) for m in MODALITIES})
        self.head = CrossmodalHead(dim, heads, layers, self.n_outputs, attn_dropout=attn_dropout, **head_dropouts)

    @abstractmethod
    def guess(self, modality: str, streams: dict[str, Tensor], available: Tensor) -> Tensor:
        """Guess a modality that all given clips miss.

        Args:
            modality: The one that is missing.
            streams: modality -> float ``(R, T, d)``.
            available: bool ``(R, 3)``, the modalities that are there, at least one per clip.

        Returns:
            float ``(R, T, d)``, before it is refined.
        """

    @abstractmethod
    def generative_errors(
        self, streams: dict[str, Tensor], targets: dict[str, Tensor], missing: Tensor, batch: Batch
    ) -> Tensor:
        """What the generative networks learn from, per clip and modality.

        Args:
            streams: modality -> float ``(B, T, d)``, of what is there.
            targets: Those of the complete clips.
            missing: bool ``(B, 3)``, the modalities to guess.
            batch: The training batch.

        Returns:
            float ``(B, 3)``.
        """

    def prepare_stage(self, stage: str) -> None:
        """Text encoder and projections are trained on complete clips only."""
        if stage == "task":
            self.freeze_parts(self.text, self.project)

    def param_groups(self) -> list[dict[str, Any]]:
        """What the stage trains, a text encoder at its own rate."""
        if self.stage == "complete":
            groups = parameter_groups(nn.ModuleList([self.text, self.project, self.head]), self.text_lr)
            return [{"lr": self.lr if self.complete_lr is None else self.complete_lr, **group} for group in groups]
        return parameter_groups(self, self.text_lr)

    def forward(self, batch: Batch) -> Output:
        """Predict, with what is missing recovered in stage ``task``; ``representation`` is ``(B, 6 d)``."""
        streams = self._streams(batch)
        if self.stage == "task":
            missing = _missing(batch)
            streams = self._recovered(streams, missing)
        return self._output(streams)

    def training_forward(self, batch: Batch) -> Output:
        """Complete clips in stage ``complete``; then corrupted ones, and complete ones as targets.

        Returns:
            In stage ``task`` ``aux`` has, all ``(B, 3)`` by modality: ``missing``, 1 where one is guessed; ``rec``, the
            mean squared error of the guess, else 0; and ``generative``.
        """
        complete = self.complete_of(batch)
        if self.stage == "complete":
            return self._output(self._streams(complete))
        streams, targets = self._streams(batch), self._streams(complete)
        missing = _missing(batch)
        recovered = self._recovered(streams, missing)
        out = self._output(recovered)
        sizes = self.device_shares(batch.size)
        if self.idle_recovery and not self.gather_rows(missing, sizes).any(0).all():
            # A modality that no clip of the batch misses: clips that are whole miss others in turn.
            turns = self.own_rows(_turns(sum(sizes), missing.device), sizes)
            missing = torch.where(_there(batch).all(1, keepdim=True), turns, missing)
            recovered = self._recovered(streams, missing)
        errors = [(recovered[m] - targets[m]).square().mean((1, 2)) for m in MODALITIES]
        out.aux = {
            "missing": missing.to(targets["text"].dtype),
            "rec": torch.stack(errors, dim=1).where(missing, 0.0),
            "generative": self.generative_errors(streams, targets, missing, batch),
        }
        return out

    def merged(self, modality: str, first: Tensor, second: Tensor, available: Tensor) -> Tensor:
        """Of what comes from the two sources of a modality, that of the one that is there; both merged linearly.

        Args:
            modality: The one that is missing.
            first: float ``(R, T, d)``, from the first of ``sources_of(modality)``.
            second: From the second.
            available: bool ``(R, 3)``, the modalities that are there.

        Returns:
            float ``(R, T, d)``.
        """
        has_first, has_second = (available[:, MODALITIES.index(n)] for n in sources_of(modality))
        chosen = torch.where(has_first[:, None, None], first, second)
        (pairs,) = (has_first & has_second).nonzero(as_tuple=True)
        if len(pairs):
            joined = self.merge[modality](torch.cat([first, second], dim=2)[pairs])
            chosen = chosen.index_copy(0, pairs, joined.to(chosen.dtype))
        return chosen

    def anywhere(self, rows: Tensor) -> bool:
        """Whether there are such clips on any device: in training all guess together, as they draw together."""
        return sum(self.device_shares(len(rows))) > 0 if self.training else len(rows) > 0

    def _streams(self, batch: Batch) -> dict[str, Tensor]:
        """The projected modalities on the steps of the text."""
        text = F.dropout(self.text(batch), self.dropout_text, self.training)
        valid = common_axis(batch).valid
        inputs = {"text": text, **{m: at_steps(batch, m, batch.features[m], valid) for m in MODALITIES[1:]}}
        return {m: self.project[m](inputs[m]) for m in MODALITIES}

    def _recovered(self, streams: dict[str, Tensor], missing: Tensor) -> dict[str, Tensor]:
        """The sequences with refined guesses where one is missing."""
        recovered = dict(streams)
        for column, m in enumerate(MODALITIES):
            (rows,) = missing[:, column].nonzero(as_tuple=True)
            if self.anywhere(rows):
                with torch.no_grad():
                    there = {n: x[rows] for n, x in streams.items()}
                refined = self.refine[m](self.guess(m, there, ~missing[rows]))
                recovered[m] = streams[m].index_copy(0, rows, refined.to(streams[m].dtype))
        return recovered

    def _output(self, streams: dict[str, Tensor]) -> Output:
        outputs, joint = self.head(streams)
        return Output(pred=self.to_pred(outputs), representation=joint.detach())


def sources_of(modality: str) -> tuple[str, str]:
    """The two other modalities, in the order in which they are merged: text, vision, audio."""
    first, second = (n for n in ("text", "vision", "audio") if n != modality)
    return first, second


def _missing(batch: Batch) -> Tensor:
    """The modalities to guess, bool ``(B, 3)``: none where a clip has no modality to guess from."""
    there = _there(batch)
    return ~there & there.any(1, keepdim=True)


def _there(batch: Batch) -> Tensor:
    """Whether a clip has an observed frame, bool ``(B, 3)`` by modality."""
    return torch.stack([batch.observed[m].any(1) for m in MODALITIES], dim=1)


def _turns(clips: int, device: torch.device) -> Tensor:
    """What clips miss that are left one of the six proper subsets in turn; bool ``(clips, 3)``."""
    left = [[letter not in subset for letter in LETTERS] for subset in MISSING_CONDITIONS]
    turn = torch.arange(clips, device=device) % len(left)
    return torch.tensor(left, device=device)[turn]

"""TETFN: A Text Enhanced Transformer Fusion Network for Multimodal Sentiment Analysis.

Di Wang, Xutong Guo, Yumin Tian, Jinhui Liu, Lihuo He, Xuemei Luo. Pattern Recognition 136, 2023,
https://doi.org/10.1016/j.patcog.2022.109259.
Code: https://github.com/thuiar/MMSA at a94e65d, MIT licence, to which the authors' group gave it; there is no other.
It is trained as Self-MM is (Yu et al., AAAI 2021), on pseudo labels of single modalities.

Deviations:
    The paper's own visual features, from a vision Transformer, are in no public file; MMSA uses the files' features.
    The convolution of vision is as long as that of audio, as in MMSA, whose setting for vision is never read although
    its numbers come from there; ``kernel_size_vision`` gives it a length of its own.
    A projection whose input has the common width already is the identity, as in MulT; MMSA has no such setting.
    The last memory layer computes its last step alone: the same value, and fewer dropout draws.
    The validation score that selects is weighted by clips; MMSA averages over batches and rounds to 4 decimals.
    IEMOCAP's emotions are categories, for which there are no pseudo labels: the joint head alone is trained, by
    cross-entropy. There is no official setting.
    What PseudoLabels says about clips not yet seen and about empty classes.

On several devices ``accumulate`` above 1 needs ``--trainer.strategy=ddp_find_unused_parameters_true``.

As in MMSA, sequences longer than the text are averaged down to its length, and padding is neither masked nor skipped:
the LSTMs, the maxima over time and the last steps of the memories all see it, as BERT's states in the text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.losses.pseudo_labels import JOINT, PseudoLabels
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.branch_head import BranchHead
from msabench.nn.crossmodal import CrossmodalEncoder
from msabench.nn.part_groups import Rates, groups_by_part
from msabench.nn.temporal import TemporalProjection
from msabench.nn.text import TextInput
from msabench.nn.window_mean import window_means

_LAYERS = 2


class _SequenceEncoder(nn.Module):
    """An LSTM over all stored steps, averaged to the text's length before, and projected by a convolution after it."""

    def __init__(self, features: int, hidden: int, width: int, steps: int, kernel_size: int, what: str) -> None:
        super().__init__()
        self.steps = steps
        self.rnn = nn.LSTM(features, hidden, batch_first=True)
        self.project = TemporalProjection(hidden, width, steps=steps, kernel_size=kernel_size, what=what)

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode ``(B, T, features)`` as ``(B, steps - kernel_size + 1, width)``."""
        return self.project(self.rnn(window_means(inputs, self.steps))[0])


class _TextEnhanced(nn.Module):
    """The text-enhanced Transformer: what one modality finds in the text is what another one attends to."""

    def __init__(self, width: int, heads: int, dropouts: dict[str, Any]) -> None:
        super().__init__()
        self.lower = CrossmodalEncoder(width, heads, 1, **dropouts)
        self.upper = CrossmodalEncoder(width, heads, _LAYERS, **dropouts)

    def forward(self, target: Tensor, source: Tensor, text: Tensor) -> Tensor:
        """Enhance target ``(B, T, d)`` by source ``(B, S, d)``, through text ``(B, T_l, d)``."""
        return self.upper(target, self.lower(source, text))


class TETFN(MSAMethod):
    """Pairs of modalities attend to each other; audio and vision do so through what they have read in the text.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``wo_unimodal`` trains the joint task alone, without pseudo labels.
        dim: Common width d of the modalities.
        heads: Attention heads of every encoder; divides ``dim``.
        hidden_audio: Units of the audio LSTM.
        hidden_vision: Units of the vision LSTM.
        kernel_size_text: Steps seen by one step of the text projection.
        kernel_size_audio: The same for audio.
        kernel_size_vision: The same for vision; None for that of audio, as in MMSA.
        attn_dropout_text: Dropout on attention weights where text is the source, and in the text-enhanced and memory
            encoders.
        attn_dropout_audio: The same where audio is the source.
        attn_dropout_vision: The same where vision is the source.
        relu_dropout: Dropout in feed-forward networks.
        embed_dropout: Dropout on embedded sequences.
        res_dropout: Dropout on residual branches.
        fusion_width: Units of the joint head, and width of its remembered features.
        width_text: The same for text alone.
        width_audio: The same for audio alone.
        width_vision: The same for vision alone.
        fusion_dropout: Dropout on the joined memories.
        dropout_text: Dropout in front of the text head.
        dropout_audio: The same for audio.
        dropout_vision: The same for vision.
        label_bound: Largest size H of a pseudo label.
        zero_is_positive: Whether clips with label 0 count as positive when centres are averaged.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        text_weight_decay: L2 weight decay of a trained text encoder, but for its biases and LayerNorms.
        audio_lr: Learning rate of the audio encoder.
        audio_weight_decay: L2 weight decay of the audio encoder.
        vision_lr: Learning rate of the vision encoder.
        vision_weight_decay: L2 weight decay of the vision encoder.
        lr: Learning rate of Adam for everything else.
        weight_decay: L2 weight decay of everything else.
        accumulate: Batches whose losses are summed before a step; 4 in MMSA.

    Raises:
        MSABenchError: ``heads`` does not divide ``dim``, or a kernel is longer than the text's sequence.
    """

    info = MethodInfo(
        name="tetfn",
        title="TETFN: A Text Enhanced Transformer Fusion Network for Multimodal Sentiment Analysis",
        venue="Pattern Recognition",
        year=2023,
        url="https://doi.org/10.1016/j.patcog.2022.109259",
        fidelity="parity",
        code_url="https://github.com/thuiar/MMSA",
        code_commit="a94e65d",
        licence="MIT",
        variants=("wo_unimodal",),
        smoke={
            "accumulate": 2,
            "dim": 8,
            "heads": 2,
            "hidden_audio": 6,
            "hidden_vision": 6,
            "fusion_width": 12,
            "width_text": 8,
            "width_audio": 8,
            "width_vision": 8,
        },
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        dim: int = 50,
        heads: int = 5,
        hidden_audio: int = 16,
        hidden_vision: int = 64,
        kernel_size_text: int = 1,
        kernel_size_audio: int = 1,
        kernel_size_vision: int | None = None,
        attn_dropout_text: float = 0.1,
        attn_dropout_audio: float = 0.0,
        attn_dropout_vision: float = 0.1,
        relu_dropout: float = 0.0,
        embed_dropout: float = 0.0,
        res_dropout: float = 0.1,
        fusion_width: int = 64,
        width_text: int = 32,
        width_audio: int = 32,
        width_vision: int = 16,
        fusion_dropout: float = 0.0,
        dropout_text: float = 0.0,
        dropout_audio: float = 0.0,
        dropout_vision: float = 0.0,
        label_bound: float = 3.0,
        zero_is_positive: bool = False,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 3e-5,
        text_weight_decay: float = 1e-3,
        audio_lr: float = 5e-4,
        audio_weight_decay: float = 1e-2,
        vision_lr: float = 3e-4,
        vision_weight_decay: float = 0.0,
        lr: float = 3e-4,
        weight_decay: float = 1e-2,
        accumulate: int = 4,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="l1", accumulate=accumulate)
        self.rates = {
            "text": Rates(text_lr, text_weight_decay),
            "audio": Rates(audio_lr, audio_weight_decay),
            "vision": Rates(vision_lr, vision_weight_decay),
        }
        if kernel_size_vision is None:
            kernel_size_vision = kernel_size_audio
        dims, steps = spec.feature_dims, spec.seq_lens["text"]
        self.text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
        self.project_text = TemporalProjection(
            self.text.width, dim, steps=steps, kernel_size=kernel_size_text, what="text"
        )
        self.audio = _SequenceEncoder(dims["audio"], hidden_audio, dim, steps, kernel_size_audio, "audio")
        self.vision = _SequenceEncoder(dims["vision"], hidden_vision, dim, steps, kernel_size_vision, "vision")

        common: dict[str, Any] = {
            "relu_dropout": relu_dropout,
            "embed_dropout": embed_dropout,
            "res_dropout": res_dropout,
        }
        attn_dropout = {"text": attn_dropout_text, "audio": attn_dropout_audio, "vision": attn_dropout_vision}
        by_text = {**common, "attn_dropout": attn_dropout_text}
        plain = (("text", "audio"), ("text", "vision"), ("audio", "text"), ("vision", "text"))
        self.cross = nn.ModuleDict(
            {
                f"{target}_from_{source}": CrossmodalEncoder(
                    dim, heads, _LAYERS, attn_dropout=attn_dropout[source], positions=False, **common
                )
                for target, source in plain
            }
        )
        self.audio_from_vision = _TextEnhanced(dim, heads, by_text)
        self.vision_from_audio = _TextEnhanced(dim, heads, by_text)
        self.memory = nn.ModuleDict(
            {m: CrossmodalEncoder(2 * dim, heads, _LAYERS, positions=False, **by_text) for m in MODALITIES}
        )

        widths = {"text": width_text, "audio": width_audio, "vision": width_vision}
        dropouts = {"text": dropout_text, "audio": dropout_audio, "vision": dropout_vision}
        self.joint_head = BranchHead(6 * dim, fusion_width, self.n_outputs, fusion_dropout)
        self.heads = nn.ModuleDict()
        self.pseudo_labels: PseudoLabels | None = None
        if spec.task == "regression" and variant != "wo_unimodal":
            self.heads.update({m: BranchHead(dim, widths[m], 1, dropouts[m]) for m in MODALITIES})
            self.pseudo_labels = PseudoLabels(
                spec.n_train, {JOINT: fusion_width, **widths}, bound=label_bound, zero_is_positive=zero_is_positive
            )

    def forward(self, batch: Batch) -> Output:
        """Predict from all modalities and from each.

        Returns:
            ``representation`` is F of the joint head ``(B, fusion_width)``; ``aux`` holds F of every branch, without
            gradient.
        """
        text = self.project_text(self.text(batch))
        audio, vision = self.audio(batch.audio), self.vision(batch.vision)
        # The order of the streams counts.
        streams = {
            "text": (self.cross["text_from_audio"](text, audio), self.cross["text_from_vision"](text, vision)),
            "audio": (self.cross["audio_from_text"](audio, text), self.audio_from_vision(audio, vision, text)),
            "vision": (self.cross["vision_from_text"](vision, text), self.vision_from_audio(vision, audio, text)),
        }
        memories = [self.memory[m](torch.cat(streams[m], dim=2), last_only=True).squeeze(1) for m in MODALITIES]
        outputs, joint = self.joint_head(torch.cat(memories, dim=1))
        out = Output(pred=self.to_pred(outputs), representation=joint.detach(), aux={JOINT: joint.detach()})
        sequences = {"text": text, "audio": audio, "vision": vision}
        for m, head in self.heads.items():
            score, features = head(sequences[m].max(dim=1).values)
            out.unimodal[m] = score.squeeze(-1)
            out.aux[m] = features.detach()
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """``sum_s mean(w_s |pred_s - y_s|)``, with w 1 for the joint task and ``tanh|y_s - y|`` for each modality."""
        assert batch.labels is not None
        terms = {"task": self.task_loss(out.pred, batch.labels)}
        if self.pseudo_labels is not None:
            assert batch.index is not None
            terms |= self.pseudo_labels.losses(out.unimodal, out.aux, batch.labels, batch.index)
        return terms

    def param_groups(self) -> list[dict[str, Any]]:
        """The encoders learn at rates of their own; the projection of the text belongs to the rest."""
        parts = {"text": self.text, "audio": self.audio, "vision": self.vision}
        return groups_by_part(self, [(parts[m], self.rates[m]) for m in MODALITIES])

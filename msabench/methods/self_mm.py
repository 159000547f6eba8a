"""Self-MM: Learning Modality-Specific Representations with Self-Supervised Multi-Task Learning.

Wenmeng Yu, Hua Xu, Ziqi Yuan, Jiele Wu, "... for Multimodal Sentiment Analysis". AAAI 2021,
https://doi.org/10.1609/aaai.v35i12.17289.
Official code: https://github.com/thuiar/Self-MM at 1786283; its authors keep it in https://github.com/thuiar/MMSA at
a94e65d, which we follow where the two differ. Both MIT licence.

Deviations:
    Dropout behind the LSTMs is left out: its rate is 0 in every official setting.
    ``zero_is_positive`` is off, as in MMSA; in the authors' first repository, whose options lack it, it is on.
    A removed modality is as long as its file: its length would tell of the clip. Official code has no missingness.
    The validation score that selects is weighted by clips; MMSA averages over batches and rounds to 4 decimals.
    ``text_vector: mean`` is for features without a [CLS]; both official codes only know BERT.
    IEMOCAP's emotions are categories, for which there are no pseudo labels: the joint head alone is trained, by
    cross-entropy. There is no official setting.
    What PseudoLabels says about clips not yet seen and about empty classes.

On several devices ``accumulate`` above 1 needs ``--trainer.strategy=ddp_find_unused_parameters_true``.
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
from msabench.nn.packed import final_states
from msabench.nn.part_groups import Rates, groups_by_part
from msabench.nn.text import TextInput
from msabench.nn.text_vector import TextVector, text_vector


class _SequenceEncoder(nn.Module):
    """The final state of an LSTM, projected linearly."""

    def __init__(self, features: int, hidden: int, out: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(features, hidden, batch_first=True)
        self.linear = nn.Linear(hidden, out)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Encode ``(B, T, features)`` with lengths ``(B,)`` as ``(B, out)``."""
        return self.linear(final_states(self.rnn, inputs, lengths))


class SelfMM(MSAMethod):
    """Predicts from all modalities together and from each alone; labels of the latter are made while training.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``wo_unimodal`` trains the joint task alone (the paper's row M).
        hidden_audio: Units of the audio LSTM.
        hidden_vision: Units of the vision LSTM.
        out_audio: Width of the audio vector.
        out_vision: Width of the vision vector.
        fusion_width: Units of the joint head, and width of its remembered features.
        width_text: The same for text alone.
        width_audio: The same for audio alone.
        width_vision: The same for vision alone.
        fusion_dropout: Dropout on the joined vectors.
        dropout_text: Dropout in front of the text head.
        dropout_audio: The same for audio.
        dropout_vision: The same for vision.
        label_bound: Largest size H of a pseudo label.
        zero_is_positive: Whether clips with label 0 count as positive when centres are averaged.
        text_vector: ``first`` reads the text at its first step, BERT's [CLS]; ``mean`` averages its steps.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        text_weight_decay: L2 weight decay of a trained text encoder, but for its biases and LayerNorms.
        audio_lr: Learning rate of the audio encoder.
        audio_weight_decay: L2 weight decay of the audio encoder.
        vision_lr: Learning rate of the vision encoder.
        vision_weight_decay: L2 weight decay of the vision encoder.
        lr: Learning rate of Adam for the heads.
        weight_decay: L2 weight decay of the heads.
        accumulate: Batches whose losses are summed before a step; 4 in the official code.
    """

    info = MethodInfo(
        name="self_mm",
        title="Learning Modality-Specific Representations with Self-Supervised Multi-Task Learning "
        "for Multimodal Sentiment Analysis",
        venue="AAAI",
        year=2021,
        url="https://doi.org/10.1609/aaai.v35i12.17289",
        fidelity="parity",
        code_url="https://github.com/thuiar/Self-MM",
        code_commit="1786283",
        licence="MIT",
        variants=("wo_unimodal",),
        smoke={
            "accumulate": 2,
            "hidden_audio": 6,
            "hidden_vision": 6,
            "out_audio": 6,
            "out_vision": 6,
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
        hidden_audio: int = 16,
        hidden_vision: int = 32,
        out_audio: int = 16,
        out_vision: int = 32,
        fusion_width: int = 128,
        width_text: int = 32,
        width_audio: int = 16,
        width_vision: int = 32,
        fusion_dropout: float = 0.0,
        dropout_text: float = 0.1,
        dropout_audio: float = 0.1,
        dropout_vision: float = 0.0,
        label_bound: float = 3.0,
        zero_is_positive: bool = False,
        text_vector: TextVector = "first",
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        text_weight_decay: float = 1e-3,
        audio_lr: float = 5e-3,
        audio_weight_decay: float = 1e-3,
        vision_lr: float = 5e-3,
        vision_weight_decay: float = 1e-3,
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        accumulate: int = 4,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="l1", accumulate=accumulate)
        self.text_vector: TextVector = text_vector
        self.rates = {
            "text": Rates(text_lr, text_weight_decay),
            "audio": Rates(audio_lr, audio_weight_decay),
            "vision": Rates(vision_lr, vision_weight_decay),
        }
        self.text = TextInput(spec, text_encoder, finetune=finetune)
        self.audio = _SequenceEncoder(spec.feature_dims["audio"], hidden_audio, out_audio)
        self.vision = _SequenceEncoder(spec.feature_dims["vision"], hidden_vision, out_vision)

        vectors = {"text": self.text.width, "audio": out_audio, "vision": out_vision}
        widths = {"text": width_text, "audio": width_audio, "vision": width_vision}
        dropouts = {"text": dropout_text, "audio": dropout_audio, "vision": dropout_vision}
        self.joint_head = BranchHead(sum(vectors.values()), fusion_width, self.n_outputs, fusion_dropout)
        self.heads = nn.ModuleDict()
        self.pseudo_labels: PseudoLabels | None = None
        if spec.task == "regression" and variant != "wo_unimodal":
            self.heads.update({m: BranchHead(vectors[m], widths[m], 1, dropouts[m]) for m in MODALITIES})
            self.pseudo_labels = PseudoLabels(
                spec.n_train, {JOINT: fusion_width, **widths}, bound=label_bound, zero_is_positive=zero_is_positive
            )

    def forward(self, batch: Batch) -> Output:
        """Predict from all modalities and from each.

        Returns:
            ``representation`` is F of the joint head ``(B, fusion_width)``; ``aux`` holds F of every branch, without
            gradient.
        """
        vectors = {
            "text": text_vector(self.text(batch), batch.valid["text"], self.text_vector),
            "audio": self.audio(batch.audio, batch.last["audio"] + 1),
            "vision": self.vision(batch.vision, batch.last["vision"] + 1),
        }
        outputs, joint = self.joint_head(torch.cat(list(vectors.values()), dim=1))
        out = Output(pred=self.to_pred(outputs), representation=joint.detach(), aux={JOINT: joint.detach()})
        for m, head in self.heads.items():
            score, features = head(vectors[m])
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
        """The encoders learn at rates of their own."""
        parts = {"text": self.text, "audio": self.audio, "vision": self.vision}
        return groups_by_part(self, [(parts[m], self.rates[m]) for m in MODALITIES])

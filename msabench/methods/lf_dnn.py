"""LF-DNN: late fusion of one small network per modality.

No single paper stands behind it; its parts are those of TFN (Zadeh et al., EMNLP 2017) without the tensor product.
Code: https://github.com/thuiar/MMSA at a94e65d, MIT licence, which names Cambria et al., "Benchmarking Multimodal
Sentiment Analysis", CICLing 2017, https://arxiv.org/abs/1707.09538, and https://github.com/rhoposit/MultimodalDNN.

Deviations:
    A training batch of a single clip is normalised with the running statistics; BatchNorm fails on it otherwise.
    The validation score that selects is weighted by clips; MMSA averages over batches and rounds to 4 decimals.
    IEMOCAP's emotions get eight outputs and cross-entropy as in MulT; MMSA has no such task.

As in MMSA, audio and vision are averaged over all stored steps, and the LSTM runs over all stored steps of the text,
padding included, and is read at the last one; ``padding`` says where padding stands.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.nn.padding import padded, padding_side
from msabench.nn.subnets import PooledNet, TextNet
from msabench.nn.text import TextInput


class LFDNN(MSAMethod):
    """Encodes each modality on its own and joins the three codes in a three-layer perceptron.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        hidden_text: Units of the text's LSTM.
        hidden_audio: Units of the audio network's layers.
        hidden_vision: Units of the vision network's layers.
        out_text: Width of the text code.
        fusion_width: Units of the fusion layers.
        dropout_audio: Dropout on normalised audio means.
        dropout_vision: Dropout on normalised vision means.
        fusion_dropout: Dropout on the joined codes.
        padding: Where padding stands: in ``front``, whatever the file's side, or as ``stored``; None for what the
            reference read, ``stored`` on MMSA's feature families and ``front`` elsewhere.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        weight_decay: L2 weight decay of Adam, on all parameters.
    """

    info = MethodInfo(
        name="lf_dnn",
        title="Late fusion DNN of MMSA",
        venue="-",
        year=0,
        url="https://github.com/thuiar/MMSA",
        fidelity="parity",
        code_url="https://github.com/thuiar/MMSA",
        code_commit="a94e65d",
        licence="MIT",
        method_version=2,
        smoke={"hidden_text": 8, "hidden_audio": 6, "hidden_vision": 6, "out_text": 8, "fusion_width": 8},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        hidden_text: int = 128,
        hidden_audio: int = 16,
        hidden_vision: int = 128,
        out_text: int = 256,
        fusion_width: int = 128,
        dropout_audio: float = 0.2,
        dropout_vision: float = 0.2,
        fusion_dropout: float = 0.2,
        padding: Literal["front", "stored"] | None = None,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="l1")
        self.text_lr = text_lr
        self.padding = padding_side(spec, padding)
        self.text = TextInput(spec, text_encoder, finetune=finetune)
        self.audio_subnet = PooledNet(spec.feature_dims["audio"], hidden_audio, dropout_audio)
        self.video_subnet = PooledNet(spec.feature_dims["vision"], hidden_vision, dropout_vision)
        self.text_subnet = TextNet(self.text.width, hidden_text, out_text)
        self.post_fusion_dropout = nn.Dropout(fusion_dropout)
        self.post_fusion_layer_1 = nn.Linear(hidden_audio + hidden_vision + out_text, fusion_width)
        self.post_fusion_layer_2 = nn.Linear(fusion_width, fusion_width)
        self.post_fusion_layer_3 = nn.Linear(fusion_width, self.n_outputs)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the joined codes of audio, vision and text, before dropout."""
        joint = torch.cat(
            [
                self.audio_subnet(batch.audio),
                self.video_subnet(batch.vision),
                self.text_subnet(padded(self.text(batch), batch.valid["text"], self.padding)),
            ],
            dim=1,
        )
        hidden = F.relu(self.post_fusion_layer_1(self.post_fusion_dropout(joint)))
        hidden = F.relu(self.post_fusion_layer_2(hidden))
        return Output(pred=self.to_pred(self.post_fusion_layer_3(hidden)), representation=joint.detach())

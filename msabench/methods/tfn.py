"""TFN: Tensor Fusion Network for Multimodal Sentiment Analysis.

Amir Zadeh, Minghai Chen, Soujanya Poria, Erik Cambria, Louis-Philippe Morency. EMNLP 2017,
https://arxiv.org/abs/1707.07250.
Code: https://github.com/thuiar/MMSA at a94e65d, MIT licence, followed here, and
https://github.com/Justin1904/TensorFusionNetworks at ef0e78b, no licence file (read for facts only). Both compute the
same function under the same names.

Each modality becomes a vector. With a constant 1 in front of each, their outer product holds the vectors themselves and
all products of two and of three of their entries; a perceptron reads it and a sigmoid keeps the score within (-3, 3).

Deviations:
    1. ``output_range`` and ``output_shift`` are buffers, not parameters without gradient; their names are the same.
    2. The text's dropout is an argument, 0 by default as in MMSA, whose setting for it does nothing; the other code has
       one on the LSTM's last state.
    3. A training batch of a single clip is normalised with the running statistics; BatchNorm fails on it otherwise.
    4. The loss is averaged over the batch as in MMSA; the other code sums it, which Adam hardly notices.
    5. The validation score that selects is weighted by clips; MMSA averages over batches and rounds to 4 decimals.
    6. IEMOCAP: cross-entropy on four two-way outputs without the sigmoid, as MMSA does for classes in general.

As in MMSA, audio and vision are averaged over all stored steps, and the LSTM runs over all stored steps of the text,
padding included, and is read at the last one; ``padding`` says where padding stands. The score lies in (-3, 3) for
CH-SIMS too, whose labels are in [-1, 1].
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.nn.padding import padded, padding_side
from msabench.nn.subnets import PooledNet, TextNet, with_one
from msabench.nn.text import TextInput


class TFN(MSAMethod):
    """Joins the codes of three modalities in the outer product of all of them.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        hidden_text: Units of the text's LSTM.
        hidden_audio: Units of the audio network's layers, and width of the audio code.
        hidden_vision: Units of the vision network's layers, and width of the vision code.
        out_text: Width of the text code. The product has (hidden_audio + 1)(hidden_vision + 1)(out_text + 1) entries.
        fusion_width: Units of the fusion layers.
        dropout_text: Dropout on the last state of the text's LSTM.
        dropout_audio: Dropout on normalised audio means.
        dropout_vision: Dropout on normalised vision means.
        fusion_dropout: Dropout on the product.
        padding: Where padding stands: in ``front``, whatever the file's side, or as ``stored``; None for what the
            reference read, ``stored`` on MMSA's feature families and ``front`` elsewhere.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
    """

    info = MethodInfo(
        name="tfn",
        title="Tensor Fusion Network for Multimodal Sentiment Analysis",
        venue="EMNLP",
        year=2017,
        url="https://arxiv.org/abs/1707.07250",
        fidelity="parity",
        code_url="https://github.com/thuiar/MMSA",
        code_commit="a94e65d",
        licence="MIT",
        method_version=2,
        smoke={"hidden_text": 8, "hidden_audio": 4, "hidden_vision": 5, "out_text": 6, "fusion_width": 8},
    )

    output_range: Tensor
    output_shift: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        hidden_text: int = 128,
        hidden_audio: int = 32,
        hidden_vision: int = 128,
        out_text: int = 32,
        fusion_width: int = 64,
        dropout_text: float = 0.0,
        dropout_audio: float = 0.3,
        dropout_vision: float = 0.3,
        fusion_dropout: float = 0.5,
        padding: Literal["front", "stored"] | None = None,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 1e-3,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, task_loss="l1")
        self.text_lr = text_lr
        self.padding = padding_side(spec, padding)
        self.text = TextInput(spec, text_encoder, finetune=finetune)
        self.audio_subnet = PooledNet(spec.feature_dims["audio"], hidden_audio, dropout_audio)
        self.video_subnet = PooledNet(spec.feature_dims["vision"], hidden_vision, dropout_vision)
        self.text_subnet = TextNet(self.text.width, hidden_text, out_text, dropout_text)
        product = (hidden_audio + 1) * (hidden_vision + 1) * (out_text + 1)
        self.post_fusion_dropout = nn.Dropout(fusion_dropout)
        self.post_fusion_layer_1 = nn.Linear(product, fusion_width)
        self.post_fusion_layer_2 = nn.Linear(fusion_width, fusion_width)
        self.post_fusion_layer_3 = nn.Linear(fusion_width, self.n_outputs)
        self.register_buffer("output_range", torch.tensor([6.0]))
        self.register_buffer("output_shift", torch.tensor([-3.0]))

    def product(self, batch: Batch) -> Tensor:
        """Fuse the modalities.

        Returns:
            float ``(B, (A + 1)(V + 1)(C + 1))`` for audio, vision and text codes of widths A, V and C; the text's entry
            counts fastest, the audio's slowest, and the first one is 1.
        """
        audio = with_one(self.audio_subnet(batch.audio))
        vision = with_one(self.video_subnet(batch.vision))
        words = padded(self.text(batch), batch.valid["text"], self.padding)
        text = with_one(self.text_subnet(words))
        # Equal bits by einsum, whose gradient takes twice as long.
        pairs = torch.bmm(audio.unsqueeze(2), vision.unsqueeze(1)).flatten(1)
        return torch.bmm(pairs.unsqueeze(2), text.unsqueeze(1)).flatten(1)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is what the last layer reads, since the product can have a million entries."""
        hidden = F.relu(self.post_fusion_layer_1(self.post_fusion_dropout(self.product(batch))))
        hidden = F.relu(self.post_fusion_layer_2(hidden))
        scores = self.post_fusion_layer_3(hidden)
        if self.spec.task == "regression":
            scores = torch.sigmoid(scores) * self.output_range + self.output_shift
        return Output(pred=self.to_pred(scores), representation=hidden.detach())

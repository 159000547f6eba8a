"""LMF: Efficient Low-rank Multimodal Fusion with Modality-Specific Factors.

Zhun Liu, Ying Shen, Varun Bharadhwaj Lakshminarasimhan, Paul Pu Liang, Amir Zadeh, Louis-Philippe Morency. ACL 2018,
https://arxiv.org/abs/1806.00064.
Official code: https://github.com/Justin1904/Low-rank-Multimodal-Fusion at ea47551, no licence file (read for facts
only); https://github.com/thuiar/MMSA at a94e65d, MIT licence, followed here. Both compute the same function under the
same names.

TFN reads the outer product of three codes with a linear layer. If that layer's weights are a sum of R outer products of
one vector per modality, the product need not be formed: each rank multiplies three linear readings, one per modality.

Deviations:
    1. As in both codes, the ranks are mixed by learnt weights; the paper sums them.
    2. MMSA's optimiser leaves these weights and the bias out, so that they keep their initial values: the weights of
       the ranks are random for good and the bias is 0. The authors' own training script trains them, so they are
       trained here. ``train_fusion_weights=False`` is MMSA, for the numbers that it lists.
    3. The text's dropout is an argument, 0 by default as in MMSA, whose setting for it does nothing; the official code
       has one on the LSTM's last state. The dropout after the fusion, which neither code uses, is not there.
    4. A training batch of a single clip is normalised with the running statistics; BatchNorm fails on it otherwise.
    5. The loss is averaged over the batch as in MMSA; the official code sums it, which Adam hardly notices.
    6. The validation score that selects is weighted by clips; MMSA averages over batches and rounds to 4 decimals.
    7. IEMOCAP: one model with cross-entropy on four two-way outputs; the official code trains a model per emotion.

As in MMSA, audio and vision are averaged over all stored steps, and the LSTM runs over all stored steps of the text,
padding included, and is read at the last one; ``padding`` says where padding stands.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.nn.padding import padded, padding_side
from msabench.nn.subnets import PooledNet, TextNet, with_one
from msabench.nn.text import TextInput, parameter_groups


class LMF(MSAMethod):
    """Multiplies linear readings of the three modalities, rank by rank, and mixes the ranks.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        hidden_text: Units of the text's LSTM; its code has half as many.
        hidden_audio: Units of the audio network's layers.
        hidden_vision: Units of the vision network's layers.
        rank: Ranks R.
        train_fusion_weights: Whether the weights of the ranks and the bias are trained, as in the official code; they
            are not in MMSA.
        dropout_text: Dropout on the last state of the text's LSTM.
        dropout_audio: Dropout on normalised audio means.
        dropout_vision: Dropout on normalised vision means.
        padding: Where padding stands: in ``front``, whatever the file's side, or as ``stored``; None for what the
            reference read, ``stored`` on MMSA's feature families and ``front`` elsewhere.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        factor_lr: Learning rate of the three modalities' factors.
        lr: Learning rate of everything else.
        weight_decay: L2 weight decay of Adam, on all parameters.

    Raises:
        MSABenchError: ``rank`` is below 1 or ``hidden_text`` below 2.
    """

    info = MethodInfo(
        name="lmf",
        title="Efficient Low-rank Multimodal Fusion with Modality-Specific Factors",
        venue="ACL",
        year=2018,
        url="https://arxiv.org/abs/1806.00064",
        fidelity="parity",
        code_url="https://github.com/thuiar/MMSA",
        code_commit="a94e65d",
        licence="MIT",
        method_version=2,
        smoke={"hidden_text": 12, "hidden_audio": 6, "hidden_vision": 6, "rank": 3},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        hidden_text: int = 128,
        hidden_audio: int = 16,
        hidden_vision: int = 128,
        rank: int = 3,
        train_fusion_weights: bool = True,
        dropout_text: float = 0.0,
        dropout_audio: float = 0.3,
        dropout_vision: float = 0.3,
        padding: Literal["front", "stored"] | None = None,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        factor_lr: float = 1e-3,
        lr: float = 1e-3,
        weight_decay: float = 5e-3,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="l1")
        if rank < 1:
            raise MSABenchError(f"rank {rank} is not allowed; give at least 1")
        if hidden_text < 2:
            raise MSABenchError(f"hidden_text {hidden_text} is not allowed; give at least 2, its code has half as many")
        self.text_lr = text_lr
        self.factor_lr = factor_lr
        self.padding = padding_side(spec, padding)
        self.text = TextInput(spec, text_encoder, finetune=finetune)
        self.audio_subnet = PooledNet(spec.feature_dims["audio"], hidden_audio, dropout_audio)
        self.video_subnet = PooledNet(spec.feature_dims["vision"], hidden_vision, dropout_vision)
        self.text_subnet = TextNet(self.text.width, hidden_text, hidden_text // 2, dropout_text)
        self.audio_factor = nn.Parameter(torch.empty(rank, hidden_audio + 1, self.n_outputs))
        self.video_factor = nn.Parameter(torch.empty(rank, hidden_vision + 1, self.n_outputs))
        self.text_factor = nn.Parameter(torch.empty(rank, hidden_text // 2 + 1, self.n_outputs))
        self.fusion_weights = nn.Parameter(torch.empty(1, rank), requires_grad=train_fusion_weights)
        self.fusion_bias = nn.Parameter(torch.zeros(1, self.n_outputs), requires_grad=train_fusion_weights)
        for weights in (self.audio_factor, self.video_factor, self.text_factor, self.fusion_weights):
            nn.init.xavier_normal_(weights)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the product of every rank, ``(B, R n_outputs)``."""
        audio = with_one(self.audio_subnet(batch.audio)) @ self.audio_factor
        vision = with_one(self.video_subnet(batch.vision)) @ self.video_factor
        words = padded(self.text(batch), batch.valid["text"], self.padding)
        text = with_one(self.text_subnet(words)) @ self.text_factor
        ranks = (audio * vision * text).transpose(0, 1)
        mixed = (self.fusion_weights @ ranks).squeeze(1) + self.fusion_bias
        return Output(pred=self.to_pred(mixed), representation=ranks.flatten(1).detach())

    def param_groups(self) -> list[dict[str, Any]]:
        """The factors and a trained text encoder have learning rates of their own."""
        factors = [self.audio_factor, self.video_factor, self.text_factor]
        rest, encoder = parameter_groups(self, self.text_lr)
        rest["params"] = [p for p in rest["params"] if not any(p is factor for factor in factors)]
        return [{"params": factors, "lr": self.factor_lr}, rest, encoder]

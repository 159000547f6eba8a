"""CENET: Cross-modal Enhancement Network for Multimodal Sentiment Analysis.

Di Wang, Shuai Liu, Quan Wang, Yumin Tian, Lihuo He, Xinbo Gao. IEEE Transactions on Multimedia 2022,
https://doi.org/10.1109/TMM.2022.3183830. Code: the port in https://github.com/thuiar/MMSA at a94e65d, MIT licence, with
which later papers compare and which we follow; the authors' is https://github.com/Say2L/CENet at e208a83, no licence.

A BERT is fine-tuned for the score, and between its first two layers the words learn what was heard and seen: each word
attends to all frames of audio and of vision, and the two answers, joined by a linear layer, are added to it as a shift.
The other layers and the head, which reads [CLS], are those of BERT for any sentence.

Deviations:
    The authors' network reads a SentiLARE RoBERTa with parts of speech and word polarity, whose embeddings it trains,
    and numbers of k-means clusters in place of audio and vision frames; these come as a data file that the code cannot
    remake. MMSA's reads BERT and continuous features, and keeps BERT's embeddings as they are (``freeze_embeddings``).
    The authors train by squared error with AdamW, warm-up and linear decay; MMSA by absolute error with Adam.
    MMSA allocates a pooler and tables for parts of speech and polarity that it never uses; we do not.
    Text as features, which neither code has: a Transformer of BERT's form, trained from the beginning, reads a
    projection of them with sinusoidal positions. The enhancement enters at the same place, and padding is masked as in
    BERT. Between the linear maps of its feed-forward part there is a dropout more than in BERT.
    New weights have BERT's standard deviation of 0.02 where the width is BERT's 768; it goes with 1 / sqrt(width), so
    that a narrow network passes on as much.
    Text dropped at level ``vectors`` is dropped where audio and vision enter; dropped from the encoder's output, as
    elsewhere, it would take them along. At level ``tokens``, which suits a network inside BERT, words become [UNK].
    The validation score that selects is weighted by clips; MMSA averages over batches and rounds to 4 decimals.
    IEMOCAP, which neither code has: eight outputs and cross-entropy.

As in MMSA frames are not masked: padding and dropped frames, all zero, are among those that a word attends to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.nn.positions import SinusoidalPositions
from msabench.nn.text import TextInput, parameter_groups
from msabench.nn.text_vector import TextVector, text_vector

# The order in which the answers are joined.
_SOURCES = ("vision", "audio")
_BERT_EPS = 1e-12
_BERT_WIDTH, _BERT_STD = 768, 0.02


class _Enhancement(nn.Module):
    """Adds to each word a shift made of the frames that it attends to, with one head for each modality.

    Args:
        width: Features D of a word.
        features: modality -> features D_m of a frame, of audio and vision at least.
        sharpness: Factor on the scores before the softmax.
    """

    def __init__(self, width: int, features: dict[str, int], sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.transform = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(features[m], width), nn.ReLU(), nn.Linear(width, width)) for m in _SOURCES}
        )
        self.query, self.key, self.value = (
            nn.ModuleDict({m: nn.Linear(width, width) for m in _SOURCES}) for _ in range(3)
        )
        self.join = nn.Linear(len(_SOURCES) * width, width)

    def forward(self, words: Tensor, frames: dict[str, Tensor]) -> Tensor:
        """Enhance words ``(B, T, D)`` by frames ``(B, T_m, D_m)`` of each modality."""
        answers = []
        for m in _SOURCES:
            source = self.transform[m](frames[m])
            query, key, value = self.query[m](words), self.key[m](source), self.value[m](source)
            answers.append(((query @ key.transpose(1, 2)) * self.sharpness).softmax(dim=2) @ value)
        return words + self.join(torch.cat(answers, dim=2))


class _TextLayers(nn.Module):
    """A Transformer of BERT's form over given features ``(B, T, D)``, to ``(B, T, width)``."""

    def __init__(self, features: int, width: int, *, steps: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(features, width)
        self.positions = SinusoidalPositions(width, steps)
        self.norm = nn.LayerNorm(width, eps=_BERT_EPS)
        self.dropout = nn.Dropout(dropout)
        settings: dict[str, Any] = {"activation": "gelu", "layer_norm_eps": _BERT_EPS, "batch_first": True}
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, **settings) for _ in range(layers)
        )

    def embed(self, features: Tensor) -> Tensor:
        """What the first layer reads."""
        embedded: Tensor = self.dropout(self.norm(self.positions(self.project(features))))
        return embedded

    def injected(self, features: Tensor, valid: Tensor, layer: int, change: Callable[[Tensor], Tensor]) -> Tensor:
        """As ``TextInput.injected``; a text without any step is read as one of zeros."""
        states = self.embed(features)
        padding = ~valid & valid.any(1, keepdim=True)
        for number, transform in enumerate(self.layers):
            states = transform(change(states) if number == layer else states, src_key_padding_mask=padding)
        return states


class CENET(MSAMethod):
    """A BERT whose words are shifted by audio and vision between two of its layers.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        injection: Layers of the text encoder before the enhancement; 1 in both codes.
        sharpness: Factor on the scores of a word and the frames before the softmax; 8 in both codes.
        dropout: Dropout of the head, and of the Transformer that reads text features; a BERT has its own.
        text_vector: The state that the head reads: the ``first``, BERT's [CLS], or the ``mean`` over existing steps.
        dim: Features of the Transformer that reads text features; not used with a ``text_encoder``.
        heads: Its attention heads; divides ``dim``.
        layers: Its layers, more than ``injection``.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained, as in both codes.
        freeze_embeddings: Whether the embeddings of a trained text encoder stay as they are, as in MMSA.
        text_lr: Learning rate of a trained text encoder; both codes use the same for everything.
        lr: Learning rate of Adam.
        weight_decay: L2 weight decay of all weights of the enhancement, and elsewhere of matrices alone.
        adam_eps: Term in Adam's denominator.
        gradient_clip: Largest norm of a step's gradient; None for no limit. 2 in both codes.

    Raises:
        MSABenchError: ``injection`` is no layer of the text encoder, or ``heads`` does not divide ``dim``.
    """

    info = MethodInfo(
        name="cenet",
        title="Cross-modal Enhancement Network for Multimodal Sentiment Analysis",
        venue="IEEE TMM",
        year=2022,
        url="https://doi.org/10.1109/TMM.2022.3183830",
        fidelity="parity",
        code_url="https://github.com/thuiar/MMSA",
        code_commit="a94e65d",
        licence="MIT",
        smoke={"dim": 8, "heads": 2, "layers": 2},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        injection: int = 1,
        sharpness: float = 8.0,
        dropout: float = 0.1,
        text_vector: TextVector = "first",
        dim: int = 64,
        heads: int = 4,
        layers: int = 2,
        text_encoder: str | None = None,
        finetune: bool = False,
        freeze_embeddings: bool = True,
        text_lr: float = 1e-5,
        lr: float = 1e-5,
        weight_decay: float = 1e-4,
        adam_eps: float = 1e-8,
        gradient_clip: float | None = 2.0,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, gradient_clip=gradient_clip)
        self.injection = injection
        self.text_vector: TextVector = text_vector
        self.text_lr = text_lr
        self.adam_eps = adam_eps

        self.text = TextInput(spec, text_encoder, finetune=finetune)
        if self.text.encoder is not None:
            dim, layers = self.text.width, self.text.layers
            if freeze_embeddings:
                self.text.encoder.get_submodule("embeddings").requires_grad_(False)
        elif dim < 1 or heads < 1 or dim % heads:
            raise MSABenchError(
                f"dim {dim} with {heads} heads is not allowed; dim must be a positive multiple of heads"
            )
        if not 0 <= injection < layers:
            raise MSABenchError(f"injection {injection} is not allowed; the text has layers 0 to {layers - 1}")
        self.enhance = _Enhancement(dim, spec.feature_dims, sharpness)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(dim, dim),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(dim, self.n_outputs),
        )
        new = [self.enhance, self.head]
        if self.text.encoder is None:
            steps = spec.seq_lens["text"]
            self.layers = _TextLayers(self.text.width, dim, steps=steps, heads=heads, layers=layers, dropout=dropout)
            new.append(self.layers)
        for part in new:
            _initialise(part, _BERT_STD * (_BERT_WIDTH / dim) ** 0.5)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the state that the head reads, ``(B, dim)``."""

        def enhanced(words: Tensor) -> Tensor:
            return self.enhance(words, batch.features)

        valid = batch.valid["text"]
        if self.text.encoder is None:
            states = self.layers.injected(self.text(batch), valid, self.injection, enhanced)
        else:
            states = self.text.injected(batch, self.injection, enhanced)
        vector = text_vector(states, valid, self.text_vector)
        return Output(pred=self.to_pred(self.head(vector)), representation=vector.detach())

    def param_groups(self) -> list[dict[str, Any]]:
        """Biases and LayerNorms outside the enhancement are not decayed; a trained encoder has a learning rate."""
        decayed = {id(p) for p in self.enhance.parameters()} | {id(p) for p in self.parameters() if p.ndim > 1}
        groups = []
        for group in parameter_groups(self, self.text_lr):
            settings = {**group, "eps": self.adam_eps}
            groups.append({**settings, "params": [p for p in group["params"] if id(p) in decayed]})
            kept = [p for p in group["params"] if id(p) not in decayed]
            groups.append({**settings, "params": kept, "weight_decay": 0.0})
        return groups


def _initialise(part: nn.Module, std: float) -> None:
    """As BERT does: matrices from a normal distribution, biases 0, LayerNorms 1."""
    for name, parameter in part.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)

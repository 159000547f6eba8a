"""MoMKE: Leveraging Knowledge of Modality Experts for Incomplete Multimodal Learning.

Wenxin Xu, Hexin Jiang, Xuefeng Liang. ACM MM 2024, https://doi.org/10.1145/3664647.3681683. Official code:
https://github.com/wxxv/MoMKE at 2dceb57, without a licence file; read for facts, nothing copied. The paper itself was
not read.

A clip is one utterance of a conversation, and each modality one vector. A small transformer per modality, its expert,
attends along the conversation to the clips that have the modality. Stage ``experts``: on complete data, each expert
reads its own modality alone and predicts the label from it. Stage ``mixing``: every modality that is there passes
through all three experts, a gate mixes what they say of it, and a residual head joins the modalities. A modality that
is missing is zero to the head, and no clip attends to it.

Notation: B clips, C conversations of at most U clips, d features (``dim``), e an expert, h_m the input of modality m.

Deviations:
    The code is followed; the paper may differ.

    1. Official conditions are fixed: one model for each of the seven subsets of modalities, which training and test
       share. The configs train one model for all seven, drawn for each clip; regime ``only`` trains the official ones.
    2. Official numbers are of the best *test* epoch by weighted F1 (IEMOCAP: accuracy), and epochs of stage one count,
       in which test clips are complete whatever the condition and the joint head is untrained. Here validation selects
       among the epochs of stage ``mixing``; officially the validation split is not used at all.
    3. Stage ``mixing`` begins with new moments of Adam; officially one optimiser runs through both. The official
       "best expert" of stage one is the last one: what loads it changes no parameter. So it is here.
    4. The official utterance vectors (wav2vec, DeBERTa, MA-Net, each averaged over time) are replaced by means of our
       features over the frames that are observed. ``text_vector: first`` takes the text's [CLS] state. They have about
       unit scale and nothing in the network normalises: the configs use the data module's ``normalise: zscore``.
    5. Frames may be missing, too, as the data module decides: the vector is then the mean of what remains.
    6. A clip that lacks a modality in the file counts as missing it in stage ``experts`` as well; all clips of the
       official files have all three.
    7. Conversations are rebuilt from clip ids. Where ids name no video, or with ``context`` False, every clip is one of
       its own and attends to itself. No speakers: officially their only use is to choose whose vector is read.
    8. IEMOCAP: the official four exclusive classes become our four two-way questions, whose cross-entropy is averaged.
    9. What validation shows and logs as ``val/`` in stage ``experts`` is the untrained joint head on the experts'
       outputs, as officially.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.data.needs import Needs
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.clip_vectors import clip_vectors
from msabench.nn.conversations import ConversationLayout
from msabench.nn.text import TextInput, parameter_groups
from msabench.nn.text_vector import TextVector


class _Perceptron(nn.Sequential):
    """Two layers with a GELU between; dropout after each, that is, on what comes out as well."""

    def __init__(self, dim: int, outputs: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(dim, dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, outputs), nn.Dropout(dropout)
        )


class _ExpertLayer(nn.Module):
    """``h + o + MLP(o)``, where o is attention from each clip to those of its conversation that have the modality."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.perceptron = _Perceptron(dim, dim, dropout)

    def forward(self, h: Tensor, there: Tensor) -> Tensor:
        """Update ``h`` ``(C, U, d)``; ``there`` is bool ``(C, U)``. Where no clip is there, o is 0."""
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(h).chunk(3, dim=2))
        keys = there[:, None, None]
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
        # A finite value, and then zero: a row of -inf would be NaN, with NaN as its gradient.
        weights = scores.masked_fill(~keys, torch.finfo(scores.dtype).min).softmax(3) * keys
        o = (weights @ v).transpose(1, 2).flatten(2)
        return h + o + self.perceptron(o)


class Expert(nn.Module):
    """Layers of attention along conversations, without positions and without any norm.

    Args:
        dim: Features d, a multiple of ``heads``.
        heads: Attention heads.
        layers: Number of layers.
        dropout: Dropout rate within the perceptrons.
    """

    def __init__(self, dim: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_ExpertLayer(dim, heads, dropout) for _ in range(layers))

    def forward(self, h: Tensor, there: Tensor) -> Tensor:
        """Read conversations of one modality.

        Args:
            h: float ``(C, U, d)``.
            there: bool ``(C, U)``, the clips that exist and have the modality.

        Returns:
            float ``(C, U, d)``.
        """
        for layer in self.layers:
            h = layer(h, there)
        return h


class MoMKE(MSAMethod):
    """Three modality experts, mixed by a gate for each modality. It first trains on ``batch.complete``.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        experts_epochs: Epochs in which the experts are trained apart, which ``trainer.max_epochs`` includes; at least
            1.
        dim: Features d of a clip; a multiple of ``heads``.
        heads: Attention heads.
        layers: Layers of an expert, at least 1.
        dropout: Dropout rate in [0, 1) of inputs, perceptrons, gates' logits and the joint head.
        context: Whether clips are read in their conversation; ``batch_size`` then counts conversations.
        text_vector: ``mean`` takes the mean over the text's observed words, ``first`` its first state ([CLS] of BERT).
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        weight_decay: L2 weight decay of Adam, on all parameters.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="momke",
        title="Leveraging Knowledge of Modality Experts for Incomplete Multimodal Learning",
        venue="ACM MM",
        year=2024,
        url="https://doi.org/10.1145/3664647.3681683",
        fidelity="parity",
        code_url="https://github.com/wxxv/MoMKE",
        code_commit="2dceb57",
        trains_with=("complete",),
        smoke={"experts_epochs": 1, "dim": 8, "layers": 1},
    )
    complete_stages: ClassVar[tuple[str, ...]] = ("experts",)

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        experts_epochs: int = 150,
        dim: int = 256,
        heads: int = 2,
        layers: int = 4,
        dropout: float = 0.5,
        context: bool = True,
        text_vector: TextVector = "mean",
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="mse")
        if min(experts_epochs, heads, layers) < 1 or dim % heads:
            raise MSABenchError(
                f"experts_epochs {experts_epochs}, heads {heads} and layers {layers} must be at least 1, and heads "
                f"must divide dim {dim}"
            )
        if text_vector not in ("first", "mean"):
            raise one_of("text_vector", text_vector, ("first", "mean"))
        self.schedule = {"experts": ("main",), "mixing": ("main",)}
        self.stage_epochs = {"experts": experts_epochs}
        self.context = context
        self.text_vector = text_vector
        self.text_lr = text_lr
        self.text = TextInput(spec, text_encoder, finetune=finetune)
        widths = {**spec.feature_dims, "text": self.text.width}
        self.project = nn.ModuleDict({m: nn.Linear(widths[m], dim) for m in MODALITIES})
        self.experts = nn.ModuleDict({m: Expert(dim, heads, layers, dropout) for m in MODALITIES})
        self.unimodal = nn.ModuleDict({m: nn.Linear(dim, self.n_outputs) for m in MODALITIES})
        self.gates = nn.ModuleDict({m: _Perceptron(dim, len(MODALITIES), dropout) for m in MODALITIES})
        self.joint = nn.Linear(3 * dim, 3 * dim)
        self.predict = nn.Linear(3 * dim, self.n_outputs)
        self.dropout = nn.Dropout(dropout)

    @property
    def data_needs(self) -> Needs:
        """Whole conversations, where clips are read in their context."""
        return replace(super().data_needs, conversations=self.context)

    def prepare_stage(self, stage: str) -> None:
        """The unimodal heads are trained in the experts' stage only."""
        if stage == "mixing":
            self.freeze_parts(self.unimodal)

    def param_groups(self) -> list[dict[str, Any]]:
        """First inputs, experts and unimodal heads; then all but these heads."""
        if self.stage == "experts":
            return parameter_groups(nn.ModuleList([self.text, self.project, self.experts, self.unimodal]), self.text_lr)
        return super().param_groups()

    def forward(self, batch: Batch) -> Output:
        """Predict.

        Returns:
            ``representation`` is what the last layer reads, ``(B, 3d)``. In stage ``experts`` each modality has passed
            through its own expert alone, and ``unimodal`` holds what is predicted from each; afterwards it is empty.
        """
        layout = ConversationLayout.of(batch, context=self.context)
        vectors = clip_vectors(batch, self.text(batch), self.text_vector)
        inputs = torch.stack([self.dropout(self.project[m](vectors[m])) for m in MODALITIES])
        there = torch.stack([batch.observed[m].any(1) for m in MODALITIES])
        unimodal = {}
        if self.stage == "experts":
            known = torch.stack(
                [
                    self._expert(m, h[None], has[None], layout)[0]
                    for m, h, has in zip(MODALITIES, inputs, there, strict=True)
                ]
            )
            unimodal = {m: self.to_pred(self.unimodal[m](x)) for m, x in zip(MODALITIES, known, strict=True)}
        else:
            heard = torch.stack([self._expert(m, inputs, there, layout) for m in MODALITIES], dim=2)
            logits = torch.stack([self.gates[m](h) for m, h in zip(MODALITIES, inputs, strict=True)])
            known = (logits.softmax(2).unsqueeze(3) * heard).sum(2)
        z = torch.cat(list(known * there.unsqueeze(2)), dim=1)
        joint = z + self.dropout(torch.relu(self.joint(z)))
        return Output(pred=self.to_pred(self.predict(joint)), unimodal=unimodal, representation=joint)

    def training_forward(self, batch: Batch) -> Output:
        """Complete clips in stage ``experts``, and then what the regime leaves."""
        return self(self.complete_of(batch) if self.stage == "experts" else batch)

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """One task term for each modality, which their experts share no parameter of; then that of the joint head."""
        assert batch.labels is not None
        if self.stage == "experts":
            return {m: self.task_loss(score, batch.labels) for m, score in out.unimodal.items()}
        return {"task": self.task_loss(out.pred, batch.labels)}

    def _expert(self, name: str, h: Tensor, there: Tensor, layout: ConversationLayout) -> Tensor:
        """What one expert makes of some modalities, ``(M, B, d)`` of which ``(M, B)`` are there, read side by side."""
        columns = layout.pad(h.transpose(0, 1)).transpose(0, 2)  # (M, C, U, d)
        mask = layout.pad(there.T).transpose(0, 2)
        read = self.experts[name](columns.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, columns.shape[:2])
        return layout.unpad(read.transpose(0, 2)).transpose(0, 1)

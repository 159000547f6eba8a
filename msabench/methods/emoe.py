"""EMOE: Modality-Specific Enhanced Dynamic Emotion Experts.

Yiyang Fang, Wenke Huang, Guancheng Wan, Kehua Su, Mang Ye. CVPR 2025,
https://openaccess.thecvf.com/content/CVPR2025/html/Fang_EMOE_Modality-Specific_Enhanced_Dynamic_Emotion_Experts_CVPR_2025_paper.html.
Official code: https://github.com/fuyyyyy/EMOE at c4759c7, no licence file (read for facts only).

Each modality has an expert: a Transformer whose last step h_m predicts the score by itself. A router that sees the
whole clip gives each expert a weight w_m, and the prediction comes from c = sum_m w_m h_m. The router is drawn towards
the experts that are right about a clip (``sim``), and away from relying on one alone (``balance``). What the experts
make of their h_m before predicting, mixed with the same weights, is distilled into what is made of c (``distill``).

Deviations:
    1. The official code creates three convolutions that are never called, and a projection of each modality where
       input and output widths agree, which it skips; we do not create them.
    2. The official configuration lists a weight decay and a gradient clip that its code never applies; nor do we.
    3. The official validation loss is a mean of batch means, rounded to four digits; here it is over the whole split.
    4. For unaligned files lengths are taken from the file; the official code has those of CMU-MOSI and CMU-MOSEI.
    5. ``router_width`` may make the router smaller. The official one has an eighth of its inputs as hidden width,
       196 of 208 million parameters for CMU-MOSI.
    6. Text may come as precomputed states, which MMSA's files have from the BERT that it would fine-tune.
    7. IEMOCAP: cross-entropy on four two-way outputs; ``sim``, which measures the error of a score, is off.

As in the official code, padding is neither masked nor skipped, BERT's states there included: each expert is read at the
last stored step, and the router reads all.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.crossmodal import CrossmodalEncoder
from msabench.nn.residual_head import ResidualHead
from msabench.nn.temporal import TemporalProjection
from msabench.nn.text import TextInput

# The official order of the experts, in weights and in everything stacked over them.
_ORDER = ("text", "vision", "audio")
_FUSIONS = ("sum", "concat")
_SMALLEST_WEIGHT = 1e-9
_SMALLEST_ERROR = 0.1


class _Router(nn.Module):
    """Weights of the experts from all steps of all modalities, ``(B, T, D_l + D_v + D_a)`` to ``(B, 3)``."""

    def __init__(self, inputs: int, hidden: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.l1 = nn.Linear(inputs, hidden)
        self.l2 = nn.Linear(hidden, len(_ORDER))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(F.normalize(self.l1(x.flatten(1)), dim=1))
        return (self.l2(hidden) / self.temperature).softmax(dim=1)


class EMOE(MSAMethod):
    """Mixes one expert for each modality by weights from a router.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        dim: Width d of the experts.
        heads: Attention heads; divides ``dim``.
        layers: Layers of each expert.
        kernel_size_text: Steps seen by one step of the text's projection.
        kernel_size_audio: The same for audio.
        kernel_size_vision: The same for vision.
        router_width: Hidden width of the router; None for the official one, an eighth of its inputs.
        temperature: Divides the router's logits.
        fusion: Whether weighted experts are summed, or joined and multiplied by 3 (``concat``).
        dropout_text: Dropout on the text that the expert sees; the router sees it whole.
        attn_dropout_text: Dropout on attention weights of the text's expert.
        attn_dropout_audio: The same for audio.
        attn_dropout_vision: The same for vision.
        relu_dropout: Dropout in feed-forward networks.
        embed_dropout: Dropout on embedded sequences.
        res_dropout: Dropout on residual branches.
        out_dropout: Dropout in the output blocks.
        lambda_unimodal: Weight >= 0 of the experts' own task losses, averaged over them.
        lambda_balance: Weight >= 0 of the negative entropy of the router's weights.
        lambda_similarity: Weight >= 0 of the distance of the router's weights from what the experts' errors suggest.
        lambda_distillation: Weight >= 0 of the distillation from experts to fusion.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder; the official code has one for everything.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before learning rates are halved.
        accumulate: Batches whose losses are summed before a step; 10 in the official code.

    Raises:
        MSABenchError: ``heads`` does not divide ``dim``, a kernel is longer than its modality's sequence, ``fusion``
            is unknown or ``router_width`` below 1.
    """

    info = MethodInfo(
        name="emoe",
        title="EMOE: Modality-Specific Enhanced Dynamic Emotion Experts",
        venue="CVPR",
        year=2025,
        url=(
            "https://openaccess.thecvf.com/content/CVPR2025/html/"
            "Fang_EMOE_Modality-Specific_Enhanced_Dynamic_Emotion_Experts_CVPR_2025_paper.html"
        ),
        fidelity="parity",
        code_url="https://github.com/fuyyyyy/EMOE",
        code_commit="c4759c7",
        smoke={"dim": 8, "heads": 2, "layers": 1, "router_width": 16, "accumulate": 1},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        dim: int = 256,
        heads: int = 8,
        layers: int = 4,
        kernel_size_text: int = 1,
        kernel_size_audio: int = 1,
        kernel_size_vision: int = 1,
        router_width: int | None = None,
        temperature: float = 0.1,
        fusion: Literal["sum", "concat"] = "sum",
        dropout_text: float = 0.5,
        attn_dropout_text: float = 0.3,
        attn_dropout_audio: float = 0.2,
        attn_dropout_vision: float = 0.0,
        relu_dropout: float = 0.0,
        embed_dropout: float = 0.2,
        res_dropout: float = 0.0,
        out_dropout: float = 0.5,
        lambda_unimodal: float = 1.0,
        lambda_balance: float = 0.1,
        lambda_similarity: float = 0.01,
        lambda_distillation: float = 0.1,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 1e-4,
        lr: float = 1e-4,
        lr_patience: int | None = 5,
        accumulate: int = 10,
    ) -> None:
        super().__init__(
            spec,
            variant=variant,
            lr=lr,
            task_loss="l1",
            lr_patience=lr_patience,
            lr_factor=0.5,
            accumulate=accumulate,
        )
        if fusion not in _FUSIONS:
            raise one_of("fusion of emoe", fusion, _FUSIONS)
        self.fusion = fusion
        self.dropout_text = dropout_text
        self.weights = {
            "unimodal": lambda_unimodal,
            "balance": lambda_balance,
            "sim": lambda_similarity,
            "distill": lambda_distillation,
        }
        self.text_lr = text_lr

        self.text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
        widths = {**spec.feature_dims, "text": self.text.width}
        # The router reads all modalities step by step, so they need the text's length.
        self.align = nn.ModuleDict(
            {m: nn.Linear(spec.seq_lens[m], self.text.steps) for m in _ORDER if spec.seq_lens[m] != self.text.steps}
        )
        inputs = self.text.steps * sum(widths.values())
        if router_width is None:
            router_width = max(inputs // 8, 1)
        if router_width < 1:
            raise MSABenchError(f"router_width {router_width} is not allowed; give at least 1, or null")
        self.router = _Router(inputs, router_width, temperature)

        kernels = {"text": kernel_size_text, "audio": kernel_size_audio, "vision": kernel_size_vision}
        self.project = nn.ModuleDict(
            {
                m: TemporalProjection(widths[m], dim, steps=spec.seq_lens[m], kernel_size=kernels[m], what=m)
                for m in MODALITIES
            }
        )
        # One for all modalities.
        self.encode = nn.Linear(dim, dim, bias=False)
        attn_dropout = {"text": attn_dropout_text, "audio": attn_dropout_audio, "vision": attn_dropout_vision}
        self.experts = nn.ModuleDict(
            {
                m: CrossmodalEncoder(
                    dim,
                    heads,
                    layers,
                    attn_dropout=attn_dropout[m],
                    relu_dropout=relu_dropout,
                    res_dropout=res_dropout,
                    embed_dropout=embed_dropout,
                )
                for m in _ORDER
            }
        )
        self.predict = nn.ModuleDict({m: ResidualHead(dim, dim, self.n_outputs, out_dropout) for m in _ORDER})
        joint = dim if fusion == "sum" else len(_ORDER) * dim
        self.predict_joint = ResidualHead(joint, joint, self.n_outputs, out_dropout)

    def forward(self, batch: Batch) -> Output:
        """Predict.

        Returns:
            ``representation`` is the fusion c ``(B, d)``. ``aux`` holds, in the order text, vision, audio, the router's
            ``weights`` ``(B, 3)``, the experts' raw ``outputs`` ``(B, 3, n_outputs)`` and ``experts`` ``(B, 3, d)``,
            what they make of h_m; and ``joint``, what is made of c.
        """
        text = self.text(batch)
        raw = {"text": text, "vision": batch.vision, "audio": batch.audio}
        weights = self.router(self._aligned(raw))
        raw["text"] = F.dropout(text, self.dropout_text, self.training)
        hidden = {m: self.experts[m](self.encode(self.project[m](raw[m])), last_only=True).squeeze(1) for m in _ORDER}
        fused = self._mixed(torch.stack(list(hidden.values()), dim=1), weights)
        if self.fusion == "concat":
            fused = len(_ORDER) * fused
        outputs, _, joint = self.predict_joint(fused)
        scores, _, experts = zip(*(self.predict[m](h) for m, h in hidden.items()), strict=True)
        return Output(
            pred=self.to_pred(outputs),
            unimodal={m: self.to_pred(score) for m, score in zip(_ORDER, scores, strict=True)},
            representation=fused.detach(),
            aux={
                "weights": weights,
                "outputs": torch.stack(scores, 1),
                "experts": torch.stack(experts, 1),
                "joint": joint,
            },
        )

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Task and unimodal tasks, the two demands on the router, and the distillation, weighted."""
        assert batch.labels is not None
        weights, experts = out.aux["weights"], out.aux["experts"]
        unimodal = torch.stack([self.task_loss(pred, batch.labels) for pred in out.unimodal.values()]).mean()
        mixed = self._mixed(experts, weights).detach()
        distill = F.mse_loss(out.aux["joint"].softmax(dim=1), mixed.softmax(dim=1))
        terms = {"unimodal": unimodal, "balance": negative_entropy(weights), "distill": distill}
        if self.spec.task == "regression":
            errors = (out.aux["outputs"].squeeze(2) - batch.labels.unsqueeze(1)).square()
            terms["sim"] = F.mse_loss(weights, trust(errors))
        weighted = {name: self.weights[name] * term for name, term in terms.items()}
        return {"task": self.task_loss(out.pred, batch.labels), **weighted}

    def _aligned(self, raw: dict[str, Tensor]) -> Tensor:
        """All modalities side by side at the text's steps, ``(B, T_l, D_l + D_v + D_a)``."""
        aligned = dict(raw)
        for m, layer in self.align.items():
            aligned[m] = layer(raw[m].transpose(1, 2)).transpose(1, 2)
        return torch.cat([aligned[m] for m in _ORDER], dim=2)

    def _mixed(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """Weight the experts' vectors ``(B, 3, d)`` and sum or join them."""
        weighted = vectors * weights.unsqueeze(2)
        return weighted.sum(1) if self.fusion == "sum" else weighted.flatten(1)


def negative_entropy(weights: Tensor) -> Tensor:
    """``3 sum_m w_m log w_m``, averaged over clips: smallest where all of ``(B, 3)`` are equal."""
    weights = weights.clamp(min=_SMALLEST_WEIGHT)
    return weights.shape[1] * (weights * weights.log()).sum(1).mean()


def trust(errors: Tensor) -> Tensor:
    """Weights ``(B, 3)`` that the experts' squared errors ``(B, 3)`` suggest, without gradient."""
    inverse = 1 / (errors.detach() + _SMALLEST_ERROR)
    return inverse / inverse.sum(1, keepdim=True)

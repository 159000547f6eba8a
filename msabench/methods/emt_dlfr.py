"""EMT-DLFR: Efficient Multimodal Transformer with Dual-Level Feature Restoration.

Licai Sun, Zheng Lian, Bin Liu, Jianhua Tao, "... for Robust Multimodal Sentiment Analysis". IEEE Transactions on
Affective Computing 2023, https://arxiv.org/abs/2208.07589. Official code: https://github.com/sunlicai/EMT-DLFR at
e9f0960, MIT licence.

A clip has one vector for each modality, u, which together are its *context* of three tokens, and each modality has its
steps. Context and steps promote each other through one Transformer unit, the same in both directions, for all
modalities and in all layers; the three contexts that come of it, one for each modality, are pooled into one. Context
and the u predict the score.

In training each clip is seen twice, complete and corrupted, by the same weights. *High-level attraction*: as in
SimSiam, the context and each u of one view have to foretell those of the other. *Low-level reconstruction*: the
corrupted view's steps have to tell the frames that it lost.

Deviations:
    1. Officially one mask per clip is drawn for the whole run, the same row by row for training, validation and test,
       at one rate for all, and there is a model for each of the rates 0.0, 0.1, ... 1.0 (0.5 for CH-SIMS). Here masks
       are drawn anew in every epoch; regime ``intra`` with both rates p, tested at rate p, is the paper's.
    2. The official code selects by the total loss of validation, complete view included. Here ``val/task`` selects.
    3. Frames that the reconstruction counts are those of the complete clip that are not observed. Complete clips have
       none, and its layers would learn nothing; ``reconstruct: all`` counts all frames that exist. The official loss
       adds 1e-6 to the number of values that it is averaged over; here no frames give 0.
    4. Text without a [CLS], or of a single step: ``text_vector: mean`` takes the mean for u and all steps for steps.
    5. A removed modality is as long as its file. Officially lengths are always told.
    6. A training batch of a single clip is normalised with the running statistics, which BatchNorm cannot.
    7. IEMOCAP, which the paper does not use: eight outputs and cross-entropy, for both views.
    8. Ablations: ``wo_attraction`` also leaves out the error of the complete view, which stands behind the same weight
       in the official code; ``wo_reconstruction``.

As in the official code: what is foretold is detached, but the complete view is no frozen teacher, since its own
prediction and its foretelling train it; the three tokens of the context are not masked where a modality is missing;
[CLS] and [SEP] are no steps, and a clip without words gets the mean over all there are, padding included; the loss can
be negative. On several devices the heads of the attraction need ``--trainer.sync_batchnorm=true``, and ``accumulate``
above 1 ``--trainer.strategy=ddp_find_unused_parameters_true``.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch, stacked
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.losses.reconstruction import frame_error
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.patterns import inner_steps
from msabench.nn.packed import run_packed
from msabench.nn.part_groups import Rates, groups_by_part
from msabench.nn.positions import SinusoidalPositions
from msabench.nn.promotion_unit import PromotionUnit
from msabench.nn.subnets import ClipNorm
from msabench.nn.text import TextInput
from msabench.nn.text_vector import TextVector, text_vector

CONTEXT = "context"


class SequenceEncoder(nn.Module):
    """An LSTM whose final state and whose outputs pass the same linear map, which is left out if it has nothing to do.

    Args:
        features: Features D of a frame.
        hidden: Units of the LSTM.
        out: Width of what comes out.
    """

    def __init__(self, features: int, hidden: int, out: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(features, hidden, batch_first=True)
        self.linear = nn.Linear(hidden, out) if hidden != out else nn.Identity()

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Read ``(B, T, D)`` up to lengths ``(B,)``: a vector ``(B, out)`` and steps ``(B, T, out)``."""
        outputs, final = run_packed(self.rnn, x, lengths)
        return self.linear(final), self.linear(outputs)


class AttractionHead(nn.Module):
    """A vector z, and its guess p at the z of another view.

    Args:
        width: Width of the vector.
        hidden: Units between z and p.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)
        self.norm_z = ClipNorm(width, affine=False)
        self.narrow = nn.Linear(width, hidden, bias=False)
        self.norm_p = ClipNorm(hidden)
        self.widen = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z, without gradient, and p of ``(B, width)``, both of that shape."""
        z = self.norm_z(self.project(x))
        return z.detach(), self.widen(F.relu(self.norm_p(self.narrow(z))))


class View(NamedTuple):
    """What a clip is after fusion.

    Attributes:
        vectors: u of each modality, ``(B, W)``, before projection; and the context ``(B, 3 d)``.
        steps: Steps of each modality, of those clips whose steps were asked for ``(R, T, d)``.
        text: The text's states that are its steps ``(B, T, W)``.
    """

    vectors: dict[str, Tensor]
    steps: dict[str, Tensor]
    text: Tensor


class EMTDLFR(MSAMethod):
    """EMT-DLFR, see the module's docstring. It trains on ``batch.complete`` beside the corrupted clips.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``wo_attraction`` or ``wo_reconstruction``.
        dim: Common width d of context and steps, a multiple of ``heads``.
        layers: Layers of promotion and pooling, all of the same weights.
        heads: Heads of attention.
        hidden_audio: Units of the audio LSTM.
        hidden_vision: Units of the vision LSTM.
        out_audio: Width of the audio vector.
        out_vision: Width of the vision vector.
        fusion_width: Units of both hidden layers of the head.
        context_width: Units of the attraction's hidden layer for the context.
        width_text: The same for text.
        width_audio: The same for audio.
        width_vision: The same for vision.
        attn_dropout: Dropout on attention weights.
        ff_dropout: Dropout behind the gated perceptrons.
        fusion_dropout: Dropout on the joined vectors.
        lambda_attraction: Weight >= 0 of the attraction and of the complete view's error.
        lambda_reconstruction: Weight >= 0 of the reconstruction of all modalities.
        reconstruct: Whether the reconstruction loss counts ``missing`` frames, or ``all``.
        text_vector: ``first`` reads the text at its first step, BERT's [CLS]; ``mean`` averages its steps.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        text_weight_decay: L2 weight decay of a trained text encoder, but for its biases and LayerNorms.
        audio_lr: Learning rate of the audio encoder.
        audio_weight_decay: L2 weight decay of the audio encoder.
        vision_lr: Learning rate of the vision encoder.
        vision_weight_decay: L2 weight decay of the vision encoder.
        lr: Learning rate of Adam for all else.
        weight_decay: L2 weight decay of all else.
        accumulate: Batches whose losses are summed before a step; 4 in the official code.

    Raises:
        MSABenchError: An argument outside its range, heads that do not divide, texts of one step without ``text_vector:
            mean``, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="emt_dlfr",
        title="Efficient Multimodal Transformer with Dual-Level Feature Restoration for Robust Multimodal Sentiment "
        "Analysis",
        venue="TAFFC",
        year=2023,
        url="https://arxiv.org/abs/2208.07589",
        fidelity="parity",
        code_url="https://github.com/sunlicai/EMT-DLFR",
        code_commit="e9f0960",
        licence="MIT",
        variants=("wo_attraction", "wo_reconstruction"),
        trains_with=("complete",),
        # Complete clips miss nothing, and the layers that rebuild would learn nothing.
        smoke={
            "dim": 8,
            "layers": 2,
            "heads": 2,
            "hidden_audio": 6,
            "hidden_vision": 7,
            "out_audio": 6,
            "out_vision": 5,
            "fusion_width": 8,
            "context_width": 6,
            "width_text": 6,
            "width_audio": 4,
            "width_vision": 4,
            "reconstruct": "all",
            "text_vector": "mean",
            "accumulate": 2,
        },
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        dim: int = 128,
        layers: int = 3,
        heads: int = 4,
        hidden_audio: int = 32,
        hidden_vision: int = 64,
        out_audio: int = 16,
        out_vision: int = 32,
        fusion_width: int = 256,
        context_width: int = 128,
        width_text: int = 256,
        width_audio: int = 8,
        width_vision: int = 16,
        attn_dropout: float = 0.3,
        ff_dropout: float = 0.1,
        fusion_dropout: float = 0.3,
        lambda_attraction: float = 1.0,
        lambda_reconstruction: float = 1.0,
        reconstruct: Literal["missing", "all"] = "missing",
        text_vector: TextVector = "first",
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        text_weight_decay: float = 1e-3,
        audio_lr: float = 1e-3,
        audio_weight_decay: float = 1e-2,
        vision_lr: float = 1e-4,
        vision_weight_decay: float = 1e-3,
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        accumulate: int = 4,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="l1", accumulate=accumulate)
        if heads < 1 or dim % heads:
            raise MSABenchError(f"heads {heads} do not divide dim {dim}; give a divisor of it")
        if layers < 1:
            raise MSABenchError(f"layers {layers} is not allowed; give at least 1")
        weights = (lambda_attraction, lambda_reconstruction)
        if min(weights) < 0:
            raise MSABenchError(f"weights {list(weights)} of the loss are not allowed; give numbers from 0 up")
        if reconstruct not in ("missing", "all"):
            raise one_of("reconstruct", reconstruct, ("missing", "all"))
        if text_vector not in ("first", "mean"):
            raise one_of("text_vector", text_vector, ("first", "mean"))
        if text_vector == "first" and spec.seq_lens["text"] < 2:
            raise MSABenchError("texts of 1 step have none behind the first; give text_vector: mean")
        self.layers = layers
        self.lambda_attraction, self.lambda_reconstruction = weights
        self.reconstruct = reconstruct
        self.text_vector: TextVector = text_vector
        self.rates = {
            "text": Rates(text_lr, text_weight_decay),
            "audio": Rates(audio_lr, audio_weight_decay),
            "vision": Rates(vision_lr, vision_weight_decay),
        }
        self.text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
        self.audio = SequenceEncoder(spec.feature_dims["audio"], hidden_audio, out_audio)
        self.vision = SequenceEncoder(spec.feature_dims["vision"], hidden_vision, out_vision)
        widths = {"text": self.text.width, "audio": out_audio, "vision": out_vision}
        self.project = nn.ModuleDict(
            {m: nn.Linear(widths[m], dim, bias=False) if widths[m] != dim else nn.Identity() for m in MODALITIES}
        )
        self.positions = SinusoidalPositions(dim, max(spec.seq_lens.values()))
        self.unit = PromotionUnit(dim, heads, attn_dropout, ff_dropout)
        self.pool = nn.Sequential(nn.Linear(3 * dim, 3 * dim), nn.Tanh(), nn.Linear(3 * dim, 1))
        self.fusion_dropout = nn.Dropout(fusion_dropout)
        self.head = nn.Sequential(
            *(nn.Linear(sum(widths.values()) + 3 * dim, fusion_width), nn.ReLU()),
            *(nn.Linear(fusion_width, fusion_width), nn.ReLU()),
            nn.Linear(fusion_width, self.n_outputs),
        )
        widths[CONTEXT] = 3 * dim
        hidden = {CONTEXT: context_width, "text": width_text, "audio": width_audio, "vision": width_vision}
        if variant != "wo_attraction":
            self.attraction = nn.ModuleDict({k: AttractionHead(widths[k], hidden[k]) for k in hidden})
        if variant != "wo_reconstruction":
            features = {**spec.feature_dims, "text": self.text.width}
            self.generators = nn.ModuleDict({m: nn.Linear(dim, features[m]) for m in MODALITIES})

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the context ``(B, 3 d)``."""
        return self._predict(self._view(batch, None).vectors)

    def training_forward(self, batch: Batch) -> Output:
        """Predict from the corrupted clip and compare with the complete one.

        Returns:
            ``aux`` holds ``complete_pred``, the prediction from the complete clip; ``z`` and ``p`` of the context and
            the modalities, such as ``z_text`` and ``p_text``, and ``complete_z_text`` and ``complete_p_text`` of the
            complete clip, each ``(B, W)``; what is rebuilt, ``rebuilt_text`` and so on ``(B, T, D)``, and
            ``target_text``, the complete text; each only if the variant has it.
        """
        complete = self.complete_of(batch)
        rebuilds = self.variant != "wo_reconstruction"
        if self.variant == "wo_attraction":
            view = self._view(batch, slice(None))
            out = self._predict(view.vectors)
            with torch.no_grad():
                target = self._text_steps(self.text(complete))
        else:
            view = self._view(stacked(complete, batch), slice(batch.size, None) if rebuilds else None)
            whole, corrupted = ({k: x.chunk(2)[half] for k, x in view.vectors.items()} for half in range(2))
            out = self._predict(corrupted)
            out.aux["complete_pred"] = self._predict(whole).pred
            # BatchNorm sees each view by itself, the complete one first.
            for prefix, vectors in (("complete_", whole), ("", corrupted)):
                for k, head in self.attraction.items():
                    out.aux[f"{prefix}z_{k}"], out.aux[f"{prefix}p_{k}"] = head(vectors[k])
            target = view.text[: batch.size].detach()
        if rebuilds:
            out.aux |= {f"rebuilt_{m}": self.generators[m](view.steps[m]) for m in MODALITIES}
            out.aux["target_text"] = target
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """The task term, the attraction with the complete view's error, and the reconstruction."""
        assert batch.labels is not None
        terms, aux = {"task": self.task_loss(out.pred, batch.labels)}, out.aux
        if self.variant != "wo_attraction":
            pairs = [(f"p_{k}", f"complete_z_{k}") for k in self.attraction]
            pairs += [(f"complete_p_{k}", f"z_{k}") for k in self.attraction]
            agreement = torch.stack([F.cosine_similarity(aux[p], aux[z], dim=1).mean() for p, z in pairs]).sum() / 2
            terms["attraction"] = self.lambda_attraction * -agreement
            terms["complete"] = self.lambda_attraction * self.task_loss(aux["complete_pred"], batch.labels)
        if self.variant != "wo_reconstruction":
            complete = self.complete_of(batch)
            for m in MODALITIES:
                frames = complete.observed[m]
                if self.reconstruct == "missing":
                    frames = frames & ~batch.observed[m]
                is_text = m == "text"
                target = aux["target_text"] if is_text else complete.features[m]
                frames = self._text_steps(frames) if is_text else frames
                error = frame_error(aux[f"rebuilt_{m}"], target, frames, "smooth_l1")
                terms[f"rec_{m}"] = self.lambda_reconstruction * error
        return terms

    def param_groups(self) -> list[dict[str, Any]]:
        """The encoders learn at rates of their own."""
        parts = {"text": self.text, "audio": self.audio, "vision": self.vision}
        return groups_by_part(self, [(parts[m], self.rates[m]) for m in MODALITIES])

    def _text_steps(self, x: Tensor) -> Tensor:
        """What of ``(B, T, ...)`` belongs to the text's steps: all, or all behind [CLS]."""
        return x[:, 1:] if self.text_vector == "first" else x

    def _view(self, batch: Batch, rows: slice | None) -> View:
        """From clips to context and, if asked for, steps of some clips."""
        keep = dict(batch.valid)
        if self.text_vector == "first":
            keep["text"] = inner_steps(batch.valid["text"])[:, 1:]
        states = self.text(batch)
        vectors = {"text": text_vector(states, batch.valid["text"], self.text_vector)}
        steps = {"text": self._text_steps(states)}
        for m, encoder in (("audio", self.audio), ("vision", self.vision)):
            vectors[m], steps[m] = encoder(batch.features[m], batch.last[m] + 1)
        x = {m: self.positions(self.project[m](steps[m])) for m in MODALITIES}
        context = torch.stack([self.project[m](vectors[m]) for m in MODALITIES], dim=1)
        for layer in range(self.layers):
            by_modality = torch.stack([self.unit(context, x[m], None, keep[m]).flatten(1) for m in MODALITIES], dim=1)
            # Nobody reads the last steps but what rebuilds the frames of these clips.
            of = slice(None) if layer < self.layers - 1 else rows
            if of is not None:
                x = {m: self.unit(x[m][of], context[of], keep[m][of], None) for m in MODALITIES}
            pooled = (self.pool(by_modality).softmax(1) * by_modality).sum(1)
            context = pooled.view_as(context)
        return View({**vectors, CONTEXT: context.flatten(1)}, x, steps["text"])

    def _predict(self, vectors: dict[str, Tensor]) -> Output:
        joint = self.fusion_dropout(torch.cat([vectors[k] for k in (*MODALITIES, CONTEXT)], dim=1))
        return Output(pred=self.to_pred(self.head(joint)), representation=vectors[CONTEXT].detach())

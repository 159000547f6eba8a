"""KT: Multimodal Sentiment Analysis with Missing Modality: A Knowledge-Transfer Approach.

Weide Liu, Huijing Zhan, Hao Chen, Fengmao Lv. arXiv 2024, https://arxiv.org/abs/2401.10747. No official code could be
found; written from the paper's equations, whose numbers stand in the comments.

The audio is never there at test. Each modality has a Transformer encoder; from the encodings f_V and f_L of vision and
text, the translators theta and phi predict what the audio's encoding f_A would be, and delta merges both predictions
into f'_A, which stands in for the audio in a Multimodal Transformer (MulT): each of L, A', V attends to the two others,
a self-attention Transformer follows per target, and the last steps are joined for the prediction. The real audio is
read in training alone, as the target of theta and phi. ``missing`` puts another modality in the audio's place.

Notation: B clips, T_m steps of modality m, d channels (``dim``). Below, "audio" is the missing modality.

Deviations:
    Each is a choice on a point that the paper leaves open or where its parts disagree.

    1. The encoder of f_A gets no gradient from the task, since the fused model has no audio; trained through (1)
       alone it could make the loss zero by being constant. Stage ``teacher`` trains the paper's "full modality" model
       on complete clips; its encoder is frozen, and LayerNorm (without weights) of its f_A is the target. The teacher
       is taken as its last epoch leaves it, and nothing of it is passed on to the fused model. Variants:
       ``target_random``, a frozen random projection of the frames, normalised likewise; ``target_raw``, the frames
       themselves, every feature standardised over the batch's existing frames, predicted through a linear layer.
    2. theta(f_V) has T_V steps, f_A has T_A. Where both are equal (aligned features) they are compared step by step.
       Elsewhere theta and phi end in one more layer of cross-attention, from T_A learned queries with position codes;
       it has no future mask, as steps of different rates have no common order.
    3. "||" in (2) joins channels: a linear layer from 2d to d, then delta.
    4. l_c, "Euclidean": the squared error averaged over existing audio frames and channels, of all clips of the batch.
       ``l1_loss`` takes the absolute error.
    5. The paper prints cross-entropy, yet reports Acc-7, MAE and correlation. As in the official code of MulT, scores
       are trained with L1 and emotions with cross-entropy. ``ce`` classifies scores rounded to whole numbers and
       predicts their expectation.
    6. d_k, "the length of the target features", is the width of a head.
    7. (4) has a residual only. We use the block of MulT: pre-norm, feed-forward network, causal mask, position codes in
       every stack, all with the 3 layers that the paper states. Codes are left out at steps that are zero (padding
       and whatever is missing) in the encoders of the modalities only: their inputs come from a projection without
       bias, so zeros stay zeros there, and a modality that is missing as a whole tells nothing, not even its length;
       later inputs are outputs of a LayerNorm, where a zero would be an accident.
    8. d, heads, dropouts, clipping and batch size are unstated: defaults of MulT's official code, with one attention
       dropout for all stacks, where that code has one per source, and none where audio or vision is the source.
       lambda_va = lambda_la = 0.1. The convolution before an encoder is padded, so that steps remain frames.
    9. As in MulT, padding is not masked, the last stored step of each target is read, and two linear layers with a
       residual precede the output. No mask is read in prediction at all.
    10. ``vision_only`` and ``language_only``: encoder, self-attention and output of that modality. ``language_vision``:
        L <- V and V <- L without A'. ``full_modality``: f_A in place of f'_A, in training and test. None of them has
        (1) or a teacher. ``target_language``, ``target_audio`` and ``target_vision`` keep the two pairs of one target
        and its part of the output: {A', V} -> L and so on.
    11. The number of epochs is stated once: teacher and fused model are given as many each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.losses.reconstruction import frame_error
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.crossmodal import CrossmodalEncoder
from msabench.nn.score_classes import ScoreClasses
from msabench.nn.temporal import TemporalProjection
from msabench.nn.text import TextInput, parameter_groups

# Variants that reconstruct nothing, and the modalities that they fuse.
_PLAIN = {
    "vision_only": ("vision",),
    "language_only": ("text",),
    "language_vision": ("text", "vision"),
    "full_modality": MODALITIES,
}
_TARGETS = {"target_language": "text", "target_audio": "audio", "target_vision": "vision"}

_MakeEncoder = Callable[..., CrossmodalEncoder]


class _Encoders(nn.Module):
    """The unimodal encoders: ``(B, T_m, D_m)`` to f_m ``(B, T_m, d)``."""

    def __init__(
        self,
        make: _MakeEncoder,
        modalities: tuple[str, ...],
        dims: dict[str, int],
        steps: dict[str, int],
        width: int,
        kernel_size: int,
        dropout_text: float,
    ) -> None:
        super().__init__()
        self.dropout_text = dropout_text
        self.project = nn.ModuleDict(
            {
                m: TemporalProjection(dims[m], width, steps=steps[m], kernel_size=kernel_size, padding="same", what=m)
                for m in modalities
            }
        )
        self.encode = nn.ModuleDict({m: make(width, zero_is_pad=True) for m in modalities})

    def one(self, m: str, features: Tensor) -> Tensor:
        if m == "text":  # as MulT, which drops out raw text features only
            features = F.dropout(features, self.dropout_text, self.training)
        encoded: Tensor = self.encode[m](self.project[m](features))
        return encoded

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {m: self.one(m, features[m]) for m in self.project}


class _Translator(nn.Module):
    """theta or phi: the encoding of one modality, ``(B, T_m, d)``, to a guess of another's, ``(B, steps, d)``."""

    def __init__(self, make: _MakeEncoder, width: int, steps_in: int, steps: int) -> None:
        super().__init__()
        self.blocks = make(width)
        self.queries: nn.Parameter | None = None
        if steps_in != steps:
            # The encoder multiplies its inputs by sqrt(d).
            self.queries = nn.Parameter(torch.randn(steps, width) * width**-0.5)
            self.read = make(width, layers=1, future_mask=False)

    def forward(self, f: Tensor) -> Tensor:
        translated: Tensor = self.blocks(f)
        if self.queries is None:
            return translated
        read: Tensor = self.read(self.queries.expand(len(f), -1, -1), translated)
        return read


class _Transfer(nn.Module):
    """Reconstruction of the missing modality from the two others, (1)-(2) without the losses."""

    def __init__(
        self, make: _MakeEncoder, width: int, steps: dict[str, int], sources: tuple[str, ...], missing: str
    ) -> None:
        super().__init__()
        self.translate = nn.ModuleDict(
            {source: _Translator(make, width, steps[source], steps[missing]) for source in sources}
        )
        self.merge = nn.Linear(len(sources) * width, width)
        self.delta = make(width)

    def forward(self, f: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction, and each source's own guess, all ``(B, T, d)``."""
        guesses = {source: translator(f[source]) for source, translator in self.translate.items()}
        return self.delta(self.merge(torch.cat(list(guesses.values()), dim=2))), guesses  # (2)


class _Fusion(nn.Module):
    """Crossmodal attention (3)-(4), self-attention per target, and the output block."""

    def __init__(
        self,
        make: _MakeEncoder,
        width: int,
        joined: tuple[str, ...],
        targets: tuple[str, ...],
        n_outputs: int,
        out_dropout: float,
    ) -> None:
        super().__init__()
        self.out_dropout = out_dropout
        self.sources = {target: [m for m in joined if m != target] for target in targets}
        self.cross = nn.ModuleDict(
            {f"{target}_from_{source}": make(width) for target in targets for source in self.sources[target]}
        )
        # A modality on its own goes straight into self-attention.
        widths = {target: width * max(1, len(self.sources[target])) for target in targets}
        self.memory = nn.ModuleDict({target: make(widths[target]) for target in targets})
        joint = sum(widths.values())
        self.proj1 = nn.Linear(joint, joint)
        self.proj2 = nn.Linear(joint, joint)
        self.out_layer = nn.Linear(joint, n_outputs)

    def forward(self, f: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Map encodings to outputs ``(B, n_outputs)`` and the joined last steps."""
        last_steps = []
        for target, sources in self.sources.items():
            streams = [self.cross[f"{target}_from_{source}"](f[target], f[source]) for source in sources]
            stream = torch.cat(streams, dim=2) if streams else f[target]
            last_steps.append(self.memory[target](stream, last_only=True).squeeze(1))
        joint = torch.cat(last_steps, dim=1)
        block = self.proj2(F.dropout(F.relu(self.proj1(joint)), self.out_dropout, self.training))
        return self.out_layer(joint + block), joint


class _Teacher(nn.Module):
    """The paper's "full modality" model."""

    def __init__(self, encoders: _Encoders, fusion: _Fusion) -> None:
        super().__init__()
        self.encoders = encoders
        self.fusion = fusion

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor] = self.fusion(self.encoders(features))
        return outputs


class KT(MSAMethod):
    """KT, see the module's docstring. It trains on ``batch.complete``, first the teacher and then the fused model.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``; the paper's Tables 1-3: ``vision_only``, ``language_only``, ``language_vision``,
            ``full_modality``; Table 4: ``target_language``, ``target_audio``, ``target_vision``; Table 5:
            ``l1_loss``; ours: ``target_random``, ``target_raw`` and ``ce``, which needs scores.
        missing: The modality that is reconstructed and never read in prediction; ``audio`` in the paper.
        teacher_epochs: Epochs of the teacher, which ``trainer.max_epochs`` includes; at least 1.
        dim: Channels d of every encoding; a multiple of ``heads``.
        heads: Heads of every attention.
        layers: Layers of every stack; 3 in the paper.
        kernel_size: Steps seen by one step of the projections of raw features.
        lambda_va: Weight >= 0 of L_VA, the loss of theta, which reads the vision (the audio if vision is missing).
        lambda_la: Weight >= 0 of L_LA, the loss of phi, which reads the text (the audio if text is missing).
        dropout_text: Dropout on raw text features.
        attn_dropout: Dropout on attention weights.
        relu_dropout: Dropout in feed-forward networks.
        embed_dropout: Dropout on embedded sequences.
        res_dropout: Dropout on residual branches.
        out_dropout: Dropout in the output block.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained; teacher and fused model share it.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; None, as in the
            paper, keeps it constant.

    Raises:
        MSABenchError: An argument outside its range, or a combination that would read the missing modality.
    """

    info = MethodInfo(
        name="kt",
        title="Multimodal Sentiment Analysis with Missing Modality: A Knowledge-Transfer Approach",
        venue="arXiv",
        year=2024,
        url="https://arxiv.org/abs/2401.10747",
        fidelity="equations",
        variants=(
            "vision_only",
            "language_only",
            "language_vision",
            "full_modality",
            "target_language",
            "target_audio",
            "target_vision",
            "l1_loss",
            "target_random",
            "target_raw",
            "ce",
        ),
        trains_with=("complete",),
        reads=("text", "vision"),
        smoke={"dim": 8, "heads": 2, "layers": 1, "teacher_epochs": 1},
    )
    complete_stages: ClassVar[tuple[str, ...]] = ("teacher",)
    schedule: Mapping[str, tuple[str, ...]] = MappingProxyType({"teacher": ("main",), "task": ("main",)})

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        missing: Literal["text", "audio", "vision"] = "audio",
        teacher_epochs: int = 40,
        dim: int = 30,
        heads: int = 5,
        layers: int = 3,
        kernel_size: int = 1,
        lambda_va: float = 0.1,
        lambda_la: float = 0.1,
        dropout_text: float = 0.25,
        attn_dropout: float = 0.1,
        relu_dropout: float = 0.1,
        embed_dropout: float = 0.25,
        res_dropout: float = 0.1,
        out_dropout: float = 0.0,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 1e-3,
        lr_patience: int | None = None,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, lr_patience=lr_patience, task_loss="l1")
        if missing not in MODALITIES:
            raise one_of("missing", missing, MODALITIES)
        if variant in ("vision_only", "language_only", "language_vision") and missing in _PLAIN[variant]:
            raise MSABenchError(
                f"variant {variant!r} reads the {missing}, which is never read with missing {missing!r}; "
                "allowed with it: variants that do not read it"
            )
        if missing == "text" and text_encoder is not None and finetune:
            raise MSABenchError(
                "finetune True is not allowed with missing 'text': the text is then a target, which must not move"
            )
        if min(layers, teacher_epochs) < 1:
            raise MSABenchError(f"layers {layers} and teacher_epochs {teacher_epochs} must both be at least 1")
        self.missing = missing
        self.text_lr = text_lr
        self.reconstructs = variant not in _PLAIN
        observed = tuple(m for m in MODALITIES if m != missing) if self.reconstructs else _PLAIN[variant]
        joined = MODALITIES if self.reconstructs else observed
        targets = (_TARGETS[variant],) if variant in _TARGETS else joined
        # phi reads the first of the two observed modalities, theta the second.
        self.lambdas = dict(zip(observed, (lambda_la, lambda_va), strict=True)) if self.reconstructs else {}

        self.text = TextInput(spec, text_encoder, finetune=finetune)
        self.classes = ScoreClasses(spec) if variant == "ce" else None
        dims = {**spec.feature_dims, "text": self.text.width}
        make = partial(
            CrossmodalEncoder,
            heads=heads,
            layers=layers,
            attn_dropout=attn_dropout,
            relu_dropout=relu_dropout,
            res_dropout=res_dropout,
            embed_dropout=embed_dropout,
            zero_is_pad=False,
        )

        def encoders(modalities: tuple[str, ...]) -> _Encoders:
            return _Encoders(make, modalities, dims, spec.seq_lens, dim, kernel_size, dropout_text)

        n_outputs = self.classes.n if self.classes else self.n_outputs
        self.encoders = encoders(observed)
        self.fusion = _Fusion(make, dim, joined, targets, n_outputs, out_dropout)
        if self.reconstructs:
            self.transfer = _Transfer(make, dim, spec.seq_lens, observed, missing)
        self.teacher: _Teacher | None = None
        self.target: nn.Linear | None = None
        if not self.reconstructs or variant in ("target_random", "target_raw"):
            self.schedule = {"task": ("main",)}
        else:
            self.stage_epochs = {"teacher": teacher_epochs}
            self.teacher = _Teacher(
                encoders(MODALITIES), _Fusion(make, dim, MODALITIES, MODALITIES, n_outputs, out_dropout)
            )
        if variant == "target_random":
            self.target = nn.Linear(dims[missing], dim, bias=False).requires_grad_(False)
        if variant == "target_raw":
            self.readout = nn.ModuleDict({source: nn.Linear(dim, dims[missing]) for source in observed})

    def prepare_stage(self, stage: str) -> None:
        """The teacher is trained in its own stage only."""
        if stage == "task":
            self.freeze_parts(self.teacher)

    def forward(self, batch: Batch) -> Output:
        """Predict without the missing modality; in stage ``teacher`` the teacher predicts, which reads all three."""
        if self.stage == "teacher":
            return self._teach(batch)
        return self._predict(batch)[0]

    def training_forward(self, batch: Batch) -> Output:
        """Predict, and guess the encoding of the missing modality.

        Returns:
            In stage ``task`` ``aux`` holds the guesses ``from_<source>`` and their ``target``, ``(B, T, d)``, or
            ``(B, T, D)`` raw frames for ``target_raw``; empty where nothing is reconstructed.
        """
        complete = self.complete_of(batch)
        if self.stage == "teacher":
            return self._teach(complete)
        out, guesses = self._predict(batch)
        if not self.reconstructs:
            return out
        if self.variant == "target_raw":
            guesses = {source: self.readout[source](guess) for source, guess in guesses.items()}
        out.aux = {f"from_{source}": guess for source, guess in guesses.items()}
        out.aux["target"] = self._target(complete)
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """``L_task + lambda_va L_VA + lambda_la L_LA``, weighted, (5)-(6); the teacher has the first term alone."""
        assert batch.labels is not None
        if self.classes is None:
            terms = {"task": self.task_loss(out.pred, batch.labels)}
        else:
            assert out.logits is not None
            terms = {"task": F.cross_entropy(out.logits, self.classes.of(batch.labels))}
        if self.stage == "task" and self.reconstructs:
            assert batch.complete is not None
            frames = batch.complete.valid[self.missing]
            target = out.aux["target"]
            if self.variant == "target_raw":
                target = _standardised(target, frames)
            norm: Literal["l1", "l2"] = "l1" if self.variant == "l1_loss" else "l2"
            for source, weight in self.lambdas.items():
                name = f"from_{source}"
                terms[name] = weight * frame_error(out.aux[name], target, frames, norm)  # (1)
        return terms

    def param_groups(self) -> list[dict[str, Any]]:
        """The teacher's parameters in its stage, those of the fused model after it; a text encoder at its own rate."""
        groups = parameter_groups(self, self.text_lr)
        if self.stage == "teacher" and self.teacher is not None:
            groups[0] = {"params": list(self.teacher.parameters())}
        return groups

    def _features(self, batch: Batch, modalities: tuple[str, ...]) -> dict[str, Tensor]:
        return {m: self.text(batch) if m == "text" else batch.features[m] for m in modalities}

    def _predict(self, batch: Batch) -> tuple[Output, dict[str, Tensor]]:
        """The prediction, and the guesses of the missing modality's encoding by source."""
        f = self.encoders(self._features(batch, tuple(self.encoders.project)))
        guesses: dict[str, Tensor] = {}
        if self.reconstructs:
            f[self.missing], guesses = self.transfer(f)
        return self._output(*self.fusion(f)), guesses

    def _teach(self, batch: Batch) -> Output:
        assert self.teacher is not None
        return self._output(*self.teacher(self._features(batch, MODALITIES)))

    def _output(self, outputs: Tensor, joint: Tensor) -> Output:
        if self.classes is None:
            return Output(pred=self.to_pred(outputs), representation=joint.detach())
        return Output(pred=self.classes.score(outputs), logits=outputs, representation=joint.detach())

    @torch.no_grad()
    def _target(self, complete: Batch) -> Tensor:
        """What the guesses are compared with: f_A of the frozen teacher, ``(B, T, d)``, or a stand-in for it."""
        frames = self._features(complete, (self.missing,))[self.missing]
        if self.variant == "target_raw":
            return frames
        if self.target is not None:
            encoded = self.target(frames)
        else:
            assert self.teacher is not None
            encoded = self.teacher.encoders.one(self.missing, frames)
        return F.layer_norm(encoded, encoded.shape[-1:])


def _standardised(frames: Tensor, valid: Tensor) -> Tensor:
    """Frames ``(B, T, D)`` with mean 0 and deviation 1 in every feature over the valid ones; constants become 0."""
    existing = frames[valid]
    if not len(existing):
        return frames
    deviation, mean = torch.std_mean(existing, dim=0, correction=0)
    return (frames - mean) / deviation.clamp(min=1e-6)

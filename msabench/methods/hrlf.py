"""HRLF: Toward Robust Incomplete Multimodal Sentiment Analysis via Hierarchical Representation Learning.

Mingcheng Li, Dingkang Yang, Yang Liu, Shunli Wang, Jiawei Chen, Shuaibing Wang, Jinjie Wei, Yue Jiang, Qingyao Xu,
Xiaolu Hou, Mingyang Sun, Ziyun Qian, Dongliang Kou, Lihua Zhang. NeurIPS 2024, https://arxiv.org/abs/2411.02793. The
authors released no code; written from the paper's equations.

A teacher learns from complete clips. Then it is frozen, and a student of the same structure sees the clips with frames
and modalities missing. Each modality's encoding Z_m is split into a sentiment part Q_m and a modality part U_m
(fine-grained representation factorisation, FRF): a decoder has to find Z_b in Q_a and U_b for all nine pairs, so that
sentiment is what modalities can exchange. The parts, joined, pass a bottleneck of layers, whose widths 3d, 2d and d are
three scales E_1, E_2, E_3. On each, mutual information between teacher and student is raised (hierarchical mutual
information maximisation, HMI), and a discriminator that tells the two apart is deceived (hierarchical adversarial
learning, HAL). The student alone predicts, without decoder, critics and discriminators.

Notation: B clips, d channels (``dim``), modalities a, b; E^S, E^M the encoders of Q and U, D_r the decoder, De the
discriminators, T the critics, t and s for teacher and student.

Deviations:
    Each is a choice on a point that the paper leaves open or where its parts disagree.

    1. The teacher is said to learn from labels alone; then its E^S and E^M would split nothing. It has L_FRF as well.
       ``teacher_frf`` False drops it.
    2. The depth of the encoders is unstated: two Transformer layers, FFN 4d, dropout 0.1. The "last time element" is
       the last step that exists; of a modality that was removed it is the last one stored.
    3. E^S and E^M: d -> d -> d/2 with a ReLU between. The d/2 follows from H, six parts, being in R^{3d}. D_r: 2 d/2
       -> d -> d. The layers of the bottleneck end in a ReLU, except the last. All of these start from He's weights:
       from torch's own, H~ differs between clips of synth by 0.006 rather than 1.2, and the task term has no say beside
       L_FRF.
    4. Scales are said to be concatenated from two layers of equal width, (H, H~), (I_1, I_3) and I_2 alone, and yet to
       be in R^{3d}, R^{2d}, R^d. We take means of the pairs, which keeps the widths; ``scales: concat`` gives
       6d, 4d and d.
    5. L_FRF sums norms, not squares, each averaged over clips. The targets Z_b and Q_a are constant to its gradient:
       with a gradient, as printed, they can meet it by becoming the same for all clips, and on synth do so: within ten
       epochs the spread of Z over clips falls to a fortieth (``frf_detach`` False).
    6. T: one hidden layer of d, trained by the same minimisation as the student, as both want the bound high. All pairs
       of different clips of a batch stand for the product of marginals. A batch of one clip has none, and no L_HMI.
    7. De: w -> w/2 -> 1 with a ReLU. It takes a step on detached scales, then the student takes one against it, in
       every batch. The student lowers log(1 - De(E^s)) as printed; ``hal: nonsaturating`` lowers -log De(E^s).
    8. Classification. On scores, two classes of polarity, since positive/negative F1 is what the tables have and L_KL
       is defined on classes; the prediction is p(positive) - p(negative) times the mean size of training labels, so
       that its sign is meant and Acc-7 is not. Validation selects by the squared error of that. ``score_classes`` takes
       seven classes (the five bins of Acc-5 on CH-SIMS) and predicts the expected score; ``regression`` has one output,
       the squared error, and the squared difference of the outputs for L_KL. IEMOCAP has four questions of two classes,
       averaged.
    9. The teacher is taken as its last epoch leaves it, since validation shows clips under the training regime, not
       complete ones; the student starts from new weights. What the teacher is shown in validation and logs as
       ``val/`` in its stage is then not what it is for.
    10. Gradients are clipped at norm 1, in every turn; the paper says nothing of clipping. It weighs all terms with 1,
       as we do by default. A norm pulls equally hard however small it is, and log(1 - De) has no lower bound: in short
       trainings on few clips both leave the task term little, so that weights are arguments.
    11. How clips are corrupted is up to the data module. The paper's rates are unstated; its "simultaneously", frames
       and modalities missing in each clip, is one case of ours.
    12. "Length 300" contradicts the word-aligned features that the paper names; their files' 50 steps are used.
    13. Ablations: ``wo_frf`` (for the teacher, too), ``wo_hmi`` and ``wo_hal`` drop their term.
    14. Checkpoints hold teacher, decoders, critics and discriminators, so that training can go on; prediction reads
       none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.losses.information import jensen_shannon
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.critics import PairCritic
from msabench.nn.modality_encoder import ModalityEncoder, at_step
from msabench.nn.score_classes import LabelClasses
from msabench.nn.text import TextInput, parameter_groups


@dataclass
class _Encoded:
    """What a network makes of a batch.

    Attributes:
        z: Encodings Z, float ``(B, 3, d)``.
        q: Sentiment parts Q, ``(B, 3, d/2)``.
        u: Modality parts U, ``(B, 3, d/2)``.
        scales: E_1, E_2, E_3.
        refined: H~, ``(B, 3d)``.
        outputs: Of the classifier.
    """

    z: Tensor
    q: Tensor
    u: Tensor
    scales: tuple[Tensor, ...]
    refined: Tensor
    outputs: Tensor


def _linear(d_in: int, d_out: int) -> nn.Linear:
    """A linear map that keeps the scale of what a ReLU gave it (He et al. 2015), as torch's own start does not."""
    linear = nn.Linear(d_in, d_out)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return linear


def _mlp(d_in: int, hidden: int, d_out: int) -> nn.Sequential:
    return nn.Sequential(_linear(d_in, hidden), nn.ReLU(), _linear(hidden, d_out))


class _Network(nn.Module):
    """Teacher or student."""

    def __init__(
        self,
        spec: DataSpec,
        text: TextInput,
        n_outputs: int,
        *,
        dim: int,
        scales: str,
        has_decoder: bool,
        frf_detach: bool,
        **sizes: Any,
    ) -> None:
        super().__init__()
        self.text = text
        self.scales = scales
        self.frf_detach = frf_detach
        widths = {**spec.feature_dims, "text": text.width}
        self.encoders = nn.ModuleDict(
            {m: ModalityEncoder(widths[m], dim, steps=spec.seq_lens[m], **sizes) for m in MODALITIES}
        )
        self.sentiment = nn.ModuleDict({m: _mlp(dim, dim, dim // 2) for m in MODALITIES})
        self.modality = nn.ModuleDict({m: _mlp(dim, dim, dim // 2) for m in MODALITIES})
        self.decoder = _mlp(dim, dim, dim) if has_decoder else None
        hidden = (3 * dim, 2 * dim, dim, 2 * dim, 3 * dim)
        self.refine = nn.ModuleList(_linear(*pair) for pair in pairwise(hidden))
        self.classifier = nn.Linear(3 * dim, n_outputs)

    def forward(self, batch: Batch) -> _Encoded:
        features = {"text": self.text(batch), "audio": batch.audio, "vision": batch.vision}
        z = [at_step(self.encoders[m](features[m], batch.valid[m]), batch.last[m]) for m in MODALITIES]
        q = torch.stack([self.sentiment[m](x) for m, x in zip(MODALITIES, z, strict=True)], dim=1)
        u = torch.stack([self.modality[m](x) for m, x in zip(MODALITIES, z, strict=True)], dim=1)
        h = torch.cat([q, u], dim=2).flatten(1)
        to_1, to_2, to_3, to_refined = self.refine
        i_1 = to_1(h).relu()
        i_2 = to_2(i_1).relu()
        i_3 = to_3(i_2).relu()
        refined = to_refined(i_3)
        if self.scales == "concat":
            scales = (torch.cat([h, refined], dim=1), torch.cat([i_1, i_3], dim=1), i_2)
        else:
            scales = ((h + refined) / 2, (i_1 + i_3) / 2, i_2)
        return _Encoded(torch.stack(z, dim=1), q, u, scales, refined, self.classifier(refined))

    def factorisation(self, encoded: _Encoded) -> Tensor:
        """L_self + L_cross + L_recon of each clip, ``(B,)``."""
        assert self.decoder is not None
        z, q, u = encoded.z, encoded.q, encoded.u
        wanted_z, wanted_q = (z.detach(), q.detach()) if self.frf_detach else (z, q)
        pairs = [q.unsqueeze(2).expand(-1, -1, 3, -1), u.unsqueeze(1).expand(-1, 3, -1, -1)]
        swapped = self.decoder(torch.cat(pairs, dim=3))  # [clip, a, b] is D_r(Q_a, U_b), in the space of Z_b
        again = torch.stack([self.sentiment[m](swapped[:, :, b]) for b, m in enumerate(MODALITIES)], dim=2)
        recovered = torch.linalg.vector_norm(again - wanted_q.unsqueeze(1), dim=3).mean((1, 2))
        return swap_error(swapped, wanted_z) + recovered


def swap_error(swapped: Tensor, z: Tensor) -> Tensor:
    """L_self + L_cross of each clip: mean distance of D_r(Q_a, U_b) from Z_b over a = b, plus that over a != b.

    Args:
        swapped: float ``(B, 3, 3, d)``, ``[clip, a, b]`` is D_r(Q_a, U_b).
        z: float ``(B, 3, d)``.

    Returns:
        float ``(B,)``.
    """
    # The norm of autograd has gradient 0 at 0, not NaN.
    distance = torch.linalg.vector_norm(swapped - z.unsqueeze(1), dim=3)
    own = distance.diagonal(dim1=1, dim2=2).sum(1)
    return own / 3 + (distance.sum((1, 2)) - own) / 6


class HRLF(MSAMethod):
    """HRLF, see the module's docstring. It trains on ``batch.complete``, first the teacher and then the student.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``; of the paper's ablations ``wo_frf``, ``wo_hmi``, ``wo_hal``; ours: ``score_classes`` and
            ``regression``, which need scores.
        teacher_epochs: Epochs of the teacher, which ``trainer.max_epochs`` includes; at least 1.
        dim: Channels d of a modality; even, and a multiple of ``heads``.
        heads: Attention heads.
        layers: Transformer layers of a modality, at least 1.
        kernel_size: Steps that the convolutions see.
        dropout: Dropout rate in [0, 1) of the encoders.
        scales: Whether a scale is the ``mean`` of two layers or their ``concat``.
        hal: Whether the student lowers log(1 - De), ``saturating``, or -log De, ``nonsaturating``.
        teacher_frf: Whether the teacher has L_FRF.
        frf_detach: Whether the targets of L_FRF are constant to the gradient.
        lambda_frf: Weight >= 0 of L_FRF, also the teacher's; 1 in the paper, as the others.
        lambda_hmi: Weight >= 0 of L_HMI.
        lambda_hal: Weight >= 0 of the student's L_HAL.
        lambda_kl: Weight >= 0 of L_KL.
        text_encoder: Folder or hub name of a BERT that reads the tokens, one for the teacher and one for the student;
            None for precomputed text features.
        finetune: Whether the text encoders are trained.
        text_lr: Learning rate of trained text encoders.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; None, as in the
            paper, keeps it constant.
        gradient_clip: Largest norm of a step's gradient; None for no limit.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="hrlf",
        title="Toward Robust Incomplete Multimodal Sentiment Analysis via Hierarchical Representation Learning",
        venue="NeurIPS",
        year=2024,
        url="https://arxiv.org/abs/2411.02793",
        fidelity="equations",
        variants=("wo_frf", "wo_hmi", "wo_hal", "score_classes", "regression"),
        trains_with=("complete",),
        smoke={"teacher_epochs": 1, "dim": 8, "heads": 2, "layers": 1},
    )
    complete_stages: ClassVar[tuple[str, ...]] = ("teacher",)

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        teacher_epochs: int = 50,
        dim: int = 40,
        heads: int = 10,
        layers: int = 2,
        kernel_size: int = 3,
        dropout: float = 0.1,
        scales: Literal["mean", "concat"] = "mean",
        hal: Literal["saturating", "nonsaturating"] = "saturating",
        teacher_frf: bool = True,
        frf_detach: bool = True,
        lambda_frf: float = 1.0,
        lambda_hmi: float = 1.0,
        lambda_hal: float = 1.0,
        lambda_kl: float = 1.0,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 1e-3,
        lr_patience: int | None = None,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(
            spec, variant=variant, lr=lr, task_loss="mse", lr_patience=lr_patience, gradient_clip=gradient_clip
        )
        if teacher_epochs < 1 or dim % 2:
            raise MSABenchError(f"teacher_epochs {teacher_epochs} must be at least 1 and dim {dim} even")
        if scales not in ("mean", "concat"):
            raise one_of("scales", scales, ("mean", "concat"))
        if hal not in ("saturating", "nonsaturating"):
            raise one_of("hal", hal, ("saturating", "nonsaturating"))
        if variant == "regression" and spec.task != "regression":
            raise MSABenchError(f"variant 'regression' needs scores, the task is {spec.task!r}")
        has_frf, has_hal = variant != "wo_frf", variant != "wo_hal"
        self.schedule = {"teacher": ("main",), "student": ("discriminators",) * has_hal + ("student",)}
        self.stage_epochs = {"teacher": teacher_epochs}
        self.teacher_frf = teacher_frf and has_frf
        self.hal = hal
        self.lambda_frf, self.lambda_hmi, self.lambda_hal = lambda_frf, lambda_hmi, lambda_hal
        self.lambda_kl = lambda_kl
        self.text_lr = text_lr
        self.classes: LabelClasses | None = None
        if variant != "regression":
            self.classes = LabelClasses(spec, "score" if variant == "score_classes" else "polarity")
        n_outputs = self.classes.questions * self.classes.n if self.classes else 1

        def network(has_decoder: bool) -> _Network:
            return _Network(
                spec,
                TextInput(spec, text_encoder, finetune=finetune),
                n_outputs,
                dim=dim,
                scales=scales,
                has_decoder=has_decoder,
                frf_detach=frf_detach,
                heads=heads,
                layers=layers,
                kernel_size=kernel_size,
                dropout=dropout,
            )

        self.teacher = network(self.teacher_frf)
        self.student = network(has_frf)
        widths = [dim * n for n in ((6, 4, 1) if scales == "concat" else (3, 2, 1))]
        self.critics: nn.ModuleList | None = None
        self.discriminators: nn.ModuleList | None = None
        if variant != "wo_hmi":
            self.critics = nn.ModuleList(PairCritic(width, width, dim, layers=0) for width in widths)
        if has_hal:
            self.discriminators = nn.ModuleList(_mlp(width, width // 2, 1) for width in widths)

    def prepare_stage(self, stage: str) -> None:
        """The teacher is trained in its own stage only."""
        if stage == "student":
            self.freeze_parts(self.teacher)

    def param_groups(self) -> list[dict[str, Any]]:
        """What the turn trains; text encoders at their own rate."""
        parts: dict[str, tuple[nn.Module | None, ...]] = {
            "main": (self.teacher,),
            "discriminators": (self.discriminators,),
            "student": (self.student, self.critics),
        }
        return parameter_groups(nn.ModuleList(part for part in parts[self.turn] if part is not None), self.text_lr)

    def forward(self, batch: Batch) -> Output:
        """Predict by the student; in stage ``teacher`` by the teacher."""
        return self._output((self.teacher if self.stage == "teacher" else self.student)(batch))

    def training_forward(self, batch: Batch) -> Output:
        """The teacher on complete clips; then the student on corrupted ones, and the teacher for comparison.

        Returns:
            ``aux`` holds each clip's ``frf`` ``(B,)`` where that is trained; in stage ``student`` also the scales of
            both, ``student_1`` and ``teacher_1`` and so on, and what the teacher ``told``, its outputs.
        """
        complete = self.complete_of(batch)
        if self.stage == "teacher":
            return self._with_factorisation(self.teacher, self.teacher(complete))
        if self.turn == "discriminators":
            with torch.no_grad():  # they see what the student makes of its clips, and do not change it
                ours = self.student(batch)
            out = self._output(ours)
        else:
            ours = self.student(batch)
            out = self._with_factorisation(self.student, ours)
        with torch.no_grad():
            theirs = self.teacher(complete)
        out.aux["told"] = theirs.outputs
        out.aux |= {f"student_{i}": scale for i, scale in enumerate(ours.scales, start=1)}
        out.aux |= {f"teacher_{i}": scale for i, scale in enumerate(theirs.scales, start=1)}
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """``L_task + L_FRF + L_HMI + L_HAL + L_KL``; the teacher has the first two, discriminators -L_HAL alone."""
        assert batch.labels is not None
        if self.turn == "discriminators":
            says = F.logsigmoid(-self._judged("student", out)) + F.logsigmoid(self._judged("teacher", out))
            return {"hal": -says.mean(0).sum()}
        terms = {"task": self._task_term(out, batch.labels)}
        if "frf" in out.aux:
            terms["frf"] = self.lambda_frf * out.aux["frf"].mean()
        if self.stage == "teacher":
            return terms
        if self.critics is not None and len(batch.labels) > 1:
            bounds = [
                jensen_shannon(critic(out.aux[f"teacher_{i}"], out.aux[f"student_{i}"]))
                for i, critic in enumerate(self.critics, start=1)
            ]
            terms["hmi"] = -self.lambda_hmi * torch.stack(bounds).sum()
        if self.discriminators is not None:  # the term of E^t is constant to the student
            judged = self._judged("student", out)
            says = F.logsigmoid(-judged) if self.hal == "saturating" else -F.logsigmoid(judged)
            terms["hal"] = self.lambda_hal * says.mean(0).sum()
        terms["kl"] = self.lambda_kl * self._response_gap(out, out.aux["told"])
        return terms

    def _judged(self, side: str, out: Output) -> Tensor:
        """Logits of De for the three scales of student or teacher, ``(B, 3)``."""
        assert self.discriminators is not None
        logits = [judge(out.aux[f"{side}_{i}"]) for i, judge in enumerate(self.discriminators, start=1)]
        return torch.cat(logits, dim=1)

    def _task_term(self, out: Output, labels: Tensor) -> Tensor:
        if self.classes is None:
            return self.task_loss(out.pred, labels)
        assert out.logits is not None
        self.classes.observe(labels)
        return F.cross_entropy(out.logits.view(-1, self.classes.n), self.classes.of(labels).flatten())

    def _response_gap(self, out: Output, told: Tensor) -> Tensor:
        """L_KL: KL(teacher || student), averaged over clips and questions; of one output the squared difference."""
        if self.classes is None:
            return F.mse_loss(out.pred, told.squeeze(1))
        assert out.logits is not None
        got, wanted = (x.view(-1, self.classes.n).log_softmax(1) for x in (out.logits, told))
        return F.kl_div(got, wanted, reduction="batchmean", log_target=True)

    def _output(self, encoded: _Encoded) -> Output:
        if self.classes is None:
            return Output(pred=encoded.outputs.squeeze(1), representation=encoded.refined.detach())
        logits = encoded.outputs
        pred = self.classes.pred(logits.view(len(logits), -1, self.classes.n))
        return Output(pred=pred, logits=logits, representation=encoded.refined.detach())

    def _with_factorisation(self, network: _Network, encoded: _Encoded) -> Output:
        out = self._output(encoded)
        if network.decoder is not None:
            out.aux["frf"] = network.factorisation(encoded)
        return out

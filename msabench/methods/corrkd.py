"""CorrKD: Correlation-Decoupled Knowledge Distillation for Multimodal Sentiment Analysis with Incomplete Modalities.

Mingcheng Li, Dingkang Yang, Xiao Zhao, Shuaibing Wang, Yan Wang, Kun Yang, Mingyang Sun, Dongliang Kou, Ziyun Qian,
Lihua Zhang. CVPR 2024, https://arxiv.org/abs/2404.16456. No official code could be found, and of the paper itself only
abstract and introduction were read: the rest is from descriptions by others and from later papers of the same group.
A reconstruction, whose every part below may differ from the original.

A teacher learns from complete clips. Then it is frozen, and a student of the same structure, which sees the clips with
frames and modalities missing, learns from labels and from the teacher in three ways. Sample-level contrastive
distillation (SCD): the student's joint representation of a clip comes near the teacher's of the same clip and stays a
margin away from those of others. Category-guided prototype distillation (CPD): it stands to the classes' prototypes as
the teacher's does. Response-disentangled consistency distillation (RCD): mutual information between the two responses
is raised, separately for the probability of the true class and those of the other classes. The student alone predicts.

Notation: B clips, d channels (``dim``), K classes of each of E questions (one, or IEMOCAP's four emotions).

Deviations:
    Each is a choice on a point that the sources leave open.

    1. Sizes: two Transformer layers after a convolution with kernel 3 per modality, FFN 4d, dropout 0.1, classifier
       3d -> 3d -> K with a ReLU. Only d = 40 and the order convolution, positions, Transformer, concatenation over
       features, average over time are known.
    2. Each modality is averaged over its own existing steps before joining, which is the same as averaging the joined
       sequence where modalities are aligned, and works where they are not.
    3. Classification. On scores, two classes of polarity, since positive/negative F1 is what is published; the
       prediction is p(positive) - p(negative) times the mean size of training labels, so that its sign is meant and
       Acc-7 is not. Validation selects by the squared error of that. ``score_classes`` takes seven classes (the five
       bins of Acc-5 on CH-SIMS) and predicts the expected score. IEMOCAP has four questions of two classes, averaged in
       every term.
    4. SCD's sum over pairs is divided by B (B - 1): the mean squared distance of the B pairs that belong together plus
       the mean squared hinge of the others. Representations are not normalised; ``scd_normalise`` makes them unit
       vectors.
    5. CPD: prototypes are batch means, separately of teacher and student; the difference of cosines is taken
       absolutely and averaged over clips and the classes that occur in the batch. The student's prototypes pass
       gradients. ``cpd_squared`` squares the differences.
    6. RCD: the bound is the Jensen-Shannon form that HRLF of the same group prints, as are pairs from other clips for
       the product of marginals; here all pairs of the batch. Its critics are perceptrons of one hidden layer of 64 on
       both responses, one for each part, trained by the same minimisation. The non-target part is normalised to sum
       1; with two classes it is one minus the target part, which says the same, and both terms are kept.
    7. Weights of the three terms are unstated: 1. A batch of one clip has neither SCD nor RCD.
    8. The teacher is taken as its last epoch leaves it, since validation shows clips under the training regime, not
       complete ones; the student starts from new weights. What the teacher is shown in validation and logs as
       ``val/`` in its stage is then not what it is for.
    9. Gradients are clipped at norm 1, since the learning rate of 4e-3, reported second-hand, is high for post-norm
       layers.
    10. How clips are corrupted is up to the data module. The paper's rates are unstated.
    11. Ablations: ``wo_scd`` and ``wo_cpd`` drop their term; ``rcd_kl`` replaces the bounds by the Kullback-Leibler
       divergence of the student's response from the teacher's, as in the paper's table; ``wo_rcd`` drops both.
    12. Checkpoints hold the teacher and the critics, so that training can go on; prediction reads neither.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.losses.information import jensen_shannon
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.critics import PairCritic
from msabench.nn.modality_encoder import ModalityEncoder, mean_over
from msabench.nn.score_classes import LabelClasses
from msabench.nn.text import TextInput, parameter_groups


class _Network(nn.Module):
    """Teacher or student: a batch to the joint representation H ``(B, 3d)`` and logits ``(B, E, K)``."""

    def __init__(self, spec: DataSpec, text: TextInput, classes: LabelClasses, *, dim: int, **sizes: Any) -> None:
        super().__init__()
        self.text = text
        self.shape = (classes.questions, classes.n)
        widths = {**spec.feature_dims, "text": text.width}
        self.encoders = nn.ModuleDict(
            {m: ModalityEncoder(widths[m], dim, steps=spec.seq_lens[m], **sizes) for m in MODALITIES}
        )
        self.classifier = nn.Sequential(
            nn.Linear(3 * dim, 3 * dim), nn.ReLU(), nn.Linear(3 * dim, classes.questions * classes.n)
        )

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        features = {"text": self.text(batch), "audio": batch.audio, "vision": batch.vision}
        means = [mean_over(self.encoders[m](features[m], batch.valid[m]), batch.valid[m]) for m in MODALITIES]
        joint = torch.cat(means, dim=1)
        return joint, self.classifier(joint).unflatten(1, self.shape)


def sample_contrast(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """SCD: ``mean_i |s_i - t_i|^2 + mean_{i != j} max(0, margin - |s_i - t_j|)^2``.

    Args:
        student: float ``(B, D)``.
        teacher: float ``(B, D)``.
        margin: eta >= 0.

    Returns:
        float ``()``, at least 0.
    """
    differences = student.unsqueeze(1) - teacher.unsqueeze(0)
    own = (student - teacher).square().sum(1).mean()
    # The norm of autograd has gradient 0 at 0, not NaN.
    hinge = (margin - torch.linalg.vector_norm(differences, dim=2)).clamp(min=0).square()
    others = hinge.sum() - hinge.diagonal().sum()
    return own + others / max(len(student) * (len(student) - 1), 1)


def prototype_gap(student: Tensor, teacher: Tensor, members: Tensor, *, squared: bool = False) -> Tensor:
    """CPD: mean difference of the cosines with which student and teacher see their classes' prototypes.

    Args:
        student: float ``(B, D)``.
        teacher: float ``(B, D)``.
        members: float ``(B, P)``, 1 where a clip is of a class; classes without clips do not count.
        squared: Whether differences are squared rather than absolute.

    Returns:
        float ``()``, in [0, 2], or [0, 4] if squared.
    """

    def cosines(joint: Tensor) -> Tensor:
        # A prototype's length does not matter to a cosine: sums do as well as means.
        return F.normalize(joint, dim=1) @ F.normalize(members.T @ joint, dim=1).T

    gap = (cosines(student) - cosines(teacher))[:, members.any(0)]
    return gap.square().mean() if squared else gap.abs().mean()


def response_parts(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The two parts of responses in RCD.

    Args:
        logits: float ``(B, E, K)``.
        target: int64 ``(B, E)``, the true classes.

    Returns:
        The probabilities of the true classes ``(B, E)``, and those of the others ``(B, E (K - 1))`` in the order of the
        classes: normalised to sum 1 per question, or as they are if K is 2.
    """
    B, _, K = logits.shape
    true = F.one_hot(target, K).bool()
    probabilities = logits.softmax(dim=2)
    others = probabilities[~true] if K == 2 else logits[~true].view(-1, K - 1).softmax(dim=1)
    return probabilities[true].view(B, -1), others.reshape(B, -1)


class CorrKD(MSAMethod):
    """CorrKD, see the module's docstring. It trains on ``batch.complete``, first the teacher and then the student.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``; of the paper's ablations ``wo_scd``, ``wo_cpd``, ``rcd_kl``; ours: ``wo_rcd``, and
            ``score_classes``, which needs scores.
        teacher_epochs: Epochs of the teacher, which ``trainer.max_epochs`` includes; at least 1.
        dim: Channels d of a modality; a multiple of ``heads``.
        heads: Attention heads.
        layers: Transformer layers of a modality, at least 1.
        kernel_size: Steps that the convolutions see.
        dropout: Dropout rate in [0, 1) of the encoders.
        critic_width: Width of the critics.
        margin: Margin eta >= 0 of SCD.
        scd_normalise: Whether SCD compares unit vectors.
        cpd_squared: Whether CPD squares differences.
        lambda_scd: Weight >= 0 of SCD.
        lambda_cpd: Weight >= 0 of CPD.
        lambda_rcd: Weight >= 0 of RCD.
        text_encoder: Folder or hub name of a BERT that reads the tokens, one for the teacher and one for the student;
            None for precomputed text features.
        finetune: Whether the text encoders are trained.
        text_lr: Learning rate of trained text encoders.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; None keeps it
            constant.
        gradient_clip: Largest norm of a step's gradient; None for no limit.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="corrkd",
        title="Correlation-Decoupled Knowledge Distillation for Multimodal Sentiment Analysis "
        "with Incomplete Modalities",
        venue="CVPR",
        year=2024,
        url="https://arxiv.org/abs/2404.16456",
        fidelity="reconstructed",
        variants=("wo_scd", "wo_cpd", "wo_rcd", "rcd_kl", "score_classes"),
        trains_with=("complete",),
        smoke={"teacher_epochs": 1, "dim": 8, "heads": 2, "layers": 1, "critic_width": 16},
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
        critic_width: int = 64,
        margin: float = 1.2,
        scd_normalise: bool = False,
        cpd_squared: bool = False,
        lambda_scd: float = 1.0,
        lambda_cpd: float = 1.0,
        lambda_rcd: float = 1.0,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 4e-3,
        lr_patience: int | None = None,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(
            spec, variant=variant, lr=lr, task_loss="mse", lr_patience=lr_patience, gradient_clip=gradient_clip
        )
        if teacher_epochs < 1 or margin < 0:
            raise MSABenchError(
                f"teacher_epochs {teacher_epochs} must be at least 1 and margin {margin} not be negative"
            )
        self.schedule = {"teacher": ("main",), "student": ("main",)}
        self.stage_epochs = {"teacher": teacher_epochs}
        self.margin = margin
        self.scd_normalise = scd_normalise
        self.cpd_squared = cpd_squared
        self.lambda_scd, self.lambda_cpd, self.lambda_rcd = lambda_scd, lambda_cpd, lambda_rcd
        self.text_lr = text_lr
        self.classes = LabelClasses(spec, "score" if variant == "score_classes" else "polarity")

        def network() -> _Network:
            text = TextInput(spec, text_encoder, finetune=finetune)
            sizes = {"heads": heads, "layers": layers, "kernel_size": kernel_size, "dropout": dropout}
            return _Network(spec, text, self.classes, dim=dim, **sizes)

        self.teacher = network()
        self.student = network()
        self.critics: nn.ModuleList | None = None
        if variant not in ("wo_rcd", "rcd_kl"):
            widths = (self.classes.questions, self.classes.questions * (self.classes.n - 1))
            self.critics = nn.ModuleList(PairCritic(width, width, critic_width, layers=0) for width in widths)

    def prepare_stage(self, stage: str) -> None:
        """The teacher is trained in its own stage only."""
        if stage == "student":
            self.freeze_parts(self.teacher)

    def param_groups(self) -> list[dict[str, Any]]:
        """The teacher in its stage; student and critics after it; text encoders at their own rate."""
        if self.stage == "teacher":
            return parameter_groups(self.teacher, self.text_lr)
        parts = [part for part in (self.student, self.critics) if part is not None]
        return parameter_groups(nn.ModuleList(parts), self.text_lr)

    def forward(self, batch: Batch) -> Output:
        """Predict by the student; in stage ``teacher`` by the teacher."""
        joint, logits = (self.teacher if self.stage == "teacher" else self.student)(batch)
        return Output(
            pred=self.classes.pred(logits),
            logits=logits.flatten(1),
            representation=joint.detach(),
            aux={"joint": joint},
        )

    def training_forward(self, batch: Batch) -> Output:
        """The teacher on complete clips; then the student on corrupted ones, and the teacher for comparison.

        Returns:
            In stage ``student`` ``aux`` holds H of both, ``joint`` and ``teacher`` ``(B, 3d)``, and the teacher's
            ``response``, logits ``(B, E, K)``.
        """
        complete = self.complete_of(batch)
        if self.stage == "teacher":
            return self(complete)
        out = self(batch)
        with torch.no_grad():
            out.aux["teacher"], out.aux["response"] = self.teacher(complete)
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """``L_task + L_SCD + L_CPD + L_RCD``, weighted; the teacher has the first term alone."""
        assert batch.labels is not None
        assert out.logits is not None
        self.classes.observe(batch.labels)
        target = self.classes.of(batch.labels)
        logits = out.logits.unflatten(1, (-1, self.classes.n))
        terms = {"task": F.cross_entropy(logits.flatten(0, 1), target.flatten())}
        if self.stage == "teacher":
            return terms
        student, teacher, response = (out.aux[name] for name in ("joint", "teacher", "response"))
        if self.variant != "wo_scd" and len(target) > 1:
            rows = [F.normalize(x, dim=1) if self.scd_normalise else x for x in (student, teacher)]
            terms["scd"] = self.lambda_scd * sample_contrast(rows[0], rows[1], self.margin)
        if self.variant != "wo_cpd":
            members = F.one_hot(target, self.classes.n).flatten(1).to(student.dtype)
            terms["cpd"] = self.lambda_cpd * prototype_gap(student, teacher, members, squared=self.cpd_squared)
        if self.variant == "rcd_kl":
            wanted, got = (x.flatten(0, 1).log_softmax(1) for x in (response, logits))
            terms["rcd"] = self.lambda_rcd * F.kl_div(got, wanted, reduction="batchmean", log_target=True)
        if self.critics is not None and len(target) > 1:
            parts = zip(self.critics, response_parts(response, target), response_parts(logits, target), strict=True)
            bounds = [jensen_shannon(critic(theirs, ours)) for critic, theirs, ours in parts]
            terms["rcd"] = -self.lambda_rcd * torch.stack(bounds).sum()
        return terms

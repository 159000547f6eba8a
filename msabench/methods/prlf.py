"""PRLF: Progressive Representation Learning for Multimodal Sentiment Analysis with Incomplete Modalities.

Jindi Bao, Jianjun Qian, Mengkai Yan, Jian Yang. 2026, https://arxiv.org/abs/2603.09111. No official code could be
found; written from the paper's equations, whose numbers stand in the comments.

Each modality has an encoder and a classifier of its own. The adaptive modality reliability estimator (AMRE) weighs the
modalities of a clip by two criteria: how confident the modality's classifier is, and the trace of the Fisher
information of its encoder and classifier, which falls when frames are missing; the growth of the trace since the last
epoch shifts the weight between the two. The most important modality of a clip is its dominant one. Progressive
interaction (ProgInteract) then repeats a step S times: each modality mixes a self-update, which counts less and less,
with attention across modalities, which counts more and more; what an auxiliary modality has in common with the dominant
one is kept, the rest is cleaned of noise and added with a weight gamma.

Notation: B clips, K tokens of d channels per modality, C classes, modalities l, a, v in this order.

Deviations:
    Each is a choice on a point that the paper leaves open or where its parts disagree.

    1. Encoders, d and number of tokens are unstated. (14) multiplies a map of T_m x T_n by T_m x d, so that all
       modalities need equal lengths: a linear map to d = 128, then two pre-norm Transformer layers of 8 heads over 8
       learned tokens and the frames, of which the tokens are kept (the embedding of LNLN). Heads are linear and see the
       mean of the tokens. Padding and missing frames are zero vectors and not masked. (13) has hidden width d.
    2. "Confidence of the correct class" (1) cannot be had without the label, which would also reach the training's
       forward pass through mu. alpha is the largest class probability, in training and test. ``conf_label`` takes the
       literal reading in training, and the largest probability at test.
    3. (3) differentiates the head's output, (5) log p(y|X), and the label is unknown at test. We take the true Fisher
       information under the model's own classes, ``Tr F = sum_c p(c) ||grad log p(c|X)||^2``, of two of the layers: the
       weight of the input projection and the head (gradients of every clip for all of an encoder would be dear). The
       head's part alone would not fall with missing frames. The projection's part is a sum over observed frames as in
       (5)-(7): missing frames add nothing, and a removed modality has the head's part alone. The projection's bias is
       left out: its gradient has a contribution of every frame, missing or not. Confident predictions have little
       Fisher information, so that the two criteria pull against each other; that is in the paper's choice of them.
       Traces of different modalities are compared as they are, though they grow with the scale and number of features.
    4. (10) needs the trace of the epoch before. It is kept for each training clip; as holes are drawn anew each epoch,
       the difference also holds the luck of the draw. In the first epoch, Delta is 0 and w is 0.5.
       At test, w of a modality is its mean over the training clips in the epoch of the checkpoint, as mu is linear in
       w. The mean of Delta would not do: it has no lower bound, and is ruled by the few clips whose trace fell to
       nothing once they were fitted.
    5. Delta is at most 1, hence w at most 0.731; w is low only where the trace falls steeply. The text speaks of low
       weights early in training, which the formula does not give. As in the formula.
    6. mu does not sum to 1 when w differs between modalities: left so. No gradient passes through mu.
    7. (15) has 2K tokens where (16) adds K: the two sources are joined as 2K tokens, attend to themselves, and the two
       halves are averaged, which needs no parameters. ``project`` joins them over channels and maps 2d to d.
    8. (14) and (15) have no projections, and the values of (14) are those of the modality that attends: as printed.
    9. Steps are counted from 0 to S - 1. From 1, lambda would turn negative. The first step is then purely unimodal and
       the last purely crossmodal; with S = 1 (``step1``) nothing crosses modalities but (17)-(22).
    10. Sharing of weights is unstated: (13) per modality; the gate (17) and the noise (21) are shared by the auxiliary
        modalities; all are shared by the steps.
    11. (20) says neither what N and E run over nor how the steps are joined, and its inner product grows with d: it is
        divided by d, squared, and averaged over clips, tokens, auxiliaries and steps. ``phase_unscaled`` does not
        divide.
    12. L_uni is the cross-entropy (2); another section calls it a "feature uniformity loss".
    13. The number of classes is unstated: the seven rounded scores of MOSI and MOSEI, the five bins of CH-SIMS. The
        prediction is the expected score. Epochs are selected by its L1 error, as for all methods, not by cross-entropy.
    14. (23) joins the modalities' means over tokens in the order dominant, auxiliaries in the order l, a, v.
    15. GloVe and BERT are both stated for the text: BERT states, by default the precomputed ones.
    16. The training's constant missing rate is unstated: the configs take 0.5 for the frames of all modalities. Whole
        modalities are not removed in training, though they are at test.
    17. Ablations: ``wo_cmi`` has mu = betahat, ``wo_fimi`` mu = alphahat, ``wo_amre`` mu = 1/3 with the text dominant;
        ``wo_pi`` joins the mu-weighted modalities in (23) without ProgInteract; ``wo_phase`` drops (20). In ``wo_uni``
        the heads, which AMRE needs, are trained by (2) on the side, and it does not reach the encoders. ``step1``,
        ``step2``, ``step3`` and ``step5`` set S; the default has 4.
    18. Optimiser, learning rate, batch size and dropout are unstated: Adam, and values in the configs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.score_classes import ScoreClasses
from msabench.nn.text import TextInput
from msabench.nn.token_transformer import TokenEmbedding

HISTORY_KEY = "prlf_importance"

_OTHERS = ((1, 2), (0, 2), (0, 1))
_STEPS = {"step1": 1, "step2": 2, "step3": 3, "step5": 5}
_TINY = 1e-12


def fisher_trace(x: Tensor, projected: Tensor, pooled: Tensor, logits: Tensor) -> Tensor:
    """Trace of each clip's Fisher information over the weight of an input projection and a linear head.

    ``Tr F = sum_c p(c) ||grad log p(c|X)||^2`` of (3)-(4), for ``projected = x W_in^T + b_in`` and ``logits = W_out
    pooled + b_out``. The part of ``(W_out, b_out)`` is ``(1 - ||p||^2)(||pooled||^2 + 1)``. The gradient in ``W_in`` is
    the sum over frames of ``x_t (dlog p(c) / dprojected_t)^T``, the additive form of (5)-(7), so one backward pass per
    class gives it for all clips. What lies between projection and head must treat clips one by one.

    Args:
        x: float ``(B, T, D_in)``, input of the projection, 0 where nothing was observed.
        projected: float ``(B, T, d)``, in the graph of ``logits``, which is not freed.
        pooled: float ``(B, d)``, input of the head.
        logits: float ``(B, C)``.

    Returns:
        float ``(B,)``, at least 0, without a graph.
    """
    log_p = logits.log_softmax(dim=1)
    p = log_p.detach().exp()
    trace = (p * (1 - p)).sum(1) * (pooled.detach().square().sum(1) + 1)
    inputs = x.detach().transpose(1, 2)
    for c in range(log_p.shape[1]):
        (by_frame,) = torch.autograd.grad(log_p[:, c].sum(), projected, retain_graph=True)
        trace = trace + p[:, c] * (inputs @ by_frame).square().sum((1, 2))
    return trace


def fusion_weight(trace: Tensor, before: Tensor) -> Tensor:
    """Weight w of the Fisher information (10)-(11): sigmoid of the trace's relative growth Delta.

    Args:
        trace: float ``(..., 3)``, at least 0.
        before: float ``(..., 3)``, traces of the epoch before; NaN where there are none, which gives 0.5.

    Returns:
        float ``(..., 3)`` in [0, 0.74).
    """
    growth = (trace - torch.where(before.isnan(), trace, before)) / trace.clamp_min(_TINY)  # (10)
    return torch.sigmoid(growth)  # (11)


def _shares(x: Tensor) -> Tensor:
    """L1 normalisation over modalities of ``(B, 3)``, non-negative; equal shares where all are 0."""
    return (x + _TINY) / (x + _TINY).sum(1, keepdim=True)


class _Unimodal(nn.Module):
    """Encoder eps_m and head h_m of a modality.

    Args:
        embedding: The encoder.
        dim: Channels d of its tokens.
        classes: Number C of classes.
        apart: Whether gradients of the logits stop at the encoder.
    """

    def __init__(self, embedding: TokenEmbedding, dim: int, classes: int, apart: bool) -> None:
        super().__init__()
        self.embedding = embedding
        self.head = nn.Linear(dim, classes)
        self.apart = apart

    def forward(self, x: Tensor, observed: Tensor, with_trace: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens ``(B, K, d)``, logits ``(B, C)`` and Fisher traces ``(B,)``, zeros if not asked for."""
        # Evaluation, too, needs gradients for the trace.
        with torch.set_grad_enabled(with_trace or torch.is_grad_enabled()):
            projected = self.embedding.project(x)
            if with_trace and not projected.requires_grad:
                projected.requires_grad_()
            tokens = self.embedding.encode(projected)
            pooled = tokens.mean(1)
            logits = self.head(pooled)
            if with_trace:
                # (5)-(7) sum over what was observed; a text encoder's states of dropped words are not zero.
                trace = fisher_trace(x * observed.unsqueeze(2), projected, pooled, logits)
            else:
                trace = torch.zeros_like(logits[:, 0])
            return tokens, self.head(pooled.detach()) if self.apart else logits, trace


class _ProgInteract(nn.Module):
    """Progressive interaction (13)-(22) of tokens ``(B, 3, K, d)``."""

    def __init__(self, dim: int, steps: int, gamma: float, dropout: float, project: bool, scale: float) -> None:
        super().__init__()
        self.steps = steps
        self.gamma = gamma
        self.scale = scale
        self.update = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.Dropout(dropout)) for _ in MODALITIES
        )
        self.join = nn.Linear(2 * dim, dim) if project else None
        self.gate = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.Sigmoid())
        self.noise = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, f: Tensor, mu: Tensor, dominant: Tensor) -> tuple[Tensor, Tensor]:
        """Interact.

        Args:
            f: float ``(B, 3, K, d)``.
            mu: float ``(B, 3)``, importance of each modality.
            dominant: int64 ``(B,)``, the dominant modality.

        Returns:
            The tokens after S steps, and each clip's phase loss (20) ``(B,)``.
        """
        clips = torch.arange(len(f), device=f.device)
        leads = F.one_hot(dominant, len(MODALITIES)).bool()
        phases = []
        for t in range(self.steps):
            own = 1 - t / max(1, self.steps - 1)
            fused = f + torch.stack([update(f[:, m]) for m, update in enumerate(self.update)], dim=1)  # (13)
            if own < 1:
                fused = own * fused + (1 - own) * self.cross(f, mu)  # (16)
            lead = fused[clips, dominant].unsqueeze(1).expand_as(fused)
            # All three modalities are taken apart at once; for the dominant one, the result is not used.
            common = self.gate(torch.cat([lead, fused], dim=3)) * lead  # (17), (18)
            rest = fused - common  # (19)
            overlap = ((common * rest).sum(3) / self.scale).square().mean(2)  # (20)
            phases.append(overlap.masked_fill(leads, 0.0).sum(1) / 2)
            cleaned = common + self.gamma * (rest - self.noise(rest))  # (21), (22)
            f = torch.where(leads[:, :, None, None], fused, cleaned)
        return f, torch.stack(phases).mean(0)

    def cross(self, f: Tensor, mu: Tensor) -> Tensor:
        """f_cross (14)-(15), shaped like ``f``."""
        root = f.shape[3] ** 0.5
        weighted = mu[:, :, None, None] * f
        maps = torch.einsum("bmid,bnjd->bmnij", weighted, weighted).div(root).softmax(dim=4)
        pairs = torch.einsum("bmnij,bmjd->bmnid", maps, weighted)  # (14), also of each modality with itself
        others = torch.stack([pairs[:, m, list(_OTHERS[m])] for m in range(len(MODALITIES))], dim=1)
        joined = others.flatten(2, 3) if self.join is None else others.transpose(2, 3).flatten(3)
        mixed = (joined @ joined.transpose(2, 3)).div(root).softmax(dim=3) @ joined  # (15)
        return mixed.unflatten(2, (2, -1)).mean(2) if self.join is None else self.join(mixed)


class PRLF(MSAMethod):
    """PRLF, see the module's docstring.

    Besides its weights it keeps, for every training clip, the Fisher traces of this epoch and the last, and the
    importance mu of each modality in every epoch (the paper's figure of importance over epochs); see
    ``importance_history``.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``, ``step1``, ``step2``, ``step3``, ``step5``, ``wo_cmi``, ``wo_fimi``, ``wo_amre``,
            ``wo_pi``, ``wo_uni``, ``wo_phase``, ``conf_label``, ``phase_unscaled`` or ``project``.
        dim: Channels d of a token.
        tokens: Tokens K of a modality, at least 1.
        layers: Layers of each modality's Transformer, at least 1.
        heads: Heads of its attentions.
        dim_head: Features of a head.
        interaction_steps: Steps S of ProgInteract, at least 1; the ``step`` variants replace it.
        gamma: Weight of what an auxiliary modality does not share with the dominant one.
        dropout: Dropout rate in [0, 1) of (13) and (21).
        lambda_unimodal: Weight eta_1 >= 0 of L_uni.
        lambda_phase: Weight eta_2 >= 0 of L_phase.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        weight_decay: L2 weight decay of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; None keeps it.

    Raises:
        MSABenchError: An argument outside its range.
    """

    info = MethodInfo(
        name="prlf",
        title="Progressive Representation Learning for Multimodal Sentiment Analysis with Incomplete Modalities",
        venue="arXiv",
        year=2026,
        url="https://arxiv.org/abs/2603.09111",
        fidelity="equations",
        method_version=2,
        tasks=("regression",),
        variants=(
            "step1",
            "step2",
            "step3",
            "step5",
            "wo_cmi",
            "wo_fimi",
            "wo_amre",
            "wo_pi",
            "wo_uni",
            "wo_phase",
            "conf_label",
            "phase_unscaled",
            "project",
        ),
        smoke={"dim": 8, "tokens": 3, "layers": 1, "heads": 2, "dim_head": 4},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        dim: int = 128,
        tokens: int = 8,
        layers: int = 2,
        heads: int = 8,
        dim_head: int = 64,
        interaction_steps: int = 4,
        gamma: float = 0.8,
        dropout: float = 0.1,
        lambda_unimodal: float = 0.5,
        lambda_phase: float = 0.1,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 2e-5,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        lr_patience: int | None = None,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, lr_patience=lr_patience)
        if min(dim, layers, heads, dim_head, interaction_steps) < 1:
            raise MSABenchError(
                f"dim {dim}, layers {layers}, heads {heads}, dim_head {dim_head} and "
                f"interaction_steps {interaction_steps} must be at least 1"
            )
        self.lambda_unimodal = lambda_unimodal
        self.lambda_phase = lambda_phase
        self.text_lr = text_lr
        self.classes = ScoreClasses(spec)
        self.text = TextInput(spec, text_encoder, finetune=finetune)
        widths = {**spec.feature_dims, "text": self.text.width}
        self.unimodal = nn.ModuleDict(
            {
                m: _Unimodal(
                    TokenEmbedding(
                        widths[m], dim, spec.seq_lens[m], tokens=tokens, layers=layers, heads=heads, dim_head=dim_head
                    ),
                    dim,
                    self.classes.n,
                    apart=variant == "wo_uni",
                )
                for m in MODALITIES
            }
        )
        self.interaction = (
            None
            if variant == "wo_pi"
            else _ProgInteract(
                dim,
                _STEPS.get(variant, interaction_steps),
                gamma,
                dropout,
                project=variant == "project",
                scale=1.0 if variant == "phase_unscaled" else dim,
            )
        )
        self.head = nn.Linear(len(MODALITIES) * dim, self.classes.n)

        self.uses_trace = variant not in ("wo_fimi", "wo_amre")
        unset = torch.full((spec.n_train, len(MODALITIES)), torch.nan)
        self.trace: Tensor
        self.trace_before: Tensor
        self.mean_weight: Tensor
        self.roles: Tensor
        self.importance: Tensor
        self.register_buffer("trace", unset)
        self.register_buffer("trace_before", unset.clone())
        self.register_buffer("mean_weight", torch.full((len(MODALITIES),), 0.5))
        self.register_buffer("roles", torch.tensor([(m, *_OTHERS[m]) for m in range(3)]), persistent=False)
        self.register_buffer("importance", unset.half(), persistent=False)
        self.past_importance: list[Tensor] = []

    def forward(self, batch: Batch) -> Output:
        """Predict.

        Returns:
            ``representation`` is the joined modalities ``(B, 3d)`` of (23), dominant one first. ``aux`` holds
            ``importance``, mu of text, audio and vision ``(B, 3)``; their Fisher traces ``trace`` ``(B, 3)``; the
            classes' logits ``unimodal_logits`` ``(B, 3, C)`` of the unimodal heads; the phase loss ``phase`` ``(B,)``.
        """
        return self._run(batch)

    def training_forward(self, batch: Batch) -> Output:
        """The same with each clip's own growth of the trace; ``conf_label`` reads the label."""
        assert batch.index is not None
        assert batch.labels is not None
        target = self.classes.of(batch.labels) if self.variant == "conf_label" else None
        return self._run(batch, self.trace_before[batch.index], target)

    def _run(self, batch: Batch, before: Tensor | None = None, target: Tensor | None = None) -> Output:
        inputs = {"text": self.text(batch), "audio": batch.audio, "vision": batch.vision}
        parts = [self.unimodal[m](inputs[m], batch.observed[m], self.uses_trace) for m in MODALITIES]
        f, logits, trace = (torch.stack(part, dim=1) for part in zip(*parts, strict=True))
        mu = self.importance_of(logits.detach(), trace.detach(), before, target)
        dominant = torch.zeros_like(mu[:, 0]).long() if self.variant == "wo_amre" else mu.argmax(1)

        if self.interaction is None:
            f, phase = mu[:, :, None, None] * f, torch.zeros_like(mu[:, 0])
        else:
            f, phase = self.interaction(f, mu, dominant)
        order = self.roles[dominant]
        joint = f.mean(2).gather(1, order.unsqueeze(2).expand(-1, -1, f.shape[3])).flatten(1)  # (23)
        joint_logits = self.head(joint)  # (24)
        scores = self.classes.score(logits.detach())
        return Output(
            pred=self.classes.score(joint_logits),
            logits=joint_logits,
            unimodal={m: scores[:, i] for i, m in enumerate(MODALITIES)},
            representation=joint.detach(),
            aux={"importance": mu, "trace": trace.detach(), "unimodal_logits": logits, "phase": phase},
        )

    def importance_of(
        self, logits: Tensor, trace: Tensor, before: Tensor | None = None, target: Tensor | None = None
    ) -> Tensor:
        """AMRE: importance mu of each modality.

        Args:
            logits: float ``(B, 3, C)`` of the unimodal heads.
            trace: float ``(B, 3)``, Fisher traces.
            before: float ``(B, 3)``, those of the epoch before, NaN where unknown; None at test.
            target: int64 ``(B,)``, class whose probability is the confidence; None for the likeliest one.

        Returns:
            float ``(B, 3)`` in (0, 1).
        """
        p = logits.softmax(dim=2)
        alpha = p.amax(2) if target is None else p.gather(2, target[:, None, None].expand(-1, 3, 1)).squeeze(2)
        if self.variant == "wo_amre":
            return torch.full_like(trace, 1 / len(MODALITIES))
        if self.variant == "wo_fimi":
            return _shares(alpha)  # (1)
        if self.variant == "wo_cmi":
            return _shares(trace)  # (9)
        w = self.mean_weight if before is None else fusion_weight(trace, before)
        return (1 - w) * _shares(alpha) + w * _shares(trace)  # (12)

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """``CE + eta_1 L_uni + eta_2 L_phase`` (25); also notes the clips' traces and importance."""
        assert batch.labels is not None
        assert batch.index is not None
        with torch.no_grad():
            self.importance[batch.index] = out.aux["importance"].to(self.importance.dtype)
            self.trace[batch.index] = out.aux["trace"].to(self.trace.dtype)
            # Traces that this epoch has not come to are NaN.
            self.mean_weight.copy_(fusion_weight(self.trace, self.trace_before).nanmean(0))
        target = self.classes.of(batch.labels)
        assert out.logits is not None
        each = F.cross_entropy(out.aux["unimodal_logits"].flatten(0, 1), target.repeat_interleave(len(MODALITIES)))
        terms = {
            "task": F.cross_entropy(out.logits, target),
            "uni": self.lambda_unimodal * len(MODALITIES) * each,  # (2) sums over modalities
        }
        if self.variant not in ("wo_phase", "wo_pi"):
            terms["phase"] = self.lambda_phase * out.aux["phase"].mean()  # (20)
        return terms

    def importance_history(self) -> Tensor:
        """Importance of the modalities for each training clip in every epoch so far.

        From ``best.ckpt`` these are the epochs up to the best one. ``msabench run`` keeps that file only with
        ``--keep-checkpoints``.

        Returns:
            float16 ``(epochs, n_train, 3)`` on the CPU, text, audio, vision; NaN where a clip was not trained on.
        """
        return torch.stack([*self.past_importance, self.importance.cpu()]).half()

    def on_train_epoch_start(self) -> None:
        """Turn the page: this epoch's traces become those of the epoch before."""
        super().on_train_epoch_start()
        if not self.importance.isnan().all():
            self.past_importance.append(self.importance.cpu().clone())
            self.importance.fill_(torch.nan)
            self.trace_before.copy_(self.trace)
            self.trace.fill_(torch.nan)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean importance of each modality."""
        means = self.importance.float().nanmean(0)
        self.log_dict({f"train/importance_{m}": means[i] for i, m in enumerate(MODALITIES)})
        super().on_train_epoch_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the history of importance."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[HISTORY_KEY] = self.importance_history()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the history of importance."""
        super().on_load_checkpoint(checkpoint)
        *past, current = checkpoint[HISTORY_KEY].unbind()
        self.past_importance = [page.clone() for page in past]
        self.importance.copy_(current)

"""FSRF: Factorization-guided Semantic Recovery for Incomplete Multimodal Sentiment Analysis.

ICME 2025, https://arxiv.org/abs/2510.16086. No official code could be found; written from the paper's equations, whose
numbers stand in the comments.

In training each clip comes in two versions p and q with different frames or modalities missing (the paper's Modality
Random Missing), and one network encodes both. De-redundant homo-heterogeneous factorisation (DHF) splits each modality
into a part that all modalities share, a part of its own, and noise: the shared parts of two modalities are pulled
together and away from the modality's own part (1), noise is alike between clips and unlike between modalities (2), and
has little entropy (3). What is used is the sum of the first two parts without the noise. Distribution-aligned
self-distillation (DAS) brings the versions together, as clouds of features by optimal transport (5)-(7) and clip by
clip in their predictions (8). The versions meet in losses only, so a test clip takes one pass.

Notation: N clips, d channels (``dim``), V versions; modalities a, b in text, audio, vision.

Deviations:
    Each is a choice on a point that the paper leaves open or where its parts disagree.

    1. (3)-(4): the covariance of a batch of 16 or 32 clips in 128 dimensions is singular, so the entropy has no lower
       bound and no gradient. We add 1e-2 to its diagonal, and divide the entropy by d, which brings it to the scale of
       the other terms. ``diagonal`` leaves the correlations out.
    2. mu_m and sigma_m^2 in (3) are unstated: 0 and 1, with squared norms as means over clips and dimensions. (2) and
       the entropy contract the noise of a modality and the variance term widens it, so their balance depends on the
       1e-2 of choice 1. A bracket of (3) slips: we read two separate squared norms.
    3. (5) adds the entropy of the plan, which would reward plans of *low* entropy: a concave problem that Sinkhorn
       iterations do not solve. We subtract it (Cuturi 2013), with weight 0.05 times the mean cost, 50 iterations and
       uniform weights; all unstated. The loss (7) is the transport cost along the plan. The plan is a constant to the
       gradient, which is that of the problem's minimum (envelope theorem). It is not 0 for equal clouds; ``debiased``
       takes the Sinkhorn divergence, which is.
    4. (7) transports between batches, so version p of a clip may be matched with version q of another. Kept: the paper
       speaks of distributions, and (8) compares clip by clip. On several devices it is over the global batch.
    5. The paper trains a regression by MSE and distils softmax outputs. One head does both: seven classes (the five
       bins of Acc-5 on CH-SIMS), whose expected score is the prediction. L_task is the MSE of it, averaged over both
       versions; ``ce`` takes the cross-entropy of the class instead.
    6. The shared encoder is written with an index m; shared means one for all modalities. E_he(H, R_ho) reads the
       concatenation. The MLPs are unstated: two layers of d channels, the first with a ReLU; the last without, for
       noise of mean 0 and variance 1 could not come out of a ReLU.
    7. Temperature and margin are unstated: tau = 0.5 (as in SimCLR) and 0.5 (distances are in [0, 2]). (1) has no sum
       over clips; we average.
    8. The encoder of audio and vision is unstated: after a linear map to d channels, two Transformer layers as in
       Vaswani et al. 2017, with 8 heads and FFN 4d: post-norm; features multiplied by sqrt(d) plus a fixed sinusoidal
       code; dropout 0.1 on that sum and on the output of each attention and FFN. Missing frames are zeros that are
       attended to, padding is not. The "last element" is the last step that exists in the clip.
    9. "The mean over words" is over all words that exist, missing ones included as the zeros that the paper puts in
       their place: what is left of a text shrinks with the share that is missing. [CLS] and [SEP] count as words. BERT
       is frozen by default and its precomputed states are masked, for only so are missing words zeros;
       ``text_encoder`` with ``finetune`` trains one, at a learning rate of its own.
    10. How versions are drawn is up to the data module; its regime ``mixed_fsrf`` is our reading of the paper.
    11. (2) divides by N - 1; for a batch of one clip its first sum is empty, and 0.
    12. The terms of DHF are averaged over the two versions.
    13. Ablations: ``wo_dhf`` feeds the concatenated modalities, [H_l, H_a, H_v], through one linear map to d channels;
        ``wo_das`` trains on one version, without (9).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch, stacked
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.losses.distillation import js_divergence
from msabench.losses.entropy import gaussian_entropy
from msabench.losses.transport import sinkhorn_divergence, transport_cost
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.positions import SinusoidalPositions
from msabench.nn.score_classes import ScoreClasses
from msabench.nn.text import TextInput


class _Layer(nn.Module):
    """A post-norm Transformer layer that can be asked for some of its steps only."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)
        self.out_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, steps: Tensor, sequence: Tensor, padding: Tensor) -> Tensor:
        """Update ``(N, S, d)`` steps of a sequence ``(N, T, d)`` whose bool ``(N, T)`` padding is not attended to."""
        attended, _ = self.attention(steps, sequence, sequence, key_padding_mask=padding, need_weights=False)
        steps = self.attention_norm(steps + self.dropout(attended))
        return self.out_norm(steps + self.dropout(self.narrow(torch.relu(self.widen(steps)))))


class _LastElement(nn.Module):
    """The last element of a Transformer over a modality: ``(N, T, D_m)`` features to ``C_m``, ``(N, d)``."""

    def __init__(self, features: int, steps: int, dim: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(features, dim)
        self.positions = SinusoidalPositions(dim, steps)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Layer(dim, heads, dropout) for _ in range(layers))

    def forward(self, x: Tensor, valid: Tensor, last: Tensor) -> Tensor:
        padding = ~valid & valid.any(1, keepdim=True)  # attention to no step at all would be NaN
        x = self.project(x)
        x = self.dropout(self.positions(x.shape[2] ** 0.5 * x))
        *lower, top = self.layers
        for layer in lower:
            x = layer(x, x, padding)
        step = x[torch.arange(len(x), device=x.device), last].unsqueeze(1)
        return top(step, x, padding).squeeze(1)  # no other step of the top layer is read


def _mlp(d_in: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, dim), nn.ReLU(), nn.Linear(dim, dim))


class _Factorisation(nn.Module):
    """DHF's encoders: a modality in three parts."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.homo = _mlp(dim, dim)
        self.hetero = nn.ModuleDict({m: _mlp(2 * dim, dim) for m in MODALITIES})
        self.noise = nn.ModuleDict({m: _mlp(dim, dim) for m in MODALITIES})

    def forward(self, h: Tensor) -> dict[str, Tensor]:
        """Split modalities ``(N, 3, d)`` into parts of that shape."""
        homo = self.homo(h)
        both = torch.cat([h, homo], dim=2)
        hetero = torch.stack([self.hetero[m](x) for m, x in zip(MODALITIES, both.unbind(1), strict=True)], dim=1)
        noise = torch.stack([self.noise[m](x) for m, x in zip(MODALITIES, h.unbind(1), strict=True)], dim=1)
        return {"homo": homo, "hetero": hetero, "noise": noise}


class FSRF(MSAMethod):
    """FSRF, see the module's docstring. It trains on ``batch.views``.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``; ``wo_dhf`` or ``wo_das`` (the paper's Table II); ``debiased`` (Sinkhorn divergence),
            ``ce`` (cross-entropy) or ``diagonal`` (covariance without correlations).
        dim: Channels d; a multiple of ``heads``.
        heads: Attention heads of the Transformers.
        layers: Layers of the Transformers, at least 1.
        dropout: Dropout rate of the Transformers, in [0, 1).
        temperature: Temperature of (1); positive.
        margin: Margin of (2), in [0, 2].
        shrinkage: What is added to the diagonal of the covariance in (3); positive.
        sinkhorn_eps: Weight of the plan's entropy in (5), as a multiple of the mean cost; positive.
        sinkhorn_iterations: Sinkhorn iterations, at least 1.
        lambda_dhf: Weight lambda_1 >= 0 of the factorisation's losses.
        lambda_das: Weight lambda_2 >= 0 of the self-distillation's losses.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        weight_decay: L2 weight decay of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; None, as in the
            paper, which states no schedule, keeps it constant.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without views.
    """

    info = MethodInfo(
        name="fsrf",
        title="FSRF: Factorization-guided Semantic Recovery for Incomplete Multimodal Sentiment Analysis",
        venue="ICME",
        year=2025,
        url="https://arxiv.org/abs/2510.16086",
        fidelity="equations",
        tasks=("regression",),
        variants=("wo_dhf", "wo_das", "debiased", "ce", "diagonal"),
        trains_with=("views",),
        smoke={"dim": 8, "heads": 2, "layers": 1, "sinkhorn_iterations": 10},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        dim: int = 128,
        heads: int = 8,
        layers: int = 2,
        dropout: float = 0.1,
        temperature: float = 0.5,
        margin: float = 0.5,
        shrinkage: float = 1e-2,
        sinkhorn_eps: float = 0.05,
        sinkhorn_iterations: int = 50,
        lambda_dhf: float = 0.2,
        lambda_das: float = 0.1,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 2e-5,
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        lr_patience: int | None = None,
    ) -> None:
        super().__init__(
            spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="mse", lr_patience=lr_patience
        )
        if heads < 1 or dim < 1 or dim % heads:
            raise MSABenchError(
                f"dim {dim} with {heads} heads is not allowed; dim must be a positive multiple of heads"
            )
        if min(layers, sinkhorn_iterations) < 1:
            raise MSABenchError(
                f"layers {layers} and sinkhorn_iterations {sinkhorn_iterations} must both be at least 1"
            )
        if min(temperature, shrinkage, sinkhorn_eps) <= 0:
            raise MSABenchError(
                f"temperature {temperature}, shrinkage {shrinkage} and sinkhorn_eps {sinkhorn_eps} must all be positive"
            )
        self.temperature = temperature
        self.margin = margin
        self.shrinkage = shrinkage
        self.sinkhorn_eps = sinkhorn_eps
        self.sinkhorn_iterations = sinkhorn_iterations
        self.lambda_dhf = lambda_dhf
        self.lambda_das = lambda_das
        self.text_lr = text_lr

        self.text = TextInput(spec, text_encoder, finetune=finetune)
        self.sequences = nn.ModuleDict(
            {
                m: _LastElement(spec.feature_dims[m], spec.seq_lens[m], dim, heads, layers, dropout)
                for m in ("audio", "vision")
            }
        )
        widths = {"text": self.text.width, "audio": dim, "vision": dim}
        self.embed = nn.ModuleDict({m: nn.Linear(widths[m], dim) for m in MODALITIES})
        if variant == "wo_dhf":
            self.merge = nn.Linear(len(MODALITIES) * dim, dim)
        else:
            self.factorise = _Factorisation(dim)
        self.classes = ScoreClasses(spec)
        self.head = nn.Linear(dim, self.classes.n)

    def forward(self, batch: Batch) -> Output:
        """Predict from one version of each clip; ``representation`` is Z."""
        z, _ = self._encode(batch)
        logits = self.head(z)
        return Output(pred=self.classes.score(logits), logits=logits, representation=z)

    def training_forward(self, batch: Batch) -> Output:
        """Encode all versions as one batch.

        Returns:
            The prediction of version p. ``aux`` holds, per clip and version, Z ``(N, V, d)``, ``logits`` ``(N, V, C)``,
            and the parts ``homo``, ``hetero``, ``noise`` ``(N, V, 3, d)`` where there are any.
        """
        views = self.views_of(batch)
        versions = views[:1] if self.variant == "wo_das" else views
        z, parts = self._encode(stacked(*versions))
        by_version = {
            name: x.unflatten(0, (len(versions), -1)).transpose(0, 1)
            for name, x in {"z": z, "logits": self.head(z), **parts}.items()
        }
        logits_p = by_version["logits"][:, 0]
        return Output(self.classes.score(logits_p), logits_p, representation=by_version["z"][:, 0], aux=by_version)

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """``L_task + lambda_1 L_DHF + lambda_2 L_DAS``, term by term and weighted."""
        assert batch.labels is not None
        by_version = {name: x.transpose(0, 1) for name, x in out.aux.items()}
        logits = by_version["logits"]
        labels = batch.labels.expand(len(logits), -1)
        if self.variant == "ce":
            terms = {"task": F.cross_entropy(logits.flatten(0, 1), self.classes.of(labels).flatten())}
        else:
            terms = {"task": self.task_loss(self.classes.score(logits), labels)}
        if self.variant != "wo_dhf":
            homo, hetero, noise = (by_version[name] for name in ("homo", "hetero", "noise"))
            terms["homo_hetero"] = self.lambda_dhf * homo_hetero_loss(homo, hetero, self.temperature)
            terms["noise_pairs"] = self.lambda_dhf * noise_pair_loss(noise, self.margin)
            diagonal = self.variant == "diagonal"
            terms["noise_shape"] = self.lambda_dhf * noise_shape_loss(noise, self.shrinkage, diagonal=diagonal)
        if self.variant != "wo_das":
            distance = sinkhorn_divergence if self.variant == "debiased" else transport_cost
            z_p, z_q = by_version["z"]
            terms["feat"] = self.lambda_das * distance(z_p, z_q, self.sinkhorn_eps, self.sinkhorn_iterations)  # (5)-(7)
            terms["logits"] = self.lambda_das * js_divergence(*logits)  # (8)
        return terms

    def _encode(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Z ``(N, d)``, and the parts of each modality."""
        words = batch.valid["text"].unsqueeze(2)
        text = self.text(batch).masked_fill(~words, 0.0).sum(1) / words.sum(1).clamp(min=1)
        c = {"text": text}
        for m, encoder in self.sequences.items():
            c[m] = encoder(batch.features[m], batch.valid[m], batch.last[m])
        h = torch.stack([self.embed[m](c[m]) for m in MODALITIES], dim=1)
        if self.variant == "wo_dhf":
            return self.merge(h.flatten(1)), {}
        parts = self.factorise(h)
        return (parts["homo"] + parts["hetero"] - parts["noise"]).sum(1), parts


def homo_hetero_loss(homo: Tensor, hetero: Tensor, tau: float) -> Tensor:
    """(1): shared parts of two modalities are closer than a modality's shared part is to its own part.

    With ``D = 1 - cos`` and ``G = exp(-D / tau)``, each term is
    ``-log G(o_a, o_b) / (G(o_a, o_b) + G(o_a, e_a)) = log(1 + exp((cos(o_a, e_a) - cos(o_a, o_b)) / tau))``.

    Args:
        homo: float ``(..., 3, d)``, shared parts o.
        hetero: float ``(..., 3, d)``, own parts e.
        tau: Temperature.

    Returns:
        float ``()``: mean over clips and the six ordered pairs of modalities.
    """
    homo, hetero = F.normalize(homo, dim=-1), F.normalize(hetero, dim=-1)
    apart = (homo * hetero).sum(-1, keepdim=True) - homo @ homo.mT
    return _mean_over_pairs(F.softplus(apart / tau))


def noise_pair_loss(noise: Tensor, margin: float) -> Tensor:
    """(2): a modality's noise is alike in all clips, and unlike that of another modality.

    Args:
        noise: float ``(..., N, 3, d)``; pairs of clips are within the last batch axis.
        margin: Distance in [0, 2] beyond which modalities are unlike enough.

    Returns:
        float ``()``: ``D = 1 - cos`` averaged over modalities and pairs of clips (0 if there is one clip), plus
        ``max(margin - D, 0)`` averaged over clips and pairs of modalities.
    """
    noise = F.normalize(noise, dim=-1)
    clips = noise.shape[-3]
    # The cosines of all pairs of unit vectors, the clip with itself included, are the square of the vectors' sum.
    cosines = noise.sum(-3).square().sum(-1) - noise.square().sum((-3, -1))
    alike = 1 - cosines / (clips * (clips - 1)) if clips > 1 else torch.zeros_like(cosines)
    distance = 1 - noise @ noise.mT
    return alike.mean() + _mean_over_pairs(F.relu(margin - distance))


def noise_shape_loss(noise: Tensor, shrinkage: float, *, diagonal: bool = False) -> Tensor:
    """(3): noise has little entropy, mean 0 and variance 1.

    Args:
        noise: float ``(..., N, 3, d)``; moments are over the clips N.
        shrinkage: What is added to the diagonal of the covariance.
        diagonal: Whether the covariance has no other entries.

    Returns:
        float ``()``: mean over modalities of the entropy per dimension (4), in nats, the mean square, and the mean
        squared distance of the variance from 1.
    """
    rows = noise.transpose(-3, -2)
    entropy = gaussian_entropy(rows, shrinkage, diagonal=diagonal) / rows.shape[-1]
    variance = rows.var(-2) if rows.shape[-2] > 1 else torch.zeros_like(rows[..., 0, :])
    return entropy.mean() + rows.square().mean() + (variance - 1).square().mean()


def _mean_over_pairs(x: Tensor) -> Tensor:
    """Mean over the off-diagonal entries of matrices ``(..., n, n)``."""
    n = x.shape[-1]
    return (x * (1 - torch.eye(n, device=x.device))).sum((-2, -1)).mean() / (n * (n - 1))

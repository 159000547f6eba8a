"""HME: Hyper-Modality Enhancement for Multimodal Sentiment Analysis with Missing Modalities.

Yan Zhuang, Minhao Liu, Wei Bai, Yanru Zhang, Wei Li, Jiawen Deng, Fuji Ren. NeurIPS 2025,
https://neurips.cc/virtual/2025/poster/116212. Official code: https://github.com/YetZzzzzz/HME at 6f0c9a7, MIT licence;
read for facts, nothing copied. The paper itself was not read.

Nothing that is missing is rebuilt. Each modality is encoded and pooled to one vector. What is to be known of a clip
beyond it comes from two sides: from other clips that are alike in a modality (their mean), and from all of the clip's
own modalities. Learned latent vectors read either, crosswise attention makes one hyper-modality of each modality out of
them, and an information bottleneck keeps what tells the label, with an uncertainty. Original and hyper vectors are
mixed by weights that the uncertainty lowers, and a transformer over the four results predicts.

Notation: B clips, d features (``dim``); of a modality m: e its pooled vector, n the mean of its neighbours, h what
latents make of n, g what they make of all three e, z ~ N(mu, sd) the bottleneck, s the score that it alone gives.

Deviations:
    The code is followed; the paper may differ.

    1. Neighbours are officially clips of the batch, also in the test, whose loader shuffles: predictions depend on the
       batch, and a clip alone has none. Here that is so in training; in evaluation neighbours are found among the last
       ``bank_clips`` training clips, as the training left them, with its dropout. Until there are any, a clip is its
       own neighbour. On the synthetic corpus the two predictions lie apart by .2 % of their spread at most.
    2. z is officially drawn in evaluation too, so that predictions differ from run to run. Here it is mu.
    3. Attention to a single key does not depend on query or key: their maps, and the queries' norm, in three of the
       four latent readers and in the six pairs, 2.2M parameters officially, get no gradient. They do not exist here;
       the numbers are the same.
    4. AdamW is PyTorch's; officially that of transformers, which decays after the step and adds its epsilon before the
       bias correction. Its moments are officially forgotten at every epoch, as ``restart_optimizer`` does.
    5. Official missingness is of whole modalities, at one rate that all splits and one model share; missing text is
       BERT's output made zero. Here the data module decides; frames may be missing, too: zeros without a position.
    6. The logarithm of sd is that of at least 1e-8, where it would be infinite.
    7. Validation selects by the task's error, not by the whole loss, and without fresh masks and noise in every epoch.
    8. IEMOCAP's four questions: heads of two logits each and cross-entropy. Officially one score.
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
from msabench.nn.crossmodal import CrossmodalEncoder
from msabench.nn.perceiver import Cross, Latents
from msabench.nn.text import TextInput

_SPREAD = 0.02
"""Standard deviation of new weights: that of a BERT in transformers, from whose class the official network derives."""
_FEWEST = 1e-8
"""Added to an uncertainty that is divided by, and least one whose logarithm is taken."""


class Bottleneck(nn.Module):
    """A vector as a normal distribution: ``(B, d)`` to its mean and its standard deviation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = 2 * dim
        self.encode = nn.Sequential(
            nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, ``(B, d)`` each; with new weights the latter is near .007."""
        mean, raw = self.encode(x).chunk(2, dim=1)
        return mean, F.softplus(raw - 5)


class Mixture(nn.Module):
    """A weighted sum of n vectors, whose weights come from all of them and from how far each is to be trusted.

    Args:
        dim: Features d.
        n: Number of vectors.
        dropout: Dropout rate.
    """

    def __init__(self, dim: int, n: int, dropout: float) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.weigh = nn.Sequential(nn.Linear(n * dim, dim), nn.Dropout(dropout), nn.ReLU(), nn.Linear(dim, n))

    def forward(self, x: Tensor, trust: Tensor) -> Tensor:
        """From ``(B, n, d)`` and trust ``(B, n)`` to ``(B, d)``."""
        weights = (self.weigh(x.flatten(1)) * trust * self.scale).softmax(1)
        return (weights.unsqueeze(1) @ x).squeeze(1)


def neighbour_means(e: Tensor, pool: Tensor, threshold: float, own: Tensor | None = None) -> Tensor:
    """Mean of the vectors that are alike: the cosine is at least ``threshold``.

    Where no vector is, and for an e whose features sum to 0, it is the mean of the whole pool but for such vectors; and
    e itself where these are all there are.

    Args:
        e: float ``(M, B, d)``, of M modalities.
        pool: float ``(M, N, d)``, among which neighbours are looked for.
        threshold: In (0, 1].
        own: bool ``(B, N)``, what is no neighbour of a clip: itself; None for nothing.

    Returns:
        float ``(M, B, d)``.
    """
    near = F.normalize(e, dim=2) @ F.normalize(pool, dim=2).mT >= threshold
    if own is not None:
        near = near & ~own
    some = (pool.sum(2) != 0).unsqueeze(1)

    def mean(which: Tensor) -> Tensor:
        weights = which.to(pool.dtype)
        return weights @ pool / weights.sum(2, keepdim=True).clamp(min=1)

    rest = torch.where(some.any(2, keepdim=True), mean(some), e)
    lonely = ~near.any(2, keepdim=True) | (e.sum(2, keepdim=True) == 0)
    return torch.where(lonely, rest, mean(near))


class HME(MSAMethod):
    """HME, see the module's docstring.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        dim: Features d of all parts; a multiple of ``heads``.
        heads: Attention heads of all parts.
        layers: Layers of each modality's encoder.
        latent_layers: Layers in which latent vectors read.
        hyper_layers: Layers of crosswise attention, between modalities and with what is known of the clip.
        tokens: Latent vectors of each reader.
        similarity: Least cosine of neighbours, in (0, 1].
        bank_clips: Training clips kept as neighbours of evaluated ones; at least 1.
        least_trust: Least weight, in (0, 1], of a bottleneck's vector against the encoder's, whose weight is 1.
        attn_dropout: Dropout on attention weights of the encoders.
        relu_dropout: Dropout in their feed-forward networks.
        res_dropout: Dropout on their residual branches.
        embed_dropout: Dropout on their embedded sequences.
        mixture_dropout: Dropout in the networks that weigh vectors.
        fusion_layers: Layers of the last transformer.
        fusion_width: Width of its feed-forward networks.
        fusion_dropout: Dropout in it and in the head.
        lambda_auxiliary: Weight >= 0 of the bottlenecks' own task terms, averaged over modalities.
        lambda_information: Weight >= 0 of their divergence from a standard normal distribution, likewise.
        restart_optimizer: Whether AdamW's moments are forgotten at every epoch.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW on all but biases and BERT's norms.
        gradient_clip: Largest size of a gradient's entry; None for no limit.

    Raises:
        MSABenchError: An argument outside its range.
    """

    info = MethodInfo(
        name="hme",
        title="Hyper-Modality Enhancement for Multimodal Sentiment Analysis with Missing Modalities",
        venue="NeurIPS",
        year=2025,
        url="https://neurips.cc/virtual/2025/poster/116212",
        fidelity="parity",
        code_url="https://github.com/YetZzzzzz/HME",
        code_commit="6f0c9a7",
        licence="MIT",
        smoke={
            "dim": 8,
            "heads": 2,
            "layers": 1,
            "latent_layers": 1,
            "hyper_layers": 1,
            "tokens": 2,
            "fusion_layers": 1,
            "fusion_width": 16,
        },
    )
    bank: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        dim: int = 192,
        heads: int = 16,
        layers: int = 4,
        latent_layers: int = 4,
        hyper_layers: int = 3,
        tokens: int = 5,
        similarity: float = 0.6,
        bank_clips: int = 256,
        least_trust: float = 0.2,
        attn_dropout: float = 0.5,
        relu_dropout: float = 0.3,
        res_dropout: float = 0.3,
        embed_dropout: float = 0.2,
        mixture_dropout: float = 0.3,
        fusion_layers: int = 2,
        fusion_width: int = 2048,
        fusion_dropout: float = 0.1,
        lambda_auxiliary: float = 0.8,
        lambda_information: float = 0.01,
        restart_optimizer: bool = False,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 2e-5,
        lr: float = 2e-5,
        weight_decay: float = 1e-4,
        gradient_clip: float | None = 0.8,
    ) -> None:
        super().__init__(
            spec,
            variant=variant,
            lr=lr,
            weight_decay=weight_decay,
            task_loss="l1",
            optimizer="adamw",
            gradient_clip=gradient_clip,
            clip_by="value",
        )
        if not (0 < similarity <= 1 and 0 < least_trust <= 1):
            raise MSABenchError(
                f"similarity {similarity} and least_trust {least_trust} must be greater than 0 and at most 1"
            )
        if min(latent_layers, hyper_layers, fusion_layers, tokens, bank_clips) < 1:
            raise MSABenchError(
                f"latent_layers {latent_layers}, hyper_layers {hyper_layers}, fusion_layers {fusion_layers}, tokens "
                f"{tokens} and bank_clips {bank_clips} must be at least 1"
            )
        self.similarity = similarity
        self.least_trust = least_trust
        self.lambda_auxiliary = lambda_auxiliary
        self.lambda_information = lambda_information
        self.restart_optimizer = restart_optimizer
        self.text_lr = text_lr
        self.text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
        widths = {**spec.feature_dims, "text": self.text.width}
        self.project = nn.ModuleDict({m: nn.Linear(widths[m], dim, bias=False) for m in MODALITIES})
        dropouts: dict[str, Any] = {
            "relu_dropout": relu_dropout,
            "res_dropout": res_dropout,
            "embed_dropout": embed_dropout,
        }
        self.encoders = nn.ModuleDict(
            {
                m: CrossmodalEncoder(dim, heads, layers, attn_dropout=attn_dropout, future_mask=False, **dropouts)
                for m in MODALITIES
            }
        )
        self.alike = nn.ModuleDict({m: Latents(dim, heads, latent_layers, tokens, keys=1) for m in MODALITIES})
        self.whole = Latents(dim, heads, latent_layers, tokens, keys=3)
        pairs = [(m, other) for m in MODALITIES for other in MODALITIES if other != m]
        self.pairs = nn.ModuleDict({f"{m}_from_{other}": Cross(dim, heads, hyper_layers, keys=1) for m, other in pairs})
        self.hyper = nn.ModuleDict({m: Cross(dim, heads, hyper_layers, keys=2) for m in MODALITIES})
        self.bottlenecks = nn.ModuleDict({m: Bottleneck(dim) for m in MODALITIES})
        self.scores = nn.ModuleDict({m: nn.Linear(dim, self.n_outputs) for m in MODALITIES})
        self.mix_hyper = Mixture(dim, 3, mixture_dropout)
        self.refine = nn.ModuleDict({m: Mixture(dim, 2, mixture_dropout) for m in MODALITIES})
        self.fusion = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, fusion_width, fusion_dropout, batch_first=True)
            for _ in range(fusion_layers)
        )
        self.predict = nn.Sequential(
            nn.Linear(4 * dim, 2 * dim), nn.Dropout(fusion_dropout), nn.ReLU(), nn.Linear(2 * dim, self.n_outputs)
        )
        # Of the last training clips, the latest ones at the end; zeros, which are nobody's neighbours, until then.
        self.register_buffer("bank", torch.zeros(len(MODALITIES), bank_clips, dim))
        self._initialise()

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is what the transformer gives, ``(B, 4d)``."""
        e = self._encode(batch)
        return self._fuse(e, neighbour_means(e, self.bank, self.similarity))

    def training_forward(self, batch: Batch) -> Output:
        """Predict with neighbours from the batch and drawn bottlenecks, and keep the clips for evaluation.

        Returns:
            ``aux`` holds the bottlenecks' ``scores`` ``(B, 3, n_outputs)``, and ``kl`` ``(B, 3)``, their divergence,
            averaged over features.
        """
        e = self._encode(batch)
        sizes = self.device_shares(batch.size)
        pool = torch.stack([self.gather_rows(rows, sizes) for rows in e]) if len(sizes) > 1 else e
        own = self.own_rows(torch.eye(sum(sizes), dtype=torch.bool, device=e.device), sizes)
        n = neighbour_means(e, pool, self.similarity, own)
        clips = self.bank.shape[1]
        self.bank = torch.cat([self.bank, pool.detach()], dim=1)[:, -clips:]
        # Devices draw for all clips, so that together they draw what one would.
        noise = [torch.randn(sum(sizes), e.shape[2], device=e.device, dtype=e.dtype) for _ in MODALITIES]
        return self._fuse(e, n, torch.stack([self.own_rows(rows, sizes) for rows in noise]))

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Task, the bottlenecks' own tasks and their divergence, weighted."""
        assert batch.labels is not None
        own = [self.task_loss(self.to_pred(score), batch.labels) for score in out.aux["scores"].unbind(1)]
        return {
            "task": self.task_loss(out.pred, batch.labels),
            "auxiliary": self.lambda_auxiliary * torch.stack(own).mean(),
            "information": self.lambda_information * out.aux["kl"].mean(),
        }

    def param_groups(self) -> list[dict[str, Any]]:
        """As of the base, each once with weight decay and once without."""
        free = {id(p) for name, p in self.named_parameters() if "bias" in name or "LayerNorm.weight" in name}
        groups = []
        for group in super().param_groups():
            decayed = [p for p in group["params"] if id(p) not in free]
            others = [p for p in group["params"] if id(p) in free]
            groups += [{**group, "params": decayed}, {**group, "params": others, "weight_decay": 0.0}]
        return groups

    def on_train_epoch_start(self) -> None:
        """Forget the optimiser's moments, and how many steps it has taken, if they are not to be kept."""
        super().on_train_epoch_start()
        if self.restart_optimizer:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    def _initialise(self) -> None:
        """What the official network takes from BERT's base class: all linear layers outside BERT but the projections.

        The latter are convolutions there; packed attention matrices keep their own initialisation.
        """
        for name, part in self.named_modules():
            if isinstance(part, nn.Linear) and not name.startswith(("text.", "project.")):
                nn.init.normal_(part.weight, std=_SPREAD)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def _encode(self, batch: Batch) -> Tensor:
        """The vectors e of all modalities: the largest value over all steps, ``(3, B, d)``."""
        features = {"text": self.text(batch), "audio": batch.audio, "vision": batch.vision}
        projected = {m: self.project[m](features[m]) for m in MODALITIES}
        return torch.stack([self.encoders[m](projected[m], projected[m]).amax(1) for m in MODALITIES])

    def _fuse(self, e: Tensor, n: Tensor, noise: Tensor | None = None) -> Output:
        """Everything behind the neighbours, from ``(3, B, d)`` each; without noise the bottleneck is its mean."""
        originals = dict(zip(MODALITIES, e, strict=True))
        h = {m: self.alike[m](rows.unsqueeze(1)) for m, rows in zip(MODALITIES, n, strict=True)}
        g = self.whole(e.transpose(0, 1))
        means, deviations, z = {}, {}, {}
        for i, m in enumerate(MODALITIES):
            others = [self.pairs[f"{m}_from_{o}"](h[m], h[o].unsqueeze(1)) for o in MODALITIES if o != m]
            means[m], deviations[m] = self.bottlenecks[m](self.hyper[m](g, torch.stack(others, dim=1)))
            z[m] = means[m] if noise is None else means[m] + deviations[m] * noise[i]
        sd = torch.stack(list(deviations.values()), dim=1)
        trust = 1 / (sd.mean(2) + _FEWEST)
        drawn = torch.stack(list(z.values()), dim=1)
        against = trust.clamp(self.least_trust, 1)
        parts = [
            self.refine[m](
                torch.stack([originals[m], z[m]], dim=1),
                torch.stack([torch.ones_like(against[:, i]), against[:, i]], dim=1),
            )
            for i, m in enumerate(MODALITIES)
        ]
        x = torch.stack([*parts, self.mix_hyper(drawn, trust.softmax(1))], dim=1)
        for layer in self.fusion:
            x = layer(x)
        joint = x.flatten(1)
        mu = torch.stack(list(means.values()), dim=1)
        return Output(
            pred=self.to_pred(self.predict(joint)),
            representation=joint,
            aux={
                "scores": torch.stack([self.scores[m](z[m]) for m in MODALITIES], dim=1),
                "kl": 0.5 * (mu**2 + sd**2 - 2 * sd.clamp(min=_FEWEST).log() - 1).mean(2),
            },
        )

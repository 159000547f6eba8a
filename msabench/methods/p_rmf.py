"""P-RMF: Proxy-Driven Robust Multimodal Sentiment Analysis with Incomplete Data.

Aoqiang Zhu, Min Hu, Xiaohua Wang, Jiaoyun Yang, Yiming Tang, Ning An. ACL 2025,
https://aclanthology.org/2025.acl-long.1075. The authors' code, https://github.com/aoqzhu/P-RMF, could not be had; what
follows is the copy, with their MIT licence, in https://github.com/1579364808/PRD-Net at cdb0039, whose network is that
of another copy, https://github.com/MJ-0515/Hardness at b68706f, but for a clamp that the former added.

A descendant of LNLN that repairs no modality but makes a new one. From the corrupted clip each modality m is embedded
as 8 tokens h_m, which a variational autoencoder maps to Gaussians of mean mu_m and deviation s_m, one for each token
and feature. Small deviations count as certain: with the weights

    w_m = exp(1 / s_m) / sum_k exp(1 / s_k)

the *proxy* is the sum of w_m mu_m. One cross-attention layer, passed several times, adds to the proxy what it finds in
each h_m, weighted by w_m again; the mean over its tokens predicts. In training, the autoencoders have to find the
tokens of the complete clip in samples from the Gaussians, which are drawn to N(0, 1) and to each other, and so have
reconstructors in the h_m.

Deviations:
    1. The weights are computed as a softmax over 1 / s_m. The official exponentials overflow once a deviation is below
       1 / 88, and everything is NaN from there on. ``log_variance_limit`` bounds the log-variances besides, as the
       first copy does with 10, where it also bounds the means; the authors' code does neither.
    2. The official code redraws the coins of its masks from one epoch to the next, but by a seed that never changes the
       same rates come again. Regime ``lnln`` redraws all, see LNLN.
    3. The copy clips gradients at norm 1, with those of the reconstructors, which are never cleared, in the norm. The
       other does not, nor do we.
    4. The official code reports each metric at the epoch that is best for it on the test split with half of all frames
       dropped. Here validation selects one epoch.
    5. Rate and batch size for MOSI and SIMS differ between the copies. We take those of the first, which are those of
       both for MOSEI.
    6. IEMOCAP, which the paper does not use: eight outputs and cross-entropy; all other terms are the same.

As in the official code: a gradient reversal stands behind the proxy, so that of the *task* the means learn the
opposite, while the weights in the injection, and the tokens that it reads, learn from the task as it is. There is
nothing adversarial that would explain it; variant ``no_reversal`` goes without. The reconstructors are in no group of
the optimiser: they keep their first random weights and only pass a gradient on to the h_m (``reconstructors: fixed``).
Complete tokens are not detached where they are targets. Padding is not masked, BERT's states there included. Words are
dropped as tokens; dropped at level ``vectors``, BERT's states are zero where a word is missing.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch, stacked
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.methods.schedules import warmup_cosine
from msabench.missingness.conditions import MODALITIES
from msabench.nn.clip_tokens import ClipTokens
from msabench.nn.gradient_reversal import reverse_gradient
from msabench.nn.text import TextInput, parameter_groups
from msabench.nn.token_transformer import TokenTransformer

_LEAST_LOG_VARIANCE = 2 * math.log(1e-6)  # of deviation 1e-6, official: no smaller one is drawn to N(0, 1)
_PAIRS = (("vision", "text"), ("audio", "text"), ("audio", "vision"))


class TokenAutoencoder(nn.Module):
    """Variational autoencoder of a modality's tokens; every token and feature has a Gaussian of its own.

    Args:
        dim: Features D of a token, of the Gaussians and of all that is between.
        tokens: Number K of tokens.
        layers: Layers of the encoder and of the decoder.
        heads: Heads of attention.
        dim_head: Features of a head.
    """

    def __init__(self, dim: int, tokens: int, *, layers: int, heads: int, dim_head: int) -> None:
        super().__init__()
        sizes = {"layers": layers, "heads": heads, "dim_head": dim_head}
        self.to_encoder = nn.Linear(dim, dim)
        self.encoder = TokenTransformer(dim, tokens, **sizes)
        self.mean = nn.Linear(dim, dim)
        self.log_variance = nn.Linear(dim, dim)
        self.to_decoder = nn.Linear(dim, dim)
        self.decoder = TokenTransformer(dim, tokens, **sizes)
        self.out = nn.Linear(dim, dim)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Encode tokens ``(B, K, D)``: means and log-variances, each ``(B, K, D)``."""
        hidden = self.encoder(F.relu(self.to_encoder(h)))
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, z: Tensor) -> Tensor:
        """Tokens ``(B, K, D)`` from a sample of the Gaussians ``(B, K, D)``."""
        decoded: Tensor = self.out(self.decoder(F.relu(self.to_decoder(z))))
        return decoded


class CrossAttention(nn.Module):
    """One head, whose queries and sources are normalised apart; neither residual nor dropout.

    Args:
        dim: Features D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_q, self.norm_kv = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q, self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_out = nn.Linear(dim, dim)

    def source(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a source ``(B, S, D)``."""
        x = self.norm_kv(x)
        return self.to_k(x), self.to_v(x)

    def forward(self, target: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What ``(B, T, D)`` finds in keys and values ``(B, S, D)``: ``(B, T, D)``."""
        found: Tensor = self.to_out(F.scaled_dot_product_attention(self.to_q(self.norm_q(target)), k, v))
        return found


class Injection(nn.Module):
    """Adds what the proxy finds in each modality, weighted, then a normalised linear map of the sum; several times.

    Args:
        dim: Features D.
        passes: How often the layer, always the same, is passed.
        dropout: Dropout on the linear map.
    """

    def __init__(self, dim: int, passes: int, dropout: float) -> None:
        super().__init__()
        self.passes = passes
        self.attention = nn.ModuleDict({m: CrossAttention(dim) for m in MODALITIES})
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, proxy: Tensor, h: dict[str, Tensor], weights: Tensor) -> Tensor:
        """Enrich the proxy.

        Args:
            proxy: float ``(B, K, D)``.
            h: Modality -> tokens, float ``(B, K, D)``. They stay what they are, and so do their keys and values.
            weights: float ``(B, 3, K, D)`` of text, audio and vision.

        Returns:
            float ``(B, K, D)``.
        """
        sources = {m: self.attention[m].source(h[m]) for m in MODALITIES}  # type: ignore[operator]
        for _ in range(self.passes):
            found = torch.stack([self.attention[m](proxy, *sources[m]) for m in MODALITIES], dim=1)
            proxy = proxy + (weights * found).sum(1)
            proxy = proxy + self.dropout(self.linear(self.norm(proxy)))
        return proxy


class PRMF(MSAMethod):
    """P-RMF, see the module's docstring. It trains on ``batch.complete`` beside the corrupted clips.

    The ``aux`` of ``forward`` holds ``mean`` and ``log_variance`` of the Gaussians, each ``(B, 3, K, D)`` of text,
    audio and vision.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``no_reversal`` lets the means learn from the task as everything else does.
        warmup: Epochs over which the learning rate rises from 0; it then falls along a cosine.
        dim: Features D of a token; 128 in the official code.
        tokens: Learned tokens of each modality's embedding; 39 for SIMS in the official code.
        kept_tokens: Those K of them that are read on; 8 in the official code. None for all.
        layers: Layers of every Transformer.
        heads: Heads of the Transformers' attention.
        dim_head: Features of a head.
        injection_layers: How often the injection, one layer, is passed.
        injection_dropout: Dropout in it.
        out_dropout: Dropout in the head.
        lambda_reconstruction: Weight >= 0 of the reconstructors' error.
        lambda_variational: Weight >= 0 of the autoencoders' error and divergences.
        reconstructors: ``fixed`` at their first random weights, as in the official code, or ``trained``.
        log_variance_limit: Largest size of a log-variance; None for no limit.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        injection_lr: Learning rate of the injection.
        lr: Learning rate of AdamW for all else.
        weight_decay: Weight decay of AdamW.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="p_rmf",
        title="Proxy-Driven Robust Multimodal Sentiment Analysis with Incomplete Data",
        venue="ACL",
        year=2025,
        url="https://aclanthology.org/2025.acl-long.1075",
        fidelity="parity",
        code_url="https://github.com/1579364808/PRD-Net",
        code_commit="cdb0039",
        licence="MIT",
        variants=("no_reversal",),
        trains_with=("complete",),
        smoke={
            "warmup": 0,
            "dim": 8,
            "tokens": 4,
            "kept_tokens": 3,
            "layers": 1,
            "heads": 2,
            "dim_head": 4,
            "injection_layers": 2,
            "injection_lr": 1e-3,
            "lr": 1e-3,
        },
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        warmup: int = 10,
        dim: int = 128,
        tokens: int = 8,
        kept_tokens: int | None = 8,
        layers: int = 2,
        heads: int = 8,
        dim_head: int = 64,
        injection_layers: int = 4,
        injection_dropout: float = 0.5,
        out_dropout: float = 0.5,
        lambda_reconstruction: float = 0.1,
        lambda_variational: float = 0.5,
        reconstructors: Literal["fixed", "trained"] = "fixed",
        log_variance_limit: float | None = None,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-6,
        injection_lr: float = 5e-6,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="mse", optimizer="adamw")
        weights = (lambda_reconstruction, lambda_variational)
        if min(weights) < 0:
            raise MSABenchError(f"weights {list(weights)} of the loss are not allowed; give numbers from 0 up")
        if min(layers, injection_layers) < 1:
            raise MSABenchError(
                f"layers {layers} and injection_layers {injection_layers} are not allowed; give at least 1 of each"
            )
        if reconstructors not in ("fixed", "trained"):
            raise one_of("reconstructors", reconstructors, ("fixed", "trained"))
        if log_variance_limit is not None and log_variance_limit <= 0:
            raise MSABenchError(
                f"log_variance_limit {log_variance_limit} is not allowed; give a positive number, or null for no limit"
            )
        self.warmup = warmup
        self.lambda_reconstruction, self.lambda_variational = weights
        self.log_variance_limit = log_variance_limit
        self.text_lr = text_lr
        self.injection_lr = injection_lr

        sizes = {"layers": layers, "heads": heads, "dim_head": dim_head}
        kept = tokens if kept_tokens is None else kept_tokens
        text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
        self.embed = ClipTokens(spec, text, dim, tokens, kept=kept, **sizes)
        self.autoencoders = nn.ModuleDict({m: TokenAutoencoder(dim, kept, **sizes) for m in MODALITIES})
        self.injection = Injection(dim, injection_layers, injection_dropout)
        self.head = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(out_dropout), nn.Linear(dim, self.n_outputs)
        )
        self.reconstructors = nn.ModuleDict({m: TokenTransformer(dim, kept, **sizes) for m in MODALITIES})
        self.reconstructors.requires_grad_(reconstructors == "trained")

    def forward(self, batch: Batch) -> Output:
        """Predict, without any sample; ``representation`` is the mean of the proxy's tokens ``(B, D)``."""
        return self._predict(self.embed(batch))

    def training_forward(self, batch: Batch) -> Output:
        """Predict and compare with the complete clip.

        Returns:
            In ``aux`` besides what ``forward`` gives, each ``(B, 3, K, D)``: the tokens ``decoded`` from a sample of
            the Gaussians, those ``reconstructed`` from the h_m, and those of the ``complete`` clip.
        """
        both = self.embed(stacked(batch, self.complete_of(batch)))
        h, complete = ({m: both[m].chunk(2)[version] for m in MODALITIES} for version in range(2))
        out = self._predict(h)
        mean, log_variance = out.aux["mean"], out.aux["log_variance"]
        z = mean + (0.5 * log_variance).exp() * self._noise(mean)
        decoded = [self.autoencoders[m].decode(z[:, place]) for place, m in enumerate(MODALITIES)]  # type: ignore[operator]
        out.aux |= {
            "decoded": torch.stack(decoded, dim=1),
            "reconstructed": torch.stack([self.reconstructors[m](h[m]) for m in MODALITIES], dim=1),
            "complete": torch.stack([complete[m] for m in MODALITIES], dim=1),
        }
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Task, reconstruction and variational term, weighted.

        The last is the autoencoders' error and their Gaussians' divergence from N(0, 1), summed over the modalities,
        and the divergences of vision and audio from text and of audio from vision; all divided by 3.
        """
        assert batch.labels is not None
        aux = out.aux
        mean, log_variance = (dict(zip(MODALITIES, aux[k].unbind(1), strict=True)) for k in ("mean", "log_variance"))
        zero = torch.zeros_like(aux["mean"])
        prior = gaussian_divergence(aux["mean"], aux["log_variance"].clamp(min=_LEAST_LOG_VARIANCE), zero, zero)
        pairs = [gaussian_divergence(mean[p], log_variance[p], mean[q], log_variance[q]).mean() for p, q in _PAIRS]
        variational = F.mse_loss(aux["decoded"], aux["complete"]) + prior.mean() + torch.stack(pairs).mean()
        return {
            "task": self.task_loss(out.pred, batch.labels),
            "reconstruction": self.lambda_reconstruction * F.mse_loss(aux["reconstructed"], aux["complete"]),
            "variational": self.lambda_variational * variational,
        }

    def param_groups(self) -> list[dict[str, Any]]:
        """The text encoder and the injection learn at rates of their own."""
        rest, encoder = parameter_groups(self, self.text_lr)
        injection = list(self.injection.parameters())
        apart = {id(parameter) for parameter in injection}
        rest["params"] = [parameter for parameter in rest["params"] if id(parameter) not in apart]
        return [rest, encoder, {"params": injection, "lr": self.injection_lr}]

    def lr_multiplier(self, epoch: int, epochs: int) -> float:
        """Warm-up and cosine."""
        return warmup_cosine(epoch, self.warmup, epochs)

    def _noise(self, like: Tensor) -> Tensor:
        """Standard normal numbers ``(B, ...)``: on several devices, this one's share of those of the global batch."""
        sizes = self.device_shares(len(like))
        return self.own_rows(torch.randn_like(like.new_empty(sum(sizes), *like.shape[1:])), sizes)

    def _predict(self, h: dict[str, Tensor]) -> Output:
        """From the tokens of the modalities, each ``(B, K, D)``, to the score."""
        gaussians = [self.autoencoders[m](h[m]) for m in MODALITIES]
        mean, log_variance = (torch.stack(of, dim=1) for of in zip(*gaussians, strict=True))
        if self.log_variance_limit is not None:
            log_variance = log_variance.clamp(-self.log_variance_limit, self.log_variance_limit)
        weights = (-0.5 * log_variance).exp().softmax(dim=1)
        proxy = (weights * mean).sum(1)
        if self.variant != "no_reversal":
            proxy = reverse_gradient(proxy)
        joint = self.injection(proxy, h, weights).mean(1)
        return Output(
            pred=self.to_pred(self.head(joint)),
            representation=joint.detach(),
            aux={"mean": mean, "log_variance": log_variance},
        )


def gaussian_divergence(mean_p: Tensor, log_variance_p: Tensor, mean_q: Tensor, log_variance_q: Tensor) -> Tensor:
    """KL divergence of a Gaussian p from q, value by value.

    ``(s_p^2 / s_q^2 + (mu_p - mu_q)^2 / s_q^2 - 1 - log(s_p^2 / s_q^2)) / 2``, in nats.

    Args:
        mean_p: float, any shape.
        log_variance_p: Likewise, logarithm of the squared deviation.
        mean_q: Likewise.
        log_variance_q: Likewise.

    Returns:
        float of that shape, at least 0.
    """
    ratio = log_variance_p - log_variance_q
    return 0.5 * (ratio.exp() + (mean_p - mean_q).square() * (-log_variance_q).exp() - 1 - ratio)

"""LNLN: Towards Robust Multimodal Sentiment Analysis with Incomplete Data.

Haoyu Zhang, Wenbin Wang, Tianshu Yu. NeurIPS 2024, https://arxiv.org/abs/2409.20012. Official code:
https://github.com/Haoyu-ha/LNLN at 80a052c, MIT licence.

Language is the dominant modality, so it has to be repaired when it is incomplete. From the corrupted clip, each
modality is embedded as 8 tokens h. A *completeness check* reads h_l and estimates the share w of words that survived.
Audio and vision generate a *proxy* h_p for language, and the dominant modality becomes

    h_d = (1 - w) h_p + w h_l.

A discriminator learns to tell its tokens from those of complete language; through a gradient reversal the proxy learns
to pass for the latter. ALMT's hyper-modality fusion, guided by h_d, predicts. In training, reconstructors also have to
find the tokens of the complete clip in those of the corrupted one.

Deviations:
    1. The completeness check aims at the share of words that survived. The official code aims at 1 - p for the rate p
       with which words were dropped, of which the share is a sample; a batch carries masks, not rates, and other
       regimes have no rate. With words dropped as tokens, [CLS] and [SEP] do not count.
    2. The official code draws all masks from one seed that never changes, and redraws the rates of a few percent of the
       clips per epoch. Regime ``lnln`` redraws rates and masks of all clips in every epoch, and draws a coin per clip
       and modality instead of choosing exactly half of the clips.
    3. The official code reports each metric at the epoch that is best for it on the test split with half of all frames
       dropped. Here validation selects one epoch.
    4. IEMOCAP, which the paper does not use: eight outputs and cross-entropy; all other terms are the same.

As in the official code, the reversal stands between the proxy and everything behind it: what makes the proxy turns
against the *task*, too, not only against the discriminator. Published numbers are with that; variant ``adv_only``
reverses the discriminator's gradient alone. Complete language is neither detached nor reversed, so its encoder helps
the discriminator; nor are the targets of the reconstruction detached. Padding is not masked, BERT's states there
included, and there is no dropout but that of BERT. The official code drops words as tokens; dropped at level
``vectors``, BERT's states are zero where a word is missing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch, stacked
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.methods.schedules import warmup_cosine
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.patterns import inner_steps
from msabench.nn.clip_tokens import ClipTokens
from msabench.nn.gradient_reversal import reverse_gradient
from msabench.nn.hyper_modality import HyperModalityFusion
from msabench.nn.text import TextInput
from msabench.nn.token_transformer import TokenTransformer

_SLOPE = 0.1  # of the leaky ReLUs, official


class LNLN(MSAMethod):
    """LNLN, see the module's docstring. It trains on ``batch.complete`` beside the corrupted clips.

    The ``aux`` of ``forward`` holds ``completeness``, the estimated share w of words ``(B,)``, and ``dominant``, the
    tokens h_d ``(B, K, D)``.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``adv_only`` reverses the gradient of the discriminator alone, not that of the task.
        warmup: Epochs over which the learning rate rises from 0; it then falls along a cosine.
        dim: Features D of a token, a multiple of ``heads``; 128 in the official code.
        tokens: Tokens K of each modality, of the proxy and of the hyper-modality.
        layers: Layers of every Transformer but language's in the fusion and the fusion itself.
        heads: Heads of every attention.
        dim_head: Features of a head, except in the hyper-modality layers, where it is ``dim / heads``.
        hyper_layers: Hyper-modality layers; language has one layer less beside them.
        fusion_layers: Layers of the fusion; 2 for MOSI, 4 for MOSEI and SIMS in the official code.
        lambda_completeness: Weight >= 0 of the completeness check's error.
        lambda_adversarial: Weight >= 0 of the discriminator's cross-entropy; 0.6 for SIMS in the official code.
        lambda_reconstruction: Weight >= 0 of the reconstruction error.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="lnln",
        title="Towards Robust Multimodal Sentiment Analysis with Incomplete Data",
        venue="NeurIPS",
        year=2024,
        url="https://arxiv.org/abs/2409.20012",
        fidelity="parity",
        code_url="https://github.com/Haoyu-ha/LNLN",
        code_commit="80a052c",
        licence="MIT",
        variants=("adv_only",),
        trains_with=("complete",),
        smoke={"warmup": 0, "dim": 8, "tokens": 3, "layers": 1, "heads": 2, "dim_head": 4},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        warmup: int = 20,
        dim: int = 128,
        tokens: int = 8,
        layers: int = 2,
        heads: int = 8,
        dim_head: int = 64,
        hyper_layers: int = 3,
        fusion_layers: int = 2,
        lambda_completeness: float = 0.9,
        lambda_adversarial: float = 0.8,
        lambda_reconstruction: float = 0.1,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 1e-4,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="mse", optimizer="adamw")
        weights = (lambda_completeness, lambda_adversarial, lambda_reconstruction)
        if min(weights) < 0:
            raise MSABenchError(f"weights {list(weights)} of the loss are not allowed; give numbers from 0 up")
        self.warmup = warmup
        self.tokens = tokens
        self.lambda_completeness, self.lambda_adversarial, self.lambda_reconstruction = weights
        self.text_lr = text_lr

        heads_of = {"heads": heads, "dim_head": dim_head}
        sizes = {"layers": layers, **heads_of}
        # First, for it refuses sizes that do not fit each other.
        self.fusion = HyperModalityFusion(dim, tokens, layers=hyper_layers, fusion_layers=fusion_layers, **heads_of)
        self.head = nn.Linear(dim, self.n_outputs)
        text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
        self.embed = ClipTokens(spec, text, dim, tokens, **sizes)
        self.completeness = TokenTransformer(dim, tokens, tokens=1, **sizes)
        self.completeness_head = _perceptron(dim, 1)
        self.proxy = nn.Parameter(torch.ones(1, tokens, dim))
        self.proxy_generator = TokenTransformer(dim, 3 * tokens, tokens=tokens, **sizes)
        self.discriminator = _perceptron(dim, 2)
        self.reconstructors = nn.ModuleDict({m: TokenTransformer(dim, tokens, **sizes) for m in MODALITIES})

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the mean of the fused tokens ``(B, D)``."""
        return self._predict(self.embed(batch))

    def training_forward(self, batch: Batch) -> Output:
        """Predict and compare with the complete clip.

        Returns:
            In ``aux`` besides what ``forward`` gives: ``kept``, the share of words that survived ``(B,)``; ``judged``,
            the discriminator's logits ``(B, 2 K, 2)`` for the tokens of h_d, then of complete language; and
            ``reconstructed`` and ``complete`` tokens ``(B, 3 K, D)``.
        """
        complete = self.complete_of(batch)
        both = self.embed(stacked(batch, complete))
        h, target = ({m: both[m].chunk(2)[version] for m in MODALITIES} for version in range(2))
        out = self._predict(h)
        reconstructed = [self.reconstructors[m](h[m]) for m in MODALITIES]
        out.aux |= {
            "kept": kept_words(batch),
            "judged": self.discriminator(torch.cat([out.aux["dominant"], target["text"]], dim=1)),
            "reconstructed": torch.cat(reconstructed, dim=1),
            "complete": torch.cat([target[m] for m in MODALITIES], dim=1),
        }
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Task, completeness, discriminator and reconstruction, weighted."""
        assert batch.labels is not None
        aux = out.aux
        repaired, complete = (logits.flatten(0, 1) for logits in aux["judged"].chunk(2, dim=1))
        # Tokens of h_d are class 1; cross-entropy is a mean over all tokens.
        judged, truth = torch.cat([repaired, complete]), torch.arange(2, device=complete.device).flip(0)
        adversarial = F.cross_entropy(judged, truth.repeat_interleave(len(complete)))
        return {
            "task": self.task_loss(out.pred, batch.labels),
            "completeness": self.lambda_completeness * F.mse_loss(aux["completeness"], aux["kept"]),
            "adversarial": self.lambda_adversarial * adversarial,
            "reconstruction": self.lambda_reconstruction * F.mse_loss(aux["reconstructed"], aux["complete"]),
        }

    def lr_multiplier(self, epoch: int, epochs: int) -> float:
        """Warm-up and cosine."""
        return warmup_cosine(epoch, self.warmup, epochs)

    def _predict(self, h: dict[str, Tensor]) -> Output:
        """From the tokens of the modalities, each ``(B, K, D)``, to the score."""
        w = self.completeness_head(self.completeness(h["text"], keep=1)).sigmoid()  # (B, 1, 1)
        start = self.proxy.expand(len(w), -1, -1)
        proxy = self.proxy_generator(torch.cat([start, h["audio"], h["vision"]], dim=1), keep=self.tokens)
        dominant = (1 - w) * reverse_gradient(proxy) + w * h["text"]
        guide = (1 - w) * proxy + w * h["text"] if self.variant == "adv_only" else dominant
        fused = self.fusion(guide, h["audio"], h["vision"])[:, 1:].mean(1)
        return Output(
            pred=self.to_pred(self.head(fused)),
            representation=fused.detach(),
            aux={"completeness": w.flatten(), "dominant": dominant},
        )


def kept_words(batch: Batch) -> Tensor:
    """Share of a clip's words that are observed.

    Args:
        batch: Corrupted clips.

    Returns:
        float32 ``(B,)`` in [0, 1]; 0 for a clip without words.
    """
    words = batch.valid["text"]
    if batch.text_level == "tokens":
        words = inner_steps(words)
    return (batch.observed["text"] & words).sum(1) / words.sum(1).clamp(min=1)


def _perceptron(features: int, outputs: int) -> nn.Sequential:
    half = features // 2
    return nn.Sequential(nn.Linear(features, half), nn.LeakyReLU(_SLOPE), nn.Linear(half, outputs))

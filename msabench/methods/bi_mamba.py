"""BI-Mamba: the bidirectional Mamba of a classifier of chest X-rays, rebuilt for sentiment.

Zefan Yang, Jiajin Zhang, Ge Wang, Mannudeep K. Kalra, Pingkun Yan. "Cardiovascular Disease Detection from Multi-View
Chest X-rays with BI-Mamba", MICCAI 2024, https://arxiv.org/abs/2405.18533. Code of the classifier:
https://github.com/RPIDIAL/BI-Mamba.

RECAP's tables list "BI-Mamba" with this citation. How images became language, sound and sight there is not said, no
code for sentiment is known, and where those numbers come from is open. What follows is *our* BI-Mamba, in the shape of
the classifier: two views, there, and three modalities, here, are joined early into one sequence, which a Vision Mamba
reads from both sides; a class token in its middle gives the answer.

    tokens: [text; audio; vision] + modality, a class token put in the middle, + position
    layers: r <- r + BiMamba(RMSNorm(r)), and a last RMSNorm

Deviations:
    Each is a choice, for the classifier has no such part or another size.

    1. Modalities for views: text is projected step by step; audio and vision are brought to as many steps by
       TF-Mamba's aligner, which learns where each of their steps belongs (``aligner: average`` pools evenly). A
       LayerNorm follows each projection.
    2. Every modality adds a vector of its own to its steps, besides the positions over all of them.
    3. Two layers of width 128 instead of 24 of width 384, trained from scratch: there is no pretraining to start from.
       State 16, expansion 2 and kernel 4 are what the classifier leaves at Mamba's defaults.
    4. The output is that of the class token, as in the classifier, whose mean over tokens is never reached;
       ``pool: mean`` takes the mean over all steps and has no token.
    5. Initial weights as there: tokens and positions from a truncated normal distribution of deviation 0.02, biases of
       linear maps 0, output maps of the blocks divided by the root of the depth. The blocks, whose modified source
       we could not read, begin as TF-Mamba's, but with small step sizes in both directions: with the official ones
       back, a state forgets within a few steps, two layers do not carry vision from behind the audio to the token, and
       nothing of it was learnt on the generated corpus.
    6. Loss, optimiser and schedule are those that TF-Mamba shares with LNLN; the classifier's fine-tuning (rate 5e-6,
       30 epochs) has no meaning here. No stochastic depth and no dropout, both off in the classifier's script.
    7. Padding is not masked. Validation selects the epoch.
    8. IEMOCAP: eight outputs and cross-entropy.
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
from msabench.methods.schedules import warmup_cosine
from msabench.missingness.conditions import MODALITIES
from msabench.nn.ctc_aligner import ALIGNED, CTCAligner
from msabench.nn.mamba import BidirectionalMamba
from msabench.nn.text import TextInput

_ALIGNERS = ("ctc", "average")
_POOLS = ("token", "mean")
_SPREAD = 0.02
_EPSILON = 1e-5


class BIMamba(MSAMethod):
    """Our BI-Mamba, see the module's docstring.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        warmup: Epochs over which the learning rate rises from 0; it then falls along a cosine.
        dim: Features D of a step.
        layers: Mamba layers, at least 1.
        state: Numbers in the state of a Mamba channel; 16 in the classifier.
        expand: Channels of a Mamba block by D; 2 in the classifier.
        kernel_size: Steps that a Mamba block's convolution sees; 4 in the classifier.
        aligner: Whether audio and vision come onto the text's steps by a learned ``ctc`` aligner or by ``average``.
        pool: Whether the class ``token`` is read, or the ``mean`` over time.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.

    Raises:
        MSABenchError: An argument outside its range.
    """

    info = MethodInfo(
        name="bi_mamba",
        title="Cardiovascular Disease Detection from Multi-View Chest X-rays with BI-Mamba",
        venue="MICCAI",
        year=2024,
        url="https://arxiv.org/abs/2405.18533",
        fidelity="reconstructed",
        code_url="https://github.com/RPIDIAL/BI-Mamba",
        smoke={"warmup": 0, "dim": 8, "state": 4, "layers": 1},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        warmup: int = 20,
        dim: int = 128,
        layers: int = 2,
        state: int = 16,
        expand: int = 2,
        kernel_size: int = 4,
        aligner: Literal["ctc", "average"] = "ctc",
        pool: Literal["token", "mean"] = "token",
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 1e-4,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="mse", optimizer="adamw")
        if layers < 1:
            raise MSABenchError(f"layers {layers} is not allowed; give at least 1")
        if aligner not in _ALIGNERS:
            raise one_of("aligner", aligner, _ALIGNERS)
        if pool not in _POOLS:
            raise one_of("pool", pool, _POOLS)
        self.warmup = warmup
        self.text_lr = text_lr
        self.steps = spec.seq_lens["text"]

        self.text = TextInput(spec, text_encoder, finetune=finetune)
        widths = {**spec.feature_dims, "text": self.text.width}
        self.align = nn.ModuleDict()
        if aligner == "ctc":
            self.align.update({m: CTCAligner(widths[m], self.steps) for m in ALIGNED})
        self.project = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(widths[m], dim), nn.LayerNorm(dim)) for m in MODALITIES}
        )
        tokens = len(MODALITIES) * self.steps
        self.modality = _small(len(MODALITIES), 1, dim)
        self.token = _small(1, 1, dim) if pool == "token" else None
        self.positions = _small(1, tokens + (pool == "token"), dim)
        self.middle = tokens // 2
        sizes = {"state": state, "expand": expand, "kernel_size": kernel_size}
        self.blocks = nn.ModuleList(BidirectionalMamba(dim, symmetric=True, **sizes) for _ in range(layers))
        self.norms = nn.ModuleList(nn.RMSNorm(dim, eps=_EPSILON) for _ in range(layers))
        self.norm = nn.RMSNorm(dim, eps=_EPSILON)
        self.head = nn.Linear(dim, self.n_outputs)
        with torch.no_grad():
            for part in (self.head, *self.project.modules()):
                if isinstance(part, nn.Linear):
                    part.bias.zero_()
            for block in self.blocks:
                block.out_proj /= layers**0.5

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the class token or the mean over time ``(B, D)``."""
        features = {"text": self.text(batch), **{m: self._aligned(batch.features[m], m) for m in ALIGNED}}
        x = torch.cat([self.project[m](features[m]) + self.modality[i] for i, m in enumerate(MODALITIES)], dim=1)
        if self.token is not None:
            before, after = x[:, : self.middle], x[:, self.middle :]
            x = torch.cat([before, self.token.expand(len(x), -1, -1), after], dim=1)
        x = x + self.positions
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        x = self.norm(x)
        pooled = x.mean(dim=1) if self.token is None else x[:, self.middle]
        return Output(pred=self.to_pred(self.head(pooled)), representation=pooled.detach())

    def lr_multiplier(self, epoch: int, epochs: int) -> float:
        """Warm-up and cosine."""
        return warmup_cosine(epoch, self.warmup, epochs)

    def _aligned(self, x: Tensor, modality: str) -> Tensor:
        """A modality ``(B, S, D_m)`` on the text's steps ``(B, L, D_m)``."""
        if modality in self.align:
            steps: Tensor = self.align[modality](x)[0]
            return steps
        return F.adaptive_avg_pool1d(x.transpose(1, 2), self.steps).transpose(1, 2)


def _small(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=_SPREAD))

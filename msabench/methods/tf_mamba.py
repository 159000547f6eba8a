"""TF-Mamba: Text-enhanced Fusion Mamba with Missing Modalities for Robust Multimodal Sentiment Analysis.

Xiang Li, Xianfu Cheng, Dezhuang Miao, Xiaoming Zhang, Zhoujun Li. EMNLP 2025,
https://arxiv.org/abs/2505.14329. Official code: https://github.com/codemous/TF-Mamba at 9a1f07f, without a licence.

Text has the most to say, so it helps the other two, and is helped when words are missing.

- Modality enhancement (TME): audio and vision are brought onto the L steps of the text; each step then takes up the
  text's steps that are more similar to it than the average, ``E_m = H_m + (S [S > 1/L]) H_l``.
- In training a perceptron on H_l has to rebuild the states of the dropped words.
- TC-Mamba: audio and text, and vision and text, pass a bidirectional Mamba block whose state matrices both share; the
  text goes on as the mean of its two versions.
- TQ-Mamba: text attends to audio and vision, then passes Mamba blocks; the maximum over time gives the score.

Deviations:
    1. Selection: the official code reports each metric at the epoch that is best for it on the test split with half of
       all frames dropped. Here validation selects one epoch.
    2. The official data module draws all masks from one seed that never changes, and redraws rates now and then. Regime
       ``lnln`` redraws rates and masks of all clips in every epoch, and draws a coin per clip and modality instead of
       choosing exactly half of the clips.
    3. Words are rebuilt where the complete clip has one and the corrupted one does not; [CLS] and [SEP] do not count
       where words are dropped as tokens, as officially. Where text comes as vectors, these are dropped and are the
       targets. Of complete clips nothing is rebuilt; ``reconstruct: all`` counts every word.
    4. The official loss adds 1e-6 to the number of values it is averaged over; here no words give 0.
    5. The gate SiLU(z) is applied once, after both directions were added, and sequences are flipped before the
       convolution alone; the numbers are the same.
    6. With clips of one step S is 1 = 1/L, and nothing is taken up from the text.
    7. IEMOCAP, which neither paper nor code has: eight outputs and cross-entropy; all else is the same.

As in the official code nothing is masked: padding, in the text as BERT's states, is aligned, scanned and takes part in
the attention and the maximum.
The threshold passes no gradient and what remains of S is not normalised again. The targets are not detached: a trained
BERT learns from both of its passes. Weight decay acts on all parameters, state matrices too. The official
``use_fast_path: False``, which reads forward only, is not what was trained. The settings of the official evaluation of
CMU-MOSEI (two TC layers, states of 12) are not those that it trains with; ours are the latter.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.losses.reconstruction import frame_error
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.methods.schedules import warmup_cosine
from msabench.missingness.patterns import inner_steps
from msabench.nn.ctc_aligner import ALIGNED
from msabench.nn.mamba import MambaLayer
from msabench.nn.text import TextInput
from msabench.nn.text_steps import TextSteps
from msabench.nn.token_transformer import Attention

_RECONSTRUCT = ("missing", "all")


class _TextEnhancement(nn.Module):
    """What is left of TME after the projection: a modality takes up the text's steps that resemble its own."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Enhance ``(B, L, D)`` by text ``(B, L, D)``."""
        cosine = F.normalize(x, dim=2, eps=1e-9) @ F.normalize(text, dim=2, eps=1e-9).mT
        share = (self.log_scale.exp() * cosine).softmax(dim=2)
        return x + (share * (share > 1 / text.shape[1])) @ text


class _ContextLayer(nn.Module):
    """One layer of TC-Mamba."""

    def __init__(self, dim: int, **sizes: int) -> None:
        super().__init__()
        self.pairs = nn.ModuleDict({m: MambaLayer(dim, streams=2, **sizes) for m in ALIGNED})

    def forward(self, audio: Tensor, vision: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Update three ``(B, L, D)``."""
        audio, text_by_audio = self.pairs["audio"](audio, text)
        vision, text_by_vision = self.pairs["vision"](vision, text)
        return audio, vision, (text_by_audio + text_by_vision) / 2


class TFMamba(MSAMethod):
    """TF-Mamba, see the module's docstring. It trains on ``batch.complete`` beside the corrupted clips.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``wo_reconstruction`` trains on the task alone.
        warmup: Epochs over which the learning rate rises from 0; it then falls along a cosine.
        dim: Features D of a step; 128 in the official code.
        state: Numbers in the state of a Mamba channel; 12 for MOSI in the official code.
        expand: Channels of a Mamba block by D; 2 for SIMS in the official code.
        kernel_size: Steps that a Mamba block's convolution sees.
        context_layers: Layers of TC-Mamba, at least 0.
        query_layers: Mamba layers of TQ-Mamba, at least 0; 1 for MOSI in the official code.
        heads: Heads of TQ-Mamba's attention.
        dim_head: Features of a head.
        dropout: Dropout rate in the reconstruction head, in [0, 1); 0.1 for MOSI in the official code.
        lambda_reconstruction: Weight >= 0 of the reconstruction; 0.3 for MOSEI, 1 for SIMS in the official code.
        reconstruct: Whether ``missing`` words are rebuilt, or ``all``.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder; that of everything else in the official code.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="tf_mamba",
        title="TF-Mamba: Text-enhanced Fusion Mamba with Missing Modalities for Robust Multimodal Sentiment Analysis",
        venue="EMNLP",
        year=2025,
        url="https://arxiv.org/abs/2505.14329",
        fidelity="parity",
        code_url="https://github.com/codemous/TF-Mamba",
        code_commit="9a1f07f",
        variants=("wo_reconstruction",),
        trains_with=("complete",),
        smoke={"warmup": 0, "dim": 8, "state": 4, "heads": 2, "dim_head": 4, "reconstruct": "all"},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        warmup: int = 20,
        dim: int = 128,
        state: int = 16,
        expand: int = 4,
        kernel_size: int = 4,
        context_layers: int = 1,
        query_layers: int = 2,
        heads: int = 8,
        dim_head: int = 64,
        dropout: float = 0.2,
        lambda_reconstruction: float = 0.7,
        reconstruct: Literal["missing", "all"] = "missing",
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 1e-4,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="mse", optimizer="adamw")
        if reconstruct not in _RECONSTRUCT:
            raise one_of("reconstruct", reconstruct, _RECONSTRUCT)
        if lambda_reconstruction < 0:
            raise MSABenchError(
                f"lambda_reconstruction {lambda_reconstruction} is not allowed; give a number from 0 up"
            )
        self.warmup = warmup
        self.lambda_reconstruction = lambda_reconstruction
        self.reconstruct = reconstruct
        self.text_lr = text_lr

        text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
        sizes = {"state": state, "expand": expand, "kernel_size": kernel_size}
        self.embed = TextSteps(spec, text, dim)
        self.enhance = nn.ModuleDict({m: _TextEnhancement() for m in ALIGNED})
        self.context = nn.ModuleList(_ContextLayer(dim, **sizes) for _ in range(context_layers))
        self.attention = Attention(dim, heads, dim_head)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
        self.query = nn.ModuleList(MambaLayer(dim, **sizes) for _ in range(query_layers))
        self.head = nn.Linear(dim, self.n_outputs)
        self.rebuild: nn.Module | None = None
        if variant != "wo_reconstruction":
            self.rebuild = nn.Sequential(
                nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, text.width)
            )

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the maximum over time ``(B, D)``."""
        return self._predict(self.embed(batch))

    def training_forward(self, batch: Batch) -> Output:
        """Predict and rebuild the text.

        Returns:
            In ``aux``, unless the variant trains on the task alone: ``rebuilt`` and ``complete`` text, both
            ``(B, L, D_l)``.
        """
        h = self.embed(batch)
        out = self._predict(h)
        if self.rebuild is not None:
            out.aux = {"rebuilt": self.rebuild(h["text"]), "complete": self.embed.text(self.complete_of(batch))}
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """The task and, averaged over all values of all words that count, the smooth L1 error of what was rebuilt."""
        assert batch.labels is not None
        terms = {"task": self.task_loss(out.pred, batch.labels)}
        if self.rebuild is not None:
            words = self.complete_of(batch).observed["text"]
            if batch.text_level == "tokens":
                words = inner_steps(words)
            if self.reconstruct == "missing":
                words = words & ~batch.observed["text"]
            error = frame_error(out.aux["rebuilt"], out.aux["complete"], words, "smooth_l1")
            terms["reconstruction"] = self.lambda_reconstruction * error
        return terms

    def lr_multiplier(self, epoch: int, epochs: int) -> float:
        """Warm-up and cosine."""
        return warmup_cosine(epoch, self.warmup, epochs)

    def _predict(self, h: dict[str, Tensor]) -> Output:
        """From the modalities on the text's steps, each ``(B, L, D)``, to the score."""
        text = h["text"]
        audio, vision = (self.enhance[m](h[m], text) for m in ALIGNED)
        for layer in self.context:
            audio, vision, text = layer(audio, vision, text)
        others = torch.cat([audio, vision], dim=1)
        text = text + self.attention_norm(self.attention(text, others, others))
        for layer in self.query:
            (text,) = layer(text)
        pooled = text.max(dim=1).values
        return Output(pred=self.to_pred(self.head(pooled)), representation=pooled.detach())

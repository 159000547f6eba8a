"""ALMT: Learning Language-guided Adaptive Hyper-modality Representation for Multimodal Sentiment Analysis.

Haoyu Zhang, Yu Wang, Guanghao Yin, Kejun Liu, Yuanyuan Liu, Tianshu Yu. EMNLP 2023,
https://aclanthology.org/2023.emnlp-main.49. Official code: https://github.com/Haoyu-ha/ALMT at da94610, MIT licence;
the port in https://github.com/thuiar/MMSA at a94e65d is the same network.

Each modality is embedded as 8 tokens. Language, at growing depths, asks audio and vision for what goes with it and
gathers the answers in a *hyper-modality*, which so leaves out what contradicts or only disturbs. A cross-attention
Transformer lets language attend to the hyper-modality; its token gives the score.

Deviations:
    Selection: the official code reports, for each metric, the best test value over the epochs. Here validation selects.
    MMSA lists a gradient norm of 2 that it never applies; there is no clipping, as in both codes.
    IEMOCAP, which neither code has: eight outputs and cross-entropy.

As in the official code nothing is masked: padding takes part in the attention, with positions of its own and, in the
text, with the states that BERT gives it. There is no dropout but that of BERT.
"""

from __future__ import annotations

from torch import nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.methods.schedules import warmup_cosine
from msabench.nn.clip_tokens import ClipTokens
from msabench.nn.hyper_modality import HyperModalityFusion
from msabench.nn.text import TextInput


class ALMT(MSAMethod):
    """ALMT, see the module's docstring.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        warmup: Epochs over which the learning rate rises from 0; it then falls along a cosine.
        dim: Features of a token, a multiple of ``heads``; 128 in the official code.
        tokens: Tokens of each modality and of the hyper-modality.
        layers: Layers of the Transformers that embed a modality.
        heads: Heads of every attention.
        dim_head: Features of a head, except in the hyper-modality layers, where it is ``dim / heads``.
        hyper_layers: Hyper-modality layers; language has one layer less beside them.
        fusion_layers: Layers of the fusion; 2 for MOSI, 4 for MOSEI and SIMS in the official code.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.

    Raises:
        MSABenchError: ``heads`` does not divide ``dim``, or a number of layers, heads or tokens is below 1.
    """

    info = MethodInfo(
        name="almt",
        title="Learning Language-guided Adaptive Hyper-modality Representation for Multimodal Sentiment Analysis",
        venue="EMNLP",
        year=2023,
        url="https://aclanthology.org/2023.emnlp-main.49",
        fidelity="parity",
        code_url="https://github.com/Haoyu-ha/ALMT",
        code_commit="da94610",
        licence="MIT",
        smoke={"warmup": 0, "dim": 8, "tokens": 3, "heads": 2, "dim_head": 4},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        warmup: int = 20,
        dim: int = 128,
        tokens: int = 8,
        layers: int = 1,
        heads: int = 8,
        dim_head: int = 64,
        hyper_layers: int = 3,
        fusion_layers: int = 2,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 1e-4,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, weight_decay=weight_decay, task_loss="mse", optimizer="adamw")
        self.warmup = warmup
        self.text_lr = text_lr
        sizes = {"heads": heads, "dim_head": dim_head}
        text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
        self.fusion = HyperModalityFusion(dim, tokens, layers=hyper_layers, fusion_layers=fusion_layers, **sizes)
        self.embed = ClipTokens(spec, text, dim, tokens, layers=layers, **sizes)
        self.head = nn.Linear(dim, self.n_outputs)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the fusion's token ``(B, dim)``."""
        h = self.embed(batch)
        fused = self.fusion(h["text"], h["audio"], h["vision"])[:, 0]
        return Output(pred=self.to_pred(self.head(fused)), representation=fused.detach())

    def lr_multiplier(self, epoch: int, epochs: int) -> float:
        """Warm-up and cosine."""
        return warmup_cosine(epoch, self.warmup, epochs)

"""MulT: Multimodal Transformer for Unaligned Multimodal Language Sequences.

Yao-Hung Hubert Tsai, Shaojie Bai, Paul Pu Liang, J. Zico Kolter, Louis-Philippe Morency, Ruslan Salakhutdinov.
ACL 2019, https://aclanthology.org/P19-1656.
Official code: https://github.com/yaohungt/Multimodal-Transformer at a670936, MIT licence. The port in
https://github.com/thuiar/MMSA at a94e65d is the same network without position codes, with longer convolution kernels
and a text dropout of its own; its settings are arguments here.

Deviations:
    The official code builds all three memory encoders for the single-target variants; we build the one in use.
    The official code creates projections that it skips when input and output widths agree; we do not create them.
    The last memory layer computes its last step alone: the same value, and fewer dropout draws.

As in the official code, padding is neither masked nor skipped: each stack is read at the last stored step, which is
padding for most clips of files that pad at the end. Where a BERT reads the text, as the port can, it gives states there
too.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.crossmodal import CrossmodalEncoder
from msabench.nn.temporal import TemporalProjection
from msabench.nn.text import TextInput

_MIN_MEMORY_LAYERS = 3


class MulT(MSAMethod):
    """Every modality attends to the two others; the streams are joined at their last step.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``lonly``, ``aonly`` and ``vonly`` keep the text, audio or vision target alone.
        dim: Common width d of the modalities; 30 in the official code.
        heads: Attention heads of every encoder; divides ``dim``.
        layers: Layers of the crossmodal encoders; the memory encoders have at least 3.
        positions: Whether encoders add position codes; off in MMSA.
        kernel_size_text: Steps seen by one step of the text projection; 1 in the official code.
        kernel_size_audio: The same for audio.
        kernel_size_vision: The same for vision.
        dropout_text: Dropout on raw text features; equals ``embed_dropout`` in the official code.
        attn_dropout_text: Dropout on attention weights where text is the source, and in the memory encoders.
        attn_dropout_audio: The same where audio is the source.
        attn_dropout_vision: The same where vision is the source.
        relu_dropout: Dropout in feed-forward networks.
        embed_dropout: Dropout on embedded sequences.
        res_dropout: Dropout on residual branches.
        out_dropout: Dropout in the output block.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10.
        gradient_clip: Largest size of a gradient's entry, as in MMSA; None for no limit. The official code limits the
            norm, as the trainer does with ``gradient_clip_val``.
        accumulate: Batches summed before a step, as in MMSA; None for a step after each.

    Raises:
        MSABenchError: ``heads`` does not divide ``dim``, or a kernel is longer than its modality's sequence.
    """

    info = MethodInfo(
        name="mult",
        title="Multimodal Transformer for Unaligned Multimodal Language Sequences",
        venue="ACL",
        year=2019,
        url="https://aclanthology.org/P19-1656",
        fidelity="parity",
        code_url="https://github.com/yaohungt/Multimodal-Transformer",
        code_commit="a670936",
        licence="MIT",
        variants=("lonly", "aonly", "vonly"),
        smoke={"dim": 8, "heads": 2, "layers": 1},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        dim: int = 30,
        heads: int = 5,
        layers: int = 5,
        positions: bool = True,
        kernel_size_text: int = 1,
        kernel_size_audio: int = 1,
        kernel_size_vision: int = 1,
        dropout_text: float = 0.25,
        attn_dropout_text: float = 0.1,
        attn_dropout_audio: float = 0.0,
        attn_dropout_vision: float = 0.0,
        relu_dropout: float = 0.1,
        embed_dropout: float = 0.25,
        res_dropout: float = 0.1,
        out_dropout: float = 0.0,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 5e-5,
        lr: float = 1e-3,
        lr_patience: int | None = 20,
        gradient_clip: float | None = None,
        accumulate: int | None = None,
    ) -> None:
        super().__init__(
            spec,
            variant=variant,
            lr=lr,
            lr_patience=lr_patience,
            task_loss="l1",
            gradient_clip=gradient_clip,
            clip_by="value",
            accumulate=1 if accumulate is None else accumulate,
        )
        self.dropout_text = dropout_text
        self.out_dropout = out_dropout
        self.text_lr = text_lr
        targets = {"lonly": ("text",), "aonly": ("audio",), "vonly": ("vision",)}
        self.targets = targets.get(variant, MODALITIES)
        # Each target's streams are joined in this order of sources.
        self.sources = {target: tuple(m for m in MODALITIES if m != target) for target in self.targets}

        self.text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
        widths = {**spec.feature_dims, "text": self.text.width}
        kernels = {"text": kernel_size_text, "audio": kernel_size_audio, "vision": kernel_size_vision}
        self.project = nn.ModuleDict(
            {
                m: TemporalProjection(widths[m], dim, steps=spec.seq_lens[m], kernel_size=kernels[m], what=m)
                for m in MODALITIES
            }
        )
        attn_dropout = {"text": attn_dropout_text, "audio": attn_dropout_audio, "vision": attn_dropout_vision}

        def encoder(features: int, depth: int, source: str) -> CrossmodalEncoder:
            return CrossmodalEncoder(
                features,
                heads,
                depth,
                attn_dropout=attn_dropout[source],
                relu_dropout=relu_dropout,
                res_dropout=res_dropout,
                embed_dropout=embed_dropout,
                positions=positions,
            )

        # Attention dropout goes by the source; the memories use the text's.
        self.cross = nn.ModuleDict(
            {
                f"{target}_from_{source}": encoder(dim, layers, source)
                for target in self.targets
                for source in self.sources[target]
            }
        )
        self.memory = nn.ModuleDict(
            {target: encoder(2 * dim, max(layers, _MIN_MEMORY_LAYERS), "text") for target in self.targets}
        )
        joint = 2 * dim * len(self.targets)
        self.proj1 = nn.Linear(joint, joint)
        self.proj2 = nn.Linear(joint, joint)
        self.out_layer = nn.Linear(joint, self.n_outputs)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the joined last steps ``(B, 6 * dim)``, before the output block."""
        text = F.dropout(self.text(batch), self.dropout_text, self.training)
        inputs = {"text": text, "audio": batch.audio, "vision": batch.vision}
        projected = {m: self.project[m](inputs[m]) for m in MODALITIES}
        last_steps = []
        for target in self.targets:
            streams = [
                self.cross[f"{target}_from_{source}"](projected[target], projected[source])
                for source in self.sources[target]
            ]
            last_steps.append(self.memory[target](torch.cat(streams, dim=2), last_only=True).squeeze(1))
        joint = torch.cat(last_steps, dim=1)
        block = self.proj2(F.dropout(F.relu(self.proj1(joint)), self.out_dropout, self.training))
        return Output(pred=self.to_pred(self.out_layer(joint + block)), representation=joint.detach())

"""MPLMM: Multimodal Prompt Learning with Missing Modalities for Sentiment Analysis and Emotion Recognition.

Zirun Guo, Tao Jin, Zhou Zhao. ACL 2024, https://arxiv.org/abs/2407.05374. Official code:
https://github.com/zrguo/MPLMM at c6f8d18, MIT licence, "a reconstructed code base" in its authors' words; the paper
itself was not read.

A Multimodal Transformer (MulT) learns from complete clips. Then its crossmodal and memory stacks and the block after
them are frozen, and prompts learn with some small maps. A *generative prompt* G_m and what the modalities that are
there are translated to give a modality that is missing, by a linear map over time. *Missing-signal prompts* tell, step
by step, what was generated from what was there. *Missing-type prompts*, more steps for each memory stack, depend on
which modalities are missing; the last of them is what is read.

Notation: B clips, T_m steps of modality m, d channels (``dim``), P tokens of a prompt (``tokens``), S the modalities
that are there.

Deviations:
    1. The official first stage is trained on CMU-MOSEI for every corpus. A fit of ours has one corpus, and learns
       stage ``pretrain`` on its complete clips; ``backbone`` names a checkpoint of another fit, whose stacks are taken
       instead, without that stage. It is then part of the job, by the hash of the file.
    2. The stage ends with its last epoch; officially with its best one on complete validation clips. Ours shows
       validation clips under the training regime, which the plateau of the learning rate then watches there, too.
    3. Which modalities are missing comes from the data module. Officially a clip is whole with probability 0.3
       (0.4 by default) and otherwise one of the six proper subsets, drawn whenever it is read, in validation and test
       as well. ``inter`` over all seven is the nearest regime: whole with probability 1/7. Where a regime removes
       none, as ``complete``, nothing teaches what generates; ``drop_rate`` then makes the official draws in training
       (0.7), for clips that have all three. They are made as dropout is.
    4. A modality is missing if none of its frames is observed. Frames missing from one that is there are zeros, and a
       clip that has none of the three gets its missing-signal prompts alone; officially neither occurs.
    5. The released missing-type prompts are T_m M_S with both factors zero at the start, so that neither gets a
       gradient: they stay P tokens of zeros, which we write so. ``type_prompts: live`` begins with T_m ~ N(0, 0.02)
       and learns; how the authors' own runs began is unknown.
    6. On CH-SIMS the official loss compares every prediction of a batch with every label, by their shapes. Ours
       compares a clip's with its own.
    7. IEMOCAP: the official four exclusive classes become our four two-way questions.
    8. The official code reports validation, not test. Training clips are shuffled, as for all methods.
    9. The first stage keeps projections and an output layer of its own, which the second does not take over; officially
       they are overwritten.
    10. The last layer of a memory computes its last step alone: the same value, and fewer dropout draws.

As in the official code, the frozen stacks keep their dropouts in training, and padding is neither masked nor skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import MSAMethod, Output
from msabench.methods.checkpoint import part_of
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.crossmodal_head import CrossmodalStacks
from msabench.nn.temporal import TemporalProjection

_OTHERS = {m: tuple(q for q in MODALITIES if q != m) for m in MODALITIES}
_SOURCES = {m: tuple(S for size in (1, 2) for S in combinations(_OTHERS[m], size)) for m in MODALITIES}
"""What a missing modality can be generated from."""

_LOST = tuple(tuple(m in gone for m in MODALITIES) for size in (1, 2) for gone in combinations(MODALITIES, size))
"""The six ways to lose one modality or two."""


class _Stacks(CrossmodalStacks):
    """MulT between its projections and its output layer, all of which the second stage freezes."""

    def __init__(self, dim: int, heads: int, layers: int, out_dropout: float, **dropouts: Any) -> None:
        super().__init__(dim, heads, layers, **dropouts)
        self.out_dropout = out_dropout
        self.proj1 = nn.Linear(6 * dim, 6 * dim)
        self.proj2 = nn.Linear(6 * dim, 6 * dim)

    def forward(self, h: dict[str, Tensor], types: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Map sequences ``(B, T_m, d)``, and more steps ``(B, P, 2d)`` of each memory, to two ``(B, 6d)``.

        Returns:
            What the output layer reads, and the joined last steps before the residual block.
        """
        joint = self.joined(h, types)
        block = self.proj2(F.dropout(F.relu(self.proj1(joint)), self.out_dropout, self.training))
        return joint + block, joint


class _Ends(nn.Module):
    """The projections and the output layer of the first stage."""

    def __init__(self, spec: DataSpec, dim: int, n_outputs: int) -> None:
        super().__init__()
        self.project = nn.ModuleDict(
            {m: TemporalProjection(spec.feature_dims[m], dim, steps=spec.seq_lens[m], what=m) for m in MODALITIES}
        )
        self.out_layer = nn.Linear(6 * dim, n_outputs)


class _Generator(nn.Module):
    """What stands for a missing modality: ``GELU(W_mS [G_m; GELU(U_qm x_q) for q in S])``, W over time.

    As in the official code, a map that no clip of a batch needs gets no gradient, so that Adam leaves it where it is.
    """

    def __init__(self, spec: DataSpec, dim: int, tokens: int) -> None:
        super().__init__()
        dims, steps = spec.feature_dims, spec.seq_lens
        self.shapes = {m: (steps[m], dim) for m in MODALITIES}
        # One parameter, as in the official code: Adam moves all of it, also where no clip of a batch lacks a modality.
        self.prompts = nn.Parameter(torch.zeros(len(MODALITIES), tokens, dim))
        self.translate = nn.ModuleDict(
            {f"{m}_from_{q}": nn.Linear(dims[q], dim) for m in MODALITIES for q in _OTHERS[m]}
        )
        self.over_time = nn.ModuleDict(
            {
                _name(m, sources): nn.Linear(tokens + sum(steps[q] for q in sources), steps[m])
                for m in MODALITIES
                for sources in _SOURCES[m]
            }
        )

    def forward(self, features: dict[str, Tensor], there: dict[str, Tensor]) -> dict[str, Tensor]:
        """Generate every modality where it is missing.

        Args:
            features: float ``(B, T_m, D_m)``; nothing is read of what is not there.
            there: bool ``(B,)``, by modality.

        Returns:
            float ``(B, T_m, d)``; zero where the modality is there, or none is.
        """
        return {m: self._generated(m, features, there) for m in MODALITIES}

    def _generated(self, m: str, features: dict[str, Tensor], there: dict[str, Tensor]) -> Tensor:
        generated = features[m].new_zeros(len(features[m]), *self.shapes[m])
        for sources in _SOURCES[m]:
            asked = ~there[m]
            for q in _OTHERS[m]:
                asked = asked & (there[q] if q in sources else ~there[q])
            rows = asked.nonzero().squeeze(1)
            if len(rows):
                translated = [F.gelu(self.translate[f"{m}_from_{q}"](features[q][rows])) for q in sources]
                prompt = self.prompts[MODALITIES.index(m)].expand(len(rows), -1, -1)
                steps = torch.cat([prompt, *translated], dim=1)
                made = F.gelu(self.over_time[_name(m, sources)](steps.transpose(1, 2))).transpose(1, 2)
                generated = generated.index_copy(0, rows, made.to(generated.dtype))
        return generated


class _TypePrompts(nn.Module):
    """``T_m M_S`` with ``M_S`` the sum over q of ``s_q^T Q_q``, s the missing-signal prompt that q has in S."""

    def __init__(self, spec: DataSpec, dim: int, tokens: int) -> None:
        super().__init__()
        self.T = nn.ParameterDict({m: 0.02 * torch.randn(tokens, dim) for m in MODALITIES})
        self.Q = nn.ParameterDict({m: torch.zeros(spec.seq_lens[m], 2 * dim) for m in MODALITIES})

    def forward(
        self, there: dict[str, Tensor], signal_there: nn.ParameterDict, signal_missing: nn.ParameterDict
    ) -> dict[str, Tensor]:
        by_case = {
            q: torch.where(_column(there[q]), signal_there[q].T @ self.Q[q], signal_missing[q].T @ self.Q[q])
            for q in MODALITIES
        }
        M = torch.stack(list(by_case.values())).sum(0)
        return {m: self.T[m] @ M for m in MODALITIES}


class MPLMM(MSAMethod):
    """MPLMM, see the module's docstring. It trains on ``batch.complete``, first the Multimodal Transformer alone.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        backbone: Checkpoint of another fit of this method, a file or what ``msabench checkpoint export`` made of one,
            whose stacks are taken in place of the first stage; its ``pretrain.ckpt`` will do. None trains them.
        pretrain_epochs: Epochs of the first stage, which ``trainer.max_epochs`` includes, at least 1; none with
            ``backbone``.
        type_prompts: Whether the missing-type prompts are zeros, as ``released``, or learn (``live``).
        drop_rate: Share of whole training clips, in [0, 1], that lose one modality or two in the second stage, for
            regimes that remove none; 0.7 in the official commands.
        tokens: Tokens P of each prompt.
        dim: Channels d of the Transformer; a multiple of ``heads``, at least 4.
        heads: Attention heads of every stack.
        layers: Layers of the crossmodal stacks; the memory stacks have at least 3.
        dropout_text: Dropout on raw text features; equals ``embed_dropout`` in the official code.
        attn_dropout_text: Dropout on attention weights where text is the source, and in the memory stacks.
        attn_dropout_audio: The same where audio is the source.
        attn_dropout_vision: The same where vision is the source.
        relu_dropout: Dropout in feed-forward networks.
        embed_dropout: Dropout on embedded sequences.
        res_dropout: Dropout on residual branches.
        out_dropout: Dropout in the output block.
        lr: Learning rate of Adam, in both stages.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; each stage
            begins anew.

    Raises:
        MSABenchError: An argument outside its range; at the start of a fit, a backbone that cannot be read, is of
            another method or version, or has other sizes.
    """

    info = MethodInfo(
        name="mplmm",
        title="Multimodal Prompt Learning with Missing Modalities for Sentiment Analysis and Emotion Recognition",
        venue="ACL",
        year=2024,
        url="https://arxiv.org/abs/2407.05374",
        fidelity="parity",
        code_url="https://github.com/zrguo/MPLMM",
        code_commit="c6f8d18",
        licence="MIT",
        trains_with=("complete",),
        smoke={"dim": 8, "heads": 2, "layers": 1, "tokens": 4, "pretrain_epochs": 1, "drop_rate": 0.9},
    )
    complete_stages: ClassVar[tuple[str, ...]] = ("pretrain",)
    schedule: Mapping[str, tuple[str, ...]] = MappingProxyType({"pretrain": ("main",), "prompts": ("main",)})

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        backbone: str | None = None,
        pretrain_epochs: int = 40,
        type_prompts: Literal["released", "live"] = "released",
        drop_rate: float = 0.0,
        tokens: int = 16,
        dim: int = 30,
        heads: int = 5,
        layers: int = 5,
        dropout_text: float = 0.25,
        attn_dropout_text: float = 0.1,
        attn_dropout_audio: float = 0.1,
        attn_dropout_vision: float = 0.1,
        relu_dropout: float = 0.1,
        embed_dropout: float = 0.25,
        res_dropout: float = 0.1,
        out_dropout: float = 0.1,
        lr: float = 1e-3,
        lr_patience: int | None = 10,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, lr_patience=lr_patience, task_loss="l1")
        if type_prompts not in ("released", "live"):
            raise one_of("type_prompts", type_prompts, ("released", "live"))
        if not 0 <= drop_rate <= 1:
            raise MSABenchError(f"drop_rate {drop_rate} is not allowed; give a share from 0 to 1")
        if min(pretrain_epochs, tokens, layers) < 1:
            raise MSABenchError(
                f"pretrain_epochs {pretrain_epochs}, tokens {tokens} and layers {layers} must all be at least 1"
            )
        self.backbone = backbone
        self.drop_rate = drop_rate
        self.tokens = tokens
        self.dropout_text = dropout_text
        self.stacks = _Stacks(
            dim,
            heads,
            layers,
            out_dropout,
            attn_dropout={"text": attn_dropout_text, "audio": attn_dropout_audio, "vision": attn_dropout_vision},
            relu_dropout=relu_dropout,
            embed_dropout=embed_dropout,
            res_dropout=res_dropout,
        )
        self.pretraining: _Ends | None = None
        if backbone is None:
            self.pretraining = _Ends(spec, dim, self.n_outputs)
            self.stage_epochs = {"pretrain": pretrain_epochs}
        else:
            self.schedule = {"prompts": ("main",)}

        self.generate = _Generator(spec, dim, tokens)
        # The official second stage projects even where the width is d already.
        self.project = nn.ModuleDict({m: nn.Linear(spec.feature_dims[m], dim, bias=False) for m in MODALITIES})
        self.signal_there, self.signal_missing = (
            nn.ParameterDict({m: torch.zeros(spec.seq_lens[m], dim) for m in MODALITIES}) for _ in range(2)
        )
        self.types = _TypePrompts(spec, dim, tokens) if type_prompts == "live" else None
        self.out_layer = nn.Linear(6 * dim, self.n_outputs)

    def setup(self, stage: str) -> None:
        """Take the stacks of ``backbone`` before a fit; a checkpoint that it goes on from has its own.

        Raises:
            MSABenchError: See the class.
        """
        super().setup(stage)
        if stage == "fit" and self.backbone is not None:
            self.stacks.load_state_dict(part_of(self.backbone, self, "stacks", ("dim", "heads", "layers")))

    def prepare_stage(self, stage: str) -> None:
        """The second stage trains nothing of the first."""
        if stage == "prompts":
            # Not by freeze_parts: the official model keeps their dropouts.
            self.stacks.requires_grad_(False)
            if self.pretraining is not None:
                self.pretraining.requires_grad_(False)

    def param_groups(self) -> list[dict[str, Any]]:
        """What the stage trains."""
        if self.stage == "pretrain" and self.pretraining is not None:
            return [{"params": [*self.stacks.parameters(), *self.pretraining.parameters()]}]
        return super().param_groups()

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the joined last steps ``(B, 6 * dim)``, before the output block.

        In stage ``pretrain`` the plain Multimodal Transformer predicts, which is not told what is missing.
        """
        if self.stage == "pretrain":
            return self._pretrain(batch)
        return self._prompted(batch, _there(batch))

    def training_forward(self, batch: Batch) -> Output:
        """Predict from complete clips in stage ``pretrain``; then from clips that may lose more by ``drop_rate``."""
        if self.stage == "pretrain":
            return self._pretrain(self.complete_of(batch))
        there = _there(batch)
        return self._prompted(batch, self._with_losses(there) if self.drop_rate else there)

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        text = F.dropout(batch.text, self.dropout_text, self.training)
        return {"text": text, "audio": batch.audio, "vision": batch.vision}

    def _pretrain(self, batch: Batch) -> Output:
        assert self.pretraining is not None
        refined, joint = self.stacks({m: self.pretraining.project[m](x) for m, x in self._features(batch).items()})
        return Output(pred=self.to_pred(self.pretraining.out_layer(refined)), representation=joint.detach())

    def _prompted(self, batch: Batch, there: dict[str, Tensor]) -> Output:
        features = self._features(batch)
        h = self.generate(features, there)
        for m in MODALITIES:
            rows = there[m].nonzero().squeeze(1)
            if len(rows):
                h[m] = h[m].index_copy(0, rows, self.project[m](features[m][rows]).to(h[m].dtype))
            h[m] = h[m] + torch.where(_column(there[m]), self.signal_there[m], self.signal_missing[m])
        if self.types is None:
            nothing = h["text"].new_zeros(batch.size, self.tokens, 2 * h["text"].shape[2])
            types = dict.fromkeys(MODALITIES, nothing)
        else:
            types = self.types(there, self.signal_there, self.signal_missing)
        refined, joint = self.stacks(h, types)
        return Output(pred=self.to_pred(self.out_layer(refined)), representation=joint.detach())

    def _with_losses(self, there: dict[str, Tensor]) -> dict[str, Tensor]:
        """Which modalities are left of clips that have all three, after losses at ``drop_rate``; bool ``(B,)`` each."""
        whole = torch.stack([there[m] for m in MODALITIES]).all(0)
        # Devices draw for all clips, so that together they draw what one would.
        sizes = self.device_shares(len(whole))
        loses = whole & (self.own_rows(torch.rand(sum(sizes), device=whole.device), sizes) < self.drop_rate)
        ways = torch.tensor(_LOST, device=whole.device)
        chosen = self.own_rows(torch.randint(len(ways), (sum(sizes),), device=whole.device), sizes)
        lost = ways[chosen] & loses[:, None]
        return {m: there[m] & ~lost[:, column] for column, m in enumerate(MODALITIES)}


def _name(m: str, sources: tuple[str, ...]) -> str:
    return f"{m}_from_{'_'.join(sources)}"


def _there(batch: Batch) -> dict[str, Tensor]:
    """Whether a clip has an observed frame, bool ``(B,)``, by modality."""
    return {m: batch.observed[m].any(1) for m in MODALITIES}


def _column(mask: Tensor) -> Tensor:
    return mask[:, None, None]

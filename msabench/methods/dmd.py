"""DMD: Decoupled Multimodal Distilling for Emotion Recognition.

Yong Li, Yuanzhi Wang, Zhen Cui. CVPR 2023, https://arxiv.org/abs/2303.13802.
Official code: https://github.com/mdswyz/DMD at 516d4e1, MIT licence.

Each modality's frames P_m are decoupled by one layer that all modalities share into common frames c_m and by one of
its own into private frames s_m. In either space the modalities teach each other what the label is: every ordered pair
(student j, teacher i) has an edge, a weight that is learnt for every clip (``_GraphDistillation``). In the common
("homogeneous") space each c_m predicts by itself; in the private ("heterogeneous") space modalities first attend to
each other as in MulT. Gates computed from both spaces predict the score.

Distillation takes place among the modalities of one clip, in one network and one pass; nothing of it is left in
prediction.

Deviations:
    1. ``orth``: the official code gives sequences to a loss for single vectors, which takes a cosine over the *batch*
       for each step and feature with the PyTorch of its time (1.9) and fails with a recent one. ``official`` does the
       same, and the configs of CMU-MOSI and CMU-MOSEI ask for it, as the published numbers come from it; ``frames``,
       the default, takes the cosine of each frame's s and c, the evident intent.
    2. Two things that are computed there and change nothing are left out: a projection of s_m that no loss uses, and
       distances between representations in the common space.
    3. The graph distillation units have no bias. Theirs adds the same to all six edges, which softmax cancels.
    4. Sequence lengths are those of the data instead of constants for two corpora.
    5. The plateau of the learning rate looks at the loss of the whole validation split; theirs at the mean over
       batches, rounded to four decimals.
    6. Text may come as precomputed states, which MMSA's files have from the BERT that DMD would fine-tune.
    7. IEMOCAP: cross-entropy on four two-way outputs. The distance of two clips' labels, for the margin loss, is the
       number of emotions that differ, and that of two modalities' outputs is summed over all eight logits.

As in the official code padding is neither masked nor skipped, BERT's states there included, and each stack is read at
the last stored step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import one_of
from msabench.losses.margin import label_margin
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.crossmodal import CrossmodalEncoder
from msabench.nn.residual_head import ResidualHead
from msabench.nn.temporal import TemporalProjection
from msabench.nn.text import TextInput

# The order of everything that is stacked over modalities.
_ORDER = ("text", "vision", "audio")
# The six edges: which modality learns, and from which one.
_STUDENTS, _TEACHERS = [0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]
# Who is thought to be a good teacher, before the softmax: text teaches the others, and in the private space vision
# teaches audio too.
_HOMO_PRIOR, _HETERO_PRIOR = (0, 0, 1, 0, 1, 0), (0, 0, 1, 0, 1, 1)
_PRIOR_TEMPERATURE, _EDGE_TEMPERATURE = 0.25, 8.0
_PRIOR_WEIGHT, _REPR_WEIGHT = 10.0, 10.0
_MARGIN_SLOPE = 0.15
_MIN_MEMORY_LAYERS = 3
_ORTH = ("frames", "official")


class _GraphDistillation(nn.Module):
    """Weights of the six edges between modalities, and what is asked along them.

    Args:
        outputs: Width C of a modality's prediction.
        features: Width F of its representation.
        width: Width of the codes that an edge is computed from.
        prior: Logits of the edges' prior.
    """

    prior: Tensor

    def __init__(self, outputs: int, features: int, width: int, prior: Iterable[float]) -> None:
        super().__init__()
        self.of_logits = nn.Linear(outputs, width, bias=False)
        self.of_reprs = nn.Linear(features, width, bias=False)
        self.edge = nn.Linear(4 * width, 1, bias=False)
        softened = (torch.tensor(list(prior), dtype=torch.float32) / _PRIOR_TEMPERATURE).softmax(0)
        self.register_buffer("prior", softened, persistent=False)

    def forward(self, logits: Tensor, reprs: Tensor) -> Tensor:
        """Map predictions ``(B, 3, C)`` and representations ``(B, 3, F)`` to edges ``(B, 6)`` that sum to 1."""
        code = torch.cat([self.of_logits(logits), self.of_reprs(reprs)], dim=2)
        pairs = torch.cat([code[:, _STUDENTS], code[:, _TEACHERS]], dim=2)
        return (self.edge(pairs).squeeze(2) / _EDGE_TEMPERATURE).softmax(1)

    def to_prior(self, edges: Tensor) -> Tensor:
        """Squared distance of the mean edges from the prior."""
        return _PRIOR_WEIGHT * (edges.mean(0) - self.prior).square().sum()

    def of_predictions(self, edges: Tensor, logits: Tensor) -> Tensor:
        """Students shall predict what their teachers do, in proportion to the edge and its prior."""
        distance = (logits[:, _STUDENTS] - logits[:, _TEACHERS].detach()).abs().sum(2)
        return ((edges + self.prior) * distance).mean(0).sum()

    def of_representations(self, edges: Tensor, reprs: Tensor) -> Tensor:
        """Students shall *not* point where their teachers do: heterogeneous representations are to differ."""
        likeness = F.relu(_cosine(reprs[:, _STUDENTS], reprs[:, _TEACHERS].detach(), dim=2))
        return _REPR_WEIGHT * ((edges + self.prior).mean(0) * likeness.mean(0)).sum()


class DMD(MSAMethod):
    """Splits each modality into what it shares and what it has alone; in both, modalities teach each other.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: There is only ``default``.
        dim: Common width d of the modalities; at least 4.
        heads: Attention heads of every encoder; divides ``dim``.
        layers: Layers of crossmodal and common encoders; the memory encoders have at least 3.
        edge_width_homo: Width of the codes that edges in the common space are computed from.
        edge_width_hetero: The same in the private space.
        kernel_size_text: Steps seen by one step of the text projection.
        kernel_size_audio: The same for audio.
        kernel_size_vision: The same for vision.
        dropout_text: Dropout on text features.
        attn_dropout_text: Dropout on attention weights where text is the source, and in the memory encoders.
        attn_dropout_audio: The same where audio is the source.
        attn_dropout_vision: The same where vision is the source.
        relu_dropout: Dropout in feed-forward networks.
        embed_dropout: Dropout on embedded sequences.
        res_dropout: Dropout on residual branches.
        out_dropout: Dropout in the residual blocks before each prediction.
        orth: Cosine of private and common parts of each frame (``frames``), or over the batch (``official``).
        lambda_graph: Weight >= 0 of graph distillation in either space.
        lambda_decoupling: Weight >= 0 of the decoupling losses.
        lambda_margin: Weight >= 0 of margin and orthogonality among the decoupling losses.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder; the official code uses the same for everything.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is halved; None keeps it constant.
        gradient_clip: Largest size of a gradient's entry; None for no limit.
        accumulate: Batches summed before a step.

    Raises:
        MSABenchError: ``heads`` does not divide ``dim``, a kernel is longer than its modality's sequence, or ``orth``
            is unknown.
    """

    info = MethodInfo(
        name="dmd",
        title="Decoupled Multimodal Distilling for Emotion Recognition",
        venue="CVPR",
        year=2023,
        url="https://arxiv.org/abs/2303.13802",
        fidelity="parity",
        code_url="https://github.com/mdswyz/DMD",
        code_commit="516d4e1",
        licence="MIT",
        smoke={
            "accumulate": 2,
            "dim": 8,
            "heads": 2,
            "layers": 1,
            "edge_width_homo": 4,
            "edge_width_hetero": 4,
            "kernel_size_text": 3,
            "kernel_size_audio": 2,
            "kernel_size_vision": 1,
        },
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        dim: int = 50,
        heads: int = 10,
        layers: int = 4,
        edge_width_homo: int = 64,
        edge_width_hetero: int = 32,
        kernel_size_text: int = 5,
        kernel_size_audio: int = 5,
        kernel_size_vision: int = 5,
        dropout_text: float = 0.5,
        attn_dropout_text: float = 0.3,
        attn_dropout_audio: float = 0.2,
        attn_dropout_vision: float = 0.0,
        relu_dropout: float = 0.0,
        embed_dropout: float = 0.2,
        res_dropout: float = 0.0,
        out_dropout: float = 0.5,
        orth: Literal["frames", "official"] = "frames",
        lambda_graph: float = 0.05,
        lambda_decoupling: float = 0.1,
        lambda_margin: float = 0.1,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 1e-4,
        lr: float = 1e-4,
        lr_patience: int | None = 5,
        gradient_clip: float | None = 0.6,
        accumulate: int = 10,
    ) -> None:
        super().__init__(
            spec,
            variant=variant,
            lr=lr,
            task_loss="l1",
            lr_patience=lr_patience,
            lr_factor=0.5,
            gradient_clip=gradient_clip,
            clip_by="value",
            accumulate=accumulate,
        )
        if orth not in _ORTH:
            raise one_of("orth", orth, _ORTH)
        self.orth = orth
        self.lambda_graph = lambda_graph
        self.lambda_decoupling = lambda_decoupling
        self.lambda_margin = lambda_margin
        self.dropout_text = dropout_text
        self.text_lr = text_lr
        attn_dropout = {"text": attn_dropout_text, "audio": attn_dropout_audio, "vision": attn_dropout_vision}
        kernels = {"text": kernel_size_text, "audio": kernel_size_audio, "vision": kernel_size_vision}

        def encoder(features: int, depth: int, source: str) -> CrossmodalEncoder:
            return CrossmodalEncoder(
                features,
                heads,
                depth,
                attn_dropout=attn_dropout[source],
                relu_dropout=relu_dropout,
                res_dropout=res_dropout,
                embed_dropout=embed_dropout,
            )

        self.text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
        widths = {**spec.feature_dims, "text": self.text.width}
        projections = {
            m: TemporalProjection(widths[m], dim, steps=spec.seq_lens[m], kernel_size=kernels[m], what=m)
            for m in _ORDER
        }
        self.project = nn.ModuleDict(projections)
        frames = {m: dim * projections[m].steps for m in _ORDER}
        self.private = nn.ModuleDict({m: nn.Linear(dim, dim, bias=False) for m in _ORDER})
        self.common = nn.Linear(dim, dim, bias=False)
        self.decode = nn.ModuleDict({m: nn.Linear(2 * dim, dim, bias=False) for m in _ORDER})
        self.align = nn.ModuleDict({m: nn.Linear(frames[m], dim) for m in _ORDER})

        self.common_encoder = nn.ModuleDict({m: encoder(dim, layers, m) for m in _ORDER})
        # The streams of a target are joined in the order text, audio, vision of their sources.
        self.sources = {target: [m for m in MODALITIES if m != target] for target in _ORDER}
        self.cross = nn.ModuleDict(
            {
                f"{target}_from_{source}": encoder(dim, layers, source)
                for target in _ORDER
                for source in self.sources[target]
            }
        )
        memory_layers = max(layers, _MIN_MEMORY_LAYERS)
        self.memory = nn.ModuleDict({target: encoder(2 * dim, memory_layers, "text") for target in _ORDER})

        outputs = self.n_outputs
        self.head_homo = nn.ModuleDict({m: ResidualHead(frames[m], dim, outputs, out_dropout) for m in _ORDER})
        self.head_hetero = nn.ModuleDict({m: ResidualHead(2 * dim, 2 * dim, outputs, out_dropout) for m in _ORDER})
        self.head_common = ResidualHead(3 * dim, 3 * dim, outputs, out_dropout)
        self.gate = nn.ModuleDict({m: nn.Linear(2 * dim, 2 * dim) for m in _ORDER})
        self.gate_common = nn.Linear(3 * dim, 3 * dim)
        self.head = ResidualHead(9 * dim, 9 * dim, outputs, out_dropout)
        self.graph_homo = _GraphDistillation(outputs, dim, edge_width_homo, _HOMO_PRIOR)
        self.graph_hetero = _GraphDistillation(outputs, 2 * dim, edge_width_hetero, _HETERO_PRIOR)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the joined gates ``(B, 9 d)``."""
        _, private, common = self._decoupled(batch)
        return self._fused(self._memories(private), self._common_vector(common))

    def training_forward(self, batch: Batch) -> Output:
        """Predict, also by each modality in both spaces, and put the modalities together again.

        Returns:
            ``aux`` holds, in the order text, vision, audio: ``<space>_logits`` ``(B, 3, C)``, ``<space>_reprs``
            ``(B, 3, d)`` or ``(B, 3, 2 d)`` and ``<space>_edges`` ``(B, 6)`` of space ``homo`` and ``hetero``,
            ``common_logits`` ``(B, C)`` and ``aligned`` ``(B, 3, d)``; and of each modality ``(B, T_m, d)``:
            ``projected_<m>`` P, ``private_<m>`` s, ``common_<m>`` c, ``recon_<m>`` (P from s and c) and ``cycle_<m>``
            (s of that).
        """
        projected, private, common = self._decoupled(batch)
        memories, common_vector = self._memories(private), self._common_vector(common)
        out = self._fused(memories, common_vector)

        recon = {m: self.decode[m](torch.cat([private[m], common[m]], dim=2)) for m in _ORDER}
        cycle = {m: self.private[m](recon[m]) for m in _ORDER}
        sequences = {"projected": projected, "private": private, "common": common, "recon": recon, "cycle": cycle}
        out.aux = {f"{name}_{m}": sequence[m] for name, sequence in sequences.items() for m in _ORDER}
        out.aux["aligned"] = torch.stack([self.align[m](common[m].flatten(1)) for m in _ORDER], dim=1)
        out.aux["common_logits"] = self.head_common(common_vector)[0]
        # What is distilled is the bottleneck of one head, and of the other what its prediction is read from.
        homo = [self.head_homo[m](common[m].flatten(1))[:2] for m in _ORDER]
        hetero = [self.head_hetero[m](memories[m])[::2] for m in _ORDER]
        for space, graph, heads in (("homo", self.graph_homo, homo), ("hetero", self.graph_hetero, hetero)):
            logits, reprs = (torch.stack(parts, dim=1) for parts in zip(*heads, strict=True))
            out.aux |= {f"{space}_logits": logits, f"{space}_reprs": reprs, f"{space}_edges": graph(logits, reprs)}
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """The task of all eight predictions, graph distillation in both spaces, and decoupling, weighted."""
        assert batch.labels is not None
        aux, labels = out.aux, batch.labels
        heads = [*aux["homo_logits"].unbind(1), *aux["hetero_logits"].unbind(1), aux["common_logits"]]
        homo = self.graph_homo.of_predictions(aux["homo_edges"], aux["homo_logits"])
        hetero = self.graph_hetero.of_predictions(aux["hetero_edges"], aux["hetero_logits"])
        hetero = hetero + self.graph_hetero.of_representations(aux["hetero_edges"], aux["hetero_reprs"])
        # Neither side of a distance is a constant to the gradient.
        recon = _sum(F.mse_loss(aux[f"recon_{m}"], aux[f"projected_{m}"]) for m in _ORDER)
        cycle = _sum(F.mse_loss(aux[f"cycle_{m}"], aux[f"private_{m}"]) for m in _ORDER)
        over = 2 if self.orth == "frames" else 0
        orth = _sum(F.relu(_cosine(aux[f"private_{m}"], aux[f"common_{m}"], dim=over)).mean() for m in _ORDER)
        margin = label_margin(aux["aligned"].flatten(0, 1), labels.repeat_interleave(3, 0), _MARGIN_SLOPE)
        return {
            "task": self.task_loss(out.pred, labels),
            "heads": _sum(self.task_loss(self.to_pred(logits), labels) for logits in heads),
            "graph_homo": self.lambda_graph * (homo + self.graph_homo.to_prior(aux["homo_edges"])),
            "graph_hetero": self.lambda_graph * (hetero + self.graph_hetero.to_prior(aux["hetero_edges"])),
            "recon": self.lambda_decoupling * recon,
            "cycle": self.lambda_decoupling * cycle,
            "margin": self.lambda_decoupling * self.lambda_margin * margin,
            "orth": self.lambda_decoupling * self.lambda_margin * orth,
        }

    def _decoupled(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Frames P of each modality and their private and common parts s and c, each ``(B, T_m, d)``."""
        text = F.dropout(self.text(batch), self.dropout_text, self.training)
        inputs = {"text": text, "audio": batch.audio, "vision": batch.vision}
        projected = {m: self.project[m](inputs[m]) for m in _ORDER}
        private = {m: self.private[m](projected[m]) for m in _ORDER}
        return projected, private, {m: self.common(projected[m]) for m in _ORDER}

    def _memories(self, private: dict[str, Tensor]) -> dict[str, Tensor]:
        """MulT on the private frames: the last step of each target, ``(B, 2 d)``."""
        memories = {}
        for target, sources in self.sources.items():
            streams = [self.cross[f"{target}_from_{source}"](private[target], private[source]) for source in sources]
            memories[target] = self.memory[target](torch.cat(streams, dim=2), last_only=True).squeeze(1)
        return memories

    def _common_vector(self, common: dict[str, Tensor]) -> Tensor:
        """The last steps of self-attention on the common frames, joined, ``(B, 3 d)``."""
        return torch.cat([self.common_encoder[m](common[m], last_only=True).squeeze(1) for m in _ORDER], dim=1)

    def _fused(self, memories: dict[str, Tensor], common_vector: Tensor) -> Output:
        """Predict from the gates alone: they replace the features instead of scaling them."""
        gates = [self.gate[m](memories[m]) for m in _ORDER] + [self.gate_common(common_vector)]
        joint = torch.cat(gates, dim=1).sigmoid()
        return Output(pred=self.to_pred(self.head(joint)[0]), representation=joint.detach())


def _cosine(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Cosine along ``dim``, with the stabilisation of PyTorch's cosine embedding loss; 0 for zeros."""
    lengths = ((a.square().sum(dim) + 1e-12) * (b.square().sum(dim) + 1e-12)).sqrt()
    return (a * b).sum(dim) / lengths


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()

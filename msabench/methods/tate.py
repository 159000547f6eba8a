"""TATE: Tag-assisted Multimodal Sentiment Analysis under Uncertain Missing Modalities.

Jiandian Zeng, Tianyi Liu, Jiantao Zhou. SIGIR 2022, https://arxiv.org/abs/2204.13707. Official code, in TensorFlow 1:
https://github.com/JaydenZeng/TATE at e450189, without a licence file.

Each modality goes through a Transformer block of its own and into two of three spaces that each pair of modalities
shares. All steps of all modalities stand one after the other; to each of them the tag is joined, four digits that say
which modalities the clip lacks. An encoder block reads that, X, and gives E; a decoder block is to find X again in it.
Attention over time makes c of E, which the score is read from, and whose last four numbers are to be the tag. A twin
that was trained on complete clips says what E should be.

Notation: B clips, T steps of all modalities together, d features (``dim``), E* the twin's E.

Deviations:
    Written from the official code, which was read and not run; the paper's text was not at hand. Nothing has been
    compared with numbers of theirs.

    1. As it stands the official graph gives every clip one and the same tag (a tensor is compared with a number while
       the graph is built), so that the network is told nothing. Here tags are what the code's table says they are to
       be; all three missing, which it does not have, is 0111. ``wo_tags`` gives every clip the tag of a complete one.
    2. Officially the twin's E* is asked for on the incomplete clip, and by the names in the graph it may even be the
       network's own E. Here it is, by default, that of the complete clip; ``teacher_input: same`` has the incomplete
       one.
    3. The first stage trains the twin on complete clips, without the comparison with E*; the second goes on from its
       weights, as the official code does by restoring them, with the twin frozen as it then is.
    4. Officially there are three classes on CMU-MOSI. Here scores are trained with L1, and emotions, four questions of
       two classes, with cross-entropy. Weights of the loss are those that stood beside a cross-entropy.
    5. Officially the terms are summed over the 32 clips of a batch, but for the tag's, which is a mean, and the penalty
       on the last layer. Here all are means: the last two get the 32nd part of their official weight.
    6. Officially dropout stays on in evaluation. Here it does not.
    7. Official clips are cut to 100 steps of vision, 150 of audio and 25 of text. Here they are as stored; configs take
       word-aligned files, as all steps attend to each other.
    8. As officially, a step is known to be missing or padding by being zero, and by nothing else, in the blocks of the
       modalities; what they make of it is one constant vector, which encoder, decoder and pooling read like any other.
       Frames may be dropped, too; a tag only says of a modality that it is missing as a whole.
    9. Officially weights are kept every ten steps, and the best ones on test are reported; a share of the clips loses
       vision, audio, text, or audio and text, once and for all, in one list that is then cut into train and test. Here
       validation and data module decide; configs say ``inter``, a subset of the modalities for each clip and epoch.
    10. The bias of the last layer begins at zero and not, as officially by the default of its scope, at a random value.
    11. A text encoder in place of features stays frozen. A removed text is zero, whatever it says of its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.text import TextInput

_ORDER = ("vision", "audio", "text")
"""Of modalities in time and in the tag, whose first digit says that the clip is complete."""

_SPACES = {"vision": ("va", "vt"), "audio": ("va", "ta"), "text": ("vt", "ta")}
"""Which of the pairs' spaces a modality goes into."""

_DIGITS = 1 + len(_ORDER)
_SMALLEST = 1e-7
"""Probabilities below count as this, as in Keras."""


class Block(nn.Module):
    """A Transformer block, post-norm: ``(B, T, D)`` to ``(B, T, D)``.

    Its attention has neither biases nor an output map. A step that is zero in a head is no key there, and attends to
    nothing: if all of it is zero it comes out as the same vector wherever it stands.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(3))
        self.attention_norm = nn.LayerNorm(width, eps=1e-8)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-8)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, D)`` to ``(B, T, D)``."""
        q, k, v = (project(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for project in self.project)
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        scores = scores.masked_fill(~k.any(3).unsqueeze(2), torch.finfo(scores.dtype).min)
        weights = scores.softmax(3) * q.any(3).unsqueeze(3)
        read = F.dropout(weights, self.dropout, self.training) @ v
        x = self.attention_norm(x + read.transpose(1, 2).flatten(2))
        normed: Tensor = self.norm(x + self.narrow(torch.relu(self.widen(x))))
        return normed


class TaggedEncoder(nn.Module):
    """From features to X and E: all that the twin needs of the network.

    Args:
        features: Modality -> features of a step.
        dim: Features d of a step.
        heads: Heads of every block.
        dropout: Dropout rate of attention weights.
    """

    def __init__(self, features: dict[str, int], dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.enter = nn.ModuleDict({m: nn.Linear(features[m], dim, bias=False) for m in _ORDER})
        self.blocks = nn.ModuleDict({m: Block(dim, heads, dropout) for m in _ORDER})
        self.spaces = nn.ModuleDict({pair: nn.Linear(dim, dim // 2, bias=False) for pair in ("va", "vt", "ta")})
        self.encode = Block(dim + _DIGITS, heads, dropout)

    def forward(self, features: dict[str, Tensor], tags: Tensor) -> tuple[Tensor, Tensor]:
        """X and E, each float ``(B, T, d + 4)``.

        Args:
            features: Modality -> float ``(B, T_m, D_m)``, 0 where missing and at padding.
            tags: float ``(B, 4)``, 0 or 1.
        """
        streams = []
        for m in _ORDER:
            h = self.blocks[m](self.enter[m](features[m]))
            streams.append(torch.cat([self.spaces[pair](h) for pair in _SPACES[m]], dim=2))
        joined = torch.cat(streams, dim=1)
        x = torch.cat([joined, tags.to(joined.dtype).unsqueeze(1).expand(-1, joined.shape[1], -1)], dim=2)
        return x, self.encode(x)


class GatedPooling(nn.Module):
    """One vector of a sequence, by attention with a gate: ``(B, T, D)`` to ``(B, D)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.values = nn.Linear(width, width, bias=False)
        self.gates = nn.Linear(width, width, bias=False)
        self.scores = nn.Linear(width, 1, bias=False)

    def forward(self, e: Tensor) -> Tensor:
        """``(B, T, D)`` to ``(B, D)``."""
        weights = self.scores(self.values(e) * torch.sigmoid(self.gates(e))).softmax(1)
        return (weights * e).sum(1)


def tags_of(batch: Batch) -> Tensor:
    """The digits of each clip: complete, without vision, without audio, without text.

    Args:
        batch: B clips. A modality is missing if none of its frames is observed.

    Returns:
        float32 ``(B, 4)``, 0 or 1.
    """
    missing = torch.stack([~batch.observed[m].any(1) for m in _ORDER], dim=1)
    return torch.cat([~missing.any(1, keepdim=True), missing], dim=1).float()


def two_way_divergence(a: Tensor, b: Tensor) -> Tensor:
    """``KL(p || q) + KL(q || p)`` of the softmax over features, averaged over steps.

    Args:
        a: float ``(B, T, D)``.
        b: Likewise.

    Returns:
        float ``(B,)``, at least 0.
    """
    p, q = (x.softmax(2).clamp(min=_SMALLEST) for x in (a, b))
    return ((p - q) * (p.log() - q.log())).sum(2).mean(1)


class TATE(MSAMethod):
    """TATE, see the module's docstring. It trains on ``batch.complete``, first the twin and then from its weights on.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default`` or ``wo_tags``, where every clip has the tag of a complete one.
        teacher_epochs: Epochs on complete clips, which ``trainer.max_epochs`` includes; at least 1.
        teacher_input: Whether the twin reads the ``complete`` clip, or the ``same`` as the network.
        dim: Features d of a step, even; it and ``dim + 4`` are multiples of ``heads``.
        heads: Heads of every block.
        dropout: Dropout rate of attention weights.
        lambda_teacher: Weight >= 0 of the divergence of E and E*.
        lambda_reconstruction: Weight >= 0 of the divergence of X and what is decoded of E.
        lambda_tag: Weight >= 0 of the error of the tag.
        text_encoder: Folder or hub name of a BERT that reads the tokens, and stays as it is; None for precomputed text
            features.
        lr: Learning rate of Adam.
        out_weight_decay: L2 weight decay of the last layer.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="tate",
        title="Tag-assisted Multimodal Sentiment Analysis under Uncertain Missing Modalities",
        venue="SIGIR",
        year=2022,
        url="https://arxiv.org/abs/2204.13707",
        fidelity="reconstructed",
        code_url="https://github.com/JaydenZeng/TATE",
        code_commit="e450189",
        variants=("wo_tags",),
        trains_with=("complete",),
        smoke={"teacher_epochs": 1, "dim": 8, "heads": 2},
    )
    complete_stages: ClassVar[tuple[str, ...]] = ("teacher",)
    schedule: Mapping[str, tuple[str, ...]] = MappingProxyType({"teacher": ("main",), "task": ("main",)})

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        teacher_epochs: int = 15,
        teacher_input: Literal["complete", "same"] = "complete",
        dim: int = 300,
        heads: int = 4,
        dropout: float = 0.2,
        lambda_teacher: float = 0.1,
        lambda_reconstruction: float = 0.1,
        lambda_tag: float = 0.1 / 32,
        text_encoder: str | None = None,
        lr: float = 1e-3,
        out_weight_decay: float = 1e-4 / 32,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, task_loss="l1")
        if teacher_epochs < 1:
            raise MSABenchError(f"teacher_epochs {teacher_epochs} is not allowed; give at least 1")
        if teacher_input not in ("complete", "same"):
            raise one_of("teacher_input", teacher_input, ("complete", "same"))
        if min(dim, heads) < 1 or dim % 2 or dim % heads or (dim + _DIGITS) % heads:
            raise MSABenchError(
                f"dim {dim} with {heads} heads is not allowed; dim must be even and, like dim + {_DIGITS}, a multiple "
                "of heads"
            )
        self.stage_epochs = {"teacher": teacher_epochs}
        self.teacher_input = teacher_input
        self.lambda_teacher = lambda_teacher
        self.lambda_reconstruction = lambda_reconstruction
        self.lambda_tag = lambda_tag
        self.out_weight_decay = out_weight_decay
        self.text = TextInput(spec, text_encoder)
        features = {**spec.feature_dims, "text": self.text.width}
        width = dim + _DIGITS
        self.encoder = TaggedEncoder(features, dim, heads, dropout)
        self.decoder = Block(width, heads, dropout)
        self.pool = GatedPooling(width)
        self.squeeze = nn.Linear(width, dim, bias=False)
        self.out = nn.Linear(dim, self.n_outputs)
        for part in (self.encoder, self.decoder, self.pool, self.squeeze, self.out):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        self.teacher = TaggedEncoder(features, dim, heads, dropout).requires_grad_(False)
        self._taught = False

    def prepare_stage(self, stage: str) -> None:
        """The twin is what the network is at the end of the first stage."""
        if stage != "task":
            return
        # What has been trained since then must not become the twin on a second call, from a checkpoint.
        if not self._taught:
            self.teacher.load_state_dict(self.encoder.state_dict())
            self._taught = True
        self.freeze_parts(self.teacher)

    def param_groups(self) -> list[dict[str, Any]]:
        """All but the last layer, and the last layer with its weight decay."""
        last = list(self.out.parameters())
        rest = [p for part in (self.encoder, self.decoder, self.pool, self.squeeze) for p in part.parameters()]
        return [{"params": rest}, {"params": last, "weight_decay": self.out_weight_decay}]

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is c."""
        return self._predicted(self.encoder(self._features(batch), self._tags(batch))[1])

    def training_forward(self, batch: Batch) -> Output:
        """Predict, decode, and compare with the twin.

        Returns:
            ``aux`` holds, each float ``(B,)``: ``reconstruction``, the divergence of X and what is decoded; ``tag``,
            the tag's mean absolute error; and in stage ``task`` ``teacher``, the divergence of E and E*.
        """
        complete = self.complete_of(batch)
        read = complete if self.stage == "teacher" else batch
        features, tags = self._features(read), self._tags(read)
        x, e = self.encoder(features, tags)
        out = self._predicted(e)
        assert out.representation is not None
        out.aux["reconstruction"] = two_way_divergence(self.decoder(e), x)
        out.aux["tag"] = (tags - torch.sigmoid(out.representation[:, -_DIGITS:])).abs().mean(1)
        if self.stage == "task":
            if self.teacher_input == "complete":
                features, tags = self._features(complete), self._tags(complete)
            with torch.no_grad():
                wanted = self.teacher(features, tags)[1]
            out.aux["teacher"] = two_way_divergence(e, wanted)
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Task, reconstruction and tag, and in stage ``task`` the twin's term: weighted means over clips."""
        terms = super().loss(out, batch)
        weights = {
            "teacher": self.lambda_teacher,
            "reconstruction": self.lambda_reconstruction,
            "tag": self.lambda_tag,
        }
        return terms | {name: weight * out.aux[name].mean() for name, weight in weights.items() if name in out.aux}

    def _predicted(self, e: Tensor) -> Output:
        c = self.pool(e)
        return Output(pred=self.to_pred(self.out(self.squeeze(c))), representation=c)

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        features = {m: batch.features[m] for m in MODALITIES if m != "text"}
        features["text"] = self.text(batch) * batch.observed["text"].any(1)[:, None, None]
        return features

    def _tags(self, batch: Batch) -> Tensor:
        tags = tags_of(batch)
        return torch.eye(1, _DIGITS, device=tags.device).expand_as(tags) if self.variant == "wo_tags" else tags

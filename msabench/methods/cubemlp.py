"""CubeMLP: A MLP-based Model for Multimodal Sentiment Analysis and Depression Estimation.

Hao Sun, Hongyi Wang, Jiaqing Liu, Yen-Wei Chen, Lanfen Lin. ACM Multimedia 2022, https://doi.org/10.1145/3503161.3548025.
Official code: https://github.com/kiva12138/CubeMLP at 49f75bd, no licence file (read for facts only).

Text, audio and vision become sequences of one length L and one width D, and are stacked as a cube (L, K, D) of steps,
K = 3 modalities and features. Each block mixes it along one axis after the other: steps, modalities, features, by a
perceptron of two layers that may shorten the axis. What is left is averaged or joined and read by a linear head.

Deviations:
    1. The official code feeds BERT the sentence itself and cuts the rest to its words; here the text is as long as in
       the file, and the mask of BERT is ``batch.valid``. As there, BERT's states at padding are part of the cube. Text
       may come as precomputed states.
    2. Audio and vision that are longer than the text are averaged over windows down to its length. The official code,
       which only has word-aligned files, would cut them off on both sides.
    3. A block's hidden width is its output width, as in the published command and in all defaults; one dropout is for
       all axes and one for all inputs and the head, for the same reason.
    4. Its composition ``sum`` is a mean; there is ``mean`` and ``cat`` here.
    5. Defaults are those of the published command for CMU-MOSI, from which the defaults of its command line differ.
       The official option of a schedule that follows the test loss is not offered.
    6. IEMOCAP: cross-entropy on four two-way outputs.

As in the official code, what is missing is found by its zeros: each frame of audio and vision that is zero where there
is text becomes 1e-6, so a removed modality is a constant, and recurrent networks run for as many steps as the text has.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.packed import run_packed
from msabench.nn.text import TextInput
from msabench.nn.window_mean import window_means

_EPS = 1e-6
_FILL = 1e-6
_WIDEST_LINEAR_HEAD = 128
_COMPOSE = ("mean", "cat")
_ENCODERS = ("gru", "lstm", "conv")


class _SequenceEncoder(nn.Module):
    """Audio or vision: recurrent network or convolution, LayerNorm, ReLU; ``(B, T, features)`` to ``(B, T, D)``."""

    def __init__(self, features: int, width: int, encoder: str) -> None:
        super().__init__()
        self.rnn: nn.GRU | nn.LSTM | None = None
        self.conv: nn.Conv1d | None = None
        if encoder == "gru":
            self.rnn = nn.GRU(features, width, num_layers=2, bidirectional=True, batch_first=True)
        elif encoder == "lstm":
            self.rnn = nn.LSTM(features, width, bidirectional=True, batch_first=True)
        else:
            self.conv = nn.Conv1d(features, width, kernel_size=3, padding=1)
        self.norm = nn.LayerNorm(width, eps=_EPS)
        for name, parameter in self.named_parameters():
            # The matrices of all gates as one.
            if "weight_hh" in name:
                nn.init.orthogonal_(parameter)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.conv is not None:
            x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        else:
            assert self.rnn is not None
            # Both directions are summed; past its length a clip is 0, so the LayerNorm's bias is left of it.
            x = run_packed(self.rnn, x, lengths)[0].unflatten(2, (2, -1)).sum(2)
        return F.relu(self.norm(x))


class _AxisMLP(nn.Module):
    """A perceptron along one axis of the cube, n_in to n_out, added to (a projection of) its input."""

    def __init__(
        self, axis: int, n_in: int, n_out: int, *, dropout: float, bias: bool, norm_first: bool, project: bool
    ) -> None:
        super().__init__()
        self.axis = axis
        self.norm_first = norm_first
        self.fc1 = nn.Linear(n_in, n_out, bias=bias)
        self.fc2 = nn.Linear(n_out, n_out, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(n_in if norm_first else n_out, eps=_EPS)
        self.residual = nn.Linear(n_in, n_out, bias=False) if project else nn.Identity()

    def forward(self, cube: Tensor) -> Tensor:
        x = cube.movedim(self.axis, -1)
        y = self.norm(x) if self.norm_first else x
        y = self.dropout(self.fc2(F.gelu(self.fc1(y)))) + self.residual(x)
        return (y if self.norm_first else self.norm(y)).movedim(-1, self.axis)


class CubeMLP(MSAMethod):
    """Mixes steps, modalities and features by perceptrons.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        dim: Features D of the cube that enters the first block.
        steps: Steps L of that cube; sequences are padded with zeros or cut off at the end. 100 in the official code.
        block_steps: Steps that each block leaves.
        block_modalities: Mixtures of modalities that each block leaves.
        block_widths: Features that each block leaves.
        res_project: Whether residuals are projected; must be where a block changes a size.
        bias: Whether the blocks' perceptrons have biases.
        norm_first: Whether blocks normalise before the perceptron, or after the sum.
        encoder: Encoder of audio and vision: ``gru`` (two layers), ``lstm`` (one), both bidirectional, or ``conv``.
        compose_steps: Whether the last block's steps are averaged (``mean``) or joined (``cat``).
        compose_modalities: The same for its modalities, afterwards.
        dropout: Dropout on the three inputs and in the head.
        block_dropout: Dropout after each perceptron.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        frozen_layers: First layers of a trained text encoder that are not.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        lr_epoch: Epoch from which the learning rate is a tenth; None for never.
        gradient_clip: Largest size of a gradient's entry; None for no limit.

    Raises:
        MSABenchError: Sizes are not of the same number of blocks, or change without a projection; or ``encoder`` or a
            composition is unknown.
    """

    info = MethodInfo(
        name="cubemlp",
        title="CubeMLP: A MLP-based Model for Multimodal Sentiment Analysis and Depression Estimation",
        venue="ACM MM",
        year=2022,
        url="https://doi.org/10.1145/3503161.3548025",
        fidelity="parity",
        code_url="https://github.com/kiva12138/CubeMLP",
        code_commit="49f75bd",
        smoke={"dim": 8, "steps": 10, "block_steps": (6, 4), "block_widths": (8, 6)},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        dim: int = 128,
        steps: int = 100,
        block_steps: tuple[int, ...] = (50, 10),
        block_modalities: tuple[int, ...] = (3, 3),
        block_widths: tuple[int, ...] = (128, 32),
        res_project: bool = True,
        bias: bool = True,
        norm_first: bool = True,
        encoder: Literal["gru", "lstm", "conv"] = "gru",
        compose_steps: Literal["mean", "cat"] = "mean",
        compose_modalities: Literal["mean", "cat"] = "cat",
        dropout: float = 0.1,
        block_dropout: float = 0.1,
        text_encoder: str | None = None,
        finetune: bool = False,
        frozen_layers: int = 9,
        text_lr: float = 4e-5,
        lr: float = 4e-3,
        lr_epoch: int | None = 60,
        gradient_clip: float | None = 1.0,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, task_loss="l1", gradient_clip=gradient_clip, clip_by="value")
        if encoder not in _ENCODERS:
            raise one_of("encoder of cubemlp", encoder, _ENCODERS)
        for name, compose in {"compose_steps": compose_steps, "compose_modalities": compose_modalities}.items():
            if compose not in _COMPOSE:
                raise one_of(f"{name} of cubemlp", compose, _COMPOSE)
        sizes = _block_sizes((steps, len(MODALITIES), dim), block_steps, block_modalities, block_widths)
        if not res_project and len(set(sizes)) > 1:
            raise MSABenchError(
                f"res_project false is not allowed with blocks of (steps, modalities, features) {sizes}; "
                "give blocks that keep all sizes, or true"
            )
        self.steps = steps
        self.compose = (compose_steps, compose_modalities)
        self.text_lr = text_lr
        self.lr_epoch = lr_epoch

        self.text = TextInput(spec, text_encoder, finetune=finetune, keep_padding=True)
        if self.text.encoder is not None:
            layers: Any = self.text.encoder.encoder.layer  # type: ignore[union-attr]
            layers[:frozen_layers].requires_grad_(False)
        self.project_text = nn.Linear(self.text.width, dim, bias=False)
        self.sequence = nn.ModuleDict({m: _SequenceEncoder(spec.feature_dims[m], dim, encoder) for m in MODALITIES[1:]})
        self.input_dropout = nn.Dropout(dropout)
        options: dict[str, Any] = {
            "dropout": block_dropout,
            "bias": bias,
            "norm_first": norm_first,
            "project": res_project,
        }
        self.blocks = nn.Sequential(
            *(
                _AxisMLP(axis, before[axis - 1], after[axis - 1], **options)
                for before, after in pairwise(sizes)
                for axis in (1, 2, 3)
            )
        )
        joint = sizes[-1][2]
        joint *= sizes[-1][0] if compose_steps == "cat" else 1
        joint *= sizes[-1][1] if compose_modalities == "cat" else 1
        self.head: nn.Module
        if joint <= _WIDEST_LINEAR_HEAD:
            self.head = nn.Linear(joint, self.n_outputs)
        else:
            self.head = nn.Sequential(
                nn.Linear(joint, _WIDEST_LINEAR_HEAD),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(_WIDEST_LINEAR_HEAD, self.n_outputs),
            )

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the composed cube, ``aux["cube"]`` the cube ``(B, L, K, D)`` it is made of."""
        cube = self.blocks(self._cube(batch))
        joint = cube.mean(1) if self.compose[0] == "mean" else cube.transpose(1, 2).flatten(2)
        joint = joint.mean(1) if self.compose[1] == "mean" else joint.flatten(1)
        return Output(pred=self.to_pred(self.head(joint)), representation=joint.detach(), aux={"cube": cube.detach()})

    def lr_multiplier(self, epoch: int, epochs: int) -> float:
        """A tenth from some epoch on."""
        return 0.1 if self.lr_epoch is not None and epoch >= self.lr_epoch else 1.0

    def _cube(self, batch: Batch) -> Tensor:
        """The inputs of the first block, ``(B, L, 3, D)``."""
        text = self.project_text(self.text(batch))
        lengths = batch.last["text"] + 1
        streams = [text]
        for m, network in self.sequence.items():
            streams.append(network(_like_text(batch.features[m], batch.valid["text"]), lengths))
        cube = self.input_dropout(torch.stack(streams, dim=2))
        # A negative padding cuts off.
        return F.pad(cube, (0, 0, 0, 0, 0, self.steps - cube.shape[1]))


def _like_text(x: Tensor, mask: Tensor) -> Tensor:
    """Bring ``(B, T, D)`` to the middle of as many steps as the text's mask ``(B, T_l)`` has, and fill zero frames."""
    steps = mask.shape[1]
    if x.shape[1] > steps:
        x = window_means(x, steps)
    before = (steps - x.shape[1]) // 2
    x = F.pad(x, (0, 0, before, steps - x.shape[1] - before))
    empty = (x == 0).all(dim=2) & mask
    return x.masked_fill(empty.unsqueeze(2), _FILL)


def _block_sizes(
    cube: tuple[int, int, int], steps: tuple[int, ...], modalities: tuple[int, ...], widths: tuple[int, ...]
) -> list[tuple[int, int, int]]:
    """The cube's sizes in front of the first block and behind each."""
    if not len(steps) == len(modalities) == len(widths) >= 1:
        raise MSABenchError(
            f"block_steps {steps}, block_modalities {modalities} and block_widths {widths} must have one size for each "
            "of the same number of blocks, at least one"
        )
    return [cube, *zip(steps, modalities, widths, strict=True)]

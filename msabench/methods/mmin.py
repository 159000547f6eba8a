"""MMIN: Missing Modality Imagination Network for Emotion Recognition with Uncertain Missing Modalities.

Jinming Zhao, Ruichen Li, Qin Jin. ACL 2021, https://aclanthology.org/2021.acl-long.203. Official code:
https://github.com/AIM3-RUC/MMIN at 2f22403, MIT licence; its encoders also in the MIT fork
https://github.com/ZhuoYulang/IF-MMIN at f4d65fc. The code behind the numbers that GCNet reports for MMIN on CMU-MOSI
and CMU-MOSEI is the port to vectors of utterances in https://github.com/zeroQiaoba/GCNet, baseline-mmin, at 8cce4a0,
without a licence file.

A teacher, one encoder a modality and a classifier, is trained on complete clips. MMIN's encoders E start from the
teacher's and read what is observed: f = [E_A, E_L, E_V]. From f the imagination G, a cascade of residual autoencoders,
makes f', which is to be what the frozen teacher's encoders T say of everything that is missing; a second cascade G'
goes back from f' to f. The prediction is read off the codes in the middle of G's autoencoders.

Notation: B clips, d features of an embedding (``dim``), N blocks of code size c. Each modality m has x_m, what is
observed, and its complement, what is not; either is zero where the other is.

Deviations:
    Paper and code agree on the network; where they leave a choice, the code is followed. "port" is the one to vectors.

    1. ``reads: sequence`` is the paper's and the official code's, ``vector`` the port's, which reads one vector of a
       modality. Ours is then the mean over the frames that are observed, as in GCNet (here, too), or the text's [CLS].
    2. Official maxima over time go over the zeros that pad a clip to the longest one of its batch, so that a prediction
       depends on the batch. By default LSTMs stop at a clip's end and maxima go over the steps that exist, which is the
       official number of each clip alone; ``mask_padding`` False reads every stored step. A text of fewer than the 5
       steps of the widest kernel, which the official code cannot read, gets zeros behind it.
    3. A modality that is missing, and the complement of one that is there, is zero over the full stored length. T(0) is
       then the same for all clips; officially it varies with the longest clip of the batch.
    4. Whole modalities go, officially. Where frames are dropped, x_m is what is left and its complement what was
       dropped, and the formulas stay as they are. Where tokens are dropped before a text encoder there is no complement
       of a text in parts: it counts as empty.
    5. Officially each training clip misses one of the six proper subsets of the modalities, drawn for each epoch; the
       port draws masks once, at one rate that training and test share. Here the data module decides; configs say
       ``inter`` over ``proper`` subsets. Under ``complete`` every target is T(0).
    6. Settings in which the codes differ: weights of G, G' and the classifier begin as ``init`` says, ``kaiming`` in
       the official code, ``normal`` in the port; G and G' have the same weights for MSP-IMPROV alone, variant
       ``shared``. ``wo_cycle`` leaves out G', as a model of both codes does.
    7. Scores are trained with the squared error, as in the port; the official code has classes. IEMOCAP has four
       questions of two classes here.
    8. The teacher is taken as its last epoch leaves it, where both codes keep the epoch with the best validation
       metric; validation here shows clips under the training regime, not complete ones.
    9. One limit for the gradients of teacher and MMIN, 5 as in the port; the official code has 5 and 1. As there it is
       on the norm of every network's gradients, each by itself: A, L, V, G, G', classifier.
    10. The official schedule counts the epochs at the full rate and those of the decay; we take the share of the first.
    11. A BERT in place of features stays frozen, and is the same for E and T. A removed text is zero, whatever it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.modality_encoder import mean_over
from msabench.nn.packed import run_packed
from msabench.nn.text import TextInput
from msabench.nn.text_vector import TextVector

_KERNELS = (3, 4, 5)
_ORDER = ("audio", "text", "vision")
"""In which embeddings are joined."""


class Stream(NamedTuple):
    """What an encoder reads of a modality: the observed part of clips, or its complement.

    Attributes:
        features: float ``(B, T, D)``, 0 where nothing is.
        valid: bool ``(B, T)``, the steps that exist, all where nothing is.
        there: bool ``(B, T)``, the steps that are not zero.
    """

    features: Tensor
    valid: Tensor
    there: Tensor


class Perceptron(nn.Module):
    """Two hidden layers with ReLU and dropout: ``(B, features)`` to ``(B, outputs)``."""

    def __init__(self, features: int, outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(features, hidden), nn.Linear(hidden, hidden)])
        self.out = nn.Linear(hidden, outputs)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """``(B, features)`` to ``(B, outputs)``."""
        for layer in self.hidden:
            x = F.dropout(torch.relu(layer(x)), self.dropout, self.training)
        outputs: Tensor = self.out(x)
        return outputs


class VectorEncoder(Perceptron):
    """Reads the mean over the steps that are there, or the first step alone: ``(B, d)``."""

    def __init__(self, features: int, dim: int, hidden: int, dropout: float, which: TextVector = "mean") -> None:
        super().__init__(features, dim, hidden, dropout)
        self.which = which

    def of(self, stream: Stream) -> Tensor:
        """A modality's embedding, ``(B, d)``."""
        if self.which == "first":
            return self(stream.features[:, 0])
        return self(mean_over(stream.features, stream.there))


class LSTMEncoder(nn.Module):
    """The maximum over time of an LSTM's states: ``(B, d)``."""

    def __init__(self, features: int, dim: int, mask_padding: bool) -> None:
        super().__init__()
        self.rnn = nn.LSTM(features, dim, batch_first=True)
        self.mask_padding = mask_padding

    def of(self, stream: Stream) -> Tensor:
        """A modality's embedding, ``(B, d)``."""
        if not self.mask_padding:
            return self.rnn(stream.features)[0].amax(1)
        steps = torch.arange(1, stream.valid.shape[1] + 1, device=stream.valid.device)
        lengths = (steps * stream.valid).amax(1).clamp(min=1)
        states = run_packed(self.rnn, stream.features, lengths)[0]
        exists = stream.valid | ~stream.valid.any(1, keepdim=True)
        return states.masked_fill(~exists.unsqueeze(2), -torch.inf).amax(1)


class TextCNN(nn.Module):
    """The maximum over time of convolutions of three widths, and a layer on it: ``(B, d)``."""

    def __init__(self, features: int, dim: int, channels: int, dropout: float, mask_padding: bool) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(features, channels, width) for width in _KERNELS)
        self.out = nn.Linear(len(_KERNELS) * channels, dim)
        self.dropout = dropout
        self.mask_padding = mask_padding

    def of(self, stream: Stream) -> Tensor:
        """A modality's embedding, ``(B, d)``."""
        # Behind a short text stand as many zeros as the widest kernel needs.
        short = _KERNELS[-1] - 1 if self.mask_padding else max(0, _KERNELS[-1] - stream.features.shape[1])
        x = F.pad(stream.features, (0, 0, 0, short)).transpose(1, 2)
        steps = torch.arange(x.shape[2], device=x.device)
        exists = F.pad(stream.valid | ~stream.valid.any(1, keepdim=True), (0, short))
        first = exists.int().argmax(1, keepdim=True)
        end = torch.maximum((exists * (steps + 1)).amax(1, keepdim=True), first + _KERNELS[-1])
        maxima = []
        for convolution, width in zip(self.convolutions, _KERNELS, strict=True):
            seen = torch.relu(convolution(x))
            if self.mask_padding:
                start = steps[: seen.shape[2]]
                seen = seen * ((start >= first) & (start + width <= end)).unsqueeze(1)
            maxima.append(seen.amax(2))
        return torch.relu(self.out(F.dropout(torch.cat(maxima, dim=1), self.dropout, self.training)))


class Imagination(nn.Module):
    """G: a cascade of residual autoencoders.

    Args:
        features: Features of what comes in and goes out.
        blocks: Autoencoders N.
        widths: Layers of an encoder; the last is the code c.
    """

    def __init__(self, features: int, blocks: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (features, *widths)
        self.encode = nn.ModuleList(_layers(sizes, nn.LeakyReLU) for _ in range(blocks))
        self.decode = nn.ModuleList(_layers(sizes[::-1], nn.ReLU) for _ in range(blocks))
        self.transition = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features))

    def forward(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """What is imagined of f ``(B, features)``, as large, and the codes of all blocks ``(B, N c)``."""
        codes = []
        for encode, decode in zip(self.encode, self.decode, strict=True):
            codes.append(encode(f))
            f = f + decode(codes[-1])
        return self.transition(f), torch.cat(codes, dim=1)


class Teacher(nn.Module):
    """An encoder for each modality, and a classifier of what they say."""

    def __init__(self, encoders: nn.ModuleDict, classifier: Perceptron) -> None:
        super().__init__()
        self.encoders = encoders
        self.classifier = classifier


class MMIN(MSAMethod):
    """MMIN, see the module's docstring. It trains on ``batch.complete``, first the teacher and then the imagination.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``; ``wo_cycle``, without the way back; ``shared``, with one network for both ways.
        teacher_epochs: Epochs of the teacher, which ``trainer.max_epochs`` includes; at least 1.
        reads: Whether encoders read a ``sequence`` or one ``vector`` of each modality.
        dim: Features d of a modality's embedding.
        cnn_width: Channels of each of the text's three convolutions.
        out_width: Hidden units of classifiers, and of the encoders of vectors.
        blocks: Autoencoders N of a cascade, at least 1.
        block_widths: Layers of an autoencoder's encoder; the last is the code that is predicted from.
        dropout: Dropout rate of MMIN's classifier, and of its encoders of vectors.
        teacher_dropout: The same for the teacher.
        cnn_dropout: Dropout rate behind the text's convolutions.
        init: ``kaiming`` or ``normal`` (deviation .02) weights of both cascades and MMIN's classifier.
        lambda_imagination: Weight >= 0 of the error of f'.
        lambda_cycle: Weight >= 0 of the error of f''.
        mask_padding: Whether LSTMs stop at the end of a clip and maxima leave out padding; predictions of the official
            False depend on the stored length.
        text_vector: ``mean`` takes the mean over the text's observed words, ``first`` its first state ([CLS] of BERT);
            for the encoder of vectors.
        text_encoder: Folder or hub name of a BERT that reads the tokens, and stays as it is; None for precomputed text
            features.
        lr: Learning rate of Adam.
        momentum: First beta of Adam for MMIN, in [0, 1); the teacher's is 0.9.
        constant_share: Share of a stage's epochs at the full learning rate, in [0, 1]; it then falls in a line.
        gradient_clip: Largest norm of a step's gradient, of each network by itself; None for no limit.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="mmin",
        title="Missing Modality Imagination Network for Emotion Recognition with Uncertain Missing Modalities",
        venue="ACL",
        year=2021,
        url="https://aclanthology.org/2021.acl-long.203",
        fidelity="parity",
        code_url="https://github.com/AIM3-RUC/MMIN",
        code_commit="2f22403",
        licence="MIT",
        variants=("wo_cycle", "shared"),
        trains_with=("complete",),
        smoke={"teacher_epochs": 1, "dim": 8, "cnn_width": 6, "out_width": 8, "blocks": 2, "block_widths": (12, 6)},
    )
    complete_stages: ClassVar[tuple[str, ...]] = ("teacher",)
    schedule: Mapping[str, tuple[str, ...]] = MappingProxyType({"teacher": ("main",), "task": ("main",)})

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        teacher_epochs: int = 20,
        reads: Literal["sequence", "vector"] = "sequence",
        dim: int = 128,
        cnn_width: int = 128,
        out_width: int = 128,
        blocks: int = 5,
        block_widths: tuple[int, ...] = (256, 128, 64),
        dropout: float = 0.5,
        teacher_dropout: float = 0.3,
        cnn_dropout: float = 0.5,
        init: Literal["kaiming", "normal"] = "kaiming",
        lambda_imagination: float = 4.0,
        lambda_cycle: float = 2.0,
        mask_padding: bool = True,
        text_vector: TextVector = "mean",
        text_encoder: str | None = None,
        lr: float = 1e-3,
        momentum: float = 0.5,
        constant_share: float = 0.2,
        gradient_clip: float | None = 5.0,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, task_loss="mse", gradient_clip=gradient_clip, clip_by="group")
        if min(teacher_epochs, blocks, *block_widths) < 1 or not block_widths:
            raise MSABenchError(
                f"teacher_epochs {teacher_epochs}, blocks {blocks} and each of block_widths {block_widths} must be at "
                "least 1"
            )
        for name, value, allowed in (
            ("reads", reads, ("sequence", "vector")),
            ("init", init, ("kaiming", "normal")),
            ("text_vector", text_vector, ("first", "mean")),
        ):
            if value not in allowed:
                raise one_of(name, value, allowed)
        if not 0 <= momentum < 1 or not 0 <= constant_share <= 1:
            raise MSABenchError(f"momentum {momentum} must be in [0, 1) and constant_share {constant_share} in [0, 1]")
        self.stage_epochs = {"teacher": teacher_epochs}
        self.lambda_imagination, self.lambda_cycle = lambda_imagination, lambda_cycle
        self.momentum = momentum
        self.constant_share = constant_share
        self.text = TextInput(spec, text_encoder)
        widths = {**spec.feature_dims, "text": self.text.width}

        def encoders(dropout: float) -> nn.ModuleDict:
            made: dict[str, nn.Module] = {}
            for m in _ORDER:
                if reads == "vector":
                    which = text_vector if m == "text" else "mean"
                    made[m] = VectorEncoder(widths[m], dim, out_width, dropout, which)
                elif m == "text":
                    made[m] = TextCNN(widths[m], dim, cnn_width, cnn_dropout, mask_padding)
                else:
                    made[m] = LSTMEncoder(widths[m], dim, mask_padding)
            return nn.ModuleDict(made)

        joint = len(_ORDER) * dim
        self.teacher = Teacher(encoders(teacher_dropout), Perceptron(joint, self.n_outputs, out_width, teacher_dropout))
        self.encoders = encoders(dropout)
        self.imagine = Imagination(joint, blocks, block_widths)
        self.imagine_back = Imagination(joint, blocks, block_widths) if variant == "default" else None
        self.classifier = Perceptron(blocks * block_widths[-1], self.n_outputs, out_width, dropout)
        self._initialise(self.teacher, "kaiming")
        for part in (self.imagine, self.imagine_back, self.classifier):
            self._initialise(part, init)

    def prepare_stage(self, stage: str) -> None:
        """The imagination starts from the teacher's encoders, and the teacher is trained no more."""
        if stage != "task":
            return
        # What has been trained since then must survive a second call, from a checkpoint.
        if any(parameter.requires_grad for parameter in self.teacher.parameters()):
            self.encoders.load_state_dict(self.teacher.encoders.state_dict())
        self.freeze_parts(self.teacher)

    def param_groups(self) -> list[dict[str, Any]]:
        """A group for each network of the stage."""
        if self.stage == "teacher":
            networks = [*self.teacher.encoders.values(), self.teacher.classifier]
        else:
            networks = [*self.encoders.values(), self.imagine, self.classifier]
            networks += [self.imagine_back] if self.imagine_back is not None else []
        betas = (0.9 if self.stage == "teacher" else self.momentum, 0.999)
        return [{"params": list(network.parameters()), "betas": betas} for network in networks]

    def lr_multiplier(self, epoch: int, epochs: int) -> float:
        """Full at first, then falling in a line to near 0."""
        constant = round(self.constant_share * epochs)
        return 1 - max(0, epoch + 1 - constant) / (epochs - constant + 1)

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the codes. In stage ``teacher`` the teacher predicts, from what it embeds."""
        if self.stage == "teacher":
            joint = self._embedded(self.teacher.encoders, self._observed(batch))
            return Output(pred=self.to_pred(self.teacher.classifier(joint)), representation=joint)
        return self._imagined(batch)[0]

    def training_forward(self, batch: Batch) -> Output:
        """Predict, and compare what is imagined with what the teacher says of the complement.

        Returns:
            In stage ``task`` ``aux`` holds, each ``(B, 3d)``: ``imagined`` f', its ``target``, and but for ``wo_cycle``
            ``back`` f'' and f as it ``began``, without gradient.
        """
        complete = self.complete_of(batch)
        if self.stage == "teacher":
            return self(complete)
        out, f, imagined = self._imagined(batch)
        out.aux["imagined"] = imagined
        with torch.no_grad():
            out.aux["target"] = self._embedded(self.teacher.encoders, self._complement(batch, complete))
        if self.variant != "wo_cycle":
            back = self.imagine if self.imagine_back is None else self.imagine_back
            out.aux["back"], out.aux["began"] = back(imagined)[0], f.detach()
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Task, imagination and cycle, weighted; the teacher has the first term alone."""
        terms = super().loss(out, batch)
        if "imagined" in out.aux:
            terms["imagination"] = self.lambda_imagination * F.mse_loss(out.aux["imagined"], out.aux["target"])
        if "back" in out.aux:
            terms["cycle"] = self.lambda_cycle * F.mse_loss(out.aux["back"], out.aux["began"])
        return terms

    def _imagined(self, batch: Batch) -> tuple[Output, Tensor, Tensor]:
        """The prediction, f and f'."""
        f = self._embedded(self.encoders, self._observed(batch))
        imagined, codes = self.imagine(f)
        return Output(pred=self.to_pred(self.classifier(codes)), representation=codes), f, imagined

    @staticmethod
    def _embedded(encoders: nn.ModuleDict, streams: dict[str, Stream]) -> Tensor:
        return torch.cat([encoder.of(streams[m]) for m, encoder in encoders.items()], dim=1)  # type: ignore[operator]

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        return {m: self.text(batch) if m == "text" else batch.features[m] for m in MODALITIES}

    def _observed(self, batch: Batch) -> dict[str, Stream]:
        """What is observed of each modality."""
        features = self._features(batch)
        there = {m: batch.observed[m].any(1)[:, None, None] for m in MODALITIES}
        return {m: Stream(features[m] * there[m], batch.valid[m], batch.observed[m]) for m in MODALITIES}

    def _complement(self, batch: Batch, complete: Batch) -> dict[str, Stream]:
        """What the complete clips have and the batch has not."""
        streams = {}
        for m, features in self._features(complete).items():
            observed = batch.observed[m]
            if m == "text" and batch.text_level == "tokens":
                observed = observed.any(1, keepdim=True)
            lost = complete.observed[m] & ~observed
            valid = complete.valid[m] | ~lost.any(1, keepdim=True)
            streams[m] = Stream(features * lost.unsqueeze(2), valid, lost)
        return streams

    @staticmethod
    def _initialise(part: nn.Module | None, init: Literal["kaiming", "normal"]) -> None:
        for module in part.modules() if part is not None else ():
            if isinstance(module, nn.Linear | nn.Conv1d) and module.bias is not None:
                if init == "kaiming":
                    nn.init.kaiming_normal_(module.weight)
                else:
                    nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


def _layers(sizes: tuple[int, ...], between: type[nn.Module]) -> nn.Sequential:
    """Linear layers with a nonlinearity between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), between()]
    return nn.Sequential(*layers[:-1])

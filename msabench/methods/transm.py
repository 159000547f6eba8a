"""TransM, or TransModality: An End2End Fusion Method with Transformer for Multimodal Sentiment Analysis.

Zilong Wang, Zhaohong Wan, Xiaojun Wan. WWW 2020, https://arxiv.org/abs/2009.02902. Code:
https://github.com/hyeonJeongByeon/TransModality at d4384fa, no licence. It presents itself as the paper's source, and
its commits bear the first author's name. It is written in Keras and was not compared with numerically.

Text is translated into another modality and back, by a Transformer each way: what an encoder has to keep so that the
other modality can be told from it joins the two. A fusion cell of text t and another modality b, vision or audio,
encodes t into E_tb, from which a decoder that reads b gives D_1 and, by a linear map, b again. A second Transformer
encodes D_1 into E_bt, from which a decoder that reads t gives t again. The joint feature of a step is
``[E_tv, E_vt, E_ta, E_at, h_t, h_a, h_v]``, with h the states of bidirectional GRUs that all of this runs on. At test
the translations themselves, and the second decoder, are not needed.

The paper has complete clips. How it is used where modalities are missing, as a baseline of UMDF and others, is not
published; that part is a reconstruction: what is missing is zero at the input, everything runs in every condition, and
translations have the complete features as targets, so that they have to supply what is not there.

Notation: N sequences of T steps, d channels (``dim``).

Deviations:
    1. The original reads a video as a sequence of utterances, one vector per utterance and modality, and predicts for
       each. ``sequence: conversation`` is this form, with the mean over an utterance's steps, missing ones as zeros, in
       place of its vector. The default, ``frames``, reads a clip as a sequence of frames; the joint feature is averaged
       over the steps that exist before the last layer. A clip is then predicted without its neighbours, as by the other
       methods.
    2. The original takes steps whose features are all zero for padding. Then a missing modality would be, too: here
       missing steps are read and attended to as zeros, and only steps that do not exist are masked.
    3. Steps are shared by all modalities. Audio and vision of unaligned files are interpolated onto the text's steps.
       Files padded in front are moved to start at step 0.
    4. The GRUs' recurrent dropout is left out, as torch has none. Their input dropout drops a feature for the whole
       sequence, as in Keras. Like torch's, each gate has two biases, where Keras has one.
    5. Translations pass a ReLU in the original and cannot be negative, but features can: it is off (``relu_output``).
    6. The mean errors have weight 10, on raw features. Ours are to be standardised (``data.normalise: zscore``).
    7. The original classifies polarity. Scores have L1 here; IEMOCAP's emotions two-way cross-entropy, averaged.
    8. Start weights as in Keras: Glorot's, uniform, orthogonal between GRU states, biases zero.
    9. 10 encoder and 5 decoder layers, post-norm and with dropout 0.5, train poorly without warm-up. They are the
       preset ``paper`` of configs and the default here; ``light`` means 3 and 3 and is not from the paper.
    10. Text is read from precomputed features, since it has to be translated into as well.
    11. The original keeps the last epoch; ours is selected on the validation split.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.data.needs import Needs
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.common_axis import common_axis, from_first_step, onto_axis
from msabench.nn.conversations import ConversationLayout
from msabench.nn.modality_encoder import mean_over
from msabench.nn.packed import run_packed
from msabench.nn.positions import SinusoidalPositions


def _dense(d_in: int, d_out: int, parts: int = 1) -> nn.Linear:
    """A linear map that starts as Keras's, or several of them side by side."""
    linear = nn.Linear(d_in, parts * d_out)
    for part in linear.weight.chunk(parts):
        nn.init.xavier_uniform_(part)
    nn.init.zeros_(linear.bias)
    return linear


class _Attention(nn.Module):
    """Multi-head attention with a ReLU after each of its four projections, the output's too."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = _dense(dim, dim)
        self.key_value = _dense(dim, dim, parts=2)
        self.out = _dense(dim, dim)

    def forward(self, x: Tensor, memory: Tensor, valid: Tensor) -> Tensor:
        """Attend from ``(N, T, d)`` to ``(N, S, d)`` where bool ``(N, S)`` is True."""
        q = self.query(x).relu().unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(memory).relu().unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=valid[:, None, None, :])
        return self.out(mixed.transpose(1, 2).flatten(2)).relu()


class _Layer(nn.Module):
    """A post-norm layer ``x = LN(x + Dropout(sublayer(x)))`` of an encoder, or of a decoder, which reads a memory."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, *, reads_memory: bool) -> None:
        super().__init__()
        self.attend_self = _Attention(dim, heads)
        self.attend_memory = _Attention(dim, heads) if reads_memory else None
        self.feed_forward = nn.Sequential(_dense(dim, hidden), nn.ReLU(), _dense(hidden, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3 if reads_memory else 2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor, memory: Tensor | None) -> Tensor:
        """Map ``(N, T, d)`` to the same shape; bool ``(N, T)`` says which steps of input and memory exist."""
        x = self.norms[0](x + self.dropout(self.attend_self(x, x, valid)))
        if self.attend_memory is not None:
            x = self.norms[1](x + self.dropout(self.attend_memory(x, memory, valid)))
        return self.norms[-1](x + self.dropout(self.feed_forward(x)))


class _Stack(nn.Module):
    """An encoder or a decoder: layers on the sum of its input and position codes. A decoder looks ahead, too."""

    def __init__(self, layers: int, dim: int, *sizes: Any, reads_memory: bool = False) -> None:
        super().__init__()
        self.positions = SinusoidalPositions(dim, 0)  # grows with the sequences it meets
        self.layers = nn.ModuleList(_Layer(dim, *sizes, reads_memory=reads_memory) for _ in range(layers))

    def forward(self, x: Tensor, valid: Tensor, memory: Tensor | None = None) -> Tensor:
        x = self.positions(x)
        for layer in self.layers:
            x = layer(x, valid, memory)
        return x


class _FusionCell(nn.Module):
    """Translates text into another modality, b, and back."""

    def __init__(self, text_width: int, other_width: int, dim: int, depths: tuple[int, int], *sizes: Any) -> None:
        super().__init__()
        encoder_layers, decoder_layers = depths
        self.encoder_forth = _Stack(encoder_layers, dim, *sizes)
        self.decoder_forth = _Stack(decoder_layers, dim, *sizes, reads_memory=True)
        self.encoder_back = _Stack(encoder_layers, dim, *sizes)
        self.decoder_back = _Stack(decoder_layers, dim, *sizes, reads_memory=True)
        self.to_other = _dense(dim, other_width)
        self.to_text = _dense(dim, text_width)

    def forward(
        self, text: Tensor, other: Tensor, valid: Tensor, *, translate: bool
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Encode ``(N, T, d)`` each of text and b on the way forth and back.

        Returns:
            E_tb and E_bt, ``(N, T, d)`` each; and, if asked for, b from D_1, ``(N, T, D_b)``, and text from E_bt,
            ``(N, T, D_t)``.
        """
        forth = self.encoder_forth(text, valid)
        decoded = self.decoder_forth(other, valid, forth)
        back = self.encoder_back(decoded, valid)
        if not translate:
            return forth, back, ()
        return forth, back, (self.to_other(decoded), self.to_text(self.decoder_back(text, valid, back)))


class _ContextEncoder(nn.Module):
    """A bidirectional GRU over a sequence, and a tanh layer: ``(N, T, D)`` to ``(N, T, d)``."""

    def __init__(self, in_features: int, width: int, dim: int, input_dropout: float, dropout: float) -> None:
        super().__init__()
        self.input_dropout = input_dropout
        self.gru = nn.GRU(in_features, width, batch_first=True, bidirectional=True)
        for name, parameter in self.gru.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(parameter)
            else:
                nn.init.xavier_uniform_(parameter)
        self.dense = _dense(2 * width, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        kept = F.dropout(x.new_ones(len(x), 1, x.shape[2]), self.input_dropout, self.training)
        states, _ = run_packed(self.gru, x * kept, lengths)
        return self.dropout(self.dense(self.dropout(states)).tanh())


class _Frames:
    """The clips of a batch as sequences of frames on the axis that all modalities share, from step 0 on.

    Attributes:
        valid: bool ``(N, T)``, steps that exist.
        lengths: int64 ``(N,)``, how many.
    """

    def __init__(self, batch: Batch) -> None:
        self.axis = common_axis(batch)
        self.order, self.lengths = from_first_step(self.axis.valid)
        self.valid = self.axis.valid.gather(1, self.order)

    def of(self, batch: Batch, m: str) -> tuple[Tensor, Tensor]:
        """A modality of this batch, or of its complete version: ``(N, T, D)``, and where it exists, ``(N, T)``."""
        x, exists = batch.features[m], batch.valid[m]
        if exists.shape[1] != self.order.shape[1]:
            x, exists = onto_axis(x, exists, self.axis.valid), self.axis.valid & exists.any(1, keepdim=True)
        return x.take_along_dim(self.order.unsqueeze(2), 1), exists.gather(1, self.order) & self.valid

    def mean(self, x: Tensor) -> Tensor:
        """Mean over a clip's steps: ``(N, T, D)`` to ``(B, D)``."""
        return mean_over(x, self.valid)

    def sum(self, x: Tensor) -> Tensor:
        """Sum over a clip's steps: ``(N, T)`` to ``(B,)``."""
        return x.sum(1)


class _Utterances:
    """The conversations of a batch as sequences of clips, in the terms of ``_Frames``; a clip has one step."""

    def __init__(self, batch: Batch) -> None:
        self.layout = ConversationLayout.of(batch)
        self.lengths = self.layout.lengths
        self.valid = self.layout.mask.transpose(0, 1)

    def of(self, batch: Batch, m: str) -> tuple[Tensor, Tensor]:
        exists = batch.valid[m].any(1)
        vectors = mean_over(batch.features[m], batch.valid[m])
        return self.layout.pad(vectors).transpose(0, 1), self.layout.pad(exists).transpose(0, 1)

    def mean(self, x: Tensor) -> Tensor:
        return self.layout.unpad(x.transpose(0, 1))

    sum = mean


class TransM(MSAMethod):
    """TransModality, see the module's docstring. It trains on ``batch.complete`` besides the batch itself.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``.
        sequence: What a sequence is made of: a clip's ``frames``, or the clips of a ``conversation`` (a video).
        encoder_layers: Layers of each of the four encoders; 10 in preset ``paper``, 3 in ``light``.
        decoder_layers: Layers of each of the four decoders; 5 in preset ``paper``, 3 in ``light``.
        dim: Channels d of a modality; a multiple of ``heads``.
        heads: Attention heads.
        gru_width: Width of the GRUs in each direction.
        feedforward_vision: Width of feed-forward networks in the cell of text and vision.
        feedforward_audio: The same in the cell of text and audio.
        dropout: Dropout rate in [0, 1) after every sub-layer of the Transformers.
        input_dropout: Dropout rate in [0, 1) on features that enter the GRUs.
        context_dropout: Dropout rate in [0, 1) on states of the GRUs, and on h.
        relu_output: Whether translations pass a ReLU.
        lambda_translation: Weight >= 0 of each of the four translations' mean absolute errors.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; None, as in the
            original, keeps it constant.
        gradient_clip: Largest norm of a step's gradient; None, as in the original, for no limit.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="transm",
        title="TransModality: An End2End Fusion Method with Transformer for Multimodal Sentiment Analysis",
        venue="WWW",
        year=2020,
        url="https://arxiv.org/abs/2009.02902",
        fidelity="reconstructed",
        code_url="https://github.com/hyeonJeongByeon/TransModality",
        code_commit="d4384fa",
        trains_with=("complete",),
        smoke={
            "encoder_layers": 1,
            "decoder_layers": 1,
            "dim": 8,
            "heads": 2,
            "gru_width": 6,
            "feedforward_vision": 12,
            "feedforward_audio": 10,
        },
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        sequence: Literal["frames", "conversation"] = "frames",
        encoder_layers: int = 10,
        decoder_layers: int = 5,
        dim: int = 100,
        heads: int = 5,
        gru_width: int = 300,
        feedforward_vision: int = 200,
        feedforward_audio: int = 120,
        dropout: float = 0.5,
        input_dropout: float = 0.5,
        context_dropout: float = 0.3,
        relu_output: bool = False,
        lambda_translation: float = 10.0,
        lr: float = 1e-3,
        lr_patience: int | None = None,
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, lr_patience=lr_patience, gradient_clip=gradient_clip)
        if sequence not in ("frames", "conversation"):
            raise one_of("sequence", sequence, ("frames", "conversation"))
        if dim < 1 or heads < 1 or dim % heads:
            raise MSABenchError(
                f"dim {dim} with {heads} heads is not allowed; dim must be a positive multiple of heads"
            )
        if min(encoder_layers, decoder_layers) < 1:
            raise MSABenchError(
                f"encoder_layers {encoder_layers} and decoder_layers {decoder_layers} must both be at least 1"
            )
        if lambda_translation < 0:
            raise MSABenchError(f"lambda_translation {lambda_translation} is not allowed; give 0 or more")
        self.sequence = sequence
        self.relu_output = relu_output
        self.lambda_translation = lambda_translation
        widths = spec.feature_dims
        self.encoders = nn.ModuleDict(
            {m: _ContextEncoder(widths[m], gru_width, dim, input_dropout, context_dropout) for m in MODALITIES}
        )
        hidden = {"vision": feedforward_vision, "audio": feedforward_audio}
        depths = (encoder_layers, decoder_layers)
        self.cells = nn.ModuleDict(
            {m: _FusionCell(widths["text"], widths[m], dim, depths, heads, hidden[m], dropout) for m in hidden}
        )
        self.classifier = _dense(7 * dim, self.n_outputs)

    @property
    def data_needs(self) -> Needs:
        """Whole conversations, where these are the sequences."""
        return replace(super().data_needs, conversations=self.sequence == "conversation")

    def forward(self, batch: Batch) -> Output:
        """Predict; ``representation`` is the joint feature ``(B, 7 d)`` of each clip."""
        sequences = self._sequences(batch)
        joint, _ = self._fuse({m: sequences.of(batch, m)[0] for m in MODALITIES}, sequences.valid, sequences.lengths)
        return self._output(sequences.mean(joint))

    def training_forward(self, batch: Batch) -> Output:
        """Predict, translate, and compare translations with the complete version.

        Returns:
            ``aux`` holds for each translation, ``vision``, ``audio``, ``text_from_vision`` and ``text_from_audio``, the
            absolute error, averaged over features and summed over a clip's steps, ``error_<translation>`` ``(B,)``, and
            the number of these steps, ``steps_<translation>`` ``(B,)``.
        """
        complete = self.complete_of(batch)
        sequences = self._sequences(batch)
        inputs = {m: sequences.of(batch, m)[0] for m in MODALITIES}
        joint, translated = self._fuse(inputs, sequences.valid, sequences.lengths, translate=True)
        out = self._output(sequences.mean(joint))
        for name, guess in translated.items():
            target, exists = sequences.of(complete, name.partition("_")[0])
            error = (guess - target).abs().mean(2).masked_fill(~exists, 0.0)
            out.aux |= {f"error_{name}": sequences.sum(error), f"steps_{name}": sequences.sum(exists.to(error))}
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """The task term, and each translation's mean absolute error over features and existing steps, weighted."""
        assert batch.labels is not None
        terms = {"task": self.task_loss(out.pred, batch.labels)}
        for name in ("vision", "audio", "text_from_vision", "text_from_audio"):
            steps = out.aux[f"steps_{name}"].sum().clamp(min=1)
            terms[name] = self.lambda_translation * out.aux[f"error_{name}"].sum() / steps
        return terms

    def _sequences(self, batch: Batch) -> _Frames | _Utterances:
        return _Utterances(batch) if self.sequence == "conversation" else _Frames(batch)

    def _fuse(
        self, inputs: dict[str, Tensor], valid: Tensor, lengths: Tensor, *, translate: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Joint features of steps ``(N, T, 7 d)`` and, if asked for, the four translations."""
        h = {m: self.encoders[m](inputs[m], lengths) for m in MODALITIES}
        encoded: list[Tensor] = []
        translated: dict[str, Tensor] = {}
        for m, cell in self.cells.items():
            forth, back, guesses = cell(h["text"], h[m], valid, translate=translate)
            encoded += [forth, back]
            if self.relu_output:
                guesses = [guess.relu() for guess in guesses]
            translated |= zip((m, f"text_from_{m}"), guesses, strict=False)  # there may be none
        return torch.cat([*encoded, h["text"], h["audio"], h["vision"]], dim=2), translated

    def _output(self, joint: Tensor) -> Output:
        return Output(pred=self.to_pred(self.classifier(joint)), representation=joint.detach())

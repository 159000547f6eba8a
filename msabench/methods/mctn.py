"""MCTN: Found in Translation: Learning Robust Joint Representations by Cyclic Translations Between Modalities.

Hai Pham, Paul Pu Liang, Thomas Manzini, Louis-Philippe Morency, Barnabas Poczos. AAAI 2019,
https://doi.org/10.1609/aaai.v33i01.33016892. Official code: https://github.com/hainow/MCTN at 5c03e35 (GPL-3.0, Keras,
with cells of https://github.com/farizrahman4u/recurrentshop), which no longer runs; written anew from what it computes.

What an encoder needs in order to translate a modality into another one is a joint representation of both. Level 1
translates a source into T_1 and, with the same encoder and decoder, the result back into the source; the states E_1 of
its encoder on the source are what level 2 translates into T_2; the states E_2 of that encoder are what the sentiment is
predicted from. The decoders serve the losses alone: a prediction goes source -> E_1 -> E_2 -> regressor.

The paper's source is the text, so a clip without text has a constant prediction, and audio and vision never change
one: that is variant ``text``. Tables of the missing-modality literature (UMDF, FSRF, HRLF) have seven different numbers
for MCTN, one per subset of modalities, and do not say how. The default is our reconstruction: the source is everything
that is there, side by side in one frame, T_1 the vision and T_2 the audio, all targets complete.

Notation: B clips, T steps of the text, D features of a source frame, H ``hidden``.

Deviations:
    1. The default's missing-modality use is ours altogether. A source frame is [x_l; x_a; x_v] with zeros for what is
       missing, and no flag tells what is; T_1 = [0; 0; x_v], as wide as the source so that the same encoder reads the
       decoded sequence back, its zeros included in the error as the official padding is; the way back ends at
       [x_l; x_a; x_v], T_2 = x_a. Decoded sequences are not squashed by tanh, since targets are unbounded.
    2. Variant ``text`` is the official network: all three zero-padded in features to the widest, tanh on what is
       decoded. Variant ``bimodal`` is its level 1 alone, from the text to the vision, with the regressor on E_1.
       The official code has two orders of the targets; vision first is that of its README.
    3. Standardised features (``normalise: zscore`` of the data module) in place of FACET over its maximum and the
       others as they are, so that a missing block is the mean, and errors of modalities compare.
    4. Padding is neither read, attended to nor counted in a loss, on whichever side the file has it: every clip is
       encoded and decoded from its first frame on. ``mask_padding=False`` reads and counts all steps, as officially.
       Clips have all steps of their files, not 20.
    5. The cells are plain LSTMs. ``keras_compat_cell=True`` gives the official ones, which differ from it: see
       ``_KerasLSTM``. Either way initial values are Keras's, with a forget bias of 1 in the regressor alone.
    6. The official decoder scores a step j of its source by a linear map of [x_j; c], c its own state of the step
       before. The share of c is the same for all j and cancels in the softmax, and so does the bias: each step sees
       the same context. We leave both out and compute the context once; what is computed is the same.
    7. The best epoch by ``val/task`` is taken, with the standard splits. The official code stops by the total
       validation loss, but predicts with the last epoch's weights.
    8. Features of different rates: the existing steps of audio and vision are interpolated onto those of the text.
       Text is precomputed features; a text encoder in training would be a moving target.
    9. IEMOCAP: cross-entropy on four two-way outputs in place of the absolute error.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.losses.reconstruction import frame_error
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import MODALITIES
from msabench.nn.common_axis import at_steps, common_axis, from_first_step

_Role = Literal["encoder", "decoder", "regressor"]


class _KerasLSTM(nn.Module):
    """The official recurrent layers, one direction; gates i, f, g, o in this order, one bias on the input.

    All have i and f by hard_sigmoid(x) = clip(0.2 x + 0.5, 0, 1). The ``regressor`` is Keras's LSTM, its o likewise.
    In the ``encoder`` the state that is carried on is squashed, ``c = tanh(f c + i tanh(g))``, and o is linear,
    ``h = o c``. In the ``decoder`` f is i, so its own slice does nothing.
    """

    def __init__(self, features: int, hidden: int, role: _Role) -> None:
        super().__init__()
        self.role, self.hidden = role, hidden
        self.input = nn.Linear(features, 4 * hidden)
        self.recurrent = nn.Linear(hidden, 4 * hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, T, D)`` to ``(B, T, H)``."""
        h = c = x.new_zeros(len(x), self.hidden)
        states = []
        for from_input in self.input(x).unbind(1):
            i, f, g, o = (from_input + self.recurrent(h)).chunk(4, dim=1)
            i, f, g = _hard_sigmoid(i), _hard_sigmoid(f), g.tanh()
            if self.role == "encoder":
                c = (f * c + i * g).tanh()
                h = o * c
            else:
                c = (i if self.role == "decoder" else f) * c + i * g
                h = _hard_sigmoid(o) * c.tanh()
            states.append(h)
        return torch.stack(states, dim=1)


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0, 1)  # torch's own has another slope


class _Recurrent(nn.Module):
    """An LSTM, or the official layer of that role: ``(B, T, D)`` to ``(B, T, H)``."""

    def __init__(self, features: int, hidden: int, role: _Role, keras: bool) -> None:
        super().__init__()
        self.rnn = _KerasLSTM(features, hidden, role) if keras else nn.LSTM(features, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states = self.rnn(x)
        return states if isinstance(self.rnn, _KerasLSTM) else states[0]


class _Encoder(nn.Module):
    """A layer in each direction, the two summed: ``(B, T, D)`` to ``(B, T, H)``.

    The second one reads every clip from its last step on. So nothing of the padding behind a clip gets into its own
    steps, just as with packed sequences, which are several times slower on a CPU and wait for a GPU. What stands past
    a clip's end means nothing.
    """

    def __init__(self, features: int, hidden: int, keras: bool) -> None:
        super().__init__()
        self.from_start = _Recurrent(features, hidden, "encoder", keras)
        self.from_end = _Recurrent(features, hidden, "encoder", keras)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], device=x.device)
        mirrored = torch.where(_exists(x, lengths), lengths.unsqueeze(1) - 1 - steps, steps)
        clips = torch.arange(len(x), device=x.device).unsqueeze(1)
        return self.from_start(x) + self.from_end(x[clips, mirrored])[clips, mirrored]


class _Decoder(nn.Module):
    """Attends to an encoded sequence and runs on what it finds, as many steps as there are: the whole translation.

    Without a part of the decoder's state in its scores (see Deviations) every step attends to the same.
    """

    def __init__(self, hidden: int, features: int, keras: bool, bounded: bool) -> None:
        super().__init__()
        self.score = nn.Linear(hidden, 1, bias=False)
        self.rnn = _Recurrent(hidden, hidden, "decoder", keras)
        self.output = nn.Linear(hidden, features)
        self.bounded = bounded

    def forward(self, encoded: Tensor, lengths: Tensor) -> Tensor:
        """Decode ``(B, T, H)`` of the given lengths as ``(B, T, D)``, all T steps."""
        context = _weighted(encoded, self.score(encoded), lengths)
        decoded: Tensor = self.output(self.rnn(context.unsqueeze(1).expand_as(encoded)))
        return decoded.tanh() if self.bounded else decoded


class _Regressor(nn.Module):
    """An LSTM, its states' mean by weights of their own, and a linear head."""

    def __init__(self, hidden: int, n_outputs: int, keras: bool) -> None:
        super().__init__()
        self.rnn = _Recurrent(hidden, hidden, "regressor", keras)
        self.score = nn.Linear(hidden, 1)
        self.head = nn.Linear(hidden, n_outputs)

    def forward(self, encoded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(B, T, H)`` to outputs ``(B, n_outputs)`` and the vector ``(B, H)`` they are made from."""
        states = self.rnn(encoded)
        joint = _weighted(states, self.score(states).tanh(), lengths)
        return self.head(joint), joint


def _weighted(x: Tensor, scores: Tensor, lengths: Tensor) -> Tensor:
    """Mean of ``(B, T, H)`` over the steps that exist, weighted by the softmax of scores ``(B, T, 1)``."""
    weights = scores.masked_fill(~_exists(x, lengths).unsqueeze(2), -torch.inf).softmax(dim=1)
    return (weights * x).sum(1)


def _exists(x: Tensor, lengths: Tensor) -> Tensor:
    """Whether a step of ``(B, T, ...)`` lies before its clip's end, ``(B, T)``."""
    return torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)


class MCTN(MSAMethod):
    """MCTN, see the module's docstring. It trains on ``batch.complete``.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default``, whose source is every modality that is there; ``text``, the official network from text
            over vision to audio; ``bimodal``, its first level alone.
        hidden: Units H of every recurrent layer, at least 1.
        lambda_vision: Weight >= 0 of the error of T_1, the vision.
        lambda_cycle: Weight >= 0 of the error on the way back to the source.
        lambda_audio: Weight >= 0 of the error of T_2, the audio.
        lambda_l2: Weight >= 0 of the squares of the last layer's weights.
        mask_padding: Whether padding is left out; officially it is read and counted like any frame.
        keras_compat_cell: Whether recurrent cells are the official ones, which are slower and no plain LSTMs.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; None, as
            officially, keeps it constant.
        gradient_clip: Largest norm of a step's gradient; None, as officially, for no limit.

    Raises:
        MSABenchError: An argument outside its range, or training on batches without their complete version.
    """

    info = MethodInfo(
        name="mctn",
        title="Found in Translation: Learning Robust Joint Representations by Cyclic Translations Between Modalities",
        venue="AAAI",
        year=2019,
        url="https://doi.org/10.1609/aaai.v33i01.33016892",
        fidelity="reconstructed",
        code_url="https://github.com/hainow/MCTN",
        code_commit="5c03e35",
        licence="GPL-3.0",
        variants=("text", "bimodal"),
        trains_with=("complete",),
        smoke={"hidden": 8},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        hidden: int = 32,
        lambda_vision: float = 0.1,
        lambda_cycle: float = 0.1,
        lambda_audio: float = 0.1,
        lambda_l2: float = 0.01,
        mask_padding: bool = True,
        keras_compat_cell: bool = False,
        lr: float = 1e-4,
        lr_patience: int | None = None,
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, lr_patience=lr_patience, gradient_clip=gradient_clip)
        if hidden < 1:
            raise MSABenchError(f"hidden {hidden} is not allowed; give at least 1")
        self.weights = {"vision": lambda_vision, "cycle": lambda_cycle, "audio": lambda_audio}
        self.lambda_l2 = lambda_l2
        self.mask_padding = mask_padding
        self.from_text = variant != "default"
        dims = spec.feature_dims
        translated = [dims[m] for m in MODALITIES if variant != "bimodal" or m != "audio"]
        self.width = max(translated) if self.from_text else sum(translated)
        keras = keras_compat_cell
        self.encode_1 = _Encoder(self.width, hidden, keras)
        self.decode_1 = _Decoder(hidden, self.width, keras, bounded=self.from_text)
        self.encode_2: _Encoder | None = None
        self.decode_2: _Decoder | None = None
        if variant != "bimodal":
            self.encode_2 = _Encoder(hidden, hidden, keras)
            audio_width = self.width if self.from_text else dims["audio"]
            self.decode_2 = _Decoder(hidden, audio_width, keras, bounded=self.from_text)
        self.regress = _Regressor(hidden, self.n_outputs, keras)
        self._initialise(hidden)

    def forward(self, batch: Batch) -> Output:
        """Predict from the source. Nothing is decoded."""
        return self._encode(batch)[0]

    def training_forward(self, batch: Batch) -> Output:
        """Predict, and translate there and back.

        Returns:
            ``aux`` holds what was decoded: ``vision`` and ``cycle`` ``(B, T, D)``, and ``audio`` ``(B, T, d_a)``
            (``(B, T, D)`` in variant ``text``, absent in ``bimodal``).
        """
        out, e_1, e_2, lengths = self._encode(batch)
        _, whole = self._read(self.complete_of(batch), "text")
        vision = self.decode_1(e_1, lengths)
        out.aux = {"vision": vision, "cycle": self.decode_1(self.encode_1(vision, whole), whole)}
        if self.decode_2 is not None:
            out.aux["audio"] = self.decode_2(e_2, lengths)
        return out

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Task, translations compared with the complete clips, and the L2 term of the last layer's weights."""
        assert batch.labels is not None
        terms = {
            "task": self.task_loss(out.pred, batch.labels),
            "l2": self.lambda_l2 * self.regress.head.weight.square().sum(),
        }
        targets, lengths = self._targets(self.complete_of(batch))
        for name, target in targets.items():
            error = frame_error(out.aux[name], target, _exists(target, lengths))
            terms[name] = self.weights[name] * error
        return terms

    def _encode(self, batch: Batch) -> tuple[Output, Tensor, Tensor, Tensor]:
        """Prediction, E_1 and E_2 ``(B, T, H)``, and lengths ``(B,)``. Without level 2 E_2 is E_1."""
        source, lengths = self._source(batch)
        e_1 = self.encode_1(source, lengths)
        e_2 = e_1 if self.encode_2 is None else self.encode_2(e_1, lengths)
        outputs, joint = self.regress(e_2, lengths)
        return Output(pred=self.to_pred(outputs), representation=joint), e_1, e_2, lengths

    def _source(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The source ``(B, T, D)`` and its lengths ``(B,)``."""
        streams, lengths = self._read(batch, *(MODALITIES[:1] if self.from_text else MODALITIES))
        return self._padded(torch.cat(streams, dim=2)), lengths

    def _targets(self, complete: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """What each translation of ``aux`` should be, ``(B, T, D)``, and its lengths ``(B,)``."""
        source, lengths = self._source(complete)
        (vision, audio), _ = self._read(complete, "vision", "audio")
        # In the default the vision stands where it does in the source, at its end.
        vision = self._padded(vision) if self.from_text else F.pad(vision, (self.width - vision.shape[2], 0))
        targets = {"vision": vision, "cycle": source}
        if self.decode_2 is not None:
            targets["audio"] = self._padded(audio) if self.from_text else audio
        return targets, lengths

    def _read(self, batch: Batch, *modalities: str) -> tuple[list[Tensor], Tensor]:
        """Modalities on the steps of the text, from the first that exists on, ``(B, T, d_m)``, and their number."""
        if self.from_text:  # not even the lengths of audio and vision may enter
            valid = batch.valid["text"]
            valid = valid | ~valid.any(1, keepdim=True)
        else:
            valid = common_axis(batch).valid
        streams = [at_steps(batch, m, batch.features[m], valid) for m in modalities]
        if not self.mask_padding:
            return streams, torch.full((batch.size,), valid.shape[1], device=valid.device)
        order, lengths = from_first_step(valid)
        return [x.take_along_dim(order.unsqueeze(2), 1) for x in streams], lengths

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, self.width - x.shape[2]))

    def _initialise(self, hidden: int) -> None:
        """Keras's initial values: Glorot where inputs are read, orthogonal where states are; biases 0 (forget 1)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)
                if name in ("regress.rnn.rnn.bias_ih_l0", "regress.rnn.rnn.input.bias"):
                    nn.init.ones_(parameter[hidden : 2 * hidden])
            elif "_hh_" in name or ".recurrent." in name:
                nn.init.orthogonal_(parameter)
            else:
                nn.init.xavier_uniform_(parameter)

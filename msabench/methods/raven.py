"""RAVEN: Words Can Shift: Dynamically Adjusting Word Representations Using Nonverbal Behaviors.

Yansen Wang, Ying Shen, Zhun Liu, Paul Pu Liang, Amir Zadeh, Louis-Philippe Morency. AAAI 2019,
https://doi.org/10.1609/aaai.v33i01.33017216. Official code: https://github.com/victorywys/RAVEN at c276657 (Python 2,
no licence).

What is seen and heard while a word is spoken shifts its vector. One LSTM per modality reads the frames of a word, a
gate weighs its last state by how it fits the word, and a linear map of both gives the shift, whose length is bounded by
the word's own. An LSTM over the shifted words gives the prediction from its state at the last word.

A missing word is a zero vector and is never shifted. So without the text the prediction is a constant, whatever is seen
and heard.

Notation: B clips, T words, F frames of a word.

Deviations:
    1. The official code takes the shift out of the graph (``.data``): the networks of audio and vision get no gradient
       and stay as they were drawn. By default ours are trained, as the paper describes; ``detach_shift=True`` is the
       code's way. The repository is a later rewrite of the data loading, whose authors say that they have not found
       good settings for it, so nothing says that published numbers came from a detached shift.
    2. Paper and code differ in two places, and the code is the default, as what can be compared with. ``gate_rule``:
       the gate is a plain linear map in the code and passes a sigmoid in the paper. ``shift_rule``: the code multiplies
       a shift s of a word x by ``b |x| / max(|s|, 1)``, the paper by ``min(b |x| / |s|, 1)``; b is ``shift_weight``.
    3. The official batch norm of the audio uses the statistics of the batch in evaluation, too, so that a prediction
       would depend on the other clips. Ours uses running means there. As officially, the statistics are of a word's
       place, over clips, frames and features, empty frames included, and the vision has no norm.
    4. Word-aligned files have one frame per word, so that the LSTM over frames runs for one step, and its recurrent
       weights are frozen. Where the rates differ, a clip's frames are dealt out to its words evenly, at most
       ``frames_per_word`` (officially 20, found by the time of each word). A word whose frames are all missing has
       none, and the zero state, as officially; behind its last observed frame a word's frames are not read, between
       others missing ones are zeros.
    5. Files padded in front are moved to begin at step 0.
    6. Evaluation is without dropout and by the best epoch on validation. Officially dropout stays on, there are 500
       epochs, and the best validation value of each metric is taken by itself; single clips left over are skipped.
    7. IEMOCAP: one network with four two-way outputs and cross-entropy, in place of four networks.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.nn.common_axis import from_first_step
from msabench.nn.text import TextInput

_RULES = ("code", "paper")


class _Nonverbal(nn.Module):
    """What one modality does during each word, weighed by a gate.

    Args:
        features: Features D of a frame.
        words: Features of a word.
        cell: Width of resized frames and of the LSTM.
        dropout: Dropout on frames.
        gate_rule: See the method.
        single: Whether no word has more than one frame.
        places: Words T for a norm of each place; None for no norm.
    """

    def __init__(
        self,
        features: int,
        *,
        words: int,
        cell: int,
        dropout: float,
        gate_rule: str,
        single: bool,
        places: int | None = None,
    ) -> None:
        super().__init__()
        self.norm = None if places is None else nn.BatchNorm1d(places)
        self.dropout = nn.Dropout(dropout)
        self.resize = nn.Linear(features, cell)
        self.lstm = nn.LSTM(cell, cell, batch_first=True)
        # The first step starts from a state of zeros.
        self.lstm.weight_hh_l0.requires_grad_(not single)
        self.gate = nn.Linear(cell + words, 1)
        self.gate_rule = gate_rule

    def forward(self, frames: Tensor, counts: Tensor, words: Tensor) -> Tensor:
        """Map frames ``(B, T, F, D)``, of which a word has ``counts`` (B, T), and words to ``(B, T, cell)``."""
        if self.norm is not None:
            frames = self.norm(frames.flatten(2)).view_as(frames)
        states, _ = self.lstm(self.resize(self.dropout(frames)).flatten(0, 1))
        last = (counts.flatten() - 1).clamp(min=0)
        state = states[torch.arange(len(states), device=states.device), last].unflatten(0, counts.shape)
        state = state * (counts > 0).unsqueeze(2)
        gate: Tensor = self.gate(torch.cat([state, words], dim=2))
        return state * (gate.sigmoid() if self.gate_rule == "paper" else gate)


class RAVEN(MSAMethod):
    """RAVEN, see the module's docstring.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: Only ``default``.
        cell: Units of the LSTMs over a word's frames, and width of the frames that they read.
        hidden: Units of the LSTM over words.
        shift_weight: Largest length b >= 0 of a shift, in lengths of the word.
        dropout: Dropout on frames and on shifted words.
        frames_per_word: Frames of a word that are read at most, at least 1, where rates differ.
        gate_rule: Whether the gate is that of the ``code`` or of the ``paper``, see Deviations.
        shift_rule: The same for the length of a shift.
        detach_shift: Whether shifts are left out of the gradient, as in the official code.
        text_encoder: Folder or hub name of a BERT that reads the tokens; None for precomputed text features.
        finetune: Whether the text encoder is trained.
        text_lr: Learning rate of a trained text encoder.
        lr: Learning rate of Adam.
        lr_patience: Epochs without a better ``val/task`` before the learning rate is divided by 10; None, as
            officially, keeps it constant.
        task_loss: ``mse``, as officially, or ``l1``; IEMOCAP's emotions always use cross-entropy.

    Raises:
        MSABenchError: An argument outside its range.
    """

    info = MethodInfo(
        name="raven",
        title="Words Can Shift: Dynamically Adjusting Word Representations Using Nonverbal Behaviors",
        venue="AAAI",
        year=2019,
        url="https://doi.org/10.1609/aaai.v33i01.33017216",
        fidelity="parity",
        code_url="https://github.com/victorywys/RAVEN",
        code_commit="c276657",
        needs=("text",),
        smoke={"cell": 6, "hidden": 8, "frames_per_word": 3},
    )

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        cell: int = 150,
        hidden: int = 300,
        shift_weight: float = 0.2,
        dropout: float = 0.2,
        frames_per_word: int = 20,
        gate_rule: Literal["code", "paper"] = "code",
        shift_rule: Literal["code", "paper"] = "code",
        detach_shift: bool = False,
        text_encoder: str | None = None,
        finetune: bool = False,
        text_lr: float = 2e-5,
        lr: float = 1e-3,
        lr_patience: int | None = None,
        task_loss: Literal["l1", "mse"] = "mse",
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, lr_patience=lr_patience, task_loss=task_loss)
        for name, rule in {"gate_rule": gate_rule, "shift_rule": shift_rule}.items():
            if rule not in _RULES:
                raise one_of(name, rule, _RULES)
        if frames_per_word < 1:
            raise MSABenchError(f"frames_per_word {frames_per_word} is not allowed; give at least 1")
        if shift_weight < 0:
            raise MSABenchError(f"shift_weight {shift_weight} is not allowed; give 0 or more")
        self.shift_weight = shift_weight
        self.frames_per_word = frames_per_word
        self.shift_rule = shift_rule
        self.detach_shift = detach_shift
        self.text_lr = text_lr
        self.text = TextInput(spec, text_encoder, finetune=finetune)
        dims, words, steps = spec.feature_dims, self.text.width, self.text.steps
        single = {m: frames_per_word == 1 or spec.seq_lens[m] in (1, steps) for m in ("audio", "vision")}
        nonverbal = partial(_Nonverbal, words=words, cell=cell, dropout=dropout, gate_rule=gate_rule)
        self.audio = nonverbal(dims["audio"], single=single["audio"], places=steps)
        self.vision = nonverbal(dims["vision"], single=single["vision"])
        self.shift = nn.Linear(2 * cell, words)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(words, hidden, batch_first=True)
        self.head = nn.Linear(hidden, self.n_outputs)
        if detach_shift:
            for part in (self.audio, self.vision, self.shift):
                part.requires_grad_(False)

    def forward(self, batch: Batch) -> Output:
        """Predict from the words and what shifts them."""
        order, lengths = from_first_step(batch.valid["text"])
        words = self.text(batch).take_along_dim(order.unsqueeze(2), dim=1)
        states, _ = self.lstm(self.dropout(words + self._shifts(words, batch)))
        joint = states[torch.arange(len(states), device=states.device), lengths - 1]
        return Output(pred=self.to_pred(self.head(joint)), representation=joint)

    def _shifts(self, words: Tensor, batch: Batch) -> Tensor:
        """Shifts ``(B, T, D_l)`` of words."""
        heard, seen = (
            getattr(self, m)(*frames_of_words(batch, m, self.frames_per_word), words) for m in ("audio", "vision")
        )
        shift: Tensor = self.shift(torch.cat([heard, seen], dim=2))
        if self.detach_shift:
            shift = shift.detach()
        length = torch.linalg.vector_norm(shift, dim=2, keepdim=True)
        limit = self.shift_weight * torch.linalg.vector_norm(words, dim=2, keepdim=True)
        if self.shift_rule == "paper":
            return shift * (limit / length.clamp(min=1e-12)).clamp(max=1.0)
        return shift * limit / length.clamp(min=1.0)


def frames_of_words(batch: Batch, modality: str, most: int) -> tuple[Tensor, Tensor]:
    """A modality's frames by the word they belong to.

    With as many steps as the text the frame of a word is that of its step. Otherwise the frames that exist are dealt
    out to the words that exist, each getting ``floor((w + 1) n / W) - floor(w n / W)`` in a row.

    Args:
        batch: The batch.
        modality: ``audio`` or ``vision``.
        most: Frames of a word that are kept at most, from its first one on.

    Returns:
        Frames ``(B, T, F, D)`` of words from a clip's first one on, 0 where a word has none, and how many of them to
        read, int64 ``(B, T)`` in [0, F]: up to the last one observed.
    """
    x, observed, text = batch.features[modality], batch.observed[modality], batch.valid["text"]
    order, n_words = from_first_step(text)
    if x.shape[1] == text.shape[1]:
        index = order.unsqueeze(2)
        dealt = torch.ones_like(index, dtype=torch.bool)
    else:
        own, n_frames = from_first_step(batch.valid[modality])
        word, place = (torch.arange(n, device=x.device) for n in (text.shape[1], min(most, x.shape[1])))
        share = n_frames.unsqueeze(1), n_words.unsqueeze(1)
        first, end = (((word + k) * share[0]).div(share[1], rounding_mode="floor") for k in (0, 1))
        step = first.unsqueeze(2) + place
        dealt = (step < end.unsqueeze(2)) & (word < share[1]).unsqueeze(2)
        index = own.gather(1, step.clamp(max=x.shape[1] - 1).flatten(1)).view_as(step)
    clips = torch.arange(batch.size, device=x.device).view(-1, 1, 1)
    read = observed[clips, index] & dealt
    places = torch.arange(1, index.shape[2] + 1, device=x.device)
    return x[clips, index] * dealt.unsqueeze(3), (read * places).amax(2)

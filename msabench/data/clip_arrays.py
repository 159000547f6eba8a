"""Brings clips to the shapes that a method was trained on: its steps, its padded side. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.data.frames import Bools, Floats, Ints
from msabench.data.info import DataSpec
from msabench.data.read_clips import RawClips
from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import CLS, SEP, UNK


@dataclass
class ClipArrays:
    """N clips in the shapes of a training; T_m and D_m are its steps and features of modality m.

    Attributes:
        features: modality -> float32 ``(N, T_m, D_m)``, of all modalities; zero where there is nothing.
        lengths: modality -> int64 ``(N,)`` in [0, T_m].
        observed: modality -> bool ``(N, T_m)``, of modalities of which frames exist that nothing may see.
        tokens: int64 ``(N, 3, T_l)`` ids, attention mask, token types.
    """

    features: dict[str, Floats]
    lengths: dict[str, Ints]
    observed: dict[str, Bools] = field(default_factory=dict)
    tokens: Ints | None = None


def fitted_clips(read: RawClips, spec: DataSpec, padding: dict[str, str], *, cut: bool, name: str) -> ClipArrays:
    """Give clips the steps of a training, padded on its side.

    A modality that is not there has no frame; if its lengths are given, its frames exist and are not observed.

    Args:
        read: The clips; what is cut is added to its notes.
        spec: What the training's data looked like.
        padding: modality -> padded side of the training's data.
        cut: Whether longer clips lose what is behind the training's steps, instead of being refused.
        name: What errors call the clips.

    Raises:
        MSABenchError: A clip has more steps than those of the training, and is not to be cut.
    """
    n_clips = len(read.ids)
    made = ClipArrays({}, {})
    for modality in MODALITIES:
        steps, dims = spec.seq_lens[modality], spec.feature_dims[modality]
        lengths = read.lengths.get(modality, np.zeros(n_clips, dtype=np.int64))
        longer = lengths > steps
        if longer.any() and not cut:
            row = int(np.argmax(lengths))
            raise MSABenchError(
                f"{name}: {modality} of clip {read.ids[row]!r} has {lengths[row]} steps, and the training had {steps}; "
                f"give shorter clips, or cut them to their first {steps} steps with --cut (cut=True)"
            )
        if longer.any():
            read.notes.append(f"{modality} of {int(longer.sum()):,} clips was cut to its first {steps} steps")
        made.lengths[modality] = np.minimum(lengths, steps)
        sides = (read.padding[modality], padding[modality])
        values = read.features.get(modality)
        if values is not None and values.shape[2] == dims:
            made.features[modality] = _moved(values, lengths, steps, *sides)
        else:
            # Absent; or text features beside the token ids that are read in their place.
            made.features[modality] = np.zeros((n_clips, steps, dims), dtype=np.float32)
        if modality in read.observed:
            made.observed[modality] = _moved(read.observed[modality], lengths, steps, *sides)
        elif values is None and not (modality == "text" and read.tokens is not None):
            made.observed[modality] = np.zeros((n_clips, steps), dtype=bool)
    made.tokens = _tokens(read, made.lengths["text"], spec.seq_lens["text"])
    return made


def _moved(values: NDArray[Any], lengths: Ints, steps: int, side: str, wanted: str) -> NDArray[Any]:
    """The existing frames of each clip, the first ``steps`` of them, among as many steps and padded on a side.

    Args:
        values: ``(N, T, ...)``, padded on ``side``.
        lengths: int64 ``(N,)``.
        steps: Steps of the result.
        side: ``front`` or ``end``.
        wanted: Side of the result.
    """
    kept = np.minimum(lengths, steps)[:, None]
    first = (values.shape[1] - lengths if side == "front" else np.zeros_like(lengths))[:, None]
    place = np.arange(steps)[None, :]
    # Number of each step among the frames of its clip; negative or too high in the padding.
    frame = place - (steps - kept if wanted == "front" else 0)
    exist = (frame >= 0) & (frame < kept)
    source = np.clip(frame + first, 0, values.shape[1] - 1)
    moved: NDArray[Any] = values[np.arange(len(values))[:, None], source]
    moved[~exist] = 0
    return moved


def _tokens(read: RawClips, lengths: Ints, steps: int) -> Ints:
    """Token rows of the training's steps; those of clips without text are unknown words, as many as their length."""
    place = np.arange(steps)
    # What a tokenizer makes of nothing is [CLS] [SEP].
    words = np.clip(lengths, 2, steps)[:, None]
    exist = place < words
    ids = np.where(place == 0, CLS, np.where(place == words - 1, SEP, UNK)) * exist
    tokens = np.stack([ids, exist, np.zeros_like(ids)], axis=1).astype(np.int64)
    if read.tokens is None:
        return tokens
    counts, shared = read.tokens[:, 1].sum(axis=1), min(steps, read.tokens.shape[2])
    there = counts > 0
    tokens[there] = 0
    tokens[there, :, :shared] = read.tokens[there, :, :shared]
    # A sentence ends with [SEP] wherever it is cut.
    tokens[counts > steps, 0, steps - 1] = SEP
    return tokens

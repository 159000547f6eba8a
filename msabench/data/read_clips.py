"""The reader of clips that somebody wants predictions for: features alone, of any of the modalities. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.data.feature_rows import FeatureRows
from msabench.data.file_words import listed
from msabench.data.frames import Bools, Floats, Ints
from msabench.data.read_npz import OPTIONAL, check_claim, hide_words, lengths_of, readable
from msabench.data.split_arrays import SplitArrays
from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES

_KEYS = ("id", "conversation", *MODALITIES, *OPTIONAL)
"""Arrays that are read; labels and splits are not."""


@dataclass
class RawClips:
    """Clips as read. N clips; T_m steps and D_m features of modality m.

    Attributes:
        ids: Clip ids, row numbers where there are none.
        features: modality -> float32 ``(N, T_m, D_m)``; only modalities that are there.
        lengths: modality -> int64 ``(N,)``, number of existing steps; also of modalities whose lengths alone are given.
        observed: modality -> bool ``(N, T_m)``, False on frames that were not observed; only modalities that it is said
            of.
        padding: modality -> padded side, ``front`` or ``end``.
        tokens: int64 ``(N, 3, T_l)`` ids, attention mask, token types; None if there are none.
        conversations: Name of each clip's conversation; None: clips whose ids name the same video share one.
        notes: What was cleaned, or not read, in words for users.
    """

    ids: list[str]
    features: dict[str, Floats]
    lengths: dict[str, Ints]
    observed: dict[str, Bools]
    padding: dict[str, str]
    tokens: Ints | None = None
    conversations: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def read_clips(source: Path | Mapping[str, Any]) -> RawClips:
    """Read clips, in the form of our npz without splits and labels.

    Arrays, at least one of the modalities or ``text_bert``: ``text``, ``audio``, ``vision`` (N, T, D). Optional: ``id``
    (N,); ``conversation`` (N,), whose clips follow one another in the order of the rows; ``<modality>_lengths``,
    ``<modality>_padding``, ``<modality>_observed`` and ``text_bert`` as in a corpus (``read_npz``). Lengths may stand
    without their modality, which is then not observed. Where token ids stand without text features, their attention
    mask gives the lengths. Other arrays are not read, which is noted.

    Args:
        source: An npz, or its arrays by name.

    Returns:
        The clips.

    Raises:
        MSABenchError: The file is missing, damaged, or holds arrays of Python objects; no modality is there; shapes,
            ids or lengths are wrong.
    """
    path, arrays, unread = _arrays(source)
    if not any(key in arrays for key in (*MODALITIES, "text_bert")):
        found = listed([*arrays, *unread])
        raise MSABenchError(
            f"{path} has none of the arrays {', '.join(MODALITIES)}, text_bert (it has {found}); give at least one"
        )
    whole = SplitArrays(path, "clips", arrays)
    sides = {modality: whole.side(modality) for modality in MODALITIES}
    first = next(key for key in ("id", *MODALITIES, "text_bert") if key in whole.arrays)
    for key, value in whole.arrays.items():
        if value.ndim == 0 or len(value) != len(whole.arrays[first]):
            raise whole.error(key, f"has shape {value.shape}", f"a row for each clip, as in {first}")
    n_clips = len(whole.arrays[first])
    if not n_clips:
        raise whole.error(first, "has no rows", "at least one clip")
    ids = whole.ids("id", n_clips) if "id" in whole.arrays else [str(row) for row in range(n_clips)]
    whole.check_unique("id", ids)
    read = RawClips(ids, {}, {}, {}, {modality: side or "end" for modality, side in sides.items()})
    if "conversation" in whole.arrays:
        read.conversations = whole.ids("conversation", n_clips)
    if "text_bert" in whole.arrays:
        _read_tokens(whole, read, n_clips, sides["text"])
    for modality in MODALITIES:
        if modality in whole.arrays:
            _read_features(whole, read, modality, sides[modality])
        elif f"{modality}_lengths" in whole.arrays:
            read.lengths[modality] = _lengths_alone(whole, modality, n_clips)
    if read.tokens is not None and "text" in read.observed:
        hide_words(read.tokens, read.observed["text"])
    unread += list(whole.arrays)
    if unread:
        whole.notes.append(f"not read: {listed(unread)}")
    read.notes = whole.notes
    return read


def _arrays(source: Path | Mapping[str, Any]) -> tuple[Path, dict[str, NDArray[Any]], list[str]]:
    """What errors call the source, the arrays that are read, and the names of the others."""
    if isinstance(source, Mapping):
        arrays = {}
        for key in (key for key in source if key in _KEYS):
            try:
                arrays[key] = np.asarray(source[key])
            except ValueError as error:
                raise MSABenchError(f"clips: {key} is no array ({error}); give numbers of one shape") from error
        return Path("clips"), arrays, [str(key) for key in source if key not in _KEYS]
    if not source.is_file():
        raise MSABenchError(f"there is no file {source}; give an npz with the features of one or more clips")
    with readable(source, "the features of clips") as archive:
        wanted = [key for key in archive.files if key in _KEYS]
        for key in wanted:
            check_claim(archive, key)
        return source, {key: archive[key] for key in wanted}, [key for key in archive.files if key not in _KEYS]


def _read_tokens(whole: SplitArrays, read: RawClips, n_clips: int, side: str | None) -> None:
    tokens, features = whole.arrays["text_bert"], whole.arrays.get("text")
    steps = (tokens if features is None else features).shape
    if len(steps) != 3:
        raise whole.error("text_bert", f"has shape {tokens.shape}", f"({n_clips}, 3, T), with the steps T of text")
    read.tokens = whole.tokens(n_clips, steps[2] if features is None else steps[1])
    words = read.tokens[:, 1].sum(axis=1)
    if features is not None:
        if "text_lengths" not in whole.arrays and side is None and (words < steps[1]).any():
            whole.note(
                "text",
                "all steps exist since there is neither text_lengths nor text_padding, though the attention mask in "
                "text_bert ends earlier",
            )
        return
    lengths = words if "text_lengths" not in whole.arrays else whole.lengths("text_lengths", n_clips, steps[2])
    read.lengths["text"] = lengths
    if "text_observed" in whole.arrays:
        # Checked as for features, which all exist here.
        exist = FeatureRows(np.ones((n_clips, steps[2], 1), dtype=np.float32))
        read.observed["text"] = whole.observed("text", exist, lengths, "end", read.ids)


def _read_features(whole: SplitArrays, read: RawClips, modality: str, side: str | None) -> None:
    values = whole.features(modality, len(read.ids))
    lengths = lengths_of(whole, modality, values, side, read.ids)
    whole.zero_padding(modality, values, lengths, side or "end")
    if f"{modality}_observed" in whole.arrays:
        read.observed[modality] = whole.observed(modality, values, lengths, side or "end", read.ids)
    read.features[modality], read.lengths[modality] = values[:], lengths


def _lengths_alone(whole: SplitArrays, modality: str, n_clips: int) -> Ints:
    key, expected = f"{modality}_lengths", f"{n_clips} whole numbers"
    lengths = whole.integers(key, expected)
    if lengths.size != n_clips:
        raise whole.error(key, f"has shape {lengths.shape}", expected)
    return lengths.reshape(-1)

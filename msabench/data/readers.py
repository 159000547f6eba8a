"""Readers of feature files: MMSA pickles, MulT pickles and our npz. Free of torch.

Every reader checks what it reads and says in one sentence which file, split and key is wrong and what was expected.
What it can mend it mends and counts in the notes: values that are not finite become 0, frames beyond a clip's length
become 0. What it cannot mend is an error: labels that are missing or out of range, ids that occur twice, lengths beyond
the steps. A length of 0 is allowed and kept: the modality has no frame in that clip, and is treated as removed.

Layouts: MMSA, https://github.com/thuiar/MMSA (README, "Datasets"); MulT,
https://github.com/yaohungt/Multimodal-Transformer (``src/dataset.py``).
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.data.info import EMOTIONS, SPLITS, DatasetInfo, FeatureFile
from msabench.data.raw import RawCorpus, RawSplit
from msabench.data.unpickle import load
from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import UNK

MULT_EMOTIONS = ("neutral", "happy", "sad", "angry")
"""Emotions in the order of the MulT files (``src/eval_metrics.py`` of its repository)."""

_CHUNK = 512
_LABEL_SLACK = 1e-4

_MOST_AXES, _MOST_FIELDS = 8, 16
"""Lists that are nested deeper, and ids of more fields, are in no feature file."""

_FREE_NUMBERS, _NUMBERS_PER_BYTE = 1 << 24, 16
"""How many numbers nested lists may stand for: in any file, and for each byte of it. Lists in a pickle may hold one
another many times, so that a few bytes can claim any number."""

_LONGEST_NAME = 60
"""Characters of a key that errors print."""

_MOST_EMPTY = 1 << 24
"""Longest side of an array that holds nothing."""

_NUMBERS = (int, float, complex, np.number, np.bool_, type(None))

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]
_Bools = NDArray[np.bool_]


@dataclass
class _Split:
    """The arrays of one split, taken out one by one so that a large file is not held twice."""

    path: Path
    name: str
    arrays: dict[str, Any]
    clip_labels: bool = False
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = _listed(sorted(map(str, self.arrays)))

    def error(self, key: str, problem: str, expected: str) -> MSABenchError:
        return MSABenchError(f"{self.path}: {self.name}/{key} {problem}; expected {expected}")

    def note(self, key: str, text: str) -> None:
        self.notes.append(f"{self.name}/{key}: {text}")

    def take(self, key: str, expected: str) -> Any:
        if key not in self.arrays:
            found = f"{self.path}: {self.name} has no key {key!r} (it has {self.keys})"
            raise MSABenchError(f"{found}; expected {expected}")
        return self.arrays.pop(key)

    def numbers(self, key: str, expected: str, dtype: Any = np.float32) -> NDArray[Any]:
        """An array of one of the number kinds, writable, contiguous, owned."""
        value = self.take(key, expected)
        if isinstance(value, (list, tuple)):
            self._check_lists(key, value, expected)
        try:
            array = np.asarray(value)
            if array.dtype == object:
                for item in array.flat:
                    if not isinstance(item, _NUMBERS):
                        raise self.error(key, f"holds no numbers (it has a {type(item).__name__})", expected)
                array = array.astype(np.float64)
        except (ValueError, TypeError, OverflowError):
            raise self.error(key, "is ragged, or holds no numbers", expected) from None
        if array.dtype.kind not in "fiub":
            raise self.error(key, f"holds no numbers (dtype {array.dtype})", expected)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.require(array, dtype, ["C", "W", "O"])

    def _check_lists(self, key: str, value: list[Any] | tuple[Any, ...], expected: str) -> None:
        """Refuse nested lists that cannot become an array, before NumPy takes memory for it."""
        claimed, axes, first = 1, 0, value
        while isinstance(first, (list, tuple)) and first and axes <= _MOST_AXES:
            claimed, axes, first = claimed * len(first), axes + 1, first[0]
        claimed *= first.size if isinstance(first, np.ndarray) else 1
        if axes > _MOST_AXES or claimed > _FREE_NUMBERS + _NUMBERS_PER_BYTE * self.path.stat().st_size:
            raise self.error(key, "is nested far deeper, or stands for far more numbers, than the file holds", expected)
        pending: list[Any] = [value]
        seen: set[int] = set()
        while pending:
            item = pending.pop()
            if isinstance(item, (list, tuple)):
                if id(item) not in seen:
                    seen.add(id(item))
                    pending.extend(item)
            elif not isinstance(item, (*_NUMBERS, np.ndarray)):
                raise self.error(key, f"holds no numbers (it has a {type(item).__name__})", expected)

    def integers(self, key: str, expected: str) -> _Ints:
        """As ``numbers``, for counts and token ids that files may store as floats."""
        values = self.numbers(key, expected, np.float64)
        if not np.isfinite(values).all() or (values != np.rint(values)).any() or (values < 0).any():
            raise self.error(key, "holds values that are no whole numbers of at least 0", expected)
        return values.astype(np.int64)

    def features(self, modality: str, n_clips: int) -> _Floats:
        expected = f"numbers of shape ({n_clips}, T, D)"
        values: _Floats = self.numbers(modality, expected)
        if values.ndim != 3 or len(values) != n_clips or 0 in values.shape:
            raise self.error(modality, f"has shape {values.shape}", expected)
        cleaned = 0
        for start in range(0, n_clips, _CHUNK):
            part = values[start : start + _CHUNK]
            bad = ~np.isfinite(part)
            if bad.any():
                cleaned += int(bad.sum())
                part[bad] = 0.0
        if cleaned:
            self.note(modality, f"{cleaned:,} values were not finite and are 0 now")
        return values

    def scores(self, key: str, info: DatasetInfo) -> _Floats:
        """Regression labels ``(N,)``; range and finiteness are checked once the ids are known."""
        low, high = info.label_range
        expected = f"one number in [{low:g}, {high:g}] for each clip"
        values: _Floats = self.numbers(key, expected)
        if values.ndim == 0 or len(values) == 0 or values.size != len(values):
            raise self.error(key, f"has shape {values.shape}", expected)
        return values.reshape(-1)

    def check_scores(self, key: str, labels: _Floats, ids: list[str], info: DatasetInfo) -> None:
        """Refuse labels beyond the range, or clip them in place if that was asked for."""
        low, high = info.label_range
        bad = ~((labels >= low - _LABEL_SLACK) & (labels <= high + _LABEL_SLACK))
        if self.clip_labels and (n_clipped := int((bad & np.isfinite(labels)).sum())):
            farthest = labels[np.argmax(np.where(bad & np.isfinite(labels), np.abs(labels), -1.0))]
            self.note(key, f"{n_clipped:,} labels beyond [{low:g}, {high:g}] ({farthest:g} the farthest) were clipped")
            bad &= ~np.isfinite(labels)
            np.clip(labels, low, high, out=labels, where=np.isfinite(labels))
        if bad.any():
            row = int(np.argmax(bad))
            way_out = (
                f"; --data.clip_labels true (--clip_labels of msabench data) would clip {int(bad.sum()):,} such labels "
                f"and say so"
            )
            raise self.error(
                key,
                f"is {labels[row]:g} for clip {ids[row]!r}",
                f"a number in [{low:g}, {high:g}] for {info.name}"
                + (way_out if np.isfinite(labels[bad]).all() else ""),
            )

    def ids(self, key: str, n_clips: int) -> list[str]:
        expected = f"{n_clips} ids"
        rows = self.take(key, expected)
        if not isinstance(rows, (list, tuple, np.ndarray)) or (isinstance(rows, np.ndarray) and rows.ndim == 0):
            raise self.error(key, f"is a {type(rows).__name__}", expected)
        if len(rows) != n_clips:
            raise self.error(key, f"has {len(rows)} ids", expected)
        return self.clip_names(key, rows)

    def clip_names(self, key: str, rows: Any) -> list[str]:
        """Ids as strings; rows of several fields (video, start, end) become ``video$_$start-end``."""
        names = []
        try:
            for number, row in enumerate(rows.tolist() if isinstance(rows, np.ndarray) else rows):
                fields = _fields(row)
                if fields is None:
                    raise self.error(key, f"has a {type(row).__name__} in row {number}", "text, bytes or numbers")
                names.append(fields[0] + (f"$_${'-'.join(fields[1:])}" if len(fields) > 1 else "") if fields else "")
        except ValueError:
            raise self.error(key, "holds text that is none", "text, bytes or numbers") from None
        return names

    def check_unique(self, key: str, names: list[str]) -> None:
        (name, count), *_ = Counter(names).most_common(1)
        if count > 1:
            raise self.error(key, f"has {name!r} {count} times", "ids that are unique in a split")

    def lengths(self, key: str, n_clips: int, steps: int) -> _Ints:
        expected = f"{n_clips} whole numbers from 0 to {steps}"
        values = self.integers(key, expected)
        if values.size != n_clips:
            raise self.error(key, f"has shape {values.shape}", expected)
        values = values.reshape(-1)
        if values.max() > steps:
            raise self.error(key, f"has the length {values.max()} in row {values.argmax()}", expected)
        return values

    def tokens(self, n_clips: int, steps: int) -> _Ints:
        expected = f"ids, attention mask and token types of shape ({n_clips}, 3, {steps})"
        values = self.integers("text_bert", expected)
        if values.shape != (n_clips, 3, steps):
            raise self.error("text_bert", f"has shape {values.shape}", expected)
        mask = values[:, 1]
        if mask.max() > 1 or (np.diff(mask, axis=1) > 0).any():
            raise self.error("text_bert", "has an attention mask of another form", "ones followed by zeros")
        return values

    def side(self, modality: str) -> str | None:
        """The side on which an npz pads a modality, if the file says so."""
        key, expected = f"{modality}_padding", "front or end"
        if key not in self.arrays:
            return None
        words = self.clip_names(key, np.atleast_1d(self.arrays.pop(key)))
        if len(words) != 1 or words[0] not in ("front", "end"):
            raise self.error(key, f"is {', '.join(words[:3])!r}", expected)
        if words[0] == "front" and modality == "text" and "text_bert" in self.arrays:
            raise self.error(key, "is 'front'", "end, as in text_bert, whose attention mask is ones followed by zeros")
        return words[0]

    def observed(self, modality: str, values: _Floats, lengths: _Ints, side: str, ids: list[str]) -> _Bools:
        """Which frames the file says were observed, bool ``(N, T)``; the values of the others become 0."""
        key, expected = f"{modality}_observed", f"true or false for each frame, shape {values.shape[:2]}"
        mask = np.asarray(self.take(key, expected))
        if mask.shape != values.shape[:2] or mask.dtype.kind not in "biu" or (mask > 1).any() or (mask < 0).any():
            raise self.error(key, f"has shape {mask.shape} and dtype {mask.dtype}, or other values", expected)
        mask = mask.astype(bool)
        exist = _existing(lengths, values.shape[1], side)
        if (beyond := (mask & ~exist).any(axis=1)).any():
            clip = ids[int(np.argmax(beyond))]
            raise self.error(key, f"is true for padding of clip {clip!r}", f"false outside of {modality}_lengths")
        hidden = exist & ~mask
        seen = _present(values) & hidden
        values[hidden] = 0.0
        if seen.any():
            self.note(modality, f"{int(seen.sum()):,} frames that were not observed held values and are 0 now")
        return mask

    def check_side(self, modality: str, values: _Floats, lengths: _Ints, side: str, ids: list[str]) -> None:
        """Refuse lengths that do not fit the frames: padding would be read, and frames thrown away."""
        present, exist = _present(values), _existing(lengths, values.shape[1], side)
        beyond, empty = (present & ~exist).sum(axis=1), (~present & exist).sum(axis=1)
        shifted = (beyond > 0) & (empty >= beyond)
        # Garbage in the padding of some clips is cleared and noted; here most of it are the clips' own frames.
        if shifted.sum() * 2 > (beyond > 0).sum():
            row = int(np.argmax(shifted))
            where = "at the end" if side == "end" else "in front"
            raise self.error(
                f"{modality}_lengths",
                f"is {lengths[row]} for clip {ids[row]!r}, {beyond[row]} of whose frames lie in the padding while "
                f"{empty[row]} of its steps are all 0",
                f"padding {where}; name the side in {modality}_padding (front or end), or the frames that exist in "
                f"{modality}_observed",
            )

    def zero_padding(self, modality: str, values: _Floats, lengths: _Ints, side: str = "end") -> None:
        """Zero the frames outside of each clip's length."""
        cleared = 0
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK]
            beyond = ~_existing(lengths[start : start + _CHUNK], values.shape[1], side)
            cleared += int(part[beyond].any(axis=1).sum())
            part[beyond] = 0.0
        if cleared:
            self.note(modality, f"{cleared:,} frames beyond their clip's length were not 0 and are 0 now")
        if empty := int((lengths == 0).sum()):
            self.note(modality, f"{empty:,} clips have no frame")


def _listed(names: Iterable[str]) -> str:
    """Names that stand in a file, as part of a sentence of one line."""
    parts = (name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in names)
    return ", ".join(part if part.isprintable() else repr(part) for part in parts) or "nothing"


def _fields(row: Any, depth: int = 3) -> list[str] | None:
    """The fields of an id as strings; None if it holds anything but a few strings and numbers."""
    if isinstance(row, np.ndarray):
        row = row.ravel().tolist() if row.size <= _MOST_FIELDS else None
    if isinstance(row, (list, tuple)):
        if depth == 0 or len(row) > _MOST_FIELDS:
            return None
        found = [_fields(item, depth - 1) for item in row]
        return [part for parts in found if parts is not None for part in parts] if None not in found else None
    return [_as_text(row)] if isinstance(row, (str, bytes, int, float, np.number, np.bool_)) else None


def _as_text(value: object) -> str:
    r"""A value as valid UTF-8.

    Bytes and surrogates that are none become ``\xNN`` and ``\udcNN``, so that ids that differ stay apart and can be
    written to any file; what is valid stays as it is, and so do its masks.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _splits(path: Path, content: object, clip_labels: bool) -> dict[str, _Split]:
    """Look up the three splits of a pickle."""
    if not isinstance(content, dict):
        raise MSABenchError(
            f"{path} holds a {type(content).__name__}; expected a dict with the keys {', '.join(SPLITS)}"
        )
    for name in SPLITS:
        if name not in content:
            found = _listed(map(str, content))
            raise MSABenchError(f"{path} has no split {name!r} (it has {found}); expected {', '.join(SPLITS)}")
        if not isinstance(content[name], dict):
            kind = type(content[name]).__name__
            raise MSABenchError(f"{path}: split {name!r} is a {kind}; expected a dict of arrays")
    return {name: _Split(path, name, content[name], clip_labels) for name in SPLITS}


def _finish(
    path: Path,
    file: FeatureFile,
    info: DatasetInfo,
    splits: dict[str, RawSplit],
    notes: list[str],
    padding: dict[str, str] | None = None,
    ids_from_file: bool = True,
) -> RawCorpus:
    """Check the splits against each other and against what is known of the file."""
    train = splits["train"]
    for name, split in splits.items():
        for modality in MODALITIES:
            shape, first = split.features[modality].shape[1:], train.features[modality].shape[1:]
            if shape != first:
                raise MSABenchError(
                    f"{path}: {name}/{modality} has {shape[0]} steps of {shape[1]} features; expected {first[0]} of "
                    f"{first[1]} as in train"
                )
    notes = list(notes)
    for what, axis, known in (("steps", 1, file.lengths), ("features", 2, file.dims)):
        for modality, listed in known.items():
            found = train.features[modality].shape[axis]
            if found != listed:
                notes.append(f"{modality} has {found} {what}; {listed} are listed for {info.name} {file.features}")
    sizes = tuple(len(splits[name].ids) for name in SPLITS)
    if info.split_sizes is not None and sizes != info.split_sizes:
        found, listed_sizes = ("/".join(map(str, s)) for s in (sizes, info.split_sizes))
        notes.append(f"the splits have {found} clips; {listed_sizes} are listed for {info.name}")
    if not ids_from_file:
        notes.append("the file has no usable ids: rows stand in for them, and every clip is its own conversation")
    else:
        _check_disjoint(path, splits, notes, strict=info.name == "custom")
    sides = padding or dict.fromkeys(MODALITIES, "end")
    return RawCorpus(splits=splits, padding=sides, ids_from_file=ids_from_file, notes=notes)


def _check_disjoint(path: Path, splits: dict[str, RawSplit], notes: list[str], *, strict: bool) -> None:
    """Find clips that stand in two splits; a user's own file must have none, a published one gets a note."""
    for i, first in enumerate(SPLITS):
        for second in SPLITS[i + 1 :]:
            shared = sorted(set(splits[first].ids) & set(splits[second].ids))
            if not shared:
                continue
            found = f"{len(shared):,} ids, {shared[0]!r} for one, stand in {first} and in {second}"
            if strict:
                raise MSABenchError(f"{path}: {found}; expected every clip in one split only")
            notes.append(found)


def read_mmsa(path: Path, info: DatasetInfo, file: FeatureFile, *, clip_labels: bool = False) -> RawCorpus:
    """Read a pickle in the layout of MMSA.

    The number of words is that of the attention mask in ``text_bert``. In aligned files audio and vision have a frame
    for each token, so that they take the text's length; in others their lengths are ``audio_lengths`` and
    ``vision_lengths``, or, where a file lacks these, end at the last frame that is not all zero. Where there is no
    ``text_bert``, text is treated as the others are, and in aligned files a frame exists up to the last that is not
    zero in all modalities. Padding is at the end.

    Args:
        path: The pickle.
        info: The corpus, for label range and split sizes.
        file: What is listed of the file.
        clip_labels: Clip labels beyond the corpus's range, and note how many, instead of refusing the file.

    Returns:
        Splits, with tokens where the file has them.

    Raises:
        MSABenchError: The file is damaged or not in this layout; labels, ids or lengths are wrong.
    """
    splits: dict[str, RawSplit] = {}
    notes: list[str] = []
    for name, split in _splits(path, load(path), clip_labels).items():
        labels = split.scores("regression_labels", info)
        n_clips = len(labels)
        ids = split.ids("id", n_clips)
        split.check_unique("id", ids)
        split.check_scores("regression_labels", labels, ids, info)
        features = {modality: split.features(modality, n_clips) for modality in MODALITIES}
        steps = {modality: values.shape[1] for modality, values in features.items()}
        tokens = split.tokens(n_clips, steps["text"]) if "text_bert" in split.arrays else None
        aligned = file.features.endswith("-aligned") or (
            file.features == "custom" and "audio_lengths" not in split.arrays and len(set(steps.values())) == 1
        )
        if aligned:
            for modality in ("audio", "vision"):
                if steps[modality] != steps["text"]:
                    raise split.error(
                        modality, f"has {steps[modality]} steps", f"{steps['text']} as text in aligned files"
                    )
        lengths = {} if tokens is None else {"text": tokens[:, 1].sum(axis=1)}
        if aligned and tokens is None:
            present = np.logical_or.reduce([_present(values) for values in features.values()])
            lengths["text"] = steps["text"] - _zero_frames(present)[1]
            split.note(
                "text", "there is no text_bert; lengths end at the last frame that is not zero in all modalities"
            )
        for modality in MODALITIES:
            if modality in lengths:
                continue
            if aligned:
                lengths[modality] = lengths["text"].copy()
            elif f"{modality}_lengths" in split.arrays:
                lengths[modality] = split.lengths(f"{modality}_lengths", n_clips, steps[modality])
            else:
                lengths[modality] = steps[modality] - _zero_frames(_present(features[modality]))[1]
                absent = "text_bert and no text_lengths" if modality == "text" else f"{modality}_lengths"
                split.note(modality, f"there is no {absent}; lengths end at the last frame that is not zero")
        for modality in MODALITIES:
            split.zero_padding(modality, features[modality], lengths[modality])
        splits[name] = RawSplit(features, lengths, labels, ids, tokens)
        notes += split.notes
    return _finish(path, file, info, splits, notes)


def _existing(lengths: _Ints, steps: int, side: str) -> _Bools:
    """Bool ``(N, T)``, True on frames that are not padding."""
    place = np.arange(steps)
    return place >= steps - lengths[:, None] if side == "front" else place < lengths[:, None]


def _present(values: _Floats) -> _Bools:
    """Bool ``(N, T)``, True on frames that are not all zero."""
    parts = [values[start : start + _CHUNK].any(axis=2) for start in range(0, len(values), _CHUNK)]
    return np.concatenate(parts)


def _zero_frames(present: _Bools) -> tuple[_Ints, _Ints]:
    """Leading and trailing absent frames of each clip, int64 ``(N,)`` each; both are T where all frames are absent."""
    steps = present.shape[1]
    none = ~present.any(axis=1)
    leading = np.where(none, steps, present.argmax(axis=1)).astype(np.int64)
    trailing = np.where(none, steps, present[:, ::-1].argmax(axis=1)).astype(np.int64)
    return leading, trailing


def _detect_padding(presences: Mapping[str, list[_Bools]]) -> tuple[str, dict[str, _Ints]]:
    """Find the padded side of a modality, or of several that share their time line, and the clips' lengths.

    The side is the one with more all-zero frames over all clips. A frame exists from the first (padding in front) or up
    to the last (padding at the end) that is not zero in any of the arrays.

    Args:
        presences: split -> bool ``(N, T)`` for each modality that shares the time line.

    Returns:
        The side, and split -> int64 ``(N,)``.
    """
    zeros = {name: _zero_frames(np.logical_or.reduce(arrays)) for name, arrays in presences.items()}
    steps = {name: arrays[0].shape[1] for name, arrays in presences.items()}
    leading, trailing = (
        sum(int(zero[side][zero[side] < steps[name]].sum()) for name, zero in zeros.items()) for side in (0, 1)
    )
    side = "front" if leading > trailing else "end"
    return side, {name: steps[name] - zero[0 if side == "front" else 1] for name, zero in zeros.items()}


def read_mult(path: Path, info: DatasetInfo, file: FeatureFile, *, clip_labels: bool = False) -> RawCorpus:
    """Read a pickle in the layout of MulT.

    The files have no lengths; they are found from all-zero frames on the padded side. In aligned files a frame exists
    where any modality has it, since a word without vector or face is still a word. IEMOCAP's labels are reordered from
    ``MULT_EMOTIONS`` to ``EMOTIONS``.

    Args:
        path: The pickle.
        info: The corpus, for task, label range and split sizes.
        file: What is listed of the file.
        clip_labels: Clip labels beyond the corpus's range, and note how many, instead of refusing the file.

    Returns:
        Splits without tokens. Without usable ids (IEMOCAP), ids are row numbers.

    Raises:
        MSABenchError: The file is damaged or not in this layout; labels are wrong.
    """
    splits: dict[str, RawSplit] = {}
    notes: list[str] = []
    ids_from_file = True
    found = _splits(path, load(path), clip_labels)
    for name, split in found.items():
        scores = None if info.task == "emotions" else split.scores("labels", info)
        labels = _mult_emotions(split) if scores is None else scores
        n_clips = len(labels)
        ids = split.ids("id", n_clips) if "id" in split.arrays else []
        if len(set(ids)) < n_clips:
            if ids:
                split.note("id", f"only {len(set(ids)):,} of {n_clips:,} ids are different; they are not used")
            ids_from_file = False
            ids = [str(row) for row in range(n_clips)]
        if scores is not None:
            split.check_scores("labels", scores, ids, info)
        features = {modality: split.features(modality, n_clips) for modality in MODALITIES}
        splits[name] = RawSplit(features, {}, labels, ids)
    if not ids_from_file:
        for raw in splits.values():
            raw.ids = [str(row) for row in range(len(raw.ids))]

    padding: dict[str, str] = {}
    groups = [MODALITIES] if file.features.endswith("-aligned") else [(modality,) for modality in MODALITIES]
    for group in groups:
        presences = {}
        for name, raw in splits.items():
            steps = {modality: raw.features[modality].shape[1] for modality in group}
            if len(set(steps.values())) > 1:
                raise found[name].error(
                    "text, audio, vision", f"have {steps} steps", "as many in each, in aligned files"
                )
            presences[name] = [_present(raw.features[modality]) for modality in group]
        side, lengths = _detect_padding(presences)
        for modality in group:
            padding[modality] = side
            for name, raw in splits.items():
                raw.lengths[modality] = lengths[name].copy()
    for name, raw in splits.items():
        for modality in MODALITIES:
            if empty := int((raw.lengths[modality] == 0).sum()):
                found[name].note(modality, f"{empty:,} clips have no frame")
        notes += found[name].notes
    return _finish(path, file, info, splits, notes, padding, ids_from_file)


def _mult_emotions(split: _Split) -> _Ints:
    """IEMOCAP's one-hot labels ``(N, 4, 2)`` as int64 ``(N, 4)`` in the order of ``EMOTIONS``."""
    expected = "one-hot labels of shape (N, 4, 2)"
    values = split.numbers("labels", expected)
    if values.ndim != 3 or values.shape[1:] != (len(MULT_EMOTIONS), 2) or len(values) == 0:
        raise split.error("labels", f"has shape {values.shape}", expected)
    if not (np.isin(values, (0.0, 1.0)).all() and (values.sum(axis=2) == 1.0).all()):
        raise split.error("labels", "is not one-hot", expected)
    order = [MULT_EMOTIONS.index(emotion) for emotion in EMOTIONS]
    labels: _Ints = values.argmax(axis=2)[:, order].astype(np.int64)
    return labels


def read_npz(path: Path, info: DatasetInfo, file: FeatureFile, *, clip_labels: bool = False) -> RawCorpus:
    """Read our npz: all clips in one set of arrays, with an array that names each clip's split.

    Arrays: ``id`` str (N,), ``split`` str (N,) of train, valid, test; ``regression_labels`` (N,), or for emotions
    ``emotion_labels`` (N, 4) of 0 and 1 in the order of ``EMOTIONS``; ``text``, ``audio``, ``vision`` (N, T, D).

    Optional, for each modality: ``<modality>_lengths`` (N,); ``<modality>_padding``, ``front`` or ``end``;
    ``<modality>_observed`` bool (N, T), False on frames that nothing may see. With lengths, padding is at the end
    unless the file says ``front``. With a side alone, lengths are found from all-zero frames on it. With neither, all
    steps exist. ``text_bert`` (N, 3, T) has token ids, attention mask and token types. ``absent`` names the modalities
    that the corpus does not have: no clip has a frame of them.

    Args:
        path: The npz.
        info: The corpus, for task, label range and split sizes.
        file: What is listed of the file.
        clip_labels: Clip labels beyond the corpus's range, and note how many, instead of refusing the file.

    Returns:
        The splits.

    Raises:
        MSABenchError: The file is damaged or not in this layout; labels, ids or lengths are wrong.
    """
    label_key = "emotion_labels" if info.task == "emotions" else "regression_labels"
    whole = _Split(path, "npz", _npz_arrays(path, ("id", "split", label_key, *MODALITIES)))
    absent = tuple(whole.arrays.pop("absent", ()))
    sides = {modality: whole.side(modality) for modality in MODALITIES}
    names = np.asarray(whole.clip_names("split", whole.take("split", "the split of each clip")))
    n_all = len(names)
    if unknown := sorted(set(names.tolist()) - set(SPLITS)):
        raise whole.error("split", f"names {unknown[0]!r}", f"one of {', '.join(SPLITS)} for each clip")
    for key, value in whole.arrays.items():
        if value.ndim == 0 or len(value) != n_all:
            raise whole.error(key, f"has shape {value.shape}", f"{n_all} rows, as in split")
    for modality in MODALITIES:
        if modality not in absent and whole.arrays[modality].shape[2:] == (0,):
            raise whole.error(modality, "has no features", "some; a modality that the corpus lacks is named in absent")

    splits: dict[str, RawSplit] = {}
    notes: list[str] = []
    for name in SPLITS:
        rows = names == name
        if not rows.any():
            raise whole.error("split", f"names no clip {name!r}", f"clips in each of {', '.join(SPLITS)}")
        split = _Split(path, name, {key: value[rows] for key, value in whole.arrays.items()}, clip_labels)
        n_clips = int(rows.sum())
        ids = split.ids("id", n_clips)
        split.check_unique("id", ids)
        labels: NDArray[Any]
        if info.task == "emotions":
            expected = f"0 or 1 for {', '.join(EMOTIONS)}, shape (N, {len(EMOTIONS)})"
            labels = split.integers(label_key, expected)
            if labels.shape != (n_clips, len(EMOTIONS)) or labels.max() > 1:
                raise split.error(label_key, f"has shape {labels.shape} and goes to {labels.max()}", expected)
        else:
            labels = split.scores(label_key, info)
            split.check_scores(label_key, labels, ids, info)
        there = {modality: split.features(modality, n_clips) for modality in MODALITIES if modality not in absent}
        # As many steps as the others, for methods that read modalities step by step.
        nothing = (n_clips, next(iter(there.values())).shape[1], 1)
        features = {m: there[m] if m in there else np.zeros(nothing, dtype=np.float32) for m in MODALITIES}
        lengths, observed = {}, {}
        for modality, values in features.items():
            if modality in absent:
                split.note(modality, "the corpus has none (absent)")
                lengths[modality] = np.zeros(n_clips, dtype=np.int64)
                continue
            lengths[modality] = _npz_lengths(split, modality, values, sides[modality], ids)
            side = sides[modality] or "end"
            split.zero_padding(modality, values, lengths[modality], side)
            if f"{modality}_observed" in split.arrays:
                observed[modality] = split.observed(modality, values, lengths[modality], side, ids)
        tokens = split.tokens(n_clips, features["text"].shape[1]) if "text_bert" in split.arrays else None
        if tokens is not None and "text" in observed:
            _hide_words(tokens, observed["text"])
        splits[name] = RawSplit(features, lengths, labels, ids, tokens, observed)
        notes += split.notes
    return _finish(path, file, info, splits, notes, {m: side or "end" for m, side in sides.items()})


def _npz_lengths(split: _Split, modality: str, values: _Floats, side: str | None, ids: list[str]) -> _Ints:
    """Number of existing frames of each clip, int64 ``(N,)``."""
    n_clips, steps = values.shape[:2]
    if f"{modality}_lengths" in split.arrays:
        lengths = split.lengths(f"{modality}_lengths", n_clips, steps)
        split.check_side(modality, values, lengths, side or "end", ids)
        return lengths
    leading, trailing = _zero_frames(_present(values))
    if side is not None:
        found: _Ints = steps - (leading if side == "front" else trailing)
        return found
    first, last = (int(((zeros > 0) & (zeros < steps)).sum()) for zeros in (leading, trailing))
    if (first or last) and f"{modality}_observed" not in split.arrays:
        split.note(
            modality,
            f"{first:,} clips begin and {last:,} end with frames that are all 0, which exist since there is neither "
            f"{modality}_lengths nor {modality}_padding",
        )
    return np.full(n_clips, steps, dtype=np.int64)


def _hide_words(tokens: _Ints, observed: _Bools) -> None:
    """Replace words that were never observed by [UNK], so that no text encoder sees them; [CLS] and [SEP] stay."""
    exist = tokens[:, 1] == 1
    inner = exist.copy()
    inner[:, 0] = False
    inner[:, :-1] &= exist[:, 1:]
    inner[:, -1] = False
    tokens[:, 0][inner & ~observed] = UNK


def _npz_arrays(path: Path, required: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    optional = ("text_bert", *(f"{m}_{what}" for m in MODALITIES for what in ("lengths", "padding", "observed")))
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise MSABenchError(f"{path} holds a single array; expected an npz with {', '.join(required)}")
        with archive:
            absent: list[str] = []
            if "absent" in archive.files:
                _check_claim(archive, "absent")
                absent = _Split(path, "npz", {}).clip_names("absent", np.atleast_1d(archive["absent"]))
            for name in absent:
                if name not in MODALITIES or name in archive.files or len(set(absent)) == len(MODALITIES):
                    raise MSABenchError(
                        f"{path}: npz/absent names {name!r}; expected some of {', '.join(MODALITIES)}, not all, and "
                        "none that the file has an array of"
                    )
            for key in required:
                if key not in (*archive.files, *absent):
                    way_out = f"; a corpus without {key} names it in an array absent" if key in MODALITIES else ""
                    raise MSABenchError(
                        f"{path} has no array {key!r} (it has {_listed(archive.files)}); expected "
                        f"{', '.join(required)}{way_out}"
                    )
            wanted = [key for key in (*required, *optional) if key in archive.files]
            for key in wanted:
                _check_claim(archive, key)
            return {key: archive[key] for key in wanted} | ({"absent": np.array(absent)} if absent else {})
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, NotImplementedError, MemoryError) as error:
        # NumPy says "allow_pickle" both for arrays of Python objects and for files that are no npz at all.
        reason = "it is damaged, or holds arrays of Python objects"
        raise MSABenchError(f"{path} is not a readable npz ({reason}: {error}); get or write the file again") from error


def _check_claim(archive: Any, key: str) -> None:
    """Compare an array's claimed size with that of its content, before NumPy takes memory for it."""
    name = f"{key}.npy" if f"{key}.npy" in archive.zip.namelist() else key
    with archive.zip.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        held, claimed = archive.zip.getinfo(name).file_size - stream.tell(), math.prod(shape) * dtype.itemsize
        # Where nothing is held, nothing bounds the shape. Arrays of objects are refused by NumPy.
        if not dtype.hasobject and (claimed != held or (not held and max(shape, default=0) > _MOST_EMPTY)):
            raise ValueError(f"{key} claims the shape {shape} of {dtype}, which is not what it holds")


READERS: dict[str, Callable[..., RawCorpus]] = {
    "mmsa": read_mmsa,
    "mult": read_mult,
    "npz": read_npz,
}
"""``FeatureFile.reader`` -> function of path, corpus, file and, by name, ``clip_labels``."""

"""The arrays of one split, checked as they are taken out of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.data.feature_rows import FeatureRows
from msabench.data.file_arrays import FileArray, PickedRows, kind_of, loaded
from msabench.data.file_words import id_fields, listed
from msabench.data.frames import Bools, Floats, Ints, existing
from msabench.data.info import SPLITS, DatasetInfo
from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES

_LABEL_SLACK = 1e-4
"""How far labels may lie beyond the corpus's range, by rounding."""

_MOST_AXES = 8
"""Lists that are nested deeper are in no feature file."""

_FREE_NUMBERS, _NUMBERS_PER_BYTE = 1 << 24, 16
"""How many numbers nested lists may stand for: in any file, and for each byte of it. Lists in a pickle may hold one
another many times, so that a few bytes can claim any number."""

_NUMBERS = (int, float, complex, np.number, np.bool_, type(None))
"""Kinds of numbers in arrays of objects and in lists."""


@dataclass
class SplitArrays:
    """The arrays of one split, taken out one by one so that a large file is not held twice.

    Every method that takes one says in one sentence what is wrong with it, as a ``MSABenchError``.

    Attributes:
        path: The file.
        name: Of the split, for errors and notes.
        arrays: Key -> what the file holds and nobody has taken yet.
        clip_labels: Whether labels beyond the corpus's range are clipped instead of refused.
        notes: What was mended.
    """

    path: Path
    name: str
    arrays: dict[str, Any]
    clip_labels: bool = False
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys = listed(sorted(map(str, self.arrays)))

    def error(self, key: str, problem: str, expected: str) -> MSABenchError:
        """What is wrong with an array, in one sentence."""
        return MSABenchError(f"{self.path}: {self.name}/{key} {problem}; expected {expected}")

    def note(self, key: str, text: str) -> None:
        """Say what was mended."""
        self.notes.append(f"{self.name}/{key}: {text}")

    def take(self, key: str, expected: str) -> Any:
        """Take an array out of the split, into memory if it is in the file.

        Raises:
            MSABenchError: There is none of this key.
        """
        return loaded(self._take(key, expected))

    def _take(self, key: str, expected: str) -> Any:
        if key not in self.arrays:
            found = f"{self.path}: {self.name} has no key {key!r} (it has {self.keys})"
            raise MSABenchError(f"{found}; expected {expected}")
        return self.arrays.pop(key)

    def numbers(self, key: str, expected: str, dtype: Any = np.float32) -> NDArray[Any]:
        """An array of one of the number kinds, writable, contiguous, owned."""
        return self._numbers_of(key, self.take(key, expected), expected, dtype)

    def _numbers_of(self, key: str, value: Any, expected: str, dtype: Any) -> NDArray[Any]:
        if isinstance(value, (list, tuple)):
            self._check_lists(key, value, expected)
        try:
            array = np.asarray(value)
            if array.dtype == object:
                for item in array.flat:
                    if not isinstance(item, _NUMBERS):
                        raise self.error(key, f"holds no numbers (it has a {kind_of(item)})", expected)
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
        claimed *= first.size if isinstance(first, (np.ndarray, FileArray)) else 1
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
            elif not isinstance(item, (*_NUMBERS, np.ndarray, FileArray)):
                raise self.error(key, f"holds no numbers (it has a {kind_of(item)})", expected)

    def integers(self, key: str, expected: str) -> Ints:
        """As ``numbers``, for counts and token ids that files may store as floats."""
        values = self.numbers(key, expected, np.float64)
        if not np.isfinite(values).all() or (values != np.rint(values)).any() or (values < 0).any():
            raise self.error(key, "holds values that are no whole numbers of at least 0", expected)
        return values.astype(np.int64)

    def features(self, modality: str, n_clips: int) -> FeatureRows:
        """One modality's features, float32 ``(N, T, D)``; values that are not finite become 0."""
        expected = f"numbers of shape ({n_clips}, T, D)"
        source = self._take(modality, expected)
        if not isinstance(source, (FileArray, PickedRows, np.ndarray)) or source.dtype == object:
            source = self._numbers_of(modality, loaded(source), expected, np.float32)
        if source.dtype.kind not in "fiub":
            raise self.error(modality, f"holds no numbers (dtype {source.dtype})", expected)
        if source.ndim != 3 or len(source) != n_clips or 0 in source.shape:
            raise self.error(modality, f"has shape {source.shape}", expected)
        values = FeatureRows(source)
        if values.not_finite:
            self.note(modality, f"{values.not_finite:,} values were not finite and are 0 now")
        return values

    def all_features(self, n_clips: int, absent: Collection[str]) -> dict[str, FeatureRows]:
        """Features of all modalities.

        Args:
            n_clips: Clips of the split.
            absent: Modalities that the corpus does not have: they get a single feature that is 0, over as many steps
                as another has, for methods that read modalities step by step.
        """
        for modality in MODALITIES:
            if modality not in self.arrays and modality not in absent:
                raise MSABenchError(
                    f"{self.path}: {self.name} has no key {modality!r} (it has {self.keys}); expected numbers of shape "
                    f"({n_clips}, T, D){way_out(modality)}"
                )
        there = {modality: self.features(modality, n_clips) for modality in MODALITIES if modality not in absent}
        nothing = (n_clips, next(iter(there.values())).shape[1], 1)
        for modality in absent:
            self.note(modality, "the corpus has none (absent)")
        return {m: there[m] if m in there else FeatureRows(np.zeros(nothing, dtype=np.float32)) for m in MODALITIES}

    def scores(self, key: str, info: DatasetInfo) -> Floats:
        """Regression labels ``(N,)``; range and finiteness are checked once the ids are known."""
        low, high = info.label_range
        expected = f"one number in [{low:g}, {high:g}] for each clip"
        values: Floats = self.numbers(key, expected)
        if values.ndim == 0 or len(values) == 0 or values.size != len(values):
            raise self.error(key, f"has shape {values.shape}", expected)
        return values.reshape(-1)

    def check_scores(self, key: str, labels: Floats, ids: list[str], info: DatasetInfo) -> None:
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
        """The clips' ids, one for each."""
        expected = f"{n_clips} ids"
        rows = self.take(key, expected)
        if not isinstance(rows, (list, tuple, np.ndarray)) or (isinstance(rows, np.ndarray) and rows.ndim == 0):
            raise self.error(key, f"is a {kind_of(rows)}", expected)
        if len(rows) != n_clips:
            raise self.error(key, f"has {len(rows)} ids", expected)
        return self.clip_names(key, rows)

    def clip_names(self, key: str, rows: Any) -> list[str]:
        """Ids as strings; rows of several fields (video, start, end) become ``video$_$start-end``."""
        names = []
        try:
            for number, row in enumerate(rows.tolist() if isinstance(rows, np.ndarray) else rows):
                fields = id_fields(row)
                if fields is None:
                    raise self.error(key, f"has a {kind_of(row)} in row {number}", "text, bytes or numbers")
                names.append(fields[0] + (f"$_${'-'.join(fields[1:])}" if len(fields) > 1 else "") if fields else "")
        except ValueError:
            raise self.error(key, "holds text that is none", "text, bytes or numbers") from None
        return names

    def check_unique(self, key: str, names: list[str]) -> None:
        """Refuse an id that stands there twice."""
        (name, count), *_ = Counter(names).most_common(1)
        if count > 1:
            raise self.error(key, f"has {name!r} {count} times", "ids that are unique in a split")

    def lengths(self, key: str, n_clips: int, steps: int) -> Ints:
        """Steps of each clip, int64 ``(N,)`` from 0 to ``steps``."""
        expected = f"{n_clips} whole numbers from 0 to {steps}"
        values = self.integers(key, expected)
        if values.size != n_clips:
            raise self.error(key, f"has shape {values.shape}", expected)
        values = values.reshape(-1)
        if values.max() > steps:
            raise self.error(key, f"has the length {values.max()} in row {values.argmax()}", expected)
        return values

    def tokens(self, n_clips: int, steps: int) -> Ints:
        """Token ids, attention mask and token types, int64 ``(N, 3, T)``."""
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

    def observed(self, modality: str, values: FeatureRows, lengths: Ints, side: str, ids: list[str]) -> Bools:
        """Which frames the file says were observed, bool ``(N, T)``; the values of the others become 0."""
        key, expected = f"{modality}_observed", f"true or false for each frame, shape {values.shape[:2]}"
        mask = np.asarray(self.take(key, expected))
        if mask.shape != values.shape[:2] or mask.dtype.kind not in "biu" or (mask > 1).any() or (mask < 0).any():
            raise self.error(key, f"has shape {mask.shape} and dtype {mask.dtype}, or other values", expected)
        mask = mask.astype(bool)
        exist = existing(lengths, values.shape[1], side)
        if (beyond := (mask & ~exist).any(axis=1)).any():
            clip = ids[int(np.argmax(beyond))]
            raise self.error(key, f"is true for padding of clip {clip!r}", f"false outside of {modality}_lengths")
        seen = values.keep(mask | ~exist)
        if seen.any():
            self.note(modality, f"{int(seen.sum()):,} frames that were not observed held values and are 0 now")
        return mask

    def check_side(self, modality: str, values: FeatureRows, lengths: Ints, side: str, ids: list[str]) -> None:
        """Refuse lengths that do not fit the frames: padding would be read, and frames thrown away."""
        present, exist = values.present, existing(lengths, values.shape[1], side)
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

    def zero_padding(self, modality: str, values: FeatureRows, lengths: Ints, side: str = "end") -> None:
        """Zero the frames outside of each clip's length."""
        if cleared := int(values.keep(existing(lengths, values.shape[1], side)).sum()):
            self.note(modality, f"{cleared:,} frames beyond their clip's length were not 0 and are 0 now")
        if empty := int((lengths == 0).sum()):
            self.note(modality, f"{empty:,} clips have no frame")


def splits_of_pickle(path: Path, content: object, clip_labels: bool) -> dict[str, SplitArrays]:
    """Look up the splits of a pickle; valid may be lacking.

    Raises:
        MSABenchError: It holds anything but a dict with a dict of arrays for each.
    """
    if not isinstance(content, dict):
        raise MSABenchError(f"{path} holds a {kind_of(content)}; expected a dict with the keys {', '.join(SPLITS)}")
    for name in SPLITS:
        if name not in content:
            if name == "valid":
                continue
            found = listed(map(str, content))
            raise MSABenchError(f"{path} has no split {name!r} (it has {found}); expected {', '.join(SPLITS)}")
        if not isinstance(content[name], dict):
            raise MSABenchError(f"{path}: split {name!r} is a {kind_of(content[name])}; expected a dict of arrays")
    return {name: SplitArrays(path, name, content[name], clip_labels) for name in SPLITS if name in content}


def absent_of_pickle(path: Path, content: object, splits: Mapping[str, SplitArrays]) -> tuple[str, ...]:
    """The modalities that a pickle says its corpus does not have, by a key ``absent`` beside the splits.

    Raises:
        MSABenchError: It names anything else, all of them, or one that a split has an array of.
    """
    if not isinstance(content, dict) or "absent" not in content:
        return ()
    keys = {str(key) for split in splits.values() for key in split.arrays}
    return absent_modalities(path, "pickle", content["absent"], keys)


def absent_modalities(path: Path, where: str, names: Any, keys: Collection[str]) -> tuple[str, ...]:
    """The modalities that a file says its corpus does not have.

    Args:
        path: The file.
        where: What stands before the key in messages.
        names: What it says: names, or one.
        keys: Keys of its arrays.

    Raises:
        MSABenchError: It names anything else, all of them, or one that it has an array of.
    """
    absent = id_fields(names)
    if absent is None:
        raise MSABenchError(f"{path}: {where}/absent is a {kind_of(names)}; expected names of modalities")
    for name in absent:
        if name not in MODALITIES or name in keys or len(set(absent)) == len(MODALITIES):
            raise MSABenchError(
                f"{path}: {where}/absent names {name!r}; expected some of {', '.join(MODALITIES)}, not all, and none "
                "that the file has an array of"
            )
        if name == "text" and "text_bert" in keys:
            raise MSABenchError(f"{path}: {where}/absent names text, and the file has text_bert; take one of them out")
    return tuple(absent)


def way_out(modality: str) -> str:
    """What to do where a file has no array of a modality."""
    return f"; a corpus without {modality} says so by absent=[{modality!r}] beside its other arrays"

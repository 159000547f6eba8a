"""The reader of our npz."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.data import file_arrays
from msabench.data.feature_rows import FeatureRows
from msabench.data.file_arrays import FileArray, PickedRows, SourceFile, StoredBytes, loaded
from msabench.data.file_words import listed
from msabench.data.frames import Bools, Ints, zero_frames
from msabench.data.info import EMOTIONS, SPLITS, DatasetInfo, FeatureFile
from msabench.data.raw import RawCorpus, RawSplit
from msabench.data.raw_checks import checked_corpus
from msabench.data.split_arrays import SplitArrays, absent_modalities, way_out
from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import UNK

OPTIONAL = ("text_bert", *(f"{m}_{what}" for m in MODALITIES for what in ("lengths", "padding", "observed")))
"""Arrays that an npz may have besides those that it must have."""

_MOST_EMPTY = 1 << 24
"""Longest side of an array that holds nothing."""

_LOCAL_HEADER = 30
"""Bytes of what stands before the name of a member in a zip."""


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
        The splits; without ``valid`` if no clip is in it.

    Raises:
        MSABenchError: The file is damaged or not in this layout; labels, ids or lengths are wrong.
    """
    return corpus_of_arrays(path, _arrays(path, _label_key(info)), info, file, clip_labels=clip_labels)


def corpus_of_arrays(
    path: Path,
    arrays: Mapping[str, NDArray[Any] | FileArray],
    info: DatasetInfo,
    file: FeatureFile,
    *,
    clip_labels: bool = False,
) -> RawCorpus:
    """Check the arrays of our npz and share them out over the splits; see ``read_npz``.

    Args:
        path: The file that they are from, for messages.
        arrays: The arrays; others than those of the layout are not looked at.
        info: The corpus.
        file: What is listed of the file.
        clip_labels: Whether to clip labels beyond the corpus's range.

    Raises:
        MSABenchError: An array is missing or wrong.
    """
    label_key = _label_key(info)
    absent = absent_modalities(path, "npz", arrays["absent"], arrays) if "absent" in arrays else ()
    wanted = _wanted(path, arrays, absent, label_key)
    whole = SplitArrays(path, "npz", {key: arrays[key] for key in wanted})
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
            if name == "valid":
                continue
            raise whole.error("split", f"names no clip {name!r}", f"clips in each of {', '.join(SPLITS)}")
        parts = {key: _rows_of(key, value, rows) for key, value in whole.arrays.items()}
        split = SplitArrays(path, name, parts, clip_labels)
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
        features = split.all_features(n_clips, absent)
        lengths, observed = {}, {}
        for modality, values in features.items():
            if modality in absent:
                lengths[modality] = np.zeros(n_clips, dtype=np.int64)
                continue
            lengths[modality] = lengths_of(split, modality, values, sides[modality], ids)
            side = sides[modality] or "end"
            split.zero_padding(modality, values, lengths[modality], side)
            if f"{modality}_observed" in split.arrays:
                observed[modality] = split.observed(modality, values, lengths[modality], side, ids)
        tokens = split.tokens(n_clips, features["text"].shape[1]) if "text_bert" in split.arrays else None
        if tokens is not None and "text" in observed:
            hide_words(tokens, observed["text"])
        settled = {modality: values.settled() for modality, values in features.items()}
        splits[name] = RawSplit(settled, lengths, labels, ids, tokens, observed)
        notes += split.notes
    return checked_corpus(path, file, info, splits, notes, {m: side or "end" for m, side in sides.items()})


def lengths_of(split: SplitArrays, modality: str, values: FeatureRows, side: str | None, ids: list[str]) -> Ints:
    """Number of existing frames of each clip, int64 ``(N,)``."""
    n_clips, steps = values.shape[:2]
    if f"{modality}_lengths" in split.arrays:
        lengths = split.lengths(f"{modality}_lengths", n_clips, steps)
        split.check_side(modality, values, lengths, side or "end", ids)
        return lengths
    leading, trailing = zero_frames(values.present)
    if side is not None:
        found: Ints = steps - (leading if side == "front" else trailing)
        return found
    first, last = (int(((zeros > 0) & (zeros < steps)).sum()) for zeros in (leading, trailing))
    if (first or last) and f"{modality}_observed" not in split.arrays:
        split.note(
            modality,
            f"{first:,} clips begin and {last:,} end with frames that are all 0, which exist since there is neither "
            f"{modality}_lengths nor {modality}_padding",
        )
    return np.full(n_clips, steps, dtype=np.int64)


def hide_words(tokens: Ints, observed: Bools) -> None:
    """Replace words that were never observed by [UNK], so that no text encoder sees them; [CLS] and [SEP] stay."""
    exist = tokens[:, 1] == 1
    inner = exist.copy()
    inner[:, 0] = False
    inner[:, :-1] &= exist[:, 1:]
    inner[:, -1] = False
    tokens[:, 0][inner & ~observed] = UNK


def _rows_of(key: str, value: NDArray[Any] | FileArray, rows: Bools) -> NDArray[Any] | PickedRows:
    """The clips of a split; features are large, and are not copied."""
    if key in MODALITIES and value.dtype != object:
        return PickedRows(value, np.flatnonzero(rows))
    picked: NDArray[Any] = loaded(value)[rows]
    return picked


def _label_key(info: DatasetInfo) -> str:
    return "emotion_labels" if info.task == "emotions" else "regression_labels"


def _wanted(path: Path, keys: Collection[str], absent: Collection[str], label_key: str) -> list[str]:
    """The arrays of the layout that are there."""
    required = ("id", "split", label_key, *MODALITIES)
    for key in required:
        if key not in (*keys, *absent):
            advice = way_out(key) if key in MODALITIES else ""
            raise MSABenchError(
                f"{path} has no array {key!r} (it has {listed(keys)}); expected {', '.join(required)}{advice}"
            )
    return [key for key in (*required, *OPTIONAL) if key in keys]


def _arrays(path: Path, label_key: str) -> dict[str, NDArray[Any] | FileArray]:
    source = SourceFile(path)
    with readable(path, ", ".join(("id", "split", label_key, *MODALITIES))) as archive:
        said: dict[str, NDArray[Any] | FileArray] = {}
        if "absent" in archive.files:
            check_claim(archive, "absent")
            said["absent"] = archive["absent"]
        absent = absent_modalities(path, "npz", said["absent"], archive.files) if said else ()
        wanted = _wanted(path, archive.files, absent, label_key)
        for key in wanted:
            check_claim(archive, key)
        return said | {key: _array(archive, key, source) for key in wanted}


def _array(archive: Any, key: str, source: SourceFile) -> NDArray[Any] | FileArray:
    """An array, which stays in the file if it is large and stands there uncompressed."""
    member = archive.zip.getinfo(_member(archive, key))
    if member.compress_type != zipfile.ZIP_STORED or member.file_size < file_arrays.LARGE:
        array: NDArray[Any] = archive[key]
        return array
    with archive.zip.open(member) as stream:
        shape, fortran, dtype = _read_header(stream)
        start, n_bytes = stream.tell(), member.file_size - stream.tell()
        # At the end, the archive compares its checksum.
        while stream.read(file_arrays.BLOCK):
            pass
    local_header = np.empty(_LOCAL_HEADER, dtype=np.uint8)
    source.read_into(member.header_offset, local_header)
    # The lengths of the member's name and of extra fields, which stand between its header and its content.
    start += member.header_offset + _LOCAL_HEADER + int(local_header[26:30].view("<u2").sum())
    stored = None
    if not dtype.hasobject and dtype.names is None:
        stored = FileArray.of(StoredBytes(source, start, n_bytes), dtype, shape, "F" if fortran else "C")
    return archive[key] if stored is None else stored


@contextmanager
def readable(path: Path, expected: str) -> Iterator[Any]:
    """An open npz, without pickle; what goes wrong in the block because it is damaged is one sentence.

    Args:
        path: The file.
        expected: What it should hold, for errors.

    Yields:
        NumPy's ``NpzFile``.

    Raises:
        MSABenchError: It is damaged, no npz, or holds arrays of Python objects.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise MSABenchError(f"{path} holds a single array; expected an npz with {expected}")
        with archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, NotImplementedError, MemoryError) as error:
        # NumPy says "allow_pickle" both for arrays of Python objects and for files that are no npz at all.
        reason = "it is damaged, or holds arrays of Python objects"
        raise MSABenchError(f"{path} is not a readable npz ({reason}: {error}); get or write the file again") from error


def check_claim(archive: Any, key: str) -> None:
    """Compare an array's claimed size with that of its content, before NumPy takes memory for it.

    Raises:
        ValueError: They differ.
    """
    name = _member(archive, key)
    with archive.zip.open(name) as stream:
        shape, _, dtype = _read_header(stream)
        held, claimed = archive.zip.getinfo(name).file_size - stream.tell(), math.prod(shape) * dtype.itemsize
        # Where nothing is held, nothing bounds the shape. Arrays of objects are refused by NumPy.
        if not dtype.hasobject and (claimed != held or (not held and max(shape, default=0) > _MOST_EMPTY)):
            raise ValueError(f"{key} claims the shape {shape} of {dtype}, which is not what it holds")


def _member(archive: Any, key: str) -> str:
    return f"{key}.npy" if f"{key}.npy" in archive.zip.namelist() else key


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first axis runs fastest, and dtype of an array in NumPy's format."""
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read_header(stream)
    return header

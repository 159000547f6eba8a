"""Checks of a corpus as read: its splits against each other, and against what is known of the file."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

from msabench.data.info import CUSTOM, SPLITS, DatasetInfo, FeatureFile
from msabench.data.raw import RawCorpus, RawSplit
from msabench.data.shipped import SHIPPED
from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES


def checked_corpus(
    path: Path,
    file: FeatureFile,
    info: DatasetInfo,
    splits: dict[str, RawSplit],
    notes: list[str],
    padding: dict[str, str] | None = None,
    ids_from_file: bool = True,
) -> RawCorpus:
    """Check the splits against each other and against what is known of the file.

    Args:
        path: The file.
        file: What is listed of it.
        info: The corpus.
        splits: Name -> split as read; valid may be lacking.
        notes: What the readers mended; the checks' own findings follow.
        padding: modality -> padded side, ``front`` or ``end``; None: ``end`` of all.
        ids_from_file: Whether the ids are the file's, or row numbers.

    Raises:
        MSABenchError: The splits have different shapes, or share clips in a user's own file.
    """
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
    sizes = tuple(len(splits[name].ids) if name in splits else 0 for name in SPLITS)
    if info.split_sizes is not None and sizes != info.split_sizes:
        found, listed_sizes = ("/".join(map(str, s)) for s in (sizes, info.split_sizes))
        notes.append(f"the splits have {found} clips; {listed_sizes} are listed for {info.name}")
    if not ids_from_file:
        notes.append("the file has no usable ids: rows stand in for them, and every clip is its own conversation")
    else:
        _check_disjoint(path, splits, notes, strict=info.name == CUSTOM or info.name not in SHIPPED)
    sides = padding or dict.fromkeys(MODALITIES, "end")
    return RawCorpus(splits=splits, padding=sides, ids_from_file=ids_from_file, notes=notes)


def _check_disjoint(path: Path, splits: dict[str, RawSplit], notes: list[str], *, strict: bool) -> None:
    """Find clips that stand in two splits; users' own corpora must have none, a published one gets a note."""
    for first, second in combinations(splits, 2):
        shared = sorted(set(splits[first].ids) & set(splits[second].ids))
        if shared:
            found = f"{len(shared):,} ids, {shared[0]!r} for one, stand in {first} and in {second}"
            if strict:
                raise MSABenchError(f"{path}: {found}; expected every clip in one split only")
            notes.append(found)

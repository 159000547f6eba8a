"""Puts the rows of a file of predictions from elsewhere in the order of a test split, once they are all there.

Free of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msabench.data.info import EMOTIONS
from msabench.errors import MSABenchError
from msabench.missingness.conditions import Cell
from msabench.results.predictions import Floats
from msabench.results.scored_file import EMOTION_LABELS, EMOTION_SCORES, LABELS, SCORES, ScoredFile

Place = tuple[Cell, int | None]
"""A cell, and the seed of its masks; None where they are not random."""


@dataclass(frozen=True)
class ScoredCell:
    """Predictions of one cell and mask seed, in the order of the split. N clips.

    Attributes:
        cell: The test situation.
        mask_seed: Seed of its masks; None where they are not random.
        preds: float32 ``(N,)`` scores, or ``(N, 4, 2)`` for the emotions; finite.
        mask_hash: What the file says of the masks, 16 hex digits; None if it says nothing.
        labels: float64 ``(N,)`` or ``(N, 4)`` if the file has them; None if not.
    """

    cell: Cell
    mask_seed: int | None
    preds: Floats
    mask_hash: str | None
    labels: NDArray[np.float64] | None


def arranged(
    file: ScoredFile, ids: Sequence[str], places: Sequence[Place], *, emotions: bool, corpus: str
) -> list[ScoredCell]:
    """The predictions of every place, once all of them are there, and nothing else is.

    Args:
        file: The file. Its rows may stand in any order, and a cell go by either of its names.
        ids: Clip ids of the test split, N.
        places: Cells and mask seeds that must be there, without repetition.
        emotions: Whether the labels are emotions.
        corpus: The corpus's name, for messages.

    Raises:
        MSABenchError: A column, clip, cell or mask seed is missing or unknown, a row is there twice, a prediction is
            not finite, or a cell has several mask hashes; says how many and names one.
    """
    names = file.table.column_names
    preds = _numbers(file, EMOTION_SCORES if emotions else SCORES, corpus)
    wanted = EMOTION_LABELS if emotions else LABELS
    labels = _numbers(file, wanted, corpus) if {*wanted} & {*names} else None
    spots = _row_places(file, places) * len(ids) + _row_clips(file, ids, corpus)
    counts = np.bincount(spots, minlength=len(places) * len(ids))
    _refuse_doubled(file, counts, places, ids)
    _refuse_missing(file, counts.reshape(len(places), len(ids)) == 0, places, ids, corpus)
    order = np.argsort(spots, kind="stable")
    with np.errstate(over="ignore"):
        values = preds[order].astype(np.float32)
    _refuse_undefined(file, values, places, ids)
    values = values.reshape(len(places), len(ids), *((len(EMOTIONS), 2) if emotions else ()))
    if labels is not None:
        labels = labels[order].reshape(values.shape[:3] if emotions else values.shape)
    hashes = _hashes(file, order, places, len(ids))
    return [
        ScoredCell(cell, seed, values[number], hashes[number], None if labels is None else labels[number])
        for number, (cell, seed) in enumerate(places)
    ]


def _numbers(file: ScoredFile, names: Sequence[str], corpus: str) -> NDArray[np.float64]:
    """Columns side by side, ``(R, columns)``, empty fields as NaN."""
    held = file.table.column_names
    for name in names:
        if name not in held:
            raise MSABenchError(
                f"{file.path} has no column {name!r}, which {corpus} needs (its columns: {', '.join(held)})"
            )
    return np.stack([_floats(file.table[name]) for name in names], axis=1)


def _row_clips(file: ScoredFile, ids: Sequence[str], corpus: str) -> NDArray[np.int64]:
    """The clip of each row, by its place in the split."""
    words, codes = _words(file.table["id"])
    numbers = {name: number for number, name in enumerate(ids)}
    unknown = [word for word in words if word not in numbers]
    if unknown:
        raise MSABenchError(
            f"{file.path} has ids that are not in the test split of {corpus}: {len(unknown)}, e.g. {unknown[0]!r} "
            f"(ids there are such as {ids[0]!r})"
        )
    return np.array([numbers[word] for word in words], dtype=np.int64)[codes]


def _row_places(file: ScoredFile, places: Sequence[Place]) -> NDArray[np.int64]:
    """The place of each row, by its number in ``places``."""
    words, codes = _words(file.table["cell"])
    try:
        # A cell may go by two names, such as intra/0.0 and inter/lav.
        cells = [Cell.parse(word) for word in words]
    except MSABenchError as error:
        raise MSABenchError(f"{file.path}: {error}") from error
    seeds = _floats(file.table["mask_seed"])
    seedless = np.isnan(seeds)
    wrong = seeds[~seedless & ((seeds < 0) | (seeds != np.floor(seeds)))]
    if len(wrong):
        raise MSABenchError(f"{file.path} has mask_seed {wrong[0]:g}; allowed: whole numbers from 0 on, or empty")
    pairs, rows = np.unique(np.stack([codes, np.where(seedless, -1, seeds)], axis=1), axis=0, return_inverse=True)
    known = {place: number for number, place in enumerate(places)}
    found = []
    for code, seed in pairs.tolist():
        place = (cells[int(code)], None if seed < 0 else int(seed))
        if place not in known:
            raise _unknown(file, place, places)
        found.append(known[place])
    return np.array(found, dtype=np.int64)[rows.reshape(-1)]


def _unknown(file: ScoredFile, place: Place, places: Sequence[Place]) -> MSABenchError:
    cell, seed = place
    seeds = [other for known, other in places if known == cell]
    if not seeds:
        return MSABenchError(
            f"{file.path} has predictions of cell {cell}, which is not in the grid; add it to --grid, or leave it out"
        )
    if None in seeds:
        return MSABenchError(
            f"{file.path} has mask_seed {seed} in cell {cell}, whose masks are not random; leave it empty there"
        )
    given = "no mask_seed" if seed is None else f"mask_seed {seed}"
    allowed = " ".join(map(str, seeds))
    return MSABenchError(f"{file.path} has {given} in cell {cell}; asked for: {allowed} (see --mask_seeds)")


def _refuse_doubled(file: ScoredFile, counts: NDArray[np.int64], places: Sequence[Place], ids: Sequence[str]) -> None:
    doubled = np.flatnonzero(counts > 1)
    if len(doubled):
        place, clip = divmod(int(doubled[0]), len(ids))
        raise MSABenchError(
            f"{file.path} has predictions more than once: {len(doubled)}, e.g. of clip {ids[clip]!r} in "
            f"{named(places[place])}; give each once"
        )


def _refuse_missing(
    file: ScoredFile, missing: NDArray[np.bool_], places: Sequence[Place], ids: Sequence[str], corpus: str
) -> None:
    absent = np.flatnonzero(missing.all(axis=1))
    if len(absent):
        raise MSABenchError(
            f"{file.path} lacks {len(absent)} of {len(places)} test situations, e.g. {named(places[absent[0]])}; "
            "predict all of them, or name those that are there with --grid and --mask_seeds"
        )
    if missing.any():
        place, clip = (int(found[0]) for found in np.nonzero(missing))
        raise MSABenchError(
            f"{file.path} lacks predictions of test clips of {corpus}: {missing.sum()}, e.g. of clip {ids[clip]!r} in "
            f"{named(places[place])}; predict all {len(ids)}"
        )


def _refuse_undefined(file: ScoredFile, values: Floats, places: Sequence[Place], ids: Sequence[str]) -> None:
    undefined = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(undefined):
        place, clip = divmod(int(undefined[0]), len(ids))
        raise MSABenchError(
            f"{file.path} has predictions that are empty or not finite: {len(undefined)}, e.g. of clip {ids[clip]!r} "
            f"in {named(places[place])}; give a number for every clip"
        )


def _hashes(file: ScoredFile, order: NDArray[np.int64], places: Sequence[Place], clips: int) -> list[str | None]:
    """What the file says of each place's masks."""
    if not file.is_hashed:
        return [None] * len(places)
    words, codes = _words(file.table["mask_hash"])
    by_place = codes[order].reshape(len(places), clips)
    mixed = np.flatnonzero((by_place != by_place[:, :1]).any(axis=1))
    if len(mixed):
        raise MSABenchError(f"{file.path} has several mask_hash in {named(places[mixed[0]])}; its masks have one")
    return [words[code] for code in by_place[:, 0]]


def _words(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """The different words of a column, and which of them each row has."""
    whole = column.combine_chunks()
    return whole.dictionary.to_pylist(), whole.indices.to_numpy().astype(np.int64)


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Numbers, empty fields as NaN."""
    numbers: NDArray[np.float64] = column.to_numpy()
    return numbers


def named(place: Place) -> str:
    """A place in words, e.g. ``cell intra/0.3 with mask seed 0``."""
    cell, seed = place
    return f"cell {cell}" if seed is None else f"cell {cell} with mask seed {seed}"

"""What training under one regime instead of another changes, method by method. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msabench.results.aggregate import DRAWS, PROTOCOL, ROW
from msabench.results.chosen_rows import ChosenRows
from msabench.results.paired import paired_differences, resampled
from msabench.results.rows import RowKey, jobs_hash, key_of
from msabench.results.table import Entry, Row

COMPLETE, MIXED = "complete", "mixed"
"""The regime that shows no missing data in training, and the one that pages set beside it."""

Bounds = tuple[float, float]
StoredBounds = Mapping[tuple[str, str, str], Bounds]
"""(identity of the jobs, metric, cell) -> lower and upper bound."""


@dataclass(frozen=True)
class Change:
    """One method in one cell or average, trained under two regimes.

    Attributes:
        cell: Cell name or key of an average.
        before: Its number under the first regime.
        after: Its number under the second.
        interval: Bounds of ``after - before``, NaN where a resample leaves the metric undefined; None if neither the
            predictions nor a stored interval are here.
    """

    cell: str
    before: Entry
    after: Entry
    interval: Bounds | None

    @property
    def difference(self) -> float:
        """``after - before``."""
        return self.after.mean - self.before.mean

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


@dataclass(frozen=True)
class MethodChange:
    """One method under two regimes.

    Attributes:
        row: Its row under the second regime.
        seeds: Training seeds under the first and the second.
        changes: One entry for each cell that both have.
    """

    row: Row
    seeds: tuple[int, int]
    changes: dict[str, Change]


@dataclass(frozen=True)
class RegimeChanges:
    """All methods of one table under two regimes.

    Attributes:
        chosen: The table.
        before: The first regime.
        after: The second.
        methods: Those that have both, the one that gains most in the last cell first.
        left_out: Methods that do not, with the reason; sentences.
    """

    chosen: ChosenRows
    before: str
    after: str
    methods: list[MethodChange]
    left_out: list[str]


def places_by_regime(keys: Sequence[RowKey]) -> list[dict[str, list[int]]]:
    """Rows that differ in the regime alone, and in the config's hash that it enters.

    Args:
        keys: The key of each row.

    Returns:
        For each method, version and variant under each protocol, regime -> places of its rows.
    """
    names = (*PROTOCOL, *ROW)
    regime, config = names.index("regime"), names.index("config_hash")
    places: dict[RowKey, dict[str, list[int]]] = {}
    for place, key in enumerate(keys):
        same = tuple(value for number, value in enumerate(key) if number not in (regime, config))
        places.setdefault(same, {}).setdefault(key[regime], []).append(place)
    return list(places.values())


def pairs_of(keys: Sequence[RowKey], before: str) -> Iterator[tuple[int, int]]:
    """Places of rows that differ in the regime alone.

    Args:
        keys: The key of each row.
        before: The first regime of each pair.

    Yields:
        (place of the row under another regime, place of the row under ``before``), where each is the only one of its
        method, version and variant under its protocol and regime.
    """
    for by_regime in places_by_regime(keys):
        for name, here in by_regime.items():
            if name != before and len(here) == len(by_regime.get(before, ())) == 1:
                yield here[0], by_regime[before][0]


def identity(after: Sequence[str], before: Sequence[str]) -> str:
    """Identity of the jobs that a change is made of: two times 16 hex digits.

    Args:
        after: Job ids of the row under the second regime.
        before: Those under the first.
    """
    return "-".join(map(jobs_hash, (after, before)))


def bounds_of_change(
    after: Mapping[int, Path],
    before: Mapping[int, Path],
    metric_set: str,
    metric: str,
    cells: Sequence[str],
    draws: int = DRAWS,
) -> dict[str, Bounds]:
    """95 % bounds of a change, by the paired bootstrap of ``paired_differences``.

    Args:
        after: Training seed -> stored predictions under the second regime.
        before: The same under the first.
        metric_set: Metric set of the corpus.
        metric: Metric key.
        cells: Cell names and keys of averages.
        draws: Resamples.

    Raises:
        MSABenchError: Predictions are missing or of different clips.
    """
    ours, theirs = (resampled(files, metric_set, metric, cells, draws) for files in (after, before))
    return {cell: (found.low, found.high) for cell, found in paired_differences(ours, theirs).items()}


def regime_changes(
    chosen: ChosenRows, cells: Sequence[str], before: str, after: str, stored: StoredBounds, store: Path | None = None
) -> RegimeChanges:
    """Compare each row of a table under one regime with the same method's row under another.

    Args:
        chosen: The rows.
        cells: Cell names and keys of averages.
        before: The first regime.
        after: The second.
        stored: Bounds kept beside the records.
        store: Folder of the result store, for the predictions of rows without stored bounds; None leaves these without.

    Raises:
        MSABenchError: Predictions are of different clips.
    """
    table = chosen.table
    rows = table.rows
    methods = []
    for place, first in pairs_of([key_of(table, row) for row in rows], before):
        if rows[place].regime != after:
            continue
        bounds = bounds_of_pair(chosen, place, first, cells, stored, store)
        both = [cell for cell in cells if cell in rows[place].entries and cell in rows[first].entries]
        changes = {
            cell: Change(cell, rows[first].entries[cell], rows[place].entries[cell], bounds.get(cell)) for cell in both
        }
        methods.append(MethodChange(rows[place], (rows[first].n_seeds, rows[place].n_seeds), changes))
    better = -1 if table.metric.direction == "min" else 1
    methods.sort(key=lambda method: gain(method, cells[-1], better), reverse=True)
    paired = {(method.row.method, method.row.variant) for method in methods}
    left_out = []
    for name in dict.fromkeys((row.method, row.variant) for row in rows if (row.method, row.variant) not in paired):
        mine = [row for row in rows if (row.method, row.variant) == name]
        words = ", ".join(f"{row.regime}{''.join(f' {mark}' for mark in row.marks)}" for row in mine)
        left_out.append(f"{'/'.join(part for part in name if part != 'default')}, which has {words}")
    return RegimeChanges(chosen, before, after, methods, left_out)


def gain(method: MethodChange, cell: str, better: int) -> float:
    """How much a method gains in a cell; minus infinity where that is not known.

    Args:
        method: The method.
        cell: Cell name or key of an average.
        better: 1 where more of the metric is better, else -1.
    """
    change = method.changes.get(cell)
    return -math.inf if change is None or math.isnan(change.difference) else better * change.difference


def bounds_of_pair(
    chosen: ChosenRows, place: int, first: int, cells: Sequence[str], stored: StoredBounds, store: Path | None
) -> dict[str, Bounds]:
    """Bounds of one row minus another, as far as they are kept or can be made.

    Args:
        chosen: The rows.
        place: Place of the one among them.
        first: Place of the other.
        cells: Cell names and keys of averages.
        stored: Bounds kept beside the records.
        store: Folder of the result store, for the predictions of what is not kept; None for none.

    Raises:
        MSABenchError: Predictions are of different clips.
    """
    table = chosen.table
    jobs = identity(list(chosen.jobs[place].values()), list(chosen.jobs[first].values()))
    kept = {cell: stored[key] for cell in cells if (key := (jobs, table.metric.key, cell)) in stored}
    lacking = [cell for cell in cells if cell not in kept]
    if not lacking or store is None:
        return kept
    files = chosen.files(place, store), chosen.files(first, store)
    if all(path.is_file() for part in files for path in part.values()):
        kept |= bounds_of_change(*files, table.metric_set, table.metric.key, lacking)
    return kept

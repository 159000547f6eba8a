"""One model for all conditions against one model per condition. Free of torch.

A specialist is a training that sees one situation only: ``only(la)`` one set of modalities, ``random(0.3)`` one rate.
Its home is the cell of that situation; that of ``complete`` is ``inter/lav``. The question is what a model that was
trained under many situations at once gives away there, or gains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msabench.missingness.conditions import MISSING_CONDITIONS, Cell
from msabench.missingness.specialists import COMPLETE, home_of
from msabench.results.aggregate import DRAWS
from msabench.results.chosen_rows import ChosenRows
from msabench.results.paired import Resampled, paired_differences, resampled
from msabench.results.regime_changes import Bounds, Change, StoredBounds, identity, places_by_regime
from msabench.results.rows import RowKey, key_of
from msabench.results.table import Entry, Row

AVERAGE = "avg_missing"
"""Key of the mean over the six missing conditions, each from the specialist whose home it is."""

HOMES = ("inter", "random", "random-table")
"""Grids of the cells that may be a specialist's home."""


def is_generalist(regime: str) -> bool:
    """Whether a regime shows several situations with missing data in training."""
    return home_of(regime) is None


@dataclass(frozen=True)
class Versus:
    """One method: the model for all beside its specialists.

    Attributes:
        row: Its row under the regime of the model for all.
        seeds: Training seeds of the model for all.
        homes: Home cell, or ``AVERAGE`` where all six of its specialists are there -> the comparison there: ``before``
            is the specialist, ``after`` the model for all. In the order of tables, the average last.
    """

    row: Row
    seeds: int
    homes: dict[str, Change]


def groups_of(keys: Sequence[RowKey]) -> Iterator[tuple[int, dict[str, int]]]:
    """Places of rows that differ in the regime alone, a model for all with its specialists.

    Args:
        keys: The key of each row.

    Yields:
        (place of the model for all, home cell -> place of its specialist), where each is the only row of its method,
        version and variant under its protocol and regime.
    """
    for by_regime in places_by_regime(keys):
        homes = {home: here[0] for name, here in by_regime.items() if len(here) == 1 and (home := home_of(name))}
        if set(homes) <= {home_of(COMPLETE)}:
            # With and without missing data in training: that is ``regime_changes``.
            continue
        homes = {home: homes[home] for home in sorted(homes, key=Cell.parse)}
        for name, here in by_regime.items():
            if len(here) == 1 and is_generalist(name):
                yield here[0], homes


def six_of(homes: Mapping[str, int], jobs: Sequence[Mapping[int, str]]) -> dict[str, int]:
    """The specialists of the six missing conditions, if all are there under the same training seeds; else none.

    Args:
        homes: Home cell -> place of its specialist.
        jobs: For each place, training seed -> job id.
    """
    wanted = [str(Cell(letters)) for letters in MISSING_CONDITIONS]
    if not set(wanted) <= set(homes) or len({tuple(sorted(jobs[homes[home]])) for home in wanted}) > 1:
        return {}
    return {home: homes[home] for home in wanted}


def bounds_at_home(
    one: Mapping[int, Path],
    specialists: Mapping[str, Mapping[int, Path]],
    metric_set: str,
    metric: str,
    draws: int = DRAWS,
) -> tuple[float, Bounds]:
    """Mean over homes of the model for all minus the specialist, with its paired bootstrap interval.

    Args:
        one: Training seed -> stored predictions of the model for all.
        specialists: Home cell -> the same of its specialist. One cell, or several with the same training seeds.
        metric_set: Metric set of the corpus.
        metric: Metric key.
        draws: Resamples.

    Raises:
        MSABenchError: Predictions are missing, of different clips, or lack a home cell.
    """
    cells = list(specialists)
    ours = _mean(resampled(one, metric_set, metric, cells, draws), cells)
    theirs = [resampled(files, metric_set, metric, [cell], draws) for cell, files in specialists.items()]
    first = theirs[0]
    joined = Resampled(
        first.ids,
        first.seeds,
        {cell: part.estimates[cell] for cell, part in zip(cells, theirs, strict=True)},
        {cell: part.values[cell] for cell, part in zip(cells, theirs, strict=True)},
    )
    found = paired_differences(ours, _mean(joined, cells))[AVERAGE]
    return found.difference, (found.low, found.high)


def _mean(found: Resampled, cells: Sequence[str]) -> Resampled:
    estimates, values = (
        {AVERAGE: np.mean([part[cell] for cell in cells], axis=0)} for part in (found.estimates, found.values)
    )
    return Resampled(found.ids, found.seeds, estimates, values)


def versus(
    chosen: ChosenRows, stored: StoredBounds, against: str | None = None, store: Path | None = None
) -> list[Versus]:
    """Each model for all beside its specialists.

    Args:
        chosen: The rows, with entries for the home cells.
        stored: Bounds kept beside the records.
        against: Regime of the models for all; None for every one that has specialists beside it.
        store: Folder of the result store, for the predictions of pairs without stored bounds; None leaves these
            without.

    Raises:
        MSABenchError: Predictions are of different clips.
    """
    table = chosen.table
    found = []
    for place, homes in groups_of([key_of(table, row) for row in table.rows]):
        row = table.rows[place]
        if against not in (None, row.regime):
            continue
        changes = {
            home: Change(
                home,
                table.rows[other].entries[home],
                row.entries[home],
                _bounds(chosen, place, {home: other}, home, stored, store),
            )
            for home, other in homes.items()
            if home in row.entries and home in table.rows[other].entries
        }
        six = six_of(homes, chosen.jobs)
        if six and set(six) <= set(changes) and AVERAGE in row.entries:
            before = _averaged([changes[home].before for home in six])
            bounds = _bounds(chosen, place, six, AVERAGE, stored, store)
            changes[AVERAGE] = Change(AVERAGE, before, row.entries[AVERAGE], bounds)
        if changes:
            found.append(Versus(row, row.n_seeds, changes))
    return found


def _averaged(entries: Sequence[Entry]) -> Entry:
    """Mean of the specialists' numbers; what deviates over seeds is not known of a mean of six models."""
    return Entry(
        mean=float(np.mean([entry.mean for entry in entries])),
        std=float("nan"),
        n_seeds=min(entry.n_seeds for entry in entries),
        n_mask_seeds=0,
        n_collapsed=max(entry.n_collapsed for entry in entries),
        unseen=any(entry.unseen for entry in entries),
    )


def _bounds(
    chosen: ChosenRows,
    place: int,
    homes: Mapping[str, int],
    cell: str,
    stored: StoredBounds,
    store: Path | None,
) -> Bounds | None:
    table = chosen.table
    theirs = [job for other in homes.values() for job in chosen.jobs[other].values()]
    key = (identity(list(chosen.jobs[place].values()), theirs), table.metric.key, cell)
    if key in stored:
        return stored[key]
    if store is None:
        return None
    one = chosen.files(place, store)
    files = {home: chosen.files(other, store) for home, other in homes.items()}
    if not all(path.is_file() for part in (one, *files.values()) for path in part.values()):
        return None
    return bounds_at_home(one, files, table.metric_set, table.metric.key)[1]

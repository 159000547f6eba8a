"""Compares the rows of tables: each with a baseline, and all with one another by rank."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msabench.errors import MSABenchError
from msabench.missingness.conditions import Cell, distinct
from msabench.results.aggregate import DRAWS
from msabench.results.chosen_rows import ChosenRows, full_name
from msabench.results.derived import made_of
from msabench.results.paired import Difference, holm, paired_differences, resampled, seeds_paired
from msabench.results.ranks import Ranking, rank_intervals, ranking
from msabench.results.resample import over_resamples, seed_shares
from msabench.results.table import Entry, Row

TUNED = "tuned"
"""Word in the name of a row with tuned settings."""


@dataclass(frozen=True)
class Comparison:
    """One row against the baseline in one cell or average.

    Attributes:
        row: The row.
        cell: Cell name, key of an average or name of a derived quantity.
        found: The difference; None if a training seed of either has no records of the cell, or the metric does not have
            the quantity.
        seeds: Training seeds of the row.
        paired: Whether its seeds are drawn in pairs with the baseline's.
    """

    row: Row
    cell: str
    found: Difference | None
    seeds: int
    paired: bool


@dataclass(frozen=True)
class Compared:
    """The rows of one table against a baseline.

    Attributes:
        chosen: The table.
        baseline: The baseline.
        baseline_seeds: Its training seeds.
        n_clips: Test clips.
        comparisons: By row, then by cell.
    """

    chosen: ChosenRows
    baseline: Row
    baseline_seeds: int
    n_clips: int
    comparisons: list[Comparison]


def baseline_of(chosen: ChosenRows, name: str) -> int | None:
    """Place of the baseline among a selection's rows; None if it is not there.

    Args:
        chosen: The rows.
        name: A row's method, method with variant, or either with its regime: ``mult``, ``prlf/wo_pi``,
            ``prlf (mixed)``. The word ``tuned`` behind method and variant means tuned settings, as in ``mult tuned``;
            without it default ones are meant where both are there.

    Raises:
        MSABenchError: Several rows go by the name.
    """
    rows = chosen.table.rows
    places = [place for place, row in enumerate(rows) if name in _names_of(row)]
    places = [place for place in places if not rows[place].tuning] or places
    if len(places) > 1:
        several = ", ".join(repr(full_name(rows[place])) for place in places)
        raise MSABenchError(f"baseline {name!r} may be any of {several}; give one of them")
    return places[0] if places else None


def _names_of(row: Row) -> tuple[str, ...]:
    tuned = f"{row.name} {TUNED}" if row.tuning else row.name
    return row.name, f"{row.name} ({row.regime})", tuned, f"{tuned} ({row.regime})", row.label, full_name(row)


def named_method(name: str) -> tuple[str, str]:
    """Method and variant of a name as ``baseline_of`` takes it; the variant is empty if none is named."""
    plain = re.sub(rf" (\(.*|{TUNED}\b.*)$", "", name)
    method, _, variant = plain.partition("/")
    return method, variant


def compare_rows(chosen: ChosenRows, baseline: int, cells: Sequence[str], store: Path, draws: int) -> Compared:
    """Compare every other row of a table with the baseline.

    Args:
        chosen: The rows.
        baseline: Place of the baseline among them.
        cells: Cell names, keys of averages and names of derived quantities.
        store: Folder of the result store, for its predictions.
        draws: Number of resamples.

    Raises:
        MSABenchError: Predictions are missing or of different clips.
    """
    table = chosen.table
    made = [
        resampled(chosen.files(place, store), table.metric_set, table.metric.key, cells, draws)
        for place in range(len(table.rows))
    ]
    comparisons = []
    for place, row in enumerate(table.rows):
        if place != baseline:
            found = paired_differences(made[place], made[baseline])
            paired = seeds_paired(made[place], made[baseline])
            for cell in cells:
                comparisons.append(Comparison(row, cell, found.get(cell), len(made[place].seeds), paired))
    return Compared(chosen, table.rows[baseline], len(made[baseline].seeds), len(made[baseline].ids), comparisons)


def corrected(compared: Sequence[Compared]) -> list[float]:
    """Holm-corrected p value of every comparison, in order, over all of them; NaN where there is none."""
    p_values = [
        comparison.found.p if comparison.found else np.nan for part in compared for comparison in part.comparisons
    ]
    return [float(p) for p in holm(p_values)]


@dataclass(frozen=True)
class Ranked:
    """A ranking of rows over corpora and cells.

    Attributes:
        chosen_tables: One table for each corpus.
        ranking: The ranking.
        fidelity: Fidelity of each ranked row, in its order.
        left_out: Rows and tables that could not take part, with the reason; sentences.
        intervals: Lower and upper bound of each average rank, ``(K, 2)``; None without the predictions of all of them.
    """

    chosen_tables: list[ChosenRows]
    ranking: Ranking
    fidelity: tuple[str, ...]
    left_out: list[str]
    intervals: NDArray[np.float64] | None = None


def rank_rows(
    chosen_tables: Sequence[ChosenRows], cells: Sequence[str], store: Path | None = None, draws: int = DRAWS
) -> Ranked:
    """Rank rows over corpora and cells.

    Each corpus gives one table, the one with the most rows, and all of them have one manner of dropping and selecting,
    the one with the most rows. A row takes part if it has every cell in every table. Rows of different corpora are the
    same if they have the same name. Revisions of a corpus are different data, between which nothing is chosen here.

    Args:
        chosen_tables: The tables.
        cells: Cell names, keys of averages and names of derived quantities; the last two stand for their cells.
        store: Folder of the result store, whose predictions give intervals of the ranks; None for none.
        draws: Number of resamples.

    Raises:
        MSABenchError: Fewer rows or cells than a ranking needs, metrics of different direction, or tables of several
            revisions of a corpus that differ in nothing else.
    """
    taken, left_out = _one_for_each_corpus(chosen_tables)
    directions = {chosen.table.metric.direction for chosen in taken}
    if len(directions) > 1:
        raise MSABenchError("the corpora's usual metrics differ in whether more is better; name one with --metric")
    parts = [Cell.parse(part) for cell in cells for part in made_of(cell)]
    blocks: list[tuple[ChosenRows, str]] = []
    for chosen in taken:
        there = {cell for row in chosen.table.rows for cell in row.entries}
        blocks += [(chosen, str(cell)) for cell in distinct(parts) if str(cell) in there]
    by_name = [dict(zip(chosen.names, chosen.table.rows, strict=True)) for chosen in taken]
    tables = {id(chosen): rows for chosen, rows in zip(taken, by_name, strict=True)}
    names: list[str] = []
    lacking: list[str] = []
    entries: list[list[Entry]] = []
    for name in dict.fromkeys(name for rows in by_name for name in rows):
        found = [
            rows[name].entries.get(cell) if name in (rows := tables[id(chosen)]) else None for chosen, cell in blocks
        ]
        whole = [entry for entry in found if entry is not None]
        if len(whole) == len(blocks):
            names.append(name)
            entries.append(whole)
        else:
            lacking.append(f"{name} (has {len(whole)})")
    if lacking:
        left_out.append(f"for lack of some of the {len(blocks)} test situations, {', '.join(lacking)}")
    values = np.array([[entry.mean for entry in column] for column in entries]).reshape(len(names), len(blocks)).T
    collapsed = np.array([[entry.n_collapsed > 0 for entry in column] for column in entries], dtype=bool)
    last = collapsed.reshape(len(names), len(blocks)).T & _counts_classes(taken)
    labels = [f"{chosen.table.dataset} {cell}" for chosen, cell in blocks]
    direction = directions.pop()
    result = ranking(names, labels, values, last, direction)
    known = {name: row.fidelity for rows in by_name for name, row in rows.items()}
    drawn = None if store is None else _resampled_blocks(blocks, result.names, store, draws)
    intervals = None if drawn is None else rank_intervals(drawn, result.last, direction)
    return Ranked(taken, result, tuple(known[name] for name in result.names), left_out, intervals)


def _resampled_blocks(
    blocks: Sequence[tuple[ChosenRows, str]], names: Sequence[str], store: Path, draws: int
) -> NDArray[np.float64] | None:
    """Values of rows in resamples, ``(draws, blocks, rows)``; None if predictions of one of them are not here."""
    by_table: dict[int, tuple[ChosenRows, list[str]]] = {}
    for chosen, cell in blocks:
        by_table.setdefault(id(chosen), (chosen, []))[1].append(cell)
    columns = []
    for number, name in enumerate(names):
        column = []
        for chosen, cells in by_table.values():
            files = chosen.files(chosen.names.index(name), store)
            if not all(path.is_file() for path in files.values()):
                return None
            table = chosen.table
            made = resampled(files, table.metric_set, table.metric.key, cells, draws)
            # Seeds of one row are drawn together with those of all rows that have the same.
            same = made.seeds == tuple(sorted(chosen.jobs[chosen.names.index(names[0])]))
            found = over_resamples(made.values, seed_shares(len(made.seeds), draws, 0 if same else number))
            column += [found[cell] for cell in cells]
        columns.append(np.stack(column, axis=1))
    return np.stack(columns, axis=2)


def _counts_classes(chosen_tables: Sequence[ChosenRows]) -> bool:
    """Whether the metric sees two classes of scores only, so that predictions of one class earn what a constant does.

    Correlation, errors and finer classes still tell clips apart where the sign does not; of four emotions, one may
    collapse while the others do not.
    """
    return all(
        chosen.table.metric_set != "emotions" and chosen.table.metric.key.startswith(("acc2", "f1"))
        for chosen in chosen_tables
    )


def _one_for_each_corpus(chosen_tables: Sequence[ChosenRows]) -> tuple[list[ChosenRows], list[str]]:
    """The table of each corpus to rank on, and what is said of the others."""
    manners: dict[tuple[str, ...], dict[str, ChosenRows]] = {}
    for chosen in chosen_tables:
        table = chosen.table
        manner = tuple(table.protocol[name] for name in ("level", "lengths", "token_fill", "selection"))
        best = manners.setdefault(manner, {}).setdefault(table.dataset, chosen)
        if len(table.rows) > len(best.table.rows):
            manners[manner][table.dataset] = chosen
    taken = max(manners.values(), key=lambda found: sum(len(part.table.rows) for part in found.values()))
    for chosen in taken.values():
        _require_one_revision(chosen, chosen_tables)
    left_out = []
    for chosen in chosen_tables:
        other = taken.get(chosen.table.dataset)
        if chosen is not other:
            same = other is not None and chosen.table.protocol == other.table.protocol
            reason = f"having {chosen.table.metric_set} metrics" if same else "being of another protocol"
            left_out.append(f"for {reason}, {chosen.table.protocol_text}")
    return list(taken.values()), left_out


def _require_one_revision(chosen: ChosenRows, chosen_tables: Sequence[ChosenRows]) -> None:
    """Refuse to choose between tables that differ in the revision of the data alone."""
    about = {**chosen.table.protocol, "revision": ""}
    alike = [other.table for other in chosen_tables if {**other.table.protocol, "revision": ""} == about]
    revisions = sorted({table.protocol["revision"] for table in alike})
    if len(revisions) > 1:
        raise MSABenchError(
            f"{chosen.table.dataset} has records of {len(revisions)} revisions, {', '.join(revisions)}, which are "
            "different data and are not ranked together; name one with --revision"
        )

"""Summaries of records over mask seeds and training seeds.

Two rules keep them honest. Records of different protocols (corpus revision, features, where text is dropped, what a
removed modality leaks, how the checkpoint was selected) are never put together. And nothing is filled in: an average
over conditions exists only where all of them exist, and an undefined value makes every mean over it undefined, since
leaving it out would flatter a method that collapsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.metrics.spec import metric_spec
from msabench.missingness.conditions import AVERAGES, Cell
from msabench.missingness.specialists import never_shown
from msabench.results.derived import Derived, derived
from msabench.results.records import Records

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Flags = NDArray[np.bool_]

Line = dict[str, Any]
"""A line of a summary: names of its columns -> values."""

PROTOCOL = ("dataset", "revision", "features", "level", "lengths", "token_fill", "selection")
"""Fields that must agree before two numbers may stand in one table."""

ROW = ("method", "method_version", "variant", "regime", "config_hash", "origin", "tuning")
"""Fields that tell the rows of a table apart."""

DRAWS = 2000
"""Resamples of a bootstrap interval."""

LEVEL = 95
"""Coverage in percent that intervals aim at."""


@dataclass(frozen=True)
class _Numbers:
    """G numbers of each of M metrics: of jobs, one a training seed, in cells, averages and derived quantities."""

    job: Codes
    name: Codes
    """Place in the list of names of cells, averages and quantities."""
    values: Floats
    """``(G, M)``, NaN where undefined."""
    n_mask_seeds: Codes
    collapsed: Flags
    unseen: Flags

    def at(self, places: Codes | Flags) -> _Numbers:
        return _Numbers(*(getattr(self, name)[places] for name in self.__dataclass_fields__))

    @staticmethod
    def joined(parts: Sequence[_Numbers]) -> _Numbers:
        names = _Numbers.__dataclass_fields__
        return _Numbers(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def by_seed(records: Records, metric: str) -> list[Line]:
    """One value per training seed and cell: the mean over mask seeds; averages over conditions come as further cells.

    Args:
        records: Records as ``ResultStore.records`` gives them.
        metric: Metric key.

    Returns:
        Lines with ``PROTOCOL``, ``ROW``, ``seed``, ``cell`` (cell name or key of ``AVERAGES``), ``value`` (NaN if any
        mask seed's value is undefined), ``n_mask_seeds`` (test masks drawn; the fewest and, in an average, over its
        random cells), ``collapsed`` (whether predictions fell into one class under any mask seed, in any cell),
        ``unseen`` (whether any cell rests on modalities alone that no training clip had).
    """
    names, found = _by_seed(records, [metric])
    keys = [{name: job[name] for name in (*PROTOCOL, *ROW, "seed")} for job in records.jobs]
    columns = found.job, found.name, found.values[:, 0], found.n_mask_seeds, found.collapsed, found.unseen
    return [
        {
            **keys[job],
            "cell": names[name],
            "value": value,
            "n_mask_seeds": drawn,
            "collapsed": collapsed,
            "unseen": unseen,
        }
        for job, name, value, drawn, collapsed, unseen in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _by_seed(
    records: Records, metrics: Sequence[str], quantities: Sequence[Derived] = ()
) -> tuple[list[str], _Numbers]:
    """``by_seed`` for several metrics, with derived quantities as further cells; and what the cells are called."""
    names = list(records.cells)
    values = np.array([records.values(metric) for metric in metrics]).reshape(len(metrics), len(records)).T
    unseen = _rests_on_unseen(records)
    first, group = _groups(records.job, records.cell)
    per_cell = _Numbers(
        records.job[first],
        records.cell[first],
        _means(values, group, len(first)),
        np.bincount(group, records.drawn, len(first)).astype(np.int64),
        _any(records.collapsed, group, len(first)),
        _any(unseen, group, len(first)),
    )
    parts = [per_cell]
    # Where the number of a job and a cell stands; -1 where there is none.
    place = np.full((len(records.jobs), len(names)), -1)
    place[per_cell.job, per_cell.name] = np.arange(len(first))
    made = {name: tuple(map(str, cells)) for name, cells in AVERAGES.items()}
    found = {quantity.key: quantity for quantity in quantities}
    for name, cells in (made | {key: quantity.cells for key, quantity in found.items()}).items():
        if not set(names).issuperset(cells):
            # Nobody can have all of them.
            continue
        having = place[:, [names.index(cell) for cell in cells]]
        jobs = np.flatnonzero((having >= 0).all(axis=1))
        # As the records have them.
        here = np.sort(having[jobs], axis=1)
        over = per_cell.at(here.ravel())
        group = np.repeat(np.arange(len(jobs)), len(cells))
        if name in found:
            averages = _derived(found[name], per_cell.values, dict(zip(cells, having[jobs].T, strict=True)), metrics)
        else:
            averages = _means(over.values, group, len(jobs))
        # Cells without random masks have no mask seed and would hide how often the others were drawn.
        drawn = np.where(over.n_mask_seeds > 0, over.n_mask_seeds, _MANY).reshape(here.shape).min(axis=1, initial=_MANY)
        parts.append(
            _Numbers(
                jobs,
                np.full(len(jobs), len(names)),
                averages,
                np.where(drawn < _MANY, drawn, 0),
                _any(over.collapsed, group, len(jobs)),
                _any(over.unseen, group, len(jobs)),
            )
        )
        names.append(name)
    return names, _Numbers.joined(parts)


_MANY = np.iinfo(np.int64).max


def _derived(quantity: Derived, values: Floats, places: dict[str, Codes], metrics: Sequence[str]) -> Floats:
    """A derived quantity of some jobs, ``(J, M)``; undefined for metrics that do not have it.

    Args:
        quantity: The quantity.
        values: ``(G, M)``.
        places: Cell -> ``(J,)``, where in ``values`` the jobs' numbers stand.
        metrics: The M metrics.
    """
    made = np.full((len(next(iter(places.values()))), len(metrics)), np.nan)
    for number, metric in enumerate(metrics):
        if quantity.applies(metric_spec(metric)):
            made[:, number] = quantity.of({cell: values[here, number] for cell, here in places.items()})
    return made


def _rests_on_unseen(records: Records) -> Flags:
    """Whether each record's cell has no modality that a training clip had."""
    # Few of each are distinct.
    about = [(job["unseen"], job["regime"]) for job in records.jobs]
    kinds = list(dict.fromkeys(about))
    unseen = [{*letters, *never_shown(regime)} for letters, regime in kinds]
    shown = [set(Cell.parse(name).available) for name in records.cells]
    rests = [[bool(letters) and available <= letters for letters in unseen] for available in shown]
    kind = np.array([kinds.index(pair) for pair in about], dtype=np.int64)
    return np.array(rests, dtype=bool).reshape(len(shown), len(kinds))[records.cell, kind[records.job]]


def over_seeds(
    records: Records, metric: str, *, keep_seeds: bool = False, quantities: Sequence[str] = ()
) -> list[Line]:
    """Mean and spread over training seeds, after the mean over mask seeds within each.

    Args:
        records: Records as ``ResultStore.records`` gives them.
        metric: Metric key.
        keep_seeds: Whether each training seed stays a line of its own.
        quantities: Names of derived quantities that come as further cells, see ``results.derived``.

    Returns:
        Lines with ``PROTOCOL``, ``ROW``, ``seed`` if kept, ``cell``, ``metric``, ``mean``, ``std`` (ddof = 1; NaN for
        one seed), ``n_seeds``, ``n_mask_seeds`` (the fewest of any seed), ``n_collapsed`` (seeds that collapsed),
        ``unseen`` (as in ``by_seed``, of any seed). Mean and standard deviation are NaN if any seed's value is
        undefined.
    """
    return over_seeds_of(records, [metric], keep_seeds=keep_seeds, quantities=quantities)


def over_seeds_of(
    records: Records, metrics: Sequence[str], *, keep_seeds: bool = False, quantities: Sequence[str] = ()
) -> list[Line]:
    """``over_seeds`` for several metrics at the cost of about one: its lines, metric after metric."""
    made = [quantity for name in quantities if (quantity := derived(name)) is not None]
    names, found = _by_seed(records, metrics, made)
    about: dict[tuple[Any, ...], int] = {}
    fields = (*PROTOCOL, *ROW, *(["seed"] if keep_seeds else []))
    row = [about.setdefault(tuple(job[name] for name in fields), len(about)) for job in records.jobs]
    keys = [dict(zip(fields, key, strict=True)) for key in about]
    rows = np.array(row, dtype=np.int64)[found.job]
    first, group = _groups(rows, found.name)
    means, spreads = _means(found.values, group, len(first)), _spreads(found.values, group, len(first))
    drawn = np.full(len(first), _MANY)
    np.minimum.at(drawn, group, found.n_mask_seeds)
    counts = zip(
        rows[first].tolist(),
        found.name[first].tolist(),
        np.bincount(group, minlength=len(first)).tolist(),
        drawn.tolist(),
        np.bincount(group, found.collapsed, len(first)).astype(np.int64).tolist(),
        _any(found.unseen, group, len(first)).tolist(),
        strict=True,
    )
    counted = [
        (
            {**keys[place], "cell": names[name]},
            {"n_seeds": n_seeds, "n_mask_seeds": n_mask_seeds, "n_collapsed": n_collapsed, "unseen": unseen},
        )
        for place, name, n_seeds, n_mask_seeds, n_collapsed, unseen in counts
    ]
    return [
        {**key, "metric": metric, "mean": mean, "std": spread, **counts}
        for number, metric in enumerate(metrics)
        for (key, counts), mean, spread in zip(
            counted, means[:, number].tolist(), spreads[:, number].tolist(), strict=True
        )
    ]


def _groups(*keys: Codes) -> tuple[Codes, Codes]:
    """Group by some keys, all at least 0: the first member of each group, in order, and everybody's group."""
    code = np.zeros(len(keys[0]), dtype=np.int64)
    for key in keys:
        code = code * (key.max(initial=0) + 1) + key
    _, first, group = np.unique(code, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[group]


def _turns(group: Codes, count: int) -> list[Codes]:
    """Everybody's place, in turns: first the first members of all groups, then the second ones and so on."""
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=count)
    turn = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return [order[turn == number] for number in range(sizes.max(initial=0))]


def _any(flags: Flags, group: Codes, count: int) -> Flags:
    """Whether any member of each group has a flag."""
    return np.bincount(group, flags, count) > 0


def _means(values: Floats, group: Codes, count: int) -> Floats:
    """Means per group, ``(G, M)`` from ``(R, M)``, NaN if any value is.

    How a sum is rounded depends on how it is taken, and tables as CSV show its last digit. So that they stay as they
    are, it is taken by NumPy where groups lie one after another and a metric is defined everywhere, else by W. Kahan's
    rule.
    """
    total, lost = np.zeros((2, count, values.shape[1]))
    for members in _turns(group, count):
        here = group[members]
        added = values[members] - lost[here]
        whole = total[here] + added
        lost[here] = (whole - total[here]) - added
        total[here] = whole
    if count and (np.diff(group) >= 0).all():
        defined = ~np.isnan(values).any(axis=0)
        total[:, defined] = np.add.reduceat(values[:, defined], np.flatnonzero(np.diff(group, prepend=-1)))
    return total / np.bincount(group, minlength=count)[:, None]


def _spreads(values: Floats, group: Codes, count: int) -> Floats:
    """Standard deviations per group (ddof = 1), NaN if any value is or there is but one; by B. P. Welford's rule."""
    mean, squares = np.zeros((2, count, values.shape[1]))
    for number, members in enumerate(_turns(group, count), start=1):
        here = group[members]
        off = values[members] - mean[here]
        mean[here] += off / number
        squares[here] += (values[members] - mean[here]) * off
    free = np.bincount(group, minlength=count)[:, None] - 1.0
    return np.sqrt(squares / np.where(free > 0, free, np.nan))


def jobs_by_row(records: Records) -> dict[tuple[Any, ...], dict[int, str]]:
    """The finished jobs of each row, one a training seed.

    Args:
        records: Records as ``ResultStore.records`` gives them.

    Returns:
        Values of ``PROTOCOL`` and ``ROW`` -> training seed -> job id, seeds ascending.
    """
    jobs: dict[tuple[Any, ...], dict[int, str]] = {}
    for job in sorted(records.jobs, key=lambda job: job["seed"]):
        jobs.setdefault(tuple(job[name] for name in (*PROTOCOL, *ROW)), {})[job["seed"]] = job["job_id"]
    return jobs


def inconsistencies(records: Records) -> list[str]:
    """What must be the same for all jobs of a protocol and is not: the test masks, their seeds, the number of clips.

    Args:
        records: Records as ``ResultStore.records`` gives them.

    Returns:
        One sentence per corpus and kind; empty if every job saw the same clips with the same holes.
    """
    problems: list[str] = []
    known: dict[tuple[str, ...], int] = {}
    about = [known.setdefault(tuple(job[name] for name in PROTOCOL), len(known)) for job in records.jobs]
    protocol = np.array(about, dtype=np.int64)[records.job]
    seed = np.unique(records.mask_seed, return_inverse=True)[1]
    first, group = _groups(protocol, records.cell, records.drawn.astype(np.int64), seed)
    for column, what in ((records.mask_hash, "test masks"), (records.n, "numbers of test clips")):
        problems += _sentences(records, np.flatnonzero(column != column[first][group]), what)
    # Whoever may choose the seeds can choose those that flatter. A job has a mask seed once: all have the same ones if,
    # and only if, each has every one that any has.
    random = np.flatnonzero(records.drawn)
    first, group = _groups(protocol[random], records.cell[random])
    jobs, seeds = (
        np.bincount(group[_groups(group, key[random])[0]], minlength=len(first)) for key in (records.job, seed)
    )
    differing = np.bincount(group, minlength=len(first)) != jobs * seeds
    return [*problems, *_sentences(records, random[first[differing]], "mask seeds")]


def _sentences(records: Records, places: Codes, what: str) -> list[str]:
    """One sentence per corpus of some records, in whose cells jobs have more than one of something."""
    cells: dict[str, set[Cell]] = {}
    for job, cell in zip(records.job[places].tolist(), records.cell[places].tolist(), strict=True):
        cells.setdefault(records.jobs[job]["dataset"], set()).add(Cell.parse(records.cells[cell]))
    return [
        f"{dataset}: records of one protocol have different {what} in {', '.join(map(str, sorted(cells[dataset])))}; "
        "their numbers are not comparable"
        for dataset in sorted(cells)
    ]

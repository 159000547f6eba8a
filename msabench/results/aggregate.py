"""Summaries of records over mask seeds and training seeds.

Two rules keep them honest. Records of different protocols (corpus revision, features, where text is dropped, what a
removed modality leaks, how the checkpoint was selected) are never put together. And nothing is filled in: an average
over conditions exists only where all of them exist, and an undefined value makes every mean over it undefined, since
leaving it out would flatter a method that collapsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msabench.metrics.spec import metric_spec
from msabench.missingness.conditions import AVERAGES, Cell
from msabench.missingness.specialists import never_shown
from msabench.results.derived import Derived, derived

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

PROTOCOL = ("dataset", "revision", "features", "level", "lengths", "token_fill", "selection")
"""Fields that must agree before two numbers may stand in one table."""

ROW = ("method", "method_version", "variant", "regime", "config_hash", "origin")
"""Fields that tell the rows of a table apart."""

DRAWS = 2000
"""Resamples of a bootstrap interval."""

LEVEL = 95
"""Coverage in percent that intervals aim at."""


def by_seed(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One value per training seed and cell: the mean over mask seeds; averages over conditions come as further cells.

    Args:
        frame: Records as ``ResultStore.frame`` gives them.
        metric: Metric key, a column of ``frame``.

    Returns:
        Columns ``PROTOCOL``, ``ROW``, ``seed``, ``cell`` (cell name or key of ``AVERAGES``), ``value`` (NaN if any
        mask seed's value is undefined), ``n_mask_seeds`` (test masks drawn; the fewest and, in an average, over its
        random cells), ``collapsed`` (whether predictions fell into one class under any mask seed, in any cell),
        ``unseen`` (whether any cell rests on modalities alone that no training clip had).
    """
    return _by_seed(frame, [metric]).rename(columns={metric: "value"})


def _by_seed(frame: pd.DataFrame, metrics: list[str], quantities: Sequence[Derived] = ()) -> pd.DataFrame:
    """``by_seed`` for several metrics, each in a column of its own name, with derived quantities as further cells."""
    import pandas as pd

    keys = [*PROTOCOL, *ROW, "seed"]
    known = frame.assign(unseen=_rests_on_unseen(frame))
    per_cell = _strict_mean(known, [*keys, "cell"], metrics, n_mask_seeds=("mask_seed", "count"))
    parts = [per_cell]
    made = {name: tuple(map(str, cells)) for name, cells in AVERAGES.items()}
    found = {quantity.key: quantity for quantity in quantities}
    held = set(per_cell["cell"])
    for name, cells in (made | {key: quantity.cells for key, quantity in found.items()}).items():
        if not held.issuperset(cells):
            # Nobody can have all of them.
            continue
        over = per_cell[per_cell["cell"].isin(cells)]
        # Cells without random masks have no mask seed and would hide how often the others were drawn.
        drawn = over.assign(drawn=over["n_mask_seeds"].where(over["n_mask_seeds"] > 0))
        average = _strict_mean(drawn, keys, metrics, n_mask_seeds=("drawn", "min"))
        complete = average[average["rows"] == len(cells)]
        if name in found:
            complete = _derived(found[name], over, complete, keys, metrics)
        parts.append(complete.assign(cell=name, n_mask_seeds=complete["n_mask_seeds"].fillna(0).astype("int64")))
    columns = [*keys, "cell", *metrics, "n_mask_seeds", "collapsed", "unseen"]
    return pd.concat([part[columns] for part in parts], ignore_index=True)


def _derived(
    quantity: Derived, over: pd.DataFrame, complete: pd.DataFrame, keys: list[str], metrics: list[str]
) -> pd.DataFrame:
    """The rows of ``complete`` with a derived quantity for the mean; undefined for metrics that do not have it."""
    import pandas as pd

    places = pd.MultiIndex.from_frame(complete[keys])
    by_cell = {cell: over[over["cell"] == cell].set_index(keys)[metrics].reindex(places) for cell in quantity.cells}
    values = {
        metric: quantity.of({cell: found[metric].to_numpy() for cell, found in by_cell.items()})
        if quantity.applies(metric_spec(metric))
        else float("nan")
        for metric in metrics
    }
    return complete.assign(**values)


def _rests_on_unseen(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each record's cell has no modality that a training clip had."""
    import numpy as np
    import pandas as pd

    # Few of each are distinct.
    cell, cells = pd.factorize(frame["cell"])
    known, kinds = pd.factorize(pd.MultiIndex.from_frame(frame[["unseen", "regime"]]))
    unseen = [{*letters, *never_shown(regime)} for letters, regime in kinds]
    rests = [[bool(letters) and set(Cell.parse(name).available) <= letters for letters in unseen] for name in cells]
    return np.array(rests, dtype=bool).reshape(len(cells), len(kinds))[cell, known]


def _strict_mean(frame: pd.DataFrame, keys: list[str], metrics: list[str], **more: tuple[str, str]) -> pd.DataFrame:
    """Means per group, NaN if any value is; with ``rows``, ``collapsed``, ``unseen`` (any) and further aggregates."""
    groups = frame.groupby(keys, sort=False, dropna=False)
    about = groups.agg(rows=("collapsed", "size"), collapsed=("collapsed", "any"), unseen=("unseen", "any"), **more)
    values = groups[metrics].mean().where(groups[metrics].count().eq(about["rows"], axis=0))
    return about.join(values).reset_index()


def over_seeds(
    frame: pd.DataFrame, metric: str, *, keep_seeds: bool = False, quantities: Sequence[str] = ()
) -> pd.DataFrame:
    """Mean and spread over training seeds, after the mean over mask seeds within each.

    Args:
        frame: Records as ``ResultStore.frame`` gives them.
        metric: Metric key, a column of ``frame``.
        keep_seeds: Whether each training seed stays a row of its own.
        quantities: Names of derived quantities that come as further cells, see ``results.derived``.

    Returns:
        Columns ``PROTOCOL``, ``ROW``, ``seed`` if kept, ``cell``, ``mean``, ``std`` (ddof = 1; NaN for one seed),
        ``n_seeds``, ``n_mask_seeds`` (the fewest of any seed), ``n_collapsed`` (seeds that collapsed), ``unseen`` (as
        in ``by_seed``, of any seed). Mean and standard deviation are NaN if any seed's value is undefined.
    """
    return over_seeds_of(frame, [metric], keep_seeds=keep_seeds, quantities=quantities).drop(columns="metric")


def over_seeds_of(
    frame: pd.DataFrame, metrics: Sequence[str], *, keep_seeds: bool = False, quantities: Sequence[str] = ()
) -> pd.DataFrame:
    """``over_seeds`` for several metrics at the cost of about one: its columns and ``metric``, metric after metric."""
    import pandas as pd

    names = list(metrics)
    keys = [*PROTOCOL, *ROW, *(["seed"] if keep_seeds else []), "cell"]
    made = [quantity for name in quantities if (quantity := derived(name)) is not None]
    groups = _by_seed(frame, names, made).groupby(keys, sort=False, dropna=False)
    about = groups.agg(
        n_seeds=("collapsed", "size"),
        n_mask_seeds=("n_mask_seeds", "min"),
        n_collapsed=("collapsed", "sum"),
        unseen=("unseen", "any"),
    )
    defined = groups[names].count().eq(about["n_seeds"], axis=0)
    means, spreads = groups[names].mean().where(defined), groups[names].std().where(defined)
    parts = [about.assign(metric=name, mean=means[name], std=spreads[name]) for name in names]
    counts = ["n_seeds", "n_mask_seeds", "n_collapsed", "unseen"]
    return pd.concat(parts).reset_index()[[*keys, "metric", "mean", "std", *counts]]


def jobs_by_row(frame: pd.DataFrame) -> dict[tuple[Any, ...], dict[int, str]]:
    """The finished jobs of each row, one a training seed.

    Args:
        frame: Records as ``ResultStore.frame`` gives them.

    Returns:
        Values of ``PROTOCOL`` and ``ROW`` -> training seed -> job id, seeds ascending.
    """
    jobs: dict[tuple[Any, ...], dict[int, str]] = {}
    columns = [*PROTOCOL, *ROW, "seed", "job_id"]
    distinct = frame[columns].drop_duplicates().sort_values("seed", kind="stable")
    for *key, seed, job_id in distinct.itertuples(index=False, name=None):
        jobs.setdefault(tuple(key), {})[int(seed)] = str(job_id)
    return jobs


def inconsistencies(frame: pd.DataFrame) -> list[str]:
    """What must be the same for all jobs of a protocol and is not: the test masks, their seeds, the number of clips.

    Args:
        frame: Records as ``ResultStore.frame`` gives them.

    Returns:
        One sentence per corpus and kind; empty if every job saw the same clips with the same holes.
    """
    problems: list[str] = []
    same = frame.assign(mask_seed=frame["mask_seed"].fillna(-1))
    for column, what in (("mask_hash", "test masks"), ("n", "numbers of test clips")):
        counts = same.groupby([*PROTOCOL, "cell", "mask_seed"], sort=False)[column].nunique()
        problems += _sentences(counts, what)
    # Whoever may choose the seeds can choose those that flatter.
    random = frame[frame["mask_seed"].notna()]
    groups = random.groupby([*PROTOCOL, "cell"], sort=False)
    drawn = groups.agg(rows=("mask_seed", "size"), jobs=("job_id", "nunique"), seeds=("mask_seed", "nunique"))
    # A job has a mask seed once. All have the same ones if, and only if, each has every one that any has.
    problems += _sentences(1 + (drawn["rows"] != drawn["jobs"] * drawn["seeds"]).astype("int64"), "mask seeds")
    return problems


def _sentences(counts: pd.Series[int], what: str) -> list[str]:
    """One sentence per corpus with cells that have more than one of something."""
    differing = counts[counts > 1].reset_index()
    sentences = []
    for dataset, group in differing.groupby("dataset"):
        cells = sorted({Cell.parse(cell) for cell in group["cell"]})
        sentences.append(
            f"{dataset}: records of one protocol have different {what} in {', '.join(map(str, cells))}; "
            "their numbers are not comparable"
        )
    return sentences

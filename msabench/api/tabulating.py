"""``msabench.table``. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from msabench.errors import MSABenchError, one_of
from msabench.metrics.spec import metric_spec
from msabench.missingness.named import naming
from msabench.results.build import build_tables, check_methods, metrics_in
from msabench.results.chosen_rows import require_revisions
from msabench.results.derived import DERIVED, SUMMARY, columns_for, quantities_of
from msabench.results.places import no_records, store_to_read
from msabench.results.record import SCORED
from msabench.results.records import Records
from msabench.results.store import ResultStore
from msabench.results.table import CONSTANT, Entry, Row, Table, columns_of
from msabench.results.tuned import Tuning, check_tuning

INDEX = ("method", "variant", "regime", "fidelity", "features", "protocol", "marks")
"""Levels of the index, see ``table``."""

STATISTICS = ("mean", "std", "n_seeds", "n_mask_seeds", "n_collapsed")
"""Last level of the columns with ``spread``: fields of ``results.table.Entry``."""


@naming(quantities=DERIVED)
def table(
    store: str | Path | None = None,
    datasets: str | Sequence[str] | None = None,
    *,
    methods: Sequence[str] | None = None,
    metrics: str | Sequence[str] | None = None,
    grid: str | Sequence[str] = "paper",
    regimes: str | Sequence[str] | None = None,
    per_seed: bool = False,
    spread: bool = False,
    summary: bool | str | Sequence[str] = False,
    revision: str | Sequence[str] | None = None,
    tuning: Tuning | None = None,
) -> pd.DataFrame:
    """Results as a data frame: the numbers of ``msabench table``, unrounded.

    Args:
        store: Folder of the result store; None for runs/store, or what MSABENCH_STORE names.
        datasets: Corpora; None for all in the store.
        methods: Methods besides the constant predictor; None for all.
        metrics: Keys of metrics, e.g. ``f1_has0``; ``all``, or None for each corpus's usual one.
        grid: Grids ({grids})
            and cells (``inter/la``) as columns; averages of a grid follow it.
        regimes: Training regimes to keep, as records call them, e.g. ``mixed``; None for all.
        per_seed: Whether each training seed is a row of its own, with a level ``seed``.
        spread: Whether columns have a fourth level ``statistic``, with ``mean``, ``std`` over training seeds (ddof 1),
            ``n_seeds``, ``n_mask_seeds`` and ``n_collapsed``; else they are means over mask seeds and training seeds.
        summary: Whether columns of derived quantities follow, those of ``msabench table --summary``; or which, by name:
            {quantities}, and ``relative:`` with a cell or an average.
        revision: Revisions of the data to keep; None for all.
        tuning: Rows of ``default`` settings, of ``tuned`` ones, or ``all``; None for default ones, and tuned ones where
            there are only these.

    Returns:
        Columns: ``dataset``, ``metric``, ``cell`` (a cell, an average such as ``avg_missing``, or a derived
        quantity, which is NaN for metrics that it is not defined for). Rows, the constant
        predictor's first: ``method``, ``variant``, ``regime``, ``fidelity`` (``external`` for methods from outside,
        ``scored`` for predictions made elsewhere, which come last), ``features``, ``protocol`` (where text is dropped
        and with what it is filled, whether lengths are hidden, which split selects), ``marks`` (what else tells rows of
        one corpus apart: tuned settings, as in ``tuned(50, random, seed 1)``, version, config, and the revision of the
        data where there are rows of several; mostly empty).
        Values in natural scale, accuracies and F1 in [0, 1]; NaN where there are no records or a value is undefined.
        ``frame.attrs["warnings"]`` lists what makes numbers doubtful or is left out. Numbers of different
        protocols are rows of their own: what stands in different ones is not comparable.

    Raises:
        MSABenchError: A dataset, method, metric, cell, derived quantity, regime or revision is unknown, there is no
            such store, or no records.

    Example:
        >>> frame = table("leaderboard/results", ["synth"])
        >>> frame[("synth", "f1_non0", "inter/la")].sort_values()
    """
    check_tuning(tuning)
    shown = (*columns_of(_listed(grid)), *columns_for(_quantities(summary)))
    columns = list(dict.fromkeys(column.key for column in shown))
    place = store_to_read(None if store is None else Path(store).expanduser())
    source = ResultStore(place)
    records, failures = source.records(), source.failures()
    if not len(records):
        raise no_records(place)
    check_methods(methods or [], records)
    held = sorted(records.held("dataset"))
    wanted = held if datasets is None else list(dict.fromkeys(_listed(datasets)))
    for name in wanted:
        if name not in held:
            raise one_of(f"dataset in {place}", name, held)
    if revision is not None:
        kept = _listed(revision)
        require_revisions(kept, {name: list(records.of(dataset=name).held("revision")) for name in wanted}, (), place)
        records = records.among("revision", kept)
        failures = [job for job in failures if job.key.revision in kept]
    if regimes is not None:
        records = _of_regimes(records, _listed(regimes))
        failures = [job for job in failures if job.key.regime in _listed(regimes)]
    asked = _asked(metrics)
    tables = [
        found
        for name in wanted
        for metric in _metrics_of(records, name, asked)
        for found in build_tables(
            records, failures, name, metric, shown, methods=methods, keep_seeds=per_seed, tuning=tuning
        )
    ]
    made = _frame_of(tables, columns, per_seed, spread)
    made = made.iloc[_order(made.index, methods or ())]
    made.attrs["warnings"] = list(
        dict.fromkeys(f"{found.title}: {line}" for found in tables for line in (*found.warnings, *_left_out(found)))
    )
    return made


def _left_out(table: Table) -> list[str]:
    names = ", ".join(sorted(table.tuned_left_out))
    return [f"left out: tuned rows of {names} (tuning='tuned' gives them, tuning='all' both)"] if names else []


def _quantities(summary: bool | str | Sequence[str]) -> tuple[str, ...]:
    """Keys of the derived quantities that are asked for."""
    if isinstance(summary, bool):
        return tuple(quantity.key for quantity in SUMMARY) if summary else ()
    return quantities_of(_listed(summary))


def _listed(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _asked(metrics: str | Sequence[str] | None) -> list[str] | None:
    if metrics is None:
        return None
    for key in _listed(metrics):
        if key != "all":
            metric_spec(key)
    return _listed(metrics)


def _metrics_of(records: Records, dataset: str, asked: list[str] | None) -> list[str | None]:
    """Metrics to make tables of; None stands for the usual one."""
    if asked is None:
        return [None]
    has = metrics_in(records, dataset)
    if "all" in asked:
        return list(has)
    for key in asked:
        if key not in has:
            raise MSABenchError(f"{dataset} has no metric {key!r}; allowed: {', '.join(has)}")
    return list(asked)


def _of_regimes(records: Records, regimes: list[str]) -> Records:
    known = sorted(records.held("regime"))
    for regime in regimes:
        if regime not in known:
            raise one_of("regime in the store", regime, known)
    return records.among("regime", regimes)


def _frame_of(tables: Sequence[Table], columns: Sequence[str], per_seed: bool, spread: bool) -> pd.DataFrame:
    """Rows of all tables side by side; what would stand in one place twice gets marks."""
    places = _places(tables, per_seed)
    values: dict[tuple[Any, ...], dict[tuple[Any, ...], float]] = {}
    heads: dict[tuple[Any, ...], None] = {}
    for found, row, place in places:
        line = values.setdefault(place, {})
        for cell in columns:
            head = (found.dataset, found.metric.key, cell)
            numbers = _numbers(row.entries.get(cell), spread)
            for statistic, number in numbers.items():
                column = (*head, statistic) if spread else head
                heads[column] = None
                line[column] = number
    names = ["dataset", "metric", "cell", *(["statistic"] if spread else [])]
    index = pd.MultiIndex.from_tuples(list(values), names=[*INDEX, *(["seed"] if per_seed else [])])
    rows = [[line.get(head, math.nan) for head in heads] for line in values.values()]
    return pd.DataFrame(rows, index, _in_order(list(heads), names), dtype="float64")


def _in_order(heads: Sequence[tuple[Any, ...]], names: Sequence[str]) -> pd.MultiIndex:
    """An index with its levels in the order of tables, so that pandas knows it as sorted and looks up without delay."""
    import pandas as pd

    levels = [list(dict.fromkeys(words)) for words in zip(*heads, strict=True)]
    codes = [
        [level.index(word) for word in words] for level, words in zip(levels, zip(*heads, strict=True), strict=True)
    ]
    return pd.MultiIndex(levels=levels, codes=codes, names=list(names))


def _order(index: pd.Index[Any], methods: Sequence[str]) -> list[int]:
    """Positions of the rows, in the order that tables have them."""
    given = {name: place for place, name in enumerate(methods)}

    def key(position: int) -> tuple[Any, ...]:
        method, variant, regime, fidelity, *rest = index[position]
        # What was only scored here stands below what was trained here.
        scored = fidelity == SCORED
        place = scored, method != CONSTANT, given.get(method, len(given)), method
        return *place, variant != "default", variant, regime, fidelity, *rest

    return sorted(range(len(index)), key=key)


def _places(tables: Sequence[Table], per_seed: bool) -> list[tuple[Table, Row, tuple[Any, ...]]]:
    """Every row with its place in the index, unique within a corpus and metric.

    Rows of revisions that differ in nothing else are all marked by theirs.
    """
    found = [
        (table, row, _about(table, row), (row.seed,) if per_seed else ()) for table in tables for row in table.rows
    ]
    revisions: dict[tuple[str, ...], set[str]] = {}
    for t, _, about, _ in found:
        revisions.setdefault((t.dataset, *about[_OF_TABLE]), set()).add(t.protocol["revision"])
    places = []
    for t, row, about, seed in found:
        several = len(revisions[t.dataset, *about[_OF_TABLE]]) > 1
        words = [row.tuning, *row.marks, t.protocol["revision"] if several else ""]
        marks = " ".join(filter(None, words))
        places.append((t, row, (*about, marks, *seed)))
    return places


_OF_TABLE = slice(INDEX.index("features"), INDEX.index("protocol") + 1)
"""Where ``_about`` has what the rows of a table share."""


def _about(table: Table, row: Row) -> tuple[str, ...]:
    p: Mapping[str, str] = table.protocol
    level = f"{p['level']} ({p['token_fill']})" if p["token_fill"] else p["level"]
    protocol = f"{level}, {p['lengths']}, {p['selection']}"
    return row.method, row.variant, row.regime, row.fidelity, p["features"], protocol


def _numbers(entry: Entry | None, spread: bool) -> dict[str, float]:
    if entry is None:
        return dict.fromkeys(STATISTICS if spread else ("mean",), math.nan)
    return {name: float(getattr(entry, name)) for name in (STATISTICS if spread else ("mean",))}

"""``msabench table``. Free of torch; pandas is imported only when there are records to read."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msabench.data.info import DATASETS
from msabench.errors import MSABenchError, one_of
from msabench.evaluation.record import JobRecord
from msabench.metrics.spec import METRICS, metric_keys, metric_spec
from msabench.results.store import DEFAULT_STORE, ResultStore
from msabench.tables.render import grid_markdown, grid_text, render_csv, render_latex, render_markdown, render_text
from msabench.tables.spec import Table, columns_of

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("text", "markdown", "latex", "csv")


def table(
    datasets: list[str] | None = None,
    methods: list[str] | None = None,
    metric: str | None = None,
    grid: list[str] | None = None,
    format: Literal["text", "markdown", "latex", "csv"] = "text",
    store: Path = DEFAULT_STORE,
    per_seed: bool = False,
    intervals: bool = False,
    width: int | None = None,
) -> str:
    """Print result tables; without datasets, methods and metric also what the store holds.

    Records of different protocols (data revision, features, level, lengths, token fill, selection) stand in tables of
    their own.

    Args:
        datasets: Corpora to show; all in the store if not given.
        methods: Methods to show besides the constant predictor; all if not given.
        metric: Metric key, e.g. f1_has0 or mae; each corpus's usual one if not given.
        grid: Grids (inter, intra, paper) and cells (inter/la, intra/0.3) as columns; paper if not given.
        format: How to print; csv is unrounded, one number a line.
        store: Folder of the result store.
        per_seed: Whether each training seed is a row of its own.
        intervals: Whether to print bootstrap intervals instead of standard deviations.
        width: Characters in a line of text; the terminal's if not given.

    Returns:
        The text to print.

    Raises:
        MSABenchError: A dataset, method, metric or cell is unknown, or a record file is malformed.
    """
    if format not in FORMATS:
        raise one_of("format", format, FORMATS)
    columns = columns_of(grid or ["paper"])
    if metric is not None:
        metric_spec(metric)
    width = width or shutil.get_terminal_size((120, 24)).columns

    from msabench.tables.build import build_tables, check_methods

    results = ResultStore(store)
    frame, failures = results.frame(), results.failures()
    held = _held(frame, failures)
    check_methods(methods or [], frame)
    for name in datasets or ():
        if name not in DATASETS and name not in held:
            raise one_of("dataset", name, [*DATASETS, *(name for name in held if name not in DATASETS)])
    shown, remarks = _shown(frame, list(dict.fromkeys(datasets)) if datasets else None, held, metric, store)
    tables: list[Table] = []
    for name in shown:
        found = build_tables(
            frame,
            failures,
            name,
            metric,
            columns,
            methods=methods,
            keep_seeds=per_seed,
            predictions=store / "predictions" if intervals else None,
        )
        if not found:
            remarks.append(f"{name}: no records of {', '.join(methods or [])} in {store}.")
        tables += found
    overview = None if datasets or methods or metric or not held else _overview(frame, failures)
    return _printed(tables, overview, remarks, format, width, store)


def _held(frame: pd.DataFrame, failures: Sequence[JobRecord]) -> list[str]:
    return sorted({*frame["dataset"], *(job.key.dataset for job in failures)})


def _shown(
    frame: pd.DataFrame, asked: list[str] | None, held: list[str], metric: str | None, store: Path
) -> tuple[list[str], list[str]]:
    """Which corpora to show, and what to say about the others."""
    from msabench.tables.build import metric_set_in

    if not asked and not held:
        return [], [f"{store} holds no records; make some with `msabench run --suite SUITE` (see `msabench suites`)."]
    remarks = [
        f"{name}: no records in {store}; make some with `msabench run --suite SUITE --datasets {name}` "
        "(see `msabench suites`)."
        for name in asked or ()
        if name not in held
    ]
    present = [name for name in asked or held if name in held]
    allowed = {name: metric_keys(metric_set_in(frame, name)) for name in asked or held}
    without = [name for name in allowed if metric is not None and metric not in allowed[name]]
    if asked and without:
        keys = ", ".join(allowed[without[0]])
        raise MSABenchError(f"{without[0]} has no metric {metric!r}; allowed: {keys}")
    if without:
        if len(without) == len(present):
            fitting = list(dict.fromkeys(key for keys in allowed.values() for key in keys if key in METRICS))
            raise MSABenchError(f"no corpus in {store} has metric {metric!r}; allowed: {', '.join(fitting)}")
        remarks += [f"{name}: left out, since it has no metric {metric}." for name in without]
    return [name for name in present if name not in without], remarks


def _overview(frame: pd.DataFrame, failures: Sequence[JobRecord]) -> list[list[str]]:
    """What the store holds: one line per corpus, protocol, method, variant and regime."""
    fields = ["dataset", "features", "revision", "level", "token_fill", "lengths", "selection"]
    fields += ["method", "variant", "regime"]
    lines: dict[tuple[str, ...], list[int]] = {}
    grouped = frame.groupby(fields, dropna=False).agg(
        jobs=("job_id", "nunique"), cells=("cell", "nunique"), masks=("mask_seed", "nunique")
    )
    for key, counts in zip(grouped.index, grouped.to_numpy().tolist(), strict=True):
        lines[tuple(key)] = [*counts, 0]
    for job in failures:
        lines.setdefault(tuple(getattr(job.key, name) for name in fields), [0, 0, 0, 0])[3] += 1
    header = [*fields, "jobs", "cells", "masks", "failed"]
    return [header, *([*(word or "-" for word in key), *map(str, lines[key])] for key in sorted(lines))]


def _printed(
    tables: list[Table], overview: list[list[str]] | None, remarks: list[str], format: str, width: int, store: Path
) -> str:
    if format == "csv":
        # Remarks inside would no longer be CSV.
        print("\n".join(remarks), end="\n" if remarks else "", file=sys.stderr)
        return render_csv(tables)
    if format == "latex":
        return "\n\n".join([*(f"% {remark}" for remark in remarks), *map(render_latex, tables)])
    parts = []
    if overview:
        title = f"Records in {store}"
        parts.append(
            f"{title}\n{'=' * len(title)}\n{grid_text(overview)}"
            if format == "text"
            else f"### {title}\n\n{grid_markdown(overview)}"
        )
    parts += [render_text(found, width) if format == "text" else render_markdown(found) for found in tables]
    if remarks:
        parts.append("\n".join(remarks if format == "text" else [f"- {remark}" for remark in remarks]))
    return "\n\n".join(parts)

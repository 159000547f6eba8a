"""``msabench table``. Free of torch and pandas."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msabench.data.registry import corpora
from msabench.errors import MSABenchError, one_of
from msabench.metrics.spec import METRICS, metric_spec
from msabench.missingness.named import naming
from msabench.published.layouts import paper_tables
from msabench.published.numbers import PAPERS, published_folder
from msabench.published.second_hand import SECOND_HAND
from msabench.results.derived import SUMMARY, columns_for
from msabench.results.places import no_records, store_to_read
from msabench.results.record import SCORED, JobRecord
from msabench.results.store import ResultStore
from msabench.results.table import columns_of
from msabench.results.tuned import check_tuning
from msabench.tables.output import FORMATS, Report, printed
from msabench.tables.paper import SHOW
from msabench.tables.paper_report import Request, add_following, add_paper, followed
from msabench.tables.render import Grid

if TYPE_CHECKING:
    from msabench.results.records import Job, Records
    from msabench.results.tuned import Tuning


@naming(papers=PAPERS, sources=SECOND_HAND)
def table(
    datasets: list[str] | None = None,
    methods: list[str] | None = None,
    metric: str | None = None,
    grid: list[str] | None = None,
    format: Literal["text", "markdown", "latex", "csv", "html"] = "text",
    store: Path | None = None,
    committed: bool = False,
    per_seed: bool = False,
    intervals: bool = False,
    width: int | None = None,
    summary: bool = False,
    paper: str | None = None,
    table: str | None = None,
    show: Literal["published", "reproduced", "both"] = "both",
    papers: list[str] | None = None,
    published: Path | None = None,
    tuning: Literal["default", "tuned", "all"] | None = None,
) -> str:
    """Print result tables, a paper's tables, or both; without datasets, methods and metric also what the store holds.

    Records of different protocols (data revision, features, level, lengths, token fill, selection) stand in tables of
    their own. With datasets, the papers' tables that have them follow.

    Args:
        datasets: Corpora to show; all in the store if not given.
        methods: Methods to show besides the constant predictor; all if not given.
        metric: Metric key, e.g. f1_has0 or mae; each corpus's usual one if not given. In a paper's tables it selects
            columns, also by the name as printed, e.g. f1; all columns if not given.
        grid: Grids ({grids})
            and cells (inter/la, random/0.3) as columns of result tables; paper if not given.
        format: How to print; csv is unrounded, one number a line; html is a fragment.
        store: Folder of the result store; runs/store, or what MSABENCH_STORE names, if not given.
        committed: Read the records in git, leaderboard/results, instead.
        per_seed: Whether each training seed is a row of its own in result tables.
        intervals: Whether result tables print bootstrap intervals instead of standard deviations.
        width: Characters in a line of text; the terminal's if not given.
        summary: Whether result tables end in a block of derived columns: areas under the curve over rates, shares of
            the complete value that are kept, spreads over modalities.
        paper: Print this paper's tables and nothing else: {papers};
            or a source of second-hand numbers: {sources}.
        table: Print only this table of the paper, e.g. 1 or II.
        show: Numbers in papers' tables: published, reproduced, or both with their differences.
        papers: Papers whose tables follow the result tables, or none; with datasets all if not given, else none.
        published: Folder with the published numbers; if not given leaderboard/published here, and where there is none
            those that come with msabench.
        tuning: Rows of result tables: default settings, tuned ones, or all; default ones if not given, tuned ones where
            there are only these. Papers' tables take default settings alone.

    Returns:
        The text to print.

    Raises:
        MSABenchError: A dataset, method, metric, cell, paper or table is unknown, there is no such store or nothing to
            print, or a file is malformed.
    """
    if format not in FORMATS:
        raise one_of("format", format, FORMATS)
    if show not in SHOW:
        raise one_of("show", show, SHOW)
    check_tuning(tuning)
    width = width or shutil.get_terminal_size((120, 24)).columns
    place = store_to_read(store, committed)
    request = Request(datasets, methods, metric, show, published_folder(published), ResultStore(place))
    report = Report(title=f"Records in {place}")
    if paper is not None:
        options = {
            "grid": grid,
            "per_seed": per_seed,
            "intervals": intervals,
            "summary": summary,
            "papers": papers,
            "tuning": tuning,
        }
        for name in options:
            if options[name]:
                raise MSABenchError(f"{name} is about result tables and cannot go with paper {paper!r}; leave it out")
        add_paper(report, paper_tables(paper, table), request)
    elif table is not None:
        raise MSABenchError(f"table {table!r} needs the paper it stands in, as in: --paper umdf --table 1")
    else:
        following = followed(papers, datasets)
        _add_results(
            report,
            request,
            grid,
            per_seed,
            intervals,
            summary,
            [name for paper_table in following for name in paper_table.methods],
            tuning,
        )
        add_following(report, following, request)
    return printed(report, format, width)


def _add_results(
    report: Report,
    request: Request,
    grid: list[str] | None,
    per_seed: bool,
    intervals: bool,
    summary: bool,
    published: Sequence[str],
    tuning: Tuning | None,
) -> None:
    """Our own result tables, and what the store holds."""
    datasets, methods, metric, store = request.datasets, request.methods, request.metric, request.store.folder
    columns = columns_of(grid or ["paper"]) + (columns_for(quantity.key for quantity in SUMMARY) if summary else ())
    if metric is not None:
        metric_spec(metric)

    from msabench.results.build import build_tables, check_methods

    records, failures = request.records()
    held = _held(records, failures)
    check_methods(methods or [], records, published)
    for name in datasets or ():
        if name not in corpora() and name not in held:
            raise one_of("dataset", name, [*corpora(), *(name for name in held if name not in corpora())])
    if not held and not published:
        raise no_records(store)
    shown, remarks = _shown(records, list(dict.fromkeys(datasets)) if datasets else None, held, metric, store)
    report.remarks += remarks
    for name in shown:
        found = build_tables(
            records,
            failures,
            name,
            metric,
            columns,
            methods=methods,
            keep_seeds=per_seed,
            predictions=store if intervals else None,
            tuning=tuning,
        )
        if not found:
            what = f"{'tuned settings of ' if tuning == 'tuned' else ''}{', '.join(methods or ['any method'])}"
            report.remarks.append(f"{name}: no records of {what} in {store}.")
        report.tables += found
    if held and not (datasets or methods or metric):
        report.overview = _overview(records, failures)


def _held(records: Records, failures: Sequence[JobRecord]) -> list[str]:
    return sorted({*records.held("dataset"), *(job.key.dataset for job in failures)})


def _shown(
    records: Records, asked: list[str] | None, held: list[str], metric: str | None, store: Path
) -> tuple[list[str], list[str]]:
    """Which corpora to show, and what to say about the others."""
    from msabench.results.build import metrics_in

    if not asked and not held:
        return [], [f"{no_records(store)}."]
    remarks = [
        f"{name}: no records in {store}; make some with `msabench run --suite SUITE --datasets {name}` "
        "(see `msabench suites`)."
        for name in asked or ()
        if name not in held
    ]
    present = [name for name in asked or held if name in held]
    allowed = {name: metrics_in(records, name) for name in asked or held}
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


@dataclass
class _Line:
    """What the store holds of one method."""

    jobs: int = 0
    cells: set[int] = field(default_factory=set)
    masks: set[int] = field(default_factory=set)
    failed: int = 0

    def counts(self) -> list[str]:
        return [str(count) for count in (self.jobs, len(self.cells), len(self.masks), self.failed)]


def _overview(records: Records, failures: Sequence[JobRecord]) -> Grid:
    """What the store holds: one line per corpus, protocol, method, variant and regime."""
    fields = ["dataset", "features", "revision", "level", "token_fill", "lengths", "selection"]
    fields += ["method", "variant", "regime"]
    lines: dict[tuple[str, ...], _Line] = defaultdict(_Line)
    of_job = []
    for job in records.jobs:
        about = _about(job)
        line = lines[tuple(about[name] for name in fields)]
        line.jobs += 1
        of_job.append(line)
    columns = (records.job, records.cell, records.drawn, records.mask_seed)
    for place, cell, drawn, seed in zip(*(column.tolist() for column in columns), strict=True):
        of_job[place].cells.add(cell)
        if drawn:
            of_job[place].masks.add(seed)
    for failure in failures:
        about = _about(vars(failure.key))
        lines[tuple(about[name] for name in fields)].failed += 1
    header = [*fields, "jobs", "cells", "masks", "failed"]
    return [header, *([*(word or "-" for word in key), *lines[key].counts()] for key in sorted(lines))]


def _about(job: Job) -> dict[str, Any]:
    """A job's key, its method with what else tells its lines apart."""
    marks = [job["tuning"], f"({SCORED})" if job["origin"] else ""]
    return {**job, "method": " ".join([job["method"], *filter(None, marks)])}

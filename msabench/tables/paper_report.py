"""Which tables of papers ``msabench table`` prints. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from msabench.errors import MSABenchError, one_of
from msabench.metrics.spec import METRICS
from msabench.published.layouts import PAPER_TABLES
from msabench.published.numbers import PAPERS, PRINTED, load_published
from msabench.published.second_hand import SECOND_HAND, load_second_hand
from msabench.published.tables import PaperTable, with_datasets
from msabench.results.record import JobRecord
from msabench.results.store import ResultStore
from msabench.tables.output import Report
from msabench.tables.paper import chosen_columns, paper_views

if TYPE_CHECKING:
    from msabench.results.records import Records
    from msabench.tables.reproductions import Reproductions

NO_PAPERS = "none"


@dataclass(frozen=True)
class Request:
    """What a user asked for.

    Attributes:
        datasets: Corpora; None for all.
        methods: Methods; None for all.
        metric: Metric key or name as printed; None for the usual.
        show: One of ``paper.SHOW``.
        published: Folder with the published numbers.
        store: The result store.
    """

    datasets: list[str] | None
    methods: list[str] | None
    metric: str | None
    show: str
    published: Path
    store: ResultStore

    def records(self) -> tuple[Records, list[JobRecord]]:
        """The store's records and failed jobs, read once."""
        return self._records

    @cached_property
    def _records(self) -> tuple[Records, list[JobRecord]]:
        return self.store.records(), self.store.failures()

    @cached_property
    def held(self) -> Reproductions | None:
        """What the store holds of the papers' tables; None if nobody asked."""
        if self.show == "published":
            return None
        from msabench.tables.reproductions import Reproductions

        return Reproductions(*self.records())


def followed(papers: list[str] | None, datasets: list[str] | None) -> list[PaperTable]:
    """The papers' tables that follow our own.

    Args:
        papers: Papers, or ``none``; if not given, all if there are datasets, else none.
        datasets: Corpora that they have any of; None for all.

    Raises:
        MSABenchError: A paper is unknown.
    """
    for name in papers or ():
        if name not in (*PAPERS, NO_PAPERS):
            raise one_of("paper", name, (*PAPERS, NO_PAPERS))
    if papers is None:
        papers = list(PAPERS) if datasets else []
    elif NO_PAPERS in papers and len(papers) > 1:
        raise MSABenchError(f"papers {' '.join(papers)} contradict each other; give papers or {NO_PAPERS}")
    tables = [table for table in PAPER_TABLES if table.paper in papers]
    return tables if datasets is None else with_datasets(tables, datasets)


def add_following(report: Report, tables: Sequence[PaperTable], request: Request) -> None:
    """Add papers' tables that follow our own; those that nothing is left of are left out.

    Args:
        report: What to add to.
        tables: As ``followed`` gives them.
        request: What the user asked for.

    Raises:
        MSABenchError: The published numbers are malformed.
    """
    if tables:
        _add(report, tables, request)


def add_paper(report: Report, tables: Sequence[PaperTable], request: Request) -> None:
    """Add tables that the user named.

    Args:
        report: What to add to.
        tables: Tables of one paper.
        request: What the user asked for.

    Raises:
        MSABenchError: A dataset, method or metric is in none of them, or the published numbers are malformed.
    """
    blocks = [block for table in tables for block in table.blocks]
    name = tables[0].title if len(tables) == 1 else tables[0].paper.upper()
    allowed = {
        "dataset": dict.fromkeys(block.dataset for block in blocks),
        "method": dict.fromkeys(row.method for block in blocks for row in block.rows),
    }
    for what, asked in (("dataset", request.datasets), ("method", request.methods)):
        for word in asked or ():
            if word not in allowed[what]:
                raise one_of(f"{what} of {name}", word, allowed[what])
    if not any(chosen_columns(block, request.metric) for block in blocks):
        names = dict.fromkeys(word for word in (*PRINTED, *METRICS) if any(chosen_columns(b, word) for b in blocks))
        raise one_of(f"metric of {name}", request.metric, names)
    second_hand = tables[0].paper in SECOND_HAND
    if second_hand and request.show == "reproduced":
        raise MSABenchError(
            f"numbers of {tables[0].paper} are second-hand, and nothing is set beside them; show them with --show "
            "published"
        )
    _add(report, tables, replace(request, show="published") if second_hand else request)
    if not report.views:
        suite = f"`msabench run --suite {tables[0].paper}`"
        report.remarks.append(
            f"{name}: nothing of this is reproduced yet in {request.store.folder}; {suite} makes records."
            if request.show == "reproduced"
            else f"{name}: no row has these datasets, methods and metric together."
        )


def _add(report: Report, tables: Sequence[PaperTable], request: Request) -> None:
    second_hand = any(table.paper in SECOND_HAND for table in tables)
    numbers = load_second_hand(request.published) if second_hand else load_published(request.published)
    for table in tables:
        report.views += paper_views(
            table,
            numbers,
            request.held,
            request.show,
            datasets=request.datasets,
            methods=request.methods,
            metric=request.metric,
        )

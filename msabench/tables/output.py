"""Prints tables in any format. Free of torch and pandas."""

from __future__ import annotations

import html
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from msabench.errors import printable
from msabench.results.table import Table
from msabench.results.tuned import left_out_words
from msabench.tables.long_csv import paper_records, render_csv, result_records
from msabench.tables.paper import PaperView
from msabench.tables.paper_sheet import paper_sheet
from msabench.tables.render import (
    Grid,
    grid_html,
    grid_markdown,
    grid_text,
    render_html,
    render_latex,
    render_markdown,
    render_text,
)
from msabench.tables.result_sheet import result_sheet
from msabench.tables.sheet import Sheet

FORMATS = ("text", "markdown", "latex", "csv", "html")


@dataclass
class Report:
    """What one call of ``msabench table`` prints.

    Attributes:
        tables: Our own result tables.
        views: Papers' tables.
        remarks: Sentences that belong to no table.
        overview: What the store holds; None if not asked for.
        title: Heading of the overview.
    """

    tables: list[Table] = field(default_factory=list)
    views: list[PaperView] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    overview: Grid | None = None
    title: str = ""

    @property
    def sheets(self) -> list[Sheet]:
        """Every table, our own first."""
        return [*map(result_sheet, self.tables), *map(paper_sheet, self.views)]


def printed(report: Report, format: str, width: int) -> str:
    """A report as text.

    Args:
        report: What to print.
        format: One of ``FORMATS``. As CSV it is one CSV of all tables; remarks go to the error output then.
        width: Characters in a line of text.
    """
    if format == "csv":
        return _as_csv(report)
    if format == "latex":
        return "\n\n".join([*(f"% {remark}" for remark in report.remarks), *map(render_latex, report.sheets)])
    if format == "html":
        return _as_html(report)
    overview = [] if report.overview is None else [_overview(report.title, report.overview, format)]
    sheets = [render_text(sheet, width) if format == "text" else render_markdown(sheet) for sheet in report.sheets]
    remarks = report.remarks if format == "text" else [f"- {remark}" for remark in report.remarks]
    return "\n\n".join([*overview, *sheets, *(["\n".join(remarks)] if remarks else [])])


def _as_csv(report: Report) -> str:
    # Remarks inside would no longer be CSV.
    warnings = [(table.title, line) for table in report.tables for line in table.warnings]
    warnings += [(view.table.title, line) for view in report.views for line in view.warnings]
    left_out = [(table.title, left_out_words(table.tuned_left_out)) for table in report.tables if table.tuned_left_out]
    warnings += [(title, f"left out: {words}") for title, words in left_out]
    said = [*report.remarks, *(f"{title}: {line}" for title, line in dict.fromkeys(warnings))]
    print(printable("\n".join(said)), end="\n" if said else "", file=sys.stderr)
    records = [record for table in report.tables for record in result_records(table)]
    return render_csv([*records, *(record for view in report.views for record in paper_records(view))])


def _as_html(report: Report) -> str:
    parts: Sequence[str] = [grid_html(report.overview, report.title)] if report.overview else []
    remarks = [f"<p>{html.escape(remark)}</p>" for remark in report.remarks]
    return "\n\n".join([*parts, *map(render_html, report.sheets), *remarks])


def _overview(title: str, grid: Grid, format: str) -> str:
    if format == "markdown":
        return f"### {title}\n\n{grid_markdown(grid)}"
    return f"{title}\n{'=' * len(title)}\n{grid_text(grid)}"

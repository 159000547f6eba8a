"""``msabench audit``. Free of torch and pandas."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from msabench.audit.claims import load_claims
from msabench.audit.finding import SEVERITIES
from msabench.audit.render import Report, as_json, as_text
from msabench.audit.run import KINDS, run_audit
from msabench.errors import MSABenchError, one_of
from msabench.packaged import called
from msabench.published.numbers import load_published, published_folder, read_numbers
from msabench.published.second_hand import load_second_hand

FORMATS = ("text", "json")

NARROWEST = 60
"""Characters in a line below which text cannot be laid out."""


def audit(
    csv: Path | None = None,
    format: Literal["text", "json"] = "text",
    published: Path | None = None,
    kind: list[str] | None = None,
    severity: Literal["error", "warning", "note"] = "note",
    width: int | None = None,
) -> str:
    """Check printed numbers: sums, contradictions, copies, constant predictors, argument order, claims.

    Args:
        csv: A file of one's own in the columns of leaderboard/published/README.md, checked by itself and against the
            published numbers; the published numbers and the claims about them if not given.
        format: text for people, json for programs.
        published: Folder with the published numbers; if not given leaderboard/published here, and where there is none
            those that come with msabench.
        kind: Kinds of findings to show; all if not given.
        severity: Least severity to show.
        width: Characters in a line of text; the terminal's if not given.

    Returns:
        The text to print.

    Raises:
        MSABenchError: A file is missing or malformed, a kind or format is unknown.
    """
    if format not in FORMATS:
        raise one_of("format", format, FORMATS)
    if severity not in SEVERITIES:
        raise one_of("severity", severity, SEVERITIES)
    for name in kind or ():
        if name not in KINDS:
            raise one_of("kind", name, KINDS)
    folder = published_folder(published)
    report = _published(folder) if csv is None else _own(csv, folder)
    report = report.only(kind or list(KINDS), SEVERITIES[: SEVERITIES.index(severity) + 1])
    width = max(width or shutil.get_terminal_size((120, 24)).columns, NARROWEST)
    return as_json(report) if format == "json" else as_text(report, width)


def _published(folder: Path) -> Report:
    numbers = [*load_published(folder), *load_second_hand(folder)]
    papers = tuple(dict.fromkeys(number.paper for number in numbers))
    return Report(run_audit(numbers, load_claims(folder)), papers, len(numbers), f"numbers in {called(folder)}")


def _own(path: Path, folder: Path) -> Report:
    numbers = read_numbers(path)
    if not numbers:
        raise MSABenchError(f"{path} holds no numbers; give one row per number below the header")
    papers = tuple(dict.fromkeys(number.paper for number in numbers))
    # A user's version of a paper stands for that paper.
    published = [*load_published(folder), *load_second_hand(folder)]
    others = [number for number in published if number.paper not in papers]
    source = f"numbers in {path}, compared with {len(others)} numbers of other papers in {called(folder)}"
    found = [finding for finding in run_audit([*numbers, *others]) if finding.paper in papers]
    return Report(found, papers, len(numbers), source)

"""Pages of published tables, as printed, and of the audit of their numbers. Free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msabench.audit.claims import load_claims
from msabench.audit.finding import CERTAINTIES, SEVERITIES, Finding
from msabench.audit.run import KINDS, run_audit
from msabench.leaderboard.cards import card_of
from msabench.leaderboard.method_pages import venue_of
from msabench.leaderboard.pages import Writer
from msabench.published.layouts import paper_tables
from msabench.published.numbers import PAPERS, PROSE, Number, load_published
from msabench.published.second_hand import SECOND_HAND, load_second_hand
from msabench.published.tables import PaperBlock, PaperTable
from msabench.tables.paper import PaperLine, PaperView
from msabench.tables.paper_sheet import paper_sheet
from msabench.tables.sheet import BEST, SECOND, Sheet

PROSE_HEADER = ("Corpus", "Method", "Situation", "Metric", "Value", "Note")


def write_published(writer: Writer, folder: Path) -> None:
    """Write the pages of published numbers and the audit.

    Args:
        writer: Writes the pages.
        folder: Folder with one CSV per paper and second-hand source, and the claims of the papers' prose.

    Raises:
        MSABenchError: A file is missing or malformed.
    """
    numbers, second_hand = load_published(folder), load_second_hand(folder)
    findings = run_audit([*numbers, *second_hand], load_claims(folder))
    entries = [_paper(paper, numbers, findings) for paper in PAPERS]
    sources = dict.fromkeys(number.paper for number in second_hand)
    quoted = [_paper(source, second_hand, findings) for source in sources]
    for entry in (*entries, *quoted):
        writer.write(f"published/{entry['name']}.html", "paper.html", "published", best=BEST, second=SECOND, **entry)
    writer.write(
        "published.html",
        "published.html",
        "published",
        papers=entries,
        total=len(numbers),
        quoted=quoted,
        total_quoted=len(second_hand),
    )
    writer.write(
        "audit.html",
        "audit.html",
        "audit",
        findings=sorted(findings, key=_rank),
        counts=kind_counts(findings),
        total=len(findings),
        certain=sum(finding.certainty == CERTAINTIES[0] for finding in findings),
    )


def _paper(paper: str, numbers: Sequence[Number], findings: Sequence[Finding]) -> dict[str, Any]:
    """What the template shows of a paper."""
    mine = [number for number in numbers if number.paper == paper]
    found = Counter(finding.table for finding in findings if finding.paper == paper)
    source = SECOND_HAND.get(paper)
    info = card_of(paper).info if source is None else None
    return {
        "name": paper,
        "title": source.title if source else info.title if info else paper,
        "venue": source.venue if source else venue_of(info.venue, info.year) if info else "",
        "url": info.url if info else "",
        "read_in": source.read_in if source else "",
        "protocol": source.protocol if source else "",
        "tables": [
            {"label": table.label, "title": table.title, "sheets": _sheets(table, mine), "findings": found[table.label]}
            for table in paper_tables(paper)
        ],
        "prose_header": PROSE_HEADER,
        "prose": [_prose(number) for number in mine if number.table == PROSE],
        "prose_findings": found[PROSE],
        "total": len(mine),
        "all_findings": sum(found.values()),
    }


def _sheets(table: PaperTable, numbers: Sequence[Number]) -> list[Sheet]:
    placed = table.numbers_in(numbers)

    def view(block: PaperBlock) -> PaperView:
        spots = {row: {column: block.spot(row, column) for column in block.columns} for row in block.rows}
        lines = tuple(
            PaperLine(row, {column: placed[spot] for column, spot in there.items() if spot in placed}, ())
            for row, there in spots.items()
        )
        return PaperView(table, block, block.columns, "published", {}, lines)

    return [paper_sheet(view(block)) for block in table.blocks]


def _prose(number: Number) -> tuple[str, ...]:
    method = number.method if number.variant == "default" else f"{number.method}/{number.variant}"
    return (number.dataset, method, number.cell, number.metric, number.value + number.mark, number.note)


def kind_counts(findings: Sequence[Finding]) -> list[tuple[str, str, int, int]]:
    """How many findings there are of each kind.

    Returns:
        (kind, its meaning, proven ones, inferred ones), in the order of ``KINDS``; kinds without findings are left out.
    """
    counts = Counter((finding.kind, finding.certainty) for finding in findings)
    proven, inferred = CERTAINTIES
    rows = [(kind, meaning, counts[kind, proven], counts[kind, inferred]) for kind, meaning in KINDS.items()]
    return [row for row in rows if row[2] or row[3]]


def _rank(finding: Finding) -> tuple[int, int]:
    """Proven errors first; the sort is stable."""
    return (CERTAINTIES.index(finding.certainty), SEVERITIES.index(finding.severity))

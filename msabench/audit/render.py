"""Findings as text and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby

from msabench.audit.finding import CERTAINTIES, SEVERITIES, Finding
from msabench.audit.run import KINDS


@dataclass(frozen=True)
class Report:
    """What an audit found.

    Attributes:
        findings: In the order of ``run_audit``.
        papers: Papers that were checked, in the order of print.
        n_numbers: How many numbers were checked.
        source: Where they come from and what they were compared with, in words.
    """

    findings: Sequence[Finding]
    papers: tuple[str, ...]
    n_numbers: int
    source: str

    def only(self, kinds: Sequence[str], severities: Sequence[str]) -> Report:
        """The report with some kinds and severities."""
        return replace(self, findings=[f for f in self.findings if f.kind in kinds and f.severity in severities])


def as_json(report: Report) -> str:
    """The report as one JSON object: numbers, papers, source, counts by kind and certainty, findings in full."""
    counts = Counter((finding.kind, finding.certainty) for finding in report.findings)
    content = {
        "numbers": report.n_numbers,
        "papers": report.papers,
        "source": report.source,
        "counts": {kind: {c: counts[kind, c] for c in CERTAINTIES} for kind in KINDS if _total(counts, kind)},
        "findings": [asdict(finding) for finding in report.findings],
    }
    return json.dumps(content, ensure_ascii=False, indent=2)


def as_text(report: Report, width: int) -> str:
    """The report as text: a summary, then by paper; what findings share is said once, notes have one line each.

    Args:
        report: What was found.
        width: Characters in a line.
    """
    lines = _summary(report, width)
    for paper in report.papers:
        found = [finding for finding in report.findings if finding.paper == paper]
        if found:
            lines += [*([""] if lines[-1] else []), f"{paper}: {_counted(found)}"]
        for _, alike in groupby(found, key=lambda f: (f.severity, f.certainty, f.kind, f.rule, f.proof)):
            group = list(alike)
            lines += _notes(group, width) if group[0].severity == "note" else _entries(group, width)
    return "\n".join(lines).rstrip()


def _summary(report: Report, width: int) -> list[str]:
    counts = Counter((finding.kind, finding.certainty) for finding in report.findings)
    lines = textwrap.wrap(f"{report.n_numbers} {report.source}: {_counted(report.findings)}.", width)
    if not report.findings:
        return lines
    column = max(map(len, KINDS)) + 2
    lines += ["", f"{'kind':<{column}}proven  inferred"]
    for kind, meaning in KINDS.items():
        if _total(counts, kind):
            proven, inferred = (counts[kind, certainty] for certainty in CERTAINTIES)
            head = f"{kind:<{column}}{proven:>6}  {inferred:>8}  "
            lines += _wrapped(head, meaning, width)
    legend = (
        "proven: arithmetic allows nothing else; inferred: the likeliest explanation. Each finding says what is proven "
        "and what is inferred in it."
    )
    return [*lines, *textwrap.wrap(legend, width)]


def _counted(findings: Sequence[Finding]) -> str:
    if not findings:
        return "nothing found"
    severities = Counter(finding.severity for finding in findings)
    parts = [_plural(severities[severity], severity) for severity in SEVERITIES if severities[severity]]
    proven = sum(finding.certainty == "proven" for finding in findings)
    return f"{_plural(len(findings), 'finding')} ({', '.join(parts)}), {proven} proven"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _total(counts: Counter[tuple[str, str]], kind: str) -> int:
    return sum(counts[kind, certainty] for certainty in CERTAINTIES)


def _entries(findings: Sequence[Finding], width: int) -> list[str]:
    """Findings of one kind with the same rule and proof."""
    first = findings[0]
    lines = [f"  {first.severity}, {first.certainty}: {first.kind}, {KINDS[first.kind]}"]
    lines += _wrapped("    rule      ", first.rule, width) + _wrapped("    proof     ", first.proof, width)
    for finding in findings:
        lines.append(f"    {finding.id}")
        lines += _wrapped("      printed   ", finding.printed, width)
        if finding.expected:
            lines += _wrapped("      expected  ", finding.expected, width)
    return [*lines, ""]


def _notes(findings: Sequence[Finding], width: int) -> list[str]:
    lines = []
    for finding in findings:
        expected = f" ({finding.expected})" if finding.expected else ""
        lines += _wrapped("  note: ", f"{finding.id}  {finding.printed}{expected}", width)
    return lines


def _wrapped(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        # Ids are looked up as they stand.
        break_long_words=False,
        break_on_hyphens=False,
    )

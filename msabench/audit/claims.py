"""Claims of papers in prose, as data. Free of torch and pandas.

``docs/audit.md`` describes the columns and the checks.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path

from msabench.audit.printed import named
from msabench.errors import MSABenchError, one_of
from msabench.published.numbers import Number

CLAIMS_FILE = "claims.csv"

CHECKS = {
    "best": "the subject is the best in every column, of other methods or of all rows",
    "better": "the subject is better than one row in every column",
    "gain": "the subject is better than one row by the stated difference",
    "gain_over_best": "the subject is better by the stated difference, without saying over which row",
    "rising": "rows improve from each to the next in every column",
    "largest_drop": "the subject is the worst of the method's variants in every column",
    "value": "a number of a table is the stated one",
    "count": "so many of the rows are in the table",
    "metric_name": "the stated number is a score of the kind named",
    "sum": "the stated number is the sum of others",
    "corpus_size": "the corpus has so many clips",
    "significant": "marked cells differ significantly over so many runs",
    "own_runs": "the rows come from runs of the paper's own",
    "withdrawn": "a number was withdrawn by those who published it first",
    "weighted_f1": "F1 is the weighted F1, f1_score(true, pred)",
}
"""Check -> what is claimed."""

_DECIMAL = re.compile(r"\d+(\.\d+)?")
_STATED = ("gain", "gain_over_best", "value", "count", "metric_name", "sum", "corpus_size", "significant")


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        name: Unique name.
        paper: Who claims it.
        table: Tables that it is about, separated by spaces; empty for facts about a corpus.
        check: One of ``CHECKS``.
        dataset: Corpora, separated by spaces; empty for all in the tables. So are the next four.
        features: Alignments.
        cell: Cells.
        emotion: Emotions.
        metric: Metrics as printed.
        subject: Row that the claim is about, ``method`` or ``method/variant``; for ``own_runs`` the paper that prints
            the same rows.
        against: Rows it is compared with, separated by spaces; ``others`` or ``all`` for ``best``; numbers for ``sum``
            and ``withdrawn``; the kind of score for ``metric_name``.
        stated: Number that is stated; empty if none.
        text: The claim in a few words of ours.
    """

    name: str
    paper: str
    table: str
    check: str
    dataset: str
    features: str
    cell: str
    emotion: str
    metric: str
    subject: str
    against: str
    stated: str
    text: str

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that it is about."""
        return tuple(self.table.split())

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows that the subject is compared with."""
        return tuple(word.removesuffix("/default") for word in self.against.split())

    def covers(self, number: Number) -> bool:
        """Whether a printed number is one that it is about, whatever its row."""
        if number.paper != self.paper or number.table not in self.tables or number.is_delta:
            return False
        filters = (self.dataset, self.features, self.cell, self.emotion, self.metric)
        values = (number.dataset, number.features, number.cell, number.emotion, number.metric)
        return all(not words or value in words.split() for words, value in zip(filters, values, strict=True))

    def numbers(self, numbers: Iterable[Number], row: str | None = None) -> list[Number]:
        """The numbers that it is about, of one row if named.

        Raises:
            MSABenchError: There are none, so that the claim cannot be checked.
        """
        found = [n for n in numbers if self.covers(n) and row in (None, named(n.method, n.variant))]
        if not found:
            what = f"row {row!r}" if row else "numbers"
            raise MSABenchError(
                f"claim {self.name!r} of {self.paper} needs {what} of table {self.table}; there are none"
            )
        return found


_COLUMNS = tuple(field.name for field in dataclass_fields(Claim))


def load_claims(folder: Path) -> list[Claim]:
    """The claims beside published numbers.

    Args:
        folder: Folder with ``claims.csv``.

    Raises:
        MSABenchError: The file is missing or malformed; one sentence with the line and what is allowed.
    """
    path = folder / CLAIMS_FILE
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            rows = [(lines.line_num, row) for row in lines if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MSABenchError(f"{path} cannot be read as CSV: {error}") from error
    if tuple(header) != _COLUMNS:
        raise MSABenchError(f"{path} has the columns {', '.join(header)}; expected {', '.join(_COLUMNS)}")
    claims: dict[str, Claim] = {}
    for line, row in rows:
        if len(row) != len(header):
            raise MSABenchError(f"{path} line {line} has {len(row)} fields; expected {len(header)} as in the header")
        claim = Claim(*(word.strip() for word in row))
        problem = _problem(claim)
        if problem:
            raise MSABenchError(f"{path} line {line}: {problem}")
        if claim.name in claims:
            raise MSABenchError(f"{path} line {line}: there is another claim {claim.name!r}")
        claims[claim.name] = claim
    return list(claims.values())


def _problem(claim: Claim) -> str | None:
    if not claim.name or not claim.paper:
        return "name or paper is empty"
    if claim.check not in CHECKS:
        return str(one_of("check", claim.check, CHECKS))
    if claim.check in _STATED and not _DECIMAL.fullmatch(claim.stated):
        return f"stated {claim.stated!r} is not a plain decimal number, which the check {claim.check} needs"
    if claim.check == "best" and claim.against not in ("others", "all"):
        return str(one_of("against", claim.against, ("others", "all")))
    if claim.check == "sum" and not all(map(_DECIMAL.fullmatch, claim.against.split())):
        return f"against {claim.against!r} is not a list of numbers"
    return None

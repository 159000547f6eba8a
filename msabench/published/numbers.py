"""Published numbers: one row per printed number, read from CSV files. Free of torch and pandas.

``leaderboard/published/README.md`` describes the columns; the same reader takes a user's own file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path

from msabench.data.info import EMOTIONS
from msabench.data.registry import corpora
from msabench.errors import MSABenchError
from msabench.metrics.spec import METRICS
from msabench.missingness.conditions import AVERAGES, LAWS, Cell
from msabench.packaged import PUBLISHED, here_or_packaged
from msabench.published.readings import readings
from msabench.results.derived import DERIVED

PAPERS = ("prlf", "fsrf", "umdf", "recap", "kt")
PROSE = "text"
"""Table of numbers that a paper states in its prose."""

PROTOCOLS = ("inter", "intra", "intra_mean", "intra_area", "complete", "fixed", *LAWS)
AREAS = tuple(key for key, quantity in DERIVED.items() if quantity.kind == "area")
"""Cells of areas under a metric over rates, not divided by their width."""

EVIDENCE = ("", "definition", "stated", "inferred", "proven")
PRINTED = (
    *("f1", "f1_neg_pos", "f1_neg_nonneg", "acc", "acc2", "acc2_neg_pos", "acc2_neg_nonneg"),
    *("acc3", "acc5", "acc7", "mae", "corr", "cluster_variance"),
)
"""Names of metrics as papers print them; ``delta_`` before one is a difference stated in prose."""

_REQUIRED = ("dataset", "method", "cell", "metric", "value")
_DIGITS = re.compile(r"-?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class Number:
    """One printed number.

    Attributes:
        paper: Where it is printed: one of ``PAPERS``, or the user's own name for a source.
        table: Label of the table there, e.g. ``1``, ``II``; ``text`` for the prose.
        dataset: Corpus name.
        features: ``aligned``, ``unaligned``, or empty where the paper does not say.
        method: Method name.
        variant: ``default`` for a method in full, else the name of an ablation.
        protocol: ``inter`` (whole modalities missing at test), ``intra`` (frames dropped at one rate), ``intra_mean``
            (mean over rates), ``intra_area`` (area over rates), ``complete`` (everything there in training and test),
            ``fixed`` (one set in training and test), ``random`` and ``random-table`` (modalities removed by a law).
        cell: What is there at test: a cell name, a key of ``missingness.conditions.AVERAGES``, or one of ``AREAS``.
        emotion: IEMOCAP only.
        metric: Name as printed, one of ``PRINTED`` or, in a file of one's own, a metric key.
        key: Metric key that says how it was computed; empty where that cannot be determined.
        evidence: How ``key`` is known: ``definition`` (only one computation has this name), ``stated`` (the paper says
            which clips count, not in which order F1 takes its arguments), ``inferred`` or ``proven`` (from the numbers,
            see ``msabench audit``); empty with an empty ``key``.
        value: Digits as printed, in percent for accuracies and F1.
        mark: A mark printed beside it, e.g. ``*``; empty if none.
        note: Repairs of garbled print and doubts.
    """

    paper: str
    table: str
    dataset: str
    features: str
    method: str
    variant: str
    protocol: str
    cell: str
    emotion: str
    metric: str
    key: str
    evidence: str
    value: str
    mark: str
    note: str

    @property
    def number(self) -> float:
        """The value as a number."""
        return float(self.value)

    @property
    def is_delta(self) -> bool:
        """Whether it is a difference stated in prose."""
        return self.metric.startswith("delta_")

    @property
    def percent(self) -> bool:
        """Whether it is in percent."""
        return self.metric.removeprefix("delta_").startswith(("f1", "acc"))

    @property
    def place(self) -> tuple[str, ...]:
        """What is unique among the numbers of tables."""
        return (
            *(self.paper, self.table, self.dataset, self.features, self.method, self.variant),
            *(self.protocol, self.cell, self.emotion, self.metric),
        )

    @property
    def where(self) -> str:
        """Its place in words, e.g. ``umdf table 1, mosi, mult/default, inter/la, f1``."""
        method = self.method if self.variant == "default" else f"{self.method}/{self.variant}"
        parts = (f"{self.paper} {'prose' if self.table == PROSE else f'table {self.table}'}", self.dataset)
        return ", ".join(part for part in (*parts, self.features, method, self.cell, self.emotion, self.metric) if part)


COLUMNS = tuple(field.name for field in dataclass_fields(Number))


def published_folder(given: Path | None) -> Path:
    """Where the published numbers lie.

    Args:
        given: As the user named it; None for ``leaderboard/published`` here, and where there is none for the numbers
            that come with msabench.

    Raises:
        MSABenchError: There is no such folder.
    """
    if given is not None and not given.is_dir():
        raise MSABenchError(f"there is no folder {given} with published numbers; leave it out for those of msabench")
    return given or here_or_packaged(PUBLISHED)


def load_published(folder: Path | None = None) -> list[Number]:
    """The numbers of the five papers, in the order of print.

    Args:
        folder: Folder with one file per paper; None as in ``published_folder``.

    Raises:
        MSABenchError: There is no such folder, or a file in it is missing or malformed.
    """
    place = published_folder(folder)
    return [number for paper in PAPERS for number in read_numbers(place / f"{paper}.csv")]


def read_numbers(path: Path) -> list[Number]:
    """Read a CSV of printed numbers.

    Args:
        path: A file with a header. ``dataset``, ``method``, ``cell``, ``metric`` and ``value`` must be there; other
            columns of ``COLUMNS`` may be: ``paper`` is the file's name if not, ``table`` is ``1``, ``variant`` is
            ``default``, ``protocol`` follows from the cell, all others are empty.

    Returns:
        The numbers in the order of the file.

    Raises:
        MSABenchError: The file is missing or malformed; one sentence with the line and what is allowed.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            _check_header(path, header)
            rows = [(lines.line_num, row) for row in lines if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MSABenchError(f"{path} cannot be read as CSV: {error}") from error
    numbers = [_number(path, line, header, row) for line, row in rows]
    _check_unique(path, numbers, [line for line, _ in rows])
    return numbers


def _check_header(path: Path, header: list[str]) -> None:
    for name in header:
        if name not in COLUMNS:
            raise MSABenchError(f"{path} has an unknown column {name!r}; allowed: {', '.join(COLUMNS)}")
        if header.count(name) > 1:
            raise MSABenchError(f"{path} has the column {name!r} twice")
    lacking = [name for name in _REQUIRED if name not in header]
    if lacking:
        raise MSABenchError(f"{path} lacks the column {lacking[0]!r}; needed: {', '.join(_REQUIRED)}")


def _number(path: Path, line: int, header: list[str], row: list[str]) -> Number:
    if len(row) != len(header):
        raise MSABenchError(f"{path} line {line} has {len(row)} fields; expected {len(header)} as in the header")
    given = dict.fromkeys(COLUMNS, "") | dict(zip(header, (word.strip() for word in row), strict=True))
    given["paper"] = given["paper"] or path.stem
    given["table"] = given["table"] or "1"
    given["variant"] = given["variant"] or "default"
    given["protocol"] = given["protocol"] or _protocol_of(given["cell"])
    number = Number(**given)
    problem = _problem(number)
    if problem:
        raise MSABenchError(f"{path} line {line}: {problem}")
    return number


def _protocol_of(cell: str) -> str:
    if cell in ("avg_intra", "avg_intra_to_1"):
        return "intra_mean"
    if cell in AREAS:
        return "intra_area"
    if cell in AVERAGES:
        return str(AVERAGES[cell][0]).partition("/")[0]
    return cell.partition("/")[0]


def _problem(number: Number) -> str | None:
    for name in ("dataset", "method"):
        if not getattr(number, name):
            return f"{name} is empty"
    metric = number.metric.removeprefix("delta_")
    if metric not in PRINTED and metric not in METRICS:
        return _not_allowed("metric", number.metric, (*PRINTED, *METRICS))
    # The protocol may follow from the cell: hence first.
    if number.cell not in (*AVERAGES, *AREAS):
        try:
            Cell.parse(number.cell)
        except MSABenchError as error:
            return f"{error} or an average: {', '.join(AVERAGES)}; or an area: {', '.join(AREAS)}"
    closed = {
        "features": ("", "aligned", "unaligned"),
        "protocol": PROTOCOLS,
        "evidence": EVIDENCE,
        "emotion": ("", *EMOTIONS),
        "key": ("", *METRICS),
    }
    for name, allowed in closed.items():
        if getattr(number, name) not in allowed:
            return _not_allowed(name, getattr(number, name), allowed)
    if bool(number.key) != bool(number.evidence):
        return f"key {number.key!r} with evidence {number.evidence!r}; give both or neither"
    possible = readings(number.dataset, metric, number.emotion)
    if number.key and number.dataset in corpora() and number.key not in possible:
        return _not_allowed(f"key of {metric} on {number.dataset}", number.key, possible)
    if not _DIGITS.fullmatch(number.value):
        return f"value {number.value!r} is not a plain decimal number such as 82.58"
    low, high = _range(metric)
    if not low <= number.number <= high:
        return f"{number.metric} {number.value} is out of range; allowed: {low:g} to {high:g}"
    return None


def _range(metric: str) -> tuple[float, float]:
    if metric.startswith(("f1", "acc")):
        return 0.0, 100.0
    return (-1.0, 1.0) if metric == "corr" else (0.0, float("inf"))


def _not_allowed(what: str, value: str, allowed: Iterable[str]) -> str:
    return f"unknown {what} {value!r}; allowed: {', '.join(word or '(empty)' for word in allowed)}"


def _check_unique(path: Path, numbers: list[Number], lines: list[int]) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for number, line in zip(numbers, lines, strict=True):
        if number.table == PROSE:
            continue
        if number.place in seen:
            raise MSABenchError(f"{path} lines {seen[number.place]} and {line} both hold {number.where}")
        seen[number.place] = line

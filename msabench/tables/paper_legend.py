"""What is said below tables of papers. Free of torch and pandas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msabench.missingness.conditions import AVERAGES
from msabench.published.constant_scores import ConstantScore, constant_scores, explaining
from msabench.published.numbers import AREAS, Number
from msabench.published.readings import readings
from msabench.results.build import dataset_facts
from msabench.results.derived import DERIVED
from msabench.results.table import CONSTANT, failures_in
from msabench.tables.marks import meanings
from msabench.tables.paper import OTHER, UNDETERMINED, PaperView, column_key
from msabench.tables.render import PLUS_MINUS, SECTION

TITLES = {
    "f1": "F1",
    "f1_neg_pos": "F1 neg/pos",
    "f1_neg_nonneg": "F1 neg/nonneg",
    "acc": "Acc",
    "acc2": "Acc-2",
    "acc2_neg_pos": "Acc-2 neg/pos",
    "acc2_neg_nonneg": "Acc-2 neg/nonneg",
    "acc3": "Acc-3",
    "acc5": "Acc-5",
    "acc7": "Acc-7",
    "mae": "MAE",
    "corr": "Corr",
}
"""Printed metric -> header."""

AVERAGED = {
    "avg_missing": "avg = mean over the six situations with something missing",
    "avg_intra": "mean = mean over the rates 0.0 to 0.9",
    "avg_intra_to_1": "mean 0.1-1.0 = mean over these ten rates",
}
"""Average -> what its header means."""

EVIDENCE = {
    "definition": "definition = only one metric has this name",
    "stated": "stated = the paper says which clips count, of F1 not in which order it takes its arguments",
    "inferred": "inferred = from the numbers, see `msabench audit`",
    "proven": "proven = by the numbers, see `msabench audit`",
}
"""Evidence of a published number's metric -> what it means."""

UNSURE, OTHERWISE, NOT_COMPARABLE = "?", "~", "n/c"
"""Marks: the published metric is not determined; not the column's metric; two different metrics."""


def legend(view: PaperView) -> list[str]:
    """Sentences below a paper's table."""
    numbers = [number for line in view.lines for number in line.published.values()] * (view.show != "reproduced")
    averages = [AVERAGED[key] for key in AVERAGES if key in {column.cell for column in view.columns}]
    averages += [f"{key} = {DERIVED[key].meaning}" for key in _areas(view)]
    lines = [f"Columns: {'; '.join(averages)}."] if averages else []
    lines += _situations(view)
    if numbers:
        lines += [*_keys(view), *_evidence(numbers)]
        lines += [f"{mark} stands in the paper." for mark in dict.fromkeys(number.mark for number in numbers) if mark]
        # What a constant scores over an area depends on the area's width.
        lines += [] if _areas(view) else _constants(view, numbers)
        noted = sum(bool(number.note) for number in numbers)
        lines += [f"Printed numbers with a note on how they were read: {noted}; --format csv has the notes."] * bool(
            noted
        )
    if view.protocol:
        lines += _reproduced(view)
    elif view.show != "published":
        lines.append(f"Nothing of this is reproduced yet; `msabench run --suite {view.table.paper}` makes records.")
    return lines


def _areas(view: PaperView) -> list[str]:
    """The areas over rates among the columns."""
    return [key for key in AREAS if key in {column.cell for column in view.columns}]


def _situations(view: PaperView) -> list[str]:
    """What is there at test, where rows differ in that."""
    rows: dict[str, dict[str, None]] = {}
    for line in view.lines:
        if line.row.cell and line.published:
            rows.setdefault(line.row.cell.partition("/")[2], {})[line.row.label] = None
    words = [f"{there} in {', '.join(labels)}" for there, labels in rows.items()]
    return [f"There at test: {'; '.join(words)}."] if words else []


def _keys(view: PaperView) -> list[str]:
    """Which metric the printed ones are, as far as that is known."""
    found: dict[str, dict[tuple[str, str], dict[str, None]]] = {}
    for line in view.lines:
        for column, number in line.published.items():
            name = f"{TITLES.get(column.metric, column.metric)} {column.emotion}".strip()
            kinds = found.setdefault(name, {})
            kinds.setdefault((number.key, number.evidence), {})[line.row.label] = None
    parts = []
    for name, kinds in found.items():
        words = []
        for (key, evidence), rows in kinds.items():
            known = f"{key} ({evidence})" if key else "not determined"
            words.append(known if len(kinds) == 1 else f"{known} in {', '.join(rows)}")
        parts.append(f"{name}: {', '.join(words)}")
    lines = [f"Published metrics: {'; '.join(parts)}."]
    if any(len({key for key, _ in kinds}) > 1 for kinds in found.values()):
        lines.append("Numbers of one column are under different metrics, or may be, so that the best need not be best.")
    return lines


def _evidence(numbers: Sequence[Number]) -> list[str]:
    used = [meaning for name, meaning in EVIDENCE.items() if name in {number.evidence for number in numbers}]
    return [f"{'; '.join(used)}."] if used else []


def _constants(view: PaperView, numbers: Sequence[Number]) -> list[str]:
    """What a constant answer scores, and which printed numbers are just that."""
    possible = {key for column in view.columns for key in readings(view.block.dataset, column.metric, column.emotion)}
    best: dict[str, ConstantScore] = {}
    for score in constant_scores(view.block.dataset):
        if score.key in possible and (score.key not in best or score.value > best[score.key].value):
            best[score.key] = score
    lines = [f"A constant answer scores at best: {_listed(best.values())}."] if best else []
    equal = dict.fromkeys(score for number in numbers for score in explaining(number))
    if equal:
        lines.append(f"{SECTION} = equals what a constant answer scores: {_listed(equal)}.")
    return lines


def _listed(scores: Iterable[ConstantScore]) -> str:
    return "; ".join(score.reading for score in scores)


def _reproduced(view: PaperView) -> list[str]:
    shown = [
        (run.row, number.key, number)
        for line in view.lines
        for run in line.reproduced
        for number in run.numbers.values()
    ]
    own = {column_key(column, view.metric) for column in view.columns}
    used = dict.fromkeys(key for _, key, _ in shown)
    lines = [
        f"Reproduced: mean{PLUS_MINUS}standard deviation over training seeds of the mean over test masks; runs = "
        f"training seeds x test masks. Metrics: {', '.join(used)}."
    ]
    definitions = {number.definition for _, _, number in shown}
    if view.show == "both":
        lines.append("difference = reproduced - published; each of the two is ranked apart.")
        if UNDETERMINED in definitions:
            lines.append(f"{UNSURE} = the paper does not determine the metric of the published number.")
        if OTHER in definitions:
            lines.append(f"{NOT_COMPARABLE} = not comparable: the published number is another metric.")
        if set(used) - own:
            lines.append(
                f"{OTHERWISE} = under the metric of the published number above it, which is not that of the column."
            )
    absent = [line.row.label for line in view.lines if not line.reproduced]
    if absent:
        lines.append(f"No records under this protocol: {', '.join(absent)}.")
    if CONSTANT not in {line.row.method for line in view.lines}:
        lines.append(f"There are no records of {CONSTANT}, so the floor is not shown.")
    metric_set = dataset_facts(view.block.dataset).metric_set
    lines += meanings(view.rows, [(row, number.entry) for row, _, number in shown], metric_set)
    if any(row.marks for row in view.rows):
        lines.append("v, # = version of the method, hash of the configuration, where a method has several.")
    return [*lines, *failures_in(view.rows), *view.warnings]

"""Rows that stand in several papers, rows that repeat others, and single values that do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

from msabench.audit.context import Context
from msabench.audit.finding import Finding, Place, finding
from msabench.audit.printed import Column, Label, exact, situation, table_name
from msabench.published.numbers import PROSE, Number

FEWEST = 3
"""Equal values that make a row a copy; fewer happen by chance."""

SHARE = 0.5
"""Share of the values that two rows have in common which must be equal."""

DIGITS = 4
"""Digits, leading zeros aside, that a single repeated value must have to be worth a note."""

_Cells = dict[Column, Number]
_Pair = tuple[Label, Label]


def copies(context: Context) -> Iterator[Finding]:
    """Rows of one method with the same digits in two papers, listed by pair of tables."""
    methods: dict[tuple[str, ...], list[Label]] = {}
    for label in context.rows:
        methods.setdefault((label.dataset, label.method, label.variant), []).append(label)
    best: dict[tuple[str, ...], tuple[Label, Label, list[Number]]] = {}
    for labels in methods.values():
        for one, other in combinations(labels, 2):
            equal = _copied(context.rows[one], context.rows[other]) if one.paper != other.paper else []
            key = (one.paper, other.paper, one.dataset, one.method, one.variant)
            # Papers print rows again in their ablation tables; the largest match stands for all.
            if equal and (key not in best or len(equal) > len(best[key][2])):
                best[key] = (one, other, equal)
    pairs: dict[tuple[str, ...], list[tuple[Label, Label, list[Number]]]] = {}
    for one, other, equal in best.values():
        pairs.setdefault((one.paper, one.table, other.paper, other.table), []).append((one, other, equal))
    for (paper, table, source, source_table), found in pairs.items():
        yield _copy(Place(paper, table), table_name(source, source_table), found)


def _equal(one: _Cells, other: _Cells) -> tuple[list[Number], int]:
    """Numbers of one row that another has too, and in how many columns both have any."""
    common = [column for column in one if column in other]
    return [one[column] for column in common if exact(one[column]) == exact(other[column])], len(common)


def _copied(one: _Cells, other: _Cells) -> list[Number]:
    equal, common = _equal(one, other)
    return equal if len(equal) >= max(FEWEST, SHARE * common) else []


def _copy(place: Place, source: str, found: list[tuple[Label, Label, list[Number]]]) -> Finding:
    total = sum(len(equal) for _, _, equal in found)
    own = all(one.method in (one.paper, other.paper) for one, other, _ in found)
    counts = ", ".join(f"{one.dataset} {one.name} {len(equal)}" for one, _, equal in found)
    return finding(
        "copy",
        place,
        certainty="inferred",
        severity="note" if own else "warning",
        printed=f"{total} equal values: {counts}",
        expected=f"as in {source}",
        rule="two independent runs do not agree in every digit of a row",
        proof=f"Proven: {total} printed values are equal. Inferred: that they are one set of numbers, copied from one "
        "paper to the other or from a common source, with that source's features, protocol and argument order.",
        suffix=source.replace(" table ", ":").replace(" ", ":"),
    )


def repeated_rows(context: Context) -> Iterator[Finding]:
    """Rows of one paper under different labels that agree in at least half of their values."""
    for one, other in _alike(context):
        equal, common = _equal(context.rows[one], context.rows[other])
        theirs = context.rows[other]
        shown = ", ".join(f"{n.cell} {n.emotion} {n.metric} {n.value}".replace("  ", " ") for n in equal)
        differing = [
            f"{n.metric} {n.value} and {theirs[column].value}"
            for column, n in context.rows[one].items()
            if column in theirs and exact(n) != exact(theirs[column])
        ]
        yield finding(
            "repeated_row",
            _shared(one, other),
            certainty="inferred",
            severity="error" if one.dataset != other.dataset else "warning",
            printed=f"{_place(one)} and {_place(other)} agree in {len(equal)} of {common}: {shown}",
            expected=f"differing: {'; '.join(differing)}" if differing else "",
            rule="different runs do not agree in most digits of a row",
            proof="Proven: the printed values are equal. Inferred: that one row was pasted over the other.",
            suffix="=".join((_place(one), _place(other))).replace(" ", ":"),
        )


def _alike(context: Context) -> list[_Pair]:
    """Pairs of rows of one paper, under different labels, that agree in at least half of their values."""
    holders: dict[tuple[str, ...], list[Label]] = {}
    for label, cells in context.rows.items():
        for column, number in cells.items():
            holders.setdefault((label.paper, *column, str(exact(number).normalize())), []).append(label)
    shared = Counter(pair for labels in holders.values() for pair in combinations(labels, 2))
    return [
        (one, other)
        for (one, other), count in shared.items()
        if count >= FEWEST and not _named_alike(one, other) and _copied(context.rows[one], context.rows[other])
    ]


def repeated_values(context: Context) -> Iterator[Finding]:
    """Single values that rows of a column, or one method's rows on two corpora, share."""
    pasted = {frozenset(pair) for pair in _alike(context)}
    groups: dict[tuple[str, ...], list[tuple[Label, Number]]] = {}
    for label, cells in context.rows.items():
        for column, number in cells.items():
            if len(number.value.replace(".", "").lstrip("0")) < DIGITS:
                continue
            where = (label.paper, *column, str(exact(number).normalize()))
            in_column = ("column", label.table, label.dataset, label.features, *where)
            in_method = ("method", label.method, label.variant, *where)
            for key in (in_column, in_method):
                groups.setdefault(key, []).append((label, number))
    for (scope, *_), group in groups.items():
        labels = [label for label, _ in group]
        if scope == "method" and len({label.dataset for label in labels}) < 2:
            continue
        if any(frozenset(pair) not in pasted for pair in combinations(labels, 2)):
            yield _repeated_value(group)


def _repeated_value(group: list[tuple[Label, Number]]) -> Finding:
    first, number = group[0]
    shared = _shared(*(label for label, _ in group))
    place = Place(
        *(shared.paper, shared.table, shared.dataset, shared.features, shared.method, shared.variant),
        *(number.cell, number.emotion, number.metric),
    )
    rows = ", ".join(_place(label) for label, _ in group)
    return finding(
        "repeated_value",
        place,
        certainty="inferred",
        severity="note",
        printed=f"{number.value} in {rows}",
        rule="different runs seldom agree in every digit",
        proof="Proven: the printed values are equal. It may be chance, a constant answer, or a slip of the pen; alone "
        "it shows nothing.",
        suffix=f"{number.value}" if first.method == shared.method else f"{number.value}:{first.name}",
    )


def one_model(context: Context) -> Iterator[Finding]:
    """Rows whose values with everything there agree between a table of dropped modalities and one of dropped frames."""
    full: dict[tuple[str, ...], list[Number]] = {}
    for number in context.numbers:
        if number.table != PROSE and not number.is_delta and situation(number) == "inter/lav":
            key = (number.paper, number.dataset, number.features, number.method, number.variant, number.metric)
            full.setdefault(key, []).append(number)
    pairs: dict[tuple[str, ...], list[Number]] = {}
    for group in full.values():
        for one, other in combinations(group, 2):
            if one.table != other.table and {one.protocol, other.protocol} == {"inter", "intra"}:
                tables = sorted((one.table, other.table))
                if exact(one) == exact(other):
                    pairs.setdefault((one.paper, *tables, one.dataset, one.method), []).append(one)
    for (paper, table, other_table, dataset, method), equal in pairs.items():
        if len(equal) > 1:
            yield finding(
                "one_model",
                Place(paper, table, dataset, method=method, cell="inter/lav"),
                certainty="inferred",
                severity="note",
                printed=", ".join(f"{number.variant} {number.value}" for number in equal),
                expected=f"as in table {other_table}",
                rule="inter/lav and intra/0.0 are one situation",
                proof=f"Proven: {len(equal)} rows print equal values in both tables. Inferred: that one trained model "
                "was tested under both protocols.",
            )


def _named_alike(one: Label, other: Label) -> bool:
    names = [(label.dataset, label.features, label.method, label.variant) for label in (one, other)]
    return names[0] == names[1]


def _shared(*labels: Label) -> Place:
    """The place with what all labels agree in."""
    fields = ("paper", "table", "dataset", "features", "method", "variant")
    values = {name: {getattr(label, name) for label in labels} for name in fields}
    agreed = {name: next(iter(found)) if len(found) == 1 else "" for name, found in values.items()}
    if not agreed["method"]:
        agreed["variant"] = ""
    return Place(**agreed)


def _place(label: Label) -> str:
    return " ".join(word for word in (f"table {label.table}", label.dataset, label.features, label.name) if word)

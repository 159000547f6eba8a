"""The same setting printed with different values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from msabench.audit.context import Context
from msabench.audit.finding import Finding, Place, finding
from msabench.audit.printed import apart, exact, situation, span, table_name
from msabench.published.numbers import Number

_Key = tuple[str, ...]
_PROTOCOLS = ("neg_pos", "neg_nonneg")


def contradictions(context: Context) -> Iterator[Finding]:
    """Values of one setting that no number rounds to, in one paper (contradiction) or in several (disagreement).

    ``complete``, ``inter/lav`` and ``intra/0.0`` are one situation.
    """
    settings: dict[_Key, list[Number]] = {}
    for number in context.numbers:
        if not number.is_delta:
            key = (number.dataset, number.method, number.variant, situation(number), number.emotion, number.metric)
            settings.setdefault(key, []).append(number)
    for group in settings.values():
        for same in _by(group, lambda n: (n.paper, n.features)):
            if len({exact(number) for number in same}) > 1 and not _overlap(same):
                yield _contradiction(same)
        papers = _by(group, lambda n: (n.paper,))
        across = [(one, other) for one, other in combinations(papers, 2) if _disagree(one, other)]
        if across:
            involved = [number for paper in papers if any(paper in pair for pair in across) for number in paper]
            yield _disagreement(involved)
    yield from _unnamed_protocols(settings)


def _by(group: Sequence[Number], key: Callable[[Number], _Key]) -> list[list[Number]]:
    parts: dict[_Key, list[Number]] = {}
    for number in group:
        parts.setdefault(key(number), []).append(number)
    return list(parts.values())


def _overlap(group: Sequence[Number]) -> bool:
    """Whether more than a single value rounds to all numbers, as it does where digits were dropped."""
    spans = [span(number) for number in group]
    return max(low for low, _ in spans) < min(high for _, high in spans)


def _disagree(ours: Sequence[Number], theirs: Sequence[Number]) -> bool:
    return any(
        apart(one, other) and (one.features == other.features or not (one.features and other.features))
        for one in ours
        for other in theirs
    )


def _listed(group: Sequence[Number]) -> str:
    values = dict.fromkeys((table_name(n.paper, n.table), n.value) for n in group)
    return "; ".join(f"{where}: {value}" for where, value in values)


def is_assumed(number: Number) -> bool:
    """Whether what a number stands for is our assumption, as its note says."""
    return "assumed" in number.note


def _contradiction(group: Sequence[Number]) -> Finding:
    assumed = any(map(is_assumed, group))
    rounding = not any(apart(one, other) for one, other in combinations(group, 2))
    if rounding:
        proof = "Inferred: the value was rounded twice, or the runs differ. One value could be rounded to both."
    elif assumed:
        proof = (
            "Proven: no value rounds to both. Inferred: that both mean the same setting, since the paper does not say "
            "for every table what it averages over."
        )
    else:
        proof = "Proven: no value rounds to both, so at least one is not what the paper says it is."
    return finding(
        "contradiction",
        Place.of(group[0]),
        certainty="inferred" if assumed or rounding else "proven",
        severity="note" if rounding else "warning" if assumed else "error",
        printed=_listed(group),
        rule="a paper prints one value for one setting",
        proof=proof,
    )


def _disagreement(group: Sequence[Number]) -> Finding:
    return finding(
        "disagreement",
        Place.of(group[0]),
        certainty="inferred",
        severity="warning",
        printed=_listed(group),
        rule="one method in one setting has one value, unless runs, features or protocols differ",
        proof="Proven: the papers print different values. Inferred: their runs or protocols differ, so that rows of "
        "one must not be compared with rows of the other.",
    )


def _unnamed_protocols(settings: dict[_Key, list[Number]]) -> Iterator[Finding]:
    """Values without a protocol in their name that equal the paper's values under none of the protocols."""
    for key, group in settings.items():
        *setting, metric = key
        for number in group:
            named = [
                other
                for protocol in _PROTOCOLS
                for other in settings.get((*setting, f"{metric}_{protocol}"), [])
                if (other.paper, other.features) == (number.paper, number.features)
            ]
            both = {other.metric for other in named} == {f"{metric}_{protocol}" for protocol in _PROTOCOLS}
            if both and all(apart(number, other) for other in named):
                yield finding(
                    "contradiction",
                    Place.of(number),
                    certainty="inferred",
                    severity="warning",
                    printed="; ".join(
                        f"{table_name(n.paper, n.table)}: {n.metric} {n.value}" for n in [number, *named]
                    ),
                    rule="a paper prints one value for one setting",
                    proof="Proven: the value equals neither of the two that the paper prints with a protocol. "
                    "Inferred: that it means one of them.",
                )

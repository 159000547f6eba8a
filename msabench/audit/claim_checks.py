"""Claims in prose against the numbers of the tables that they are about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from statistics import NormalDist

from msabench.audit.claims import Claim
from msabench.audit.context import Context
from msabench.audit.copies import copies
from msabench.audit.finding import Finding, Place, finding
from msabench.audit.printed import apart, better, column_of, exact, half, less_is_better, named, places, shown, span
from msabench.data.registry import dataset_info
from msabench.published.numbers import Number

_TINY_GAIN = 0.1
"""Percent points below which a significant difference over a few runs is remarkable."""


def claims(context: Context) -> Iterator[Finding]:
    """Claims that the printed numbers contradict, and those that they bear out only in a way that the prose hides.

    Claims of papers whose numbers are not there are passed over. ``best`` and ``weighted_f1`` are read by the checks
    ``not_best`` and ``argument_order``.

    Raises:
        MSABenchError: A claim is about a row or a cell that is not among the numbers.
    """
    papers = {number.paper for number in context.numbers}
    for claim in context.claims:
        check = _CHECKS.get(claim.check)
        if check is not None and claim.paper in papers:
            yield from check(claim, context)


def _found(
    claim: Claim,
    place: Place,
    printed: str,
    expected: str,
    proof: str,
    *,
    proven: bool = True,
    severity: str = "error",
    kind: str = "claim",
) -> Finding:
    return finding(
        kind,
        place,
        certainty="proven" if proven else "inferred",
        severity=severity,
        printed=printed,
        expected=expected,
        rule=f"claimed: {claim.text}",
        proof=proof,
        suffix=claim.name,
    )


def _pairs(claim: Claim, context: Context, one: str, other: str) -> Iterator[tuple[Number, Number]]:
    """Numbers of two rows, column by column."""
    theirs = {column_of(number): number for number in claim.numbers(context.numbers, other)}
    for number in claim.numbers(context.numbers, one):
        if column_of(number) in theirs:
            yield number, theirs[column_of(number)]


def _difference(one: Number, other: Number) -> Decimal:
    """By how much one number is better than another."""
    return exact(other) - exact(one) if less_is_better(one.metric) else exact(one) - exact(other)


def _gain(claim: Claim, context: Context) -> Iterator[Finding]:
    stated = Decimal(claim.stated)
    for number, other in _pairs(claim, context, claim.subject, claim.rows[0]):
        difference = _difference(number, other)
        slack = half(places(number)) + half(places(other)) + _half_of(claim.stated)
        if abs(difference - stated) > slack:
            proof = "Proven: no numbers that round to the two in the table have this difference."
            yield _found(claim, Place.of(number), f"{shown(number)}, {shown(other)}", f"{difference}", proof)


def _gain_over_best(claim: Claim, context: Context) -> Iterator[Finding]:
    for number in claim.numbers(context.numbers, claim.subject):
        column = [n for n in claim.numbers(context.numbers) if column_of(n) == column_of(number)]
        others = [n for n in column if n.method != number.method]
        best = (min if less_is_better(number.metric) else max)(others, key=exact)
        meant = [n for n in others if named(n.method, n.variant) in claim.rows]
        if best in meant or not apart(best, meant[0]):
            continue
        yield _found(
            claim,
            Place.of(number),
            f"{shown(number)}, {shown(meant[0])}: {_difference(number, meant[0])}",
            f"over the best of the others, {shown(best)}: {_difference(number, best)}",
            "Proven: the stated gain is over a row that is not the best of the others. Inferred: that readers take it "
            "for the gain over the best.",
            proven=False,
            severity="warning",
        )


def _rising(claim: Claim, context: Context) -> Iterator[Finding]:
    for before, after in zip(claim.rows[:-1], claim.rows[1:], strict=True):
        for earlier, later in _pairs(claim, context, before, after):
            if better(earlier, later):
                proof = "Proven: the table contradicts the claim in this cell, whatever the rounding."
                yield _found(claim, Place.of(later), f"{shown(earlier)}, then {shown(later)}", "a rise", proof)


def _largest_drop(claim: Claim, context: Context) -> Iterator[Finding]:
    method = claim.subject.partition("/")[0]
    for number in claim.numbers(context.numbers, claim.subject):
        rivals = [
            other
            for other in claim.numbers(context.numbers)
            if column_of(other) == column_of(number) and other.method == method and other.variant != "default"
        ]
        worse = [other for other in rivals if better(number, other)]
        if worse:
            proof = "Proven: in this column other removals cost more, whatever the rounding."
            printed = f"{shown(number)}; worse: {', '.join(map(shown, worse))}"
            yield _found(claim, Place.of(number), printed, "the worst of its column", proof)


def _better(claim: Claim, context: Context) -> Iterator[Finding]:
    for number, other in _pairs(claim, context, claim.subject, claim.rows[0]):
        if better(other, number):
            proof = "Proven: the table contradicts the claim in this column, whatever the rounding."
            yield _found(claim, Place.of(number), shown(number), f"better than {shown(other)}", proof)


def _value(claim: Claim, context: Context) -> Iterator[Finding]:
    stated, slack = Decimal(claim.stated), _half_of(claim.stated)
    for number in claim.numbers(context.numbers, claim.subject):
        low, high = span(number)
        if high < stated - slack or stated + slack < low:
            proof = "Proven: the table's number does not round to the stated one."
            yield _found(claim, Place.of(number), f"{claim.stated} in prose", number.value, proof)


def _count(claim: Claim, context: Context) -> Iterator[Finding]:
    rows = {named(number.method, number.variant) for number in claim.numbers(context.numbers)}
    present = [row for row in claim.rows if row in rows]
    if len(present) != Decimal(claim.stated):
        proof = "Proven: the table has another number of them. Which others are meant is open."
        where = Place(claim.paper, claim.table)
        yield _found(claim, where, f"{claim.stated} stated", f"{len(present)}: {', '.join(present)}", proof)


def _metric_name(claim: Claim, context: Context) -> Iterator[Finding]:
    for number in claim.numbers(context.numbers, claim.subject):
        if exact(number) == Decimal(claim.stated) and not number.metric.startswith(claim.against[:3]):
            proof = (
                "Proven: the table prints this number as another metric. Inferred: that the word is a slip; accuracy "
                "and weighted F1 differ."
            )
            printed = f"{claim.stated} called {claim.against}"
            place = Place.of(number)
            yield _found(claim, place, printed, f"{number.metric} {number.value}", proof, proven=False, severity="note")


def _sum(claim: Claim, context: Context) -> Iterator[Finding]:
    total = sum(Decimal(word) for word in claim.rows)
    if total != Decimal(claim.stated):
        proof = "Proven: the parts do not add up to the stated whole."
        where = Place(claim.paper, dataset=claim.dataset)
        yield _found(claim, where, claim.stated, f"{total} = {' + '.join(claim.rows)}", proof)


def _corpus_size(claim: Claim, context: Context) -> Iterator[Finding]:
    sizes = dataset_info(claim.dataset).split_sizes
    if sizes is not None and sum(sizes) != Decimal(claim.stated):
        proof = "Inferred: another release of the corpus, or the number of clips before the usual ones are left out."
        where = Place(claim.paper, dataset=claim.dataset)
        expected = f"{sum(sizes)} = {' + '.join(map(str, sizes))} in the usual files"
        yield _found(claim, where, claim.stated, expected, proof, proven=False, severity="warning")


def _significant(claim: Claim, context: Context) -> Iterator[Finding]:
    """What spread over runs a marked difference needs, where one clip moves the metric by more than the difference.

    A two-sided test of two means over n runs each finds p < .05 only if the difference exceeds t * s * sqrt(2 / n). The
    normal quantile is below Student's t, so that the spread allowed here is too large, if anything.
    """
    runs, quantile = int(Decimal(claim.stated)), NormalDist().inv_cdf(0.975)
    for number, other in _pairs(claim, context, claim.subject, claim.rows[0]):
        difference = float(_difference(number, other))
        sizes = dataset_info(number.dataset).split_sizes
        one_clip = 100 / sizes[2] if sizes else 0.0
        if not number.mark or difference > max(one_clip, _TINY_GAIN):
            continue
        spread = difference / quantile * (runs / 2) ** 0.5
        yield _found(
            claim,
            Place.of(number),
            f"{shown(number)}{number.mark}, {shown(other)}",
            f"a standard deviation over {runs} runs of at most {spread:.2f}",
            f"Proven: with a gain of {difference:.2f} a two-sample test of {runs} runs each needs both methods to vary "
            f"by no more than that; one clip of the test split is {one_clip:.2f} points of accuracy. Inferred: that "
            "runs vary more.",
            proven=False,
            severity="warning",
        )


def _own_runs(claim: Claim, context: Context) -> Iterator[Finding]:
    ours = [n for n in context.numbers if claim.covers(n) and n.method in claim.rows]
    for copy in copies(Context([*ours, *(n for n in context.numbers if n.paper == claim.subject)])):
        yield _found(
            claim,
            Place(claim.paper, claim.table),
            copy.printed,
            copy.expected,
            "Proven: the values are equal digit by digit. Inferred: that they are not runs of the paper's own.",
            proven=False,
        )


def _withdrawn(claim: Claim, context: Context) -> Iterator[Finding]:
    numbers = claim.numbers(context.numbers, claim.subject)
    still = [n for n in numbers if not claim.against or exact(n) == Decimal(claim.against)]
    if still:
        yield _found(
            claim,
            Place.of(still[0])
            if len(still) == 1
            else Place(claim.paper, claim.table, claim.dataset, "", claim.subject),
            ", ".join(f"{number.metric} {number.value}" for number in still),
            claim.stated or "to be left out",
            "Inferred: from what those who published the number first say about it; no arithmetic shows it.",
            proven=False,
            kind="withdrawn",
        )


def _half_of(stated: str) -> Decimal:
    return half(len(stated.partition(".")[2]))


_CHECKS: dict[str, Callable[[Claim, Context], Iterator[Finding]]] = {
    "better": _better,
    "gain": _gain,
    "gain_over_best": _gain_over_best,
    "rising": _rising,
    "largest_drop": _largest_drop,
    "value": _value,
    "count": _count,
    "metric_name": _metric_name,
    "sum": _sum,
    "corpus_size": _corpus_size,
    "significant": _significant,
    "own_runs": _own_runs,
    "withdrawn": _withdrawn,
}

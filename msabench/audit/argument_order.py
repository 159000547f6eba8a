"""In which order F1 took its arguments, from accuracy and weighted F1 of the same predictions.

Every confusion matrix of the test split is enumerated (``envelope``), so that a pair that an order cannot give is known
for certain, as long as both numbers come from the same predictions on the usual test split. Where each number was taken
at its own best epoch, a verdict against the correct order still holds, since the highest F1 grows with accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msabench.audit.context import Context
from msabench.audit.envelope import envelope
from msabench.audit.finding import Finding, Place, finding
from msabench.audit.printed import situation, span
from msabench.audit.splits import SplitFacts
from msabench.data.info import EMOTIONS
from msabench.metrics.spec import METRICS
from msabench.published.constant_scores import SIMS
from msabench.published.numbers import PRINTED, PROSE, Number

_RULE = (
    "accuracy and weighted F1 of the same predictions, or their means over runs and rates, lie in the convex hull of "
    "what the confusion matrices of the test split give"
)


@dataclass(frozen=True)
class Verdict:
    """What one pair allows under one protocol.

    Attributes:
        f1: The printed F1.
        accuracy: The accuracy printed beside it.
        protocol: ``has0``, ``non0``, ``sims`` or an emotion.
        correct: Whether ``f1_score(true, pred)`` can give it.
        swapped: Whether ``f1_score(pred, true)`` can.
        ranges: (lowest, highest) F1 in correct and in exchanged order at this accuracy.
    """

    f1: Number
    accuracy: Number
    protocol: str
    correct: bool
    swapped: bool
    ranges: tuple[tuple[float, float], tuple[float, float]]

    @property
    def words(self) -> str:
        """What is possible, in words."""
        (low, high), (swapped_low, swapped_high) = self.ranges
        return (
            f"{self.protocol}: {low:.2f} to {high:.2f} in correct order, {swapped_low:.2f} to {swapped_high:.2f} "
            "with exchanged arguments"
        )


def verdicts(context: Context) -> Iterator[list[Verdict]]:
    """Verdicts on every pair of accuracy and F1 in tables, one list per pair with a verdict for each protocol."""
    accuracies = {_key(n, n.metric): n for n in context.numbers if n.table != PROSE and n.metric.startswith("acc")}
    for number in context.numbers:
        facts = context.split(number.dataset)
        if facts is None or number.table == PROSE or not number.metric.startswith("f1"):
            continue
        accuracy = next((accuracies[key] for key in _partners(number) if key in accuracies), None)
        protocols = [name for name in protocols_of(number) if name in facts.classes]
        if accuracy is not None and protocols:
            yield [_verdict(number, accuracy, protocol, facts) for protocol in protocols]


def _key(number: Number, metric: str) -> tuple[str, ...]:
    return (
        *(number.paper, number.table, number.dataset, number.features, number.method, number.variant),
        *(situation(number), number.emotion, metric),
    )


def _partners(number: Number) -> list[tuple[str, ...]]:
    rest = number.metric.removeprefix("f1").removesuffix("_swapped")
    return [_key(number, f"{stem}{rest}") for stem in ("acc2", "acc")]


def protocols_of(number: Number) -> list[str]:
    """Protocols that a printed F1 can be under."""
    if number.dataset == SIMS:
        return [SIMS]
    rest = number.metric.removeprefix("f1").removesuffix("_swapped").strip("_")
    named = {"neg_pos": "non0", "neg_nonneg": "has0"}.get(rest, rest) or number.emotion
    if not named and number.evidence in ("definition", "stated"):
        named = number.key.removeprefix("f1").removesuffix("_swapped").strip("_")
    return [named] if named in ("non0", "has0", *EMOTIONS) else ["non0", "has0"]


def _verdict(f1: Number, accuracy: Number, protocol: str, facts: SplitFacts) -> Verdict:
    counts = facts.counts(protocol)
    (low, high), (f1_low, f1_high) = (tuple(map(float, span(number))) for number in (accuracy, f1))
    hulls = [envelope(*counts, swapped) for swapped in (False, True)]
    correct, swapped = (hull.allows((low, high), (f1_low, f1_high)) for hull in hulls)
    ranges = (hulls[0].f1_range(low, high), hulls[1].f1_range(low, high))
    return Verdict(f1, accuracy, protocol, correct, swapped, ranges)


def argument_order(context: Context) -> Iterator[Finding]:
    """Pairs that ``f1_score(true, pred)`` cannot give, and pairs that neither order can.

    What is proven is that a pair contradicts what is said about it. Where nothing is said about the order, the pair
    shows which one was used, and that is an inference.
    """
    for pair in verdicts(context):
        yield from _judged(pair, context)


def _judged(pair: Sequence[Verdict], context: Context) -> Iterator[Finding]:
    claimed = claimed_order(pair[0].f1, context)
    # A name that leaves the protocol open may stand for one in accuracy and for the other in F1.
    named = len(pair) == 1
    if not any(v.correct or v.swapped for v in pair):
        yield _finding(
            "impossible_pair",
            pair,
            "proven" if named else "inferred",
            "error",
            f"Proven{'' if named else ', if both count the same clips'}: no predictions on the test split have this "
            "accuracy and this F1, in either order. Inferred: that they come from different predictions, or that F1 is "
            "another one.",
            context,
        )
    elif claimed is not None and not any(v.swapped if claimed == "swapped" else v.correct for v in pair):
        said, other = ("exchanged", "correct") if claimed == "swapped" else ("correct", "exchanged")
        yield _finding(
            "argument_order",
            pair,
            "proven" if named else "inferred",
            "error",
            f"Proven{'' if named else ', if both count the same clips'}: no predictions on the test split have this "
            f"accuracy and this weighted F1 in {said} order, as which it is printed. Inferred: that it is in {other} "
            "order, which allows it.",
            context,
        )
    elif claimed is None and not any(v.correct for v in pair):
        yield _finding(
            "argument_order",
            pair,
            "inferred",
            "warning",
            "Proven, if F1 is weighted: no predictions on the test split have this pair in correct order. Inferred: "
            "that it is weighted, and that its arguments were exchanged.",
            context,
        )
    elif claimed is None and not all(v.correct for v in pair):
        protocols = ", ".join(v.protocol for v in pair if not v.correct)
        yield _finding(
            "argument_order",
            pair,
            "inferred",
            "note",
            f"Inferred: either the protocol is not {protocols}, or the arguments were exchanged.",
            context,
        )


def claimed_order(number: Number, context: Context) -> str | None:
    """``correct`` or ``swapped`` where the name, the stated definition or a claim says so, else None."""
    if number.metric.endswith("_swapped"):
        return "swapped"
    if number.metric in METRICS and number.metric not in PRINTED:
        return "correct"
    if number.evidence == "definition":
        return "swapped" if number.key.endswith("_swapped") else "correct"
    weighted = any(claim.check == "weighted_f1" and claim.covers(number) for claim in context.claims)
    return "correct" if weighted else None


def _finding(
    kind: str, pair: Sequence[Verdict], certainty: str, severity: str, proof: str, context: Context
) -> Finding:
    f1, accuracy = pair[0].f1, pair[0].accuracy
    facts = context.split(f1.dataset)
    return finding(
        kind,
        Place.of(f1),
        certainty=certainty,
        severity=severity,
        printed=f"{accuracy.metric} {accuracy.value}, {f1.metric} {f1.value}",
        expected="; ".join(v.words for v in pair),
        rule=_RULE,
        proof=f"{proof} Class counts {facts.source if facts else ''}.",
    )

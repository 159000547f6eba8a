"""What an audit finds. Free of torch and pandas."""

from __future__ import annotations

from dataclasses import dataclass

from msabench.published.numbers import Number

SEVERITIES = ("error", "warning", "note")
CERTAINTIES = ("proven", "inferred")


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        id: Stable name: the kind and the place, e.g. ``average:prlf:1:mosi:prlf:avg_missing:f1``.
        kind: The check that found it, a name that does not change.
        certainty: ``proven`` where arithmetic allows nothing else, ``inferred`` otherwise.
        severity: ``error``: the number or claim cannot stand; ``warning``: it misleads or is not comparable; ``note``:
            worth knowing.
        paper: Where it is printed.
        table: Table, or ``text``.
        dataset: Corpus; empty if several.
        method: Method; empty if several.
        variant: Variant; empty if several.
        cell: Cell; empty if several.
        metric: Metric as printed; empty if several.
        printed: The numbers as printed.
        expected: What they should be, or what they equal; empty if there is no such thing.
        rule: The rule that is broken or applied, one sentence.
        proof: What is proven, and what is inferred beyond that; one or two sentences.
        features: ``aligned``, ``unaligned``, or empty.
        emotion: IEMOCAP only.
    """

    id: str
    kind: str
    certainty: str
    severity: str
    paper: str
    table: str
    dataset: str
    method: str
    variant: str
    cell: str
    metric: str
    printed: str
    expected: str
    rule: str
    proof: str
    features: str = ""
    emotion: str = ""


@dataclass(frozen=True)
class Place:
    """Where a finding is; fields as in ``Finding``, empty where several are meant."""

    paper: str
    table: str = ""
    dataset: str = ""
    features: str = ""
    method: str = ""
    variant: str = ""
    cell: str = ""
    emotion: str = ""
    metric: str = ""

    @classmethod
    def of(cls, number: Number) -> Place:
        """The place of one number."""
        return cls(
            *(number.paper, number.table, number.dataset, number.features, number.method, number.variant),
            *(number.cell, number.emotion, number.metric),
        )

    @property
    def words(self) -> tuple[str, ...]:
        """Its parts for an id; a method in full needs no variant."""
        method = f"{self.method}/{self.variant}" if self.variant not in ("", "default") else self.method
        parts = (self.paper, self.table, self.dataset, self.features, method, self.cell, self.emotion, self.metric)
        return tuple(part for part in parts if part)


def finding(
    kind: str,
    place: Place,
    *,
    certainty: str,
    severity: str,
    printed: str,
    rule: str,
    proof: str,
    expected: str = "",
    suffix: str = "",
) -> Finding:
    """A finding at a place.

    Args:
        kind: Kind of check.
        place: Where it is.
        certainty: One of ``CERTAINTIES``.
        severity: One of ``SEVERITIES``.
        printed: The numbers as printed.
        rule: The rule that is broken or applied.
        proof: What is proven and what is inferred.
        expected: What they should be.
        suffix: Ends the id where one place has several findings of a kind.
    """
    return Finding(
        id=":".join((kind, *place.words, *([suffix] if suffix else []))),
        kind=kind,
        certainty=certainty,
        severity=severity,
        paper=place.paper,
        table=place.table,
        dataset=place.dataset,
        method=place.method,
        variant=place.variant,
        cell=place.cell,
        metric=place.metric,
        printed=printed,
        expected=expected,
        rule=rule,
        proof=proof,
        features=place.features,
        emotion=place.emotion,
    )

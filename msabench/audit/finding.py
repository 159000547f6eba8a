"""What an audit finds. Free of torch and pandas."""

from __future__ import annotations

from dataclasses import dataclass

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

"""Cells in which a paper's own method is not the best of its table, and claims that it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msabench.audit.claims import Claim
from msabench.audit.context import Context
from msabench.audit.finding import Finding, Place, finding
from msabench.audit.printed import better, column_of, named, shown
from msabench.published.numbers import PROSE, Number


def not_best(context: Context) -> Iterator[Finding]:
    """Cells of a paper's own method, the one that bears its name, in which another row of the table is better.

    Where a claim says that it is the best, the printed numbers contradict the claim.
    """
    columns: dict[tuple[str, ...], list[Number]] = {}
    for number in context.numbers:
        if number.table != PROSE and not number.is_delta:
            columns.setdefault(column_of(number), []).append(number)
    claims = [claim for claim in context.claims if claim.check == "best"]
    for numbers in columns.values():
        for number in numbers:
            row = named(number.method, number.variant)
            claim = next((c for c in claims if c.subject == row and c.covers(number)), None)
            if claim is None and row != number.paper:
                continue
            yield from _beaten(number, [n for n in numbers if better(n, number)], claim)


def _beaten(number: Number, rivals: Sequence[Number], claim: Claim | None) -> Iterator[Finding]:
    if claim is not None and claim.against == "others":
        meant = [rival for rival in rivals if rival.method != number.method]
        # What beats it outside the claim is worth a note all the same.
        claim, rivals = (claim, meant) if meant else (None, rivals)
    if not rivals:
        return
    if claim is None:
        proof = "Proven: the table prints better numbers. No claim says otherwise; it is a note for readers."
    else:
        proof = "Proven: the paper's own table contradicts the claim in this cell, whatever the rounding."
        if "UNCERTAIN" in number.note:
            proof += " The metric of the column is uncertain; more is better in all that it can be."
    yield finding(
        "not_best",
        Place.of(number),
        certainty="inferred" if claim is None else "proven",
        severity="note" if claim is None else "error",
        printed=f"{shown(number)}; better: {', '.join(map(shown, rivals))}",
        expected="the best of its column" if claim else "",
        rule=f"claimed: {claim.text}" if claim else "a paper's own method is usually presented as the best",
        proof=proof,
    )

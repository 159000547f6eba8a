"""All checks in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msabench.audit.argument_order import argument_order
from msabench.audit.averages import averages
from msabench.audit.best import not_best
from msabench.audit.claim_checks import claims as claims_in_prose
from msabench.audit.claims import Claim
from msabench.audit.collapse import constants, worse_than_constant
from msabench.audit.context import Context
from msabench.audit.contradictions import contradictions
from msabench.audit.copies import copies, one_model, repeated_rows, repeated_values
from msabench.audit.finding import SEVERITIES, Finding
from msabench.audit.mixed import beaten_by_constant, mixed_metrics
from msabench.audit.plausibility import accuracy_order, mae_against_corr, scales, underlines, without_language
from msabench.published.numbers import AREAS, Number

CHECKS: tuple[Callable[[Context], Iterable[Finding]], ...] = (
    averages,
    contradictions,
    accuracy_order,
    argument_order,
    claims_in_prose,
    not_best,
    mixed_metrics,
    beaten_by_constant,
    constants,
    worse_than_constant,
    copies,
    repeated_rows,
    repeated_values,
    one_model,
    without_language,
    mae_against_corr,
    scales,
    underlines,
)
"""Every check, in the order in which findings of one paper and severity are listed."""

KINDS = {
    "average": "a printed average is not the mean of its cells",
    "contradiction": "one paper prints different values for one setting",
    "disagreement": "papers print different values for one method and setting",
    "accuracy_order": "Acc-5 is below Acc-7, or Acc-3 below Acc-5",
    "impossible_pair": "no predictions have this accuracy and this F1",
    "argument_order": "F1 was computed with exchanged arguments",
    "claim": "the numbers contradict a claim in prose",
    "withdrawn": "a number was withdrawn by its source",
    "not_best": "a paper's own method is not the best of a column",
    "mixed_metric": "rows of one column are computed in different ways",
    "constant_beats": "a constant answer leads a column",
    "constant_row": "a row lies on a constant's score wherever language is missing",
    "constant": "a number equals a constant's score",
    "constant_near": "a number is near a constant's score",
    "worse_than_constant": "a number is worse than a constant's score",
    "copy": "rows stand in two papers with the same digits",
    "repeated_row": "a row repeats another under a different label",
    "repeated_value": "a single value stands in two rows",
    "one_model": "one trained model was tested under two protocols",
    "without_language": "a row scores higher without language",
    "mae_against_corr": "an error is too low for its row",
    "scale": "papers print numbers of another size for one setting",
    "underline": "a number marked as second best is not",
}
"""Kind of finding -> what it says."""


def run_audit(numbers: Sequence[Number], claims: Sequence[Claim] = ()) -> list[Finding]:
    """Check printed numbers against each other, against arithmetic, and against what is claimed about them.

    Areas under curves are left out.

    Args:
        numbers: Printed numbers, e.g. of ``load_published`` or of one's own file.
        claims: Claims in prose about them.

    Returns:
        Findings, by paper in the order of the numbers, then the most severe first. Their ids are unique. A finding
        about several papers stands with the first of them.

    Raises:
        MSABenchError: A claim is about numbers that are not there, or a label file at hand is damaged.
    """
    # What an area comes to depends on its width: constants and other numbers are no measure of it.
    context = Context([number for number in numbers if number.cell not in AREAS], claims)
    found = [result for check in CHECKS for result in check(context)]
    kinds, papers = list(KINDS), list(dict.fromkeys(number.paper for number in numbers))
    return sorted(
        found,
        key=lambda f: (
            papers.index(f.paper),
            SEVERITIES.index(f.severity),
            f.certainty != "proven",
            kinds.index(f.kind),
        ),
    )

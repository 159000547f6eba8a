"""Regimes of one situation: what a model for one cell is trained under, and what a regime never shows. Free of torch.

DiCMoR, IMDer and GCNet train one model for each rate, MoMKE one for each subset. Such a specialist is at home in the
cell that it was trained for.
"""

from __future__ import annotations

import re
from typing import Any

from msabench.errors import MSABenchError
from msabench.missingness.conditions import LAWS, LETTERS, Cell

COMPLETE = "complete"
"""Regime of a model for clips of which nothing is missing."""

_ONLY = re.compile(r"only\(([lav]+)\)")
_AT_A_RATE = re.compile(rf"({'|'.join(LAWS)})\((0\.[1-7])\)")
_RATES = re.compile(r"per-modality\((.+)\)")


def specialist_of(cell: Cell) -> dict[str, Any]:
    """Settings of the regime that shows one cell's situation in training and no other.

    Args:
        cell: A cell of the grids ``inter``, ``random`` or ``random-table``.

    Returns:
        Fields of ``MissingConfig``.

    Raises:
        MSABenchError: No regime is the situation of this cell.
    """
    if cell == Cell():
        return {"regime": COMPLETE}
    if cell == Cell(cell.available):
        return {"regime": "only", "only": cell.available}
    if cell == Cell(removal=cell.removal):
        rate = float(cell.removal_rate)
        return {"regime": cell.law.replace("-", "_"), "rate": [rate, rate]}
    raise MSABenchError(
        f"there is no regime of the one situation {cell}; specialists are for cells such as inter/la, random/0.3 and "
        "random-table/0.3, and grids of them"
    )


def home_of(regime: str) -> str | None:
    """The cell whose situation a training regime consists of; None for a regime of several situations.

    Args:
        regime: Its label in the key of a job.

    >>> home_of("only(la)"), home_of("random(0.3)"), home_of("mixed")
    ('inter/la', 'random/0.3', None)
    """
    if regime == COMPLETE:
        return str(Cell())
    if found := _ONLY.fullmatch(regime):
        return f"inter/{found[1]}"
    if found := _AT_A_RATE.fullmatch(regime):
        return f"{found[1]}/{found[2]}"
    return None


def never_shown(regime: str) -> str:
    """Letters of the modalities that no training clip has under a regime.

    Args:
        regime: Its label in the key of a job.

    >>> never_shown("only(la)"), never_shown("per-modality(l=0.2,a=1.0)"), never_shown("mixed")
    ('v', 'a', '')
    """
    shown = "".join(LETTERS)
    if found := _ONLY.fullmatch(regime):
        shown = found[1]
    elif found := _RATES.fullmatch(regime):
        shown = Cell(rate=found[1]).available
    return "".join(letter for letter in LETTERS if letter not in shown)

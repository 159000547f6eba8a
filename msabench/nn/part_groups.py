"""Parameter groups for methods whose parts learn at different rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from msabench.nn.text import TextInput


class Rates(NamedTuple):
    """How one part of a method is trained.

    Attributes:
        lr: Learning rate.
        weight_decay: L2 weight decay.
    """

    lr: float
    weight_decay: float


def groups_by_part(method: nn.Module, parts: Sequence[tuple[nn.Module, Rates]]) -> list[dict[str, Any]]:
    """Trainable parameters, each part's at its own rates.

    Source: the trainers of https://github.com/thuiar/MMSA at a94e65d, which follow BERT's custom.

    Args:
        method: Everything.
        parts: Disjoint parts of it. The biases and the LayerNorms of a ``TextInput``'s encoder are not decayed.

    Returns:
        The groups of the parts in order, two for a ``TextInput``; then everything else, at the optimiser's own rates.
    """
    groups: list[dict[str, Any]] = []
    grouped: set[int] = set()
    for part, rates in parts:
        named = [(name, parameter) for name, parameter in part.named_parameters() if parameter.requires_grad]
        kept = {name for name, _ in named if isinstance(part, TextInput) and ("bias" in name or "LayerNorm" in name)}
        groups.append({"params": [p for name, p in named if name not in kept], **rates._asdict()})
        if isinstance(part, TextInput):
            groups.append({"params": [p for name, p in named if name in kept], "lr": rates.lr, "weight_decay": 0.0})
        grouped |= {id(parameter) for _, parameter in named}
    rest = [parameter for parameter in method.parameters() if parameter.requires_grad and id(parameter) not in grouped]
    return [*groups, {"params": rest}]

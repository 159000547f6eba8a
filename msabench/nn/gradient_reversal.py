"""Gradient reversal: the identity, whose gradient is turned round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reverse(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        _, ctx.weight = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * grad, None


def reverse_gradient(x: Tensor, weight: float = 1.0) -> Tensor:
    """Pass ``x`` on and multiply its gradient by ``-weight``.

    What comes before learns to hinder what comes after. Ganin and Lempitsky, "Unsupervised Domain Adaptation by
    Backpropagation", ICML 2015, section 3.2.

    Args:
        x: Any shape.
        weight: Non-negative factor lambda.
    """
    reversed_: Tensor = _Reverse.apply(x, weight)
    return reversed_

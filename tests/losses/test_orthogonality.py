"""Orthogonality against hand-computed numbers and what must hold for any input."""

import math

import pytest
import torch

from msabench.losses.orthogonality import orthogonality


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_hand_computed():
    # Centred, the first code has rows (-3, -4) and (3, 4), unit rows (-.6, -.8) and (.6, .8); the second -1 and 1.
    # A^T B is then (1.2, 1.6), and the mean of its squares (1.44 + 2.56) / 2.
    a, b = torch.tensor([[7.0, 2.0], [13.0, 10.0]]), torch.tensor([[5.0], [9.0]])
    assert orthogonality(a, b).item() == pytest.approx(2.0, abs=1e-5)


def test_is_zero_only_for_features_without_correlation():
    a = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    b = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert orthogonality(a, b).item() == pytest.approx(0.0, abs=1e-6)
    assert orthogonality(a, a).item() == pytest.approx(16.0, abs=1e-3)


def test_neither_place_nor_size_of_clips_matters():
    a, b = normal(0, 6, 4), normal(1, 6, 3)
    value = orthogonality(a, b).item()
    assert orthogonality(3 * a + 5, b - 2).item() == pytest.approx(value, abs=1e-4)
    assert orthogonality(b, a).item() == pytest.approx(value, abs=1e-6)


def test_lengths_are_constants_to_the_gradient():
    a, b = normal(2, 5, 3).requires_grad_(), normal(3, 5, 4)
    orthogonality(a, b).backward()
    centred = a.detach() - a.detach().mean(0)
    lengths = centred.norm(dim=1, keepdim=True) + 1e-6
    others = b - b.mean(0)
    others = others / (others.norm(dim=1, keepdim=True) + 1e-6)
    # d mean((A^T B)^2) / dA = 2 B (A^T B)^T / (D E), divided by the lengths, and centred.
    slope = 2 * others @ (others.T @ (centred / lengths)) / 12 / lengths
    assert torch.allclose(a.grad, slope - slope.mean(0), atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3])
def test_single_and_equal_clips_are_safe(rows):
    a = torch.full((rows, 4), 2.0, requires_grad=True)
    value = orthogonality(a, a)
    value.backward()
    assert value.item() == 0
    assert math.isfinite(a.grad.abs().sum().item())

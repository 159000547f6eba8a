"""Entropy of a Gaussian against SciPy, closed forms and finite differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from msabench.losses.entropy import gaussian_entropy


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_points_hand_computed():
    # Points 0 and 2 on a line of the plane: covariance diag(2, 0), shrunk by 1/2: det = 2.5 * 0.5.
    x = torch.tensor([[0.0, 7.0], [2.0, 7.0]])
    expected = 0.5 * math.log((2 * math.pi * math.e) ** 2 * 2.5 * 0.5)
    assert gaussian_entropy(x, 0.5).item() == pytest.approx(expected, abs=1e-6)
    assert gaussian_entropy(x, 0.5, diagonal=True).item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), n=st.integers(2, 40), width=st.integers(1, 30), shrinkage=st.sampled_from([1e-2, 1.0])
)
def test_agrees_with_scipy_on_either_side_of_sylvesters_identity(seed, n, width, shrinkage):
    x = normal(seed, n, width) * 2 + 5
    covariance = np.atleast_2d(np.cov(x.numpy(), rowvar=False)) + shrinkage * np.eye(width)
    expected = multivariate_normal(np.zeros(width), covariance).entropy()
    assert gaussian_entropy(x, shrinkage).item() == pytest.approx(expected, abs=1e-8)
    alone = sum(multivariate_normal(0, variance).entropy() for variance in np.diag(covariance))
    assert gaussian_entropy(x, shrinkage, diagonal=True).item() == pytest.approx(alone, abs=1e-8)


def test_single_precision_at_the_size_in_use():
    x = normal(0, 32, 128)
    assert gaussian_entropy(x.float(), 1e-2).item() == pytest.approx(gaussian_entropy(x, 1e-2).item(), abs=1e-3)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("n", "width"), [(4, 6), (7, 3), (1, 5)])
def test_gradient(n, width, diagonal):
    x = normal(1, n, width).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: gaussian_entropy(rows, 0.1, diagonal=diagonal), x)


@pytest.mark.parametrize("diagonal", [False, True])
def test_one_row_and_equal_rows_have_the_entropy_of_the_shrinkage(diagonal):
    expected = 0.5 * 5 * math.log(2 * math.pi * math.e * 1e-2)
    for rows in (1, 4):
        x = torch.full((rows, 5), 3.0, requires_grad=True)
        value = gaussian_entropy(x, 1e-2, diagonal=diagonal)
        value.backward()
        assert value.item() == pytest.approx(expected, abs=1e-5)
        assert torch.isfinite(x.grad).all()


def test_leading_axes_are_samples_of_their_own():
    x = normal(2, 2, 3, 6, 9)
    got = gaussian_entropy(x, 1e-2)
    assert got.shape == (2, 3)
    torch.testing.assert_close(got[1, 2], gaussian_entropy(x[1, 2], 1e-2))


def test_half_precision_runs_do_not_touch_it():
    x = normal(3, 16, 32).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gaussian_entropy(x, 1e-2)
    assert torch.equal(inside, gaussian_entropy(x, 1e-2))

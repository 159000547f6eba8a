"""Losses against hand-computed numbers, independent code, and what must hold for any input."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from msabench.losses.alignment import BANDWIDTHS, mmd2
from msabench.losses.distillation import js_divergence


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def literal_mmd2(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, pair by pair."""
    points = np.concatenate([a, b]).astype(np.float64)
    median = sorted(((x - y) ** 2).sum() for x, y in itertools.combinations(points, 2))
    median = median[(len(median) - 1) // 2] or 1.0

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return sum(math.exp(-((x - y) ** 2).sum() / (u * median)) for u in (0.25, 0.5, 1, 2, 4))

    def mean(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.mean([k(x, y) for x in p.astype(np.float64) for y in q.astype(np.float64)]))

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


def test_mmd_of_one_point_each_is_known():
    # One distinct pair, at squared distance 9, which is also the median: k(a, a) = k(b, b) = 5, k(a, b) = sum e^(-1/u).
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]])
    expected = 2 * 5 - 2 * (math.exp(-4) + math.exp(-2) + math.exp(-1) + math.exp(-0.5) + math.exp(-0.25))
    assert mmd2(a, b).item() == pytest.approx(expected, abs=1e-6)


def test_mmd_of_two_points_each_is_known():
    # Points 0, 1 against 0, 2 on a line. Squared distances of the six pairs: 1, 0, 4, 1, 1, 4, whose lower median is 1.
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])

    def k(squared):
        return sum(math.exp(-squared / u) for u in BANDWIDTHS)

    expected = (10 + 2 * k(1)) / 4 + (10 + 2 * k(4)) / 4 - 2 * (5 + k(4) + k(1) + k(1)) / 4
    assert mmd2(a, b).item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 7), m=st.integers(1, 7), dim=st.integers(1, 9))
def test_mmd_agrees_with_the_definition_and_is_not_negative(seed, n, m, dim):
    a, b = normal(seed, n, dim), normal(seed + 1, m, dim) * 2 + 0.5
    value = mmd2(a, b).item()
    assert value == pytest.approx(literal_mmd2(a.numpy(), b.numpy()), abs=1e-5)
    assert -1e-6 <= value <= 2 * len(BANDWIDTHS)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_mmd_of_equal_samples_is_zero_in_any_order(seed, n, scale):
    a, b = normal(seed, n, 4) * scale, normal(seed + 1, n, 4) * scale
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert mmd2(a, a).item() == pytest.approx(0, abs=2e-6)
    assert mmd2(a, a[order]).item() == pytest.approx(0, abs=2e-6)
    torch.testing.assert_close(mmd2(a, b[order]), mmd2(a, b), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(mmd2(b, a), mmd2(a, b), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(mmd2(3 * a, 3 * b), mmd2(a, b), atol=1e-5, rtol=1e-4)  # widths follow the data's scale


def test_mmd_with_a_width_of_its_own():
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])

    def k(squared):
        return math.exp(-squared / 18) + math.exp(-squared / 9)

    expected = (2 * k(0) + 2 * k(1)) / 4 + (2 * k(0) + 2 * k(4)) / 4 - 2 * (k(0) + k(4) + k(1) + k(1)) / 4
    assert mmd2(a, b, (2.0, 1.0), scale=9.0).item() == pytest.approx(expected, abs=1e-6)


def test_mmd_grows_with_the_distance_and_descends():
    a, b = normal(0, 16, 5), normal(1, 16, 5)
    assert mmd2(a, a) < mmd2(a, a + 0.5) < mmd2(a, a + 1.0) < mmd2(a, a + 2.0)
    moving = (b + 1.0).requires_grad_()
    before = mmd2(a, moving)
    before.backward()
    assert moving.grad.abs().max() > 0
    assert mmd2(a, moving.detach() - 0.1 * moving.grad) < before


def test_mmd_median_is_constant_to_the_gradient():
    # With one point each the median is the squared distance itself, so k(a, b) never changes; only a detached median
    # leaves a gradient: d/da of -2 sum_u exp(-|a-b|^2 / (u s)) is 4 (a-b)/s sum_u exp(-1/u)/u.
    a, b = torch.tensor([[3.0]], requires_grad=True), torch.tensor([[1.0]])
    mmd2(a, b).backward()
    expected = 4 * (3 - 1) / 4 * sum(math.exp(-1 / u) / u for u in BANDWIDTHS)
    assert a.grad.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_mmd_of_coinciding_points_is_zero_with_finite_gradient(n):
    a, b = torch.full((n, 3), 2.0, requires_grad=True), torch.full((n, 3), 2.0, requires_grad=True)
    value = mmd2(a, b)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(a.grad).all()
    assert torch.isfinite(b.grad).all()
    outlier = torch.full((n, 3), 2.0)
    outlier[0] += 1e4
    assert torch.isfinite(mmd2(a, outlier))


def test_js_hand_computed():
    # p = (3/4, 1/4), q = (1/4, 3/4), m = (1/2, 1/2): KL(p||m) = 3/4 ln 3/2 + 1/4 ln 1/2 = KL(q||m).
    p, q = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.25, 0.75]]).log()
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert js_divergence(p + 3.0, q - 1.0).item() == pytest.approx(expected, abs=1e-6)


def test_js_of_disjoint_distributions_is_ln_2_and_finite():
    p = torch.tensor([[1e4, -1e4]], requires_grad=True)
    value = js_divergence(p, torch.tensor([[-1e4, 1e4]]))
    value.backward()
    assert value.item() == pytest.approx(math.log(2), abs=1e-6)
    assert torch.isfinite(p.grad).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), classes=st.integers(2, 7), scale=st.sampled_from([0.1, 1, 10]))
def test_js_agrees_with_scipy(seed, n, classes, scale):
    a, b = normal(seed, n, classes) * scale, normal(seed + 1, n, classes) * scale
    p, q = a.softmax(1).double().numpy(), b.softmax(1).double().numpy()
    value = js_divergence(a, b)
    assert value.item() == pytest.approx((jensenshannon(p, q, axis=1) ** 2).mean(), abs=1e-6)
    assert -1e-7 <= value.item() <= math.log(2) + 1e-6
    torch.testing.assert_close(js_divergence(b, a), value, atol=1e-7, rtol=1e-5)
    assert js_divergence(a, a + 2.5).item() == pytest.approx(0, abs=1e-6)


def test_js_sums_over_emotions_and_averages_over_clips():
    a, b = normal(0, 5, 4, 2), normal(1, 5, 4, 2)
    each = sum(js_divergence(a[:, e], b[:, e]) for e in range(4))
    torch.testing.assert_close(js_divergence(a, b), each)
    torch.testing.assert_close(js_divergence(torch.cat([a, a]), torch.cat([b, b])), each)

"""Entropic optimal transport against POT, SciPy and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog

from msabench.errors import MSABenchError
from msabench.losses.transport import sinkhorn_divergence, sinkhorn_plan, transport_cost

ot = pytest.importorskip("ot")


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def squared_distances(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(2)


def uniform(n):
    return np.full(n, 1 / n)


def regularised_minimum(cost, eps):
    """POT's ``min <plan, C> + eps KL(plan || uniform)``, iterated until nothing changes."""
    n, m = cost.shape
    return ot.solve(cost.numpy(), reg=eps, reg_type="KL", a=uniform(n), b=uniform(m), max_iter=3000, tol=1e-10)


@pytest.mark.parametrize(("n", "m"), [(6, 6), (4, 9), (1, 5), (16, 16)])
@pytest.mark.parametrize("eps", [1.0, 0.05])
def test_converged_plan_is_pots(n, m, eps):
    cost = squared_distances(normal(0, n, 5), normal(1, m, 5) + 0.3)
    reg = eps * cost.mean().item()
    expected = ot.sinkhorn(
        uniform(n), uniform(m), cost.numpy(), reg, method="sinkhorn_log", numItermax=5000, stopThr=1e-11
    )
    torch.testing.assert_close(sinkhorn_plan(cost, reg, 3000), torch.from_numpy(expected), atol=1e-9, rtol=1e-6)


def test_fifty_iterations_are_fifty_of_pots():
    # POT updates columns first and rows last: the transposed problem. It stops after the iteration with that number.
    cost = squared_distances(normal(0, 7, 5), normal(1, 9, 5))
    reg = 0.05 * cost.mean().item()
    with pytest.warns(UserWarning, match="did not converge"):
        expected = ot.bregman.sinkhorn_log(uniform(9), uniform(7), cost.numpy().T, reg, numItermax=50, stopThr=0).T
    torch.testing.assert_close(sinkhorn_plan(cost, reg, 50), torch.from_numpy(expected), atol=1e-12, rtol=1e-9)
    assert (sinkhorn_plan(cost, reg, 49) - torch.from_numpy(expected)).abs().max() > 1e-9


@pytest.mark.parametrize("n", [2, 5, 8])
def test_small_eps_finds_the_best_assignment(n):
    a, b = normal(2, n, 3), normal(3, n, 3)
    cost = squared_distances(a, b)
    best = cost.numpy()[linear_sum_assignment(cost.numpy())].mean()
    assert transport_cost(a, b, eps=1e-3, iterations=4000).item() == pytest.approx(best, rel=1e-3)
    assert transport_cost(a, b, eps=0.5, iterations=200).item() > 1.02 * best


def test_small_eps_solves_the_linear_programme_of_unequal_samples():
    n, m = 3, 5
    a, b = normal(4, n, 2), normal(5, m, 2)
    cost = squared_distances(a, b)
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    solved = linprog(cost.numpy().ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.r_[uniform(n), uniform(m)])
    assert transport_cost(a, b, eps=1e-3, iterations=8000).item() == pytest.approx(solved.fun, rel=1e-3)


def test_plan_of_two_points_each_hand_computed():
    # C = [[0, 1], [1, 0]]: by symmetry the plan is [[p, q], [q, p]] / 2 with q / p = exp(-1 / eps).
    p = 1 / (1 + math.exp(-1 / 0.5))
    expected = torch.tensor([[p, 1 - p], [1 - p, p]], dtype=torch.float64) / 2
    torch.testing.assert_close(sinkhorn_plan(1 - torch.eye(2, dtype=torch.float64), 0.5, 3), expected)
    points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)  # mean cost 1/2
    value = transport_cost(points, points, eps=1.0)
    assert value.item() == pytest.approx(1 - p, abs=1e-12)


def test_transport_cost_of_one_point_each_is_the_squared_distance():
    assert transport_cost(torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0]])).item() == pytest.approx(25)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 20), m=st.integers(1, 20), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_plan_has_its_marginals_in_single_precision(seed, n, m, scale):
    a, b = normal(seed, n, 6, dtype=torch.float32) * scale, normal(seed + 1, m, 6, dtype=torch.float32) * scale
    cost = squared_distances(a, b)
    plan = sinkhorn_plan(cost, 0.05 * cost.mean(), 50)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(0), torch.full((m,), 1 / m), atol=1e-6, rtol=1e-4)
    assert (plan.sum(1) - 1 / n).abs().sum() < 0.1  # what fifty iterations leave
    torch.testing.assert_close(transport_cost(a, b) / scale**2, transport_cost(a / scale, b / scale), rtol=1e-3, atol=0)


@pytest.mark.parametrize("loss", [transport_cost, sinkhorn_divergence])
def test_gradient_is_that_of_the_regularised_minimum(loss):
    # Central differences of POT's minimum, eps held fixed.
    a, b = normal(6, 4, 3).requires_grad_(), normal(7, 5, 3)
    reg = 0.2 * squared_distances(a, b).mean().item()
    loss(a, b, eps=0.2, iterations=3000).backward()

    def minimum(points):
        value = regularised_minimum(squared_distances(points, b), reg).value
        if loss is sinkhorn_divergence:
            value = value - regularised_minimum(squared_distances(points, points), reg).value / 2
        return value

    for seed in (20, 21):
        way = normal(seed, 4, 3)
        slope = (minimum(a.detach() + 1e-4 * way) - minimum(a.detach() - 1e-4 * way)) / 2e-4
        assert (a.grad * way).sum().item() == pytest.approx(slope, rel=1e-5)


def test_transport_cost_is_pots():
    a, b = normal(8, 12, 4), normal(9, 12, 4)
    cost = squared_distances(a, b)
    solved = regularised_minimum(cost, 0.05 * cost.mean().item())
    assert transport_cost(a, b, iterations=3000).item() == pytest.approx(solved.value_linear, rel=1e-7)


def test_divergence_is_pots():
    a, b = normal(10, 8, 4), normal(11, 6, 4) + 0.5
    reg = 0.05 * squared_distances(a, b).mean().item()
    s_ab, s_aa, s_bb = (regularised_minimum(squared_distances(x, y), reg).value for x, y in ((a, b), (a, a), (b, b)))
    value = sinkhorn_divergence(a, b, iterations=3000)
    assert value.item() == pytest.approx(s_ab - s_aa / 2 - s_bb / 2, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 16), m=st.integers(1, 16))
def test_divergence_is_not_negative_and_zero_for_equal_samples_only(seed, n, m):
    a, b = normal(seed, n, 5), normal(seed + 1, m, 5)
    assert sinkhorn_divergence(a, b, iterations=200).item() > 0
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert sinkhorn_divergence(a, a[order], iterations=200).item() == pytest.approx(0, abs=1e-6)


def test_only_the_divergence_vanishes_for_equal_samples():
    a = normal(12, 10, 4).requires_grad_()
    assert transport_cost(a, a, eps=0.5).item() > 0.1
    sinkhorn_divergence(a, a.detach(), eps=0.5, iterations=2000).backward()
    assert a.grad.abs().max() < 1e-6


@pytest.mark.parametrize("loss", [transport_cost, sinkhorn_divergence])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_coinciding_points_give_zero_with_finite_gradient(loss, n):
    a = torch.full((n, 3), 2.0, requires_grad=True)
    value = loss(a, torch.full((n, 3), 2.0))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("loss", [transport_cost, sinkhorn_divergence])
def test_descending_brings_the_samples_together(loss):
    a, b = normal(13, 16, 4, dtype=torch.float32).requires_grad_(), normal(14, 16, 4, dtype=torch.float32) + 2
    before = loss(a, b)
    before.backward()
    assert loss(a.detach() - 2 * a.grad, b) < 0.95 * before


@pytest.mark.parametrize("loss", [transport_cost, sinkhorn_divergence])
def test_settings_outside_their_range_are_refused(loss):
    a = torch.zeros(2, 2)
    with pytest.raises(MSABenchError, match="regularisation of 0"):
        loss(a, a, eps=0)
    with pytest.raises(MSABenchError, match="0 Sinkhorn iterations"):
        loss(a, a, iterations=0)

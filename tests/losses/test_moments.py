"""Central moment discrepancy against hand-computed moments and NumPy."""

import math

import numpy as np
import pytest
import torch

from msabench.losses.moments import central_moment_discrepancy


def test_hand_computed_moments():
    # First feature: {0, 0, 3} against {1, 1, 1}; second: {2, 4, 6} against {1, 3, 5}.
    # Means 1, 4 against 1, 3. Central moments of {-1, -1, 2}: 2, 2, 6, 10; of {-2, 0, 2}: 8/3, 0, 32/3, 0, as of both.
    a = torch.tensor([[0.0, 2.0], [0.0, 4.0], [3.0, 6.0]])
    b = torch.tensor([[1.0, 1.0], [1.0, 3.0], [1.0, 5.0]])
    parts = [1.0, 2.0, 2.0, 6.0, 10.0]
    for moments in range(1, 6):
        assert central_moment_discrepancy(a, b, moments).item() == pytest.approx(sum(parts[:moments]), abs=1e-5)


def test_norms_are_over_features_and_sizes_may_differ():
    # Means differ by (3, 4), whose length is 5; nothing else differs, whatever the number of equal rows.
    a, b = torch.tensor([[3.0, 4.0]] * 2), torch.zeros(5, 2)
    assert central_moment_discrepancy(a, b).item() == pytest.approx(5.0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_numpy(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(9, 7, generator=generator), torch.rand(13, 7, generator=generator) ** 2
    x, y = a.numpy().astype(np.float64), b.numpy().astype(np.float64)
    expected = math.dist(x.mean(0), y.mean(0))
    for k in (2, 3, 4, 5):
        expected += math.dist(((x - x.mean(0)) ** k).mean(0), ((y - y.mean(0)) ** k).mean(0))
    assert central_moment_discrepancy(a, b).item() == pytest.approx(expected, abs=1e-5)
    assert central_moment_discrepancy(b, a).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("rows", [1, 4])
def test_equal_samples_and_single_clips_have_finite_gradients(rows):
    a = torch.rand(rows, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = central_moment_discrepancy(a, a.detach().clone())
    value.backward()
    assert value.item() == 0
    assert torch.equal(a.grad, torch.zeros_like(a))


def test_gradient():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(n, 3, generator=generator, dtype=torch.float64).requires_grad_() for n in (4, 6))
    assert torch.autograd.gradcheck(central_moment_discrepancy, (a, b))

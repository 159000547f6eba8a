"""The frame error against hand-computed numbers, NumPy and its own gradient."""

import numpy as np
import pytest
import torch

from msabench.losses.reconstruction import frame_error


def sequences(seed=0, *shape):
    generator = torch.Generator().manual_seed(seed)
    shape = shape or (3, 4, 2)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def test_error_by_hand():
    predicted = torch.tensor([[[1.0, 2.0], [5.0, 5.0]], [[0.0, 0.0], [-1.0, 3.0]]])
    target = torch.tensor([[[0.0, 4.0], [0.0, 0.0]], [[1.0, -1.0], [2.0, 3.0]]])
    frames = torch.tensor([[True, False], [True, True]])
    # Differences that count: 1, -2; -1, 1; -3, 0: three frames of two features.
    assert frame_error(predicted, target, frames).item() == pytest.approx((1 + 4 + 1 + 1 + 9 + 0) / 6)
    assert frame_error(predicted, target, frames, "l1").item() == pytest.approx((1 + 2 + 1 + 1 + 3 + 0) / 6)
    # Halved, the same in the smooth error: 1/2, 1, 1/2, 1/2, 3/2, 0, of which 1 and 3/2 are on the straight part.
    halves = (predicted / 2, target / 2, frames, "smooth_l1")
    assert frame_error(*halves).item() == pytest.approx((1 / 8 + 1 / 2 + 1 / 8 + 1 / 8 + 1 + 0) / 6)


@pytest.mark.parametrize(("norm", "power"), [("l2", 2), ("l1", 1)])
def test_error_is_the_mean_over_the_frames_that_count(norm, power):
    predicted, target = sequences(1, 5, 7, 3)
    frames = torch.arange(7) < torch.tensor([[7], [1], [0], [4], [5]])
    difference = (predicted - target).numpy()[frames.numpy()]
    expected = np.mean(np.abs(difference.astype(np.float64)) ** power)
    assert frame_error(predicted, target, frames, norm).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("norm", ["l1", "l2", "smooth_l1"])
def test_other_frames_have_no_influence_and_no_gradient(norm):
    predicted, target = sequences()
    frames = torch.tensor([[True, True, False, False], [True, False, False, False], [False] * 4])
    before = frame_error(predicted, target, frames, norm)
    predicted = predicted.masked_fill(~frames[:, :, None], 1e4).requires_grad_()
    target = target.masked_fill(~frames[:, :, None], torch.nan)
    after = frame_error(predicted, target, frames, norm)
    assert torch.equal(after, before)
    after.backward()
    assert torch.equal(predicted.grad.abs().sum(2) > 0, frames)


def test_no_frame_at_all_gives_zero_with_a_zero_gradient():
    predicted, target = sequences()
    predicted.requires_grad_()
    error = frame_error(predicted, target, torch.zeros(3, 4, dtype=torch.bool))
    error.backward()
    assert error.item() == 0
    assert not predicted.grad.any()


def test_gradient_of_the_squared_error():
    predicted, target = sequences()
    predicted.requires_grad_()
    frames = torch.ones(3, 4, dtype=torch.bool)
    frame_error(predicted, target, frames).backward()
    torch.testing.assert_close(predicted.grad, 2 * (predicted - target).detach() / predicted.numel())

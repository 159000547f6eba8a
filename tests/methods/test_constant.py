"""The constant baseline of every table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msabench.methods.constant import best_constant
from msabench.metrics.functional import compute


def test_floor_on_labels_with_a_median_of_zero_is_the_majority_answer() -> None:
    # CMU-MOSEI: the training median is 0 and positive labels are more frequent; test 1350/1025/2284.
    train = torch.cat([torch.full((4738,), -1.0), torch.zeros(3540), torch.full((8048,), 1.0)])
    test = np.concatenate([np.full(1350, -1.0), np.zeros(1025), np.full(2284, 1.0)]).astype(np.float32)
    value = best_constant(train)
    assert 0 < value.item() < 1e-5
    metrics = compute("sentiment", test, np.full(len(test), value.item(), dtype=np.float32))
    assert 100 * metrics["acc2_non0"] == pytest.approx(62.85, abs=0.005)
    assert 100 * metrics["f1_non0"] == pytest.approx(48.51, abs=0.005)
    assert 100 * metrics["f1_has0"] == pytest.approx(58.99, abs=0.005)


@given(st.lists(st.integers(-15, 15), min_size=1, max_size=60))
def test_no_other_constant_has_a_smaller_absolute_error(fifths: list[int]) -> None:
    labels = torch.tensor(fifths) / 5
    best = (labels - best_constant(labels)).abs().mean()
    others = torch.stack([(labels - other).abs().mean() for other in torch.linspace(-3, 3, 61)])
    assert best <= others.min() + 1e-5

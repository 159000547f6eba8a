"""Dense graph convolutions against sums written out edge by edge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from msabench.nn.graph_convolution import GraphConvolution, RelationalConvolution, window_edges
from tests.support.golden_cases import numbers


def mask_of(*lengths: int) -> Tensor:
    return torch.arange(max(lengths)).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)


@pytest.mark.parametrize(("past", "future"), [(2, 1), (0, 0), (1, 3), (-1, 1), (2, -1), (-1, -1)])
def test_each_utterance_is_heard_by_those_within_the_window_around_it(past: int, future: int) -> None:
    edges = window_edges(mask_of(6, 2), past, future)
    for c, length in enumerate((6, 2)):
        expected = set()
        for speaker in range(length):
            first = 0 if past < 0 else max(0, speaker - past)
            end = length if future < 0 else min(length, speaker + future + 1)
            expected |= {(listener, speaker) for listener in range(first, end)}
        assert set(map(tuple, edges[c].nonzero().tolist())) == expected


def test_relational_convolution_averages_over_each_relation() -> None:
    layer = RelationalConvolution(3, 4, 2)
    with torch.no_grad():
        layer.bias.copy_(numbers((4,), 5))
    x, relations = numbers((2, 5, 3), 1), numbers((2, 2, 5, 5), 2) > 0.1
    expected = torch.zeros(2, 5, 4)
    empty = 0
    for c in range(2):
        for i in range(5):
            expected[c, i] = x[c, i] @ layer.root + layer.bias
            for r in range(2):
                heard = [x[c, j] @ layer.weight[r] for j in range(5) if relations[r, c, i, j]]
                empty += not heard
                if heard:
                    expected[c, i] += torch.stack(heard).mean(0)
    assert empty
    torch.testing.assert_close(layer(x, relations), expected)


def test_relational_weights_start_as_glorot_has_it() -> None:
    torch.manual_seed(0)
    layer = RelationalConvolution(150, 50, 3)
    for weight in (*layer.weight.detach(), layer.root.detach()):
        assert float(weight.abs().max()) == pytest.approx((6 / 200) ** 0.5, rel=0.01)
        assert float(weight.std()) == pytest.approx((2 / 200) ** 0.5, rel=0.05)
    assert not layer.bias.any()


def test_graph_convolution_sums_over_neighbours() -> None:
    layer = GraphConvolution(3, 4)
    x, edges = numbers((2, 5, 3), 1), numbers((2, 5, 5), 2) > 0
    expected = torch.zeros(2, 5, 4)
    for c in range(2):
        for i in range(5):
            total = sum((x[c, j] for j in range(5) if edges[c, i, j]), torch.zeros(3))
            expected[c, i] = layer.neighbours(total) + layer.own(x[c, i])
    torch.testing.assert_close(layer(x, edges), expected)
    assert layer.own.bias is None

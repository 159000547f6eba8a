import pytest
import torch

from msabench.errors import MSABenchError
from msabench.nn.critics import PairCritic, standardise


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_scores_equal_those_of_a_perceptron_on_concatenated_pairs(layers):
    torch.manual_seed(0)
    critic = PairCritic(3, 5, 7, layers)
    x, y = torch.randn(4, 3), torch.randn(6, 5)
    scores = critic(x, y)
    assert scores.shape == (4, 6)
    for i in range(4):
        for j in range(6):
            hidden = torch.relu(critic.first(torch.cat([x[i], y[j]])))
            for layer in critic.others:
                hidden = torch.relu(layer(hidden))
            torch.testing.assert_close(scores[i, j], critic.last(hidden)[0])


def test_batches_of_batches():
    critic = PairCritic(3, 5, 7)
    x, y = torch.randn(2, 4, 3), torch.randn(2, 4, 5)
    torch.testing.assert_close(critic(x, y), torch.stack([critic(x[0], y[0]), critic(x[1], y[1])]))


@pytest.mark.parametrize("arguments", [(0, 5, 7, 1), (3, 5, 0, 1), (3, 5, 7, -1)])
def test_arguments_outside_their_range_are_refused(arguments):
    with pytest.raises(MSABenchError, match="is not allowed"):
        PairCritic(*arguments)


def test_standardise():
    x = torch.randn(2, 50, 4, dtype=torch.float64) * 3 + 7
    got = standardise(x)
    torch.testing.assert_close(got.mean(1), torch.zeros(2, 4, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(got.square().mean(1), torch.ones(2, 4, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardise(10 * x - 3), got, atol=1e-5, rtol=0)
    one = torch.randn(1, 4, requires_grad=True)
    assert not standardise(one).any()
    standardise(one).sum().backward()
    assert torch.isfinite(one.grad).all()
    assert not standardise(torch.ones(5, 2)).any()

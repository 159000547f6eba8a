"""Bounds on mutual information against closed forms and hand-computed numbers."""

import math

import pytest
import torch

from msabench.losses.information import club, infonce, jensen_shannon


def gaussian_scores(rho: float, n: int, seed: int = 0) -> torch.Tensor:
    """The optimal critic, log p(x | y) / p(x), of n pairs of unit Gaussians with correlation rho."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * torch.randn(n, generator=generator, dtype=torch.float64)
    x, y = x[:, None], y[None, :]
    quadratic = (rho**2 * (x.square() + y.square()) - 2 * rho * x * y) / (2 * (1 - rho**2))
    return -0.5 * math.log(1 - rho**2) - quadratic


def test_infonce_hand_computed():
    scores = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    # y_0: 1 - log(e^1 + e^2) + log 2; y_1: 3 - log(e^0 + e^3) + log 2.
    first = 1 - math.log(math.e + math.e**2) + math.log(2)
    second = 3 - math.log(1 + math.e**3) + math.log(2)
    assert infonce(scores).item() == pytest.approx((first + second) / 2, abs=1e-6)


def test_club_hand_computed():
    scores = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    assert club(scores).item() == pytest.approx((1 + 3) / 2 - (1 + 0 + 2 + 3) / 4)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, -0.9])
def test_infonce_of_the_optimal_critic_is_the_information_of_gaussians(rho):
    estimate = infonce(gaussian_scores(rho, 3000)).item()
    information = -0.5 * math.log(1 - rho**2)
    assert estimate == pytest.approx(information, abs=0.03)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.5, -0.6])
def test_club_of_the_optimal_critic_has_its_closed_form_and_bounds_from_above(rho):
    estimate = club(gaussian_scores(rho, 4000)).item()
    # E_joint f - E_product f = I + KL(product, joint) = rho^2 / (1 - rho^2) for Gaussians.
    assert estimate == pytest.approx(rho**2 / (1 - rho**2), abs=0.04)
    assert estimate >= -0.5 * math.log(1 - rho**2) - 0.01


def test_infonce_is_bounded_by_the_batch_and_club_is_not():
    scores = 100 * torch.eye(8)
    assert infonce(scores).item() == pytest.approx(math.log(8), abs=1e-4)
    assert club(scores).item() == pytest.approx(100 * 7 / 8)
    assert infonce(-scores).item() < -90


def test_what_depends_on_y_alone_does_not_change_infonce():
    scores, of_y = torch.randn(5, 5), torch.randn(5)
    torch.testing.assert_close(infonce(scores + of_y), infonce(scores))
    torch.testing.assert_close(club(scores + of_y), club(scores))
    assert not torch.allclose(infonce(scores + of_y[:, None]), infonce(scores))


def test_stacks_of_score_matrices_and_a_batch_of_one():
    scores = torch.randn(3, 4, 4)
    for bound in (infonce, club):
        torch.testing.assert_close(bound(scores), torch.stack([bound(each) for each in scores]))
        assert bound(torch.randn(2, 1, 1)).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_training_a_critic_on_infonce_finds_the_information_of_gaussians():
    from msabench.nn.critics import PairCritic

    rho = 0.8
    torch.manual_seed(0)
    critic = PairCritic(1, 1, 32)
    optimizer = torch.optim.Adam(critic.parameters(), lr=5e-3)

    def draw(n):
        x = torch.randn(n, 1)
        return x, rho * x + math.sqrt(1 - rho**2) * torch.randn(n, 1)

    for _ in range(300):
        optimizer.zero_grad()
        (-infonce(critic(*draw(64)))).backward()
        optimizer.step()
    with torch.no_grad():
        estimates = torch.stack([infonce(critic(*draw(256))) for _ in range(20)])
    assert estimates.mean().item() == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.08)


def test_jensen_shannon_hand_computed_and_as_the_mean_over_cyclic_permutations():
    scores = torch.tensor([[1.0, 0.5], [-2.0, 3.0]])
    softplus = lambda x: math.log(1 + math.exp(x))  # noqa: E731
    joint = -(softplus(-1.0) + softplus(-3.0)) / 2
    product = -(softplus(0.5) + softplus(-2.0)) / 2
    assert jensen_shannon(scores).item() == pytest.approx(joint + product, abs=1e-6)
    scores = torch.randn(5, 5, dtype=torch.float64)
    rolled = torch.stack([scores.roll(-k, 1).diagonal() for k in range(1, 5)])
    expected = torch.nn.functional.logsigmoid(scores.diagonal()).mean()
    expected = expected + torch.nn.functional.logsigmoid(-rolled).mean()
    torch.testing.assert_close(jensen_shannon(scores), expected)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_jensen_shannon_of_the_optimal_critic_is_the_divergence_of_joint_and_product(rho):
    # The divergence by a sum over a grid of the two densities.
    axis = torch.linspace(-6, 6, 601, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    q = torch.exp(-(x.square() + y.square()) / 2) / (2 * math.pi)
    quadratic = (x.square() - 2 * rho * x * y + y.square()) / (2 * (1 - rho**2))
    p = torch.exp(-quadratic) / (2 * math.pi * math.sqrt(1 - rho**2))
    mixture = (p + q) / 2
    cell = (axis[1] - axis[0]) ** 2
    divergence = ((torch.xlogy(p, p / mixture) + torch.xlogy(q, q / mixture)) / 2).sum() * cell
    estimate = jensen_shannon(gaussian_scores(rho, 2000))
    assert estimate.item() == pytest.approx(2 * divergence.item() - 2 * math.log(2), abs=0.02)
    assert jensen_shannon(gaussian_scores(rho, 2000) + 1).item() < estimate.item()  # a constant is not free


def test_jensen_shannon_is_never_positive_and_zero_for_a_batch_of_one():
    assert jensen_shannon(torch.zeros(4, 4)).item() == pytest.approx(-2 * math.log(2))
    assert -1e-6 < jensen_shannon(100 * (2 * torch.eye(4) - 1)).item() <= 0
    stack = torch.randn(3, 4, 4)
    torch.testing.assert_close(jensen_shannon(stack), torch.stack([jensen_shannon(each) for each in stack]))
    assert jensen_shannon(torch.randn(2, 1, 1)).tolist() == [0, 0]


def test_a_critic_trained_on_jensen_shannon_tells_dependent_from_independent():
    from msabench.nn.critics import PairCritic

    def trained(rho):
        torch.manual_seed(0)
        critic = PairCritic(1, 1, 32, layers=0)
        optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)

        def draw(n):
            x = torch.randn(n, 1)
            return x, rho * x + math.sqrt(1 - rho**2) * torch.randn(n, 1)

        for _ in range(200):
            optimizer.zero_grad()
            (-jensen_shannon(critic(*draw(64)))).backward()
            optimizer.step()
        with torch.no_grad():
            return jensen_shannon(critic(*draw(512))).item()

    assert trained(0.0) == pytest.approx(-2 * math.log(2), abs=0.03)
    assert trained(0.95) > -1.1

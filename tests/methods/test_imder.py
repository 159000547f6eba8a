"""IMDer: its diffusion against known laws, where noise comes from, what learns from what, its stages."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from msabench.errors import MSABenchError
from msabench.methods.imder import IMDer, denoising_error, deviation, sampled
from msabench.missingness.conditions import MODALITIES, Cell
from msabench.nn.score_network import ScoreNetwork
from msabench.testing import data_module, predict, random_corpus
from tests.support import recovering as rc
from tests.support.golden_cases import assert_as_kept


def test_outputs_are_those_of_the_official_code() -> None:
    assert_as_kept("imder_official")


class Known(nn.Module):
    """The exact score, times the deviation, of sequences that are all ``mean`` with deviation ``spread``."""

    def __init__(self, mean: float, spread: float) -> None:
        super().__init__()
        self.mean, self.spread = mean, spread
        self.conditions: list[Tensor] = []

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        self.conditions.append(condition)
        sigma = deviation(time)[:, None, None]
        return sigma * (self.mean - x) / (self.spread**2 + sigma**2)


def test_deviation_is_that_of_the_integrated_diffusion() -> None:
    times = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    variance = torch.trapezoid(25.0 ** (2 * times), times)
    assert deviation(times[-1]).item() == pytest.approx(variance.sqrt().item(), rel=1e-6)
    assert deviation(torch.tensor(1.0)).item() == pytest.approx(9.85, abs=0.01)
    assert deviation(torch.tensor(0.0)).item() == 0


def test_sampling_with_the_exact_score_gives_its_law() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (500, 4, 5)
    noises = iter(lambda: torch.randn(shape, generator=generator), None)
    network = Known(mean=3.0, spread=0.5)
    sample = sampled(network, torch.zeros(shape), noises, 100)
    assert sample.mean().item() == pytest.approx(3.0, abs=0.03)
    assert sample.std().item() == pytest.approx(0.5, abs=0.03)
    assert len(network.conditions) == 100
    # The condition is perturbed by less and less noise.
    assert network.conditions[0].std().item() == pytest.approx(deviation(torch.tensor(1.0)).item(), rel=0.05)
    assert network.conditions[-1].std().item() == pytest.approx(deviation(torch.tensor(1e-3)).item(), rel=0.05)


def test_sampling_step_by_step() -> None:
    given = torch.randn(7, 2, 3, 4, dtype=torch.float64)
    times, dt = (1.0, 0.5005, 0.001), 0.4995
    network, x = Known(1.0, 2.0), given[0] * deviation(torch.tensor(1.0, dtype=torch.float64))
    for step, time in enumerate(times):
        sigma = deviation(torch.tensor(time, dtype=torch.float64))
        mean = x + 25 ** (2 * time) * (1.0 - x) / (4 + sigma**2) * dt
        x = mean + math.sqrt(dt) * 25**time * given[2 * step + 2]
    found = sampled(network, torch.zeros(2, 3, 4, dtype=torch.float64), iter(given), 3)
    torch.testing.assert_close(found, mean)


def test_denoising_error_is_the_sum_over_a_clip_s_values() -> None:
    x, noise = torch.full((2, 3, 4), 1.0), torch.randn(2, 3, 4)
    time = torch.tensor([0.3, 0.9])
    exact = denoising_error(Known(1.0, 0.0), x, torch.zeros_like(x), time, noise, noise)
    torch.testing.assert_close(exact, torch.zeros(2), atol=1e-3, rtol=0)

    class Silent(nn.Module):
        def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
            self.condition = condition
            return torch.zeros_like(noisy)

    network = Silent()
    error = denoising_error(network, x, torch.zeros_like(x), time, noise, 2 * noise)
    torch.testing.assert_close(error, noise.square().sum((1, 2)))
    torch.testing.assert_close(network.condition, 2 * noise * deviation(time)[:, None, None])


@pytest.mark.parametrize("steps", [1, 8, 39, 48])
def test_score_network_keeps_any_length_and_reads_time_and_condition(steps: int) -> None:
    torch.manual_seed(0)
    network = ScoreNetwork(8, 2, 1).eval()
    x, condition = torch.randn(2, 2, steps, 8)
    with torch.no_grad():
        out = network(x, torch.tensor([0.2, 0.7]), condition)
        later = network(x, torch.tensor([0.3, 0.7]), condition)
        other = network(x, torch.tensor([0.2, 0.7]), condition.flip(0))
    assert out.shape == x.shape
    assert not torch.allclose(out[0], later[0])
    torch.testing.assert_close(out[1], later[1])
    assert not torch.allclose(out, other)


def test_predictions_share_one_noise_and_training_draws_anew() -> None:
    method, like = rc.built(IMDer), torch.zeros(3, 6, 8)
    first, again = (list(method._noises("text", like)) for _ in range(2))
    assert len(first) == 2 * method.sampling_steps + 1
    assert all(torch.equal(one, two) and one.shape == (6, 8) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], next(method._noises("audio", like)))
    seeded = rc.built(IMDer, sampling_seed=1)
    assert not torch.equal(first[0], next(seeded._noises("text", like)))
    fresh = method.train()._noises("text", like)
    one, two = next(fresh), next(fresh)
    assert one.shape == like.shape
    assert not torch.equal(one, two)
    assert not torch.equal(one[0], one[1])


def test_an_evaluation_leaves_the_global_generator_alone() -> None:
    method, batch = rc.built(IMDer), rc.training_batch()
    before = torch.get_rng_state()
    method(batch)
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_of_the_noise_moves_what_is_missing_alone() -> None:
    data = data_module(random_corpus())
    method, other = rc.built(IMDer), rc.built(IMDer, sampling_seed=1)
    assert torch.equal(predict(method, data, Cell()), predict(other, data, Cell()))
    assert not torch.allclose(predict(method, data, Cell("la")), predict(other, data, Cell("la")))


@pytest.mark.parametrize("cond_noise", ["shared", "independent"])
def test_condition_carries_the_target_s_noise_unless_told_otherwise(cond_noise: str) -> None:
    method, batch = rc.built(IMDer, cond_noise=cond_noise), rc.training_batch()
    seen: list[tuple[Tensor, Tensor]] = []
    targets, streams = method._streams(batch.complete), method._streams(batch)
    row = 5  # misses vision alone
    hook = method.scores["vision"].register_forward_pre_hook(lambda _, given: seen.append((given[0], given[2])))
    missing = torch.zeros_like(rc.MISSING)
    missing[row, 2] = True
    method.generative_errors(streams, targets, missing, batch)
    hook.remove()
    ((noisy, condition),) = seen
    pair = torch.cat([streams["text"][row], streams["audio"][row]], dim=1)
    added = condition[0] - method.merge["vision"](pair)
    assert torch.allclose(noisy[0] - targets["vision"][row], added, atol=1e-4) == (cond_noise == "shared")


def test_terms_and_their_weights() -> None:
    method, batch = rc.built(IMDer, lambda_score=0.3, lambda_rec=2.0), rc.training_batch()
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    assert torch.equal(out.aux["generative"] > 0, rc.MISSING)
    torch.testing.assert_close(terms["score"], 0.3 * out.aux["generative"].sum() / len(rc.MISSING))
    torch.testing.assert_close(terms["rec"], 2.0 * out.aux["rec"].sum() / len(rc.MISSING))


def test_what_learns_from_what() -> None:
    method, batch = rc.built(IMDer), rc.training_batch()
    terms = method.loss(method.training_forward(batch), batch)
    assert rc.reached(method, terms["score"]) == {"scores", "merge"}
    assert rc.reached(method, terms["rec"]) == {"refine"}
    assert rc.reached(method, terms["task"]) == {"refine", "head"}


def test_recovering_is_what_the_two_methods_promise(tmp_path: Path) -> None:
    rc.check_recovery(IMDer)
    rc.check_idle_recovery(IMDer, {"refine"})
    rc.check_fit(IMDer, {"scores", "refine", "merge", "head"}, tmp_path)


def test_the_network_of_a_modality_learns_only_where_it_is_missing() -> None:
    method = rc.built(IMDer)
    batch = rc.training_batch(torch.tensor([[False, True, False]] * 3))
    method.loss(method.training_forward(batch), batch)["score"].backward()
    assert [m for m in MODALITIES if any(p.grad is not None for p in method.scores[m].parameters())] == ["audio"]


def test_fast_takes_twenty_steps_and_another_number_is_an_argument() -> None:
    assert rc.built(IMDer, variant="fast").sampling_steps == 20
    assert rc.built(IMDer, sampling_steps=7).sampling_steps == 7
    assert IMDer.__init__.__kwdefaults__["sampling_steps"] == 100
    with pytest.raises(MSABenchError, match="sampling_steps 1 is not allowed"):
        rc.built(IMDer, sampling_steps=1)
    with pytest.raises(MSABenchError, match="cond_noise"):
        rc.built(IMDer, cond_noise="none")


def test_recipe() -> None:
    method = rc.built(IMDer, lr=IMDer.__init__.__kwdefaults__["lr"])
    assert (method.accumulate, method.gradient_clip, method.clip_by) == (1, 1.0, "value")
    assert (method.lr, method.lr_patience, method.lr_factor, method.criterion) == (2e-3, 24, 0.5, "l1")
    assert {group["lr"] for group in rc.in_stage(method, "complete").param_groups() if group["params"]} == {1e-4}


def test_sizes_are_the_official_ones() -> None:
    """Of each score network's 3,457,664 numbers 128 are fixed."""
    assert rc.size(IMDer, audio=5, vision=20) == 13_001_809 - 3 * 128
    assert rc.size(IMDer, audio=74, vision=35, layers=6) == 13_462_225 - 3 * 128

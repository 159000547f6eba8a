"""DiCMoR: its flows against couplings one by one, whose sequences become whose, what learns from what, its stages."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from msabench.errors import MSABenchError
from msabench.methods.dicmor import DiCMoR
from msabench.methods.recovering import sources_of
from msabench.missingness.conditions import MODALITIES, Cell
from msabench.nn.coupling_flow import CouplingFlow
from msabench.testing import build, data_module, predict, random_corpus
from tests.support import recovering as rc
from tests.support.golden_cases import assert_as_kept


def test_outputs_are_those_of_the_official_code() -> None:
    assert_as_kept("dicmor_official")


def stirred_flow(dim: int = 6, layers: int = 3) -> CouplingFlow:
    """A flow in double precision whose couplings all do something."""
    torch.manual_seed(0)
    flow = CouplingFlow(dim, layers, 5).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return flow


def test_flow_is_its_couplings_one_after_another() -> None:
    flow = stirred_flow()
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    (a, b), log_volume = x.chunk(2, dim=2), torch.zeros(2, dtype=torch.float64)
    for k in range(3):
        h = (a @ flow.weight1[k] + flow.bias1[k]).relu()
        h = (h @ flow.weight2[k] + flow.bias2[k]).relu()
        r, t = ((h @ flow.weight3[k] + flow.bias3[k]) * (3 * flow.gain[k]).exp()).chunk(2, dim=2)
        s = torch.sigmoid(r + 2)
        b = (b + t) * s
        log_volume = log_volume + s.log().sum((1, 2))
    z, found = flow(x)
    torch.testing.assert_close(z, torch.cat([a, b], dim=2))
    torch.testing.assert_close(found, log_volume)


def test_flow_is_undone_and_its_volume_is_that_of_its_derivative() -> None:
    flow = stirred_flow()
    x = torch.randn(1, 1, 6, dtype=torch.float64)
    z, log_volume = flow(x)
    torch.testing.assert_close(flow.inverse(z), x)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v.view(1, 1, 6))[0].view(6), x.view(6))
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1].view(1), log_volume)


def test_untrained_flows_hand_a_sequence_on_as_it_is() -> None:
    one, other = CouplingFlow(6, 4, 5), CouplingFlow(6, 4, 5)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(other.inverse(one(x)[0]), x)
    torch.testing.assert_close(one(x)[1], torch.full((2,), 4 * 9 * math.log(torch.tensor(2.0).sigmoid().item())))


def test_an_odd_width_has_no_halves() -> None:
    with pytest.raises(MSABenchError, match="dim 5 cannot be split"):
        CouplingFlow(5, 1, 4)


def test_half_of_a_guess_is_its_source_and_two_guesses_are_merged() -> None:
    method = rc.built(DiCMoR)
    streams = {m: torch.randn(3, 4, 8) for m in MODALITIES}
    available = torch.tensor([[True, False, False], [False, False, True], [True, False, True]])
    guess = method.guess("audio", streams, available)
    assert torch.equal(guess[0, :, :4], streams["text"][0, :, :4])
    assert torch.equal(guess[1, :, :4], streams["vision"][1, :, :4])
    assert not torch.allclose(guess[0, :, 4:], streams["text"][0, :, 4:])
    both = [method.flows["audio"].inverse(method.flows[n](streams[n])[0])[2] for n in ("text", "vision")]
    torch.testing.assert_close(guess[2], method.merge["audio"](torch.cat(both, dim=1)))
    assert [sources_of(m) for m in MODALITIES] == [("vision", "audio"), ("text", "vision"), ("text", "audio")]


def test_likelihood_is_of_the_clip_s_class_in_bits_per_value() -> None:
    method, batch = rc.built(DiCMoR), rc.training_batch()
    out = method.training_forward(batch)
    targets = method._streams(batch.complete)
    for column, m in enumerate(MODALITIES):
        z, log_volume = method.flows[m](targets[m])
        for row, label in enumerate(batch.labels):
            values = method.gaussians.values[0, int(label.round()) + 3]
            mean, log_deviation = (values * (3 * method.gaussians.gain[0, int(label.round()) + 3]).exp()).chunk(2)
            law = torch.distributions.Normal(mean, log_deviation.exp())
            bits = -(law.log_prob(z[row]).sum() + log_volume[row]) / math.log(2) / z[row].numel()
            torch.testing.assert_close(out.aux["generative"][row, column], bits)


def test_terms_and_their_weights() -> None:
    method, batch = rc.built(DiCMoR, lambda_nll=0.3, lambda_rec=2.0), rc.training_batch()
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    missing, errors = rc.MISSING.float(), out.aux["rec"]
    assert torch.equal(out.aux["missing"], missing)
    assert torch.equal(errors > 0, rc.MISSING)
    means = [errors[row].sum() / max(1, missing[row].sum()) for row in range(len(errors))]
    torch.testing.assert_close(terms["rec"], 2.0 * torch.stack(means).mean())
    torch.testing.assert_close(terms["nll"], 0.3 * out.aux["generative"].mean(0).clamp(min=0).sum())
    torch.testing.assert_close(terms["task"], F.l1_loss(out.pred, batch.labels))
    out.aux["generative"] = torch.tensor([[1.0, -5.0, 2.0], [3.0, 1.0, 2.0]])
    assert method.loss(out, batch)["nll"].item() == pytest.approx(0.3 * (2 + 0 + 2))


def test_what_learns_from_what() -> None:
    method, batch = rc.built(DiCMoR), rc.training_batch()
    terms = method.loss(method.training_forward(batch), batch)
    assert rc.reached(method, terms["nll"]) == {"flows", "gaussians"}
    assert rc.reached(method, terms["rec"]) == {"refine", "merge"}
    assert rc.reached(method, terms["task"]) == {"refine", "merge", "head"}


def test_recovering_is_what_the_two_methods_promise(tmp_path: Path) -> None:
    rc.check_recovery(DiCMoR)
    rc.check_idle_recovery(DiCMoR, {"refine", "merge"})
    rc.check_fit(DiCMoR, {"flows", "gaussians", "refine", "merge", "head"}, tmp_path)


def test_labels_move_no_prediction() -> None:
    method, batch = rc.built(DiCMoR), rc.training_batch()
    other = replace(batch, labels=-batch.labels)
    one, two = method.training_forward(batch), method.training_forward(other)
    assert torch.equal(one.pred, two.pred)
    assert not torch.allclose(one.aux["generative"], two.aux["generative"])


def test_emotions_have_a_gaussian_for_each_answer() -> None:
    data = data_module(random_corpus("emotions"))
    method = build(DiCMoR, data)
    assert method.gaussians.values.shape == (4, 2, 16)
    assert predict(method, data, Cell("a")).shape == (10, 4, 2)


def test_recipe() -> None:
    method = rc.built(DiCMoR, accumulate=8)
    assert (method.accumulate, method.gradient_clip, method.clip_by) == (8, 0.6, "value")
    assert (method.lr, method.lr_patience, method.lr_factor, method.criterion) == (1e-4, 5, 0.5, "l1")


def test_sizes_are_the_official_ones() -> None:
    """Without what the official code creates and never calls."""
    assert rc.size(DiCMoR, audio=5, vision=20) == 3_387_025
    assert rc.size(DiCMoR, audio=74, vision=35, dim=64, layers=6) == 13_222_945

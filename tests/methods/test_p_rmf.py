"""What is P-RMF's own; its blocks are in test_token_transformer.py, what every method must hold in test_methods.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from msabench.data.batch import Batch
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods import p_rmf
from msabench.methods.p_rmf import PRMF, gaussian_divergence
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, fill, numbers
from tests.support.small_bert import save_small_bert

CASE = CASES["p_rmf_official"]
SMALL = {**PRMF.info.smoke, "layers": 2}


def make_batch(rows: int = 7, regime: str = "lnln") -> Batch:
    data = data_module(random_corpus(), missing=MissingConfig(regime=regime))
    return data.training_batch(torch.arange(rows), 0, needs=Needs(complete=True))


def make(**arguments: object) -> PRMF:
    method = PRMF(data_module(random_corpus()).spec, **{**SMALL, **arguments}).eval()
    fill(method)
    return method


def gradients(method: PRMF, batch: Batch, name: str) -> dict[str, Tensor]:
    """Gradient of a term by parameter, where there is one."""
    method.zero_grad()
    method.loss(method.training_forward(batch), batch)[name].backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("p_rmf")])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(
    ("dims", "steps", "tokens", "parameters"),
    [
        ((768, 5, 20), (50, 375, 500), 8, 7_828_097),  # MOSI
        ((768, 74, 35), (50, 500, 500), 8, 7_854_849),  # MOSEI
        ((768, 33, 709), (39, 400, 55), 39, 7_888_513),  # SIMS
    ],
)
def test_sizes_are_those_of_the_official_code(
    dims: tuple[int, int, int], steps: tuple[int, int, int], tokens: int, parameters: int
) -> None:
    method = PRMF(replace(CASE, dims=dims, steps=steps).spec, tokens=tokens)
    assert sum(p.numel() for p in method.parameters()) == parameters
    assert sum(p.numel() for p in method.reconstructors.parameters()) == 1_780_992
    assert sum(p.numel() for p in method.injection.parameters()) == 216_448


@torch.no_grad()
def test_the_proxy_is_the_means_weighted_by_how_certain_they_are() -> None:
    method, batch = make(), make_batch()
    seen: list[Tensor] = []
    method.injection.register_forward_pre_hook(lambda _, args: seen.extend((args[0], args[2])))
    out = method(batch)
    proxy, weights = seen
    mean, deviation = out.aux["mean"], (out.aux["log_variance"] / 2).exp()
    certainty = (1 / deviation).exp()
    torch.testing.assert_close(weights, certainty / certainty.sum(1, keepdim=True))
    torch.testing.assert_close(proxy, (weights * mean).sum(1))
    # Where one deviation is the least by far, the proxy is that modality's mean.
    method.autoencoders["audio"].log_variance.bias.fill_(-9.0)
    seen.clear()
    out = method(batch)
    torch.testing.assert_close(seen[0], out.aux["mean"][:, MODALITIES.index("audio")])


@torch.no_grad()
def test_weights_are_numbers_where_their_exponentials_are_none() -> None:
    """The official formula is infinite over infinite for two modalities of deviation exp(-6)."""
    method, batch = make(), make_batch()
    for m in ("text", "audio"):
        method.autoencoders[m].log_variance.weight.zero_()
        method.autoencoders[m].log_variance.bias.fill_(-12.0)
    assert torch.tensor(6.0).exp().exp().isinf()
    assert method(batch).pred.isfinite().all()
    terms = method.loss(method.training_forward(batch), batch)
    assert all(term.isfinite() for term in terms.values())


@torch.no_grad()
def test_log_variances_are_limited_where_asked() -> None:
    batch = make_batch()
    free, limited = make()(batch).aux, make(log_variance_limit=0.5)(batch).aux
    assert bool(free["log_variance"].abs().max() > 0.5)
    assert torch.equal(limited["log_variance"], free["log_variance"].clamp(-0.5, 0.5))
    assert torch.equal(limited["mean"], free["mean"])


@torch.no_grad()
def test_injection_by_hand() -> None:
    """The same layer over and over, from the same tokens, with the residual and without any in the attention."""
    method = make(injection_layers=3)
    layer = method.injection
    proxy, h = numbers((2, 3, 8), 1) * 4, {m: numbers((2, 3, 8), key) * 4 for key, m in enumerate(MODALITIES, start=2)}
    weights = numbers((2, 3, 3, 8), 9).softmax(1)
    expected = proxy
    for _ in range(3):
        total = expected
        for place, m in enumerate(MODALITIES):
            part = layer.attention[m]
            q, x = part.to_q(part.norm_q(expected)), part.norm_kv(h[m])
            scores = (q @ part.to_k(x).transpose(1, 2) / 8**0.5).exp()
            found = part.to_out(scores / scores.sum(2, keepdim=True) @ part.to_v(x))
            total = total + weights[:, place] * found
        expected = total + total_after(layer, total)
    torch.testing.assert_close(layer(proxy, h, weights), expected)


def total_after(layer: p_rmf.Injection, total: Tensor) -> Tensor:
    centred = total - total.mean(-1, keepdim=True)
    normal = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight + layer.norm.bias
    return normal @ layer.linear.weight.T + layer.linear.bias


def test_divergence_is_that_of_gaussians() -> None:
    mean_p, mean_q, log_p, log_q = (numbers((3, 5), key) * 4 for key in range(1, 5))
    p, q = Normal(mean_p, (log_p / 2).exp()), Normal(mean_q, (log_q / 2).exp())
    torch.testing.assert_close(gaussian_divergence(mean_p, log_p, mean_q, log_q), kl_divergence(p, q))
    assert not gaussian_divergence(mean_p, log_p, mean_p, log_p).any()
    one, zero = torch.ones(1), torch.zeros(1)
    # N(1, 1) from N(0, 1): 1/2.
    assert gaussian_divergence(one, zero, zero, zero).item() == 0.5


@torch.no_grad()
def test_loss_by_hand() -> None:
    method, batch = make(), make_batch()
    assert batch.complete is not None
    assert batch.labels is not None
    torch.manual_seed(3)
    out = method.training_forward(batch)
    torch.manual_seed(3)
    noise = torch.randn(out.aux["mean"].shape)
    h, complete = method.embed(batch), method.embed(batch.complete)
    own, errors, q = [], [], {}
    for place, m in enumerate(MODALITIES):
        mean, log_variance = method.autoencoders[m](h[m])
        q[m] = Normal(mean, (log_variance / 2).exp())
        decoded = method.autoencoders[m].decode(mean + (log_variance / 2).exp() * noise[:, place])
        error = (decoded - complete[m]).square().mean()
        own.append(error + kl_divergence(q[m], Normal(torch.zeros_like(mean), torch.ones_like(mean))).mean())
        errors.append((method.reconstructors[m](h[m]) - complete[m]).square())
    pairs = [kl_divergence(q["vision"], q["text"]), kl_divergence(q["audio"], q["text"])]
    pairs.append(kl_divergence(q["audio"], q["vision"]))
    variational = (sum(own) + sum(pair.mean() for pair in pairs)) / 3

    terms = method.loss(out, batch)
    assert list(terms) == ["task", "reconstruction", "variational"]
    assert terms["task"].item() == pytest.approx(((out.pred - batch.labels) ** 2).mean().item(), rel=1e-5)
    assert terms["reconstruction"].item() == pytest.approx(0.1 * torch.cat(errors).mean().item(), rel=1e-5)
    assert terms["variational"].item() == pytest.approx(0.5 * float(variational), rel=1e-5)
    other = make(lambda_reconstruction=0.3, lambda_variational=0.0).loss(out, batch)
    assert other["reconstruction"].item() == pytest.approx(3 * terms["reconstruction"].item(), rel=1e-5)
    assert other["variational"].item() == 0


def test_deviations_below_a_millionth_are_drawn_no_further_to_one() -> None:
    method, batch = make(), make_batch()
    with torch.no_grad():
        out = method.training_forward(batch)
    found = []
    for log_variance in (-27.0, -28.0, -40.0):
        values = torch.full_like(out.aux["log_variance"], log_variance).requires_grad_()
        aux = {**out.aux, "mean": torch.zeros_like(values), "log_variance": values, "decoded": out.aux["complete"]}
        term = method.loss(replace(out, aux=aux), batch)["variational"]
        term.backward()
        found.append((term.item(), bool(values.grad is not None and values.grad.any())))
    limit = Normal(torch.zeros(1), torch.full((1,), 1e-6))
    expected = 0.5 * kl_divergence(limit, Normal(torch.zeros(1), torch.ones(1))).item()
    assert [value for value, _ in found[1:]] == pytest.approx([expected] * 2)
    assert found[0][0] < expected
    assert [moves for _, moves in found] == [True, False, False]


@pytest.mark.parametrize("variant", ["default", "no_reversal"])
def test_signs_of_the_gradient_of_the_task(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The means learn the opposite; the injection and the head what they should; all before them a mixture."""
    method, batch = make(variant=variant), make_batch()
    found = gradients(method, batch, "task")
    monkeypatch.setattr(p_rmf, "reverse_gradient", lambda x: x)
    plain = gradients(method, batch, "task")
    mixed = []
    for name, gradient in found.items():
        if variant == "no_reversal" or name.startswith(("injection.", "head.")):
            torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-4)
        elif ".mean." in name:
            torch.testing.assert_close(gradient, -plain[name], atol=1e-6, rtol=1e-4)
        else:
            mixed.append(name)
    assert any(".mean." in name for name in found)
    assert not any(name.startswith("reconstructors.") or "decoder" in name for name in found)
    if variant == "default":
        for part in ("embed.tokens.text.", "autoencoders.text.log_variance.", "autoencoders.text.encoder."):
            names = [name for name in mixed if name.startswith(part)]
            assert any(not torch.allclose(found[n].abs(), plain[n].abs(), rtol=1e-2, atol=1e-7) for n in names)


@pytest.mark.parametrize("term", ["reconstruction", "variational"])
def test_other_gradients_are_not_reversed(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = make(), make_batch()
    torch.manual_seed(0)
    found = gradients(method, batch, term)
    monkeypatch.setattr(p_rmf, "reverse_gradient", lambda x: x)
    torch.manual_seed(0)
    plain = gradients(method, batch, term)
    assert set(found) == set(plain)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-4)


def test_variants_predict_the_same() -> None:
    batch = make_batch()
    assert torch.equal(make()(batch).pred, make(variant="no_reversal")(batch).pred)


def test_complete_tokens_are_not_constant_to_the_gradient() -> None:
    method, batch = make(), make_batch()
    assert batch.complete is not None
    for m in MODALITIES:
        batch.complete.features[m].requires_grad_()
    terms = method.loss(method.training_forward(batch), batch)
    for name, reached in (("reconstruction", True), ("variational", True), ("task", False)):
        inputs = [batch.complete.features[m] for m in MODALITIES]
        got = torch.autograd.grad(terms[name], inputs, retain_graph=True, allow_unused=True)
        assert all((g is not None and bool(g.any())) == reached for g in got)


@torch.no_grad()
def test_nothing_is_drawn_for_a_prediction() -> None:
    method, batch = make(), make_batch()
    outs = [method.training_forward(batch) for _ in range(2)]
    assert not torch.equal(outs[0].aux["decoded"], outs[1].aux["decoded"])
    torch.testing.assert_close(outs[0].pred, outs[1].pred, atol=0, rtol=0)
    state = torch.get_rng_state()
    deployed = method(batch.for_inference()).pred
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(deployed, outs[0].pred)
    for name, parameter in method.named_parameters():
        if name.startswith("reconstructors.") or "decoder" in name or name.startswith("autoencoders.text.out"):
            parameter.zero_()
    assert torch.equal(method(batch.for_inference()).pred, deployed)


@torch.no_grad()
def test_tokens_that_are_not_kept_are_context() -> None:
    method, batch = make(tokens=6), make_batch()
    assert method.embed(batch)["text"].shape == (7, 3, 8)
    before = method(batch).pred
    method.embed.tokens["text"].transformer.tokens[:, 5, 0] += 1
    assert not torch.allclose(before, method(batch).pred, atol=1e-5)
    assert make(tokens=5, kept_tokens=None).embed(batch)["audio"].shape == (7, 5, 8)


def test_reconstructors_stay_where_they_were_and_pass_their_gradient_on() -> None:
    batch = make_batch()
    for choice, trained in (("fixed", False), ("trained", True)):
        method = make(reconstructors=choice)
        found = gradients(method, batch, "reconstruction")
        assert any(name.startswith("reconstructors.") for name in found) == trained
        assert all(any(name.startswith(f"embed.tokens.{m}.") for name in found) for m in MODALITIES)
        grouped = {id(p) for group in method.param_groups() for p in group["params"]}
        assert all((id(p) in grouped) == trained for p in method.reconstructors.parameters())


def test_rates_are_those_of_the_official_groups(tmp_path: Path) -> None:
    spec = data_module(random_corpus()).spec
    rates = {"text_lr": 5e-6, "injection_lr": 6e-6, "lr": 1e-4}
    method = PRMF(spec, **{**SMALL, **rates}, text_encoder=save_small_bert(tmp_path), finetune=True)
    method._trainer = quiet_trainer(tmp_path, 10)
    optimizer = method.configure_optimizers()["optimizer"]  # type: ignore[index, call-overload]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    rate = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in method.named_parameters():
        if name.startswith("reconstructors."):
            assert id(parameter) not in rate
        else:
            part = "text_lr" if name.startswith("embed.text.") else "lr"
            part = "injection_lr" if name.startswith("injection.") else part
            assert rate[id(parameter)] == rates[part]
    frozen = make()
    assert sum(len(group["params"]) for group in frozen.param_groups()) == sum(
        p.requires_grad for p in frozen.parameters()
    )


def test_a_fit_moves_all_but_the_reconstructors(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=6, missing=MissingConfig(regime="lnln"))
    method = PRMF(data.spec, **SMALL)
    start = {name: value.clone() for name, value in method.named_parameters()}
    quiet_trainer(tmp_path, 2).fit(method, datamodule=data)
    still = {name for name, value in method.named_parameters() if torch.equal(value, start[name])}
    assert still == {name for name in start if name.startswith("reconstructors.")}


def test_learning_rate_is_the_official_one() -> None:
    """Values of the official schedule in epochs 1, 2, 11, 12, 57 and 100 of 100."""
    method = PRMF(CASE.spec)
    factors = [method.lr_multiplier(epoch - 1, 100) for epoch in (1, 2, 11, 12, 57, 100)]
    assert factors == pytest.approx([0, 0.1, 1, 1, 0.5, 1.2179e-3], abs=1e-6)


def test_complete_clips_are_needed_in_training() -> None:
    with pytest.raises(MSABenchError, match="p_rmf trains on complete clips"):
        make().training_forward(make_batch().for_inference())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lambda_variational": -1}, r"weights \[0.1, -1\] of the loss are not allowed"),
        ({"injection_layers": 0}, "injection_layers 0 are not allowed; give at least 1"),
        ({"layers": 0}, "layers 0 and injection_layers 2 are not allowed"),
        ({"reconstructors": "frozen"}, "'frozen'.*fixed"),
        ({"log_variance_limit": 0.0}, "log_variance_limit 0.0 is not allowed; give a positive number"),
        ({"kept_tokens": 5}, "5 kept tokens are not allowed; give 1 to 4"),
        ({"variant": "adv_only"}, "no_reversal"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(MSABenchError, match=message):
        make(**arguments)

"""What is MFM's own; what every method must hold is in test_methods.py. MFN's encoder: test_multi_view_memory.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.mfm import MFM, _distance_from_normal
from msabench.missingness.conditions import MODALITIES
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build, numbers

CASE = CASES["mfm_mmsa"]
_MOSEI = {
    **{"hidden_text": 256, "hidden_audio": 32, "hidden_vision": 256, "memory": 64},
    **{"attend_width": 1278, "propose_width": 32, "retain_width": 64, "update_width": 128},
    **{"latent_joint": 32, "latent_text": 256, "latent_audio": 80, "latent_vision": 80},
    **{"factor_joint": 16, "factor_text": 32, "factor_audio": 80, "factor_vision": 32},
}
_SIMS = {
    **{"hidden_text": 64, "hidden_audio": 16, "hidden_vision": 64, "memory": 128},
    **{"attend_width": 32, "propose_width": 64, "retain_width": 64, "update_width": 256},
    **{"latent_joint": 48, "latent_text": 256, "latent_audio": 32, "latent_vision": 80},
    **{"factor_joint": 48, "factor_text": 256, "factor_audio": 80, "factor_vision": 48},
}


def method_of(name: str = "mfm_mmsa", **changes: Any) -> MFM:
    case = CASES[name]
    method = build(replace(case, settings={**case.settings, **changes}))
    assert isinstance(method, MFM)
    return method


def labelled(batch: Batch) -> Batch:
    return replace(batch, labels=torch.tensor([0.5, -1.0, 2.0, 0.0]))


@pytest.mark.parametrize("name", ["mfm_mmsa", "mfm_mmsa_pooled", "mfm_official_missing"])
def test_outputs_are_those_of_the_official_codes(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(
    ("dims", "settings", "parameters"),
    [
        ((768, 5, 20), {}, 1_416_123 - 45_313),  # MOSI; less the output network that is never used
        ((768, 74, 35), _MOSEI, 5_996_541 - 156_161),
        ((768, 33, 709), _SIMS, 3_478_888 - 35_073),
        ((768, 5, 20), {"variant": "missing"}, 1_370_810 + 1_198_096),
    ],
)
def test_sizes_are_those_of_mmsa(dims: tuple[int, ...], settings: dict[str, Any], parameters: int) -> None:
    spec = replace(CASE.spec, feature_dims=dict(zip(MODALITIES, dims, strict=True)))
    assert sum(p.numel() for p in MFM(spec, **settings).parameters()) == parameters


def generated_by_hand(method: MFM, m: str, factors: Tensor, steps: int) -> Tensor:
    """The decoder from its weights: the first step reads the factors, the others their own last state."""
    weights = {name: value.detach() for name, value in method.decoders[m].state_dict().items()}
    h, c, read = torch.zeros_like(factors), torch.zeros_like(factors), factors
    frames = []
    for _ in range(steps):
        gates = read @ weights["cell.weight_ih"].T + h @ weights["cell.weight_hh"].T
        i, f, g, o = (gates + weights["cell.bias_ih"] + weights["cell.bias_hh"]).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        read = h
        frames.append(h @ weights["linear.weight"].T + weights["linear.bias"])
    return torch.stack(frames, dim=1)


@pytest.mark.parametrize("m", MODALITIES)
def test_a_modality_is_generated_from_the_joint_factor_and_its_own_in_forward_order(m: str) -> None:
    method, batch = method_of("mfm_mmsa_pooled"), labelled(batch_of(CASES["mfm_mmsa_pooled"]))
    with torch.no_grad():
        out = method.training_forward(batch)
        factors = [torch.relu(method.factors[k](out.aux[f"z_{k}"])) for k in ("joint", m)]
        x = method._sequences(batch)[m]
        error = generated_by_hand(method, m, torch.cat(factors, dim=1), 9) - x
        term = method.loss(out, batch)[m]
    assert x.shape[:2] == (4, 9)
    torch.testing.assert_close(term, method.lambdas[m] * (error**2).sum() / error.numel())
    torch.testing.assert_close(out.representation, factors[0])


def test_an_encoder_reads_the_lstms_last_state_over_all_stored_steps() -> None:
    method, batch = method_of(), batch_of(CASE)
    encoder = method.encoders["text"]
    with torch.no_grad():
        reference = nn.LSTMCell(16, 6)
        reference.load_state_dict({k.removesuffix("_l0"): v for k, v in encoder.lstm.state_dict().items()})
        h = c = torch.zeros(4, 6)
        for frame in batch.text.unbind(1):
            h, c = reference(frame, (h, c))
        torch.testing.assert_close(method.training_forward(batch).aux["z_text"], encoder.linear(h))


def test_unaligned_modalities_are_averaged_over_windows_for_reading_and_generating() -> None:
    method, batch = method_of("mfm_mmsa_pooled"), batch_of(CASES["mfm_mmsa_pooled"])
    audio = method._sequences(batch)["audio"]
    assert audio.shape == (4, 9, 5)
    torch.testing.assert_close(audio[:, 0], batch.audio[:, :3].mean(1))
    torch.testing.assert_close(audio[:, 8], batch.audio[:, -1])  # 20 steps in windows of 3; the last one is repeated


def distance_by_hand(p: Tensor, z: Tensor) -> float:
    def k(x: Tensor, y: Tensor) -> float:
        return math.exp(-float(((x - y) ** 2).sum()) / len(x) ** 2)

    n = len(z)
    pairs = [(i, j) for i in range(n) for j in range(n)]
    return sum(k(p[i], p[j]) + k(z[i], z[j]) - 2 * k(p[i], z[j]) for i, j in pairs) / n**2


def test_latent_variables_are_compared_with_fresh_draws_of_a_normal_distribution() -> None:
    z = numbers((5, 3), 1) * 4
    with torch.random.fork_rng():
        torch.manual_seed(2)
        found = [float(_distance_from_normal(z)) for _ in range(2)]
        torch.manual_seed(2)
        expected = [distance_by_hand(torch.randn(5, 3), z) for _ in range(2)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert found[0] != pytest.approx(found[1], abs=1e-4)


def test_normal_latent_variables_are_nearer_than_others() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        z = torch.randn(300, 4)
        at_home, moved, narrow = (float(_distance_from_normal(x)) for x in (z, z + 2, 0.1 * z))
    assert at_home < 0.02
    assert moved > 5 * at_home
    assert narrow > 5 * at_home


def test_terms_are_weighted() -> None:
    weights = {"lambda_mmd": 100.0, "lambda_text": 0.5, "lambda_audio": 0.01, "lambda_vision": 0.5}
    ones, batch = method_of(**dict.fromkeys(weights, 1.0)), labelled(batch_of(CASE))
    method = method_of(**weights)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        plain = ones.loss(ones.training_forward(batch), batch)
        torch.manual_seed(0)
        terms = method.loss(method.training_forward(batch), batch)
        expected = (method(batch).pred - batch.labels).abs().mean()
    assert set(terms) == {"task", "text", "audio", "vision", "mmd"}
    torch.testing.assert_close(terms["task"], expected)
    for name, weight in weights.items():
        torch.testing.assert_close(terms[name.removeprefix("lambda_")], weight * plain[name.removeprefix("lambda_")])


def test_a_prediction_needs_the_joint_latent_variable_alone() -> None:
    method, batch = method_of(), batch_of(CASE)
    with torch.no_grad():
        before = method(batch).pred
        for part in (method.encoders, method.decoders, *(method.factors[m] for m in MODALITIES)):
            for parameter in part.parameters():
                parameter.zero_()
        assert torch.equal(method(batch).pred, before)
        torch.testing.assert_close(method.training_forward(batch).pred, before)
        method.to_joint.weight.zero_()
        assert not torch.allclose(method(batch).pred, before)


def removed(batch: Batch, *modalities: str) -> Batch:
    features = {m: x * (m not in modalities) for m, x in batch.features.items()}
    observed = {m: x & (m not in modalities) for m, x in batch.valid.items()}
    return replace(batch, features=features, observed=observed)


@pytest.mark.parametrize("m", MODALITIES)
def test_variant_missing_predicts_from_the_other_two_where_exactly_one_is_missing(m: str) -> None:
    method, batch = method_of("mfm_official_missing"), batch_of(CASE)
    main = method_of()
    main.load_state_dict({k: v for k, v in method.state_dict().items() if k in main.state_dict()})
    others = [other for other in MODALITIES if other != m]
    pair = torch.cat([batch.features[other] for other in others], dim=2)
    with torch.no_grad():
        factor = torch.relu(method.factors["joint"](method.joint_surrogates[m](pair)))
        expected = method.head(factor).squeeze(1)
        alone = removed(batch, m)
        torch.testing.assert_close(method(alone).pred, expected)
        assert not torch.allclose(main(alone).pred, expected, atol=1e-3)
        for more in ((), others, (m, others[0])):
            otherwise = removed(batch, *more)
            torch.testing.assert_close(method(otherwise).pred, main(otherwise).pred)


def test_variant_missing_sums_errors_of_the_complete_clip_and_without_each_modality() -> None:
    method, batch = method_of("mfm_official_missing"), labelled(removed(batch_of(CASE)))
    x = {m: batch.features[m] for m in MODALITIES}
    with torch.no_grad():
        out = method.training_forward(batch)
        terms = method.loss(out, batch)
        task, distance = (out.pred - batch.labels).abs().mean(), 0.0
        for m in MODALITIES:
            pair = torch.cat([x[other] for other in MODALITIES if other != m], dim=2)
            own, joint = method.surrogates[m](pair), method.joint_surrogates[m](pair)
            distance += (own - out.aux[f"z_{m}"]).square().mean() + (joint - out.aux["z_joint"]).square().mean()
            task += (method(removed(batch, m)).pred - batch.labels).abs().mean()
            errors = 0.0
            for z in ({"joint": out.aux["z_joint"], m: out.aux[f"z_{m}"]}, {"joint": joint, m: own}):
                factors = [torch.relu(method.factors[k](z[k])) for k in ("joint", m)]
                errors += (generated_by_hand(method, m, torch.cat(factors, dim=1), 9) - x[m]).square().mean()
            torch.testing.assert_close(terms[m], method.lambdas[m] * errors)
    torch.testing.assert_close(terms["surrogate"], distance)
    torch.testing.assert_close(terms["task"], task)


def test_surrogates_pull_on_the_latent_variables_too() -> None:
    method, batch = method_of("mfm_official_missing"), labelled(batch_of(CASE))
    method.loss(method.training_forward(batch), batch)["surrogate"].backward()
    for part in (method.encoders, method.memory, method.to_joint, method.surrogates, method.joint_surrogates):
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())
    assert all(parameter.grad is None for parameter in method.decoders.parameters())

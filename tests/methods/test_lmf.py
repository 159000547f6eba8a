"""What is LMF's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from msabench.errors import MSABenchError
from msabench.methods.lmf import LMF
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build

CASE = CASES["lmf_mmsa"]
EMOTIONS = CASES["lmf_mmsa_emotions"]


def codes(method: LMF) -> list[Tensor]:
    """Codes of audio, vision and text for the batch of the case."""
    batch = batch_of(CASE)
    with torch.no_grad():
        return [
            method.audio_subnet(batch.audio),
            method.video_subnet(batch.vision),
            method.text_subnet(batch.text),
        ]


@pytest.mark.parametrize("name", ["lmf_mmsa", "lmf_mmsa_emotions"])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(
    ("dims", "sizes", "parameters"),
    [
        ((768, 5, 20), (128, 16, 128, 3), 505_071),  # MOSI
        ((768, 74, 35), (128, 16, 128, 4), 508_475),  # MOSEI
        ((768, 33, 709), (64, 16, 64, 4), 272_381),  # SIMS
    ],
)
def test_sizes_are_those_of_mmsa(dims: tuple[int, ...], sizes: tuple[int, ...], parameters: int) -> None:
    spec = replace(CASE.spec, feature_dims=dict(zip(("text", "audio", "vision"), dims, strict=True)))
    method = LMF(spec, **dict(zip(("hidden_text", "hidden_audio", "hidden_vision", "rank"), sizes, strict=True)))
    assert sum(p.numel() for p in method.parameters()) == parameters
    assert method.text_factor.shape == (sizes[3], sizes[0] // 2 + 1, 1)


def test_ranks_factorise_the_weights_of_a_full_outer_product() -> None:
    """The score is a linear reading of TFN's product, whose weights are a sum of R outer products."""
    method = build(CASE)
    audio, vision, text = (torch.cat([torch.ones(4, 1), code], dim=1) for code in codes(method))
    product = torch.einsum("ba,bv,bt->bavt", audio, vision, text)
    factors = [f.detach()[:, :, 0] for f in (method.audio_factor, method.video_factor, method.text_factor)]
    weights = sum(
        weight * torch.einsum("a,v,t->avt", *(factor[rank] for factor in factors))
        for rank, weight in enumerate(method.fusion_weights.detach()[0])
    )
    expected = (product * weights).sum((1, 2, 3)) + method.fusion_bias.detach()[0]
    with torch.no_grad():
        out = method(batch_of(CASE))
    assert expected.std() > 0.1
    assert torch.allclose(out.pred, expected, atol=1e-5)
    assert torch.allclose(out.representation @ method.fusion_weights[0] + method.fusion_bias[0], out.pred, atol=1e-6)


def test_each_output_has_factors_of_its_own_and_all_share_the_weights_of_the_ranks() -> None:
    method, batch = build(EMOTIONS), batch_of(EMOTIONS)
    with torch.no_grad():
        before = method(batch).pred.flatten(1)
        method.text_factor[:, :, 5] += 1.0
        after = method(batch).pred.flatten(1)
        method.fusion_weights.zero_()
        assert torch.equal(method(batch).pred.flatten(1), method.fusion_bias.expand(4, 8))
    assert [bool((before[:, i] == after[:, i]).all()) for i in range(8)] == [i != 5 for i in range(8)]


def test_initial_values() -> None:
    torch.manual_seed(0)
    spec = replace(CASE.spec, feature_dims={"text": 16, "audio": 5, "vision": 7})
    rank, width = 40, 199
    method = LMF(spec, hidden_text=2 * width, hidden_audio=width, hidden_vision=width, rank=rank)
    for factor in (method.audio_factor, method.video_factor, method.text_factor):
        assert factor.std().item() == pytest.approx(math.sqrt(2 / (rank + width + 1)), rel=0.05)
    assert method.fusion_weights.std().item() == pytest.approx(math.sqrt(2 / (rank + 1)), rel=0.3)
    assert torch.equal(method.fusion_bias, torch.zeros(1, 1))


@pytest.mark.parametrize("trained", [True, False])
def test_rates_of_the_parts_and_the_switch_of_the_fusion_weights(trained: bool) -> None:
    chosen = {"train_fusion_weights": trained, "lr": 2e-3, "factor_lr": 5e-4, "weight_decay": 1e-2}
    method = build(replace(CASE, settings={**CASE.settings, **chosen}))
    groups = method.configure_optimizers()["optimizer"].param_groups
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    found = {name: rates.get(id(p)) for name, p in method.named_parameters()}
    assert len(rates) == sum(len(group["params"]) for group in groups)
    for name, rate in found.items():
        if name.endswith("_factor"):
            assert rate == (5e-4, 1e-2)
        elif name.startswith("fusion_"):
            assert rate == ((2e-3, 1e-2) if trained else None)
        else:
            assert rate == (2e-3, 1e-2)
    batch = replace(batch_of(CASE), labels=torch.tensor([3.0, -2, 0, 1]))
    method.loss(method(batch), batch)["task"].backward()
    assert (method.fusion_weights.grad is not None) == trained


def test_fusion_weights_are_trained_unless_asked_otherwise() -> None:
    assert build(CASE).fusion_weights.requires_grad


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"hidden_text": 1}])
def test_sizes_that_leave_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(MSABenchError, match="give at least"):
        LMF(CASE.spec, **wrong)

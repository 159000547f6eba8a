"""What is ALMT's own; its blocks are in test_hyper_modality.py, what every method must hold in test_methods.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from msabench.errors import MSABenchError
from msabench.methods.almt import ALMT
from msabench.testing.corpora import data_module, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build

CASE = CASES["almt_official"]


@pytest.mark.parametrize("name", ["almt_official", "almt_mmsa"])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(
    ("dims", "steps", "depth", "parameters"),
    [
        ((768, 5, 20), (50, 375, 500), 2, 2_603_649),  # MOSI
        ((768, 74, 35), (50, 500, 500), 4, 3_223_041),  # MOSEI
        ((768, 33, 709), (39, 400, 55), 4, 3_232_897),  # SIMS
    ],
)
def test_sizes_are_those_of_the_official_code(
    dims: tuple[int, int, int], steps: tuple[int, int, int], depth: int, parameters: int
) -> None:
    method = ALMT(replace(CASE, dims=dims, steps=steps).spec, fusion_layers=depth)
    assert sum(p.numel() for p in method.parameters()) == parameters


@torch.no_grad()
def test_score_is_read_at_the_token_of_the_fusion() -> None:
    method, batch = build(CASE), batch_of(CASE)
    h = method.embed(batch)
    token = method.fusion(h["text"], h["audio"], h["vision"])[:, 0]
    expected = token @ method.head.weight[0] + method.head.bias
    torch.testing.assert_close(method(batch).pred, expected)


@pytest.mark.parametrize("modality", ["text", "audio", "vision"])
@torch.no_grad()
def test_nothing_is_masked(modality: str) -> None:
    """Padding takes part in the attention, as in the official code."""
    method, batch = build(CASE), batch_of(CASE)
    stored = batch.features[modality]
    half = stored.shape[1] // 2
    shorter = {**batch.features, modality: stored[:, :half]}
    padded = {**batch.features, modality: torch.cat([stored[:, :half], torch.zeros_like(stored[:, half:])], dim=1)}
    before, after = (method(replace(batch, features=features)).pred for features in (shorter, padded))
    assert (before - after).abs().max() > 1e-4


def test_loss_is_the_mean_squared_error() -> None:
    method, batch = build(CASE), batch_of(CASE)
    out = replace(method(batch), pred=torch.tensor([1.0, 0.0, -2.0, 0.5]))
    terms = method.loss(out, replace(batch, labels=torch.tensor([0.0, 2.0, -2.0, 1.0])))
    assert set(terms) == {"task"}
    assert terms["task"].item() == pytest.approx((1 + 4 + 0 + 0.25) / 4)


def test_learning_rate_is_the_official_one() -> None:
    """Values of the official schedule in epochs 1, 2, 21, 22, 112 and 200 of 200."""
    method = ALMT(CASE.spec)
    factors = [method.lr_multiplier(epoch - 1, 200) for epoch in (1, 2, 21, 22, 112, 200)]
    assert factors == pytest.approx([0, 0.05, 1, 1, 0.5, 3.046e-4], abs=1e-7)


def test_one_adamw_trains_everything() -> None:
    method = ALMT(CASE.spec)
    assert method.optimizer_class is torch.optim.AdamW
    groups = [group for group in method.param_groups() if group["params"]]
    assert len(groups) == 1
    assert len(groups[0]["params"]) == len(list(method.parameters()))
    assert (method.lr, method.weight_decay) == (1e-4, 1e-4)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(MSABenchError, match="heads must divide dim 20"):
        ALMT(CASE.spec, dim=20)


@pytest.mark.parametrize("modality", ["text", "audio", "vision"])
def test_training_finds_what_one_modality_tells(modality: str) -> None:
    """Labels that stand in audio or vision alone are learnt through the hyper-modality."""
    data = data_module(random_corpus())
    torch.manual_seed(0)
    method = ALMT(data.spec, **ALMT.info.smoke)
    batch = data.training_batch(torch.arange(24), 0)
    batch.features = {m: x if m == modality else torch.zeros_like(x) for m, x in batch.features.items()}
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        method.loss(method(batch), batch)["task"].backward()
        optimizer.step()
    assert batch.labels is not None
    assert torch.corrcoef(torch.stack([method(batch).pred.detach(), batch.labels]))[0, 1] > 0.9

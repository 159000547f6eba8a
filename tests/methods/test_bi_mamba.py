"""What is our BI-Mamba's own; its blocks are in test_selective_scan.py, what is common in test_methods.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from msabench.errors import MSABenchError
from msabench.methods.bi_mamba import BIMamba
from msabench.methods.tf_mamba import TFMamba
from msabench.missingness.conditions import MODALITIES
from tests.support.golden_cases import Case, batch_of, build

CASE = Case("bi_mamba", (16, 5, 7), (9, 20, 13), settings={"dim": 12, "state": 3})


@pytest.mark.parametrize(
    ("dims", "steps", "without", "aligners"),
    [
        ((768, 5, 20), (50, 375, 500), 392_321, 69_156),  # MOSI
        ((768, 74, 35), (50, 500, 500), 403_073, 86_292),  # MOSEI
        ((768, 33, 709), (39, 400, 55), 479_873, 158_400),  # SIMS
    ],
)
def test_sizes(dims: tuple[int, int, int], steps: tuple[int, int, int], without: int, aligners: int) -> None:
    method = BIMamba(replace(CASE, dims=dims, steps=steps).spec)
    assert sum(p.numel() for p in method.align.parameters()) == aligners
    assert sum(p.numel() for p in method.parameters()) == without + aligners


@torch.no_grad()
def test_class_token_stands_in_the_middle_of_the_joined_sequence() -> None:
    method, batch = build(CASE), batch_of(CASE)
    steps = {m: method.align[m](batch.features[m])[0] for m in ("audio", "vision")} | {"text": batch.text}
    rows = [method.project[m](steps[m]) + method.modality[i] for i, m in enumerate(MODALITIES)]
    joined = torch.cat(rows, dim=1)
    assert joined.shape == (4, 27, 12)
    x = torch.cat([joined[:, :13], method.token.expand(4, 1, 12), joined[:, 13:]], dim=1) + method.positions

    def normed(x: torch.Tensor, norm: nn.RMSNorm) -> torch.Tensor:
        return x / (x.square().mean(2, keepdim=True) + 1e-5).sqrt() * norm.weight

    for norm, block in zip(method.norms, method.blocks, strict=True):
        x = x + block(normed(x, norm))
    expected = normed(x, method.norm)[:, 13]
    out = method(batch)
    torch.testing.assert_close(out.representation, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.pred, expected @ method.head.weight[0] + method.head.bias, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_class_token_sees_both_ends() -> None:
    # Of aligned steps every one depends on all frames: averages of as many steps as the text has keep them apart.
    case = replace(CASE, steps=(9, 9, 9), settings={**CASE.settings, "aligner": "average"})
    method, batch = build(case), batch_of(case)
    before = method(batch).pred
    for m, step in (("text", 0), ("vision", 8)):
        changed = batch.features[m].clone()
        changed[:, step] += 3
        after = method(replace(batch, features={**batch.features, m: changed})).pred
        assert (after - before).abs().min() > 1e-5


@torch.no_grad()
def test_average_aligner_pools_evenly() -> None:
    case = replace(CASE, steps=(5, 20, 3), settings={**CASE.settings, "aligner": "average"})
    method, batch = build(case), batch_of(case)
    assert len(method.align) == 0
    pooled = method._aligned(batch.audio, "audio")
    torch.testing.assert_close(pooled, batch.audio.view(4, 5, 4, 5).mean(2))
    assert method._aligned(batch.vision, "vision").shape == (4, 5, 7)


@torch.no_grad()
def test_mean_pooling_has_no_token() -> None:
    case = replace(CASE, settings={**CASE.settings, "pool": "mean"})
    method, batch = build(case), batch_of(case)
    assert method.token is None
    assert method.positions.shape == (1, 27, 12)
    seen: list[torch.Tensor] = []
    method.norm.register_forward_hook(lambda _, __, out: seen.append(out))
    out = method(batch)
    torch.testing.assert_close(out.representation, seen[0].mean(1))
    assert not torch.allclose(out.pred, build(CASE)(batch).pred, atol=1e-3)


def test_initial_weights() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = BIMamba(replace(CASE, steps=(50, 20, 13)).spec, layers=4)
    assert 0.018 < method.positions.std() < 0.022
    assert 0.01 < method.token.std() < 0.03
    assert not method.head.bias.any()
    assert not any(method.project[m][0].bias.any() for m in MODALITIES)
    for block in method.blocks:
        assert 0.95 < block.out_proj.abs().max() * 256**0.5 * 4**0.5 <= 1


def test_loss_and_training_are_those_of_tf_mamba_without_reconstruction() -> None:
    method, batch = build(CASE), replace(batch_of(CASE), labels=torch.tensor([1.0, -2.0, 0.0, 3.0]))
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    assert list(terms) == ["task"]
    assert terms["task"].item() == pytest.approx((out.pred - batch.labels).square().mean().item(), rel=1e-6)
    theirs = TFMamba(CASE.spec)
    assert [method.lr_multiplier(e, 200) for e in range(200)] == [theirs.lr_multiplier(e, 200) for e in range(200)]
    assert (method.lr, method.weight_decay) == (theirs.lr, theirs.weight_decay)
    assert method.optimizer_class is torch.optim.AdamW


def test_values_outside_their_range_are_refused() -> None:
    for settings, message in (
        ({"layers": 0}, "layers 0 is not allowed; give at least 1"),
        ({"aligner": "dtw"}, "aligner 'dtw'"),
        ({"pool": "max"}, "pool 'max'"),
    ):
        with pytest.raises(MSABenchError, match=message):
            BIMamba(CASE.spec, **settings)

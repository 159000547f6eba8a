"""What is TFN's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from msabench.methods.tfn import TFN
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build

CASE = CASES["tfn_mmsa"]


def test_outputs_are_those_of_the_official_code() -> None:
    assert_as_kept("tfn_mmsa")


@pytest.mark.parametrize(
    ("dims", "sizes", "product", "parameters"),
    [
        ((768, 5, 20), (128, 32, 128, 32, 64), 140_481, 9_497_043),  # MOSI
        ((768, 74, 35), (128, 16, 128, 128, 16), 282_897, 5_042_539),  # MOSEI
        ((768, 33, 709), (128, 32, 128, 256, 32), 1_094_049, 35_632_077),  # SIMS
    ],
)
def test_sizes_are_those_of_mmsa(dims: tuple[int, ...], sizes: tuple[int, ...], product: int, parameters: int) -> None:
    spec = replace(CASE.spec, feature_dims=dict(zip(("text", "audio", "vision"), dims, strict=True)))
    names = ("hidden_text", "hidden_audio", "hidden_vision", "out_text", "fusion_width")
    with torch.device("meta"):
        method = TFN(spec, **dict(zip(names, sizes, strict=True)))
    assert method.post_fusion_layer_1.in_features == product
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == parameters
    assert {"output_range", "output_shift", "video_subnet.norm.running_mean"} <= set(method.state_dict())


def test_product_holds_every_code_and_every_product_of_two_and_three() -> None:
    method, batch = build(CASE), batch_of(CASE)
    with torch.no_grad():
        codes = [
            method.audio_subnet(batch.audio)[1].tolist(),
            method.video_subnet(batch.vision)[1].tolist(),
            method.text_subnet(batch.text)[1].tolist(),
        ]
        found = method.product(batch)[1].tolist()
    audio, vision, text = ([1.0, *code] for code in codes)
    assert any(codes[0])
    assert any(codes[1])
    expected = [a * v * t for a in audio for v in vision for t in text]
    assert found[0] == 1.0
    assert found == pytest.approx(expected, abs=1e-6)
    assert found[1 : len(text)] == pytest.approx(codes[2], abs=1e-6)


@pytest.mark.parametrize("sign", [-1, 1])
def test_scores_stay_within_three_for_any_labels(sign: int) -> None:
    """As in MMSA, also for CH-SIMS, whose labels are in [-1, 1]."""
    spec = replace(CASE.spec, label_range=(-1.0, 1.0), metric_set="sims")
    method = TFN(spec, **CASE.settings).eval()
    with torch.no_grad():
        method.post_fusion_layer_3.weight.zero_()
        for bias, expected in ((0.0, 0.0), (sign * 1.0, sign * 3 * math.tanh(0.5)), (sign * 100.0, sign * 3.0)):
            method.post_fusion_layer_3.bias.fill_(bias)
            assert torch.allclose(method(batch_of(CASE)).pred, torch.full((4,), expected), atol=1e-6)


def test_emotions_are_logits_without_range() -> None:
    case = replace(CASE, task="emotions")
    method = build(case)
    with torch.no_grad():
        method.post_fusion_layer_3.weight.zero_()
        method.post_fusion_layer_3.bias.copy_(torch.arange(8) * 10.0)
        logits = method(batch_of(case)).pred
    assert torch.equal(logits, (torch.arange(8) * 10.0).view(4, 2).expand(4, 4, 2))


def test_dropouts_are_where_they_are_said_to_be() -> None:
    """Where everything is dropped, nothing behind it depends on the input; without the text's, training is as ever."""
    off = dict.fromkeys(("dropout_text", "dropout_audio", "dropout_vision", "fusion_dropout"), 0.0)
    batch = batch_of(CASE)
    for name, part in {"text": "text_subnet", "audio": "audio_subnet", "vision": "video_subnet"}.items():
        method = build(replace(CASE, settings={**CASE.settings, **off, f"dropout_{name}": 1.0})).train()
        codes = getattr(method, part)(batch.features[name])
        assert torch.equal(codes, codes[:1].expand_as(codes))
        others = {"text_subnet", "audio_subnet", "video_subnet"} - {part}
        inputs = {"text_subnet": batch.text, "audio_subnet": batch.audio, "video_subnet": batch.vision}
        assert all(getattr(method, other)(inputs[other]).std(0).any() for other in others)
    method = build(replace(CASE, settings={**CASE.settings, **off, "fusion_dropout": 1.0})).train()
    assert torch.equal(method(batch).pred, method(batch).pred[:1].expand(4))
    assert build(CASE).text_subnet.dropout.p == 0.0


def test_everything_but_the_two_constants_is_trained_without_decay() -> None:
    method = build(replace(CASE, settings={**CASE.settings, "lr": 2e-3}))
    optimizer = method.configure_optimizers()["optimizer"]
    assert type(optimizer) is torch.optim.Adam
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(2e-3, 0.0)]
    trained = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert trained == {id(p) for p in method.parameters()}
    assert not {"output_range", "output_shift"} & set(dict(method.named_parameters()))
    labels = torch.tensor([3.0, -2, 0, 1])
    batch = replace(batch_of(CASE), labels=labels)
    out = method(batch)
    assert torch.allclose(method.loss(out, batch)["task"], (out.pred - labels).abs().mean())

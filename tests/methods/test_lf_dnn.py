"""What is LF-DNN's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from msabench.methods.lf_dnn import LFDNN
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build

CASE = CASES["lf_dnn_mmsa"]


def test_outputs_are_those_of_the_official_code() -> None:
    assert_as_kept("lf_dnn_mmsa")


@pytest.mark.parametrize(
    ("dims", "sizes", "parameters"),
    [
        ((768, 5, 20), (128, 16, 128, 256, 128), 597_171),  # MOSI
        ((768, 74, 35), (128, 32, 128, 128, 128), 572_283),  # MOSEI
        ((768, 33, 709), (128, 32, 128, 256, 32), 635_821),  # SIMS
    ],
)
def test_sizes_are_those_of_mmsa(dims: tuple[int, ...], sizes: tuple[int, ...], parameters: int) -> None:
    spec = replace(CASE.spec, feature_dims=dict(zip(("text", "audio", "vision"), dims, strict=True)))
    names = ("hidden_text", "hidden_audio", "hidden_vision", "out_text", "fusion_width")
    method = LFDNN(spec, **dict(zip(names, sizes, strict=True)))
    assert sum(p.numel() for p in method.parameters()) == parameters


def test_audio_and_vision_are_averaged_over_all_stored_steps() -> None:
    method, batch = build(CASE), batch_of(CASE)
    pooled = dict(batch.features)
    for modality in ("audio", "vision"):
        mean = batch.features[modality].mean(1, keepdim=True)
        pooled[modality] = mean.expand_as(batch.features[modality])
    with torch.no_grad():
        assert torch.allclose(method(batch).pred, method(replace(batch, features=pooled)).pred, atol=1e-6)


def test_text_is_read_at_the_last_stored_step() -> None:
    """Padding behind a text runs through the LSTM, as in MMSA."""
    method, batch = build(CASE), batch_of(CASE)
    longer = torch.cat([batch.text, torch.zeros(4, 3, 16)], dim=1)
    with torch.no_grad():
        before = method(batch).pred
        after = method(replace(batch, features={**batch.features, "text": longer})).pred
    assert not torch.allclose(before, after, atol=1e-5)

"""The core of ALMT and LNLN: the hyper-modality, its fusion with language, and how clips become tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES
from msabench.nn.clip_tokens import ClipTokens
from msabench.nn.hyper_modality import CrossTransformer, HyperModalityFusion, HyperModalityLayer
from msabench.nn.text import TextInput
from msabench.testing.corpora import data_module, random_corpus
from tests.nn.test_token_transformer import block_by_hand, norm, seeded

DIM, HEADS, TOKENS = 6, 2, 3


def tokens(key: int) -> Tensor:
    return torch.randn(2, TOKENS, DIM, generator=torch.Generator().manual_seed(key))


def layer_by_hand(layer: HyperModalityLayer, language: Tensor, audio: Tensor, vision: Tensor, hyper: Tensor) -> Tensor:
    """Clip by clip, head by head, query by query."""
    asked, hyper = norm(layer.norm_language, language), norm(layer.norm_hyper, hyper)
    sources = (
        (norm(layer.norm_audio, audio), layer.to_k_audio, layer.to_v_audio),
        (norm(layer.norm_vision, vision), layer.to_k_vision, layer.to_v_vision),
    )
    size = DIM // HEADS
    answer = torch.zeros_like(hyper)
    for clip in range(len(hyper)):
        for step in range(TOKENS):
            for head in range(HEADS):
                rows = slice(head * size, (head + 1) * size)
                query = layer.to_q.weight[rows] @ asked[clip, step]
                for source, key, value in sources:
                    scores = torch.stack([query @ (key.weight[rows] @ x) for x in source[clip]]) / math.sqrt(size)
                    shares = scores.exp() / scores.exp().sum()
                    answer[clip, step, rows] += sum(
                        share * (value.weight[rows] @ x) for share, x in zip(shares, source[clip], strict=True)
                    )
    return hyper + answer @ layer.to_out.weight.T + layer.to_out.bias


def cross_by_hand(part: CrossTransformer, source: Tensor, target: Tensor, dim_head: int) -> Tensor:
    token = part.token.expand(len(source), 1, DIM)
    source = torch.cat([token, source], dim=1) + part.source_positions
    target = torch.cat([token, target], dim=1) + part.target_positions
    for block in part.blocks:
        target = block_by_hand(block, target, source, dim_head)
    return target


@torch.no_grad()
def test_layer_by_hand() -> None:
    layer = seeded(HyperModalityLayer, DIM, HEADS)
    inputs = [tokens(key) for key in range(4)]
    torch.testing.assert_close(layer(*inputs), layer_by_hand(layer, *inputs), atol=1e-5, rtol=0)


def test_projections_of_a_layer_have_no_bias_and_its_output_has() -> None:
    names = {name for name, _ in HyperModalityLayer(DIM, HEADS).named_parameters() if not name.startswith("norm")}
    projections = {f"to_{part}_{m}.weight" for part in "kv" for m in ("audio", "vision")}
    assert names == {"to_q.weight", "to_out.weight", "to_out.bias"} | projections


@torch.no_grad()
def test_cross_transformer_by_hand() -> None:
    part = seeded(CrossTransformer, DIM, TOKENS, layers=2, heads=HEADS, dim_head=5)
    source, target = tokens(0), tokens(1)
    torch.testing.assert_close(part(source, target), cross_by_hand(part, source, target, 5), atol=1e-5, rtol=0)
    short = part(source[:, :1], target[:, :2])
    assert short.shape == (2, 3, DIM)


@torch.no_grad()
def test_fusion_by_hand() -> None:
    part = seeded(HyperModalityFusion, DIM, TOKENS, layers=3, fusion_layers=2, heads=HEADS, dim_head=5)
    language, audio, vision = (tokens(key) for key in range(3))
    states = [language + part.language.positions]
    for block in part.language.blocks:
        states.append(block_by_hand(block, states[-1], states[-1], 5))
    hyper = part.hyper.expand(2, -1, -1)
    assert len(part.layers) == len(states) == 3
    for layer, state in zip(part.layers, states, strict=True):
        hyper = layer_by_hand(layer, state, audio, vision, hyper)
    expected = cross_by_hand(part.fusion, hyper, states[-1], 5)
    torch.testing.assert_close(part(language, audio, vision), expected, atol=1e-5, rtol=0)


def test_a_single_layer_reads_language_as_it_comes() -> None:
    part = HyperModalityFusion(DIM, TOKENS, layers=1, fusion_layers=1, heads=HEADS, dim_head=5)
    assert len(part.language.blocks) == 0
    assert part(*(tokens(key) for key in range(3))).shape == (2, 1 + TOKENS, DIM)


def test_starting_values_are_the_official_ones() -> None:
    torch.manual_seed(0)
    part = HyperModalityFusion(64, 40, heads=8)
    assert torch.equal(part.hyper, torch.ones(1, 40, 64))
    assert not part.fusion.token.any()
    for positions in (part.fusion.source_positions, part.fusion.target_positions):
        assert positions.shape == (1, 41, 64)
        assert positions.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("wrong", [{"heads": 4}, {"layers": 0}, {"fusion_layers": 0}, {"heads": 0}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(MSABenchError, match="must be at least 1, and heads must divide dim 6"):
        HyperModalityFusion(DIM, TOKENS, **{"heads": HEADS, **wrong})


@torch.no_grad()
def test_clip_tokens_read_every_modality_with_its_own_embedding() -> None:
    data = data_module(random_corpus())
    embed = seeded(ClipTokens, data.spec, TextInput(data.spec), 8, 3, layers=1, heads=2, dim_head=4)
    batch = data.training_batch(torch.arange(5), 0)
    for m, embedded in embed(batch).items():
        assert embedded.shape == (5, 3, 8)
        assert torch.equal(embedded, embed.tokens[m](batch.features[m]))
    assert tuple(embed(batch)) == MODALITIES

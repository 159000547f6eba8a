"""The block family of ALMT, LNLN, P-RMF and RECAP."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msabench.errors import MSABenchError
from msabench.nn.token_transformer import Attention, Block, TokenEmbedding, TokenTransformer


def seeded(build: type, *args: object, **settings: object) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build(*args, **settings)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return module


def attention_by_hand(part: Attention, q: Tensor, k: Tensor, v: Tensor, dim_head: int) -> Tensor:
    """Head by head, with the softmax written out."""
    joined = []
    for head in range(part.heads):
        rows = slice(head * dim_head, (head + 1) * dim_head)
        query, key, value = (x @ m.weight[rows].T for x, m in ((q, part.to_q), (k, part.to_k), (v, part.to_v)))
        scores = (query @ key.transpose(1, 2) / math.sqrt(dim_head)).exp()
        joined.append(scores / scores.sum(2, keepdim=True) @ value)
    return torch.cat(joined, dim=2) @ part.to_out.weight.T + part.to_out.bias


def norm(layer: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def block_by_hand(block: Block, target: Tensor, source: Tensor, dim_head: int) -> Tensor:
    parts = norm(block.norm_q, target), norm(block.norm_k, source), norm(block.norm_v, source)
    x = target + attention_by_hand(block.attention, *parts, dim_head)
    wide, _, narrow = block.feed_forward
    inner = norm(block.norm, x) @ wide.weight.T + wide.bias
    gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    return x + gelu @ narrow.weight.T + narrow.bias


def test_block_by_hand() -> None:
    block = seeded(Block, 6, heads=2, dim_head=5, hidden=7)
    target, source = torch.randn(3, 4, 6), torch.randn(3, 9, 6)
    assert torch.allclose(block(target, source), block_by_hand(block, target, source, 5), atol=1e-5)
    assert torch.allclose(block(target), block_by_hand(block, target, target, 5), atol=1e-5)


def test_projections_of_attention_have_no_bias() -> None:
    names = {name for name, _ in Attention(6, 2, 5).named_parameters()}
    assert names == {"to_q.weight", "to_k.weight", "to_v.weight", "to_out.weight", "to_out.bias"}


def test_tokens_come_first_and_have_positions() -> None:
    encoder = seeded(TokenTransformer, 6, 5, tokens=2, layers=2, heads=2, dim_head=3)
    x = torch.randn(3, 4, 6)
    expected = torch.cat([encoder.tokens.expand(3, -1, -1), x], dim=1) + encoder.positions[:, :6]
    for block in encoder.blocks:
        expected = block_by_hand(block, expected, expected, 3)
    assert torch.allclose(encoder(x), expected, atol=1e-5)
    assert torch.allclose(encoder(x, keep=2), expected[:, :2], atol=1e-5)


def test_states_begin_with_positions_and_end_with_what_forward_gives() -> None:
    encoder = seeded(TokenTransformer, 6, 5, layers=2, heads=2, dim_head=3)
    x = torch.randn(3, 4, 6)
    states = encoder.states(x)
    assert len(states) == 3
    assert torch.equal(states[0], x + encoder.positions[:, :4])
    assert torch.allclose(states[1], block_by_hand(encoder.blocks[0], states[0], states[0], 3), atol=1e-5)
    assert torch.allclose(states[2], encoder(x), atol=1e-6)


def test_fresh_tokens_are_zero_and_positions_standard_normal() -> None:
    torch.manual_seed(0)
    encoder = TokenTransformer(64, 50, tokens=8)
    assert not encoder.tokens.any()
    assert encoder.positions.shape == (1, 58, 64)
    assert encoder.positions.std().item() == pytest.approx(1, abs=0.05)


def test_embedding_is_linear_map_then_tokens() -> None:
    embedding = seeded(TokenEmbedding, 9, 6, 5, tokens=3, layers=1, heads=2, dim_head=3)
    x = torch.randn(2, 5, 9)
    projected = F.linear(x, embedding.project.weight, embedding.project.bias)
    assert embedding(x).shape == (2, 3, 6)
    assert torch.allclose(embedding(x), embedding.transformer(projected)[:, :3], atol=1e-5)
    assert torch.equal(embedding(x), embedding.encode(embedding.project(x)))


def test_tokens_that_are_not_kept_are_context() -> None:
    embedding = seeded(TokenEmbedding, 9, 6, 5, tokens=4, layers=2, heads=2, dim_head=3, kept=2)
    x = torch.randn(2, 5, 9)
    before = embedding(x)
    assert torch.allclose(before, embedding.transformer(embedding.project(x))[:, :2], atol=1e-5)
    with torch.no_grad():
        embedding.transformer.tokens[:, 3, 0] += 1
    assert not torch.allclose(before, embedding(x), atol=1e-3)


@pytest.mark.parametrize("kept", [0, 5])
def test_no_other_tokens_than_there_are_can_be_kept(kept: int) -> None:
    with pytest.raises(MSABenchError, match=f"{kept} kept tokens are not allowed; give 1 to 4"):
        TokenEmbedding(9, 6, 5, tokens=4, kept=kept)


def test_no_tokens_and_too_long_sequences_are_refused() -> None:
    with pytest.raises(MSABenchError, match="tokens 0 is not allowed"):
        TokenEmbedding(9, 6, 5, tokens=0)
    with pytest.raises(MSABenchError, match="sequence of 8 steps does not fit the 7 positions"):
        TokenEmbedding(9, 6, 5, tokens=2, heads=2)(torch.randn(1, 6, 9))

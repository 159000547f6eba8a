"""Vectors that read a context."""

from __future__ import annotations

import math

import torch

from msabench.nn.perceiver import Attend, Cross, Latents
from tests.support.golden_cases import fill, numbers


def test_attention_by_hand() -> None:
    x, context = numbers((2, 3, 6), 1) * 3, numbers((2, 4, 6), 2) * 3
    attend = Attend(6, 2, keys=4)
    fill(attend)
    q, c = attend.to_q(attend.norm(x)), attend.to_kv(attend.norm_context(context))
    rows = torch.zeros(2, 3, 6)
    for b in range(2):
        for i in range(3):
            for head in (slice(0, 3), slice(3, 6)):
                scores = torch.stack([q[b, i, head] @ c[b, j, :6][head] / math.sqrt(3) for j in range(4)]).exp()
                rows[b, i, head] = sum(scores[j] / scores.sum() * c[b, j, 6:][head] for j in range(4))
    torch.testing.assert_close(attend(x, context), attend.to_out(rows))


def test_of_one_key_attention_is_that_of_many_equal_ones_and_has_no_queries() -> None:
    one, many = Attend(6, 2, keys=1), Attend(6, 2, keys=3)
    fill(many)
    state = {name: value for name, value in many.state_dict().items() if name.split(".")[0] not in ("norm", "to_q")}
    state["to_kv.weight"] = state["to_kv.weight"][6:]
    one.load_state_dict(state)
    x, context = numbers((2, 5, 6), 1), numbers((2, 1, 6), 2)
    torch.testing.assert_close(one(x, context).expand(-1, 5, -1), many(x, context.expand(-1, 3, -1)))


def test_readers_add_what_they_read() -> None:
    reader, cross = Latents(6, 2, 2, 3, keys=2), Cross(6, 2, 2, keys=2)
    for module in (reader, cross):
        fill(module)
    context, start = numbers((2, 2, 6), 2) * 3, numbers((2, 6), 3) * 3
    x = reader.tokens.expand(2, -1, -1)
    for number, layer in enumerate(reader.layers):
        assert (layer.attend.norm_context is None) == bool(number % 2)
        x = x + layer.attend(x, context)
        x = x + layer.feed_forward(x)
    torch.testing.assert_close(reader(context), reader.norm(x.mean(1)))
    y = start[:, None]
    for layer in cross.layers:
        y = y + layer.attend(y, context)
        norm, widen, _, narrow = layer.feed_forward
        value, gate = widen(norm(y)).chunk(2, 2)
        y = y + narrow(value * 0.5 * gate * (1 + torch.erf(gate / 2**0.5)))
    torch.testing.assert_close(cross(start, context), cross.norm(y[:, 0]))


def test_latents_attend_to_one_another_without_the_context() -> None:
    reader = Latents(6, 2, 1, 3, keys=2)
    fill(reader)
    among = reader.layers[1].attend
    x = numbers((2, 3, 6), 4)
    assert torch.equal(among(x, numbers((2, 2, 6), 5)), among(x, numbers((2, 2, 6), 6)))
    moved = x.clone()
    moved[:, 0, 0] += 1
    assert not torch.allclose(among(x, x)[:, 1:], among(moved, moved)[:, 1:], atol=1e-4)

"""The unit of EMT-DLFR and its masks."""

from __future__ import annotations

import numpy as np
import torch

from msabench.nn.promotion_unit import Attention, PromotionUnit
from tests.support.golden_cases import fill, numbers


@torch.no_grad()
def test_attention_by_hand() -> None:
    torch.manual_seed(0)
    part = Attention(6, 2, 0.0)
    x, source = numbers((2, 3, 6), 1) * 4, numbers((2, 5, 6), 2) * 4
    keep = torch.tensor([[True, False, True, True, False], [False] * 5])
    k, v = (source @ weight.T for weight in part.to_kv.weight.chunk(2))
    joined = []
    for head in (slice(0, 3), slice(3, 6)):
        scores = (x @ part.to_q.weight.T)[:, :, head] @ k[:, :, head].transpose(1, 2) / 3**0.5
        weights = (scores.exp() * keep[:, None]).numpy()
        total = weights.sum(2, keepdims=True)
        # A clip with nothing to read weighs all steps alike.
        weights = np.where(total > 0, weights / np.maximum(total, 1e-9), 1 / 5)
        joined.append(torch.tensor(weights, dtype=torch.float32) @ v[:, :, head])
    expected = part.to_out(torch.cat(joined, dim=2))
    torch.testing.assert_close(part(x, source, keep), expected)
    torch.testing.assert_close(part(x, source[:, [0, 2, 3]], None)[0], expected[0])


def test_where_there_is_nothing_to_read_no_score_learns() -> None:
    part = Attention(6, 2, 0.0)
    x, source = numbers((2, 3, 6), 1) * 4, numbers((2, 5, 6), 2) * 4
    part(x, source, torch.zeros(2, 5, dtype=torch.bool)).square().sum().backward()
    keys, values = part.to_kv.weight.grad.chunk(2)  # type: ignore[union-attr]
    assert not part.to_q.weight.grad.any()  # type: ignore[union-attr]
    assert not keys.any()
    assert values.any()


@torch.no_grad()
def test_unit_by_hand() -> None:
    unit = PromotionUnit(6, 2, 0.3, 0.1).eval()
    fill(unit)
    x, source = numbers((2, 3, 6), 1) * 4, numbers((2, 5, 6), 2) * 4
    keep, keep_source = numbers((2, 3), 3) > -0.2, numbers((2, 5), 4) > -0.2
    first = x + unit.cross(unit.norm_cross(x), unit.norm_source(source), keep_source)
    second = first + unit.own(unit.norm_self(first), unit.norm_self(first), keep)
    wide = unit.norm_ff(second) @ unit.to_gate.weight.T + unit.to_gate.bias
    gates = wide[..., 24:]
    gelu = gates * 0.5 * (1 + torch.erf(gates / 2**0.5))
    expected = second + (wide[..., :24] * gelu) @ unit.from_gate.weight.T + unit.from_gate.bias
    torch.testing.assert_close(unit(x, source, keep, keep_source), expected)

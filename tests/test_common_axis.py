"""Clips that begin at step 0, whichever side their file pads on. The axis itself is tested with UMDF."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from msabench.nn.common_axis import from_first_step

STEPS = 7
SPANS = st.lists(st.tuples(st.integers(0, STEPS - 1), st.integers(1, STEPS)), min_size=1, max_size=6)


@given(SPANS)
def test_every_clip_begins_with_its_first_step_and_keeps_the_rest(spans: list[tuple[int, int]]) -> None:
    spans = [(first, min(count, STEPS - first)) for first, count in spans]
    steps = torch.arange(STEPS)
    valid = torch.stack([(steps >= first) & (steps < first + count) for first, count in spans])
    order, lengths = from_first_step(valid)
    assert lengths.tolist() == [count for _, count in spans]
    assert torch.equal(order.sort(1).values, steps.expand(len(spans), STEPS))
    assert torch.equal(valid.gather(1, order), steps < lengths.unsqueeze(1))
    for row, (first, count) in zip(order.tolist(), spans, strict=True):
        assert row[:count] == list(range(first, first + count))

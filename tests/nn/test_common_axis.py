"""Clips that begin at step 0, whichever side their file pads on. The axis itself is tested with UMDF."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from msabench.data.batch import Batch
from msabench.nn.common_axis import from_first_step, on_common_axis

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


def test_modalities_share_the_steps_of_the_text_from_the_first_one_on() -> None:
    """Text is padded in front; audio has twice its steps, of which every pair is alike."""
    valid = {"text": torch.arange(4) >= torch.tensor([[0], [2]]), "audio": torch.ones(2, 8, dtype=torch.bool)}
    valid["vision"] = valid["text"]
    ramp = torch.arange(1.0, 5).view(1, 4, 1)
    features = {"text": ramp * valid["text"].unsqueeze(2), "audio": ramp.repeat_interleave(2, 1).expand(2, -1, -1)}
    batch = Batch({**features, "vision": features["text"]}, valid, valid, {})
    streams, lengths = on_common_axis(batch, features)
    assert lengths.tolist() == [4, 2]
    assert streams["text"].squeeze(2).tolist() == [[1, 2, 3, 4], [3, 4, 0, 0]]
    assert streams["audio"].squeeze(2).tolist() == [[1, 2, 3, 4], [1.5, 3.5, 0, 0]]

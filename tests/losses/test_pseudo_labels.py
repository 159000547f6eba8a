"""Pseudo labels of single modalities, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from msabench.losses.pseudo_labels import PseudoLabels, pseudo_label_loss

BOTH = torch.tensor([0, 1])
HUMAN = torch.tensor([2.0, -1.0])


def one_wide(bound: float = 3.0, clips: int = 2, **settings: bool) -> PseudoLabels:
    return PseudoLabels(clips, {"joint": 1, "text": 1}, bound=bound, **settings)


def column(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


def show(labels: PseudoLabels, index: Tensor, human: Tensor, joint: Tensor, text: Tensor) -> Tensor:
    """Labels that a batch is trained on, before it is taken in."""
    current = labels.labels_of(index, human)["text"]
    labels.update(index, {"joint": joint, "text": text})
    return current


def first_epoch(bound: float = 3.0) -> PseudoLabels:
    """Centres 3 and -1 of the joint branch, 1 and 0 of the text."""
    labels = one_wide(bound)
    assert torch.equal(show(labels, BOTH, HUMAN, column(3.0, -1.0), column(1.0, 0.0)), HUMAN)
    return labels


def text_label(labels: PseudoLabels, clip: int) -> float:
    return labels.branches["text"].labels[clip].item()


def test_labels_are_the_human_ones_in_the_first_epoch() -> None:
    labels = first_epoch()
    assert torch.equal(labels.branches["text"].labels, HUMAN)
    centres = {
        (name, sign): getattr(branch, sign).item()
        for name, branch in labels.branches.items()
        for sign in ("positive", "negative")
    }
    assert centres == {
        ("joint", "positive"): 3,
        ("joint", "negative"): -1,
        ("text", "positive"): 1,
        ("text", "negative"): 0,
    }


def test_second_epoch_moves_two_thirds_of_the_way() -> None:
    labels = first_epoch()
    # joint: |2 + 1| = 3 from below, |2 - 3| = 1 from above, delta 2; text: halfway, delta 0.
    # new = (0 / 2 * 2 + 2 + 0 - 2) / 2 = 0; label = 1/3 * 2 + 2/3 * 0.
    before = show(labels, BOTH[:1], HUMAN[:1], column(2.0), column(0.5))
    assert before.item() == 2.0
    assert text_label(labels, 0) == pytest.approx(2 / 3)
    assert labels.branches["joint"].labels[0] == 2.0
    # The other clip now meets the centres 2 and 0.5 that the first one left.
    # joint 0: |0 + 1| = 1, |0 - 2| = 2, delta -1/2; text 0.2: 0.2 and 0.3, delta -1/3, ratio 2/3.
    # new = (2/3 * -1 - 1 - 1/3 + 1/2) / 2 = -3/4; label = 1/3 * -1 + 2/3 * -3/4.
    show(labels, BOTH[1:], HUMAN[1:], column(0.0), column(0.2))
    assert text_label(labels, 1) == pytest.approx(-1 / 3 - 1 / 2)


def test_third_epoch_moves_half_of_the_way() -> None:
    labels = first_epoch()
    for joint, text in ((2.0, 0.5), (1.0, 0.25)):
        show(labels, BOTH[:1], HUMAN[:1], column(joint), column(text))
    # Centres 2 and -1, 0.5 and 0. joint 1: 2 and 1, delta 1; text 0.25: halfway, delta 0.
    # new = (0 + 2 + 0 - 1) / 2 = 1/2; label = 1/2 * 2/3 + 1/2 * 1/2.
    assert text_label(labels, 0) == pytest.approx(1 / 3 + 1 / 4)


def test_labels_are_bounded() -> None:
    labels = first_epoch(bound=2.5)
    # text 0.99: 0.99 and 0.01, delta 98; joint as before, delta 2; new = (49 * 2 + 2 + 98 - 2) / 2 = 98.
    show(labels, BOTH[:1], HUMAN[:1], column(2.0), column(0.99))
    assert text_label(labels, 0) == pytest.approx(2 / 3 + 2.5 * 2 / 3)


def test_centres_average_what_was_last_seen_of_every_clip() -> None:
    labels = one_wide(clips=4)
    index, human = torch.arange(3), torch.tensor([1.0, 2.0, -1.0])
    show(labels, index, human, column(1.0, 5.0, -2.0), column(0.0, 0.0, 0.0))
    assert labels.branches["joint"].positive.item() == 3.0
    show(labels, index[:1], human[:1], column(3.0), column(0.0))
    assert labels.branches["joint"].positive.item() == 4.0
    # A clip that is first seen now keeps its label, and counts in the centres.
    late = show(labels, torch.tensor([3]), torch.tensor([0.5]), column(1.0), column(0.0))
    assert late.item() == text_label(labels, 3) == 0.5
    assert labels.branches["joint"].positive.item() == 3.0


@pytest.mark.parametrize(("zero_is_positive", "positive"), [(False, 4.0), (True, 3.0)])
def test_clips_with_label_zero_belong_to_no_class_or_to_the_positive_one(
    zero_is_positive: bool, positive: float
) -> None:
    labels = one_wide(clips=4, zero_is_positive=zero_is_positive)
    # One clip is never seen; its label is no 0.
    show(labels, torch.arange(3), torch.tensor([1.0, 0.0, -1.0]), column(4.0, 2.0, 1.0), column(0.0, 0.0, 0.0))
    assert labels.branches["joint"].positive.item() == positive
    assert labels.branches["joint"].negative.item() == 1.0


def test_a_class_without_clips_keeps_its_centre() -> None:
    labels = one_wide()
    for _ in range(3):
        show(labels, BOTH[:1], HUMAN[:1], column(1.0), column(1.0))
    assert labels.branches["joint"].negative.item() == 0.0
    assert all(torch.isfinite(value).all() for value in labels.state_dict().values())


def test_memory_travels_with_the_state() -> None:
    labels, again = first_epoch(), one_wide()
    again.load_state_dict(labels.state_dict())
    for memory in (labels, again):
        show(memory, BOTH[:1], HUMAN[:1], column(2.0), column(0.5))
    for key, value in labels.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert not list(labels.parameters())


def test_losses_are_weighted_by_how_far_labels_have_moved() -> None:
    pred = torch.tensor([1.0, 0.0], requires_grad=True)
    pseudo, human = torch.tensor([0.5, -1.0]), torch.tensor([2.0, -1.0])
    loss = pseudo_label_loss(pred, pseudo, human)
    assert loss.item() == pytest.approx(math.tanh(1.5) * 0.5 / 2)
    loss.backward()
    assert pred.grad is not None
    assert pred.grad.tolist() == pytest.approx([math.tanh(1.5) / 2, 0.0])


def test_losses_are_those_of_the_labels_before_the_batch() -> None:
    labels = first_epoch()
    pred = {"text": torch.tensor([0.0])}
    seen = []
    for _ in range(3):
        features = {"joint": column(2.0).requires_grad_(), "text": column(0.5)}
        seen.append(labels.losses(pred, features, HUMAN[:1], BOTH[:1])["text"].item())
    # The label is 2, then 2/3 (see above), and it moves on.
    assert seen[:2] == pytest.approx([0.0, math.tanh(4 / 3) * 2 / 3])
    assert seen[2] != seen[1]
    assert not any(buffer.requires_grad for buffer in labels.buffers())

"""The CTC aligner: its sum and its loss against loops over steps and paths, and what becomes of a batch."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.missingness.conditions import MODALITIES, Cell
from msabench.nn.ctc_aligner import ALIGNED, AlignToText, CTCAligner, ctc_loss
from msabench.testing.corpora import data_module, random_corpus, with_other_content

STEPS = {"text": 4, "audio": 9, "vision": 6}


def batches(cell: str = "lav", **changes: object) -> tuple[AlignToText, Batch]:
    """An aligner, and the test split under a condition."""
    data = data_module(random_corpus(steps=STEPS, **changes))
    torch.manual_seed(0)
    return AlignToText(data.spec).eval(), next(iter(data.cell_batches(Cell.parse(f"inter/{cell}"), 0)))


def test_every_target_step_is_a_sum_over_the_source() -> None:
    torch.manual_seed(0)
    aligner, x = CTCAligner(3, 4), torch.randn(2, 5, 3)
    aligned, scores = aligner(x)
    assert aligned.shape == (2, 4, 3)
    assert scores.shape == (2, 5, 5)
    states, _ = aligner.position(x)
    for clip in range(2):
        shares = torch.stack([state.exp() / state.exp().sum() for state in states[clip]])
        for t in range(4):
            expected = sum(shares[s, t + 1] * x[clip, s] for s in range(5))
            torch.testing.assert_close(aligned[clip, t], expected)


def test_the_blank_takes_its_share_away() -> None:
    aligner = CTCAligner(3, 4)
    with torch.no_grad():
        for weight in aligner.parameters():
            weight.zero_()
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(aligner(x)[0], (x.sum(1, keepdim=True) / 5).expand(2, 4, 3))


def collapsed(path: tuple[int, ...]) -> list[int]:
    """Labels of a path: repetitions are one label, blanks none."""
    return [p for before, p in zip((0, *path), path, strict=False) if p not in (0, before)]


@pytest.mark.parametrize(("source", "target"), [(1, 1), (3, 1), (4, 2), (5, 3), (3, 3)])
def test_loss_sums_over_all_paths(source: int, target: int) -> None:
    torch.manual_seed(source)
    scores = 2 * torch.randn(2, source, target + 1)
    shares = scores.softmax(2)
    for clip, loss in enumerate(ctc_loss(scores)):
        total = sum(
            torch.stack([shares[clip, s, label] for s, label in enumerate(path)]).prod()
            for path in product(range(target + 1), repeat=source)
            if collapsed(path) == list(range(1, target + 1))
        )
        assert isinstance(total, Tensor)
        torch.testing.assert_close(loss, -total.log())


def test_too_few_source_steps_have_no_loss() -> None:
    scores = torch.randn(2, 3, 5, requires_grad=True)
    loss = ctc_loss(scores)
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0]
    assert scores.grad is not None
    assert not scores.grad.any()


def test_an_aligner_learns_to_go_through_the_targets_in_order() -> None:
    torch.manual_seed(0)
    aligner, x = CTCAligner(3, 4), torch.randn(6, 12, 3)
    optimizer = torch.optim.Adam(aligner.parameters(), lr=0.03)
    before = ctc_loss(aligner(x)[1]).min()
    for _ in range(60):
        optimizer.zero_grad()
        ctc_loss(aligner(x)[1]).sum().backward()
        optimizer.step()
    _, scores = aligner(x)
    assert ctc_loss(scores).max() < before - 2
    thirds = scores.softmax(2)[:, :, 1:].unflatten(1, (3, 4)).sum(2)
    places = (thirds * torch.arange(1, 5)).sum(2) / thirds.sum(2)
    assert (places.diff(dim=1) > 0.2).all()


def test_no_place_gets_more_than_its_limit_of_a_step() -> None:
    """All states at their ends: 1 at one place, -1 at the others."""
    aligner = CTCAligner(1, 50)
    with torch.no_grad():
        for weight in aligner.parameters():
            weight.zero_()
        gates = aligner.position.bias_ih_l1.view(4, 51)  # in, forget, what is written, out
        gates[:] = 50.0
        gates[2] = -50.0
        gates[2, 7] = 50.0
    share = aligner(torch.ones(1, 30, 1))[1].softmax(2)[0, -1, 7]
    torch.testing.assert_close(share, torch.tensor(torch.e**2 / (torch.e**2 + 50)))


def test_a_batch_is_brought_onto_the_words() -> None:
    align, batch = batches()
    aligned, scores = align(batch)
    for m in ALIGNED:
        assert torch.equal(aligned.features[m], align.aligners[m](batch.features[m])[0])
        assert torch.equal(aligned.valid[m], batch.valid["text"])
        assert torch.equal(aligned.observed[m], batch.valid["text"])
        assert torch.equal(aligned.last[m], batch.last["text"])
        assert scores[m].shape == (batch.size, STEPS[m], STEPS["text"] + 1)
    assert aligned.text is batch.text
    assert aligned.observed["text"] is batch.observed["text"]


def test_a_removed_modality_stays_removed_and_has_no_loss() -> None:
    align, batch = batches("la")
    aligned, scores = align(batch)
    assert not aligned.vision.any()
    assert not aligned.observed["vision"].any()
    assert aligned.observed["audio"].any(1).all()
    torch.testing.assert_close(align.loss(scores, batch), ctc_loss(scores["audio"]))
    align, batch = batches("lav")
    scores = align(batch)[1]
    torch.testing.assert_close(align.loss(scores, batch), ctc_loss(scores["audio"]) + ctc_loss(scores["vision"]))


@pytest.mark.parametrize("removed", MODALITIES)
def test_nothing_of_a_removed_modality_is_told(removed: str) -> None:
    letters = {"text": "av", "audio": "lv", "vision": "la"}[removed]
    corpus = random_corpus(steps=STEPS)
    found = []
    for each in (corpus, with_other_content(corpus, removed)):
        data = data_module(each)
        torch.manual_seed(0)
        batch = next(iter(data.cell_batches(Cell.parse(f"inter/{letters}"), 0)))
        found.append(AlignToText(data.spec)(batch)[0])
    for m in MODALITIES:
        assert torch.equal(found[0].features[m], found[1].features[m])
        assert torch.equal(found[0].valid[m], found[1].valid[m])
        assert torch.equal(found[0].observed[m], found[1].observed[m])


def test_without_any_word_all_steps_exist() -> None:
    align, batch = batches()
    batch.valid["text"] = torch.zeros_like(batch.valid["text"])
    assert align(batch)[0].valid["audio"].all()

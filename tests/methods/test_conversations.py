"""Conversations: from ids, through the data module, to a method and back into the order of the file."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msabench.data.batch import Batch, stacked
from msabench.data.conversations import Conversations
from msabench.data.datamodule import MSADataModule
from msabench.data.needs import Needs
from msabench.data.rows import RowLoader
from msabench.errors import MSABenchError
from msabench.evaluation.evaluate import evaluate_grid
from msabench.methods.base import Output
from msabench.methods.lf_dnn import LFDNN
from msabench.missingness.conditions import Cell
from msabench.nn.conversations import ConversationLayout
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus

SHUFFLED = ["b$_$10", "a$_$2", "b$_$9", "lone", "a$_$1", "b$_$1"]


def test_clips_of_a_video_are_ordered_by_number_and_others_stand_alone() -> None:
    found = Conversations.of(SHUFFLED)
    assert found.number.tolist() == [0, 1, 0, 2, 1, 0]
    assert found.turn.tolist() == [2, 1, 1, 0, 0, 0]
    assert [rows.tolist() for rows in found.rows] == [[5, 2, 0], [4, 1], [3]]
    assert found.sizes == (3, 2, 1)
    assert len(found) == 3


def test_times_in_ids_count_as_numbers_and_a_lone_clip_is_not_the_video_of_its_name() -> None:
    by_time = Conversations.of(["v$_$10.5-12.0", "v$_$9.25-10.5", "v$_$100-101", "v"])
    assert by_time.turn.tolist() == [1, 0, 2, 0]
    assert by_time.number.tolist() == [0, 0, 0, 1]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_packed_batches_hold_whole_conversations_and_every_clip_once(videos: list[int], size: int) -> None:
    found = Conversations.of([f"v{video}$_${row}" for row, video in enumerate(videos)])
    batches = found.packed(size)
    assert torch.equal(torch.cat(batches), found.order)
    assert sorted(found.order.tolist()) == list(range(len(videos)))
    assert torch.equal(found.order[found.place], torch.arange(len(videos)))
    homes = [set(found.number[rows].tolist()) for rows in batches]
    assert sum(map(len, homes)) == len(found)
    assert all(len(rows) <= size or len(home) == 1 for rows, home in zip(batches, homes, strict=True))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=25), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_layout_puts_every_clip_at_its_turn_and_back(videos: list[int], random: object) -> None:
    found = Conversations.of([f"v{video}$_${row}" for row, video in enumerate(videos)])
    order = list(range(len(videos)))
    random.shuffle(order)  # type: ignore[attr-defined]
    rows = torch.tensor(order)
    layout = ConversationLayout.of(batch_of(found.number[rows], found.turn[rows]))
    content = torch.stack([found.number[rows], found.turn[rows]], dim=1).float() + 1
    padded = layout.pad(content)
    assert torch.equal(layout.unpad(padded), content)
    assert torch.equal(padded.ne(0).all(-1), layout.mask)
    assert layout.lengths.tolist() == list(torch.bincount(found.number))
    for step in range(layout.shape[0]):
        for column in range(layout.shape[1]):
            if layout.mask[step, column]:
                assert padded[step, column].tolist() == [column + 1, step + 1]


def test_layout_closes_ranks_and_can_leave_every_clip_alone() -> None:
    batch = batch_of(torch.tensor([7, 3, 7]), torch.tensor([4, 0, 1]))
    layout = ConversationLayout.of(batch)
    assert layout.column.tolist() == [1, 0, 1]
    assert layout.step.tolist() == [1, 0, 0]
    for alone in (
        ConversationLayout.of(batch, context=False),
        ConversationLayout.of(replace(batch, conversation=None)),
    ):
        assert alone.shape == (1, 3)
        assert alone.mask.all()


def test_versions_of_the_same_clips_are_conversations_of_their_own() -> None:
    batch = data_module(random_corpus()).training_batch(torch.arange(6), 0)
    both = ConversationLayout.of(stacked(batch, batch))
    assert both.lengths.tolist() == [2] * 6


@given(videos=st.integers(1, 12), size=st.integers(1, 5), world=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_devices_share_a_batch_by_whole_conversations(videos: int, size: int, world: int) -> None:
    found = Conversations.of([f"v{row % videos}$_${row}" for row in range(30)])
    settings_ = {"order": lambda _: torch.arange(len(found)).flip(0), "world_size": world}
    if min(size, len(found) % size or size) < world:
        with pytest.raises(MSABenchError, match="conversations cannot be shared"):
            RowLoader("train", found.rows, size, **settings_)
        return
    parts = [list(RowLoader("train", found.rows, size, rank=rank, **settings_)) for rank in range(world)]
    whole = list(RowLoader("train", found.rows, size, order=settings_["order"]))
    for step, rows in enumerate(whole):
        shares = [parts[rank][step].index for rank in range(world)]
        assert torch.equal(torch.cat(shares), rows.index)
        homes = [set(found.number[share].tolist()) for share in shares]
        assert sum(map(len, homes)) == len(set.union(*homes))


class Neighbours(LFDNN):
    """Predicts how many clips of its conversation the batch holds, and the clip's own row in the representation."""

    @property
    def data_needs(self) -> Needs:
        return replace(super().data_needs, conversations=True)

    def forward(self, batch: Batch) -> Output:
        layout = ConversationLayout.of(batch)
        seen.append(sorted(layout.lengths.tolist()))
        own = batch.audio[:, 0]
        return Output(pred=layout.lengths[layout.column].float() + 0 * super().forward(batch).pred, representation=own)


seen: list[list[int]] = []


def neighbours(data: MSADataModule) -> Neighbours:
    return Neighbours(data.spec, **LFDNN.info.smoke)


@pytest.mark.parametrize("batch_size", [1, 4, 96])
def test_evaluation_gives_whole_conversations_and_answers_in_file_order(batch_size: int) -> None:
    data = data_module(random_corpus())  # ten test clips of three videos in turn: 4, 3, 3
    evaluation = evaluate_grid(neighbours(data), data, [Cell()], [0], batch_size=batch_size, keep_representations=True)
    (cell,) = evaluation.cells
    assert cell.preds.tolist() == [4, 3, 3, 4, 3, 3, 4, 3, 3, 4]
    assert torch.equal(torch.from_numpy(cell.representation), data.corpus.splits["test"].features["audio"][:, 0])


def test_training_counts_conversations_and_predict_keeps_the_order_of_the_batches(tmp_path: object) -> None:
    data = data_module(random_corpus(), batch_size=2, grid=["inter/lav"])
    method = neighbours(data)
    seen.clear()
    trainer = quiet_trainer(tmp_path, 1, limit_val_batches=0)  # type: ignore[arg-type]
    trainer.fit(method, datamodule=data)
    assert sorted(seen) == [[8], [8, 8]]  # 24 clips of three videos, two videos in a batch
    parts: list[Tensor] = trainer.predict(method, datamodule=data)  # type: ignore[assignment]
    rows = data.in_file_order(torch.cat(parts), needs=method.data_needs)
    assert rows.tolist() == [4, 3, 3, 4, 3, 3, 4, 3, 3, 4]


def batch_of(number: Tensor, turn: Tensor) -> Batch:
    """A batch of nothing but conversations."""
    valid = {"text": torch.ones(len(number), 1, dtype=torch.bool)}
    return Batch(
        {}, valid, valid, {"text": torch.zeros(len(number), dtype=torch.int64)}, conversation=number, turn=turn
    )

"""``msabench.masks``: the very masks of the batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import msabench as mb
from msabench.evaluation.observed import observed
from msabench.missingness.conditions import Cell
from msabench.missingness.patterns import mask_hash
from tests.api.conftest import own_file


def assert_same(found: dict[str, dict[str, np.ndarray]], ids: list[str], batch: mb.Batch) -> None:
    assert list(found) == ids
    for modality in ("text", "audio", "vision"):
        rows = np.stack([found[clip][modality] for clip in ids])
        assert rows.dtype == bool
        assert np.array_equal(rows, batch.observed[modality].numpy())


@pytest.mark.parametrize("cell", ["inter/la", "intra/0.3", "inter/v+intra/0.5", "intra/1.0"])
def test_masks_of_a_cell_are_those_of_its_batches(cell: str, elsewhere: Path) -> None:
    data = mb.load(own_file(elsewhere / "mine.npz"), lengths="keep")
    for mask_seed in (0, 3):
        [batch] = data.cell_batches(Cell.parse(cell), mask_seed)
        assert_same(mb.masks(data, cell, mask_seed=mask_seed), data.corpus.splits["test"].ids, batch)
    seeds = [mb.masks(data, cell, mask_seed=seed) for seed in (0, 3)]
    differ = any((seeds[0][clip][m] != seeds[1][clip][m]).any() for clip in seeds[0] for m in ("text", "vision"))
    assert differ == Cell.parse(cell).is_random


def test_masks_of_a_regime_are_those_that_train_and_select(elsewhere: Path) -> None:
    data = mb.load(own_file(elsewhere / "mine.npz"), regime="mixed", seed=5)
    ids = data.corpus.splits["train"].ids
    for epoch in (0, 2):
        assert_same(mb.masks(data, split="train", epoch=epoch), ids, data.training_batch(torch.arange(len(ids)), epoch))
    ids = data.corpus.splits["valid"].ids
    assert_same(mb.masks(data, split="valid"), ids, data.validation_batch(torch.arange(len(ids))))


def test_the_hash_is_that_of_records(data: mb.MSADataModule) -> None:
    cell = Cell.parse("intra/0.3")
    found = observed(data, cell, 1)
    assert found.hash == mask_hash(data.cell_masks(cell, 1))
    [entry] = mb.evaluate(lambda batch: batch.text.sum(dim=(1, 2)), data, "intra/0.3", [1]).evaluation.cells
    assert found.hash == entry.mask_hash


def test_a_removed_modality_keeps_its_length_to_itself(elsewhere: Path) -> None:
    file = own_file(elsewhere / "mine.npz")
    hidden, kept = (observed(mb.load(file, lengths=way), Cell("l"), 0) for way in ("hide", "keep"))
    assert hidden.valid["audio"].all()
    assert not kept.valid["audio"].all()
    assert not hidden.observed["audio"].any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give a cell, e.g. inter/la"),
        ({"split": "dev"}, "'dev'"),
        ({"cell": "inter/xy"}, "unknown modality condition 'xy'|unknown cell"),
        ({"cell": "inter/la", "epoch": 1}, "epoch 1"),
        ({"split": "train"}, "give epoch"),
        ({"split": "valid", "epoch": 1}, "leave epoch 1 out"),
        ({"split": "train", "epoch": 1, "mask_seed": 1}, "leave mask_seed 1 out"),
        ({"cell": "inter/la", "mask_seed": -1}, "mask seed -1"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], words: str, data: mb.MSADataModule) -> None:
    with pytest.raises(mb.MSABenchError, match=words):
        mb.masks(data, **arguments)


def test_no_validation_masks_where_the_test_split_selects(elsewhere: Path) -> None:
    data = mb.load("synth", size=(24, 8, 10), length=8, selection="test_best")
    with pytest.raises(mb.MSABenchError, match="looks at no validation clips"):
        mb.masks(data, split="valid")

"""The data module: order, shares of devices, what reaches a method, normalisation."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msabench.data.batch import Batch
from msabench.data.datamodule import MSADataModule
from msabench.data.needs import Needs
from msabench.data.normalise import statistics
from msabench.data.rows import RowLoader, train_order
from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES, Cell
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus

MIXED = MissingConfig(regime="mixed")


@given(n=st.integers(1, 60), size=st.integers(1, 20), world=st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_shares_of_devices_make_up_the_batches_of_one(n: int, size: int, world: int) -> None:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    if min(size, n % size or size) < world:
        with pytest.raises(MSABenchError, match="cannot be shared"):
            RowLoader("train", n, size, order=lambda _: order, world_size=world)
        return
    single = [rows.index for rows in RowLoader("train", n, size, order=lambda _: order)]
    parts = [list(RowLoader("train", n, size, order=lambda _: order, rank=r, world_size=world)) for r in range(world)]
    assert [len(p) for p in parts] == [len(single)] * world
    for step, whole in enumerate(single):
        assert torch.equal(torch.cat([parts[rank][step].index for rank in range(world)]), whole)


def test_training_order_is_a_permutation_that_depends_on_seed_epoch_and_pass_alone() -> None:
    torch.manual_seed(0)
    order = train_order(3, 0, 0, 24)
    torch.manual_seed(1)
    assert torch.equal(order, train_order(3, 0, 0, 24))
    assert sorted(order.tolist()) == list(range(24))
    for other in ((4, 0, 0), (3, 1, 0), (3, 0, 1)):
        assert not torch.equal(order, train_order(*other, 24))
    # As it was when the records were made.
    assert order[:6].tolist() == [5, 2, 11, 4, 8, 21]


class Method(pl.LightningModule):
    """All that the data module looks at."""

    data_needs = Needs(complete=True, tokens=True, passes=2)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[Batch] = []

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.batches.append(batch)

    def configure_optimizers(self) -> None:
        return None


def test_a_trainer_hands_over_the_needs_of_its_method(tmp_path: Path) -> None:
    data, method = data_module(random_corpus(), batch_size=8), Method()
    assert data.needs == Needs()
    assert len(data.train_dataloader()) == 3
    quiet_trainer(tmp_path, 1, limit_val_batches=0).fit(method, datamodule=data)
    assert data.needs == method.data_needs
    assert len(method.batches) == 6
    assert all(batch.complete is not None and batch.tokens is not None for batch in method.batches)
    assert all(batch.views is None for batch in method.batches)


def test_masks_of_a_clip_do_not_depend_on_its_batch() -> None:
    data = data_module(random_corpus(), missing=MIXED)
    whole = data.training_batch(torch.arange(24), 5, needs=Needs(views=True))
    for rows in (torch.tensor([7]), torch.tensor([23, 0, 7]), torch.arange(24).flip(0)):
        part = data_module(random_corpus(), missing=MIXED).training_batch(rows, 5, needs=Needs(views=True))
        for modality in MODALITIES:
            assert torch.equal(part.observed[modality], whole.observed[modality][rows])
            assert torch.equal(part.features[modality], whole.features[modality][rows])
            assert torch.equal(part.views[1].features[modality], whole.views[1].features[modality][rows])


def test_training_masks_change_with_the_epoch_and_validation_masks_do_not() -> None:
    data = data_module(random_corpus(), missing=MissingConfig(regime="intra", rate=(0.5, 0.5)))
    rows = torch.arange(8)
    one, two = (data.training_batch(rows, epoch).observed["text"] for epoch in (0, 1))
    assert not torch.equal(one, two)
    before = data.validation_batch(rows).observed["text"]
    data.training_batch(rows, 3)
    assert torch.equal(before, data.validation_batch(rows).observed["text"])


def test_training_only_information_is_given_on_request_alone() -> None:
    data = data_module(random_corpus(), missing=MIXED)
    plain = data.training_batch(torch.arange(6), 0)
    assert plain.views is None
    assert plain.complete is None
    assert plain.index.tolist() == list(range(6))
    rich = data.training_batch(torch.arange(6), 0, needs=Needs(views=True, complete=True))
    assert torch.equal(rich.views[0].text, rich.text)
    assert rich.views[0].labels is None
    assert rich.views[1].labels is None
    assert torch.equal(rich.complete.text, data.corpus.splits["train"].features["text"][:6])
    for batch in (data.validation_batch(torch.arange(6)), next(data.cell_batches(Cell("la"), 0))):
        assert batch.views is None
        assert batch.complete is None
        assert batch.index is None


def test_selection_on_test_uses_the_test_split() -> None:
    corpus = random_corpus()
    batch = data_module(corpus, selection="test_best").validation_batch(torch.arange(10))
    assert torch.equal(batch.labels, corpus.splits["test"].labels)
    assert len(data_module(corpus).val_dataloader()) == 1


def test_zscore_uses_existing_training_frames_and_survives_a_checkpoint() -> None:
    corpus = random_corpus()
    corpus.splits["train"].features["audio"][..., 2] = 0.0
    data = data_module(corpus)
    data.normalise = "zscore"
    train = corpus.splits["train"]
    valid = torch.arange(8)[None, :] < train.lengths["text"][:, None]
    frames = train.features["text"][valid]
    batch = data.training_batch(torch.arange(24), 0)
    assert torch.allclose(batch.text[valid], (frames - frames.mean(0)) / frames.std(0, unbiased=False), atol=1e-4)
    assert torch.equal(batch.text[~valid], torch.zeros_like(batch.text[~valid]))
    assert torch.isfinite(batch.audio).all()

    rebuilt = MSADataModule.from_state(data.state_dict())
    other = random_corpus(seed=9)
    rebuilt._corpus = other
    ours = next(data_for(other, data).cell_batches(Cell(), 0))
    assert torch.equal(next(rebuilt.cell_batches(Cell(), 0)).text, ours.text)


def test_zscore_statistics_are_those_of_two_plain_passes_to_the_last_bit() -> None:
    corpus = random_corpus()
    split = corpus.splits["train"]
    found = statistics(split, corpus.padding, chunk=7)
    valid = torch.arange(8)[None, :] < split.lengths["text"][:, None]
    parts = [split.features["text"][i : i + 7][valid[i : i + 7]].double() for i in range(0, len(split), 7)]
    total = torch.zeros(split.features["text"].shape[2], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in parts:
        total += part.sum(0)
    mean = total / valid.sum()
    for part in parts:
        squares += (part - mean).square().sum(0)
    assert torch.equal(found["text"][0], mean.float())
    assert torch.equal(found["text"][1], (squares / valid.sum()).sqrt().float())


def data_for(corpus: object, trained: MSADataModule) -> MSADataModule:
    made = data_module(corpus)
    made.normalise = "zscore"
    made._scale = trained._scale
    return made


def test_bad_settings_are_named() -> None:
    with pytest.raises(MSABenchError, match="batch_size 0"):
        MSADataModule("custom", batch_size=0)
    with pytest.raises(MSABenchError, match="unknown dataset 'mosy'"):
        MSADataModule("mosy")
    with pytest.raises(MSABenchError, match="unknown modality condition 'x'"):
        MSADataModule("custom", grid=["inter/x"])
    with pytest.raises(MSABenchError, match=r"missing rate '1\.5'"):
        MSADataModule("custom", grid=["intra/1.5"])
    with pytest.raises(MSABenchError, match=r"missing rate range \[0\.5, 1\.5\]"):
        MissingConfig(regime="intra", rate=(0.5, 1.5))

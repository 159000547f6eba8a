"""Methods that train in stages, and in turns."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.datamodule import MSADataModule
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod, Output
from msabench.methods.checkpoint import load_checkpoint
from msabench.methods.info import MethodInfo
from msabench.methods.schedules import warmup_cosine
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from msabench.training.callbacks import StopEarly
from msabench.training.keep_best import KeepBest
from msabench.training.run_folder import RunFolder


class Staged(MSAMethod):
    """Two stages; in the first, two parts take turns."""

    info = MethodInfo(name="staged", title="t", venue="v", year=2026, url="u", fidelity="reference")
    schedule: ClassVar[dict[str, tuple[str, ...]]] = {"first": ("one", "two"), "task": ("main",)}

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        first_epochs: int = 2,
        lr: float = 1e-3,
        lr_patience: int | None = None,
        gradient_clip: float | None = None,
    ) -> None:
        super().__init__(spec, variant=variant, lr=lr, lr_patience=lr_patience, gradient_clip=gradient_clip)
        self.stage_epochs = {"first": first_epochs}
        self.one = nn.Linear(spec.feature_dims["text"], 1)
        self.two = nn.Linear(spec.feature_dims["text"], 1)
        self.head = nn.Linear(1, 1)
        self.dropout = nn.Dropout(0.3)
        self.seen: list[tuple[str, str]] = []
        self.frozen_in_turn: list[tuple[str, bool, bool]] = []

    def prepare_stage(self, stage: str) -> None:
        if stage == "task":
            self.one.requires_grad_(False)

    def param_groups(self) -> list[dict[str, Any]]:
        part = {"one": self.one, "two": self.two}.get(self.turn, self)
        return [{"params": [p for p in part.parameters() if p.requires_grad]}]

    def forward(self, batch: Batch) -> Output:
        mean = self.dropout(batch.text.mean(1))
        return Output(pred=self.head(self.one(mean) + self.two(mean)).squeeze(-1))

    def training_forward(self, batch: Batch) -> Output:
        self.seen.append((self.stage, self.turn))
        self.frozen_in_turn.append((self.turn, self.one.weight.requires_grad, self.two.weight.requires_grad))
        if self.stage == "task":
            return self(batch)
        mean = batch.text.mean(1)
        return Output(pred=(self.one(mean) + self.two(mean)).squeeze(-1))

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        assert batch.labels is not None
        return {"task": self.task_loss(out.pred, batch.labels)}


def trainer(folder: Path, epochs: int, *callbacks: pl.Callback) -> pl.Trainer:
    keeps = any(isinstance(c, KeepBest) for c in callbacks)
    return quiet_trainer(folder, epochs, callbacks=list(callbacks), enable_checkpointing=keeps)


def corpus_and_method(**settings: Any) -> tuple[MSADataModule, Staged]:
    data = data_module(random_corpus(), batch_size=12)
    torch.manual_seed(0)
    return data, Staged(data.spec, **settings)


class Snapshots(pl.Callback):
    """Weights after each epoch."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.rates: list[list[float]] = []
        self.stages: list[str] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Staged)
        self.weights.append({key: value.clone() for key, value in pl_module.state_dict().items()})
        self.stages.append(pl_module.stage)


def test_stages_follow_one_another_and_turns_alternate(tmp_path: Path) -> None:
    data, method = corpus_and_method()
    snapshots = Snapshots()
    trainer(tmp_path, 4, snapshots).fit(method, datamodule=data)
    # 24 clips in batches of 12: two batches an epoch.
    assert method.seen == [("first", "one"), ("first", "two")] * 4 + [("task", "main")] * 4
    assert snapshots.stages == ["first", "first", "task", "task"]
    before, after = snapshots.weights[1], snapshots.weights[3]
    assert torch.equal(before["one.weight"], after["one.weight"])
    assert not torch.equal(before["two.weight"], after["two.weight"])
    assert torch.equal(snapshots.weights[0]["head.weight"], before["head.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_in_a_turn_the_others_are_frozen(tmp_path: Path) -> None:
    data, method = corpus_and_method()
    trainer(tmp_path, 3).fit(method, datamodule=data)
    assert set(method.frozen_in_turn) == {("one", True, False), ("two", False, True), ("main", False, True)}


def test_each_turn_steps_as_if_alone(tmp_path: Path) -> None:
    """A hand-written loop of two optimisers gives the same weights."""
    data, method = corpus_and_method(first_epochs=1)
    snapshots = Snapshots()
    trainer(tmp_path, 2, snapshots).fit(method, datamodule=data)

    _, expected = corpus_and_method(first_epochs=1)
    optimizers = [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (expected.one, expected.two)]
    for batch in _batches(data):
        for optimizer in optimizers:
            expected.zero_grad()
            expected.loss(expected.training_forward(batch), batch)["task"].backward()
            optimizer.step()
    for part in ("one", "two"):
        assert torch.allclose(getattr(expected, part).weight, snapshots.weights[0][f"{part}.weight"], atol=1e-6)


def _batches(data: MSADataModule) -> list[Batch]:
    """The first epoch's batches, in the order of a fit."""
    caught: list[Batch] = []

    class Catch(Staged):
        def training_forward(self, batch: Batch) -> Output:
            if self.turn == "one":
                caught.append(batch)
            return super().training_forward(batch)

    torch.manual_seed(0)
    trainer(Path(), 2).fit(Catch(data.spec, first_epochs=1), datamodule=data)
    return caught


def test_gradients_of_turns_are_clipped(tmp_path: Path) -> None:
    data, method = corpus_and_method(gradient_clip=1e-12, first_epochs=1)
    norms: list[float] = []

    class Norms(pl.Callback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
            grads = [p.grad.norm() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norms.append(float(torch.stack(grads).norm()))

    trainer(tmp_path, 2, Norms()).fit(method, datamodule=data)
    assert norms
    assert max(norms) <= 1e-12 * 1.01


def test_only_the_last_stage_is_selected_and_stopped_early(tmp_path: Path) -> None:
    data, method = corpus_and_method(first_epochs=4, lr=0.0)
    keep = KeepBest(RunFolder(path=tmp_path), {})
    # Nothing gets better: counted from the first epoch, patience 2 would end the fit in the first stage.
    fit = trainer(tmp_path, 9, keep, StopEarly(2))
    fit.fit(method, datamodule=data)
    assert fit.current_epoch == 4 + 3
    state = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert state["epoch"] == 4
    assert state["msabench"]["stage"] == "task"


def test_a_fit_goes_on_from_the_end_of_a_stage_with_the_same_result(tmp_path: Path) -> None:
    data, method = corpus_and_method()
    snapshots = Snapshots()
    trainer(tmp_path / "whole", 4, KeepBest(RunFolder(path=tmp_path / "whole"), {}), snapshots).fit(
        method, datamodule=data
    )

    again, resumed = Snapshots(), corpus_and_method()[1]
    data = data_module(random_corpus(), batch_size=12)
    torch.manual_seed(7)  # the draws of dropout go on from the checkpoint, whatever was drawn here
    trainer(tmp_path / "rest", 4, KeepBest(RunFolder(path=tmp_path / "rest"), {}), again).fit(
        resumed, datamodule=data, ckpt_path=tmp_path / "whole" / "first.ckpt", weights_only=True
    )
    assert again.stages == ["task", "task"]
    for key, value in snapshots.weights[-1].items():
        assert torch.equal(value, again.weights[-1][key]), key


def test_a_checkpoint_of_an_early_stage_is_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, method = corpus_and_method()
    trainer(tmp_path, 3, KeepBest(RunFolder(path=tmp_path), {})).fit(method, datamodule=data)
    monkeypatch.setattr("msabench.methods.checkpoint.method_class", lambda name: Staged)
    assert load_checkpoint(tmp_path / "best.ckpt")[0].stage == "task"
    with pytest.raises(MSABenchError, match="saved in stage 'first' of staged"):
        load_checkpoint(tmp_path / "first.ckpt")
    with pytest.raises(MSABenchError, match="saved in stage 'first' of staged"):
        trainer(tmp_path, 3).validate(method, datamodule=data, ckpt_path=tmp_path / "first.ckpt", weights_only=True)


def test_epochs_must_reach_the_last_stage(tmp_path: Path) -> None:
    data, method = corpus_and_method(first_epochs=3)
    with pytest.raises(MSABenchError, match="max_epochs 3 is too few for staged"):
        trainer(tmp_path, 3).fit(method, datamodule=data)


def test_unknown_stage_and_turn_are_refused() -> None:
    method = corpus_and_method()[1]
    with pytest.raises(MSABenchError, match="unknown stage of staged 'third'"):
        method.enter_stage("third")
    with pytest.raises(MSABenchError, match="'main'"):
        method.turn = "main"


def test_schedule_of_the_learning_rate_begins_anew_with_each_stage(tmp_path: Path) -> None:
    class Warm(Staged):
        def lr_multiplier(self, epoch: int, epochs: int) -> float:
            assert epochs == 2
            return [0.25, 0.5, 0.75][epoch]

    data = data_module(random_corpus(), batch_size=12)
    snapshots = Snapshots()
    trainer(tmp_path, 4, snapshots).fit(Warm(data.spec, lr=1.0), datamodule=data)
    # The callback sees an epoch's start before the method does.
    assert snapshots.rates[:2] == [[0.25, 0.25], [0.5, 0.5]]
    assert snapshots.rates[3] == [0.5]


def test_plateau_of_a_method_with_turns(tmp_path: Path) -> None:
    data, method = corpus_and_method(first_epochs=3, lr=1e-12, lr_patience=0)
    snapshots = Snapshots()
    trainer(tmp_path, 4, snapshots).fit(method, datamodule=data)
    assert snapshots.rates[2] == pytest.approx([1e-13, 1e-13])


def test_warmup_cosine_as_in_the_training_scripts() -> None:
    """Their epoch e counts from 1: (e - 1) / 20 up to e = 21, then half a cosine from e = 22."""
    factors = [warmup_cosine(e - 1, 20, 200) for e in range(1, 201)]
    assert factors[0] == 0
    assert factors[10] == 0.5
    assert factors[20] == factors[21] == 1
    assert factors[199] == pytest.approx(3.05e-4, rel=0.01)
    assert all(a >= b for a, b in itertools.pairwise(factors[21:]))
    assert warmup_cosine(0, 0, 10) == 1
    assert warmup_cosine(5, 0, 10) == pytest.approx(0.5)

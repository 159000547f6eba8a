"""A training that goes on from a checkpoint selects among all of its epochs."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from msabench.training import keep_best
from msabench.training.callbacks import StopEarly
from msabench.training.finished import FinishedTraining
from msabench.training.keep_best import KeepBest
from msabench.training.run_folder import RunFolder


class Scripted(MSAMethod):
    """Reaches a given ``val/task`` in each epoch."""

    info = MethodInfo(name="scripted", title="t", venue="v", year=2026, url="u", fidelity="reference")

    def __init__(self, spec: DataSpec, *, variant: str = "default") -> None:
        super().__init__(spec, variant=variant)
        self.head = nn.Linear(spec.feature_dims["text"], 1)
        self.script: list[float] = []

    def forward(self, batch: Batch) -> Output:
        return Output(pred=self.head(batch.text.mean(1)).squeeze(-1))

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        assert batch.labels is not None
        return {"task": self.task_loss(out.pred, batch.labels)}

    def task_loss(self, pred: Tensor, labels: Tensor) -> Tensor:
        return super().task_loss(pred, labels) if self.training else torch.tensor(self.script[self.current_epoch])


class SaveAfter(pl.Callback):
    """Saves ``last.ckpt`` after one epoch, as a user's own callback might."""

    def __init__(self, epoch: int, path: Path) -> None:
        self.epoch, self.path = epoch, path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


def fit(folder: Path, script: list[float], *callbacks: pl.Callback, resume: Path | None = None, **settings: Any) -> int:
    """Train for the script's epochs; the number of epochs that were trained in all."""
    data = data_module(random_corpus(), batch_size=12)
    torch.manual_seed(0)
    method = Scripted(data.spec)
    method.script = script
    keep = KeepBest(RunFolder(path=folder), {})
    trainer = quiet_trainer(folder, len(script), callbacks=[*callbacks, keep], enable_checkpointing=True, **settings)
    trainer.fit(method, datamodule=data, ckpt_path=resume, weights_only=True)
    return trainer.current_epoch


def kept(folder: Path) -> tuple[int, float, int]:
    """Best epoch and ``val/task`` of ``finished.json``, and the epoch of ``best.ckpt``."""
    finished = json.loads((folder / "finished.json").read_text())
    epoch = torch.load(folder / "best.ckpt", weights_only=True)["epoch"]
    return finished["best_epoch"], pytest.approx(finished["val_task"], abs=1e-6), epoch


class Clocks(pl.Callback):
    """Lets some seconds go by in each epoch, on the wall and of the processor, without waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wall: float, processor: float) -> None:
        self.gone = {"perf_counter": 100.0, "process_time": 7.0}
        self.steps = {"perf_counter": wall, "process_time": processor}
        clock = SimpleNamespace(**{name: lambda name=name: self.gone[name] for name in self.gone})
        monkeypatch.setattr(keep_best, "time", clock)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, step in self.steps.items():
            self.gone[name] += step


def times(folder: Path) -> tuple[float, float | None]:
    """Seconds of fitting on the wall and of the processor, as ``finished.json`` has them."""
    finished = FinishedTraining.read(folder / "best.ckpt")
    return finished.train_seconds, finished.train_processor_seconds


def test_a_resumed_training_adds_up_both_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = tmp_path / "first", tmp_path / "last.ckpt"
    fit(first, [1.6, 1.4], Clocks(monkeypatch, 10.0, 2.0), SaveAfter(1, last))
    assert times(first) == (20.0, 4.0)
    fit(tmp_path / "rest", [1.6, 1.4, 1.5, 1.5], Clocks(monkeypatch, 30.0, 3.0), resume=last)
    assert times(tmp_path / "rest") == (80.0, 10.0)

    # A checkpoint from before there was the second clock does not say what it took; the sum is not known then.
    content = torch.load(last, weights_only=True)
    for state in content["callbacks"].values():
        state.pop(keep_best.PROCESSOR_SECONDS, None)
    torch.save(content, last)
    fit(tmp_path / "older", [1.6, 1.4, 1.5], Clocks(monkeypatch, 30.0, 3.0), resume=last)
    assert times(tmp_path / "older") == (50.0, None)


def test_the_end_of_a_training_from_before_the_second_clock_is_read(tmp_path: Path) -> None:
    fit(tmp_path, [1.6, 1.4])
    path = tmp_path / "finished.json"
    content = json.loads(path.read_text())
    del content["train_processor_seconds"]
    path.write_text(json.dumps(content))
    found = FinishedTraining.read(tmp_path / "best.ckpt")
    assert found.train_processor_seconds is None
    assert found.train_seconds == content["train_seconds"]
    del content["train_seconds"]
    path.write_text(json.dumps(content))
    with pytest.raises(MSABenchError, match=r"finished\.json is broken \(KeyError\('train_seconds'\)\)"):
        FinishedTraining.read(tmp_path / "best.ckpt")


@pytest.mark.filterwarnings("error:.*are selected from", "error:The dirpath has changed")
def test_a_resumed_training_keeps_the_best_of_all_epochs(tmp_path: Path) -> None:
    first = tmp_path / "first"
    fit(first, [1.6, 1.4749, 1.7], SaveAfter(2, tmp_path / "last.ckpt"))
    assert kept(first) == (1, 1.4749, 1)

    # From the best epoch, and from a later one beside which the best lies where it was written.
    for number, resume in enumerate((first / "best.ckpt", tmp_path / "last.ckpt")):
        folder = tmp_path / f"worse{number}"
        assert fit(folder, [1.6, 1.4749, 1.7, 1.5615, 1.58], resume=resume) == 5
        assert kept(folder) == (1, 1.4749, 1)
        assert (folder / "best.ckpt").read_bytes() == (first / "best.ckpt").read_bytes()

    fit(tmp_path / "better", [1.6, 1.4749, 1.7, 1.2, 1.3], resume=first / "best.ckpt")
    assert kept(tmp_path / "better") == (3, 1.2, 3)
    # In the same folder, too.
    fit(first, [1.6, 1.4749, 1.7, 1.5615], resume=first / "best.ckpt")
    assert kept(first) == (1, 1.4749, 1)
    # And after the folder has moved.
    (tmp_path / "last.ckpt").rename(first / "last.ckpt")
    first.rename(tmp_path / "moved")
    fit(tmp_path / "after", [1.6, 1.4749, 1.7, 1.5615], resume=tmp_path / "moved" / "last.ckpt")
    assert kept(tmp_path / "after") == (1, 1.4749, 1)


def test_a_best_epoch_that_is_gone_is_named(tmp_path: Path) -> None:
    first = tmp_path / "first"
    # The checkpoint is of epoch 2; the file with the best epoch until then was replaced by epoch 3.
    fit(first, [1.6, 1.4749, 1.7, 1.2], SaveAfter(2, tmp_path / "last.ckpt"))
    with pytest.warns(UserWarning, match="selected from") as caught:
        fit(tmp_path / "rest", [1.6, 1.4749, 1.7, 1.5615, 1.58], resume=tmp_path / "last.ckpt")
    (sentence,) = [str(w.message) for w in caught if "selected from" in str(w.message)]
    assert sentence == (
        f"the best epoch before {tmp_path / 'last.ckpt'}, with val/task 1.4749, lies neither there nor in "
        f"{first.resolve() / 'best.ckpt'} any more; only the epochs from here on are selected from"
    )
    assert kept(tmp_path / "rest") == (3, 1.5615, 3)


def test_early_stopping_goes_on_counting_with_its_own_patience(tmp_path: Path) -> None:
    fit(tmp_path / "first", [1.0, 1.1], StopEarly(9))
    script = [1.0, *([1.1] * 9)]
    # From epoch 0, the best one: three more without a better one.
    assert fit(tmp_path / "rest", script, StopEarly(3), resume=tmp_path / "first" / "best.ckpt") == 4
    assert kept(tmp_path / "rest") == (0, 1.0, 0)


def test_a_training_that_is_over_does_not_go_on(tmp_path: Path) -> None:
    fit(tmp_path, [1.6, 1.4, 1.7])
    with pytest.raises(MSABenchError) as caught:
        fit(tmp_path / "rest", [1.6, 1.4], resume=tmp_path / "best.ckpt")
    assert str(caught.value) == (
        "the checkpoint has 2 epochs behind it and trainer.max_epochs is 2, so nothing is left to train; give more"
    )
    with pytest.raises(MSABenchError, match=r"has 4 steps behind it and trainer\.max_steps is 3, so nothing is left"):
        fit(tmp_path / "rest", [1.6, 1.4, 1.7], resume=tmp_path / "best.ckpt", max_steps=3)


def test_a_training_goes_on_from_the_end_of_an_epoch(tmp_path: Path) -> None:
    # Validated and saved by the last batch, before the epoch counts.
    fit(tmp_path / "whole", [1.6, 1.4, 1.5, 1.3], check_val_every_n_epoch=2)
    fit(tmp_path / "first", [1.6, 1.4], check_val_every_n_epoch=2)
    best = tmp_path / "first" / "best.ckpt"
    assert fit(tmp_path / "rest", [1.6, 1.4, 1.5, 1.3], resume=best, check_val_every_n_epoch=2) == 4
    assert kept(tmp_path / "rest") == kept(tmp_path / "whole") == (3, 1.3, 3)
    ours, theirs = (
        torch.load(tmp_path / name / "best.ckpt", weights_only=True)["state_dict"] for name in ("rest", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(MSABenchError, match="has 2 epochs behind it"):
        fit(tmp_path / "over", [1.6, 1.4], resume=best, check_val_every_n_epoch=2)

    # The first of two batches is better than both.
    class Once(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.script[0] = 9.0

    fit(tmp_path / "half", [1.6, 9.0], Once(), val_check_interval=0.5)
    with pytest.raises(MSABenchError) as caught:
        fit(tmp_path / "rest", [1.6, 1.4], resume=tmp_path / "half" / "best.ckpt", val_check_interval=0.5)
    assert str(caught.value) == (
        "the checkpoint was saved in the middle of epoch 0, and a training goes on from the end of one; give a "
        "checkpoint of an epoch's end"
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        # Two batches an epoch.
        (
            {"max_steps": 1},
            "trainer.max_steps 1 ends the training of scripted before its first validation, which comes",
        ),
        ({"max_steps": 3, "check_val_every_n_epoch": 2}, "which comes after 4 steps; give at least 4"),
        ({"check_val_every_n_epoch": None, "val_check_interval": 7}, "which comes after 7 steps; give at least 7"),
        # Not to be known before: no validation within the hour.
        (
            {"val_check_interval": "00:01:00:00"},
            "ended without a validation, so no epoch was selected; it trained 3 epochs of 2 batches, so look at",
        ),
    ],
)
def test_a_training_without_a_validation_says_why(settings: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    if settings.get("val_check_interval") == 7:
        settings = {**settings, "max_steps": 6}
    with pytest.raises(MSABenchError) as caught:
        fit(tmp_path, [1.6, 1.5, 1.4], **settings)
    assert sentence in str(caught.value)
    assert not list(tmp_path.glob("*.ckpt"))


def test_as_many_steps_as_a_validation_needs_suffice(tmp_path: Path) -> None:
    fit(tmp_path, [1.6, 1.5, 1.4], max_steps=4, check_val_every_n_epoch=2)
    assert kept(tmp_path) == (1, 1.5, 1)


def test_a_training_without_a_step_is_not_said_to_lack_a_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "automatic_optimization", False)
    monkeypatch.setattr(Scripted, "training_step", lambda *arguments: None)
    with pytest.raises(MSABenchError) as caught:
        fit(tmp_path, [1.6, 1.5])
    assert str(caught.value).startswith("training of scripted took no optimiser step in 2 epochs of 2 batches")


def test_a_full_disk_names_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ModelCheckpoint, trainer: Any, filepath: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ModelCheckpoint, "_save_checkpoint", full)
    keeper, moment = KeepBest(RunFolder(path=tmp_path), {}), SimpleNamespace(current_epoch=0, global_step=3)
    with pytest.raises(OSError, match=r"No space left on device: '.*/best\.ckpt'$"):
        keeper._save_checkpoint(moment, str(tmp_path / "best.ckpt"))

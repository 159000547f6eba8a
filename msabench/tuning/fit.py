"""The training of one trial. The test split stays closed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from msabench.data.datamodule import TuningDataModule
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod
from msabench.training.build import build
from msabench.training.finished import FINISHED, FinishedTraining
from msabench.training.keep_best import MONITOR

Values = Sequence[float | None]


@dataclass
class Fitted:
    """What came of a trial's training.

    Attributes:
        values: ``val/task`` of the validations of the last stage; None where it is no number.
        pruned: Whether it was ended early.
        epochs: Epochs trained.
        val_task: The lowest ``val/task``; None if it was pruned.
        processor_seconds: Processor time of fitting.
        config: Resolved config.
    """

    values: list[float | None] = field(default_factory=list)
    pruned: bool = False
    epochs: int = 0
    val_task: float | None = None
    processor_seconds: float | None = None
    config: dict[str, Any] = field(default_factory=dict)


class _Watch(Callback):
    """Says how far the training is, and ends it when it is to be pruned."""

    def __init__(
        self, fitted: Fitted, say: Callable[[int, int | None], None], prunes: Callable[[Values], bool]
    ) -> None:
        self._fitted, self._say, self._prunes = fitted, say, prunes

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._say(trainer.current_epoch, trainer.max_epochs)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not (isinstance(pl_module, MSAMethod) and pl_module.in_last_stage):
            return
        value = float(trainer.callback_metrics[MONITOR])
        self._fitted.values.append(value if math.isfinite(value) else None)
        if self._prunes(self._fitted.values):
            self._fitted.pruned = trainer.should_stop = True


def fit_trial(
    config_files: Sequence[Path],
    overrides: Sequence[str],
    folder: Path,
    say: Callable[[int, int | None], None],
    prunes: Callable[[Values], bool],
) -> Fitted:
    """Train once, and measure ``val/task``; of the files that a training leaves, config and log stay.

    Args:
        config_files: Configs, later ones override earlier ones.
        overrides: Command-line style settings, with the trial's, the seed, and where to train.
        folder: The run folder, which belongs to this training.
        say: Called with the epoch and their number at each one's start.
        prunes: Called after each validation of the last stage with the values so far; True ends the training.

    Raises:
        MSABenchError: A setting is not allowed, or no epoch has a ``val/task`` that is a number.
    """
    (folder / FINISHED).unlink(missing_ok=True)
    (folder / "metrics.csv").unlink(missing_ok=True)
    built = build(list(config_files), list(overrides), folder, TuningDataModule)
    fitted = Fitted(config=built.config)
    built.trainer.callbacks.insert(0, _Watch(fitted, say, prunes))  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
            built.trainer.fit(built.model, datamodule=built.datamodule, weights_only=True)
        finished = FinishedTraining.read(folder / "best.ckpt")
    finally:
        for path in folder.glob("*.ckpt"):
            path.unlink(missing_ok=True)
        (folder / FINISHED).unlink(missing_ok=True)
    fitted.epochs, fitted.processor_seconds = finished.epochs, finished.train_processor_seconds
    if not fitted.pruned:
        if finished.val_task is None or not math.isfinite(finished.val_task):
            raise MSABenchError(f"{MONITOR} of its {finished.epochs} epochs is not a number")
        fitted.val_task = finished.val_task
    return fitted

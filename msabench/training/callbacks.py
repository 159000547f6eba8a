"""What else happens around a training: when it stops, and what is written down."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BasePredictionWriter, Callback, EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from msabench.data.datamodule import MSADataModule
from msabench.interruption import check
from msabench.methods.base import MSAMethod
from msabench.missingness.patterns import dropped_share, mask_hash
from msabench.results.predictions import CellPredictions, Evaluation
from msabench.results.predictions import write as write_predictions
from msabench.training.keep_best import MONITOR
from msabench.training.run_folder import RunFolder


class StopEarly(EarlyStopping):
    """Stops after epochs without a better ``val/task`` in a method's last stage."""

    def __init__(self, patience: int) -> None:
        super().__init__(MONITOR, mode="min", patience=patience)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience that this training was given."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the last stage's epochs only."""
        if isinstance(pl_module, MSAMethod) and pl_module.in_last_stage:
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the last stage's epochs only."""
        if isinstance(pl_module, MSAMethod) and pl_module.in_last_stage:
            super().on_train_epoch_end(trainer, pl_module)


class SavePredictions(BasePredictionWriter):
    """Writes what ``predict`` predicted to ``predictions.parquet`` in the run's folder."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(write_interval="epoch")
        self.folder = folder

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder.path / "predictions.parquet"

    def write_on_epoch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, predictions: Any, batch_indices: Any
    ) -> None:
        """Write all cells' predictions, in the form of the result store."""
        data: MSADataModule = trainer.datamodule  # type: ignore[attr-defined]
        by_cell = predictions if len(data.cells) > 1 else [predictions]
        split = data.corpus.splits["test"]
        clips = split.clips(data.corpus.padding)
        entries = []
        for cell, parts in zip(data.cells, by_cell, strict=True):
            masks = data.cell_masks(cell, data.mask_seed)
            seed = data.mask_seed if cell.is_random else None
            preds = data.in_file_order(torch.cat(parts), needs=data.needs).float().cpu().numpy()
            entries.append(CellPredictions(cell, seed, preds, mask_hash(masks), dropped_share(masks, clips)))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        labels = split.labels.cpu().numpy()
        write_predictions(self.path, Evaluation(data.corpus.info.metric_set, list(split.ids), labels, entries, 0.0))


class SaveConfig(SaveConfigCallback):
    """Writes the resolved config to ``config.yaml`` in the run's folder, whatever logger there is.

    Args:
        parser: The parser of the config.
        config: The config.
        folder: The folder.
    """

    def __init__(self, parser: LightningArgumentParser, config: Any, folder: RunFolder) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.folder = folder

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file; Lightning calls this on the first device only."""
        path = self.folder.path / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, path, skip_unset=False, overwrite=True)


class OwnSignals(Callback):
    """Takes SIGTERM back from Lightning, which finishes the batch first and has several devices agree on it.

    A signal whose exception was lost ends the loop at the next batch.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def _take_back(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)

    def _end(self, *_: Any, **__: Any) -> None:
        check()

    on_train_start = on_validation_start = on_test_start = on_predict_start = _take_back
    on_train_batch_start = on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _end

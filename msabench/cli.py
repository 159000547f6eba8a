"""Training verbs: fit, validate, test, predict, as Lightning's command line over our two base classes.

``build`` and ``resolve`` give the runner the same objects from the same configs, so that a suite and
``msabench fit --config ...`` cannot drift apart.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import math
import pickle
import re
import shlex
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import set_dumper
from lightning.pytorch.callbacks import BasePredictionWriter, Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from msabench import registry
from msabench.cluster import with_environment
from msabench.data.datamodule import MSADataModule
from msabench.data.files import naming, replacing, text_of
from msabench.errors import MSABenchError
from msabench.evaluation.evaluate import CellPredictions, Evaluation
from msabench.evaluation.origin import FINISHED, FinishedTraining
from msabench.evaluation.predictions import write as write_predictions
from msabench.interruption import check
from msabench.methods.base import MSAMethod
from msabench.methods.checkpoint import refused
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import Clips, dropped_share, mask_hash
from msabench.parser_messages import sentence
from msabench.provenance import MAX_SEED, collect, config_hash, first_difference, what_is_trained
from msabench.results.store import default_store
from msabench.run_folder import RunFolder, RunLogger
from msabench.trainer_settings import require_selection

MONITOR = "val/task"
SECONDS = "msabench_seconds"
BEST = "msabench_best"
TRAINED = "msabench_trained"
HOW_LONG = {"": ("early_stop",), "trainer": ("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps")}
"""Settings, by section, that may change when a training goes on."""

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 50,
    "default_root_dir": "runs/fit",
    # PRLF takes gradients in its forward pass, which inference mode forbids for good.
    "inference_mode": False,
    "num_sanity_val_steps": 0,
    "deterministic": "warn",
    "enable_model_summary": False,
}


@dataclass
class Built:
    """Everything a training needs.

    Attributes:
        model: The method.
        datamodule: Its data.
        trainer: Trainer with checkpoint on ``val/task`` and CSV log.
        config: Resolved config as plain data.
        folder: Where checkpoint, log and config go.
    """

    model: MSAMethod
    datamodule: MSADataModule
    trainer: pl.Trainer
    config: dict[str, Any]
    folder: RunFolder


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


class KeepBest(ModelCheckpoint):
    """Keeps ``best.ckpt``, the epoch with the lowest ``val/task``, and says in ``finished.json`` that training ended.

    Of a method that trains in stages it is an epoch of the last one. Each earlier stage leaves ``<stage>.ckpt``, from
    which ``msabench fit --ckpt_path`` goes on. A training that goes on from a checkpoint selects among all of its
    epochs: the best one so far comes along into the new folder.

    Args:
        folder: Folder of both.
        config: Resolved config of the training.
    """

    def __init__(self, folder: RunFolder, config: dict[str, Any]) -> None:
        super().__init__(filename="best", monitor=MONITOR, mode="min", save_top_k=1, enable_version_counter=False)
        self.folder = folder
        self.config = config
        self._started = 0.0
        self._seconds_before = 0.0
        self._n_params = 0
        self._provenance: dict[str, Any] = {}
        self._trained: dict[str, Any] | None = None
        self._best: dict[str, int] | None = None
        self._earlier: dict[str, Any] = {}
        self._validated = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take an earlier training's end out of the folder; note time and code, which may change meanwhile.

        Raises:
            MSABenchError: No epoch of the method's last stage would be validated.
        """
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.dirpath = str(self.folder.share(trainer).resolve())
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        assert isinstance(pl_module, MSAMethod)
        _require_validated_epoch(trainer, pl_module)
        # A class of somebody's own trains as well, but has no key to be recorded under.
        if pl_module.info.name in registry.methods():
            self._trained = {"seed_everything": self.config["seed_everything"], **what_is_trained(self.config)}
        if trainer.is_global_zero:
            assert self.dirpath is not None
            (Path(self.dirpath) / FINISHED).unlink(missing_ok=True)
            self._provenance = collect(str(trainer.strategy.root_device))
            self._started = time.perf_counter()
            # Now, because later stages freeze some.
            self._n_params = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)

    # Going on from a checkpoint.

    def state_dict(self) -> dict[str, Any]:
        """Add how long the training took so far, what is trained, and which epoch and step is the best."""
        return {**super().state_dict(), SECONDS: self._seconds, TRAINED: self._trained, BEST: self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count the time of what the checkpoint's training did; ``on_fit_start`` looks for its best epoch."""
        self._seconds_before = state_dict.get(SECONDS, 0.0)
        self._earlier = state_dict

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to go on from the middle of an epoch, or from a training that is over or was another one.

        Raises:
            MSABenchError: The epoch's other batches would not be those that were left, there is nothing left to train,
                or a setting differs that counts in what is trained.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        assert isinstance(pl_module, MSAMethod)
        loops = checkpoint["loops"]["fit_loop"]
        epochs = loops["epoch_progress"]["current"]["processed"]
        if loops["epoch_progress"]["current"]["started"] > epochs:
            # Saved by a validation, before the epoch counts.
            if not loops["epoch_loop.batch_progress"]["is_last_batch"]:
                raise MSABenchError(
                    f"the checkpoint was saved in the middle of epoch {epochs}, and a training goes on from the end of "
                    "one; give a checkpoint of an epoch's end"
                )
            epochs += 1
        for name, done, limit in (
            ("epochs", epochs, trainer.max_epochs),
            ("steps", checkpoint["global_step"], trainer.max_steps),
        ):
            if limit is not None and 0 <= limit <= done:
                raise MSABenchError(
                    f"the checkpoint has {done} {name} behind it and trainer.max_{name} is {limit}, so nothing is left "
                    "to train; give more"
                )
        theirs = checkpoint["callbacks"].get(self.state_key, {}).get(TRAINED)
        if theirs is None or self._trained is None:
            return
        reached = pl_module.stages[: pl_module.stages.index(pl_module.stage) + 1]
        regime_counts = pl_module.in_last_stage or not set(reached) <= set(pl_module.complete_stages)
        different = first_difference(_decisive(theirs, regime_counts), _decisive(self._trained, regime_counts))
        if different:
            name, their_value, our_value = different
            raise MSABenchError(
                f"the checkpoint was trained with {name} {their_value!r}, the config says {our_value!r}; a training "
                "goes on under its own settings"
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring the best epoch so far along."""
        score, best = self._earlier.get("best_model_score"), self._earlier.get(BEST)
        if score is None:
            return
        kept = trainer.is_global_zero and self._brought_along(Path(str(trainer.ckpt_path)), best)
        if trainer.strategy.broadcast(kept):
            path = self.format_checkpoint_name({})
            self._best, self.best_model_score, self.kth_value = best, score, score
            self.best_model_path = self.kth_best_model_path = path
            self.best_k_models = {path: score}
        elif trainer.is_global_zero:
            warnings.warn(
                f"the best epoch before {trainer.ckpt_path}, with {MONITOR} {float(score):.4f}, lies neither there nor "
                f"in {self._earlier['best_model_path']} any more; only the epochs from here on are selected from",
                stacklevel=2,
            )

    def _brought_along(self, resumed: Path, best: dict[str, int] | None) -> bool:
        """Put the best epoch so far into the folder, if it is still there to be had."""
        assert self.dirpath is not None
        target = Path(self.dirpath) / "best.ckpt"
        for path in (resumed, Path(self._earlier["best_model_path"]), resumed.with_name("best.ckpt")):
            if best is None or _moment(path) != best:
                continue
            if path.resolve() != target.resolve():
                target.parent.mkdir(parents=True, exist_ok=True)
                with path.open("rb") as source, replacing(target) as stream:
                    shutil.copyfileobj(source, stream)
            return True
        return False

    # Selecting.

    @property
    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to train for fewer steps than the first validation needs.

        Raises:
            MSABenchError: ``trainer.max_steps`` ends the training before it.
        """
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, MSAMethod)
        needed = _steps_to_validation(trainer, pl_module)
        if not self.best_model_path and needed is not None and 0 < trainer.max_steps < needed:
            raise MSABenchError(
                f"trainer.max_steps {trainer.max_steps} ends the training of {pl_module.info.name} before its first "
                f"validation, which comes after {needed} steps; give at least {needed}"
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Select among the last stage's epochs only."""
        if isinstance(pl_module, MSAMethod) and pl_module.in_last_stage:
            self._validated = True
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what a stage before the last ends with."""
        assert isinstance(pl_module, MSAMethod)
        if pl_module.in_last_stage:
            super().on_train_epoch_end(trainer, pl_module)
        elif pl_module.ends_a_stage and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            path = Path(self.dirpath or ".") / f"{pl_module.stage}.ckpt"
            with naming(path):
                trainer.save_checkpoint(path)

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        self._best = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        with naming(Path(filepath)):
            super()._save_checkpoint(trainer, filepath)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save methods without an optimiser, which Lightning skips, and write ``finished.json``.

        Raises:
            MSABenchError: There is no epoch to select.
        """
        assert isinstance(pl_module, MSAMethod)
        assert self.dirpath is not None
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            # Lightning saves nothing then.
            return
        val_task = self.best_model_score
        if not self.best_model_path:
            if pl_module.configure_optimizers() is not None:
                raise MSABenchError(self._why_nothing(trainer, pl_module))
            self.best_model_path = str(Path(self.dirpath) / "best.ckpt")
            trainer.save_checkpoint(self.best_model_path)
            val_task = trainer.callback_metrics.get(MONITOR)
        if trainer.is_global_zero:
            self._finish(trainer, pl_module, None if val_task is None else float(val_task))

    def _why_nothing(self, trainer: pl.Trainer, method: MSAMethod) -> str:
        name, epochs, batches = method.info.name, trainer.current_epoch, trainer.num_training_batches
        if self._validated:
            return (
                f"training of {name} took no optimiser step in {epochs} epochs of {batches} batches, so there is no "
                "epoch to select; lower model.init_args.accumulate, or give more batches (trainer.limit_train_batches)"
            )
        stage = "" if len(method.stages) == 1 else f" of its last stage {method.stages[-1]!r}"
        return (
            f"training of {name} ended without a validation{stage}, so no epoch was selected; it trained {epochs} "
            f"epochs of {batches} batches, so look at trainer.max_steps, max_time, val_check_interval and "
            "check_val_every_n_epoch"
        )

    def _finish(self, trainer: pl.Trainer, method: MSAMethod, val_task: float | None) -> None:
        checkpoint = Path(self.best_model_path)
        finished = FinishedTraining(
            checkpoint=checkpoint.name,
            epochs=trainer.current_epoch,
            best_epoch=self._best["epoch"] if self._best else None,
            val_task=val_task,
            train_seconds=self._seconds,
            n_params=self._n_params,
            peak_memory_bytes=_peak_memory(trainer.strategy.root_device),
            provenance=self._provenance,
            config_hash=config_hash(self.config) if self._trained is not None else "",
        )
        finished.write(checkpoint.parent)


def _require_validated_epoch(trainer: pl.Trainer, method: MSAMethod) -> None:
    every, epochs, before = trainer.check_val_every_n_epoch, trainer.max_epochs, sum(method.stage_epochs.values())
    # Too few epochs for all stages is a sentence of the method's own.
    if every is None or epochs is None or epochs <= before:
        return
    if epochs // every * every <= before:
        raise MSABenchError(
            f"trainer.check_val_every_n_epoch {every} leaves the last stage of {method.info.name}, epochs {before + 1} "
            f"to {epochs}, without a validation to select an epoch by; give at most {epochs - before}"
        )


def _steps_to_validation(trainer: pl.Trainer, method: MSAMethod) -> int | None:
    """Optimiser steps before the last stage is validated first; None where the number of batches does not decide it."""
    batches, interval = trainer.num_training_batches, trainer.val_check_batch
    # A method that steps its optimisers itself takes a step per turn and for every few batches.
    if interval is None or math.inf in (batches, interval) or not method.automatic_optimization:
        return None
    every, before = trainer.check_val_every_n_epoch, sum(method.stage_epochs.values())
    if every is None and before:
        return None
    epoch_steps = -(-int(batches) // trainer.accumulate_grad_batches)
    whole_epochs = 0 if every is None else (before // every + 1) * every - 1
    return whole_epochs * epoch_steps + -(-int(interval) // trainer.accumulate_grad_batches)


def _decisive(trained: dict[str, Any], regime_counts: bool) -> dict[str, Any]:
    """What must not change when a training goes on."""
    kept = {name: value for name, value in trained.items() if name not in HOW_LONG[""]}
    kept["trainer"] = {name: value for name, value in trained["trainer"].items() if name not in HOW_LONG["trainer"]}
    if not regime_counts:
        missing = {name: value for name, value in trained["data"]["missing"].items() if name != "regime"}
        kept["data"] = {**trained["data"], "missing": missing}
    return kept


def _moment(checkpoint: Path) -> dict[str, int] | None:
    """Epoch and step of a checkpoint; None if there is none that can be read."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return {"epoch": content["epoch"], "step": content["global_step"]}
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, UnpicklingError):
        return None


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
        clips = Clips.of(split, data.corpus.padding)
        entries = []
        for cell, parts in zip(data.cells, by_cell, strict=True):
            masks = data.cell_masks(cell, data.mask_seed)
            seed = data.mask_seed if cell.is_random else None
            whole: bool = pl_module.needs_conversations  # type: ignore[assignment]
            preds = data.in_file_order(torch.cat(parts), whole_conversations=whole).float().cpu().numpy()
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


class MSACLI(LightningCLI):
    """Lightning's command line with our links and defaults.

    Args:
        folder: Where checkpoint, log and config go; None reserves a new folder below ``trainer.default_root_dir``.
        kwargs: Arguments of Lightning's.
    """

    def __init__(self, folder: Path | None = None, **kwargs: Any) -> None:
        self._given_folder = folder
        quiet()
        registry.import_all()
        super().__init__(
            MSAMethod,
            MSADataModule,
            subclass_mode_model=True,
            # A stray --optimizer would replace a method's own groups.
            auto_configure_optimizers=False,
            seed_everything_default=1111,
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=SaveConfig,
            parser_kwargs={"exit_on_error": False},
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our own settings and what is derived rather than given."""
        parser.add_argument(
            "--early_stop", type=int | None, default=None, help="Epochs without a better val/task before stopping."
        )
        parser.add_argument("--wandb", type=bool, default=False, help="Log to Weights & Biases, offline.")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=_as_seed)
        parser.link_arguments("data.spec", "model.init_args.spec", compute_fn=asdict, apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Refuse to train without an end, and to evaluate a network that nobody trained.

        Raises:
            MSABenchError: No epoch could be selected; or the verb needs a checkpoint and there is none.
        """
        if self.subcommand not in ("validate", "test", "predict"):
            config = self.config.get(str(self.subcommand), self.config)
            require_selection(config["trainer"], keeps=self.subcommand is None)
            return
        given = self.config[self.subcommand]["ckpt_path"]
        if given is None:
            raise MSABenchError(f"msabench {self.subcommand} needs --ckpt_path, the best.ckpt of a training")
        # Lightning would go on with an untrained network after a mere warning for some words, e.g. last.
        if not Path(given).is_file():
            raise MSABenchError(f"there is no checkpoint {given}; give --ckpt_path a file such as runs/.../best.ckpt")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add checkpoint, early stopping and loggers."""
        config = self.config_init
        if self.subcommand is not None:
            config = self.config_init[self.subcommand]
            # Lightning would unpickle anything by default.
            config["weights_only"] = True
        settings = config["trainer"]
        model = type(self.model).info.name
        below = Path(settings["default_root_dir"] or "runs/fit") / self.datamodule.info.name / model
        self.folder = RunFolder(below / f"seed_{self.datamodule.seed}", self._given_folder)
        loggers: list[Logger] = [RunLogger(self.folder)]
        if config["wandb"]:
            loggers.append(
                WandbLogger(
                    project="msabench",
                    name=f"{model}-seed{self.datamodule.seed}",
                    group=self.datamodule.info.name,
                    job_type="fit",
                    save_dir=self.folder.path,
                    offline=True,
                    log_model=False,
                )
            )
        resolved = _plain(self._parser(self.subcommand), self.config.get(str(self.subcommand), self.config))
        callbacks: list[Callback] = [KeepBest(self.folder, resolved), SavePredictions(self.folder), OwnSignals()]
        if config["early_stop"] is not None:
            callbacks.append(StopEarly(config["early_stop"]))
        given = settings["callbacks"] or []
        kwargs["callbacks"] = [*callbacks, *(given if isinstance(given, list) else [given])]
        kwargs["plugins"] = with_environment(settings)
        if settings["logger"] is not False:
            others = [] if settings["logger"] in (None, True) else settings["logger"]
            kwargs["logger"] = [*loggers, *(others if isinstance(others, list) else [others])]
        self.save_config_kwargs = {"folder": self.folder}
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """Say where the checkpoint lies and what can be done with it.

        Raises:
            MSABenchError: The training ended before it began, e.g. because the training split has no clips.
        """
        if not self.trainer.is_global_zero:
            return
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print("trial run of training and validation went through; nothing is kept")
            return
        if not (self.folder.path / FINISHED).is_file():
            raise MSABenchError(f"no epoch was trained, so there is no checkpoint in {self.folder.path}")
        best = self.trainer.checkpoint_callback
        if isinstance(best, KeepBest) and best.best_model_path:
            print(f"best epoch's checkpoint: {best.best_model_path}")
            place = f"--checkpoint {shlex.quote(best.best_model_path)} --store {shlex.quote(str(default_store()))}"
            print(f"next: msabench evaluate {place}")

    def after_predict(self) -> None:
        """Say where the predictions lie."""
        print(f"predictions: {next(c.path for c in self.trainer.callbacks if isinstance(c, SavePredictions))}")  # type: ignore[attr-defined]

    def after_test(self) -> None:
        """Print metrics by cell."""
        results = self.model.test_results
        keys = list(next(iter(results.values()), {}))
        print(f"{'cell':<12}" + "".join(f"{key:>20}" for key in keys))
        for cell, values in results.items():
            print(f"{cell:<12}" + "".join(f"{values[key]:>20.4f}" for key in keys))


def _as_seed(seed: int | bool) -> int:
    if not isinstance(seed, bool) and not 0 <= seed <= MAX_SEED:
        raise MSABenchError(f"seed_everything {seed} is not allowed; give a number from 0 to {MAX_SEED}")
    if isinstance(seed, bool):
        raise MSABenchError(f"seed_everything {seed} is not allowed; give a number, so that the run can be repeated")
    return seed


class _QuotingDumper(yaml.SafeDumper):
    """Quotes text that the parser would read back as a number, such as a folder named 1e5."""


_QuotingDumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"), list("-+0123456789")
)


def _dump(data: Any) -> str:
    return yaml.dump(data, Dumper=_QuotingDumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


set_dumper("yaml", _dump)


def main(arguments: list[str]) -> int:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        arguments: Command line, beginning with the verb.
    """
    words = [word for given in arguments for word in given.split("=", 1)]
    config_files = [Path(value) for option, value in pairwise(words) if option == "--config"]
    with _one_sentence(config_files):
        MSACLI(args=_with_class_paths(arguments))
    return 0


def build(config_files: list[Path], overrides: list[str], folder: Path | None = None) -> Built:
    """Instantiate method, data module and trainer as ``msabench fit`` would.

    Args:
        config_files: Config files, later ones override earlier ones.
        overrides: Command-line style settings, e.g. ``--trainer.max_epochs=8``.
        folder: Where checkpoint, log and config go; None reserves a new folder below ``trainer.default_root_dir``
            once training starts.

    Raises:
        MSABenchError: A file is missing, a key unknown, a value not allowed.
    """
    with _one_sentence(config_files):
        cli = MSACLI(folder, args=_arguments(config_files, overrides), run=False)
    return Built(cli.model, cli.datamodule, cli.trainer, _plain(cli.parser, cli.config), cli.folder)


def resolve(config_files: list[Path], overrides: list[str]) -> dict[str, Any]:
    """The resolved config as plain data, without instantiating anything.

    Raises:
        MSABenchError: A file is missing, a key unknown, a value not allowed.
    """
    with _one_sentence(config_files):
        parser = _ParserOnly(run=False).parser
        config = _plain(parser, parser.parse_args(_arguments(config_files, overrides)))
    require_selection(config["trainer"])
    return config


class _ParserOnly(MSACLI):
    """Stops after setting up the parser."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.get_defaults()

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        pass


def _arguments(config_files: list[Path], overrides: list[str]) -> list[str]:
    for path in config_files:
        if not path.is_file():
            raise MSABenchError(f"there is no config {path}")
    return [word for path in config_files for word in ("--config", str(path))] + _with_class_paths(overrides)


def _with_class_paths(words: list[str]) -> list[str]:
    """The same words where ``--model`` names a class, also if a method's name was given."""
    option = re.compile(r"(--model(?:\.class_path)?)(?:=(\w+))?")
    methods = registry.methods()
    changed = list(words)
    for place, word in enumerate(words):
        found = option.fullmatch(word)
        if found and found[2] in methods:
            changed[place] = f"{found[1]}={registry.class_path(found[2])}"
        elif found and found[2] is None and place + 1 < len(words) and words[place + 1] in methods:
            changed[place + 1] = registry.class_path(words[place + 1])
    return changed


def _plain(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    text = parser.dump(config, skip_unset=False)
    plain: dict[str, Any] = yaml.safe_load(text)
    plain.pop("config", None)
    return plain


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def quiet() -> None:
    """Silence advice that does not apply: our loaders have no workers, our logs are flushed once an epoch."""
    for message in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*LightningCLI's args parameter.*",
        ".*LeafSpec.*is deprecated.*",
        ".*returned `None`, this fit will run with no optimizer.*",
        ".*exists and is not empty.*",
        ".*infer the batch indices fetched from your dataloader.*",
        ".*deprecated in v4.49.0.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)


@contextmanager
def _one_sentence(config_files: Iterable[Path]) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError:
        # The parser does not say in which file.
        for path in filter(Path.is_file, config_files):
            text_of(path)
        raise
    except pickle.UnpicklingError as error:
        raise refused("the file given as ckpt_path") from error
    except (argparse.ArgumentError, ValueError) as error:
        cause: BaseException | None = error
        while cause is not None:
            # The parser wraps what constructors raise; the sentence for the user is the innermost.
            if isinstance(cause, MSABenchError):
                raise cause from error
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, ValueError) and "Does not validate" not in str(error):
            raise
        raise MSABenchError(sentence(str(error), _settings())) from error


def _settings() -> list[str]:
    """Every option of the training verbs, to tell what a mistyped one was meant to be."""
    sections: dict[str, Callable[..., Any]] = {
        "data": MSADataModule.__init__,
        "data.missing": MissingConfig,
        "trainer": pl.Trainer.__init__,
    }
    names = [f"{at}.{name}" for at, function in sections.items() for name in inspect.signature(function).parameters]
    return ["config", "seed_everything", "early_stop", "wandb", "ckpt_path", "model", "data", "trainer", *names]

"""Which epoch of a training is kept, how a training goes on from a checkpoint, and how it says that it ended."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import time
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from msabench.errors import MSABenchError, first_difference
from msabench.files import naming, replacing
from msabench.methods.base import MSAMethod
from msabench.results.job_identity import config_hash, method_name, missing_config, weights_of, what_is_trained
from msabench.results.provenance import collect, source_of, sources_of_data
from msabench.results.record import METHOD
from msabench.training.finished import FINISHED, FinishedTraining
from msabench.training.run_folder import RunFolder

MONITOR = "val/task"
"""What epochs are selected by; lower is better."""

SECONDS = "msabench_seconds"
PROCESSOR_SECONDS = "msabench_processor_seconds"
BEST = "msabench_best"
TRAINED = "msabench_trained"
HOW_LONG = {"": ("early_stop",), "trainer": ("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps")}
"""Settings, by section, that may change when a training goes on."""


class KeepBest(ModelCheckpoint):
    """Keeps ``best.ckpt``, the epoch with the lowest ``val/task``, and says in ``finished.json`` that training ended.

    Of a method that trains in stages it is an epoch of the last one. Each earlier stage leaves ``<stage>.ckpt``, from
    which ``msabench fit --ckpt_path`` goes on. A training that goes on from a checkpoint selects among all of its
    epochs: the best one so far comes along into the new folder.

    Args:
        folder: Folder of both.
        config: Resolved config of the training; empty for one that has none, and so no key to be recorded under.
    """

    def __init__(self, folder: RunFolder, config: dict[str, Any]) -> None:
        super().__init__(filename="best", monitor=MONITOR, mode="min", save_top_k=1, enable_version_counter=False)
        self.folder = folder
        self.config = config
        self._started = self._processor_started = 0.0
        self._seconds_before = 0.0
        self._processor_seconds_before: float | None = 0.0
        self._n_params = 0
        self._provenance: dict[str, Any] = {}
        self._trained: dict[str, Any] | None = None
        self._best: dict[str, int] | None = None
        self._earlier: dict[str, Any] = {}
        self._validated = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take an earlier training's end out of the folder; note time and code, which may change meanwhile.

        Raises:
            MSABenchError: No epoch of the method's last stage would be validated, or the corpus lacks a modality that
                the method cannot do without.
        """
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.dirpath = str(self.folder.share(trainer).resolve())
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        assert isinstance(pl_module, MSAMethod)
        _require_validated_epoch(trainer, pl_module)
        _require_modalities(trainer, pl_module)
        method = self._registered()
        if method is not None:
            self._trained = {"seed_everything": self.config["seed_everything"], **what_is_trained(self.config)}
        if trainer.is_global_zero:
            assert self.dirpath is not None
            (Path(self.dirpath) / FINISHED).unlink(missing_ok=True)
            self._provenance = provenance_of(self.config, trainer.strategy.root_device, method)
            self._started, self._processor_started = time.perf_counter(), time.process_time()
            # Now, because later stages freeze some.
            self._n_params = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)

    def _registered(self) -> str | None:
        """The method's name; None for a class that is nowhere on the path, which no other process could evaluate."""
        with contextlib.suppress(MSABenchError):
            return method_name(self.config) if self.config else None
        return None

    # Going on from a checkpoint.

    def state_dict(self) -> dict[str, Any]:
        """Add how long the training took so far, what is trained, and which epoch and step is the best."""
        times = {SECONDS: self._seconds, PROCESSOR_SECONDS: self._processor_seconds}
        return {**super().state_dict(), **times, TRAINED: self._trained, BEST: self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count the time of what the checkpoint's training did; ``on_fit_start`` looks for its best epoch."""
        self._seconds_before = state_dict.get(SECONDS, 0.0)
        # Of what an older checkpoint did, nobody knows it; then nobody knows the sum.
        self._processor_seconds_before = state_dict.get(PROCESSOR_SECONDS)
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
        if "loops" not in checkpoint:
            raise MSABenchError(
                "the checkpoint is of a training of several seeds at once, which keeps no optimiser to go on with; "
                "train the seed alone"
            )
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

    @property
    def _processor_seconds(self) -> float | None:
        before = self._processor_seconds_before
        return None if before is None else before + time.process_time() - self._processor_started

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
            train_processor_seconds=self._processor_seconds,
            n_params=self._n_params,
            peak_memory_bytes=peak_memory(trainer.strategy.root_device),
            provenance=self._provenance,
            config_hash=config_hash(self.config) if self._trained is not None else "",
            weights=weights_of(method.init_args),
        )
        finished.write(checkpoint.parent)


def provenance_of(config: dict[str, Any], device: torch.device, method: str | None) -> dict[str, Any]:
    """Where a training comes from: code, versions, machine, and what is from outside msabench.

    Args:
        config: Its resolved config; empty if it has none.
        device: Its device.
        method: The method's name; None for one outside the registry.
    """
    found = collect(str(device))
    if method is not None and (source := source_of(method)):
        found[METHOD] = source
    if config:
        data = config["data"]
        found |= sources_of_data(data["dataset"], data.get("features"), missing_config(config).regime)
        if config.get("compile"):
            found["compile"] = config["compile"]
    return found


def _require_modalities(trainer: pl.Trainer, method: MSAMethod) -> None:
    """Refuse a corpus without what the method reads everything else beside."""
    data = getattr(trainer, "datamodule", None)
    if data is None:
        return
    lacking = [name for name in method.info.needs if name in data.corpus.unseen]
    if lacking:
        raise MSABenchError(
            f"{method.info.name} reads nothing where there is no {lacking[0]}, and no training clip of "
            f"{data.info.name} has any; choose another method"
        )


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


def peak_memory(device: torch.device) -> int | None:
    """Most bytes so far, of the device if it is a GPU, else of the process; None if it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

"""What a worker does: fits, evaluates the grid, stores predictions and records.

Training and evaluation share a process, since importing the libraries takes longer than many a job.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from msabench.cli import Built, KeepBest, build
from msabench.errors import MSABenchError
from msabench.evaluation import predictions
from msabench.evaluation.evaluate import evaluate_grid
from msabench.evaluation.record import JobRecord
from msabench.methods.checkpoint import load_checkpoint
from msabench.missingness.conditions import parse_grid
from msabench.provenance import collect, job_key, portable
from msabench.results.store import ResultStore
from msabench.runner.executor import Task


class SayEpoch(Callback):
    """Tells the parent which epoch the training is in.

    Args:
        task: The task to speak for.
    """

    def __init__(self, task: Task) -> None:
        self.task = task

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch to the progress file."""
        self.task.say("fit", trainer.current_epoch, trainer.max_epochs)


def run_job(task: Task, accelerator: str = "auto") -> None:
    """Fit a job's method, evaluate it on the job's grid and store the result.

    Args:
        task: The job with its folders.
        accelerator: Lightning's accelerator; one device of it is used.

    Raises:
        MSABenchError: The job cannot run, has changed since it was planned, or is stored already.
    """
    job = task.job
    if job.problem:
        raise MSABenchError(job.problem)
    built = build(list(job.config_files), [*job.overrides, *_placement(task, accelerator)])
    trainer, datamodule = built.trainer, built.datamodule
    found = job_key(built.config, datamodule.corpus.revision, datamodule.corpus.features)
    if found != job.key:
        changed = [name for name, value in vars(found).items() if value != getattr(job.key, name)]
        raise MSABenchError(f"{', '.join(changed)} of {job.title} changed since it was planned; run the suite again")
    keeper = _use_folder(built, task)

    started = time.perf_counter()
    with warnings.catch_warnings():
        # Log and job.json are in the run folder already.
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        trainer.fit(built.model, datamodule=datamodule)
    train_seconds = time.perf_counter() - started
    checkpoint = task.folder / "best.ckpt"
    if not checkpoint.is_file():
        raise MSABenchError(f"training of {job.title} ended without a checkpoint")
    best_epoch, val_task = _selected(trainer, keeper, checkpoint)

    task.say("evaluate", trainer.current_epoch, trainer.max_epochs)
    device = trainer.strategy.root_device
    method, _ = load_checkpoint(checkpoint)
    evaluation = evaluate_grid(method, datamodule, parse_grid(job.grid), job.mask_seeds, device=device)
    record = JobRecord(
        key=job.key,
        config=portable(built.config),
        provenance=collect(str(device)),
        suites=list(job.suites),
        n_params=sum(p.numel() for p in method.parameters() if p.requires_grad),
        epochs=trainer.current_epoch,
        best_epoch=best_epoch,
        val_task=val_task,
        train_seconds=train_seconds,
        eval_seconds=evaluation.seconds,
        peak_memory_bytes=_peak_memory(device),
        mask_seeds=list(job.mask_seeds),
    )
    cells = evaluation.records(job.key.job_id)
    predictions.write(predictions.path_of(task.store, job.key), evaluation)
    # The record comes last: a job counts as done only when everything else of it is written.
    ResultStore(task.store).add(record, cells)
    if not task.keep_checkpoint:
        checkpoint.unlink(missing_ok=True)
    task.say("done", trainer.current_epoch, trainer.max_epochs)


def _placement(task: Task, accelerator: str) -> list[str]:
    settings = {
        "default_root_dir": task.folder,
        "accelerator": accelerator,
        "devices": 1,
        "enable_progress_bar": "false",
    }
    return [f"--trainer.{name}={value}" for name, value in settings.items()]


def _use_folder(built: Built, task: Task) -> KeepBest:
    """Point checkpoint and log to the run folder and report epochs."""
    keeper = built.trainer.checkpoint_callback
    assert isinstance(keeper, KeepBest)
    keeper.dirpath = str(task.folder)
    others = [logger for logger in built.trainer.loggers if not isinstance(logger, CSVLogger)]
    built.trainer.loggers = [CSVLogger(task.folder, name="", version=""), *others]
    built.trainer.callbacks.insert(0, SayEpoch(task))  # type: ignore[attr-defined]
    return keeper


def _selected(trainer: pl.Trainer, keeper: KeepBest, checkpoint: Path) -> tuple[int | None, float | None]:
    """Epoch and ``val/task`` of the selected checkpoint; no epoch for a method without optimisation."""
    if keeper.best_model_score is None:
        last = trainer.callback_metrics.get("val/task")
        return None, None if last is None else float(last)
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(content["epoch"]), float(keeper.best_model_score)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

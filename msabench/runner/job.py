"""What a worker does: fits, evaluates the grid, stores predictions and records.

Training and evaluation share a process, since importing the libraries takes longer than many a job.
"""

from __future__ import annotations

import warnings

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from msabench.cli import build
from msabench.errors import MSABenchError
from msabench.evaluation import predictions
from msabench.evaluation.evaluate import evaluate_grid
from msabench.evaluation.origin import FINISHED, FinishedTraining
from msabench.evaluation.record import JobRecord
from msabench.methods.checkpoint import load_checkpoint
from msabench.missingness.conditions import parse_grid
from msabench.provenance import job_key, portable
from msabench.results.store import ResultStore
from msabench.runner.executor import Task
from msabench.runner.stages import SharedStage


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
    built = build(list(job.config_files), [*job.overrides, *_placement(task, accelerator)], task.folder)
    trainer, datamodule = built.trainer, built.datamodule
    found = job_key(built.config, datamodule.corpus.revision, datamodule.corpus.features)
    if found != job.key:
        changed = [name for name, value in vars(found).items() if value != getattr(job.key, name)]
        raise MSABenchError(f"{', '.join(changed)} of {job.title} changed since it was planned; run the suite again")
    trainer.callbacks.insert(0, SayEpoch(task))  # type: ignore[attr-defined]

    with warnings.catch_warnings():
        # Log and job.json are in the run folder already.
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        stage = SharedStage.of(built, task)
        trainer.fit(built.model, datamodule=datamodule, ckpt_path=stage.trained() if stage else None, weights_only=True)
        if stage:
            stage.keep(task.folder)
    checkpoint = task.folder / "best.ckpt"
    finished = FinishedTraining.read(checkpoint)

    task.say("evaluate", trainer.current_epoch, trainer.max_epochs)
    device = trainer.strategy.root_device
    method, _ = load_checkpoint(checkpoint)
    evaluation = evaluate_grid(method, datamodule, parse_grid(job.grid), job.mask_seeds, device=device)
    record = JobRecord(
        key=job.key,
        config=portable(built.config),
        suites=list(job.suites),
        eval_seconds=evaluation.seconds,
        mask_seeds=list(job.mask_seeds),
        padding=method.padding or None,
        **datamodule.corpus.record_fields(),
        **finished.record_fields(),
    )
    cells = evaluation.records(job.key.job_id)
    predictions.write(predictions.path_of(task.store, job.key), evaluation)
    # The record comes last: a job counts as done only when everything else of it is written.
    ResultStore(task.store).add(record, cells)
    if not task.keep_checkpoint:
        (task.folder / FINISHED).unlink(missing_ok=True)
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

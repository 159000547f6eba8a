"""What a worker does: fits, evaluates the grid, stores predictions and records.

Training and evaluation share a process, since importing the libraries takes longer than many a job.
"""

from __future__ import annotations

import warnings

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from msabench.errors import MSABenchError
from msabench.evaluation.evaluate import evaluate_grid
from msabench.files import write_text
from msabench.methods.base import MSAMethod
from msabench.methods.checkpoint import load_checkpoint
from msabench.missingness.conditions import distinct, parse_grid
from msabench.results import predictions
from msabench.results.claims import settle
from msabench.results.job_identity import job_key, portable
from msabench.results.record import JobKey, JobRecord, names_of
from msabench.results.store import ResultStore
from msabench.results.study import TUNING
from msabench.runner.executor import BEST, Task
from msabench.runner.stages import SharedStage, fit_hash
from msabench.training.build import Built, build
from msabench.training.finished import FINISHED, FinishedTraining

FIT = "fit.txt"
"""Says by ``fit_hash`` which training ``best.ckpt`` beside it is of."""


LOST_WORKERS = "lost_workers"
"""Key of a record's provenance with the number of workers that were lost with their nodes before one recorded it."""


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


def run_job(task: Task, accelerator: str = "auto", lost: int = 0) -> None:
    """Fit a job's method, evaluate it on the job's grid and store the result.

    A training of the job that ended in the run folder before, under the same code and on the same kind of device, is
    not repeated: then only what followed it was cut off.

    Args:
        task: The job with its folders.
        accelerator: Lightning's accelerator; one device of it is used.
        lost: How many workers of the job were lost before, with their nodes. The record tells.

    Raises:
        MSABenchError: The job cannot run, has changed since it was planned, or its grid has a cell that its method or
            data do not allow.
    """
    job = task.job
    if job.problem:
        raise MSABenchError(job.problem)
    built = build(list(job.config_files), [*job.overrides, *placement(task, accelerator)], task.folder)
    trainer, datamodule = built.trainer, built.datamodule
    found = job_key(built.config, datamodule.corpus.revision, datamodule.corpus.features, job.key.tuning)
    if found != job.key:
        changed = [name for name in names_of(JobKey) if getattr(found, name) != getattr(job.key, name)]
        raise MSABenchError(f"{', '.join(changed)} of {job.title} changed since it was planned; run the suite again")
    cells = distinct(parse_grid(job.grid))
    datamodule.require(cells, built.model.data_needs)

    ended = _ended_before(built, task)
    if ended is None:
        _fit(built, task)
        ended = _read(task)
    else:
        print(f"the training in {task.folder} had ended already; it is evaluated and recorded")
    method, finished = ended

    task.say("evaluate", finished.epochs, trainer.max_epochs)
    device = trainer.strategy.root_device
    evaluation = evaluate_grid(method, datamodule, cells, job.mask_seeds, device=device)
    record = JobRecord(
        key=job.key,
        config=portable(built.config),
        suites=list(job.suites),
        eval_seconds=evaluation.seconds,
        eval_processor_seconds=evaluation.processor_seconds,
        mask_seeds=list(job.mask_seeds),
        padding=method.padding or None,
        metric_set=evaluation.metric_set,
        **datamodule.corpus.record_fields(),
        **finished.record_fields(),
    )
    if lost:
        record.provenance[LOST_WORKERS] = lost
    if job.tuning:
        record.provenance[TUNING] = job.tuning
    records = evaluation.records(job.key.job_id)
    store = ResultStore(task.store)
    # Where locks do not work, another process may have been faster: what is stored is never replaced.
    if store.has(job.key.job_id):
        print(f"another process has recorded job {job.key.job_id} meanwhile; its result stays")
    else:
        path = predictions.path_of(task.store, job.key)
        try:
            predictions.write(path, evaluation)
        except OSError as error:
            raise MSABenchError(
                f"{path} could not be written: {error.strerror or error}; the training in {task.folder} is kept, and "
                "the same command goes on from there"
            ) from error
        # The record comes last: a job counts as done only when everything else of it is written.
        store.add(record, records)
    settle(task.store, job.key.job_id)
    if not task.keep_checkpoint:
        (task.folder / FINISHED).unlink(missing_ok=True)
        (task.folder / FIT).unlink(missing_ok=True)
        task.remove_checkpoints()
    task.say("done", finished.epochs, trainer.max_epochs)


def _fit(built: Built, task: Task) -> None:
    """Train; what earlier attempts left is deleted first, so that whatever then lies in the folder is of this one."""
    (task.folder / FINISHED).unlink(missing_ok=True)
    task.remove_checkpoints()
    (task.folder / "metrics.csv").unlink(missing_ok=True)
    write_text(task.folder / FIT, fit_hash(built, task))
    built.trainer.callbacks.insert(0, SayEpoch(task))  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        # Log and job.json are in the run folder already.
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        stage = SharedStage.of(built, task)
        start = stage.trained() if stage else None
        try:
            built.trainer.fit(built.model, datamodule=built.datamodule, ckpt_path=start, weights_only=True)
        except torch.cuda.OutOfMemoryError as error:
            raise MSABenchError(
                f"{task.job.title} found no memory left on its GPU; run fewer jobs on each with --per_device, or give "
                "a smaller data.batch_size"
            ) from error
        if stage and start is None:
            stage.keep(task.folder)


def _ended_before(built: Built, task: Task) -> tuple[MSAMethod, FinishedTraining] | None:
    """What ``_read`` gives, if the folder holds a whole training that would come out the same today."""
    try:
        made_by = (task.folder / FIT).read_text(encoding="utf-8")
        return _read(task) if made_by == fit_hash(built, task) else None
    except (OSError, MSABenchError):
        return None


def _read(task: Task) -> tuple[MSAMethod, FinishedTraining]:
    """The trained method and how its training ended."""
    checkpoint = task.folder / BEST
    return load_checkpoint(checkpoint)[0], FinishedTraining.read(checkpoint)


def placement(task: Task, accelerator: str) -> list[str]:
    """Settings of the trainer that say where a job is trained, as words of the command line."""
    settings = {
        "default_root_dir": task.folder,
        "accelerator": accelerator,
        "devices": 1,
        "enable_progress_bar": "false",
    }
    return [f"--trainer.{name}={value}" for name, value in settings.items()]

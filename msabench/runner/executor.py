"""What every executor shares: a job's run folder, the worker's command, and the protocol.

A run folder is ``<runs>/<dataset>/<method>/<job_id>/`` with ``job.json`` (what to do), ``config.yaml`` (resolved
config), ``log.txt`` (the worker's output), ``metrics.csv``, ``progress.json`` and, while the job runs or if
checkpoints are kept, ``best.ckpt``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from msabench.evaluation.record import JobRecord
from msabench.provenance import collect, portable
from msabench.results.store import ResultStore
from msabench.runner.suite import Job

RECORDED_FAILURE = 3
"""Exit code of a worker that has recorded its failure itself. Python exits with 1 or 2 for reasons of its own."""


@dataclass(frozen=True)
class Task:
    """A job on its way.

    Attributes:
        job: The job.
        folder: Its run folder.
        store: Folder of the result store.
        keep_checkpoint: Whether ``best.ckpt`` stays after the records are stored.
    """

    job: Job
    folder: Path
    store: Path
    keep_checkpoint: bool = False

    @property
    def log(self) -> Path:
        """Where the worker's output goes."""
        return self.folder / "log.txt"

    def prepare(self) -> None:
        """Make the run folder, with nothing left of an earlier attempt."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("log.txt", "metrics.csv", "progress.json", "best.ckpt"):
            (self.folder / name).unlink(missing_ok=True)
        content = {
            "job": self.job.to_json(),
            "folder": str(self.folder),
            "store": str(self.store),
            "keep_checkpoint": self.keep_checkpoint,
        }
        (self.folder / "job.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.job.config, sort_keys=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Task:
        """Read a ``job.json``."""
        content = json.loads(path.read_text(encoding="utf-8"))
        job = Job.from_json(content["job"])
        return cls(job, Path(content["folder"]), Path(content["store"]), content["keep_checkpoint"])

    def progress(self) -> dict[str, Any]:
        """What the worker last said: ``phase``, ``epoch``, ``epochs``; empty before its first word."""
        try:
            said: dict[str, Any] = json.loads((self.folder / "progress.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}
        return said

    def say(self, phase: str, epoch: int, epochs: int | None = None) -> None:
        """Write the progress file, for whoever watches the run folder."""
        temporary = self.folder / ".progress.tmp"
        temporary.write_text(json.dumps({"phase": phase, "epoch": epoch, "epochs": epochs}), encoding="utf-8")
        temporary.replace(self.folder / "progress.json")

    def command(self, *options: str) -> list[str]:
        """The command that runs the job, on whatever machine."""
        return [sys.executable, "-m", "msabench.runner.worker", str(self.folder / "job.json"), *options]


def run_folder(runs: Path, job: Job) -> Path:
    """Where a job leaves its files."""
    return runs / job.key.dataset / job.key.method / job.key.job_id


def record_failure(task: Task, error: str) -> None:
    """Add a failed job to its store.

    Args:
        task: The task.
        error: One line.
    """
    job = task.job
    ResultStore(task.store).add_failure(
        JobRecord(
            key=job.key,
            status="failed",
            error=error,
            config=portable(job.config),
            provenance=collect(),
            suites=list(job.suites),
            mask_seeds=list(job.mask_seeds),
        )
    )


@dataclass(frozen=True)
class Finished:
    """A task that ended.

    Attributes:
        task: The task.
        code: The worker's exit code: 0 for success, ``RECORDED_FAILURE``, another for a worker that could not record
            its end; minus the signal's number if a signal ended it.
    """

    task: Task
    code: int


class Executor(Protocol):
    """Runs workers somewhere. Existing engines do the scheduling; ours only start and watch."""

    slots: int

    def run(self, tasks: Sequence[Task], tick: Callable[[Sequence[Task]], None]) -> Generator[Finished, None, None]:
        """Run all tasks; closing the iterator early ends those that run.

        Args:
            tasks: What to run, in this order.
            tick: Called a few times a second with the tasks that run.

        Yields:
            Each task as it ends.
        """
        ...

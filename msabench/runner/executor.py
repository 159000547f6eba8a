"""What every executor shares: a job's run folder, the worker's command, and the protocol.

A run folder is ``<runs>/<dataset>/<method>/<job_id>/`` with ``job.json`` (what to do), ``config.yaml`` (resolved
config), ``log.txt`` (the worker's output), ``metrics.csv``, ``progress.json`` and, until the job is recorded or if
checkpoints are kept, ``best.ckpt`` with ``finished.json`` and ``fit.txt`` (what they came from). Teachers that jobs
share lie in ``<runs>/<dataset>/<method>/stages/``. ``.lock`` is locked while a worker lives, so that two runs never
share a folder; the claim on the job in its store (``msabench.results.claims``), so that two folders never share a job.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, Self, TypeVar

import yaml

from msabench.errors import MSABenchError
from msabench.files import replacing, try_lock, write_text
from msabench.methods import registry
from msabench.plugins import plugins
from msabench.results.claims import claim, require_writable, settle
from msabench.results.job_identity import portable
from msabench.results.provenance import collect
from msabench.results.record import JobRecord
from msabench.results.store import ResultStore
from msabench.results.study import TUNING
from msabench.runner.suite import Job

RECORDED_FAILURE = 3
"""Exit code of a worker that has recorded its failure itself. Python exits with 1 or 2 for reasons of its own."""

RUNNING_ELSEWHERE = 4
"""Code of a task that was left to another process, which holds its claim or its run folder. Nothing is recorded."""

NOT_STARTED = 5
"""Code of a task whose worker could not be started."""

LOST = 6
"""Code of a task whose worker ended, or never began, and could not say so itself."""

BEST = "best.ckpt"

WORKER = "msabench.runner.worker"
"""Module of a worker's process."""

W = TypeVar("W")


@dataclass(frozen=True)
class Task:
    """A job on its way.

    Attributes:
        job: The job.
        folder: Its run folder.
        store: Folder of the result store.
        keep_checkpoint: Whether ``best.ckpt`` stays after the records are stored.
        plugins: Plug-ins of the process that plans the job; its worker may have another environment.
        import_folders: Likewise, folders that methods from outside are imported from.
    """

    job: Job
    folder: Path
    store: Path
    keep_checkpoint: bool = False
    plugins: tuple[str, ...] = field(default_factory=lambda: tuple(plugins()))
    import_folders: tuple[str, ...] = field(default_factory=lambda: tuple(registry.import_folders()))

    @property
    def log(self) -> Path:
        """Where the worker's output goes."""
        return self.folder / "log.txt"

    def prepare(self) -> None:
        """Make the run folder, with nothing left of an earlier attempt but a training that it may have finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("log.txt", "progress.json"):
            (self.folder / name).unlink(missing_ok=True)
        self.remove_checkpoints(keep=BEST)
        write_text(self.folder / "job.json", json.dumps(self.to_json(), indent=2) + "\n")
        write_text(self.folder / "config.yaml", yaml.safe_dump(self.job.config, sort_keys=False))

    # What a trial of a study does in another way, see ``runner.trials``.

    def is_recorded(self) -> bool:
        """Whether there is nothing left to do."""
        return ResultStore(self.store).has(self.job.key.job_id)

    def run(self, accelerator: str, lost: int = 0) -> None:
        """Do what there is to do, in this process.

        Args:
            accelerator: Lightning's accelerator; one device of it is used.
            lost: How many workers of the task were lost before, with their nodes.

        Raises:
            MSABenchError: It cannot be done.
        """
        # Here, since it imports torch, and who plans does without.
        from msabench.runner.job import run_job

        run_job(self, accelerator, lost)

    def fail(self, error: str) -> None:
        """Record that it failed, unless it is recorded: whatever went wrong then, it is done.

        Args:
            error: One line.
        """
        job, store = self.job, ResultStore(self.store)
        if store.has(job.key.job_id):
            return
        store.add_failure(
            JobRecord(
                key=job.key,
                status="failed",
                error=error,
                config=portable(job.config),
                provenance={**collect(), **({TUNING: job.tuning} if job.tuning else {})},
                suites=list(job.suites),
                mask_seeds=list(job.mask_seeds),
            )
        )

    def lose(self, error: str) -> None:
        """Record that its process ended, or never began, and could not say so itself.

        Args:
            error: One line.
        """
        self.fail(error)

    def why_undone(self) -> str:
        """Why there is no outcome although nothing went wrong; empty if there is one."""
        return ""

    # Files.

    def remove_checkpoints(self, keep: str = "") -> None:
        """Delete the checkpoints in the run folder, that of a stage as well as the best, except the one to keep."""
        for path in self.folder.glob("*.ckpt"):
            if path.name != keep:
                path.unlink(missing_ok=True)

    def to_json(self) -> dict[str, Any]:
        """What ``job.json`` holds: plain data."""
        return {
            "job": self.job.to_json(),
            "folder": str(self.folder),
            "store": str(self.store),
            "keep_checkpoint": self.keep_checkpoint,
            "plugins": self.plugins,
            "import_folders": self.import_folders,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any], **further: Any) -> Self:
        """Read what ``to_json`` made."""
        job = Job.from_json(content["job"])
        given = {name: tuple(content[name]) for name in ("plugins", "import_folders")}
        return cls(job, Path(content["folder"]), Path(content["store"]), content["keep_checkpoint"], **given, **further)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a ``job.json``."""
        return cls.from_json(json.loads(path.read_text(encoding="utf-8")))

    def find_what_is_from_outside(self) -> None:
        """Make the methods from outside known that the planning process knew.

        Raises:
            MSABenchError: A plug-in is not here, or cannot be read.
        """
        registry.import_from(self.import_folders)
        registry.add_plugins(self.plugins)

    def progress(self) -> dict[str, Any]:
        """What the worker last said: ``phase``, ``epoch``, ``epochs``; empty before its first word."""
        try:
            said: dict[str, Any] = json.loads((self.folder / "progress.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}
        return said

    def say(self, phase: str, epoch: int, epochs: int | None = None) -> None:
        """Write the progress file, for whoever watches the run folder."""
        with replacing(self.folder / "progress.json", durable=False) as stream:
            stream.write(json.dumps({"phase": phase, "epoch": epoch, "epochs": epochs}).encode())

    def command(self, *options: str) -> list[str]:
        """The command that runs the job, on whatever machine."""
        return [sys.executable, "-m", WORKER, str(self.folder / "job.json"), *options]


def run_folder(runs: Path, job: Job) -> Path:
    """Where a job leaves its files."""
    return runs / job.key.dataset / job.key.method / job.key.job_id


def record_failure(task: Task, error: str) -> None:
    """Add a failed job to its store, unless the store has the job: whatever went wrong then, it is done.

    Args:
        task: The task.
        error: One line.
    """
    task.fail(error)


@dataclass(frozen=True)
class Finished:
    """A task that ended.

    Attributes:
        task: The task.
        code: 0 for a task with nothing left to do, ``RUNNING_ELSEWHERE``, ``NOT_STARTED``, ``LOST``, or the worker's
            exit code: ``RECORDED_FAILURE``, another for a worker that could not record its end; minus the signal's
            number if a signal ended it.
        error: Why no worker was started, or what else is known of its end than the worker says, one line; else empty.
    """

    task: Task
    code: int
    error: str = ""


def start(task: Task, *options: str, **settings: Any) -> subprocess.Popen[bytes] | Finished:
    """Start a task's worker as a process with imports of its own, see ``begin``.

    Args:
        task: The task.
        options: Options of the worker.
        settings: Further arguments of ``subprocess.Popen``.

    Returns:
        The worker; or how the task ended without one.
    """

    def launch(log: IO[bytes], locks: Sequence[int]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            task.command(*options),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=locks if os.name == "posix" else [],
            **settings,
        )

    return begin(task, launch)


def begin(task: Task, launch: Callable[[IO[bytes], Sequence[int]], W]) -> W | Finished:
    """Have a task's worker started, alone in its run folder and with the claim on its job.

    Folder and claim are locked before anything is changed. The worker inherits the locks and holds them to its end,
    however it ends.

    Args:
        task: The task.
        launch: Starts the worker with the file of its log and the descriptors of its locks.

    Returns:
        What ``launch`` returns; or how the task ended without a worker, because another process runs the job or has
        recorded it since, or because folder or store cannot be written.
    """
    key = task.job.key
    try:
        require_writable(task.store, key)
        task.folder.mkdir(parents=True, exist_ok=True)
        with (task.folder / ".lock").open("wb") as lock, claim(task.store, key.job_id) as claimed:
            if claimed is None or not try_lock(lock):
                return Finished(task, RUNNING_ELSEWHERE, "another process is running this job")
            if task.is_recorded():
                settle(task.store, key.job_id)
                return Finished(task, 0)
            task.prepare()
            with task.log.open("wb") as log:
                return launch(log, [lock.fileno(), claimed.fileno()])
    except MSABenchError as error:
        return Finished(task, NOT_STARTED, str(error))
    except OSError as error:
        reason = error.strerror or error
        return Finished(task, NOT_STARTED, f"no worker could be started in {task.folder}: {reason}")


def ended_by(code: int, what: str = "worker") -> str:
    """In words, which signal a process's negative exit code stands for."""
    name = signal.Signals(-code).name
    return f"the {what} was ended by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def last_line(text: str) -> str:
    """The last line that is not blank, without the space around it; empty if there is none."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def one_line(error: Exception) -> str:
    """An error's last line, with its type unless it is meant for users."""
    text = last_line(str(error))
    if isinstance(error, MSABenchError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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

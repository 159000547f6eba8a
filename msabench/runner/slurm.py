"""Runs jobs on a SLURM cluster: an array of the same workers, through submitit (extra ``msabench[slurm]``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import yaml

from msabench.data.files import text_of
from msabench.errors import MSABenchError
from msabench.runner.executor import Finished, Task, start
from msabench.runner.local import ONE_THREAD

POLL_SECONDS = 1.0
DEFAULTS: dict[str, Any] = {
    "timeout_min": 240,
    # More tasks would make Lightning believe that it trains on several devices.
    "tasks_per_node": 1,
    "cpus_per_task": 1,
    "slurm_array_parallelism": 32,
    "slurm_setup": [f"export {name}={value}" for name, value in ONE_THREAD.items()],
}


class SlurmExecutor:
    """One array task per job; run folders and store must lie on a shared file system.

    Args:
        folder: Where submitit keeps its files.
        parameters: Parameters of ``submitit.AutoExecutor``, over ``DEFAULTS``.
        cluster: ``slurm``, or ``local`` to try it without a cluster.

    Raises:
        MSABenchError: submitit is not installed or does not know a parameter.
    """

    def __init__(self, folder: Path, parameters: dict[str, Any] | None = None, cluster: str = "slurm") -> None:
        try:
            import submitit
        except ImportError as error:
            raise MSABenchError("the executor slurm needs submitit; pip install 'msabench[slurm]'") from error
        settings = {**DEFAULTS, **(parameters or {})}
        try:
            self._engine = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._engine.update_parameters(**settings)
        except (NameError, TypeError, ValueError, RuntimeError) as error:
            raise MSABenchError(f"submitit refuses the cluster or its parameters: {error}") from error
        self.slots = int(settings["slurm_array_parallelism"])

    @classmethod
    def from_file(cls, parameters: Path | None, folder: Path) -> SlurmExecutor:
        """Make an executor with parameters from a YAML mapping; None for the defaults alone.

        Raises:
            MSABenchError: The file is missing or is no mapping; or as in the constructor.
        """
        if parameters is None:
            return cls(folder)
        if not parameters.is_file():
            raise MSABenchError(f"there is no file {parameters} with parameters of submitit")
        content = yaml.safe_load(text_of(parameters))
        if not isinstance(content, dict):
            raise MSABenchError(f"{parameters} must be a mapping of submitit's parameters, e.g. timeout_min: 60")
        return cls(folder, content)

    def run(self, tasks: Sequence[Task], tick: Callable[[Sequence[Task]], None]) -> Generator[Finished, None, None]:
        """See ``Executor.run``; closing the iterator early cancels what has not ended."""
        jobs = list(zip(self._engine.map_array(run_task, tasks), tasks, strict=True)) if tasks else []
        try:
            while jobs:
                ended = [(job, task) for job, task in jobs if job.done()]
                jobs = [(job, task) for job, task in jobs if (job, task) not in ended]
                tick([task for job, task in jobs if job.state == "RUNNING"])
                for job, task in ended:
                    # An exception is the cluster's doing, e.g. a lost node or the time limit.
                    yield Finished(task, 1) if job.exception() is not None else Finished(task, *job.result())
                if jobs and not ended:
                    time.sleep(POLL_SECONDS)
        finally:
            for job, _ in jobs:
                job.cancel()


def run_task(task: Task) -> tuple[int, str]:
    """Run a task on the node that SLURM chose; returns code and error of ``Finished``."""
    started = start(task)
    if isinstance(started, Finished):
        return started.code, started.error
    return started.wait(), ""

"""Runs jobs on a SLURM cluster: an array of the same workers, through submitit (extra ``msabench[slurm]``).

An element of the array runs one job, or several one after another; submitit calls the element a job.

submitit writes the array, submits it and brings results back. What becomes of an element that leaves no result is asked
here: ``squeue`` knows those that wait or run, and for minutes how the others ended; ``sacct``, where accounting is on,
knows that for good.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from msabench.errors import MSABenchError
from msabench.files import yaml_of
from msabench.runner.executor import LOST, Finished, Task, ended_by, last_line
from msabench.runner.local import ONE_THREAD, LocalExecutor, Slot

POLL_SECONDS = 1.0
QUEUE_SECONDS = 15.0
"""Time between two questions to the controller, which serves the whole cluster."""

LOST_POLLS = 5
"""Answers of squeue in which an element is gone or has ended, after which it has, with a result or not. One is not
enough: a shared file system may show the result later than the queue the end."""

DEFAULTS: dict[str, Any] = {
    "timeout_min": 240,
    # More tasks would make Lightning believe that it trains on several devices.
    "tasks_per_node": 1,
    "cpus_per_task": 1,
    "slurm_array_parallelism": 32,
    "slurm_setup": [f"export {name}={value}" for name, value in ONE_THREAD.items()],
}

REFUSALS = {
    "partition": "set slurm_partition",
    "array": "the cluster allows fewer jobs in an array; choose some by --methods, --datasets or --seeds",
    "contact": "the controller is down or not to be reached from here; try again later",
    "limit": "ask for less, or choose fewer jobs by --methods, --datasets or --seeds",
    "node configuration": "ask for less by mem_gb, cpus_per_task or gpus_per_node",
    "generic resource": "the cluster knows no such GPUs; set slurm_gres as it names them, or leave gpus_per_node out",
    "account": "set slurm_account",
}
"""Word in sbatch's refusal -> the way out."""

ENDINGS = {
    "OUT_OF_MEMORY": "raise mem_gb",
    "TIMEOUT": "raise timeout_min",
    "DEADLINE": "",
    "NODE_FAIL": "run again",
    "BOOT_FAIL": "run again",
    "PREEMPTED": "run again",
    "CANCELLED": "",
    "FAILED": "",
}
"""Ends of a job that have a cause outside of it, the telling ones first -> the way out."""

ENDED = (*ENDINGS, "COMPLETED", "REVOKED")
"""States of jobs that neither wait nor run."""

LOG_ENDINGS = {
    "exceeded memory limit": "OUT_OF_MEMORY",
    "oom_kill": "OUT_OF_MEMORY",
    "oom-kill": "OUT_OF_MEMORY",
    "due to time limit": "TIMEOUT",
    "due to node failure": "NODE_FAIL",
    "due to preemption": "PREEMPTED",
}
"""Words of SLURM's daemon in a log -> the end that they tell of, where the state says no more than ``CANCELLED``."""

SLURM_SAYS = re.compile(r"slurmstepd[^:\s]*:|srun: error:")
"""How lines of SLURM in a log begin; a daemon may have its node's name behind its own."""


def read_parameters(path: Path | None) -> dict[str, Any]:
    """Read and check a YAML file with parameters of ``submitit.AutoExecutor``; needs neither submitit nor a cluster.

    Args:
        path: The file; None for none.

    Returns:
        The parameters over ``DEFAULTS``.

    Raises:
        MSABenchError: The file is missing, is no mapping, or has a value that is not allowed.
    """
    if path is None:
        return dict(DEFAULTS)
    if not path.is_file():
        raise MSABenchError(f"there is no file {path} with parameters of submitit")
    content = yaml_of(path)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise MSABenchError(f"{path} must be a mapping of submitit's parameters, e.g. timeout_min: 60")
    settings = {**DEFAULTS, **content}
    for name in ("tasks_per_node", "nodes"):
        if settings.get(name, 1) != 1:
            raise MSABenchError(
                f"{name} {settings[name]!r} in {path} is not allowed; a job is one process, so leave it out"
            )
    for name in ("slurm_setup", "slurm_teardown"):
        lines = settings.get(name, [])
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise MSABenchError(f"{name} {lines!r} in {path} is not allowed; give a list of shell commands")
    for name in ("slurm_array_parallelism", "timeout_min"):
        if type(settings[name]) is not int or settings[name] < 1:
            raise MSABenchError(f"{name} {settings[name]!r} in {path} is not allowed; give a positive whole number")
    return settings


def array_slots(parameters: dict[str, Any]) -> int:
    """How many elements of the array run at a time, if the cluster has room."""
    return int(parameters["slurm_array_parallelism"])


class SlurmExecutor:
    """Jobs in elements of an array; run folders and store must lie on a shared file system.

    Args:
        folder: Where submitit keeps its files.
        parameters: Parameters of ``submitit.AutoExecutor``, over ``DEFAULTS``.
        cluster: ``slurm``, or ``local`` to try it without a cluster.
        jobs_per_element: Most jobs that an element runs, one after another.
        warm: Whether the jobs of an element may be forks of one process that has imported what they need.

    Raises:
        MSABenchError: ``jobs_per_element`` is not positive, submitit is not installed or does not know a parameter, or
            this is no machine of a cluster.
    """

    def __init__(
        self,
        folder: Path,
        parameters: dict[str, Any] | None = None,
        cluster: str = "slurm",
        jobs_per_element: int = 1,
        warm: bool = True,
    ) -> None:
        if jobs_per_element < 1:
            raise MSABenchError(f"{jobs_per_element} jobs per element are not allowed; give a positive number")
        try:
            import submitit
        except ImportError as error:
            raise MSABenchError("the executor slurm needs submitit; pip install 'msabench[slurm]'") from error
        settings = {**DEFAULTS, **(parameters or {})}
        try:
            self._engine = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._engine.update_parameters(**settings)
        except (AssertionError, NameError, TypeError, ValueError, RuntimeError) as error:
            raise MSABenchError(_parameter_problem(str(error))) from error
        self.slots = array_slots(settings)
        self._queue = Queue() if cluster == "slurm" else None
        self._jobs_per_element = jobs_per_element
        self._warm = warm

    @classmethod
    def from_file(
        cls, parameters: Path | None, folder: Path, jobs_per_element: int = 1, warm: bool = True
    ) -> SlurmExecutor:
        """Make an executor with parameters from a YAML mapping; None for the defaults alone.

        Raises:
            MSABenchError: As in ``read_parameters`` and in the constructor.
        """
        return cls(folder, read_parameters(parameters), jobs_per_element=jobs_per_element, warm=warm)

    def run(self, tasks: Sequence[Task], tick: Callable[[Sequence[Task]], None]) -> Generator[Finished, None, None]:
        """See ``Executor.run``; closing the iterator early cancels what has not ended.

        Raises:
            MSABenchError: The cluster refuses the array.
        """
        size = self._jobs_per_element
        packs = [tasks[first : first + size] for first in range(0, len(tasks), size)]
        jobs = list(zip(self._submit(packs), packs, strict=True)) if packs else []
        try:
            while jobs:
                if self._queue:
                    self._queue.poll([job.job_id for job, _ in jobs])
                ended = [(job, pack) for job, pack in jobs if self._has_ended(job)]
                jobs = [(job, pack) for job, pack in jobs if (job, pack) not in ended]
                tick([_at_hand(pack) for job, pack in jobs if self._runs(job)])
                for job, pack in ended:
                    for place, task in enumerate(pack):
                        yield self._finished(job, task, place)
                if jobs and not ended:
                    time.sleep(POLL_SECONDS)
        finally:
            for job, _ in jobs:
                with contextlib.suppress(OSError):
                    job.cancel(check=False)

    def _submit(self, packs: Sequence[Sequence[Task]]) -> Sequence[Any]:
        try:
            # submitit prints sbatch's words as well.
            with contextlib.redirect_stderr(io.StringIO()):
                jobs: Sequence[Any] = self._engine.map_array(partial(run_tasks, warm=self._warm), packs)
        except (OSError, RuntimeError) as error:
            reason = last_line(str(error)).removeprefix("sbatch: error: ") or type(error).__name__
            way_out = next((f"; {hint}" for word, hint in REFUSALS.items() if word in reason.lower()), "")
            raise MSABenchError(f"SLURM refuses the array of {len(packs)} jobs: {reason}{way_out}") from error
        return jobs

    def _has_ended(self, job: Any) -> bool:
        if self._queue is None:
            return bool(job.done())
        if self._queue.has_forgotten(job.job_id):
            return True
        # Why a signal ended the worker is known once the whole element has ended.
        return _result(job) is not None and (not _killed(job) or self._queue.has_ended(job.job_id))

    def _runs(self, job: Any) -> bool:
        return bool(job.state == "RUNNING") if self._queue is None else self._queue.runs(job.job_id)

    def _finished(self, job: Any, task: Task, place: int = 0) -> Finished:
        result = _result(job)
        if isinstance(result, list):
            code, error = result[place]
            if code >= 0:
                return Finished(task, code, error)
            return Finished(task, code, f"{ended_by(code)}{self._cause(job)}")
        # The record counts, whatever became of the process that wrote it.
        if task.is_recorded():
            return Finished(task, 0)
        if result is not None:
            what = "the time limit was reached; raise timeout_min" if "timed-out" in result else last_line(result)
            return Finished(task, LOST, f"{what}{self._cause(job)}")
        return Finished(task, LOST, f"the job left no result{self._cause(job, lost=True)}")

    def _cause(self, job: Any, lost: bool = False) -> str:
        """What accounting and the element's log say of its end, with the log's place."""
        logs = [path for path in (job.paths.stderr, job.paths.stdout) if _lines(path)]
        log = next((path for path in logs if _log_words(path)), logs[0] if logs else None)
        said = _log_words(log) if log else ""
        state = self._queue.end_of(job.job_id) if self._queue else ""
        if state in ("", "CANCELLED", "FAILED"):
            state = _told_end(said) or state
        words = []
        if state:
            words.append(f"SLURM says {state}" + (f", so {ENDINGS[state]}" if ENDINGS[state] else ""))
        elif lost:
            last = self._queue.last_of(job.job_id) if self._queue else ""
            words.append(f"squeue {f'last said {last}' if last else 'no longer knows it'} and sacct does not say why")
        if said:
            words.append(f"it said: {said}")
        words.append(
            f"its log: {log}"
            if log
            else f"there is no log {job.paths.stderr}, so see whether the nodes share this folder"
        )
        return "".join(f"; {word}" for word in words)


class Queue:
    """What SLURM says of the elements of an array."""

    def __init__(self) -> None:
        self._asked = -float("inf")
        self._states: dict[str, str] = {}
        self._last: dict[str, str] = {}
        self._absent: dict[str, int] = {}
        self._silent = False

    def poll(self, job_ids: Sequence[str]) -> None:
        """Ask what elements do, if it is time to. An answer that fails to come counts for nothing."""
        if time.monotonic() - self._asked < QUEUE_SECONDS:
            return
        # Of the user, since squeue fails for ids that it has forgotten.
        user = f"--user={os.getuid()}"
        said, problem = _ask("squeue", "--noheader", "--array", "--states=all", user, "--format=%i|%T")
        self._asked = time.monotonic()
        if problem and not self._silent:
            print(f"squeue does not answer ({problem}); waiting until it does", file=sys.stderr)
        self._silent = bool(problem)
        if problem:
            return
        self._states = dict(line.strip().split("|", 1) for line in said.splitlines() if "|" in line)
        for name in job_ids:
            state = self._states.get(name)
            # One that is put back into the queue has not ended.
            self._absent[name] = self._absent.get(name, 0) + 1 if state is None or state in ENDED else 0
            if state is not None:
                self._last[name] = state

    def runs(self, job_id: str) -> bool:
        """Whether an element runs."""
        return self._states.get(job_id) == "RUNNING"

    def has_ended(self, job_id: str) -> bool:
        """Whether the last answer says that an element has ended."""
        return self._states.get(job_id) in ENDED

    def has_forgotten(self, job_id: str) -> bool:
        """Whether an element has neither waited nor run for so long that no result will come."""
        return self._absent.get(job_id, 0) >= LOST_POLLS

    def last_of(self, job_id: str) -> str:
        """The last state in which an element was seen, such as ``PENDING``; empty if it never was."""
        return self._last.get(job_id, "")

    def end_of(self, job_id: str) -> str:
        """How accounting, or else squeue, says that an element ended, one of ``ENDINGS``; empty if neither says it.

        Accounting knows of the element's steps as well.
        """
        said, _ = _ask("sacct", "--noheader", "--parsable2", f"--jobs={job_id}", "--format=State")
        # "CANCELLED by 1000"
        states = {line.split()[0] for line in said.splitlines() if line.strip()} or {self.last_of(job_id)}
        return next((state for state in ENDINGS if state in states), "")


def run_tasks(tasks: Sequence[Task], warm: bool = True) -> list[tuple[int, str]]:
    """Run tasks on the node that SLURM chose, one after another; returns code and error of ``Finished`` for each."""
    # The threads are the cluster's to give.
    executor = LocalExecutor([Slot(accelerator="auto")], warm, environment={})
    # submitit raises in here when the time limit is near.
    with contextlib.closing(executor.run(tasks, lambda running: None)) as ended:
        found = {finished.task.job.key.job_id: (finished.code, finished.error) for finished in ended}
    return [found[task.job.key.job_id] for task in tasks]


def _at_hand(pack: Sequence[Task]) -> Task:
    """The task that an element is likely to run: the last that has said something, or else the first."""
    return next((task for task in reversed(pack) if task.progress()), pack[0]) if len(pack) > 1 else pack[0]


def _ask(*command: str) -> tuple[str, str]:
    """Output of a command, and why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if done.returncode:
        return "", last_line(done.stderr) or f"code {done.returncode}"
    return done.stdout, ""


def _result(job: Any) -> list[tuple[int, str]] | str | None:
    """What ``run_tasks`` returned, the traceback of what it raised, or None while there is neither."""
    if not job.paths.result_pickle.exists():
        return None
    problem = job.exception()
    # submitit puts the traceback between rules.
    return job.result() if problem is None else re.split("-{20,}", str(problem))[1]


def _killed(job: Any) -> bool:
    result = _result(job)
    return isinstance(result, list) and any(code < 0 for code, _ in result)


def _parameter_problem(said: str) -> str:
    """Reword what submitit says of a parameter, which may be a page long."""
    if 'detect "srun"' in said:
        return "there is no srun here, so this is no machine of a SLURM cluster; log in to one, or leave --executor out"
    wrong = re.search(r'Parameter "(\w+)" expected type (.*) \(but value: "(.*)"\)', said)
    if wrong:
        kinds = " or ".join(re.findall(r"'(\w+)'", wrong[2]))
        return f"{wrong[1]} {wrong[3]!r} is not allowed; submitit expects {kinds}"
    first = said.partition("\n")[0].partition(" Valid arguments")[0].rstrip(".")
    return f"submitit refuses the cluster or its parameters: {first}"


def _log_words(path: Path) -> str:
    """What a log says of the end: SLURM's words if there are any, the telling ones first, else its last line."""
    lines = _lines(path)
    of_slurm = [line for line in lines if SLURM_SAYS.match(line)]
    telling = [line for line in of_slurm if _told_end(line)]
    # Neither submitit's steps nor the signals that srun passes on say anything of the cause.
    others = [line for line in lines if not line.startswith(("submitit ", "srun: "))]
    return last_line("\n".join(telling or of_slurm or others))


def _told_end(said: str) -> str:
    """The end that words of SLURM's daemon tell of; empty if they tell of none."""
    return next((end for words, end in LOG_ENDINGS.items() if words in said.lower()), "")


def _lines(path: Path) -> list[str]:
    """The lines of a log, none if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []

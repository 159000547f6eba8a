"""Runs tasks on an executor, shows how they stand, and says how those that failed did."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msabench.errors import MSABenchError
from msabench.interruption import check
from msabench.results.store import ResultStore
from msabench.runner.executor import (
    RECORDED_FAILURE,
    RUNNING_ELSEWHERE,
    Executor,
    Finished,
    Task,
    ended_by,
    last_line,
)
from msabench.runner.plan import Planned
from msabench.runner.progress import Progress


@dataclass(frozen=True)
class Failure:
    """A task that is not done.

    Attributes:
        task: The task.
        word: What to call that, ``failed`` or ``not run``.
        error: Why, one line.
    """

    task: Task
    word: str
    error: str


def execute(
    tasks: Sequence[Task],
    planned: Sequence[Planned],
    engine: Executor,
    fail_fast: bool = False,
    heard: Callable[[Task], None] = lambda task: None,
) -> list[Failure]:
    """Run tasks, and print how each ended.

    Args:
        tasks: What to run, in this order.
        planned: Their jobs with what they are expected to cost.
        engine: What runs them.
        fail_fast: Stop at the first that fails.
        heard: Called with each task as it ends.

    Returns:
        What is not recorded; another run may be through by now with a task that this one did not get.

    Raises:
        KeyboardInterrupt: A signal came; what runs is ended.
    """
    progress = Progress(planned, engine.slots, sys.stdout)
    failures: list[Failure] = []

    def tick(running: Sequence[Task]) -> None:
        check()
        progress.tick(running)

    try:
        with contextlib.closing(engine.run(tasks, tick)) as ended:
            for finished in ended:
                error = error_of(finished)
                word = "not run" if finished.code in (0, RUNNING_ELSEWHERE) else "failed"
                progress.ended(finished.task, error, word)
                heard(finished.task)
                if error:
                    failures.append(Failure(finished.task, word, error))
                    if fail_fast:
                        break
    finally:
        progress.clear()
    return [failure for failure in failures if not failure.task.is_recorded()]


def show(failures: Sequence[Failure]) -> None:
    """Say what is not done, and where its log lies."""
    for failure in failures:
        log = f"\n        log: {failure.task.log}" if failure.task.log.is_file() else ""
        print(f"{failure.word}: {failure.task.job.title}: {failure.error}{log}", file=sys.stderr)


def error_of(finished: Finished) -> str:
    """Why a task failed, recorded by its worker or else here, unless another process runs it; empty if it did not.

    Args:
        finished: The task with its code.
    """
    task, code = finished.task, finished.code
    if code == 0:
        return task.why_undone()
    if code == RECORDED_FAILURE:
        return _last_line(task) or _recorded_error(task)
    if finished.error:
        if code != RUNNING_ELSEWHERE:
            _record(task, finished.error)
        return finished.error
    if code < 0:
        error = ended_by(code)
    else:
        error = f"the worker ended with code {code}: {_last_line(task) or 'no output'}"
    _record(task, error)
    return error


def _record(task: Task, error: str) -> None:
    try:
        task.lose(error)
    except (MSABenchError, OSError) as problem:
        # The other jobs need not suffer from it.
        print(f"the failure of {task.job.title} could not be recorded: {problem}", file=sys.stderr)


def _recorded_error(task: Task) -> str:
    job_id = task.job.key.job_id
    return next((job.error for job in ResultStore(task.store).failures() if job.key.job_id == job_id), "no output")


def _last_line(task: Task) -> str:
    try:
        return last_line(task.log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""

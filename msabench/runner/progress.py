"""Shows how a run stands: one updating line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from statistics import fmean
from typing import TextIO

from msabench.runner.executor import Task
from msabench.runner.plan import Planned, duration

_REFRESH_SECONDS = 1.0
_PLAIN_SECONDS = 60.0


class Progress:
    """Counts jobs and estimates the rest.

    Args:
        planned: Jobs of the run.
        slots: How many run at a time.
        out: Where to print.
    """

    def __init__(self, planned: Sequence[Planned], slots: int, out: TextIO) -> None:
        self._estimates = {entry.job.key.job_id: entry.seconds for entry in planned}
        self._slots = max(slots, 1)
        self._out = out
        self._live = out.isatty()
        self._started: dict[str, float] = {}
        self._taken: dict[str, float] = {}
        self._ended: set[str] = set()
        self._shown = time.monotonic()
        self._width = 0

    def tick(self, running: Sequence[Task]) -> None:
        """Note what runs, and show it if it is time to."""
        now = time.monotonic()
        for task in running:
            self._started.setdefault(task.job.key.job_id, now)
        if now - self._shown < (_REFRESH_SECONDS if self._live else _PLAIN_SECONDS):
            return
        self._shown = now
        line = self.line(running, now)
        if self._live:
            line = line[: shutil.get_terminal_size().columns - 1]
            print(f"\r{line:<{self._width}}", end="", file=self._out, flush=True)
            self._width = len(line)
        else:
            print(line, file=self._out, flush=True)

    def ended(self, task: Task, error: str, word: str = "failed") -> None:
        """Print how a job ended.

        Args:
            task: The job's task.
            error: Why it is not done; empty if it is.
            word: What to call that.
        """
        job_id = task.job.key.job_id
        seconds = time.monotonic() - self._started.get(job_id, time.monotonic())
        self._ended.add(job_id)
        if not error:
            self._taken[job_id] = seconds
        self.clear()
        outcome = f"{word}: {error}" if error else f"done in {duration(seconds)}"
        print(f"[{len(self._ended)}/{len(self._estimates)}] {task.job.title}: {outcome}", file=self._out, flush=True)

    def clear(self) -> None:
        """Remove the updating line."""
        if self._live and self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=self._out, flush=True)
            self._width = 0

    def line(self, running: Sequence[Task], now: float) -> str:
        """One line: jobs done, jobs running with their epochs, time left."""
        left = self._left(running, now)
        states = "; ".join(f"{task.job.title} {_state(task)}" for task in running)
        eta = "time left unknown" if left is None else f"{duration(left)} left"
        return f"{len(self._ended)}/{len(self._estimates)} done, {eta}: {states}"

    def _left(self, running: Sequence[Task], now: float) -> float | None:
        spent = {task.job.key.job_id: (now - self._started[task.job.key.job_id], _share(task)) for task in running}
        projected = [seconds / share for seconds, share in spent.values() if share]
        known = list(self._taken.values()) or projected
        more, pace = self._pace()
        total, longest = 0.0, 0.0
        for job_id, estimate in self._estimates.items():
            if job_id in self._ended:
                continue
            seconds, share = spent.get(job_id, (0.0, None))
            if share:
                whole = seconds / share
            elif estimate is not None:
                whole = more + estimate * pace
            elif known:
                whole = fmean(known)
            else:
                return None
            rest = max(whole - seconds, 0.0)
            total, longest = total + rest, max(longest, rest)
        return max(total / self._slots, longest)

    def _pace(self) -> tuple[float, float]:
        """Seconds that jobs take besides what was estimated, and seconds gone by for each that was.

        Estimates are of a machine that does nothing else, and without the start of a process. What no job that is done
        had less of counts as the start; the rest grows with the estimate.
        """
        done = [(self._taken[job_id], estimate) for job_id in self._taken if (estimate := self._estimates[job_id])]
        if not done:
            return 0.0, 1.0
        more = max(min(taken - estimate for taken, estimate in done), 0.0)
        return more, sum(taken - more for taken, _ in done) / sum(estimate for _, estimate in done)


def _share(task: Task) -> float | None:
    """Share of a job's epochs that is over; None before the first is."""
    said = task.progress()
    if said.get("phase") == "evaluate":
        return 0.95
    epoch, epochs = said.get("epoch"), said.get("epochs")
    # Evaluation takes a part of the time as well.
    return 0.95 * epoch / epochs if epoch and epochs and epochs > 0 else None


def _state(task: Task) -> str:
    said = task.progress()
    phase = said.get("phase", "starts")
    if phase != "fit":
        return str(phase)
    epochs = said.get("epochs")
    return f"epoch {said['epoch'] + 1}" + (f"/{epochs}" if epochs and epochs > 0 else "")

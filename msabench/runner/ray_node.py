"""What runs on a node of a Ray cluster, in a process of Ray's: it starts a task's worker and waits for its end.

Orders come as pickles, as everything that Ray carries: who may hand work to a cluster may run anything on it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msabench import __version__
from msabench.runner.executor import LOST, NOT_STARTED, RUNNING_ELSEWHERE, Finished, Task
from msabench.runner.local import LocalExecutor, Slot
from msabench.runner.ray_messages import Order

LEASE_SECONDS = 120.0
"""How long the locks of a lost node's worker may outlive it: servers of shared files wait before they give them up."""

LEASE_POLL_SECONDS = 2.0

MARK_SECONDS = 5.0
"""Time between two looks at whether the run is still there."""


class _OverError(Exception):
    """The run that a task is for has ended."""


def obey(written: bytes) -> Iterator[dict[str, Any]]:
    """Run a task.

    Args:
        written: The ``Order``, pickled.

    Yields:
        ``{"code", "error"}`` of ``Finished`` at the task's end; or ``{"unfit": why}`` where this node cannot run it.
    """
    order: Order = pickle.loads(written)
    why = _why_unfit(order)
    if why:
        yield {"unfit": why}
        return
    try:
        task: Task = pickle.loads(order.task)
    except (ImportError, AttributeError) as error:
        yield {"unfit": f"it lacks what the jobs are made of ({error}); install the same packages on every node"}
        return
    try:
        finished = _run(task, order)
    except OSError as error:
        finished = Finished(task, NOT_STARTED, f"no worker could be started: {error.strerror or error}")
    except _OverError:
        finished = Finished(task, LOST, "the run that it was for has ended")
    yield {"code": finished.code, "error": finished.error}


def _why_unfit(order: Order) -> str:
    if order.version != __version__:
        return f"it has msabench {__version__}, and here it is {order.version}; install the same on every node"
    try:
        os.chdir(order.folder)
    except OSError as error:
        return f"it has no folder {order.folder} ({error.strerror}); nodes must share it, by the same path"
    for mark in map(Path, order.marks):
        if not mark.is_file():
            return f"it has another folder {mark.parent}; run folders and store must lie on a shared file system"
    return ""


def _run(task: Task, order: Order) -> Finished:
    slot = Slot(accelerator=order.accelerator, lost=order.lost)
    executor = LocalExecutor([slot], warm=False, environment=order.environment)
    until = time.monotonic() + LEASE_SECONDS
    while True:
        # Ray raises in here when the task is cancelled.
        with contextlib.closing(executor.run([task], _ending_with(order.marks))) as ended:
            finished = next(ended)
        if finished.code != RUNNING_ELSEWHERE or not order.lost or time.monotonic() > until:
            return finished
        time.sleep(LEASE_POLL_SECONDS)


def _ending_with(marks: Sequence[str]) -> Callable[[Sequence[Task]], None]:
    """A tick that ends everything when the run has taken its marks away.

    Nodes that lose the head keep Ray's processes for a minute or longer, and jobs of which nobody hears any more would
    keep the same command from running them again.
    """
    looked = -float("inf")

    def tick(running: Sequence[Task]) -> None:
        nonlocal looked
        now = time.monotonic()
        if now - looked < MARK_SECONDS:
            return
        looked = now
        for mark in marks:
            try:
                Path(mark).stat()
            except FileNotFoundError:
                raise _OverError from None
            except OSError:
                # A file system that hangs for a moment is no end.
                continue

    return tick

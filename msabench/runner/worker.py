"""The process of one job, or of one trial of a study.

Run as ``python -m msabench.runner.worker <run folder>/job.json``. Exit codes: 0, the job is recorded;
``RECORDED_FAILURE``, its failure is; anything else, nothing is. The heavy imports wait until the process is tied to
its parent and its core. Forks of ``msabench.runner.fork_server`` have them behind them, and call ``main`` as well.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from msabench.errors import MSABenchError
from msabench.interruption import die_at_once
from msabench.runner.executor import RECORDED_FAILURE, one_line, record_failure
from msabench.runner.trials import load_task

NOT_RECORDED = 1

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run one job.

    Args:
        arguments: Path of ``job.json``, then options.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m msabench.runner.worker", description="Run one job of a suite.")
    parser.add_argument("job", type=Path, help="job.json in the run folder")
    given = placed(parser, arguments)
    task = load_task(given.job)
    try:
        task.say("load", 0)
        task.find_what_is_from_outside()
        task.run(given.accelerator, given.lost)
    except Exception as error:
        # The log may lie on a full disk.
        with contextlib.suppress(OSError):
            traceback.print_exc()
            # The parent shows the log's last line.
            print(one_line(error), file=sys.stderr, flush=True)
        try:
            record_failure(task, one_line(error))
        except MSABenchError:
            # The parent, to which the same store may be open, shows and records the log's last line.
            return NOT_RECORDED
        return RECORDED_FAILURE
    return 0


def placed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a worker, and tie this process to its parent and its core.

    Args:
        parser: The worker's own parser, which gets the options that every worker has.
        arguments: What the worker was started with.

    Returns:
        What the parser read, with ``accelerator`` and ``lost`` among it.
    """
    parser.add_argument("--parent", type=int, help="process to die with (Linux)")
    parser.add_argument("--core", type=int, help="CPU core to pin to (Linux)")
    parser.add_argument("--accelerator", default="auto", help="Lightning's accelerator; one device of it is used")
    parser.add_argument("--lost", type=int, default=0, help="workers that were lost before, with their nodes")
    given = parser.parse_args(arguments)
    if given.parent is not None:
        die_with(given.parent)
    if given.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {given.core})
    return given


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (Linux; elsewhere nothing happens)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the call.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end(code: int) -> NoReturn:
    """End this process with a code, even where the log can no longer be written."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        # Python would try again at its end, and replace the code when it fails.
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    die_at_once()
    end(main(sys.argv[1:]))

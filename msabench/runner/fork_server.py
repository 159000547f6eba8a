"""The process that imports once what jobs need and then forks a process for each of them.

Run as ``python -m msabench.runner.fork_server <socket> <room>`` by ``msabench.runner.warm``. A fork is a job's own
process in all that another can see: session, log, locks, core, environment, exit code. This one stays as imports left
it: it has one thread and no accelerator, imports nothing from outside msabench, and runs no line of any job.

Messages are JSON, one a packet. It is sent ``{"number", "arguments", "environment"}`` with three descriptors, log and
locks; the end of the connection means that all jobs are to end. It sends ``{"ready"}`` once, then for each job
``{"number", "pid"}`` or ``{"number", "problem": why}``, and at the job's end ``{"number", "code"}``.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from msabench.interruption import die_at_once
from msabench.methods import registry
from msabench.runner import worker
from msabench.runner.executor import WORKER

DESCRIPTORS = 3
"""Of each request: the log, the lock on the run folder, the claim on the job."""

LONGEST_MESSAGE = 1 << 20

POLL_SECONDS = 0.02
"""Time between two looks at the processes that run."""

USED_BY_JOBS = ("msabench.runner.job", "pandas", "pyarrow.compute", "pyarrow.pandas_compat", "pyarrow.parquet")
"""What every job imports, at its beginning or later on."""

DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri/")
"""Beginnings of devices that a process has open once it has used an accelerator."""


@dataclass(frozen=True)
class Request:
    """A job to run.

    Attributes:
        parent: The process that was asked, to die with.
        arguments: Arguments of the worker.
        environment: Variables that differ from this process's; None for those that are not to be set.
        log: Descriptor for the output.
    """

    parent: int
    arguments: list[str]
    environment: Mapping[str, str | None]
    log: int


def main(arguments: Sequence[str]) -> int:
    """Serve until the connection ends; in the forks, run a job.

    Args:
        arguments: Descriptor of the connection, the process to die with, and a word that is as long as this process's
            command may become.

    Returns:
        The exit code, of this process or of a fork.
    """
    parser = argparse.ArgumentParser(prog="python -m msabench.runner.fork_server", description="Fork workers.")
    parser.add_argument("socket", type=int, help="descriptor of the connection")
    parser.add_argument("parent", type=int, help="process to die with (Linux)")
    parser.add_argument("room", help="any word; commands are shown in its place")
    given = parser.parse_args(arguments)
    worker.die_with(given.parent)
    show([sys.executable, "-m", "msabench.runner.fork_server"])
    with socket.socket(fileno=given.socket) as connection:
        # What is imported is no garbage: to look for some again and again takes an eighth of the time.
        gc.disable()
        import_what_jobs_use()
        gc.collect()
        # What is here now stays: no collection in a fork looks at it, so that its pages are never copied.
        gc.freeze()
        gc.enable()
        _say(connection, ready=True)
        request = _serve(connection)
    return 0 if request is None else _run(request)


def import_what_jobs_use() -> None:
    """Import the libraries and msabench's own methods; nothing from outside, which differs between jobs."""
    for name in (*USED_BY_JOBS, *(f"{registry.PACKAGE}.{method}" for method in registry.methods(external=False))):
        importlib.import_module(name)


def why_not_to_fork() -> str:
    """Why forks of this process could differ from fresh processes, or hang; empty if they cannot.

    A fork has the thread that forks alone: locks that others held stay locked in it. A driver does not survive a fork.
    """
    threads = sorted(Path("/proc/self/task").iterdir())
    if len(threads) != 1:
        names = ", ".join((thread / "comm").read_text().strip() for thread in threads)
        return f"imports have started threads ({names})"
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()).startswith(DEVICES):
                return f"imports have opened {descriptor.readlink()}"
    torch = sys.modules.get("torch")
    return "imports have initialised CUDA" if torch is not None and torch.cuda.is_initialized() else ""


def _serve(connection: socket.socket) -> Request | None:
    """Fork for every request; returns the request in a fork, and None in this process at the connection's end."""
    running: dict[int, int] = {}
    while True:
        if select.select([connection], [], [], POLL_SECONDS if running else None)[0]:
            message, descriptors = _hear(connection)
            if not message:
                _end(running)
                return None
            wanted = json.loads(message)
            parent, process, problem = os.getpid(), -1, why_not_to_fork()
            try:
                process = -1 if problem else os.fork()
            except OSError as error:
                problem = error.strerror or str(error)
            if process == 0:
                return Request(parent, wanted["arguments"], wanted["environment"], descriptors[0])
            # Before a word is said: whoever hears of a problem takes the locks again.
            for descriptor in descriptors:
                os.close(descriptor)
            if problem:
                _say(connection, number=wanted["number"], problem=problem)
            else:
                running[process] = wanted["number"]
                _say(connection, number=wanted["number"], pid=process)
        for process in list(running):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                _say(connection, number=running.pop(process), code=os.waitstatus_to_exitcode(status))


def _hear(connection: socket.socket) -> tuple[bytes, list[int]]:
    """The next request with its descriptors; empty at the connection's end."""
    try:
        message, descriptors, _, _ = socket.recv_fds(connection, LONGEST_MESSAGE, DESCRIPTORS)
    except ConnectionResetError:
        # Who asked has ended without reading all that was said.
        return b"", []
    return message, descriptors


def _say(connection: socket.socket, **message: Any) -> None:
    # Who asked may be gone; that is seen when the next request does not come.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send(json.dumps(message).encode())


def _end(running: Mapping[int, int]) -> None:
    """Kill jobs with all that they started; they lead sessions of their own."""
    for process in running:
        # Until it has called setsid, a fork is in this process's group.
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                kill(process, signal.SIGKILL)
    for process in running:
        os.waitpid(process, 0)


# In a fork.


def _run(request: Request) -> NoReturn:
    os.setsid()
    for standard in (1, 2):
        os.dup2(request.log, standard)
    os.close(request.log)
    for name, value in request.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    sys.argv = [str(worker.__file__), *request.arguments]
    show([sys.executable, "-m", WORKER, *request.arguments])
    _forget()
    die_at_once()
    try:
        code = worker.main(["--parent", str(request.parent), *request.arguments])
    except SystemExit as error:
        code = _code_of(error)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)


def _forget() -> None:
    """Lose what forks would share and fresh processes would not: random states, and which warnings were shown."""
    import numpy as np

    # Python's own generator is seeded anew after a fork; torch's starts from the same seed in every process.
    np.random.seed()  # noqa: NPY002
    # The registries of shown warnings count for one state of the filters, and this makes a new one.
    with warnings.catch_warnings():
        pass


def _code_of(error: SystemExit) -> int:
    """The exit code that Python makes of ``sys.exit``'s argument."""
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def leave(code: int) -> NoReturn:
    """End this process as Python does, without taking every object apart, which would copy the pages of all.

    Args:
        code: The exit code.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (*_written_streams(), sys.stdout, sys.stderr):
        # The log may lie on a full disk, and what a stream stands on be closed.
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 0xFF)


def _written_streams() -> Iterator[Any]:
    """Files that are open for writing; Python would write the rest of them when it takes them apart."""
    found = gc.get_objects()
    # First the text, which goes to the bytes below.
    for kinds in (io.TextIOWrapper, (io.BufferedWriter, io.BufferedRandom)):
        yield from (thing for thing in found if issubclass(type(thing), kinds) and not thing.closed)


def show(words: Sequence[str]) -> None:
    """Have ``ps`` and /proc show a command as this process's, if the one that it was started by has the room.

    Args:
        words: The command.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])
    text = b"".join(os.fsencode(word) + b"\0" for word in words)
    if 0 < begin and len(text) <= end - begin:
        ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))

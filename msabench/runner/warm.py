"""Workers that need not import anything: the side that asks ``msabench.runner.fork_server`` for them.

On Linux alone. A fork of a process that has used frameworks of macOS does not survive, and Windows has none.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

from msabench.plugins import PLUGINS_VARIABLE
from msabench.runner.executor import LOST, WORKER, Task, ended_by, last_line
from msabench.runner.fork_server import LONGEST_MESSAGE

SERVER = "msabench.runner.fork_server"

ROOM = "." * 2048
"""Word in the server's command in whose place the commands of jobs are shown; paths may be long."""

PATIENCE_SECONDS = 10.0
"""How long a server may take to end its jobs before it is killed, and they by the kernel."""


def can_be_warm(task: Task) -> bool:
    """Whether a task's worker can be a fork: it is ours, and this is Linux."""
    return sys.platform == "linux" and task.command()[:3] == [sys.executable, "-m", WORKER]


class WarmWorker:
    """A worker that a server was asked for.

    Attributes:
        pid: Its process; None until there is one.
        returncode: As ``subprocess.Popen`` has it, None while it runs or waits to; ``LOST`` if nobody knows how it
            ended, or if there never was a process.
        error: Why it is lost; else empty.
    """

    def __init__(self) -> None:
        self.pid: int | None = None
        self.returncode: int | None = None
        self.error = ""

    def poll(self) -> int | None:
        """As in ``subprocess.Popen``, as far as the server was listened to."""
        return self.returncode

    def lose(self, why: str) -> None:
        """Give it up."""
        self.returncode, self.error = LOST, why

    @property
    def never_began(self) -> bool:
        """Whether there will be no process."""
        return self.returncode is not None and self.pid is None


class ForkServer:
    """A fork server and the workers that it was asked for.

    Attributes:
        gone: How it ended; empty while it runs.
        refused: Why it starts no workers; empty while it does.

    Args:
        environment: Environment of the server; workers may have others.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        # The server imports nothing from outside, and must not know of it: the knowledge would be as old as the server.
        self._environment = {name: value for name, value in environment.items() if name != PLUGINS_VARIABLE}
        self._workers: dict[int, WarmWorker] = {}
        self._asked = 0
        self._output = tempfile.TemporaryFile()
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.gone = ""
        self.refused = ""
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", SERVER, str(theirs.fileno()), str(os.getpid()), ROOM],
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    env=self._environment,
                    start_new_session=True,
                )
            except OSError:
                self._connection.close()
                self._output.close()
                raise
        self._is_ready = False

    def launch(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: IO[bytes], locks: Sequence[int]
    ) -> WarmWorker:
        """Ask for a worker; the server forks it when it has imported everything.

        Args:
            arguments: The worker's arguments.
            environment: Its environment.
            log: Where its output goes.
            locks: Descriptors that it holds to its end.
        """
        names = environment.keys() | self._environment.keys()
        changes = {
            name: environment.get(name) for name in names if environment.get(name) != self._environment.get(name)
        }
        self._asked += 1
        worker = self._workers[self._asked] = WarmWorker()
        message = {"number": self._asked, "arguments": list(arguments), "environment": changes}
        # A server that is gone is noticed, with everything that it was asked for, by ``listen``.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._connection, [json.dumps(message).encode()], [log.fileno(), *locks])
        return worker

    def listen(self, seconds: float) -> None:
        """Take in what the server says; wait for its first word at most ``seconds``."""
        while not self.gone and select.select([self._connection], [], [], seconds)[0]:
            seconds = 0.0
            try:
                message = self._connection.recv(LONGEST_MESSAGE)
            except ConnectionResetError:
                # It ended with requests unread; what it had said before is still to come.
                continue
            if message:
                self._take(json.loads(message))
            else:
                self._lose()

    def _take(self, said: dict[str, Any]) -> None:
        if "ready" in said:
            self._is_ready = True
            return
        worker = self._workers[said["number"]]
        worker.pid = said.get("pid", worker.pid)
        worker.returncode = said.get("code")
        if "problem" in said:
            self.refused = said["problem"]
            worker.lose(self.refused)
        if worker.returncode is not None:
            del self._workers[said["number"]]

    def _lose(self) -> None:
        """Give up all workers, since the server is at its end."""
        code = self._process.wait()
        self._output.seek(0)
        said = last_line(self._output.read().decode(errors="replace"))
        self.gone = self.refused or (
            ended_by(code, "process that starts workers") if code < 0 else said or f"code {code}"
        )
        for worker in self._workers.values():
            if worker.pid is not None:
                # The kernel ends the job, and not what it has started.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
            worker.lose(self.gone)
        self._workers.clear()

    def close(self) -> None:
        """End server and workers, and wait until they have ended."""
        self._connection.close()
        # Before it is ready it has no workers and does not listen.
        if not self._is_ready:
            self._process.kill()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

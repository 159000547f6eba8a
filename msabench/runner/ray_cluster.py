"""Runs jobs on a Ray cluster (extra ``msabench[ray]``): Ray finds room for them, on GPUs also by the share.

A job is what it is elsewhere, a process of its own with the claim on its job and the lock on its run folder; Ray's
process on the node (``msabench.runner.ray_node``) starts it and waits for it. A process of ours, ``ray_driver``, speaks
with the cluster. When either is gone so are the jobs, and what they had not recorded the same command runs again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from msabench import __version__
from msabench.errors import MSABenchError
from msabench.runner.executor import Finished, Task, ended_by, last_line
from msabench.runner.local import ONE_THREAD, POLL_SECONDS, cpu_slots, visible_gpus
from msabench.runner.ray_messages import (
    Begun,
    Cluster,
    Ended,
    Lost,
    Node,
    Order,
    Orders,
    Problem,
    Ready,
    Unfit,
    jobs_at_once,
    needs,
)

DRIVER = "msabench.runner.ray_driver"

RETRIES = 3
"""How often a job is handed out again after its node was lost."""

PATIENCE_SECONDS = 300.0
"""How long to wait for a node with room, once there is none."""

CONNECT_SECONDS = 180.0
"""How long the driver may take to find the cluster or to start one."""

ANSWER_SECONDS = 5.0
"""How long a head may take to accept a connection."""

CLOSE_SECONDS = 20.0
"""How long the driver may take to end the jobs before it is killed, and they with it."""

LOSSES = {
    "Failed to connect to GCS": "its head has not answered for long",
    "Unauthenticated": "its head was restarted, and does not know of this run",
}
"""Words in the output of Ray's library, whose last ones may be a page -> what they mean."""

CARRIED = ("MSABENCH_", "HF_", "XDG_CACHE_HOME", "PYTHONPATH")
"""How variables begin that go to the nodes: where data, caches and code lie. Nodes have the rest of their own."""


class RayExecutor:
    """Jobs on the nodes of a Ray cluster; run folders and store must lie on a shared file system.

    Args:
        address: ``auto`` for the cluster that this machine is a node of, ``host:port`` of its head; None to start one
            of this machine alone, which ends with this process.
        per_device: Jobs at a time on each GPU.
        slots: Most jobs at a time; None for as many as the nodes have room for. Each takes a CPU.
        gpus: Whether jobs are for GPUs; None if any node has one.
        retries: How often a job is handed out again after its node was lost. A job's own failure is final.
        patience: Seconds to wait for a node with room, once there is none.

    Raises:
        MSABenchError: An argument is not allowed, Ray is not installed, there is no such cluster, or no node has what a
            job takes.
    """

    def __init__(
        self,
        address: str | None = None,
        per_device: int = 1,
        slots: int | None = None,
        gpus: bool | None = None,
        retries: int = RETRIES,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise MSABenchError("the executor ray needs Ray; pip install 'msabench[ray]'")
        if per_device < 1:
            raise MSABenchError(f"{per_device} jobs per device are not allowed; give a positive number")
        if retries < 0:
            raise MSABenchError(f"{retries} retries are not allowed; give 0 or more")
        places = len(cpu_slots(slots))
        found = [] if address or gpus is False else visible_gpus()
        self._where = f"at {address}" if address else "of this machine"
        self._most = slots
        self._retries = retries
        self._patience = patience
        self._driver: _Driver | None = None
        if address:
            _require_answer(address)
            self._cluster = Cluster(address)
            nodes = self._connected().nodes
        else:
            # Ray's CPUs are what is given out, not cores: shares of GPUs may be more.
            self._cluster = Cluster(None, max(places, len(found) * per_device) if found else places, len(found))
            nodes = [Node("", self._cluster.cpus, self._cluster.gpus)]
        on_gpus = any(node.gpus >= 1 for node in nodes) if gpus is None else gpus
        self._per_device = per_device if on_gpus else 0
        room = jobs_at_once(nodes, self._per_device)
        if not room:
            self._close()
            have = "; ".join(f"{node.name} has {node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes)
            raise MSABenchError(
                f"no node of the Ray cluster {self._where} has what a job needs ({needs(self._per_device)}): {have}"
            )
        self.slots = room if slots is None else min(slots, room)

    def run(self, tasks: Sequence[Task], tick: Callable[[Sequence[Task]], None]) -> Generator[Finished, None, None]:
        """See ``Executor.run``; closing the iterator early ends the jobs that run and the connection.

        Raises:
            MSABenchError: The connection to the cluster is lost, a node cannot run jobs, or none is left.
        """
        left = dict(enumerate(tasks))
        if not left:
            return
        running: dict[int, Task] = {}
        driver = self._connected()
        try:
            with _marks(tasks) as marks:
                driver.send(self._orders(tasks, marks))
                while left:
                    tick(list(running.values()))
                    for said in driver.listen():
                        if isinstance(said, Begun):
                            running[said.number] = left[said.number]
                        elif isinstance(said, Ended):
                            running.pop(said.number, None)
                            yield Finished(left.pop(said.number), said.code, said.error)
                        elif isinstance(said, Lost):
                            running.pop(said.number, None)
                            _say(f"{left[said.number].folder}: lost, and handed out again: {said.why}")
                        elif isinstance(said, Unfit):
                            _say(f"{said.why}; no other job is started, and those that run go on to their end")
                        else:
                            raise MSABenchError(said.sentence)
        finally:
            if left:
                self._close()

    def _orders(self, tasks: Sequence[Task], marks: Sequence[str]) -> Orders:
        carried = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
        accelerator = "gpu" if self._per_device else "cpu"
        orders = [
            Order(pickle.dumps(task), __version__, str(Path.cwd()), marks, {**carried, **ONE_THREAD}, accelerator)
            for task in tasks
        ]
        return Orders(orders, self._per_device, self._most, self._retries, self._patience)

    def _connected(self) -> _Driver:
        if self._driver is None or self._driver.is_closed:
            self._driver = _Driver(self._cluster, self._where)
        return self._driver

    def _close(self) -> None:
        if self._driver is not None:
            self._driver.close()


class _Driver:
    """The process that speaks with the cluster; it ends with this object.

    Attributes:
        nodes: The nodes that lived when it began.

    Args:
        cluster: What it connects to.
        where: The same in words, to come after "the cluster".

    Raises:
        MSABenchError: There is no such cluster.
    """

    def __init__(self, cluster: Cluster, where: str) -> None:
        self._where = where
        self._output = tempfile.TemporaryFile()
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", DRIVER, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                # Ray would give jobs the time of a processor that nothing else wants.
                env={"RAY_worker_niceness": "0", **os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
                # Ctrl-C is for this process, which then ends the other.
                start_new_session=True,
            )
        self.close = weakref.finalize(self, _end, self._process, self._connection, self._output)
        self.send(cluster)
        self.nodes = self._first_word()

    @property
    def is_closed(self) -> bool:
        """Whether it was ended."""
        return not self.close.alive

    def send(self, message: Cluster | Orders) -> None:
        """Ask for something."""
        # If it is gone that is heard.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(message)

    def listen(self) -> Iterator[Any]:
        """What it says, after waiting for its first word a fraction of a second.

        Raises:
            MSABenchError: It has ended.
        """
        seconds = POLL_SECONDS
        while not self.is_closed and self._connection.poll(seconds):
            seconds = 0.0
            try:
                said = self._connection.recv()
            except (EOFError, ConnectionResetError):
                raise MSABenchError(self._last_words()) from None
            yield said

    def _first_word(self) -> Sequence[Node]:
        until = time.monotonic() + CONNECT_SECONDS
        try:
            while time.monotonic() < until:
                for said in self.listen():
                    if isinstance(said, Ready):
                        return said.nodes
                    if isinstance(said, Problem):
                        raise MSABenchError(said.sentence)
            raise MSABenchError(f"the Ray cluster {self._where} has not answered for {CONNECT_SECONDS:.0f} s")
        except BaseException:
            self.close()
            raise

    def _last_words(self) -> str:
        code = self._process.wait()
        self._output.seek(0)
        said = self._output.read().decode(errors="replace")
        why = next((why for words, why in LOSSES.items() if words in said), "") or (
            ended_by(code, "process that speaks with it") if code < 0 else last_line(said) or f"code {code}"
        )
        return (
            f"the connection to the Ray cluster {self._where} was lost: {why}; see whether its head runs, and the same "
            "command goes on with the rest"
        )


def _end(process: subprocess.Popen[bytes], connection: Connection, output: IO[bytes]) -> None:
    connection.close()
    try:
        process.wait(CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    output.close()


@contextlib.contextmanager
def _marks(tasks: Sequence[Task]) -> Iterator[list[str]]:
    """Leave a file in the folders that nodes must share, as long as the block lasts.

    A node that does not share them would make folders of the same names, and its records would be nowhere. And a node
    that is cut off sees by them whether there is still a run.
    """
    folders = {task.store.absolute() for task in tasks}
    folders.add(Path(os.path.commonpath([task.folder.absolute() for task in tasks])))
    name = f".shared-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as left:
        marks = []
        for folder in sorted(folders):
            # What cannot be written is said by the job that cannot write it.
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
                left.callback(_remove, folder / name)
                marks.append(str(folder / name))
        yield marks


def _remove(mark: Path) -> None:
    with contextlib.suppress(OSError):
        mark.unlink(missing_ok=True)


def _require_answer(address: str) -> None:
    """See whether anything listens at an address; Ray itself would try for minutes.

    Raises:
        MSABenchError: It is no address, or nothing does.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host or not 0 < int(port) < 1 << 16:
        raise MSABenchError(f"address {address!r} is not allowed; give auto, or a head's host:port, e.g. 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        raise MSABenchError(
            f"no Ray cluster answers at {address} ({error.strerror or error}); start its head with `ray start --head`, "
            "or leave --address out for a cluster of this machine alone"
        ) from error


def _say(line: str) -> None:
    print(line, file=sys.stderr)

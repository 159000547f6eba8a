"""The process that speaks with a Ray cluster.

Run as ``python -m msabench.runner.ray_driver <descriptor> <parent>`` by ``msabench.runner.ray_cluster``. Ray's library
ends its process on the spot when it loses the cluster's head, takes over signals and starts threads: here it can. Jobs
and nodes that are lost are noticed here too, and jobs handed out again.

Messages are pickles between these two processes. This one is sent ``Cluster`` once, then ``Orders`` for each run; the
end of the connection means that all jobs are to end. It answers ``Ready`` or ``Problem``, then ``Begun``, ``Lost``,
``Unfit`` and ``Ended``, or ``Problem`` where a run cannot go on.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import pickle
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from msabench.errors import MSABenchError
from msabench.runner.executor import LOST, last_line
from msabench.runner.ray_messages import (
    Begun,
    Cluster,
    Ended,
    Lost,
    Node,
    Orders,
    Problem,
    Ready,
    Unfit,
    jobs_at_once,
    needs,
)
from msabench.runner.worker import die_with

POLL_SECONDS = 0.2

NODES_SECONDS = 2.0
"""Time between two looks at which nodes there are."""

CANCEL_SECONDS = 5.0
"""How long jobs may take to end before the processes that they run in are ended."""

STORE_BYTES = 80 << 20
"""Memory of a local cluster for objects; Ray takes no less than 75 MiB, and ours are small."""


@dataclass
class _Attempt:
    number: int
    lost: list[str] = field(default_factory=list)
    node: str = ""


class _LeftError(Exception):
    """Nobody listens any more."""


def main(arguments: Sequence[str]) -> int:
    """Serve until the connection ends.

    Args:
        arguments: Descriptor of the connection, and the process to die with.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m msabench.runner.ray_driver", description="Speak with Ray.")
    parser.add_argument("connection", type=int, help="descriptor of the connection")
    parser.add_argument("parent", type=int, help="process to die with (Linux)")
    given = parser.parse_args(arguments)
    die_with(given.parent)
    with Connection(given.connection) as connection, contextlib.suppress(EOFError, BrokenPipeError, _LeftError):
        try:
            ray = _connect(connection.recv())
            connection.send(Ready(_nodes(ray)))
            while True:
                _Run(ray, connection, connection.recv()).go()
        except MSABenchError as error:
            connection.send(Problem(str(error)))
    return 0


def _connect(cluster: Cluster) -> ModuleType:
    import ray

    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.address is None:
        settings |= {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus, "object_store_memory": STORE_BYTES}
        settings["include_dashboard"] = False
    try:
        ray.init(address=cluster.address or "local", **settings)
    # Ray raises what it meets, from assertions to exceptions of its transport.
    except Exception as error:
        said = last_line(str(error)) or type(error).__name__
        if cluster.address is None:
            raise MSABenchError(f"no Ray cluster could be started on this machine: {said}") from error
        raise MSABenchError(
            f"there is no Ray cluster at {cluster.address} with a node on this machine ({said}); start a head with "
            "`ray start --head` or join one with `ray start --address`, or leave --address out for a cluster of this "
            "machine alone"
        ) from error
    # Where Ray is not installed, type checkers know nothing of it.
    module: ModuleType = ray
    return module


def _nodes(ray: ModuleType) -> list[Node]:
    return [
        Node(node["NodeManagerHostname"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


def remote_function(ray: ModuleType, per_device: int) -> Callable[[bytes], Any]:
    """What is run on nodes, ready to be handed out; lost workers are no matter of Ray's.

    Args:
        ray: The library.
        per_device: As in ``Orders``.
    """

    # A function in a function is sent whole, and can tell that msabench is missing where it arrives.
    def on_node(written: bytes, path: Sequence[str]) -> Iterator[dict[str, Any]]:
        import platform
        import sys

        yield {"node": platform.node()}
        sys.path += [folder for folder in path if folder not in sys.path]
        try:
            from msabench.runner.ray_node import obey
        except ImportError as error:
            yield {"unfit": f"it has no msabench ({error}); install the same on every node"}
            return
        yield from obey(written)

    # Ray counts GPUs in ten-thousandths; a third rounded up would have room for two.
    gpus = (10_000 // per_device) / 10_000 if per_device else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0, num_returns="streaming")(on_node)
    path = [str(Path(folder).absolute()) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    return lambda written: remote.remote(written, path)


class _Run:
    """Hands out orders, and says what becomes of them.

    Args:
        ray: The library, connected.
        connection: To the process that waits for the end of the run.
        orders: The run.
    """

    def __init__(self, ray: ModuleType, connection: Connection, orders: Orders) -> None:
        self._ray = ray
        self._connection = connection
        self._given = orders
        self._start = remote_function(ray, orders.per_device)
        self._waiting = deque(_Attempt(number) for number in range(len(orders.orders)))
        self._flying: dict[Any, _Attempt] = {}
        self._unfit = ""
        self._looked = -float("inf")
        self._had_room = time.monotonic()
        self._room = 0

    def go(self) -> None:
        """Run everything.

        Raises:
            _LeftError: The other process has gone; nothing of the run goes on.
            MSABenchError: A node is unfit, or there is none.
        """
        try:
            while self._flying or (self._waiting and not self._unfit):
                # Nothing is sent during a run, so what comes is the end.
                if self._connection.poll():
                    raise _LeftError
                self._look()
                while self._waiting and len(self._flying) < self._room and not self._unfit:
                    attempt = self._waiting.popleft()
                    order = replace(self._given.orders[attempt.number], lost=len(attempt.lost))
                    self._flying[self._start(pickle.dumps(order))] = attempt
                self._listen()
            if self._unfit:
                raise MSABenchError(self._unfit)
        finally:
            # Without the cluster nothing can be cancelled, and nodes notice that the run is over.
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._cancel(list(self._flying))

    def _look(self) -> None:
        """See how many jobs there is room for."""
        now = time.monotonic()
        if now - self._looked < NODES_SECONDS:
            return
        self._looked = now
        self._room = jobs_at_once(_nodes(self._ray), self._given.per_device)
        if self._room or any(attempt.node for attempt in self._flying.values()):
            self._had_room = now
        elif now - self._had_room > self._given.patience:
            raise MSABenchError(
                f"no node has had what a job needs ({needs(self._given.per_device)}) for "
                f"{self._given.patience:.0f} s; add one with `ray start --address`, and the same command goes on"
            )
        if self._given.most is not None:
            self._room = min(self._room, self._given.most)

    def _listen(self) -> None:
        if not self._flying:
            time.sleep(POLL_SECONDS)
            return
        for handle in self._ray.wait(list(self._flying), timeout=POLL_SECONDS)[0]:
            self._hear(handle)

    def _hear(self, handle: Any) -> None:
        attempt = self._flying[handle]
        errors = self._ray.exceptions
        try:
            said = self._ray.get(next(handle))
        except errors.TaskCancelledError:
            del self._flying[handle]
            self._connection.send(Ended(attempt.number, LOST, f"it was cancelled in Ray{_at(attempt.node)}"))
            return
        except errors.LocalRayletDiedError as error:
            raise MSABenchError(
                "Ray's process on this machine died, so no job can be handed out; start it again with `ray start`, and "
                "the same command goes on with the rest"
            ) from error
        except errors.RayTaskError as error:
            del self._flying[handle]
            self._connection.send(Ended(attempt.number, LOST, f"{last_line(str(error))}{_at(attempt.node)}"))
            return
        except (errors.RayError, StopIteration) as error:
            del self._flying[handle]
            self._lose(attempt, error)
            return
        if "node" in said:
            attempt.node = said["node"]
            self._connection.send(Begun(attempt.number, attempt.node))
            return
        del self._flying[handle]
        if "unfit" in said:
            self._give_up(f"node {attempt.node} cannot run jobs: {said['unfit']}")
        else:
            self._connection.send(Ended(attempt.number, said["code"], said["error"]))

    def _lose(self, attempt: _Attempt, error: Exception) -> None:
        attempt.lost.append(f"{_words(error)}{_at(attempt.node)}")
        attempt.node = ""
        if len(attempt.lost) > self._given.retries:
            times = f"{len(attempt.lost)} times" if len(attempt.lost) > 1 else "once"
            self._connection.send(Ended(attempt.number, LOST, f"lost {times}: {'; '.join(attempt.lost)}"))
        else:
            self._connection.send(Lost(attempt.number, attempt.lost[-1]))
            self._waiting.appendleft(attempt)

    def _give_up(self, why: str) -> None:
        """Let the jobs that run end, and start no other: such a node would take one after another and end them all."""
        if self._unfit:
            return
        self._unfit = why
        self._connection.send(Unfit(why))
        self._cancel([handle for handle, attempt in self._flying.items() if not attempt.node])

    def _cancel(self, handles: Sequence[Any]) -> None:
        """End jobs, and wait until they have ended."""
        for force in (False, True):
            left = [handle for handle in handles if handle in self._flying]
            for handle in left:
                self._ray.cancel(handle, force=force)
            until = time.monotonic() + CANCEL_SECONDS
            while left and time.monotonic() < until:
                ready, left = self._ray.wait(left, timeout=POLL_SECONDS)
                for handle in ready:
                    if self._is_over(handle):
                        del self._flying[handle]
                    else:
                        left.append(handle)

    def _is_over(self, handle: Any) -> bool:
        try:
            return "node" not in self._ray.get(next(handle))
        except (self._ray.exceptions.RayError, StopIteration):
            return True


def _at(node: str) -> str:
    return f" (node {node})" if node else ""


def _words(error: Exception) -> str:
    """What a loss is, without the pages that Ray adds."""
    kinds = {
        "NodeDiedError": "its node died",
        "WorkerCrashedError": "Ray's process on the node died",
        "OutOfMemoryError": "Ray ended it, for the node ran out of memory",
        "StopIteration": "it ended without a word",
    }
    name = type(error).__name__
    return kinds.get(name) or f"{name}: {str(error).strip().partition(chr(10))[0]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

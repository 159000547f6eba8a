"""Runs jobs on this machine: one process per slot, a slot being a CPU core or a share of a GPU.

Where it can be, the processes are forks of one that has imported what jobs need (``msabench.runner.warm``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from msabench.errors import MSABenchError
from msabench.runner.executor import Finished, Task, begin, start
from msabench.runner.warm import ForkServer, WarmWorker, can_be_warm

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Threads that spin while they wait slow each other down by orders of magnitude on a busy machine.
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    # pyarrow's allocator would start a thread when it is imported.
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""Environment of every worker: one single-threaded process per core has the highest throughput."""

POLL_SECONDS = 0.2

SERVERS = 2
"""Fork servers that a run may need: one that is killed is replaced once. Then every worker imports for itself."""

Worker: TypeAlias = subprocess.Popen[bytes] | WarmWorker


@dataclass(frozen=True)
class Slot:
    """Room for one worker.

    Attributes:
        core: CPU core to pin to; None leaves the system free.
        gpu: Index or UUID of the GPU; None for the CPU.
        accelerator: Lightning's accelerator; None for what the slot is.
        lost: Workers of the task at hand that were lost before, with their nodes.
    """

    core: int | None = None
    gpu: str | None = None
    accelerator: str | None = None
    lost: int = 0

    def options(self) -> list[str]:
        """What a worker in it is told."""
        accelerator = self.accelerator or ("cpu" if self.gpu is None else "gpu")
        core = [] if self.core is None else ["--core", str(self.core)]
        return ["--accelerator", accelerator, *core, *(["--lost", str(self.lost)] if self.lost else [])]

    def options_of_child(self) -> list[str]:
        """What a worker in it is told that this process starts."""
        return ["--parent", str(os.getpid()), *self.options()]

    def environment(self, around: Mapping[str, str]) -> dict[str, str]:
        """Variables of a worker in it.

        Args:
            around: Variables of any worker.
        """
        return {**around, **({} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu})}


def cpu_slots(count: int | None = None) -> list[Slot]:
    """One slot per core that this process may use, or ``count`` slots shared out over them.

    Fewer slots than cores are not pinned: two runs with a slot each would else share the first core.

    Raises:
        MSABenchError: ``count`` is not positive.
    """
    cores: list[int | None] = [*sorted(os.sched_getaffinity(0))] if hasattr(os, "sched_getaffinity") else []
    cores = cores or [None] * (os.cpu_count() or 1)
    count = len(cores) if count is None else count
    if count < 1:
        raise MSABenchError(f"{count} slots are not allowed; give a positive number")
    return [Slot(core=cores[number % len(cores)] if count >= len(cores) else None) for number in range(count)]


def gpu_slots(devices: Sequence[str], per_device: int = 1) -> list[Slot]:
    """``per_device`` slots on each GPU, alternating between GPUs so that the first jobs spread out.

    Raises:
        MSABenchError: ``per_device`` is not positive.
    """
    if per_device < 1:
        raise MSABenchError(f"{per_device} jobs per device are not allowed; give a positive number")
    return [Slot(gpu=device) for _ in range(per_device) for device in devices]


def visible_gpus() -> list[str]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


class LocalExecutor:
    """One process per slot.

    Each worker is a session of its own, so that Ctrl-C reaches this process alone, which then ends them. On Linux the
    kernel ends them too when this process is killed; elsewhere they finish and record the job at hand.

    Args:
        places: The slots.
        warm: Whether workers may be forks of one process that has imported what they need, where that can be.
        environment: Variables of every worker beside those of this process.
    """

    def __init__(self, places: Sequence[Slot], warm: bool = True, environment: Mapping[str, str] = ONE_THREAD) -> None:
        self.places = list(places)
        self.slots = len(self.places)
        self._warm = warm
        self._environment = environment

    def run(self, tasks: Sequence[Task], tick: Callable[[Sequence[Task]], None]) -> Generator[Finished, None, None]:
        """See ``Executor.run``."""
        waiting = list(reversed(tasks))
        active: list[tuple[Worker, Task, Slot]] = []
        free = list(reversed(self.places))
        # A single job imports once either way.
        workers = _Workers(self._environment, SERVERS if self._warm and len(tasks) > 1 else 0)
        try:
            while waiting or active:
                while waiting and free:
                    slot, task = free.pop(), waiting.pop()
                    started = workers.start(task, slot)
                    if isinstance(started, Finished):
                        free.append(slot)
                        yield started
                    else:
                        active.append((started, task, slot))
                tick([task for _, task, _ in active])
                workers.listen(0)
                ended = [entry for entry in active if entry[0].poll() is not None]
                active = [entry for entry in active if entry not in ended]
                for worker, task, slot in ended:
                    free.append(slot)
                    if isinstance(worker, WarmWorker) and worker.never_began:
                        waiting.append(task)
                    else:
                        yield _finished(task, worker)
                if not ended:
                    workers.listen(POLL_SECONDS)
        finally:
            workers.close()
            kill([worker for worker, _, _ in active if isinstance(worker, subprocess.Popen)])


class _Workers:
    """Starts the workers of a run: asks a fork server, as long as one is to be had, or else starts fresh processes.

    Args:
        environment: Variables of every worker beside those of this process.
        servers: How many fork servers may be started, one after another.
    """

    def __init__(self, environment: Mapping[str, str], servers: int) -> None:
        self._environment = environment
        self._servers_left = servers
        self._server: ForkServer | None = None
        self._former: list[ForkServer] = []
        """Servers that start no more workers, and may yet have some to look after."""

    def start(self, task: Task, slot: Slot) -> Worker | Finished:
        environment = {**os.environ, **self._environment}
        server = self._server_at_hand(environment) if can_be_warm(task) else None
        environment = slot.environment(environment)
        if server is None:
            return start(task, *slot.options_of_child(), env=environment, start_new_session=True)
        arguments = [str(task.folder / "job.json"), *slot.options()]
        return begin(task, lambda log, locks: server.launch(arguments, environment, log, locks))

    def _server_at_hand(self, environment: Mapping[str, str]) -> ForkServer | None:
        server = self._server
        if server is not None and (why := server.refused or server.gone):
            # It would refuse again, and so would another.
            self._servers_left = 0 if server.refused else self._servers_left
            self._former.append(server)
            self._server = None
            self._say(why)
        if self._server is None and self._servers_left:
            self._servers_left -= 1
            try:
                self._server = ForkServer(environment)
            except OSError as error:
                self._servers_left = 0
                self._say(error.strerror or str(error))
        return self._server

    def _say(self, why: str) -> None:
        what = "another one is started" if self._servers_left else "every worker imports for itself from here on"
        print(f"no workers from the process that has imported everything ({why}); {what}", file=sys.stderr)

    def listen(self, seconds: float) -> None:
        """Take in what there is to hear of workers, and wait for it at most ``seconds``."""
        live = [server for server in self._servers() if not server.gone]
        for server in live[:-1]:
            server.listen(0)
        if live:
            live[-1].listen(seconds)
        else:
            time.sleep(seconds)

    def close(self) -> None:
        """End the workers that servers started."""
        for server in self._servers():
            server.close()

    def _servers(self) -> list[ForkServer]:
        return [*self._former, *([] if self._server is None else [self._server])]


def _finished(task: Task, worker: Worker) -> Finished:
    code = worker.poll()
    assert code is not None
    if not isinstance(worker, WarmWorker) or not worker.error:
        return Finished(task, code)
    # The record counts, whatever became of the process that wrote it.
    return Finished(task, 0) if task.is_recorded() else Finished(task, code, worker.error)


def kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End workers, each the leader of its session, with their children, and wait for them.

    Args:
        processes: The workers; some may have ended.
    """
    for process in processes:
        if process.poll() is None:
            # Everything a worker stores is written atomically, so it needs no time to clean up. It leads its
            # session: its own children go with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()

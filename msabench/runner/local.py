"""Runs jobs on this machine: one process per slot, a slot being a CPU core or a share of a GPU."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from msabench.errors import MSABenchError
from msabench.runner.executor import Finished, Task, start

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Threads that spin while they wait slow each other down by orders of magnitude on a busy machine.
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
}
"""Environment of every worker: one single-threaded process per core has the highest throughput."""

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Slot:
    """Room for one worker.

    Attributes:
        core: CPU core to pin to; None leaves the system free.
        gpu: Index or UUID of the GPU; None for the CPU.
    """

    core: int | None = None
    gpu: str | None = None


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
    """One subprocess per slot.

    Each worker is a session of its own, so that Ctrl-C reaches this process alone, which then ends them. On Linux the
    kernel ends them too when this process is killed; elsewhere they finish and record the job at hand.

    Args:
        places: The slots.
    """

    def __init__(self, places: Sequence[Slot]) -> None:
        self.places = list(places)
        self.slots = len(self.places)

    def run(self, tasks: Sequence[Task], tick: Callable[[Sequence[Task]], None]) -> Generator[Finished, None, None]:
        """See ``Executor.run``."""
        waiting = list(reversed(tasks))
        active: list[tuple[subprocess.Popen[bytes], Task, Slot]] = []
        free = list(reversed(self.places))
        try:
            while waiting or active:
                while waiting and free:
                    slot, task = free.pop(), waiting.pop()
                    started = _start(task, slot)
                    if isinstance(started, Finished):
                        free.append(slot)
                        yield started
                    else:
                        active.append((started, task, slot))
                tick([task for _, task, _ in active])
                ended = [entry for entry in active if entry[0].poll() is not None]
                active = [entry for entry in active if entry not in ended]
                for process, task, slot in ended:
                    free.append(slot)
                    yield Finished(task, process.returncode)
                if not ended:
                    time.sleep(POLL_SECONDS)
        finally:
            _end([process for process, _, _ in active])


def _start(task: Task, slot: Slot) -> subprocess.Popen[bytes] | Finished:
    environment = {**os.environ, **ONE_THREAD}
    if slot.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = slot.gpu
    options = ["--parent", str(os.getpid()), "--accelerator", "cpu" if slot.gpu is None else "gpu"]
    if slot.core is not None:
        options += ["--core", str(slot.core)]
    return start(task, *options, env=environment, start_new_session=True)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            # Everything a worker stores is written atomically, so it needs no time to clean up. It leads its
            # session: its own children go with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()

"""Seeds of a job that are trained in one pass, before each is evaluated and recorded like any other job.

A stack leaves in the run folder of each seed what a training of that seed alone leaves when its run is cut off before
the evaluation: the run then goes on from there (``runner.job``). What cannot be stacked is trained seed by seed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msabench.errors import MSABenchError
from msabench.files import try_lock, write_text
from msabench.interruption import die_at_once
from msabench.missingness.conditions import distinct, parse_grid
from msabench.results.claims import claim, require_writable
from msabench.results.record import JobKey
from msabench.results.store import ResultStore
from msabench.runner.executor import RECORDED_FAILURE, Executor, Task, last_line, one_line
from msabench.runner.local import ONE_THREAD, POLL_SECONDS, LocalExecutor, Slot, kill
from msabench.runner.worker import end, placed

LOG = "stack.txt"
"""Output of a stack, in the run folder of its first seed."""


@dataclass(frozen=True)
class _Running:
    process: subprocess.Popen[bytes]
    tasks: tuple[Task, ...]
    slot: Slot
    started: float


def stacks(tasks: Sequence[Task], most: int) -> list[tuple[Task, ...]]:
    """Tasks that differ in the seed alone, two or more together.

    Args:
        tasks: Tasks of a run.
        most: Seeds that are trained in one pass, at least 1.

    Raises:
        MSABenchError: ``most`` is not positive.
    """
    if most < 1:
        raise MSABenchError(f"stack_seeds {most} is not allowed; give at least 1")
    alike: dict[tuple[JobKey, tuple[Path, ...], tuple[str, ...]], list[Task]] = defaultdict(list)
    for task in tasks:
        words = tuple(word for word in task.job.overrides if not word.startswith("--seed_everything="))
        alike[replace(task.job.key, seed=0), task.job.config_files, words].append(task)
    # Of even sizes: five seeds by at most four are three and two.
    found = []
    for together in alike.values():
        count = -(-len(together) // most)
        found += [tuple(together[number::count]) for number in range(count)]
    return [stack for stack in found if len(stack) > 1]


def train_stacks(
    tasks: Sequence[Task], most: int, engine: Executor, tick: Callable[[], None], say: Callable[[str], None]
) -> None:
    """Train what can be trained together, and say what could not be.

    Args:
        tasks: Tasks of a run.
        most: As for ``stacks``.
        engine: What runs the tasks afterwards; stacks take its slots.
        tick: Called a few times a second; may raise to end the stacks.
        say: Called with a line for each stack.

    Raises:
        MSABenchError: ``most`` is not positive, or the engine runs its tasks on other machines.
    """
    waiting = stacks(tasks, most)
    if most > 1 and not isinstance(engine, LocalExecutor):
        raise MSABenchError("stack_seeds trains on this machine; give --executor local")
    if not waiting or not isinstance(engine, LocalExecutor):
        return
    free, running = list(reversed(engine.places)), list[_Running]()
    try:
        while waiting or running:
            while waiting and free:
                slot = free.pop()
                started = _start(waiting.pop(0), slot)
                if started is None:
                    free.append(slot)
                else:
                    running.append(started)
            tick()
            ended = [entry for entry in running if entry.process.poll() is not None]
            running = [entry for entry in running if entry not in ended]
            for entry in ended:
                free.append(entry.slot)
                say(_outcome(entry))
            if not ended:
                time.sleep(POLL_SECONDS)
    finally:
        kill([entry.process for entry in running])


def _start(tasks: Sequence[Task], slot: Slot) -> _Running | None:
    """Start a stack of those tasks that no other process runs; None if fewer than two are left."""
    with contextlib.ExitStack() as locks:
        held, ours = [], []
        for task in tasks:
            with contextlib.suppress(OSError, MSABenchError):
                require_writable(task.store, task.job.key)
                task.folder.mkdir(parents=True, exist_ok=True)
                lock = locks.enter_context((task.folder / ".lock").open("wb"))
                claimed = locks.enter_context(claim(task.store, task.job.key.job_id))
                if claimed and try_lock(lock) and not ResultStore(task.store).has(task.job.key.job_id):
                    task.prepare()
                    held += [lock.fileno(), claimed.fileno()]
                    ours.append(task)
        if len(ours) < 2:
            return None
        words = [sys.executable, "-m", "msabench.runner.stacked", *(str(task.folder / "job.json") for task in ours)]
        log = locks.enter_context((ours[0].folder / LOG).open("wb"))
        process = subprocess.Popen(
            [*words, *slot.options_of_child()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=held if os.name == "posix" else [],
            env=slot.environment({**os.environ, **ONE_THREAD}),
            start_new_session=True,
        )
    return _Running(process, tuple(ours), slot, time.perf_counter())


def _outcome(entry: _Running) -> str:
    numbers = " ".join(str(task.job.key.seed) for task in entry.tasks)
    title = entry.tasks[0].job.title.rpartition(" seed ")[0]
    if entry.process.returncode == 0:
        return f"seeds {numbers} of {title}: trained together in {time.perf_counter() - entry.started:.0f} s"
    log = entry.tasks[0].folder / LOG
    said = last_line(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else ""
    return f"seeds {numbers} of {title}: not trained together: {said or 'their process ended without a word'}"


def train_together(tasks: Sequence[Task], accelerator: str = "auto") -> None:
    """Train the jobs of a stack, and leave in each run folder what ``run_job`` goes on from.

    Trainings that had ended before under the same code stay as they are.

    Args:
        tasks: Jobs that differ in their seed alone.
        accelerator: Lightning's accelerator; one device of it is used.

    Raises:
        MSABenchError: They cannot be trained together, the grid has a cell that they cannot be tested in, or a seed did
            not end well; the others are whole then.
    """
    import torch

    from msabench.results.job_identity import job_key
    from msabench.runner.job import FIT, placement
    from msabench.runner.stages import fit_hash
    from msabench.training.build import build
    from msabench.training.finished import FINISHED
    from msabench.training.stacked_fit import build_seeds, fit_stacked

    seeds = build_seeds(
        [
            lambda task=task: build(  # type: ignore[misc]
                list(task.job.config_files), [*task.job.overrides, *placement(task, accelerator)], task.folder
            )
            for task in tasks
        ]
    )
    open_tasks, open_seeds = [], []
    for task, (built, draws) in zip(tasks, seeds, strict=True):
        corpus = built.datamodule.corpus
        if job_key(built.config, corpus.revision, corpus.features, task.job.key.tuning) != task.job.key:
            raise MSABenchError(f"{task.job.title} changed since it was planned; run the suite again")
        built.datamodule.require(distinct(parse_grid(task.job.grid)), built.model.data_needs)
        hashed, said = fit_hash(built, task), task.folder / FIT
        if (task.folder / FINISHED).is_file() and said.is_file() and said.read_text(encoding="utf-8") == hashed:
            continue
        for name in (FINISHED, FIT, "metrics.csv"):
            (task.folder / name).unlink(missing_ok=True)
        task.remove_checkpoints()
        open_tasks.append((task, hashed))
        open_seeds.append((built, draws))
    if len(open_seeds) < 2:
        return

    def tell(epoch: int, epochs: int) -> None:
        for task, _ in open_tasks:
            task.say("fit", epoch, epochs)

    try:
        failures = fit_stacked(open_seeds, tell)
    except torch.cuda.OutOfMemoryError as error:
        raise MSABenchError(
            f"{len(open_seeds)} seeds do not fit into the memory of the GPU together; give a smaller --stack_seeds"
        ) from error
    for task, hashed in open_tasks:
        if task.job.key.seed not in failures:
            write_text(task.folder / FIT, hashed)
    if failures:
        raise MSABenchError("; ".join(f"seed {seed}: {reason}" for seed, reason in failures.items()))


def main(arguments: list[str]) -> int:
    """Run one stack.

    Args:
        arguments: Paths of its ``job.json``, then options.

    Returns:
        The exit code: 0 if every seed was trained.
    """
    parser = argparse.ArgumentParser(prog="python -m msabench.runner.stacked", description="Train seeds together.")
    parser.add_argument("jobs", type=Path, nargs="+", help="job.json in each run folder")
    given = placed(parser, arguments)
    tasks = [Task.load(path) for path in given.jobs]
    try:
        tasks[0].find_what_is_from_outside()
        train_together(tasks, given.accelerator)
    except Exception as error:
        with contextlib.suppress(OSError):
            if not isinstance(error, MSABenchError):
                traceback.print_exc()
            print(one_line(error), file=sys.stderr, flush=True)
        return RECORDED_FAILURE
    return 0


if __name__ == "__main__":
    die_at_once()
    end(main(sys.argv[1:]))

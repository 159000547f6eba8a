"""A whole run: plans what there is to do, has an executor do it, and says how it ended."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from msabench.interruption import check, interruptible, signal_of
from msabench.results.claims import require_writable
from msabench.results.store import ResultStore
from msabench.runner.execution import Failure, execute, show
from msabench.runner.executor import Executor, Task, run_folder
from msabench.runner.plan import Plan, make_plan
from msabench.runner.stacked import train_stacks
from msabench.runner.studies import Studies, plan_studies
from msabench.runner.suite import Job, Suite, expand


def run_suite(
    suite: Suite,
    store: Path,
    runs: Path,
    others: Sequence[ResultStore],
    *,
    engine_of: Callable[[], Executor],
    at_once: Callable[[], int],
    keep_checkpoints: bool = False,
    dry_run: bool = False,
    fail_fast: bool = False,
    stack_seeds: int = 1,
    retrain: bool = True,
) -> int:
    """Run every trial of a suite's studies that has not ended, then every job that the store does not have yet.

    Args:
        suite: The suite.
        store: Folder of the result store.
        runs: Folder for logs, configs and checkpoints.
        others: Stores to take estimates from where ``store`` has nothing comparable.
        engine_of: Makes what runs tasks.
        at_once: Says how many tasks that would run at a time, for the plan.
        keep_checkpoints: Keep best.ckpt of every job.
        dry_run: Print the plan and stop.
        fail_fast: Stop at the first job or trial that is not done.
        stack_seeds: At most so many seeds of a job are trained in one pass.
        retrain: Whether the winners of studies are trained.

    Returns:
        0 if every job is recorded with all cells and mask seeds of the suite, 1 if not, 130 if Ctrl-C interrupted it,
        143 if SIGTERM did.

    Raises:
        MSABenchError: As in ``expand`` and ``plan_studies``; or the store cannot be written, or the engine not be made.
    """
    own = expand(suite)
    studies = Studies(plan_studies(suite), runs, store)
    jobs, reasons, plan = _planned(own, studies, retrain, store, others)
    trials = studies.plan(others)
    if dry_run:
        if studies.planned:
            print(studies.describe(trials, at_once()))
        if jobs or not studies.planned:
            print(plan.describe(at_once()))
        return 0
    if (plan.todo or trials.todo or reasons) and not (plan.runnable or trials.runnable):
        print("\n".join([plan.describe(0), *reasons]), file=sys.stderr)
        return 1
    engine = engine_of()
    if plan.todo or trials.todo:
        require_writable(store)
    ResultStore(store).sweep()
    failures: list[Failure] = []
    try:
        with interruptible():
            if studies.planned:
                print(studies.describe(trials, engine.slots))
                failures = studies.run(engine, others)
                jobs, reasons, plan = _planned(own, studies, retrain, store, others)
            counts = f"{len(plan.done)} done already, {len(plan.runnable)} to run, {engine.slots} at a time"
            print(f"{len(jobs)} jobs, {counts}")
            for warning in plan.warnings():
                print(warning)
            if stack_seeds != 1:
                train_stacks(_tasks(plan, store, runs, keep_checkpoints), stack_seeds, engine, check, print)
            # Jobs whose data are not here need no process to fail, and no record: it would name no revision and never
            # clear.
            if not (fail_fast and (plan.problems() or failures)):
                tasks = _tasks(plan, store, runs, keep_checkpoints)
                failures += execute(tasks, plan.runnable, engine, fail_fast)
    except KeyboardInterrupt as interruption:
        print("\ninterrupted; what is recorded stays, and the same command goes on with the rest", file=sys.stderr)
        return 128 + signal_of(interruption)
    show(failures)
    for warning in [*reasons, *plan.problems(), *plan.warnings()]:
        print(warning, file=sys.stderr)
    there = sorted({job.key.dataset for job in jobs})
    if there:
        print(f"records: {store}/<dataset>/<method>/   predictions: {store / 'predictions'}/")
        print(f"tables:  msabench table --datasets {' '.join(there)} --store {shlex.quote(str(store))}")
    return 1 if failures or reasons or plan.problems() or plan.lacking else 0


def _planned(
    own: Sequence[Job], studies: Studies, retrain: bool, store: Path, others: Sequence[ResultStore]
) -> tuple[list[Job], list[str], Plan]:
    """All jobs that are known by now, why studies have none, and the plan."""
    winners, reasons = studies.jobs() if retrain else ([], studies.problems())
    jobs = list(dict.fromkeys([*own, *winners]))
    return jobs, reasons, make_plan(jobs, ResultStore(store), others)


def _tasks(plan: Plan, store: Path, runs: Path, keep_checkpoints: bool) -> list[Task]:
    return [Task(entry.job, run_folder(runs, entry.job), store, keep_checkpoints) for entry in plan.runnable]

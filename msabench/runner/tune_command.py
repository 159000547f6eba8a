"""``msabench tune``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from msabench.errors import MSABenchError
from msabench.interruption import interruptible
from msabench.missingness.conditions import parse_grid
from msabench.missingness.named import naming
from msabench.packaged import config_file
from msabench.results.job_identity import method_name
from msabench.results.places import store_to_write
from msabench.results.store import ResultStore
from msabench.results.study import Sampler
from msabench.results.study_settings import settings_of
from msabench.runner.command import engine_of, require_fitting, slots_of, stores_at_hand
from msabench.runner.execution import execute, show
from msabench.runner.executor import Executor
from msabench.runner.plan import make_plan
from msabench.runner.studies import PlannedStudy, plan_studies
from msabench.runner.suite import Suite, UnresolvedJob, resolver_of
from msabench.runner.suite_run import run_suite
from msabench.runner.suite_values import seeds_of
from msabench.training.config_words import as_words
from msabench.tuning.budget import TRAINING_SEED, Budget, Pruning
from msabench.tuning.folder import StudyFolder

SUITE = "tune"
"""Label that records of the winners carry as their suite."""

ALONE = "alone"
"""Folder in a study's with trials that were run again by themselves."""

SEEDS, GRID, MASK_SEEDS = (1111, 1112, 1113), ("paper",), (0, 1, 2)
"""What the winner is trained under and evaluated on where nobody says."""


@naming()
def tune(
    config: Path,
    trials: int = 50,
    hours: float | None = None,
    sampler: Sampler = "random",
    pruning: Pruning = "none",
    seed: int = 1,
    training_seed: int = TRAINING_SEED,
    space: Path | None = None,
    regime: str | None = None,
    overrides: list[str] | None = None,
    seeds: list[int] | None = None,
    grid: list[str] | None = None,
    mask_seeds: list[int] | None = None,
    no_retrain: bool = False,
    trial: int | None = None,
    store: Path | None = None,
    runs: Path = Path("runs"),
    slots: int | None = None,
    devices: list[str] | None = None,
    per_device: int = 1,
    workers: Literal["warm", "fresh"] = "warm",
    executor: Literal["local", "slurm", "ray"] = "local",
    slurm: Path | None = None,
    jobs_per_element: int = 1,
    address: str | None = None,
    dry_run: bool = False,
) -> int:
    """Search settings for a config by val/task, and train the best of them under fresh seeds.

    Interrupting is safe: trials that have ended stay, and the same command goes on with the rest. The test split is not
    opened before the settings are chosen.

    Args:
        config: Config file, or the name of one that comes with msabench, e.g. umdf_mosi.
        trials: Trials; the first has the config's own settings, and one that fails counts.
        hours: No trial starts once those that ended took so many hours together.
        sampler: random, by which every trial's settings follow from the seed and its number alone, or tpe, which learns
            from the trials that have ended.
        pruning: median ends trials that are worse than the median of those before them, none ends none.
        seed: Seed of the settings.
        training_seed: Seed of every trial's training.
        space: File with the search space; if not given the method's own, configs/spaces/METHOD.yaml.
        regime: Training regime instead of the config's.
        overrides: Further settings of the config, as KEY=VALUE, e.g. trainer.max_epochs=8.
        seeds: Seeds that the best settings are trained under, not that of the trials; 1111 1112 1113 if not given.
        grid: Grids ({grids})
            and cells to evaluate the best settings on; paper if not given.
        mask_seeds: Seeds of the test masks; 0 1 2 if not given.
        no_retrain: Stop once the settings are found.
        trial: Run this trial alone, beside the study, and print its settings and val/task.
        store: Folder of the result store; runs/store, or what MSABENCH_STORE names, if not given.
        runs: Folder for logs, configs and studies.
        slots: Trials and jobs at a time on the CPU; default one per core. Each runs with one thread.
        devices: GPUs to use, by index or UUID, or the word cpu; default all visible GPUs, else the CPU.
        per_device: Trials and jobs at a time on each GPU.
        workers: warm or fresh, as in msabench run.
        executor: local, slurm or ray, as in msabench run.
        slurm: YAML file with parameters of submitit, e.g. timeout_min and slurm_partition.
        jobs_per_element: Trials or jobs that one element of the array runs, one after another.
        address: As in msabench run.
        dry_run: Print what there is to do with an estimate of its cost and stop.

    Returns:
        0 if the study is complete and its winner recorded, 1 if not, 130 if Ctrl-C interrupted it, 143 if SIGTERM did.

    Raises:
        MSABenchError: A value is not allowed, the method has no search space, there is no such GPU, the store cannot be
            written, or the cluster refuses the jobs.
    """
    require_fitting(executor, devices, slurm, jobs_per_element, address)
    budget = Budget(trials, seed, sampler, pruning, training_seed, hours, space)
    file = config_file(config)
    suite = _suite(file, _words(regime, overrides), budget, seeds or SEEDS, grid or GRID, mask_seeds or MASK_SEEDS)
    store = store_to_write(store)
    place = (executor, slots, devices, per_device, address)
    if trial is not None:
        engine = engine_of(*place, workers, slurm, runs, jobs_per_element)
        [planned] = plan_studies(suite)
        return _run_alone(planned, trial, runs, store, engine)
    return run_suite(
        suite,
        store,
        runs,
        stores_at_hand(file, store),
        engine_of=lambda: engine_of(*place, workers, slurm, runs, jobs_per_element),
        at_once=lambda: slots_of(*place, slurm),
        dry_run=dry_run,
        retrain=not no_retrain,
    )


def _words(regime: str | None, overrides: Sequence[str] | None) -> tuple[str, ...]:
    for setting in overrides or ():
        if "=" not in setting or setting.startswith("-"):
            raise MSABenchError(f"override {setting!r} is not allowed; give KEY=VALUE, e.g. trainer.max_epochs=8")
    chosen = as_words({"data.missing.regime": regime}) if regime else ()
    return (*chosen, *(f"--{setting}" for setting in overrides or ()))


def _suite(
    file: Path,
    words: tuple[str, ...],
    budget: Budget,
    seeds: Sequence[int],
    grid: Sequence[str],
    mask_seeds: Sequence[int],
) -> Suite:
    """The command as a suite of one entry."""
    parse_grid(grid)
    budget.require_fresh(tuple(seeds_of(list(seeds), "seeds")), "--seeds")
    resolved = resolver_of(None)([file], list(words))
    method, dataset = method_name(resolved), resolved["data"]["dataset"]
    jobs = tuple(UnresolvedJob(method, dataset, seed, file, words, budget) for seed in seeds)
    return Suite(SUITE, "", tuple(grid), tuple(seeds_of(list(mask_seeds), "mask_seeds")), jobs)


def _run_alone(planned: PlannedStudy, number: int, runs: Path, store: Path, engine: Executor) -> int:
    """Run a trial beside its study, and say what came of it."""
    study, folder = planned.study, planned.folder(runs)
    if not 0 <= number < study.budget:
        raise MSABenchError(f"trial {number} is not allowed; the study has trials 0 to {study.budget - 1}")
    if planned.problem:
        raise MSABenchError(planned.problem)
    chosen, alone = folder.chosen(number), StudyFolder(folder.path / ALONE)
    if chosen is None and number and (study.sampler == "tpe" or study.pruning == "median"):
        raise MSABenchError(
            f"trial {number} has not been begun, and what it is follows from trials before it, by sampler "
            f"{study.sampler} and pruning {study.pruning}; run the study first"
        )
    shutil.rmtree(alone.of_trial(number), ignore_errors=True)
    if chosen is not None:
        alone.choose(number, chosen)
    task = replace(planned.trial(number, runs, store, alone), hours=None)
    plan = make_plan([task.job], ResultStore(store))
    with interruptible():
        failures = execute([task], plan.runnable, engine)
    show(failures)
    ended, before = alone.ended(number), folder.ended(number)
    if ended is None:
        return 1
    trial = ended.trial
    print(f"trial {number} of study {study.study_id}: {trial.state} after {trial.epochs or 0} epochs")
    print("\n".join(f"  {name}: {json.dumps(value)}" for name, value in settings_of(study, trial).items()))
    print(f"val/task: {trial.error if trial.val_task is None else repr(trial.val_task)}")
    if before is not None:
        same = (before.trial.settings, before.trial.val_task) == (trial.settings, trial.val_task)
        print(f"{'as' if same else 'not as'} in the study, which has {before.trial.val_task!r}")
    return 0

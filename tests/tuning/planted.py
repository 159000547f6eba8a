"""Studies and trials for tests, without any training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from msabench.results.study import Study, Trial
from msabench.runner.studies import PlannedStudy
from msabench.training.search_space import space_from
from msabench.tuning.budget import Budget
from msabench.tuning.folder import Ended
from tests.support.worker_scripts import job

SPACE = {
    "model.init_args.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "model.init_args.dropout": {"low": 0.0, "high": 0.5},
    "model.init_args.layers": {"low": 1, "high": 4},
    "data.batch_size": {"choices": [16, 32, 64]},
}
RANGES = space_from(SPACE)
OWN = {"model": {"init_args": {"lr": 1e-3, "dropout": 0.2, "layers": 2}}, "data": {"batch_size": 128}}
"""A config whose batch size is none of the choices."""


def study(**changes: Any) -> Study:
    """A study of ten trials, before any."""
    settings: dict[str, Any] = {
        "config": OWN,
        "dataset": "mosi",
        "revision": "r" * 12,
        "method": "mult",
        "space": SPACE,
        "budget": 10,
        "sampler": "random",
        "pruning": "none",
        "seed": 1,
        "training_seed": 1000,
    }
    return Study(**{**settings, **changes})


def ended(number: int, val_task: float, settings: dict[str, Any] | None = None, **changes: Any) -> Ended:
    """A complete trial of three validations."""
    trial = Trial(number, settings or {}, "complete", val_task, epochs=3, seconds=1.0)
    values = [val_task + 2, val_task + 1, val_task]
    if changes.get("state") in ("failed", "pruned"):
        trial, values = replace(trial, val_task=None), [val_task + 2]
    return Ended(replace(trial, **changes), values)


def planned(trials: int = 6, seeds: tuple[int, ...] = (1, 2), **changes: Any) -> PlannedStudy:
    """A planned study whose jobs have no config file."""
    budget = Budget(trials, **changes)
    jobs = tuple(job(seed=seed) for seed in seeds)
    own = {name: getattr(budget, name) for name in ("seed", "sampler", "pruning", "training_seed")}
    first = jobs[0].key
    made = study(dataset=first.dataset, revision=first.revision, method=first.method, budget=trials, **own)
    return PlannedStudy(made, budget, jobs)


def place(root: Path) -> tuple[Path, Path]:
    """Folders of runs and of a store."""
    return root / "runs", root / "store"

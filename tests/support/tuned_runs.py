"""Made-up studies, and records of what they selected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msabench.results.record import JobRecord, canonical_hash
from msabench.results.study import TUNING, Study, Trial, write_study
from msabench.results.study_settings import with_settings
from tests.support.stored_runs import Predict, add_runs

LR, LAYERS = "model.init_args.lr", "model.init_args.layers"
SPACE: dict[str, Any] = {LR: {"low": 1e-5, "high": 1e-2, "log": True}, LAYERS: {"low": 1, "high": 6}}
CONFIG: dict[str, Any] = {
    "data": {"dataset": "synth", "batch_size": 32},
    "trainer": {"max_epochs": 3},
    "model": {"method": "mult", "init_args": {"lr": 1e-3, "layers": 2}},
}


def config_of(method: str) -> dict[str, Any]:
    """What ``what_is_trained`` might say of a method's config."""
    return {**CONFIG, "model": {**CONFIG["model"], "method": method}}


def study(
    method: str = "mult",
    *,
    val_tasks: Sequence[float | None] = (1.0, 0.7, 0.9),
    space: dict[str, Any] | None = None,
    trials: tuple[Trial, ...] | None = None,
    **changes: Any,
) -> Study:
    """A study that spent its budget; trial k takes k + 1 seconds. A trial with None for its ``val_tasks`` failed."""
    made = tuple(
        Trial(
            number,
            {} if number == 0 else {LR: 10.0 ** -(number + 2), LAYERS: number + 2},
            "failed" if val_task is None else "complete",
            val_task,
            3,
            number + 1.0,
            0.5 * (number + 1.0),
            "RuntimeError: out of memory" if val_task is None else "",
        )
        for number, val_task in enumerate(val_tasks)
    )
    fields: dict[str, Any] = {
        "config": config_of(method),
        "dataset": "synth",
        "revision": "0123456789ab",
        "method": method,
        "space": space or SPACE,
        "budget": len(made if trials is None else trials),
        "sampler": "random",
        "pruning": "none",
        "seed": 1,
        "training_seed": 77,
        "trials": made if trials is None else trials,
    }
    return Study(**{**fields, **changes})


def hash_of(config: dict[str, Any]) -> str:
    """The config's hash in the key of a job that is trained by it."""
    return canonical_hash(config, 12)


def tuned_fields(tried: Study) -> dict[str, Any]:
    """Fields of the key of a record of a study's winner."""
    return {
        "dataset": tried.dataset,
        "revision": tried.revision,
        "method": tried.method,
        "tuning": tried.label,
        "config_hash": hash_of(with_settings(tried.config, tried.best.settings)),
    }


def add_tuned(folder: Path, tried: Study, predict: Predict, *, kept: bool = True, **changes: Any) -> list[JobRecord]:
    """Add records of a study's winner, and the study if it is ``kept``; ``changes`` go to ``add_runs``."""
    if kept:
        write_study(folder, tried)

    def record(job: JobRecord) -> None:
        job.provenance[TUNING] = tried.reference

    return add_runs(folder, predict=predict, record=record, **{**tuned_fields(tried), **changes})


def add_default(folder: Path, tried: Study, predict: Predict, **changes: Any) -> list[JobRecord]:
    """Add records of the settings that a study began with; ``changes`` go to ``add_runs``."""
    fields = {"method": tried.method, "revision": tried.revision, "config_hash": hash_of(tried.config)}
    return add_runs(folder, predict=predict, **{**fields, **changes})

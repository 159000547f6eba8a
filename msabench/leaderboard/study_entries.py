"""What the page of a method says of its studies. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msabench.results.record import JobRecord
from msabench.results.study import Study, Trial
from msabench.results.study_settings import chosen_settings, value_at
from msabench.results.tuned import study_of
from msabench.results.tuning_changes import Spent
from msabench.tables.tuning import plain, spent_words

BEST = 5
"""Trials that are listed, the best first."""

SETTINGS = ("setting", "selected", "config", "tried")
TRIALS = ("trial", "val/task", "epochs", "seconds", "settings")


def study_entry(study: Study, jobs: Sequence[JobRecord]) -> dict[str, Any]:
    """A study as the template shows it.

    Args:
        study: The study.
        jobs: Finished jobs; those that name the study count.

    Returns:
        ``id``, ``title``, ``facts`` (name, value), ``settings`` (rows below ``SETTINGS``) and ``trials`` (rows below
        ``TRIALS``), both empty if no trial is complete, and ``problem``, which says so.
    """
    regime = str(value_at(study.config, "data.missing.regime") or "")
    seeds = sorted(job.key.seed for job in jobs if study_of(job.provenance) == study.study_id)
    complete = sorted(
        (trial for trial in study.trials if trial.val_task is not None),
        key=lambda trial: (trial.val_task, trial.number),
    )
    title = (f"{study.dataset} {study.revision}", regime, study.label)
    return {
        "id": study.study_id,
        "title": ", ".join(part for part in title if part),
        "facts": [(name, value) for name, value in _facts(study, seeds) if value],
        "settings": _settings(study) if complete else [],
        "trials": [_trial(study, trial) for trial in complete[:BEST]],
        "problem": "" if complete else "No trial of it is complete, so that nothing was selected.",
    }


def _facts(study: Study, seeds: Sequence[int]) -> Sequence[tuple[str, str]]:
    trials, seconds, processor = spent_words(Spent.of(study))
    limit = "" if study.hours is None else f", ended by a limit of {study.hours:g} hours (budget {study.budget})"
    return (
        ("Study", study.study_id),
        ("Content", study.content),
        ("Trials", trials + limit),
        ("Time", f"{seconds} s" + ("" if processor == "-" else f", {processor} s of the processor")),
        ("Settings", f"{study.sampler}, seed {study.seed}; trial 0 has those of the config"),
        ("Pruning", study.pruning),
        ("Seed of every trial's training", str(study.training_seed)),
        ("Winner trained anew under", ", ".join(map(str, seeds)) or "no seed yet"),
    )


def _settings(study: Study) -> list[list[str]]:
    ranges = study.space
    return [[key, plain(value), plain(given), _range(ranges.get(key))] for key, value, given in chosen_settings(study)]


def _trial(study: Study, trial: Trial) -> list[str]:
    words = ", ".join(
        f"{key.removeprefix('model.init_args.')} {plain(trial.settings.get(key, value_at(study.config, key)))}"
        for key in dict.fromkeys([*study.space, *trial.settings])
    )
    epochs = "-" if trial.epochs is None else str(trial.epochs)
    return [str(trial.number), f"{trial.val_task:.4f}", epochs, f"{trial.seconds:.0f}", words]


def _range(given: Any) -> str:
    """What was tried of a setting, in words, e.g. ``1e-05 to 0.01, by its logarithm``, ``16, 32, 64``."""
    if not isinstance(given, Mapping):
        return "" if given is None else str(given)
    if isinstance(given.get("choices"), list):
        return ", ".join(map(plain, given["choices"]))
    if {"low", "high"} <= given.keys():
        return f"{plain(given['low'])} to {plain(given['high'])}" + ", by its logarithm" * bool(given.get("log"))
    return str(dict(given))

"""How much is spent on tuning, and how: what `msabench tune` is told and ``tune`` of a suite says. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

from msabench.errors import MSABenchError, one_of
from msabench.results.job_identity import MAX_SEED
from msabench.results.study import Sampler

Pruning = Literal["none", "median"]

TRAINING_SEED = 1000
"""Seed of trials where none is given: none of those that our suites train under, which the winner needs fresh."""

MOST_TRIALS = 10_000


@dataclass(frozen=True)
class Budget:
    """What may be spent on the settings of one config.

    Attributes:
        trials: Trials, from 1 to 10,000; a failed one counts.
        seed: Seed of the study, from which settings follow; from 0 to ``MAX_SEED``.
        sampler: How settings are drawn.
        pruning: ``median`` ends trials early that are worse than the median of earlier ones, ``none`` ends none.
        training_seed: Seed of every trial's training; from 0 to ``MAX_SEED``.
        hours: No trial starts once those that ended took so many hours of wall time together; None for no limit.
        space: File with the search space; None for the method's own.

    Raises:
        MSABenchError: A value is not allowed.
    """

    trials: int = 50
    seed: int = 1
    sampler: Sampler = "random"
    pruning: Pruning = "none"
    training_seed: int = TRAINING_SEED
    hours: float | None = None
    space: Path | None = None

    def __post_init__(self) -> None:
        if type(self.trials) is not int or not 1 <= self.trials <= MOST_TRIALS:
            raise MSABenchError(f"trials {self.trials!r} are not allowed; give a whole number from 1 to {MOST_TRIALS}")
        for name in ("seed", "training_seed"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= MAX_SEED:
                raise MSABenchError(f"{name} {value!r} of a study is not allowed; give a number from 0 to {MAX_SEED}")
        for name, allowed in (("sampler", get_args(Sampler)), ("pruning", get_args(Pruning))):
            if getattr(self, name) not in allowed:
                raise one_of(f"{name} of a study", getattr(self, name), allowed)
        if self.hours is not None and not (_is_number(self.hours) and 0 < self.hours and isfinite(self.hours)):
            raise MSABenchError(f"hours {self.hours!r} are not allowed; give a number above 0, or leave them out")

    @classmethod
    def of(cls, given: Any, where: str, folder: Path) -> Budget:
        """Read what a suite says.

        Args:
            given: Mapping of this class's attributes.
            where: What messages call it, e.g. ``tune of suite demo.yaml``.
            folder: Folder that ``space`` is a path from.

        Raises:
            MSABenchError: It is no mapping, or a key or value is not allowed.
        """
        if not isinstance(given, Mapping):
            raise MSABenchError(f"{where} must be a mapping, e.g. {{trials: 50, seed: 1}}, not {given!r}")
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                raise one_of(f"key in {where}", name, names)
        settings = dict(given)
        if settings.get("space") is not None:
            settings["space"] = folder / str(settings["space"])
        return cls(**settings)

    def require_fresh(self, seeds: tuple[int, ...], where: str) -> None:
        """Refuse to train the winner under the seed that it was selected under: that result is the best of many.

        Args:
            seeds: Seeds of the winner's trainings.
            where: What they are of, for messages.

        Raises:
            MSABenchError: One of them is that of the trials.
        """
        if self.training_seed in seeds:
            raise MSABenchError(
                f"seed {self.training_seed} of {where} is the one that the trials are trained under, and the winner "
                "needs fresh ones; leave it out, or give another training_seed"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

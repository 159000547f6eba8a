"""What Optuna does for a study (extra ``msabench[tune]``): it draws settings by TPE, prunes, and keeps a journal.

Optuna is asked about studies in memory that are made of what trials left in their folders, so that its answers follow
from those trials alone. ``journal.log`` is the study in Optuna's own form, JSON lines, for its dashboards and analyses;
it is made of the same files and made anew where it differs from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from msabench.files import locked
from msabench.results.study import Study
from msabench.results.study_settings import settings_of
from msabench.training.search_space import DIGITS, Choice, Float, Integer, Range
from msabench.tuning.folder import Ended, StudyFolder

optuna.logging.set_verbosity(optuna.logging.WARNING)

JOURNAL = "journal.log"

STARTUP_TRIALS = 5
"""Complete trials before one is pruned."""

_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def draw_by_tpe(study: Study, space: Mapping[str, Range], number: int, known: Iterable[Ended]) -> dict[str, Any]:
    """Settings of a trial by the tree-structured Parzen estimator, which draws at random for the first ten trials.

    Args:
        study: The study.
        space: Its search space.
        number: The trial; with the study's seed it seeds the draw.
        known: The trials to learn from, by number.

    Returns:
        Dotted key of the config -> value within its range, floats of four significant digits.
    """
    seed = int(np.random.SeedSequence((study.seed, number)).generate_state(1)[0])
    told = optuna.create_study(direction="minimize", sampler=TPESampler(seed=seed))
    for ended in known:
        told.add_trial(_frozen(study, space, ended))
    drawn = told.ask(_distributions(space)).params
    return {name: _in_few_digits(value, space[name]) for name, value in drawn.items()}


def _in_few_digits(value: Any, within: Range) -> Any:
    if not isinstance(within, Float):
        return value
    return min(max(float(f"{value:.{DIGITS - 1}e}"), within.low), within.high)


class Median:
    """Whether a trial is worse so far than the median of others at the same validation; see Optuna's ``MedianPruner``.

    Args:
        others: The trials to compare with; of fewer than ``STARTUP_TRIALS`` that are complete none prunes.
    """

    def __init__(self, others: Iterable[Ended]) -> None:
        told = optuna.create_study(direction="minimize", pruner=MedianPruner(n_startup_trials=STARTUP_TRIALS))
        for other in others:
            told.add_trial(_bare(other))
        self._trial = told.ask()

    def __call__(self, values: Sequence[float | None]) -> bool:
        """Whether to end the trial.

        Args:
            values: Its ``val/task`` so far; one more than at the call before.
        """
        value = values[-1]
        if value is None:
            return False
        self._trial.report(value, len(values) - 1)
        return bool(self._trial.should_prune())


def tell(folder: StudyFolder, study: Study, space: Mapping[str, Range]) -> None:
    """Bring the journal up to the trials that have ended; those behind one that has not are told later.

    Args:
        folder: The study's folder, which exists.
        study: The study.
        space: Its search space.
    """
    path = folder.path / JOURNAL
    with locked(path.with_suffix(".lock")):
        ended = takewhile(lambda found: found is not None, map(folder.ended, range(study.budget)))
        trials = [_frozen(study, space, found) for found in ended if found is not None]
        there = _told(path, study)
        if there is None or not all(map(_alike, there, trials)) or len(there) > len(trials):
            new = path.with_suffix(".new")
            new.unlink(missing_ok=True)
            told = _opened(new, study, new=True)
            told.add_trials(trials)
            new.replace(path)
        elif len(there) < len(trials):
            _opened(path, study).add_trials(trials[len(there) :])


class _Alone(JournalFileOpenLock):
    """The lock of somebody who holds another one: Optuna's own would outlive a killed process by half a minute."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _told(path: Path, study: Study) -> list[FrozenTrial] | None:
    """The trials in a journal; None if there is none, or it is not as Optuna writes it."""
    try:
        # A line that was cut off would swallow the one that is written next.
        if not path.read_bytes().endswith(b"\n"):
            return None
        return _opened(path, study).get_trials(deepcopy=False)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        return None


def _opened(path: Path, study: Study, new: bool = False) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_Alone(str(path))))
    name = f"{study.method} {study.dataset} {study.study_id}"
    if new:
        return optuna.create_study(storage=storage, study_name=name, direction="minimize")
    return optuna.load_study(storage=storage, study_name=name)


def _alike(ours: FrozenTrial, theirs: FrozenTrial) -> bool:
    return all(getattr(ours, name) == getattr(theirs, name) for name in ("state", "value", "params"))


def _frozen(study: Study, space: Mapping[str, Range], ended: Ended) -> FrozenTrial:
    names, settings = _distributions(space), settings_of(study, ended.trial)
    # The config's own values may lie outside of the ranges.
    inside = {name: value for name, value in settings.items() if space[name].contains(value)}
    return _bare(ended, params=inside, distributions={name: names[name] for name in inside})


def _bare(ended: Ended, **params: Any) -> FrozenTrial:
    trial = ended.trial
    return create_trial(
        state=_STATES[trial.state],
        value=trial.val_task,
        intermediate_values={step: value for step, value in enumerate(ended.values) if value is not None},
        user_attrs={"seconds": trial.seconds, "epochs": trial.epochs, "error": trial.error},
        **params,
    )


def _distributions(space: Mapping[str, Range]) -> dict[str, BaseDistribution]:
    return {name: _distribution(found) for name, found in space.items()}


def _distribution(found: Range) -> BaseDistribution:
    if isinstance(found, Choice):
        return CategoricalDistribution(found.choices)
    if isinstance(found, Integer):
        return IntDistribution(found.low, found.high)
    return FloatDistribution(found.low, found.high, log=found.log)

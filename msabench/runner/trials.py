"""A trial of a study as a task: what runs jobs runs trials as well."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from msabench.errors import MSABenchError
from msabench.optional import require
from msabench.results.claims import settle
from msabench.results.study import Study, Trial
from msabench.runner.executor import Task, one_line
from msabench.runner.suite import open_data
from msabench.training.config_words import as_words
from msabench.training.search_space import draw, space_from
from msabench.tuning.folder import MOST_LOSSES, Chosen, Ended, StudyFolder

OPENED = ("train", "valid")
"""Splits that tuning opens."""


class NotTriedError(MSABenchError):
    """A problem that says nothing about a trial's settings: the trial has not ended, and is run again."""


def load_task(path: Path) -> Task:
    """Read a ``job.json``, of a job or of a trial."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return (TrialTask if "trial" in content else Task).from_json(content)


@dataclass(frozen=True)
class TrialTask(Task):
    """A trial on its way. Its job is the training of the config's own settings; those of the trial come on top.

    It runs in ``trial-0007`` below its study's folder. There is no record of it: it has ended when ``trial.json`` is
    there.

    Attributes:
        study: The study, without trials.
        number: The trial.
        hours: As ``Budget.hours``.
        others: Folder of the study whose trials it may look at.
    """

    study: Study = field(kw_only=True)
    number: int = field(kw_only=True)
    hours: float | None = field(kw_only=True, default=None)
    others: Path = field(kw_only=True)

    @property
    def place(self) -> StudyFolder:
        """The folder that its outcome is written into."""
        return StudyFolder(self.folder.parent)

    def to_json(self) -> dict[str, Any]:
        """What ``job.json`` holds: plain data."""
        trial = {"number": self.number, "hours": self.hours, "others": str(self.others)}
        return {**super().to_json(), "trial": {**trial, "study": dataclasses.asdict(self.study)}}

    @classmethod
    def from_json(cls, content: dict[str, Any], **further: Any) -> Self:
        """Read what ``to_json`` made."""
        trial = content["trial"]
        study = Study(**{**trial["study"], "trials": ()})
        given = {"number": trial["number"], "hours": trial["hours"], "others": Path(trial["others"])}
        return super().from_json(content, study=study, **given, **further)

    def is_recorded(self) -> bool:
        """Whether it has ended, or is not to be run any more."""
        if self.place.ended(self.number) is not None:
            return True
        return self.place.is_out_of_time(self.number, self.study.budget, self.hours)

    def why_undone(self) -> str:
        """Why it was not run although nothing went wrong; empty if it has ended."""
        return "" if self.place.ended(self.number) else f"the {self.hours} hours of its study are over"

    def fail(self, error: str) -> None:
        """Nothing: what ends a trial is written down by ``run``, and anything else does not end it."""

    def lose(self, error: str) -> None:
        """Note that its process ended without a word; after ``MOST_LOSSES`` times the trial counts as failed."""
        if self.is_recorded() or self.place.lose(self.number, error) < MOST_LOSSES:
            return
        chosen = self.place.chosen(self.number)
        error = f"its process ended {MOST_LOSSES} times without a word, at last: {error}"
        self.end(Trial(self.number, chosen.settings if chosen else {}, "failed", error=error))

    def run(self, accelerator: str, lost: int = 0) -> None:
        """Choose the settings, train, and write down what came of it; a lost worker changes nothing of that.

        Raises:
            NotTriedError: The data are not here, or not those of the study.
            Exception: Whatever the training raises; written down as well, unless it comes from files or imports.
        """
        from msabench.runner.job import placement
        from msabench.tuning.fit import fit_trial

        self._require_data()
        chosen = self.choose()
        started = time.perf_counter()

        def ended(state: Any, **further: Any) -> Trial:
            seconds = round(time.perf_counter() - started, 3)
            return Trial(self.number, chosen.settings, state, seconds=seconds, **further)

        words = (*self.job.overrides, *as_words(chosen.settings), *placement(self, accelerator))
        try:
            fitted = fit_trial(
                self.job.config_files,
                words,
                self.folder,
                lambda epoch, epochs: self.say("fit", epoch, epochs),
                self._prunes(chosen),
            )
        except (OSError, ImportError):
            raise
        except Exception as error:
            self.end(ended("failed", error=one_line(error)))
            raise
        trial = ended(
            "pruned" if fitted.pruned else "complete",
            val_task=fitted.val_task,
            epochs=fitted.epochs,
            processor_seconds=fitted.processor_seconds,
        )
        self.end(trial, fitted.values)
        self.say("done", fitted.epochs)

    def choose(self) -> Chosen:
        """Settle what is tried, unless that was settled before."""
        settled = self.place.chosen(self.number)
        if settled is not None:
            return settled
        study, space = self.study, space_from(self.study.space)
        looks = self.number > 0 and (study.sampler == "tpe" or study.pruning == "median")
        known = list(StudyFolder(self.others).all_ended(self.number)) if looks else []
        if self.number > 0 and study.sampler == "tpe":
            from msabench.tuning.engine import draw_by_tpe

            settings = draw_by_tpe(study, space, self.number, known)
        else:
            settings = draw(space, study.seed, self.number)
        return self.place.choose(self.number, Chosen(settings, tuple(ended.trial.number for ended in known)))

    def _prunes(self, chosen: Chosen) -> Callable[[Sequence[float | None]], bool]:
        if self.study.pruning == "none" or self.number == 0:
            return lambda values: False
        require("optuna", "tune")
        from msabench.tuning.engine import Median

        found = (StudyFolder(self.others).ended(number) for number in chosen.known)
        return Median(ended for ended in found if ended is not None)

    def _require_data(self) -> None:
        revision, _, problem = open_data(self.job.config["data"], OPENED)
        if problem:
            raise NotTriedError(problem)
        if revision != self.study.revision:
            raise NotTriedError(
                f"the data of {self.study.dataset} are revision {revision} now, and the study was planned on "
                f"{self.study.revision}; run the same command again"
            )

    def end(self, trial: Trial, values: Sequence[float | None] = ()) -> None:
        """Write down how it ended.

        Args:
            trial: What is reported of it.
            values: ``val/task`` of its validations; None where it is no number.
        """
        self.place.end(Ended(trial, list(values)))
        settle(self.store, self.job.key.job_id)

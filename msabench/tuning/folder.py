"""What lies in a study's folder. Free of torch and Optuna.

``<runs>/<dataset>/<method>/studies/<study_id>/`` holds ``journal.log``, Optuna's copy of the study, and for each trial
``trial-0007/``: ``chosen.json`` from the moment its settings are chosen, a run folder's files while it is trained, and
``trial.json`` once it has ended. A ``trial.json`` is written once, as a whole, and is the truth: whatever is killed at
whatever moment, a trial with this file has ended and any other has not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from msabench.errors import MSABenchError
from msabench.files import creating
from msabench.results.study import Trial

STUDIES = "studies"
"""Folder of studies beside the run folders of a method's jobs on a corpus."""

TRIAL = "trial.json"
CHOSEN = "chosen.json"
LOSSES = "losses.txt"

MOST_LOSSES = 3
"""Times that a trial's process may end without a word before the trial counts as failed."""


@dataclass(frozen=True)
class Chosen:
    """What was settled before a trial was trained.

    Attributes:
        settings: Dotted key of the config -> value; empty for trial 0.
        known: Numbers of the trials whose outcome was looked at to choose them, or is to be compared with by pruning.
    """

    settings: dict[str, Any]
    known: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ended:
    """A trial that has ended.

    Attributes:
        trial: What is reported of it.
        values: ``val/task`` of its validations in order; None where it was no number.
    """

    trial: Trial
    values: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class StudyFolder:
    """A study's folder.

    Attributes:
        path: The folder; it need not exist.
    """

    path: Path

    def of_trial(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.path / f"trial-{number:04d}"

    def ended(self, number: int) -> Ended | None:
        """A trial, if it has ended.

        Raises:
            MSABenchError: Its file was changed.
        """
        content = _read(self.of_trial(number) / TRIAL)
        if content is None:
            return None
        try:
            found = Ended(Trial(**content["trial"]), content["values"])
        except (TypeError, KeyError) as error:
            raise _damaged(self.of_trial(number) / TRIAL) from error
        if found.trial.number != number:
            raise _damaged(self.of_trial(number) / TRIAL)
        return found

    def all_ended(self, below: int) -> Iterator[Ended]:
        """Trials that have ended, by number.

        Args:
            below: Only those with a number below this.

        Raises:
            MSABenchError: A file was changed.
        """
        for number in range(below):
            found = self.ended(number)
            if found is not None:
                yield found

    def end(self, ended: Ended) -> None:
        """Write down how a trial ended; the first word counts."""
        content = {"trial": asdict(ended.trial), "values": ended.values}
        _write(self.of_trial(ended.trial.number) / TRIAL, content)

    def chosen(self, number: int) -> Chosen | None:
        """What was settled for a trial, if it was.

        Raises:
            MSABenchError: Its file was changed.
        """
        content = _read(self.of_trial(number) / CHOSEN)
        if content is None:
            return None
        try:
            return Chosen(dict(content["settings"]), tuple(content["known"]))
        except (TypeError, ValueError, KeyError) as error:
            raise _damaged(self.of_trial(number) / CHOSEN) from error

    def choose(self, number: int, chosen: Chosen) -> Chosen:
        """Settle what is tried; of two processes that do so at once one is followed by both.

        Returns:
            What is settled.
        """
        _write(self.of_trial(number) / CHOSEN, asdict(chosen))
        return self.chosen(number) or chosen

    def lose(self, number: int, why: str) -> int:
        """Note that a trial's process ended without a word.

        Args:
            number: The trial.
            why: As far as it is known, one line.

        Returns:
            How often that has happened.
        """
        path = self.of_trial(number) / LOSSES
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(f"{why}\n")
        return len(path.read_text(encoding="utf-8").splitlines())

    def is_out_of_time(self, number: int, budget: int, hours: float | None) -> bool:
        """Whether a trial that has not ended is not to be run any more.

        Trials below one that was begun are run in any case, so that those of a study have no gap.

        Args:
            number: The trial.
            budget: Trials of the study.
            hours: Limit of the wall time of those that have ended, all together; None for none.
        """
        if hours is None or any(self.chosen(other) for other in range(number, budget)):
            return False
        return sum(ended.trial.seconds for ended in self.all_ended(budget)) >= 3600 * hours


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(path) from error


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), creating(path) as stream:
        stream.write((json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _damaged(path: Path) -> MSABenchError:
    return MSABenchError(f"{path} is not as it was written; delete its folder, and the trial is run again")

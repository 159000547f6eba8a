"""Studies: what was tried when a method's settings were tuned, and which trial won. Free of torch.

A study is one JSON file below a store, ``studies/<dataset>/<method>/<study_id>.json``, written once, when its budget is
spent. The records of the winner's retraining name it: ``JobKey.tuning`` holds ``Study.label``, and their provenance,
under ``TUNING``, holds ``Study.reference``.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from msabench.errors import MSABenchError
from msabench.files import creating
from msabench.results.places import STUDIES
from msabench.results.record import canonical_hash

TUNING = "tuning"
"""Key of a record's provenance under which ``Study.reference`` stands."""

State = Literal["complete", "pruned", "failed"]
Sampler = Literal["random", "tpe"]

SCHEMA_VERSION = 1

MAX_STUDY_BYTES = 16 << 20
"""A study's file has less than a kilobyte a trial."""


@dataclass(frozen=True)
class Trial:
    """One set of settings that was tried.

    Attributes:
        number: From 0 on; 0 has the settings of the config.
        settings: Dotted key of the config -> value; empty for trial 0.
        state: How it ended. A failed trial counts.
        val_task: Its lowest ``val/task``; None unless it is complete.
        epochs: Epochs trained.
        seconds: Wall time.
        processor_seconds: Processor time, as ``JobRecord.train_processor_seconds``; None where it was not measured.
        error: Why it failed, one line; empty otherwise.
    """

    number: int
    settings: dict[str, Any]
    state: State
    val_task: float | None = None
    epochs: int | None = None
    seconds: float = 0.0
    processor_seconds: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Study:
    """A budget of trials on one config, and what came of them.

    Selection is by ``val/task``, the lowest, alone; of equal ones the earlier trial wins.

    Attributes:
        config: ``job_identity.what_is_trained`` of the config that was tuned, without its seed: method, corpus, regime.
        dataset: Corpus name.
        revision: Revision of the data.
        method: Method name.
        space: The search space as its file has it: dotted key -> range.
        budget: Trials.
        sampler: How settings are drawn.
        pruning: ``median``, or ``none``.
        seed: Seed of the study, from which settings follow.
        training_seed: Seed of every trial's training.
        method_version: Version of the method's computation.
        trials: All of them, by number.
        hours: Limit of time at which the study ended before its budget was spent; None where it was spent.
    """

    config: dict[str, Any]
    dataset: str
    revision: str
    method: str
    space: dict[str, Any]
    budget: int
    sampler: Sampler
    pruning: Literal["median", "none"]
    seed: int
    training_seed: int
    method_version: int = 1
    trials: tuple[Trial, ...] = field(default=())
    hours: float | None = None

    @cached_property
    def study_id(self) -> str:
        """First 12 hex digits of a hash of all that decides, before any trial, what is tried."""
        return canonical_hash({name: value for name, value in asdict(self).items() if name not in _OUTCOME}, 12)

    @cached_property
    def content(self) -> str:
        """First 12 hex digits of a hash of ``study_id`` and of what was tried with which outcome, times left out."""
        tried = [[t.number, t.settings, t.state, t.val_task, t.epochs] for t in self.trials]
        return canonical_hash({"study": self.study_id, "trials": tried}, 12)

    @property
    def label(self) -> str:
        """As ``JobKey.tuning`` has it, e.g. ``tuned(50, random, seed 1)``; by the trials where time ended first."""
        spent = len(self.trials) if self.hours is not None else self.budget
        return f"tuned({spent}, {self.sampler}, seed {self.seed})"

    @property
    def best(self) -> Trial:
        """The trial with the lowest ``val/task``.

        Raises:
            MSABenchError: No trial is complete.
        """
        complete = [trial for trial in self.trials if trial.state == "complete" and trial.val_task is not None]
        if not complete:
            failed = next((trial.error for trial in self.trials if trial.error), "none was run")
            raise MSABenchError(
                f"none of {len(self.trials)} trials of {self.method} on {self.dataset} is complete ({failed}), so "
                "there is nothing to select"
            )
        return min(complete, key=lambda trial: (trial.val_task, trial.number))

    @property
    def reference(self) -> dict[str, Any]:
        """What the provenance of a record of the winner says.

        Study, content, label, trial, settings, and what was spent: trials, and seconds of the wall's clock.
        """
        best = self.best
        return {
            "study": self.study_id,
            "content": self.content,
            "label": self.label,
            "trial": best.number,
            "settings": best.settings,
            "trials": len(self.trials),
            "seconds": sum(trial.seconds for trial in self.trials),
        }

    def to_json(self) -> dict[str, Any]:
        """The study as plain data."""
        head = {"schema_version": SCHEMA_VERSION, "study_id": self.study_id, "content": self.content}
        return {**head, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any) -> Study:
        """Read what ``to_json`` made.

        Raises:
            MSABenchError: The content does not make a study, or not the one of its id and its hash.
        """
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise MSABenchError(f"schema version {version!r} of a study is not allowed; allowed: {SCHEMA_VERSION}")
        given = _fields_of(cls, {name: value for name, value in data.items() if name not in _HEAD})
        study = cls(**{**given, "trials": tuple(Trial(**_fields_of(Trial, trial)) for trial in given["trials"])})
        numbers = [trial.number for trial in study.trials]
        lacking = [
            trial.number for trial in study.trials if (trial.state == "complete") != (trial.val_task is not None)
        ]
        if numbers != list(range(len(numbers))) or lacking:
            raise MSABenchError(
                "the trials of a study are numbered from 0 on, and those that are complete have a val_task, the others "
                f"none; this one has trials {numbers}"
            )
        said = [data.get("study_id"), data.get("content")]
        if said != [study.study_id, study.content]:
            raise MSABenchError(
                f"this study was changed after it was written: study_id and content are {said}, what it holds gives "
                f"{[study.study_id, study.content]}; restore the file"
            )
        return study


_OUTCOME = ("trials", "hours")
_HEAD = ("schema_version", "study_id", "content")
_BEYOND = 1 << 63
"""Beyond what any number of a study can be; so are infinities, which JSON has no word for but reads 1e999 as."""


def _fields_of(record: type, data: Any) -> dict[str, Any]:
    """The fields of a study or trial, once each has the type that it is declared with."""
    what, expected = record.__name__.lower(), get_type_hints(record)
    if not isinstance(data, dict) or data.keys() != expected.keys():
        names = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise MSABenchError(f"a {what} has the fields {', '.join(expected)}; this one has {names}")
    for name, kind in expected.items():
        if not _fits(data[name], kind):
            raise MSABenchError(
                f"{name} = {data[name]!r} of a {what} is not allowed; expected {record.__annotations__[name]}"
            )
    return data


def _fits(value: Any, kind: Any) -> bool:
    """Whether plain data are of an annotated type; tuples are lists there, and a float may be whole."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return type(value) is str and value in parts
    if origin is not None and NoneType in parts:
        return any(_fits(value, part) for part in parts)
    if kind is float:
        # In Python, but not in JSON, a bool is an int: hence no isinstance.
        return type(value) in (int, float) and abs(value) < _BEYOND
    return type(value) is (list if origin is tuple else origin or kind)


def study_file(store: Path, study: Study) -> Path:
    """Where a store keeps a study."""
    return store / STUDIES / study.dataset / study.method / f"{study.study_id}.json"


def write_study(store: Path, study: Study) -> Path:
    """Keep a study whose budget is spent; one that is there already stays as it is.

    Args:
        store: The store's folder.
        study: The study.

    Returns:
        The file.

    Raises:
        OSError: The folder cannot be written; nothing is left behind.
    """
    path = study_file(store, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another process may write it meanwhile, after the same trials.
    with suppress(FileExistsError), creating(path) as stream:
        stream.write((json.dumps(study.to_json(), indent=1, sort_keys=True) + "\n").encode())
    return path


def read_study(path: Path) -> Study:
    """Read a study's file.

    Raises:
        MSABenchError: It is missing, no JSON, or no study.
    """
    try:
        # Opening a pipe would wait for its other end.
        if path.exists() and not path.is_file():
            raise MSABenchError("this is a pipe, folder or device, not a file; take it out of the store")
        if path.stat().st_size > MAX_STUDY_BYTES:
            raise MSABenchError(f"{path.stat().st_size} bytes are too many; a study has at most {MAX_STUDY_BYTES}")
        return Study.from_json(json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse))
    except OSError as error:
        raise MSABenchError(f"the study {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError, MSABenchError) as error:
        raise MSABenchError(f"{path}: {error}") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def study_files(store: Path) -> list[Path]:
    """The files of a store's studies, by dataset, method and id."""
    return sorted((store / STUDIES).glob("*/*/*.json"))


def studies(store: Path) -> list[Study]:
    """All studies of a store, by dataset, method and id.

    Raises:
        MSABenchError: A file is damaged, or in another place than its study's.
    """
    return [study_in(store, path) for path in study_files(store)]


def study_in(store: Path, path: Path) -> Study:
    """Read one of a store's studies.

    Raises:
        MSABenchError: It is damaged, or in another place than its study's.
    """
    study = read_study(path)
    if path != study_file(store, study):
        raise MSABenchError(f"{path} holds a study that belongs in {study_file(Path(), study)} below the store")
    return study

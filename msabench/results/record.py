"""Records: what is kept of a job and of each of its cells. Free of torch.

One job is one JSON-lines file: first a ``job`` line with key, provenance and resolved config, then one ``cell`` line
per evaluated (cell, mask seed). A failed job is a file with its job line alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property
from typing import Any

SCHEMA_VERSION = 2
"""Version 1 has no checksums."""

MANY_BLIND = 0.05
"""From this share of clips without any observed frame on, tables say so: 5 % answered blind can move F1 by points."""

METHOD = "method"
"""Key of a record's provenance under which the code of a method from outside msabench is described."""

CORPUS, REGIME = "corpus", "regime"
"""Likewise of a corpus and of a training regime from outside."""

SCORED = "scored"
"""Key of a record's provenance under which predictions from elsewhere are described, and what tables call their rows in
place of a fidelity."""

EXTERNAL_ORIGIN = "external"
"""``JobKey.origin`` of predictions that were made elsewhere and only scored by msabench."""

_LEFT_OUT = ("origin", "tuning")
"""Fields of a key that are left out where they are empty."""

OPTIONAL = (
    *("padding", "unseen", "split_sizes", "metric_set", "blind", "origin", "tuning"),
    *("train_processor_seconds", "eval_processor_seconds", "missing_pairs", "subsets"),
)
"""Fields that older records lack; a record that does not have them is stored without."""


@dataclass(frozen=True)
class JobKey:
    """What makes a training distinct from every other one. Suites are labels on jobs, not part of the key.

    Attributes:
        dataset: Corpus name.
        revision: Revision of the data: first 12 digits of the feature file's sha256, or the generator's revision.
        features: Feature family and alignment, e.g. ``mult-aligned``.
        method: Method name.
        method_version: Version of the method's computation.
        variant: ``default`` or a named ablation.
        regime: Training regime with its rates, ``MissingConfig.label``.
        level: Where text is dropped, ``vectors`` or ``tokens``. Part of the evaluation protocol.
        lengths: ``hide`` or ``keep``. Part of the evaluation protocol.
        token_fill: ``unk`` or ``zero_embedding`` at level ``tokens``; empty at level ``vectors``.
        selection: ``val``, or ``test_best`` to measure how much selecting on test flatters.
        seed: Seed of initialisation, order and training masks.
        config_hash: First 12 hex digits of the sha256 of the resolved config without seeds, paths and devices; of the
            predictions (``results.scored.content_hash``) where ``origin`` is ``external``.
        origin: Empty for what msabench trained. ``external`` for predictions that were made elsewhere and only scored
            here: then ``regime``, ``selection`` and ``seed`` are what their maker states, ``unknown`` or 0 otherwise.
        tuning: Empty for the settings of a config; ``results.study.Study.label`` for those that a study selected on the
            validation split, e.g. ``tuned(50, random, seed 1)``.
    """

    dataset: str
    revision: str
    features: str
    method: str
    method_version: int
    variant: str
    regime: str
    level: str
    lengths: str
    token_fill: str
    selection: str
    seed: int
    config_hash: str
    origin: str = ""
    tuning: str = ""

    @cached_property
    def job_id(self) -> str:
        """First 16 hex digits of the sha256 of the key's canonical JSON."""
        return canonical_hash(self.to_json(), 16)

    def to_json(self) -> dict[str, Any]:
        """The key as plain data; an empty origin or tuning is left out, as in records from before there was one."""
        return {name: value for name in names_of(JobKey) if (value := getattr(self, name)) or name not in _LEFT_OUT}


@dataclass
class JobRecord:
    """One training: key, outcome, provenance.

    Attributes:
        key: The job's key.
        status: ``ok`` or ``failed``.
        error: The error of a failed job, one line; empty otherwise.
        config: Resolved config.
        provenance: Git commit, package versions, device, threads, date (``msabench.results.provenance.collect``).
        suites: Names of suites the job was run for.
        n_params: Number of trainable parameters.
        epochs: Epochs trained.
        best_epoch: Epoch of the selected checkpoint, counted from 0; None if nothing was selected.
        val_task: The selected checkpoint's ``val/task``.
        train_seconds: Wall time of fitting, of all parts of a training that went on from a checkpoint. It depends on
            what else the machine did meanwhile.
        train_processor_seconds: Processor time of fitting, user and system, over all threads of the process; likewise
            of all parts. Of several devices it is that of the first one's process alone, and with an accelerator that
            of the host, which says nothing of the accelerator's work. None in older records, and where a part of the
            training did not measure it.
        eval_seconds: Wall time of evaluating the grid.
        eval_processor_seconds: Processor time of evaluating the grid; the host's likewise. None in older records.
        peak_memory_bytes: Peak memory, of the device if it is a GPU, else of the process.
        mask_seeds: Seeds of the test masks.
        padding: Where padding stood when the method read clips, ``front`` or ``stored``; None for methods without the
            choice and in older records, which do not say.
        unseen: Modalities that no training clip had a frame of; None in older records, which do not say.
        split_sizes: Clips in train, valid and test; None likewise.
        metric_set: Metric set of its cells, one of ``METRIC_SETS``; None in failed jobs, and in older records, whose
            metrics tell.
    """

    key: JobKey
    status: str = "ok"
    error: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    suites: list[str] = field(default_factory=list)
    n_params: int | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    val_task: float | None = None
    train_seconds: float | None = None
    train_processor_seconds: float | None = None
    eval_seconds: float | None = None
    eval_processor_seconds: float | None = None
    peak_memory_bytes: int | None = None
    mask_seeds: list[int] = field(default_factory=list)
    padding: str | None = None
    unseen: list[str] | None = None
    split_sizes: list[int] | None = None
    metric_set: str | None = None

    @property
    def processor_seconds(self) -> tuple[float, float] | None:
        """Processor seconds of fitting and of evaluating, where they are what the job takes on an idle machine.

        Returns:
            None unless both were measured and the job ran on a CPU in one thread: several threads use their processors
            at once, and an accelerator's host waits.
        """
        if (self.provenance.get("device"), self.provenance.get("threads")) != ("cpu", 1):
            return None
        train, evaluate = self.train_processor_seconds, self.eval_processor_seconds
        return None if train is None or evaluate is None else (train, evaluate)

    def to_json(self) -> dict[str, Any]:
        """The job line as plain data; key fields stand at the top level beside ``job_id``."""
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "key" and _has(self, f.name)}
        first = {"kind": "job", "schema_version": SCHEMA_VERSION, "job_id": self.key.job_id}
        return {**first, **self.key.to_json(), **rest}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> JobRecord:
        """Read a job line."""
        key = JobKey(**{name: line[name] for name in names_of(JobKey) if name in line})
        return cls(key=key, **{name: line[name] for name in names_of(cls) if name in line and name != "key"})


@dataclass
class CellRecord:
    """One evaluated (cell, mask seed) of a job.

    Attributes:
        job_id: The job.
        cell: Cell name, e.g. ``inter/la``.
        mask_seed: Seed of the test masks; None for cells without random masks.
        mask_hash: sha256 of the cell's masks (first 16 hex digits).
        n: Clips predicted.
        dropped: modality -> share of existing frames that were dropped, in [0, 1].
        collapsed: Whether predictions fall into one class, see ``metrics.functional.is_collapsed``.
        metrics: Metric key -> value, unrounded, accuracies and F1 in [0, 1]; NaN is stored as None.
        blind: Share of clips without any observed frame, in [0, 1]; None in older records, which do not say.
        missing_pairs: Share of (clip, modality) pairs that are missing, of those in the file, in [0, 1]; only where
            modalities are removed by chance.
        subsets: Available modalities, one of ``SUBSETS`` -> clips that have just these; likewise.
    """

    job_id: str
    cell: str
    mask_seed: int | None
    mask_hash: str
    n: int
    dropped: dict[str, float]
    collapsed: bool
    metrics: dict[str, float | None]
    blind: float | None = None
    missing_pairs: float | None = None
    subsets: dict[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """The cell line as plain data."""
        return {"kind": "cell", **{name: value for name, value in asdict(self).items() if _has(self, name)}}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> CellRecord:
        """Read a cell line."""
        return cls(**{name: line[name] for name in names_of(cls) if name in line})


def names_of(record: type) -> tuple[str, ...]:
    """Names of a record's fields, found once: to ask for them line by line would take longer than to read the line."""
    return _names_of(record)


@cache
def _names_of(record: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record))


def _has(record: JobRecord | CellRecord, name: str) -> bool:
    return name not in OPTIONAL or getattr(record, name) is not None


def canonical_hash(value: Any, digits: int) -> str:
    """Hash plain data: sha256 of its JSON with sorted keys and no spaces, first ``digits`` hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]

"""Records that somebody wants admitted, and what can be checked of one job alone. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from msabench.data.registry import corpora, dataset_info
from msabench.errors import MSABenchError
from msabench.leaderboard.own_form import form_problems
from msabench.leaderboard.scored_submission import content_problems, scored_problems
from msabench.methods.registry import class_path, is_external, methods
from msabench.metrics.functional import is_collapsed
from msabench.missingness.conditions import Cell
from msabench.results import predictions
from msabench.results.job_identity import job_key
from msabench.results.places import COMMITTED_STORE
from msabench.results.record import METHOD, CellRecord, JobKey, JobRecord, names_of
from msabench.results.record_file import RecordFile
from msabench.results.store import ResultStore
from msabench.results.study import Study
from msabench.results.study_checks import study_problems
from msabench.results.tuned import study_of

TOLERANCE = 1e-9
"""Relative difference that two machines' sums may have."""


@dataclass
class Submission:
    """One finished job with its predictions.

    Attributes:
        job: The job.
        cells: Its records.
        path: Its file of predictions.
        stored: The predictions; empty until ``read_predictions``.
    """

    job: JobRecord
    cells: list[CellRecord]
    path: Path
    stored: list[predictions.StoredCell]

    @property
    def name(self) -> str:
        """The job in words, e.g. ``job 4b4261b10ba97f22 (umdf on synth, seed 1111)``."""
        key = self.job.key
        return f"job {key.job_id} ({key.method} on {key.dataset}, seed {key.seed})"


def read_submissions(folder: Path) -> tuple[list[Submission], int]:
    """Read a store of valid records.

    Args:
        folder: A store whose ``validate`` found nothing.

    Returns:
        Its finished jobs, and the number of failed attempts.
    """
    files = [file for _, file in ResultStore(folder).files() if isinstance(file, RecordFile)]
    finished = [file for file in files if file.job.status == "ok"]
    submissions = [Submission(file.job, file.cells, predictions.path_of(folder, file.job.key), []) for file in finished]
    return submissions, len(files) - len(finished)


def registration_problems(submission: Submission) -> Iterator[str]:
    """What of the key is unknown here or does not follow from the config, and what of the config may not be published.

    Yields:
        One sentence per problem.
    """
    key, name = submission.job.key, submission.name
    if key.origin:
        yield from (f"{name}: {problem}" for problem in scored_problems(submission.job))
        return
    info = methods().get(key.method)
    if info is None and METHOD in submission.job.provenance:
        yield (
            f"{name}: method {key.method!r} is from outside msabench; name its file or module with --plugins to admit "
            "it to a store of your own"
        )
        return
    if info is None:
        yield f"{name}: method {key.method!r} is not registered; add its file first (docs/adding-a-method.md)"
        return
    if key.method_version != info.method_version:
        yield f"{name}: version {key.method_version} of {key.method} is not the registered one, {info.method_version}"
    if key.variant not in ("default", *info.variants):
        yield f"{name}: {key.method} has no variant {key.variant!r}; allowed: {', '.join(('default', *info.variants))}"
    if key.dataset not in corpora() or key.dataset == "custom":
        allowed = ", ".join(other for other in corpora() if other != "custom")
        yield f"{name}: {key.dataset!r} is no corpus that others have; allowed: {allowed}"
        return
    try:
        dataset_info(key.dataset).file(key.features)
        expected = job_key(submission.job.config, key.revision, key.features)
    except (MSABenchError, KeyError, TypeError, ValueError, AttributeError) as error:
        yield f"{name}: its config cannot be read: {error}"
        return
    for field in names_of(JobKey):
        value = getattr(expected, field)
        # Another version is said above; configs do not hold it, nor how their settings were found.
        if field not in ("method_version", "tuning") and getattr(key, field) != value:
            yield f"{name}: its key has {field} {getattr(key, field)!r}, its config gives {value!r}"
    for problem in form_problems(submission.job.config, class_path(key.method) if is_external(key.method) else ""):
        yield f"{name}: its config is not as records keep it: {problem}"


def tuning_problems(
    submission: Submission, studies: Mapping[str, Study], admitted: Mapping[str, Study]
) -> Iterator[str]:
    """What contradicts that a job of tuned settings is the winner of its study.

    Args:
        submission: A job.
        studies: Id -> study that comes with the submission.
        admitted: Id -> study of the store that it is to enter.

    Yields:
        One sentence per problem; none for a job of default settings.
    """
    if not submission.job.key.tuning:
        return
    name = study_of(submission.job.provenance)
    theirs, ours = studies.get(name), admitted.get(name)
    yield from (f"{submission.name}: {problem}" for problem in study_problems(submission.job, theirs or ours))
    if theirs and ours and theirs.content != ours.content:
        yield f"{submission.name}: its study {name} is admitted already with another outcome, which is never replaced"


def outside_problems(submission: Submission, store: Path) -> Iterator[str]:
    """What keeps a method from outside msabench out of a store: the committed records are of methods that are here.

    Args:
        submission: A job.
        store: Folder of the store that it is to enter.

    Yields:
        One sentence per problem.
    """
    key = submission.job.key
    if store.resolve() == COMMITTED_STORE.resolve() and key.method in methods() and is_external(key.method):
        yield (
            f"{submission.name}: method {key.method!r} is from outside msabench, and {store} takes those that anybody "
            "can run; add its file to msabench first (docs/adding-a-method.md), or give a --store of your own"
        )


def prediction_problems(submission: Submission) -> Iterator[str]:
    """Read a job's predictions and compute its records anew.

    Yields:
        One sentence per problem.
    """
    name = submission.name
    try:
        submission.stored = predictions.read(submission.path)
    except MSABenchError as error:
        yield f"{name}: {error}"
        return
    stored = {(entry.cell, entry.mask_seed): entry for entry in submission.stored}
    recorded = {(cell.cell, cell.mask_seed): cell for cell in submission.cells}
    if len(stored) < len(submission.stored):
        yield f"{name}: {submission.path} holds a cell and mask seed twice"
    for cell, mask_seed in sorted(stored.keys() ^ recorded.keys(), key=str):
        where = "records, but no predictions" if (cell, mask_seed) in recorded else "predictions, but no record"
        yield f"{name}: there are {where} of {_place(cell, mask_seed)}"
    first = submission.stored[0]
    if len(set(first.ids)) < len(first.ids):
        yield f"{name}: {submission.path} holds a clip twice in {_place(first.cell, first.mask_seed)}"
    for place, entry in stored.items():
        if entry.ids != first.ids or not np.array_equal(entry.labels, first.labels):
            yield f"{name}: clips or labels of {_place(*place)} are not those of {_place(first.cell, first.mask_seed)}"
        elif place in recorded:
            yield from _record_problems(name, submission.job.key.dataset, recorded[place], entry)
    if submission.job.key.origin:
        yield from (f"{name}: {problem}" for problem in content_problems(submission.job.key, submission.stored))


def _record_problems(name: str, dataset: str, record: CellRecord, entry: predictions.StoredCell) -> Iterator[str]:
    where = f"{name}: {_place(entry.cell, entry.mask_seed)}"
    if not np.isfinite(entry.preds).all() or not np.isfinite(entry.labels).all():
        yield f"{where} has predictions or labels that are not finite"
        return
    metric_set = dataset_info(dataset).metric_set
    try:
        expected = predictions.stored_metrics(metric_set, entry.labels, entry.preds)
        collapsed = is_collapsed(metric_set, entry.labels, entry.preds)
    except MSABenchError as error:
        yield f"{where} cannot be scored: {error}"
        return
    if record.n != len(entry.ids):
        yield f"{where} says {record.n} clips, its predictions have {len(entry.ids)}"
    if record.collapsed != collapsed:
        yield f"{where} says collapsed {record.collapsed}, its predictions say {collapsed}"
    for key in sorted(expected.keys() | record.metrics.keys()):
        if key not in record.metrics or key not in expected:
            which = "lacks" if key in expected else "has no place for"
            yield f"{where} {which} metric {key}"
        elif not _equal(record.metrics[key], expected[key]):
            yield f"{where} has {key} {record.metrics[key]!r}, its predictions give {expected[key]!r}"


def mask_seed_problems(submission: Submission) -> Iterator[str]:
    """Cells that lack a mask seed of the job, or have one that is not among them.

    Yields:
        One sentence per cell.
    """
    drawn: dict[str, set[int | None]] = {}
    for record in submission.cells:
        drawn.setdefault(record.cell, set()).add(record.mask_seed)
    for cell, seeds in drawn.items():
        expected: set[int | None] = set(submission.job.mask_seeds) if Cell.parse(cell).is_random else {None}
        if seeds != expected:
            given, wanted = (", ".join(map(str, sorted(some, key=str))) for some in (seeds, expected))
            yield f"{submission.name}: {cell} has the mask seeds {given}, the job says {wanted}"


def warnings(submission: Submission) -> Iterator[str]:
    """What is admitted, but said.

    Yields:
        One sentence each.
    """
    made = submission.job.provenance
    if made.get("git_dirty"):
        yield f"{submission.name} was run on code with uncommitted changes, so that its commit does not say what ran"
    if not made.get("git_commit"):
        yield f"{submission.name} does not say which commit it was run on"


def _equal(theirs: float | None, ours: float | None) -> bool:
    if theirs is None or ours is None:
        return theirs is ours
    return math.isclose(theirs, ours, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _place(cell: str, mask_seed: int | None) -> str:
    return cell if mask_seed is None else f"{cell} with mask seed {mask_seed}"

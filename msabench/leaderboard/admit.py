"""Admits contributed records: all of them, or none. Free of torch where the corpora are not at hand."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msabench.errors import MSABenchError
from msabench.files import replacing
from msabench.leaderboard.references import NOTHING, References
from msabench.leaderboard.submission import (
    Submission,
    mask_seed_problems,
    outside_problems,
    prediction_problems,
    read_submissions,
    registration_problems,
    tuning_problems,
    warnings,
)
from msabench.results import predictions
from msabench.results.aggregate import inconsistencies
from msabench.results.store import ResultStore
from msabench.results.study import Study, studies, study_file, write_study
from msabench.results.tuned import study_of


def admit(records: Path, store: Path) -> str:
    """Check the records of a store and copy them, with their predictions and studies, into another one.

    Args:
        records: The contributor's store, with its predictions.
        store: The store that they are to enter.

    Returns:
        What was admitted, what it was held against, and what is doubtful; one sentence a line.

    Raises:
        MSABenchError: Something is wrong; one sentence per problem, and nothing was admitted.
    """
    if records.resolve() == store.resolve():
        raise MSABenchError(f"{records} is the store itself; name the folder with the records to admit")
    problems = ResultStore(records).validate()
    if problems:
        raise _refusal(problems)
    submissions, failed = read_submissions(records)
    if not submissions:
        raise MSABenchError(f"{records} holds no finished jobs; name the store that `msabench run --store` wrote")
    # An index that came along says whatever its maker wants.
    try:
        given, admitted = ({study.study_id: study for study in studies(place)} for place in (records, store))
    except MSABenchError as error:
        raise _refusal([str(error)]) from error
    remarks = _check(submissions, ResultStore(records, indexed=False), ResultStore(store), given, admitted)
    if failed:
        remarks.append(f"left out: {failed} failed attempts, which have no predictions to check")
    names = dict.fromkeys(study_of(one.job.provenance) for one in submissions if one.job.key.tuning)
    _copy(submissions, [given[name] for name in names if name not in admitted], ResultStore(store))
    count = sum(len(submission.cells) for submission in submissions)
    return "\n".join([f"admitted {len(submissions)} jobs with {count} records into {store}", *remarks])


def _refusal(problems: Sequence[str]) -> MSABenchError:
    listed = "\n".join(f"- {problem}" for problem in problems)
    return MSABenchError(f"nothing was admitted; problems: {len(problems)}\n{listed}")


def _check(
    submissions: Sequence[Submission],
    records: ResultStore,
    store: ResultStore,
    given: Mapping[str, Study],
    admitted: Mapping[str, Study],
) -> list[str]:
    """Raise what is wrong; return what should be said. ``given`` and ``admitted`` are the stores' studies by id."""
    references = References(store.folder, store.frame())
    problems: list[str] = []
    held: dict[str, dict[str, None]] = {}
    for submission in submissions:
        found = [*registration_problems(submission), *outside_problems(submission, store.folder)]
        found += tuning_problems(submission, given, admitted)
        if store.has(submission.job.key.job_id):
            found.append(f"{submission.name} is admitted already; records are never replaced")
        found += mask_seed_problems(submission)
        if not found:
            # What follows needs a key that makes sense.
            found += prediction_problems(submission)
        if not found:
            for what, (source, wrong) in (
                ("test masks", references.mask_problems(submission)),
                ("clips and labels", references.clip_problems(submission)),
            ):
                found += wrong
                held.setdefault(f"{what} of {submission.job.key.dataset}", {})[source] = None
            # Metrics are computed; the arrays are no longer needed.
            submission.stored = []
        problems += found
    if not problems:
        problems += _disagreements(records, store)
    if problems:
        raise _refusal(problems)
    remarks = [_held_against(what, tuple(sources)) for what, sources in held.items()]
    return [*remarks, *(f"warning: {line}" for submission in submissions for line in warnings(submission))]


def _disagreements(records: ResultStore, store: ResultStore) -> list[str]:
    """What the new records would make inconsistent in a protocol that was not so before."""
    known = set(inconsistencies(store.records()))
    return [problem for problem in inconsistencies(store.records_beside(records)) if problem not in known]


def _held_against(what: str, sources: tuple[str, ...]) -> str:
    if NOTHING in sources:
        return f"NOT CHECKED: {what}, since neither the corpus nor admitted records of this protocol are here"
    return f"{what}: as in {' and '.join(sources)}"


def _copy(submissions: Sequence[Submission], tried: Sequence[Study], store: ResultStore) -> None:
    """Add every job with its predictions, and studies; whatever happens on the way, all of them or none."""
    targets = {one.job.key.job_id: predictions.path_of(store.folder, one.job.key) for one in submissions}
    added: list[Path] = []
    try:
        for study in tried:
            write_study(store.folder, study)
        for submission in submissions:
            target = targets[submission.job.key.job_id]
            target.parent.mkdir(parents=True, exist_ok=True)
            with submission.path.open("rb") as source, replacing(target) as stream:
                shutil.copyfileobj(source, stream)
        for submission in submissions:
            added.append(store.add(submission.job, submission.cells))
    except BaseException as error:
        with suppress(OSError):
            for path in added:
                path.unlink()
            for job_id, target in targets.items():
                # Somebody else may have added the same job meanwhile, whose predictions these are.
                if not store.has(job_id):
                    target.unlink(missing_ok=True)
            used = {study_of(job.provenance) for job in store.jobs()}
            for study in tried:
                if study.study_id not in used:
                    study_file(store.folder, study).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise MSABenchError(f"nothing was admitted: {store.folder} cannot be written ({error})") from error
        raise

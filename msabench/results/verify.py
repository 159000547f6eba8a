"""``msabench store verify``: what of a store is not as it was written. Free of torch."""

from __future__ import annotations

from pathlib import Path

from msabench.errors import MSABenchError
from msabench.results import predictions
from msabench.results.index import INDEX_NAME, index_is_damaged
from msabench.results.places import PREDICTIONS, store_to_read
from msabench.results.record_file import file_checksum
from msabench.results.store import ResultStore
from msabench.results.study import Study, study_files, study_in
from msabench.results.study_checks import study_problems
from msabench.results.tuned import study_of


def verify(store: Path | None = None, committed: bool = False) -> str:
    """Hold every record and every file of predictions against its checksum, and records of tuned settings to studies.

    Args:
        store: Folder of the result store; runs/store, or what MSABENCH_STORE names, if not given.
        committed: Look at the records in git, leaderboard/results, instead.

    Returns:
        How much is there, and what has no checksum.

    Raises:
        MSABenchError: There is no such store, or something is damaged; one sentence for each file.
    """
    place = store_to_read(store, committed)
    results = ResultStore(place)
    damaged: list[str] = []
    unverified = n_records = n_predictions = 0
    known: set[Path] = set()
    studies = _studies(place, damaged)
    used: set[str] = set()
    for path, found in results.files():
        n_records += 1
        if isinstance(found, MSABenchError):
            damaged.append(str(found))
            known.add(place / PREDICTIONS / path.relative_to(place).with_suffix(".parquet"))
            continue
        unverified += found.checksums is None
        if found.job.status == "failed":
            continue
        if found.job.key.tuning:
            study = study_of(found.job.provenance)
            used.add(study)
            damaged += [f"{path}: {problem}" for problem in study_problems(found.job, studies.get(study))]
        file = predictions.path_of(place, found.job.key)
        known.add(file)
        checksum = file_checksum(file)
        recorded = found.checksums["predictions"] if found.checksums else None
        n_predictions += checksum is not None
        if recorded is None:
            unverified += checksum is not None
        elif checksum is not None and checksum != recorded:
            damaged.append(f"{file} is damaged: it is not the file that its record has the checksum of")
    remarks = [
        f"{path} belongs to no record"
        for path in sorted((place / PREDICTIONS).glob("*/*/*.parquet"))
        if path not in known
    ]
    remarks += [
        f"study {name} of {study.method} on {study.dataset} has no records of its winner"
        for name, study in studies.items()
        if name not in used
    ]
    if index_is_damaged(place):
        remarks.append(f"{place / INDEX_NAME} is damaged or of another version; it is rebuilt when the store is read")
    without = f"; {unverified} unverified, since they were written before there were checksums" if unverified else ""
    held = f", {len(studies)} studies" if studies else ""
    counts = (
        f"{place}: {n_records} records, {n_predictions} files of predictions{held}; {len(damaged)} damaged{without}"
    )
    if damaged:
        raise MSABenchError("\n".join([counts, *(f"- {line}" for line in (*damaged, *remarks))]))
    return "\n".join([counts, *remarks])


def _studies(store: Path, damaged: list[str]) -> dict[str, Study]:
    """A store's studies by their id; what is wrong with the others is added to ``damaged``."""
    found = {}
    for path in study_files(store):
        try:
            study = study_in(store, path)
        except MSABenchError as error:
            damaged.append(str(error))
        else:
            found[study.study_id] = study
    return found

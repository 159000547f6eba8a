"""What the overview says of each corpus, and what marks mean. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msabench.data.info import DatasetInfo
from msabench.data.registry import corpora
from msabench.leaderboard.groups import Group
from msabench.results.build import dataset_facts
from msabench.results.record import JobRecord
from msabench.tables.marks import UNSEEN
from msabench.tables.render import DAGGER, DOUBLE_DAGGER, PILCROW

_LANGUAGES = {"en": "English", "zh": "Chinese"}
_LABELS = {"regression": "sentiment scores from {low:g} to {high:g}", "emotions": "four emotions, present or absent"}

MARKS = (
    (DAGGER, "collapsed: the predictions of a test situation fall into one class; †n: in n of the training seeds."),
    (PILCROW, f"{UNSEEN}."),
    ("(n)", "over n training seeds only, fewer than the row has."),
    ("-", "no records: never run."),
    ("nan", "undefined, since predictions or labels are constant."),
    (DOUBLE_DAGGER, "has failed jobs, which are left out of means."),
    ("?", "before a fidelity: experimental, external, scored or unknown."),
)
"""Mark -> meaning, as the pages have them."""


def corpus_rows(groups: Sequence[Group], jobs: Sequence[JobRecord]) -> list[dict[str, Any]]:
    """One entry per corpus: the registered ones, and others that have records.

    Args:
        groups: Groups of the store.
        jobs: Finished and failed jobs.

    Returns:
        ``name``, ``title``, ``kind``, ``caveat``, ``sizes``, ``records``, ``group`` (id of the first group; empty if
        there is none).
    """
    recorded = dict.fromkeys(group.table.dataset for group in groups)
    # A custom file is nobody else's: only its records make it worth a line.
    names = [*(name for name in corpora() if name != "custom" or name in recorded)]
    return [_corpus(name, groups, jobs) for name in [*names, *(name for name in recorded if name not in names)]]


def _corpus(name: str, groups: Sequence[Group], jobs: Sequence[JobRecord]) -> dict[str, Any]:
    info = dataset_facts(name)
    here = [job for job in jobs if job.key.dataset == name]
    first = next((group.id for group in groups if group.table.dataset == name), "")
    sets = [group.table.metric_set for group in groups if group.table.dataset == name] or [info.metric_set]
    finished = sum(job.status == "ok" for job in here)
    failed = f", {len(here) - finished} failed" if finished < len(here) else ""
    return {
        "name": name,
        "title": info.title,
        "kind": _kind(info, sets) if name in corpora() else "",
        "caveat": info.caveat,
        "sizes": ", ".join(f"{size:,}" for size in info.split_sizes) if info.split_sizes else "any",
        "records": f"{finished} jobs, {len({job.key.method for job in here})} methods{failed}",
        "group": first,
    }


def _kind(info: DatasetInfo, metric_sets: Sequence[str]) -> str:
    language = f"{_LANGUAGES[info.language]} clips" if info.language in _LANGUAGES else "Clips"
    low, high = info.label_range
    features = ", ".join(file.features for file in info.files)
    tasks = dict.fromkeys("emotions" if name == "emotions" else "regression" for name in metric_sets)
    labels = " or ".join(_LABELS[task].format(low=low, high=high) for task in tasks)
    return f"{language} with {labels}; features {features}."

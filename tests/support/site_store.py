"""A store with every kind of row that the leaderboard must tell apart, and numbers that are known."""

import csv
from pathlib import Path

from msabench.metrics.spec import metric_keys
from msabench.results.aggregate import DRAWS
from msabench.results.rows import jobs_hash
from msabench.results.store import ResultStore
from msabench.results.stored_intervals import COLUMNS
from tests.support.records import PAPER, add, fail, key

HTML = "<img src=x onerror=document.title='owned'>"
"""Name of a method that would run a script if a page drew it as markup."""

NOT_RUN = "inter/av"
"""Test situation that ``umdf`` was never run in."""


def values(level, has0=0.0):
    """Metrics of the sentiment set around a level; those of has-0 are ``has0`` higher, swapped ones .05 more."""
    found = dict.fromkeys(metric_keys("sentiment"), level)
    for name in found:
        found[name] += has0 * ("has0" in name) + 0.05 * name.endswith("_swapped")
    return found | {"mae": 2 * (1 - level), "corr": level / 2}


def make(folder):
    """Write the store; on CMU-MOSI: ``umdf`` leads under non-0, ``mult`` under has-0, ``lf_dnn`` is last.

    ``constant`` collapses. ``umdf`` has an interval on F1 (non-0) at ``inter/l`` and was never run in ``NOT_RUN``.
    ``mult`` has a seed with one cell only. A job of ``lf_dnn`` failed. ``HTML`` is no registered method. ``prlf`` has
    two rows, one of them a variant. Other features, and another corpus, are other protocols.
    """
    store = ResultStore(folder)
    most = [str(cell) for cell in PAPER if str(cell) != NOT_RUN]
    jobs = []
    for seed in (1, 2, 3):
        add(store, lambda *_: values(0.4), method="constant", seed=seed, cell_options={"collapsed": True})
        add(store, lambda *_, s=seed: values(0.8 + s / 1000), method="umdf", seed=seed, cell_options={"names": most})
        jobs.append(key(method="umdf", seed=seed).job_id)
        names = {"names": ["inter/l"]} if seed == 3 else {}
        add(store, lambda *_: values(0.7, 0.2), method="mult", seed=seed, cell_options=names)
        add(store, lambda *_: values(0.6), method="lf_dnn", seed=seed, regime="complete")
    fail(store, "RuntimeError: out of <b>memory</b>", method="lf_dnn", regime="complete", seed=4)
    add(store, lambda *_: values(0.65), method=HTML)
    add(store, lambda *_: values(0.75), method="prlf")
    add(store, lambda *_: values(0.74), method="prlf", variant="wo_pi")
    for method in ("constant", "umdf"):
        add(store, lambda *_: values(0.5), method=method, features="mmsa-unaligned")
        add(store, lambda *_: values(0.55), method=method, dataset="synth", features="synth")
    add(store, lambda *_: values(0.95), method="umdf", selection="test_best")
    _write_intervals(Path(folder) / "mosi" / "intervals.csv", jobs)


def _write_intervals(path, jobs):
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerow([jobs_hash(jobs), "f1_non0", "inter/l", "0.7511", "0.8522", DRAWS])
        writer.writerow([jobs_hash(jobs), "f1_non0", "inter/a", "", "", DRAWS])
        # Of jobs that are no row here.
        writer.writerow(["0" * 16, "f1_non0", "inter/v", "0.1", "0.2", DRAWS])

"""Records as columns: the same as the frame has, however they were read; the jobs that are kept keep their own."""

import math

import numpy as np
import pandas as pd
import pytest

from msabench.results.record import JobKey
from msabench.results.store import ResultStore
from tests.support.records import add


@pytest.fixture
def store(tmp_path):
    store = ResultStore(tmp_path / "store")
    options = (
        {"mask_seeds": (0, 2**63 - 1)},
        {"names": ["intra/0.3", "inter/a"], "mask_seeds": (5,), "collapsed": True, "blind": 0.25},
        {"names": ["inter/l"], "n": 7, "mask_hash": "é"},
        {"mask_seeds": (0, 1, 2)},
    )
    about = ({}, {"seed": 2}, {"dataset": "sims", "method": "umdf"}, {"dataset": "mosei", "regime": "complete"})
    for number, (given, changes) in enumerate(zip(options, about, strict=True)):
        values = np.random.default_rng(number)
        add(
            store,
            lambda cell, mask, of=values: math.nan if cell == "intra/0.5" else of.random(),
            cell_options=given,
            job={"unseen": ("audio",) if number == 1 else (), "split_sizes": (1, 2, 3)},
            **changes,
        )
    return store


def assert_same(records, frame):
    jobs = pd.DataFrame(list(records.jobs))
    for name in jobs:
        assert jobs[name].to_numpy()[records.job].tolist() == frame[name].tolist(), name
    assert [records.cells[place] for place in records.cell] == frame["cell"].tolist()
    seeds = [seed if drawn else None for seed, drawn in zip(records.mask_seed, records.drawn, strict=True)]
    assert seeds == [None if seed is pd.NA else seed for seed in frame["mask_seed"]]
    for name in ("mask_hash", "n", "collapsed"):
        assert getattr(records, name).tolist() == frame[name].tolist(), name
    np.testing.assert_array_equal(records.blind, frame["blind"].to_numpy())
    for name in ("f1_non0", "corr", "acc_happy"):
        np.testing.assert_array_equal(records.values(name), frame[name].to_numpy())


@pytest.mark.parametrize("indexed", [True, False])
def test_records_are_those_of_the_frame(store, indexed):
    reading = ResultStore(store.folder, indexed=indexed)
    frame = reading.frame()
    assert math.isnan(frame["corr"].min(skipna=False)), "some value is undefined"
    # Afresh, out of an index, and out of one whose rows are joined with fresh ones.
    assert_same(reading.records(), frame)
    assert_same(reading.records(["sims"]), reading.frame(["sims"]))
    add(store, seed=9)
    assert len(reading.records()) > len(frame)
    assert_same(reading.records(), ResultStore(store.folder, indexed=False).frame())
    assert {type(value) for job in reading.records().jobs for value in job.values()} == {str, int, bool}


@pytest.mark.parametrize(
    "field", ["dataset", "method", "seed", "regime", "unseen", "split_sizes", "external", "metric_set"]
)
def test_jobs_that_are_kept_keep_their_records(store, field):
    records, frame = store.records(), store.frame()
    assert list(records.held(field)) == list(dict.fromkeys(frame[field]))
    for value in records.held(field):
        kept = records.of(**{field: value})
        assert_same(kept, frame[frame[field] == value])
        # And of these again.
        assert_same(kept.among("seed", [2, 3]), frame[(frame[field] == value) & frame["seed"].isin([2, 3])])
    assert len(records.of(**{field: "nothing of the kind"})) == 0


def test_every_job_is_there_once(store):
    records = store.records()
    assert [job["job_id"] for job in records.jobs] == list(dict.fromkeys(store.frame()["job_id"]))
    assert all(JobKey(**{name: job[name] for name in JobKey.__annotations__}).job_id for job in records.jobs)
    assert sorted(set(records.job.tolist())) == list(range(len(records.jobs)))


def test_records_of_two_stores_stand_one_after_the_other(store, tmp_path):
    other = ResultStore(tmp_path / "other")
    add(other, seed=5, cell_options={"names": ["inter/v", "aligned/0.4"], "mask_seeds": (3,)})
    both = store.records_beside(other)
    assert_same(both, pd.concat([store.frame(), other.frame()], ignore_index=True))
    assert_same(ResultStore(tmp_path / "none").records_beside(other), other.frame())

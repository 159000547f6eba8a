"""What methods cost, out of records."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from msabench.errors import MSABenchError
from msabench.results.record import JobRecord
from msabench.results.store import ResultStore
from msabench.tables.costs import costs
from tests.support.records import cells, fail, key


def store_of(folder: Path, *jobs: JobRecord) -> Path:
    store = ResultStore(folder)
    for job in jobs:
        # intra/0.5 is recorded under two mask seeds, which makes five records.
        store.add(job, cells(job.key, names=("inter/l", "inter/a", "inter/lav", "intra/0.5")))
    return folder


MADE = JobRecord(
    key(),
    n_params=1000,
    epochs=4,
    train_seconds=10.0,
    eval_seconds=5.0,
    peak_memory_bytes=300 * 2**20,
    provenance={"device_name": "Some CPU", "threads": 1},
)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_means_over_the_seeds_of_a_configuration(tmp_path: Path) -> None:
    other = replace(MADE, key=key(seed=1112), train_seconds=30.0, peak_memory_bytes=100 * 2**20)
    (row,) = rows(costs(store=store_of(tmp_path, MADE, other), format="csv"))
    assert (row["jobs"], row["parameters"], row["epochs"]) == ("2", "1000", "4.0")
    assert row["s/epoch"] == "5.00"
    # Five records took 5 s; the paper grid has 16 situations.
    assert row["s/grid"] == "16.00"
    assert row["peak MiB"] == "200"
    assert (row["device"], row["threads"]) == ("Some CPU", "1")


def test_the_clock_is_the_processors_where_every_job_of_a_line_has_its_seconds(tmp_path: Path) -> None:
    alone = {"device": "cpu", "device_name": "Some CPU", "threads": 1}
    timed = replace(MADE, provenance=alone, train_processor_seconds=2.0, eval_processor_seconds=1.0)
    (row,) = rows(costs(store=store_of(tmp_path / "one", timed), format="csv"))
    assert (row["s/epoch"], row["s/grid"], row["clock"]) == ("0.50", "3.20", "processor")
    # Beside an older record of the same line, both are of wall time; nothing is averaged over two clocks.
    older = replace(MADE, key=key(seed=1112), provenance=alone)
    (row,) = rows(costs(store=store_of(tmp_path / "two", timed, older), format="csv"))
    assert (row["s/epoch"], row["s/grid"], row["clock"]) == ("2.50", "16.00", "wall")
    # Two threads use two processors at once.
    several = replace(timed, provenance=alone | {"threads": 2})
    (row,) = rows(costs(store=store_of(tmp_path / "three", several), format="csv"))
    assert (row["s/epoch"], row["clock"]) == ("2.50", "wall")


def test_devices_configurations_and_variants_stay_apart(tmp_path: Path) -> None:
    elsewhere = replace(MADE, key=key(seed=1112), provenance={"device_name": "Some GPU", "threads": 8})
    ablation = replace(MADE, key=key(variant="wo_x"))
    store = store_of(tmp_path, MADE, elsewhere, ablation)
    assert [row["device"] for row in rows(costs(store=store, format="csv"))] == ["Some CPU", "Some GPU"]
    assert [row["variant"] for row in rows(costs(store=store, variants=["wo_x"], format="csv"))] == ["wo_x"]


def test_what_a_job_did_not_measure_is_not_averaged_away(tmp_path: Path) -> None:
    unmeasured = replace(MADE, key=key(seed=1112), peak_memory_bytes=None, epochs=None)
    (row,) = rows(costs(store=store_of(tmp_path, MADE, unmeasured), format="csv"))
    assert (row["peak MiB"], row["s/epoch"]) == ("-", "-")


def test_failed_jobs_cost_nothing_and_unknown_names_are_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path, MADE)
    fail(ResultStore(store), method="umdf")
    assert len(rows(costs(store=store, format="csv"))) == 1
    with pytest.raises(MSABenchError, match=r"unknown method in .* 'umdf'"):
        costs(methods=["umdf"], store=store)
    with pytest.raises(MSABenchError, match=r"there is no store .*empty"):
        costs(store=tmp_path / "empty")


def test_text_says_what_the_columns_mean(tmp_path: Path) -> None:
    text = costs(store=store_of(tmp_path, MADE))
    assert "s/grid = seconds of evaluating 16 test situations" in text
    assert "2.50" in text

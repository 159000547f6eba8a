"""``msabench metrics``: what predictions give, beside what records say."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from msabench.__main__ import dispatch
from msabench.data.info import EMOTIONS
from msabench.errors import MSABenchError
from msabench.metrics.spec import metric_keys
from msabench.missingness.conditions import Cell
from msabench.results import predictions
from msabench.results.predictions import CellPredictions, Evaluation
from msabench.results.record import JobKey, JobRecord
from msabench.results.store import ResultStore
from msabench.tables.metrics import metrics
from tests.support.records import add, fail, key, rewrite
from tests.support.stored_runs import add_runs, noisy

CELLS = [Cell.parse(name) for name in ("inter/l", "inter/lav", "intra/0.5")]


def runs(store: Path, method: str = "mult", seeds: tuple[int, ...] = (1, 2), **changes: object) -> list[JobKey]:
    """Two jobs of 44 values: three cells, one of them under two mask seeds, with the eleven metrics of sentiment."""
    return [job.key for job in add_runs(store, method, noisy(0.5), seeds=seeds, cells=CELLS, **changes)]


def record_of(store: Path, job: JobKey) -> Path:
    return store / job.dataset / job.method / f"{job.job_id}.jsonl"


def plant(store: Path, job: JobKey, line: int, **values: float | None) -> None:
    """Change values in a record; line 1 is inter/l, line 3 intra/0.5 under mask seed 0."""
    rewrite(record_of(store, job), lambda entry: entry["metrics"].update(values), line)


def rows(capsys: pytest.CaptureFixture[str], code: int = 0, **options: object) -> list[dict[str, str]]:
    assert metrics(format="csv", **options) == code
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_every_recorded_value_is_recomputed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = runs(tmp_path)
    found = rows(capsys, store=tmp_path)
    assert list(found[0]) == [
        *("dataset", "method", "variant", "regime", "seed", "job_id"),
        *("cell", "mask_seed", "metric", "value", "recorded", "difference"),
    ]
    assert {row["metric"] for row in found} == set(metric_keys("sentiment"))
    assert {(row["seed"], row["job_id"]) for row in found} == {("1", first.job_id), ("2", second.job_id)}
    assert {(row["cell"], row["mask_seed"]) for row in found} == {
        *(("inter/l", ""), ("inter/lav", ""), ("intra/0.5", "0"), ("intra/0.5", "1"))
    }
    assert len(found) == 2 * 4 * 11
    assert all(row["value"] == row["recorded"] and row["difference"] == "0.0" for row in found)


def test_values_are_what_the_predictions_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (job,) = runs(tmp_path, seeds=(1,))
    table = pq.read_table(predictions.path_of(tmp_path, job)).to_pandas()
    table = table[(table["cell"] == "intra/0.5") & (table["mask_seed"] == 1)]
    labels, preds = table["label"].to_numpy(np.float64), table["pred"].to_numpy(np.float64)
    kept = labels != 0
    expected = {
        "mae": np.abs(labels - preds).mean(),
        "corr": np.corrcoef(labels, preds)[0, 1],
        "f1_non0": f1_score(labels[kept] > 0, preds[kept] > 0, average="weighted"),
    }
    found = rows(capsys, store=tmp_path, metric=list(expected), cells=["intra/0.5"])
    values = {row["metric"]: float(row["value"]) for row in found if row["mask_seed"] == "1"}
    assert values == pytest.approx(expected, abs=1e-6)
    assert len(found) == 6


def test_another_value_in_a_record_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = runs(tmp_path)
    (row,) = (row for row in rows(capsys, store=tmp_path, metric=["corr"], cells=["inter/l"]) if row["seed"] == "2")
    right = float(row["value"])
    plant(tmp_path, second, 1, corr=right + 1e-12)
    assert metrics(store=tmp_path) == 1
    said = capsys.readouterr().out
    assert "88 values recomputed from the predictions of 2 jobs: 87 equal the record exactly, 1 differs:\n" in said
    job = f"synth mult (mixed) seed 2, job {second.job_id}"
    assert f"- {job}, inter/l, corr: {right!r}; recorded is {right + 1e-12!r}" in said
    (line,) = (line for line in said.splitlines() if "*" in line and line.startswith("inter"))
    assert line.endswith(f" {right:.3f}*")
    assert "* = another value than the record's." in said
    (row,) = (row for row in rows(capsys, 1, store=tmp_path) if row["difference"] not in ("0.0", ""))
    assert (row["job_id"], row["cell"], row["metric"]) == (second.job_id, "inter/l", "corr")
    assert float(row["difference"]) == right - (right + 1e-12)
    # What was not asked for is not compared.
    assert metrics(store=tmp_path, metric=["mae"]) == metrics(store=tmp_path, cells=["intra/0.5"]) == 0
    assert "*" not in capsys.readouterr().out
    assert len({first.job_id, second.job_id}) == 2


def test_undefined_is_a_value_and_absent_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_runs(tmp_path, "constant", lambda labels, cell, rng: np.ones(len(labels)), seeds=(1,), cells=CELLS[:1])
    (row,) = rows(capsys, store=tmp_path, metric=["corr"])
    assert (row["value"], row["recorded"], row["difference"]) == ("", "", "")
    (job,) = runs(tmp_path, seeds=(1,))
    plant(tmp_path, job, 1, corr=None)
    assert metrics(store=tmp_path, metric=["corr"]) == 1
    said = capsys.readouterr().out
    assert "5 values recomputed from the predictions of 2 jobs: 4 equal the record exactly, 1 differs:" in said
    assert said.rstrip().endswith("; recorded is undefined")
    # Records from before a metric existed do not have it.
    rewrite(record_of(tmp_path, job), lambda entry: entry["metrics"].pop("corr"), 1)
    assert metrics(store=tmp_path, metric=["corr"]) == 0
    assert "4 equal the record exactly, 1 stand in no record, 0 differ." in capsys.readouterr().out


def test_a_cell_that_the_predictions_lack_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (job,) = runs(tmp_path, seeds=(1,))
    path = predictions.path_of(tmp_path, job)
    table = pq.read_table(path)
    pq.write_table(table.filter(pa.compute.not_equal(table["cell"].cast(pa.string()), "inter/lav")), path)
    rewrite(record_of(tmp_path, job), lambda entry: None)
    assert metrics(store=tmp_path, metric=["mae"]) == 1
    said = capsys.readouterr().out
    assert "3 values recomputed from the predictions of 1 job: 3 equal the record exactly, 1 differs:" in said
    assert "inter/lav, mae: not among the predictions; recorded is 0." in said


def test_jobs_without_predictions_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs(tmp_path, seeds=(1,))
    for seed in (1112, 1111):
        add(ResultStore(tmp_path), dataset="synth", method="umdf", variant="wo_mcim", seed=seed)
    fail(ResultStore(tmp_path), dataset="synth", method="misa")
    sentence = (
        f"2 jobs have no predictions in {tmp_path}; predictions stay on the machine that made them: "
        "synth umdf/wo_mcim (mixed) seed 1111, 1112"
    )
    assert metrics(store=tmp_path) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == sentence
    assert err == ""
    assert metrics(store=tmp_path, format="csv") == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "44 values recomputed from the predictions of 1 job: 44 equal the record exactly, 0 differ.",
        sentence,
    ]
    assert out.count("\n") == 45
    with pytest.raises(MSABenchError) as caught:
        metrics(store=tmp_path, methods=["umdf"])
    assert str(caught.value) == sentence


def test_many_jobs_without_predictions_stay_one_sentence(tmp_path: Path) -> None:
    for number in range(15):
        add(ResultStore(tmp_path), method=f"method{number:02d}")
    with pytest.raises(MSABenchError, match=r"^15 jobs have no .*; mosi method11 \(mixed\) seed 1111; and 3 more$"):
        metrics(store=tmp_path)


def test_emotions_have_metrics_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (40, 4))
    logits = rng.normal(size=(40, 4, 2)).astype(np.float32)
    job = JobRecord(key(dataset="iemocap"))
    entry = CellPredictions(Cell("la"), None, logits, "h", dict.fromkeys(("text", "audio", "vision"), 0.0))
    evaluation = Evaluation("emotions", [f"clip{i}" for i in range(40)], labels, [entry], 1.0)
    predictions.write(predictions.path_of(tmp_path, job.key), evaluation)
    ResultStore(tmp_path).add(job, evaluation.records(job.key.job_id))
    runs(tmp_path, seeds=(1,))

    found = rows(capsys, store=tmp_path, datasets=["iemocap"])
    assert [row["metric"] for row in found] == list(metric_keys("emotions"))
    values = {row["metric"]: float(row["value"]) for row in found}
    right = (logits.argmax(axis=2) == labels).mean(axis=0)
    assert [values[f"acc_{emotion}"] for emotion in EMOTIONS] == pytest.approx(right.tolist())
    # A metric of one corpus leaves the others out.
    assert {row["dataset"] for row in rows(capsys, store=tmp_path, metric=["f1_mean"])} == {"iemocap"}
    assert {row["dataset"] for row in rows(capsys, store=tmp_path, metric=["f1_mean", "corr"])} == {"iemocap", "synth"}
    plant(tmp_path, job.key, 1, f1_mean=0.25)
    assert metrics(store=tmp_path, datasets=["iemocap"]) == 1
    assert "inter/la, f1_mean: " in capsys.readouterr().out


def test_variants_and_methods_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs(tmp_path, seeds=(1,))
    runs(tmp_path, "umdf", seeds=(1,), variant="wo_mcim")
    assert {row["method"] for row in rows(capsys, store=tmp_path)} == {"mult", "umdf"}
    assert {row["method"] for row in rows(capsys, store=tmp_path, methods=["umdf"])} == {"umdf"}
    assert {row["variant"] for row in rows(capsys, store=tmp_path, variants=["default"])} == {"default"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"datasets": ["sinth"]}, r"^unknown dataset in .* 'sinth'; allowed: synth; did you mean synth\?$"),
        ({"methods": ["mlt"]}, r"^unknown method in .* 'mlt'; allowed: mult; did you mean mult\?$"),
        ({"variants": ["defalt"]}, r"^unknown variant in .* 'defalt'; allowed: default; did you mean default\?$"),
        ({"metric": ["f1_non"]}, r"^unknown metric 'f1_non'; .*; did you mean f1_non0\?$"),
        ({"metric": ["f1_mean"]}, r"^metric 'f1_mean' is not one of the sentiment metrics; allowed: acc2_non0, "),
        ({"cells": ["inter/v"]}, r"^unknown cell in .* 'inter/v'; allowed: inter/l, inter/lav, intra/0.5; did you"),
        ({"cells": ["paperr"]}, r"^unknown grid 'paperr'; allowed: inter, intra, paper, .*; did you mean paper\?$"),
        ({"format": "markdown"}, r"^unknown format 'markdown'; allowed: text, csv$"),
        ({"committed": True}, "cannot both be given"),
    ],
)
def test_unknown_names_are_one_sentence(tmp_path: Path, options: dict[str, object], words: str) -> None:
    runs(tmp_path, seeds=(1,))
    with pytest.raises(MSABenchError, match=words):
        metrics(store=tmp_path, **options)


def test_damage_and_empty_stores_are_said(tmp_path: Path) -> None:
    with pytest.raises(MSABenchError, match="holds no records"):
        metrics(store=tmp_path)
    (job,) = runs(tmp_path, seeds=(1,))
    with predictions.path_of(tmp_path, job).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(MSABenchError, match=r"\.parquet is damaged: it is not the file that its record has the"):
        metrics(store=tmp_path)


def test_the_verb_is_there_and_needs_no_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (job,) = runs(tmp_path, seeds=(1,))
    words = ["metrics", "--store", str(tmp_path), "--metric", "corr", "mae", "--cells", "inter", "--format", "csv"]
    assert dispatch(words) == 0
    assert capsys.readouterr().out.count("\n") == 1 + 2 * 2
    plant(tmp_path, job, 1, mae=9.0)
    assert dispatch(words) == 1
    code = f"import sys; from msabench.__main__ import dispatch; dispatch({words}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

"""The metrics of a job are those that its record says: corpora under one name may differ in them."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.evaluation.command import evaluate_checkpoint
from msabench.figures.command import figures
from msabench.leaderboard.readme import readme_text
from msabench.leaderboard.site import build_site
from msabench.metrics.spec import metric_keys
from msabench.missingness.conditions import Cell, parse_grid
from msabench.results.build import build_tables
from msabench.results.record import JobRecord
from msabench.results.store import ResultStore
from msabench.results.stored_intervals import read_intervals, update_intervals
from msabench.results.table import columns_of
from msabench.tables.command import table
from msabench.tables.compare import compare
from msabench.tables.costs import costs
from msabench.tables.regimes import regimes
from tests.support.corpora import Content, write_npz
from tests.support.records import add, cells, fail, key, rewrite
from tests.support.stored_runs import add_runs, labels_of

ROOT = Path(__file__).parents[2]
FEW = parse_grid(["inter"])

# F1 (non-0): of +, -, + all are called +, so 2/3 of 0.8. F1 (mean): happy is called in one of two clips, the rest is
# right, so (11/15 + 3) / 4.
SCORES = np.array([1, -1, 2, 0], dtype=np.float32)
CALLED = np.array([1, 1, 1, 0], dtype=np.float64)
EMOTIONS = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]])
F1_NON0, F1_MEAN = 2 / 3 * 0.8, (11 / 15 + 3) / 4


def scores(labels: NDArray[Any], cell: Cell, rng: np.random.Generator) -> NDArray[np.float64]:
    return CALLED


def logits(labels: NDArray[Any], cell: Cell, rng: np.random.Generator) -> NDArray[np.float64]:
    called = labels.copy()
    called[0, 0] = 0
    return np.stack([1.0 - called, called], axis=-1)


@pytest.fixture(params=["two files", "one file with both labels"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """``mult`` and ``umdf`` on custom scores and on custom emotions; half of the jobs say which metrics they have."""
    folder = tmp_path / "store"
    for number, method in enumerate(("mult", "umdf")):
        for regime in ("complete", "mixed"):
            about: dict[str, Any] = {"cells": FEW, "seeds": (1, 2), "dataset": "custom", "regime": regime}
            for metric_set, predict, labels in (("sentiment", scores, SCORES), ("emotions", logits, EMOTIONS)):

                def say(job: JobRecord, metric_set: str = metric_set, number: int = number) -> None:
                    job.metric_set = metric_set if number else None

                revision = "a" * 12 if request.param != "two files" or metric_set == "sentiment" else "b" * 12
                add_runs(
                    folder,
                    method,
                    predict,
                    labels=labels,
                    metric_set=metric_set,
                    record=say,
                    revision=revision,
                    config_hash=metric_set,
                    **about,
                )
    return folder


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# Records.


def test_a_record_says_its_metrics_and_older_ones_imply_them(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    emotions = dict.fromkeys(metric_keys("emotions"), None)
    said = add(store, job={"metric_set": "sentiment"}, seed=1)
    older = add(store, seed=2)
    add(store, lambda cell, mask_seed: dict(emotions), seed=3, dataset="custom")
    # Neither says nor implies: the corpus's own.
    add(store, lambda cell, mask_seed: {"corr": 0.5}, seed=4, dataset="sims")
    add(store, lambda cell, mask_seed: {"corr": 0.5}, seed=5, dataset="unheard-of")
    assert json.loads(said.read_text().splitlines()[0])["metric_set"] == "sentiment"
    assert "metric_set" not in older.read_text()
    frame = store.frame().drop_duplicates("job_id")
    assert dict(zip(frame["seed"], frame["metric_set"], strict=True)) == {
        1: "sentiment",
        2: "sentiment",
        3: "emotions",
        4: "sims",
        5: "sentiment",
    }
    # The same out of the index.
    assert store.frame().equals(ResultStore(tmp_path).frame())


def test_what_is_read_from_an_older_record_is_written_as_it_was(tmp_path: Path) -> None:
    path = add(ResultStore(tmp_path / "a"))
    (job,) = ResultStore(tmp_path / "a").jobs()
    copied = ResultStore(tmp_path / "b").add(job, cells(job.key))
    assert copied.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("metric_set", "message"),
    [
        ("feelings", "line 1 has the unknown metric set 'feelings'; allowed: sentiment, sims, emotions"),
        (7, r"line 1 has metric_set = 7; expected str \| None"),
        ("emotions", "line 2 holds the unknown metric 'f1_non0'; allowed: acc_happy"),
    ],
)
def test_a_record_that_contradicts_itself_is_named(tmp_path: Path, metric_set: Any, message: str) -> None:
    store = ResultStore(tmp_path)
    path = add(store, job={"metric_set": "sentiment"})
    rewrite(path, lambda line: line.update(metric_set=metric_set))
    with pytest.raises(MSABenchError, match=message) as error:
        store.frame()
    assert str(path) in str(error.value)
    with pytest.raises(MSABenchError, match=message):
        ResultStore(tmp_path / "other").add(JobRecord(key(), metric_set=metric_set), cells(key()))


# Scores and emotions under one name.


def test_each_kind_has_a_table_of_its_own_with_the_right_numbers(store: Path) -> None:
    found = lines(table(store=store, grid=["inter/lav"], format="csv"))
    assert {(line["metric"], line["method"], line["regime"], line["n_seeds"]) for line in found} == {
        (metric, method, regime, "2")
        for metric in ("f1_non0", "f1_mean")
        for method in ("mult", "umdf")
        for regime in ("complete", "mixed")
    }
    for line in found:
        expected = F1_NON0 if line["metric"] == "f1_non0" else F1_MEAN
        assert float(line["mean"]) == pytest.approx(expected)
    text = table(store=store, grid=["inter/lav"], width=200)
    assert "custom file: F1 (non-0) [f1_non0], percent" in text
    assert "custom file: F1 (mean) [f1_mean], percent" in text
    assert "Left out" not in text
    assert [text.count(number) for number in ("53.33±0.00", "93.33±0.00")] == [4, 4]
    with_intervals = table(store=store, grid=["inter/lav"], width=200, intervals=True)
    assert [with_intervals.count(number) for number in ("53.33 [", "93.33 [")] == [4, 4]


def test_a_metric_shows_the_jobs_that_have_it_and_says_which_have_not(store: Path) -> None:
    text = table(["custom"], metric="f1_mean", store=store, grid=["inter/lav"], width=200)
    assert "f1_non0" not in text
    assert text.count("93.33±0.00") == 4
    assert "Left out for lack of f1_mean: jobs on custom with sentiment metrics (4)." in " ".join(
        table(metric="f1_mean", methods=["umdf"], store=store, grid=["inter/lav"], width=200).split()
    )
    assert "jobs on custom with sentiment metrics (8)" in " ".join(text.split())
    assert "jobs on custom with emotions metrics (8)" in " ".join(table(metric="mae", store=store).split())


def test_a_metric_that_no_record_has_is_one_sentence(store: Path) -> None:
    with pytest.raises(MSABenchError, match=r"^no corpus in .* has metric 'acc2'; allowed: acc2_non0, .*f1_mean$"):
        table(metric="acc2", store=store)
    with pytest.raises(MSABenchError, match=r"^custom has no metric 'acc2'; allowed: acc2_non0, .*f1_mean$"):
        table(["custom"], metric="acc2", store=store)
    for datasets in (None, ["custom"]):
        with pytest.raises(MSABenchError, match=r"^no record of custom in .* has metric 'acc2'; allowed: acc2_non0"):
            regimes(datasets, metric="acc2", store=store)
    with pytest.raises(MSABenchError, match=r"^metric 'acc2' is not one of the sentiment or emotions metrics; allowed"):
        build_tables(ResultStore(store).records(), [], "custom", "acc2", columns_of(["inter"]))


def test_a_corpus_without_the_metric_is_left_out_of_comparisons_unless_it_was_named(tmp_path: Path) -> None:
    about: dict[str, Any] = {"cells": FEW, "seeds": (1,)}
    for regime in ("complete", "mixed"):
        add_runs(tmp_path, "mult", scores, labels=SCORES, regime=regime, **about)
        emotions: dict[str, Any] = {"labels": EMOTIONS, "metric_set": "emotions", "dataset": "iemocap"}
        add_runs(tmp_path, "mult", logits, regime=regime, **emotions, **about)
    text = regimes(metric="f1_mean", store=tmp_path)
    assert "synth" not in text.replace("Left out for lack of f1_mean: synth.", "")
    assert text.endswith("Left out for lack of f1_mean: synth.")
    with pytest.raises(MSABenchError, match=r"^no record of synth in .* has metric 'f1_mean'; allowed: acc2_non0"):
        regimes(["synth", "iemocap"], metric="f1_mean", store=tmp_path)


def test_failures_stand_with_the_finished_jobs_on_their_data(store: Path) -> None:
    fail(ResultStore(store), dataset="custom", revision="b" * 12, method="kt")
    records, failures = ResultStore(store).records(), ResultStore(store).failures()
    tables = build_tables(records, failures, "custom", None, columns_of(["inter"]))
    two_files = len(records.held("revision")) == 2
    holding = [part.metric_set for part in tables if any(row.failures for row in part.rows)]
    assert holding == ["emotions" if two_files else "sentiment"]


def test_comparisons_and_changes_are_made_within_each_kind(store: Path) -> None:
    found = lines(compare("mult (mixed)", cells=["inter/lav"], store=store, format="csv", draws=100))
    differences = [line for line in found if line["kind"] == "difference"]
    assert {line["metric"]: float(line["value"]) for line in differences} == pytest.approx(
        {"f1_non0": F1_NON0, "f1_mean": F1_MEAN}
    )
    changes = lines(regimes(cells=["inter/lav"], store=store, format="csv"))
    assert [(line["metric"], line["method"], float(line["change"])) for line in changes] == [
        (metric, method, 0) for metric in ("f1_non0", "f1_mean") for method in ("mult", "umdf")
    ]
    assert "Left out for lack of corr: jobs on custom with emotions metrics (8)." in regimes(
        metric="corr", cells=["inter/lav"], store=store
    )
    assert len(costs(store=store, format="csv").splitlines()) == 1 + 2 * 2 * 2


def test_ranks_say_which_table_they_left_out(store: Path) -> None:
    for method in ("kt", "prlf"):
        about: dict[str, Any] = {"cells": FEW, "seeds": (1, 2), "dataset": "custom", "revision": "a" * 12}
        add_runs(store, method, scores, labels=SCORES, config_hash="sentiment", **about)
    pytest.importorskip("scikit_posthocs")
    text = " ".join(compare("mult (mixed)", cells=["inter"], store=store, draws=100).split())
    if ResultStore(store).frame()["revision"].nunique() == 2:
        assert "No ranks: custom has records of 2 revisions" in text
    else:
        assert "emotions metrics, custom, revision" in text


def test_each_kind_has_a_figure_of_its_own(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    drawn = figures("conditions", store=store, out=out, methods=["mult"], band="std").splitlines()
    assert len(drawn) == len({Path(line).name for line in drawn}) == 4
    assert {line.rpartition("_")[2] for line in drawn} == {"non0.pdf", "non0.png", "mean.pdf", "mean.png"}
    said = figures("confusion", store=store, out=out, methods=["mult"], cells=["inter/lav"])
    assert "not drawn: confusion matrices are of scores" in said
    assert len([line for line in said.splitlines() if line.endswith(".png")]) == 1


def groups_of(folder: Path, store: Path) -> list[dict[str, Any]]:
    build_site(folder / "site", store, ROOT / "leaderboard" / "published")
    text = (folder / "site" / "data" / "results.js").read_text(encoding="utf-8")
    groups: list[dict[str, Any]] = json.loads(text.removeprefix("window.msabenchResults = ").removesuffix(";\n"))[
        "groups"
    ]
    return groups


def test_the_leaderboard_has_both(store: Path, tmp_path: Path) -> None:
    assert update_intervals(ResultStore(store)) == [
        "custom: 12 of 12 rows and changes of regime have intervals, 12 new"
    ]
    kept = {metric for _, metric, _ in read_intervals(store, "custom")}
    assert kept == {*metric_keys("sentiment"), *metric_keys("emotions")}
    groups = groups_of(tmp_path, store)
    assert [group["default"] for group in groups] == ["f1_non0", "f1_mean"]
    assert len({group["id"] for group in groups}) == 2
    for group, expected in zip(groups, (53.33, 93.33), strict=True):
        whole = [column["key"] for column in group["columns"]].index("inter/lav")
        assert {row["values"][group["default"]][whole][0] for row in group["rows"]} == {expected}
        assert set(group["rows"][0]["values"]) == set(group["definitions"])
        assert all(len(row["values"][group["default"]][whole]) == 4 for row in group["rows"])
    overview = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "sentiment scores from -3 to 3 or four emotions, present or absent" in overview
    page = (tmp_path / "site" / "regimes.html").read_text(encoding="utf-8")
    assert all(f"[{metric}]" in page for metric in ("f1_non0", "f1_mean", "corr", "mae"))
    text = readme_text(store)
    assert "### custom file: F1 (non-0) [f1_non0], percent\n" in text
    assert "### custom file: F1 (mean) [f1_mean], percent\n" in text


def test_two_real_files_give_two_right_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def both(content: Content) -> None:
        content["emotion_labels"] = np.random.default_rng(1).integers(0, 2, (len(content["id"]), 4))

    written = write_npz(Path("own.npz"), change=both)
    for task in ("regression", "emotions"):
        words = ["--data.path=own.npz", f"--data.task={task}", "--trainer.accelerator=cpu"]
        runs = [f"--trainer.default_root_dir={task}"]
        assert dispatch(["fit", "--config", str(ROOT / "configs/constant_custom.yaml"), *words, *runs]) == 0
        (checkpoint,) = Path(task).rglob("best.ckpt")
        evaluate_checkpoint(checkpoint, store=Path("store"))
    jobs = ResultStore(Path("store")).jobs()
    assert {job.metric_set for job in jobs} == {"sentiment", "emotions"}
    assert {(job.key.dataset, job.key.revision) for job in jobs} == {("custom", jobs[0].key.revision)}
    test, train = (written["split"] == name for name in ("test", "train"))
    own, emotions = written["regression_labels"], written["emotion_labels"]
    # Of an even number of labels the lower of the two in the middle; of as many clips with as without, absent.
    median, more = np.sort(own[train])[5], emotions[train].sum(axis=0) > 6
    expected = {"mae": np.abs(own[test] - median).mean(), "acc_mean": (emotions[test] == more).mean()}
    for metric, value in expected.items():
        found = lines(table(metric=metric, store=Path("store"), grid=["inter/lav"], format="csv"))
        assert [float(line["mean"]) for line in found] == pytest.approx([value], rel=1e-6)


# Labels that are all 0.


@pytest.fixture
def neutral(tmp_path: Path) -> Path:
    """A test split without any clip that is not 0: F1 (non-0) is undefined everywhere."""

    def predict(labels: NDArray[Any], cell: Cell, rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.normal(size=len(labels))

    def count(job: JobRecord) -> None:
        job.n_params = 7

    folder = tmp_path / "store"
    for method in ("mult", "umdf", "kt"):
        for regime in ("complete", "mixed"):
            about: dict[str, Any] = {"dataset": "custom", "config_hash": f"{method}-{regime}", "mask_seeds": (0,)}
            add_runs(
                folder, method, predict, labels=0 * labels_of(30), regime=regime, seeds=(1, 2), record=count, **about
            )
    return folder


def test_undefined_everywhere_is_nan_everywhere(neutral: Path, tmp_path: Path) -> None:
    assert set(ResultStore(neutral).frame()["metric_set"]) == {"sentiment"}
    assert ResultStore(neutral).validate() == []
    text = table(store=neutral, width=300)
    assert "custom file: F1 (non-0) [f1_non0], percent" in text
    (row,) = [line for line in text.splitlines() if line.startswith("mult") and " mixed " in line]
    assert row.split().count("nan") == 19
    assert "nan = undefined for at least one run, since predictions or labels are constant." in text
    for format in ("markdown", "latex", "html"):
        assert "nan" in table(store=neutral, format=format)  # type: ignore[arg-type]
    assert "nan" in table(store=neutral, intervals=True, width=300)
    for line in lines(table(store=neutral, grid=["inter/l"], format="csv")):
        assert (line["mean"], line["std"], line["n_seeds"], line["marks"]) == ("", "", "2", "undefined")
    assert "nan" not in table(store=neutral, metric="mae", grid=["inter"], width=300)

    text = compare("mult (mixed)", cells=["inter/lav"], store=neutral, draws=100)
    wrapped = " ".join(text.split())
    assert "nan = undefined in at least one resample, since predictions or labels are constant in it." in wrapped
    (line, *_) = lines(compare("mult (mixed)", cells=["inter/lav"], store=neutral, draws=100, format="csv"))
    assert (line["difference"], line["p"], line["p_holm"]) == ("", "", "")
    assert "nan" in regimes(store=neutral)
    assert {line["change"] for line in lines(regimes(store=neutral, format="csv"))} == {""}

    update_intervals(ResultStore(neutral))
    for (_, metric, _), bounds in read_intervals(neutral, "custom").items():
        if "non0" in metric:
            assert all(map(math.isnan, bounds))
    (group,) = groups_of(tmp_path, neutral)
    assert group["default"] == "f1_non0"
    assert {value[0] for row in group["rows"] for value in row["values"]["f1_non0"]} == {None}
    assert any("nan = undefined" in note for note in group["notes"])
    assert "nan" in readme_text(neutral)


@pytest.mark.parametrize("kind", ["robustness", "conditions", "confusion", "ranks"])
@pytest.mark.parametrize("band", ["std", "intervals"])
@pytest.mark.filterwarnings("error")
def test_figures_of_what_is_undefined_are_drawn(neutral: Path, tmp_path: Path, kind: Any, band: Any) -> None:
    pytest.importorskip("scikit_posthocs" if kind == "ranks" else "matplotlib")
    given = {} if kind in ("ranks", "confusion") else {"band": band}
    methods = None if kind == "ranks" else ["mult"]
    drawn = figures(kind, methods=methods, store=neutral, out=tmp_path / "out", **given)
    assert drawn.endswith(".png")


def test_a_cost_of_nothing_is_refused_in_a_sentence(neutral: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(MSABenchError, match=r"^f1_non0 on custom is undefined for every row; name another --metric$"):
        figures("cost", methods=["mult"], store=neutral, band="std")

"""Rows of tuned settings in tables, comparisons and figures: apart from those of configs, and shown when asked for."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

import msabench as mb
from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.figures.words import caption, labels
from msabench.leaderboard.readme import readme_text
from msabench.missingness.conditions import INTER
from msabench.results.aggregate import jobs_by_row
from msabench.results.chosen_rows import choose_rows
from msabench.results.comparison import baseline_of, named_method
from msabench.results.paired import paired_differences, resampled
from msabench.results.store import ResultStore
from msabench.results.stored_intervals import read_intervals, update_intervals
from msabench.results.study import TUNING, Trial
from msabench.results.tuning_changes import Spent
from msabench.tables.command import table
from msabench.tables.compare import compare
from msabench.tables.costs import costs
from msabench.tables.long_csv import COLUMNS
from msabench.tables.regimes import CELLS, regimes
from msabench.tables.tuning import kept_tuning, tuning
from tests.support.records import add, fail
from tests.support.stored_runs import add_runs, noisy
from tests.support.tuned_runs import add_default, add_tuned, study

LABEL = "tuned(3, random, seed 1)"
FEW: dict[str, Any] = {"cells": list(INTER), "n": 80}
REVISION = "0123456789ab"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mult`` gains much by tuning, ``umdf`` loses a little, ``prlf`` was not tuned, ``kt`` was run tuned alone."""
    folder = tmp_path_factory.mktemp("store")
    add_runs(folder, "constant", lambda labels, *_: 0 * labels + 1.0, seeds=(1,), **FEW)
    for method, before, after in (("mult", 3.0, 0.5), ("umdf", 0.8, 0.9)):
        add_default(folder, study(method), noisy(before), **FEW)
        add_tuned(folder, study(method), noisy(after), **FEW)
    add_runs(folder, "prlf", noisy(1.0), config_hash="p", **FEW)
    add_tuned(folder, study("kt", val_tasks=(None, 0.5, 0.4)), noisy(1.0), **FEW)
    return folder


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def methods_of(text: str) -> list[tuple[str, str]]:
    return list(dict.fromkeys((line["method"], line.get("tuning", "")) for line in lines_of(text)))


SHOWN = {
    None: [("constant", ""), ("mult", ""), ("prlf", ""), ("umdf", "")],
    "default": [("constant", ""), ("mult", ""), ("prlf", ""), ("umdf", "")],
    "tuned": [("constant", ""), ("kt", LABEL), ("mult", LABEL), ("umdf", LABEL)],
    "all": [("constant", ""), ("kt", LABEL), *((m, t) for m in ("mult", "umdf") for t in ("", LABEL))],
}
SHOWN["all"].insert(4, ("prlf", ""))


@pytest.mark.parametrize("asked", SHOWN)
def test_rows_by_what_is_asked_for(store: Path, asked: Any) -> None:
    text = table(datasets=["synth"], store=store, papers=["none"], format="csv", tuning=asked)
    assert methods_of(text) == SHOWN[asked]


def test_numbers_of_tuned_and_default_settings_are_never_put_together(store: Path) -> None:
    frame = ResultStore(store).frame()
    text = table(["synth"], ["mult"], "corr", ["inter/la"], "csv", store, papers=["none"], tuning="all")
    found = {line["tuning"]: float(line["mean"]) for line in lines_of(text) if line["method"] == "mult"}
    for label in ("", LABEL):
        mine = frame[(frame["method"] == "mult") & (frame["tuning"] == label) & (frame["cell"] == "inter/la")]
        assert found[label] == pytest.approx(mine["corr"].mean())
    assert found[LABEL] > found[""] + 0.1


def test_a_line_says_that_there_are_others(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "tuned rows of kt, mult, umdf (--tuning tuned shows them, --tuning all both)"
    text = " ".join(table(datasets=["synth"], store=store, papers=["none"]).split())
    assert f"Left out: {sentence}." in text
    assert "tuned(" not in text
    table(datasets=["synth"], store=store, papers=["none"], format="csv")
    assert f"left out: {sentence}" in capsys.readouterr().err
    asked = " ".join(table(datasets=["synth"], store=store, papers=["none"], tuning="default").split())
    assert "Left out" not in asked
    only_kt = " ".join(table(["synth"], ["kt"], store=store, papers=["none"]).split())
    assert f"kt {LABEL}" in only_kt, "where there are only tuned rows, they are shown"
    assert "Left out" not in only_kt


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "html"])
def test_every_format_says_which_row_is_tuned(store: Path, form: Any) -> None:
    text = table(datasets=["synth"], store=store, papers=["none"], format=form, width=400, tuning="all")
    assert f"mult {LABEL}" in text
    assert "settings with the lowest val/task of n trials" in text
    without = table(datasets=["synth"], store=store, papers=["none"], format=form, width=400, tuning="default")
    assert "tuned" not in without


def test_a_csv_without_tuned_rows_is_what_it_always_was(store: Path, tmp_path: Path) -> None:
    for asked in ("default", None):
        head = table(datasets=["synth"], store=store, papers=["none"], format="csv", tuning=asked).splitlines()[0]
        assert head.split(",") == list(COLUMNS)
    assert "tuning" not in COLUMNS
    both = table(datasets=["synth"], store=store, papers=["none"], format="csv", tuning="all")
    assert both.splitlines()[0].split(",") == [*COLUMNS, "tuning"]
    for text in (compare("umdf", store=store, cells=["inter/l"], draws=100, format="csv"),):
        assert "tuning" not in text.splitlines()[0]


def test_what_is_not_there_is_said(tmp_path: Path, store: Path) -> None:
    add_runs(tmp_path, "mult", noisy(1.0), seeds=(1,), **FEW)
    text = table(datasets=["synth"], store=tmp_path, papers=["none"], tuning="tuned")
    assert "synth: no records of tuned settings of any method in" in text
    add_runs(tmp_path, "constant", noisy(1.0), seeds=(1,), **FEW)
    assert "There are no tuned rows under this protocol." in table(
        datasets=["synth"], store=tmp_path, papers=["none"], tuning="tuned"
    )
    with pytest.raises(MSABenchError, match="no records of tuned settings of any method"):
        choose_rows(tmp_path, None, None, None, tuning="tuned")
    with pytest.raises(MSABenchError, match="unknown tuning 'best'"):
        table(store=store, tuning="best")  # type: ignore[arg-type]


def test_per_seed_rows_failed_jobs_and_the_overview(store: Path, tmp_path: Path) -> None:
    text = table(["synth"], ["mult"], store=store, papers=["none"], per_seed=True, format="csv", tuning="all")
    seeds = {(line["tuning"], line["seed"]) for line in lines_of(text) if line["method"] == "mult"}
    assert seeds == {(label, seed) for label in ("", LABEL) for seed in "123"}
    assert f"mult {LABEL} " in table(store=store)
    results = ResultStore(tmp_path)
    add(results)
    fail(results, tuning=LABEL, seed=2)
    assert "‡" not in table(datasets=["mosi"], store=tmp_path, papers=["none"])
    shown = table(datasets=["mosi"], store=tmp_path, papers=["none"], tuning="all", width=400)
    assert f"mult {LABEL}‡" in shown
    assert f"mult {LABEL} (mixed), seed 2: RuntimeError: out of memory" in shown


def test_settings_that_only_the_study_tells_apart_are_marked_by_their_hash(tmp_path: Path) -> None:
    """Two studies of one budget and seed, over other spaces, are two rows; neither is marked for the default's sake."""
    add_default(tmp_path, study(), noisy(1.0), seeds=(1,), **FEW)
    add_tuned(tmp_path, study(), noisy(1.0), seeds=(1,), **FEW)
    (chosen,) = choose_rows(tmp_path, None, None, None, tuning="all")
    assert chosen.names == ["mult", f"mult {LABEL}"]
    other = study(space={"model.init_args.lr": {"choices": [0.1]}}, val_tasks=(0.5, 0.4, 0.3))
    add_tuned(tmp_path, other, noisy(1.0), seeds=(1,), **FEW)
    (chosen,) = choose_rows(tmp_path, None, None, None, tuning="all")
    assert chosen.names[0] == "mult"
    assert all(name.startswith(f"mult {LABEL} #") for name in chosen.names[1:])


# Comparisons.


def test_comparisons_take_either_or_both(store: Path) -> None:
    for asked, expected in ((None, {"mult", "prlf"}), ("tuned", {"mult", "kt"})):
        text = compare("umdf", store=store, cells=["inter/l"], draws=100, format="csv", tuning=asked)
        found = {line["method"] for line in lines_of(text) if line["kind"] == "difference"}
        assert found == expected
    text = compare("umdf", store=store, cells=["inter/l"], draws=100, tuning="all", format="csv")
    differences = [line for line in lines_of(text) if line["kind"] == "difference"]
    assert {line["baseline"] for line in differences} == {"umdf (mixed)"}, "without the word, the default settings"
    assert ("umdf", LABEL) in {(line["method"], line["tuning"]) for line in differences}
    said = compare("umdf", store=store, cells=["inter/l"], draws=100)
    assert "tuned rows of kt, mult, umdf (--tuning tuned shows them" in " ".join(said.split())
    tuned = compare("umdf tuned", store=store, cells=["inter/l"], draws=100, methods=["mult"])
    assert f"difference from umdf {LABEL}" in tuned
    assert len([line for line in tuned.partition("Average")[0].splitlines() if line.startswith("mult ")]) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("umdf", ""),
        ("umdf (mixed)", ""),
        ("umdf tuned", LABEL),
        ("umdf tuned (mixed)", LABEL),
        (f"umdf {LABEL}", LABEL),
        (f"umdf {LABEL} (mixed)", LABEL),
        ("kt", LABEL),
        ("prlf tuned", None),
    ],
)
def test_names_of_baselines(store: Path, name: str, expected: str | None) -> None:
    (chosen,) = choose_rows(store, None, None, None, tuning="all")
    place = baseline_of(chosen, name)
    assert (None if place is None else chosen.table.rows[place].tuning) == expected
    assert named_method(name)[0] == name.split(" ")[0]


def test_a_method_and_its_variant_are_named_whatever_follows() -> None:
    assert named_method("prlf/wo_pi tuned (mixed)") == ("prlf", "wo_pi")
    assert named_method("prlf/wo_pi (intra(0.5))") == ("prlf", "wo_pi")
    assert named_method("tuned") == ("tuned", "")


def test_regimes_are_compared_under_settings_of_one_kind(tmp_path: Path) -> None:
    for regime, noise in (("complete", 2.0), ("mixed", 0.5)):
        config = {"data": {"missing": {"regime": regime}}, "model": {"init_args": {"lr": 1e-3}}}
        tried = study(config=config)
        add_default(tmp_path, tried, noisy(noise), regime=regime, **FEW)
        add_tuned(tmp_path, tried, noisy(noise), regime=regime, **FEW)
    for asked, expected in ((None, [""]), ("tuned", [LABEL]), ("all", ["", LABEL])):
        found = lines_of(regimes(store=tmp_path, cells=["inter/l"], format="csv", tuning=asked))
        assert sorted(line.get("tuning", "") for line in found) == expected
    assert "Left out: tuned rows of mult (--tuning tuned" in regimes(store=tmp_path)


# What tuning changes.


def test_each_method_beside_itself_by_the_paired_bootstrap(store: Path) -> None:
    found = {
        (line["method"], line["cell"]): line for line in lines_of(tuning(metric="corr", store=store, format="csv"))
    }
    assert set(found) == {(method, cell) for method in ("mult", "umdf") for cell in CELLS}
    (chosen,) = choose_rows(store, ["synth"], ["mult"], "corr", tuning="all")
    place = {row.tuning: number for number, row in enumerate(chosen.table.rows)}
    after, before = (resampled(chosen.files(place[k], store), "sentiment", "corr", list(CELLS)) for k in (LABEL, ""))
    expected = paired_differences(after, before)
    for cell in CELLS:
        line = found["mult", cell]
        assert float(line["change"]) == pytest.approx(expected[cell].difference)
        assert (float(line["low"]), float(line["high"])) == pytest.approx((expected[cell].low, expected[cell].high))
    line = found["mult", "inter/lav"]
    assert (line["trials"], line["failed"], line["seconds"], line["winner"]) == ("3", "0", "6.0", "1")
    assert (line["study"], line["tuning"]) == (study("mult").study_id, LABEL)


def test_who_gains_most_stands_first_whichever_way_the_metric_runs(store: Path) -> None:
    for metric in ("corr", "mae"):
        assert [line["method"] for line in lines_of(tuning(metric=metric, store=store, format="csv"))] == [
            *("mult", "mult", "umdf", "umdf")
        ]


def test_the_text_says_what_was_spent_and_what_was_chosen(store: Path) -> None:
    text = tuning(metric="corr", store=store)
    (mult,) = [line for line in text.splitlines() if line.startswith(f"mult {LABEL} ")][:1]
    assert "]*" in mult
    assert mult.split()[-5:] == ["3", "6", "3", "trial", "1"]
    assert "trial 1: layers 3 (2), lr 0.001 (in brackets the config's)." in text
    assert (
        f"Set beside nothing: kt {LABEL} (mixed), which has no records of the settings that its study began with."
        in text
    )
    assert tuning(metric="corr", store=store, format="markdown").startswith("### ")
    with pytest.raises(MSABenchError, match="unknown format 'html'"):
        tuning(store=store, format="html")  # type: ignore[arg-type]
    with pytest.raises(MSABenchError, match="has records both of tuned settings and of its config's; there are kt"):
        tuning(store=store, methods=["kt"])


def test_failed_and_pruned_trials_are_part_of_what_was_spent() -> None:
    from msabench.tables.tuning import spent_words

    spent = Spent.of(study(val_tasks=(None, 0.5, None)))
    assert (spent.trials, spent.failed, spent.seconds, spent.processor_seconds) == (3, 2, 6.0, 1.0)
    assert spent_words(spent) == ["3 (2 failed)", "6", "1"]
    pruned = Trial(3, {}, "pruned", None, 1, 9.0)
    more = Spent.of(study(trials=(*study().trials, pruned)))
    assert (more.trials, more.pruned, more.seconds, more.processor_seconds) == (4, 1, 15.0, None)
    assert spent_words(more) == ["4 (1 pruned)", "15", "-"]


def test_other_settings_than_those_that_the_study_began_with_are_no_pair(tmp_path: Path) -> None:
    tried = study()
    add_tuned(tmp_path, tried, noisy(1.0), **FEW)
    add_runs(tmp_path, "mult", noisy(1.0), config_hash="e" * 12, revision=REVISION, **FEW)
    with pytest.raises(MSABenchError, match="which has no records of the settings that its study began with"):
        tuning(store=tmp_path)
    add_default(tmp_path, tried, noisy(1.0), **FEW)
    assert {line["method"] for line in lines_of(tuning(store=tmp_path, format="csv"))} == {"mult"}


def test_a_study_that_is_not_here_is_named(tmp_path: Path) -> None:
    tried = study()
    add_default(tmp_path, tried, noisy(1.0), **FEW)
    add_tuned(tmp_path, tried, noisy(1.0), kept=False, **FEW)
    with pytest.raises(MSABenchError, match=f"whose study {tried.study_id} is not here"):
        tuning(store=tmp_path)


def test_a_store_without_tuned_records_says_so(tmp_path: Path) -> None:
    add_runs(tmp_path, "mult", noisy(1.0), **FEW)
    with pytest.raises(MSABenchError, match=r"has records both of tuned settings and of its config's$"):
        tuning(store=tmp_path)
    assert kept_tuning(tmp_path, "synth", (ResultStore(tmp_path).records(), [])) == []


def test_stored_intervals_serve_where_predictions_are_not(store: Path, tmp_path: Path) -> None:
    for path in store.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(store)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    whole = lines_of(tuning(metric="corr", store=tmp_path, format="csv"))
    assert "9 new" in update_intervals(ResultStore(tmp_path))[0]  # seven rows, two changes
    assert len(jobs_by_row(ResultStore(tmp_path).records())) == 7
    for path in (tmp_path / "predictions").rglob("*.parquet"):
        path.unlink()
    kept = lines_of(tuning(metric="corr", store=tmp_path, format="csv"))
    for one, other in zip(whole, kept, strict=True):
        for bound in ("low", "high"):
            assert float(one[bound]) == pytest.approx(float(other[bound]), abs=5e-5)
    assert len(read_intervals(tmp_path, "synth")) > 0


def test_the_readme_shows_default_settings_and_what_tuning_changes_apart(store: Path) -> None:
    text = readme_text(store)
    tables = text.partition("settings of the config and tuned ones")
    assert f"| mult {LABEL} " not in tables[0]
    assert f"| mult {LABEL} " in tables[2]


# Elsewhere.


def test_papers_tables_take_default_settings_alone(tmp_path: Path) -> None:
    results = ResultStore(tmp_path)
    add(results, lambda *_: 0.4321, method="umdf")
    tried = study("umdf")
    add(results, lambda *_: 0.8765, method="umdf", tuning=LABEL, job={"provenance": {TUNING: tried.reference}})
    fail(results, method="umdf", tuning=LABEL, seed=9)
    said = table(paper="umdf", table="1", store=tmp_path, show="reproduced")
    assert "43.2" in said
    assert "87.6" not in said
    assert "‡" not in said
    following = table(datasets=["mosi"], store=tmp_path, papers=["umdf"], format="csv", tuning="all")
    papers = [line for line in lines_of(following) if line["paper"] and line["source"] == "reproduced"]
    assert papers
    assert {line["tuning"] for line in papers} == {""}
    with pytest.raises(MSABenchError, match="tuning is about result tables"):
        table(paper="umdf", store=tmp_path, tuning="all")


def test_from_python(store: Path) -> None:
    usual = mb.table(store, ["synth"])
    assert not any("tuned" in mark for mark in usual.index.get_level_values("marks"))
    assert [line for line in usual.attrs["warnings"] if "tuned rows of kt, mult, umdf (tuning='tuned' gives" in line]
    both = mb.table(store, ["synth"], tuning="all")
    marks = both.xs("mult", level="method").index.get_level_values("marks")
    assert list(marks) == ["", LABEL]
    tuned = mb.table(store, ["synth"], tuning="tuned")
    assert set(tuned.index.get_level_values("method")) == {"constant", "kt", "mult", "umdf"}
    with pytest.raises(MSABenchError, match="unknown tuning 'best'"):
        mb.table(store, tuning="best")  # type: ignore[arg-type]


def test_figures_and_costs_tell_them_apart(store: Path) -> None:
    (chosen,) = choose_rows(store, None, ["mult"], None, tuning="all")
    assert labels(chosen) == ["mult", f"mult {LABEL}"]
    (usual,) = choose_rows(store, None, None, None)
    assert any("tuned rows of" in sentence for sentence in caption(usual, cells=["inter/l"]))
    lines = [line.split()[:6] for line in costs(store=store, methods=["mult"]).splitlines() if " mult " in line]
    assert ["tuned(3,", "random,", "seed"] in [line[3:6] for line in lines]
    assert len(lines) == 2


def test_the_verb(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["tuning", "--datasets", "synth", "--metric", "corr", "--store", str(store)]) == 0
    assert f"mult {LABEL}" in capsys.readouterr().out
    assert (
        dispatch(["table", "--datasets", "synth", "--papers", "none", "--tuning", "tuned", "--store", str(store)]) == 0
    )
    assert f"mult {LABEL}" in capsys.readouterr().out

"""Records of predictions from elsewhere: a key and a mark of their own, and no place among what was trained here."""

import csv
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msabench.errors import MSABenchError
from msabench.figures.words import caption, labels
from msabench.methods.registry import methods
from msabench.results.build import build_tables
from msabench.results.chosen_rows import choose_rows
from msabench.results.index import INDEX_NAME
from msabench.results.record import EXTERNAL_ORIGIN, SCORED, JobKey, JobRecord, canonical_hash
from msabench.results.scored import Scored, content_hash, key_problems, scored_of, slug_of
from msabench.results.store import ResultStore
from msabench.results.table import columns_of
from msabench.tables.command import table
from msabench.tables.compare import compare
from msabench.tables.costs import costs
from msabench.tables.regimes import kept_changes, regimes
from tests.support.records import add, key, rewrite
from tests.support.stored_runs import add_runs, noisy

SAID = Scored("My model", "a" * 64, "A guess.", "https://example.org/mine")
ELSEWHERE = {"method": "my_model", "origin": EXTERNAL_ORIGIN}


def scored(job):
    job.provenance = SAID.provenance()


def test_an_empty_origin_is_in_no_key_so_that_no_job_id_has_changed():
    fields = vars(key())
    assert fields.pop("origin") == ""
    assert fields.pop("tuning") == ""
    assert key().to_json() == fields
    assert key().job_id == canonical_hash(fields, 16)
    # As it was when records knew no origin.
    assert key().job_id == "c09a42c99b3da6bd"
    assert JobRecord(key()).to_json().keys().isdisjoint({"origin"})
    other = key(origin=EXTERNAL_ORIGIN)
    assert other.job_id != key().job_id
    assert JobRecord.from_json(JobRecord(other).to_json()).key == other
    assert JobRecord.from_json(JobRecord(key()).to_json()).key == key()


def test_a_store_keeps_the_origin_and_refuses_another_one(tmp_path):
    store = ResultStore(tmp_path)
    add(store)
    path = add(store, **ELSEWHERE, job={"provenance": SAID.provenance()})
    for _ in range(2):
        # Out of the files, then out of the index.
        frame = store.frame()
        assert set(zip(frame["method"], frame["origin"], strict=True)) == {("mult", ""), ("my_model", "external")}
    assert (tmp_path / INDEX_NAME).is_file()
    assert store.validate() == []
    assert [scored_of(job) for job in store.jobs() if job.key.origin] == [SAID]
    for wrong in ("", "elsewhere"):
        rewrite(path, lambda line, wrong=wrong: line.update(origin=wrong))
        assert f"has origin {wrong!r}; allowed: external, or none" in store.validate()[0]


def test_who_does_not_say_what_was_scored_is_refused():
    for provenance in ({}, {SCORED: "My model"}, {SCORED: {"title": "My model"}}, {SCORED: {**vars(SAID), "url": 1}}):
        with pytest.raises(MSABenchError, match="does not say what was scored"):
            scored_of(JobRecord(key(**ELSEWHERE), provenance=provenance))


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("My model", "my_model"),
        ("GPT-4o (zero-shot)", "gpt_4o_zero_shot"),
        ("Modèle n° 2", "modele_n_2"),
        ("7B", "scored_7b"),
        ("我的模型", "scored_01a9400f"),
        ("../../etc/passwd", "etc_passwd"),
    ],
)
def test_names(title, slug):
    assert slug_of(title) == slug
    assert list(Scored(title, "a" * 64).problems()) == []


@settings(max_examples=100)
@given(st.text(min_size=1, max_size=300))
def test_any_name_becomes_one_that_is_fit_for_folders_and_command_lines(title):
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,39}", slug_of(title))
    assert slug_of(title) == slug_of(title)


def test_long_names_that_begin_alike_stay_apart():
    assert slug_of("a model " * 20 + "one") != slug_of("a model " * 20 + "two")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"title": " "}, "title ' ' is empty"),
        ({"title": "x" * 201}, "title has 201 characters; allowed are 200"),
        ({"title": "My\x1b[31mmodel"}, "characters that cannot be printed"),
        ({"title": "My\nmodel"}, "characters that cannot be printed"),
        ({"title": "My \u202emodel"}, "characters that cannot be printed"),
        ({"title": "UMDF"}, "would stand in tables as umdf, which is a method of msabench; give another one"),
        ({"url": "javascript:alert(1)"}, "is no address; it begins with http"),
        ({"about": "x" * 2001}, "about has 2001 characters"),
        ({"sha256": "A"}, "it has 64 hex digits"),
    ],
)
def test_what_may_not_be_said(changes, words):
    [problem] = Scored(**{**vars(SAID), **changes}).problems()
    assert words in problem


def test_the_name_that_is_proposed_is_free():
    for name in methods():
        assert slug_of(f"{name} (theirs)") not in methods()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regime": ""}, "regime '' is no name"),
        ({"regime": "a b"}, "regime 'a b' is no name"),
        ({"selection": "best"}, "allowed: val, test_best, unknown"),
        ({"seed": -1}, "seed -1 is not allowed"),
        ({"variant": "small"}, "variant 'small'"),
    ],
)
def test_what_a_key_may_not_say(changes, words):
    [problem] = key_problems(key(**{**ELSEWHERE, **changes}))
    assert words in problem
    assert list(key_problems(key(**ELSEWHERE))) == []
    assert list(key_problems(key(**ELSEWHERE, regime="intra(0.1-0.9,sample)", selection="unknown"))) == []


def test_the_content_tells_predictions_apart_whatever_file_they_came_in():
    ids, preds = ["a", "b"], np.array([0.1, 0.2], np.float32)
    same = content_hash(ids, [("inter/l", None, preds)])
    assert same == content_hash(ids, [("inter/l", None, preds.astype(np.float64).astype(">f4"))])
    others = [
        content_hash(ids, [("inter/l", None, preds + np.float32(1e-7))]),
        content_hash(ids, [("inter/l", 0, preds)]),
        content_hash(ids, [("inter/a", None, preds)]),
        content_hash(["b", "a"], [("inter/l", None, preds)]),
    ]
    assert len({same, *others}) == 5


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three methods trained under two regimes, the constant, and predictions from elsewhere that beat them all."""
    folder = tmp_path_factory.mktemp("store")
    for name, noise in (("lf_dnn", 1.0), ("mult", 1.5), ("umdf", 2.0)):
        for regime in ("complete", "mixed"):
            add_runs(folder, name, noisy(noise), seeds=(1, 2), regime=regime, revision="0" * 12, n=60)
    add_runs(folder, "constant", lambda labels, *_: np.ones(len(labels)), seeds=(1,), revision="0" * 12, n=60)
    for regime in ("complete", "mixed"):
        changes = {"revision": "0" * 12, "regime": regime, "origin": EXTERNAL_ORIGIN, "record": scored, "n": 60}
        add_runs(folder, "my_model", noisy(0.01), seeds=(0,), **changes)
    return folder


def test_rows_stand_last_under_their_mark_and_are_best_of_nothing(store):
    results = ResultStore(store)
    [built] = build_tables(results.records(), [], "synth", None, columns_of(["paper"]))
    assert [row.method for row in built.rows] == [
        "constant",
        *["lf_dnn"] * 2,
        *["mult"] * 2,
        *["umdf"] * 2,
        *["my_model"] * 2,
    ]
    assert {row.fidelity for row in built.rows if row.origin} == {"scored"}
    text = table(datasets=["synth"], store=store, format="markdown", papers=["none"])
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "**" in text
    assert "scored" in lines["my_model"]
    assert "*" not in lines["my_model"]
    # What is best and second best is so among the others.
    assert "**" in lines["lf_dnn"]
    assert "scored = predictions made elsewhere and only scored here" in text
    for form, emphasis in (("latex", r"\textbf"), ("html", "<strong>"), ("html", "<u>")):
        rows = [line for line in table(datasets=["synth"], store=store, format=form).splitlines() if "my" in line]
        assert rows
        assert not any(emphasis in line for line in rows)
    records = list(csv.DictReader(io.StringIO(table(datasets=["synth"], store=store, format="csv"))))
    assert {(r["fidelity"], r["marks"]) for r in records if r["method"] == "my_model"} >= {
        ("scored", "row has 1 of up to 2 seeds; scored")
    }


def test_a_scored_row_never_melts_into_a_trained_one_of_its_name(tmp_path):
    results = ResultStore(tmp_path)
    add(results, lambda *_: 0.4, seed=1)
    add(results, lambda *_: 0.9, seed=2, origin=EXTERNAL_ORIGIN)
    [built] = build_tables(results.records(), [], "mosi", None, columns_of(["inter/l"]))
    assert [(row.origin, row.entries["inter/l"].mean, row.n_seeds) for row in built.rows] == [
        ("", 0.4, 1),
        ("external", 0.9, 1),
    ]


def test_nothing_compares_ranks_or_pairs_them_unless_asked(store):
    said = compare("umdf (mixed)", cells=["inter/l"], draws=100, store=store)
    assert "my_model, only scored here (--scored takes them in)" in said
    assert "my_model " not in said.replace("my_model, only", "")
    asked = compare("umdf (mixed)", cells=["inter"], draws=100, store=store, scored=True)
    assert "my_model" in asked.partition("Average ranks")[2]
    named = compare("umdf (mixed)", methods=["my_model"], cells=["inter/l"], draws=100, store=store)
    assert "scored = " in named
    from_it = compare("my_model (mixed)", cells=["inter/l"], draws=100, store=store)
    assert "difference from my_model" in from_it
    assert "my_model" not in "".join(line for line in regimes(store=store).splitlines() if "scored" not in line)
    assert "my_model" in regimes(store=store, scored=True)


def test_a_store_of_nothing_else_says_how_to_see_it(tmp_path):
    add_runs(tmp_path, "my_model", noisy(0.1), seeds=(0,), n=20, origin=EXTERNAL_ORIGIN, record=scored)
    with pytest.raises(MSABenchError, match=r"--scored takes in what was only scored here"):
        choose_rows(tmp_path, None, None, None)
    [chosen] = choose_rows(tmp_path, None, None, None, scored=True)
    assert [row.method for row in chosen.table.rows] == ["my_model"]
    assert kept_changes(tmp_path, "synth") == [], "the site is built of it all the same"


def test_figures_and_the_overview_mark_them(store):
    [chosen] = choose_rows(store, None, ["umdf", "my_model"], None, constant=True)
    assert labels(chosen)[-2:] == ["my_model (complete) (scored) (n=1)", "my_model (mixed) (scored) (n=1)"]
    assert any("only scored here" in sentence for sentence in caption(chosen, cells=["inter/l"]))
    assert "my_model (scored)" in table(store=store)


def test_a_selection_that_nobody_stated_is_a_table_of_its_own(tmp_path):
    results = ResultStore(tmp_path)
    add(results)
    add(results, **ELSEWHERE, selection="unknown")
    first, second = build_tables(results.records(), [], "mosi", None, columns_of(["inter/l"]))
    assert [row.method for row in first.rows] == ["mult"]
    assert [row.method for row in second.rows] == ["my_model"]
    assert "selection unknown" in second.protocol_text


def test_costs_know_nothing_of_them(store):
    said = costs(store=store)
    assert "umdf" in said
    assert "my_model" not in said


def test_no_table_of_a_paper_takes_them_for_a_method_of_its(tmp_path):
    results = ResultStore(tmp_path)
    add(results, lambda *_: 0.4321, method="umdf", dataset="mosi")
    add(results, lambda *_: 0.8765, method="umdf", dataset="mosi", origin=EXTERNAL_ORIGIN)
    said = table(paper="umdf", table="1", store=tmp_path, show="reproduced")
    assert "43.2" in said
    assert "87.6" not in said


def test_a_key_is_made_of_all_its_fields():
    assert JobKey(**vars(key(origin=EXTERNAL_ORIGIN))) == key(origin=EXTERNAL_ORIGIN)

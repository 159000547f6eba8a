"""Tuned records on the site, and their admission with their studies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msabench.data.store import open_corpus
from msabench.errors import MSABenchError
from msabench.leaderboard import admit as admission
from msabench.leaderboard import reproduce
from msabench.leaderboard.admit import admit
from msabench.leaderboard.groups import build_groups, to_json
from msabench.leaderboard.method_pages import job_entry
from msabench.leaderboard.site import build_site
from msabench.leaderboard.study_entries import study_entry
from msabench.missingness.conditions import INTER
from msabench.results import predictions
from msabench.results.job_identity import what_is_trained
from msabench.results.store import ResultStore
from msabench.results.study import TUNING, Study, Trial, study_file, write_study
from msabench.results.verify import verify
from tests.support import contributed
from tests.support.contributed import config_of, contribute, files_of
from tests.support.records import rewrite
from tests.support.stored_runs import add_runs, noisy
from tests.support.tuned_runs import LAYERS, LR, add_default, add_tuned, study

REPOSITORY = Path(__file__).parents[2]
PUBLISHED = REPOSITORY / "leaderboard/published"
LABEL = "tuned(3, random, seed 1)"
FEW: dict[str, Any] = {"cells": list(INTER), "n": 40, "seeds": (1, 2)}


# The site.


def tried_mult() -> Study:
    """A study whose config says its regime."""
    return study(config={**study().config, "data": {"dataset": "synth", "missing": {"regime": "mixed"}}})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mult`` with both settings, ``lf_dnn`` not tuned, ``kt`` on another corpus tuned alone."""
    folder = tmp_path_factory.mktemp("store")
    add_runs(folder, "constant", lambda labels, *_: 0 * labels + 1.0, **FEW)
    tried = tried_mult()
    add_default(folder, tried, noisy(2.0), **FEW)
    add_tuned(folder, tried, noisy(0.5), **FEW)
    add_runs(folder, "lf_dnn", noisy(1.0), **FEW)
    add_tuned(folder, study("kt", dataset="mosi"), noisy(1.0), dataset="mosi", **FEW)
    add_runs(folder, "constant", lambda labels, *_: 0 * labels + 1.0, dataset="mosi", **FEW)
    write_study(folder, study("misa", val_tasks=(None, None)))
    return folder


@pytest.fixture(scope="module")
def site(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "site"
    build_site(folder, store, PUBLISHED)
    return folder


def test_scripts_know_which_rows_are_tuned(store: Path) -> None:
    results = ResultStore(store)
    [group] = to_json(build_groups(results.records(), [], ["synth"]), {})["groups"]
    rows = {row["label"]: row["tuning"] for row in group["rows"]}
    assert rows == {"constant": "", "lf_dnn": "", "mult": "", f"mult {LABEL}": LABEL}
    assert any("settings with the lowest val/task of n trials" in note for note in group["notes"])


def test_the_page_of_a_method_has_its_studies(site: Path) -> None:
    page = " ".join((site / "methods/mult.html").read_text().split())
    assert f'id="study-{tried_mult().study_id}"' in page
    for words in (
        f"synth 0123456789ab, mixed, {LABEL}",
        "<td>model.init_args.layers</td><td>3</td><td>2</td><td>1 to 6</td>",
        "<td>model.init_args.lr</td><td>0.001</td><td>0.001</td><td>1e-05 to 0.01, by its logarithm</td>",
        "<td>1</td><td>0.7000</td><td>3</td><td>2</td><td>layers 3, lr 0.001</td>",
        "<dt>Time</dt><dd>6 s, 3 s of the processor</dd>",
        "<dt>Winner trained anew under</dt><dd>1, 2</dd>",
        f"<dt>Settings</dt><dd>{LABEL}</dd>",
    ):
        assert words in page, words
    assert page.index("<td>0.7000</td>") < page.index("<td>0.9000</td>") < page.index("<td>1.0000</td>")
    assert "Studies</h2>" not in (site / "methods/lf_dnn.html").read_text()
    misa = (site / "methods/misa.html").read_text()
    assert "No trial of it is complete" in misa
    assert "no seed yet" in misa


def test_the_page_on_tuning_sets_each_method_beside_itself(site: Path, tmp_path: Path) -> None:
    page = (site / "tuning.html").read_text()
    for words in (f"<td>mult {LABEL}</td>", "lav: default", "study " + tried_mult().study_id, "[corr]", "[mae]"):
        assert words in page, words
    assert f"<td>kt {LABEL}</td>" not in page, "it has no row of default settings"
    add_runs(tmp_path / "store", "mult", noisy(1.0), **FEW)
    build_site(tmp_path / "site", tmp_path / "store", PUBLISHED)
    assert "No method has records of both here." in (tmp_path / "site/tuning.html").read_text()


def test_ranges_and_limits_in_words() -> None:
    tried = study(
        space={"data.batch_size": {"choices": [16, 32]}, LAYERS: {"low": 1, "high": 6}, "x": 5},
        budget=50,
        hours=2.5,
        trials=(Trial(0, {}, "complete", 0.5, None, 1.0), Trial(1, {LAYERS: 3}, "pruned", None, 1, 2.0)),
    )
    entry = study_entry(tried, [])
    assert entry["settings"] == [
        ["data.batch_size", "32", "32", "16, 32"],
        [LAYERS, "2", "2", "1 to 6"],
        ["x", "none", "none", "5"],
    ]
    facts = dict(entry["facts"])
    assert facts["Trials"] == "2 (1 pruned), ended by a limit of 2.5 hours (budget 50)"
    assert facts["Time"] == "3 s"
    assert entry["trials"] == [["0", "0.5000", "-", "1", "data.batch_size 32, layers 2, x none"]]


def test_markup_in_a_study_is_text(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    tried = study(space={evil: {"choices": [evil]}}, config={evil: evil})
    add_tuned(tmp_path, tried, noisy(1.0), **FEW)
    build_site(tmp_path / "site", tmp_path, PUBLISHED)
    assert evil not in (tmp_path / "site/methods/mult.html").read_text()


def test_a_damaged_study_builds_no_site(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "store")
    path = study_file(tmp_path / "store", study("kt", dataset="mosi"))
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    with pytest.raises(MSABenchError, match="was changed after it was written"):
        build_site(tmp_path / "site", tmp_path / "store", PUBLISHED)
    assert not (tmp_path / "site").exists()


def test_the_filter_of_settings(site: Path) -> None:
    """In a real browser, as a reader has it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed here")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium or Chrome is installed here")
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=root)
        page = browser.new_page()
        page.set_default_timeout(120_000)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)

        def shows(*expected: str) -> None:
            names = page.locator("table.numbers tbody th")
            playwright.expect(names).to_have_count(len(expected))
            assert sorted(names.all_text_contents()) == sorted(expected)

        box = page.get_by_role("combobox", name="Settings", exact=True)
        page.goto(f"{site.as_uri()}/results.html#dataset=synth")
        page.wait_for_selector("table.numbers tbody tr")
        shows("constant", "lf_dnn", "mult")
        assert "1 of 4 rows are left out" in page.locator("#legend").inner_text()
        box.select_option(label="tuned")
        shows("constant", f"mult {LABEL}")
        box.select_option(label="both")
        shows("constant", "lf_dnn", "mult", f"mult {LABEL}")
        assert "tuning=all" in page.url
        # Another corpus has tuned rows alone: they are shown, and the choice is kept for the way back.
        page.get_by_role("combobox", name="Corpus", exact=True).select_option(label="CMU-MOSI")
        shows("constant", f"kt {LABEL}")
        playwright.expect(box).to_be_disabled()
        page.get_by_role("combobox", name="Corpus", exact=True).select_option(label="synth (generated)")
        shows("constant", "lf_dnn", "mult", f"mult {LABEL}")
        page.goto(f"{site.as_uri()}/methods/mult.html")
        summary = page.locator("details", has_text=LABEL).first
        summary.locator("summary").click()
        playwright.expect(summary.locator("table").first).to_be_visible()
        browser.close()
    assert complaints == []


def test_a_job_says_its_study_and_which_command_trains_it(store: Path) -> None:
    [tuned, *_] = [job for job in ResultStore(store).jobs() if job.key.tuning]
    entry = job_entry(tuned)
    assert entry["study"] == tuned.provenance[TUNING]["study"]
    assert LABEL in entry["title"]
    assert not reproduce.can_run(tuned)


# Admission.


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MSABENCH_DATA", str(tmp_path_factory.mktemp("no_corpora")))
        yield


@pytest.fixture
def given_(tmp_path: Path) -> Path:
    return tmp_path / "given"


def tried_umdf(**changes: Any) -> Study:
    """A study of ``umdf`` on the ``synth`` of ``contributed``."""
    revision = open_corpus("synth", size=contributed.SIZE, length=contributed.LENGTH).revision
    config = what_is_trained(config_of("synth", "umdf", 0))
    space = {LR: {"low": 1e-4, "high": 1e-2, "log": True}}
    trials = tuple(
        Trial(number, {LR: 0.01 / number} if number else {}, "complete", loss, 1, 1.0)
        for number, loss in enumerate((0.9, 0.8, 0.7))
    )
    return study("umdf", **{"config": config, "revision": revision, "space": space, "trials": trials, **changes})


def contribute_tuned(
    folder: Path, tried: Study, seed: int = 1111, *, kept: bool = True, lr: float | None = None
) -> None:
    """Add a job of a study's winner with its predictions, and the study if it is ``kept``."""

    config = config_of("synth", "umdf", seed)
    config["model"]["init_args"]["lr"] = tried.best.settings[LR] if lr is None else lr
    scratch = folder.with_name(f"scratch-{seed}")
    job = contribute(scratch, method="umdf", seed=seed, config=config)
    [file] = [file for _, file in ResultStore(scratch).files() if not isinstance(file, MSABenchError)]
    key = replace(job.key, tuning=tried.label)
    made = replace(job, key=key, provenance={**job.provenance, TUNING: tried.reference})
    target = predictions.path_of(folder, key)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(predictions.path_of(scratch, job.key), target)
    ResultStore(folder).add(made, [replace(cell, job_id=key.job_id) for cell in file.cells])
    shutil.rmtree(scratch)
    if kept:
        write_study(folder, tried)


def refused(given_: Path, store: Path, *words: str) -> None:
    """Admission fails, says every word, and leaves no trace."""
    before = files_of(store) if store.exists() else {}
    with pytest.raises(MSABenchError) as caught:
        admit(given_, store)
    for word in ("nothing was admitted", *words):
        assert word in str(caught.value), caught.value
    assert (files_of(store) if store.exists() else {}) == before


def test_tuned_records_enter_with_their_study(given_: Path, tmp_path: Path) -> None:
    tried, target = tried_umdf(), tmp_path / "target"
    for seed in (1, 2):
        contribute_tuned(given_, tried, seed)
    write_study(given_, tried_umdf(seed=9))
    assert "admitted 2 jobs" in admit(given_, target)
    unused = study_file(Path(), tried_umdf(seed=9)).as_posix()
    assert files_of(target) == {name: text for name, text in files_of(given_).items() if name != unused}
    assert "1 studies; 0 damaged" in verify(target)
    # Another seed later: the study is there already, and need not come along.
    later = tmp_path / "later"
    contribute_tuned(later, tried, 3, kept=False)
    assert "admitted 1 jobs" in admit(later, target)


def test_records_that_are_not_their_studys_winner_are_refused(given_: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    contribute_tuned(given_, tried_umdf(), lr=0.5)
    refused(given_, target, "its config has model.init_args.lr 0.5, the winner of its study 0.005")
    shutil.rmtree(given_)
    contribute_tuned(given_, tried_umdf(), kept=False)
    refused(given_, target, f"its study {tried_umdf().study_id} is not in the store")
    shutil.rmtree(given_)
    contribute_tuned(given_, tried_umdf(training_seed=1111))
    refused(given_, target, "its seed 1111 is the one that all trials of its study were trained under")


def test_a_study_is_never_replaced(given_: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    tried = tried_umdf()
    contribute_tuned(given_, tried, 1)
    admit(given_, target)
    shutil.rmtree(given_)
    other = tried_umdf(trials=(*tried.trials[:2], Trial(2, tried.trials[2].settings, "complete", 0.6, 1, 1.0)))
    assert other.study_id == tried.study_id
    contribute_tuned(given_, other, 2)
    refused(given_, target, "is admitted already with another outcome")


def test_a_damaged_study_is_one_sentence(given_: Path, tmp_path: Path) -> None:
    contribute_tuned(given_, tried_umdf())
    path = study_file(given_, tried_umdf())
    path.write_text(path.read_text().replace('"val_task": 0.7', '"val_task": 0.5'))
    refused(given_, tmp_path / "target", "problems: 1\n", "was changed after it was written")


def test_what_fails_half_way_leaves_no_study(given_: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contribute_tuned(given_, tried_umdf())
    target = tmp_path / "target"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(admission.ResultStore, "add", full)
    refused(given_, target, "No space left on device")
    assert list(target.rglob("*.json")) == []


def test_a_label_without_a_study_is_refused(given_: Path, tmp_path: Path) -> None:
    contribute_tuned(given_, tried_umdf())
    [path] = given_.glob("synth/*/*.jsonl")
    rewrite(path, lambda line: line["provenance"].pop(TUNING))
    refused(given_, tmp_path / "target", "names no study under 'tuning'")

"""The leaderboard's parts: what the pages' scripts read, cards, intervals, the README, folders and libraries."""

import csv
import errno
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.leaderboard import cards, method_pages, pages, reproduce, vendored
from msabench.leaderboard.cards import card_of, split_docstring
from msabench.leaderboard.folder import MARKER, replacing_folder
from msabench.leaderboard.groups import build_groups, page_of, to_json
from msabench.leaderboard.readme import readme_text, write_readme
from msabench.leaderboard.site import build_site
from msabench.methods.info import MethodInfo
from msabench.methods.registry import methods as registered
from msabench.metrics.spec import METRICS
from msabench.missingness.conditions import Cell, distinct, parse_grid
from msabench.results import build as tables
from msabench.results.aggregate import jobs_by_row
from msabench.results.derived import DERIVED
from msabench.results.intervals import intervals
from msabench.results.places import COMMITTED_STORE, STORE_VARIABLE
from msabench.results.regime_changes import COMPLETE, identity, pairs_of
from msabench.results.rows import jobs_hash
from msabench.results.specialists import groups_of, six_of
from msabench.results.store import ResultStore
from msabench.results.stored_intervals import FILENAME, read_intervals, update_intervals
from tests.support import site_store
from tests.support.contributed import contribute
from tests.support.records import add, fail
from tests.support.simulated_store import simulate
from tests.support.stored_runs import add_runs, noisy

REPOSITORY = Path(__file__).parents[2]
STORE, PUBLISHED, README = (
    REPOSITORY / path for path in (COMMITTED_STORE, "leaderboard/published", "leaderboard/README.md")
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results"


def numbers_of(folder):
    """What the pages' scripts read of a store."""
    store = ResultStore(folder)
    records = store.records()
    datasets = sorted(records.held("dataset"))
    groups = build_groups(records, store.failures(), datasets)
    return to_json(groups, {name: read_intervals(folder, name) for name in datasets})


def group_of(numbers, dataset="mosi", **protocol):
    wanted = {"features": "mmsa-aligned", "selection": "val", **protocol}
    found = [
        group
        for group in numbers["groups"]
        if group["dataset"] == dataset
        and wanted.items() <= ({"features": group["features"]} | group["protocol"]).items()
    ]
    assert len(found) == 1
    return found[0]


# What the scripts read.


def test_every_number_has_the_digits_that_tables_print(folder):
    from msabench.tables.command import table

    site_store.make(folder)
    numbers = numbers_of(folder)
    for metric in ("f1_non0", "f1_has0_swapped", "mae"):
        printed = csv.DictReader(table(["mosi"], metric=metric, store=folder, format="csv").splitlines())
        for line in printed:
            if line["paper"]:
                continue
            group = group_of(numbers, features=line["features"], selection=line["selection"])
            places = [c["block"] == line["block"] and c["header"] == line["column"] for c in group["columns"]]
            [row] = [r for r in group["rows"] if (r["method"], r["variant"]) == (line["method"], line["variant"])]
            value = row["values"][metric][places.index(True)]
            counts = row["counts"][places.index(True)]
            if not line["mean"]:
                assert value is None
                assert counts is None
            else:
                spec = METRICS[metric]
                assert f"{value[0]:.{spec.decimals}f}" == spec.format(float(line["mean"]))
                assert counts == [*(int(line[name]) for name in ("n_seeds", "n_mask_seeds", "n_collapsed")), False]


def test_derived_columns_are_those_of_the_summary(folder):
    from msabench.tables.command import table

    add_runs(folder, "mult", noisy(1.0), n=60)
    numbers = numbers_of(folder)
    [group] = numbers["groups"]
    [row] = group["rows"]
    kinds = {column["header"]: column.get("kind") for column in group["columns"] if column["block"] == "derived"}
    # There is no auilc_1.0 without intra/1.0.
    assert list(kinds) == ["auilc_0.9", "avg/lav", "mean/0.0", "0.5/0.0", "spread_lost", "spread_alone"]
    for metric in ("corr", "mae"):
        printed = csv.DictReader(table(["synth"], metric=metric, store=folder, summary=True, format="csv").splitlines())
        means = {line["column"]: line["mean"] for line in printed if line["block"] == "derived"}
        for place, column in enumerate(group["columns"]):
            if column["block"] != "derived":
                continue
            value = row["values"][metric][place]
            if metric == "mae" and column["kind"] == "relative":
                assert value is None
                assert not means[column["header"]]
            else:
                decimals = 1 if column["kind"] == "relative" else METRICS[metric].decimals
                scale = 100 if column["kind"] == "relative" else 1
                assert value[0] == pytest.approx(scale * float(means[column["header"]]), abs=0.51 * 10**-decimals)
    assert len(numbers["derived"]) == len(kinds)


def test_a_group_has_no_columns_that_only_another_has_records_of(folder):
    add_runs(folder, "mult", noisy(1.0), n=60)
    add_runs(folder, "lf_dnn", noisy(1.0), n=60, revision="other", cells=distinct(parse_grid(["random"])))
    blocks = {g["protocol"]["revision"]: {c["block"] for c in g["columns"]} for g in numbers_of(folder)["groups"]}
    assert blocks.pop("other") == {"inter", "intra", "random"}
    assert blocks.popitem()[1] == {"inter", "intra", "derived"}


def test_protocols_are_groups_of_their_own(folder):
    site_store.make(folder)
    groups = numbers_of(folder)["groups"]
    assert len(groups) == len({group["id"] for group in groups}) == 4
    [flattered] = [group for group in groups if group["protocol"]["selection"] == "test_best"]
    assert [row["method"] for row in flattered["rows"]] == ["umdf"]
    # Honest selection stands before it.
    assert groups.index(flattered) > groups.index(group_of({"groups": groups}))


def test_marks_reach_the_scripts(folder, monkeypatch):
    site_store.make(folder)
    guess = {**registered(), "mult": MethodInfo("mult", "Guess", "-", 2020, "", "experimental")}
    monkeypatch.setattr(tables, "registered", lambda: guess)
    group = group_of(numbers_of(folder))
    rows = {row["label"]: row for row in group["rows"]}
    assert set(rows) == {"constant", "umdf", "mult", "lf_dnn‡", "prlf", "prlf/wo_pi", site_store.HTML}
    assert rows["constant"]["constant"]
    assert rows["constant"]["counts"][0][2] == 3
    assert rows["mult"]["fidelity"] == "experimental"
    assert rows[site_store.HTML]["fidelity"] == "unknown"
    assert (rows["mult"]["seeds"], rows["mult"]["counts"][1][0]) == (3, 2)
    assert rows["lf_dnn‡"]["failures"] == ["lf_dnn (complete), seed 4: RuntimeError: out of <b>memory</b>"]
    notes = " ".join(group["notes"])
    for words in ("† = collapsed", "(n) = over n", "- = no records", "‡ = has failed", "experimental =", "unknown ="):
        assert words in notes


def test_intervals_are_shown_for_exactly_the_jobs_they_are_of(folder):
    site_store.make(folder)
    place = {"l": 0, "a": 1, "v": 2}
    [umdf] = [row for row in group_of(numbers_of(folder))["rows"] if row["method"] == "umdf"]
    values = umdf["values"]["f1_non0"]
    assert values[place["l"]] == [80.2, 0.1, 75.11, 85.22]
    assert values[place["a"]] == [80.2, 0.1, None, None]
    assert values[place["v"]] == [80.2, 0.1]
    assert umdf["values"]["f1_has0"][0] == [80.2, 0.1]
    # Another seed makes it another row, whose interval is not known.
    add(ResultStore(folder), lambda *_: site_store.values(0.8), method="umdf", seed=9)
    [umdf] = [row for row in group_of(numbers_of(folder))["rows"] if row["method"] == "umdf"]
    assert len(umdf["values"]["f1_non0"][0]) == 2


def test_undefined_numbers_are_not_numbers(folder):
    add(ResultStore(folder), lambda *_: {"f1_non0": 0.5, "corr": math.nan}, method="mult", seed=1)
    numbers = numbers_of(folder)
    json.dumps(numbers, allow_nan=False)
    assert numbers["groups"][0]["rows"][0]["values"]["corr"][0] == [None, None]


@given(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=8, unique=True))
def test_pages_of_methods_have_distinct_safe_names(methods):
    found = [page_of(name) for name in methods]
    # Some file systems do not tell upper from lower case.
    assert len({name.lower() for name in found}) == len(found)
    assert all(re.fullmatch(r"[a-z0-9_-]+\.html", name) for name in found)


def test_rows_know_their_jobs(folder):
    store = ResultStore(folder)
    ids = [add(store, method="mult", seed=seed).stem for seed in (3, 1, 2)]
    add(store, method="umdf")
    jobs = [list(by_seed.values()) for by_seed in jobs_by_row(store.records()).values()]
    assert sorted(map(len, jobs)) == [1, 3]
    assert [ids[1], ids[2], ids[0]] in jobs
    assert jobs_hash(ids) == jobs_hash(sorted(ids)) != jobs_hash(ids[:2])


# Intervals.


@pytest.fixture
def predicted(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for seed in (1, 2):
        contribute(folder, seed=seed)
    return folder


def test_stored_intervals_are_those_of_the_predictions(predicted):
    assert dispatch(["leaderboard", "intervals", "--store", str(predicted)]) == 0
    stored = read_intervals(predicted, "synth")
    [by_seed] = jobs_by_row(ResultStore(predicted).records()).values()
    jobs = list(by_seed.values())
    files = [predicted / "predictions" / "synth" / "constant" / f"{job}.parquet" for job in jobs]
    for metric in ("f1_non0", "mae"):
        for cell, bounds in intervals(files, "sentiment", metric, ["inter/l", "intra/0.5"]).items():
            assert stored[jobs_hash(jobs), metric, cell] == pytest.approx(bounds, abs=5e-5)
    assert {cell for _, metric, cell in stored if metric == "mae"} == {"inter/l", "inter/lav", "intra/0.5"}
    assert {cell for _, _, cell in stored} == {"inter/l", "inter/lav", "intra/0.5", "retention_0.5"}


def test_intervals_are_made_once_and_go_with_their_row(predicted):
    store = ResultStore(predicted)
    assert update_intervals(store) == ["synth: 1 of 1 rows and changes of regime have intervals, 1 new"]
    first = (predicted / "synth" / FILENAME).read_bytes()
    assert update_intervals(store, ["synth"]) == ["synth: 1 of 1 rows and changes of regime have intervals, 0 new"]
    assert (predicted / "synth" / FILENAME).read_bytes() == first
    lines = first.decode().splitlines()
    lines[1] = ",".join([*lines[1].split(",")[:3], "0.0000", "1.0000", lines[1].rpartition(",")[2]])
    (predicted / "synth" / FILENAME).write_text("\n".join(lines) + "\n")
    update_intervals(store)
    assert (predicted / "synth" / FILENAME).read_bytes() != first
    assert dispatch(["leaderboard", "intervals", "--store", str(predicted), "--anew"]) == 0
    assert (predicted / "synth" / FILENAME).read_bytes() == first
    job = contribute(predicted, seed=3)
    (predicted / "predictions" / "synth" / "constant" / f"{job.key.job_id}.parquet").unlink()
    said = update_intervals(store)[0]
    assert "0 of 1 rows and changes of regime have intervals" in said
    assert "the predictions of 1 are not here" in said
    assert read_intervals(predicted, "synth") == {}


def test_derived_columns_have_intervals_also_in_rows_that_were_made_without(tmp_path):
    add_runs(tmp_path, "mult", noisy(0.8), seeds=(1, 2), mask_seeds=(0,))
    store, path = ResultStore(tmp_path), tmp_path / "synth" / FILENAME
    assert update_intervals(store)[0].endswith("1 of 1 rows and changes of regime have intervals, 1 new")
    whole, stored = path.read_bytes(), read_intervals(tmp_path, "synth")
    [by_seed] = jobs_by_row(store.records()).values()
    jobs = list(by_seed.values())
    files = [tmp_path / "predictions" / "synth" / "mult" / f"{job}.parquet" for job in jobs]
    # intra/1.0 was not tested, so that there is no area up to it.
    for metric, named in {"f1_non0": {*DERIVED} - {"auilc_1.0"}, "mae": {"auilc_0.9", "spread_lost"}}.items():
        for name, bounds in intervals(files, "sentiment", metric, sorted(named)).items():
            assert stored[jobs_hash(jobs), metric, name] == pytest.approx(bounds, abs=5e-5)
        assert named <= {cell for _, key, cell in stored if key == metric}
    assert not any(cell == "auilc_1.0" for _, _, cell in stored)
    assert not any(cell.startswith(("relative:", "retention")) for _, key, cell in stored if key == "mae")
    # The site shows them beside the values.
    [group] = numbers_of(tmp_path)["groups"]
    place = [column["key"] for column in group["columns"]].index("auilc_0.9")
    mean, _, low, high = group["rows"][0]["values"]["mae"][place]
    assert low < mean < high

    lines = [line for line in whole.decode().splitlines() if line.split(",")[2] not in DERIVED]
    lines[1] = ",".join([*lines[1].split(",")[:3], "0.0000", "1.0000", lines[1].rpartition(",")[2]])
    path.write_text("\n".join(lines) + "\n")
    left_out = len(whole.splitlines()) - len(lines)
    assert update_intervals(store)[0].endswith(f"0 new, {left_out} added to 1 that had some")
    kept = path.read_text().splitlines()
    assert kept[1] == lines[1], "what was there stays"
    assert [kept[0], *kept[2:]] == [line for number, line in enumerate(whole.decode().splitlines()) if number != 1]
    assert update_intervals(store)[0].endswith("0 new")


def test_metrics_and_cells_that_lack_are_added_and_nothing_else_is_touched(tmp_path):
    cells = [Cell.parse(name) for name in ("inter/l", "inter/lav", "intra/0.5")]
    for method in ("mult", "umdf"):
        add_runs(tmp_path, method, noisy(0.8), seeds=(1, 2), mask_seeds=(0,), cells=cells, n=40)
    store, path = ResultStore(tmp_path), tmp_path / "synth" / FILENAME
    update_intervals(store)
    whole = path.read_text().splitlines()
    planted = [",".join([*line.split(",")[:3], "-0.5000", "0.5000", line.rpartition(",")[2]]) for line in whole[1:]]
    partial = {
        number: line
        for number, line in enumerate(planted, start=1)
        if line.split(",")[1] != "corr" and line.split(",")[2] not in ("inter/lav", "retention_0.5")
    }
    # The predictions of the second row are not here: it stays as it was.
    first, second = dict.fromkeys(line.split(",")[0] for line in planted)
    [gone] = [m for m in ("mult", "umdf") if row_of(store, m) == second]
    for file in (tmp_path / "predictions/synth" / gone).iterdir():
        file.unlink()
    path.write_text("\n".join([whole[0], *partial.values()]) + "\n")
    added = sum(number not in partial and line.startswith(first) for number, line in enumerate(whole))
    assert update_intervals(store) == [
        f"synth: 2 of 2 rows and changes of regime have intervals, 0 new, {added} added to 1 that had some; the "
        "predictions of 1 rows are not here, which stay as they were"
    ]
    assert path.read_text().splitlines() == [
        partial.get(number, line)
        for number, line in enumerate(whole)
        if number in partial or not line.startswith(second)
    ]


def row_of(store, method):
    """The name of a method's only row in the file of intervals."""
    return jobs_hash(job.key.job_id for job in store.jobs() if job.key.method == method)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has the columns"),
        ("jobs,metric,cell,low,high\n", "has the columns jobs, metric, cell, low, high; need"),
        ("{head}\nabc,f1_non0,inter/l,0.1,0.2,2000\n", "line 2 has jobs 'abc'"),
        ("{head}\n{jobs},f2,inter/l,0.1,0.2,2000\n", "metric 'f2'"),
        ("{head}\n{jobs},f1_non0,inter/l,0.1,0.2,7\n", "draws '7'"),
        ("{head}\n{jobs},f1_non0,inter/l,x,0.2,2000\n", "bounds"),
        ("{head}\n{jobs},f1_non0,inter/l,0.3,0.2,2000\n", "lower bound 0.3 above"),
        ("{head}\n{jobs},f1_non0,inter/l,0.1\n", "line 2 has 4 fields"),
        ("{head}\n" + 2 * "{jobs},f1_non0,inter/l,0.1,0.2,2000\n", "line 3 repeats"),
    ],
)
def test_malformed_intervals_are_refused(folder, text, words):
    (folder / "mosi").mkdir(parents=True)
    filled = text.format(head="jobs,metric,cell,low,high,draws", jobs="a" * 16)
    (folder / "mosi" / FILENAME).write_text(filled)
    with pytest.raises(MSABenchError, match=re.escape(words)):
        read_intervals(folder, "mosi")


def test_committed_intervals_belong_to_committed_records():
    records = ResultStore(STORE).records()
    for dataset in records.held("dataset"):
        known = {jobs for jobs, _, _ in read_intervals(STORE, dataset)}
        by_row = jobs_by_row(records.of(dataset=dataset))
        jobs = [list(by_seed.values()) for by_seed in by_row.values()]
        cells = ResultStore(STORE).frame([dataset]).groupby("job_id")["cell"].agg(set)
        changes = {identity(jobs[after], jobs[before]) for after, before in pairs_of(list(by_row), COMPLETE)}
        rows = list(by_row.values())
        specialists = {
            identity(jobs[place], [job for other in group.values() for job in jobs[other]])
            for place, homes in groups_of(list(by_row))
            for group in filter(None, [*({home: homes[home]} for home in homes), six_of(homes, rows)])
            # DiCMoR and IMDer are trained at one rate of a law whose cells the suites leave out.
            if all(home in cells[job] for home, other in group.items() for job in (*jobs[place], *jobs[other]))
        }
        assert known == {*map(jobs_hash, jobs), *changes, *specialists}


# Cards.


def test_docstrings_are_split_into_text_and_deviations():
    about, deviations = split_docstring(
        "NAME: a title.\n\nWho, where\nand when.\n\nDeviations:\n    What follows.\n\n"
        "    1. First, over\n       two lines.\n    2. Second\n    goes on.\n\n"
        "    A last one\n    in two.\n\nAfterwards."
    )
    assert about == ("NAME: a title.", "Who, where and when.", "Afterwards.")
    assert deviations == (
        ("", "What follows."),
        ("1", "First, over two lines."),
        ("2", "Second goes on."),
        ("", "A last one in two."),
    )
    assert split_docstring("Only text.") == (("Only text.",), ())
    lines = split_docstring("T\n\nDeviations:\n    One.\n    Two goes\n    on.\n    Three.")[1]
    assert lines == (("", "One."), ("", "Two goes on."), ("", "Three."))


def test_every_method_has_a_card_with_its_deviations():
    for name, info in registered().items():
        card = card_of(name)
        assert card.info == info
        assert card.fidelity in cards.FIDELITIES
        source = (REPOSITORY / "msabench" / "methods" / f"{name}.py").read_text(encoding="utf-8")
        assert bool(card.deviations) == ("\nDeviations:\n" in source), name
        numbers = [int(number) for number, _ in card.deviations if number]
        assert numbers == list(range(1, len(numbers) + 1)), name
        assert card.about, name
    assert card_of("nobody").info is None


def test_text_of_docstrings_is_escaped():
    found = str(pages.inline("a <b> ``x < y`` at https://example.org/a?b=1&c=2. <script>alert(1)</script>"))
    assert "<b>" not in found
    assert "<script>" not in found
    assert "<code>x &lt; y</code>" in found
    assert '<a href="https://example.org/a?b=1&amp;c=2">https://example.org/a?b=1&amp;c=2</a>.' in found
    assert "href" not in str(pages.inline("javascript:alert(1)"))
    assert str(pages.inline('https://example.org/"onclick="x')).count('"') == 2


# Reproduction.


def test_the_command_of_a_record_plans_that_very_job(tmp_path):
    from msabench.runner.suite import expand, read_suite

    cells = ResultStore(STORE).frame(["synth"]).groupby("job_id")["cell"].agg(list)
    jobs = {job.key.variant: job for job in ResultStore(STORE).jobs() if job.key.dataset == "synth"}
    for job in list(jobs.values())[:4]:
        reproduce.write_job(job, cells[job.key.job_id], tmp_path)
        [planned] = expand(read_suite(tmp_path / f"{job.key.job_id}.yaml"))
        assert planned.key == job.key
        assert {str(cell) for cell in parse_grid(planned.grid)} == set(cells[job.key.job_id])
        assert list(planned.mask_seeds) == job.mask_seeds
    assert reproduce.commands(job)[-1].startswith(f"msabench run --suite reproduce/{job.key.job_id}.yaml")
    assert reproduce.commands(job)[0] == f"git checkout {job.provenance['git_commit']}"


def test_a_record_with_other_cells_is_reproduced_with_them(tmp_path):
    job = next(job for job in ResultStore(STORE).jobs() if job.key.dataset == "synth")
    reproduce.write_job(job, ["intra/1.0", "inter/a", "inter/a"], tmp_path)
    assert yaml.safe_load((tmp_path / f"{job.key.job_id}.yaml").read_text())["grid"] == ["inter/a", "intra/1.0"]


def test_no_command_where_the_record_does_not_say_what_to_run(folder):
    job = ResultStore(folder).jobs() or [add(ResultStore(folder))]
    [job] = ResultStore(folder).jobs()
    assert not reproduce.can_run(job)
    assert method_pages.job_entry(job)["command"] == []
    assert "commit unknown" in method_pages.job_entry(job)["warnings"]
    job.config = {"model": {"class_path": "X", "init_args": {"text_encoder": "bert@0123"}}, "data": {"dataset": "mosi"}}
    # Whoever pastes a command into a shell must not run what a record says.
    job.provenance = {"git_commit": "$(rm -rf ~)", "git_dirty": True}
    entry = method_pages.job_entry(job)
    assert len(entry["command"]) == 1
    assert entry["encoder"]
    job.config["model"]["init_args"] = {"backbone": "pretrain.ckpt@0123"}
    assert reproduce.needed_weights(job) == ["backbone"]
    assert "uncommitted changes" in entry["warnings"]


def test_a_job_shows_both_clocks_of_its_training_where_it_has_them(folder):
    add(ResultStore(folder))
    [job] = ResultStore(folder).jobs()
    assert "Training" not in dict(method_pages.job_entry(job)["facts"])
    job.train_seconds = 30.4
    assert dict(method_pages.job_entry(job)["facts"])["Training"] == "30 s"
    job.train_processor_seconds = 5.6
    assert dict(method_pages.job_entry(job)["facts"])["Training"] == "30 s, 6 s of the processor"


# README.


def test_the_committed_readme_is_up_to_date():
    assert write_readme(STORE, README, check=True).endswith("is up to date")


def test_readme_of_a_store(folder, tmp_path):
    site_store.make(folder)
    text = readme_text(folder)
    assert text.count("CMU-MOSI: F1") == 4  # three protocols, one of them with ablations apart
    assert "never evidence about CMU-MOSI" in text
    assert "umdf | mixed | equations | 3" in text
    assert "RuntimeError: out of \\<b>memory" in text
    assert f"| {site_store.HTML}".replace("<", "\\<") in text
    before, _, after = text.partition("<summary>Ablations and variants</summary>")
    assert "prlf/wo_pi" not in before
    assert "prlf/wo_pi" in after
    out = tmp_path / "README.md"
    words = ["leaderboard", "readme", "--store", str(folder), "--out", str(out)]
    with pytest.raises(MSABenchError, match="is not what the records of"):
        dispatch([*words, "--check"])
    dispatch(words)
    assert dispatch([*words, "--check"]) == 0
    add(ResultStore(folder), method="mult", seed=77)
    with pytest.raises(MSABenchError, match="write it anew with `msabench leaderboard readme`"):
        dispatch([*words, "--check"])


def test_readme_of_an_empty_store(tmp_path):
    assert "There are no records yet." in readme_text(tmp_path / "nothing")


# Folders and libraries.


def test_a_full_disk_is_named_and_leaves_the_site_of_before(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "site") as building:
        (building / "index.html").write_text("before")
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*/site'$"),
        replacing_folder(tmp_path / "site") as building,
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "site/index.html").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "deep" / "site"
    with replacing_folder(out) as building:
        (building / "a").write_text("1")
        assert not out.exists()
    assert (out / "a").read_text() == "1"
    with pytest.raises(IsADirectoryError), replacing_folder(out) as building:
        building.write_text("2")
    assert sorted(path.name for path in out.iterdir()) == sorted([MARKER, "a"])
    with replacing_folder(out) as building:
        (building / "c").write_text("3")
    assert sorted(path.name for path in out.iterdir()) == sorted([MARKER, "c"])
    assert [path.name for path in out.parent.iterdir()] == ["site"]


def test_folders_of_others_are_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for name, words in (
        ("mine", "holds files that msabench did not build"),
        ("file", "is not a folder"),
        ("link", "is not a"),
    ):
        with pytest.raises(MSABenchError, match=words), replacing_folder(tmp_path / name):
            pass
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"
    (tmp_path / "empty").mkdir()
    with replacing_folder(tmp_path / "empty"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "link", "mine"]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(MSABenchError, match="cannot be written"), replacing_folder(tmp_path / "site"):
        pass


def test_libraries_come_with_their_licences(tmp_path):
    assets, licences = tmp_path / "assets", tmp_path / "licences"
    assets.mkdir()
    licences.mkdir()
    vendored.copy_libraries(assets, licences)
    texts = dict(vendored.licence_texts(licences))
    assert "MIT" in texts["itables"]
    for words in ("DataTables", "jQuery", "JSZip", "SpryMedia"):
        assert words in texts["itables"]
    assert "plotly.js" in texts["plotly"]
    assert "Permission is hereby granted" in texts["plotly"]
    bundle = (assets / "datatables.js").read_text(encoding="utf-8")
    assert json.loads(bundle[bundle.index('"') : bundle.rindex(";")]).count("export{") == 1


def test_a_library_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "itables", None)
    with pytest.raises(MSABenchError, match=r'itables is not installed .* `pip install "msabench\[report\]"`'):
        vendored.copy_libraries(tmp_path, tmp_path)


# The site, without a browser.


class Links(HTMLParser):
    """Addresses that a page refers to, and its ids."""

    def __init__(self, path):
        super().__init__()
        self.found, self.ids = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if "id" in given:
            self.ids.append(given["id"])
        self.found += [value for name, value in attrs if name in ("href", "src")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    site_store.make(folder / "results")
    said = build_site(folder / "out", folder / "results", PUBLISHED)
    assert str(folder / "out" / "index.html") in said
    return folder / "out"


def test_every_link_leads_somewhere_below_the_site(site):
    everything = {path.resolve() for path in site.rglob("*")}
    for page in site.rglob("*.html"):
        links = Links(page)
        assert len(links.ids) == len(set(links.ids)), page
        for address in links.found:
            path, _, fragment = address.partition("#")
            if address.startswith(("https://", "http://", "data:")):
                continue
            target = (page.parent / unquote(path)).resolve() if path else page.resolve()
            assert target in everything, f"{page.name}: {address}"
            if fragment and "=" not in fragment and target.suffix == ".html":
                assert unquote(fragment) in Links(target).ids, f"{page.name}: {address}"


def test_nothing_is_fetched_from_the_network(site):
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text(encoding="utf-8")):
            assert "//" not in tag, tag


def test_markup_in_records_is_escaped_everywhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<img" not in text, page
        assert "<b>memory" not in text, page
    [page] = site.glob("methods/-img-*.html")
    assert "&lt;img src=x" in page.read_text(encoding="utf-8")


def test_building_twice_gives_the_same_bytes(site, tmp_path):
    site_store.make(tmp_path / "results")
    build_site(tmp_path / "out", tmp_path / "results", PUBLISHED)
    assert {p.relative_to(site) for p in site.rglob("*")} == {
        p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*")
    }
    for path in site.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "out" / path.relative_to(site)).read_bytes(), path


def test_a_site_of_one_corpus(folder, tmp_path):
    site_store.make(folder)
    out = tmp_path / "out"
    words = ["leaderboard", "build", "--out", str(out), "--store", str(folder), "--published", str(PUBLISHED)]
    assert dispatch([*words, "--datasets", "synth"]) == 0
    assert "CMU-MOSI:" not in (out / "data" / "results.js").read_text()
    with pytest.raises(MSABenchError, match=r"unknown dataset in .* 'sims'; allowed: mosi, synth"):
        dispatch([*words, "--datasets", "sims"])
    assert "none: nothing was run on it" in (out / "index.html").read_text()


def test_a_mistyped_store_makes_no_site(tmp_path):
    words = ["leaderboard", "build", "--out", str(tmp_path / "out"), "--published", str(PUBLISHED), "--store"]
    with pytest.raises(MSABenchError, match=r"^there is no store nowhere; `msabench run --suite SUITE --store` makes"):
        dispatch([*words, "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MSABenchError, match=r"empty holds no records; make some with `msabench run --suite SUITE --"):
        dispatch([*words, str(tmp_path / "empty")])
    assert not (tmp_path / "out").exists()


def test_a_malformed_record_or_number_leaves_the_old_site(site, folder, tmp_path):
    site_store.make(folder)
    path = add(ResultStore(folder), method="mult", seed=50)
    path.write_text(path.read_text() + "{}\n")
    before = (site / "index.html").read_bytes()
    with pytest.raises(MSABenchError, match="has kind None"):
        build_site(site, folder, PUBLISHED)
    path.unlink()
    with pytest.raises(MSABenchError, match="there is no folder"):
        build_site(site, folder, tmp_path / "unpublished")
    assert (site / "index.html").read_bytes() == before
    assert [p.name for p in site.parent.iterdir() if p.name.startswith(".")] == []


def test_failed_jobs_alone_are_shown(folder, tmp_path):
    fail(ResultStore(folder), method="mult")
    build_site(tmp_path / "out", folder, PUBLISHED)
    assert "1 failed" in (tmp_path / "out" / "methods.html").read_text()
    [row] = numbers_of_failures(folder)
    assert row["failures"]
    assert row["counts"] == [None] * len(row["counts"])


def numbers_of_failures(folder):
    store = ResultStore(folder)
    return to_json(build_groups(store.records(), store.failures(), ["mosi"]), {})["groups"][0]["rows"]


def test_building_needs_no_torch(tmp_path, folder):
    site_store.make(folder)
    code = (
        "import sys; from msabench.__main__ import dispatch; "
        f"dispatch(['leaderboard', 'build', '--out', {str(tmp_path / 'out')!r}, '--store', {str(folder)!r}]); "
        f"dispatch(['leaderboard', 'readme', '--store', {str(folder)!r}, '--out', {str(tmp_path / 'README.md')!r}]); "
        "assert not {'torch', 'lightning', 'matplotlib'} & set(sys.modules), 'slow imports'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_8500_records_are_built(tmp_path):
    assert simulate(tmp_path / "results") == 8500
    build_site(tmp_path / "out", tmp_path / "results", PUBLISHED)
    assert len(list((tmp_path / "out" / "methods").iterdir())) >= 25


def test_outside_of_a_clone_the_default_store_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    for verb in ("build", "intervals"):
        with pytest.raises(MSABenchError, match=r"^runs/store holds no records; make some with"):
            dispatch(["leaderboard", verb])
    assert list(tmp_path.iterdir()) == []
    simulate(tmp_path / "runs/store", ["umdf"], ["synth"], seeds=(1,))
    assert dispatch(["leaderboard", "build"]) == 0
    assert (tmp_path / "site/index.html").is_file()
    assert "from 17 records of 1 jobs" in capsys.readouterr().out
    # In a clone, the records that it came with.
    simulate(tmp_path / "leaderboard/results", ["mult"], ["synth"], seeds=(1, 2))
    assert dispatch(["leaderboard", "build"]) == 0
    assert "from 34 records of 2 jobs" in capsys.readouterr().out

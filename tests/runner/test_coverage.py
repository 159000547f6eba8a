"""How much of the papers' tables suites cover: against the published numbers themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from msabench.published.layouts import PAPER_TABLES, SECOND_HAND_TABLES
from msabench.published.numbers import load_published
from msabench.results.store import ResultStore
from msabench.runner.command import suites
from msabench.runner.coverage import Coverage, coverage, reasons
from msabench.runner.suite import read_suite
from tests.support.records import add, fail

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "benchmarks/suites").glob("*.yaml"))


def covered_by(folder: Path, *jobs: dict[str, object], store: Path | None = None) -> dict[str, Coverage]:
    """Coverage by a suite of one's own, keyed by title, corpus and features."""
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "configs": str(ROOT / "configs"), "jobs": list(jobs)}))
    records = [job for job in ResultStore(store).jobs() if job.status == "ok"] if store else []
    found = coverage(PAPER_TABLES, [read_suite(path)], records)
    return {" ".join((part.table.title, part.block.dataset, part.block.features)).strip(): part for part in found}


def test_counts_are_those_of_the_published_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    printed: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for number in load_published():
        if number.table != "text":
            place = (number.paper, number.table, number.dataset, number.features)
            printed.setdefault(place, set()).add((number.method, number.variant))
    found = coverage(PAPER_TABLES, [read_suite(path) for path in SHIPPED], [])
    for part in found:
        rows = printed.pop((part.table.paper, part.table.label, part.block.dataset, part.block.features))
        assert {(row.method, row.variant) for row in part.block.rows} == rows
        assert part.jobs + len(part.lacking) == len(part.block.rows) == len(rows)
    assert not printed


def test_every_row_of_the_five_papers_has_a_job() -> None:
    assert not reasons(coverage(PAPER_TABLES, [read_suite(path) for path in SHIPPED], []))


def test_variant_corpus_and_features_have_to_be_the_rows(tmp_path: Path) -> None:
    found = covered_by(
        tmp_path,
        {"method": "umdf", "dataset": "mosi", "variants": ["wo_mcim"]},
        {"method": "kt", "dataset": "mosi", "overrides": {"data.features": "mult-unaligned"}},
        {"method": "umdf", "dataset": "synth"},
    )
    assert found["UMDF Table 3 mosi"].jobs == 1
    assert found["UMDF Table 3 mosi"].lacking["umdf"] == "no suite trains it on mosi"
    assert found["UMDF Table 1 mosi"].jobs == 0
    assert (found["KT Table I mosi aligned"].jobs, found["KT Table I mosi unaligned"].jobs) == (0, 1)
    assert found["KT Table I mosi aligned"].lacking["kt"] == "no suite trains it on mosi with aligned features"


def test_what_was_run_has_a_finished_job_of_that_row(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "store")
    add(store, method="umdf", dataset="mosi", features="mult-aligned")
    add(store, method="prlf", dataset="mosi", features="mmsa-aligned")
    fail(store, "RuntimeError: no", method="umdf", dataset="iemocap", features="mult-aligned")
    jobs = [{"method": "umdf", "dataset": name} for name in ("mosi", "mosei", "iemocap")]
    found = covered_by(tmp_path, *jobs, store=store.folder)
    assert (found["UMDF Table 1 mosi"].jobs, found["UMDF Table 1 mosi"].run) == (1, 1)
    assert (found["UMDF Table 1 mosei"].jobs, found["UMDF Table 1 mosei"].run) == (1, 0)
    assert (found["UMDF Table 2 iemocap"].jobs, found["UMDF Table 2 iemocap"].run) == (1, 0)
    # Records without a job here are not this suite's.
    assert found["PRLF Table 3 mosi"].run == 0


def test_the_verb_prints_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = suites()
    (line,) = [line for line in text.splitlines() if line.startswith("UMDF Table 2")]
    assert line.split()[3:] == ["iemocap", "any", "7", "7", "0", "0"]
    assert "umdf has no job" not in text


def test_second_hand_rows_are_counted_apart(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "store")
    add(store, method="mmin", dataset="mosi", features="mmsa-aligned")
    folder = tmp_path / "suites"
    folder.mkdir()
    jobs = [{"method": "mmin", "dataset": "mosi"}, {"method": "umdf", "dataset": "iemocap"}]
    (folder / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "configs": str(ROOT / "configs"), "jobs": jobs}))
    text = suites(folder, store=store.folder)
    five, apart = (line for line in text.splitlines() if " run, " in line)
    there = sum(len(block.rows) for table in SECOND_HAND_TABLES for block in table.blocks)
    # MMIN stands in a table of IMDer and in one of CyIN; UMDF's own table of IEMOCAP has one row of it.
    assert f"second-hand numbers of other papers: {there} rows, 2 with a job, 2 run, {there - 2} without" in apart
    total = sum(len(block.rows) for table in PAPER_TABLES for block in table.blocks)
    assert five == f"The five papers: {total} rows, 1 with a job, 0 run, {total - 1} without a job."

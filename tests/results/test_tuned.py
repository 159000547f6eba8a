"""Records of tuned settings: what they must say, and that they are what their study selected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from msabench.errors import MSABenchError
from msabench.results.aggregate import PROTOCOL, ROW, jobs_by_row
from msabench.results.job_identity import what_is_trained
from msabench.results.record import EXTERNAL_ORIGIN, JobRecord
from msabench.results.store import ResultStore
from msabench.results.study import TUNING, Study, Trial, write_study
from msabench.results.study_checks import study_problems
from msabench.results.tuned import Shown, check_tuning
from msabench.results.tuning_changes import tuned_pairs
from msabench.results.verify import verify
from tests.support.contributed import config_of
from tests.support.records import add, fail, key, rewrite
from tests.support.stored_runs import noisy
from tests.support.tuned_runs import LR, add_default, add_tuned, study

LABEL = "tuned(3, random, seed 1)"


def reference(**changes: Any) -> dict[str, Any]:
    return {**study().reference, **changes}


def add_with(store: ResultStore, given: Any, **changes: Any) -> None:
    add(store, job={"provenance": {} if given is None else {TUNING: given}}, **changes)


def test_the_label_is_in_the_key_of_tuned_records_alone() -> None:
    assert "tuning" not in key().to_json()
    assert key(tuning=LABEL).to_json()["tuning"] == LABEL
    assert len({key().job_id, key(tuning=LABEL).job_id, key(tuning="tuned(3, tpe, seed 1)").job_id}) == 3
    assert key().job_id == key(tuning="").job_id == "c09a42c99b3da6bd"


def test_a_tuned_record_names_its_study(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    add_with(store, reference(), tuning=LABEL)
    add(store, seed=2)
    [plain, tuned] = sorted(store.records().jobs, key=lambda job: job["tuning"])
    assert (plain["tuning"], plain["study"]) == ("", "")
    assert (tuned["tuning"], tuned["study"]) == (LABEL, study().study_id)
    assert sorted(store.frame()["study"].unique()) == ["", study().study_id]
    assert len(jobs_by_row(store.records())) == 2


@pytest.mark.parametrize(
    ("given", "changes", "said"),
    [
        (None, {"tuning": LABEL}, "its provenance names no study under 'tuning'"),
        (reference(), {}, f"has tuning '', but the study that its provenance names is '{LABEL}'"),
        (reference(), {"tuning": "tuned(4, random, seed 1)"}, f"the study that its provenance names is '{LABEL}'"),
        (reference(), {"tuning": "tuned"}, "has tuning 'tuned'; allowed: none, or as in"),
        (reference(), {"tuning": "tuned(3, grid, seed 1)"}, "allowed: none, or as in"),
        (reference(), {"tuning": LABEL + "\n"}, "allowed: none, or as in"),
        (reference(), {"tuning": LABEL, "origin": EXTERNAL_ORIGIN}, "was not tuned here"),
        ({"study": "0" * 12}, {"tuning": LABEL}, "names its study by ['study']"),
        ("0" * 12, {"tuning": LABEL}, "names its study by str"),
        (reference(study="../../x"), {"tuning": LABEL}, "names study '../../x'"),
        (reference(content=5), {"tuning": LABEL}, "with content = 5; expected a str"),
        (reference(trial=True), {"tuning": LABEL}, "with trial = True; expected a int"),
        (reference(settings=[]), {"tuning": LABEL}, "with settings = []; expected a dict"),
    ],
)
def test_a_record_that_contradicts_itself_is_neither_written_nor_read(
    tmp_path: Path, given: Any, changes: dict[str, Any], said: str
) -> None:
    store = ResultStore(tmp_path)
    with pytest.raises(MSABenchError) as caught:
        add_with(store, given, **changes)
    assert said in str(caught.value)
    add_with(store, reference(), tuning=LABEL)
    [path] = tmp_path.glob("*/*/*.jsonl")

    def damage(line: dict[str, Any]) -> None:
        line["provenance"] = {} if given is None else {TUNING: given}
        line.pop("tuning")
        line |= changes
        line["job_id"] = JobRecord.from_json(line).key.job_id

    rewrite(path, damage)
    with pytest.raises(MSABenchError) as caught:
        ResultStore(tmp_path).records()
    assert said in str(caught.value)


def test_a_failed_job_may_lack_its_study_but_not_name_another(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    fail(store, tuning=LABEL)
    with pytest.raises(MSABenchError, match="the study that its provenance names"):
        store.add_failure(JobRecord(key(), status="failed", error="x", provenance={TUNING: reference()}))


# Which rows are shown.


def jobs(**by_method: str) -> list[dict[str, Any]]:
    """Values of keys: a method's tuning by its name, ``d`` for default settings, ``t`` for tuned ones."""
    return [
        vars(key(method=method, tuning=LABEL if letter == "t" else ""))
        for method, letters in by_method.items()
        for letter in letters
    ]


def kept(given: list[dict[str, Any]], tuning: Any) -> list[str]:
    rule = Shown(given, tuning)
    return [f"{job['method']} {'t' if job['tuning'] else 'd'}" for job in given if rule.keeps(job)]


def test_default_rows_are_shown_unless_there_are_none() -> None:
    both = jobs(constant="d", mult="dt", umdf="t")
    assert kept(both, None) == ["constant d", "mult d"]
    assert set(Shown(both, None).left_out) == {"mult", "umdf"}
    assert kept(jobs(constant="d", mult="t"), None) == ["constant d", "mult t"]
    assert Shown(jobs(constant="d", mult="t"), None).left_out == ()
    assert kept(jobs(constant="d", mult="d"), None) == ["constant d", "mult d"]


def test_who_asks_is_given_what_is_asked_for() -> None:
    both = jobs(constant="d", mult="dt")
    assert kept(both, "default") == ["constant d", "mult d"]
    assert kept(both, "tuned") == ["constant d", "mult t"]
    assert kept(both, "all") == ["constant d", "mult d", "mult t"]
    assert all(Shown(both, tuning).left_out == () for tuning in ("default", "tuned", "all"))
    assert kept(jobs(constant="d", mult="t"), "default") == ["constant d"]
    assert Shown(jobs(mult="d"), "tuned").lacking
    assert not Shown(both, "tuned").lacking
    with pytest.raises(MSABenchError, match="unknown tuning 'best'; allowed: default, tuned, all"):
        check_tuning("best")


def test_what_was_only_scored_here_is_no_row_of_default_settings() -> None:
    scored = vars(key(method="theirs", origin=EXTERNAL_ORIGIN))
    assert kept([scored, *jobs(mult="t")], None) == ["theirs d", "mult t"]
    assert kept([scored, *jobs(mult="dt")], "tuned") == ["theirs d", "mult t"]


def test_pairs_differ_in_settings_alone() -> None:
    rows = [("a", "", "mixed"), ("b", LABEL, "mixed"), ("c", LABEL, "complete"), ("d", "", "mixed")]
    rows.append(("a", LABEL, "mixed"))
    made = [vars(key(config_hash=config, tuning=tuning, regime=regime)) for config, tuning, regime in rows]
    keys = [tuple(one[name] for name in (*PROTOCOL, *ROW)) for one in made]
    assert sorted(tuned_pairs(keys)) == [(1, 0), (1, 3), (4, 0), (4, 3)]


# Against the study.


def tried(**changes: Any) -> Study:
    """A study of ``umdf`` as the package's configs are."""
    config = what_is_trained(config_of("synth", "umdf", 0))
    return study("umdf", **{"config": config, "space": {LR: {"low": 1e-4, "high": 1e-2, "log": True}}, **changes})


def record_of(found: Study, config: dict[str, Any] | None = None, **changes: Any) -> JobRecord:
    """A record of a study's winner."""
    made = config or config_of("synth", "umdf", 1111)
    if config is None:
        for name, value in found.best.settings.items():
            made["model"]["init_args"][name.rpartition(".")[2]] = value
    fields = {"dataset": "synth", "method": "umdf", "tuning": found.label, **changes}
    return JobRecord(key(**fields), config=made, provenance={TUNING: found.reference})


def test_the_winner_of_a_study_is_accepted() -> None:
    assert list(study_problems(record_of(tried()), tried())) == []
    first_wins = tried(val_tasks=(0.1, 0.7, 0.9))
    assert list(study_problems(record_of(first_wins), first_wins)) == []
    cut = tried(budget=9, hours=1.0)
    assert list(study_problems(record_of(cut), cut)) == []


def test_whole_numbers_are_the_numbers_that_they_are() -> None:
    """A choice of 0 is read as 0.0 by a setting that is a float."""
    found = tried(trials=(*tried().trials[:1], Trial(1, {LR: 1}, "complete", 0.5, 3)))
    record = record_of(found)
    record.config["model"]["init_args"]["lr"] = 1.0
    assert list(study_problems(record, found)) == []


@pytest.mark.parametrize(
    ("study_changes", "key_changes", "said"),
    [
        ({"dataset": "mosi"}, {}, "its dataset is 'synth', that of its study 'mosi'"),
        ({"revision": "f" * 12}, {}, "its revision is '0123456789ab', that of its study 'ffffffffffff'"),
        ({}, {"method": "mult"}, "its method is 'mult', that of its study 'umdf'"),
        ({"method_version": 2}, {}, "its method_version is 1, that of its study 2"),
        ({"training_seed": 1111}, {}, "its seed 1111 is the one that all trials of its study were trained under"),
        ({"budget": 9}, {}, "its study has 3 trials of a budget of 9"),
    ],
)
def test_what_a_study_and_a_record_must_agree_in(
    study_changes: dict[str, Any], key_changes: dict[str, Any], said: str
) -> None:
    found = tried(**study_changes)
    problems = list(study_problems(record_of(found, **key_changes), found))
    assert [problem for problem in problems if said in problem]


def test_the_reference_is_that_of_the_study() -> None:
    record = record_of(tried())
    other = tried(val_tasks=(1.0, 0.9, 0.7))
    [said] = study_problems(record, other)
    assert said.startswith("its provenance says content")
    assert list(study_problems(record, None)) == [f"its study {tried().study_id} is not in the store"]
    none = tried(val_tasks=(None, None, None))
    assert any("none of 3 trials" in problem for problem in study_problems(record, none))
    record.provenance[TUNING] = {**record.provenance[TUNING], "seconds": 1e9}
    assert list(study_problems(record, tried())) == [], "another machine took another time"


def test_a_config_that_is_not_the_winners_is_found() -> None:
    found = tried()
    config = config_of("synth", "umdf", 1111)
    [said] = study_problems(record_of(found, config), found)
    assert said == "its config has model.init_args.lr None, the winner of its study 0.001"
    record = record_of(found)
    record.config["model"]["init_args"]["lr"] = 0.5
    assert list(study_problems(record, found)) == [
        "its config has model.init_args.lr 0.5, the winner of its study 0.001"
    ]
    record = record_of(found)
    record.config["trainer"]["max_epochs"] = 100
    assert list(study_problems(record, found)) == [
        "its config has trainer.max_epochs 100, the winner of its study 1"
    ], "more than the settings differs"


def test_of_a_method_that_is_not_here_the_settings_are_compared_all_the_same() -> None:
    found = tried()
    record = record_of(found)
    record.config["model"]["class_path"] = "mine.Mine"
    assert list(study_problems(record, found)) == []
    record.config["model"]["init_args"]["lr"] = 0.5
    assert list(study_problems(record, found)) == [
        "its config has model.init_args.lr 0.5, the winner of its study 0.001"
    ]


def test_verify_holds_records_to_studies(tmp_path: Path) -> None:
    found = study()
    add_default(tmp_path, found, noisy(1.0), seeds=(1,), n=20)
    [job] = add_tuned(tmp_path, found, noisy(1.0), seeds=(1,), n=20)
    path = tmp_path / "synth" / "mult" / f"{job.key.job_id}.jsonl"

    def settings(line: dict[str, Any]) -> None:
        line["config"] = {"model": {"class_path": "mine.Mine", "init_args": {"lr": 1e-3, "layers": 3}}}

    rewrite(path, settings)
    assert "2 records, 2 files of predictions, 1 studies; 0 damaged" in verify(tmp_path)
    rewrite(path, lambda line: line["config"]["model"]["init_args"].update(layers=6))
    with pytest.raises(MSABenchError, match=r"its config has model\.init_args\.layers 6, the winner of its study 3"):
        verify(tmp_path)
    rewrite(path, settings)
    unused = write_study(tmp_path, study(seed=2))
    assert f"study {unused.stem} of mult on synth has no records of its winner" in verify(tmp_path)
    kept_path = tmp_path / "studies/synth/mult" / f"{found.study_id}.json"
    content = kept_path.read_text()
    kept_path.write_text(content.replace('"val_task": 0.9', '"val_task": 0.1'))
    with pytest.raises(MSABenchError) as caught:
        verify(tmp_path)
    assert "was changed after it was written" in str(caught.value)
    assert "is not in the store" in str(caught.value)
    kept_path.unlink()
    with pytest.raises(MSABenchError, match=f"its study {found.study_id} is not in the store"):
        verify(tmp_path)


def test_verify_says_nothing_of_studies_where_there_are_none(tmp_path: Path) -> None:
    add(ResultStore(tmp_path))
    assert verify(tmp_path).endswith("1 records, 0 files of predictions; 0 damaged")


def test_keys_go_through_their_lines() -> None:
    assert JobRecord.from_json(JobRecord(key()).to_json()).key == key()
    assert JobRecord.from_json(JobRecord(key(tuning=LABEL)).to_json()).key == key(tuning=LABEL)

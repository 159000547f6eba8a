"""Studies as a stream of tasks: planned, run by workers that train nothing, killed and gone on with."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from msabench.errors import MSABenchError
from msabench.results.study import read_study, study_file
from msabench.runner.executor import LOST, NOT_STARTED, Finished, Task
from msabench.runner.local import LocalExecutor, Slot
from msabench.runner.studies import Studies, plan_studies
from msabench.runner.study_report import report
from msabench.runner.suite import expand, read_suite
from msabench.runner.trials import TrialTask, load_task
from msabench.training.search_space import draw
from msabench.tuning.folder import MOST_LOSSES, Chosen
from tests.support.worker_scripts import job
from tests.tuning.planted import RANGES, ended, place, planned
from tests.tuning.stub_worker import cost

pytest.importorskip("optuna", reason="needs the extra tune")

HERE = Path(__file__).parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends workers on Linux only")


def stub(end=lambda number: "", wait=0.1):
    """``TrialTask.command`` for workers that train nothing.

    Args:
        end: Number of a trial -> how its worker ends, ``killed``, ``failed`` or as usual.
        wait: Seconds that a trial takes.
    """

    def command(self, *options):
        words = ["--wait", str(wait), "--end", end(self.number)]
        return [sys.executable, str(HERE / "stub_worker.py"), str(self.folder / "job.json"), *words, *options]

    return command


def run(studies, slots=1):
    return studies.run(LocalExecutor([Slot()] * slots, warm=False), [])


def expected(trials, seed=1):
    """Number, settings and val/task of a study of the random sampler that nothing disturbed."""
    drawn = [draw(RANGES, seed, number) for number in range(trials)]
    return [(number, settings, cost(settings)) for number, settings in enumerate(drawn)]


def found(study):
    return [(trial.number, trial.settings, trial.val_task) for trial in study.trials]


# Plans.

SUITE = """
name: both
grid: [inter/l]
mask_seeds: [0]
seeds: [1, 2]
tune: {trials: 3, seed: 7}
overrides: {data.size: [24, 8, 10], data.length: 8, trainer.max_epochs: 1}
jobs:
  - {method: constant, dataset: synth, tuning: [default]}
  - {method: lf_dnn, dataset: synth, tuning: [default, tuned], regimes: [complete, mixed]}
  - {method: lf_dnn, dataset: synth, regimes: [mixed], seeds: [2, 3]}
"""


def write(folder, text=SUITE, **changes):
    for old, new in changes.items():
        text = text.replace(old, new)
    (folder / "both.yaml").write_text(text)
    return read_suite(folder / "both.yaml")


def test_a_suite_has_jobs_of_configs_and_studies_with_fresh_seeds(elsewhere, resolved):
    suite = write(elsewhere)
    titles = [found.title for found in expand(suite, resolved)]
    assert titles == [
        "constant synth complete seed 1",
        "constant synth complete seed 2",
        *(f"lf_dnn synth {regime} seed {seed}" for regime in ("complete", "mixed") for seed in (1, 2)),
    ]
    studies = plan_studies(suite, resolved)
    # The second entry's study of mixed is the third's.
    assert [(s.title, [j.key.seed for j in s.jobs]) for s in studies] == [
        ("lf_dnn synth complete", [1, 2]),
        ("lf_dnn synth mixed", [1, 2, 3]),
    ]
    first, second = (found.study for found in studies)
    assert (first.budget, first.seed, first.training_seed, first.method_version) == (3, 7, 1000, 2)
    assert first.study_id != second.study_id
    assert first.revision == "r1-24x8x10-T8"
    # The id follows from what decides what is tried.
    other = plan_studies(write(elsewhere, **{"seed: 7": "seed: 8"}), resolved)[0].study
    assert other.study_id != first.study_id
    longer = plan_studies(write(elsewhere, **{"max_epochs: 1": "max_epochs: 2"}), resolved)[0].study
    assert longer.study_id != first.study_id
    seeds = plan_studies(write(elsewhere, **{"seeds: [1, 2]": "seeds: [5]"}), resolved)[0].study
    assert seeds.study_id == first.study_id


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tune: {trials: 3, seed: 7}", "", "tuning of job 1 of suite both.yaml needs a budget"),
        ("tuning: [default, tuned]", "tuning: [best]", "unknown tuning of job 2 of suite both.yaml 'best'"),
        ("tuning: [default, tuned]", "tuning: []", "lists nothing"),
        ("trials: 3", "trials: -3", "trials -3 are not allowed"),
        ("seeds: [1, 2]", "seeds: [1, 1000]", "seed 1000 of job 2 of suite both.yaml is the one that the trials"),
    ],
)
def test_what_a_suite_may_not_say_of_tuning(old, new, said, elsewhere):
    with pytest.raises(MSABenchError, match=said):
        write(elsewhere, **{old: new})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("trainer.max_epochs: 1", "trainer.max_epochs: 1, data.selection: test_best", "never opens the test split"),
        ("tuning: [default]", "tuning: [tuned]", "nothing in it to tune"),
        ("seed: 7", "seed: 7, space: nowhere.yaml", r"there is no search space .*nowhere\.yaml"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_anything_runs(old, new, said, elsewhere, resolved):
    with pytest.raises(MSABenchError, match=said):
        plan_studies(write(elsewhere, **{old: new}), resolved)


def test_a_trial_is_a_task_whose_file_says_it_all(tmp_path):
    runs, store = place(tmp_path)
    study = planned(hours=2.0)
    task = study.trial(3, runs, store)
    task.prepare()
    again = load_task(task.folder / "job.json")
    assert again == task
    assert isinstance(again, TrialTask)
    assert again.job.key.job_id == task.job.key.job_id
    assert task.folder == runs / "mosi/mult/studies" / study.study.study_id / "trial-0003"
    assert task.job.overrides == ("--seed_everything=1000",)
    ids = {study.trial(number, runs, store).job.key.job_id for number in range(6)}
    assert len(ids) == 6
    plain = Task(job(), tmp_path / "job", store)
    plain.prepare()
    assert type(load_task(plain.folder / "job.json")) is Task


# Runs.


def test_a_study_runs_its_trials_once_and_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(TrialTask, "command", stub())
    runs, store = place(tmp_path)
    studies = Studies([planned(6), planned(3, seed=2)], runs, store)
    assert len(studies.open_trials()) == 9
    assert run(studies, slots=2) == []
    kept = [read_study(study_file(store, found.study)) for found in studies.planned]
    assert found(kept[0]) == expected(6)
    assert found(kept[1]) == expected(3, seed=2)
    assert kept[0].hours is None
    said = capsys.readouterr().out
    assert f"study {kept[0].study_id} of mult mosi mixed: tuned(6, random, seed 1), 6 trials (6 complete)" in said
    assert "[9/9]" in said

    # Nothing is done twice, and studies end with one line each.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    monkeypatch.setattr(TrialTask, "command", lambda *_: pytest.fail("no trial is to be run"))
    assert run(studies) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before
    assert not list((store / ".claims").iterdir())


def test_failed_trials_count_and_lost_ones_are_run_again(tmp_path, capsys, monkeypatch):
    runs, store = place(tmp_path)
    studies = Studies([planned(4)], runs, store)
    monkeypatch.setattr(TrialTask, "command", stub(lambda number: {1: "failed", 2: "killed"}.get(number, "")))
    for count in range(1, MOST_LOSSES):
        [failure] = run(studies)
        assert failure.task.number == 2
        assert failure.error == "the worker was ended by SIGKILL (out of memory?)"
        assert [task.number for task in studies.open_trials()] == [2], count
        assert studies.jobs() == ([], [])
    assert "trial 1 of study" in capsys.readouterr().out
    # A trial that nothing can end would keep the study open for ever.
    assert run(studies) == []
    study = studies.planned[0].finished(runs, store)
    assert [trial.state for trial in study.trials] == ["complete", "failed", "failed", "complete"]
    assert study.trials[1].error == "no number"
    assert study.trials[2].error.startswith(
        f"its process ended {MOST_LOSSES} times without a word, at last: the worker"
    )


def test_a_lost_trial_that_ends_later_is_no_failure(tmp_path, monkeypatch):
    runs, store = place(tmp_path)
    studies = Studies([planned(2)], runs, store)
    monkeypatch.setattr(TrialTask, "command", stub(lambda number: "killed"))
    assert len(run(studies)) == 2
    monkeypatch.setattr(TrialTask, "command", stub())
    assert run(studies) == []
    assert found(studies.planned[0].finished(runs, store)) == expected(2)


def test_a_trial_that_another_process_runs_is_left_to_it(tmp_path, monkeypatch):
    pytest.importorskip("fcntl", reason="no locks here")
    from msabench.runner.executor import RUNNING_ELSEWHERE, start

    monkeypatch.setattr(TrialTask, "command", stub(wait=60))
    runs, store = place(tmp_path)
    studies = Studies([planned(2)], runs, store)
    first = studies.open_trials()[0]
    holder = start(first)
    try:
        assert start(first) == Finished(first, RUNNING_ELSEWHERE, "another process is running this job")
        monkeypatch.setattr(TrialTask, "command", stub())
        [failure] = run(studies)
    finally:
        holder.kill()
        holder.wait()
    assert (failure.task.number, failure.word) == (0, "not run")
    assert run(studies) == []
    assert found(studies.planned[0].finished(runs, store)) == expected(2)


def test_no_trial_starts_after_the_hours(tmp_path, capsys, monkeypatch):
    # A trial of the stub takes a quarter of an hour.
    monkeypatch.setattr(TrialTask, "command", stub())
    runs, store = place(tmp_path)
    studies = Studies([planned(8, hours=0.7)], runs, store)
    assert run(studies) == []
    study = studies.planned[0].finished(runs, store)
    assert found(study) == expected(3)
    assert (study.hours, study.budget, study.label) == (0.7, 8, "tuned(3, random, seed 1)")
    said = capsys.readouterr().out
    assert "not run: the 0.7 hours of its study are over" in said
    assert "ended by its limit of 0.7 hours" in said
    # What is kept stays as it is, whatever is allowed later.
    assert read_study(study_file(store, study)) == study
    later = Studies([planned(8)], runs, store)
    assert later.open_trials() == []
    assert later.planned[0].finished(runs, store) == study


def test_two_drivers_share_a_study(tmp_path):
    drivers = [driver(tmp_path, 8) for _ in range(2)]
    assert [process.wait(120) in (0, 1) for process in drivers] == [True, True]
    assert driver(tmp_path, 8).wait(120) == 0
    runs, store = place(tmp_path)
    study = planned(8)
    assert found(study.finished(runs, store)) == expected(8)
    assert journal(study.folder(runs).path) == expected(8)


def driver(root, trials, sampler="random"):
    words = [sys.executable, str(HERE / "stub_driver.py"), str(root), str(trials), sampler]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def journal(folder):
    """Number, settings and value of the trials in a journal; those of trial 0 are the config's own."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    [name] = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials()
    return [(trial.number, trial.params if trial.number else {}, trial.value) for trial in trials]


def workers(root):
    """Processes of trials below a folder."""
    ids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(word.endswith("stub_worker.py") for word in words) and any(word.startswith(str(root)) for word in words):
            ids.append(int(entry.name))
    return ids


@linux
def test_a_study_that_is_killed_ten_times_ends_as_one_that_is_not(tmp_path):
    trials, chance = 8, random.Random(5)
    runs, store = place(tmp_path)
    study = planned(trials)
    for count in range(10):
        process = driver(tmp_path, trials)
        try:
            until = time.monotonic() + 60
            while not workers(tmp_path) and process.poll() is None and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.6))
            if count in (3, 6):
                # A worker alone, the driver going on for a while.
                for worker in workers(tmp_path)[:1]:
                    os.kill(worker, signal.SIGKILL)
                time.sleep(chance.uniform(0, 0.3))
            elif count % 2:
                for worker in workers(tmp_path):
                    os.kill(worker, signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
        while workers(tmp_path):
            time.sleep(0.01)
    assert driver(tmp_path, trials).wait(120) == 0
    whole = study.finished(runs, store)
    assert found(whole) == expected(trials)
    assert all(trial.state == "complete" for trial in whole.trials)
    assert journal(study.folder(runs).path) == expected(trials)
    folders = sorted(path.name for path in study.folder(runs).path.iterdir() if path.is_dir())
    assert folders == [f"trial-{number:04d}" for number in range(trials)]


def test_by_tpe_settings_are_chosen_once_and_stay(tmp_path, monkeypatch):
    runs, store = place(tmp_path)
    studies = Studies([planned(4, sampler="tpe")], runs, store)
    folder = studies.planned[0].folder(runs)
    monkeypatch.setattr(TrialTask, "command", stub(lambda number: "killed" if number == 3 else ""))
    run(studies)
    chosen = folder.chosen(3)
    assert chosen.known == tuple(range(3))
    monkeypatch.setattr(TrialTask, "command", stub())
    assert run(studies) == []
    study = studies.planned[0].finished(runs, store)
    assert study.trials[3].settings == chosen.settings
    # Run one at a time, the study is the same when it is run anew.
    runs, store = place(tmp_path / "again")
    again = Studies([planned(4, sampler="tpe")], runs, store)
    assert run(again) == []
    assert found(again.planned[0].finished(runs, store)) == found(study)


def test_pruning_compares_with_trials_that_ended_before_and_notes_them(tmp_path):
    runs, store = place(tmp_path)
    study = planned(6, pruning="median")
    folder = study.folder(runs)
    for number in (0, 1, 4):
        folder.end(ended(number, 1.0))
    assert study.trial(3, runs, store).choose() == Chosen(draw(RANGES, 1, 3), (0, 1))
    folder.end(ended(2, 1.0))
    assert study.trial(3, runs, store).choose().known == (0, 1), "what was settled stays"
    assert study.trial(0, runs, store).choose() == Chosen({})


# Outcomes.


def finished(tmp_path, *outcomes):
    runs, store = place(tmp_path)
    study = planned(len(outcomes))
    for outcome in outcomes:
        study.folder(runs).end(outcome)
    return study, study.finished(runs, store), runs, store


def test_the_winner_is_trained_under_fresh_seeds_with_its_settings(tmp_path):
    settings = draw(RANGES, 1, 1)
    study, whole, _, _ = finished(tmp_path, ended(0, 2.0), ended(1, 1.0, settings), ended(2, 1.0, draw(RANGES, 1, 2)))
    calls = []

    def resolver(files, words):
        calls.append(words)
        return CONFIG

    jobs = study_with_config(study).winners(whole, resolver)
    words = [f"--{name}={settings[name]}" for name in sorted(settings)]
    assert calls == [words]
    assert [found.overrides for found in jobs] == [(*words, f"--seed_everything={seed}") for seed in (1, 2)]
    assert [(found.key.seed, found.key.tuning) for found in jobs] == [(1, "tuned(3, random, seed 1)"), (2, whole.label)]
    assert all(found.tuning == whole.reference for found in jobs)
    assert jobs[0].title.endswith("complete tuned(3, random, seed 1) seed 1")
    assert jobs[0].key.revision == study.jobs[0].key.revision
    # On the way to its worker the job keeps what it is.
    plain = json.loads(json.dumps(jobs[0].to_json()))
    again = type(jobs[0]).from_json(plain)
    assert (again.key, again.tuning) == (jobs[0].key, jobs[0].tuning)


CONFIG = {
    "seed_everything": 1111,
    "data": {"dataset": "synth", "seed": 1111, "missing": {}},
    "trainer": {"max_epochs": 1},
    "model": {"class_path": "msabench.methods.lf_dnn.LFDNN", "init_args": {"lr": 0.5}},
}


def study_with_config(study):
    return replace(study, jobs=tuple(replace(found, config=CONFIG) for found in study.jobs))


def test_settings_of_the_config_that_win_are_tuned_ones_all_the_same(tmp_path):
    study, whole, _, _ = finished(tmp_path, ended(0, 1.0), ended(1, 1.0, draw(RANGES, 1, 1)))
    [first, _] = study_with_config(study).winners(whole, lambda files, words: CONFIG)
    assert first.overrides == ("--seed_everything=1",)
    assert first.key.tuning == "tuned(2, random, seed 1)"
    assert first.key.job_id != replace(first.key, tuning="").job_id


def test_where_no_trial_is_complete_there_is_no_winner(tmp_path):
    _, whole, runs, store = finished(tmp_path, *(ended(n, 1.0, state="failed", error="NaN") for n in range(2)))
    jobs, reasons = Studies([planned(2)], runs, store).jobs()
    assert jobs == []
    assert reasons == [
        "none of 2 trials of mult on mosi is complete (NaN), so there is nothing to select",
    ]
    assert "no trial is complete: NaN" in list(report("x", whole))


def test_the_report_shows_the_best_five_and_the_config(tmp_path):
    outcomes = [ended(0, 9.0), *(ended(number, 10.0 - number, draw(RANGES, 1, number)) for number in range(1, 8))]
    outcomes[2] = ended(2, 1.0, draw(RANGES, 1, 2), state="failed", error="NaN")
    _, whole, _, _ = finished(tmp_path, *outcomes)
    head, table = report("mult mosi mixed", whole)
    assert head.endswith("tuned(8, random, seed 1), 8 trials (7 complete, 1 failed) in 8 s")
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["trial", "val/task", "batch_size", "dropout", "layers", "lr"]
    assert [line[0] for line in lines[2:]] == ["7", "6", "5", "4", "3", "0"]
    assert lines[-1] == ["0", "(config)", "9.0000", "128", "0.2", "2", "0.001"]


def test_the_plan_says_what_is_left(tmp_path):
    runs, store = place(tmp_path)
    done, half = planned(2), planned(4, seed=3)
    for study, numbers in ((done, (0, 1)), (half, (0, 2))):
        for number in numbers:
            study.folder(runs).end(ended(number, 1.0))
    studies = Studies([done, half], runs, store)
    plan = studies.plan([])
    lines = studies.describe(plan, 3).splitlines()
    assert lines[0] == "2 studies: 2 of 6 trials to run, 3 at a time"
    assert lines[1].endswith("complete, tuned(2, random, seed 1); then seeds 1 2")
    assert lines[2].endswith("2 of 4 trials to run; then seeds 1 2")
    assert lines[3] == "estimated time of the trials: unknown"
    assert not store.exists(), "a plan writes nothing"


def test_a_study_without_data_is_one_sentence(tmp_path):
    study = planned(3)
    study = replace(study, jobs=tuple(replace(found, problem="there is no file") for found in study.jobs))
    studies = Studies([study], *place(tmp_path))
    assert studies.open_trials() == []
    assert studies.jobs() == ([], ["cannot run: tuning mult mosi mixed: there is no file"])
    assert run(studies) == []


def test_whatever_no_worker_says_is_a_loss(tmp_path):
    runs, store = place(tmp_path)
    task = planned(3).trial(1, runs, store)
    for code in (LOST, NOT_STARTED, 9):
        from msabench.runner.execution import error_of

        assert error_of(Finished(task, code, "the node is gone")) == "the node is gone"
    assert task.place.ended(1).trial.state == "failed"

"""Trials that are really trained: reproducible, blind to the test split, failed ones among them."""

import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from msabench.__main__ import dispatch
from msabench.data.datamodule import TuningDataModule
from msabench.errors import MSABenchError
from msabench.results.store import ResultStore
from msabench.results.study import TUNING, studies
from msabench.runner import tune_command
from msabench.runner.studies import plan_studies
from msabench.runner.trials import NotTriedError
from msabench.training.search_space import draw, space_from
from msabench.tuning.budget import Budget
from msabench.tuning.folder import Chosen
from tests.tuning.planted import ended

pytest.importorskip("optuna", reason="needs the extra tune")

TINY = ("data.size=[24,8,10]", "data.length=8", "trainer.max_epochs=2")

SPACE = """
model.init_args.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
model.init_args.fusion_dropout: {low: 0.0, high: 0.5}
model.init_args.hidden_text: {choices: [8, 16]}
data.batch_size: {choices: [8, 12]}
"""


@pytest.fixture
def made(elsewhere):
    """Makes a planned study of LF-DNN on a tiny corpus; changes are of its budget."""
    (elsewhere / "space.yaml").write_text(SPACE)

    def plan(*words, **changes):
        budget = Budget(**{"trials": 4, "space": Path("space.yaml"), **changes})
        settings = tuple(f"--{word}" for word in (*TINY, *words))
        suite = tune_command._suite(tune_command.config_file("lf_dnn_synth"), settings, budget, [1], ["inter/l"], [0])
        [planned] = plan_studies(suite)
        return planned

    return plan


def trained(planned, number, place="runs"):
    """Train a trial in this process, and say how it ended."""
    task = planned.trial(number, Path(place), Path("store"))
    task.prepare()
    task.run("cpu")
    return task.place.ended(number)


def test_a_trial_gives_the_same_digits_whenever_it_is_run(made):
    planned = made()
    first = trained(planned, 2)
    assert first.trial.state == "complete"
    assert first.trial.settings == draw(space_from(planned.study.space), 1, 2)
    assert first.trial.epochs == 2
    assert first.trial.val_task == min(first.values)
    assert len(first.values) == 2
    assert first.trial.processor_seconds > 0
    again = trained(planned, 2, "elsewhere")
    assert (again.trial.val_task, again.values) == (first.trial.val_task, first.values)
    # Others differ, and the first is the config's own.
    own = trained(planned, 0)
    assert own.trial.settings == {}
    assert own.trial.val_task != first.trial.val_task
    folder = planned.folder(Path("runs")).of_trial(2)
    left = {path.name for path in folder.iterdir()}
    assert left == {"chosen.json", "config.yaml", "job.json", "metrics.csv", "progress.json", "trial.json"}


def test_the_test_split_may_be_destroyed_or_gone(made):
    planned = made()
    before = trained(planned, 1)
    [file] = Path("cache").rglob("test.safetensors")
    whole = file.read_bytes()
    file.write_bytes(b"\xff" * len(whole))
    destroyed = trained(made(), 1, "destroyed")
    assert file.read_bytes() == b"\xff" * len(whole), "nobody looked at it, so nobody mended it"
    file.unlink()
    gone = trained(made(), 1, "gone")
    assert not file.exists()
    assert destroyed.values == gone.values == before.values
    # Whoever opens it finds out.
    found = TuningDataModule("synth", size=(24, 8, 10), length=8)
    assert set(found.corpus.splits) == {"train", "valid"}
    assert found.corpus.split_sizes == (24, 8)
    assert not file.exists()
    TuningDataModule.__base__("synth", size=(24, 8, 10), length=8).corpus  # noqa: B018
    assert file.read_bytes() == whole


def test_what_a_training_raises_ends_the_trial_as_failed(made, elsewhere):
    space = SPACE.replace("[8, 12]", "[0, -1]")
    (elsewhere / "refused.yaml").write_text(space)
    planned = made(space=Path("refused.yaml"))
    task = planned.trial(1, Path("runs"), Path("store"))
    with pytest.raises(MSABenchError, match="batch_size"):
        trained(planned, 1)
    failed = task.place.ended(1).trial
    assert (failed.state, failed.val_task) == ("failed", None)
    assert failed.error.startswith(f"batch_size {failed.settings['data.batch_size']} is not allowed")
    assert failed.seconds > 0
    assert task.is_recorded()


def test_a_loss_that_is_no_number_ends_the_trial_as_failed(made, elsewhere):
    (elsewhere / "wild.yaml").write_text(SPACE.replace("low: 1.0e-4, high: 1.0e-2", "low: 1.0e+30, high: 1.0e+35"))
    planned = made(space=Path("wild.yaml"))
    with pytest.raises(MSABenchError):
        trained(planned, 1)
    failed = planned.folder(Path("runs")).ended(1).trial
    assert failed.state == "failed"
    assert failed.error == "8 of 8 predictions are not finite; the model has diverged"


def test_what_says_nothing_of_the_settings_ends_no_trial(made, monkeypatch):
    planned = made()
    other = replace(planned, study=replace(planned.study, revision="another"))
    with pytest.raises(NotTriedError, match="are revision r1-24x8x10-T8 now, and the study was planned on another"):
        trained(other, 1)
    gone = {**planned.jobs[0].config, "data": {**planned.jobs[0].config["data"], "dataset": "mosi"}}
    with pytest.raises(NotTriedError, match="mosi"):
        trained(replace(planned, jobs=(replace(planned.jobs[0], config=gone),)), 1)
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("msabench.tuning.fit.fit_trial", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left"):
        trained(planned, 1)
    for study in (planned, other):
        assert study.folder(Path("runs")).ended(1) is None


def test_a_trial_that_is_worse_than_the_median_ends_early(made):
    planned = made("trainer.max_epochs=4", trials=8, pruning="median")
    folder = planned.folder(Path("runs"))
    for number in range(5):
        # At every validation far below what can be reached.
        folder.end(ended(number, -9.0))
    pruned = trained(planned, 6)
    assert (pruned.trial.state, pruned.trial.val_task, pruned.trial.epochs) == ("pruned", None, 1)
    assert len(pruned.values) == 1
    assert folder.chosen(6) == Chosen(pruned.trial.settings, (0, 1, 2, 3, 4))
    # Alone and without others it would have gone on, to the same value on the way.
    whole = trained(made("trainer.max_epochs=4", trials=8), 6)
    assert whole.trial.state == "complete"
    assert whole.values[0] == pruned.values[0]


def test_the_whole_way_from_trials_to_records(elsewhere, capsys):
    (elsewhere / "space.yaml").write_text(SPACE)
    words = ["tune", "--config", "lf_dnn_synth", "--trials", "3", "--space", "space.yaml", "--regime", "mixed"]
    words += ["--overrides", *TINY, "--seeds", "1", "2", "--grid", "inter/l", "--mask_seeds", "0"]
    words += ["--slots", "1", "--store", "store"]
    assert dispatch([*words, "--dry-run"]) == 0
    assert "1 study: 3 of 3 trials to run" in capsys.readouterr().out
    assert not Path("store").exists()
    assert dispatch([*words, "--no-retrain"]) == 0
    said = capsys.readouterr().out
    assert "tuned(3, random, seed 1), 3 trials (3 complete)" in said
    [study] = studies(Path("store"))
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    assert ResultStore(Path("store")).jobs() == []
    assert dispatch(words) == 0
    records = ResultStore(Path("store")).jobs()
    assert sorted((found.key.seed, found.key.tuning) for found in records) == [
        (1, "tuned(3, random, seed 1)"),
        (2, "tuned(3, random, seed 1)"),
    ]
    for found in records:
        assert found.provenance[TUNING] == study.reference
        assert found.suites == ["tune"]
        for name, value in study.best.settings.items():
            section, *_, key = name.split(".")
            place = found.config["data"] if section == "data" else found.config["model"]["init_args"]
            assert place[key] == value
    capsys.readouterr()
    assert dispatch(words) == 0
    assert "2 jobs, 2 done already, 0 to run" in capsys.readouterr().out

    # One trial by itself, in a process of its own as in the study.
    assert dispatch([*words, "--trial", "2"]) == 0
    said = capsys.readouterr().out
    assert f"val/task: {study.trials[2].val_task!r}" in said
    assert f"model.init_args.lr: {study.trials[2].settings['model.init_args.lr']}" in said
    assert "as in the study" in said
    assert "not as in the study" not in said
    with pytest.raises(MSABenchError, match="trial 3 is not allowed; the study has trials 0 to 2"):
        dispatch([*words, "--trial", "3"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends workers on Linux only")
def test_real_trials_killed_ten_times_have_the_values_of_those_that_were_not(elsewhere):
    (elsewhere / "space.yaml").write_text(SPACE)
    words = [
        "tune",
        "--config",
        "lf_dnn_synth",
        "--trials",
        "6",
        "--space",
        "space.yaml",
        "--no-retrain",
        "--slots",
        "2",
    ]
    words += ["--overrides", *TINY]

    def command(place):
        places = ["--runs", place, "--store", f"{place}/store"]
        return [sys.executable, "-m", "msabench", *words, *places]

    assert subprocess.run(command("whole"), check=False).returncode == 0
    chance = random.Random(3)
    for _ in range(10):
        process = subprocess.Popen(command("killed"), start_new_session=True)
        # Some time after the first trial of this round says a word, which is where it matters.
        begun, until = time.time(), time.monotonic() + 300
        while process.poll() is None and time.monotonic() < until:
            if any(file.stat().st_mtime > begun for file in Path("killed").rglob("progress.json")):
                break
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 3))
        process.kill()
        process.wait()
    assert subprocess.run(command("killed"), check=False).returncode == 0
    [whole], [killed] = (studies(Path(place) / "store") for place in ("whole", "killed"))
    told = [[(trial.number, trial.settings, trial.val_task) for trial in study.trials] for study in (whole, killed)]
    assert told[0] == told[1]
    assert [trial.state for trial in killed.trials] == ["complete"] * 6
    assert whole.content == killed.content


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "1000"], "seed 1000 of --seeds is the one that the trials are trained under"),
        (["--trials", "0"], "trials 0 are not allowed"),
        (["--overrides", "lr"], "override 'lr' is not allowed; give KEY=VALUE"),
        (["--grid", "nowhere"], "nowhere"),
        (["--trial", "1", "--sampler", "tpe"], "trial 1 has not been begun"),
        (["--regime", "nowhere"], "nowhere"),
    ],
)
def test_what_the_command_does_not_allow(words, said, elsewhere):
    with pytest.raises(MSABenchError, match=said):
        dispatch(["tune", "--config", "lf_dnn_synth", "--overrides", *TINY, *words])


def test_without_optuna_there_is_one_sentence(elsewhere, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MSABenchError, match=r'optuna is not installed .* `pip install "msabench\[tune\]"`'):
        dispatch(["tune", "--config", "lf_dnn_synth", "--overrides", *TINY])

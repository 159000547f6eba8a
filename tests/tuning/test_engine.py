"""Optuna's part in a study: TPE, pruning, the journal."""

import json
from dataclasses import replace

import pytest

from msabench.training.search_space import draw
from msabench.tuning.folder import StudyFolder
from tests.tuning.planted import OWN, RANGES, SPACE, ended, study

optuna = pytest.importorskip("optuna", reason="needs the extra tune")

from msabench.tuning.engine import JOURNAL, STARTUP_TRIALS, Median, draw_by_tpe, tell  # noqa: E402


def tried(count, cost=lambda settings: settings["model.init_args.dropout"]):
    """Trials of the random sampler, trial 0 the config's own, with a cost of their settings."""
    found = [ended(0, 0.2)]
    for number in range(1, count):
        settings = draw(RANGES, 1, number)
        found.append(ended(number, cost(settings), settings))
    return found


# TPE.


def test_tpe_draws_within_the_ranges_and_reads_well():
    for number in range(1, 12):
        settings = draw_by_tpe(study(sampler="tpe"), RANGES, number, tried(number))
        assert settings.keys() == SPACE.keys()
        assert all(RANGES[name].contains(value) for name, value in settings.items())
        lr = settings["model.init_args.lr"]
        assert lr == float(f"{lr:.4g}")
        assert json.loads(json.dumps(settings)) == settings


def test_tpe_follows_from_seed_number_and_what_it_was_told():
    known = tried(15)
    first = draw_by_tpe(study(), RANGES, 15, known)
    assert draw_by_tpe(study(), RANGES, 15, known) == first
    assert draw_by_tpe(study(seed=2), RANGES, 15, known) != first
    assert draw_by_tpe(study(), RANGES, 16, known) != first
    assert draw_by_tpe(study(), RANGES, 15, tried(15, lambda settings: -settings["model.init_args.dropout"])) != first


def test_tpe_learns_where_values_are_low():
    def mean_dropout(cost):
        known = tried(40, cost)
        drawn = [draw_by_tpe(study(), RANGES, number, known) for number in range(40, 60)]
        return sum(settings["model.init_args.dropout"] for settings in drawn) / len(drawn)

    low = mean_dropout(lambda settings: settings["model.init_args.dropout"])
    high = mean_dropout(lambda settings: -settings["model.init_args.dropout"])
    assert low < 0.15
    assert high > 0.35


def test_tpe_takes_failed_and_pruned_trials_and_a_config_outside_of_the_ranges():
    known = tried(12)
    known[4] = ended(4, 1.0, known[4].trial.settings, state="failed", error="NaN")
    known[5] = ended(5, 1.0, known[5].trial.settings, state="pruned")
    assert OWN["data"]["batch_size"] not in SPACE["data.batch_size"]["choices"]
    assert draw_by_tpe(study(), RANGES, 12, known).keys() == SPACE.keys()


# Pruning.


def test_a_trial_that_is_worse_than_the_median_is_ended():
    # At the second validation the others have 2, 3, 4, 5, 6.
    others = [ended(number, number + 1.0) for number in range(STARTUP_TRIALS)]
    worse, better = Median(others), Median(others)
    assert not worse([4.9])
    assert worse([4.9, 4.1])
    assert not better([4.9])
    assert not better([4.9, 3.9])


def test_too_few_complete_trials_end_none():
    others = [ended(number, 0.0) for number in range(STARTUP_TRIALS - 1)]
    others.append(ended(STARTUP_TRIALS, 0.0, state="pruned"))
    prunes = Median(others)
    assert not any(prunes([99.0] * count) for count in range(1, 4))


def test_a_validation_that_is_no_number_ends_nothing():
    prunes = Median([ended(number, 1.0) for number in range(STARTUP_TRIALS)])
    assert not prunes([None])
    assert prunes([None, 99.0])


# The journal.


def journal(folder):
    """The trials that Optuna reads in a journal."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder.path / JOURNAL)))
    [name] = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def expected(found):
    return [(e.trial.number, e.trial.state, e.trial.val_task) for e in found]


def read(trials):
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return [(trial.number, states[trial.state.name], trial.value) for trial in trials]


def test_the_journal_holds_what_ended_in_order_and_once(tmp_path):
    folder, known = StudyFolder(tmp_path), tried(6)
    known[2] = ended(2, 1.0, known[2].trial.settings, state="failed", error="NaN")
    known[3] = ended(3, 1.0, known[3].trial.settings, state="pruned")
    for number in (0, 1, 5, 2):
        folder.end(known[number])
        tell(folder, study(), RANGES)
    assert read(journal(folder)) == expected(known[:3]), "5 waits for 3 and 4"
    folder.end(known[3])
    folder.end(known[4])
    for _ in range(3):
        tell(folder, study(), RANGES)
    trials = journal(folder)
    assert read(trials) == expected(known)
    assert trials[1].params == known[1].trial.settings
    assert trials[1].intermediate_values == dict(enumerate(known[1].values))
    assert trials[2].user_attrs["error"] == "NaN"
    # The config's own settings, where the ranges hold them.
    assert "data.batch_size" not in trials[0].params
    assert trials[0].params["model.init_args.layers"] == 2
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("journal") and path.name != JOURNAL]


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_journal_that_was_cut_off_is_made_anew(cut, tmp_path):
    folder, known = StudyFolder(tmp_path), tried(4)
    for found in known[:3]:
        folder.end(found)
    tell(folder, study(), RANGES)
    whole = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole[:-cut])
    folder.end(known[3])
    tell(folder, study(), RANGES)
    assert read(journal(folder)) == expected(known)


@pytest.mark.parametrize("change", ["another value", "a trial too many", "no JSON"])
def test_a_journal_that_says_something_else_is_made_anew(change, tmp_path):
    folder, known = StudyFolder(tmp_path), tried(3)
    for found in known:
        folder.end(found)
    tell(folder, study(), RANGES)
    if change == "another value":
        folder.of_trial(2).joinpath("trial.json").unlink()
        known[2] = ended(2, 77.0, known[2].trial.settings)
        folder.end(known[2])
    elif change == "a trial too many":
        folder.of_trial(2).joinpath("trial.json").unlink()
        known.pop()
    else:
        with (tmp_path / JOURNAL).open("a") as stream:
            stream.write("not JSON\n")
    tell(folder, study(), RANGES)
    assert read(journal(folder)) == expected(known)


def test_a_journal_is_read_without_unpickling_anything():
    from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
    from optuna.storages.journal._base import BaseJournalSnapshot

    # Optuna unpickles snapshots, which backends of files do not keep.
    assert issubclass(JournalFileBackend, BaseJournalBackend)
    assert not issubclass(JournalFileBackend, BaseJournalSnapshot)


def test_every_line_of_a_journal_is_json(tmp_path):
    folder = StudyFolder(tmp_path)
    for found in tried(3):
        folder.end(replace(found))
    tell(folder, study(), RANGES)
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    assert len(lines) == 4, "one of the study, one of each trial"
    assert all(isinstance(json.loads(line), dict) for line in lines)

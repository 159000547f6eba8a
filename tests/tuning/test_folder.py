"""What lies in a study's folder."""

import pytest

from msabench.errors import MSABenchError
from msabench.results.study import Trial
from msabench.tuning.folder import Chosen, Ended, StudyFolder


def ended(number, val_task=1.0, seconds=60.0, **changes):
    """A complete trial that took a minute."""
    return Ended(
        Trial(number, {"lr": 0.1}, "complete", val_task, 2, seconds, **changes), [val_task + 1, None, val_task]
    )


def test_a_trial_is_what_was_written_first(tmp_path):
    folder = StudyFolder(tmp_path / "study")
    assert folder.ended(3) is None
    folder.end(ended(3, 0.25))
    folder.end(ended(3, 0.75))
    assert folder.ended(3) == ended(3, 0.25)
    assert [path.name for path in folder.of_trial(3).iterdir()] == ["trial.json"]
    assert [found.trial.number for found in folder.all_ended(9)] == [3]
    assert list(folder.all_ended(3)) == []


def test_of_two_choices_both_follow_the_first(tmp_path):
    folder = StudyFolder(tmp_path)
    first, second = Chosen({"lr": 0.1}, (0, 2)), Chosen({"lr": 0.2})
    assert folder.choose(1, first) == first
    assert folder.choose(1, second) == first
    assert folder.chosen(1) == first
    assert folder.chosen(2) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"trial": {"number": 1}, "values": []}'])
def test_a_changed_file_is_one_sentence(text, tmp_path):
    folder = StudyFolder(tmp_path)
    folder.end(ended(1))
    (folder.of_trial(1) / "trial.json").write_text(text)
    with pytest.raises(MSABenchError, match=r"trial-0001/trial\.json is not as it was written; delete its folder"):
        folder.ended(1)
    (folder.of_trial(1) / "chosen.json").write_text(text)
    with pytest.raises(MSABenchError, match=r"chosen\.json is not as it was written"):
        folder.chosen(1)


def test_a_trial_in_the_folder_of_another_is_refused(tmp_path):
    folder = StudyFolder(tmp_path)
    folder.end(ended(1))
    folder.of_trial(1).rename(folder.of_trial(2))
    with pytest.raises(MSABenchError, match="trial-0002"):
        folder.ended(2)


def test_after_the_hours_only_what_leaves_no_gap_is_run(tmp_path):
    folder = StudyFolder(tmp_path)
    for number in (0, 1, 3):
        folder.choose(number, Chosen({}))
        folder.end(ended(number, seconds=1200.0))
    assert not folder.is_out_of_time(4, 6, None)
    assert not folder.is_out_of_time(4, 6, 1.01)
    assert folder.is_out_of_time(4, 6, 1.0)
    # Trial 2 lies below one that was begun.
    assert not folder.is_out_of_time(2, 6, 1.0)
    # One that was begun and cut off is finished, and with it what lies below.
    folder.choose(5, Chosen({}))
    assert not folder.is_out_of_time(5, 6, 1.0)
    assert not folder.is_out_of_time(4, 6, 1.0)


def test_losses_are_counted(tmp_path):
    folder = StudyFolder(tmp_path)
    assert [folder.lose(2, "SIGKILL") for _ in range(3)] == [1, 2, 3]
    assert folder.lose(1, "SIGKILL") == 1

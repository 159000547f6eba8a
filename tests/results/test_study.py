"""Studies as files: what identifies them, what wins, and that a damaged one is refused in a sentence."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msabench.errors import MSABenchError
from msabench.results.study import MAX_STUDY_BYTES, Study, Trial, read_study, studies, study_file, write_study
from msabench.results.study_settings import chosen_settings, value_at, with_settings
from tests.support.tuned_runs import CONFIG, LAYERS, LR, study

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-1e9, 1e9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
losses = st.floats(0, 10) | st.integers(0, 9).map(float)


@st.composite
def trial_lists(draw: st.DrawFn) -> tuple[Trial, ...]:
    """Trials of every state, by number."""
    made = []
    for number in range(draw(st.integers(1, 8))):
        state = draw(st.sampled_from(("complete", "pruned", "failed")))
        made.append(
            Trial(
                number,
                {} if number == 0 else draw(st.dictionaries(st.text(min_size=1, max_size=5), plain, max_size=2)),
                state,
                draw(losses) if state == "complete" else None,
                draw(st.none() | st.integers(0, 50)),
                draw(st.floats(0, 1e6)),
                draw(st.none() | st.floats(0, 1e6)),
                draw(st.text(max_size=10)) if state == "failed" else "",
            )
        )
    return tuple(made)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    trials=trial_lists(),
    config=st.dictionaries(st.text(max_size=5), plain, max_size=3),
    hours=st.none() | st.floats(0.1, 9),
)
def test_round_trip(tmp_path: Path, trials: tuple[Trial, ...], config: dict[str, Any], hours: float | None) -> None:
    tried = study(trials=trials, config=config, hours=hours)
    path = write_study(tmp_path, tried)
    try:
        found = read_study(path)
        assert found == tried
        assert (found.study_id, found.content, found.label) == (tried.study_id, tried.content, tried.label)
        assert studies(tmp_path) == [tried]
    finally:
        path.unlink()


def test_the_id_is_of_what_is_tried_and_the_content_of_what_came_of_it() -> None:
    tried = study()
    other = study(val_tasks=(3.0, 2.0, 1.0), hours=1.0)
    assert other.study_id == tried.study_id
    assert other.content != tried.content
    slower = replace(tried, trials=tuple(replace(trial, seconds=99.0) for trial in tried.trials))
    assert (slower.study_id, slower.content) == (tried.study_id, tried.content)
    changes: list[dict[str, Any]] = [
        {"config": {**CONFIG, "trainer": {"max_epochs": 4}}},
        {"dataset": "mosi"},
        {"revision": "f" * 12},
        {"method": "umdf"},
        {"method_version": 2},
        {"space": {LR: {"low": 1e-5, "high": 1e-3, "log": True}}},
        {"budget": 4},
        {"sampler": "tpe"},
        {"pruning": "median"},
        {"seed": 2},
        {"training_seed": 78},
    ]
    ids = {replace(tried, **change).study_id for change in changes}
    assert len(ids | {tried.study_id}) == len(changes) + 1


@pytest.mark.parametrize("field", ["settings", "state", "val_task", "epochs"])
def test_the_content_tells_every_outcome_apart(field: str) -> None:
    tried = study()
    changed: dict[str, Any] = {"settings": {LR: 0.5}, "state": "pruned", "val_task": 0.7001, "epochs": 2}
    trials = list(tried.trials)
    trials[1] = replace(trials[1], **{field: changed[field]})
    assert replace(tried, trials=tuple(trials)).content != tried.content


def test_the_label_says_what_was_spent() -> None:
    assert study(val_tasks=(1.0,) * 50).label == "tuned(50, random, seed 1)"
    assert study(budget=50, hours=2.0, sampler="tpe", seed=7).label == "tuned(3, tpe, seed 7)"


@settings(max_examples=100, deadline=None)
@given(trial_lists())
def test_the_lowest_complete_trial_wins_and_of_equal_ones_the_first(trials: tuple[Trial, ...]) -> None:
    tried = study(trials=trials)
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        with pytest.raises(MSABenchError, match=f"none of {len(trials)} trials of mult on synth is complete"):
            _ = tried.best
        return
    lowest = min(trial.val_task or 0.0 for trial in complete)
    assert tried.best == next(trial for trial in complete if trial.val_task == lowest)
    assert tried.reference["trial"] == tried.best.number
    assert tried.reference["trials"] == len(trials)
    assert tried.reference["seconds"] == pytest.approx(sum(trial.seconds for trial in trials))


def test_a_failed_or_pruned_trial_counts_and_never_wins() -> None:
    tried = study(val_tasks=(None, 0.9, None, 0.8, 0.8))
    assert tried.best.number == 3
    pruned = (*tried.trials, Trial(5, {LR: 0.1}, "pruned", None, 1, 2.0))
    assert study(trials=pruned).best.number == 3
    assert study(trials=pruned).label == "tuned(6, random, seed 1)"
    with pytest.raises(MSABenchError, match="out of memory"):
        _ = study(val_tasks=(None, None)).best


def test_a_study_that_is_there_stays(tmp_path: Path) -> None:
    first, second = study(), study(val_tasks=(3.0, 2.0, 1.0))
    path = write_study(tmp_path, first)
    assert path == tmp_path / "studies/synth/mult" / f"{first.study_id}.json" == study_file(tmp_path, first)
    assert write_study(tmp_path, second) == path
    assert read_study(path) == first


def change_in(path: Path, change: Any) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.pop("trials"), "a study has the fields config, dataset"),
        (lambda data: data.update(note="x"), "a study has the fields"),
        (lambda data: data.update(schema_version=2), "schema version 2"),
        (lambda data: data.update(budget="3"), "budget = '3' of a study is not allowed; expected int"),
        (lambda data: data.update(budget=True), "budget = True"),
        (lambda data: data.update(sampler="grid"), "sampler = 'grid'"),
        (lambda data: data.update(space=[]), "space = []"),
        (lambda data: data.update(seed=2), "was changed after it was written"),
        (lambda data: data.update(study_id="0" * 12), "was changed after it was written"),
        (lambda data: data["trials"][1].update(val_task=0.1), "was changed after it was written"),
        (lambda data: data["trials"][1].update(val_task="0.1"), "val_task = '0.1' of a trial"),
        (lambda data: data["trials"][1].update(val_task=None), "those that are complete have a val_task"),
        (lambda data: data["trials"][1].update(settings=None), "settings = None of a trial"),
        (lambda data: data["trials"][1].update(state="running"), "state = 'running' of a trial"),
        (lambda data: data["trials"][1].update(state=[]), "state = [] of a trial"),
        (lambda data: data["trials"][1].update(seconds=10**400), "seconds = 1000"),
        (lambda data: data["trials"].pop(1), "numbered from 0 on"),
        (lambda data: data.update(trials=[1]), "a trial has the fields"),
    ],
)
def test_a_damaged_study_is_refused_in_a_sentence(tmp_path: Path, change: Any, said: str) -> None:
    path = write_study(tmp_path, study())
    change_in(path, change)
    with pytest.raises(MSABenchError) as caught:
        read_study(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"budget": NaN}', b"[" * 100_000])
def test_what_is_no_study(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.json"
    path.write_bytes(content)
    with pytest.raises(MSABenchError, match=r"study\.json"):
        read_study(path)


def test_an_infinite_number_is_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path, study())
    path.write_text(path.read_text().replace('"seconds": 2.0', '"seconds": 1e999'))
    with pytest.raises(MSABenchError, match="seconds = inf"):
        read_study(path)


def test_what_cannot_be_read_at_all(tmp_path: Path) -> None:
    with pytest.raises(MSABenchError, match="cannot be read"):
        read_study(tmp_path / "nothing.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(MSABenchError, match="pipe, folder or device"):
        read_study(tmp_path / "pipe.json")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(MAX_STUDY_BYTES + 1)
    with pytest.raises(MSABenchError, match="bytes are too many"):
        read_study(tmp_path / "large.json")


def test_a_study_in_another_place_is_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path, study())
    other = path.parents[1] / "umdf" / path.name
    other.parent.mkdir()
    path.rename(other)
    with pytest.raises(MSABenchError, match=f"belongs in studies/synth/mult/{path.name}"):
        studies(tmp_path)


def test_settings_by_dotted_keys() -> None:
    assert value_at(CONFIG, LR) == 1e-3
    assert value_at(CONFIG, "model.init_args.dropout") is None
    assert value_at(CONFIG, "model.method.lr") is None
    made = with_settings(CONFIG, {LR: 0.5, "model.init_args.dropout": 0.1, "data.batch_size": None, "new.key": 1})
    assert (value_at(made, LR), value_at(made, "model.init_args.dropout"), made["new"]) == (0.5, 0.1, {"key": 1})
    assert "batch_size" not in made["data"]
    assert value_at(CONFIG, LR) == 1e-3, "the config stays as it is"
    assert with_settings(CONFIG, {}) == CONFIG


def test_the_winner_beside_the_config() -> None:
    assert chosen_settings(study()) == [(LR, 1e-3, 1e-3), (LAYERS, 3, 2)]
    assert chosen_settings(study(val_tasks=(0.1, 0.5))) == [(LR, 1e-3, 1e-3), (LAYERS, 2, 2)]
    assert math.isclose(chosen_settings(study(val_tasks=(1.0, 0.7, 0.6)))[0][1], 1e-4)


def test_studies_are_no_records(tmp_path: Path) -> None:
    from msabench.results.store import ResultStore
    from tests.support.records import add

    write_study(tmp_path, study())
    assert ResultStore(tmp_path).jobs() == []
    add(ResultStore(tmp_path))
    assert [job.key.method for job in ResultStore(tmp_path).jobs()] == ["mult"]
    assert isinstance(studies(tmp_path)[0], Study)

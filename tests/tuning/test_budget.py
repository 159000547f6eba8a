"""What may be spent on a study."""

from pathlib import Path

import pytest

from msabench.errors import MSABenchError
from msabench.tuning.budget import TRAINING_SEED, Budget


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trials": 0}, "trials 0 are not allowed"),
        ({"trials": True}, "trials True are not allowed"),
        ({"trials": 2.5}, r"trials 2\.5 are not allowed"),
        ({"seed": -1}, "seed -1 of a study is not allowed"),
        ({"training_seed": 2**32}, "training_seed 4294967296 of a study"),
        ({"sampler": "grid"}, "unknown sampler of a study 'grid'; allowed: random, tpe"),
        ({"pruning": "hyperband"}, "unknown pruning of a study 'hyperband'"),
        ({"hours": 0}, "hours 0 are not allowed"),
        ({"hours": float("nan")}, "hours nan are not allowed"),
        ({"hours": "2"}, "hours '2' are not allowed"),
    ],
)
def test_what_is_not_allowed_is_said(given, said):
    with pytest.raises(MSABenchError, match=said):
        Budget(**given)


def test_a_suite_says_what_the_command_line_does():
    assert Budget.of({}, "tune", Path("configs")) == Budget()
    given = {"trials": 20, "seed": 2, "sampler": "tpe", "pruning": "median", "hours": 1.5, "space": "mine.yaml"}
    assert Budget.of(given, "tune", Path("configs")) == Budget(
        20, 2, "tpe", "median", hours=1.5, space=Path("configs/mine.yaml")
    )
    with pytest.raises(MSABenchError, match=r"unknown key in tune of suite a\.yaml 'trails'; .* did you mean trials\?"):
        Budget.of({"trails": 3}, "tune of suite a.yaml", Path())
    with pytest.raises(MSABenchError, match="must be a mapping"):
        Budget.of(20, "tune of suite a.yaml", Path())


def test_the_winner_is_never_trained_under_the_seed_that_selected_it():
    Budget().require_fresh((1111, 1112), "--seeds")
    with pytest.raises(MSABenchError, match="seed 1000 of --seeds is the one that the trials are trained under"):
        Budget().require_fresh((1111, TRAINING_SEED), "--seeds")

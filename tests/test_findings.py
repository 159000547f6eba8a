"""What the committed records show of the five papers' methods; docs/findings.md says the same in words."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import pytest

from msabench.data.probe import describe
from msabench.data.store import open_corpus
from msabench.missingness.conditions import INTER, MISSING_CONDITIONS
from msabench.results.intervals import intervals
from msabench.results.paired import paired_differences, resampled
from msabench.results.store import ResultStore
from msabench.runner.suite import read_suite

SUITES = Path(__file__).parents[1] / "benchmarks/suites"
STORE = Path(__file__).parents[1] / "leaderboard/results"
QUARTER = "r1-320x60x170-T20"
REGIMES = {"umdf": "mixed", "fsrf": "mixed_fsrf", "prlf": "intra(0.5)", "recap": "lnln", "kt": "complete"}
"""Method -> regime that its paper trains under."""
READABLE = 0.15
"""Correlation of the ridge probe from which a method is expected to find something."""
NOT_FOUND = {("kt", "a"), ("recap", "a"), ("prlf", "v")}
"""(method, modalities) on synth whose correlation is not shown to be above 0."""


@lru_cache
def files(dataset: str, method: str, regime: str, variant: str = "default") -> tuple[Path, ...]:
    """Stored predictions of a method, one file a training seed."""
    frame = ResultStore(STORE).frame([dataset])
    keep = (frame["method"] == method) & (frame["variant"] == variant) & (frame["regime"] == regime)
    if dataset == "synth":
        keep &= frame["revision"] == QUARTER
    jobs = sorted(frame[keep]["job_id"].unique())
    return tuple(STORE / "predictions" / dataset / method / f"{job}.parquet" for job in jobs)


def with_predictions(dataset: str, method: str, regime: str) -> tuple[Path, ...]:
    """The same, where they are here."""
    found = files(dataset, method, regime)
    assert len(found) == 3
    if not all(path.is_file() for path in found):
        pytest.skip("intervals need predictions, which are not committed; `msabench run` on the suite makes them")
    return found


def bounds(dataset: str, method: str, regime: str, cells: list[str]) -> dict[str, tuple[float, float]]:
    return intervals(with_predictions(dataset, method, regime), "sentiment", "corr", cells)


def mean_over_missing(method: str, regime: str) -> float:
    """Correlation averaged over the six missing conditions and the seeds; a constant answer counts as 0."""
    frame = ResultStore(STORE).frame(["synth"])
    jobs = {path.stem for path in files("synth", method, regime)}
    cells = [f"inter/{letters}" for letters in MISSING_CONDITIONS]
    values = frame[frame["job_id"].isin(jobs) & frame["cell"].isin(cells)]["corr"]
    assert len(values) == 18
    return float(values.fillna(0.0).mean())


def means(dataset: str, method: str, regime: str) -> dict[str, float]:
    """Correlation by cell, averaged over seeds; a constant answer makes it NaN."""
    frame = ResultStore(STORE).frame([dataset])
    mine = frame[frame["job_id"].isin({path.stem for path in files(dataset, method, regime)})]
    return {str(cell): float(values.mean(skipna=False)) for cell, values in mine.groupby("cell")["corr"]}


def lower_bound(r: float, n: int) -> float:
    """95 % bound of a correlation by Fisher's transformation, as if the seeds were one: rougher than the bootstrap."""
    return math.tanh(math.atanh(r) - 1.96 / math.sqrt(n - 3))


@pytest.mark.parametrize("method", REGIMES)
def test_records_alone_say_what_the_intervals_say(method: str) -> None:
    found = means("synth", method, REGIMES[method])
    for cell in INTER:
        if (method, cell.available) not in NOT_FOUND:
            assert lower_bound(found[str(cell)], 170) > 0, cell
    real = means("mosei_video", method, REGIMES[method])
    assert all(lower_bound(real[f"inter/{letters}"], 179) > 0 for letters in ("l", "la", "lv", "lav"))


def test_methods_find_what_a_linear_probe_finds() -> None:
    probe = describe(open_corpus("synth", size=(320, 60, 170), length=20))["probe"]
    readable = [cell.available for cell in INTER if probe[cell.available]["r"] >= READABLE]
    assert len(readable) == 7
    lost = set()
    for method, regime in REGIMES.items():
        found = bounds("synth", method, regime, [f"inter/{letters}" for letters in readable])
        # No interval is a NaN: a constant finds nothing.
        lost |= {(method, letters) for letters in readable if not found[f"inter/{letters}"][0] > 0}
    assert lost == NOT_FOUND


@pytest.mark.parametrize("method", REGIMES)
def test_training_as_the_paper_does_beats_a_plain_model_on_complete_data(method: str) -> None:
    ours, plain = mean_over_missing(method, REGIMES[method]), mean_over_missing("lf_dnn", "complete")
    assert ours > plain


@pytest.mark.parametrize("method", REGIMES)
def test_methods_learn_from_text_on_real_input(method: str) -> None:
    cells = [f"inter/{letters}" for letters in ("l", "la", "lv", "lav")]
    found = bounds("mosei_video", method, REGIMES[method], cells)
    assert min(found[cell][0] for cell in cells) > 0


@pytest.mark.parametrize("method", REGIMES)
def test_every_row_of_the_ablation_tables_is_recorded(method: str) -> None:
    drafts = read_suite(SUITES / f"{method}_smoke.yaml").drafts
    words = [word for draft in drafts for word in draft.overrides]
    variants = {word.partition("=")[2] for word in words if word.startswith("--model.init_args.variant=")}
    assert len(variants) >= 3
    for variant in variants:
        assert len(files("synth", method, REGIMES[method], variant)) == 3, variant


def test_a_constant_answer_has_no_correlation() -> None:
    assert math.isnan(means("synth", "kt", "complete")["inter/a"])


BASELINES = (
    *("lf_dnn", "mult", "self_mm", "tetfn", "misa", "mmim", "almt", "lnln", "cubemlp", "emoe", "dmd"),
    *("corrkd", "hrlf"),
)


def test_what_missing_data_in_training_changes() -> None:
    gains = {name: mean_over_missing(name, "mixed") - mean_over_missing(name, "complete") for name in BASELINES}
    assert gains.pop("lf_dnn") == pytest.approx(0.098, abs=5e-4)
    assert (round(min(gains.values()), 3), round(max(gains.values()), 3)) == (-0.060, 0.022)


@pytest.mark.parametrize("method", BASELINES)
def test_which_change_is_more_than_chance(method: str) -> None:
    trained = []
    for regime in ("mixed", "complete"):
        by_seed = dict(enumerate(in_order_of_seeds(with_predictions("synth", method, regime))))
        trained.append(resampled(by_seed, "sentiment", "corr", ["avg_missing"]))
    change = paired_differences(*trained)["avg_missing"]
    if method == "lf_dnn":
        assert (round(change.low, 3), round(change.high, 3)) == (0.013, 0.203)
    else:
        assert change.low < 0 < change.high


def in_order_of_seeds(paths: tuple[Path, ...]) -> list[Path]:
    seeds = {job.key.job_id: job.key.seed for job in ResultStore(STORE).jobs()}
    return sorted(paths, key=lambda path: seeds[path.stem])


def test_methods_on_complete_data_keep_a_correlation_without_text_and_not_always_classes() -> None:
    frame = ResultStore(STORE).frame(["synth"])
    collapsed = {"inter/a": 0, "inter/av": 0}
    for method in BASELINES:
        assert means("synth", method, "complete")["inter/av"] > 0
        jobs = {path.stem for path in files("synth", method, "complete")}
        for cell in collapsed:
            collapsed[cell] += bool(frame[frame["job_id"].isin(jobs) & (frame["cell"] == cell)]["collapsed"].any())
    assert collapsed == {"inter/a": 8, "inter/av": 2}

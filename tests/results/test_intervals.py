"""Metrics of resamples, and the intervals made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msabench.errors import MSABenchError
from msabench.metrics.functional import compute
from msabench.metrics.spec import metric_keys
from msabench.metrics.weighted import WeightedClips, weighted_metric
from msabench.missingness.conditions import INTER, Cell
from msabench.results import predictions
from msabench.results.intervals import intervals
from msabench.results.predictions import CellPredictions, Evaluation
from msabench.results.resample import clip_counts


def drawn(metric_set: str, seed: int, n: int = 23, m: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Labels and M predictions with ties, zeros and values on the edges of bins."""
    rng = np.random.default_rng(seed)
    if metric_set == "emotions":
        return rng.integers(0, 2, (n, 4)), rng.normal(size=(m, n, 4, 2)).astype(np.float32)
    labels = (rng.integers(-15, 16, n) / 5).astype(np.float32)
    return labels, (labels + rng.integers(-10, 11, (m, n)) / 10).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["sentiment", "sims", "emotions"]))
def test_weights_do_what_repeated_clips_do(seed: int, metric_set: str) -> None:
    labels, preds = drawn(metric_set, seed)
    counts = np.random.default_rng(seed + 1).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=4)
    found = {key: weighted_metric(metric_set, key, labels, preds, counts) for key in metric_keys(metric_set)}
    for d, count in enumerate(counts):
        rows = np.repeat(np.arange(len(labels)), count)
        for m, pred in enumerate(preds):
            for key, value in compute(metric_set, labels[rows], pred[rows]).items():
                assert found[key][d, m] == pytest.approx(value, abs=1e-9, nan_ok=True), key


@pytest.mark.parametrize("metric_set", ["sentiment", "sims", "emotions"])
def test_counting_metrics_of_many_predictions_are_those_of_each_to_the_bit(metric_set: str) -> None:
    labels, preds = drawn(metric_set, 0, n=61, m=40)
    clips = WeightedClips(metric_set, labels, clip_counts(61, 50))
    for key in metric_keys(metric_set):
        each = np.concatenate([weighted_metric(metric_set, key, labels, p[None], clips.weights) for p in preds], axis=1)
        assert clips.is_exact(key) == (key not in ("mae", "corr"))
        if clips.is_exact(key):
            assert np.array_equal(clips.metric(key, preds), each, equal_nan=True), key
        else:
            assert np.allclose(clips.metric(key, preds), each)
    assert not WeightedClips(metric_set, labels, clips.weights).is_exact("acc2_has0"), "these may be any numbers"


def test_undefined_in_a_resample_is_nan() -> None:
    labels, preds = np.array([1.0, -1.0, 0.0]), np.array([[2.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
    only_zero, first_two = np.array([[0, 0, 3]]), np.array([[2, 1, 0]])
    assert np.isnan(weighted_metric("sentiment", "f1_non0", labels, preds, only_zero)).all()
    assert np.isnan(weighted_metric("sentiment", "corr", labels, preds, only_zero)).all()
    assert np.isnan(weighted_metric("sentiment", "corr", labels, preds, first_two)[0, 0])
    assert weighted_metric("sentiment", "corr", labels, preds, first_two)[0, 1] == pytest.approx(-1)


def test_rounding_noise_has_no_correlation() -> None:
    labels = np.linspace(-3, 3, 40).astype(np.float32)
    noise = np.nextafter(np.float32(0.3), np.float32(1)) - np.float32(0.3)
    preds = np.float32(0.3) + noise * np.random.default_rng(0).integers(-1, 2, 40).astype(np.float32)
    assert np.ptp(preds) > 0
    assert np.isnan(compute("sentiment", labels, preds)["corr"])
    assert np.isnan(weighted_metric("sentiment", "corr", labels, preds[None], np.ones((1, 40)))).all()
    # What is small but above rounding counts.
    assert compute("sentiment", labels, np.float32(0.3) + 1e-5 * labels)["corr"] == pytest.approx(1, abs=1e-3)


def stored(path: Path, seeds: int, n: int = 60, noise: float = 1.0) -> list[Path]:
    """Prediction files of some training seeds over all inter cells, by chance of different quality."""
    rng = np.random.default_rng(5)
    labels = rng.normal(size=n).astype(np.float32)
    files = []
    for seed in range(seeds):
        cells = [
            CellPredictions(cell, None, (labels + noise * rng.normal(size=n)).astype(np.float32), "", {})
            for cell in INTER
        ]
        holes = Cell.parse("intra/0.5")
        cells += [
            CellPredictions(holes, mask, (labels + noise * rng.normal(size=n)).astype(np.float32), "", {})
            for mask in (0, 1)
        ]
        files.append(path / f"{seed}.parquet")
        predictions.write(files[-1], Evaluation("sentiment", [str(i) for i in range(n)], labels, cells, 0.0))
    return files


def test_intervals_hold_the_mean_and_shrink_with_more_clips(tmp_path: Path) -> None:
    widths = []
    for n in (60, 960):
        (tmp_path / str(n)).mkdir()
        files = stored(tmp_path / str(n), 3, n)
        low, high = intervals(files, "sentiment", "corr", ["inter/l"], 500)["inter/l"]
        values = [
            compute("sentiment", entry.labels, entry.preds)["corr"]
            for file in files
            for entry in predictions.read(file)
            if entry.cell == "inter/l"
        ]
        assert low < np.mean(values) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_an_interval_covers_as_often_as_it_says(tmp_path: Path) -> None:
    """One seed and many test sets of the same source: the source's correlation lies within in about 95 %."""
    rng = np.random.default_rng(0)
    truth, inside, trials = 1 / np.sqrt(2), 0, 120
    for trial in range(trials):
        labels = rng.normal(size=100).astype(np.float32)
        preds = (labels + rng.normal(size=100)).astype(np.float32)
        path = tmp_path / f"{trial}.parquet"
        cell = CellPredictions(INTER[0], None, preds, "", {})
        predictions.write(path, Evaluation("sentiment", [str(i) for i in range(100)], labels, [cell], 0.0))
        low, high = intervals([path], "sentiment", "corr", [str(INTER[0])], 300)[str(INTER[0])]
        inside += low <= truth <= high
    assert 0.86 <= inside / trials <= 1


def test_seeds_that_differ_widen_the_interval(tmp_path: Path) -> None:
    alike = intervals(stored(tmp_path, 3), "sentiment", "mae", ["inter/l"], 500)["inter/l"]
    files = [tmp_path / "other" / f"{seed}.parquet" for seed in range(3)]
    for seed, file in enumerate(files):
        first = predictions.read(tmp_path / "0.parquet")[0]
        cell = CellPredictions(INTER[0], None, first.preds + seed, "", {})
        predictions.write(file, Evaluation("sentiment", first.ids, first.labels, [cell], 0.0))
    differing = intervals(files, "sentiment", "mae", ["inter/l"], 500)["inter/l"]
    assert differing[1] - differing[0] > 2 * (alike[1] - alike[0])


def test_the_order_of_seeds_does_not_matter(tmp_path: Path) -> None:
    files = stored(tmp_path, 4)
    first = intervals(files, "sentiment", "corr", ["inter/l"], 200)
    assert intervals(files[::-1], "sentiment", "corr", ["inter/l"], 200) == first


def test_averages_and_masks_are_taken_within_a_resample(tmp_path: Path) -> None:
    files = stored(tmp_path, 2)
    found = intervals(files, "sentiment", "corr", ["avg_missing", "avg_intra", "intra/0.5", "inter/l"], 400)
    assert set(found) == {"avg_missing", "intra/0.5", "inter/l"}
    low, high = found["inter/l"]
    # A mean over six cells of independent noise varies less than one of them.
    assert found["avg_missing"][1] - found["avg_missing"][0] < high - low


def test_missing_or_foreign_predictions_are_refused(tmp_path: Path) -> None:
    files = stored(tmp_path, 1)
    with pytest.raises(MSABenchError, match="there are no predictions"):
        intervals([*files, tmp_path / "none.parquet"], "sentiment", "corr", ["inter/l"])
    first = predictions.read(files[0])[0]
    cell = CellPredictions(INTER[0], None, first.preds, "", {})
    other = tmp_path / "other.parquet"
    predictions.write(
        other, Evaluation("sentiment", [f"x{i}" for i in range(len(first.ids))], first.labels, [cell], 0.0)
    )
    with pytest.raises(MSABenchError, match="holds other clips"):
        intervals([files[0], other], "sentiment", "corr", ["inter/l"])

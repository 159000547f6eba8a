"""Claims that take minutes to show: ``make slow``. Each prints what it measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from msabench.evaluation import predictions
from msabench.metrics.functional import pearson
from msabench.results.store import ResultStore
from msabench.runner.command import run

pytestmark = pytest.mark.slow
SUITES = Path(__file__).parents[1] / "benchmarks/suites"
DRAWS = 2000

Scores = dict[str, NDArray[np.float64]]
"""Cell -> predictions ``(seeds, clips)``."""


def scores(store: Path, method: str, regime: str) -> tuple[Scores, NDArray[np.float64]]:
    """A method's predictions in the cells without random holes, and the labels."""
    by_cell: dict[str, list[NDArray[np.float64]]] = {}
    labels: NDArray[np.float64] = np.empty(0)
    for job in ResultStore(store).jobs():
        if (job.key.method, job.key.regime) == (method, regime):
            for entry in predictions.read(predictions.path_of(store, job.key)):
                if entry.mask_seed is None:
                    by_cell.setdefault(entry.cell, []).append(entry.preds.astype(np.float64))
                    labels = entry.labels.astype(np.float64)
    return {cell: np.stack(rows) for cell, rows in by_cell.items()}, labels


def mean_corr(found: Scores, labels: NDArray[np.float64], cells: list[str], rows: NDArray[np.int64]) -> float:
    """Correlation on some clips, averaged over cells and seeds."""
    return float(np.mean([pearson(labels[rows], seed[rows]) for cell in cells for seed in found[cell]]))


def interval(statistic: Callable[[NDArray[np.int64]], float], n: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval over clips."""
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.integers(0, n, n)) for _ in range(DRAWS)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def test_training_with_missing_modalities_pays_on_synth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "results"
    assert run(SUITES / "robustness.yaml", store=store, runs=tmp_path / "runs", devices=["cpu"]) == 0
    umdf, labels = scores(store, "umdf", "mixed")
    mult, _ = scores(store, "mult", "complete")
    everything = np.arange(len(labels))
    lost = ["inter/a", "inter/v", "inter/av"]

    def gain(rows: NDArray[np.int64]) -> float:
        return mean_corr(umdf, labels, lost, rows) - mean_corr(mult, labels, lost, rows)

    low, high = interval(gain, len(labels))
    lav = [mean_corr(found, labels, ["inter/lav"], everything) for found in (umdf, mult)]
    with capsys.disabled():
        print(
            f"\nsynth (320 training clips), 3 seeds: correlation over a, v, av: umdf (mixed) minus mult (complete) "
            f"{gain(everything):+.3f}, 95 % interval {low:+.3f} to {high:+.3f}; on lav {lav[0]:.3f} and {lav[1]:.3f}"
        )
    assert low > 0
    assert lav[0] > lav[1] - 0.05


@pytest.mark.real
@pytest.mark.skipif("MSABENCH_DATA" not in os.environ, reason="needs MOSEI-video-898 in the folder MSABENCH_DATA")
def test_methods_learn_on_real_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "results"
    methods = ["umdf", "mult"]
    assert run(SUITES / "mosei_video.yaml", store=store, runs=tmp_path / "runs", methods=methods, devices=["cpu"]) == 0
    found = {method: scores(store, method, "mixed") for method in methods}
    for method, (cells, labels) in found.items():
        lav = mean_corr(cells, labels, ["inter/lav"], np.arange(len(labels)))
        with capsys.disabled():
            print(f"\nMOSEI-video-898 (pooled), 3 seeds: correlation of {method} on lav {lav:.3f}")
        assert lav >= 0.5
    cells, labels = found["umdf"]
    ensemble = cells["inter/av"].mean(0)
    low, high = interval(lambda rows: pearson(labels[rows], ensemble[rows]), len(labels))
    with capsys.disabled():
        whole = pearson(labels, ensemble)
        print(f"umdf on av, predictions averaged over seeds: {whole:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    assert low > 0

"""Claims that take minutes to show: ``make slow``. Each prints what it measured."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from msabench.results import predictions
from msabench.results.aggregate import DRAWS
from msabench.results.resample import (
    Runs,
    clip_counts,
    over_resamples,
    percentiles,
    read_runs,
    seed_shares,
    seed_values,
)
from msabench.results.store import ResultStore
from msabench.runner.command import run

pytestmark = pytest.mark.slow
SUITES = Path(__file__).parents[2] / "benchmarks/suites"


def files(store: Path, method: str, regime: str) -> list[Path]:
    """A method's stored predictions, one file a training seed, by seed."""
    jobs = sorted(ResultStore(store).jobs(), key=lambda job: job.key.seed)
    return [predictions.path_of(store, job.key) for job in jobs if (job.key.method, job.key.regime) == (method, regime)]


def corr(runs: Runs, cells: list[str]) -> float:
    """Correlation averaged over cells and seeds."""
    values = seed_values(runs, "sentiment", "corr", np.ones((1, len(runs.ids))), cells)
    assert list(values) == cells
    return float(np.mean([values[cell] for cell in cells]))


def resampled(runs: Runs, cells: list[str]) -> NDArray[np.float64]:
    """The same in each resample of clips and seeds."""
    values = seed_values(runs, "sentiment", "corr", clip_counts(len(runs.ids), DRAWS), cells)
    found = over_resamples(values, seed_shares(runs.n_seeds, DRAWS))
    mean: NDArray[np.float64] = np.mean([found[cell] for cell in cells], axis=0)
    return mean


def test_training_with_missing_modalities_pays_on_synth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "results"
    assert run(SUITES / "robustness.yaml", store=store, runs=tmp_path / "runs", devices=["cpu"]) == 0
    umdf, mult = read_runs(files(store, "umdf", "mixed")), read_runs(files(store, "mult", "complete"))
    lost = ["inter/a", "inter/v", "inter/av"]
    # Both were trained under the same seeds, which are drawn in pairs.
    low, high = percentiles(resampled(umdf, lost) - resampled(mult, lost))
    gain = corr(umdf, lost) - corr(mult, lost)
    lav = [corr(found, ["inter/lav"]) for found in (umdf, mult)]
    with capsys.disabled():
        print(
            f"\nsynth (320 training clips), 3 seeds: correlation over a, v, av: umdf (mixed) minus mult (complete) "
            f"{gain:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}; on lav {lav[0]:.3f} and {lav[1]:.3f}"
        )
    assert low > 0
    assert lav[0] > lav[1] - 0.05


@pytest.mark.real
@pytest.mark.skipif("MSABENCH_DATA" not in os.environ, reason="needs MOSEI-video-898 in the folder MSABENCH_DATA")
def test_methods_learn_on_real_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "results"
    methods = ["umdf", "mult"]
    assert run(SUITES / "mosei_video.yaml", store=store, runs=tmp_path / "runs", methods=methods, devices=["cpu"]) == 0
    found = {method: read_runs(files(store, method, "mixed")) for method in methods}
    for method, runs in found.items():
        lav = corr(runs, ["inter/lav"])
        with capsys.disabled():
            print(f"\nMOSEI-video-898 (pooled), 3 seeds: correlation of {method} on lav {lav:.3f}")
        assert lav >= 0.5
    umdf = found["umdf"]
    ensemble = replace(umdf, cells={"inter/av": [np.mean(umdf.cells["inter/av"], axis=0)]}, n_seeds=1)
    low, high = percentiles(resampled(ensemble, ["inter/av"]))
    with capsys.disabled():
        whole = corr(ensemble, ["inter/av"])
        print(f"umdf on av, predictions averaged over seeds: {whole:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    assert low > 0

"""How often paired comparisons find a difference where there is none; ``python -m tests.support.calibration`` says.

Clips differ in how hard they are, for all methods alike and for each method; trainings differ from seed to seed in how
well they read the labels, by ``spread``, and in which clips they get wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from msabench.metrics.functional import pearson
from msabench.results.paired import Resampled, paired_differences
from msabench.results.resample import Runs, clip_counts, seed_values

CELL = "inter/lav"
CLIPS = 100
DRAWS = 300
SPREADS = (0.0, 0.15, 0.4)


def runs(labels: NDArray[np.float32], preds: NDArray[np.float64]) -> Runs:
    """Runs in one cell; ``preds`` are ``(seeds, clips)``."""
    seeds = [row[None].astype(np.float32) for row in preds]
    return Runs([str(i) for i in range(len(labels))], labels, {CELL: seeds}, len(seeds))


def made(
    labels: NDArray[np.float32], preds: NDArray[np.float64], seeds: tuple[int, ...], draws: int = DRAWS
) -> Resampled:
    """The resampled correlation of runs."""
    found = runs(labels, preds)
    weights = (np.ones((1, len(labels))), clip_counts(len(labels), draws))
    values = [seed_values(found, "sentiment", "corr", weight, [CELL]) for weight in weights]
    return Resampled(found.ids, seeds, *values)


def trial(rng: np.random.Generator, seeds: int, spread: float, gain: float = 0.0) -> tuple[float, float]:
    """Compare two methods on new clips after new trainings.

    Args:
        rng: Source of everything.
        seeds: Trainings of each method.
        spread: How much trainings differ.
        gain: How much better the first method reads the labels.

    Returns:
        The p value, and the standard deviation of the correlation over the seeds of one method.
    """
    labels = rng.normal(size=CLIPS).astype(np.float32)
    hard = rng.normal(size=CLIPS)

    def method(strength: float) -> NDArray[np.float64]:
        reading = np.clip(strength + spread * rng.normal(size=(seeds, 1)), 0.05, None)
        return reading * labels + hard + 0.6 * rng.normal(size=CLIPS) + 0.5 * rng.normal(size=(seeds, CLIPS))

    preds = [method(1.0 + gain), method(1.0)]
    ours, base = (made(labels, found, tuple(range(seeds))) for found in preds)
    deviation = float(np.std([pearson(labels, row) for row in preds[1]], ddof=1)) if seeds > 1 else 0.0
    return paired_differences(ours, base)[CELL].p, deviation


def main(trials: int = 1000) -> None:
    """Print the share of trials with p below 5 %, by number of seeds and by how much they differ."""
    print("| seeds | " + " | ".join(f"spread {spread}" for spread in SPREADS) + " |")
    deviations: dict[float, list[float]] = {spread: [] for spread in SPREADS}
    for seeds in (1, 3, 5, 10):
        found = []
        for spread in SPREADS:
            rng = np.random.default_rng(1)
            results = [trial(rng, seeds, spread) for _ in range(trials)]
            found.append(f"{np.mean([p < 0.05 for p, _ in results]):.3f}")
            deviations[spread] += [deviation for _, deviation in results if seeds == 10]
        print(f"| {seeds} | " + " | ".join(found) + " |", flush=True)
    print("| sd of the correlation over seeds | " + " | ".join(f"{np.mean(d):.2f}" for d in deviations.values()) + " |")


if __name__ == "__main__":
    main()

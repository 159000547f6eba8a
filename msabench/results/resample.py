"""Resamples of test clips and training seeds, which every interval and every test here is made of.

A resample draws test clips with replacement, the same for all methods, seeds, masks and cells, and training seeds with
replacement. Clips and seeds are crossed, since every seed is tested on every clip; drawing both is the pigeonhole
bootstrap (A. B. Owen, Annals of Applied Statistics 1, 2007), which errs on the wide side where seeds differ in which
clips they get right. Of n seeds n - 1 are drawn (J. N. K. Rao and C. F. J. Wu, JASA 83, 1988), so that the mean over
few seeds varies as much as it should: drawing all n of them, three seeds would seem a third less uncertain.

The holes of a clip are drawn apart from those of all others, so that drawing clips draws their holes as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.errors import MSABenchError
from msabench.metrics.spec import metric_spec
from msabench.metrics.weighted import WeightedClips
from msabench.results import predictions
from msabench.results.aggregate import LEVEL
from msabench.results.derived import derived, made_of, put_together

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Runs:
    """Predictions of one method over its training seeds, on one test set. N clips.

    Attributes:
        ids: Clip ids.
        labels: ``(N,)`` scores, or ``(N, 4)`` emotions.
        cells: Cell -> one array per training seed that has the cell, ``(masks, N)`` scores or ``(masks, N, 4, 2)``
            logits.
        n_seeds: Number of training seeds.
    """

    ids: list[str]
    labels: NDArray[Any]
    cells: dict[str, list[NDArray[np.float32]]]
    n_seeds: int
    _weighted: list[tuple[str, NDArray[Any], WeightedClips]] = field(default_factory=list, repr=False, compare=False)

    def weighted(self, metric_set: str, weights: NDArray[Any]) -> WeightedClips:
        """The clips under some weightings; the last that were asked for are kept."""
        for name, asked, made in self._weighted:
            if name == metric_set and asked is weights:
                return made
        found = WeightedClips(metric_set, self.labels, weights)
        self._weighted[:] = [(metric_set, weights, found)]
        return found


def read_runs(files: Sequence[Path]) -> Runs:
    """Read stored predictions, one file a training seed.

    Raises:
        MSABenchError: A file is missing, or files hold different clips.
    """
    cells: dict[str, list[NDArray[np.float32]]] = {}
    first: predictions.StoredCell | None = None
    for path in files:
        if not path.is_file():
            raise MSABenchError(
                f"there are no predictions {path}, which this is made of; they stay on the machine that made them, so "
                "run the suite into a store of your own: `msabench run --suite SUITE --store STORE`"
            )
        by_cell: dict[str, list[predictions.StoredCell]] = {}
        for entry in predictions.read(path):
            by_cell.setdefault(entry.cell, []).append(entry)
        here = next(iter(by_cell.values()))[0]
        first = first or here
        if here.ids != first.ids:
            raise MSABenchError(f"{path} holds other clips than {files[0]}; give results on one test set")
        for cell, entries in by_cell.items():
            cells.setdefault(cell, []).append(np.stack([entry.preds for entry in entries]))
    if first is None:
        raise MSABenchError("there are no files of predictions to read")
    return Runs(first.ids, first.labels, cells, len(files))


def clip_counts(n_clips: int, draws: int) -> NDArray[np.int64]:
    """How often each clip is drawn in each resample: ``(draws, n_clips)``, rows sum to ``n_clips``.

    A function of its arguments alone, so that everything on one test set is resampled alike.
    """
    return np.random.default_rng([0, n_clips]).multinomial(n_clips, [1 / n_clips] * n_clips, size=draws)


def seed_shares(n_seeds: int, draws: int, stream: int = 0) -> Floats:
    """Weight of each training seed in each resample: ``(draws, n_seeds)``, rows sum to 1. One seed always counts 1.

    Args:
        n_seeds: Number of training seeds.
        draws: Number of resamples.
        stream: Different numbers give independent draws.
    """
    drawn = max(n_seeds - 1, 1)
    rng = np.random.default_rng([1, stream])
    return rng.multinomial(drawn, [1 / n_seeds] * n_seeds, size=draws) / drawn


def seed_values(
    runs: Runs, metric_set: str, metric: str, weights: NDArray[Any], cells: Sequence[str]
) -> dict[str, Floats]:
    """A metric under D weightings of the clips, for each training seed: the mean over its test masks.

    Args:
        runs: The predictions.
        metric_set: Metric set of the corpus.
        metric: Metric key.
        weights: ``(D, N)``, e.g. ``clip_counts``; a row of ones gives the metric itself.
        cells: Cell names, keys of ``AVERAGES``, names of derived quantities.

    Returns:
        Cell, average or quantity -> ``(D, seeds)``, NaN where the metric is undefined. Cells that not every seed has,
        averages and quantities of which a cell is lacking, and quantities that the metric does not have, are left out.
    """
    spec = metric_spec(metric, metric_set)
    having = [cell for cell in cells if (quantity := derived(cell)) is None or quantity.applies(spec)]
    parts = {cell: made_of(cell) for cell in having}
    wanted = {part for names in parts.values() for part in names}
    there = {cell: seeds for cell, seeds in runs.cells.items() if cell in wanted and len(seeds) == runs.n_seeds}
    clips = runs.weighted(metric_set, weights)
    preds = [each for seeds in there.values() for each in seeds]
    if preds and clips.is_exact(metric):
        bounds = np.cumsum([len(each) for each in preds])[:-1]
        found = np.split(clips.metric(metric, np.concatenate(preds)), bounds, axis=1)
    else:
        found = [clips.metric(metric, each) for each in preds]
    means = iter(np.ascontiguousarray(each).mean(axis=1) for each in found)
    whole = {cell: np.stack([next(means) for _ in seeds], axis=1) for cell, seeds in there.items()}
    return {cell: put_together(cell, whole) for cell, names in parts.items() if set(names) <= set(whole)}


def over_resamples(values: Mapping[str, Floats], shares: Floats) -> dict[str, Floats]:
    """Means over training seeds in each resample: cell -> ``(D,)``, from ``seed_values`` and ``seed_shares``."""
    return {cell: (shares * per_seed).sum(axis=1) for cell, per_seed in values.items()}


def percentiles(values: Floats) -> tuple[float, float]:
    """Bounds that hold ``LEVEL`` percent of the resamples ``(D,)``; NaN if one of them is undefined."""
    if np.isnan(values).any():
        return float("nan"), float("nan")
    low, high = np.percentile(values, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)

"""Confusion matrices of rounded scores, as in RECAP's figure 5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.errors import MSABenchError
from msabench.figures.panels import check_panels, panels
from msabench.figures.sheet import Picture
from msabench.figures.words import COLLAPSED, caption, labels, stem
from msabench.metrics.functional import SIMS_CUTS, binned
from msabench.results.chosen_rows import ChosenRows
from msabench.results.resample import Runs, read_runs

CLASSES = {
    "sentiment": tuple("-3 -2 -1 0 1 2 3".split()),
    "sims": ("neg", "weak neg", "neutral", "weak pos", "pos"),
}
"""Metric set -> classes, lowest first: rounded scores, or the five bins of CH-SIMS."""


def classes_of(metric_set: str, scores: NDArray[Any]) -> NDArray[np.int64]:
    """Class of each score, of any shape: those of Acc-7, for CH-SIMS those of Acc-5.

    Raises:
        MSABenchError: The metric set has no scores.
    """
    _require_scores(metric_set)
    if metric_set == "sims":
        return binned(scores.clip(-1, 1).reshape(-1), SIMS_CUTS["acc5"]).reshape(scores.shape)
    return scores.clip(-3, 3).round().astype(np.int64) + 3


def confusion_counts(runs: Runs, metric_set: str, cell: str) -> NDArray[np.int64]:
    """Clips by true class (rows) and predicted class (columns), over all training seeds and test masks: ``(C, C)``."""
    n = len(CLASSES[metric_set])
    true = classes_of(metric_set, runs.labels)
    counts = np.zeros((n, n), dtype=np.int64)
    for preds in runs.cells[cell]:
        np.add.at(counts, (np.broadcast_to(true, preds.shape), classes_of(metric_set, preds)), 1)
    return counts


def confusion(chosen: ChosenRows, chosen_tables: Sequence[ChosenRows], cells: Sequence[str], store: Path) -> Picture:
    """One matrix for each row and cell, each row of it in percent of the true class.

    Args:
        chosen: The rows.
        chosen_tables: All that are drawn, for the file's name.
        cells: Cell names.
        store: Folder of the result store, for its predictions.

    Raises:
        MSABenchError: Predictions or a cell of them are missing, the corpus has no scores, or there are too many
            panels.
    """
    table = chosen.table
    check_panels(chosen, cells)
    _require_scores(table.metric_set)
    classes = CLASSES[table.metric_set]
    kind = "rounded score" if table.metric_set == "sentiment" else "one of five bins"
    said = caption(
        chosen,
        f"Percent of the clips of each true class, {kind}; all training seeds and test masks are pooled.",
        cells=cells,
        metric=False,
    )
    figure, axes = panels(chosen, cells, said, size=2.2)
    for place, label in enumerate(labels(chosen)):
        runs = read_runs(list(chosen.files(place, store).values()))
        for number, cell in enumerate(cells):
            if cell not in runs.cells:
                raise MSABenchError(f"{label} has no predictions in cell {cell}; it has {', '.join(runs.cells)}")
            counts = confusion_counts(runs, table.metric_set, cell)
            _draw(axes[place][number], counts, classes)
            collapsed = table.rows[place].entries[cell].n_collapsed
            axes[place][number].set_title(f"{label}, {cell}" + (f" {COLLAPSED}" if collapsed else ""), fontsize=7.5)
    return Picture(stem("confusion", chosen, chosen_tables, *(cell.replace("/", "-") for cell in cells)), figure)


def _require_scores(metric_set: str) -> None:
    if metric_set not in CLASSES:
        raise MSABenchError(
            f"confusion matrices are of scores, and a corpus with {metric_set} has none; leave it out with --datasets"
        )


def _draw(axes: Any, counts: NDArray[np.int64], classes: Sequence[str]) -> None:
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(100 * counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axes.grid(visible=False)
    for (i, j), value in np.ndenumerate(share):
        if not np.isnan(value):
            axes.text(
                j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color="white" if value > 55 else "black"
            )
    long = max(map(len, classes)) > 3
    axes.set_xticks(range(len(classes)), classes, rotation=45 if long else 0)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")

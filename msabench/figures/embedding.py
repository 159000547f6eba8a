"""t-SNE of joint representations, as in UMDF's figure 6, FSRF's 3, PRLF's 6 and RECAP's 6."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.errors import MSABenchError
from msabench.evaluation import representations
from msabench.figures.panels import check_panels, panels
from msabench.figures.sheet import Picture
from msabench.figures.words import caption, labels, stem
from msabench.results import predictions
from msabench.results.chosen_rows import ChosenRows

Floats = NDArray[np.float64]

PERPLEXITY = 30
SEED = 0


def within_share(representation: NDArray[Any], classes: NDArray[Any]) -> tuple[float, float]:
    """Cluster variance: the share of a representation's variance that lies within classes.

    Sum of squared distances of clips to the mean of their class, by that to the mean of all clips, in the space of the
    representation, not of its t-SNE. 0 if each class is a point, 1 if all classes have the same mean.

    Args:
        representation: ``(N, H)``.
        classes: ``(N,)``.

    Returns:
        The share, and what it is on average if classes are dealt at random, ``(N - C) / (N - 1)`` for C classes. Both
        are NaN if all clips have one representation.

    >>> within_share(np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1]))[0].__round__(4)
    0.0385
    """
    x = representation.astype(np.float64)
    total = float(np.square(x - x.mean(axis=0)).sum())
    if total == 0:
        return float("nan"), float("nan")
    kinds = np.unique(classes)
    within = sum(float(np.square(x[classes == kind] - x[classes == kind].mean(axis=0)).sum()) for kind in kinds)
    return within / total, (len(x) - len(kinds)) / (len(x) - 1)


def embedded(representation: NDArray[Any]) -> Floats:
    """t-SNE ``(N, 2)`` of representations ``(N, H)``, the same at every call.

    Raises:
        MSABenchError: There are fewer than 5 clips.
    """
    if len(representation) < 5:
        raise MSABenchError(
            f"t-SNE of {len(representation)} clips says nothing; give a corpus with at least 5 test clips"
        )
    perplexity = min(PERPLEXITY, (len(representation) - 1) / 3)
    from sklearn.manifold import TSNE

    model = TSNE(n_components=2, init="pca", perplexity=perplexity, random_state=SEED)
    found: Floats = model.fit_transform(representation.astype(np.float64))
    return found


def tsne(chosen: ChosenRows, chosen_tables: Sequence[ChosenRows], cells: Sequence[str], store: Path) -> Picture:
    """One panel for each row and cell, of the first training seed and test mask, coloured by label.

    Args:
        chosen: The rows.
        chosen_tables: All that are drawn, for the file's name.
        cells: Cell names.
        store: Folder of the result store, for its representations.

    Raises:
        MSABenchError: Representations or a cell of them are missing, the corpus has no scores, or there are too many
            panels.
    """
    table = chosen.table
    check_panels(chosen, cells)
    if table.metric_set == "emotions":
        raise MSABenchError(f"t-SNE is coloured by score, and {table.dataset} has none; leave such corpora out")
    seeds = _seeds(chosen, store)
    made = [_kept(chosen, place, seed, cells, store) for place, seed in enumerate(seeds)]
    said = caption(
        chosen,
        f"t-SNE (perplexity {PERPLEXITY}, seed {SEED}) of the joint representations of the test clips, of one training "
        f"(seed {' or '.join(map(str, sorted(set(seeds))))}) and one draw of holes.",
        "V: cluster variance, the share of the representation's variance within negative, neutral and positive clips "
        "(in brackets: expected if labels were dealt at random).",
        cells=cells,
        pooled=False,
        metric=False,
    )
    figure, axes = panels(chosen, cells, said, size=2.1)
    low, high = float(made[0][0].min()), float(made[0][0].max())
    points: Any = None
    for place, label in enumerate(labels(chosen)):
        scores, kept = made[place]
        name = label if len(set(seeds)) == 1 else f"{label}, seed {seeds[place]}"
        for number, cell in enumerate(cells):
            share, chance = within_share(kept[cell], np.sign(scores))
            panel = axes[place][number]
            x, y = embedded(kept[cell]).T
            # cividis is read alike with and without colour vision deficiencies.
            points = panel.scatter(x, y, c=scores, cmap="cividis", s=5, vmin=low, vmax=high, linewidths=0)
            panel.set_title(f"{name}, {cell}\nV = {share:.3f} ({chance:.3f})", fontsize=7.5)
            panel.set_xticks([])
            panel.set_yticks([])
            panel.grid(visible=False)
    figure.subfigs[0].colorbar(
        points, ax=[panel for line in axes for panel in line], label="label", shrink=0.8, aspect=30
    )
    return Picture(stem("tsne", chosen, chosen_tables, *(cell.replace("/", "-") for cell in cells)), figure)


def _seeds(chosen: ChosenRows, store: Path) -> list[int]:
    """For each row, the training seed to show: the lowest that all rows have representations of, or the row's own."""
    there = [
        {seed for seed, path in chosen.files(place, store).items() if representations.beside(path).is_file()}
        for place in range(len(chosen.table.rows))
    ]
    shared = set.intersection(*there)
    # Where a row has none, reading says which file is missing.
    return [min(shared or own or chosen.jobs[place]) for place, own in enumerate(there)]


def _kept(
    chosen: ChosenRows, place: int, seed: int, cells: Sequence[str], store: Path
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """A row's labels ``(N,)``; cell -> representations ``(N, H)`` under one training seed and the first test mask."""
    path = chosen.files(place, store)[seed]
    found = representations.read(representations.beside(path))
    stored = predictions.read(path)[0]
    if stored.ids != found.ids:
        raise MSABenchError(
            f"{representations.beside(path)} and {path} hold different clips; keep the representations again"
        )
    shown = {}
    for cell in cells:
        masks = sorted((mask or 0, mask) for name, mask in found.cells if name == cell)
        if not masks:
            there = ", ".join(dict.fromkeys(name for name, _ in found.cells))
            raise MSABenchError(
                f"{representations.beside(path)} holds no representations of cell {cell}, only of {there}"
            )
        shown[cell] = found.cells[cell, masks[0][1]]
    return stored.labels, shown

"""Draws the pictures of README from a store: ``python docs/pictures.py runs/demo/results``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

from msabench.data.info import dataset_info
from msabench.missingness.conditions import INTRA
from msabench.results.aggregate import over_seeds
from msabench.results.store import ResultStore
from msabench.tables.command import table

FOLDER = Path(__file__).parent / "img"
# Okabe and Ito's palette: distinguishable by readers with colour vision deficiencies; markers differ as well.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7")
MARKERS = ("s", "o", "^", "D", "v")


def main(store: Path, dataset: str = "synth", metric: str = "f1_non0") -> None:
    """Draw curve.png and table.png."""
    mpl.use("Agg")
    FOLDER.mkdir(exist_ok=True)
    draw_curve(store, dataset, metric)
    draw_table(store, dataset, metric)


def draw_curve(store: Path, dataset: str, metric: str) -> None:
    """Metric over the share of dropped frames, one line per method, with the standard deviation over seeds."""
    import matplotlib.pyplot as plt

    frame = ResultStore(store).frame([dataset])
    summary = over_seeds(frame, metric)
    figure, axes = plt.subplots(figsize=(7, 4), dpi=150)
    names = [str(cell) for cell in INTRA]
    for (method, rows), colour, marker in zip(summary.groupby("method"), COLOURS, MARKERS, strict=False):
        rows = rows.set_index("cell").loc[names]
        axes.errorbar(
            [float(cell.rate) for cell in INTRA],
            100 * rows["mean"],
            yerr=100 * rows["std"],
            label=method,
            color=colour,
            marker=marker,
            capsize=2,
        )
    axes.set_xlabel("share of frames dropped in every modality")
    axes.set_ylabel("F1 (weighted, zeros dropped), percent")
    axes.set_title(f"{dataset_info(dataset).title}: trained with missing modalities", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(FOLDER / "curve.png")


def draw_table(store: Path, dataset: str, metric: str) -> None:
    """The text of ``msabench table``, as a terminal shows it."""
    import matplotlib.pyplot as plt

    text = table(datasets=[dataset], metric=metric, grid=["inter"], store=store)
    lines = text.splitlines()
    figure = plt.figure(figsize=(0.078 * max(map(len, lines)), 0.17 * len(lines) + 0.2), dpi=150)
    figure.text(0.01, 0.99, text, family="monospace", fontsize=9, va="top")
    figure.savefig(FOLDER / "table.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Draws the pictures of README from a store: ``python docs/pictures.py runs/demo/results``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl

from msabench.figures.command import figures
from msabench.tables.command import table

FOLDER = Path(__file__).parent / "img"


def main(store: Path, dataset: str = "synth", metric: str = "f1_non0") -> None:
    """Draw curve.png and table.png."""
    mpl.use("Agg")
    FOLDER.mkdir(exist_ok=True)
    draw_curve(store, dataset, metric)
    draw_table(store, dataset, metric)


def draw_curve(store: Path, dataset: str, metric: str) -> None:
    """Metric over the share of dropped frames, one line per method, with intervals."""
    with tempfile.TemporaryDirectory() as folder:
        written = figures("robustness", [dataset], metric=metric, store=store, out=Path(folder)).splitlines()
        [picture] = [path for path in written if path.endswith(".png")]
        shutil.copyfile(picture, FOLDER / "curve.png")


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

"""What every figure shares: size, fonts, colours, the caption inside it, and how it is written."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msabench.files import replacing
from msabench.optional import require
from msabench.results.table import CONSTANT, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

COLUMN = 3.4
"""Width in inches of a figure in one column of a two-column page."""

PAGE = 7.0
"""Width in inches of a figure over both columns."""

CAPTION_SIZE = 7
"""Size in points of the smallest text in a figure."""

MOST_ROWS = 10
"""More rows than this cannot be told apart by colour, marker and line together."""

# Okabe and Ito's palette without its yellow, which is too light on paper: distinguishable by readers with colour vision
# deficiencies. Markers and lines differ as well, for print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "h", "<", ">", "p")
LINES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)))
CONSTANT_COLOUR = "#777777"

SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.6,
    # Letters stay letters, so that the text of a PDF can be searched and edited.
    "pdf.fonttype": 42,
}


@dataclass
class Picture:
    """A finished figure.

    Attributes:
        stem: Name of its files, without suffix.
        figure: The figure.
    """

    stem: str
    figure: Figure


@contextmanager
def drawing() -> Iterator[None]:
    """Draw and save within this: it sets fonts and sizes, and draws into memory.

    Raises:
        MSABenchError: Matplotlib is not installed.
    """
    mpl = require("matplotlib")
    with mpl.rc_context(SETTINGS):
        yield


def sheet(width: float, height: float, caption: Sequence[str]) -> tuple[Figure, SubFigure]:
    """An empty figure with a caption at its foot.

    Args:
        width: Inches.
        height: Inches above the caption.
        caption: Sentences; empty ones are left out.

    Returns:
        The figure, and the part above the caption to draw in.
    """
    from matplotlib.figure import Figure

    lines = _wrapped(" ".join(sentence for sentence in caption if sentence), 72 * width - 10)
    foot = (len(lines) * 1.3 * CAPTION_SIZE + 6) / 72
    figure = Figure(figsize=(width, height + foot), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[height, foot])
    above, below = parts
    below.text(5 / 72 / width, 1.0, "\n".join(lines), va="top", fontsize=CAPTION_SIZE, linespacing=1.3)
    return figure, above


def _wrapped(text: str, points: float) -> list[str]:
    """Lines of a text that are no wider than so many points at ``CAPTION_SIZE``."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    measure, font = TextToPath(), FontProperties(family="DejaVu Sans", size=CAPTION_SIZE)

    def width(line: str) -> float:
        return float(measure.get_text_width_height_descent(line, font, ismath=False)[0])

    lines = [""]
    for word in text.replace("$", r"\$").split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and width(longer) > points:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def styles(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Colour, marker and line of each row; the constant predictor is grey and dotted."""
    found: list[dict[str, Any]] = []
    number = 0
    for row in rows:
        if row.method == CONSTANT:
            found.append({"color": CONSTANT_COLOUR, "marker": "", "linestyle": ":"})
            continue
        found.append(
            {
                "color": COLOURS[number % len(COLOURS)],
                "marker": MARKERS[number % len(MARKERS)],
                "linestyle": LINES[number % len(LINES)],
            }
        )
        number += 1
    return found


def stem_of(*words: str) -> str:
    """A file name out of words: what is not a letter, digit, dot, dash or underscore becomes a dash."""
    return "_".join(re.sub(r"[^A-Za-z0-9._-]+", "-", word).strip("-") for word in words if word)


def save(picture: Picture, folder: Path) -> list[Path]:
    """Write a figure as PDF and PNG, each atomically. The same figure gives the same bytes.

    Args:
        picture: The figure.
        folder: Where to; made if it is not there.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {})):
        content = io.BytesIO()
        picture.figure.savefig(content, format=suffix, dpi=300, metadata=metadata)
        paths.append(folder / f"{picture.stem}.{suffix}")
        with replacing(paths[-1]) as stream:
            stream.write(content.getvalue())
    return paths

"""Figures with a panel for each row and cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msabench.errors import MSABenchError
from msabench.figures.sheet import PAGE, sheet
from msabench.results.chosen_rows import ChosenRows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 12
"""More panels than this do not fit on a page."""

ACROSS = 3


def check_panels(chosen: ChosenRows, cells: Sequence[str]) -> None:
    """Refuse more panels than fit on a page.

    Raises:
        MSABenchError: There are more than ``MOST_PANELS``.
    """
    count = len(chosen.table.rows) * len(cells)
    if count > MOST_PANELS:
        raise MSABenchError(
            f"{len(chosen.table.rows)} rows and {len(cells)} cells make {count} panels, and {MOST_PANELS} fit on a "
            "page; name fewer with --methods, --variants and --cells"
        )


def panels(
    chosen: ChosenRows, cells: Sequence[str], caption: Sequence[str], size: float
) -> tuple[Figure, list[list[Any]]]:
    """A figure with a panel for each row and cell.

    Args:
        chosen: The rows.
        cells: Cell names.
        caption: Sentences at the foot.
        size: Height of a panel in inches.

    Returns:
        The figure, and its axes by row and cell.
    """
    rows = len(chosen.table.rows)
    count = rows * len(cells)
    # One cell: panels fill the page line by line. Several: a line for each row, a column for each cell.
    across = min(ACROSS, count) if len(cells) == 1 else len(cells)
    down = -(-count // across)
    width = PAGE * min(1.0, across / ACROSS)
    figure, above = sheet(width, size * down, caption)
    axes = above.subplots(down, across, squeeze=False).ravel().tolist()
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, [axes[place * len(cells) : (place + 1) * len(cells)] for place in range(rows)]

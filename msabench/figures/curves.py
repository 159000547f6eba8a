"""Curves over the share of dropped frames, and bars over available modalities.

As in UMDF's figures 3 and 4, FSRF's 2, PRLF's 4 and RECAP's 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from msabench.errors import MSABenchError
from msabench.figures.sheet import COLUMN, PAGE, Picture, sheet, styles
from msabench.figures.words import axis_label, caption, check_count, labels, scale, stem
from msabench.missingness.conditions import INTER, INTRA, Cell
from msabench.results.aggregate import DRAWS, LEVEL
from msabench.results.chosen_rows import ChosenRows
from msabench.results.table import CONSTANT, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HATCHES = ("", "////", "", "....", "", "\\\\\\\\", "", "xxxx", "", "----")
"""Bars without a hatch are filled, those with one are white."""

FEW_ROWS = 4
"""Up to this many rows fit into one column of a page."""

BANDS = {
    "intervals": f"Error bars: {LEVEL} % bootstrap interval over test clips and training seeds ({DRAWS} resamples).",
    "std": "Error bars: standard deviation over training seeds.",
    "none": "Spread is not shown.",
}
"""Kind of spread -> what the caption says."""


def robustness(chosen: ChosenRows, chosen_tables: Sequence[ChosenRows], band: str) -> Picture:
    """Metric over the probability that a frame is dropped. A missing or undefined point leaves a gap.

    Args:
        chosen: The rows.
        chosen_tables: All that are drawn, for the file's name.
        band: A key of ``BANDS``.

    Raises:
        MSABenchError: There are too many rows, or none has more than one rate.
    """
    check_count(chosen)
    table = chosen.table
    cells = [*INTRA, Cell.parse("intra/1.0")]
    there = {cell for row in table.rows for cell in row.entries}
    cells = [cell for cell in cells if str(cell) in there]
    if len(cells) < 2:
        raise MSABenchError(
            f"{table.dataset} has records of {len(cells)} rates, and a curve needs two; run a suite with the grid intra"
        )
    names = [str(cell) for cell in cells]
    rates = np.array([float(cell.rate) for cell in cells])
    wide = sum(row.method != CONSTANT for row in table.rows) > FEW_ROWS
    absent = [row.label for row in table.rows if np.isnan(spread(row, names, 1.0, "none")[0]).all()]
    said = caption(
        chosen,
        "Every frame of every modality is dropped with probability p.",
        BANDS[band],
        f"Undefined or without records at every rate: {', '.join(absent)}." if absent else "",
        cells=names,
    )
    figure, above = sheet(PAGE if wide else COLUMN, 2.9, said)
    axes = above.subplots()
    shown = zip(table.rows, labels(chosen), styles(table.rows), strict=True)
    for number, (row, label, style) in enumerate(shown):
        # Beside each other, so that bars do not hide bars.
        dodge = 0.007 * (number - (len(table.rows) - 1) / 2)
        mean, low, high = spread(row, names, scale(table), band)
        if np.isnan(mean).all():
            continue
        axes.errorbar(
            rates + dodge,
            mean,
            yerr=np.stack([mean - low, high - mean]),
            label=label,
            capsize=1.2,
            elinewidth=0.6,
            **style,
        )
        mark_collapsed(axes, rates + dodge, mean, row, names)
    axes.set_xticks(rates, [cell.rate for cell in cells])
    axes.set_xlabel("p, share of frames dropped in every modality")
    axes.set_ylabel(axis_label(table))
    if len(absent) < len(table.rows):
        above.legend(loc="outside lower center", ncols=4 if wide else 2)
    return Picture(stem("robustness", chosen, chosen_tables, table.metric.key), figure)


def conditions(chosen: ChosenRows, chosen_tables: Sequence[ChosenRows], band: str) -> Picture:
    """Metric for each of the seven sets of available modalities, one bar per row.

    Args:
        chosen: The rows.
        chosen_tables: All that are drawn, for the file's name.
        band: A key of ``BANDS``.

    Raises:
        MSABenchError: There are too many rows, or none has any of the seven cells.
    """
    check_count(chosen)
    table = chosen.table
    names = [str(cell) for cell in INTER]
    if not any(name in row.entries for row in table.rows for name in names):
        raise MSABenchError(f"{table.dataset} has no records of the grid inter; run a suite with the grid inter")
    said = caption(
        chosen,
        "Available modalities: l language, a audio, v vision.",
        BANDS[band],
        "-: no records; nan: undefined, since predictions are constant." if _has_gaps(table.rows, names) else "",
        cells=names,
    )
    figure, above = sheet(PAGE, 2.6, said)
    axes = above.subplots()
    places = np.arange(len(INTER), dtype=np.float64)
    width = 0.84 / len(table.rows)
    shown = zip(table.rows, labels(chosen), styles(table.rows), strict=True)
    for number, (row, label, style) in enumerate(shown):
        x = places + width * (number - (len(table.rows) - 1) / 2)
        mean, low, high = spread(row, names, scale(table), band)
        axes.bar(
            x,
            mean,
            width * 0.92,
            label=label,
            color="white" if number % 2 else style["color"],
            edgecolor=style["color"],
            hatch=HATCHES[number % len(HATCHES)],
            linewidth=0.8,
        )
        axes.errorbar(
            x, mean, yerr=np.stack([mean - low, high - mean]), fmt="none", ecolor="black", elinewidth=0.6, capsize=1
        )
        mark_collapsed(axes, x, mean, row, names)
        for place, name in zip(x, names, strict=True):
            entry = row.entries.get(name)
            if entry is None or math.isnan(entry.mean):
                axes.annotate(
                    "-" if entry is None else "nan", (place, 0), ha="center", va="bottom", rotation=90, fontsize=7
                )
    axes.axhline(0, color="black", linewidth=0.6)
    axes.grid(visible=False, axis="x")
    axes.set_xticks(places, ["{" + ", ".join(cell.available) + "}" for cell in INTER])
    axes.set_ylabel(axis_label(table))
    above.legend(loc="outside lower center", ncols=4)
    return Picture(stem("conditions", chosen, chosen_tables, table.metric.key), figure)


def spread(
    row: Row, cells: Sequence[str], factor: float, band: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean, lower and upper bound of a row in each cell, times ``factor``; NaN where there is none."""
    found = []
    for cell in cells:
        entry = row.entries.get(cell)
        if entry is None:
            found.append((math.nan, math.nan, math.nan))
        elif band == "intervals":
            found.append((entry.mean, *(entry.interval or (math.nan, math.nan))))
        else:
            width = entry.std if band == "std" else math.nan
            found.append((entry.mean, entry.mean - width, entry.mean + width))
    mean, low, high = factor * np.array(found).T
    return mean, low, high


def mark_collapsed(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], row: Row, cells: Sequence[str]) -> None:
    """Put a cross on the points of a row that collapsed under at least one training seed."""
    marked = [cell in row.entries and row.entries[cell].n_collapsed > 0 for cell in cells]
    axes.scatter(x[marked], y[marked], marker="x", s=22, color="black", linewidths=0.9, zorder=5)


def _has_gaps(rows: Sequence[Row], cells: Sequence[str]) -> bool:
    return any(cell not in row.entries or math.isnan(row.entries[cell].mean) for row in rows for cell in cells)

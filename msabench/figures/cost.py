"""What methods cost against how they stand frames being dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from msabench.errors import MSABenchError
from msabench.figures.curves import BANDS, mark_collapsed, spread
from msabench.figures.sheet import COLUMN, Picture, sheet, styles
from msabench.figures.words import COLLAPSED, axis_label, caption, check_count, labels, scale, stem
from msabench.results.chosen_rows import ChosenRows
from msabench.results.record import JobRecord
from msabench.results.table import CONSTANT

AVERAGE = "avg_intra"

COSTS = {
    "parameters": ("n_params", "trained parameters", ""),
    "seconds": ("train_seconds", "seconds of training", "Seconds depend on what else the machine did meanwhile."),
}
"""Cost -> field of ``JobRecord``, what the axis says, what the caption adds."""

PROCESSOR = ("train_processor_seconds", "processor seconds of training", "Seconds are the processor's, of one thread.")
"""Likewise of seconds, where every job that is drawn tells them, see ``JobRecord.processor_seconds``."""


def cost(
    chosen: ChosenRows, chosen_tables: Sequence[ChosenRows], jobs: Mapping[str, JobRecord], kind: str, band: str
) -> Picture:
    """Mean over the rates 0.0 to 0.9 against a cost, one point for each row.

    Args:
        chosen: The rows.
        chosen_tables: All that are drawn, for the file's name.
        jobs: Job id -> record.
        kind: A key of ``COSTS``.
        band: A key of ``curves.BANDS``.

    Raises:
        MSABenchError: There are too many rows, a row lacks a cell of the average, the average is undefined for every
            row, or a record has no cost.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    check_count(chosen)
    table = chosen.table
    lacking = [row.label for row in table.rows if AVERAGE not in row.entries]
    if lacking:
        raise MSABenchError(
            f"{', '.join(lacking)} on {table.dataset} lack some of the rates 0.0 to 0.9; run a suite with the grid "
            "intra, or leave them out with --methods"
        )
    if all(math.isnan(row.entries[AVERAGE].mean) for row in table.rows if row.method != CONSTANT):
        raise MSABenchError(f"{table.metric.key} on {table.dataset} is undefined for every row; name another --metric")
    made = [[jobs[job_id] for job_id in seeds.values()] for seeds in chosen.jobs]
    by_processor = kind == "seconds" and all(job.processor_seconds is not None for seeds in made for job in seeds)
    field, title, remark = PROCESSOR if by_processor else COSTS[kind]
    devices = sorted({_device(job) for seeds in made for job in seeds})
    places = "; ".join(devices)
    where = f"Trained on {places}{', so that seconds cannot be compared' if len(devices) > 1 else ''}."
    said = caption(
        chosen,
        "Mean over the rates 0.0 to 0.9 of dropped frames.",
        BANDS[band],
        where if kind == "seconds" else "",
        remark,
        cells=[AVERAGE],
    )
    figure, above = sheet(COLUMN, 2.6, said)
    axes = above.subplots()
    shown = zip(table.rows, made, labels(chosen), styles(table.rows), strict=True)
    for row, seeds, label, style in shown:
        x = np.array([_mean(seeds, field, label)])
        y, low, high = spread(row, [AVERAGE], scale(table), band)
        if row.method == CONSTANT:
            # The constant trains nothing, and a logarithmic axis has no 0.
            axes.axhline(y[0], label=f"{label} {COLLAPSED}", color=style["color"], linestyle=":")
            continue
        axes.errorbar(
            x,
            y,
            yerr=np.stack([y - low, high - y]),
            label=label,
            capsize=1.5,
            elinewidth=0.6,
            color=style["color"],
            marker=style["marker"],
            linestyle="none",
            markersize=5,
        )
        mark_collapsed(axes, x, y, row, [AVERAGE])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{title} (mean over seeds)")
    axes.set_ylabel(f"mean {axis_label(table)}")
    above.legend(loc="outside lower center", ncols=2)
    return Picture(stem("cost", chosen, chosen_tables, kind, table.metric.key), figure)


def _mean(jobs: Sequence[JobRecord], field: str, label: str) -> float:
    values = [getattr(job, field) for job in jobs]
    if None in values:
        raise MSABenchError(f"a record of {label} has no {field}; leave it out with --methods")
    return fmean(values)


def _device(job: JobRecord) -> str:
    made = job.provenance
    threads = made.get("threads")
    return f"{made.get('device_name', 'an unknown device')}" + (
        f", {threads} thread{'s'[: threads > 1]}" if threads else ""
    )

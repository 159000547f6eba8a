"""``msabench costs``: what methods cost, out of the records of their jobs. Free of torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal

from msabench.errors import one_of
from msabench.missingness.conditions import GRIDS, distinct
from msabench.results.places import no_records, store_to_read
from msabench.results.record import JobRecord
from msabench.results.store import ResultStore
from msabench.tables.render import grid_csv, grid_markdown, grid_text

HEADER = (
    *("dataset", "revision", "method", "variant", "regime", "config", "jobs", "parameters"),
    *("epochs", "s/epoch", "s/grid", "clock", "peak MiB", "device", "threads"),
)
GRID = len(distinct(GRIDS["paper"]))
LEGEND = (
    "Means over jobs. parameters = trained ones, of all stages. s/epoch = seconds of fitting by epoch, validation",
    f"included. s/grid = seconds of evaluating {GRID} test situations, the paper grid, once over the test split.",
    "clock = processor: seconds of the processor, where every job of the line ran on a CPU in one thread and measured",
    "them; wall: seconds gone by, which depend on what else the machine did meanwhile. The two do not compare.",
    "peak MiB = the accelerator's, or on a CPU that of the whole process, libraries and data included.",
)


def costs(
    datasets: list[str] | None = None,
    methods: list[str] | None = None,
    variants: list[str] | None = None,
    format: Literal["text", "markdown", "csv"] = "text",
    store: Path | None = None,
    committed: bool = False,
) -> str:
    """Print parameters, seconds and memory of every recorded method.

    Args:
        datasets: Corpora to show; all in the store if not given.
        methods: Methods to show; all if not given.
        variants: Variants to show; only default if not given.
        format: How to print.
        store: Folder of the result store; runs/store, or what MSABENCH_STORE names, if not given.
        committed: Read the records in git, leaderboard/results, instead.

    Returns:
        The text to print.

    Raises:
        MSABenchError: The store has no finished job of a dataset, method or variant, or a record file is malformed.
    """
    place = store_to_read(store, committed)
    results = ResultStore(place)
    # What was only scored here says nothing of what it cost.
    jobs = [job for job in results.jobs() if job.status == "ok" and not job.key.origin]
    if not jobs:
        raise no_records(place)
    wanted = {"dataset": datasets, "method": methods, "variant": variants or ["default"]}
    for name, values in wanted.items():
        there = sorted({getattr(job.key, name) for job in jobs})
        for value in values or ():
            if value not in there:
                raise one_of(f"{name} in {place}", value, there)
        jobs = [job for job in jobs if values is None or getattr(job.key, name) in values]
    records = results.records()
    situations = Counter(records.jobs[place]["job_id"] for place in records.job.tolist())
    grid = [list(HEADER), *cost_rows(jobs, situations)]
    if format == "csv":
        return grid_csv(grid)
    table = grid_markdown(grid) if format == "markdown" else grid_text(grid)
    return "\n".join([table, "", *LEGEND])


def cost_rows(jobs: Sequence[JobRecord], situations: Mapping[str, int]) -> list[list[str]]:
    """The lines below ``HEADER``, one per configuration and machine.

    Args:
        jobs: Finished jobs.
        situations: Job id -> number of its records.
    """
    groups: dict[tuple[str, ...], list[JobRecord]] = defaultdict(list)
    for job in jobs:
        key, made = job.key, job.provenance
        method = f"{key.method} {key.tuning}" if key.tuning else key.method
        about = (key.dataset, key.revision, method, key.variant, key.regime, key.config_hash[:8])
        groups[*about, str(made.get("device_name", "-")), str(made.get("threads", "-"))].append(job)
    rows = []
    for identity, group in sorted(groups.items()):
        clock, spent = _spent(group)
        fitting = [_ratio(train, job.epochs) for job, (train, _) in zip(group, spent, strict=True)]
        evaluating = [
            _ratio(evaluate, situations[job.key.job_id], GRID) for job, (_, evaluate) in zip(group, spent, strict=True)
        ]
        numbers = [
            f"{fmean(job.n_params or 0 for job in group):.0f}",
            _mean([job.epochs for job in group], "{:.1f}"),
            _mean(fitting, "{:.2f}"),
            _mean(evaluating, "{:.2f}"),
            clock,
            _mean([_ratio(job.peak_memory_bytes, 2**20) for job in group], "{:.0f}"),
        ]
        rows.append([*identity[:-2], str(len(group)), *numbers, *identity[-2:]])
    return rows


def _spent(jobs: Sequence[JobRecord]) -> tuple[str, Sequence[tuple[float | None, float | None]]]:
    """What the seconds of jobs are of, and of each job those of fitting and of evaluating."""
    by_processor = [job.processor_seconds for job in jobs if job.processor_seconds is not None]
    if len(by_processor) == len(jobs):
        return "processor", by_processor
    return "wall", [(job.train_seconds, job.eval_seconds) for job in jobs]


def _ratio(a: float | None, b: float | None, factor: float = 1.0) -> float | None:
    return None if a is None or not b else factor * a / b


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(fmean(known)) if len(known) == len(values) else "-"

"""Which rows of the papers' tables are jobs of a suite, and which of these were run. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from msabench.data.registry import dataset_info
from msabench.errors import MSABenchError
from msabench.methods.registry import methods as registered
from msabench.published.tables import PaperBlock, PaperRow, PaperTable, is_of_kind
from msabench.results.record import JobRecord
from msabench.runner.suite import Suite, UnresolvedJob
from msabench.training.config_files import config_of

Trained = tuple[str, str, str, str]
"""Dataset, features, method, variant."""


@dataclass(frozen=True)
class Coverage:
    """The rows of one block of a paper's table.

    Attributes:
        table: The table.
        block: The part of it with one corpus and one kind of features.
        jobs: Rows that a suite has a job for.
        run: Those of them that the store has finished jobs of.
        lacking: Rows without a job -> why.
    """

    table: PaperTable
    block: PaperBlock
    jobs: int
    run: int
    lacking: dict[str, str]


def coverage(tables: Iterable[PaperTable], suites: Sequence[Suite], records: Iterable[JobRecord]) -> list[Coverage]:
    """Look up every row of some tables.

    Args:
        tables: The tables.
        suites: The suites to look for jobs in.
        records: Finished jobs.

    Returns:
        One entry per block, in the order of the papers. A row counts once for each way in which it is tested.
    """
    jobs = {
        trained for suite in suites for unresolved in suite.jobs if (trained := _of_unresolved(unresolved)) is not None
    }
    done = {(job.key.dataset, job.key.features, job.key.method, job.key.variant) for job in records}
    found = []
    for table in tables:
        for block in table.blocks:
            having = [row for row in block.rows if _has(jobs, block, row)]
            lacking = {row.label: _reason(block, row) for row in block.rows if row not in having}
            run = sum(_has(done, block, row) for row in having)
            found.append(Coverage(table, block, len(having), run, lacking))
    return found


def coverage_grid(found: Sequence[Coverage]) -> list[list[str]]:
    """Header and a line per block."""
    grid = [["table", "corpus", "features", "rows", "with a job", "run", "no job"]]
    for part in found:
        counts = (len(part.block.rows), part.jobs, part.run, len(part.block.rows) - part.jobs)
        grid.append([part.table.title, part.block.dataset, part.block.features or "any", *map(str, counts)])
    return grid


def counted(found: Sequence[Coverage]) -> str:
    """How many rows there are in all, e.g. ``10 rows, 8 with a job, 3 run, 2 without a job``."""
    rows, jobs, run = (sum(counts) for counts in zip(*((len(p.block.rows), p.jobs, p.run) for p in found), strict=True))
    return f"{rows} rows, {jobs} with a job, {run} run, {rows - jobs} without a job"


def reasons(found: Sequence[Coverage]) -> list[str]:
    """Why rows have no job, one sentence for each."""
    return list(
        dict.fromkeys(f"{name} has no job: {why}" for part in found for name, why in sorted(part.lacking.items()))
    )


def _has(trained: set[Trained], block: PaperBlock, row: PaperRow) -> bool:
    return any(
        (dataset, method, variant) == (block.dataset, row.method, row.variant) and is_of_kind(features, block.features)
        for dataset, features, method, variant in trained
    )


def _reason(block: PaperBlock, row: PaperRow) -> str:
    known = registered().get(row.method)
    if known is None:
        return f"{row.method} is not implemented"
    if row.variant not in ("default", *known.variants):
        return f"{row.method} has no variant {row.variant}"
    kind = f" with {block.features} features" if block.features else ""
    return f"no suite trains it on {block.dataset}{kind}"


def _of_unresolved(unresolved: UnresolvedJob) -> Trained | None:
    settings = dict(word.removeprefix("--").split("=", 1) for word in unresolved.overrides)
    config = _config(unresolved.config_file)
    given = _section(_section(config, "model"), "init_args").get("variant", "default")
    features = settings.get("data.features") or _section(config, "data").get("features")
    try:
        features = dataset_info(unresolved.dataset).file(features).features
    except MSABenchError:
        return None
    return unresolved.dataset, features, unresolved.method, settings.get("model.init_args.variant", given)


@lru_cache
def _config(path: Path) -> dict[str, Any]:
    """A config as its files say it; an empty one if they cannot be read, which `msabench run` would say."""
    try:
        return config_of(path)
    except (OSError, MSABenchError):
        return {}


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}

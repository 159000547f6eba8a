"""Which jobs a row of a table is made of. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from msabench.evaluation.record import canonical_hash
from msabench.results.aggregate import PROTOCOL, ROW
from msabench.tables.spec import Row, Table

if TYPE_CHECKING:
    import pandas as pd

RowKey = tuple[Any, ...]
"""Values of ``aggregate.PROTOCOL`` and ``aggregate.ROW``."""


def row_jobs(frame: pd.DataFrame) -> dict[RowKey, list[str]]:
    """The finished jobs of each row, one a training seed.

    Args:
        frame: Records as ``ResultStore.frame`` gives them.

    Returns:
        Row -> job ids in the order of seeds.
    """
    columns = [*PROTOCOL, *ROW]
    jobs: dict[RowKey, list[str]] = {}
    distinct = frame[[*columns, "seed", "job_id"]].drop_duplicates().sort_values("seed", kind="stable")
    for *key, _, job_id in distinct.itertuples(index=False, name=None):
        jobs.setdefault(tuple(key), []).append(job_id)
    return jobs


def key_of(table: Table, row: Row) -> RowKey:
    """The key of a table's row."""
    return (*table.protocol.values(), *(getattr(row, name) for name in ROW))


def jobs_hash(job_ids: Iterable[str]) -> str:
    """Identity of what a row is made of: it changes with every job that is added or exchanged. 16 hex digits."""
    return canonical_hash(sorted(job_ids), 16)

"""What tells the rows of tables apart. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msabench.results.aggregate import ROW
from msabench.results.record import canonical_hash
from msabench.results.table import Row, Table

RowKey = tuple[Any, ...]
"""Values of ``aggregate.PROTOCOL`` and ``aggregate.ROW``."""


def key_of(table: Table, row: Row) -> RowKey:
    """The key of a table's row."""
    return (*table.protocol.values(), *(getattr(row, name) for name in ROW))


def jobs_hash(job_ids: Iterable[str]) -> str:
    """Identity of what a row is made of: it changes with every job that is added or exchanged. 16 hex digits."""
    return canonical_hash(sorted(job_ids), 16)

"""Cell records of many jobs, column by column, as tables and statistics take them. Free of torch and pandas."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Job = Mapping[str, Any]
"""What all records of a finished job share: ``job_id``, the fields of ``JobKey``, ``index.JOB_FIELDS``."""


@dataclass(frozen=True)
class Records:
    """R cell records of J finished jobs.

    Attributes:
        jobs: The jobs, each one once, in the order of their files.
        job: int64 ``(R,)``, place of each record's job in ``jobs``.
        cells: Canonical names of cells, each one once, whether or not a record has it.
        cell: int64 ``(R,)``, place of each record's cell in ``cells``.
        drawn: bool ``(R,)``, whether the cell has random masks.
        mask_seed: int64 ``(R,)``, their seed; 0 where none are drawn.
        mask_hash: str ``(R,)``.
        n: int64 ``(R,)``, test clips.
        collapsed: bool ``(R,)``, see ``metrics.functional.is_collapsed``.
        blind: float64 ``(R,)``, share of clips answered without any observed frame; NaN where a record does not say.
        columns: Metric key -> float64 column that has this metric of these records, and of others; see ``values``.
        rows: int64 ``(R,)``, where in ``columns`` each record stands.
    """

    jobs: Sequence[Job]
    job: NDArray[np.int64]
    cells: Sequence[str]
    cell: NDArray[np.int64]
    drawn: NDArray[np.bool_]
    mask_seed: NDArray[np.int64]
    mask_hash: NDArray[np.object_]
    n: NDArray[np.int64]
    collapsed: NDArray[np.bool_]
    blind: NDArray[np.float64]
    columns: Mapping[str, NDArray[np.float64]]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.job)

    def values(self, metric: str) -> NDArray[np.float64]:
        """A metric of each record, float64 ``(R,)``, unrounded; NaN where a record has no value.

        Args:
            metric: Metric key.
        """
        return self.columns[metric][self.rows]

    def keeping(self, wanted: Callable[[Job], bool]) -> Records:
        """The records of some of the jobs.

        Args:
            wanted: Whether a job's are to be kept.
        """
        kept = np.array([wanted(job) for job in self.jobs], dtype=bool)
        if kept.all():
            return self
        here = np.flatnonzero(kept[self.job])
        return replace(
            self,
            jobs=[job for job, is_kept in zip(self.jobs, kept, strict=True) if is_kept],
            job=(np.cumsum(kept) - 1)[self.job[here]],
            **{name: getattr(self, name)[here] for name in _BY_RECORD},
        )

    def of(self, **values: Any) -> Records:
        """The records of the jobs that have these values.

        Args:
            **values: Field of a job -> its value.
        """
        return self.keeping(lambda job: all(job[name] == value for name, value in values.items()))

    def among(self, field: str, values: Collection[Any]) -> Records:
        """The records of the jobs that have one of some values in a field."""
        return self.keeping(lambda job: job[field] in values)

    def held(self, field: str) -> dict[Any, None]:
        """The distinct values that jobs have in a field, in order of appearance."""
        return dict.fromkeys(job[field] for job in self.jobs)


_BY_RECORD = ("cell", "drawn", "mask_seed", "mask_hash", "n", "collapsed", "blind", "rows")

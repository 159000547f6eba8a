"""Features of a split that are cleaned as they are read, a few clips at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.data import file_arrays
from msabench.data.file_arrays import FileArray, PickedRows, rows_at_once
from msabench.data.frames import Bools, Floats


class FeatureRows:
    """One modality's features, float32 ``(N, T, D)``, of which only the frames that are kept are not 0.

    All of them are read once when this is made, and again whenever they are asked for: what is held is one bool for
    each frame.

    Args:
        source: Numbers ``(N, T, D)`` of any kind, in memory or in a file; nothing is written to them.

    Attributes:
        shape: ``(N, T, D)``.
        not_finite: How many values are not finite in float32; they are 0 here.
        present: bool ``(N, T)``, True on frames that are not all 0.
    """

    def __init__(self, source: NDArray[Any] | FileArray | PickedRows) -> None:
        self._source = source
        self._keep: Bools | None = None
        self.shape: tuple[int, ...] = tuple(source.shape)
        self.not_finite = 0
        self.present: Bools = np.empty(self.shape[:2], dtype=np.bool_)
        for rows in self._spans():
            part = self._read(rows)
            finite = np.isfinite(part)
            if not finite.all():
                self.not_finite += int((~finite).sum())
                part = np.where(finite, part, np.float32(0.0))
            self.present[rows] = (part != 0).any(axis=2)

    def __len__(self) -> int:
        """Number of clips."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Floats:
        """Features of clips that follow one another, cleaned, C-contiguous, in memory of their own."""
        part = self._read(rows)
        if isinstance(self._source, np.ndarray) and np.may_share_memory(part, self._source):
            part = part.copy()
        if self.not_finite:
            part[~np.isfinite(part)] = 0.0
        if self._keep is not None:
            part[~self._keep[rows]] = 0.0
        return part

    def blocks(self) -> Iterator[Floats]:
        """All of them in order, a few clips at a time."""
        return (self[rows] for rows in self._spans())

    def keep(self, frames: Bools) -> Bools:
        """Have all frames but these be 0.

        Args:
            frames: bool ``(N, T)``.

        Returns:
            bool ``(N, T)``, those of the others that were not 0.
        """
        lost: Bools = self.present & ~frames
        self._keep = frames if self._keep is None else self._keep & frames
        self.present = self.present & frames
        return lost

    def picked(self, clips: Bools) -> FeatureRows:
        """The features of some clips.

        Args:
            clips: bool ``(N,)``.
        """
        made = copy.copy(self)
        numbers = np.flatnonzero(clips)
        if isinstance(self._source, PickedRows):
            made._source = PickedRows(self._source.source, self._source.rows[numbers])
        else:
            made._source = PickedRows(self._source, numbers)
        made.shape = (len(numbers), *self.shape[1:])
        made.present = self.present[numbers]
        made._keep = None if self._keep is None else self._keep[numbers]
        return made

    def settled(self) -> Floats | FeatureRows:
        """A plain array of NumPy if it is small, else this."""
        return self[:] if 4 * math.prod(self.shape) < file_arrays.LARGE else self

    def _spans(self) -> Iterator[slice]:
        step = rows_at_once(self._source)
        return (slice(start, min(start + step, len(self))) for start in range(0, len(self), step))

    def _read(self, rows: slice) -> Floats:
        # Numbers beyond float32 become infinite, and 0 then.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.ascontiguousarray(self._source[rows], dtype=np.float32)

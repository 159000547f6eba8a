"""Means over an epoch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class EpochMeans:
    """Means of named values over the clips of an epoch.

    Logged once an epoch: a ``self.log`` call per step and term costs more than a step of a small method.

    Attributes:
        sums: Name -> sum over the clips so far, without gradient.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self._clips: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor], clips: int) -> None:
        """Count means over a batch.

        Args:
            values: Name -> mean, a scalar.
            clips: Clips of the batch.
        """
        for name, value in values.items():
            weighted = value.detach() * clips
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
            self._clips[name] = self._clips.get(name, 0) + clips

    def take(self) -> dict[str, Tensor]:
        """Name -> mean over the epoch; the next one begins from nothing."""
        means = {name: value / self._clips[name] for name, value in self.sums.items()}
        self.sums, self._clips = {}, {}
        return means

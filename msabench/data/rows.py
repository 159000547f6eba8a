"""Which clips a batch has: the loaders yield rows, on several devices each its share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from msabench.errors import MSABenchError


@dataclass
class Rows:
    """What a loader yields: which clips, and for what. The data module turns it into a ``Batch`` on the device.

    Attributes:
        index: int64 ``(B,)`` rows of the split.
        stage: ``train``, ``val``, ``test`` or ``predict``.
        position: Position of the loader's cell in ``MSADataModule.cells`` (test and predict).
    """

    index: Tensor
    stage: str
    position: int = 0


class RowLoader:
    """Yields ``Rows``. On several devices each takes its contiguous share of every global batch.

    Args:
        stage: Passed on in ``Rows``.
        units: Number of clips in the split; or, where clips must stay together, the rows of each group of them.
        batch_size: Units in a global batch.
        order: Called with the number of the pass before each pass; returns a permutation of the units.
        rank: Index of this device.
        world_size: Number of devices.
        position: Passed on in ``Rows``.
        passes: Passes over the split in an epoch.

    Raises:
        MSABenchError: The last batch has fewer units than there are devices.
    """

    def __init__(
        self,
        stage: str,
        units: int | list[Tensor],
        batch_size: int,
        *,
        order: Callable[[int], Tensor] | None = None,
        rank: int = 0,
        world_size: int = 1,
        position: int = 0,
        passes: int = 1,
    ) -> None:
        self.stage = stage
        self.groups = None if isinstance(units, int) else units
        self.n_units = units if isinstance(units, int) else len(units)
        self.batch_size = batch_size
        self.order = order
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self.passes = passes
        smallest = min(batch_size, self.n_units % batch_size or batch_size)
        if smallest < world_size:
            what = "clips" if self.groups is None else "conversations"
            raise MSABenchError(
                f"a batch of {smallest} {what} cannot be shared by {world_size} devices; choose a batch_size whose "
                f"remainder over {self.n_units} {what} is at least {world_size}"
            )

    def __len__(self) -> int:
        return -(-self.n_units // self.batch_size) * self.passes

    def __iter__(self) -> Iterator[Rows]:
        for number in range(self.passes):
            order = torch.arange(self.n_units) if self.order is None else self.order(number)
            for batch in torch.split(order, self.batch_size):
                share = batch.tensor_split(self.world_size)[self.rank]
                index = share if self.groups is None else torch.cat([self.groups[unit] for unit in share.tolist()])
                yield Rows(index, self.stage, self.position)


def train_order(seed: int, epoch: int, number: int, n_units: int) -> Tensor:
    """Permutation of the units of training, int64 ``(n_units,)``, a function of its arguments alone.

    Args:
        seed: Seed of the training.
        epoch: Epoch from 0.
        number: Number of the pass within the epoch, from 0.
        n_units: How many clips, or groups of clips that stay together, there are to permute.
    """
    of_pass = f"/{number}" if number else ""
    digest = hashlib.sha256(f"order/{seed}/{epoch}{of_pass}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randperm(n_units, generator=generator)

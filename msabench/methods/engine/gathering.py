"""Losses over the global batch: what several devices hold is gathered before a loss sees it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.methods.engine.hooks import Hooks

if TYPE_CHECKING:
    from msabench.methods.base import Output


class Gathering(Hooks):
    """Brings the rows of all devices together; on one device everything stays as it is."""

    def gathered(self, out: Output, batch: Batch) -> tuple[Output, Batch]:
        """What ``loss`` gets: the output, and of the batch what losses may read, over all devices.

        Args:
            out: Output for the clips of this device.
            batch: These clips.
        """
        if self._trainer is None or self.trainer.world_size == 1:
            return out, batch
        sizes = self.device_shares(batch.size)

        def gather(value: Any) -> Any:
            if isinstance(value, Tensor):
                return self.gather_rows(value, sizes)
            if isinstance(value, dict):
                return {key: gather(item) for key, item in value.items()}
            if isinstance(value, Batch):
                return replace(value, **{f.name: gather(getattr(value, f.name)) for f in fields(value)})
            return value

        everything = replace(out, **{f.name: gather(getattr(out, f.name)) for f in fields(out)})
        for_loss = ("labels", "index", "valid", "observed", "complete")
        # Views stay behind: a loss that needs more of them than its own output must put it into ``aux``.
        return everything, replace(batch, views=None, **{name: gather(getattr(batch, name)) for name in for_loss})

    def device_shares(self, clips: int) -> list[int]:
        """How many clips of the global batch each device holds.

        Args:
            clips: How many this one does.
        """
        if self._trainer is None or self.trainer.world_size == 1:
            return [clips]
        sizes = self.all_gather(torch.tensor(clips, device=self.device))
        assert isinstance(sizes, Tensor)
        return sizes.tolist()

    def own_rows(self, rows: Tensor, sizes: list[int]) -> Tensor:
        """The rows of this device's clips, of rows that all devices know; undoes ``gather_rows``.

        What is drawn for all clips of the global batch, and is cut by this, is what one device would draw: all begin
        with the same seed and draw as much.

        Args:
            rows: ``(sum(sizes), ...)``, a row for each clip of the global batch.
            sizes: How many of them each device has, as from ``device_shares``.
        """
        return rows if len(sizes) == 1 else rows.split(sizes)[self.global_rank]

    def gather_rows(self, rows: Tensor, sizes: list[int]) -> Tensor:
        """The rows of all clips of the global batch, with gradients, from those of the clips of each device.

        Args:
            rows: ``(B, ...)``, a row for each clip of this device.
            sizes: ``device_shares(B)``.
        """
        if len(sizes) == 1:
            return rows
        # Devices may hold different numbers of clips in the last batch: pad, gather, cut.
        padding = rows.new_zeros(max(sizes) - len(rows), *rows.shape[1:])
        gathered = self.all_gather(torch.cat([rows, padding]), sync_grads=rows.requires_grad)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

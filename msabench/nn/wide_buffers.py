"""Memory that is not rounded to the precision of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class WideBuffers(nn.Module):
    """A module whose own buffers change to a wider type with the module, and never to a narrower one.

    For what is summed or averaged over a training: in bfloat16 a sum stops growing once it is 256 times as large as
    what is added to it.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = self._buffers[name]
            assert after is not None
            dtype = torch.promote_types(buffer.dtype, after.dtype)
            self._buffers[name] = after if after.dtype == dtype else buffer.to(after.device, dtype)
        return self

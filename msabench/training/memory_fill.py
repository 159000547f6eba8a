"""Deterministic mode without the part of it that a sound program cannot notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import lightning.pytorch as pl
import torch.utils.deterministic
from lightning.pytorch.callbacks import Callback


@contextmanager
def unfilled_memory() -> Iterator[None]:
    """Leave new tensors unwritten in the block, where deterministic mode would write NaN into each of them.

    Filling changes a result only where memory is read that nothing was written to, which no method does (a test holds
    it); and of a small network's step it takes a tenth. Everything else of the mode stays. Afterwards torch's setting
    is as it was.
    """
    before = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = before  # type: ignore[attr-defined]


class UnfilledMemory(Callback):
    """``unfilled_memory`` from when a trainer starts until it ends, or fails."""

    def __init__(self) -> None:
        self._held = ExitStack()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave new tensors unwritten."""
        self._held.enter_context(unfilled_memory())

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set torch as it was."""
        self._held.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Set torch as it was: Lightning tears nothing down then."""
        self._held.close()

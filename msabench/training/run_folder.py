"""The folder of one training: chosen once, by one process, and by nobody else."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only


class RunFolder:
    """Where a run leaves checkpoint, log and config.

    Args:
        below: Where to reserve a new ``version_N`` the first time the path is needed; None if ``path`` is given.
        path: A folder that belongs to this run already.
    """

    def __init__(self, below: Path | None = None, path: Path | None = None) -> None:
        self._below = below
        self._path = path

    @property
    def path(self) -> Path:
        """The folder. Other devices than the first know it after ``share`` only, and only write to it after."""
        if self._path is None:
            assert self._below is not None
            if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
                return self._below
            self._path = reserve(self._below)
        return self._path

    def share(self, trainer: pl.Trainer) -> Path:
        """Have all devices follow the first; every device must call it."""
        path: Path = trainer.strategy.broadcast(self.path)
        self._path = path
        return path


class RunLogger(CSVLogger):
    """Writes ``metrics.csv`` into a run's folder.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__("", name="", version="")
        self._folder = folder

    @property
    def root_dir(self) -> str:
        """The folder."""
        return self.log_dir

    @property
    def log_dir(self) -> str:
        """The folder."""
        return str(self._folder.path)

    @property
    def save_dir(self) -> str:
        """The folder."""
        return self.log_dir


def reserve(below: Path) -> Path:
    """Make the next ``version_N`` below a folder. Of two processes that ask at once each gets one of its own.

    Args:
        below: Made if it is not there.
    """
    below.mkdir(parents=True, exist_ok=True)
    taken = [int(found[1]) for path in below.iterdir() if (found := re.fullmatch(r"version_(\d+)", path.name))]
    for number in itertools.count(max(taken, default=-1) + 1):
        try:
            (below / f"version_{number}").mkdir()
        except FileExistsError:
            continue
        return below / f"version_{number}"
    raise AssertionError("numbers do not end")

"""Jobs for tests of the runner, and tasks whose workers need no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msabench.runner.executor import Task
from msabench.runner.suite import Job
from tests.support import records


def job(**changes: Any) -> Job:
    """A job; ``changes`` are its own fields, others those of its key."""
    config = {"trainer": {"max_epochs": 10}, "data": {"dataset": "mosi"}}
    settings = {"grid": ("inter",), "mask_seeds": (0,), "config": config}
    own = {name: changes.pop(name) for name in ("grid", "mask_seeds", "problem", "config") if name in changes}
    return Job(records.key(**changes), (), (), ("s",), **{**settings, **own})


def nothing(running: Sequence[Task]) -> None:
    """Watches no one."""


@dataclass(frozen=True)
class Script(Task):
    """A task that runs a few lines of Python instead of a job."""

    code: str = ""

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-c", self.code, str(self.folder), *options]


def scripts(folder: Path, *codes: str) -> list[Script]:
    """One task per script, with seeds from 0; the folder is also their store."""
    return [Script(job(seed=number), folder / str(number), folder, code=code) for number, code in enumerate(codes)]

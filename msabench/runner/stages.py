"""Early stages that jobs share: a teacher that sees complete data only is trained once for all regimes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

import msabench
from msabench.cli import Built
from msabench.evaluation.record import canonical_hash
from msabench.provenance import config_hash
from msabench.runner.executor import Task

FOLDER = "stages"
"""Folder of shared checkpoints, beside the run folders of a method's jobs on a corpus."""


@dataclass(frozen=True)
class SharedStage:
    """The last of a method's leading stages that do not depend on the regime.

    Attributes:
        stage: Its name.
        path: Where its checkpoint is kept. The name is a hash of all that the weights depend on: the config without the
            regime, seed, corpus, code, torch, kind of device.
    """

    stage: str
    path: Path

    @classmethod
    def of(cls, built: Built, task: Task) -> SharedStage | None:
        """The stage of a job, or None if its method has none to share.

        Args:
            built: The job's method, data and trainer.
            task: The job.
        """
        method = built.model
        leading: list[str] = []
        for stage in method.stages[:-1]:
            if stage not in method.complete_stages:
                break
            leading.append(stage)
        # A plateau is looked for in val/task, which is measured under the regime.
        if not leading or method.lr_patience is not None:
            return None
        data = built.config["data"]
        protocol = {**(data.get("missing") or {}), "regime": "complete"}
        key = canonical_hash(
            {
                "config": config_hash({**built.config, "data": {**data, "missing": protocol}}),
                "seed": task.job.key.seed,
                "revision": built.datamodule.corpus.revision,
                "code": _code(),
                "torch": torch.__version__,
                "device": built.trainer.strategy.root_device.type,
                "threads": torch.get_num_threads(),
            },
            16,
        )
        return cls(leading[-1], task.folder.parent / FOLDER / f"{leading[-1]}-{key}.ckpt")

    def trained(self) -> Path | None:
        """The checkpoint, if a job has left it."""
        return self.path if self.path.is_file() else None

    def keep(self, folder: Path) -> None:
        """Keep what a training left in its run folder for the jobs that follow."""
        left = folder / f"{self.stage}.ckpt"
        if left.is_file():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            left.replace(self.path)


@lru_cache
def _code() -> str:
    """Hash of this package's source."""
    root = Path(msabench.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()

"""Early stages that jobs share: a teacher that sees complete data only is trained once for all regimes."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

import msabench
from msabench.files import sha256_of
from msabench.methods.engine.checkpoints import CHECKPOINT_KEY
from msabench.results.job_identity import config_hash, method_name, missing_config
from msabench.results.provenance import source_of, sources_of_data
from msabench.results.record import METHOD, canonical_hash
from msabench.runner.executor import Task
from msabench.training.build import Built

FOLDER = "stages"
"""Folder of shared checkpoints, beside the run folders of a method's jobs on a corpus."""


@dataclass(frozen=True)
class SharedStage:
    """The last of a method's leading stages that do not depend on the regime.

    Its checkpoints are ``<stage>-<key>-<checksum>.ckpt``. The checksum is over key and content, so that a file which is
    damaged, half-written or another training's is recognised, and trained again.

    Attributes:
        stage: Its name.
        folder: Where its checkpoints are kept.
        key: Hash of all that the weights depend on, ``fit_hash`` without the regime.
    """

    stage: str
    folder: Path
    key: str

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
        return cls(leading[-1], task.folder.parent / FOLDER, fit_hash(built, task, regime="complete"))

    def trained(self) -> Path | None:
        """The checkpoint, if a job has left it; files that are not what they were are deleted."""
        for path in sorted(self.folder.glob(f"{self.stage}-{self.key}-*.ckpt")):
            if path == self._path(path):
                return path
            print(f"{path} is damaged, so stage {self.stage} is not taken from there")
            path.unlink(missing_ok=True)
        return None

    def keep(self, folder: Path) -> None:
        """Keep the stage's checkpoint for the jobs that follow; without it they train the stage themselves.

        Args:
            folder: Run folder of a training that has trained the stage itself. One that went on from a shared
                checkpoint has none to give.
        """
        left = folder / f"{self.stage}.ckpt"
        if not left.is_file() or self.trained():
            return
        try:
            made_in = torch.load(left, map_location="cpu", weights_only=True)[CHECKPOINT_KEY]["stage"]
            if made_in != self.stage:
                raise ValueError(f"it was saved in stage {made_in!r}")
            self.folder.mkdir(parents=True, exist_ok=True)
            left.replace(self._path(left))
        except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
            print(f"{left} is not kept for other jobs: {error}")

    def _path(self, content: Path) -> Path:
        """Where a checkpoint with the content of a file belongs."""
        checksum = hashlib.sha256(f"{self.key}/{sha256_of(content)}".encode()).hexdigest()[:16]
        return self.folder / f"{self.stage}-{self.key}-{checksum}.ckpt"


def fit_hash(built: Built, task: Task, regime: str | None = None) -> str:
    """Hash of all that the weights of a job's training depend on.

    That is its config, seed, corpus, this package's code, files from outside that have a part in it, torch, kind of
    device and threads: two trainings with one hash end with the same weights.

    Args:
        built: The job's method, data and trainer.
        task: The job.
        regime: Training regime instead of the job's.
    """
    data = built.config["data"]
    missing = data.get("missing") or {}
    protocol = missing if regime is None else {**missing, "regime": regime}
    regime = regime or missing_config(built.config).regime
    sources = sources_of_data(data["dataset"], data.get("features"), regime)
    sources[METHOD] = source_of(method_name(built.config)) or {}
    outside = {f"{kind} {name}": found[name] for kind, found in sources.items() for name in found if "sha256" in name}
    return canonical_hash(
        {
            **({"outside": outside} if outside else {}),
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


@lru_cache
def _code() -> str:
    """Hash of this package's source."""
    root = Path(msabench.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()

"""How a training says that it ended, beside its checkpoint. Free of torch."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from msabench.errors import MSABenchError
from msabench.files import write_text

FINISHED = "finished.json"
"""Lies beside ``best.ckpt`` once the training has ended, and not before."""


@dataclass(frozen=True)
class FinishedTraining:
    """A training that ended of itself. A checkpoint alone may come from one that was broken off.

    Attributes:
        checkpoint: Name of the selected checkpoint in the same folder.
        epochs: Epochs trained.
        best_epoch: Epoch of the checkpoint, counted from 0; None if nothing was selected.
        val_task: The checkpoint's ``val/task``.
        train_seconds: Wall time of fitting, of all parts of a training that went on from a checkpoint.
        n_params: Number of trainable parameters.
        peak_memory_bytes: Peak memory, of the device if it is a GPU, else of the process; None if it is not known.
        provenance: Of the training, ``msabench.results.provenance.collect`` at its start.
        config_hash: Hash of the training's config; empty for a method outside the registry, which has none.
        train_processor_seconds: Processor time of fitting, see ``JobRecord``; None where a part of the training did not
            measure it.
    """

    checkpoint: str
    epochs: int
    best_epoch: int | None
    val_task: float | None
    train_seconds: float
    n_params: int
    peak_memory_bytes: int | None
    provenance: dict[str, Any]
    config_hash: str
    train_processor_seconds: float | None = None

    def write(self, folder: Path) -> None:
        """Write ``finished.json``, atomically."""
        write_text(folder / FINISHED, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, checkpoint: Path) -> FinishedTraining:
        """Read what lies beside a checkpoint.

        Raises:
            MSABenchError: There is no such file, it is broken, or it is about another checkpoint.
        """
        path = checkpoint.parent / FINISHED
        if not path.is_file():
            raise MSABenchError(
                f"there is no {FINISHED} beside {checkpoint}, so its training did not end; "
                "train to the end, or leave --store out to print only"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            named = [f.name for f in fields(cls) if f.name in content or f.default is MISSING]
            found = cls(**{name: content[name] for name in named})
        except (ValueError, KeyError, TypeError) as error:
            raise MSABenchError(f"{path} is broken ({error!r}); train again, or leave --store out") from error
        if found.checkpoint != checkpoint.name:
            raise MSABenchError(f"{path} is about {found.checkpoint}, not {checkpoint.name}; only that can be recorded")
        return found

    def record_fields(self) -> dict[str, Any]:
        """The fields of ``JobRecord`` that are known from the training."""
        return {name: value for name, value in asdict(self).items() if name not in ("checkpoint", "config_hash")}

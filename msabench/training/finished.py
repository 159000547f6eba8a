"""How a training says that it ended, beside its checkpoint. Free of torch."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from msabench.errors import MSABenchError
from msabench.files import write_text
from msabench.results.job_identity import READ_BY_FIT_ALONE

FINISHED = "finished.json"
"""Lies beside ``best.ckpt`` once the training has ended, and not before."""

_NOT_RECORDED = ("checkpoint", "config_hash", "weights")
"""Fields that records have elsewhere."""


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
        weights: ``job_identity.weights_of`` the method's arguments, at its end; None where an earlier version did not
            keep them.
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
    weights: dict[str, str] | None = None

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
        return {name: value for name, value in asdict(self).items() if name not in _NOT_RECORDED}

    def named(self, init_args: dict[str, Any]) -> dict[str, Any]:
        """A method's arguments with what stands for the files that its fit alone read, which may be gone.

        Args:
            init_args: The arguments, with places.

        Raises:
            MSABenchError: A file is gone, and what stands for it was not kept.
        """
        found = dict(init_args)
        for name in READ_BY_FIT_ALONE:
            place = init_args.get(name)
            if not place:
                continue
            if name in (self.weights or {}):
                found[name] = (self.weights or {})[name]
            elif "@" not in str(place) and not Path(str(place)).expanduser().exists():
                raise MSABenchError(
                    f"{name} {place} of the training is no longer there, and {FINISHED} does not say what it held; put "
                    "it back, or leave --store out to print only"
                )
        return found

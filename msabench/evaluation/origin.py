"""What the files beside a checkpoint say of the training that made it. Free of torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from msabench.data.files import replacing
from msabench.errors import MSABenchError
from msabench.evaluation.record import JobKey
from msabench.missingness.conditions import Cell, distinct, parse_grid
from msabench.provenance import first_difference, job_key

if TYPE_CHECKING:
    from msabench.data.datamodule import MSADataModule
    from msabench.methods.base import MSAMethod

FINISHED = "finished.json"
"""Lies beside ``best.ckpt`` once the training has ended, and not before."""

STORED_GRID = ("paper",)
STORED_MASK_SEEDS = (0, 1, 2)
"""What a record of a training outside a suite must cover, as suites do by default."""


@dataclass(frozen=True)
class FinishedTraining:
    """A training that ended of itself. A checkpoint alone may come from one that was broken off.

    Attributes:
        checkpoint: Name of the selected checkpoint in the same folder.
        epochs: Epochs trained.
        best_epoch: Epoch of the checkpoint, counted from 0; None if nothing was selected.
        val_task: The checkpoint's ``val/task``.
        train_seconds: Wall time of fitting.
        n_params: Number of trainable parameters.
        peak_memory_bytes: Peak memory, of the device if it is a GPU, else of the process; None if it is not known.
        provenance: Of the training, ``msabench.provenance.collect`` at its start.
        config_hash: Hash of the training's config; empty for a method outside the registry, which has none.
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

    def write(self, folder: Path) -> None:
        """Write ``finished.json``, atomically."""
        with replacing(folder / FINISHED) as stream:
            stream.write((json.dumps(asdict(self), indent=2) + "\n").encode())

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
            found = cls(**{f.name: content[f.name] for f in fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise MSABenchError(f"{path} is broken ({error!r}); train again, or leave --store out") from error
        if found.checkpoint != checkpoint.name:
            raise MSABenchError(f"{path} is about {found.checkpoint}, not {checkpoint.name}; only that can be recorded")
        return found

    def record_fields(self) -> dict[str, Any]:
        """The fields of ``JobRecord`` that are known from the training."""
        return {name: value for name, value in asdict(self).items() if name not in ("checkpoint", "config_hash")}


@dataclass(frozen=True)
class Origin:
    """The job that made a checkpoint.

    Attributes:
        key: Its key.
        config: Its resolved config.
        cells: Distinct cells that its record must cover.
        mask_seeds: Mask seeds that its record must cover.
        finished: How its training ended.
    """

    key: JobKey
    config: dict[str, Any]
    cells: tuple[Cell, ...]
    mask_seeds: tuple[int, ...]
    finished: FinishedTraining

    def require(self, cells: tuple[Cell, ...], mask_seeds: list[int]) -> None:
        """Refuse a record that a later run of the job would find too small: records are never extended.

        Raises:
            MSABenchError: A cell or a mask seed is left out.
        """
        lacking = [f"cell {cell}" for cell in self.cells if cell not in cells]
        if any(cell.is_random for cell in self.cells):
            lacking += [f"mask seed {seed}" for seed in self.mask_seeds if seed not in mask_seeds]
        if lacking:
            raise MSABenchError(
                f"a record of job {self.key.job_id} needs {len(self.cells)} cells and mask seeds "
                f"{' '.join(map(str, self.mask_seeds))}, since it can never be extended, and {lacking[0]} is left out; "
                "give them all, or leave --store out to print only"
            )


def origin(checkpoint: Path, method: MSAMethod, datamodule: MSADataModule) -> Origin:
    """Find out which job made a checkpoint, from the files beside it.

    Args:
        checkpoint: The checkpoint.
        method: The method that was rebuilt from it.
        datamodule: The data module that was rebuilt from it.

    Raises:
        MSABenchError: A file is missing, or contradicts the checkpoint.
    """
    job, config = checkpoint.parent / "job.json", checkpoint.parent / "config.yaml"
    grid, mask_seeds = STORED_GRID, STORED_MASK_SEEDS
    if job.is_file():
        content = json.loads(job.read_text(encoding="utf-8"))["job"]
        key, resolved = JobKey(**content["key"]), content["config"]
        grid, mask_seeds = tuple(content["grid"]), tuple(content["mask_seeds"])
    elif config.is_file():
        resolved = yaml.safe_load(config.read_text(encoding="utf-8"))
        key = job_key(resolved, datamodule.corpus.revision, datamodule.corpus.features)
    else:
        raise MSABenchError(
            f"there is neither job.json nor config.yaml beside {checkpoint}; a record needs one of them, so leave "
            "--store out or evaluate the checkpoint in its run folder"
        )
    made = {
        **datamodule.protocol(),
        "method": method.info.name,
        "method_version": method.info.method_version,
        "variant": method.variant,
        "seed": datamodule.seed,
    }
    wrong = [name for name, value in made.items() if getattr(key, name) != value]
    given = resolved["model"].get("init_args") or {}
    wrong += [
        name for name, value in method.init_args.items() if name in given and first_difference(given[name], value)
    ]
    finished = FinishedTraining.read(checkpoint)
    if finished.config_hash != key.config_hash:
        wrong.append("config_hash")
    if wrong:
        names = ", ".join(dict.fromkeys(wrong))
        raise MSABenchError(f"{names} of {checkpoint} and of the files beside it differ; mend the folder")
    return Origin(key, resolved, distinct(parse_grid(grid)), mask_seeds, finished)

"""What the files beside a checkpoint say of the training that made it. Free of torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from msabench.errors import MSABenchError, first_difference
from msabench.missingness.conditions import Cell, distinct, parse_grid
from msabench.results.job_identity import job_key
from msabench.results.record import JobKey
from msabench.training.finished import FinishedTraining

if TYPE_CHECKING:
    from msabench.data.datamodule import MSADataModule
    from msabench.methods.base import MSAMethod

STORED_GRID = ("paper",)
STORED_MASK_SEEDS = (0, 1, 2)
"""What a record of a training outside a suite must cover, as suites do by default."""


@dataclass(frozen=True)
class Origin:
    """The job that made a checkpoint.

    Attributes:
        key: Its key.
        config: Its resolved config; a file of weights that its fit alone read stands there as records have it.
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
    protocol = datamodule.protocol()
    content: dict[str, Any] = {}
    if job.is_file():
        content = json.loads(job.read_text(encoding="utf-8"))["job"]
        resolved = content["config"]
        grid, mask_seeds = tuple(content["grid"]), tuple(content["mask_seeds"])
    elif config.is_file():
        resolved = yaml.safe_load(config.read_text(encoding="utf-8"))
    else:
        raise MSABenchError(
            f"there is neither job.json nor config.yaml beside {checkpoint}; a record needs one of them, so leave "
            "--store out or evaluate the checkpoint in its run folder"
        )
    finished = FinishedTraining.read(checkpoint)
    given = resolved["model"].get("init_args") or {}
    resolved = {**resolved, "model": {**resolved["model"], "init_args": finished.named(given)}}
    key = JobKey(**content["key"]) if content else job_key(resolved, protocol["revision"], protocol["features"])
    made = {
        **protocol,
        "method": method.info.name,
        "method_version": method.info.method_version,
        "variant": method.variant,
        "seed": datamodule.seed,
    }
    wrong = [name for name, value in made.items() if getattr(key, name) != value]
    wrong += [
        name for name, value in method.init_args.items() if name in given and first_difference(given[name], value)
    ]
    if finished.config_hash != key.config_hash:
        wrong.append("config_hash")
    if wrong:
        names = ", ".join(dict.fromkeys(wrong))
        raise MSABenchError(f"{names} of {checkpoint} and of the files beside it differ; mend the folder")
    return Origin(key, resolved, distinct(parse_grid(grid)), mask_seeds, finished)

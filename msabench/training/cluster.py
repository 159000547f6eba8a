"""Which processes make up one training, where a cluster's variables say something else."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only


def with_environment(trainer: dict[str, Any]) -> Any:
    """The trainer's plugins, with one that keeps it to the devices that it was given.

    In every process with ``SLURM_NTASKS`` Lightning sees one of that many ranks, refuses ``sbatch --ntasks=4``, and
    elsewhere waits for the others. That is meant only where ``srun`` started as many processes as the training has
    devices; everything else in an allocation is a training of its own.

    Args:
        trainer: Settings of the trainer.
    """
    given = trainer["plugins"]
    plugins = given if isinstance(given, list) else [] if given is None else [given]
    devices = _devices(trainer)
    if any(isinstance(plugin, ClusterEnvironment) for plugin in plugins) or not _alone(devices, trainer["num_nodes"]):
        return given
    if devices == 1:
        # Taken from SLURM_PROCID when Lightning was imported, and nobody sets it for one device.
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
    return [*plugins, LightningEnvironment()]


def _alone(devices: int, nodes: int) -> bool:
    """Whether this process starts all processes of its training itself."""
    if devices * nodes == 1:
        return True
    if nodes > 1 or TorchElasticEnvironment.detect() or "SLURM_NTASKS" not in os.environ:
        return False
    # Set in steps of srun, not in the script of sbatch.
    return os.environ.get("SLURM_STEP_NUM_TASKS") != str(devices)


def _devices(trainer: dict[str, Any]) -> int:
    given = trainer["devices"]
    if isinstance(given, str) and given.lstrip("-").isdigit():
        given = int(given)
    if isinstance(given, list):
        return len(given)
    if isinstance(given, int) and given >= 0:
        return given
    if isinstance(given, str) and given != "auto":
        return len([name for name in given.split(",") if name.strip()])
    # auto and -1 are all there are; of CPUs that is one.
    return max(torch.cuda.device_count(), 1) if trainer["accelerator"] in ("auto", "gpu", "cuda") else 1

"""What it takes to run a recorded job again: its config, a suite of this one job, and the command. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml

from msabench.missingness.conditions import GRIDS, Cell, distinct
from msabench.results.job_identity import FILE_ARGUMENTS
from msabench.results.record import METHOD, JobRecord

FOLDER = "reproduce"
STORE = "runs/reproduced"
_DUMPER: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml's, where PyYAML was built with it: sooner, and the same text but for where it breaks long quoted ones."""

_PAPER = distinct(GRIDS["paper"])
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def can_run(job: JobRecord) -> bool:
    """Whether the record's config says what to train."""
    model, data = job.config.get("model"), job.config.get("data")
    return isinstance(model, dict) and "class_path" in model and isinstance(data, dict) and "dataset" in data


def needed_weights(job: JobRecord) -> list[str]:
    """Arguments that name weights by their hash, which has to be replaced by a file or folder with these weights."""
    arguments = job.config.get("model", {}).get("init_args") or {}
    return [name for name in FILE_ARGUMENTS if "@" in str(arguments.get(name) or "")]


def write_job(job: JobRecord, cells: Sequence[str], folder: Path) -> None:
    """Write ``<job>.config.yaml`` and ``<job>.yaml``, a suite of this one job.

    Args:
        job: The job; ``can_run`` must hold.
        cells: Names of the cells that it was evaluated in.
        folder: Where to write; must exist.
    """
    name, key = job.key.job_id, job.key
    parsed = _parsed(frozenset(cells))
    suite = {
        "name": f"reproduce-{name}",
        "description": f"{key.method} on {key.dataset}, seed {key.seed}, as recorded",
        "configs": ".",
        "grid": ["paper"] if parsed == _PAPER else [str(cell) for cell in parsed],
        "mask_seeds": job.mask_seeds or [0],
        "seeds": [key.seed],
        "jobs": [{"method": key.method, "dataset": key.dataset, "config": f"{name}.config.yaml"}],
    }
    for path, content in ((f"{name}.config.yaml", job.config), (f"{name}.yaml", suite)):
        (folder / path).write_text(yaml.dump(content, Dumper=_DUMPER, sort_keys=False), encoding="utf-8")


@cache
def _parsed(cells: frozenset[str]) -> tuple[Cell, ...]:
    """Names of cells as cells in table order; most jobs have the same."""
    return distinct(map(Cell.parse, cells))


def commands(job: JobRecord) -> list[str]:
    """The commands that run a job again, in a clone of msabench with this site's ``reproduce`` folder in it."""
    commit = str(job.provenance.get("git_commit") or "")
    # Records come from anywhere, and readers paste commands into a shell.
    lines = [f"git checkout {commit}"] if _COMMIT.fullmatch(commit) else []
    return [*lines, f"msabench run --suite {FOLDER}/{job.key.job_id}.yaml --store {STORE}{_plugins(job)}"]


def _plugins(job: JobRecord) -> str:
    """The option that names the file of a method from outside, which whoever runs the job has to have."""
    source = job.provenance.get(METHOD)
    if not isinstance(source, dict) or "distribution" in source:
        return ""
    module = str(source.get("class_path")).rpartition(".")[0]
    if not _MODULE.fullmatch(module):
        return ""
    return f" --plugins {module}" if "." in module else f" --plugins {module}.py"

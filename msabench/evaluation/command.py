"""``msabench evaluate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from msabench.data.info import dataset_info
from msabench.errors import MSABenchError
from msabench.evaluation.record import CellRecord, JobKey, JobRecord
from msabench.metrics.spec import METRICS
from msabench.missingness.conditions import parse_grid
from msabench.provenance import collect, job_key, portable

if TYPE_CHECKING:
    from msabench.data.datamodule import MSADataModule
    from msabench.methods.base import MSAMethod


def evaluate(
    checkpoint: Path,
    grid: list[str] = ["paper"],  # noqa: B006  the command line shows the default
    mask_seeds: list[int] = [0, 1, 2],  # noqa: B006
    store: Path | None = None,
    root: Path | None = None,
    batch_size: int | None = None,
    device: str | None = None,
) -> str:
    """Evaluate a checkpoint in every cell of a grid, on the test split.

    Args:
        checkpoint: Checkpoint of msabench fit or msabench run, e.g. runs/.../best.ckpt.
        grid: Grids (inter, intra, paper) and cells such as inter/la or intra/0.3.
        mask_seeds: Seeds of the test holes; cells with random holes are evaluated once for each.
        store: Result store to add records and predictions to; None only prints. Needs the job.json or config.yaml
            that lies beside the checkpoint, and refuses a job that the store has.
        root: Data folder, if it is not the one of the training.
        batch_size: Clips per forward pass; None lets the device decide.
        device: Where to compute, e.g. cpu or cuda:0; None for the GPU if there is one.

    Returns:
        A table of the corpus's default metric and its fellows, one line per cell and mask seed.

    Raises:
        MSABenchError: The checkpoint, its data or a cell is not usable, or the job is stored already.
    """
    import torch

    from msabench.data.datamodule import MSADataModule
    from msabench.evaluation import predictions
    from msabench.evaluation.evaluate import evaluate_grid
    from msabench.methods.checkpoint import load_checkpoint
    from msabench.results.store import ResultStore

    cells = parse_grid(grid)
    method, data_state = load_checkpoint(checkpoint)
    datamodule = MSADataModule.from_state(data_state, **({"root": root} if root else {}))
    key, config = _job_of(checkpoint, method, datamodule) if store is not None else (None, {})
    if store is not None and key is not None and ResultStore(store).has(key.job_id):
        raise MSABenchError(f"job {key.job_id} is recorded already in {store}; records are never replaced")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    evaluation = evaluate_grid(method, datamodule, cells, mask_seeds, batch_size=batch_size, device=place)
    records = evaluation.records(key.job_id if key else "")
    lines = [_table(records, dataset_info(datamodule.info.name).default_metric)]
    if store is not None and key is not None:
        predictions.write(predictions.path_of(store, key), evaluation)
        record = JobRecord(
            key=key,
            config=portable(config),
            provenance=collect(str(place)),
            n_params=sum(p.numel() for p in method.parameters() if p.requires_grad),
            eval_seconds=evaluation.seconds,
            mask_seeds=list(mask_seeds),
        )
        lines.append(f"recorded: {ResultStore(store).add(record, records)}")
    return "\n".join(lines)


def _job_of(checkpoint: Path, method: MSAMethod, datamodule: MSADataModule) -> tuple[JobKey, dict[str, Any]]:
    """Key and resolved config of the job that made a checkpoint, from the files beside it."""
    job, config = checkpoint.parent / "job.json", checkpoint.parent / "config.yaml"
    if job.is_file():
        content = json.loads(job.read_text(encoding="utf-8"))["job"]
        key, resolved = JobKey(**content["key"]), content["config"]
    elif config.is_file():
        resolved = yaml.safe_load(config.read_text(encoding="utf-8"))
        key = job_key(resolved, datamodule.corpus.revision, datamodule.corpus.features)
    else:
        raise MSABenchError(
            f"there is neither job.json nor config.yaml beside {checkpoint}; a record needs one of them, so leave "
            "--store out or evaluate the checkpoint in its run folder"
        )
    made = {**datamodule.protocol(), "method": method.info.name, "variant": method.variant}
    wrong = [name for name, value in made.items() if getattr(key, name) != value]
    if wrong:
        raise MSABenchError(f"{', '.join(wrong)} of {checkpoint} and of the config beside it differ; mend the folder")
    return key, resolved


def _table(records: Sequence[CellRecord], default_metric: str) -> str:
    # The default metric first; swapped F1 is for reading published numbers.
    names = [name for name in records[0].metrics if not name.endswith("_swapped")]
    names = sorted(names, key=lambda name: name != default_metric)[:8]
    rows = [["cell", "mask seed", *names, "note"]]
    for record in records:
        seed = "-" if record.mask_seed is None else str(record.mask_seed)
        note = "collapsed" if record.collapsed else ""
        rows.append([record.cell, seed, *(_shown(name, record.metrics[name]) for name in names), note])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{value:<{width}}" for value, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _shown(name: str, value: float | None) -> str:
    return "-" if value is None else METRICS[name].format(value)

"""``msabench evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msabench.data.info import dataset_info
from msabench.errors import MSABenchError, one_of
from msabench.evaluation.record import CellRecord, JobRecord
from msabench.metrics.spec import METRICS
from msabench.missingness.conditions import distinct, parse_grid
from msabench.provenance import portable

KEPT = ("representations",)
"""What ``evaluate`` keeps on demand."""


def evaluate(
    checkpoint: Path,
    grid: list[str] = ["paper"],  # noqa: B006  the command line shows the default
    mask_seeds: list[int] = [0, 1, 2],  # noqa: B006
    store: Path | None = None,
    root: Path | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    keep: list[str] = [],  # noqa: B006
) -> str:
    """Evaluate a checkpoint in every cell of a grid, on the test split.

    Args:
        checkpoint: Checkpoint of msabench fit or msabench run, e.g. runs/.../best.ckpt.
        grid: Grids (inter, intra, paper) and cells such as inter/la or intra/0.3.
        mask_seeds: Seeds of the test holes; cells with random holes are evaluated once for each.
        store: Result store to add records and predictions to; None only prints. Needs finished.json and the job.json
            or config.yaml beside the checkpoint, and every cell and mask seed of the job (outside a suite, the grid
            paper and mask seeds 0 1 2), and refuses a job that the store has.
        root: Data folder, if it is not the one of the training.
        batch_size: Clips per forward pass; None lets the device decide.
        device: Where to compute, e.g. cpu or cuda:0; None for the GPU if there is one.
        keep: What else to keep in the store; representations, the joint representation of every clip in every cell
            evaluated, for figures. If the store has the job already, only this is added, for any cells.

    Returns:
        A table of the corpus's default metric and its fellows, one line per cell and mask seed.

    Raises:
        MSABenchError: The checkpoint, its data, a cell or the device is not usable, its training did not end, the job
            is stored already, or there is nothing to keep.
    """
    import torch

    from msabench.data.datamodule import MSADataModule
    from msabench.evaluation import predictions, representations
    from msabench.evaluation.evaluate import evaluate_grid
    from msabench.evaluation.origin import origin
    from msabench.methods.checkpoint import load_checkpoint
    from msabench.results.store import ResultStore

    cells = parse_grid(grid)
    for word in keep:
        if word not in KEPT:
            raise one_of("thing to keep", word, KEPT)
    if keep and store is None:
        raise MSABenchError(f"keep {' '.join(keep)} needs a store to keep it in; give --store")
    if batch_size is not None and batch_size < 1:
        raise MSABenchError(f"batch_size {batch_size} is not allowed; give a positive number")
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise MSABenchError(
            f"device {device!r} cannot be used; give cpu, or a GPU of this machine, e.g. cuda:0"
        ) from error
    method, data_state = load_checkpoint(checkpoint)
    datamodule = MSADataModule.from_state(data_state, **({"root": root} if root else {}))
    made_by, recorded = None, False
    if store is not None:
        made_by = origin(checkpoint, method, datamodule)
        recorded = ResultStore(store).has(made_by.key.job_id)
        if recorded and not keep:
            raise MSABenchError(f"job {made_by.key.job_id} is recorded already in {store}; records are never replaced")
        if not recorded:
            made_by.require(distinct(cells), mask_seeds)
    evaluation = evaluate_grid(
        method,
        datamodule,
        cells,
        mask_seeds,
        batch_size=batch_size,
        device=place,
        keep_representations="representations" in keep,
    )
    records = evaluation.records(made_by.key.job_id if made_by else "")
    lines = [_table(records, dataset_info(datamodule.info.name).default_metric)]
    if store is not None and made_by is not None and keep:
        if recorded:
            representations.require_same(predictions.path_of(store, made_by.key), evaluation, checkpoint)
        path = representations.path_of(store, made_by.key)
        representations.write(path, evaluation)
        lines.append(f"representations: {path}")
    if store is not None and made_by is not None and not recorded:
        predictions.write(predictions.path_of(store, made_by.key), evaluation)
        record = JobRecord(
            key=made_by.key,
            config=portable(made_by.config),
            eval_seconds=evaluation.seconds,
            mask_seeds=list(mask_seeds),
            padding=method.padding or None,
            **made_by.finished.record_fields(),
        )
        lines.append(f"recorded: {ResultStore(store).add(record, records)}")
    return "\n".join(lines)


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

"""``msabench evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msabench.data.registry import dataset_info
from msabench.errors import MSABenchError, one_of
from msabench.evaluation.cell_table import cell_table
from msabench.missingness.conditions import distinct, parse_grid
from msabench.missingness.named import naming

KEPT = ("representations",)
"""What ``evaluate`` keeps on demand."""


@naming()
def evaluate_checkpoint(
    checkpoint: Path,
    grid: list[str] = ["paper"],  # noqa: B006  the command line shows the default
    mask_seeds: list[int] = [0, 1, 2],  # noqa: B006
    store: Path | None = None,
    root: Path | None = None,
    path: Path | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    keep: list[str] = [],  # noqa: B006
) -> str:
    """Evaluate a checkpoint in every cell of a grid, on the test split.

    Args:
        checkpoint: Checkpoint of msabench fit or msabench run, e.g. runs/.../best.ckpt; the folder that msabench
            checkpoint export made of one; or owner/name@revision, such a folder on the hub.
        grid: Grids ({grids})
            and cells such as inter/la or random/0.3.
        mask_seeds: Seeds of the test masks; cells with random masks are evaluated once for each.
        store: Result store to add records and predictions to, e.g. runs/store; None only prints. Needs
            finished.json and the job.json or config.yaml beside the checkpoint, and every cell and mask seed of the
            job (outside a suite, the grid paper and mask seeds 0 1 2), and refuses a job that the store has.
        root: Data folder, if it is not the one of the training.
        path: Feature file, if it has moved since the training; it must be the same file.
        batch_size: Clips per forward pass; None lets the device decide.
        device: Where to compute, e.g. cpu or cuda:0; None for the GPU if there is one.
        keep: What else to keep in the store; representations, the joint representation of every clip in every cell
            evaluated, for figures. If the store has the job already, only this is added, for any cells.

    Returns:
        A table of all metrics of the corpus, its default metric first, with a line per cell and mask seed.

    Raises:
        MSABenchError: The checkpoint, its data, a cell or the device is not usable, its training did not end, the job
            is stored already, or there is nothing to keep.
    """
    from msabench.data.datamodule import MSADataModule
    from msabench.evaluation import representations
    from msabench.evaluation.device import usable_device
    from msabench.evaluation.evaluate import evaluate_grid
    from msabench.evaluation.origin import origin
    from msabench.evaluation.recording import add_record, record_of
    from msabench.methods.checkpoint import load_checkpoint
    from msabench.methods.engine.located import located
    from msabench.results import predictions
    from msabench.results.claims import require_writable
    from msabench.results.places import store_to_write
    from msabench.results.store import ResultStore

    cells = parse_grid(grid)
    for word in keep:
        if word not in KEPT:
            raise one_of("thing to keep", word, KEPT)
    if keep and store is None:
        raise MSABenchError(f"keep {' '.join(keep)} needs a store to keep it in; give --store")
    if store is not None:
        store = store_to_write(store)
        ResultStore(store).sweep()
    if batch_size is not None and batch_size < 1:
        raise MSABenchError(f"batch_size {batch_size} is not allowed; give a positive number")
    place = usable_device(device)
    checkpoint = located(checkpoint)
    method, data_state = load_checkpoint(checkpoint)
    datamodule = MSADataModule.from_state(data_state, **_places(data_state, root, path))
    made_by, recorded = None, False
    if store is not None:
        made_by = origin(checkpoint, method, datamodule)
        recorded = ResultStore(store).has(made_by.key.job_id)
        if recorded and not keep:
            raise MSABenchError(f"job {made_by.key.job_id} is recorded already in {store}; records are never replaced")
        if not recorded:
            made_by.require(distinct(cells), mask_seeds)
            require_writable(store, made_by.key)
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
    lines = [cell_table(records, datamodule.corpus.info.default_metric, datamodule.corpus.unseen)]
    if store is not None and made_by is not None and keep:
        if recorded:
            representations.require_same(predictions.path_of(store, made_by.key), evaluation, checkpoint)
        path = representations.beside(predictions.path_of(store, made_by.key))
        representations.write(path, evaluation)
        lines.append(f"representations: {path}")
    if store is not None and made_by is not None and not recorded:
        record = record_of(made_by, method, datamodule, evaluation, mask_seeds)
        lines.append(f"recorded: {add_record(store, record, records, evaluation)}")
    return "\n".join(lines)


def _places(data_state: dict[str, Any], root: Path | None, path: Path | None) -> dict[str, Path | None]:
    """Where the data are now, as arguments of the data module; nothing where they are where they were.

    Raises:
        MSABenchError: Both are given, the corpus has no use for what is given, or its file is no longer there.
    """
    given = data_state["init_args"]
    name, file = given["dataset"], dataset_info(given["dataset"]).file(given["features"])
    if root is not None and path is not None:
        raise MSABenchError(f"root {root} and path {path} contradict each other; give the data folder or the file")
    if file.reader == "generator" and (root or path):
        raise MSABenchError(f"{'root' if root else 'path'} {root or path} is of no use for {name}, which is generated")
    if root is not None:
        if not file.filename:
            raise MSABenchError(
                f"root {root} is of no use for {name}, whose file has no usual place in a data folder; give the file "
                f"with --path ({given['path'] or 'not said'} at the training)"
            )
        return {"root": root, "path": None}
    if path is not None:
        return {"path": path}
    if given["path"] is None and not file.filename and file.reader != "generator":
        raise MSABenchError(
            f"the checkpoint does not say where the file of {name} lies; give it with --path (its sha256 begins with "
            f"{data_state['revision'][:12]})"
        )
    if given["path"] is not None and not Path(given["path"]).expanduser().is_file():
        raise MSABenchError(
            f"{given['path']}, the file of the training, is not there; give its present place with --path (its sha256 "
            f"begins with {data_state['revision'][:12]})"
        )
    return {}

"""Stores as contributors send them: records, and the predictions that they are made of."""

from pathlib import Path

import numpy as np

from msabench.data.store import open_corpus
from msabench.missingness.conditions import Cell
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import cell_masks, dropped_share, mask_hash
from msabench.results import predictions
from msabench.results.index import INDEX_NAME
from msabench.results.job_identity import job_key
from msabench.results.predictions import CellPredictions, Evaluation
from msabench.results.record import JobRecord
from msabench.results.store import ResultStore
from tests.support.records import rewrite

SIZE, LENGTH = (12, 8, 20), 8
CELLS = ("inter/l", "inter/lav", "intra/0.5")
HERE = {"git_commit": "0" * 40, "git_dirty": False}


def config_of(dataset, method, seed, variant="default"):
    """A resolved config, as short as it can be."""
    class_path = {"constant": "msabench.methods.constant.Constant", "umdf": "msabench.methods.umdf.UMDF"}[method]
    data = {"dataset": dataset, "features": None, "missing": {"regime": "mixed"}, "selection": "val"}
    made = {"size": list(SIZE), "length": LENGTH} if dataset == "synth" else {}
    return {
        "seed_everything": seed,
        "trainer": {"max_epochs": 1},
        "model": {"class_path": class_path, "init_args": {"variant": variant}},
        "data": {**data, **made},
    }


def contribute(
    folder,
    dataset="synth",
    method="constant",
    seed=1111,
    *,
    variant="default",
    cells=CELLS,
    mask_seeds=(0, 1),
    holes=None,
    labels=None,
    provenance=HERE,
    config=None,
):
    """Add a finished job with its predictions to a store.

    Args:
        folder: The store.
        dataset: ``synth``, which every machine has, or a corpus that no machine of the tests has.
        method: Method name.
        seed: Training seed; predictions depend on it.
        variant: Variant of the method.
        cells: Cell names.
        mask_seeds: Mask seeds.
        holes: Hash of masks by (cell, mask seed), in place of the corpus's.
        labels: Labels in place of the corpus's.
        provenance: What the job says of its code.
        config: Its config in place of ``config_of``.

    Returns:
        The job.
    """
    config = config or config_of(dataset, method, seed, variant)
    here = dataset == "synth"
    corpus = open_corpus("synth", size=SIZE, length=LENGTH) if here else None
    ids = list(corpus.splits["test"].ids) if corpus else [f"clip{number}" for number in range(SIZE[2])]
    if labels is None:
        labels = corpus.splits["test"].labels.numpy() if corpus else np.linspace(-3, 3, SIZE[2]).astype(np.float32)
    rng = np.random.default_rng(seed)
    entries = []
    for cell in map(Cell.parse, cells):
        for mask_seed in mask_seeds if cell.is_random else (None,):
            preds = (labels + rng.normal(size=len(ids))).astype(np.float32)
            given, shares = f"{cell}:{mask_seed}", dict.fromkeys(("text", "audio", "vision"), 0.5)
            if corpus is not None:
                clips = corpus.splits["test"].clips(corpus.padding)
                masks = cell_masks(cell, MissingConfig(), clips, mask_seed or 0)
                given, shares = mask_hash(masks), dropped_share(masks, clips)
            given = (holes or {}).get((str(cell), mask_seed), given)
            entries.append(CellPredictions(cell, mask_seed, preds, given, shares))
    key = job_key(config, corpus.revision if corpus else "0123456789ab", corpus.features if corpus else None)
    evaluation = Evaluation("sentiment", ids, labels, entries, 0.0)
    job = JobRecord(key, config=config, provenance=dict(provenance), mask_seeds=list(mask_seeds))
    predictions.write(predictions.path_of(Path(folder), key), evaluation)
    ResultStore(folder).add(job, evaluation.records(key.job_id))
    return job


def edit(folder, job, change, line=0):
    """Change one line of a job's file, with checksums that fit; ``change`` gets it as plain data."""
    rewrite(Path(folder) / job.key.dataset / job.key.method / f"{job.key.job_id}.jsonl", change, line)


def files_of(folder):
    """Every file below a folder but the derived index, with its bytes."""
    folder = Path(folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != INDEX_NAME]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

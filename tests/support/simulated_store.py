"""A store of made-up records as large as one likes, for budgets of time and for pages that need many rows.

The numbers mean nothing. They are a pure function of the arguments, so that two simulations give equal stores.
"""

import hashlib
import math
from pathlib import Path

from msabench.data.shipped import SHIPPED
from msabench.methods.registry import methods as registered
from msabench.metrics.spec import METRICS, metric_keys
from msabench.missingness.conditions import GRIDS, Cell, distinct
from msabench.results.record import CellRecord, JobRecord, canonical_hash
from msabench.results.record_file import sealed
from tests.support import records

CELLS = (*map(str, distinct(GRIDS["paper"])), "intra/1.0")
"""The 17 distinct test situations of the papers: those of the grid ``paper``, and FSRF's rate 1.0."""

CORPORA = ("mosi", "mosei", "sims", "iemocap")
SEEDS = (1111, 1112, 1113, 1114, 1115)


def method_names(count):
    """The registered methods first, then made-up ones, which are shown with fidelity ``unknown``."""
    names = sorted(registered(), key=lambda name: (name != "constant", name))
    return (names + [f"simulated_{number:02d}" for number in range(len(names), count)])[:count]


def simulate(folder, methods=25, datasets=CORPORA, seeds=SEEDS, cells=CELLS, metrics=None, mask_seeds=(0,), **key):
    """Write a store: one finished job per method, corpus and seed.

    Args:
        folder: Folder of the store to be.
        methods: Names, or how many of ``method_names``.
        datasets: Names of registered corpora.
        seeds: Training seeds.
        cells: Cell names.
        metrics: Metric keys to keep; None keeps all of a corpus's metric set.
        mask_seeds: Mask seeds; one record each in cells with random holes.
        **key: Fields of ``JobKey`` that all jobs share, e.g. ``variant`` or ``features``.

    Returns:
        Number of cell records: 25 methods, 4 corpora, 5 seeds and 17 cells give 8,500.
    """
    names = method_names(methods) if isinstance(methods, int) else list(methods)
    parsed = [Cell.parse(cell) for cell in cells]
    written = 0
    for dataset in datasets:
        kept = [name for name in metric_keys(SHIPPED[dataset].metric_set) if metrics is None or name in metrics]
        for place, method in enumerate(names):
            for seed in seeds:
                job = _job(dataset, method, seed, len(names) - place, list(mask_seeds), key)
                lines = [job.to_json()]
                for cell in parsed:
                    for mask_seed in mask_seeds if cell.is_random else (None,):
                        values = {name: _value(name, method, cell, seed, mask_seed) for name in kept}
                        lines.append(_cell(job.key, cell, mask_seed, values).to_json())
                path = Path(folder) / dataset / method / f"{job.key.job_id}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(sealed(lines))
                written += len(lines) - 1
    return written


def _job(dataset, method, seed, size, mask_seeds, changes):
    info = SHIPPED[dataset]
    about = {
        "dataset": dataset,
        "features": info.file().features,
        "method": method,
        "seed": seed,
        "config_hash": canonical_hash([dataset, method], 12),
    }
    # As long as the job line of a real record, about 3,500 characters.
    config = {"model": {"init_args": {f"setting_{number:03d}": number for number in range(130)}}}
    return JobRecord(
        records.key(**{**about, **changes}),
        config=config,
        provenance={"msabench": "0.1.0", "device": "cpu", "device_name": "simulated", "threads": 1},
        suites=["simulated"],
        n_params=100_000 * size,
        epochs=20,
        best_epoch=10,
        val_task=1.0,
        train_seconds=10.0 * size,
        eval_seconds=1.0,
        peak_memory_bytes=2**30,
        mask_seeds=mask_seeds,
    )


def _cell(key, cell, mask_seed, values):
    share = {"text": "l", "audio": "a", "vision": "v"}
    dropped = {name: float(cell.rate) if letter in cell.available else 1.0 for name, letter in share.items()}
    n = (SHIPPED[key.dataset].split_sizes or (0, 0, 686))[2]
    mask_hash = canonical_hash([key.dataset, str(cell), mask_seed], 16)
    return CellRecord(key.job_id, str(cell), mask_seed, mask_hash, n, dropped, False, values)


def _value(metric, method, cell, seed, mask_seed):
    """Falls with what is missing; differs between methods, seeds and masks; inside the metric's range."""
    there = len(cell.available) / 3 * (1 - float(cell.rate))
    good = (
        0.45 + 0.4 * math.sqrt(there) + 0.1 * _draw(method) + 0.02 * _draw(metric, method, str(cell), seed, mask_seed)
    )
    return good if METRICS[metric].direction == "max" else 2 * (1 - good)


def _draw(*words):
    digest = hashlib.sha256(repr(words).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32

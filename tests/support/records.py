"""Builders of records for the tests of store, summaries and tables."""

import json

from msabench.missingness.conditions import GRIDS, Cell, distinct
from msabench.results.places import PREDICTIONS
from msabench.results.record import CellRecord, JobKey, JobRecord
from msabench.results.record_file import CHECKSUMS, file_checksum, sealed

PAPER = distinct(GRIDS["paper"])


def key(**changes):
    fields = {
        "dataset": "mosi",
        "revision": "0123456789ab",
        "features": "mmsa-aligned",
        "method": "mult",
        "method_version": 1,
        "variant": "default",
        "regime": "mixed",
        "level": "vectors",
        "lengths": "hide",
        "token_fill": "",
        "selection": "val",
        "seed": 1111,
        "config_hash": "c" * 12,
    }
    return JobKey(**{**fields, **changes})


def cells(job_key, value=lambda cell, mask_seed: 0.5, *, names=PAPER, mask_seeds=(0, 1), collapsed=False, **more):
    """Cell records; ``value(cell name, mask seed)`` is what every metric of the sentiment set has."""
    records = []
    for cell in (Cell.parse(str(name)) for name in names):
        for mask_seed in mask_seeds if cell.is_random else (None,):
            given = value(str(cell), mask_seed)
            metrics = given if isinstance(given, dict) else {"f1_non0": given, "acc7": given, "corr": given}
            fields = {
                "mask_hash": f"{cell}:{mask_seed}",
                "n": 686,
                "dropped": {"text": 0.1, "audio": 0.2, "vision": 0.3},
                "collapsed": collapsed,
                **more,
            }
            records.append(CellRecord(job_key.job_id, str(cell), mask_seed, metrics=metrics, **fields))
    return records


def add(store, value=lambda cell, mask_seed: 0.5, *, cell_options=None, job=None, **changes):
    """Add a finished job; ``changes`` go to its key, ``job`` to its record."""
    job_key = key(**changes)
    return store.add(JobRecord(job_key, **(job or {})), cells(job_key, value, **(cell_options or {})))


def fail(store, error="RuntimeError: out of memory", **changes):
    """Add a failed job."""
    return store.add_failure(JobRecord(key(**changes), status="failed", error=error))


def rewrite(path, change, line=0):
    """Change one line of a record file, with checksums that fit; ``change`` gets the line as plain data."""
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    change(lines[line])
    del lines[0][CHECKSUMS]
    folder, below = path.parents[2], path.relative_to(path.parents[2])
    path.write_bytes(sealed(lines, file_checksum((folder / PREDICTIONS / below).with_suffix(".parquet"))))

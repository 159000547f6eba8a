"""Who may write a job into a store: one process at a time, whatever folder it works in. Free of torch."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from msabench.errors import MSABenchError
from msabench.files import try_lock
from msabench.results.places import PREDICTIONS
from msabench.results.record import JobKey
from msabench.results.store import ResultStore

CLAIMS = ".claims"
"""Folder in a store with a file to lock for every job that is being run."""

PROBE_BYTES = 1 << 20
"""Room that a store must have for a job to be started; records with predictions are smaller."""


@contextlib.contextmanager
def claim(store: Path, job_id: str) -> Iterator[IO[bytes] | None]:
    """Claim a job of a store for as long as the block lasts, or a child process that inherits the file.

    The claim is an operating system's lock, which goes with its holders even if they are killed. Whoever holds it and
    finds no record of the job may write its predictions and its record.

    Args:
        store: The store's folder.
        job_id: The job.

    Yields:
        The locked file, or None if another process holds the claim.

    Raises:
        OSError: The store cannot be written.
    """
    folder = store / CLAIMS
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / job_id).open("wb") as file:
        yield file if try_lock(file) else None


def settle(store: Path, job_id: str) -> None:
    """Take away the file of a claim, once its job is recorded: who locks it yet will find the record."""
    with contextlib.suppress(OSError):
        (store / CLAIMS / job_id).unlink(missing_ok=True)


@contextlib.contextmanager
def sole_writer(store: Path, job_id: str) -> Iterator[None]:
    """Hold the claim on a job while its predictions and record are written in the block.

    Raises:
        MSABenchError: Another process holds the claim, or has recorded the job: then nothing may be written.
    """
    with claim(store, job_id) as claimed:
        if claimed is None:
            raise MSABenchError(f"another process is running job {job_id} for {store}; its record will be there")
        if ResultStore(store).has(job_id):
            raise MSABenchError(f"job {job_id} is recorded already in {store}; records are never replaced")
        yield
        settle(store, job_id)


def require_writable(store: Path, key: JobKey | None = None) -> None:
    """Find out before a training, not after it, that its result could not be kept.

    Args:
        store: The store's folder; it is made.
        key: The job, to try the very folders of its record and predictions; None for the store's folder alone.

    Raises:
        MSABenchError: A folder cannot be made or written, or the disk is full.
    """
    below = "" if key is None else f"{key.dataset}/{key.method}"
    for folder in [store / below] if key is None else [store / below, store / PREDICTIONS / below]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise MSABenchError(
                f"the store {store} cannot be written ({folder}: {error.strerror or error}), so nothing was started; "
                "mend this or name another store"
            ) from error

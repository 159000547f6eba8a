"""Where stores lie, and where files lie in them. Free of torch."""

from __future__ import annotations

import os
from pathlib import Path

from msabench.errors import MSABenchError

COMMITTED_STORE = Path("leaderboard/results")
"""The records in git. ``msabench leaderboard add`` alone adds to them."""

STORE_VARIABLE = "MSABENCH_STORE"
"""Environment variable that names the store where none is given."""

PREDICTIONS = "predictions"
"""Folder in a store with predictions per clip."""

STUDIES = "studies"
"""Folder in a store with what was tried to tune methods, see ``results.study``."""


def default_store() -> Path:
    """The store where none is given: what MSABENCH_STORE names, else ``runs/store``."""
    return Path(os.environ.get(STORE_VARIABLE) or "runs/store").expanduser()


def store_to_write(store: Path | None) -> Path:
    """The store that a verb adds to.

    Args:
        store: As given; None for the default one.

    Raises:
        MSABenchError: It is the committed one.
    """
    chosen = store or default_store()
    if chosen.resolve() == COMMITTED_STORE.resolve():
        raise MSABenchError(
            f"{chosen} holds the committed records, which `msabench leaderboard add` alone adds to; give another "
            "--store"
        )
    return chosen


def store_to_read(store: Path | None, committed: bool = False) -> Path:
    """The store that a verb reads.

    Args:
        store: As given; None for the default one, which need not exist.
        committed: Whether the committed one was asked for.

    Raises:
        MSABenchError: Both are given, or there is no such store.
    """
    if committed and store is not None:
        raise MSABenchError(f"store {store} and committed cannot both be given; leave one out")
    chosen = COMMITTED_STORE if committed else store
    if chosen is None:
        return default_store()
    if not chosen.is_dir():
        committed = chosen == COMMITTED_STORE
        hint = (
            "go to the root of a clone of msabench, or name another with --store"
            if committed
            else "`msabench run --suite SUITE --store` makes one"
        )
        raise MSABenchError(f"there is no store {chosen}; {hint}")
    return chosen


def no_records(store: Path) -> MSABenchError:
    """The error for a store without records."""
    default = store == default_store()
    given = "" if default else f" --store {store}"
    others = "; --committed reads those in a clone of msabench" if default else ""
    return MSABenchError(
        f"{store} holds no records; make some with `msabench run --suite SUITE{given}` (see `msabench suites`){others}"
    )


def predictions_file(store: Path, dataset: str, method: str, job_id: str) -> Path:
    """Where a store keeps the predictions of a job."""
    return store / PREDICTIONS / dataset / method / f"{job_id}.parquet"

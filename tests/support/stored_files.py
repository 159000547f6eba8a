"""What two runs of the same jobs leave in their stores, to be held against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msabench.results.store import ResultStore


def files(store: Path, pattern: str) -> dict[str, bytes]:
    """Files of a store by their paths in it."""
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob(pattern)}


def jobs_in(store: Path) -> list[dict[str, Any]]:
    """The records of a store as plain data, but for what a second run on the same machine would change, too."""
    found = [vars(record).copy() for record in ResultStore(store).jobs()]
    for record in found:
        for name in [*record]:
            if name.endswith(("seconds", "bytes", "sha256", "checksums")):
                del record[name]
        record["provenance"] = {name: value for name, value in record["provenance"].items() if name != "date"}
    return sorted(found, key=lambda record: (record["key"].dataset, str(record["key"].config_hash)))

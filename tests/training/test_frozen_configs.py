"""No shipped config changes what it says without a word about it.

``frozen_configs.csv`` has a line per config: the hash that its records carry, and a hash of all that it resolves to.
Where a change is meant, or a config is new, write the list again and read the difference::

    python -m tests.training.test_frozen_configs
"""

from __future__ import annotations

import csv
import io
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from msabench.files import replacing
from msabench.methods import registry
from msabench.results.job_identity import config_hash
from msabench.results.record import canonical_hash
from msabench.training.build import resolve
from tests.support.resolved import Resolve

CONFIGS = Path(__file__).parents[2] / "configs"
FROZEN = Path(__file__).with_name("frozen_configs.csv")
COLUMNS = ("config", "config_hash", "sha256")


def shipped() -> list[str]:
    """Names of the configs that can be trained: ``configs/<method>.yaml`` is only their shared part."""
    return sorted({path.stem for path in CONFIGS.glob("*.yaml")} - set(registry.methods()))


@cache
def frozen() -> dict[str, tuple[str, str]]:
    """Name of a config -> its hash, and the sha256 of the whole of it."""
    with FROZEN.open(encoding="utf-8", newline="") as stream:
        return {row["config"]: (row["config_hash"], row["sha256"]) for row in csv.DictReader(stream)}


def hashes(name: str, resolver: Resolve = resolve) -> tuple[str, str]:
    """The hash of a shipped config, and the sha256 of the whole of it as it resolves.

    Settings that are None are left out of both, so that a new option with that default moves neither.
    """
    config = resolver([CONFIGS / f"{name}.yaml"], [])
    assert str(CONFIGS.parent) not in str(config), "a path of this machine would be hashed"
    return config_hash(config), canonical_hash(_set(config), 64)


def _set(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _set(inner) for key, inner in value.items() if inner is not None}
    return value


def test_the_list_has_no_other() -> None:
    assert sorted(frozen()) == list(frozen())
    assert frozen().keys() <= set(shipped())


@pytest.mark.parametrize("name", shipped())
def test_config_says_what_it_said(name: str, resolved: Resolve) -> None:
    assert hashes(name, resolved) == frozen().get(name)


def main() -> None:
    """Write the list from the configs as they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((name, *hashes(name)) for name in shipped())
    with replacing(FROZEN) as stream:
        stream.write(text.getvalue().encode())


if __name__ == "__main__":
    main()

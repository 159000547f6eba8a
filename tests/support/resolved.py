"""Shipped configs as they resolve, each parsed once in a run of the tests however many of them look at it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msabench.files import replacing
from msabench.results.record import canonical_hash
from msabench.training.build import resolve

Resolve = Callable[[list[Path], list[str]], dict[str, Any]]


def resolving_once(folder: Path) -> Resolve:
    """``resolve``, which remembers what it found in files of a folder that several processes may share.

    Args:
        folder: An empty folder, for one run of the tests: a file that changes is not noticed.
    """

    def resolved(config_files: list[Path], overrides: list[str]) -> dict[str, Any]:
        place = folder / canonical_hash([[str(Path(path).resolve()) for path in config_files], overrides], 32)
        if not place.is_file():
            config = resolve(config_files, overrides)
            text = json.dumps(config)
            assert json.loads(text) == config, "what is remembered would be something else"
            with replacing(place, durable=False) as stream:
                stream.write(text.encode())
        found: dict[str, Any] = json.loads(place.read_text())
        return found

    return resolved

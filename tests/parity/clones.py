"""Local clones of official code, named by environment variables."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest


def clone(variable: str) -> Path:
    """Folder of a local clone; the test is skipped without one."""
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name a local clone of the official code")
    return Path(os.environ[variable])


@contextmanager
def importing(folder: Path, *bare: str) -> Iterator[None]:
    """Import from a folder; the modules are forgotten afterwards, since their names are as common as ``src``.

    Args:
        folder: Put in front of the path.
        bare: Packages below the folder to enter without running their ``__init__``, which drags in everything.
    """
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        for name in bare:
            package = ModuleType(name)
            package.__path__ = [str(folder.joinpath(*name.split(".")))]
            sys.modules[name] = package
        importlib.invalidate_caches()
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) is None or str(folder) in str(sys.modules[name].__file__):
                del sys.modules[name]

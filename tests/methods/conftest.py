"""What tests of methods from outside share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from msabench.methods import registry
from msabench.plugins import PLUGINS_VARIABLE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder that nothing is remembered of; what a test imports from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    # Set, not deleted, so that what a test adds goes with it.
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "_found_by_path", {})
    for cached in (registry._from_plugin, registry._installed):
        cached.cache_clear()
    yield tmp_path
    for cached in (registry._from_plugin, registry._installed):
        cached.cache_clear()
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]

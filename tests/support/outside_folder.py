"""A working folder for tests of what comes from outside: plug-ins that are named in a test go with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from msabench import plugins
from msabench.methods import registry

OUTSIDE = Path(__file__).parent / "outside"


def outside_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, no plug-ins, nothing remembered of earlier ones; what it imports is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MSABENCH_DATA", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    # Set, not deleted, so that what a test adds goes with it.
    monkeypatch.setenv(plugins.PLUGINS_VARIABLE, "")
    monkeypatch.setattr(registry, "_found_by_path", {})
    cached = (registry._from_plugin, registry._installed, plugins._of_plugin, plugins._of_entry_points)
    for function in cached:
        function.cache_clear()
    yield tmp_path
    for function in cached:
        function.cache_clear()
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def plug_in(name: str, text: str | None = None) -> str:
    """Write a plug-in into the working folder, one of ``tests/support/outside`` unless its text is given."""
    Path(name).write_text((OUTSIDE / name).read_text() if text is None else text)
    return name

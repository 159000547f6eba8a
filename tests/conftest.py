from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from msabench.data.files import cache_folder
from tests.support.by_sources import BySources

if TYPE_CHECKING:
    from tests.support.resolved import Resolve

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("msabench", deadline=None)
settings.load_profile("msabench")


ABOUT_TRAINING_CODE = ("losses", "methods", "nn")
"""Folders whose tests are all marked ``by_sources``; where one is not kept, it runs every time."""


def pytest_configure(config: pytest.Config) -> None:
    repository = Path(__file__).parents[1]
    config.pluginmanager.register(BySources(repository, cache_folder() / "ci/verdicts"))


def pytest_itemcollected(item: pytest.Item) -> None:
    inside = item.path.relative_to(Path(__file__).parent).parts[0] in ABOUT_TRAINING_CODE
    if inside and item.get_closest_marker("by_sources") is None:
        item.add_marker(pytest.mark.by_sources("tests/support"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and cache, and no real data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MSABENCH_DATA", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> Resolve:
    """``resolve`` for shipped configs, which parses each once for all workers of this run."""
    # Here, since it imports Lightning, which takes seconds, and most tests do without.
    from tests.support.resolved import resolving_once

    base = tmp_path_factory.getbasetemp()
    # Each worker has a folder in that of the run.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "resolved"
    folder.mkdir(exist_ok=True)
    return resolving_once(folder)


def untested(reports: Iterable[Any]) -> list[str]:
    """How many tests of parity with official code were skipped, and for want of what."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in reports if report.nodeid.startswith("tests/parity/")
    )
    lines = [f"{number} skipped: {reason}" for reason, number in sorted(reasons.items())]
    return [f"{reasons.total()} tests of parity with official code were skipped", *lines] if lines else []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in untested(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(line)

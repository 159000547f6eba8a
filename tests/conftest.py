from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from hypothesis import settings

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("msabench", deadline=None)
settings.load_profile("msabench")


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

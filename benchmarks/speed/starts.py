"""Measures what it costs to start each verb, before and after the work on speed.

    python benchmarks/speed/starts.py [--rounds 3] [--write benchmarks/speed/starts.md]

Nothing is asserted here; ``tests/test_cli.py`` holds which libraries each verb may import.
"""

from __future__ import annotations

import math
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.speed.command import show_rounds  # noqa: E402
from benchmarks.speed.revisions import BEFORE, checkout, environment  # noqa: E402
from msabench.__main__ import VERBS  # noqa: E402

STORE = "leaderboard/results"
"""Stands for the records of the earlier revision, which both sides can read."""

CALLS: tuple[list[str], ...] = (
    ["--help"],
    ["fit", "--help"],
    ["validate", "--help"],
    ["test", "--help"],
    ["predict", "--config", "umdf_synth", "--help"],
    *([*verb.split(), "--help"] for verb in VERBS),
    ["methods"],
    ["configs"],
    ["suites"],
    ["data", "list"],
    ["table", "--store", STORE],
    ["costs", "--store", STORE],
    ["audit"],
)
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
LIBRARIES = ("torch", "lightning", "transformers", "pandas", "scipy", "sklearn")
CODE = (
    "import sys\n"
    "from msabench.__main__ import main\n"
    "try:\n    code = main()\nexcept SystemExit as ended:\n    code = ended.code\n"
    f"print(*(name for name in {LIBRARIES} if name in sys.modules), file=sys.stderr)\n"
    "sys.exit(code)"
)


NEW = ("specialists",)
"""Verbs that the earlier revision does not have."""


def started(words: list[str], package: Path, folder: str) -> tuple[float, str]:
    """Processor seconds of one call, and the libraries that it imported."""
    if package != ROOT and words[0] in NEW:
        return math.nan, "no such verb"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", CODE, *words]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=folder, env=environment(package) | ONE_THREAD
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, done.stderr.splitlines()[-1] if done.stderr else ""


def report(rounds: int) -> str:
    lines = [
        "# Speed of starts",
        "",
        f"What a verb costs before it does anything, at revision {BEFORE} and today: processor seconds, medians of",
        f"{rounds} alternating calls, the start of Python included, and which of the large libraries it imports.",
        "Both read the records of the earlier revision, which does not know today's cells.",
        f"Measured with Python {platform.python_version()} by",
        "`python benchmarks/speed/starts.py --write benchmarks/speed/starts.md`.",
        "",
        "| call | before | today | imported before | imported today |",
        "| --- | --- | --- | --- | --- |",
    ]
    with checkout() as earlier, tempfile.TemporaryDirectory() as folder:
        for words in CALLS:
            given = [str(earlier / STORE) if word == STORE else word for word in words]
            calls = [(started(given, earlier, folder), started(given, ROOT, folder)) for _ in range(rounds)]
            before, today = (statistics.median(pair[side][0] for pair in calls) for side in (0, 1))
            imported = [calls[0][side][1] or "-" for side in (0, 1)]
            name = " ".join(words)
            first = "-" if math.isnan(before) else f"{before:.2f} s"
            lines.append(f"| `msabench {name}` | {first} | {today:.2f} s | {imported[0]} | {imported[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    show_rounds(__doc__, report, 3)

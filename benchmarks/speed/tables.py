"""Measures how long ``msabench table`` takes over large stores of simulated records.

    python benchmarks/speed/tables.py [--write benchmarks/speed/tables.md]

Nothing is asserted here; ``tests/tables/test_paper_tables.py`` holds what makes it fast: a second call opens no record.
"""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.speed.command import parser_of, show  # noqa: E402
from tests.support.simulated_store import simulate  # noqa: E402

CALLS: dict[str, list[str]] = {
    "`msabench table`, no derived index yet": [],
    "`msabench table`": [],
    "`msabench table --datasets mosi mosei`": ["--datasets", "mosi", "mosei"],
    "`msabench table --paper umdf`": ["--paper", "umdf"],
}


def timed(store: Path, words: list[str]) -> float:
    """Processor seconds of one call, start of Python included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "msabench", "table", "--store", str(store), *words]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report() -> str:
    lines = [
        "# Speed of tables",
        "",
        "How long `msabench table` takes over simulated records: 25 methods, 4 corpora, 17 cells, all metrics.",
        "Processor seconds of its one thread, the start of Python included: what one waits for if nothing else runs.",
        f"Budget: 3 s for 8,500 records. Measured with Python {platform.python_version()} by",
        "`python benchmarks/speed/tables.py --write benchmarks/speed/tables.md`.",
        "",
        "| records | files | call | time |",
        "| --- | --- | --- | --- |",
    ]
    for seeds in (5, 59):
        with tempfile.TemporaryDirectory() as folder:
            records = simulate(folder, seeds=range(seeds))
            for name, words in CALLS.items():
                lines.append(f"| {records:,} | {25 * 4 * seeds:,} | {name} | {timed(Path(folder), words):.1f} s |")
    return "\n".join(lines)


if __name__ == "__main__":
    given = parser_of(__doc__).parse_args()
    show(report(), given.write)

"""Measures what reports cost over the committed records and over ten times as many, before and after.

    python benchmarks/speed/scale.py [--rounds 1] [--write benchmarks/speed/scale.md]

Nothing is asserted here; ``tests/results/test_cell_lines.py`` holds that records read in columns are the same.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.speed.command import show_rounds  # noqa: E402
from benchmarks.speed.revisions import BEFORE, checkout, environment  # noqa: E402
from msabench.results.record import SCHEMA_VERSION, JobRecord  # noqa: E402
from msabench.results.record_file import sealed  # noqa: E402
from msabench.results.store import ResultStore  # noqa: E402

COMMITTED = ROOT / "leaderboard" / "results"
TIMES = 10
INDEX = "import sys\nfrom msabench.results.store import ResultStore\nResultStore(sys.argv[1], indexed=False).frame()"
CALLS = {
    "frame of all records, no index": [sys.executable, "-c", INDEX, "{store}"],
    "`msabench table`": [sys.executable, "-m", "msabench", "table", "--store", "{store}"],
    "`msabench leaderboard build`": [
        *(sys.executable, "-m", "msabench", "leaderboard", "build"),
        *("--store", "{store}", "--out", "{out}"),
    ],
}


def grow(source: Path, target: Path, times: int) -> None:
    """Copy a store, each job with several seeds and with checksums. The records' numbers are those of one seed."""
    for path in sorted(source.glob("*/*/*.jsonl")):
        job, *cells = (json.loads(line) for line in path.read_bytes().splitlines())
        old = job["job_id"]
        for number in range(times):
            changed = {**job, "schema_version": SCHEMA_VERSION, "seed": job["seed"] + 10_000 * number}
            new = changed["job_id"] = JobRecord.from_json(changed).key.job_id
            copy = target / path.relative_to(source).with_name(path.name.replace(old, new))
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(sealed([changed, *({**cell, "job_id": new} for cell in cells)]))
    for path in source.glob("*/intervals.csv"):
        (target / path.relative_to(source)).write_bytes(path.read_bytes())


def called(words: list[str], package: Path) -> tuple[float, float]:
    """Processor seconds and peak memory in MB of one call."""
    child = subprocess.Popen(
        words, cwd=package, env={**environment(package), "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {child.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def rows(rounds: int) -> Iterator[str]:
    with checkout() as earlier, tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "store"
        grow(COMMITTED, large, TIMES)
        small = Path(folder) / "committed"
        grow(COMMITTED, small, 1)
        for store in (small, large):
            jobs = sum(1 for _ in store.glob("*/*/*.jsonl"))
            # Which either revision may read, and neither has to make.
            ResultStore(store).frame()
            for name, call in CALLS.items():
                given = {"{store}": str(store), "{out}": str(Path(folder) / "site")}
                words = [given.get(word, word) for word in call]
                pairs = [(called(words, earlier), called(words, ROOT)) for _ in range(rounds)]
                (before, much), (today, now) = (
                    (statistics.median(pair[side][0] for pair in pairs), max(pair[side][1] for pair in pairs))
                    for side in (0, 1)
                )
                yield (
                    f"| {jobs:,} | {name} | {before:.1f} s | {today:.1f} s | {before / today:.1f}x | "
                    f"{much:.0f} MB | {now:.0f} MB |"
                )


def report(rounds: int) -> str:
    lines = [
        "# Speed of reports at scale",
        "",
        f"What reports cost over the committed records and over {TIMES} times as many, each copied with new seeds and",
        f"checksums: at revision {BEFORE} and today. Processor seconds (medians of {rounds}) and peak memory of a",
        "process, the start of Python included, alternating. `table` and `leaderboard build` find an index.",
        "Measured with",
        f"Python {platform.python_version()} by `python benchmarks/speed/scale.py --write benchmarks/speed/scale.md`.",
        "",
        "| jobs | what | before | today | | memory before | memory today |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *rows(rounds)])


if __name__ == "__main__":
    show_rounds(__doc__, report, 1)

"""Measures what reports cost over committed records and over ten times as many, before and after.

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

STORE = Path("leaderboard") / "results"
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
        # The earlier revision does not know all kinds of cells that are recorded today.
        for label, records, sides in (("before", earlier / STORE, (earlier, ROOT)), ("today", ROOT / STORE, (ROOT,))):
            for times in (1, TIMES):
                store = Path(folder) / f"{label}{times}"
                grow(records, store, times)
                jobs = sum(1 for _ in store.glob("*/*/*.jsonl"))
                # Which either revision may read, and neither has to make.
                ResultStore(store).frame()
                for name, call in CALLS.items():
                    given = {"{store}": str(store), "{out}": str(Path(folder) / "site")}
                    words = [given.get(word, word) for word in call]
                    turns = [[called(words, side) for side in sides] for _ in range(rounds)]
                    figures = [
                        (statistics.median(seconds for seconds, _ in side), max(memory for _, memory in side))
                        for side in zip(*turns, strict=True)
                    ]
                    today, now = figures[-1]
                    before, ratio, much = "-", "-", "-"
                    if len(figures) > 1:
                        before, ratio = f"{figures[0][0]:.1f} s", f"{figures[0][0] / today:.1f}x"
                        much = f"{figures[0][1]:.0f} MB"
                    yield (
                        f"| {label} | {jobs:,} | {name} | {before} | {today:.1f} s | {ratio} | {much} | {now:.0f} MB |"
                    )


def report(rounds: int) -> str:
    lines = [
        "# Speed of reports at scale",
        "",
        f"What reports cost over the committed records and over {TIMES} times as many, each copied with new seeds and",
        f"checksums: at revision {BEFORE} and today over the records of then, and today over those of today, which the",
        f"earlier revision cannot read. Processor seconds (medians of {rounds}) and peak memory of a process, the",
        "start of Python included, alternating. `table` and `leaderboard build` find an index. Measured with",
        f"Python {platform.python_version()} by `python benchmarks/speed/scale.py --write benchmarks/speed/scale.md`.",
        "",
        "| records of | jobs | what | before | today | | memory before | memory today |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *rows(rounds)])


if __name__ == "__main__":
    show_rounds(__doc__, report, 1)

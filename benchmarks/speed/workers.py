"""Measures what it saves that workers are forks of one process that has imported what jobs need.

    python benchmarks/speed/workers.py [--write benchmarks/speed/workers.md] [--suites small demo] [--repeats 1]

Every suite runs with ``--workers fresh`` and with ``--workers warm``, alternating, and every file of predictions of the
one is compared byte by byte with that of the other. ``tests/runner/test_warm.py`` holds that both do the same.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.speed.command import parser_of, show  # noqa: E402

WORKERS = ("fresh", "warm")
SLOTS = 2

METHODS = ("constant", "lf_dnn", "lmf", "tfn", "mmim", "self_mm", "misa", "mctn")
SMALL = {
    "name": "small",
    "grid": ["inter"],
    "mask_seeds": [0],
    "seeds": [1111, 1112],
    "overrides": {
        "trainer.max_epochs": 3,
        "data.size": [96, 24, 48],
        "data.length": 12,
        "data.missing.regime": "mixed",
    },
    "jobs": [{"method": method, "dataset": "synth"} for method in METHODS],
}


@dataclass(frozen=True)
class Cost:
    """What a run took.

    Attributes:
        jobs: Jobs that it recorded.
        processor: Processor seconds of all its processes.
        wall: Seconds that one waits.
    """

    jobs: int
    processor: float
    wall: float


def run(suite: str, workers: str, folder: Path) -> Cost:
    """Run a suite into a store of its own, ``folder / "store"``."""
    words = ["run", "--suite", suite, "--workers", workers, "--slots", str(SLOTS), "--devices", "cpu"]
    words += ["--store", str(folder / "store"), "--runs", str(folder / "runs")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "msabench", *words], check=True, stdout=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(len(predictions_in(folder)), processor, wall)


def predictions_in(folder: Path) -> dict[str, bytes]:
    """Path below the store -> content of every file of predictions."""
    store = folder / "store"
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*.parquet"))}


def rows(name: str, suite: str, repeats: int) -> list[str]:
    """The table's rows of a suite."""
    costs: dict[str, list[Cost]] = {workers: [] for workers in WORKERS}
    equal = 0
    for number in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            # The first to run alternates, since it may find caches cold.
            for workers in WORKERS if number % 2 == 0 else reversed(WORKERS):
                costs[workers].append(run(suite, workers, Path(folder) / workers))
            fresh, warm = (predictions_in(Path(folder) / workers) for workers in WORKERS)
            if fresh != warm:
                raise SystemExit(f"{name}: predictions differ between fresh and warm workers")
            equal += len(fresh)
    jobs = costs["fresh"][0].jobs
    spent = {workers: median(cost.processor for cost in costs[workers]) for workers in WORKERS}
    waited = {workers: median(cost.wall for cost in costs[workers]) for workers in WORKERS}
    made = [
        f"| {name} | {workers} | {spent[workers]:.0f} s | {waited[workers]:.0f} s | "
        f"{60 * SLOTS * jobs / spent[workers]:.1f} | {60 * jobs / waited[workers]:.1f} |"
        for workers in WORKERS
    ]
    ratio = f"{spent['fresh'] / spent['warm']:.2f}x", f"{waited['fresh'] / waited['warm']:.2f}x"
    made.append(f"| {name} | fresh / warm | {ratio[0]} | {ratio[1]} | {equal} of {equal} files equal | |")
    return made


def report(suites: list[str], repeats: int) -> str:
    lines = [
        "# Speed of workers",
        "",
        "A run of many jobs whose processes import the libraries each (`--workers fresh`), and one whose processes are",
        "forks of one that has imported them (`--workers warm`, the default on Linux). `small` has 16 jobs: eight",
        "methods, two seeds, three epochs on 96 clips of `synth`; `demo` is the suite of that name, 8 jobs that mostly",
        "train. The whole command is measured, with its own start and its plan, and the processor seconds of all its",
        "processes. Jobs a minute are by processor seconds, as of two cores that do nothing else, and by the",
        f"clock. Two slots, pairs of runs: {repeats}, Python {platform.python_version()}, torch {torch.__version__}.",
        "Every file of predictions was compared byte by byte. Made by",
        "`python benchmarks/speed/workers.py --write benchmarks/speed/workers.md`.",
        "",
        "| suite | workers | processor | clock | jobs a minute by processor | by the clock |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.yaml"
        small.write_text(yaml.safe_dump(SMALL, sort_keys=False), encoding="utf-8")
        for name in suites:
            lines += rows(name, str(small) if name == "small" else name, repeats)
    return "\n".join(lines)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--suites", nargs="+", default=["small", "demo"], help="small, or suites of msabench's")
    parser.add_argument("--repeats", type=int, default=1, help="pairs of runs")
    given = parser.parse_args()
    text = report(given.suites, given.repeats)
    show(text, given.write)


if __name__ == "__main__":
    main()

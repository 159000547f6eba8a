"""Measures what msabench adds to bare PyTorch, and what it added at the revision ``revisions.BEFORE``.

    python benchmarks/speed/speed.py [--only fit data ...] [--write benchmarks/speed/README.md]

Sides are compared within one run, alternating, one thread, in processor seconds; the median of the rounds counts. Bare
loops run in a process of their own under torch's defaults (``sides.py``). Nothing is asserted: budgets stand beside the
figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from revisions import BEFORE, checkout
from sides import ONE_THREAD, ROOT, Side, Work, built, running

PAGES = {
    "packed": "Recurrent networks over clips of different lengths",
    "against_mmsa": "Methods of MMSA beside MMSA itself",
    "tables": "Tables over large stores",
    "workers": "Many jobs: workers forked from a parent that has imported everything",
    "starts": "What single commands take to start",
    "scale": "Large grids and stores",
    "cells": "Kinds of cells",
    "conversion": "Reading and converting feature files",
    "gpu": "Accelerators",
}
"""Further pages, each by the script of its name."""

GOALS = ROOT / "benchmarks/speed/goals.md"
"""Kept by hand, and held to the pages by ``tests/test_speed_goals.py``; it stands in the page of this script."""


@dataclass
class Row:
    """One line of the table."""

    what: str
    before: str
    now: str
    bare: str
    figure: str
    budget: str = "-"


_COLUMNS = ("what", "before", "now", "bare", "figure", "budget")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sorted(MEASUREMENTS), default=sorted(MEASUREMENTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="write the table into this Markdown file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        train_in_child(given.child)
        return
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        # The allocator reads its settings when the process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    rows = [row for name in given.only for row in MEASUREMENTS[name](given.rounds)]
    table = render(rows)
    print(table)
    if given.write:
        given.write.write_text(page(table), encoding="utf-8")


def render(rows: list[Row]) -> str:
    header = Row("what", f"before ({BEFORE})", "msabench", "bare", "msabench against bare", "budget")
    cells = [[getattr(row, name) for name in _COLUMNS] for row in [header, *rows]]
    cells.insert(1, ["---"] * len(_COLUMNS))
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def page(table: str) -> str:
    import torch

    machine = f"{cpu_name()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}"
    # Others' pages come and go with their scripts.
    further = "\n\n".join(
        f"## {title}\n\n[{name}.md]({name}.md), by "
        f"`python benchmarks/speed/{name}.py --write benchmarks/speed/{name}.md`."
        for name, title in PAGES.items()
        if (ROOT / f"benchmarks/speed/{name}.md").is_file()
    )
    return f"""# Speed

Whatever is compared was measured within one run, in turns, in processor seconds of one thread, on {machine}; what
differs from that is said where it stands.

## What was aimed at

{GOALS.read_text(encoding="utf-8").strip()}

## Against bare PyTorch

By `python benchmarks/speed/speed.py --write benchmarks/speed/README.md`, in less than ten minutes on two quiet cores.
A bare loop has the method's own network and loss, ready-made batches and the same optimiser; it runs in a process of
its own under torch's defaults, while a fit keeps deterministic mode. The column before is of revision `{BEFORE}`.

{table}

{further}
"""


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def alternate(rounds: int, *functions: Callable[[], float]) -> list[float]:
    """Median seconds of each function, measured in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for collected, function in zip(times, functions, strict=True):
            collected.append(function())
    return [statistics.median(collected) for collected in times]


def timed(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def compared(sides: Sequence[Side], work: Work, rounds: int) -> list[float]:
    """Processor seconds of a round of each side; the last one is bare."""
    for side in sides:
        side.give(work)
    *ours, plain = [side.ready() for side in sides]
    if plain["deterministic"] or plain["filled"] or not all(state["deterministic"] for state in ours):
        raise RuntimeError(f"{work.method}: bare runs under {plain}, msabench under {ours}")
    return alternate(rounds, *(side.measure for side in sides))


FITS = {
    "lf_dnn": Work("lf_dnn", (480, 10, 10), 50),
    "lmf": Work("lmf", (480, 10, 10), 50),
    "tfn": Work("tfn", (480, 10, 10), 50),
    "mult": Work("mult", (160, 10, 10), 20),
    "misa": Work("misa", (320, 10, 10), 20),
    "self_mm": Work("self_mm", (480, 10, 10), 20),
    "mmim": Work("mmim", (480, 10, 10), 20),
    "almt": Work("almt", (320, 10, 10), 20),
    "umdf": Work("umdf", (96, 10, 10), 20),
    "prlf": Work("prlf", (96, 10, 10), 20),
    "gcnet": Work("gcnet", (320, 10, 10), 20),
}


def measure_fit(rounds: int) -> list[Row]:
    """Training steps: Lightning, our base and our data path against a plain loop."""
    rows = []
    with checkout() as folder, running(("fitted", folder), ("fitted", ROOT), ("bare", ROOT)) as sides:
        for method, work in FITS.items():
            steps = -(-work.size[0] // work.batch_size)
            before, now, plain = (1e3 * seconds / steps for seconds in compared(sides, work, rounds))
            rows.append(
                Row(
                    f"`fit` of {method}, a step at batch {work.batch_size}, T={work.length}",
                    f"{before:.2f} ms",
                    f"{now:.2f} ms",
                    f"{plain:.2f} ms",
                    f"{now - plain:+.2f} ms, {now / plain:.2f}x (before {before / plain:.2f}x)",
                    "at most 2 ms or 1.1x",
                )
            )
    return rows


CELLS = ["intra/0.3", "inter/la", "intra/0.7", "inter/v"]
GRID = [
    Work("lf_dnn", (32, 10, 686), 20, cells=CELLS),
    Work("lf_dnn", (32, 10, 4659), 20, cells=CELLS[:1]),
    Work("mult", (32, 10, 686), 20, cells=CELLS[:2]),
    Work("prlf", (32, 10, 686), 20, cells=CELLS[:2]),
    Work("prlf", (32, 10, 4659), 20, cells=CELLS[:1]),
    Work("umdf", (32, 10, 686), 20, cells=CELLS[:1]),
    Work("umdf", (32, 10, 4659), 20, cells=CELLS[:1]),
]
"""Test splits of the size of MOSI's and of MOSEI's."""


def measure_grid(rounds: int) -> list[Row]:
    """Evaluating cells against as many bare forward passes over the split."""
    rows = []
    with checkout() as folder, running(("grid", folder), ("grid", ROOT), ("bare_grid", ROOT)) as sides:
        for work in GRID:
            clips = work.size[2]
            before, now, plain = compared(sides, work, rounds if clips < 1000 else 2)
            rows.append(
                Row(
                    f"grid of {len(work.cells)} cells, {work.method}, {clips:,} clips",
                    f"{before:.2f} s",
                    f"{now:.2f} s",
                    f"{plain:.2f} s",
                    f"{now / plain:.3f}x (before {before / plain:.3f}x)",
                    "at most 1.05x",
                )
            )
    return rows


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Deterministic mode as in a fit, or torch's defaults; afterwards as it was."""
    import torch

    from msabench.training.memory_fill import unfilled_memory

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(on, warn_only=True)
    try:
        with unfilled_memory():
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)


def measure_data(rounds: int) -> list[Row]:
    """One view of a batch: masks, selection and multiplication against selection and multiplication alone."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        data = built(Work("lf_dnn", (1284, 10, 10), 50), folder).datamodule
        features = data.corpus.splits["train"].features
        order = torch.randperm(1284, generator=torch.Generator().manual_seed(0))
        batches = order.split(16)
        ready = data.training_batch(batches[0], 0)
        held = {m: torch.ones_like(ready.observed[m])[0].expand(1284, -1).unsqueeze(-1).float() for m in features}
        epochs = iter(range(1, 10_000))

        def ours() -> float:
            epoch = next(epochs)

            def one_epoch() -> None:
                for rows in batches:
                    data.training_batch(rows, epoch)

            with deterministic(True):
                return timed(one_epoch)

        def bare() -> float:
            def one_epoch() -> None:
                for rows in batches:
                    for modality, values in features.items():
                        values.index_select(0, rows) * held[modality].index_select(0, rows)

            with deterministic(False):
                return timed(one_epoch)

        def masks() -> float:
            epoch = next(epochs)
            with deterministic(True):
                return timed(lambda: data._training_masks(epoch, 1, "cpu"))

        ours(), bare()
        path, plain, drawn = alternate(max(rounds, 9), ours, bare, masks)
    steps = len(batches)
    return [
        Row(
            "data path, a view of a batch of 16 (T=50)",
            "-",
            f"{path / steps * 1e3:.3f} ms",
            f"{plain / steps * 1e3:.3f} ms",
            f"{path / plain:.2f}x",
            "at most 1.3x",
        ),
        Row(
            "masks' share of the data path",
            "-",
            f"{drawn / steps * 1e3:.3f} ms",
            f"{path / steps * 1e3:.3f} ms",
            f"{drawn / path:.2f}",
            "at most 0.5",
        ),
    ]


def measure_jobs(rounds: int) -> list[Row]:
    """Throughput of two pinned single-threaded jobs on two cores against one."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return [Row("two jobs on two cores", "-", "-", "-", "not measured: one core", "at least 1.8x")]

    def together(n: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            children = []
            for core in cores[:n]:
                out = Path(folder) / f"{core}.json"
                words = [sys.executable, __file__, "--child", json.dumps({"core": core, "out": str(out)})]
                children.append((subprocess.Popen(words, env={**os.environ, **ONE_THREAD}), out))
            for child, _ in children:
                child.wait()
            return statistics.mean(json.loads(out.read_text())["seconds"] for _, out in children)

    alone, two = alternate(min(rounds, 3), lambda: together(1), lambda: together(2))
    return [
        Row(
            "two jobs on two cores, seconds that pass, throughput against one",
            "-",
            f"{two:.2f} s each",
            f"{alone:.2f} s",
            f"{2 * alone / two:.2f}x",
            "at least 1.8x",
        )
    ]


def train_in_child(settings: str) -> None:
    """One pinned job of the throughput measurement."""
    given = json.loads(settings)
    os.sched_setaffinity(0, {given["core"]})
    with tempfile.TemporaryDirectory() as folder:
        work = Work("umdf", (160, 20, 20), 20)
        made = built(work, folder, "--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1")
        started = time.perf_counter()
        made.trainer.fit(made.model, datamodule=made.datamodule)
        seconds = time.perf_counter() - started
    Path(given["out"]).write_text(json.dumps({"seconds": seconds}))


def measure_start(rounds: int) -> list[Row]:
    """Verbs that do not train, and the second start on a corpus."""
    rows = []
    for words in (["--help"], ["methods"], ["table", "--committed"]):
        code = (
            "import sys; from msabench.__main__ import dispatch; dispatch(sys.argv[1:]); "
            "print('torch' in sys.modules, file=sys.stderr)"
        )
        seconds, loaded = [], ""
        for _ in range(rounds):
            started = time.perf_counter()
            run = subprocess.run(
                [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT, check=True
            )
            seconds.append(time.perf_counter() - started)
            loaded = run.stderr.strip().splitlines()[-1]
        rows.append(
            Row(
                f"`msabench {' '.join(words)}`, seconds that pass",
                "-",
                f"{statistics.median(seconds):.2f} s",
                "-",
                f"imports torch: {'yes' if loaded == 'True' else 'no'}",
                "about 1 s, no torch",
            )
        )
    from msabench.data.store import open_corpus

    open_corpus("synth")
    again = statistics.median(timed(lambda: open_corpus("synth")) for _ in range(rounds))
    rows.append(Row("second start: open synth at MOSI's size", "-", f"{again:.3f} s", "-", "-", "at most 0.5 s"))
    return rows


MEASUREMENTS: dict[str, Callable[[int], list[Row]]] = {
    "data": measure_data,
    "fit": measure_fit,
    "grid": measure_grid,
    "jobs": measure_jobs,
    "start": measure_start,
}

if __name__ == "__main__":
    main()

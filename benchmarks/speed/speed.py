"""Measures what msabench adds to bare PyTorch, as ratios within one run.

    python benchmarks/speed/speed.py [--only fit data ...] [--write benchmarks/speed/README.md]

Every ratio compares two measurements that alternate in one process on the same tensors, one thread; the median of the
rounds counts. Nothing is asserted: budgets stand beside the figures.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "CUDA_VISIBLE_DEVICES": "",
    # glibc otherwise returns and faults in the pages of every large tensor, or not, depending on what ran before.
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
}


@dataclass
class Row:
    """One line of the table."""

    what: str
    ours: str
    bare: str
    figure: str
    budget: str


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
    header = Row("what", "msabench", "bare", "figure", "budget")
    cells = [[getattr(row, name) for name in ("what", "ours", "bare", "figure", "budget")] for row in [header, *rows]]
    cells.insert(1, ["---"] * 5)
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def page(table: str) -> str:
    import torch

    machine = f"{cpu_name()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}"
    return f"""# Speed

What msabench adds to bare PyTorch. Made by `python benchmarks/speed/speed.py --write benchmarks/speed/README.md`.
Every ratio is measured within one run, one thread, on {machine}.

{table}
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
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def synth(method: str, folder: str, *overrides: str):  # noqa: ANN201
    """Method, data and trainer on a small synth, through the command line's own path."""
    import torch

    from msabench.training.build import build

    torch.set_num_threads(1)
    settings = [
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={folder}",
        "--early_stop=null",
        # A schedule on the validation loss has nothing to watch where no validation runs.
        *(["--model.init_args.lr_patience=null"] if method in ("mult", "umdf") else []),
        "--data.missing.regime=mixed",
        *overrides,
    ]
    return build([ROOT / f"configs/{method}_synth.yaml"], settings)


def measure_fit(rounds: int) -> list[Row]:
    """Training steps: Lightning, our base and our data path against a plain loop."""
    return [
        fit_row("lf_dnn", 16, (640, 10, 10), 50, rounds, "at most 2 ms a step"),
        fit_row("mult", 16, (160, 10, 10), 20, rounds, "at most 1.1x"),
        fit_row("umdf", 16, (160, 10, 10), 20, rounds, "at most 1.1x"),
    ]


def fit_row(method: str, batch_size: int, size: tuple[int, int, int], length: int, rounds: int, budget: str) -> Row:
    import lightning.pytorch as pl
    import torch

    with tempfile.TemporaryDirectory() as folder:
        built = synth(
            method,
            folder,
            f"--data.size={list(size)}",
            f"--data.length={length}",
            f"--data.batch_size={batch_size}",
        )
        model, data = built.model, built.datamodule
        steps = -(-size[0] // batch_size)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        # The bare loop gets its batches ready made: the data path has its own rows.
        batches = [
            data.training_batch(rows, 0, needs=model.data_needs) for rows in torch.arange(size[0]).split(batch_size)
        ]

        def bare() -> float:
            model.train()

            def epoch() -> None:
                for batch in batches:
                    optimizer.zero_grad()
                    terms = model.loss(model.training_forward(batch), batch)
                    torch.stack(list(terms.values())).sum().backward()
                    optimizer.step()

            return timed(epoch) / steps

        class EpochClock(pl.Callback):
            """Times the second epoch's batches, without validation and start-up."""

            seconds = 0.0

            def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
                self.started = time.perf_counter()

            def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
                self.seconds = time.perf_counter() - self.started

        def fitted() -> float:
            clock = EpochClock()
            trainer = pl.Trainer(
                max_epochs=2,
                accelerator="cpu",
                devices=1,
                logger=built.trainer.loggers[0],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                limit_val_batches=0,
                callbacks=[clock],
            )
            trainer.fit(model, datamodule=data)
            return clock.seconds / steps

        fitted()
        ours, plain = alternate(rounds, fitted, bare)
    return Row(
        f"`fit` of {method}, a step at batch {batch_size}",
        f"{ours * 1e3:.2f} ms",
        f"{plain * 1e3:.2f} ms",
        f"{(ours - plain) * 1e3:+.2f} ms, {ours / plain:.3f}x",
        budget,
    )


def measure_data(rounds: int) -> list[Row]:
    """One view of a batch: masks, selection and multiplication against selection and multiplication alone."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        data = synth("lf_dnn", folder, "--data.size=[1284,10,10]", "--data.batch_size=16").datamodule
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

            return timed(one_epoch)

        def bare() -> float:
            def one_epoch() -> None:
                for rows in batches:
                    for modality, values in features.items():
                        values.index_select(0, rows) * held[modality].index_select(0, rows)

            return timed(one_epoch)

        def masks() -> float:
            epoch = next(epochs)
            return timed(lambda: data._training_masks(epoch, 1, "cpu"))

        ours(), bare()
        path, plain, drawn = alternate(max(rounds, 9), ours, bare, masks)
    steps = len(batches)
    return [
        Row(
            "data path, a view of a batch of 16 (T=50, 768/5/20)",
            f"{path / steps * 1e3:.3f} ms",
            f"{plain / steps * 1e3:.3f} ms",
            f"{path / plain:.2f}x",
            "at most 1.3x",
        ),
        Row(
            "masks' share of the data path",
            f"{drawn / steps * 1e3:.3f} ms",
            f"{path / steps * 1e3:.3f} ms",
            f"{drawn / path:.2f}",
            "at most 0.5",
        ),
    ]


def measure_grid(rounds: int) -> list[Row]:
    """Evaluating the 16 distinct cells against 16 bare forward passes over the split."""
    import torch

    from msabench.evaluation.evaluate import CPU_BATCH, evaluate_grid
    from msabench.missingness.conditions import GRIDS, Cell, distinct

    rows = []
    for method in ("lf_dnn", "mult", "umdf"):
        with tempfile.TemporaryDirectory() as folder:
            built = synth(method, folder, "--data.size=[32,10,384]", "--data.length=20")
            model, data = built.model.eval(), built.datamodule
            cells = distinct(GRIDS["paper"])
            batches = [b.for_inference() for b in data.cell_batches(Cell(), 0, batch_size=CPU_BATCH)]

            def bare(model=model, batches=batches, cells=cells) -> float:  # noqa: ANN001
                def passes() -> None:
                    with torch.no_grad():
                        for _ in cells:
                            for batch in batches:
                                model(batch)

                return timed(passes)

            def ours(model=model, data=data, cells=cells) -> float:  # noqa: ANN001
                return timed(lambda: evaluate_grid(model, data, cells, mask_seeds=(0,)))

            ours(), bare()
            grid, plain = alternate(rounds, ours, bare)
            rows.append(
                Row(
                    f"grid of 16 cells, {method}, 384 clips",
                    f"{grid:.2f} s",
                    f"{plain:.2f} s",
                    f"{grid / plain:.3f}x",
                    "at most 1.15x" if method != "lf_dnn" else "-",
                )
            )
    return rows


def measure_jobs(rounds: int) -> list[Row]:
    """Throughput of two pinned single-threaded jobs on two cores against one."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return [Row("two jobs on two cores", "-", "-", "not measured: one core", "at least 1.8x")]

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
            "two jobs on two cores, throughput against one",
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
        built = synth("umdf", folder, "--data.size=[160,20,20]", "--data.length=20", "--trainer.max_epochs=2")
        seconds = timed(lambda: built.trainer.fit(built.model, datamodule=built.datamodule))
    Path(given["out"]).write_text(json.dumps({"seconds": seconds}))


def measure_start(rounds: int) -> list[Row]:
    """Verbs that do not train, and the second start on a corpus."""
    rows = []
    for words in (["--help"], ["methods"], ["table"]):
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
                f"`msabench {' '.join(words)}`",
                f"{statistics.median(seconds):.2f} s",
                "-",
                f"imports torch: {'yes' if loaded == 'True' else 'no'}",
                "about 1 s, no torch",
            )
        )
    from msabench.data.store import open_corpus

    open_corpus("synth")
    again = statistics.median(timed(lambda: open_corpus("synth")) for _ in range(rounds))
    rows.append(Row("second start: open synth at MOSI's size", f"{again:.3f} s", "-", "-", "at most 0.5 s"))
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

"""Measures what makes a GPU busy, as ratios within one run: compiled steps, bf16, stacked seeds and cells, processes.

    python benchmarks/speed/gpu.py [--only fit seeds ...] [--write benchmarks/speed/gpu.md]
    python benchmarks/speed/gpu.py --device cpu --toy

Everything takes less than eight minutes on one device. A part that fails prints its error, and the others go on; so
does the rest when ``--minutes`` are over. ``--toy`` goes through all parts at toy size, which measures nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

FIT = ("lf_dnn", "tfn", "lmf", "mult", "almt", "umdf")
STACKED = ("lf_dnn", "lmf", "mult", "umdf")
GRID = ("lf_dnn", "mult", "umdf")


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        clips: Clips in train, valid and test.
        length: Steps of a clip.
        batch: Clips of a batch.
        steps: Steps that are timed.
        rounds: Rounds in which what is compared takes turns; the fastest of each counts.
        epochs: Epochs of a whole training.
        seeds: Numbers of seeds that are stacked.
        processes: Numbers of processes that share the device.
        small: Whether methods are their tiny instances.
    """

    clips: tuple[int, int, int] = (1280, 224, 672)
    length: int = 50
    batch: int = 32
    steps: int = 40
    rounds: int = 3
    epochs: int = 3
    seeds: tuple[int, ...] = (1, 3, 5, 10)
    processes: tuple[int, ...] = (1, 2, 4)
    small: bool = False


TOY = Sizes((8, 4, 6), 8, 4, 2, 1, 1, (2,), (1,), small=True)


@dataclass(frozen=True)
class Run:
    """What all parts are told.

    Attributes:
        device: ``cuda`` or ``cpu``.
        sizes: How much is measured.
        methods: Methods to measure instead of the parts' own.
        until: When to stop, in ``time.perf_counter``.
    """

    device: str
    sizes: Sizes
    methods: tuple[str, ...]
    until: float

    def of(self, methods: tuple[str, ...]) -> Iterator[str]:
        """The methods of a part, as long as there is time."""
        for method in self.methods or methods:
            if time.perf_counter() > self.until:
                print(f"no time left for {method}", flush=True)
                return
            yield method


Rows = Iterator[tuple[str, ...]]


def built(run: Run, method: str, folder: str, *more: str, seed: int = 1) -> Any:
    """A method, its data and its trainer, as ``msabench fit`` makes them."""
    from msabench.methods.registry import method_info
    from msabench.training.build import build

    smoke = method_info(method).smoke.items() if run.sizes.small else ()
    words = [
        *(f"--model.init_args.{name}={list(value) if isinstance(value, tuple) else value}" for name, value in smoke),
        f"--data.size={list(run.sizes.clips)}",
        f"--data.length={run.sizes.length}",
        f"--data.batch_size={run.sizes.batch}",
        "--data.missing.regime=mixed",
        f"--trainer.max_epochs={run.sizes.epochs}",
        f"--trainer.accelerator={'gpu' if run.device == 'cuda' else 'cpu'}",
        "--trainer.devices=1",
        "--trainer.enable_progress_bar=false",
        "--early_stop=null",
        f"--seed_everything={seed}",
    ]
    return build([ROOT / f"configs/{method}_synth.yaml"], [*words, *more], Path(folder) / f"{method}_{seed}")


def seconds(run: Run, function: Callable[[], object]) -> float:
    """Wall time until the device is through."""
    import torch

    def wait() -> None:
        if run.device == "cuda":
            torch.cuda.synchronize()

    wait()
    started = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - started


def in_turns(run: Run, functions: dict[str, Callable[[], object]]) -> dict[str, float | str]:
    """Seconds of each, the fastest of several rounds in turns after one that does not count; or why it failed."""
    found: dict[str, float | str] = {}
    for counts in (False, *[True] * run.sizes.rounds):
        for name, function in functions.items():
            if isinstance(found.get(name), str):
                continue
            try:
                taken = seconds(run, function)
            except Exception as error:
                found[name] = said(error)
                continue
            if counts:
                found[name] = min(taken, float(found.get(name, taken)))
    return found


def said(error: Exception) -> str:
    """An error in a cell of a table."""
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text[:120]}".replace("|", "/")


def ratio(of: float | str | None, to: float | str | None) -> str:
    """The first in units of the second."""
    if isinstance(of, str) or isinstance(to, str) or of is None or not to:
        return "-"
    return f"{of / to:.2f}x"


def shown(value: float | str | None, factor: float = 1.0, unit: str = "s") -> str:
    return value if isinstance(value, str) else "-" if value is None else f"{value * factor:.2f} {unit}"


# The parts.


def measure_fit(run: Run) -> Rows:
    """Training steps on resident batches: the engine's pass, a bare one, compiled, as CUDA graphs, and in bf16."""
    import torch

    from msabench.training.compiled import compile_training

    ways = {"default": "default", "graphs": "reduce-overhead"} if run.device == "cuda" else {"traced": "eager"}
    yield ("method", "fit, a step", "bare", *(f"{way} / bare" for way in ways), "bf16 / bare")
    for method in run.of(FIT):
        with tempfile.TemporaryDirectory() as folder:

            def stepping(compile_as: str | None = None, bf16: bool = False, method: str = method) -> Callable[[], None]:
                one = built(run, method, folder)
                model, data = one.model.to(run.device).train(), one.datamodule
                model.enter_stage(model.stages[-1])
                model.turn = model.turns[-1]
                if compile_as:
                    compile_training(model, compile_as)  # type: ignore[arg-type]
                optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
                rows = torch.arange(run.sizes.clips[0]).split(run.sizes.batch)[: run.sizes.steps]
                batches = [data.training_batch(own, 0, needs=model.data_needs, device=run.device) for own in rows[:8]]

                def steps() -> None:
                    for number in range(run.sizes.steps):
                        batch = batches[number % len(batches)]
                        optimizer.zero_grad()
                        with torch.autocast(run.device, dtype=torch.bfloat16, enabled=bf16):
                            terms = model.loss(model.training_forward(batch), batch)
                            total = torch.stack(list(terms.values())).sum()
                        if total.requires_grad:
                            total.backward()
                            optimizer.step()

                return steps

            plain: dict[str, Callable[[], object]] = {"bare": stepping()}
            for name, how in ways.items():
                plain[name] = _late(stepping, compile_as=how)
            plain["bf16"] = _late(stepping, bf16=True)
            found = in_turns(run, plain)
            try:
                whole: float | str = step_of_fit(run, method, folder)
            except Exception as error:
                whole = said(error)
            per_step = 1e3 / run.sizes.steps
            yield (
                method,
                shown(whole, 1e3, "ms"),
                shown(found.get("bare"), per_step, "ms"),
                *(_or_error(found.get(way), found.get("bare")) for way in ways),
                _or_error(found.get("bf16"), found.get("bare")),
            )


def _late(make: Callable[..., Callable[[], None]], **given: Any) -> Callable[[], None]:
    """Builds when it is called first, so that what fails then fails alone."""
    made: list[Callable[[], None]] = []

    def call() -> None:
        if not made:
            made.append(make(**given))
        made[0]()

    return call


def _or_error(of: float | str | None, to: float | str | None) -> str:
    return of if isinstance(of, str) else ratio(of, to)


def step_of_fit(run: Run, method: str, folder: str) -> float:
    """Mean seconds of the steps of an epoch but the first, by Lightning's loop."""
    import lightning.pytorch as pl
    import torch

    class Clock(pl.Callback):
        steps = 0
        started = seconds = 0.0

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            self.steps += 1
            if self.steps in (1, trainer.num_training_batches) and run.device == "cuda":
                torch.cuda.synchronize()
            if self.steps == 1:
                self.started = time.perf_counter()
            self.seconds = time.perf_counter() - self.started

    clock = Clock()
    limits = [f"--trainer.limit_train_batches={run.sizes.steps}", "--trainer.max_epochs=1"]
    one = built(run, method, folder, *limits)
    one.trainer.callbacks.append(clock)
    one.trainer.fit(one.model, datamodule=one.datamodule)
    return clock.seconds / max(clock.steps - 1, 1)


def measure_seeds(run: Run) -> Rows:
    """Whole trainings: seeds in one pass, against one after the other."""
    from msabench.training.stacked_fit import build_seeds, fit_stacked

    yield ("method", "seeds", "together", "alone, each", "jobs an hour, together", "alone", "ratio")
    for method in run.of(STACKED):
        with tempfile.TemporaryDirectory() as folder:
            each: float | str = "-"
            for count in run.sizes.seeds:
                try:
                    made = build_seeds(
                        [partial(built, run, method, f"{folder}/{count}", seed=seed) for seed in range(1, count + 1)]
                    )
                    together = seconds(run, partial(fit_stacked, made))
                    one = built(run, method, f"{folder}/alone{count}")
                    each = seconds(run, partial(one.trainer.fit, one.model, datamodule=one.datamodule))
                except Exception as error:
                    yield (method, str(count), said(error), shown(each), "-", "-", "-")
                    continue
                hours = [f"{3600 * number / taken:.0f}" for number, taken in ((count, together), (1, each))]
                yield (method, str(count), shown(together), shown(each), *hours, ratio(count * each, together))


def measure_grid(run: Run) -> Rows:
    """The grid of a paper with three mask seeds: cells stacked into passes, against cell by cell."""
    from msabench.evaluation.evaluate import evaluate_grid
    from msabench.missingness.conditions import GRIDS

    yield ("method", "situations", "cell by cell", "stacked", "ratio")
    for method in run.of(GRID):
        with tempfile.TemporaryDirectory() as folder:
            one = built(run, method, folder)
            walk = partial(evaluate_grid, one.model, one.datamodule, GRIDS["paper"], device=run.device)
            count = len(walk(stack_cells=False).cells)
            found = in_turns(
                run, {"alone": partial(walk, stack_cells=False), "stacked": partial(walk, stack_cells=True)}
            )
            yield (
                method,
                str(count),
                shown(found.get("alone")),
                shown(found.get("stacked")),
                ratio(found.get("alone"), found.get("stacked")),
            )


def measure_processes(run: Run) -> Rows:
    """Trainings in processes that share the device, as ``msabench run --per_device`` starts them."""
    yield ("method", "processes", "wall time", "jobs an hour", "against one")
    for method in run.of(("lf_dnn",)):
        first = 0.0
        for count in run.sizes.processes:
            try:
                taken = together(run, method, count)
            except Exception as error:
                yield (method, str(count), said(error), "-", "-")
                continue
            rate = count / taken
            first = first or rate
            yield (method, str(count), shown(taken), f"{3600 * rate:.0f}", f"{rate / first:.2f}x")


def together(run: Run, method: str, count: int) -> float:
    """Wall time of a training in each of several processes, without their starts: all wait for the last to be ready."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"method": method, "device": run.device, "folder": folder, "toy": run.sizes.small}
        children = [
            subprocess.Popen([sys.executable, __file__, "--child", json.dumps({**settings, "number": number})])
            for number in range(count)
        ]
        limit = time.perf_counter() + 240
        while len(list(Path(folder).glob("*.ready"))) < count:
            if time.perf_counter() > limit or any(child.poll() for child in children):
                for child in children:
                    child.kill()
                raise RuntimeError("a process did not get ready")
            time.sleep(0.05)
        started = time.perf_counter()
        (Path(folder) / "go").touch()
        codes = [child.wait() for child in children]
        if any(codes):
            raise RuntimeError(f"processes ended with {codes}")
        return time.perf_counter() - started


def train_in_child(given: dict[str, Any]) -> None:
    """One of several processes on a device."""
    run = Run(given["device"], TOY if given["toy"] else Sizes(), (), 0.0)
    one = built(run, given["method"], f"{given['folder']}/{given['number']}", seed=given["number"] + 1)
    (Path(given["folder"]) / f"{given['number']}.ready").touch()
    while not (Path(given["folder"]) / "go").exists():
        time.sleep(0.01)
    one.trainer.fit(one.model, datamodule=one.datamodule)


PARTS: dict[str, Callable[[Run], Rows]] = {
    "fit": measure_fit,
    "seeds": measure_seeds,
    "grid": measure_grid,
    "processes": measure_processes,
}


def table(rows: Rows) -> list[str]:
    """Rows as Markdown; a part that fails keeps the rows that it has."""
    lines: list[str] = []
    try:
        for number, row in enumerate(rows):
            lines.append("| " + " | ".join(row) + " |")
            if number == 0:
                lines.append("|" + " --- |" * len(row))
            print(lines[-1] if number else lines[0], flush=True)
    except Exception as error:
        lines += ["", f"This part ended: {said(error)}"]
        print(lines[-1], flush=True)
    return lines


def report(run: Run, parts: list[str]) -> str:
    """The page."""
    import torch

    name = torch.cuda.get_device_name() if run.device == "cuda" else "the CPU"
    lines = ["# Speed on a GPU", ""]
    if run.sizes.small:
        lines += ["Toy, no measurement: it shows that every part runs.", ""]
    lines += [
        f"On {name} (`{run.device}`), torch {torch.__version__}, Python {platform.python_version()}, by",
        "`python benchmarks/speed/gpu.py --write benchmarks/speed/gpu.md`. Wall time, what is compared in one process.",
        f"`synth` with {run.sizes.clips} clips of {run.sizes.length} steps, batches of {run.sizes.batch}.",
    ]
    for part in parts:
        print(f"\n{part}", flush=True)
        about = (PARTS[part].__doc__ or "").strip()
        lines += ["", f"## {part.capitalize()}", "", about, "", *table(PARTS[part](run))]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="toy sizes: shows that every part runs")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--methods", nargs="+", default=[], help="methods to measure instead of the parts' own")
    parser.add_argument("--minutes", type=float, default=8.0, help="when no further method is begun")
    parser.add_argument("--write", type=Path, help="write the page into this Markdown file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.child:
        train_in_child(json.loads(given.child))
        return
    until = time.perf_counter() + 60 * given.minutes
    run = Run(given.device, TOY if given.toy else Sizes(), tuple(given.methods), until)
    with contextlib.suppress(KeyboardInterrupt):
        text = report(run, given.only)
        if given.write:
            given.write.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

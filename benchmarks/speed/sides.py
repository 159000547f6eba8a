"""What speed.py compares, each side in a process of its own: so no side runs in a state that another one left.

A side sets up the work that it is given, and from then on answers with the processor seconds of a round whenever it is
asked, so that rounds of several sides alternate. ``Side`` is the parent's part, the functions in ``SIDES`` are the
children's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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
class Work:
    """What is measured.

    Attributes:
        method: Name of the method; its config on synth is taken.
        size: Clips of the three splits.
        length: Steps of a clip.
        batch_size: Training clips in a batch.
        cells: Cells to evaluate, for grids.
    """

    method: str
    size: tuple[int, int, int]
    length: int
    batch_size: int = 16
    cells: list[str] = field(default_factory=list)


class Side:
    """A child process that measures on request.

    Args:
        name: Key of the script's sides.
        package: Folder of the package and its configs.
        script: Script that calls ``main`` with its sides; this one's are ``SIDES``.
    """

    def __init__(self, name: str, package: Path = ROOT, script: str = __file__) -> None:
        self._child = subprocess.Popen(
            [sys.executable, script, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(package)},
        )

    def give(self, work: Work) -> None:
        """Have the work set up, without waiting for it."""
        self._send(json.dumps(asdict(work)))

    def ready(self) -> dict[str, bool]:
        """Wait until the given work is set up.

        Returns:
            Whether deterministic mode is on, and whether it fills new tensors, where the work is done.
        """
        return self._answer()

    def measure(self) -> float:
        """Processor seconds of a round."""
        self._send(_GO)
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End the process."""
        self._child.kill()
        self._child.wait()

    def _send(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n")
        self._child.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            if line.startswith(_MARK):
                answer: dict[str, Any] = json.loads(line.removeprefix(_MARK))
                return answer
        raise RuntimeError(f"a side ended with code {self._child.wait()}")


@contextmanager
def running(*sides: tuple[str, Path], script: str = __file__) -> Iterator[list[Side]]:
    """Sides of a script by name and package; they end with the block."""
    started = [Side(name, package, script) for name, package in sides]
    try:
        yield started
    finally:
        for side in started:
            side.close()


# The children's part.

_MARK = "speed: "
_GO = "go"


class Done(Exception):  # noqa: N818 (nothing went wrong)
    """There is other work."""


class Requests:
    """What the parent wants.

    Args:
        kind: What its work is.
    """

    def __init__(self, kind: type[Work] = Work) -> None:
        self.kind = kind
        self.line = ""

    def next_work(self) -> Work | None:
        """The next work, None at the end."""
        self.line = self.line or sys.stdin.readline()
        if not self.line:
            return None
        work, self.line = self.kind(**json.loads(self.line)), ""
        return work

    def wait(self) -> None:
        """Wait until the next round is asked for.

        Raises:
            Done: Other work is, or nothing any more.
        """
        line = sys.stdin.readline()
        if line.strip() != _GO:
            self.line = line
            raise Done


def say(**answer: Any) -> None:
    print(_MARK + json.dumps(answer), flush=True)


def say_state() -> None:
    """Say what torch's deterministic mode is, as the measured code finds it."""
    import torch
    import torch.utils.deterministic as settings

    mode = torch.are_deterministic_algorithms_enabled()
    say(deterministic=mode, filled=mode and settings.fill_uninitialized_memory)


def answer(requests: Requests, measured: Callable[[], object]) -> None:
    measured()
    say_state()
    while True:
        requests.wait()
        started = time.process_time()
        measured()
        say(seconds=time.process_time() - started)


def built(work: Work, folder: str, *overrides: str) -> Any:
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
        "--data.missing.regime=mixed",
        f"--data.size={list(work.size)}",
        f"--data.length={work.length}",
        f"--data.batch_size={work.batch_size}",
        # There is no validation before the last of so many epochs, and nothing that watches it.
        "--trainer.max_epochs=100000",
        "--trainer.check_val_every_n_epoch=100000",
        *(["--model.init_args.lr_patience=null"] if work.method in _PLATEAU else []),
        *overrides,
    ]
    return build([_package() / f"configs/{work.method}_synth.yaml"], settings)


def _package() -> Path:
    """Folder of the package that is measured, which has its configs."""
    import msabench

    return Path(msabench.__file__).parents[1]


_PLATEAU = ("mult", "umdf")


def fitted(work: Work, folder: str, requests: Requests) -> None:
    """Epochs of ``msabench fit`` after the first, each with its masks, log and all that happens between two epochs."""
    answer_epochs(requests, built(work, folder))


def answer_epochs(requests: Requests, made: Any) -> None:
    """Fit what was built, an epoch for each request."""
    import lightning.pytorch as pl

    class Gate(pl.Callback):
        """Holds the training before every epoch until it is asked for."""

        started: float | None = None

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:
                say_state()
            if trainer.current_epoch > 1:
                assert self.started is not None
                say(seconds=time.process_time() - self.started)
            if trainer.current_epoch > 0:
                requests.wait()
            self.started = time.process_time()

    made.trainer.callbacks.append(Gate())
    made.trainer.fit(made.model, datamodule=made.datamodule)


def bare(work: Work, folder: str, requests: Requests) -> None:
    """The method's own arithmetic in a plain loop over ready-made batches, under torch's defaults, Adam fused."""
    import torch

    made = built(work, folder, "--trainer.deterministic=false")
    model, data = made.model, made.datamodule
    data.needs = model.data_needs
    data.setup("fit")
    batches = [data.training_batch(rows.index, 0, needs=data.needs) for rows in data.train_dataloader()]
    clip = made.trainer.gradient_clip_val
    kind = torch.optim.AdamW if model.optimizer_class is torch.optim.AdamW else torch.optim.Adam
    optimizers, moved = {}, {}
    for turn in model.turns:
        model.turn = turn
        groups = [group for group in model.param_groups() if group["params"]]
        optimizers[turn] = kind(groups, lr=1e-4, weight_decay=model.weight_decay, fused=True)
        moved[turn] = {p for group in groups for p in group["params"]}
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train()

    def limit(parameters: set[Any]) -> None:
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        if model.gradient_clip is not None:
            by = {"norm": torch.nn.utils.clip_grad_norm_, "value": torch.nn.utils.clip_grad_value_}[model.clip_by]
            by(parameters, model.gradient_clip)

    def epoch() -> None:
        for number, batch in enumerate(batches):
            for turn, place in model.turns_of(number, len(batches)).items():
                optimizer = optimizers[turn]
                if len(optimizers) > 1:
                    model.turn = turn
                    for parameter in trained:
                        parameter.requires_grad_(parameter in moved[turn])
                if place % model.accumulate == 0:
                    optimizer.zero_grad()
                torch.stack(list(model.loss(model.training_forward(batch), batch).values())).sum().backward()
                limit(moved[turn])
                for _ in range(model.steps_after(place)):
                    optimizer.step()

    answer(requests, epoch)


def grid(work: Work, folder: str, requests: Requests) -> None:
    """``evaluate_grid`` over some cells."""
    from msabench.evaluation.evaluate import evaluate_grid
    from msabench.missingness.conditions import Cell

    made = built(work, folder)
    cells = [Cell.parse(cell) for cell in work.cells]
    answer(requests, lambda: evaluate_grid(made.model, made.datamodule, cells, mask_seeds=(0,)))


def bare_grid(work: Work, folder: str, requests: Requests) -> None:
    """As many bare forward passes over ready-made batches of complete clips, under torch's defaults."""
    import torch

    from msabench.evaluation.evaluate import CPU_BATCH
    from msabench.missingness.conditions import Cell

    made = built(work, folder, "--trainer.deterministic=false")
    model, data = made.model.eval(), made.datamodule
    found = data.cell_batches(Cell(), 0, needs=model.data_needs, batch_size=CPU_BATCH)
    batches = [batch.for_inference() for batch in found]

    def passes() -> None:
        with torch.no_grad():
            for _ in work.cells:
                for batch in batches:
                    model(batch)

    answer(requests, passes)


SIDES: dict[str, Callable[[Work, str, Requests], None]] = {
    "fitted": fitted,
    "bare": bare,
    "grid": grid,
    "bare_grid": bare_grid,
}


def main(sides: Mapping[str, Callable[[Any, str, Requests], None]] = SIDES, kind: type[Work] = Work) -> None:
    requests = Requests(kind)
    while (work := requests.next_work()) is not None:
        with tempfile.TemporaryDirectory() as folder, suppress(Done):
            sides[sys.argv[1]](work, folder, requests)


if __name__ == "__main__":
    main()

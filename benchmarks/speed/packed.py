"""Measures recurrent networks over clips of different lengths on a CPU: packed, padded, and what ``run_packed`` takes.

    python benchmarks/speed/packed.py [--write benchmarks/speed/packed.md]

The ways alternate; the least of the rounds counts, in processor seconds of one thread. Nothing is asserted here;
``tests/nn/test_packed.py`` holds that both ways give the same.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks.speed.command import show_rounds  # noqa: E402
from msabench.nn import packed  # noqa: E402

STEPS = 50
NETWORKS: list[tuple[type[nn.LSTM] | type[nn.GRU], int, int, bool]] = [
    (nn.LSTM, 5, 4, True),
    (nn.LSTM, 20, 16, False),
    (nn.LSTM, 74, 74, True),
    (nn.LSTM, 768, 128, False),
    (nn.GRU, 32, 32, True),
    (nn.GRU, 128, 128, True),
]
SHARES = {"1/2 to 1": (0.5, 1.0), "0 to 1": (0.0, 1.0), "0 to 1/4": (0.0, 0.25)}


def lengths_of(clips: int, low: float, high: float) -> Tensor:
    """Steps of clips, evenly from one share of all steps to another; one clip has all steps."""
    lengths = torch.linspace(max(1.0, low * STEPS), high * STEPS, clips).round().long()
    lengths[0] = STEPS
    return lengths


def cheapest(ways: dict[str, Callable[[], object]], rounds: int, seconds: float = 0.03) -> dict[str, float]:
    """Processor seconds of each, measured in turns."""
    found = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            started, calls = time.process_time(), 0
            while time.process_time() - started < seconds:
                way()
                calls += 1
            found[name] = min(found[name], (time.process_time() - started) / calls)
    return found


def row(
    cls: type[nn.LSTM] | type[nn.GRU], features: int, units: int, both: bool, clips: int, said: str, rounds: int
) -> str:
    lengths = lengths_of(clips, *SHARES[said])
    cells = [f"{cls.__name__}{', both ways' if both else ''}", str(features), str(units), str(clips), said]
    for training in (True, False):
        torch.manual_seed(0)
        rnn = cls(features, units, batch_first=True, bidirectional=both)
        # Features of a text come from a file and need no gradient.
        x = torch.randn(clips, STEPS, features, requires_grad=training and features < 768)
        ways = {name: one_pass(rnn, x, lengths, training, name == "whole") for name in ("packed", "whole")}
        found = cheapest(ways, rounds)
        with torch.set_grad_enabled(training):
            taken = "whole" if packed._padding_is_cheap(rnn, x, lengths) else "packed"
        cells += [f"{found[name] * 1e3:.2f}" for name in ways]
        cells += [f"{taken}, {found[taken] / found['packed']:.2f}x"]
    return "| " + " | ".join(cells) + " |"


def one_pass(rnn: nn.LSTM | nn.GRU, x: Tensor, lengths: Tensor, training: bool, whole: bool) -> Callable[[], object]:
    def run() -> None:
        decide, packed._padding_is_cheap = packed._padding_is_cheap, lambda *_: whole
        try:
            with torch.set_grad_enabled(training):
                outputs, final = packed.run_packed(rnn, x, lengths)
            if training:
                (outputs.square().sum() + final.sum()).backward()
        finally:
            packed._padding_is_cheap = decide

    return run


def report(rounds: int) -> str:
    torch.set_num_threads(1)
    return "\n".join(
        [
            "# Speed of recurrent networks on a CPU",
            "",
            f"A pass over clips of up to {STEPS} steps whose lengths are spread evenly, in training (with gradients)",
            "and in inference: as packed sequences, as whole ones whose padding is computed and left out (both in ms),",
            "and which of them `run_packed` takes by the rule in `msabench/nn/packed.py`, with its share of the time",
            "of packed ones. Processor time of one thread, alternating, "
            f"torch {torch.__version__}, Python {platform.python_version()}.",
            "Measured by `python benchmarks/speed/packed.py --write benchmarks/speed/packed.md`.",
            "",
            "| network | inputs | units | clips | lengths | training: packed | whole | | inference: packed | whole | |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *(row(*network, clips, said, rounds) for network in NETWORKS for clips in (16, 96) for said in SHARES),
        ]
    )


if __name__ == "__main__":
    show_rounds(__doc__, report, 4)

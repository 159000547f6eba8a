"""Measures what evaluating each kind of cell costs beside the bare forward passes of a method.

    python benchmarks/speed/cells.py [--rounds 5] [--methods lf_dnn mult] [--write benchmarks/speed/cells.md]

686 clips of `synth`, the size of MOSI's test split. `evaluate_grid` draws the masks, makes the batches and predicts;
bare are as many forward passes over ready-made batches of complete clips. Both alternate in one process of one thread,
in processor seconds; the median of the rounds counts. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sides import ONE_THREAD
from speed import alternate, cpu_name, timed

CLIPS, STEPS = 686, 20
GOAL = 1.1

KINDS = {
    "`intra`": "intra/0.5",
    "`random`": "random/0.5",
    "`random-table`": "random-table/0.5",
    "`aligned`": "aligned/0.5",
    "`block`": "block/0.5",
    "`block-aligned`": "block-aligned/0.5",
    "`noise`, all modalities": "noise/0.5",
    "`noise`, audio and vision": "noise/a=0.5,v=0.5",
    "`permute`": "permute/l",
}
"""Kind -> a cell of it, at level vectors."""


@dataclass(frozen=True)
class Measured:
    """Processor seconds of one cell.

    Attributes:
        method: The method.
        kind: Kind of the cell.
        ours: Of evaluating it.
        bare: Of the forward passes alone.
    """

    method: str
    kind: str
    ours: float
    bare: float

    @property
    def ratio(self) -> float:
        """Ours by bare."""
        return self.ours / self.bare


def measured(method: str, rounds: int) -> list[Measured]:
    """Every kind under one method; words under the method with a small random BERT that reads tokens."""
    import torch

    from msabench.data.datamodule import MSADataModule
    from msabench.missingness.config import MissingConfig

    torch.set_num_threads(1)
    options: dict[str, Any] = {"size": (32, 10, CLIPS), "length": STEPS}
    found = _cells(method, MSADataModule("synth", **options), KINDS, rounds)
    with tempfile.TemporaryDirectory() as folder:
        data = MSADataModule("synth", **options, missing=MissingConfig(level="tokens"))
        _save_bert(folder)
        return [*found, *_cells(READER, data, {"`words`": "words/0.3"}, rounds, text_encoder=folder)]


def _save_bert(folder: str) -> None:
    """Write a small random BERT with the vocabulary of the corpus."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    BertModel(BertConfig(vocab_size=30522, **sizes)).save_pretrained(folder)


READER = "self_mm"
"""Method with a text encoder for the cells of words."""


def _cells(method: str, data: Any, kinds: dict[str, str], rounds: int, **arguments: Any) -> list[Measured]:
    import torch

    from msabench.evaluation.evaluate import CPU_BATCH, evaluate_grid
    from msabench.methods.registry import method_class
    from msabench.missingness.conditions import Cell
    from msabench.training.memory_fill import unfilled_memory

    torch.manual_seed(0)
    model = method_class(method)(data.spec, **arguments).eval()
    found = data.cell_batches(Cell(), 0, needs=model.data_needs, batch_size=CPU_BATCH)
    batches = [batch.for_inference() for batch in found]

    def passes() -> None:
        with torch.no_grad(), unfilled_memory():
            for batch in batches:
                model(batch)

    rows = []
    for kind, name in kinds.items():
        cell = Cell.parse(name)
        evaluate_grid(model, data, [cell], (0,))
        ours, bare = alternate(
            rounds, lambda cell=cell: timed(lambda: evaluate_grid(model, data, [cell], (0,))), lambda: timed(passes)
        )
        rows.append(Measured(method, kind, ours, bare))
    return rows


def page(rows: Sequence[Measured], rounds: int) -> str:
    """The page in Markdown."""
    import torch

    lines = [
        "# Speed of kinds of cells",
        "",
        f"What evaluating one cell costs on {CLIPS} clips of {STEPS} steps beside as many bare forward passes over",
        f"ready-made batches, alternating in one process, processor seconds of one thread, medians of {rounds} rounds;",
        f"goal: at most {GOAL}x. `words` is measured with {READER} and a small random BERT, as it takes a method that",
        f"reads tokens. On {cpu_name()}, torch {torch.__version__}, Python {platform.python_version()}, by",
        "`python benchmarks/speed/cells.py --write benchmarks/speed/cells.md`.",
        "",
        "| method | kind of cell | msabench | bare | ratio |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row.method} | {row.kind} | {1e3 * row.ours:.0f} ms | {1e3 * row.bare:.0f} ms | {row.ratio:.2f}x |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=["lf_dnn", "mult"])
    parser.add_argument("--write", type=Path, help="file to write instead of printing")
    given = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        # The allocator reads its settings when the process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
    rows = list(
        {(row.method, row.kind): row for name in given.methods for row in measured(name, given.rounds)}.values()
    )
    text = page(rows, given.rounds)
    if given.write is None:
        print(text, end="")
    else:
        given.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

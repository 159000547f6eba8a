"""Measures a training epoch and a test evaluation of MMSA's methods here and in MMSA itself.

    MSABENCH_PARITY_MMSA=clones/MMSA python benchmarks/speed/against_mmsa.py [--write benchmarks/speed/against_mmsa.md]

Needs a local clone of https://github.com/thuiar/MMSA (a94e65d). Both read one generated file in MMSA's layout, at
MOSI's sizes. Here a method is built from its config for MOSI, with MMSA's settings where that follows another code, and
trained as ``msabench fit`` does; there MMSA's own data set, loader, model, trainer and settings are run. Each side is a
child process of its own; they alternate, and the least of the rounds counts. Nothing is asserted here; ``tests/parity``
holds that both compute the same.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import sides
from command import parser_of, show
from sides import ROOT

CLONE = "MSABENCH_PARITY_MMSA"
SIZES = {"train": 1284, "valid": 64, "test": 384}
STEPS = 50
DIMS = {"text": 768, "audio": 5, "vision": 20}


@dataclass
class Compared:
    """How a method is measured.

    Attributes:
        batch_size: Training clips of a batch, MMSA's number.
        batches: Batches of a pass over the training clips; None for all.
        settings: Ours where the config for MOSI says something else than MMSA.
        multitask: Whether MMSA has it among its methods with several tasks.
        passes: Passes of an epoch.
    """

    batch_size: int
    batches: int | None = None
    settings: tuple[str, ...] = ()
    multitask: bool = False
    passes: int = 1

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return self.passes * (self.batches or -(-SIZES["train"] // self.batch_size))


_OWN_TEXT = ("text_encoder=null", "finetune=false")
_MULT = (
    *("dim=50", "heads=10", "layers=4", "kernel_size_text=5", "kernel_size_audio=5", "kernel_size_vision=5"),
    *("dropout_text=0.5", "attn_dropout_text=0.3", "attn_dropout_audio=0.2", "attn_dropout_vision=0.0"),
    *("relu_dropout=0.0", "embed_dropout=0.2", "res_dropout=0.0", "out_dropout=0.5", "lr=2.0e-3"),
    *("gradient_clip=0.6", "accumulate=8", "lr_patience=null"),
)
METHODS = {
    "lf_dnn": Compared(128),
    "lmf": Compared(64, settings=("train_fusion_weights=false",)),
    "tfn": Compared(32, 20),
    "misa": Compared(16, 20, _OWN_TEXT),
    "self_mm": Compared(16, 20, _OWN_TEXT, multitask=True),
    "mmim": Compared(32, 16, (*_OWN_TEXT, "bidirectional=true", "lr_patience=null"), passes=2),
    "mult": Compared(16, 8, _MULT),
}


@dataclass
class Work(sides.Work):
    """What is measured, with the file that both sides read."""

    file: str = ""


def write_file(path: Path) -> None:
    """A corpus in MMSA's layout: clips of 10 to 50 steps, padded at the end, with values that mean nothing."""
    random = np.random.default_rng(0)
    content, before = {}, 0
    for split, clips in SIZES.items():
        lengths = random.integers(10, STEPS + 1, clips)
        exists = np.arange(STEPS) < lengths[:, None]
        features = {
            name: random.standard_normal((clips, STEPS, width), dtype=np.float32) * exists[:, :, None]
            for name, width in DIMS.items()
        }
        tokens = np.stack([np.full((clips, STEPS), 2000), exists, np.zeros((clips, STEPS))], axis=1).astype(np.float32)
        # Where the first word stands, the clip's number says which states BERT would have given.
        tokens[:, 0, 1] = before + np.arange(clips)
        content[split] = {
            **features,
            "text_bert": tokens,
            "raw_text": ["text"] * clips,
            "id": [f"{split}{i // 10}$_${i % 10}" for i in range(clips)],
            "regression_labels": np.clip(random.standard_normal(clips) * 1.5, -3, 3).astype(np.float32),
            "audio_lengths": lengths.tolist(),
            "vision_lengths": lengths.tolist(),
        }
        before += clips
    path.write_bytes(pickle.dumps(content, protocol=4))


# Ours, in a child.


def built(work: Work, folder: str) -> Any:
    """Method, data and trainer through the command line's own path."""
    import torch

    from msabench.training.build import build

    torch.set_num_threads(1)
    compared = METHODS[work.method]
    settings = [
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={folder}",
        "--early_stop=null",
        f"--data.path={work.file}",
        f"--data.cache={Path(work.file).with_name('cache')}",
        "--data.features=mmsa-aligned",
        f"--data.batch_size={work.batch_size}",
        "--trainer.max_epochs=100000",
        "--trainer.check_val_every_n_epoch=100000",
        "--trainer.gradient_clip_val=null",
        "--trainer.gradient_clip_algorithm=null",
        f"--trainer.limit_train_batches={compared.steps}",
        *(f"--model.init_args.{setting}" for setting in compared.settings),
    ]
    return build([ROOT / f"configs/{work.method}_mosi.yaml"], settings)


def our_epoch(work: Work, folder: str, requests: sides.Requests) -> None:
    sides.answer_epochs(requests, built(work, folder))


def our_test(work: Work, folder: str, requests: sides.Requests) -> None:
    """The complete cell: predictions, hash of the masks, and all metrics."""
    from msabench.evaluation.evaluate import evaluate_grid
    from msabench.metrics.functional import compute
    from msabench.missingness.conditions import Cell

    made = built(work, folder)

    def evaluate() -> None:
        found = evaluate_grid(made.model, made.datamodule, [Cell()], mask_seeds=(0,))
        compute(found.metric_set, found.labels, found.cells[0].preds)

    sides.answer(requests, evaluate)


# Theirs, in a child.


class Settings(dict[str, Any]):
    """Their settings, which they read as keys and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class Limited:
    """One of their loaders, cut off after some batches.

    Args:
        loader: The loader.
        batches: How many; None for all.
    """

    def __init__(self, loader: Any, batches: int | None) -> None:
        self.loader, self.batches = loader, batches

    def __len__(self) -> int:
        return len(self.loader) if self.batches is None else self.batches

    def __iter__(self) -> Iterator[Any]:
        return islice(self.loader, self.batches)


def their_module(name: str) -> Any:
    """A module of the clone, without the ``__init__`` of packages above it, which import every method."""
    source = Path(os.environ[CLONE]).resolve() / "src"
    sys.modules.setdefault("pynvml", ModuleType("pynvml"))
    for package in ("MMSA", "MMSA.models", "MMSA.trains"):
        for below in ("", ".singleTask", ".multiTask") if package != "MMSA" else ("",):
            bare = ModuleType(package + below)
            bare.__path__ = [str(source.joinpath(*(package + below).split(".")))]
            sys.modules.setdefault(package + below, bare)
    return importlib.import_module(f"MMSA.{name}")


def their_parts(work: Work, folder: str) -> tuple[Any, Any, dict[str, Any]]:
    """Their trainer, model and loaders."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(1111)
    compared = METHODS[work.method]
    kind = "multiTask" if compared.multitask else "singleTask"
    chosen = json.loads((Path(os.environ[CLONE]) / "src/MMSA/config/config_regression.json").read_text())
    args = Settings(
        **chosen["datasetCommonParams"]["mosi"]["unaligned"],
        **chosen[work.method]["commonParams"],
        **chosen[work.method]["datasetParams"]["mosi"],
    )
    args |= {
        "model_name": work.method,
        "dataset_name": "mosi",
        "train_mode": "regression",
        "custom_feature": work.file,
        **dict.fromkeys(("feature_T", "feature_A", "feature_V"), ""),
        "device": torch.device("cpu"),
        "model_save_path": Path(folder) / "model.pth",
        "cur_seed": 1,
        "early_stop": 10**9,
        "train_samples": SIZES["train"],
    }
    assert args.batch_size == work.batch_size
    loaders = their_module("data_loader").MMDataLoader(args, 0)
    file = pickle.loads(Path(work.file).read_bytes())
    states = torch.from_numpy(np.concatenate([file[split]["text"] for split in SIZES]))

    class GivenStates(nn.Module):
        """In place of BERT: the states of the clips' texts in the file."""

        def __init__(self, **_: object) -> None:
            super().__init__()

        def forward(self, text: torch.Tensor) -> torch.Tensor:
            return states.index_select(0, text[:, 0, 1].long())

    class Named(nn.Module):
        """Their wrapper: trainers look for the model under this name."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.Model = model

        def forward(self, *inputs: object, **more: object) -> Any:
            return self.Model(*inputs, **more)

    models = their_module(f"models.{kind}.{work.method.upper()}")
    models.BertTextEncoder = GivenStates
    trainers = their_module(f"trains.{kind}.{work.method.upper()}")
    if hasattr(trainers, "ReduceLROnPlateau"):
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
        # Newer versions of torch know no ``verbose``.
        trainers.ReduceLROnPlateau = lambda *given, verbose=False, **more: plateau(*given, **more)
    trainer = getattr(trainers, work.method.upper())(args)
    model = Named(getattr(models, work.method.upper())(args))
    return trainer, model, {**loaders, "train": Limited(loaders["train"], compared.batches)}


def their_epoch(work: Work, folder: str, requests: sides.Requests) -> None:
    """Epochs of ``do_train`` after the first, each from the end of a validation, which is left out, to the next."""
    trainer, model, loaders = their_parts(work, folder)
    epochs = 0
    started = 0.0

    def validate(*_: object, **__: object) -> dict[str, float]:
        nonlocal epochs, started
        epochs += 1
        if epochs == 2:
            sides.say_state()
        if epochs > 2:
            sides.say(seconds=time.process_time() - started)
        if epochs > 1:
            requests.wait()
        started = time.process_time()
        return {"Loss": 1.0}

    trainer.do_test = validate
    trainer.do_train(model, loaders)


def their_test(work: Work, folder: str, requests: sides.Requests) -> None:
    """``do_test``, whose predictions, loss and metrics are of the complete test split."""
    trainer, model, loaders = their_parts(work, folder)
    # Some look for it there, where a training puts it.
    trainer.model = model
    sides.answer(requests, lambda: trainer.do_test(model, loaders["test"], mode="TEST"))


SIDES: dict[str, Callable[[Any, str, sides.Requests], None]] = {
    "our epoch": our_epoch,
    "their epoch": their_epoch,
    "our test": our_test,
    "their test": their_test,
}


# The parent.


def least(work: Work, running: list[sides.Side], rounds: int) -> list[float]:
    """Processor seconds of each side."""
    for side in running:
        side.give(work)
    for side in running:
        side.ready()
    found = [[side.measure() for side in running] for _ in range(rounds)]
    return [min(column) for column in zip(*found, strict=True)]


def row(method: str, file: Path, running: list[sides.Side], rounds: int) -> str:
    compared = METHODS[method]
    work = Work(method, tuple(SIZES.values()), STEPS, compared.batch_size, file=str(file))
    epoch, test = least(work, running[:2], rounds), least(work, running[2:], rounds)
    cells = [method, str(compared.batch_size), str(compared.steps)]
    cells += [*(f"{seconds / compared.steps * 1e3:.2f}" for seconds in epoch), f"{epoch[0] / epoch[1]:.3f}x"]
    cells += [*(f"{seconds * 1e3:.1f}" for seconds in test), f"{test[0] / test[1]:.3f}x"]
    found = "| " + " | ".join(cells) + " |"
    print(found, file=sys.stderr, flush=True)
    return found


def report(methods: list[str], rounds: int) -> str:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mosi.pkl"
        write_file(file)
        with sides.running(*((name, ROOT) for name in SIDES), script=__file__) as running:
            rows = [row(method, file, running, rounds) for method in methods]
    return "\n".join(
        [
            "# Speed beside MMSA",
            "",
            "A training epoch without its validation, by step, and an evaluation of the test split with its metrics,",
            "both in ms: as `msabench fit` and `evaluate_grid` have it, and as MMSA's own trainer and loader have it",
            "(a94e65d), without worker processes and progress bars. One generated file in MMSA's layout",
            f"({', '.join(f'{n} {split}' for split, n in SIZES.items())} clips of {STEPS} steps, "
            f"{'/'.join(map(str, DIMS.values()))} features); MMSA's settings on both",
            "sides, and in place of BERT the file's text features, which MMSA's model picks from memory. Deterministic",
            "mode is on here and is not known there. Processor time of one thread, child processes that alternate, the",
            f"least of {rounds} rounds, torch {torch.__version__}, Python {platform.python_version()}.",
            "Measured by `python benchmarks/speed/against_mmsa.py --write benchmarks/speed/against_mmsa.md`.",
            "",
            "misa, self_mm and mmim owe most of their ratio to recurrent networks that run over whole sequences here",
            "and over packed ones there; with a real BERT, which takes the same on both sides, they come closer to 1.",
            "MMSA shuffles the test split and tests with the training batch size, here batches are of 96 clips; its",
            "epoch includes the metrics of training.",
            "",
            "| method | batch | steps | a step: msabench | MMSA | | test: msabench | MMSA | |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    if CLONE not in os.environ:
        sys.exit(f"{CLONE} names no clone of https://github.com/thuiar/MMSA; set it to the folder of one")
    os.environ["TQDM_DISABLE"] = "1"
    text = report(given.methods, given.rounds)
    show(text, given.write)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] in SIDES:
        sides.main(SIDES, Work)
    else:
        main()

"""Trains several seeds of a method in one pass, each as if it were alone.

Every seed has its own initialisation, order of clips, training masks, dropout, learning rate, best epoch, early stop,
log and ``best.ckpt``; they share the kernels that compute them. What cannot be stacked is refused by
``training.stackable``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msabench.data.rows import train_order
from msabench.files import replacing
from msabench.interruption import check
from msabench.methods.base import MSAMethod
from msabench.methods.checkpoint import DATA_KEY
from msabench.methods.engine.checkpoints import RANDOM_KEY
from msabench.methods.engine.epoch_means import EpochMeans
from msabench.metrics.collection import PredictionMetrics
from msabench.results.job_identity import config_hash, method_name, weights_of
from msabench.training.build import Built
from msabench.training.finished import FinishedTraining
from msabench.training.keep_best import MONITOR, peak_memory, provenance_of
from msabench.training.run_folder import RunLogger
from msabench.training.seed_stack import SeedStack, joined
from msabench.training.stackable import require_stackable

STACKED = "stacked"
"""Key of a record's provenance under which a training of several seeds at once says so."""

BEST = "best.ckpt"


@dataclass
class _Seed:
    """One of the trainings.

    Attributes:
        built: Its method, data and settings.
        draws: Where its random draws had come to when it was built.
        logger: Writes its ``metrics.csv``.
        best: Lowest ``val/task`` so far; None before the first.
        best_epoch: Its epoch.
        waited: Epochs since.
        epochs: Epochs trained.
    """

    built: Built
    draws: Tensor
    logger: RunLogger = field(init=False)
    best: float | None = None
    best_epoch: int | None = None
    waited: int = 0
    epochs: int = 0

    def __post_init__(self) -> None:
        self.logger = RunLogger(self.built.folder)

    @property
    def number(self) -> int:
        """The seed."""
        return self.built.datamodule.seed

    def generator(self, device: torch.device) -> torch.Generator:
        """What its dropout is drawn from: on the CPU what a training alone would draw on from, else the seed's own."""
        generator = torch.Generator(device)
        if device.type == "cpu":
            generator.set_state(self.draws)
        else:
            generator.manual_seed(self.number)
        return generator


def build_seeds(builders: Sequence[Callable[[], Built]]) -> list[tuple[Built, Tensor]]:
    """Build trainings one after the other, each as the only one.

    Args:
        builders: Each builds one, which seeds the global generator.

    Returns:
        Each with the state of the CPU's generator after it.
    """
    return [(build(), torch.get_rng_state()) for build in builders]


def fit_stacked(
    seeds: Sequence[tuple[Built, Tensor]], tell: Callable[[int, int], None] = lambda epoch, epochs: None
) -> dict[int, str]:
    """Train what ``build_seeds`` built, and leave each one's checkpoint and log in its folder.

    Args:
        seeds: Trainings that differ in their seed alone.
        tell: Called at the start of an epoch with its number from 0 and the number of epochs.

    Returns:
        Seed -> why it did not end well, for those whose loss or prediction was not finite; the others are whole.

    Raises:
        MSABenchError: They cannot be trained together.
    """
    require_stackable([built for built, _ in seeds])
    return _StackedFit([_Seed(built, draws) for built, draws in seeds], tell).run()


class _StackedFit:
    def __init__(self, seeds: list[_Seed], tell: Callable[[int, int], None]) -> None:
        first = seeds[0].built
        self.seeds = list(seeds)
        self.numbers = [seed.number for seed in seeds]
        self.tell = tell
        self.device = first.trainer.strategy.root_device
        self.method = first.model
        self.data = first.datamodule
        self.needs = first.model.data_needs
        self.epochs = first.trainer.max_epochs or 0
        self.early_stop: int | None = first.config["early_stop"]
        for seed in seeds:
            seed.built.model.trainer = seed.built.trainer
            seed.built.datamodule.needs = self.needs
            seed.built.datamodule.share_splits(self.data)
        trainer = first.config["trainer"]
        by_method = self.method.gradient_clip is not None
        self.stack = SeedStack(
            [seed.built.model for seed in seeds],
            [seed.generator(self.device) for seed in seeds],
            device=self.device,
            gradient_clip=self.method.gradient_clip if by_method else trainer["gradient_clip_val"],
            clip_by=self.method.clip_by if by_method else trainer["gradient_clip_algorithm"] or "norm",
            epochs=self.epochs,
        )
        self.steps = self.batches = 0
        self.failures: dict[int, str] = {}
        self.ended: list[_Seed] = []

    def run(self) -> dict[int, str]:
        started, processor_started = time.perf_counter(), time.process_time()
        names = method_name(self.seeds[0].built.config)
        provenances = {s.number: provenance_of(s.built.config, self.device, names) for s in self.seeds}
        self.data.setup("fit")
        for epoch in range(self.epochs):
            if not self.seeds:
                break
            self.tell(epoch, self.epochs)
            means = self._train(epoch)
            self._select(epoch, means)
        seconds, processor_seconds = time.perf_counter() - started, time.process_time() - processor_started
        memory = peak_memory(self.device)
        for seed in [*self.ended, *self.seeds]:
            stacked = {"seeds": self.numbers, "train_seconds": seconds}
            method = seed.built.model
            FinishedTraining(
                checkpoint=BEST,
                epochs=seed.epochs,
                best_epoch=seed.best_epoch,
                val_task=seed.best,
                # Its share: what a job costs is what estimates and tables of costs ask for.
                train_seconds=seconds / len(self.numbers),
                train_processor_seconds=processor_seconds / len(self.numbers),
                n_params=sum(p.numel() for p in method.parameters() if p.requires_grad),
                peak_memory_bytes=memory,
                provenance={**provenances[seed.number], STACKED: stacked},
                config_hash=config_hash(seed.built.config),
                weights=weights_of(method.init_args),
            ).write(seed.built.folder.path)
        return self.failures

    def _train(self, epoch: int) -> dict[str, Tensor]:
        """One epoch; the means of the loss terms, each ``(S,)``."""
        means = EpochMeans()
        orders = []
        for seed in self.seeds:
            # Some losses ask for the epoch.
            seed.built.trainer.fit_loop.epoch_progress.current.processed = epoch  # type: ignore[attr-defined]
            data = seed.built.datamodule
            order = train_order(data.seed, epoch, 0, len(data.corpus.splits["train"]))
            orders.append(torch.split(order, data.batch_size))
        batches = len(orders[0])
        for number, rows in enumerate(zip(*orders, strict=True)):
            check()
            self.batches += 1
            batch = joined(
                [
                    seed.built.datamodule.training_batch(own, epoch, needs=self.needs, device=self.device)
                    for seed, own in zip(self.seeds, rows, strict=True)
                ]
            )
            for turn, place in self.method.turns_of(number, batches).items():
                terms = self.stack.add_gradients(batch, turn, first=place % self.method.accumulate == 0)
                prefix = "loss" if len(self.method.turns) == 1 else f"loss_{turn}"
                named = {f"{prefix}_{name}" if name else prefix: term for name, term in terms.items()}
                means.add(named, len(rows[0]))
                for _ in range(self.method.steps_after(place)):
                    self.stack.step(turn)
                    self.steps += 1
        return means.take()

    def _select(self, epoch: int, means: dict[str, Tensor]) -> None:
        """Validate, keep best epochs, and let go of seeds that are through."""
        collected = self._validated()
        val_tasks = []
        going: list[int] = []
        for place, (seed, metrics) in enumerate(zip(self.seeds, collected, strict=True)):
            seed.epochs = epoch + 1
            losses = {f"train/{name}": float(values[place]) for name, values in means.items()}
            wrong = self._wrong(epoch, losses, metrics)
            if wrong:
                self.failures[seed.number] = wrong
                val_tasks.append(math.inf)
                continue
            val_task = float(self.method.task_loss(*metrics.predictions()))
            val_tasks.append(val_task)
            values = {MONITOR: val_task, **{f"val/{key}": value for key, value in metrics.compute().items()}}
            for row in (values, losses):
                seed.logger.log_metrics({"epoch": epoch, **row}, self.batches - 1)
            seed.logger.save()
            if seed.best is None or val_task < seed.best:
                seed.best, seed.best_epoch, seed.waited = val_task, epoch, 0
                self._save(place, seed, epoch)
            else:
                seed.waited += 1
            if self.early_stop is not None and seed.waited >= self.early_stop:
                self.ended.append(seed)
            else:
                going.append(place)
        self.stack.end_epoch(val_tasks)
        if len(going) < len(self.seeds):
            self.seeds = [self.seeds[place] for place in going]
            if going:
                self.stack.keep(going)

    def _validated(self) -> list[PredictionMetrics]:
        collected = [PredictionMetrics(self.method.spec.metric_set) for _ in self.seeds]
        for rows in self.data.val_dataloader():
            check()
            batch = self.data.validation_batch(rows.index, needs=self.needs, device=self.device)
            assert batch.labels is not None
            predictions = self.stack.predictions(batch.for_inference())
            for metrics, own in zip(collected, predictions, strict=True):
                metrics.update(own, batch.labels)
        return collected

    def _wrong(self, epoch: int, losses: dict[str, float], metrics: PredictionMetrics) -> str:
        """Why a seed cannot go on, in the words of a training alone; empty if it can."""
        for name, value in losses.items():
            if not math.isfinite(value):
                return f"{name} of {self.method.info.name} is {value} in epoch {epoch}"
        if not torch.isfinite(metrics.predictions()[0]).all():
            return f"{self.method.info.name} predicts values that are not finite in epoch {epoch}"
        return ""

    def _save(self, place: int, seed: _Seed, epoch: int) -> None:
        method: MSAMethod = self.stack.write_back(place)
        generator = self.stack.generators[place]
        checkpoint: dict[str, Any] = {
            "epoch": epoch,
            "global_step": self.steps,
            "pytorch-lightning_version": version("lightning"),
            "state_dict": {name: value.detach().cpu() for name, value in method.state_dict().items()},
            # Empty, so that going on from here is refused in words of ours.
            "callbacks": {},
            DATA_KEY: seed.built.datamodule.state_dict(),
        }
        method.on_save_checkpoint(checkpoint)
        state = generator.get_state()
        draws = {"cpu": state if self.device.type == "cpu" else seed.draws}
        checkpoint[RANDOM_KEY] = draws if self.device.type == "cpu" else {**draws, "cuda": state}
        path = Path(seed.built.folder.path) / BEST
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as stream:
            torch.save(checkpoint, stream)

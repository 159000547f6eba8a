"""The one data module of all methods.

Features stay in memory (mapped from the store, or on the accelerator); a batch is an index into them. There are no
worker processes and no per-clip Python: masks are computed for a whole split once per epoch, and a batch is one
index-select and one multiplication per modality.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.batches import CorpusBatches
from msabench.data.corpus import Corpus
from msabench.data.info import SPLITS, DataSpec
from msabench.data.needs import PLAIN, ReadsData
from msabench.data.registry import dataset_info, named
from msabench.data.rows import RowLoader, Rows, train_order
from msabench.data.store import open_corpus
from msabench.data.valid_share import ValidShare
from msabench.errors import MSABenchError, one_of
from msabench.missingness.conditions import MODALITIES, distinct, parse_grid
from msabench.missingness.config import MissingConfig


class MSADataModule(CorpusBatches, pl.LightningDataModule):
    """Reads a corpus, applies seeded missingness, yields batches.

    Args:
        dataset: Corpus name (``msabench data list``).
        features: Feature family and alignment, e.g. ``mult-aligned``; None for the corpus's first.
        path: The feature file, instead of its usual place below ``root``; required for ``custom``.
        root: Data folder; None for the environment variable MSABENCH_DATA, else ``data``.
        cache: Folder of converted files; None for the user's cache folder.
        batch_size: Clips in a training batch, over all devices together; whole conversations for a method that needs
            them.
        missing: Training regime and missingness protocol.
        seed: Seed of the training order and training masks; follows ``seed_everything`` on the command line.
        mask_seed: Seed of validation masks, and of test masks under ``test`` and ``predict``.
        selection: Split that selects the checkpoint: ``val``, or ``test_best`` to measure how much selecting on the
            test split flatters.
        normalise: ``zscore`` standardises features with the training split's statistics; None for the corpus's
            default.
        grid: Grids and cells for ``test`` and ``predict``.
        task: Kind of labels of a ``custom`` corpus.
        size: Clips in train, valid and test of ``synth``.
        length: Steps per clip of ``synth``.
        clip_labels: Clip labels beyond the corpus's range, as old releases of MOSEI have them, where the file is
            refused otherwise; counted in the corpus's notes, and part of the revision.
        all_zero: ``absent`` treats a modality that is zero in all frames of a clip as not there in that clip; None as
            zeros that are there.
        valid_share: Share of the training clips, in (0, 1), that becomes the validation split of a file without one:
            whole conversations, the same ones for every training seed. Part of the revision.
        valid_seed: Which of them; None for 0.
        name: What a ``custom`` corpus is called in records and tables, so that two of them stand apart.

    Attributes:
        needs: What the batches of its loaders bring; Lightning's ``setup`` takes them from the trainer's method.
        given: Settings that the caller of ``msabench.load`` named, as dotted keys of a config's data section; None if
            it was made in another way.

    Raises:
        MSABenchError: Unknown dataset, features, cell; missing or broken file; values outside their range.
    """

    opened: ClassVar[tuple[str, ...]] = SPLITS
    """Splits of the corpus that are opened."""

    def __init__(
        self,
        dataset: str,
        features: str | None = None,
        path: Path | None = None,
        root: Path | None = None,
        cache: Path | None = None,
        batch_size: int = 32,
        missing: MissingConfig = MissingConfig(),  # noqa: B008 (frozen, and the command line shows it)
        seed: int = 1111,
        mask_seed: int = 0,
        selection: Literal["val", "test_best"] = "val",
        normalise: Literal["none", "zscore"] | None = None,
        grid: list[str] | None = None,
        task: Literal["regression", "emotions"] = "regression",
        size: tuple[int, int, int] | None = None,
        length: int | None = None,
        clip_labels: bool | None = None,
        all_zero: Literal["absent"] | None = None,
        valid_share: float | None = None,
        valid_seed: int | None = None,
        name: str | None = None,
    ) -> None:
        pl.LightningDataModule.__init__(self)
        if batch_size < 1:
            raise MSABenchError(f"batch_size {batch_size} is not allowed; give a positive number")
        if normalise not in (None, "none", "zscore"):
            raise one_of("normalisation", normalise, ("none", "zscore"))
        if selection not in ("val", "test_best"):
            raise one_of("selection", selection, ("val", "test_best"))
        if all_zero not in (None, "absent"):
            raise one_of("all_zero", all_zero, ("absent", "null"))
        ValidShare.of(valid_share, valid_seed)
        self.dataset, self.name = dataset, name
        self.info = named(dataset_info(dataset), name)
        self._open: dict[str, Any] = {
            "features": features,
            "path": path,
            "root": root,
            "cache": cache,
            "task": task,
            "size": tuple(size) if size else None,
            "length": length,
            "clip_labels": clip_labels or None,
            "all_zero": all_zero,
            "valid_share": valid_share,
            "valid_seed": valid_seed,
        }
        self.batch_size = batch_size
        CorpusBatches.__init__(
            self,
            missing=missing,
            seed=seed,
            mask_seed=mask_seed,
            selection=selection,
            normalise=normalise or self.info.normalise,
        )
        self.cells = distinct(parse_grid(grid or ["paper"]))
        for cell in self.cells:
            missing.require(cell)
        self.needs = PLAIN
        self.given: dict[str, Any] | None = None
        self._corpus: Corpus | None = None
        self._trained_on: dict[str, Any] | None = None

    # The corpus.

    @property
    def corpus(self) -> Corpus:
        """The corpus; opened on first use.

        Raises:
            MSABenchError: It cannot be opened, or is not the one that a loaded checkpoint was trained on.
        """
        if self._corpus is None:
            corpus = self._checked(open_corpus(self.dataset, **self._open, splits=self.opened))
            corpus.info = named(corpus.info, self.name)
            self._corpus = corpus
        return self._corpus

    @property
    def spec(self) -> DataSpec:
        """What methods are told about the data."""
        train = self.corpus.splits["train"]
        return DataSpec(
            feature_dims={m: train.features[m].shape[2] for m in MODALITIES},
            seq_lens={m: train.features[m].shape[1] for m in MODALITIES},
            task=self.corpus.info.task,
            metric_set=self.corpus.info.metric_set,
            label_range=self.corpus.info.label_range,
            n_train=len(train),
            features=self.corpus.features,
        )

    def protocol(self) -> dict[str, Any]:
        """What a result's key says of the data and the missingness: plain values."""
        tokens = self.missing.level == "tokens"
        # What a checkpoint was trained on is known without opening it.
        known = self._trained_on or {"revision": self.corpus.revision, "features": self.corpus.features}
        return {
            "dataset": self.info.name,
            "revision": known["revision"],
            "features": known["features"],
            "regime": self.missing.label,
            "level": self.missing.level,
            "lengths": self.missing.lengths,
            "token_fill": self.missing.token_fill if tokens else "",
            "selection": self.selection,
        }

    def setup(self, stage: str) -> None:
        """Take the needs of the trainer's method; say before a training what is doubtful about its data."""
        if self.trainer is not None:
            self.needs = self._method.data_needs
        if stage == "fit" and (self.trainer is None or self.trainer.is_global_zero):
            for doubt in self.corpus.doubts():
                print(f"msabench: warning: {doubt}", file=sys.stderr, flush=True)

    @property
    def _method(self) -> ReadsData:
        """The method under the trainer; Lightning's hooks alone look at it."""
        assert self.trainer is not None
        return cast(ReadsData, self.trainer.lightning_module)

    # Loaders.

    def train_dataloader(self) -> RowLoader:
        """Shuffled training clips, or conversations; the order depends on seed, epoch and pass alone."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        units: int | list[Tensor] = len(self.corpus.splits["train"])
        if self.needs.conversations:
            units = self.conversations("train").rows
        n_units = units if isinstance(units, int) else len(units)
        return RowLoader(
            "train",
            units,
            self.batch_size,
            order=lambda number: train_order(self.seed, self._epoch, number, n_units),
            rank=rank,
            world_size=world_size,
            passes=self.needs.passes,
        )

    def val_dataloader(self) -> RowLoader:
        """The split that selects, in file order. Every device sees all of it, so no result is averaged over parts."""
        return self._evaluating("val", self._selection_split)

    def test_dataloader(self) -> list[RowLoader]:
        """One loader over the test split per distinct cell of the grid."""
        return self._cell_loaders("test")

    def predict_dataloader(self) -> list[RowLoader]:
        """As for test."""
        return self._cell_loaders("predict")

    def _cell_loaders(self, stage: str) -> list[RowLoader]:
        return [self._evaluating(stage, "test", position) for position in range(len(self.cells))]

    def _evaluating(self, stage: str, split: str, position: int = 0) -> RowLoader:
        # Whole conversations come in the order of ``Conversations.order``, clips in that of the file.
        size = max(self.batch_size, 96)
        if self.needs.conversations:
            return RowLoader(stage, self.conversations(split).packed(size), 1, position=position)
        return RowLoader(stage, len(self.corpus.splits[split]), size, position=position)

    @property
    def _epoch(self) -> int:
        return self.trainer.current_epoch if self.trainer else 0

    # Batches.

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Turn ``Rows`` into a ``Batch`` on the device."""
        if not isinstance(batch, Rows):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        if batch.stage == "train":
            return self.training_batch(batch.index, self._epoch, needs=self.needs, device=device)
        if batch.stage == "val":
            return self.validation_batch(batch.index, needs=self.needs, device=device)
        return self.cell_batch(self.cells[batch.position], batch.index, needs=self.needs, device=device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Give features the type of the weights: Lightning converts what loaders yield, and ours yield ``Rows``."""
        return batch.in_type(self._method.dtype) if isinstance(batch, Batch) else batch

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Settings and statistics, as plain values and tensors, so that a checkpoint can rebuild its data."""
        # Absolute, since a checkpoint is read from other folders than the one it was made in.
        plain = {
            name: str(value.expanduser().absolute()) if isinstance(value, Path) else value
            for name, value in self._open.items()
        }
        scale = self._scale_on(torch.device("cpu"))
        return {
            "init_args": {
                "dataset": self.dataset,
                "name": self.name,
                **plain,
                "batch_size": self.batch_size,
                "missing": asdict(self.missing),
                "seed": self.seed,
                "mask_seed": self.mask_seed,
                "selection": self.selection,
                "normalise": self.normalise,
                "grid": [str(cell) for cell in self.cells],
            },
            "revision": self.corpus.revision,
            "features": self.corpus.features,
            "padding": dict(self.corpus.padding),
            "scale": {m: list(pair) for m, pair in (scale or {}).items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the statistics of the training run; they must not be recomputed from other data.

        Raises:
            MSABenchError: The checkpoint was trained on other data, or on data that were treated in another way.
        """
        theirs = state_dict["init_args"]
        made = _treatment(theirs["dataset"], theirs["normalise"], MissingConfig(**_as_arguments(theirs["missing"])))
        for name, ours in _treatment(self.dataset, self.normalise, self.missing).items():
            if made[name] != ours:
                raise MSABenchError(f"the checkpoint was made with {name} {made[name]!r}, the config says {ours!r}")
        self._trained_on = {name: state_dict.get(name) for name in ("features", "revision")}
        if self._corpus is not None:
            self._checked(self._corpus)
        self._scale = {m: (mean, std) for m, (mean, std) in state_dict["scale"].items()} or None

    @classmethod
    def from_state(cls, state_dict: dict[str, Any], **changes: Any) -> MSADataModule:
        """Rebuild the data module of a checkpoint.

        Args:
            state_dict: What ``state_dict`` returned.
            changes: Constructor arguments to replace, e.g. ``root``.

        Raises:
            MSABenchError: They contradict the state; if they lead to other data, that shows when these are opened.
        """
        init_args = {**state_dict["init_args"], **changes}
        for name in ("path", "root", "cache"):
            init_args[name] = Path(init_args[name]) if init_args[name] is not None else None
        init_args["missing"] = MissingConfig(**_as_arguments(init_args["missing"]))
        made = cls(**init_args)
        made.load_state_dict(state_dict)
        return made

    def _checked(self, corpus: Corpus) -> Corpus:
        for name, theirs in (self._trained_on or {}).items():
            ours = getattr(corpus, name)
            if ours != theirs:
                raise MSABenchError(
                    f"the checkpoint was trained on {self.info.name} with {name} {theirs!r}, but the data opened here "
                    f"have {name} {ours!r}; give the file of the training with --path (fit, validate, test and "
                    "predict: --data.path)"
                )
        return corpus


class TuningDataModule(MSADataModule):
    """The data of trainings that choose settings: the test split stays closed, whatever they ask for."""

    opened = ("train", "valid")


def _treatment(dataset: str, normalise: str, missing: MissingConfig) -> dict[str, str]:
    """What a trained method takes for granted of its data."""
    treatment = {"data.dataset": dataset, "data.normalise": normalise}
    names = ("level", "lengths", *(("token_fill",) if missing.level == "tokens" else ()))
    return {**treatment, **{f"data.missing.{name}": getattr(missing, name) for name in names}}


def _as_arguments(missing: dict[str, Any]) -> dict[str, Any]:
    return {**missing, "rate": tuple(missing["rate"])}

"""The one data module of all methods.

Features stay in memory (mapped from the store, or on the accelerator); a batch is an index into them. There are no
worker processes and no per-clip Python: masks are computed for a whole split once per epoch, and a batch is one
index-select and one multiplication per modality.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from msabench.data.apply import build_batch
from msabench.data.batch import Batch
from msabench.data.conversations import Conversations
from msabench.data.corpus import Corpus, SplitData
from msabench.data.info import DataSpec, dataset_info, named
from msabench.data.needs import PLAIN, Needs, ReadsData
from msabench.data.normalise import Scale, statistics
from msabench.data.store import open_corpus
from msabench.errors import MSABenchError, one_of
from msabench.missingness.conditions import MODALITIES, Cell, distinct, parse_grid
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import Clips, Masks, cell_masks, complete_masks, training_masks, validation_masks

_RESIDENT_SHARE = 0.5


@dataclass
class Rows:
    """What a loader yields: which clips, and for what. The data module turns it into a ``Batch`` on the device.

    Attributes:
        index: int64 ``(B,)`` rows of the split.
        stage: ``train``, ``val``, ``test`` or ``predict``.
        position: Position of the loader's cell in ``MSADataModule.cells`` (test and predict).
    """

    index: Tensor
    stage: str
    position: int = 0


class RowLoader:
    """Yields ``Rows``. On several devices each takes its contiguous share of every global batch.

    Args:
        stage: Passed on in ``Rows``.
        units: Number of clips in the split; or, where clips must stay together, the rows of each group of them.
        batch_size: Units in a global batch.
        order: Called with the number of the pass before each pass; returns a permutation of the units.
        rank: Index of this device.
        world_size: Number of devices.
        position: Passed on in ``Rows``.
        passes: Passes over the split in an epoch.

    Raises:
        MSABenchError: The last batch has fewer units than there are devices.
    """

    def __init__(
        self,
        stage: str,
        units: int | list[Tensor],
        batch_size: int,
        *,
        order: Callable[[int], Tensor] | None = None,
        rank: int = 0,
        world_size: int = 1,
        position: int = 0,
        passes: int = 1,
    ) -> None:
        self.stage = stage
        self.groups = None if isinstance(units, int) else units
        self.n_units = units if isinstance(units, int) else len(units)
        self.batch_size = batch_size
        self.order = order
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self.passes = passes
        smallest = min(batch_size, self.n_units % batch_size or batch_size)
        if smallest < world_size:
            what = "clips" if self.groups is None else "conversations"
            raise MSABenchError(
                f"a batch of {smallest} {what} cannot be shared by {world_size} devices; choose a batch_size whose "
                f"remainder over {self.n_units} {what} is at least {world_size}"
            )

    def __len__(self) -> int:
        return -(-self.n_units // self.batch_size) * self.passes

    def __iter__(self) -> Iterator[Rows]:
        for number in range(self.passes):
            order = torch.arange(self.n_units) if self.order is None else self.order(number)
            for batch in torch.split(order, self.batch_size):
                share = batch.tensor_split(self.world_size)[self.rank]
                index = share if self.groups is None else torch.cat([self.groups[unit] for unit in share.tolist()])
                yield Rows(index, self.stage, self.position)


@dataclass
class _Split:
    """A split where its batches are made."""

    data: SplitData
    clips: Clips
    conversations: Conversations


class MSADataModule(pl.LightningDataModule):
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
        name: What a ``custom`` corpus is called in records and tables, so that two of them stand apart.

    Attributes:
        needs: What the batches of its loaders bring; Lightning's ``setup`` takes them from the trainer's method.

    Raises:
        MSABenchError: Unknown dataset, features, cell; missing or broken file; values outside their range.
    """

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
        name: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise MSABenchError(f"batch_size {batch_size} is not allowed; give a positive number")
        if normalise not in (None, "none", "zscore"):
            raise one_of("normalisation", normalise, ("none", "zscore"))
        if selection not in ("val", "test_best"):
            raise one_of("selection", selection, ("val", "test_best"))
        if all_zero not in (None, "absent"):
            raise one_of("all_zero", all_zero, ("absent", "null"))
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
        }
        self.batch_size = batch_size
        self.missing = missing
        self.seed = seed
        self.mask_seed = mask_seed
        self.selection = selection
        self.normalise = normalise or self.info.normalise
        self.cells = distinct(parse_grid(grid or ["paper"]))
        self.needs = PLAIN
        self._corpus: Corpus | None = None
        self._trained_on: dict[str, Any] | None = None
        self._scale: Scale | None = None
        self._resident: dict[tuple[str, torch.device], _Split] = {}
        self._epoch_masks: tuple[int, tuple[Masks, ...]] | None = None
        self._fixed_masks: dict[tuple[str, torch.device], Masks] = {}

    # The corpus.

    @property
    def corpus(self) -> Corpus:
        """The corpus; opened on first use.

        Raises:
            MSABenchError: It cannot be opened, or is not the one that a loaded checkpoint was trained on.
        """
        if self._corpus is None:
            corpus = self._checked(open_corpus(self.dataset, **self._open))
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
        return {
            "dataset": self.info.name,
            "revision": self.corpus.revision,
            "features": self.corpus.features,
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
            order=lambda number: self.train_order(self._epoch, number, n_units),
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

    def conversations(self, split: str) -> Conversations:
        """The conversations of a split: ``train``, ``valid`` or ``test``."""
        return self._split_on(split, "cpu").conversations

    @property
    def _selection_split(self) -> str:
        return "valid" if self.selection == "val" else "test"

    @property
    def _epoch(self) -> int:
        return self.trainer.current_epoch if self.trainer else 0

    def train_order(self, epoch: int, number: int = 0, n_units: int | None = None) -> Tensor:
        """Permutation of the training clips, int64 ``(N,)``: a function of seed, epoch and number of the pass.

        Args:
            epoch: Epoch from 0.
            number: Number of the pass within the epoch.
            n_units: How many there are to permute, where conversations take the place of clips.
        """
        of_pass = f"/{number}" if number else ""
        digest = hashlib.sha256(f"order/{self.seed}/{epoch}{of_pass}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.randperm(n_units or len(self.corpus.splits["train"]), generator=generator)

    # Batches.

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Turn ``Rows`` into a ``Batch`` on the device."""
        if not isinstance(batch, Rows):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        if batch.stage == "train":
            return self.training_batch(batch.index, self._epoch, needs=self.needs, device=device)
        if batch.stage == "val":
            return self.validation_batch(batch.index, needs=self.needs, device=device)
        split = self._split_on("test", device)
        key = (f"{self.cells[batch.position]}", device)
        if key not in self._fixed_masks:
            self._fixed_masks = {key: self.cell_masks(self.cells[batch.position], self.mask_seed, device=device)}
        return self._build(split, self._fixed_masks[key], batch.index, device, self.needs.tokens)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Give features the type of the weights: Lightning converts what loaders yield, and ours yield ``Rows``."""
        return batch.in_type(self._method.dtype) if isinstance(batch, Batch) else batch

    def training_batch(
        self,
        index: Tensor,
        epoch: int,
        *,
        needs: Needs = PLAIN,
        device: torch.device | str = "cpu",
    ) -> Batch:
        """Corrupted training clips under the regime.

        Args:
            index: int64 ``(B,)`` rows of the training split.
            epoch: Epoch, which the masks depend on.
            needs: What the batch must bring.
            device: Where the batch is to be.
        """
        split = self._split_on("train", device)
        masks = self._training_masks(epoch, 2 if needs.views else 1, device)
        batch = self._build(split, masks[0], index, device, needs.tokens)
        batch.index = index.to(device)
        if needs.views:
            batch.views = (batch.for_inference(), self._build(split, masks[1], index, device, needs.tokens))
            batch.views[1].labels = None
        if needs.complete:
            batch.complete = self._build(split, complete_masks(split.clips, self.missing), index, device, needs.tokens)
        return batch

    def validation_batch(self, index: Tensor, *, needs: Needs = PLAIN, device: torch.device | str = "cpu") -> Batch:
        """Clips of the selecting split under the training regime, with masks that do not depend on the epoch.

        Args:
            index: int64 ``(B,)`` rows of the split.
            needs: What the batch must bring.
            device: Where the batch is to be.
        """
        split = self._split_on(self._selection_split, device)
        key = ("val", torch.device(device))
        if key not in self._fixed_masks:
            self._fixed_masks = {key: validation_masks(self.missing, split.clips, self.mask_seed)}
        return self._build(split, self._fixed_masks[key], index, device, needs.tokens)

    def cell_masks(self, cell: Cell, mask_seed: int, split: str = "test", device: torch.device | str = "cpu") -> Masks:
        """Masks of one cell over a whole split."""
        return cell_masks(cell, self.missing, self._split_on(split, device).clips, mask_seed)

    def cell_batches(
        self,
        cell: Cell,
        mask_seed: int,
        *,
        needs: Needs = PLAIN,
        batch_size: int = 96,
        split: str = "test",
        device: torch.device | str = "cpu",
        masks: Masks | None = None,
    ) -> Iterator[Batch]:
        """A whole split under one cell, in file order.

        Args:
            cell: The test situation.
            mask_seed: Seed of the masks.
            needs: What a batch must bring. If whole conversations, the clips come in the order of
                ``conversations(split).order``, and a conversation of more than ``batch_size`` clips is a batch.
            batch_size: Clips per batch; results do not depend on it.
            split: Which split.
            device: Where the batches are to be.
            masks: The cell's masks if they have been computed already.
        """
        made = self._split_on(split, device)
        masks = masks or self.cell_masks(cell, mask_seed, split, device)
        chunks: Iterable[Tensor | slice] = (
            made.conversations.packed(batch_size)
            if needs.conversations
            else (slice(start, start + batch_size) for start in range(0, len(made.data), batch_size))
        )
        for chunk in chunks:
            yield self._build(made, masks, chunk, device, needs.tokens)

    def in_file_order(self, rows: Tensor, *, needs: Needs, split: str = "test") -> Tensor:
        """What was computed for each clip of an evaluated split, in the order of the file.

        Args:
            rows: ``(N, ...)`` in the order of ``cell_batches`` or of the loaders.
            needs: What these were asked to bring.
            split: Which split.
        """
        return rows[self.conversations(split).place.to(rows.device)] if needs.conversations else rows

    def _build(
        self,
        split: _Split,
        masks: Masks,
        index: Tensor | slice,
        device: torch.device | str,
        with_tokens: bool,
    ) -> Batch:
        home = split.clips.uid.device
        rows = index if isinstance(index, slice) else index.to(home)
        scale = self._scale_on(home)
        batch = build_batch(split.data, masks, rows, config=self.missing, with_tokens=with_tokens, scale=scale)
        batch.index = None
        batch.conversation, batch.turn = split.conversations.number[rows], split.conversations.turn[rows]
        return batch if home == torch.device(device) else batch.to(device)

    def _training_masks(self, epoch: int, n_views: int, device: torch.device | str) -> tuple[Masks, ...]:
        if self._epoch_masks is None or self._epoch_masks[0] != epoch or len(self._epoch_masks[1]) != n_views:
            clips = self._split_on("train", device).clips
            self._epoch_masks = (epoch, training_masks(self.missing, clips, self.seed, epoch, n_views))
        return self._epoch_masks[1]

    def _split_on(self, split: str, device: torch.device | str) -> _Split:
        # Splits that fit stay on the accelerator; others are indexed on the host and batches are copied.
        key = (split, torch.device(device))
        if key not in self._resident:
            data = self.corpus.splits[split]
            made = _Split(data, data.clips(self.corpus.padding), Conversations.of(data.ids))
            if key[1].type == "cuda" and data.n_bytes < _RESIDENT_SHARE * torch.cuda.mem_get_info(key[1])[0]:
                made = _Split(data.to(key[1]), made.clips.to(key[1]), made.conversations.to(key[1]))
            self._resident[key] = made
        return self._resident[key]

    # Normalisation.

    def _scale_on(self, device: torch.device) -> Scale | None:
        if self.normalise == "none":
            return None
        if self._scale is None:
            self._scale = statistics(self.corpus.splits["train"], self.corpus.padding)
        if next(iter(self._scale.values()))[0].device != device:
            self._scale = {m: (mean.to(device), std.to(device)) for m, (mean, std) in self._scale.items()}
        return self._scale

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


def _treatment(dataset: str, normalise: str, missing: MissingConfig) -> dict[str, str]:
    """What a trained method takes for granted of its data."""
    treatment = {"data.dataset": dataset, "data.normalise": normalise}
    names = ("level", "lengths", *(("token_fill",) if missing.level == "tokens" else ()))
    return {**treatment, **{f"data.missing.{name}": getattr(missing, name) for name in names}}


def _as_arguments(missing: dict[str, Any]) -> dict[str, Any]:
    return {**missing, "rate": tuple(missing["rate"])}

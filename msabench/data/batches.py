"""Batches of a corpus under seeded missingness.

Masks are computed for a whole split once per epoch, and a batch is one index-select and one multiplication per
modality.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from msabench.data.alterations import Alterations, require_features, vocabulary_of
from msabench.data.apply import build_batch
from msabench.data.batch import Batch
from msabench.data.conversations import Conversations
from msabench.data.corpus import Corpus, SplitData
from msabench.data.needs import PLAIN, Needs
from msabench.data.normalise import Scale, deviations, statistics
from msabench.missingness.clip_draws import donors
from msabench.missingness.conditions import Cell
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import Clips, Masks, cell_masks, complete_masks, training_masks, validation_masks

_RESIDENT_SHARE = 0.5


@dataclass
class _Split:
    """A split where its batches are made."""

    data: SplitData
    clips: Clips
    conversations: Conversations


class CorpusBatches(ABC):
    """Makes the batches of a data module, which opens the corpus.

    Args:
        missing: Training regime and missingness protocol.
        seed: Seed of the training masks.
        mask_seed: Seed of validation masks, and of those of ``cell_batch``.
        selection: Split that selects the checkpoint, ``val`` or ``test_best``.
        normalise: ``zscore`` standardises features with the training split's statistics, ``none`` does not.
    """

    def __init__(
        self,
        *,
        missing: MissingConfig,
        seed: int,
        mask_seed: int,
        selection: Literal["val", "test_best"],
        normalise: str,
    ) -> None:
        self.missing = missing
        self.seed = seed
        self.mask_seed = mask_seed
        self.selection = selection
        self.normalise = normalise
        self._scale: Scale | None = None
        self._resident: dict[tuple[str, torch.device], _Split] = {}
        self._epoch_masks: tuple[int, tuple[Masks, ...]] | None = None
        self._fixed_masks: dict[tuple[str, torch.device], Masks] = {}
        self._deviations: dict[str, Tensor] | None = None
        self._vocabulary: Tensor | None = None

    @property
    @abstractmethod
    def corpus(self) -> Corpus:
        """The corpus."""

    def conversations(self, split: str) -> Conversations:
        """The conversations of a split: ``train``, ``valid`` or ``test``."""
        return self._split_on(split, "cpu").conversations

    def share_splits(self, other: CorpusBatches) -> None:
        """Hold the splits once with another data module of the same corpus, as trainings in one process do.

        Args:
            other: The other one.
        """
        self._resident = other._resident

    @property
    def _selection_split(self) -> str:
        return "valid" if self.selection == "val" else "test"

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

    def cell_batch(
        self, cell: Cell, index: Tensor, *, needs: Needs = PLAIN, device: torch.device | str = "cpu"
    ) -> Batch:
        """Clips of the test split in one cell, with masks of the seed ``mask_seed``; one cell's masks are kept.

        Args:
            cell: The test situation.
            index: int64 ``(B,)`` rows of the split.
            needs: What the batch must bring.
            device: Where the batch is to be.
        """
        split = self._split_on("test", device)
        key = (f"{cell}", torch.device(device))
        if key not in self._fixed_masks:
            self._fixed_masks = {key: self.cell_masks(cell, self.mask_seed, device=device)}
        altered = self._alterations(cell, self.mask_seed, split)
        return self._build(split, self._fixed_masks[key], index, device, needs.tokens, altered)

    def require(self, cells: Iterable[Cell], needs: Needs = PLAIN) -> None:
        """Refuse cells that these data cannot have on the test split, before anything is trained or predicted for them.

        Args:
            cells: The test situations.
            needs: What batches must bring.

        Raises:
            MSABenchError: A cell needs another level, text features where tokens are read, token ids that the corpus
                does not have, or more than one clip.
        """
        uid = self._split_on("test", "cpu").clips.uid
        for cell in cells:
            self.missing.require(cell)
            require_features(cell, needs.tokens)
            donors(cell, uid, 0)
            if cell.words != "0.0":
                self._words()

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
        altered = self._alterations(cell, mask_seed, made)
        for chunk in chunks:
            yield self._build(made, masks, chunk, device, needs.tokens, altered)

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
        alterations: Alterations | None = None,
    ) -> Batch:
        home = split.clips.uid.device
        rows = index if isinstance(index, slice) else index.to(home)
        scale = self._scale_on(home)
        batch = build_batch(
            split.data,
            masks,
            rows,
            config=self.missing,
            with_tokens=with_tokens,
            scale=scale,
            alterations=alterations,
        )
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

    def _alterations(self, cell: Cell, mask_seed: int, split: _Split) -> Alterations | None:
        return Alterations.of(cell, mask_seed, split.clips.uid, self._deviation, self._words)

    def _deviation(self) -> dict[str, Tensor]:
        if self._deviations is None:
            self._deviations = deviations(self.corpus.splits["train"], self.corpus.padding)
        return self._deviations

    def _words(self) -> Tensor:
        if self._vocabulary is None:
            self._vocabulary = vocabulary_of(self.corpus.splits["train"], self.corpus.padding)
        return self._vocabulary

    def _scale_on(self, device: torch.device) -> Scale | None:
        if self.normalise == "none":
            return None
        if self._scale is None:
            self._scale = statistics(self.corpus.splits["train"], self.corpus.padding)
        if next(iter(self._scale.values()))[0].device != device:
            self._scale = {m: (mean.to(device), std.to(device)) for m, (mean, std) in self._scale.items()}
        return self._scale

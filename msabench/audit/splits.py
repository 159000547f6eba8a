"""What is known about a corpus's test split: class counts, and what the best constant answer errs. Free of torch.

Counts come from ``DatasetInfo``. Where a label file of the corpus is at hand they are counted anew, from the converted
store if there is one, since that takes no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from msabench.data.files import cache_folder, data_folder
from msabench.data.info import EMOTIONS, DatasetInfo, FeatureFile
from msabench.data.readers import read_splits
from msabench.data.registry import corpora
from msabench.files import HashMemory, Stamp
from msabench.published.constant_scores import ConstantScore, class_counts, scores_of

GT0 = "gt0"
"""Protocol of some evaluation code that no metric key of ours has: non-positive against positive over all clips."""

READ_AT_MOST = 1 << 30
"""Bytes of a feature file that is read for its labels where no converted store is there."""


@dataclass(frozen=True)
class SplitFacts:
    """A test split.

    Attributes:
        classes: Protocol (``has0``, ``non0``, ``gt0``, ``sims`` or an emotion) -> class -> clips.
        mae: Mean absolute error of the best constant answer, the median of the test labels; None without label files.
        source: Where the counts come from, in words.
    """

    classes: dict[str, dict[str, int]]
    mae: float | None
    source: str

    def counts(self, protocol: str) -> tuple[int, int]:
        """Clips of the two classes of a protocol."""
        first, second = self.classes[protocol].values()
        return first, second

    @cached_property
    def scores(self) -> list[ConstantScore]:
        """What the constant answers score, under every protocol and metric."""
        return [score for protocol, classes in self.classes.items() for score in scores_of(protocol, classes)]


def split_facts(dataset: str, root: Path | None = None, cache: Path | None = None) -> SplitFacts | None:
    """What is known about a corpus's test split; None where that is nothing.

    Args:
        dataset: Corpus name; may be unknown.
        root: Data folder; see ``data_folder``.
        cache: Folder of converted files; see ``cache_folder``.

    Raises:
        MSABenchError: A label file is there and damaged.
    """
    info = corpora().get(dataset)
    if info is None:
        return None
    for file in info.files:
        labels = _labels(info, file, root, cache)
        # A file with another test split (a sample, another release) says nothing about the one that papers use.
        if labels is not None and info.split_sizes is not None and len(labels) == info.split_sizes[2]:
            return _counted(info, labels, f"recounted from the test labels of {file.filename}")
    if info.test_counts is None:
        return None
    return SplitFacts(_protocols(info.metric_set, info.test_counts), None, "as published for the usual test split")


def _counted(info: DatasetInfo, labels: NDArray[Any], source: str) -> SplitFacts:
    if info.metric_set == "emotions":
        present = labels.sum(axis=0)
        classes = {
            emotion: {f"not {emotion}": len(labels) - int(n), emotion: int(n)}
            for emotion, n in zip(EMOTIONS, present, strict=True)
        }
        return SplitFacts(_whole(classes), None, source)
    counts = (int((labels < 0).sum()), int((labels == 0).sum()), int((labels > 0).sum()))
    values = labels.astype(np.float64)
    mae = float(np.abs(values - np.median(values)).mean())
    return SplitFacts(_protocols(info.metric_set, counts), mae, source)


def _protocols(metric_set: str, counts: tuple[int, int, int]) -> dict[str, dict[str, int]]:
    classes = class_counts(metric_set, counts)
    if metric_set == "sentiment":
        below, zero, above = counts
        classes[GT0] = {"non-positive": below + zero, "positive": above}
    return _whole(classes)


def _whole(classes: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Protocols under which both classes have clips; with one class there is nothing to tell apart."""
    return {protocol: clips for protocol, clips in classes.items() if min(clips.values()) > 0}


def _labels(info: DatasetInfo, file: FeatureFile, root: Path | None, cache: Path | None) -> NDArray[Any] | None:
    source = data_folder(root) / file.filename
    if not file.filename or not source.is_file():
        return None
    stored = _stored_labels(info, file, source.resolve(), cache_folder(cache))
    if stored is not None or source.stat().st_size > READ_AT_MOST:
        return stored
    return read_splits(source, info, file).splits["test"].labels


def _stored_labels(info: DatasetInfo, file: FeatureFile, source: Path, cache: Path) -> NDArray[Any] | None:
    sha256 = HashMemory(cache / "hashes").recall(Stamp.of(source))
    if sha256 is None:
        return None
    for store in sorted((cache / "stores").glob(f"{info.name}-{file.features}-{sha256[:16]}-v*"), reverse=True):
        try:
            with safetensors.safe_open(store / "test.safetensors", framework="numpy") as tensors:
                labels: NDArray[Any] = tensors.get_tensor("labels")
                return labels
        except (OSError, safetensors.SafetensorError):
            # Not whole: another process is writing it, or was stopped; the source says the same.
            continue
    return None

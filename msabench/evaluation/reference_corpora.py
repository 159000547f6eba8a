"""Corpora as this machine has them, to hold records from elsewhere against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from msabench.data.corpus import Corpus
from msabench.data.store import open_corpus
from msabench.errors import MSABenchError
from msabench.missingness.conditions import Cell
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import cell_masks, mask_hash
from msabench.results.record import JobKey


class ReferenceCorpus:
    """The test split of a corpus.

    Args:
        corpus: The corpus.
    """

    def __init__(self, corpus: Corpus) -> None:
        split = corpus.splits["test"]
        self.ids = list(split.ids)
        self.labels: NDArray[Any] = split.labels.cpu().numpy()
        self._clips = split.clips(corpus.padding)
        self._hashes: dict[tuple[Any, ...], str] = {}

    def mask_hash(self, key: JobKey, cell: str, mask_seed: int | None) -> str:
        """Hash of a cell's masks under a job's protocol, 16 hex digits.

        Args:
            key: The job.
            cell: Name of the cell.
            mask_seed: Seed of the masks; None for cells without random masks.
        """
        place = (key.level, key.lengths, key.token_fill, cell, mask_seed)
        if place not in self._hashes:
            fill: Any = key.token_fill or "unk"
            level: Any = key.level
            lengths: Any = key.lengths
            config = MissingConfig(level=level, token_fill=fill, lengths=lengths)
            self._hashes[place] = mask_hash(cell_masks(Cell.parse(cell), config, self._clips, mask_seed or 0))
        return self._hashes[place]


TREATMENT = ("length", "clip_labels", "all_zero", "valid_share", "valid_seed")
"""Settings of a config that make another revision of the same file, besides ``size``."""


def reference_corpus(key: JobKey, data: Mapping[str, Any]) -> ReferenceCorpus | None:
    """The corpus of a job's revision; None if it is not on this machine.

    Args:
        key: The job.
        data: What its config says of the data; it may come from anybody.
    """
    try:
        size: Any = tuple(data["size"]) if data.get("size") else None
        treated: dict[str, Any] = {name: data.get(name) for name in TREATMENT}
        corpus = open_corpus(key.dataset, key.features, size=size, **treated)
    except (MSABenchError, OSError, TypeError, ValueError):
        return None
    return ReferenceCorpus(corpus) if corpus.revision == key.revision else None

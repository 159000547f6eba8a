"""What contributed records are held against: the corpus where it is at hand, else what was admitted before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from msabench.leaderboard.submission import Submission
from msabench.results import predictions
from msabench.results.places import predictions_file
from msabench.results.record import JobKey

if TYPE_CHECKING:
    import pandas as pd

    from msabench.evaluation.reference_corpora import ReferenceCorpus

CORPUS, ADMITTED, NOTHING = "the corpus", "admitted records", "nothing"
"""What masks, or clips and labels, were held against."""

_MASKS = ("dataset", "revision", "features", "level", "lengths", "token_fill")
"""Fields of a key that decide masks, and what they are compared within."""


@dataclass(frozen=True)
class Clips:
    """The clips of a test split.

    Attributes:
        ids: Clip ids in order.
        labels: ``(N,)`` scores, or ``(N, 4)`` emotions.
    """

    ids: list[str]
    labels: NDArray[Any]


class References:
    """Finds what to hold records against; opens each corpus once.

    Args:
        store: The store's folder.
        frame: Its records.
    """

    def __init__(self, store: Path, frame: pd.DataFrame) -> None:
        self._store = store
        self._frame = frame
        self._corpora: dict[tuple[Any, ...], ReferenceCorpus | None] = {}

    def mask_problems(self, submission: Submission) -> tuple[str, list[str]]:
        """Compare a job's masks.

        Returns:
            What they were held against, and one sentence per problem.
        """
        corpus = self._corpus(submission)
        if corpus is not None:
            return CORPUS, list(self._against_corpus(submission, corpus))
        rows = self._alike(submission.job.key, _MASKS)
        known: dict[tuple[str, int | None], set[str]] = {}
        for cell, seed, mask_hash in rows[["cell", "mask_seed", "mask_hash"]].fillna({"mask_seed": -1}).to_numpy():
            known.setdefault((cell, None if seed < 0 else int(seed)), set()).add(mask_hash)
        places = {(record.cell, record.mask_seed): record.mask_hash for record in submission.cells}
        # Where some are not known, those that are get compared all the same.
        return ADMITTED if places.keys() <= known.keys() else NOTHING, [
            f"{submission.name}: the masks of {cell} with mask seed {seed} ({mask_hash}) are not those of admitted "
            f"records ({', '.join(sorted(known[cell, seed]))})"
            for (cell, seed), mask_hash in places.items()
            if (cell, seed) in known and mask_hash not in known[cell, seed]
        ]

    def _against_corpus(self, submission: Submission, corpus: ReferenceCorpus) -> Iterator[str]:
        for record in submission.cells:
            expected = corpus.mask_hash(submission.job.key, record.cell, record.mask_seed)
            if record.mask_hash != expected:
                yield (
                    f"{submission.name}: the masks of {record.cell} with mask seed {record.mask_seed} have the hash "
                    f"{record.mask_hash}; those of the protocol have {expected}"
                )

    def clip_problems(self, submission: Submission) -> tuple[str, list[str]]:
        """Compare a job's clips and labels; its predictions must have been read.

        Returns:
            What they were held against, and the problem as a sentence if there is one.
        """
        source, expected = self._clips(submission)
        first = submission.stored[0]
        problems = []
        if expected is not None:
            if first.ids != expected.ids:
                problems.append(f"{submission.name}: its predictions are not of the clips of {source}, in that order")
            elif not np.array_equal(first.labels, expected.labels):
                problems.append(f"{submission.name}: its predictions come with other labels than those of {source}")
        return source, problems

    def _clips(self, submission: Submission) -> tuple[str, Clips | None]:
        corpus = self._corpus(submission)
        if corpus is not None:
            return CORPUS, Clips(corpus.ids, corpus.labels)
        rows = self._alike(submission.job.key, ("dataset", "revision", "features"))
        for dataset, method, job_id in rows[["dataset", "method", "job_id"]].drop_duplicates().itertuples(index=False):
            path = predictions_file(self._store, dataset, method, job_id)
            if path.is_file():
                first = predictions.read(path)[0]
                return ADMITTED, Clips(first.ids, first.labels)
        return NOTHING, None

    def _alike(self, key: JobKey, fields: tuple[str, ...]) -> pd.DataFrame:
        rows = self._frame
        for name in fields:
            rows = rows[rows[name] == getattr(key, name)]
        return rows

    def _corpus(self, submission: Submission) -> ReferenceCorpus | None:
        """The corpus of the job's revision; None if it is not on this machine."""
        key, data = submission.job.key, submission.job.config.get("data") or {}
        place = (key.dataset, key.features, key.revision)
        if place not in self._corpora:
            from msabench.evaluation.reference_corpora import reference_corpus

            self._corpora[place] = reference_corpus(key, data)
        return self._corpora[place]

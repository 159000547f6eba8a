"""What an evaluation over a grid came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from msabench.data.datamodule import MSADataModule
from msabench.metrics.spec import METRICS, metric_keys
from msabench.missingness.conditions import LETTERS
from msabench.results import scored_file
from msabench.results.aggregate import PROTOCOL, ROW, over_seeds_of
from msabench.results.predictions import Evaluation
from msabench.results.records import Records


@dataclass(frozen=True, repr=False)
class Scores:
    """Metrics and predictions of the test split over a grid; N clips.

    Attributes:
        evaluation: Predictions, labels and masks' hashes, cell by cell.
        name: What was evaluated.
        corpus: What was said of the data: a field of a record's key (``dataset``, ``revision``, ``features``,
            ``level``, ``lengths``, ``token_fill``) -> value.
        default_metric: Key of the corpus's usual metric.
        unseen: Modalities that no training clip had.
    """

    evaluation: Evaluation = field(repr=False)
    name: str
    corpus: dict[str, str]
    default_metric: str
    unseen: tuple[str, ...] = ()

    @classmethod
    def of(cls, evaluation: Evaluation, data: MSADataModule, name: str) -> Scores:
        """The scores of an evaluation.

        Args:
            evaluation: What was predicted.
            data: The data it was predicted on.
            name: What predicted.
        """
        protocol = data.protocol()
        said = {key: protocol[key] for key in scored_file.PROTOCOL_KEYS}
        return cls(evaluation, name, said, data.corpus.info.default_metric, data.corpus.unseen)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Every metric of every cell and mask seed.

        Index: ``cell``, ``mask_seed`` (missing in cells without random masks). Columns: keys of metrics, in the order
        of tables. Unrounded and in natural scale, accuracies and F1 in [0, 1]; NaN where a metric is undefined.
        """
        records = self.evaluation.records("")
        index = pd.MultiIndex.from_arrays(
            [[r.cell for r in records], pd.array([r.mask_seed for r in records], dtype="Int64")],
            names=["cell", "mask_seed"],
        )
        values = [[np.nan if v is None else v for v in record.metrics.values()] for record in records]
        return pd.DataFrame(values, index, list(records[0].metrics), dtype="float64")

    @cached_property
    def mean(self) -> pd.DataFrame:
        """Means over mask seeds, by the rules of tables: an undefined value makes its mean undefined.

        Index: ``cell``, then averages over conditions (``avg_missing``, ``avg_intra``, ...) of which all cells were
        evaluated. Columns as in ``frame``.
        """
        found = self.evaluation.records("")
        cells = list(dict.fromkeys(record.cell for record in found))
        letters = "".join(letter for letter, modality in LETTERS.items() if modality in self.unseen)
        keys = list(found[0].metrics)
        records = Records(
            jobs=[{**dict.fromkeys((*PROTOCOL, *ROW), ""), "seed": 0, "unseen": letters}],
            job=np.zeros(len(found), dtype=np.int64),
            cells=cells,
            cell=np.array([cells.index(record.cell) for record in found]),
            drawn=np.array([record.mask_seed is not None for record in found]),
            mask_seed=np.array([record.mask_seed or 0 for record in found]),
            **{name: np.array([getattr(r, name) for r in found]) for name in ("mask_hash", "n", "collapsed")},
            blind=np.array([np.nan if record.blind is None else record.blind for record in found]),
            columns={key: self.frame[key].to_numpy() for key in keys},
            rows=np.arange(len(found)),
        )
        lines = over_seeds_of(records, keys)
        names = list(dict.fromkeys(line["cell"] for line in lines))
        means = np.array([line["mean"] for line in lines]).reshape(len(keys), len(names)).T
        return pd.DataFrame(means, pd.Index(names, name="cell"), keys)

    @property
    def ids(self) -> list[str]:
        """Clip ids, N, in file order."""
        return self.evaluation.ids

    @property
    def labels(self) -> NDArray[Any]:
        """float32 ``(N,)``, or int64 ``(N, 4)`` for the emotions."""
        return self.evaluation.labels

    @property
    def predictions(self) -> dict[tuple[str, int | None], NDArray[np.float32]]:
        """(cell, mask seed) -> ``(N,)`` scores or ``(N, 4, 2)`` logits; the seed is None without random masks."""
        return {(str(entry.cell), entry.mask_seed): entry.preds for entry in self.evaluation.cells}

    def save(self, path: str | Path) -> Path:
        """Write the predictions as ``msabench score`` reads them, with the hashes of the masks, atomically.

        Args:
            path: A file that ends in .parquet or .csv; one that is there is replaced.

        Returns:
            The file.

        Raises:
            MSABenchError: The path has another ending.
        """
        path = Path(path).expanduser()
        scored_file.write(path, self.evaluation, self.corpus)
        return path

    def __repr__(self) -> str:
        return f"{self._heading}\n{self._printed.to_string()}"

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        return f"<p>{self._heading}</p>{self._printed.to_html()}"

    @property
    def _heading(self) -> str:
        seeds = sorted({entry.mask_seed for entry in self.evaluation.cells if entry.mask_seed is not None})
        masks = f", means over mask seeds {' '.join(map(str, seeds))}" if len(seeds) > 1 else ""
        where = f"{self.corpus['dataset']} ({self.corpus['features']}), {len(self.ids)} test clips"
        return f"{self.name} on {where}{masks}; accuracies and F1 in percent"

    @property
    def _printed(self) -> pd.DataFrame:
        # Swapped F1 is for reading published numbers.
        keys = [key for key in metric_keys(self.evaluation.metric_set) if not key.endswith("_swapped")]
        keys.sort(key=lambda key: key != self.default_metric)
        shown = self.mean[keys]
        return pd.DataFrame({key: shown[key].map(METRICS[key].format) for key in keys}, index=shown.index)

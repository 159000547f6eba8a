"""Writes what is observed in test cells, so that a program in any language can predict under the same masks."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from msabench.data.datamodule import MSADataModule
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.evaluation.mask_manifest import MANIFEST, MaskFile, MaskManifest
from msabench.evaluation.observed import ObservedMasks
from msabench.files import creating_folder, format_size, sha256_of, write_text
from msabench.interruption import check
from msabench.missingness.conditions import MODALITIES, Cell
from msabench.results.scored_file import PROTOCOL_KEYS

Arrays = dict[str, NDArray[Any]]

LARGE = 100_000_000
"""Bytes from which on the size is said before anything is written."""

_BATCH = 256

_IN_NAMES = str.maketrans("/=,", "---")
"""What stands in the name of a file in place of signs of a cell's name."""


@dataclass(frozen=True)
class Export:
    """What is written.

    Attributes:
        data: The corpus under a protocol; its features are taken as they are in the corpus, so it does not normalise.
        places: Cells and mask seeds, the seed None where masks are not random.
        format: ``npz`` or ``parquet``.
        corrupted: Whether the corrupted features are written as well.
        size: Clips in train, valid and test of a generated corpus; None for its own.
        length: Steps of its clips; None for its own.
    """

    data: MSADataModule
    places: Sequence[tuple[Cell, int | None]]
    format: str
    corrupted: bool
    size: list[int] | None = None
    length: int | None = None

    def write(self, out: Path) -> MaskManifest:
        """Write all files, or none.

        Args:
            out: The folder to be; new or empty.

        Raises:
            MSABenchError: Something is at its place, the disk has too little room, the corpus has no tokens that could
                be dropped, or a cell alters values and these are not to be written.
        """
        for cell, _ in self.places:
            self.data.missing.require(cell)
        altering = [cell for cell, _ in self.places if cell.alters]
        if altering and not self.corrupted:
            raise MSABenchError(
                f"cell {altering[0]} alters values, which masks do not tell; write them too with --corrupted, or leave "
                "the cell out of --grid"
            )
        with creating_folder(out) as folder:
            self._say_size(out, folder)
            entries = []
            for cell, seed in self.places:
                check()
                masks, arrays = self._arrays(cell, seed)
                name = str(cell).translate(_IN_NAMES) + ("" if seed is None else f"_mask_seed-{seed}")
                path = folder / f"{name}.{self.format}"
                _WRITERS[self.format](path, masks.ids, arrays)
                entries.append(MaskFile(str(cell), seed, masks.hash, path.name, sha256_of(path)))
            protocol = self.data.protocol()
            manifest = MaskManifest(
                **{name: protocol[name] for name in PROTOCOL_KEYS},
                split="test",
                size=self.size,
                length=self.length,
                format=self.format,
                corrupted=self.corrupted,
                shapes={name: list(array.shape[1:]) for name, array in arrays.items()},
                ids=masks.ids,
                cells=entries,
            )
            write_text(folder / MANIFEST, manifest.to_json())
        return manifest

    def _arrays(self, cell: Cell, seed: int | None) -> tuple[ObservedMasks, Arrays]:
        drawn = self.data.cell_masks(cell, seed or 0)
        masks = ObservedMasks.of(self.data.corpus.splits["test"].ids, drawn)
        arrays: Arrays = {f"observed_{m}": masks.observed[m] for m in MODALITIES}
        arrays |= {f"valid_{m}": masks.valid[m] for m in MODALITIES}
        if not self.corrupted:
            return masks, arrays
        # At level vectors the words that were dropped would still stand among the tokens.
        needs = Needs(tokens=self.data.missing.level == "tokens")
        parts: dict[str, list[torch.Tensor]] = {}
        for batch in self.data.cell_batches(cell, seed or 0, needs=needs, batch_size=_BATCH, masks=drawn):
            given = {**batch.features, "tokens": batch.tokens, "token_keep": batch.token_keep}
            for name, tensor in given.items():
                if tensor is not None:
                    parts.setdefault(name, []).append(tensor)
        return masks, arrays | {name: torch.cat(tensors).numpy() for name, tensors in parts.items()}

    def _say_size(self, out: Path, folder: Path) -> None:
        split = self.data.corpus.splits["test"]
        one = 2 * sum(split.features[m].shape[1] for m in MODALITIES)
        if self.corrupted:
            tokens = self.data.missing.level == "tokens"
            one += sum(4 * split.features[m][0].numel() for m in MODALITIES if not (tokens and m == "text"))
            one += 8 * split.tokens[0].numel() if tokens and split.tokens is not None else 0
        total = one * len(split) * len(self.places)
        free = shutil.disk_usage(folder).free
        if total > free:
            raise MSABenchError(
                f"{out} may need {format_size(total)}, and {format_size(free)} are free there; make room, name "
                "another folder, or fewer cells with --grid"
            )
        if total >= LARGE:
            print(f"msabench: writing up to {format_size(total)} into {out}", file=sys.stderr, flush=True)


def _write_npz(path: Path, ids: list[str], arrays: Arrays) -> None:
    with path.open("wb") as stream:
        # Numpy's signature has a flag of its own among the names.
        named: dict[str, Any] = arrays
        np.savez_compressed(stream, id=np.array(ids, dtype=str), **named)


def _write_parquet(path: Path, ids: list[str], arrays: Arrays) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"id": pa.array(ids, pa.string()), **{name: _lists(array) for name, array in arrays.items()}}
    # Arrow's own word for long lists would be in the way of other readers.
    pq.write_table(pa.table(columns), path, compression="zstd", store_schema=False)


def _lists(array: NDArray[Any]) -> Any:
    """One list a clip: its values in C order."""
    import pyarrow as pa

    flat = array.reshape(len(array), -1)
    offsets = np.arange(len(flat) + 1, dtype=np.int64) * flat.shape[1]
    return pa.LargeListArray.from_arrays(offsets, pa.array(flat.reshape(-1)))


_WRITERS = {"npz": _write_npz, "parquet": _write_parquet}


def places_of(cells: Sequence[Cell], mask_seeds: Sequence[int]) -> Iterator[tuple[Cell, int | None]]:
    """Every cell under every seed, or once where its masks are not random."""
    for cell in cells:
        for seed in mask_seeds if cell.is_random else (None,):
            yield cell, seed

"""``manifest.json`` of exported masks: which protocol they are of, and what the files beside it hold. Free of torch."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from msabench.errors import MSABenchError
from msabench.files import text_of
from msabench.missingness.conditions import Cell
from msabench.results.scored_file import PROTOCOL_KEYS

MANIFEST = "manifest.json"
KIND = "msabench masks"
VERSION = 1

_HASH = re.compile(r"[0-9a-f]{16}")
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class MaskFile:
    """The masks of one cell under one seed.

    Attributes:
        cell: Cell name.
        mask_seed: Seed of the masks; None where they are not random.
        mask_hash: Their hash, 16 hex digits, as in records.
        file: Name of the file beside the manifest.
        sha256: The sha256 of the file.
    """

    cell: str
    mask_seed: int | None
    mask_hash: str
    file: str
    sha256: str


@dataclass(frozen=True)
class MaskManifest:
    """What a manifest says. N clips.

    Attributes:
        dataset: Corpus name.
        revision: Revision of the data, see ``JobKey``.
        features: Feature family and alignment.
        level: Where text is dropped, ``vectors`` or ``tokens``.
        lengths: ``hide`` or ``keep``.
        token_fill: ``unk`` or ``zero_embedding`` at level ``tokens``; empty at level ``vectors``.
        split: ``test``.
        size: Clips in train, valid and test of a generated corpus; None for its own.
        length: Steps of its clips; None for its own.
        format: ``npz`` or ``parquet``.
        corrupted: Whether the files hold the corrupted features as well.
        shapes: Name of an array in the files -> its shape behind the clips, e.g. ``[50]``, ``[50, 768]``.
        ids: Clip ids in the order of the arrays, N.
        cells: One entry a file.
    """

    dataset: str
    revision: str
    features: str
    level: str
    lengths: str
    token_fill: str
    split: str
    size: list[int] | None
    length: int | None
    format: str
    corrupted: bool
    shapes: dict[str, list[int]]
    ids: list[str]
    cells: list[MaskFile]

    @property
    def protocol(self) -> dict[str, str]:
        """``scored_file.PROTOCOL_KEYS`` -> value."""
        return {name: getattr(self, name) for name in PROTOCOL_KEYS}

    @property
    def hashes(self) -> dict[tuple[Cell, int | None], str]:
        """Cell and mask seed -> hash of the masks."""
        return {(Cell.parse(entry.cell), entry.mask_seed): entry.mask_hash for entry in self.cells}

    def to_json(self) -> str:
        """The content of the file."""
        about = {"kind": KIND, "version": VERSION, **asdict(self)}
        return json.dumps(about, indent=1, ensure_ascii=False) + "\n"


def read_manifest(path: Path) -> MaskManifest:
    """Read a manifest.

    Args:
        path: The file, or its folder.

    Raises:
        MSABenchError: There is no such file, or it is no manifest of exported masks.
    """
    file = path / MANIFEST if path.is_dir() else path
    if not file.is_file():
        raise MSABenchError(f"there is no file {file}; give the {MANIFEST} that `msabench masks export` wrote")
    if file.stat().st_size > _MOST_BYTES:
        raise MSABenchError(f"{file} has {file.stat().st_size} bytes; a manifest has at most {_MOST_BYTES}")
    try:
        return _manifest(json.loads(text_of(file)))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, MSABenchError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise MSABenchError(f"{file} is no manifest of `msabench masks export`: {reason}") from error


def _manifest(content: Any) -> MaskManifest:
    found = (content["kind"], content["version"])
    if found != (KIND, VERSION):
        raise ValueError(f"its kind and version are {found}; this msabench reads {(KIND, VERSION)}")
    values = {f.name: content[f.name] for f in fields(MaskManifest)}
    for name in PROTOCOL_KEYS:
        if not isinstance(values[name], str):
            raise ValueError(f"{name} is {values[name]!r}; expected text")
    cells = [MaskFile(**{f.name: entry[f.name] for f in fields(MaskFile)}) for entry in values["cells"]]
    for entry in cells:
        seed = entry.mask_seed
        if not _HASH.fullmatch(entry.mask_hash) or not (seed is None or (type(seed) is int and seed >= 0)):
            raise ValueError(f"cell {entry.cell!r} has mask_hash {entry.mask_hash!r} and mask_seed {seed!r}")
        Cell.parse(entry.cell)
    return MaskManifest(**{**values, "cells": cells})

"""Words that stand in a feature file: its keys in errors, and its clips' ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from msabench.data.file_arrays import StoredBytes, loaded

_LONGEST_NAME = 60
"""Characters of a key that errors print."""

_SEPARATOR = "$_$"
"""Stands between video and clip in an id."""

_MOST_FIELDS = 16
"""Ids of more fields are in no feature file."""


def listed(names: Iterable[str]) -> str:
    """Names that stand in a file, as part of a sentence of one line."""
    parts = (name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in names)
    return ", ".join(part if part.isprintable() else repr(part) for part in parts) or "nothing"


def conversation_of(clip: str) -> str:
    """The conversation of a clip: the video that its id names, else one of its own.

    Args:
        clip: An id ``video$_$clip``, or any other.
    """
    video, separator, _ = clip.rpartition(_SEPARATOR)
    # A video and a lone clip of the same name stay apart.
    return video + separator if separator else f"{_SEPARATOR}{clip}"


def id_fields(row: Any, depth: int = 3) -> list[str] | None:
    """The fields of an id as strings; None if it holds anything but a few strings and numbers."""
    if isinstance(row, StoredBytes):
        row = loaded(row)
    if isinstance(row, np.ndarray):
        row = row.ravel().tolist() if row.size <= _MOST_FIELDS else None
    if isinstance(row, (list, tuple)):
        if depth == 0 or len(row) > _MOST_FIELDS:
            return None
        found = [id_fields(item, depth - 1) for item in row]
        return [part for parts in found if parts is not None for part in parts] if None not in found else None
    return [_as_text(row)] if isinstance(row, (str, bytes, int, float, np.number, np.bool_)) else None


def _as_text(value: object) -> str:
    r"""A value as valid UTF-8.

    Bytes and surrogates that are none become ``\xNN`` and ``\udcNN``, so that ids that differ stay apart and can be
    written to any file; what is valid stays as it is, and so do its masks.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")

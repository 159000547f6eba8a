"""Writing tensors in the format of safetensors, a few rows at a time. Free of torch.

The library's own writer wants all tensors in memory. Format: https://github.com/huggingface/safetensors ("Format").
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.data.feature_rows import FeatureRows
from msabench.data.file_arrays import rows_at_once

_CODES = {"int64": "I64", "float32": "F32", "bool": "BOOL"}
"""dtype -> its name in the format, in the order in which the library writes the tensors."""

_ALIGNMENT = 8


def save_file(arrays: Mapping[str, NDArray[Any] | FeatureRows], path: Path) -> None:
    """Write arrays byte for byte as ``safetensors.torch.save_file`` does.

    Args:
        arrays: Name -> float32, int64 or bool of any shape with at least one axis.
        path: A file that is not there yet.

    Raises:
        OSError: It cannot be written.
    """
    codes = list(_CODES)
    names = sorted(arrays, key=lambda name: (codes.index(_dtype(arrays[name]).name), name))
    header, end = {}, 0
    for name in names:
        shape, dtype = arrays[name].shape, _dtype(arrays[name])
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype.name], "shape": list(shape), "data_offsets": [start, end]}
    words = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    words += b" " * (-len(words) % _ALIGNMENT)
    with path.open("xb") as stream:
        stream.write(len(words).to_bytes(8, "little") + words)
        for name in names:
            for block in _blocks(arrays[name]):
                stream.write(block.data)


def _dtype(array: NDArray[Any] | FeatureRows) -> np.dtype[Any]:
    return np.dtype(np.float32) if isinstance(array, FeatureRows) else array.dtype


def _blocks(array: NDArray[Any] | FeatureRows) -> Iterator[NDArray[Any]]:
    """The content in order, little-endian and C-contiguous."""
    if isinstance(array, FeatureRows):
        parts = array.blocks()
    else:
        step = rows_at_once(array)
        parts = (array[start : start + step] for start in range(0, len(array), step))
    return (np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<")) for part in parts)

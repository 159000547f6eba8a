"""What stands for globals and dtypes while a pickle is read, and the checks of an array's shape and dtype."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from msabench.data.pickle_limits import DamagedError, RefusedError

DTYPE_CODES = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,9}")
"""Codes of the dtypes that arrays may have: plain kinds, without a byte order."""


class Global:
    """What a pickle gets for the name of a function or class: only a reference to one of our own constructors."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[..., object] | None) -> None:
        self.name = name
        self.make = make


class DType:
    """A dtype as far as a pickle has told it; ``code`` is one of ``DTYPE_CODES``, or ``O`` for Python objects."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "="

    def real(self) -> np.dtype[Any]:
        """The dtype of NumPy.

        Raises:
            DamagedError: It is that of Python objects, whose bytes would be pointers.
        """
        if self.code == "O":
            raise DamagedError("bytes in place of objects")
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


def n_items_of(shape: object) -> int:
    """Number of items of an array."""
    if type(shape) is not tuple or len(shape) > 32 or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise DamagedError("an array without a shape")
    if 0 in shape and max(shape) > 1 << 24:
        # Without an item, no content would bound the other sides.
        raise DamagedError("an empty array of a huge shape")
    return math.prod(shape)


def set_dtype(dtype: DType, state: tuple[Any, ...]) -> None:
    """Take the byte order from a dtype's state; all else in it must say what the code says, or is not used."""
    version, order, subarray, names, fields, size = state[:6]
    sizes = (-1, 4, 8) if dtype.code == "O" else (-1, dtype.real().itemsize)
    structured = any(part is not None for part in (subarray, names, fields))
    if version not in (3, 4) or structured or size not in sizes:
        raise RefusedError("has an array of structured items, which is not read")
    if order not in ("<", ">", "=", "|"):
        raise DamagedError("a dtype without byte order")
    dtype.order = order

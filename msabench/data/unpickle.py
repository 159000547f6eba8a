"""Reading pickles without running what they ask for.

A pickle is a program: it may import any function and call it. The feature files of the field are pickles of NumPy
arrays in plain containers, so only the few functions that rebuild those are admitted (Python documentation,
``pickle``, "Restricting Globals").
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from msabench.errors import MSABenchError


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Stand in for ``_codecs.encode``, which old protocols use to write bytes, and do no more than that."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes written with the encoding {encoding!r}")
    return text.encode("latin1")


def _admitted() -> dict[tuple[str, str], Any]:
    """(module, name) -> what it stands for, in the spellings of NumPy 1 and 2, of Python 2 and 3."""
    multiarray, numeric = _numpy_internals()
    found: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
        ("collections", "OrderedDict"): OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray", "_reconstruct"] = multiarray._reconstruct
        found[f"{core}.multiarray", "scalar"] = multiarray.scalar
        # Protocol 5 writes contiguous arrays this way.
        found[f"{core}.numeric", "_frombuffer"] = numeric._frombuffer
    for builtins in ("builtins", "__builtin__"):
        for kind in (set, frozenset, list, dict, tuple, str, int, float, bool, complex, bytes, bytearray):
            found[builtins, kind.__name__] = kind
    found["__builtin__", "unicode"] = str
    found["__builtin__", "long"] = int
    return found


def _numpy_internals() -> tuple[Any, Any]:
    try:
        from numpy._core import multiarray, numeric
    except ImportError:  # NumPy 1
        from numpy.core import multiarray, numeric  # type: ignore[no-redef]
    return multiarray, numeric


_PLAIN = (str, bytes, int, float, np.generic)


class _ForbiddenError(Exception):
    """The pickle names a global that is not admitted."""


class _Unpickler(pickle.Unpickler):
    _globals = _admitted()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._globals:
            raise _ForbiddenError(f"{module}.{name}")
        return self._globals[module, name]


def load(path: Path) -> object:
    """Read a pickle that holds NumPy arrays and plain containers.

    Strings of Python 2 are read as latin-1, the only encoding under which arrays of Python 2 survive.

    Args:
        path: The file.

    Returns:
        Nested dicts, lists, tuples, sets, strings, bytes, numbers and arrays. Arrays of dtype object hold strings,
        bytes and numbers only.

    Raises:
        MSABenchError: The file is truncated, is no pickle, or asks for anything but arrays and plain containers.
        OSError: The file cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            value: object = _Unpickler(stream, encoding="latin1").load()
    except _ForbiddenError as error:
        raise MSABenchError(
            f"{path} tries to load {error}, which could run code; only NumPy arrays and plain containers are allowed"
        ) from None
    except OSError:
        raise
    except Exception as error:
        # Damaged opcodes surface as almost any exception: unpickling, value, type, index, attribute, memory errors.
        raise MSABenchError(_diagnosis(path, error)) from error
    _check_objects(path, value)
    return value


def _diagnosis(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return f"{path} is empty; get the file again"
    if isinstance(error, EOFError) or "truncated" in str(error):
        return f"{path} is truncated ({path.stat().st_size:,} bytes); get the file again"
    with path.open("rb") as stream:
        start = stream.read(24)
    return f"{path} is not a readable pickle (it starts with {start!r}: {error}); get the file again"


def _check_objects(path: Path, value: object) -> None:
    """Refuse arrays of dtype object that hold anything but strings, bytes and numbers."""
    pending = [value]
    seen: set[int] = set()
    while pending:
        item = pending.pop()
        if not isinstance(item, (dict, list, tuple, set, frozenset, np.ndarray)) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif not isinstance(item, np.ndarray):
            pending.extend(item)
        elif item.dtype.hasobject:
            kinds = {type(x) for x in item.ravel()} if item.dtype == object else {np.void}
            odd = sorted(kind.__name__ for kind in kinds if not issubclass(kind, _PLAIN) or kind is np.void)
            if odd:
                raise MSABenchError(
                    f"{path} has an array that holds {odd[0]}; only strings and numbers are allowed there"
                )

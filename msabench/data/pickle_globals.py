"""What stands for the globals that a pickle may name.

Each function takes the machine and the arguments that the pickle gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np

from msabench.data.file_arrays import FileArray, StoredBytes, kind_of, loaded
from msabench.data.pickle_limits import DamagedError, RefusedError
from msabench.data.pickle_machine import Machine
from msabench.data.pickle_values import DTYPE_CODES, DType, Global, n_items_of


def _encode(machine: Machine, text: object, encoding: object = "latin1") -> bytes | StoredBytes:
    """``_codecs.encode``, with which old protocols write bytes."""
    if not _is_text(text) or encoding not in ("latin1", "latin-1"):
        raise DamagedError("bytes written with an encoding other than latin1")
    return machine.encode(text)


def _is_text(value: object) -> TypeGuard[str | StoredBytes]:
    return isinstance(value, str) or (isinstance(value, StoredBytes) and value.kind == "str")


def _make_dtype(machine: Machine, code: object, *_: object) -> DType:
    """``numpy.dtype`` with the code of a plain kind."""
    code = loaded(code)
    code = code.decode("latin1") if isinstance(code, bytes) else code
    if code in ("O", "O4", "O8"):
        return DType("O")
    if not isinstance(code, str) or not DTYPE_CODES.fullmatch(code):
        given = repr(code[:40]) if isinstance(code, str) else f"a {kind_of(code)}"
        raise RefusedError(
            f"has an array of dtype {given}; only booleans, numbers, strings and plain Python objects are read"
        )
    return DType(code)


def _reconstruct(machine: Machine, subtype: object, *_: object) -> np.ndarray[Any, Any]:
    """``numpy._core.multiarray._reconstruct``: an array that is filled later."""
    if subtype is not _NDARRAY:
        raise DamagedError("an array of another kind")
    return machine.blank()


def _scalar(machine: Machine, dtype: object, data: object = None) -> Any:
    """``numpy._core.multiarray.scalar``."""
    if not isinstance(dtype, DType):
        raise DamagedError("a number without a dtype")
    real = dtype.real()
    content = loaded(machine.content(data, 1, real))
    return np.frombuffer(content, real)[0] if content else real.type()


def _from_buffer(
    machine: Machine, data: object, dtype: object, shape: Any, order: Any, axes: Any = None
) -> np.ndarray[Any, Any] | FileArray:
    """``numpy._core.numeric._frombuffer``, with which protocol 5 writes contiguous arrays."""
    if not isinstance(dtype, DType) or order not in ("C", "F", "K"):
        raise DamagedError("an array without a dtype or an order")
    real = dtype.real()
    content = machine.content(data, n_items_of(shape), real)
    if isinstance(content, StoredBytes):
        stored = FileArray.of(content, real, shape, order, axes)
        if stored is not None:
            return stored
    array: np.ndarray[Any, Any] = np.frombuffer(loaded(content), real)
    if order == "K" and axes is not None:
        return array.reshape(shape).transpose(axes)
    return array.reshape(shape, order="F" if order == "F" else "C")


def _set_of(kind: type[set[Any] | frozenset[Any]]) -> Callable[..., object]:
    def make(machine: Machine, items: object = ()) -> object:
        return kind(machine.hashable(_sequence(items)))

    return make


def _dict_of(machine: Machine, pairs: object = ()) -> dict[Any, Any]:
    """``collections.OrderedDict``; a dict keeps its order, too."""
    made = [_sequence(pair) for pair in _sequence(pairs)]
    keys = machine.hashable(key for key, _ in made)
    return dict(zip(keys, (value for _, value in made), strict=True))


def _default_dict_of(machine: Machine, factory: object = None, pairs: object = ()) -> dict[Any, Any]:
    """``collections.defaultdict`` without its default: nobody asks for keys that are not there."""
    return _dict_of(machine, pairs)


def _byte_array(machine: Machine, data: object = b"", encoding: object = "latin1") -> bytearray:
    data = loaded(_encode(machine, data, encoding) if _is_text(data) else data)
    if not isinstance(data, (bytes, bytearray)):
        raise DamagedError("bytes of another kind")
    machine.spend(len(data))
    return bytearray(data)


def _bytes(machine: Machine, data: object = b"") -> bytes:
    return bytes(_byte_array(machine, data))


def _complex(machine: Machine, real: object, imaginary: object) -> complex:
    if not (isinstance(real, (int, float)) and isinstance(imaginary, (int, float))):
        raise DamagedError("a complex number of other values")
    return complex(real, imaginary)


def _sequence(value: object) -> Any:
    if type(value) not in (list, tuple):
        raise DamagedError(f"a {kind_of(value)} in place of a list")
    return value


_NDARRAY = Global("numpy.ndarray", None)


def _admitted() -> dict[tuple[str, str], Global]:
    """(module, name) -> what it stands for, in the spellings of NumPy 1 and 2, of Python 2 and 3."""
    makers: dict[tuple[str, str], Callable[..., object] | None] = {
        ("numpy", "dtype"): _make_dtype,
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): _dict_of,
        ("collections", "defaultdict"): _default_dict_of,
    }
    for core in ("numpy.core", "numpy._core"):
        makers[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        makers[f"{core}.multiarray", "scalar"] = _scalar
        makers[f"{core}.numeric", "_frombuffer"] = _from_buffer
    for builtins in ("builtins", "__builtin__"):
        makers[builtins, "set"] = _set_of(set)
        makers[builtins, "frozenset"] = _set_of(frozenset)
        makers[builtins, "bytearray"] = _byte_array
        makers[builtins, "bytes"] = _bytes
        makers[builtins, "complex"] = _complex
        # Named as the defaults of a defaultdict, never called.
        for name in ("list", "dict", "tuple", "str", "int", "float", "bool", "unicode", "long"):
            makers[builtins, name] = None
    found = {names: Global(".".join(names), make) for names, make in makers.items()}
    return {**found, ("numpy", "ndarray"): _NDARRAY}


ADMITTED = _admitted()
"""(module, name) -> what stands for the global."""

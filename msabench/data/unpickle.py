"""Reading pickles without running what they ask for.

A pickle is a program: it may import any function and call it. The feature files of the field are pickles of NumPy
arrays in plain containers, so this is an interpreter of the pickle language (Python documentation, ``pickletools``)
that can make nothing else. A global is a name here, never an imported object; arrays are made of a dtype of a plain
kind, a shape and bytes once these agree with each other; a claimed length is compared with what is left of the file,
and memory is drawn from a budget that follows from the file's size.

Python's own Unpickler is no base for that, even with its globals restricted: it allocates by claimed lengths, hashes
keys and sets attributes without asking, and NumPy's dtypes turn bytes into pointers when their state says so.
"""

from __future__ import annotations

import codecs
import math
import pickle
import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from msabench.errors import MSABenchError

_BLOCK = 1 << 16
"""Reads of more than this are compared with what is left of the file before memory is taken for them."""

_FREE_MEMORY, _MEMORY_PER_BYTE = 1 << 28, 8
"""What a pickle may take for what it makes, in bytes: for any file, and for each byte of it."""

_CONTAINER, _ENTRY = 256, 104
"""Estimates from above of an empty container, and of an entry of a dict, a set or the memo."""

_DEEPEST = 1000
"""Most open marks; Python's own pickler reaches this depth at its recursion limit."""

_DEEPEST_ARRAYS = 20
"""Most arrays of objects that hold each other: NumPy frees them by recursion, about 1 kB of stack for each."""

_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,9}")
"""Codes of the dtypes that arrays may have: plain kinds, without a byte order."""


class _ForbiddenError(Exception):
    """The pickle names a global that is not admitted."""


class _RefusedError(Exception):
    """The pickle asks for something that is not done; says what, after the file's name."""


class _DamagedError(Exception):
    """The pickle contradicts itself."""


class _Global:
    """What a pickle gets for the name of a function or class: only a reference to one of our own constructors."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[..., object] | None) -> None:
        self.name = name
        self.make = make


class _DType:
    """A dtype as far as a pickle has told it; ``code`` is one of ``_DTYPE``, or ``O`` for Python objects."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "="

    def real(self) -> np.dtype[Any]:
        if self.code == "O":
            raise _DamagedError("bytes in place of objects")
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


class _Machine:
    """Runs one pickle.

    Args:
        stream: Its bytes.
        size: How many there are.
    """

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._size = size
        self._memory = _FREE_MEMORY + _MEMORY_PER_BYTE * size
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        # Arrays without content yet, and how deeply arrays of objects hold each other; by id.
        self._blank: dict[int, np.ndarray[Any, Any]] = {}
        self._depths: dict[int, int] = {}

    def run(self) -> object:
        """The value that the pickle makes."""
        read, operations = self._stream.read, _OPERATIONS
        while (code := read(1)) != pickle.STOP:
            if not code:
                raise EOFError("no end")
            if code not in operations:
                raise _DamagedError(f"unknown instruction {code!r}")
            operations[code](self)
        return self._stack.pop()

    # What the instructions share.

    def spend(self, n_bytes: int) -> None:
        self._memory -= n_bytes
        if self._memory < 0:
            raise _RefusedError("asks for far more memory than its size calls for")

    def read(self, n_bytes: int) -> bytes:
        if n_bytes < 0:
            raise _DamagedError("a negative length")
        if n_bytes > _BLOCK:
            self._check_left(n_bytes)
        data = self._stream.read(n_bytes)
        if len(data) < n_bytes:
            raise EOFError("no end")
        return data

    def _check_left(self, n_bytes: int) -> None:
        if n_bytes > self._size - self._stream.tell():
            raise EOFError("no end")

    def line(self) -> bytes:
        line = self._stream.readline()
        if not line.endswith(b"\n"):
            raise EOFError("no end")
        return line[:-1]

    def count(self, width: int) -> int:
        return int.from_bytes(self.read(width), "little")

    def push(self, value: object) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        return self._stack.pop()

    def top(self, kind: type) -> Any:
        """What lies on top of the stack, which must be of this very kind."""
        if type(self._stack[-1]) is not kind:
            raise _DamagedError(f"a {type(self._stack[-1]).__name__} in place of a {kind.__name__}")
        return self._stack[-1]

    def since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def drop(self) -> None:
        # Python's pickler drops a mark in this way, too.
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def mark(self) -> None:
        if len(self._marks) == _DEEPEST:
            raise _RefusedError(f"nests more than {_DEEPEST:,} values into each other")
        self._marks.append(len(self._stack))

    def remember(self, index: int) -> None:
        self.spend(_ENTRY)
        self._memo[index] = self._stack[-1]

    def memoize(self) -> None:
        self.remember(len(self._memo))

    def recall(self, index: int) -> None:
        if index not in self._memo:
            raise _DamagedError(f"nothing is remembered as {index}")
        self._stack.append(self._memo[index])

    # Text and numbers.

    def quoted(self) -> str:
        line = self.line().strip()
        if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
            raise _DamagedError("a string without quotes")
        return codecs.escape_decode(line[1:-1])[0].decode("latin1")

    def integer(self) -> int | bool:
        line = self.line()
        return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line, 0)

    def byte_array(self) -> bytearray:
        n_bytes = self.count(8)
        self._check_left(n_bytes)
        data = bytearray(n_bytes)
        if self._stream.readinto(data) < n_bytes:  # type: ignore[attr-defined]
            raise EOFError("no end")
        return data

    # Containers.

    def make_tuple(self, items: Iterable[Any]) -> None:
        self.spend(_CONTAINER)
        self.push(tuple(items))

    def make_tuple_of(self, n: int) -> None:
        if n > len(self._stack):
            raise _DamagedError("too few values")
        items = self._stack[-n:]
        del self._stack[-n:]
        self.make_tuple(items)

    def make_list(self, items: list[Any]) -> None:
        self.spend(_CONTAINER)
        self.push(items)

    def append(self) -> None:
        item = self.pop()
        self.top(list).append(item)

    def extend(self) -> None:
        items = self.since_mark()
        self.top(list).extend(items)

    def make_dict(self, items: list[Any]) -> None:
        self.spend(_CONTAINER)
        self.push({})
        self.update(items)

    def update(self, items: list[Any]) -> None:
        """Put keys and values by turns into the dict on top of the stack."""
        target = self.top(dict)
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values):
            raise _DamagedError("a key without a value")
        target.update(zip(self.hashable(keys), values, strict=True))

    def update_one(self) -> None:
        value, key = self.pop(), self.pop()
        self.update([key, value])

    def hashable(self, items: Iterable[Any]) -> list[Any]:
        """Keys of dicts and members of sets, which must be plain: nested tuples can take for ever to hash."""
        kept = list(items)
        self.spend(_ENTRY * len(kept))
        for item in kept:
            if not _is_plain_key(item):
                raise _RefusedError(f"has a {type(item).__name__} as a key, where only strings and numbers are read")
        return kept

    def make_set(self, kind: type[set[Any] | frozenset[Any]], items: Iterable[Any] = ()) -> None:
        self.spend(_CONTAINER)
        self.push(kind(self.hashable(items)))

    def add(self) -> None:
        items = self.since_mark()
        self.top(set).update(self.hashable(items))

    # Globals and what they make.

    def load_global(self, module: str, name: str) -> None:
        if (module, name) not in _GLOBALS:
            asked = f"{module}.{name}"
            raise _ForbiddenError(asked if asked.isprintable() and len(asked) < 200 else repr(asked)[:200])
        self.push(_GLOBALS[module, name])

    def load_global_of_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _DamagedError("a global without a name")
        self.load_global(module, name)

    def instance(self) -> None:
        self.load_global(self.line().decode(), self.line().decode())
        made = self.pop()
        arguments = self.since_mark()
        self.push(self.call(made, tuple(arguments)))

    def reduce(self) -> None:
        arguments, made = self.pop(), self.pop()
        self.push(self.call(made, arguments))

    def call(self, made: object, arguments: object) -> object:
        if not isinstance(made, _Global) or made.make is None or type(arguments) is not tuple:
            name = made.name if isinstance(made, _Global) else f"a {type(made).__name__}"
            raise _RefusedError(f"calls {name}, which makes no array and no plain container")
        self.spend(_CONTAINER)
        return made.make(self, *arguments)

    def refuse(self, what: str) -> NoReturn:
        raise _RefusedError(f"{what}; only NumPy arrays and plain containers are allowed")

    def build(self) -> None:
        """Give an array or a dtype its state."""
        state = self.pop()
        target = self._stack[-1]
        if type(target) is _DType and type(state) is tuple:
            _set_dtype(target, state)
        elif type(target) is np.ndarray and type(state) is tuple and self._blank.pop(id(target), None) is target:
            self._fill(target, *(state if len(state) == 4 else state[1:]))
        else:
            self.refuse(f"sets the state of a {type(target).__name__}")

    def blank(self) -> np.ndarray[Any, Any]:
        array = np.empty(0, dtype=np.int8)
        self._blank[id(array)] = array
        return array

    def _fill(self, array: Any, shape: object, dtype: object, fortran: object, data: object) -> None:
        n_items = _size(shape)
        fortran = isinstance(fortran, int) and bool(fortran)
        if not isinstance(dtype, _DType):
            raise _DamagedError("an array without a dtype")
        if dtype.code == "O":
            if type(data) is not list or len(data) != n_items:
                raise _DamagedError("an array of objects without as many objects")
            self.spend(8 * n_items)
            self._check_depth(array, data)
            array.__setstate__((1, shape, np.dtype(object), fortran, data))
        else:
            real = dtype.real()
            array.__setstate__((1, shape, real, fortran, self.content(data, n_items, real)))

    def _check_depth(self, array: np.ndarray[Any, Any], items: list[Any]) -> None:
        inner = [item for item in items if type(item) is np.ndarray]
        depth = 1 + max((self._depths.get(id(item), 0) for item in inner), default=0)
        if depth > _DEEPEST_ARRAYS or any(id(item) in self._blank or item is array for item in inner):
            raise _RefusedError(f"has arrays that hold themselves, or more than {_DEEPEST_ARRAYS} in each other")
        self._depths[id(array)] = depth

    def content(self, data: object, n_items: int, dtype: np.dtype[Any]) -> bytes | bytearray:
        """The bytes of an array; Python 2 wrote them as strings."""
        if isinstance(data, str):
            data = _encode(self, data)
        if not isinstance(data, (bytes, bytearray)) or len(data) != n_items * dtype.itemsize:
            raise _DamagedError("an array whose shape, dtype and content do not agree")
        if not dtype.itemsize and n_items > 1:
            raise _DamagedError("an array of items without size")
        self.spend(len(data))
        return data


def _is_plain_key(item: object, depth: int = 2) -> bool:
    if type(item) is tuple:
        return depth > 0 and len(item) <= 16 and all(_is_plain_key(part, depth - 1) for part in item)
    return item is None or isinstance(item, (str, bytes, int, float, np.number, np.bool_))


def _size(shape: object) -> int:
    """Number of items of an array."""
    if type(shape) is not tuple or len(shape) > 32 or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise _DamagedError("an array without a shape")
    if 0 in shape and max(shape) > 1 << 24:
        # Without an item, no content would bound the other sides.
        raise _DamagedError("an empty array of a huge shape")
    return math.prod(shape)


def _set_dtype(dtype: _DType, state: tuple[Any, ...]) -> None:
    """Take the byte order from a dtype's state; all else in it must say what the code says, or is not used."""
    version, order, subarray, names, fields, size = state[:6]
    sizes = (-1, 4, 8) if dtype.code == "O" else (-1, dtype.real().itemsize)
    structured = any(part is not None for part in (subarray, names, fields))
    if version not in (3, 4) or structured or size not in sizes:
        raise _RefusedError("has an array of structured items, which is not read")
    if order not in ("<", ">", "=", "|"):
        raise _DamagedError("a dtype without byte order")
    dtype.order = order


# What stands for the admitted globals. Each takes the machine and the arguments that the pickle gives.


def _encode(machine: _Machine, text: object, encoding: object = "latin1") -> bytes:
    """``_codecs.encode``, with which old protocols write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _DamagedError("bytes written with an encoding other than latin1")
    machine.spend(len(text))
    return text.encode("latin1")


def _make_dtype(machine: _Machine, code: object, *_: object) -> _DType:
    """``numpy.dtype`` with the code of a plain kind."""
    code = code.decode("latin1") if isinstance(code, bytes) else code
    if code in ("O", "O4", "O8"):
        return _DType("O")
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        given = repr(code[:40]) if isinstance(code, str) else f"a {type(code).__name__}"
        raise _RefusedError(
            f"has an array of dtype {given}; only booleans, numbers, strings and plain Python objects are read"
        )
    return _DType(code)


def _reconstruct(machine: _Machine, subtype: object, *_: object) -> np.ndarray[Any, Any]:
    """``numpy._core.multiarray._reconstruct``: an array that is filled later."""
    if subtype is not _NDARRAY:
        raise _DamagedError("an array of another kind")
    return machine.blank()


def _scalar(machine: _Machine, dtype: object, data: object = None) -> Any:
    """``numpy._core.multiarray.scalar``."""
    if not isinstance(dtype, _DType):
        raise _DamagedError("a number without a dtype")
    real = dtype.real()
    content = machine.content(data, 1, real)
    return np.frombuffer(content, real)[0] if content else real.type()


def _from_buffer(
    machine: _Machine, data: object, dtype: object, shape: Any, order: Any, axes: Any = None
) -> np.ndarray[Any, Any]:
    """``numpy._core.numeric._frombuffer``, with which protocol 5 writes contiguous arrays."""
    if not isinstance(dtype, _DType) or order not in ("C", "F", "K"):
        raise _DamagedError("an array without a dtype or an order")
    real = dtype.real()
    array: np.ndarray[Any, Any] = np.frombuffer(machine.content(data, _size(shape), real), real)
    if order == "K" and axes is not None:
        return array.reshape(shape).transpose(axes)
    return array.reshape(shape, order="F" if order == "F" else "C")


def _set_of(kind: type[set[Any] | frozenset[Any]]) -> Callable[..., object]:
    def make(machine: _Machine, items: object = ()) -> object:
        return kind(machine.hashable(_sequence(items)))

    return make


def _dict_of(machine: _Machine, pairs: object = ()) -> dict[Any, Any]:
    """``collections.OrderedDict``; a dict keeps its order, too."""
    made = [_sequence(pair) for pair in _sequence(pairs)]
    keys = machine.hashable(key for key, _ in made)
    return dict(zip(keys, (value for _, value in made), strict=True))


def _default_dict_of(machine: _Machine, factory: object = None, pairs: object = ()) -> dict[Any, Any]:
    """``collections.defaultdict`` without its default: nobody asks for keys that are not there."""
    return _dict_of(machine, pairs)


def _byte_array(machine: _Machine, data: object = b"", encoding: object = "latin1") -> bytearray:
    data = _encode(machine, data, encoding) if isinstance(data, str) else data
    if not isinstance(data, (bytes, bytearray)):
        raise _DamagedError("bytes of another kind")
    machine.spend(len(data))
    return bytearray(data)


def _bytes(machine: _Machine, data: object = b"") -> bytes:
    return bytes(_byte_array(machine, data))


def _complex(machine: _Machine, real: object, imaginary: object) -> complex:
    if not (isinstance(real, (int, float)) and isinstance(imaginary, (int, float))):
        raise _DamagedError("a complex number of other values")
    return complex(real, imaginary)


def _sequence(value: object) -> Any:
    if type(value) not in (list, tuple):
        raise _DamagedError(f"a {type(value).__name__} in place of a list")
    return value


_NDARRAY = _Global("numpy.ndarray", None)


def _admitted() -> dict[tuple[str, str], _Global]:
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
    found = {names: _Global(".".join(names), make) for names, make in makers.items()}
    return {**found, ("numpy", "ndarray"): _NDARRAY}


_GLOBALS = _admitted()

_BUFFERS = "keeps arrays outside the file"
_PERSISTENT = "asks for objects outside the file"
_CLASSES = "makes an instance of a class"

_OPERATIONS: dict[bytes, Callable[[_Machine], object]] = {
    # Framing.
    pickle.PROTO: lambda m: m.read(1),
    pickle.FRAME: lambda m: m._check_left(m.count(8)),
    # The stack and the memo.
    pickle.MARK: _Machine.mark,
    pickle.POP: _Machine.drop,
    pickle.POP_MARK: lambda m: m.since_mark(),
    pickle.DUP: lambda m: m.push(m._stack[-1]),
    pickle.PUT: lambda m: m.remember(int(m.line())),
    pickle.BINPUT: lambda m: m.remember(m.count(1)),
    pickle.LONG_BINPUT: lambda m: m.remember(m.count(4)),
    pickle.MEMOIZE: _Machine.memoize,
    pickle.GET: lambda m: m.recall(int(m.line())),
    pickle.BINGET: lambda m: m.recall(m.count(1)),
    pickle.LONG_BINGET: lambda m: m.recall(m.count(4)),
    # Constants and numbers.
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.INT: lambda m: m.push(m.integer()),
    pickle.BININT: lambda m: m.push(int.from_bytes(m.read(4), "little", signed=True)),
    pickle.BININT1: lambda m: m.push(m.count(1)),
    pickle.BININT2: lambda m: m.push(m.count(2)),
    pickle.LONG: lambda m: m.push(int(m.line().rstrip(b"L"), 0)),
    pickle.LONG1: lambda m: m.push(pickle.decode_long(m.read(m.count(1)))),
    pickle.LONG4: lambda m: m.push(pickle.decode_long(m.read(m.count(4)))),
    pickle.FLOAT: lambda m: m.push(float(m.line())),
    pickle.BINFLOAT: lambda m: m.push(struct.unpack(">d", m.read(8))[0]),
    # Text and bytes. Strings of Python 2 are read as latin-1, under which arrays of Python 2 survive.
    pickle.STRING: lambda m: m.push(m.quoted()),
    pickle.BINSTRING: lambda m: m.push(m.read(m.count(4)).decode("latin1")),
    pickle.SHORT_BINSTRING: lambda m: m.push(m.read(m.count(1)).decode("latin1")),
    pickle.UNICODE: lambda m: m.push(m.line().decode("raw-unicode-escape")),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m.read(m.count(1)).decode("utf-8", "surrogatepass")),
    pickle.BINUNICODE: lambda m: m.push(m.read(m.count(4)).decode("utf-8", "surrogatepass")),
    pickle.BINUNICODE8: lambda m: m.push(m.read(m.count(8)).decode("utf-8", "surrogatepass")),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.read(m.count(1))),
    pickle.BINBYTES: lambda m: m.push(m.read(m.count(4))),
    pickle.BINBYTES8: lambda m: m.push(m.read(m.count(8))),
    pickle.BYTEARRAY8: lambda m: m.push(m.byte_array()),
    # Containers.
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.make_tuple_of(1),
    pickle.TUPLE2: lambda m: m.make_tuple_of(2),
    pickle.TUPLE3: lambda m: m.make_tuple_of(3),
    pickle.TUPLE: lambda m: m.make_tuple(m.since_mark()),
    pickle.EMPTY_LIST: lambda m: m.make_list([]),
    pickle.LIST: lambda m: m.make_list(m.since_mark()),
    pickle.APPEND: _Machine.append,
    pickle.APPENDS: _Machine.extend,
    pickle.EMPTY_DICT: lambda m: m.make_dict([]),
    pickle.DICT: lambda m: m.make_dict(m.since_mark()),
    pickle.SETITEM: _Machine.update_one,
    pickle.SETITEMS: lambda m: m.update(m.since_mark()),
    pickle.EMPTY_SET: lambda m: m.make_set(set),
    pickle.ADDITEMS: _Machine.add,
    pickle.FROZENSET: lambda m: m.make_set(frozenset, m.since_mark()),
    # Globals.
    pickle.GLOBAL: lambda m: m.load_global(m.line().decode(), m.line().decode()),
    pickle.STACK_GLOBAL: _Machine.load_global_of_stack,
    pickle.INST: _Machine.instance,
    pickle.REDUCE: _Machine.reduce,
    pickle.BUILD: _Machine.build,
    # What arrays and containers never need.
    **dict.fromkeys((pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX), lambda m: m.refuse(_CLASSES)),
    **dict.fromkeys((pickle.EXT1, pickle.EXT2, pickle.EXT4), lambda m: m.refuse(_CLASSES)),
    pickle.BINPERSID: lambda m: m.refuse(_PERSISTENT),
    **dict.fromkeys((pickle.NEXT_BUFFER, pickle.READONLY_BUFFER), lambda m: m.refuse(_BUFFERS)),
}


def load(path: Path) -> object:
    """Read a pickle that holds NumPy arrays and plain containers.

    Strings of Python 2 are read as latin-1, the only encoding under which arrays of Python 2 survive.

    Args:
        path: The file.

    Returns:
        Nested dicts, lists, tuples, sets, strings, bytes, numbers and arrays. Arrays of dtype object hold any of
        these. Lists may hold one another more than once, or themselves. Names of types that a pickle holds as values
        become objects without meaning.

    Raises:
        MSABenchError: The file is truncated, is no pickle, or asks for anything but arrays and plain containers, or
            for far more memory than its size calls for.
        OSError: The file cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            return _Machine(stream, path.stat().st_size).run()
    except _ForbiddenError as error:
        raise MSABenchError(
            f"{path} tries to load {error}, which could run code; only NumPy arrays and plain containers are allowed"
        ) from None
    except _RefusedError as error:
        raise MSABenchError(f"{path} {error}") from None
    except OSError:
        raise
    except Exception as error:
        # Damaged instructions surface as almost any exception: value, type, index, decoding, memory errors.
        raise MSABenchError(_diagnosis(path, error)) from error


def _diagnosis(path: Path, error: Exception) -> str:
    size = path.stat().st_size
    if size == 0:
        return f"{path} is empty; get the file again"
    if isinstance(error, EOFError):
        return f"{path} is truncated ({size:,} bytes); get the file again"
    with path.open("rb") as stream:
        start = stream.read(24)
    reason = (str(error) or type(error).__name__)[:200]
    return f"{path} is not a readable pickle (it starts with {start!r}: {reason}); get the file again"

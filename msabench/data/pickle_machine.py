"""The machine that runs a pickle: its stack, its memo and its budget."""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, NoReturn

import numpy as np

from msabench.data import pickle_limits
from msabench.data.file_arrays import FileArray, SourceFile, StoredBytes, kind_of, loaded
from msabench.data.pickle_bytes import PickleBytes
from msabench.data.pickle_limits import (
    CONTAINER,
    DEEPEST,
    DEEPEST_ARRAYS,
    ENTRY,
    DamagedError,
    ForbiddenError,
    RefusedError,
)
from msabench.data.pickle_values import DType, Global, n_items_of, set_dtype


class Machine(PickleBytes):
    """Runs one pickle.

    Args:
        stream: Its bytes.
        size: How many there are.
        admitted: (module, name) of a global -> what stands for it.
        source: The same file, if large arrays are to stay in it as ``FileArray``.
    """

    def __init__(
        self,
        stream: IO[bytes],
        size: int,
        admitted: Mapping[tuple[str, str], Global],
        source: SourceFile | None = None,
    ) -> None:
        super().__init__(stream, size, source)
        self._admitted = admitted
        self._memory = pickle_limits.FREE_MEMORY + pickle_limits.MEMORY_PER_BYTE * size
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        # Arrays without content yet, and how deeply arrays of objects hold each other; by id.
        self._blank: dict[int, np.ndarray[Any, Any]] = {}
        self._depths: dict[int, int] = {}
        # Where the memo has arrays without content, and which of them stand in a second place besides; by id.
        self._remembered: dict[int, list[int]] = {}
        self._shared: set[int] = set()

    def run(self, instructions: Mapping[bytes, Callable[[Machine], object]]) -> object:
        """The value that the pickle makes.

        Args:
            instructions: Code of an instruction -> what it does.

        Raises:
            ForbiddenError: The pickle names a global that is not admitted.
            RefusedError: It asks for something that is not done.
            DamagedError, EOFError: It contradicts itself, or ends too early. Damage may surface as other errors, too.
        """
        read = self._stream.read
        while (code := read(1)) != pickle.STOP:
            if not code:
                raise EOFError("no end")
            if code not in instructions:
                raise DamagedError(f"unknown instruction {code!r}")
            instructions[code](self)
        return self._stack.pop()

    # What the instructions share.

    def spend(self, n_bytes: int) -> None:
        """Take memory from the budget.

        Raises:
            RefusedError: There is none left.
        """
        self._memory -= n_bytes
        if self._memory < 0:
            raise RefusedError("asks for far more memory than its size calls for")

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Take the value on top of the stack."""
        return self._stack.pop()

    def top(self, kind: type) -> Any:
        """What lies on top of the stack, which must be of this very kind."""
        if type(self._stack[-1]) is not kind:
            raise DamagedError(f"a {kind_of(self._stack[-1])} in place of a {kind.__name__}")
        return self._stack[-1]

    def duplicate(self) -> None:
        """Put the value on top of the stack there once more."""
        self._put_again(self._stack[-1])

    def since_mark(self) -> list[Any]:
        """Take all values above the last mark, and the mark."""
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def drop(self) -> None:
        """Take the value on top of the stack away, or the mark."""
        # Python's pickler drops a mark in this way, too.
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def mark(self) -> None:
        """Set a mark."""
        if len(self._marks) == DEEPEST:
            raise RefusedError(f"nests more than {DEEPEST:,} values into each other")
        self._marks.append(len(self._stack))

    def remember(self, index: int) -> None:
        """Keep the value on top of the stack in the memo."""
        self.spend(ENTRY)
        self._memo[index] = value = self._stack[-1]
        if id(value) in self._blank:
            self._remembered.setdefault(id(value), []).append(index)

    def memoize(self) -> None:
        """Keep it under the next free number."""
        self.remember(len(self._memo))

    def recall(self, index: int) -> None:
        """Put a value of the memo on the stack."""
        if index not in self._memo:
            raise DamagedError(f"nothing is remembered as {index}")
        self._put_again(self._memo[index])

    def _put_again(self, value: Any) -> None:
        if id(value) in self._blank:
            self._shared.add(id(value))
        self._stack.append(value)

    # Text and numbers.

    def quoted(self) -> str:
        """The next line as a string in quotes, of Python 2."""
        line = self.line().strip()
        if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
            raise DamagedError("a string without quotes")
        return codecs.escape_decode(line[1:-1])[0].decode("latin1")

    def integer(self) -> int | bool:
        """The next line as a whole number, or as a truth value."""
        line = self.line()
        return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line, 0)

    # Containers.

    def make_tuple(self, items: Iterable[Any]) -> None:
        """Put a tuple on the stack."""
        self.spend(CONTAINER)
        self.push(tuple(items))

    def make_tuple_of(self, n: int) -> None:
        """Make a tuple of the last few values of the stack."""
        if n > len(self._stack):
            raise DamagedError("too few values")
        items = self._stack[-n:]
        del self._stack[-n:]
        self.make_tuple(items)

    def make_list(self, items: list[Any]) -> None:
        """Put a list on the stack."""
        self.spend(CONTAINER)
        self.push(items)

    def append(self) -> None:
        """Put the value on top of the stack into the list below it."""
        item = self.pop()
        self.top(list).append(item)

    def extend(self) -> None:
        """Put all values above the mark into the list below it."""
        items = self.since_mark()
        self.top(list).extend(items)

    def make_dict(self, items: list[Any]) -> None:
        """Put a dict of keys and values by turns on the stack."""
        self.spend(CONTAINER)
        self.push({})
        self.update(items)

    def update(self, items: list[Any]) -> None:
        """Put keys and values by turns into the dict on top of the stack."""
        target = self.top(dict)
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values):
            raise DamagedError("a key without a value")
        target.update(zip(self.hashable(keys), values, strict=True))

    def update_one(self) -> None:
        """Put the key and the value on top of the stack into the dict below them."""
        value, key = self.pop(), self.pop()
        self.update([key, value])

    def hashable(self, items: Iterable[Any]) -> list[Any]:
        """Keys of dicts and members of sets, which must be plain: nested tuples can take for ever to hash."""
        kept = [loaded(item) if isinstance(item, StoredBytes) else item for item in items]
        self.spend(ENTRY * len(kept))
        for item in kept:
            if not _is_plain_key(item):
                raise RefusedError(f"has a {kind_of(item)} as a key, where only strings and numbers are read")
        return kept

    def make_set(self, kind: type[set[Any] | frozenset[Any]], items: Iterable[Any] = ()) -> None:
        """Put a set on the stack."""
        self.spend(CONTAINER)
        self.push(kind(self.hashable(items)))

    def add(self) -> None:
        """Put all values above the mark into the set below it."""
        items = self.since_mark()
        self.top(set).update(self.hashable(items))

    # Globals and what they make.

    def load_global(self, module: str, name: str) -> None:
        """Put what stands for a global on the stack.

        Raises:
            ForbiddenError: Nothing does.
        """
        if (module, name) not in self._admitted:
            asked = f"{module}.{name}"
            raise ForbiddenError(asked if asked.isprintable() and len(asked) < 200 else repr(asked)[:200])
        self.push(self._admitted[module, name])

    def load_global_of_stack(self) -> None:
        """The same, its module and name being on top of the stack."""
        name, module = loaded(self.pop()), loaded(self.pop())
        if not (isinstance(module, str) and isinstance(name, str)):
            raise DamagedError("a global without a name")
        self.load_global(module, name)

    def instance(self) -> None:
        """Call a global that the next two lines name with the values above the mark."""
        self.load_global(self.line().decode(), self.line().decode())
        made = self.pop()
        arguments = self.since_mark()
        self.push(self.call(made, tuple(arguments)))

    def reduce(self) -> None:
        """Call what lies below the arguments on top of the stack."""
        arguments, made = self.pop(), self.pop()
        self.push(self.call(made, arguments))

    def call(self, made: object, arguments: object) -> object:
        """What a global makes of arguments."""
        if not isinstance(made, Global) or made.make is None or type(arguments) is not tuple:
            name = made.name if isinstance(made, Global) else f"a {kind_of(made)}"
            raise RefusedError(f"calls {name}, which makes no array and no plain container")
        self.spend(CONTAINER)
        return made.make(self, *arguments)

    def refuse(self, what: str) -> NoReturn:
        """Say what the pickle asks for that arrays and plain containers never need."""
        raise RefusedError(f"{what}; only NumPy arrays and plain containers are allowed")

    def build(self) -> None:
        """Give an array or a dtype its state."""
        state = self.pop()
        target = self._stack[-1]
        if type(target) is DType and type(state) is tuple:
            set_dtype(target, state)
        elif type(target) is np.ndarray and type(state) is tuple and self._blank.pop(id(target), None) is target:
            remembered = self._remembered.pop(id(target), [])
            self._fill(target, *(state if len(state) == 4 else state[1:]), remembered=remembered)
            self._shared.discard(id(target))
        else:
            self.refuse(f"sets the state of a {kind_of(target)}")

    def blank(self) -> np.ndarray[Any, Any]:
        """An array that gets its content later, from ``build``."""
        array = np.empty(0, dtype=np.int8)
        self._blank[id(array)] = array
        return array

    def _fill(
        self, array: Any, shape: object, dtype: object, fortran: object, data: object, *, remembered: list[int]
    ) -> None:
        n_items = n_items_of(shape)
        fortran = isinstance(fortran, int) and bool(fortran)
        if not isinstance(dtype, DType):
            raise DamagedError("an array without a dtype")
        if dtype.code == "O":
            if type(data) is not list or len(data) != n_items:
                raise DamagedError("an array of objects without as many objects")
            self.spend(8 * n_items)
            self._check_depth(array, data)
            array.__setstate__((1, shape, np.dtype(object), fortran, data))
        else:
            real = dtype.real()
            content = self.content(data, n_items, real)
            # An array that is in a container already, waiting for its content, cannot become another object.
            if isinstance(content, StoredBytes) and content.kind == "bytes" and id(array) not in self._shared:
                stored = FileArray.of(content, real, shape, "F" if fortran else "C")
                if stored is not None:
                    self._replace(array, stored, remembered)
                    return
            array.__setstate__((1, shape, real, fortran, loaded(content)))

    def _replace(self, array: object, stored: FileArray, remembered: list[int]) -> None:
        self._stack[-1] = stored
        for index in remembered:
            if self._memo[index] is array:
                self._memo[index] = stored

    def _check_depth(self, array: np.ndarray[Any, Any], items: list[Any]) -> None:
        inner = [item for item in items if type(item) is np.ndarray]
        depth = 1 + max((self._depths.get(id(item), 0) for item in inner), default=0)
        if depth > DEEPEST_ARRAYS or any(id(item) in self._blank or item is array for item in inner):
            raise RefusedError(f"has arrays that hold themselves, or more than {DEEPEST_ARRAYS} in each other")
        self._depths[id(array)] = depth

    def encode(self, text: str | StoredBytes) -> bytes | StoredBytes:
        """Bytes that were written as a string, as old protocols and Python 2 do."""
        self.spend(len(text))
        return text.encode("latin1") if isinstance(text, str) else text.as_bytes()

    def content(self, data: object, n_items: int, dtype: np.dtype[Any]) -> bytes | bytearray | StoredBytes:
        """The bytes of an array; Python 2 wrote them as strings."""
        if isinstance(data, str) or (isinstance(data, StoredBytes) and data.kind == "str"):
            data = self.encode(data)
        if not isinstance(data, (bytes, bytearray, StoredBytes)) or len(data) != n_items * dtype.itemsize:
            raise DamagedError("an array whose shape, dtype and content do not agree")
        if not dtype.itemsize and n_items > 1:
            raise DamagedError("an array of items without size")
        self.spend(len(data))
        return data


def _is_plain_key(item: object, depth: int = 2) -> bool:
    if type(item) is tuple:
        return depth > 0 and len(item) <= 16 and all(_is_plain_key(part, depth - 1) for part in item)
    return item is None or isinstance(item, (str, bytes, int, float, np.number, np.bool_))

"""Arrays that stay in their file and are read a few rows at a time."""

from __future__ import annotations

import math
import weakref
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.errors import MSABenchError

LARGE = 1 << 24
"""From this many bytes on, content stays in its file; less is loaded at once."""

BLOCK, SCATTERED_BLOCK = 1 << 22, 1 << 28
"""Bytes of an array that are read together: where rows lie one after another in the file, and where each is spread over
all of it, so that every block takes many small reads."""

_SLAB, _SHORT = 1 << 22, 1 << 13
"""Runs of a scattered array that are no longer than ``_SHORT`` bytes are read with what lies between them, a slab at a
time."""


class SourceFile:
    """A file that stays open for what is read from it later, also if another takes its name.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("rb", buffering=0)
        weakref.finalize(self, self._stream.close)

    def read_into(self, start: int, target: NDArray[np.uint8]) -> None:
        """Fill a contiguous array with the bytes from a place on.

        Raises:
            MSABenchError: The file has become shorter, or cannot be read.
        """
        view = target.data
        try:
            self._stream.seek(start)
            while len(view):
                n_read = self._stream.readinto(view)
                if not n_read:
                    raise MSABenchError(f"{self.path} changed while it was read; try again when it is complete")
                view = view[n_read:]
        except OSError as error:
            raise MSABenchError(f"cannot read {self.path} ({error})") from error


class StoredBytes:
    """Bytes that a file holds and that nobody has loaded.

    Args:
        source: The file.
        start: Where they begin in it.
        n_bytes: How many there are.
        kind: What they are to a pickle: ``bytes``, ``bytearray``, or ``str`` with a byte for each character.
    """

    def __init__(self, source: SourceFile, start: int, n_bytes: int, kind: str = "bytes") -> None:
        self.source = source
        self.kind = kind
        self._start = start
        self._n_bytes = n_bytes
        self._loaded: bytes | bytearray | str | None = None

    def __len__(self) -> int:
        """Number of bytes, or of characters."""
        return self._n_bytes

    def as_bytes(self) -> StoredBytes:
        """The same as bytes, characters by their number in Latin-1."""
        return StoredBytes(self.source, self._start, self._n_bytes)

    def read_into(self, start: int, target: NDArray[np.uint8]) -> None:
        """Fill a contiguous array with those from a place on."""
        self.source.read_into(self._start + start, target)

    def loaded(self) -> bytes | bytearray | str:
        """All of them, as what they are; one object, however often a pickle names it."""
        if self._loaded is None:
            content = bytearray(len(self))
            self.read_into(0, np.frombuffer(content, dtype=np.uint8))
            if self.kind == "bytearray":
                self._loaded = content
            else:
                self._loaded = bytes(content) if self.kind == "bytes" else content.decode("latin1")
        return self._loaded


class StoredText(StoredBytes):
    """Text in UTF-8 whose characters are all in Latin-1, as old protocols write bytes; read as a byte for each.

    Args:
        source: The file.
        places: For every block, how many characters stand before it, and where it begins in the file; the last entry is
            the end.
        kind: As in ``StoredBytes``.
    """

    def __init__(self, source: SourceFile, places: list[tuple[int, int]], kind: str = "str") -> None:
        super().__init__(source, places[0][1], places[-1][0], kind)
        self._places = places

    @classmethod
    def of(cls, source: SourceFile, start: int, n_bytes: int) -> StoredText | None:
        """The text of a part of a file; None if it is no UTF-8, or has other characters."""
        places, end = [(0, start)], start + n_bytes
        while places[-1][1] < end:
            n_before, begin = places[-1]
            block = np.empty(min(BLOCK, end - begin), dtype=np.uint8)
            source.read_into(begin, block)
            # The two bytes of a character stay together.
            content = block.tobytes() if block[-1] < 0xC0 else block[:-1].tobytes()
            try:
                n_characters = len(content.decode().encode("latin1"))
            except UnicodeError:
                return None
            if not n_characters:
                return None
            places.append((n_before + n_characters, begin + len(content)))
        return cls(source, places)

    def as_bytes(self) -> StoredText:
        """The same as bytes."""
        return StoredText(self.source, self._places, "bytes")

    def read_into(self, start: int, target: NDArray[np.uint8]) -> None:
        """Fill a contiguous array with those from a place on."""
        filled, number = 0, bisect_right(self._places, start, key=lambda place: place[0]) - 1
        while filled < len(target):
            (n_before, begin), (_, end) = self._places[number : number + 2]
            block = np.empty(end - begin, dtype=np.uint8)
            self.source.read_into(begin, block)
            text = np.frombuffer(block.tobytes().decode().encode("latin1"), dtype=np.uint8)
            part = text[start + filled - n_before :][: len(target) - filled]
            target[filled : filled + len(part)] = part
            filled, number = filled + len(part), number + 1


class FileArray:
    """An array whose content stays in its file: its shape, its dtype, and its rows as arrays of NumPy.

    Args:
        content: Its bytes.
        dtype: Of its items.
        base: Shape in which they lie in the file, the last axis running fastest; at least one axis, no side 0.
        axes: Which axis of ``base`` each axis of the array is; None: the same.
    """

    def __init__(
        self, content: StoredBytes, dtype: np.dtype[Any], base: tuple[int, ...], axes: tuple[int, ...] | None = None
    ) -> None:
        self.dtype = dtype
        self._content = content
        self._base = base
        self._axes = axes or tuple(range(len(base)))
        self.shape = tuple(base[axis] for axis in self._axes)
        self.ndim = len(base)
        self.size = math.prod(base)
        first = self._axes[0]
        self._whole: NDArray[Any] | None = None
        # A run holds what some rows have between two places of the axes that run slower than theirs.
        self._n_runs = math.prod(base[:first])
        self._run_of_row = math.prod(base[first + 1 :]) * dtype.itemsize

    @classmethod
    def of(
        cls, content: StoredBytes, dtype: np.dtype[Any], shape: Any, order: str, axes: Any = None
    ) -> FileArray | None:
        """The array that NumPy would make of the same; None where it is better made at once.

        Args:
            content: Its bytes, as many as the shape calls for.
            dtype: Of its items.
            shape: A checked shape.
            order: ``C``, ``F``, or ``K`` for the order of the axes that ``axes`` names.
            axes: Order of the axes after they were read, if any.
        """
        if not shape or not len(content):
            return None
        base = tuple(map(int, shape))
        plain = tuple(range(len(base)))
        if order == "F":
            base, axes = base[::-1], plain[::-1]
        elif order == "K" and axes is not None:
            if type(axes) is not tuple or sorted(map(str, axes)) != sorted(map(str, plain)):
                return None
        else:
            axes = None
        made = cls(content, dtype, base, axes)
        # Such text can only be read from front to back.
        return None if isinstance(content, StoredText) and made._n_runs > 1 else made

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    @property
    def rows_at_once(self) -> int:
        """How many rows to read together."""
        block = BLOCK if self._n_runs == 1 else SCATTERED_BLOCK
        return max(1, block // (self._n_runs * self._run_of_row))

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Some rows that follow one another, as an array of their own."""
        start, stop, step = rows.indices(len(self))
        assert step == 1, step
        count, first = max(0, stop - start), self._axes[0]
        runs = np.empty((self._n_runs, count * self._run_of_row), dtype=np.uint8)
        if count:
            self._read_runs(start * self._run_of_row, runs)
        read = runs.view(self.dtype).reshape(*self._base[:first], count, *self._base[first + 1 :])
        return read.transpose(self._axes)

    def _read_runs(self, offset: int, runs: NDArray[np.uint8]) -> None:
        whole, wanted = len(self) * self._run_of_row, runs.shape[1]
        if whole > _SHORT or whole == wanted:
            if whole == wanted:
                # Nothing lies between them.
                runs = runs.reshape(1, -1)
            for number, run in enumerate(runs):
                self._content.read_into(number * whole + offset, run)
            return
        step = max(1, _SLAB // whole)
        for begin in range(0, len(runs), step):
            target = runs[begin : begin + step]
            slab = np.empty((len(target), whole), dtype=np.uint8)
            self._content.read_into(begin * whole, slab.reshape(-1))
            target[:] = slab[:, offset : offset + wanted]

    def picked(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows, in ascending order."""
        if not len(rows):
            return self[:0]
        if self._n_runs > 1:
            first = int(rows[0])
            return self[first : int(rows[-1]) + 1][rows - first]
        found = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        ends = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        for begin, end in pairwise(ends):
            found[begin:end] = self[int(rows[begin]) : int(rows[end - 1]) + 1]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of it, for lists of arrays that NumPy puts together; kept, since a list may name it many times."""
        if self._whole is None:
            self._whole = self[:]
        return np.asarray(self._whole, dtype)


class PickedRows:
    """Some rows of an array, in memory or in a file, that are not yet copied.

    Args:
        source: The array.
        rows: int64, which of its rows, ascending.
    """

    def __init__(self, source: NDArray[Any] | FileArray, rows: NDArray[np.int64]) -> None:
        self.source = source
        self.rows = rows
        self.dtype = source.dtype
        self.shape = (len(rows), *source.shape[1:])
        self.ndim = source.ndim

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def rows_at_once(self) -> int:
        """How many rows to read together."""
        return rows_at_once(self.source)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Some of these rows that follow one another, as an array of their own."""
        chosen = self.rows[rows]
        return self.source[chosen] if isinstance(self.source, np.ndarray) else self.source.picked(chosen)


def rows_at_once(array: NDArray[Any] | FileArray | PickedRows) -> int:
    """How many rows of an array to look at together."""
    if isinstance(array, np.ndarray):
        return max(1, BLOCK // max(1, array.itemsize * math.prod(array.shape[1:])))
    return array.rows_at_once


def loaded(value: Any) -> Any:
    """A value that may have stayed in its file, in memory; others as they are."""
    if isinstance(value, (FileArray, PickedRows)):
        return value[:]
    return value.loaded() if isinstance(value, StoredBytes) else value


def kind_of(value: object) -> str:
    """Name of a value's type, for errors; of what stays in its file, that which it would have in memory."""
    if isinstance(value, StoredBytes):
        return value.kind
    return "ndarray" if isinstance(value, (FileArray, PickedRows)) else type(value).__name__

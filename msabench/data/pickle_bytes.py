"""The bytes of a pickle, in the pieces in which its instructions ask for them."""

from __future__ import annotations

import os
from typing import IO

from msabench.data import file_arrays
from msabench.data.file_arrays import SourceFile, StoredBytes, StoredText
from msabench.data.pickle_limits import BLOCK, DamagedError


class PickleBytes:
    """Reads a pickle from front to back.

    Args:
        stream: Its bytes.
        size: How many there are.
        source: The same file, if what may be the content of large arrays is to stay in it.
    """

    def __init__(self, stream: IO[bytes], size: int, source: SourceFile | None = None) -> None:
        self._stream = stream
        self._size = size
        self._source = source

    def read(self, n_bytes: int) -> bytes:
        """The next bytes, all of them or an error."""
        if n_bytes < 0:
            raise DamagedError("a negative length")
        if n_bytes > BLOCK:
            self.check_left(n_bytes)
        data = self._stream.read(n_bytes)
        if len(data) < n_bytes:
            raise EOFError("no end")
        return data

    def check_left(self, n_bytes: int) -> None:
        """Refuse a claimed length that the rest of the file does not hold."""
        if n_bytes > self._size - self._stream.tell():
            raise EOFError("no end")

    def line(self) -> bytes:
        """The next line, without its end."""
        line = self._stream.readline()
        if not line.endswith(b"\n"):
            raise EOFError("no end")
        return line[:-1]

    def count(self, width: int) -> int:
        """The next bytes as a whole number of at least 0."""
        return int.from_bytes(self.read(width), "little")

    def byte_array(self) -> bytearray | StoredBytes:
        """The next bytes, as many as eight bytes say, read in place."""
        n_bytes = self.count(8)
        self.check_left(n_bytes)
        if (stored := self._stored(n_bytes, "bytearray")) is not None:
            return stored
        data = bytearray(n_bytes)
        if self._stream.readinto(data) < n_bytes:  # type: ignore[attr-defined]
            raise EOFError("no end")
        return data

    def bytes_of(self, n_bytes: int) -> bytes | StoredBytes:
        """The next bytes, which may be the content of an array."""
        stored = self._stored(n_bytes, "bytes")
        return self.read(n_bytes) if stored is None else stored

    def text_of_python2(self, n_bytes: int) -> str | StoredBytes:
        """The next bytes as Latin-1, in which Python 2 wrote the content of arrays."""
        stored = self._stored(n_bytes, "str")
        return self.read(n_bytes).decode("latin1") if stored is None else stored

    def text_of(self, n_bytes: int) -> str | StoredBytes:
        """The next bytes as UTF-8; old protocols write the content of arrays in it."""
        if self._source is not None and n_bytes >= file_arrays.LARGE:
            self.check_left(n_bytes)
            text = StoredText.of(self._source, self._stream.tell(), n_bytes)
            if text is not None:
                self._stream.seek(n_bytes, os.SEEK_CUR)
                return text
        return self.read(n_bytes).decode("utf-8", "surrogatepass")

    def _stored(self, n_bytes: int, kind: str) -> StoredBytes | None:
        """The next bytes without their being read; None where they are better read at once."""
        if self._source is None or n_bytes < file_arrays.LARGE:
            return None
        self.check_left(n_bytes)
        stored = StoredBytes(self._source, self._stream.tell(), n_bytes, kind)
        self._stream.seek(n_bytes, os.SEEK_CUR)
        return stored

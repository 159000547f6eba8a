"""What a pickle may take, and how it is refused."""

from __future__ import annotations

BLOCK = 1 << 16
"""Reads of more than this are compared with what is left of the file before memory is taken for them."""

FREE_MEMORY, MEMORY_PER_BYTE = 1 << 28, 8
"""What a pickle may take for what it makes, in bytes: for any file, and for each byte of it."""

CONTAINER, ENTRY = 256, 104
"""Estimates from above of an empty container, and of an entry of a dict, a set or the memo."""

DEEPEST = 1000
"""Most open marks; Python's own pickler reaches this depth at its recursion limit."""

DEEPEST_ARRAYS = 20
"""Most arrays of objects that hold each other: NumPy frees them by recursion, about 1 kB of stack for each."""


class ForbiddenError(Exception):
    """The pickle names a global that is not admitted."""


class RefusedError(Exception):
    """The pickle asks for something that is not done; says what, after the file's name."""


class DamagedError(Exception):
    """The pickle contradicts itself."""

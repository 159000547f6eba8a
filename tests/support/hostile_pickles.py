"""Pickles made of admitted names alone that would crash a reader, or fill the memory; and a program that reads them.

Run as a program, it reads every file of a folder with little stack and address space, and prints what came of each.
"""

from __future__ import annotations

import pickle
import random
import struct
import sys
from pathlib import Path

import numpy as np

BUDGET, LIMIT, STACK = 1 << 25, 500 << 20, 1 << 20
"""What the program lets the reader use freely, the address space beyond what imports take, the stack; in bytes."""


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + pickle.STACK_GLOBAL


def number(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


def state(*parts: bytes) -> bytes:
    return pickle.MARK + b"".join(parts) + pickle.TUPLE + pickle.BUILD


def data(value: bytes) -> bytes:
    return pickle.BINBYTES + struct.pack("<I", len(value)) + value


NONE, TRUE, FALSE = pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE
DTYPE = name("numpy", "dtype")
BLANK = call(
    name("numpy.core.multiarray", "_reconstruct"),
    name("numpy", "ndarray"),
    number(0) + pickle.TUPLE1,
    pickle.SHORT_BINBYTES + b"\x01b",
)
POINTERS = np.full(4, 0x4141414141414141, dtype=np.uint64).tobytes()


def dtype(code: str, *parts: bytes) -> bytes:
    return call(DTYPE, text(code), FALSE, TRUE) + (state(*parts) if parts else b"")


def array(shape: tuple[int, ...], kind: bytes, content: bytes) -> bytes:
    sides = pickle.MARK + b"".join(map(number, shape)) + pickle.TUPLE
    return BLANK + state(number(1), sides, kind, FALSE, content)


def plain(code: str, size: int = -1, order: str = "<", flags: int = 0) -> bytes:
    return dtype(code, number(3), text(order), NONE, NONE, NONE, number(size), number(size), number(flags))


def fields(offset: int, inner: bytes) -> tuple[bytes, ...]:
    """Names and fields of a structured dtype with one field."""
    names = text("f") + pickle.TUPLE1
    one = pickle.EMPTY_DICT + text("f") + inner + number(offset) + pickle.TUPLE2 + pickle.SETITEM
    return names, one


OBJECTS = plain("O8", order="|", flags=63)
SHY = plain("O8", order="|", flags=0)
"""Objects that do not say that they are."""

ONE_OBJECT = pickle.EMPTY_LIST + NONE + pickle.APPEND


def structured(code: str, flags: int, offset: int = 0, inner: bytes = OBJECTS) -> bytes:
    return dtype(code, number(3), text("|"), NONE, *fields(offset, inner), number(8), number(8), number(flags))


def subarray(inner: bytes, flags: int) -> bytes:
    shape = inner + number(1) + pickle.TUPLE1 + pickle.TUPLE2
    return dtype("V8", number(3), text("|"), shape, NONE, NONE, number(8), number(8), number(flags))


_BIG = pickle.BINBYTES + struct.pack("<I", 1 << 18) + bytes(1 << 18)
_DOUBLED = b"]\x94" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(40))

CRASHES: dict[str, bytes] = {
    "objects from a structured dtype": array((4,), structured("V8", 27), data(POINTERS)),
    "objects from a structured dtype without flags": array((4,), structured("V8", 0), data(POINTERS)),
    "objects from a plain dtype's fields": array((4,), structured("f8", 0), data(POINTERS)),
    "objects from a subarray": array((4,), subarray(OBJECTS, 0), data(POINTERS)),
    "objects from raw bytes": array((4,), OBJECTS, data(POINTERS)),
    "objects from raw bytes without flags": array((4,), SHY, data(POINTERS)),
    "objects from a buffer": call(
        name("numpy.core.numeric", "_frombuffer"), data(POINTERS), OBJECTS, number(4) + pickle.TUPLE1, text("C")
    ),
    "a scalar of objects": call(name("numpy.core.multiarray", "scalar"), OBJECTS, data(POINTERS[:8])),
    "a field beyond its item": array((4,), structured("V8", 0, 1 << 20, plain("f8")), data(POINTERS)),
    "flags of objects": array((4,), plain("f8", 8, flags=63), data(POINTERS)),
    "a small item said to be large": array((4,), plain("S8", 1 << 20), data(POINTERS)),
    "a large item said to be small": array((1 << 20,), plain("S1048576", 1), data(bytes(1 << 20))),
    "items without size": array((1 << 30, 1 << 30), plain("S0", 0), data(b"")),
    "a shape beyond its content": array((1 << 30, 1 << 30), plain("f8"), data(POINTERS)),
    "a shape that overflows": array((1 << 30, 1 << 30, 1 << 30, 4), plain("f8"), data(POINTERS)),
    "a negative shape": array((-1, -4), plain("f8"), data(POINTERS)),
    "an array built twice": BLANK + 2 * state(number(1), number(4) + pickle.TUPLE1, plain("f8"), FALSE, data(POINTERS)),
    "an array that holds itself": BLANK
    + b"\x94"
    + state(number(1), number(1) + pickle.TUPLE1, OBJECTS, FALSE, b"]h\x00a"),
    "a state of a class": name("collections", "OrderedDict") + text("x") + pickle.BUILD,
    "a state of a dict": call(name("collections", "OrderedDict")) + b"}" + text("keys") + NONE + b"s" + pickle.BUILD,
    "a memo far away": NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\xff" + pickle.LONG_BINGET + b"\xff\xff\xff\xff",
    "bytes that are not there": pickle.BINBYTES8 + struct.pack("<Q", 1 << 40),
    "a bytearray that is not there": pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 40),
    "text that is not there": pickle.BINUNICODE8 + struct.pack("<Q", (1 << 64) - 1),
    "a number that is not there": pickle.LONG4 + struct.pack("<I", (1 << 32) - 1),
    "a frame that is not there": pickle.FRAME + struct.pack("<Q", 1 << 60),
    "bytes by their number": call(name("builtins", "bytes"), number(1 << 30)),
    "a bytearray by its number": call(name("builtins", "bytearray"), number(1 << 30)),
    "an empty array by its shape": call(name("numpy", "ndarray"), number(1 << 30) + pickle.TUPLE1),
    "copies of copies": _BIG + b"\x94" + b"(" + (name("builtins", "bytearray") + b"h\x00\x85R") * 300 + b"t",
    "sets without end": b"(" + pickle.EMPTY_SET * 200_000 + b"l",
    "marks without end": pickle.MARK * 200_000,
    "lists in lists": b"]" * 100_000 + b"a" * 99_999,
    "tuples in tuples": b")" + b"\x85" * 100_000,
    "tuples in tuples as a key": b"})" + b"\x85" * 100_000 + b"Ns",
    "a key that takes for ever to hash": b"})" + b"2\x86" * 60 + b"Ns",
    "lists that grow by doubling": _DOUBLED,
}


def chain(between: bytes) -> bytes:
    """Arrays of one object each, every one in the next; ``between`` wraps it once more."""
    kind = OBJECTS + pickle.BINPUT + b"\x00" + b"0"
    function = name("numpy.core.multiarray", "_reconstruct") + pickle.BINPUT + b"\x01" + b"0"
    parts = name("numpy", "ndarray") + number(0) + b"\x85" + pickle.SHORT_BINBYTES + b"\x01b\x87"
    arguments = parts + pickle.BINPUT + b"\x02" + b"0"
    side = number(1) + b"\x85" + pickle.BINPUT + b"\x03" + b"0"
    item = NONE
    link = (
        pickle.BINPUT + b"\x04" + b"0" + b"h\x01h\x02R" + b"(" + b"K\x01h\x03h\x00" + FALSE + b"]h\x04" + b"a" + b"tb"
    )
    return kind + function + arguments + side + item + (link + between) * 25_000


CRASHES["arrays in arrays"] = chain(b"")
CRASHES["arrays and tuples in each other"] = chain(b"\x85")


def whole(value: bytes) -> bytes:
    return pickle.PROTO + b"\x05" + value + pickle.STOP


def mutants(originals: list[bytes], n: int, seed: int) -> list[bytes]:
    """Pickles with a few bytes changed, cut out, repeated, or taken from another pickle."""
    rng = random.Random(seed)
    made = []
    for _ in range(n):
        content = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(content))
            kind = rng.randrange(5)
            if kind == 0:
                content[at] = rng.randrange(256)
            elif kind == 1:
                content[at] ^= 1 << rng.randrange(8)
            elif kind == 2 and len(content) > 8:
                del content[at : at + rng.randint(1, 8)]
            elif kind == 3:
                content[at:at] = content[at : at + rng.randint(1, 40)] * rng.randint(1, 3)
            else:
                other = rng.choice(originals)
                start = rng.randrange(len(other))
                content[at : at + rng.randint(0, 8)] = other[start : start + rng.randint(1, 60)]
        made.append(bytes(content))
    return made


def read_all(folder: Path, large: int | None) -> None:
    """Read every file of a folder as the three readers do; print its name and what came of it.

    Arrays of at least ``large`` bytes, if it is given, stay in the file.
    """
    import resource

    from msabench.data import file_arrays, pickle_limits, unpickle
    from msabench.data.read_mmsa import read_mmsa
    from msabench.data.read_mult import read_mult
    from msabench.data.registry import dataset_info
    from msabench.errors import MSABenchError

    mosi = dataset_info("mosi")
    pickle_limits.FREE_MEMORY = BUDGET
    file_arrays.LARGE = file_arrays.LARGE if large is None else large
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT, used + LIMIT))
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, STACK))
    for path in sorted(folder.iterdir()):
        outcomes = []
        for read in (
            lambda path: unpickle.load(path, in_file=large is not None),
            lambda path: read_mmsa(path, mosi, mosi.file("mmsa-unaligned")),
            lambda path: read_mult(path, mosi, mosi.file("mult-unaligned")),
        ):
            try:
                read(path)
                outcomes.append("read")
            except MSABenchError as error:
                outcomes.append(str(error).removeprefix(str(path)).strip())
        print(path.name, *outcomes, sep="\t", flush=True)


if __name__ == "__main__":
    read_all(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)

"""The instructions of the pickle language."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable

from msabench.data.pickle_machine import Machine

_BUFFERS = "keeps arrays outside the file"
_PERSISTENT = "asks for objects outside the file"
_CLASSES = "makes an instance of a class"

INSTRUCTIONS: dict[bytes, Callable[[Machine], object]] = {
    # Framing.
    pickle.PROTO: lambda m: m.read(1),
    pickle.FRAME: lambda m: m.check_left(m.count(8)),
    # The stack and the memo.
    pickle.MARK: Machine.mark,
    pickle.POP: Machine.drop,
    pickle.POP_MARK: lambda m: m.since_mark(),
    pickle.DUP: Machine.duplicate,
    pickle.PUT: lambda m: m.remember(int(m.line())),
    pickle.BINPUT: lambda m: m.remember(m.count(1)),
    pickle.LONG_BINPUT: lambda m: m.remember(m.count(4)),
    pickle.MEMOIZE: Machine.memoize,
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
    pickle.BINSTRING: lambda m: m.push(m.text_of_python2(m.count(4))),
    pickle.SHORT_BINSTRING: lambda m: m.push(m.read(m.count(1)).decode("latin1")),
    pickle.UNICODE: lambda m: m.push(m.line().decode("raw-unicode-escape")),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m.read(m.count(1)).decode("utf-8", "surrogatepass")),
    pickle.BINUNICODE: lambda m: m.push(m.text_of(m.count(4))),
    pickle.BINUNICODE8: lambda m: m.push(m.text_of(m.count(8))),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.read(m.count(1))),
    pickle.BINBYTES: lambda m: m.push(m.bytes_of(m.count(4))),
    pickle.BINBYTES8: lambda m: m.push(m.bytes_of(m.count(8))),
    pickle.BYTEARRAY8: lambda m: m.push(m.byte_array()),
    # Containers.
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.make_tuple_of(1),
    pickle.TUPLE2: lambda m: m.make_tuple_of(2),
    pickle.TUPLE3: lambda m: m.make_tuple_of(3),
    pickle.TUPLE: lambda m: m.make_tuple(m.since_mark()),
    pickle.EMPTY_LIST: lambda m: m.make_list([]),
    pickle.LIST: lambda m: m.make_list(m.since_mark()),
    pickle.APPEND: Machine.append,
    pickle.APPENDS: Machine.extend,
    pickle.EMPTY_DICT: lambda m: m.make_dict([]),
    pickle.DICT: lambda m: m.make_dict(m.since_mark()),
    pickle.SETITEM: Machine.update_one,
    pickle.SETITEMS: lambda m: m.update(m.since_mark()),
    pickle.EMPTY_SET: lambda m: m.make_set(set),
    pickle.ADDITEMS: Machine.add,
    pickle.FROZENSET: lambda m: m.make_set(frozenset, m.since_mark()),
    # Globals.
    pickle.GLOBAL: lambda m: m.load_global(m.line().decode(), m.line().decode()),
    pickle.STACK_GLOBAL: Machine.load_global_of_stack,
    pickle.INST: Machine.instance,
    pickle.REDUCE: Machine.reduce,
    pickle.BUILD: Machine.build,
    # What arrays and containers never need.
    **dict.fromkeys((pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX), lambda m: m.refuse(_CLASSES)),
    **dict.fromkeys((pickle.EXT1, pickle.EXT2, pickle.EXT4), lambda m: m.refuse(_CLASSES)),
    pickle.BINPERSID: lambda m: m.refuse(_PERSISTENT),
    **dict.fromkeys((pickle.NEXT_BUFFER, pickle.READONLY_BUFFER), lambda m: m.refuse(_BUFFERS)),
}
"""Code -> what the instruction does, all but the one that ends a pickle."""

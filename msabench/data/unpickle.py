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

from pathlib import Path

from msabench.data.file_arrays import SourceFile
from msabench.data.pickle_globals import ADMITTED
from msabench.data.pickle_instructions import INSTRUCTIONS
from msabench.data.pickle_limits import ForbiddenError, RefusedError
from msabench.data.pickle_machine import Machine
from msabench.errors import MSABenchError


def load(path: Path, *, in_file: bool = False) -> object:
    """Read a pickle that holds NumPy arrays and plain containers.

    Strings of Python 2 are read as latin-1, the only encoding under which arrays of Python 2 survive.

    Args:
        path: The file.
        in_file: Whether large arrays stay in the file, and their content, as far as it stands in it as it is. They are
            ``FileArray`` then, and long strings and bytes that may be the content of an array are ``StoredBytes``.

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
            source = SourceFile(path) if in_file else None
            return Machine(stream, path.stat().st_size, ADMITTED, source).run(INSTRUCTIONS)
    except ForbiddenError as error:
        raise MSABenchError(
            f"{path} tries to load {error}, which could run code; only NumPy arrays and plain containers are allowed"
        ) from None
    except RefusedError as error:
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

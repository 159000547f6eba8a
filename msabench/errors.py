"""The one exception that users are meant to see, and how text gets to their terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# Controls, surrogates and marks of direction: they move the cursor, recolour, reorder, or cannot be encoded.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


class MSABenchError(Exception):
    """A problem that the user can mend.

    Its message is one sentence that names the offending value and what is allowed or what to do.
    The command line prints it without a traceback (``--debug`` shows one) and exits with code 2.
    It does not derive from ``ValueError``, so that argument parsers do not swallow and reword it.
    """


def one_of(what: str, value: object, allowed: Iterable[object]) -> MSABenchError:
    """Build the error for a value outside a closed set; it ends with what was probably meant.

    Args:
        what: What the value is, e.g. ``"method"``.
        value: The value that was given.
        allowed: The allowed values, printed in their order.
    """
    names = [str(name) for name in allowed]
    close = nearest(str(value), names)
    hint = f"; did you mean {close}?" if close else ""
    return MSABenchError(f"unknown {what} {value!r}; allowed: {', '.join(names)}{hint}")


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that a mistyped word is most like, whatever the case; None if it is like none of them."""
    folded: dict[str, str] = {}
    for name in names:
        folded.setdefault(name.casefold(), name)
    close = get_close_matches(word.casefold(), folded, n=1)
    return folded[close[0]] if close else None


def printable(text: str) -> str:
    """Text that does nothing to a terminal: characters that would are spelled out.

    Names and errors in records come from anywhere.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def first_difference(theirs: Any, ours: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Compare plain values; lists and tuples are alike, since config files know no tuples.

    Returns:
        Dotted name, their and our value of the first difference; None if there is none.
    """
    if isinstance(theirs, dict) and isinstance(ours, dict):
        pairs = [
            first_difference(theirs.get(key), ours.get(key), f"{name}.{key}" if name else key)
            for key in dict.fromkeys((*ours, *theirs))
        ]
        return next((pair for pair in pairs if pair), None)
    if isinstance(theirs, list | tuple) and isinstance(ours, list | tuple):
        alike = len(theirs) == len(ours) and not any(map(first_difference, theirs, ours))
        return None if alike else (name, list(theirs), list(ours))
    return None if theirs == ours else (name, theirs, ours)

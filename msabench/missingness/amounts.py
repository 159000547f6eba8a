"""Rates and other amounts in the names of cells: decimal numbers as text, so that no rounding enters a name.

An amount is one number for all modalities (``0.3``), or one for each of some of them (``l=0.2,a=0.5``; 0 for the
others). Every amount has one spelling. Free of torch.
"""

from __future__ import annotations

import re
from fractions import Fraction

from msabench.errors import MSABenchError

_DECIMAL = re.compile(r"(?:[0-9]|10)(?:\.[0-9]{1,6})?")


def decimal(text: object, what: str, most: int = 1) -> str:
    """A number in its shortest form with at least one decimal place: ``0.0``, ``0.3``, ``0.25``.

    Args:
        text: The number.
        what: What it is, for messages.
        most: Largest number allowed, at most 10.

    Raises:
        MSABenchError: It is no decimal number in [0, most], or has more than six places.
    """
    if not isinstance(text, str) or not _DECIMAL.fullmatch(text) or Fraction(text) > most:
        raise MSABenchError(
            f"{what} {text!r} is not allowed; give a decimal number in [0, {most}] with at most six places"
        )
    whole, _, places = text.partition(".")
    return f"{whole}.{places.rstrip('0') or '0'}"


def amount(text: object, letters: str, what: str, most: int = 1) -> str:
    """An amount in its only spelling.

    Modalities stand in the order of ``letters``, those with 0 are left out, and equal amounts of all become one number.

    Args:
        text: One number, or ``l=0.2,a=0.5``.
        letters: Letters of the modalities that it may be of, in order.
        what: What it is, for messages.
        most: Largest number allowed, at most 10.

    Raises:
        MSABenchError: It has another form, names another modality or one twice, or a number is out of its range.
    """
    if not isinstance(text, str) or "=" not in text:
        return decimal(text, what, most)
    found: dict[str, str] = {}
    for part in text.split(","):
        letter, equals, number = part.partition("=")
        if not equals or letter not in tuple(letters) or letter in found:
            raise MSABenchError(
                f"{what} {text!r} is not allowed; give one number, or one for each of some of the modalities there, "
                f"e.g. {','.join(f'{known}=0.2' for known in letters)}"
            )
        found[letter] = decimal(number, what, most)
    numbers = {letter: found.get(letter, "0.0") for letter in letters}
    if len(set(numbers.values())) == 1:
        return numbers[letters[0]]
    return ",".join(f"{letter}={number}" for letter, number in numbers.items() if number != "0.0")


def of(text: str, letter: str) -> Fraction:
    """What an amount in its only spelling is for one modality."""
    if "=" not in text:
        return Fraction(text)
    return Fraction(dict(part.split("=") for part in text.split(",")).get(letter, "0"))


def threshold(rate: Fraction) -> int:
    """``ceil(rate * 2**24)``: draws below it come with probability ``rate``. In [0, 2**24] for rates in [0, 1]."""
    scaled = rate * 2**24
    return -(-scaled.numerator // scaled.denominator)

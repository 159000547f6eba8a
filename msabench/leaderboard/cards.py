"""What a method's file says about it, read without importing it. Free of torch."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass

from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.methods.info import EXTERNAL, MethodInfo
from msabench.results.record import SCORED
from msabench.results.scored import Scored
from msabench.tables.marks import FIDELITIES as DOUBTFUL

FIDELITIES = {
    "parity": "agrees numerically with the official code",
    "equations": "every equation of the paper is implemented and tested; not compared with official code",
    "reference": "a plain model or a constant answer, to compare with",
    **{name: warning.partition(" = ")[2] for name, warning in DOUBTFUL.items()},
}
"""Fidelity -> what it means, in a few words."""

_NUMBERED = re.compile(r"(\d+)\.\s+")


@dataclass(frozen=True)
class Card:
    """What is said about a method.

    Attributes:
        name: Method name.
        info: Its registered facts; None if it is not registered.
        about: Paragraphs about the paper and what the method does.
        deviations: Departures from the paper with their reasons: (number or empty, text).
        external: Whether a record says that it comes from outside msabench.
        scored: What its maker says of it, where all that is here are predictions from elsewhere; None otherwise.
    """

    name: str
    info: MethodInfo | None
    about: tuple[str, ...] = ()
    deviations: tuple[tuple[str, str], ...] = ()
    external: bool = False
    scored: Scored | None = None

    @property
    def fidelity(self) -> str:
        """The registered fidelity, ``external``, ``scored``, or ``unknown``."""
        if self.scored:
            return SCORED
        return EXTERNAL if self.external else self.info.fidelity if self.info else "unknown"


def card_of(name: str, external: bool = False, scored: Scored | None = None) -> Card:
    """The card of a method; one that is not registered has a name only.

    Args:
        name: Its name.
        external: Whether a record says that it comes from outside msabench.
        scored: What its maker says of it, where its records are of predictions from elsewhere.

    Raises:
        MSABenchError: The method's file cannot be read.
    """
    info = registry.methods().get(name)
    if info is None:
        return Card(name, None, external=external, scored=scored)
    path = registry.entry_of(name).path
    try:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError) as error:
        raise MSABenchError(f"{path} cannot be read: {error}") from error
    about, deviations = split_docstring(docstring)
    # The title stands above the text already.
    about = about[bool(about) and info.title in about[0] :]
    return Card(name, info, about, deviations, external)


def split_docstring(text: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Split a method file's docstring into its text and the list under ``Deviations:``.

    Args:
        text: The docstring. Items under ``Deviations:`` are indented and either numbered, with further lines indented
            more, or one sentence a line.

    Returns:
        Paragraphs, each on one line; and (number or empty, text) of each deviation.
    """
    lines = inspect.cleandoc(text).splitlines()
    heading = lines.index("Deviations:") if "Deviations:" in lines else len(lines)
    end = heading + 1
    while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
        end += 1
    about = _paragraphs([*lines[:heading], "", *lines[end:]])
    return tuple(about), tuple(_items(lines[heading + 1 : end]))


def _paragraphs(lines: list[str]) -> list[str]:
    blocks = "\n".join(lines).split("\n\n")
    return [" ".join(block.split()) for block in blocks if block.strip()]


def _items(lines: list[str]) -> list[tuple[str, str]]:
    items: list[tuple[str, str]] = []
    fresh = True
    for line in inspect.cleandoc("\n".join(lines)).splitlines():
        numbered = _NUMBERED.match(line)
        if numbered:
            items.append((numbered[1], line[numbered.end() :].strip()))
        elif not line.strip():
            fresh = True
            continue
        elif items and not fresh and (items[-1][0] or not items[-1][1].endswith(".")):
            number, text = items[-1]
            items[-1] = (number, f"{text} {line.strip()}")
        else:
            items.append(("", line.strip()))
        fresh = False
    return items

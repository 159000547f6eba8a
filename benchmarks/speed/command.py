"""The command line that scripts of measurements have in common: they print a page of Markdown, or write it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser with ``--write``.

    Args:
        doc: Docstring of the script, whose first line says what is measured.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--write", type=Path, help="file to write instead of printing")
    return parser


def show(text: str, write: Path | None) -> None:
    """Print a page, or write it.

    Args:
        text: The page, without the end of its last line.
        write: File to write; None prints.
    """
    if write is None:
        print(text)
    else:
        write.write_text(f"{text}\n", encoding="utf-8")


def show_rounds(doc: str | None, report: Callable[[int], str], rounds: int) -> None:
    """The whole of ``main`` for a script that measures everything a number of times.

    Args:
        doc: Docstring of the script.
        report: Makes the page from the number of rounds.
        rounds: How many, unless ``--rounds`` says otherwise.
    """
    parser = parser_of(doc)
    parser.add_argument("--rounds", type=int, default=rounds, help="how often everything is measured, in turns")
    given = parser.parse_args()
    show(report(given.rounds), given.write)

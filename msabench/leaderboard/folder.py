"""Puts a built folder in place whole, or not at all. Free of torch."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msabench.errors import MSABenchError
from msabench.files import naming

MARKER = ".msabench-site"
"""File that says that a folder was made by us and may be replaced."""


@contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """Build a folder beside its place and move it there when the block ends without an error.

    Args:
        out: The folder to be. What is there is replaced if it carries ``MARKER`` or is empty.

    Yields:
        An empty folder beside it, carrying ``MARKER``.

    Raises:
        MSABenchError: Something else is at its place, or the folder around it cannot be written.
    """
    out = out.absolute()
    _check(out)
    building, old = (out.with_name(f".{out.name}.{secrets.token_hex(8)}.{word}") for word in ("new", "old"))
    try:
        building.mkdir(parents=True)
        (building / MARKER).write_text("Made by msabench leaderboard build, which replaces this folder.\n")
    except OSError as error:
        raise MSABenchError(f"{out} cannot be written: {error.strerror or error}") from error
    try:
        with naming(out):
            yield building
        # Somebody may have put something there meanwhile.
        _check(out)
        if out.exists():
            out.rename(old)
        try:
            building.rename(out)
        except BaseException:
            if old.exists():
                old.rename(out)
            raise
    finally:
        for leftover in (building, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _check(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise MSABenchError(f"{out} is not a folder; name a folder that is new, empty, or was built by msabench")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise MSABenchError(
            f"{out} holds files that msabench did not build; name a folder that is new, empty, or was built by msabench"
        )

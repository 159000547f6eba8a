"""An earlier state of the package beside today's, so that before and after are measured in one run."""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

BEFORE = "c018fb6"
"""The last revision before the work on speed, from which the figures named ``before`` come."""


@contextmanager
def checkout(revision: str = BEFORE) -> Iterator[Path]:
    """The files of a revision in a folder that is deleted afterwards.

    Args:
        revision: Anything that git knows as a commit.

    Yields:
        The folder, to stand first in ``PYTHONPATH`` of a child process, see ``environment``.
    """
    packed = subprocess.run(["git", "archive", "--format=tar", revision], cwd=ROOT, capture_output=True, check=True)
    with tempfile.TemporaryDirectory(prefix="msabench-before-") as folder:
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def environment(folder: Path = ROOT) -> dict[str, str]:
    """Environment of a child process that imports the package from a folder."""
    return {**os.environ, "PYTHONPATH": str(folder)}

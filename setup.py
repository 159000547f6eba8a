"""Adds to a build what stands at the root of the repository: configs, suites, published numbers, expected F1."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# The package is not installed yet; what is imported from it needs the standard library alone.
sys.path.insert(0, str(ROOT))

from msabench.packaged import FOLDERS  # noqa: E402

SUFFIXES = {".csv", ".json", ".jsonl", ".md", ".yaml"}
"""Of files that come along; what runs leave beside them, such as indexes and predictions, has others."""


class BuildWithData(build_py):
    """Copies the folders below ``msabench/_data``; an editable installation reads the repository's own."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        data = Path(self.build_lib) / "msabench" / "_data"
        # What an earlier build left there may be gone from the repository.
        shutil.rmtree(data, ignore_errors=True)
        for folder in FOLDERS:
            for path in (path for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES):
                target = data / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


setup(cmdclass={"build_py": BuildWithData})

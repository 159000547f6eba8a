"""F1 that was measured before from equal inputs, so that ``msabench regress --cached`` need not train again.

What a short training gives follows from the sources that train and evaluate, the method's config, the libraries, the
processor and the number of threads. All of that is kept with the F1, in a file that can be read, and the F1 is taken
from there only where it is equal to what there is now. Only numbers are kept: whether they are right is decided anew
every time.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from msabench.data.files import cache_folder
from msabench.files import replacing, sha256_of
from msabench.methods import registry
from msabench.plugins import plugins
from msabench.results import provenance
from msabench.results.record import canonical_hash
from msabench.runner.short_training import CELLS, METRIC, OVERRIDES, config_of_method
from msabench.training.config_files import config_of

PACKAGE = Path(__file__).parents[1]

WHOLE_ROOMS = ("data", "losses", "methods/engine", "metrics", "missingness", "nn")
"""Taken with all their files, since some are looked up by name, and nearly every method draws on them."""

LIBRARIES = (
    "filelock",
    "huggingface_hub",
    "jsonargparse",
    "lightning",
    "mamba-ssm",
    "numpy",
    "pandas",
    "pyarrow",
    "PyYAML",
    "safetensors",
    "scikit-learn",
    "scipy",
    "torch",
    "torchmetrics",
    "transformers",
)
"""What the sources import."""

VARIABLES = ("ATEN_", "DNNL_", "KMP_", "MKL_", "OMP_", "ONEDNN_")
"""How variables of the environment begin that change how numbers are summed."""

KEPT = 8
"""Measurements of a method that are kept, e.g. of several branches; the latest ones."""

_BEGIN = time.time()


def inputs(method: str, seeds: Sequence[int], configs: Path, package: Path = PACKAGE) -> dict[str, Any] | None:
    """Everything that the F1 of a method's short trainings follows from, as plain data.

    Args:
        method: Its name.
        seeds: Seeds of the trainings.
        configs: Folder with its config for ``synth``, as for ``measure``.
        package: The folder of msabench's sources.

    Returns:
        Settings, seeds, config with its bases, sha256 of every source, versions, processor and threads; None where they
        do not tell it all: code from outside msabench takes part, or a source was changed after this process loaded it.

    Raises:
        MSABenchError: There is no such method, or no such config.
    """
    if plugins() or registry.is_external(method):
        return None
    files = sources(method, package)
    if changed_since_the_start(files):
        return None
    return {
        "metric": METRIC,
        "cells": [str(cell) for cell in CELLS],
        "seeds": list(seeds),
        "settings": list(OVERRIDES),
        "config": config_of(config_of_method(method, configs)),
        **surroundings(),
        "sources": {path.relative_to(package).as_posix(): sha256_of(path) for path in files},
    }


def changed_since_the_start(files: Iterable[Path]) -> bool:
    """Whether one of several files was written after this process began, which may have loaded it before."""
    return any(path.stat().st_mtime > _BEGIN for path in files)


def surroundings() -> dict[str, Any]:
    """What numbers follow from besides sources and settings, as plain data: versions, processor, threads, variables."""
    import torch

    return {
        **_machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
    }


@cache
def _machine() -> dict[str, Any]:
    found = provenance.collect()
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"versions": versions, **{name: found[name] for name in ("python", "platform", "cpu")}}


def sources(method: str, package: Path = PACKAGE) -> list[Path]:
    """The files of msabench that can move a method's F1.

    They are what its own file and the short training import, and what that imports, inside of functions too, and some
    rooms as a whole. Other methods are imported as well when a config is parsed, but take no part.

    Args:
        method: Name of one of msabench's methods.
        package: The folder of the sources.

    Returns:
        Their paths, in order.
    """
    begin = [
        *files_of(f"{PACKAGE.name}.runner.short_training", package.parent),
        *files_of(f"{PACKAGE.name}.methods.{method}", package.parent),
        *(path for room in WHOLE_ROOMS for path in sorted((package / room).rglob("*.py"))),
    ]
    return sorted(with_what_they_import(begin, package.parent))


def with_what_they_import(begin: Iterable[Path], root: Path, packages: Sequence[str] = (PACKAGE.name,)) -> set[Path]:
    """Sources, and all that these import from some packages, and what that imports, inside of functions too.

    Args:
        begin: Paths of the sources.
        root: The folder in which the packages stand.
        packages: Their names; what is imported from others is left out.

    Returns:
        Paths, those of the packages' ``__init__.py`` on the way included.
    """
    todo, found = [*begin], set()
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            names = [name for name in _imported(path.read_text(encoding="utf-8")) if name.split(".")[0] in packages]
            todo += [file for name in names for file in files_of(name, root)]
    return found


@cache
def _imported(source: str) -> tuple[str, ...]:
    """Names of the modules that a source imports, and of what it takes from them."""
    names: dict[str, None] = {}
    for node in _run(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names |= dict.fromkeys(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, without what only type checkers read."""
    yield node
    checked = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    for below in node.orelse if isinstance(node, ast.If) and checked else ast.iter_child_nodes(node):
        yield from _run(below)


def files_of(name: str, root: Path) -> Iterator[Path]:
    """The files that Python runs to import a name: of each package on the way to it, and its module's.

    Args:
        name: Such as ``msabench.nn.text``, or of something in a module.
        root: The folder in which its package stands.
    """
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:length])
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                yield path


def recall(method: str, known: dict[str, Any], folder: Path | None = None) -> list[dict[str, float]] | None:
    """The F1 that was measured from equal inputs.

    Args:
        method: Name of the method.
        known: Its ``inputs``.
        folder: Where F1 is kept; None for ``regression`` in the cache folder.

    Returns:
        As given to ``keep``; None if there is none, or its file is damaged.
    """
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        content = json.loads(_file(method, known, folder).read_text(encoding="utf-8"))
        checksum = content.pop("sha256")
        runs = [content["f1"][str(seed)] for seed in known["seeds"]]
        if checksum == canonical_hash(content, 64) and content["inputs"] == known:
            return runs
    return None


def keep(method: str, known: dict[str, Any], runs: list[dict[str, float]], folder: Path | None = None) -> None:
    """Keep the F1 of a method; where the cache cannot be written, it is measured again next time.

    Args:
        method: Its name.
        known: Its ``inputs``.
        runs: Cell -> F1, for each of the inputs' seeds in order.
        folder: As for ``recall``.
    """
    f1 = {str(seed): run for seed, run in zip(known["seeds"], runs, strict=True)}
    content: dict[str, Any] = {"f1": f1, "inputs": known}
    content["sha256"] = canonical_hash(content, 64)
    file = _file(method, known, folder)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, durable=False) as stream:
            stream.write(json.dumps(content, indent=1).encode())
        for older in sorted(file.parent.glob(f"{method}-*.json"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            older.unlink(missing_ok=True)


def _file(method: str, known: dict[str, Any], folder: Path | None) -> Path:
    return (folder or cache_folder() / "regression") / f"{method}-{canonical_hash(known, 16)}.json"

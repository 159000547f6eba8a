"""What comes with msabench besides its code: configs, suites, published numbers, expected F1. Free of torch.

These files stand once, at the root of the repository. A build copies them into the package, at the same places below
``_data``, so that an installed msabench has them without a clone. In the working folder a file of one's own wins over
the packaged one of the same name.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from msabench.errors import MSABenchError, nearest

CONFIGS = "configs"
SUITES = "benchmarks/suites"
COSTS = "benchmarks/costs"
REGRESSION = "benchmarks/regression"
PUBLISHED = "leaderboard/published"

FOLDERS = (CONFIGS, SUITES, COSTS, REGRESSION, PUBLISHED)
"""Folders of the repository that a build copies."""

SPACES = "spaces"
"""Folder of search spaces, in that of the configs."""

SUFFIX = ".yaml"
"""Ending of configs, suites and search spaces."""


@lru_cache(maxsize=1)
def _roots() -> tuple[Path, Path]:
    """Where the folders may stand: in the package, and in a checkout around it."""
    # Imported here, since who imports the package alone need not wait for it. Wheels are unpacked, so it is a folder.
    from importlib.resources import files

    package = Path(str(files("msabench")))
    return package / "_data", package.parent


def packaged(folder: str) -> Path:
    """A folder that comes with msabench: the package's own, or in a checkout the repository's.

    Args:
        folder: One of ``FOLDERS``.

    Raises:
        MSABenchError: The installation is not complete.
    """
    for root in _roots():
        if (root / folder).is_dir():
            return root / folder
    raise MSABenchError(f"this installation of msabench lacks its folder {folder}; install it again")


def called(path: Path) -> str:
    """How a folder is called in what is printed: one that comes with msabench by its place there, others by their path.

    Args:
        path: The folder, e.g. ``/.../site-packages/msabench/_data/benchmarks/costs``.

    Returns:
        For example ``msabench's benchmarks/costs``.
    """
    for root in _roots():
        if path.is_relative_to(root):
            return f"msabench's {path.relative_to(root).as_posix()}"
    return str(path)


def here_or_packaged(folder: str) -> Path:
    """A folder of the working folder, as in a clone; where there is none, the one that comes with msabench.

    Args:
        folder: One of ``FOLDERS``.

    Raises:
        MSABenchError: The installation is not complete.
    """
    return Path(folder) if Path(folder).is_dir() else packaged(folder)


def find(given: str | Path, folder: str, what: str) -> Path:
    """A YAML file by its path, or one that comes with msabench by its name.

    Looked up in this order: the path as given, with ``.yaml`` behind it, the name in ``folder`` below the working
    folder, the name in ``folder`` as it comes with msabench. So one's own file always wins.

    Args:
        given: A path, with or without ``.yaml``; or a name in ``folder``, e.g. ``umdf_synth`` or
            ``configs/umdf_synth.yaml``.
        folder: One of ``FOLDERS``.
        what: What it is called in messages, e.g. ``config``.

    Raises:
        MSABenchError: There is no such file; says which name is close.
    """
    path = Path(given).expanduser()
    name = path.as_posix().removeprefix(f"{folder}/").removesuffix(SUFFIX)
    candidates = [path, path.parent / f"{path.name}{SUFFIX}"]
    if "/" not in name:
        candidates += [Path(folder) / f"{name}{SUFFIX}", packaged(folder) / f"{name}{SUFFIX}"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    close = nearest(name, names(folder))
    hint = f"did you mean {close}?" if close else f"msabench {what}s lists these"
    raise MSABenchError(f"there is no {what} {given}, neither here nor among those that come with msabench; {hint}")


def names(folder: str) -> list[str]:
    """Names of the YAML files that come with msabench in a folder, in order.

    Args:
        folder: One of ``FOLDERS``.
    """
    return sorted(file.stem for file in packaged(folder).glob(f"*{SUFFIX}"))


def config_file(given: str | Path) -> Path:
    """A config by path, or one of msabench's by name, e.g. ``umdf_synth``.

    Raises:
        MSABenchError: There is no such config.
    """
    return find(given, CONFIGS, "config")


def suite_file(given: str | Path) -> Path:
    """A suite by path, or one of msabench's by name, e.g. ``demo``.

    Raises:
        MSABenchError: There is no such suite.
    """
    return find(given, SUITES, "suite")


def beside_or_packaged(name: str, folder: Path, shipped: str) -> Path | None:
    """A file that another one names: as it stands from that one's folder, else the one that comes with msabench.

    Args:
        name: Its name, e.g. ``mult_synth.yaml``, or a path from ``folder``, which is looked up there alone.
        folder: Where it is looked up first.
        shipped: One of ``FOLDERS``, where a name without a folder is looked up next.

    Returns:
        The file; None if there is none.
    """
    ours = [packaged(shipped) / name] if Path(name).name == name else []
    return next((path for path in (folder / name, *ours) if path.is_file()), None)

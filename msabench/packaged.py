"""What comes with msabench besides its code: configs, suites, published numbers, expected F1. Free of torch.

These files stand once, at the root of the repository. A build copies them into the package, at the same places below
``_data``, so that an installed msabench has them without a clone. In the working folder a file of one's own wins over
the packaged one of the same name.
"""

from __future__ import annotations

from pathlib import Path

from msabench.errors import MSABenchError, nearest

CONFIGS = "configs"
SUITES = "benchmarks/suites"
COSTS = "benchmarks/costs"
REGRESSION = "benchmarks/regression"
PUBLISHED = "leaderboard/published"

FOLDERS = (CONFIGS, SUITES, COSTS, REGRESSION, PUBLISHED)
"""Folders of the repository that a build copies."""

_PACKAGE = Path(__file__).parent


def packaged(folder: str) -> Path:
    """A folder that comes with msabench: the package's own, or in a checkout the repository's.

    Args:
        folder: One of ``FOLDERS``.

    Raises:
        MSABenchError: The installation is not complete.
    """
    for root in (_PACKAGE / "_data", _PACKAGE.parent):
        if (root / folder).is_dir():
            return root / folder
    raise MSABenchError(f"this installation of msabench lacks its folder {folder}; install it again")


def find(given: str | Path, folder: str, suffix: str, what: str) -> Path:
    """A file by its path, or one that comes with msabench by its name.

    Args:
        given: A path, with or without the suffix; or a name below ``folder``, e.g. ``umdf_synth`` or
            ``configs/umdf_synth.yaml``. A file in the working folder wins.
        folder: One of ``FOLDERS``.
        suffix: Ending of such files, e.g. ``.yaml``.
        what: What it is called in messages, e.g. ``config``.

    Raises:
        MSABenchError: There is no such file; says which names are close.
    """
    path = Path(given).expanduser()
    for candidate in (path, path.with_name(path.name + suffix)):
        if candidate.is_file():
            return candidate
    ours = packaged(folder)
    name = path.as_posix().removeprefix(f"{folder}/").removesuffix(suffix)
    if "/" not in name and (ours / f"{name}{suffix}").is_file():
        return ours / f"{name}{suffix}"
    close = nearest(name, [file.stem for file in ours.glob(f"*{suffix}")])
    hint = f"; did you mean {close}?" if close else ""
    raise MSABenchError(f"there is no {what} {given}, neither here nor among those that come with msabench{hint}")


def config_file(given: str | Path) -> Path:
    """A config by path, or one of msabench's by name, e.g. ``umdf_synth``.

    Raises:
        MSABenchError: There is no such config.
    """
    return find(given, CONFIGS, ".yaml", "config")


def suite_file(given: str | Path) -> Path:
    """A suite by path, or one of msabench's by name, e.g. ``demo``.

    Raises:
        MSABenchError: There is no such suite.
    """
    return find(given, SUITES, ".yaml", "suite")

"""What a config says, read from the files that it is spread over. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import get_loader

from msabench.errors import MSABenchError
from msabench.files import yaml_of
from msabench.packaged import CONFIGS, beside_or_packaged

BASE = "base"
"""Key of a config that names the file it builds on: relative to its own folder, else one that comes with msabench."""

NAMES_OF_FILES = (".yaml", ".yml", ".json")
"""How a value ends that may name a file with what is meant, relative to the folder of the file it stands in."""


def config_of(path: Path) -> dict[str, Any]:
    """Read a config together with its base, the base of that, and files that stand for a section.

    What a file says itself wins over its base, key by key: mappings are merged, lists and single values replaced, and
    null is a value like any other.

    Args:
        path: A YAML file such as ``configs/umdf_mosei.yaml``.

    Returns:
        Its settings, without ``base``.

    Raises:
        MSABenchError: A file is missing, no UTF-8, no YAML or no mapping, ``base`` is no text, or a file leads back to
            itself.
        OSError: The config cannot be read.
    """
    return _read(path)[0]


def files_of(path: Path) -> list[Path]:
    """The files that a config is spread over: itself, its base, the base of that, and files that stand for a section.

    Raises:
        MSABenchError: As ``config_of``.
        OSError: As ``config_of``.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, Any], list[Path]]:
    read: dict[Path, None] = {}
    content = _content(path, (), read)
    if not isinstance(content, dict):
        raise MSABenchError(f"config {path} must be a mapping of settings to values, not {type(content).__name__}")
    return content, list(read)


def _content(path: Path, above: tuple[Path, ...], read: dict[Path, None]) -> Any:
    """What a file says.

    Args:
        path: The file.
        above: Files on the way to it from the outermost one.
        read: Gets every file that is read.
    """
    if path.resolve() in {outer.resolve() for outer in above}:
        raise MSABenchError(f"config {' -> '.join(map(str, (*above, path)))} leads back to itself by base or file name")
    # As the parser reads: 1e-3 is a number, a date is text.
    content = yaml_of(path, get_loader("yaml"))
    read[path] = None
    way = (*above, path)
    if not isinstance(content, dict) or BASE not in content:
        return _with_files(content, way, read)
    own = {key: value for key, value in content.items() if key != BASE}
    return _on_top(_base(content[BASE], way, read), _with_files(own, way, read))


def _base(name: Any, way: tuple[Path, ...], read: dict[Path, None]) -> dict[str, Any]:
    if not isinstance(name, str):
        raise MSABenchError(f"{BASE} of config {way[-1]} must be the name of one file, not {name!r}")
    path = beside_or_packaged(name, way[-1].parent, CONFIGS)
    if path is None:
        raise MSABenchError(f"there is no file {way[-1].parent / name}, which config {way[-1]} names as its {BASE}")
    content = _content(path, way, read)
    if not isinstance(content, dict):
        found = type(content).__name__
        raise MSABenchError(f"{path}, the {BASE} of config {way[-1]}, must be a mapping of settings, not {found}")
    return content


def _with_files(value: Any, way: tuple[Path, ...], read: dict[Path, None]) -> Any:
    """The same value where names of files are what the files say, as those names mean nothing in another folder."""
    if isinstance(value, dict):
        return {key: _with_files(inner, way, read) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_files(inner, way, read) for inner in value]
    if isinstance(value, str) and value.endswith(NAMES_OF_FILES) and (way[-1].parent / value).is_file():
        return _content(way[-1].parent / value, way, read)
    return value


def _on_top(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        below = base.get(key)
        merged[key] = _on_top(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged

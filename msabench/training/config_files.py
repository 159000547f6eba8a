"""What a config says, read from the files that it is spread over. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import get_loader

from msabench.errors import MSABenchError
from msabench.files import yaml_of

BASE = "base"
"""Key of a config that names the file it builds on, relative to its own folder."""

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
    content = _content(path, ())
    if not isinstance(content, dict):
        raise MSABenchError(f"config {path} must be a mapping of settings to values, not {type(content).__name__}")
    return content


def _content(path: Path, above: tuple[Path, ...]) -> Any:
    """What a file says; ``above`` are the files on the way to it from the outermost one."""
    if path.resolve() in {outer.resolve() for outer in above}:
        raise MSABenchError(f"config {' -> '.join(map(str, (*above, path)))} leads back to itself by base or file name")
    # As the parser reads: 1e-3 is a number, a date is text.
    content = yaml_of(path, get_loader("yaml"))
    way = (*above, path)
    if not isinstance(content, dict) or BASE not in content:
        return _with_files(content, way)
    own = {key: value for key, value in content.items() if key != BASE}
    return _on_top(_base(content[BASE], way), _with_files(own, way))


def _base(name: Any, way: tuple[Path, ...]) -> dict[str, Any]:
    if not isinstance(name, str):
        raise MSABenchError(f"{BASE} of config {way[-1]} must be the name of one file, not {name!r}")
    path = way[-1].parent / name
    if not path.is_file():
        raise MSABenchError(f"there is no file {path}, which config {way[-1]} names as its {BASE}")
    content = _content(path, way)
    if not isinstance(content, dict):
        found = type(content).__name__
        raise MSABenchError(f"{path}, the {BASE} of config {way[-1]}, must be a mapping of settings, not {found}")
    return content


def _with_files(value: Any, way: tuple[Path, ...]) -> Any:
    """The same value where names of files are what the files say, as those names mean nothing in another folder."""
    if isinstance(value, dict):
        return {key: _with_files(inner, way) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_files(inner, way) for inner in value]
    if isinstance(value, str) and value.endswith(NAMES_OF_FILES) and (way[-1].parent / value).is_file():
        return _content(way[-1].parent / value, way)
    return value


def _on_top(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        below = base.get(key)
        merged[key] = _on_top(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged

"""What stands in a suite's file, read and checked value by value. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from msabench.errors import MSABenchError, one_of
from msabench.missingness.conditions import Cell, distinct, parse_grid
from msabench.missingness.config import MissingConfig
from msabench.missingness.specialists import specialist_of
from msabench.results.job_identity import MAX_SEED
from msabench.tuning.budget import Budget

SETTINGS = ("default", "tuned")
"""What ``tuning`` of an entry lists: whether the config's settings are trained, those of a study's winner, or both."""


def budgets_of(given: dict[str, Any], where: str, folder: Path) -> list[Budget | None]:
    """The budgets that an entry is expanded into; None stands for the config's settings.

    Args:
        given: What there is of ``tune`` and ``tuning``, the entry's own before the suite's.
        where: The entry, for messages, as in all that follow.
        folder: The config folder.

    Raises:
        MSABenchError: A value is not allowed, as in all that follow.
    """
    if "tune" not in given:
        if "tuning" in given:
            raise MSABenchError(f"tuning of {where} needs a budget beside it, e.g. tune: {{trials: 50, seed: 1}}")
        return [None]
    budget = Budget.of(given["tune"], f"tune of {where}", folder)
    settings = listed(given.get("tuning", ["tuned"]), str, f"tuning of {where}")
    for name in settings:
        if name not in SETTINGS:
            raise one_of(f"tuning of {where}", name, SETTINGS)
    if not settings:
        raise MSABenchError(f"tuning of {where} lists nothing; allowed: {', '.join(SETTINGS)}")
    return [None if name == "default" else budget for name in dict.fromkeys(settings)]


def regimes_of(entry: dict[str, Any], where: str, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The overrides of each regime and specialist of an entry; one without any if it names none.

    Args:
        entry: The entry.
        where: What it is, for errors.
        cells: The cells of the suite's grid.

    Raises:
        MSABenchError: A regime is not allowed, or the grid does not have the cell where a specialist is at home.
    """
    given = entry.get("regimes", [])
    if not isinstance(given, list):
        raise MSABenchError(f"regimes of {where} must be a list, e.g. [complete, mixed]")
    names = tuple(f.name for f in fields(MissingConfig))
    found = [
        {"regime": item} if isinstance(item, str) else mapping(item, f"regimes of {where}", names) for item in given
    ]
    at_home = listed(entry.get("specialists", []), str, f"specialists of {where}")
    homes = distinct(parse_grid(at_home)) if at_home else ()
    found += [specialist_of(cell) for cell in homes]
    if untested := [str(cell) for cell in homes if cell not in cells]:
        raise MSABenchError(
            f"specialists of {where} are at home in {', '.join(untested)}, which the suite's grid does not have, so "
            "that they would be compared with nothing; add these cells to the grid"
        )
    for settings in found:
        MissingConfig(**{**settings, **({"rate": tuple(settings["rate"])} if "rate" in settings else {})})
    return [{f"data.missing.{name}": value for name, value in settings.items()} for settings in found] or [{}]


def config_folder(suite: Path, given: Any) -> Path:
    """Where a suite's configs are looked up.

    Args:
        suite: Its file.
        given: What it says of that; None for the nearest ``configs/`` above, else the suite's own folder.
    """
    if given is not None:
        folder = (suite.parent / str(given)).resolve()
        if not folder.is_dir():
            raise MSABenchError(f"there is no config folder {folder}, which suite {suite.name} names")
        return folder
    for parent in suite.resolve().parents:
        if (parent / "configs").is_dir():
            return parent / "configs"
    return suite.parent


def mapping(value: Any, where: str, allowed: Sequence[str] = (), needed: Sequence[str] = ()) -> dict[str, Any]:
    """A mapping with text as keys.

    Args:
        value: What is to be one.
        where: What messages call it.
        allowed: Its keys, if not any are.
        needed: Those that it must have.
    """
    if not isinstance(value, dict):
        raise MSABenchError(f"{where} must be a mapping of keys to values, not {type(value).__name__}")
    for key in value:
        if not isinstance(key, str) or (allowed and key not in allowed):
            raise one_of(f"key in {where}", key, allowed or ("text",))
    for key in needed:
        if key not in value:
            raise MSABenchError(f"{where} lacks the key {key!r}")
    return value


def listed(value: Any, kind: type, where: str) -> list[Any]:
    """A list of values of one type."""
    if not isinstance(value, list) or any(type(item) is not kind for item in value):
        raise MSABenchError(f"{where} must be a list of {kind.__name__} values, not {value!r}")
    return value


def seeds_of(value: Any, where: str) -> list[int]:
    """A list of distinct seeds."""
    seeds = listed(value, int, where)
    if not seeds or min(seeds) < 0 or max(seeds) > MAX_SEED or len(set(seeds)) < len(seeds):
        raise MSABenchError(f"{where} must be distinct numbers from 0 to {MAX_SEED}, at least one, not {value!r}")
    return seeds

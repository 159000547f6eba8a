"""What of a method is tuned, and in which ranges. Free of torch.

A method's search space is a file beside its configs, ``spaces/<method>.yaml``. It maps dotted keys of the config to
ranges, from which every trial of a study takes its settings; trial 0 has those of the config itself::

    model.init_args.lr: {low: 1.0e-5, high: 1.0e-2, log: true}
    model.init_args.dropout: {low: 0.0, high: 0.5}
    model.init_args.layers: {low: 1, high: 6}
    data.batch_size: {choices: [16, 32, 64]}

What a study holds fixed is in no range: corpus, masks, regime, seeds, text encoder, epochs and variant.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import get_loader

from msabench.errors import MSABenchError
from msabench.files import yaml_of
from msabench.methods import registry
from msabench.packaged import CONFIGS, SPACES, beside_or_packaged

Value = str | int | float | bool | None
"""A setting, as YAML knows it."""

ADDRESS = "model.init_args."
"""How keys of a method's arguments begin."""

BATCH_SIZE = "data.batch_size"
"""The one key beside a method's arguments."""

FEWEST, MOST = 4, 8
"""Settings of a space: fewer are no search, and more are not searched by the trials that a study has."""

DIGITS = 4
"""Significant digits of a drawn number, which then reads well and is the same in every notation."""

_FIXED = ("variant", "text_encoder", "finetune", "text_vector", "backbone", "padding")
_FIXED_ENDINGS = ("_epochs", "_seed")


@dataclass(frozen=True)
class Float:
    """Numbers from ``low`` to ``high``, both among them.

    Attributes:
        low: The least.
        high: The greatest.
        log: Whether each order of magnitude is as likely as the next, rather than each number.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _require_order(self.low, self.high)
        if self.log and self.low <= 0:
            raise MSABenchError(f"low {self.low} of a log range is not allowed; give more than 0")

    def contains(self, value: Any) -> bool:
        """Whether a value is one of these numbers."""
        return _is_number(value) and self.low <= value <= self.high

    def at(self, share: float) -> float:
        """The number at a share of the way from ``low`` to ``high``, to ``DIGITS`` digits.

        Args:
            share: In [0, 1).
        """
        if self.log:
            found = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            found = self.low * (1 - share) + self.high * share
        return min(max(float(f"{found:.{DIGITS - 1}e}"), self.low), self.high)

    def to_data(self) -> dict[str, Any]:
        """The range as its file has it."""
        return {"low": self.low, "high": self.high, **({"log": True} if self.log else {})}


@dataclass(frozen=True)
class Integer:
    """Whole numbers from ``low`` to ``high``, both among them.

    Attributes:
        low: The least.
        high: The greatest.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        _require_order(self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Whether a value is one of these numbers."""
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def at(self, share: float) -> int:
        """The number at a share of the way through them.

        Args:
            share: In [0, 1).
        """
        return self.low + math.floor(share * (self.high - self.low + 1))

    def to_data(self) -> dict[str, Any]:
        """The range as its file has it."""
        return {"low": self.low, "high": self.high}


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Attributes:
        choices: Two or more, in the order of the file.
    """

    choices: tuple[Value, ...]

    def __post_init__(self) -> None:
        wrong = [value for value in self.choices if not (value is None or isinstance(value, str) or _is_scalar(value))]
        if wrong:
            raise MSABenchError(f"choice {wrong[0]!r} is not allowed; give a number, a text, true, false or null")
        if len(self.choices) < 2:
            raise MSABenchError(f"choices {list(self.choices)} leave nothing to choose; give at least two")
        if len({_identity(value) for value in self.choices}) < len(self.choices):
            raise MSABenchError(f"choices {list(self.choices)} name one twice; give each once")

    def contains(self, value: Any) -> bool:
        """Whether a value is one of these, as the same kind of value: 1 is neither true nor a text."""
        return any(_identity(value) == _identity(choice) for choice in self.choices)

    def at(self, share: float) -> Value:
        """The choice at a share of the way through them.

        Args:
            share: In [0, 1).
        """
        return self.choices[math.floor(share * len(self.choices))]

    def to_data(self) -> dict[str, Any]:
        """The range as its file has it."""
        return {"choices": list(self.choices)}


Range = Float | Integer | Choice
Space = dict[str, Range]
"""Dotted key of the config -> its range, in the order of the file."""


def space_of(method: str, configs: Path = Path(CONFIGS)) -> Space:
    """The search space of a method.

    Args:
        method: Its name.
        configs: Folder of its configs. The space is looked up in the folder ``spaces`` there, then among those that
            come with msabench.

    Raises:
        MSABenchError: No method has this name, there is nothing to tune in it, it has no space, or the space is not
            one.
    """
    if not registry.method_info(method).reads:
        raise MSABenchError(f"{method} reads nothing of a clip, so there is nothing in it to tune")
    path = beside_or_packaged(f"{method}.yaml", configs / SPACES, f"{CONFIGS}/{SPACES}")
    if path is None:
        raise MSABenchError(
            f"{method} has no search space; write {configs / SPACES / f'{method}.yaml'}, which maps settings to "
            f"ranges, e.g. {ADDRESS}lr: {{low: 1.0e-5, high: 1.0e-2, log: true}}"
        )
    return read_space(path)


def read_space(path: Path) -> Space:
    """Read a search space.

    Args:
        path: A YAML file such as ``configs/spaces/umdf.yaml``.

    Raises:
        MSABenchError: The file is missing or no mapping of settings to ranges, a setting is none that is tuned, a range
            is empty or not understood, or there are fewer than ``FEWEST`` or more than ``MOST`` settings.
    """
    if not path.is_file():
        raise MSABenchError(f"there is no search space {path}; give a file such as configs/spaces/umdf.yaml")
    # As configs are read: 1e-3 is a number.
    content = yaml_of(path, get_loader("yaml"))
    if not isinstance(content, dict):
        raise MSABenchError(
            f"search space {path} must be a mapping of settings to ranges, not {type(content).__name__}"
        )
    try:
        return space_from(content)
    except MSABenchError as error:
        raise MSABenchError(f"search space {path}: {error}") from error


def space_from(content: Mapping[Any, Any]) -> Space:
    """A search space from what its file says, or from what ``to_data`` of its ranges made.

    Args:
        content: Dotted key of the config -> mapping with ``low`` and ``high``, perhaps ``log``, or with ``choices``.

    Raises:
        MSABenchError: As ``read_space``.
    """
    if not FEWEST <= len(content) <= MOST:
        raise MSABenchError(f"{len(content)} settings are not allowed; give {FEWEST} to {MOST}")
    space: Space = {}
    for key, given in content.items():
        _require_tuned(key)
        try:
            space[key] = _range(given)
        except MSABenchError as error:
            raise MSABenchError(f"{key}: {error}") from error
    return space


def draw(space: Mapping[str, Range], seed: int, number: int) -> dict[str, Value]:
    """The settings that the random sampler gives a trial: a pure function of its arguments.

    Each setting has a draw of its own, by Philox under the key (``seed``, ``number``) at a counter made from its name.
    So no trial depends on another, and no setting on which others there are.

    Args:
        space: Key -> range.
        seed: Of the study, in [0, 2**64).
        number: Of the trial, in [0, 2**64).

    Returns:
        Key -> value; empty for trial 0, which has the settings of the config.

    Raises:
        MSABenchError: A number is out of its range.
    """
    for what, value in (("seed", seed), ("number of a trial", number)):
        if not 0 <= value < 1 << 64:
            raise MSABenchError(f"{what} {value} is not allowed; give an integer in [0, 2**64)")
    if number == 0:
        return {}
    return {key: found.at(_share(seed, number, key)) for key, found in space.items()}


def _share(seed: int, number: int, key: str) -> float:
    """A number in [0, 1), of 53 bits."""
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    # Words as they come, since what a Generator makes of them may change with numpy's version.
    words = np.random.Philox(
        key=np.array([seed, number], dtype=np.uint64), counter=np.array([0, 0, place, 0], dtype=np.uint64)
    )
    return (int(words.random_raw()) >> 11) / (1 << 53)


def _range(given: Any) -> Range:
    if isinstance(given, dict) and given.keys() == {"choices"}:
        if not isinstance(given["choices"], list):
            raise MSABenchError(f"choices {given['choices']!r} are not allowed; give a list")
        return Choice(tuple(given["choices"]))
    if not isinstance(given, dict) or not {"low", "high"} <= given.keys() <= {"low", "high", "log"}:
        raise MSABenchError(f"{given!r} is no range; give low and high, with log if need be, or choices")
    low, high, log = given["low"], given["high"], given.get("log", False)
    if not (_is_number(low) and _is_number(high)):
        raise MSABenchError(f"bounds {low!r} and {high!r} are not allowed; give two numbers")
    if not isinstance(log, bool):
        raise MSABenchError(f"log {log!r} is not allowed; give true or false")
    if isinstance(low, float) or isinstance(high, float):
        return Float(float(low), float(high), log)
    if log:
        raise MSABenchError(f"log is not allowed between the whole numbers {low} and {high}; give choices")
    return Integer(low, high)


def _require_tuned(key: Any) -> None:
    if key == BATCH_SIZE:
        return
    argument = str(key).removeprefix(ADDRESS)
    if not str(key).startswith(ADDRESS) or not re.fullmatch(r"\w+", argument):
        raise MSABenchError(f"setting {key!r} is not tuned; allowed: {BATCH_SIZE} and {ADDRESS}<argument>")
    if argument in _FIXED or argument.endswith(_FIXED_ENDINGS):
        raise MSABenchError(
            f"setting {key} is not tuned: it belongs to what is compared, and stays as the config has it"
        )


def _require_order(low: float, high: float) -> None:
    if not low < high:
        raise MSABenchError(f"low {low} with high {high} is not allowed; low must be less than high")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool) or _is_number(value)


def _identity(value: Any) -> tuple[Any, bool]:
    """What two equal settings share: 1 and 1.0 are one number, true is none."""
    return value, isinstance(value, bool)

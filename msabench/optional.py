"""Libraries that only some verbs need."""

from __future__ import annotations

import importlib
from types import ModuleType

from msabench.errors import MSABenchError


def require(name: str, extra: str = "report") -> ModuleType:
    """Import a library of an extra.

    Args:
        name: Module name, e.g. ``matplotlib.pyplot``.
        extra: The extra of ``pyproject.toml`` that brings it.

    Raises:
        MSABenchError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MSABenchError(
            f'{error.name} is not installed and this needs it; install it with `pip install "msabench[{extra}]"`'
        ) from error

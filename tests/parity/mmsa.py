"""Files of MMSA without its command line, metrics and package files."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.parity.clones import clone, importing


def model_module(kind: str, name: str) -> Any:
    """The file of a model of kind ``singleTask`` or ``multiTask``."""
    with importing(clone("MSABENCH_PARITY_MMSA") / "src", "MMSA", "MMSA.models", f"MMSA.models.{kind}"):
        return importlib.import_module(f"MMSA.models.{kind}.{name}")


def trainer_module(kind: str, name: str) -> Any:
    """The file of a trainer of kind ``singleTask`` or ``multiTask``."""
    with importing(clone("MSABENCH_PARITY_MMSA") / "src", "MMSA", "MMSA.trains", f"MMSA.trains.{kind}"):
        helpers: Any = ModuleType("MMSA.utils")
        helpers.MetricsTop = lambda mode: SimpleNamespace(getMetics=lambda dataset: lambda pred, true: {})
        helpers.dict_to_str = str
        sys.modules["MMSA.utils"] = helpers
        return importlib.import_module(f"MMSA.trains.{kind}.{name}")

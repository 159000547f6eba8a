"""Models and trainers of MMSA's single-task methods, without its command line, metrics and BERT."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import Tensor, nn

from tests.parity.clones import clone, importing


class GivenText(nn.Module):
    """In place of BERT: gives the states that were set, whatever it is asked for."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()
        self.states: Tensor | None = None

    def forward(self, *_: object, **__: object) -> Tensor:
        assert self.states is not None
        return self.states


def model_class(name: str) -> Any:
    """One of MMSA's models, named as its file."""
    with importing(clone("MSABENCH_PARITY_MMSA") / "src", "MMSA", "MMSA.models", "MMSA.models.singleTask"):
        module = importlib.import_module(f"MMSA.models.singleTask.{name}")
    module.BertTextEncoder = GivenText
    return getattr(module, name)


def trainer_module(name: str) -> Any:
    """The file of one of MMSA's trainers."""
    with importing(clone("MSABENCH_PARITY_MMSA") / "src", "MMSA", "MMSA.trains", "MMSA.trains.singleTask"):
        helpers: Any = ModuleType("MMSA.utils")
        helpers.MetricsTop = lambda mode: SimpleNamespace(getMetics=lambda dataset: lambda pred, true: {})
        helpers.dict_to_str = str
        sys.modules["MMSA.utils"] = helpers
        module = importlib.import_module(f"MMSA.trains.singleTask.{name}")
        # It is no file of the clone, so that nothing else would take it out.
        sys.modules.pop("MMSA.utils")
        return module

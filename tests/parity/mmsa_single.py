"""Models and trainers of MMSA's single-task methods, without its command line, metrics and BERT."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tests.parity import mmsa


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
    module = mmsa.model_module("singleTask", name)
    module.BertTextEncoder = GivenText
    return getattr(module, name)


def trainer_module(name: str) -> Any:
    """The file of one of MMSA's trainers."""
    return mmsa.trainer_module("singleTask", name)

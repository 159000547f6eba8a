"""A method under test: built, given batches, asked for predictions; and how a check says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.datamodule import MSADataModule
from msabench.methods.base import MSAMethod
from msabench.missingness.conditions import Cell


def build(cls: type[MSAMethod], data: MSADataModule, **changes: Any) -> MSAMethod:
    """A tiny instance of a method, with weights from a fixed seed, in the last turn of its last stage.

    Args:
        cls: Its class.
        data: What it is to read.
        changes: Constructor arguments over those of ``info.smoke``.
    """
    method = fresh(cls, data, **changes)
    method.enter_stage(method.stages[-1])
    method.turn = method.turns[-1]
    return method


def fresh(cls: type[MSAMethod], data: MSADataModule, **changes: Any) -> MSAMethod:
    """As ``build``, before any training: in its first stage, with nothing frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(data.spec, **{**cls.info.smoke, **changes})


def training_batch(method: MSAMethod, data: MSADataModule, rows: int = 12, epoch: int = 0) -> Batch:
    """The first training clips, with what the method asks for.

    Args:
        method: The method.
        data: Its data.
        rows: Clips.
        epoch: Epoch whose masks they get.
    """
    return data.training_batch(torch.arange(rows), epoch, needs=method.data_needs)


def predict(method: MSAMethod, data: MSADataModule, cell: Cell, batch_size: int = 96) -> Tensor:
    """Predictions of the test split in the order of the file, as an evaluation makes them.

    Args:
        method: The method; put into evaluation mode.
        data: Its data.
        cell: What is missing.
        batch_size: Clips in a batch, or conversations for a method that reads them.

    Returns:
        ``(N,)``, or ``(N, 4, 2)`` for emotions.
    """
    method.eval()
    with torch.no_grad():
        needs = method.data_needs
        batches = data.cell_batches(cell, 0, needs=needs, batch_size=batch_size)
        preds = torch.cat([method(batch.for_inference()).pred for batch in batches])
        return data.in_file_order(preds, needs=needs)


def losses(method: MSAMethod, batch: Batch) -> dict[str, Tensor]:
    """The method's terms on a training batch, which must be finite.

    Raises:
        AssertionError: One is not.
    """
    terms = method.loss(method.training_forward(batch), batch)
    infinite = [name for name, term in terms.items() if not torch.isfinite(term).all()]
    hold(not infinite, f"loss term {', '.join(infinite)} is not finite")
    return terms


def hold(condition: bool | Tensor, sentence: str) -> None:
    """Require a condition.

    Raises:
        AssertionError: It does not hold; its text is the sentence.
    """
    if not condition:
        raise AssertionError(sentence)


@contextmanager
def during(what: str) -> Iterator[None]:
    """Say what was tried when something goes wrong in the block.

    Args:
        what: What is done, e.g. ``cell intra/0.5``.

    Raises:
        AssertionError: The block raised; its text begins with ``what``.
    """
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{what}: {error or 'an assertion of the method does not hold'}") from error
    except Exception as error:
        said = " ".join(str(error).split())
        raise AssertionError(f"{what}: the method raises {type(error).__name__}: {said}") from error

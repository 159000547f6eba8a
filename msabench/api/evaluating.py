"""``msabench.evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msabench.api.loading import as_data
from msabench.api.scores import Scores
from msabench.data.batch import Batch
from msabench.data.datamodule import MSADataModule
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.evaluation.device import usable_device
from msabench.evaluation.evaluate import predict_grid
from msabench.evaluation.predictor import MethodPredictor, Predictor, dtype_of
from msabench.methods.base import MSAMethod, Output
from msabench.missingness.conditions import Cell, parse_grid
from msabench.missingness.named import naming

Predictions = Tensor | NDArray[Any] | Sequence[Any] | Output


@naming()
def evaluate(
    predict_fn: Callable[[Batch], Predictions],
    data: MSADataModule | str | Path,
    grid: str | Sequence[str] = "paper",
    mask_seeds: Sequence[int] = (0, 1, 2),
    *,
    tokens: bool = False,
    conversations: bool = False,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    name: str | None = None,
) -> Scores:
    """Evaluate anything that predicts in every cell of a grid, on the test split.

    It is the walk over the grid that ``msabench evaluate`` takes: the same clips, masks and metrics. Gradients are
    off. A module is put into evaluation mode, and afterwards back into the mode and onto the device it was found in.

    Args:
        predict_fn: Takes a ``Batch`` of B clips and returns a number for each: a tensor, an array or a list of shape
            ``(B,)``, in label units; for emotions ``(B, 4, 2)`` logits of absent and present. A ``torch.nn.Module``
            with such a ``forward``, or a trained method, will do, the latter on the data that it was trained with
            (``TrainingResult.data``). The batch (``msabench.data.batch.Batch``) has what a
            deployed model would see: ``features``, zero where not observed; ``valid``, which frames exist;
            ``observed``, which of them are there; ``last``; ``tokens`` if asked for; neither labels nor the complete
            clip. What it answers about a clip must not depend on the other clips in the batch.
        data: From ``load``, or what it takes.
        grid: Grids ({grids})
            and cells such as ``inter/la`` or ``random/0.3``.
        mask_seeds: Seeds of the test masks; cells with random masks are evaluated once for each.
        tokens: Whether batches bring token ids in place of text features. A method says itself what it needs.
        conversations: Whether batches bring whole conversations.
        batch_size: Clips per call; None for 96 on a CPU and for the whole split, halved until it fits, on a GPU.
        device: Where batches are made and a module computes, e.g. ``cpu`` or ``cuda:0``; None for where the module is,
            and for the CPU if it is none.
        name: What it is called in messages and when printed; None for its own name.

    Returns:
        Metrics and predictions.

    Raises:
        MSABenchError: The data, a cell or the device is not usable, or a prediction has another shape or type or is
            not finite; names the cell. What ``predict_fn`` itself raises goes through.

    Example:
        >>> data = load("synth", size=(24, 8, 10), length=8)
        >>> scores = evaluate(lambda batch: batch.text.mean(dim=(1, 2)), data, grid="inter")
        >>> scores.mean.loc["inter/la", "mae"]
    """
    data = as_data(data)
    cells = parse_grid(grid)
    if batch_size is not None and batch_size < 1:
        raise MSABenchError(f"batch_size {batch_size} is not allowed; give a positive number")
    if not callable(predict_fn):
        raise MSABenchError(f"{predict_fn!r} cannot be called; give a function that takes a Batch, or a module")
    predictor: Predictor
    if isinstance(predict_fn, MSAMethod):
        _require_fit(predict_fn, data)
        predictor = MethodPredictor(predict_fn)
    else:
        emotions = data.corpus.info.task == "emotions"
        needs = Needs(tokens=tokens, conversations=conversations)
        predictor = _Called(predict_fn, name or _name_of(predict_fn), needs, emotions)
    with _evaluating(predict_fn, device) as place:
        evaluation = predict_grid(predictor, data, cells, mask_seeds, batch_size=batch_size, device=place)
    return Scores.of(evaluation, data, name or predictor.name)


@dataclass(frozen=True)
class _Called:
    """A predictor that is somebody's own.

    Attributes:
        function: What is called.
        name: What messages call it.
        needs: What its batches must bring.
        emotions: Whether it predicts emotions.
    """

    function: Callable[[Batch], Predictions]
    name: str
    needs: Needs
    emotions: bool

    def __call__(self, batch: Batch, cell: Cell) -> tuple[Tensor, None]:
        if isinstance(self.function, torch.nn.Module):
            batch = batch.in_type(dtype_of(self.function))
        size = batch.size
        try:
            given = self.function(batch)
        except Exception as error:
            error.add_note(f"raised by {self.name}, asked to predict {size} clips in cell {cell}")
            raise
        return self._checked(given.pred if isinstance(given, Output) else given, size, cell), None

    def _checked(self, given: Any, size: int, cell: Cell) -> Tensor:
        shape = (size, 4, 2) if self.emotions else (size,)
        wanted = f"{'logits' if self.emotions else 'scores'} of shape {shape}"
        values = given
        if isinstance(given, np.ndarray | list | tuple):
            try:
                array = np.asarray(given)
            except ValueError as error:
                raise self._unfit(f"a {type(given).__name__} that is no array", wanted, cell) from error
            if array.dtype.kind not in "fiu":
                raise self._unfit(f"values of type {array.dtype}", wanted, cell)
            # What is too large for float32 becomes infinite and is refused with what is not finite.
            with np.errstate(over="ignore"):
                values = torch.from_numpy(array.astype(np.float32))
        if not isinstance(values, Tensor):
            raise self._unfit(f"a {type(given).__name__}", wanted, cell)
        if values.is_complex() or values.dtype == torch.bool:
            raise self._unfit(f"values of type {values.dtype}", wanted, cell)
        if values.shape != shape:
            raise self._unfit(f"shape {tuple(values.shape)}", wanted, cell)
        return values.detach().float()

    def _unfit(self, found: str, wanted: str, cell: Cell) -> MSABenchError:
        return MSABenchError(f"{self.name} returned {found} in cell {cell}; expected {wanted}")


def _name_of(function: object) -> str:
    own = getattr(function, "__name__", type(function).__name__)
    return "predict_fn" if own == "<lambda>" else str(own)


def _require_fit(method: MSAMethod, data: MSADataModule) -> None:
    for what in ("task", "feature_dims"):
        theirs, ours = getattr(method.spec, what), getattr(data.spec, what)
        if theirs != ours:
            raise MSABenchError(f"{method.info.name} was made for {what} {theirs}, and the data have {ours}")


@contextmanager
def _evaluating(function: object, device: str | torch.device | None) -> Iterator[torch.device]:
    """Have a module evaluate where it is asked to, for as long as the block lasts; anything else is left alone."""
    if not isinstance(function, torch.nn.Module):
        yield usable_device("cpu" if device is None else str(device))
        return
    weight = next(function.parameters(), None)
    home = torch.device("cpu") if weight is None else weight.device
    place = home if device is None else usable_device(str(device))
    modes = {module: module.training for module in function.modules()}
    function.eval()
    if device is not None:
        function.to(place)
    try:
        yield place
    finally:
        if device is not None:
            function.to(home)
        for module, mode in modes.items():
            module.training = mode

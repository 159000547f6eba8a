"""Compiles the training pass of a method. Evaluation stays as it is: all numbers come out of the same lines."""

from __future__ import annotations

from typing import Literal

import torch

from msabench.data.batch import Batch
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod, Output

Compile = Literal["default", "reduce-overhead", "aot_eager", "eager"]
"""``default`` makes kernels, ``reduce-overhead`` also records them as CUDA graphs; ``aot_eager`` and ``eager`` trace
and make none, which shows whether a method can be traced where there is no compiler."""

_TRACES = ("aot_eager", "eager")


def compile_training(method: MSAMethod, how: Compile) -> None:
    """Compile the training pass of a method, in place; its loss and everything else stay as they are.

    Args:
        method: The method.
        how: In which way.
    """
    from torch._dynamo.exc import TorchDynamoException

    plain = method.training_forward
    compiled = torch.compile(plain, backend=how) if how in _TRACES else torch.compile(plain, mode=how)

    def training_forward(batch: Batch) -> Output:
        try:
            out: Output = compiled(batch)
        except TorchDynamoException as error:
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise MSABenchError(f"{method.info.name} cannot be compiled here ({said}); leave --compile out") from error
        return out

    method.training_forward = training_forward  # type: ignore[method-assign]

"""msabench: a benchmark of multimodal sentiment analysis with missing modalities.

Importing the package is cheap on purpose: no torch, no pandas. Its functions are imported when they are asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msabench.api.evaluating import evaluate
    from msabench.api.loading import load
    from msabench.api.masking import masks
    from msabench.api.predicting import predict
    from msabench.api.scores import Scores
    from msabench.api.tabulating import table
    from msabench.api.training import TrainingResult, train
    from msabench.data.batch import Batch
    from msabench.data.datamodule import MSADataModule
    from msabench.errors import MSABenchError

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "MSABenchError",
    "MSADataModule",
    "Scores",
    "TrainingResult",
    "__version__",
    "evaluate",
    "load",
    "masks",
    "predict",
    "table",
    "train",
]

_HOMES = {
    "Batch": "msabench.data.batch",
    "MSABenchError": "msabench.errors",
    "MSADataModule": "msabench.data.datamodule",
    "Scores": "msabench.api.scores",
    "TrainingResult": "msabench.api.training",
    "evaluate": "msabench.api.evaluating",
    "load": "msabench.api.loading",
    "masks": "msabench.api.masking",
    "predict": "msabench.api.predicting",
    "table": "msabench.api.tabulating",
    "train": "msabench.api.training",
}
"""Name -> the module that is imported when the name is asked for."""

if not TYPE_CHECKING:  # A type checker would take any name then.

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""Memory does not grow over epochs, and nothing that is kept holds a graph."""

from __future__ import annotations

import gc
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from msabench.data.batch import Batch
from msabench.methods import registry
from msabench.methods.base import MSAMethod
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, random_corpus


class Census(pl.Callback):
    """Counts live tensors after every epoch and looks at what the method keeps."""

    def __init__(self) -> None:
        self.tensors: list[int] = []
        self.bytes: list[int] = []
        self.with_graph: set[str] = set()
        self.kept = 0

    def _look(self, module: MSAMethod) -> None:
        kept = {
            **module._epoch_means.sums,
            **{f"preds {i}": pred for i, pred in enumerate(module._val_metrics.preds)},
            **{f"labels {i}": label for i, label in enumerate(module._val_metrics.labels)},
        }
        self.kept += len(kept)
        self.with_graph |= {name for name, value in kept.items() if value.grad_fn is not None or value.requires_grad}

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self._look(module)

    def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self._look(module)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        gc.collect()
        # Asking some objects for their class, as isinstance does, makes them warn.
        found = [value for value in gc.get_objects() if issubclass(type(value), torch.Tensor)]
        self.tensors.append(len(found))
        self.bytes.append(sum(value.numel() * value.element_size() for value in found))


@pytest.mark.parametrize("name", ["umdf", "mult"])
def test_memory_does_not_grow_over_epochs(name: str) -> None:
    data = data_module(random_corpus(), batch_size=8, missing=MissingConfig(regime="mixed"))
    method = registry.method_class(name)(data.spec, **registry.method_info(name).smoke)
    census = Census()
    trainer = pl.Trainer(
        max_epochs=7,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[census],
    )
    trainer.fit(method, datamodule=data)
    assert census.kept > 0
    assert census.with_graph == set()
    # At the start of epoch e, e epochs are over.
    assert census.tensors[6] <= census.tensors[2] + 2
    assert census.bytes[6] <= census.bytes[2] + 64

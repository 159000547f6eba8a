"""Checkpoints of methods that nobody trained, for tests of what is made of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from msabench.data.corpus import Corpus
from msabench.data.datamodule import MSADataModule
from msabench.methods import registry
from msabench.methods.base import MSAMethod
from msabench.methods.checkpoint import DATA_KEY
from msabench.missingness.conditions import MODALITIES


def data_over(corpus: Corpus, **settings: Any) -> MSADataModule:
    """A data module over a corpus in memory."""
    data = MSADataModule("custom", **settings)
    data._corpus = corpus
    return data


def saved(path: Path, name: str, data: MSADataModule, **arguments: Any) -> MSAMethod:
    """Write a checkpoint of a method's small instance, and return the method in evaluation mode."""
    torch.manual_seed(0)
    method = registry.method_class(name)(data.spec, **{**registry.method_info(name).smoke, **arguments}).eval()
    method.enter_stage(list(method.schedule)[-1])
    content: dict[str, Any] = {"state_dict": method.state_dict(), DATA_KEY: data.state_dict()}
    method.on_save_checkpoint(content)
    torch.save(content, path)
    return method


def arrays_of(data: MSADataModule, split: str = "test", *, tokens: bool = False) -> dict[str, Any]:
    """The clips of a split as the arrays of an npz, without labels."""
    clips = data.corpus.splits[split]
    arrays: dict[str, Any] = {"id": np.array(clips.ids)}
    for modality in MODALITIES:
        arrays[modality] = clips.features[modality].numpy()
        arrays[f"{modality}_lengths"] = clips.lengths[modality].numpy()
        arrays[f"{modality}_padding"] = data.corpus.padding[modality]
    if tokens:
        assert clips.tokens is not None
        arrays["text_bert"] = clips.tokens.numpy()
        del arrays["text"], arrays["text_padding"]
    return arrays

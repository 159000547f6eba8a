"""Training that remembers its batches, to be repeated by official code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from msabench.data.batch import Batch
from msabench.methods.base import MSAMethod, Output
from msabench.methods.registry import method_class
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus


def fit_recorded(
    name: str,
    settings: dict[str, Any],
    rates: dict[str, float],
    folder: Path,
    *,
    epochs: int = 3,
    missing: MissingConfig = MissingConfig(),  # noqa: B008 (frozen)
) -> tuple[MSAMethod, MSAMethod, list[list[Batch]]]:
    """Fit a method on 24 random clips in batches of 4.

    Returns:
        The method, what it was before, and the batches of each epoch.
    """
    corpus = replace(random_corpus(), features="mmsa-unaligned")  # whose padding stays where it is, as in MMSA
    data = data_module(corpus, batch_size=4, missing=missing)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method, before = (method_class(name)(data.spec, **settings, **rates) for _ in range(2))
    before.load_state_dict(method.state_dict())
    seen: list[Batch] = []
    forward = method.training_forward

    def recording(batch: Batch) -> Output:
        seen.append(batch)
        return forward(batch)

    method.training_forward = recording
    quiet_trainer(folder, epochs).fit(method, datamodule=data)
    size = len(seen) // epochs
    assert size == 6
    return method, before, [seen[start : start + size] for start in range(0, len(seen), size)]

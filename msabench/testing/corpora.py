"""Small corpora in memory, without files, and what trains on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from msabench.data.corpus import Corpus, SplitData, clip_uids
from msabench.data.datamodule import MSADataModule
from msabench.data.info import SPLITS, DatasetInfo
from msabench.data.shipped import SHIPPED
from msabench.missingness.conditions import MODALITIES

DIMS = {"text": 12, "audio": 5, "vision": 7}
LENGTHS = {"text": 8, "audio": 8, "vision": 8}


def random_split(
    name: str, n: int, *, task: str, dims: dict[str, int], steps: dict[str, int], generator: torch.Generator
) -> SplitData:
    """Random clips of random length, of three videos in turn; the label is readable from every modality's mean."""
    ids = [f"{name}{row % 3}$_${row}" for row in range(n)]
    labels = torch.randn(n, generator=generator).clamp(-3, 3)
    lengths = {m: torch.randint(min(2, steps[m]), steps[m] + 1, (n,), generator=generator) for m in MODALITIES}
    features = {}
    for m in MODALITIES:
        values = torch.randn(n, steps[m], dims[m], generator=generator) + labels[:, None, None]
        features[m] = values * (torch.arange(steps[m])[None, :, None] < lengths[m][:, None, None])
    emotions = torch.stack([labels > cut for cut in (-1.0, -0.3, 0.3, 1.0)], dim=1).long()
    return SplitData(
        features=features,
        lengths=lengths,
        labels=emotions if task == "emotions" else labels,
        ids=ids,
        uid=clip_uids("custom", name, ids),
        tokens=tokens_of(lengths["text"], steps["text"], generator),
    )


def tokens_of(lengths: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Token rows ``[CLS] words [SEP] padding`` of the given lengths, int64 ``(N, 3, T)``."""
    position = torch.arange(steps)[None, :]
    ids = torch.randint(103, 190, (len(lengths), steps), generator=generator)
    ids[:, 0] = 101
    ids = torch.where(position == lengths[:, None] - 1, torch.tensor(102), ids)
    mask = (position < lengths[:, None]).long()
    return torch.stack([ids * mask, mask, torch.zeros_like(mask)], dim=1)


def random_corpus(
    task: str = "regression",
    *,
    sizes: tuple[int, int, int] = (24, 8, 10),
    dims: dict[str, int] | None = None,
    steps: dict[str, int] | None = None,
    seed: int = 0,
) -> Corpus:
    """A corpus of random clips whose label can be read off every modality.

    Args:
        task: ``regression``, float32 labels ``(N,)`` in [-3, 3], or ``emotions``, int64 labels ``(N, 4)`` in {0, 1}.
        sizes: Clips in train, valid and test.
        dims: modality -> features of a step; text 12, audio 5, vision 7 if not given.
        steps: modality -> steps that are stored, of which clips have 2 or more; 8 each if not given.
        seed: Another one makes other clips.
    """
    generator = torch.Generator().manual_seed(seed)
    splits = {
        name: random_split(name, n, task=task, dims=dims or DIMS, steps=steps or LENGTHS, generator=generator)
        for name, n in zip(SPLITS, sizes, strict=True)
    }
    return Corpus(info=info_for(task), features="custom", revision="test", splits=splits)


def info_for(task: str) -> DatasetInfo:
    """Facts of a custom corpus of the given task."""
    metric_set = "emotions" if task == "emotions" else "sentiment"
    return replace(SHIPPED["custom"], task=task, metric_set=metric_set, normalise="none")


def quiet_trainer(folder: Path, epochs: int, **settings: Any) -> pl.Trainer:
    """A trainer on the CPU that prints, logs and keeps nothing.

    Args:
        folder: For what a callback may write.
        epochs: Epochs to train.
        settings: Further arguments of the trainer.
    """
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    place = {"accelerator": "cpu", "default_root_dir": folder, "num_sanity_val_steps": 0}
    return pl.Trainer(max_epochs=epochs, **{**quiet, **place, **settings})


def data_module(corpus: Corpus, **settings: Any) -> MSADataModule:
    """A data module over a corpus in memory.

    Args:
        corpus: As from ``random_corpus``.
        settings: Arguments of ``MSADataModule``, e.g. ``missing=MissingConfig(regime="mixed")``.
    """
    data = MSADataModule("custom", normalise="none", **settings)
    data._corpus = corpus
    return data


def with_other_content(corpus: Corpus, modality: str, seed: int = 1) -> Corpus:
    """The same corpus with other content, lengths and tokens of one modality.

    Args:
        corpus: The corpus; left as it is.
        modality: ``text``, ``audio`` or ``vision``.
        seed: Another one makes other content.
    """
    generator = torch.Generator().manual_seed(seed)
    splits = {}
    for name, split in corpus.splits.items():
        values = split.features[modality]
        lengths = torch.randint(min(2, values.shape[1]), values.shape[1] + 1, (len(split),), generator=generator)
        other = torch.randn(values.shape, generator=generator) * 5
        other = other * (torch.arange(values.shape[1])[None, :, None] < lengths[:, None, None])
        splits[name] = replace(
            split,
            features={**split.features, modality: other},
            lengths={**split.lengths, modality: lengths},
            tokens=tokens_of(lengths, values.shape[1], generator) if modality == "text" else split.tokens,
        )
    return replace(corpus, splits=splits)

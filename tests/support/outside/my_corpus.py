"""A corpus and training regimes of somebody's own."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msabench.data.info import DatasetInfo, FeatureFile
from msabench.missingness.regimes import RegimeInfo

if TYPE_CHECKING:
    from torch import Tensor

info = DatasetInfo(
    name="my_clips",
    title="My clips",
    caveat="My clips are few.",
    label_range=(-1.0, 1.0),
    metric_set="sims",
    default_metric="f1",
    normalise="zscore",
    files=[
        FeatureFile(features="arrays", reader="npz", filename="my_clips/clips.npz", how_to_get="1. Ask me."),
        FeatureFile(features="columns", reader="my_corpus:read", filename="my_clips/clips.csv"),
    ],
)

bad_audio = RegimeInfo(
    name="bad_audio",
    description="audio lost with probability 1/4, else its frames dropped with p ~ U(0, .5); the others whole",
    draw="my_corpus:draw",
    draws=2,
)


def read(path: Path) -> dict[str, Any]:
    """Read a line per clip: id, split, label, three text features, two audio features."""
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    frames = np.array([[float(value) for value in row[3:]] for row in rows], dtype=np.float32)
    return {
        "id": [row[0] for row in rows],
        "split": [row[1] for row in rows],
        "regression_labels": [float(row[2]) for row in rows],
        "text": frames[:, None, :3],
        "audio": frames[:, None, 3:],
        "absent": ["vision"],
    }


def draw(uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The first number says whether audio is kept, the second how much of it is dropped."""
    import torch

    kept = torch.ones(len(uniform), 3, dtype=torch.bool)
    kept[:, 1] = uniform[:, 0] >= 0.25
    rate = torch.zeros(len(uniform), 3, dtype=torch.float64)
    rate[:, 1] = uniform[:, 1] / 2
    return kept, rate

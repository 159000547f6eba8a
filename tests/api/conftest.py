"""Small data for the functions of ``import msabench``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import msabench as mb
from msabench.data.info import EMOTIONS

SIZES = {"train": 12, "valid": 5, "test": 7}


def own_file(path: Path, task: str = "regression") -> Path:
    """A feature file of somebody's own, as docs/data.md says, with a front-padded and an unpadded modality."""
    rng = np.random.default_rng(0)
    splits = [name for name, n in SIZES.items() for _ in range(n)]
    n = len(splits)
    labels = (
        {"regression_labels": rng.uniform(-3, 3, n).astype(np.float32)}
        if task == "regression"
        else {"emotion_labels": rng.integers(0, 2, (n, len(EMOTIONS)))}
    )
    np.savez(
        path,
        id=np.array([f"video{i // 3}$_${i % 3}" for i in range(n)]),
        split=np.array(splits),
        text=rng.standard_normal((n, 6, 5)).astype(np.float32),
        audio=rng.standard_normal((n, 8, 3)).astype(np.float32),
        vision=rng.standard_normal((n, 4, 2)).astype(np.float32),
        audio_lengths=rng.integers(1, 9, n),
        **labels,
    )
    return path


@pytest.fixture
def data(elsewhere: Path) -> mb.MSADataModule:
    """A small generated corpus, in an empty working folder."""
    return mb.load("synth", size=(24, 8, 10), length=8)

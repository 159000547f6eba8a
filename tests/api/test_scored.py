"""What ``msabench.evaluate`` saves and ``msabench score`` records has the same numbers, to the last digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import msabench as mb
from msabench.__main__ import dispatch


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_scores_are_the_same_by_file(suffix: str, data: mb.MSADataModule, elsewhere: Path) -> None:
    scores = mb.evaluate(lambda batch: batch.text.mean(dim=(1, 2)) * 20, data)
    path = scores.save(f"mine{suffix}")
    words = ["--dataset", "synth", "--size", "24", "8", "10", "--length", "8", "--name", "Mine", "--store", "store"]
    assert dispatch(["score", str(path), *words]) == 0
    frame = mb.table("store", metrics="all")
    [place] = frame.index
    assert (place[0], place[3]) == ("mine", "scored")
    for cell, row in scores.mean.iterrows():
        if cell in frame.columns.get_level_values("cell"):
            found = frame.iloc[0].xs(cell, level="cell")["synth"]
            assert np.array_equal(found[row.index], row, equal_nan=True), cell

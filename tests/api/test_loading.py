"""``msabench.load``: what is given holds, and what is wrong is said at once."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import msabench as mb
from msabench.missingness.config import MissingConfig
from tests.api.conftest import SIZES, own_file


def test_settings_are_those_of_the_data_module(elsewhere: Path) -> None:
    data = mb.load(
        "synth", size=(24, 8, 10), length=8, regime="intra", rate=(0.2, 0.4), lengths="keep", batch_size=5, grid="inter"
    )
    assert data.missing == MissingConfig(regime="intra", rate=(0.2, 0.4), lengths="keep")
    assert (data.batch_size, data.corpus.split_sizes, len(data.cells)) == (5, (24, 8, 10), 7)


def test_every_setting_of_the_data_is_offered() -> None:
    offered = set(inspect.signature(mb.load).parameters) - {"corpus"}
    settings = set(inspect.signature(mb.MSADataModule.__init__).parameters) - {"self", "dataset", "missing"}
    assert offered == settings | {field.name for field in fields(MissingConfig)}


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_a_file_of_ones_own(kind: type, elsewhere: Path) -> None:
    own_file(elsewhere / "mine.npz")
    data = mb.load(kind(elsewhere / "mine.npz"), name="mine")
    assert data.info.name == "custom-mine"
    assert data.corpus.split_sizes == tuple(SIZES.values())
    # In the working folder, a file's name is enough.
    assert mb.load(kind("mine.npz")).corpus.revision == data.corpus.revision


@pytest.mark.parametrize(
    ("corpus", "settings", "words"),
    [
        ("mosy", {}, ["'mosy'", "did you mean mosi"]),
        ("mosi", {"root": "nowhere"}, ["nowhere"]),
        ("mosi", {"features": "bert"}, ["'bert'", "mult-aligned"]),
        ("mine.npz", {}, ["there is no file mine.npz"]),
        (Path("mosi"), {}, ["there is no file mosi"]),
        ("synth", {"regime": "mixt"}, ["'mixt'", "mixed"]),
        ("synth", {"rate": (0.9, 0.1)}, ["[0.9, 0.1]"]),
        ("synth", {"batch_size": 0}, ["batch_size 0"]),
        ("synth", {"grid": "everything"}, ["'everything'", "paper"]),
    ],
)
def test_what_is_wrong_is_one_sentence_at_once(
    corpus: str | Path, settings: dict[str, Any], words: list[str], elsewhere: Path
) -> None:
    with pytest.raises(mb.MSABenchError) as caught:
        mb.load(corpus, **settings)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)

"""Regimes of one situation, and the cells that they are at home in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from msabench.errors import MSABenchError
from msabench.missingness.conditions import GRIDS, Cell, distinct
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import training_masks
from msabench.missingness.regimes import BUILT_IN
from msabench.missingness.specialists import home_of, never_shown, specialist_of
from tests.support.drawn_masks import small_clips

HOMES = distinct([*GRIDS["inter"], *GRIDS["random"], *GRIDS["random-table"]])


def config_of(cell: Cell) -> MissingConfig:
    settings: dict[str, Any] = specialist_of(cell)
    return MissingConfig(**{**settings, **({"rate": tuple(settings["rate"])} if "rate" in settings else {})})


@pytest.mark.parametrize("cell", HOMES, ids=str)
def test_the_home_of_a_cells_specialist_is_the_cell(cell: Cell) -> None:
    assert home_of(config_of(cell).label) == str(cell)


@pytest.mark.parametrize("cell", GRIDS["inter"], ids=str)
def test_a_specialist_of_a_subset_sees_it_and_nothing_else(cell: Cell) -> None:
    clips = small_clips()
    (masks,) = training_masks(config_of(cell), clips, 7, 3)
    for modality, observed in masks.observed.items():
        expected = clips.valid(modality) if modality in cell.modalities else torch.zeros_like(observed)
        assert torch.equal(observed, expected)


@pytest.mark.parametrize(
    "regime", ["mixed", "inter(all)", "intra(0.5)", "random(0-0.7)", "random(0.05)", "lnln", "only()"]
)
def test_other_regimes_are_at_home_nowhere(regime: str) -> None:
    assert home_of(regime) is None


@pytest.mark.parametrize("name", ["intra/0.3", "inter/la+intra/0.3", "random/0.3+intra/0.2", "noise/0.5"])
def test_no_regime_is_the_situation_of_other_cells(name: str) -> None:
    with pytest.raises(MSABenchError, match="there is no regime of the one situation"):
        specialist_of(Cell.parse(name))


def test_what_a_regime_never_shows() -> None:
    assert never_shown("only(a)") == "lv"
    assert never_shown("per-modality(a=1.0)") == "a"
    shown = [MissingConfig(**{"regime": name, **regime.example}) for name, regime in BUILT_IN.items() if name != "only"]
    assert not any(never_shown(config.label) for config in shown)

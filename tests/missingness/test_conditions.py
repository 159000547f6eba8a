from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msabench.errors import MSABenchError
from msabench.missingness.conditions import GRIDS, INTER, INTRA, MISSING_CONDITIONS, SUBSETS, Cell, distinct, parse_grid
from msabench.missingness.config import MissingConfig

rates = st.integers(0, 10**6).map(lambda millionths: f"{Decimal(millionths) / 10**6:f}")
cells = st.builds(Cell, st.sampled_from(SUBSETS), rates)


@given(cells)
def test_name_round_trip(cell):
    assert Cell.parse(str(cell)) == cell
    assert hash(Cell.parse(str(cell))) == hash(cell)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("inter/la", "inter/la"),
        ("intra/0.3", "intra/0.3"),
        ("intra/0.30", "intra/0.3"),
        ("intra/0", "inter/lav"),
        ("intra/0.0", "inter/lav"),
        ("inter/lav+intra/0.5", "intra/0.5"),
        ("intra/0.5+inter/l", "inter/l+intra/0.5"),
        ("intra/1", "intra/1.0"),
    ],
)
def test_equal_situations_have_one_name(text, name):
    assert str(Cell.parse(text)) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "la", "inter/", "inter/al", "inter/x", "inter/l+inter/a", "inter/l+", "other/l", "intra/0.3/l"),
        *("intra/1.1", "intra/-0.1", "intra/.5", "intra/5e-1", "intra/nan", "intra/0.1234567"),
        *("intra/0.5\n", "intra/0.\u0663"),
    ],
)
def test_other_names_are_refused(text):
    with pytest.raises(MSABenchError):
        Cell.parse(text)


@given(rates)
def test_threshold_is_exact(rate):
    threshold = Cell("lav", rate).threshold
    assert threshold - 1 < Decimal(rate) * 2**24 <= threshold


def test_grids():
    assert len(INTER) == 7
    assert len(INTRA) == 10
    assert len(GRIDS["paper"]) == 17
    assert len(distinct(GRIDS["paper"])) == 16
    assert MISSING_CONDITIONS == ("l", "a", "v", "la", "lv", "av")
    assert parse_grid(["inter", "intra"]) == parse_grid("paper") == GRIDS["paper"]
    assert parse_grid("inter/la+intra/0.3") == (Cell("la", "0.3"),)
    assert [str(cell) for cell in distinct(parse_grid(["inter/la+intra/0.3", "intra/0.10", "intra/0.0"]))] == [
        "inter/lav",
        "intra/0.1",
        "inter/la+intra/0.3",
    ]


@pytest.mark.parametrize("names", [[], "everything", ["inter", "intra/2"]])
def test_bad_grids_are_refused(names):
    with pytest.raises(MSABenchError):
        parse_grid(names)


def test_cells_know_their_modalities():
    assert Cell("av").modalities == ("audio", "vision")
    assert Cell("l", "0.4").is_random
    assert not Cell("l").is_random
    assert not Cell("lav", "1.0").is_random


@given(st.lists(cells, max_size=8))
def test_order_is_that_of_tables(some):
    ordered = sorted(some)
    kinds = [cell.sort_key[0] for cell in ordered]
    assert kinds == sorted(kinds)
    assert distinct(some) == tuple(sorted(set(some)))


def test_config_labels():
    assert MissingConfig().label == "complete"
    assert MissingConfig("intra", rate=(0.5, 0.5)).label == "intra(0.5)"
    assert MissingConfig("intra", per="modality").label == "intra(0.1-0.9,modality)"
    assert MissingConfig("inter", subsets="proper").label == "inter(proper)"
    assert MissingConfig("mixed").label == "mixed"


@pytest.mark.parametrize("rate", [(-0.1, 0.5), (0.6, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_bad_rates_are_refused(rate):
    with pytest.raises(MSABenchError):
        MissingConfig("intra", rate=rate)


def test_unknown_regime_is_refused():
    with pytest.raises(MSABenchError, match="mixed_fsrf"):
        MissingConfig("randomly")


@pytest.mark.parametrize("setting", ["per", "subsets", "level", "token_fill", "lengths"])
def test_unknown_settings_are_refused(setting):
    with pytest.raises(MSABenchError, match=setting):
        MissingConfig(**{setting: "something"})

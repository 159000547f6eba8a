from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from msabench.errors import MSABenchError
from msabench.missingness.conditions import (
    AVERAGES,
    DROPS,
    GRIDS,
    INTER,
    INTRA,
    KINDS,
    LAWS,
    MISSING_CONDITIONS,
    SUBSETS,
    TENTHS,
    Cell,
    distinct,
    parse_grid,
)
from msabench.missingness.config import MissingConfig

rates = st.integers(0, 10**6).map(lambda millionths: f"{Decimal(millionths) / 10**6:f}")
cells = st.builds(Cell, st.sampled_from(SUBSETS), rates)
multiples = st.integers(0, 10**7).map(lambda millionths: f"{Decimal(millionths) / 10**6:f}")


def by_letter(numbers):
    """One number, or one for each of some modalities in any order."""
    named = st.dictionaries(st.sampled_from("lav"), numbers, min_size=1)
    return numbers | named.map(lambda found: ",".join(f"{letter}={number}" for letter, number in found.items()))


@st.composite
def any_cells(draw):
    """Cells of every kind and combination; what cannot go together is not tried."""
    parts = [
        draw(st.sampled_from(["", *(f"inter/{s}" for s in SUBSETS), *(f"{law}/{r}" for law in LAWS for r in TENTHS)]))
    ]
    parts.append(
        draw(
            st.just("")
            | by_letter(rates).map(lambda rate: f"intra/{rate}")
            | st.builds("{}/{}".format, st.sampled_from(DROPS), rates)
        )
    )
    parts.append(draw(st.just("") | by_letter(multiples).map(lambda noise: f"noise/{noise}")))
    parts.append(draw(st.just("") | rates.map(lambda rate: f"words/{rate}")))
    parts.append(draw(st.sampled_from(["", "permute/l", "permute/a", "permute/v"])))
    name = "+".join(filter(None, draw(st.permutations(parts)))) or "inter/lav"
    try:
        return Cell.parse(name)
    except MSABenchError:
        return reject()


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(any_cells(), any_cells())
def test_any_cell_has_one_name_one_place_and_one_kind(cell, other):
    assert Cell.parse(str(cell)) == cell
    assert hash(Cell.parse(str(cell))) == hash(cell)
    assert cell.kind in KINDS
    assert (cell == other) == (str(cell) == str(other)) == (cell.sort_key == other.sort_key)
    assert (cell < other) + (other < cell) == (cell != other)
    assert cell.is_random or cell in {Cell(subset, rate) for subset in SUBSETS for rate in ("0.0", "1.0")}


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
        ("intra/a=0.5,l=0.2", "intra/l=0.2,a=0.5"),
        ("intra/a=0.5,l=0.20,v=0", "intra/l=0.2,a=0.5"),
        ("intra/a=0.5,l=0.5,v=0.50", "intra/0.5"),
        ("inter/la+intra/a=0.5,l=0.5", "inter/la+intra/0.5"),
        ("intra/v=1.0", "inter/la"),
        ("intra/v=1.0,l=0.2", "inter/la+intra/l=0.2"),
        ("intra/v=1,l=1,a=1", "intra/1.0"),
        ("random/0.30", "random/0.3"),
        ("random/0", "inter/lav"),
        ("intra/0.2+random/0.3", "random/0.3+intra/0.2"),
        ("aligned/0", "inter/lav"),
        ("block/1.0", "intra/1.0"),
        ("noise/0", "inter/lav"),
        ("noise/a=2,l=2,v=2", "noise/2.0"),
        ("noise/a=0.5+inter/la", "inter/la+noise/a=0.5"),
        ("permute/l+words/0.1+aligned/0.2", "aligned/0.2+words/0.1+permute/l"),
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
        *("random/0.8", "random/0.25", "random-table/0.75", "inter/la+random/0.3", "random/0.3+random-table/0.3"),
        *("random/0.3+permute/l", "intra/0.2+block/0.3", "aligned/0.2+block/0.3", "block/l=0.2,a=0.3", "block/1.1"),
        *("inter/av+words/0.3", "words/0.3+noise/0.5", "words/l=0.3", "permute/la", "permute/", "inter/la+permute/v"),
        *("noise/11", "noise/-1", "inter/la+noise/v=0.5", "intra/x=0.5", "intra/l=0.5,l=0.6", "intra/l0.5", "intra/l="),
        *("intra/1.0+noise/0.5", "intra/1.0+random/0.3", "random/0.3+intra/v=1.0", "noise/0.5+noise/0.6"),
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


def test_grids_of_other_protocols():
    for law in LAWS:
        assert list(map(str, GRIDS[law])) == ["inter/lav", *(f"{law}/{rate}" for rate in TENTHS)]
    for drop in DROPS[1:]:
        assert list(map(str, GRIDS[drop])) == ["inter/lav", *(f"{drop}/0.{tenth}" for tenth in range(1, 10))]
    for name, grid in GRIDS.items():
        assert parse_grid(name) == grid
    # One law, one way of dropping, and never the complete situation.
    for key in ("random", "random_table", "aligned", "block", "block_aligned"):
        averaged = AVERAGES[f"avg_{key}"]
        assert {cell.kind for cell in averaged} == {key.replace("_", "-")}
        assert set(averaged) == set(GRIDS[key.replace("_", "-")]) - {Cell()}


def test_order_of_kinds():
    names = [
        *("inter/l", "inter/lav", "intra/0.1", "random/0.1", "random/0.7", "random-table/0.1", "intra/l=0.2,a=0.5"),
        *("intra/l=0.3", "aligned/0.2", "block/0.1", "block-aligned/0.1", "noise/0.5", "noise/2.0", "words/0.1"),
        *("permute/l", "permute/a", "permute/v", "inter/a+intra/0.2", "inter/la+intra/0.2", "inter/a+intra/0.3"),
        *("inter/la+noise/0.5", "inter/la+block/0.3"),
    ]
    assert list(map(str, distinct(map(Cell.parse, reversed(names))))) == names


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

"""Average ranks, the Friedman test and the critical difference, against hand-computed and published examples."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.stats import friedmanchisquare

from msabench.errors import MSABenchError
from msabench.missingness.conditions import INTER, Cell
from msabench.results.chosen_rows import cells_of, choose_rows
from msabench.results.comparison import Ranked, rank_rows
from msabench.results.ranks import critical_difference, rank, rank_intervals, ranking
from msabench.results.store import ResultStore
from msabench.tables.compare import compare
from tests.support.records import add

NONE = np.zeros((1, 4), dtype=bool)


def test_ranks_by_hand() -> None:
    values = np.array([[0.9, 0.7, 0.7, 0.2], [0.1, 0.2, 0.3, 0.4]])
    none = np.zeros(values.shape, dtype=bool)
    assert rank(values, none, "max").tolist() == [[1, 2.5, 2.5, 4], [4, 3, 2, 1]]
    assert rank(values, none, "min").tolist() == [[4, 2.5, 2.5, 1], [1, 2, 3, 4]]


@pytest.mark.parametrize("direction", ["max", "min"])
def test_what_is_undefined_or_collapsed_ranks_last_together(direction: str) -> None:
    best = {"max": 0.9, "min": 0.0}[direction]
    values = np.array([[math.nan, best, 0.3, 0.5]])
    last = np.array([[False, True, False, False]])
    found = rank(values, last, direction)[0]
    assert found[[0, 1]].tolist() == [3.5, 3.5]
    assert sorted(found[[2, 3]]) == [1, 2]


@settings(max_examples=40)
@given(npst.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(2, 6)), elements=st.floats(-1, 1)))
def test_ranks_of_a_block_sum_to_a_constant_and_reverse_with_the_direction(values: np.ndarray) -> None:
    none = np.zeros(values.shape, dtype=bool)
    up, down = rank(values, none, "max"), rank(values, none, "min")
    k = values.shape[1]
    assert np.allclose(up.sum(axis=1), k * (k + 1) / 2)
    assert np.allclose(up + down, k + 1)


def test_the_example_of_demsar() -> None:
    """JMLR 7, 2006, tables 5 and 6 and section 3.2.2: four methods on fourteen data sets."""
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    # Table 5(a): q at 5 % for 2 to 10 methods.
    for k, q in zip(range(2, 11), (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164), strict=True):
        assert critical_difference(k, 1) / math.sqrt(k * (k + 1) / 6) == pytest.approx(q, abs=0.001)


def test_methods_are_sorted_and_tested() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 3)) + np.array([0.0, 3.0, 1.5])
    found = ranking(["a", "b", "c"], [str(i) for i in range(12)], values, np.zeros((12, 3), bool), "max")
    assert found.names == ("b", "c", "a")
    assert (np.diff(found.average) > 0).all()
    assert found.friedman_p == pytest.approx(friedmanchisquare(*values.T).pvalue)
    # The pairs that Nemenyi's test finds are those whose ranks differ by the critical difference.
    p_values = found.nemenyi().to_numpy()
    apart = np.abs(found.average[:, None] - found.average[None]) >= found.critical_difference
    assert ((p_values < 0.05) == apart).all()
    assert apart.any()


def test_ties_everywhere_are_no_finding() -> None:
    found = ranking(["a", "b", "c"], list("12345"), np.ones((5, 3)), np.zeros((5, 3), bool), "max")
    assert found.average.tolist() == [2, 2, 2]
    assert math.isnan(found.friedman_p)


@pytest.mark.parametrize(("blocks", "methods"), [(4, 5), (9, 2)])
def test_too_little_is_refused(blocks: int, methods: int) -> None:
    values = np.zeros((blocks, methods))
    with pytest.raises(MSABenchError, match=f"here are {methods} methods and {blocks} test situations"):
        ranking(["m"] * methods, ["b"] * blocks, values, values > 0, "max")


# Rows of a store.

ORDER = {"mult": 0.5, "umdf": 0.6, "lf_dnn": 0.7}


def fill(folder: Path, **changes: object) -> ResultStore:
    store = ResultStore(folder)
    for method, value in ORDER.items():
        add(store, lambda cell, mask, v=value: v, method=method, **changes)
    return store


def ranks(
    folder: Path, cells: tuple[str, ...] = ("paper",), metric: str | None = None, revision: list[str] | None = None
) -> Ranked:
    return rank_rows(choose_rows(folder, None, None, metric, revision=revision), cells_of(cells))


def averages(found: Ranked) -> dict[str, float]:
    return dict(zip(found.ranking.names, found.ranking.average.tolist(), strict=True))


def test_blocks_are_corpora_times_distinct_cells(tmp_path: Path) -> None:
    fill(tmp_path)
    fill(tmp_path, dataset="mosei")
    found = ranks(tmp_path)
    # inter/lav and intra/0.0 are one situation; averages stand for the cells they are made of.
    assert len(found.ranking.blocks) == 2 * 16
    assert len(ranks(tmp_path, ("avg_missing", "inter/l")).ranking.blocks) == 2 * 6
    assert averages(found) == {"lf_dnn": 1, "umdf": 2, "mult": 3}
    assert found.fidelity == ("parity", "equations", "parity")


def test_less_is_better_where_it_is(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for method, value in ORDER.items():
        add(store, lambda cell, mask, v=value: {"f1_non0": 0.5, "mae": v}, method=method)
    assert averages(ranks(tmp_path, metric="mae")) == {"mult": 1, "umdf": 2, "lf_dnn": 3}


@pytest.mark.parametrize(("metric", "expected"), [("f1_non0", 4.0), ("corr", 1.0)])
def test_collapsed_predictions_rank_last_where_the_metric_sees_classes_alone(
    tmp_path: Path, metric: str, expected: float
) -> None:
    store = fill(tmp_path)
    add(store, lambda cell, mask: 0.9, method="kt", cell_options={"collapsed": True})
    assert averages(ranks(tmp_path, metric=metric))["kt"] == expected


def test_a_method_that_lacks_a_cell_is_left_out_and_named(tmp_path: Path) -> None:
    store = fill(tmp_path)
    add(store, lambda cell, mask: 0.9, method="kt", cell_options={"names": ["inter/l", "inter/a"]})
    found = ranks(tmp_path, ("inter",))
    assert "kt" not in averages(found)
    assert found.left_out == ["for lack of some of the 7 test situations, kt (has 2)"]


def test_protocols_are_not_ranked_together(tmp_path: Path) -> None:
    store = fill(tmp_path)
    add(store, lambda cell, mask: 0.9, method="kt", features="mult-aligned", revision="another")
    add(store, lambda cell, mask: 0.9, method="kt", lengths="keep", dataset="mosei")
    found = ranks(tmp_path)
    assert set(averages(found)) == set(ORDER)
    assert len(found.left_out) == 2
    assert "revision another" in found.left_out[1] or "revision another" in found.left_out[0]


def test_revisions_are_different_data_and_one_of_them_is_named(tmp_path: Path) -> None:
    store = fill(tmp_path)
    for place, method in enumerate(ORDER):
        add(store, lambda cell, mask, v=place: 0.9 - 0.1 * v, method=method, revision="another")
    add(store, lambda cell, mask: 0.1, method="kt", revision="another")
    with pytest.raises(
        MSABenchError, match=r"^mosi has records of 2 revisions, 0123456789ab, another, .* name one with --revision$"
    ):
        ranks(tmp_path)
    with pytest.raises(MSABenchError, match="mosi has records of 2 revisions"):
        ranks(tmp_path, revision=["0123456789ab", "another"])
    assert averages(ranks(tmp_path, revision=["0123456789ab"])) == {"lf_dnn": 1, "umdf": 2, "mult": 3}
    found = ranks(tmp_path, revision=["another"])
    assert averages(found) == {"mult": 1, "umdf": 2, "lf_dnn": 3, "kt": 4}
    # Which of the two it is of is said although the other was left out.
    assert found.chosen_tables[0].title.endswith("(revision another)")
    with pytest.raises(MSABenchError, match=r"unknown revision in .* 'others'; allowed: 0123456789ab, another"):
        ranks(tmp_path, revision=["others"])


def test_a_corpus_is_named_with_a_revision_that_it_has(tmp_path: Path) -> None:
    fill(tmp_path)
    fill(tmp_path, dataset="mosei", revision="another")
    assert len(ranks(tmp_path).ranking.blocks) == 2 * 16
    found = ranks(tmp_path, revision=["another"])
    assert [chosen.table.dataset for chosen in found.chosen_tables] == ["mosei"]
    assert found.chosen_tables[0].revision == "", "there is no other"
    with pytest.raises(MSABenchError, match="has no records of mosi of revision another, only of 0123456789ab"):
        choose_rows(tmp_path, ["mosi", "mosei"], None, None, revision=["another"])


def test_ranks_need_no_predictions_and_are_printed(tmp_path: Path) -> None:
    store = fill(tmp_path)
    add(store, lambda cell, mask: math.nan, method="kt")
    found = ranks(tmp_path)
    assert averages(found) == {"lf_dnn": 1, "umdf": 2, "mult": 3, "kt": 4}
    assert found.ranking.last[:, 3].all()


def test_compare_prints_ranks_as_computed(tmp_path: Path) -> None:
    from tests.support.stored_runs import add_runs, noisy

    cells = [*INTER, Cell.parse("intra/0.5")]
    for method, noise in (("mult", 3.0), ("umdf", 1.0), ("lf_dnn", 0.3)):
        add_runs(tmp_path, method, noisy(noise), cells=cells)
    text = compare("mult", metric="corr", store=tmp_path, cells=["inter"], draws=100)
    assert "Average ranks by Corr" in text
    rows = [line.split() for line in text.partition("Average ranks")[2].splitlines() if line[:4] in ("mult", "umdf")]
    # So far apart that no resample changes their order.
    assert [tuple(row[i] for i in (0, 2, 3, 4)) for row in rows] == [
        ("umdf", "2.00", "[2.0,", "2.0]"),
        ("mult", "3.00", "[3.0,", "3.0]"),
    ]
    printed = compare("mult", metric="corr", store=tmp_path, cells=["inter"], draws=100, format="csv")
    last = [row for row in csv.DictReader(io.StringIO(printed)) if row["kind"] == "rank"]
    assert [row["method"] for row in last] == ["lf_dnn", "umdf", "mult"]
    assert {row["n_blocks"] for row in last} == {"7"}
    assert [(row["low"], row["high"]) for row in last] == [("1.0", "1.0"), ("2.0", "2.0"), ("3.0", "3.0")]
    assert float(last[0]["critical_difference"]) == pytest.approx(critical_difference(3, 7))


def test_intervals_of_ranks_by_hand() -> None:
    """Two blocks; in a tenth of the resamples the first two methods change places in one of them."""
    usual, changed = [[3.0, 2.0, 1.0], [3.0, 2.0, np.nan]], [[2.0, 3.0, 1.0], [3.0, 2.0, np.nan]]
    values = np.array([changed if draw % 10 == 0 else usual for draw in range(200)])
    found = rank_intervals(values, np.zeros((2, 3), dtype=bool), "max")
    assert found.tolist() == [[1.0, 1.5], [1.5, 2.0], [3.0, 3.0]]
    # What counts as last does so in every resample.
    last = np.array([[True, False, False], [True, False, False]])
    assert rank_intervals(values, last, "max").tolist() == [[2.75, 2.75], [1.0, 1.0], [2.25, 2.25]]


def test_methods_that_are_alike_have_wide_intervals_and_seeds_go_together(tmp_path: Path) -> None:
    from tests.support.stored_runs import add_runs, noisy

    for method in ("mult", "umdf", "lf_dnn"):
        add_runs(tmp_path, method, noisy(1.0), cells=INTER)
    chosen_tables = choose_rows(tmp_path, None, None, "corr")
    found = rank_rows(chosen_tables, cells_of(["inter"]), tmp_path, draws=200)
    assert found.intervals is not None
    assert (found.intervals[:, 1] - found.intervals[:, 0] > 0.5).all()
    assert (found.intervals[:, 0] <= found.ranking.average).all()
    again = rank_rows(chosen_tables, cells_of(["inter"]), tmp_path, draws=200)
    assert np.array_equal(found.intervals, again.intervals)
    next((tmp_path / "predictions").rglob("*.parquet")).unlink()
    assert rank_rows(chosen_tables, cells_of(["inter"]), tmp_path, draws=200).intervals is None

"""Summaries: order of means, completeness of averages, undefined values, separation of protocols."""

import functools
import math
import operator
import statistics

import numpy as np
import pandas as pd
import pytest

from msabench.missingness.conditions import AVERAGES
from msabench.results.aggregate import PROTOCOL, ROW, by_seed, inconsistencies, over_seeds, over_seeds_of
from msabench.results.store import ResultStore
from tests.support.records import add

PROPER = ("inter/l", "inter/a", "inter/v", "inter/la", "inter/lv", "inter/av")


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path)


def one(summary, cell, **where):
    found = summary[summary["cell"] == cell]
    for name, value in where.items():
        found = found[found[name] == value]
    assert len(found) == 1
    return found.iloc[0]


def test_mask_seeds_first_then_training_seeds(store):
    # Seed 1 has three masks, seed 2 two: the mean over all runs would weigh them wrongly.
    add(
        store,
        lambda cell, mask: {0: 0.1, 1: 0.2, 2: 0.6}.get(mask, 0.5),
        seed=1,
        cell_options={"mask_seeds": (0, 1, 2)},
    )
    add(store, lambda cell, mask: {0: 0.7, 1: 0.9}.get(mask, 0.7), seed=2)
    got = one(pd.DataFrame(over_seeds(store.records(), "f1_non0")), "intra/0.4")
    assert got["mean"] == pytest.approx((0.3 + 0.8) / 2)
    assert got["std"] == pytest.approx(statistics.stdev([0.3, 0.8]))
    assert (got["n_seeds"], got["n_mask_seeds"]) == (2, 2)
    fixed = one(pd.DataFrame(over_seeds(store.records(), "f1_non0")), "inter/l")
    assert fixed["mean"] == pytest.approx(0.6)
    assert (fixed["n_seeds"], fixed["n_mask_seeds"]) == (2, 0)


def test_sums_over_seeds_are_not_rounded_on_the_way(store):
    values = {seed: 0.1 + 0.05 * seed for seed in range(1, 11)}
    for seed, value in values.items():
        add(store, lambda cell, mask, of=value: of, seed=seed, cell_options={"names": ["inter/l", "inter/a"]})
    assert functools.reduce(operator.add, values.values()) != math.fsum(values.values()), "these tell the two apart"
    for line in over_seeds(store.records(), "f1_non0"):
        assert line["mean"] == math.fsum(values.values()) / 10
        assert line["std"] == pytest.approx(statistics.stdev(values.values()), rel=1e-15)


def test_several_metrics_at_once_are_those_one_by_one(store):
    draw = np.random.default_rng(0).random
    for seed in (1, 2, 3):
        given = {"cell_options": {"mask_seeds": (0, 1, 2)}, "seed": seed}
        add(store, lambda cell, mask: {"f1_non0": draw(), "corr": math.nan, "mae": draw()}, **given)
        add(store, lambda cell, mask: {"f1_non0": draw(), "corr": draw(), "mae": math.nan}, method="umdf", **given)
    records, metrics = store.records(), ["mae", "f1_non0", "corr"]
    together = over_seeds_of(records, metrics, quantities=["auilc_0.9", "retention_0.5"])
    apart = [
        line for metric in metrics for line in over_seeds(records, metric, quantities=["auilc_0.9", "retention_0.5"])
    ]
    # NaN is unequal to itself, and alike in print.
    assert list(map(repr, together)) == list(map(repr, apart))
    assert len(together) == 2 * len(metrics) * (len(set(records.cell.tolist())) + 4)


def test_averages_are_taken_within_a_seed(store):
    values = {cell: 0.1 * place for place, cell in enumerate(PROPER)}
    for seed, factor in ((1, 1.0), (2, 2.0), (3, 4.0)):
        add(store, lambda cell, mask, f=factor: f * values.get(cell, 1.0), seed=seed)
    summary = pd.DataFrame(over_seeds(store.records(), "f1_non0"))
    missing = one(summary, "avg_missing")
    assert missing["mean"] == pytest.approx(statistics.mean([0.25, 0.5, 1.0]))
    assert missing["std"] == pytest.approx(statistics.stdev([0.25, 0.5, 1.0]))
    assert (missing["n_seeds"], missing["n_mask_seeds"]) == (3, 0)
    intra = one(summary, "avg_intra")
    assert intra["mean"] == pytest.approx(statistics.mean([1.0, 2.0, 4.0]))
    assert intra["n_mask_seeds"] == 2
    assert len(AVERAGES["avg_missing"]) == 6
    assert len(AVERAGES["avg_intra"]) == 10


def test_an_incomplete_average_is_missing(store):
    add(store, seed=1, cell_options={"names": PROPER[:-1]})
    summary = pd.DataFrame(over_seeds(store.records(), "f1_non0"))
    assert set(summary["cell"]) == set(PROPER[:-1])
    # Of two seeds only the complete one counts, and n says so.
    add(store, lambda cell, mask: 0.9, seed=2, cell_options={"names": PROPER})
    got = one(pd.DataFrame(over_seeds(store.records(), "f1_non0")), "avg_missing")
    assert (got["mean"], got["n_seeds"]) == (pytest.approx(0.9), 1)
    assert math.isnan(got["std"])


def test_undefined_values_are_not_left_out(store):
    add(store, lambda cell, mask: math.nan if (cell, mask) == ("intra/0.5", 1) else 0.8, seed=1)
    add(store, lambda cell, mask: 0.8, seed=2)
    seeds = pd.DataFrame(by_seed(store.records(), "corr"))
    assert math.isnan(one(seeds, "intra/0.5", seed=1)["value"])
    summary = pd.DataFrame(over_seeds(store.records(), "corr"))
    for cell in ("intra/0.5", "avg_intra"):
        got = one(summary, cell)
        assert math.isnan(got["mean"])
        assert math.isnan(got["std"])
        assert got["n_seeds"] == 2
    assert one(summary, "intra/0.4")["mean"] == pytest.approx(0.8)


def test_collapse_is_counted_in_seeds(store):
    add(store, seed=1, cell_options={"collapsed": True})
    add(store, seed=2)
    summary = pd.DataFrame(over_seeds(store.records(), "f1_non0"))
    assert (summary["n_collapsed"] == 1).all()
    assert (summary["n_seeds"] == 2).all()


@pytest.mark.parametrize(
    "change",
    [
        {"level": "tokens", "token_fill": "unk"},
        {"lengths": "keep"},
        {"features": "mmsa-unaligned"},
        {"revision": "ba9876543210"},
        {"selection": "test_best"},
        {"dataset": "mosei"},
        {"method_version": 2},
        {"variant": "wo_x"},
        {"regime": "complete"},
        {"config_hash": "d" * 12},
    ],
)
def test_what_is_never_put_together(store, change):
    add(store, lambda cell, mask: 0.2, seed=1)
    add(store, lambda cell, mask: 0.4, seed=2, **change)
    summary = pd.DataFrame(over_seeds(store.records(), "f1_non0"))
    assert (summary["n_seeds"] == 1).all()
    assert len(summary.drop_duplicates([*PROTOCOL, *ROW])) == 2


def test_keep_seeds(store):
    add(store, lambda cell, mask: 0.2, seed=1)
    add(store, lambda cell, mask: 0.4, seed=2)
    summary = pd.DataFrame(over_seeds(store.records(), "f1_non0", keep_seeds=True))
    assert one(summary, "avg_missing", seed=2)["mean"] == pytest.approx(0.4)
    assert (summary["n_seeds"] == 1).all()


def test_empty(store):
    assert over_seeds(store.records(), "f1_non0") == []
    assert inconsistencies(store.records()) == []


def test_different_holes_are_reported(store):
    add(store, method="mult")
    assert inconsistencies(store.records()) == []
    add(store, method="umdf", cell_options={"names": ["inter/l", "intra/0.3"], "mask_hash": "other"})
    [problem] = inconsistencies(store.records())
    assert "different test masks in inter/l, intra/0.3" in problem
    # Another protocol has other masks by right.
    add(store, method="umdf", lengths="keep", cell_options={"mask_hash": "third", "n": 5})
    assert inconsistencies(store.records()) == [problem]
    add(store, method="lf_dnn", cell_options={"names": ["inter/a"], "n": 5})
    assert "different numbers of test clips in inter/a" in inconsistencies(store.records())[1]


def test_different_mask_seeds_are_reported(store):
    cells = ["inter/l", "intra/0.3", "intra/0.5"]
    add(store, method="mult", cell_options={"names": cells, "mask_seeds": (0, 1, 2)})
    add(store, method="mult", seed=2, cell_options={"names": cells[:2], "mask_seeds": (0, 1, 2)})
    # Absent cells are no choice of masks, and other protocols are not compared.
    add(store, method="umdf", lengths="keep", cell_options={"names": cells, "mask_seeds": (7,)})
    assert inconsistencies(store.records()) == []
    # Neither a subset nor other seeds of which none is shared.
    for seed, chosen in ((3, (0, 1)), (4, (7, 8, 9))):
        add(store, method="mult", seed=seed, cell_options={"names": cells[:2], "mask_seeds": chosen})
        [problem] = inconsistencies(store.records())
        assert "mosi: records of one protocol have different mask seeds in intra/0.3; their" in problem

"""``msabench.table``: the numbers of ``msabench table``, as a data frame."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import msabench as mb
from msabench.results.derived import SUMMARY
from msabench.results.store import ResultStore
from msabench.tables import command
from tests.support.records import add
from tests.support.stored_runs import add_runs, noisy

EVERY_METRIC = ("f1_non0", "acc7", "corr")


def value(cell: str, mask_seed: int | None, *, offset: float) -> dict[str, float | None]:
    """Another number for every cell, mask seed, metric and job; corr is undefined in one cell."""
    number = offset + sum(map(ord, cell)) / 1e4 + (mask_seed or 0) / 1e3
    return {"f1_non0": number, "acc7": number / 2, "corr": None if cell == "inter/a" else number / 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora, several methods, seeds, regimes, feature families and one revision too many."""
    store = ResultStore(tmp_path_factory.mktemp("records") / "store")
    jobs: list[dict[str, Any]] = [
        *({"method": "mult", "seed": seed} for seed in (1, 2, 3)),
        {"method": "mult", "seed": 1, "regime": "complete"},
        {"method": "umdf", "seed": 1, "variant": "wo_mcim"},
        {"method": "umdf", "seed": 1, "features": "mult-aligned", "config_hash": "d" * 12},
        {"method": "umdf", "seed": 1, "dataset": "mosei", "config_hash": "e" * 12},
        {"method": "constant", "seed": 1},
        {"method": "mult", "seed": 1, "revision": "ba9876543210"},
        {"method": "theirs", "seed": 1, "selection": "test_best", "level": "tokens", "token_fill": "unk"},
    ]
    for number, changes in enumerate(jobs):
        add(store, partial(value, offset=0.1 * number), **changes)
    return store.folder


def test_derived_columns_are_those_of_the_command(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    add_runs(tmp_path, "mult", noisy(0.8), seeds=(1, 2), n=60)
    frame = mb.table(store.folder, "synth", metrics=["f1_non0", "mae"], summary=True)
    keys = [quantity.key for quantity in SUMMARY]
    assert list(dict.fromkeys(frame.columns.get_level_values("cell")))[-len(keys) :] == keys
    printed = {
        (metric, key): line["mean"]
        for metric in ("f1_non0", "mae")
        for key, line in zip(
            keys,
            (line for line in csv_lines(store.folder, metric=metric, summary=True) if line["block"] == "derived"),
            strict=True,
        )
    }
    for (_, metric, cell), found in frame.loc[:, (slice(None), slice(None), keys)].iloc[0].items():
        said = printed[metric, cell]
        assert (np.isnan(found) and said == "") or found == pytest.approx(float(said), abs=1e-9), (metric, cell)
    assert not np.isnan(frame.iloc[0][("synth", "f1_non0", "retention_0.5")])
    assert np.isnan(frame.iloc[0][("synth", "mae", "retention_0.5")])

    named = mb.table(store.folder, "synth", grid="inter/lav", summary=["auilc_0.5", "relative:inter/la"], spread=True)
    assert list(dict.fromkeys(named.columns.get_level_values("cell"))) == [
        "inter/lav",
        "auilc_0.5",
        "relative:inter/la",
    ]
    assert named.iloc[0][("synth", "f1_non0", "auilc_0.5", "n_seeds")] == 2
    with pytest.raises(mb.MSABenchError, match=r"unknown derived column 'auilc'; allowed: auilc_0\.5, auilc_0\.9"):
        mb.table(store.folder, "synth", summary="auilc")


def csv_lines(folder: Path, **options: Any) -> list[dict[str, str]]:
    text = command.table(store=folder, format="csv", papers=["none"], **options)
    return list(csv.DictReader(io.StringIO(text)))


WHOSE = (
    *("method", "variant", "regime", "fidelity", "features", "level", "token_fill", "lengths", "selection"),
    *("seed", "revision"),
)
"""Columns of the CSV that say which row a line is of."""


def line_of(frame: pd.DataFrame, line: dict[str, str]) -> pd.Series:
    """The row of a data frame that a line of the CSV is of."""
    level = f"{line['level']} ({line['token_fill']})" if line["token_fill"] else line["level"]
    about = {
        **{name: line[name] for name in ("method", "variant", "regime", "fidelity", "features")},
        "protocol": f"{level}, {line['lengths']}, {line['selection']}",
    }
    for name, wanted in about.items():
        frame = frame[frame.index.get_level_values(name) == wanted]
    if len(frame) > 1 and "seed" in frame.index.names:
        frame = frame[frame.index.get_level_values("seed") == int(line["seed"])]
    if len(frame) > 1:
        frame = frame[frame.index.get_level_values("marks") == line["revision"]]
    [(_, row)] = frame.iterrows()
    return row


@pytest.mark.parametrize("options", [{}, {"per_seed": True}, {"grid": ["inter/la", "intra/0.3"]}])
@pytest.mark.parametrize("metric", EVERY_METRIC)
def test_numbers_are_those_of_the_command_line(metric: str, options: dict[str, Any], folder: Path) -> None:
    lines = csv_lines(folder, metric=metric, **options)
    frame = mb.table(folder, metrics=metric, spread=True, **options)
    assert frame.index.is_unique
    assert frame.columns.is_unique
    seen = 0
    rows: dict[tuple[str, ...], pd.Series] = {}
    for line in lines:
        # One row has many lines, and finding it takes longer than comparing.
        whose = tuple(line[name] for name in WHOSE)
        if whose not in rows:
            rows[whose] = line_of(frame, line)
        row = rows[whose][line["dataset"], metric, line["cell"]]
        for name in ("mean", "std"):
            expected = float(line[name]) if line[name] else np.nan
            assert np.array_equal(row[name], expected, equal_nan=True), line
        if line["mean"]:
            assert [row["n_seeds"], row["n_mask_seeds"]] == [int(line["n_seeds"]), int(line["n_mask_seeds"])]
            seen += 1
    assert seen == frame.xs("mean", level="statistic", axis=1).notna().sum().sum() + sum(
        line["column"] == "0.0" and bool(line["mean"]) for line in lines
    )


def test_columns_are_corpus_metric_and_cell(folder: Path) -> None:
    frame = mb.table(folder, metrics=["acc7", "corr"], grid="inter")
    assert frame.columns.names == ["dataset", "metric", "cell"]
    assert frame.index.names == ["method", "variant", "regime", "fidelity", "features", "protocol", "marks"]
    assert frame["mosi", "acc7"].columns.tolist() == [
        *(f"inter/{letters}" for letters in ("l", "a", "v", "la", "lv", "av", "lav")),
        "avg_missing",
    ]
    assert frame.index.get_level_values("method").tolist() == ["constant", *["mult"] * 3, "theirs", *["umdf"] * 3]
    chosen = mb.table(folder, methods=["umdf", "mult"]).index.get_level_values("method")
    assert list(dict.fromkeys(chosen)) == ["constant", "umdf", "mult"]
    # An undefined value makes the average undefined, and is never left out.
    assert frame["mosi", "corr", "avg_missing"].isna().all()
    assert frame["mosi", "acc7", "avg_missing"].notna().any()
    assert list(dict.fromkeys(mb.table(folder, "mosi", metrics="all").columns.get_level_values("metric")))[:2] == [
        "acc2_non0",
        "acc2_has0",
    ]


def test_rows_of_corpora_stand_side_by_side_and_protocols_apart(folder: Path) -> None:
    frame = mb.table(folder, ["mosi", "mosei"], methods=["umdf"])
    by_features = frame.xs("umdf", level="method").droplevel(["regime", "fidelity", "protocol", "marks"])
    usual = by_features.loc["default"]
    # Under one family umdf has mosei, under the other mosi; the ablation has mosi alone.
    assert usual.loc["mmsa-aligned"]["mosei", "f1_non0", "inter/l"] > 0
    assert np.isnan(usual.loc["mmsa-aligned"]["mosi", "f1_non0", "inter/l"])
    assert usual.loc["mult-aligned"]["mosi", "f1_non0", "inter/l"] > 0
    mult = mb.table(folder, "mosi", methods=["mult"], regimes="mixed").xs("mult", level="method")
    assert sorted(mult.index.get_level_values("marks")) == ["0123456789ab", "ba9876543210"]
    one = mb.table(folder, "mosi", revision="ba9876543210")
    assert list(zip(one.index.get_level_values("method"), one.index.get_level_values("marks"), strict=True)) == [
        ("mult", "")
    ]
    with pytest.raises(mb.MSABenchError, match=r"unknown revision in .* 'b'; allowed: 0123456789ab, ba9876543210"):
        mb.table(folder, "mosi", revision=["b"])
    assert mb.table(folder, regimes=["complete"]).index.get_level_values("regime").unique().tolist() == ["complete"]


def test_what_makes_numbers_doubtful_is_said(folder: Path) -> None:
    # The records have 686 clips, which is right for MOSI alone.
    [warning] = mb.table(folder).attrs["warnings"]
    assert warning.startswith("CMU-MOSEI: Warning: records have 686 test clips")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"store": "nowhere"}, "there is no store nowhere"),
        ({"datasets": "mosy"}, "'mosy'.*did you mean mosi"),
        ({"datasets": ["sims"]}, "'sims'"),
        ({"methods": ["molt"]}, "'molt'.*did you mean mult"),
        ({"metrics": "f1_nonzero"}, "'f1_nonzero'"),
        ({"metrics": ["f1_mean"]}, "mosei has no metric 'f1_mean'|mosi has no metric 'f1_mean'"),
        ({"grid": "all"}, "'all'"),
        ({"regimes": ["mixd"]}, "'mixd'.*did you mean mixed"),
    ],
)
def test_names_that_there_are_not(arguments: dict[str, Any], words: str, folder: Path) -> None:
    with pytest.raises(mb.MSABenchError, match=words) as caught:
        mb.table(**{"store": folder} | arguments)
    assert "\n" not in str(caught.value)


def test_the_store_is_the_usual_one_where_none_is_given(
    folder: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(mb.MSABenchError, match="holds no records"):
        mb.table()
    monkeypatch.setenv("MSABENCH_STORE", str(folder))
    assert len(mb.table()) == len(mb.table(str(folder)))

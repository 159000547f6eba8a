"""One model for all conditions beside one per condition: from records and predictions to the table."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msabench.errors import MSABenchError
from msabench.missingness.conditions import INTER, MISSING_CONDITIONS, Cell
from msabench.results.aggregate import jobs_by_row
from msabench.results.chosen_rows import choose_rows
from msabench.results.paired import paired_differences, resampled
from msabench.results.specialists import AVERAGE, groups_of, is_generalist
from msabench.results.store import ResultStore
from msabench.results.stored_intervals import update_intervals
from msabench.tables.specialists import specialists
from tests.support.stored_runs import Predict, add_runs, noisy

SPECIALISTS = [f"only({letters})" for letters in MISSING_CONDITIONS]


def at_home(letters: str) -> Predict:
    """Good where it was trained, poor elsewhere."""

    def predict(labels: Any, cell: Cell, rng: np.random.Generator) -> Any:
        return noisy(0.2 if cell.available == letters else 5.0)(labels, cell, rng)

    return predict


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mult`` has six specialists, each better at home than the model for all; ``umdf`` has one, ``prlf`` none."""
    folder = tmp_path_factory.mktemp("store")
    for letters in MISSING_CONDITIONS:
        regime = f"only({letters})"
        add_runs(folder, "mult", at_home(letters), regime=regime, config_hash=regime, cells=INTER, n=80)
    add_runs(folder, "mult", noisy(1.0), regime="mixed", config_hash="m", cells=INTER, n=80)
    add_runs(folder, "mult", noisy(1.0), regime="complete", config_hash="c", cells=INTER, n=80)
    add_runs(folder, "umdf", noisy(5.0), regime="only(l)", config_hash="u", cells=INTER, n=80)
    add_runs(folder, "umdf", noisy(0.2), regime="mixed", config_hash="um", cells=INTER, n=80)
    add_runs(folder, "prlf", noisy(1.0), regime="mixed", config_hash="p", cells=INTER, n=80)
    return folder


def rows(text: str) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["method"], row["home"]): row for row in csv.DictReader(io.StringIO(text))}


def test_a_model_for_all_sees_several_situations() -> None:
    assert all(map(is_generalist, ("mixed", "inter(all)", "random(0-0.7)", "lnln")))
    assert not any(map(is_generalist, ("complete", "only(la)", "random(0.3)", "random-table(0.7)")))


def test_each_specialist_is_compared_at_home_and_six_of_them_on_average(store: Path) -> None:
    found = rows(specialists(metric="corr", store=store, format="csv"))
    homes = [f"inter/{letters}" for letters in MISSING_CONDITIONS]
    assert set(found) == {*(("mult", home) for home in (*homes, "inter/lav", AVERAGE)), ("umdf", "inter/l")}
    frame = ResultStore(store).frame(["synth"])
    for home, regime in zip(homes, SPECIALISTS, strict=True):
        row = found["mult", home]
        assert row["regime"] == "mixed"
        for name, wanted in (("specialist", regime), ("one", "mixed")):
            there = frame["method"].eq("mult") & frame["regime"].eq(wanted) & frame["cell"].eq(home)
            assert float(row[f"value_{name}"]) == pytest.approx(frame[there]["corr"].mean())
        assert float(row["high"]) < 0
    average = found["mult", AVERAGE]
    for name in ("value_specialist", "value_one", "difference"):
        mean = np.mean([float(found["mult", home][name]) for home in homes])
        assert float(average[name]) == pytest.approx(mean)
    assert float(average["high"]) < 0 < float(found["umdf", "inter/l"]["low"])


def test_intervals_are_those_of_the_paired_bootstrap(store: Path) -> None:
    row = rows(specialists(metric="mae", store=store, format="csv"))["mult", "inter/la"]
    (chosen,) = choose_rows(store, ["synth"], ["mult"], "mae")
    place = {each.regime: number for number, each in enumerate(chosen.table.rows)}
    one, special = (
        resampled(chosen.files(place[name], store), "sentiment", "mae", ["inter/la"]) for name in ("mixed", "only(la)")
    )
    expected = paired_differences(one, special)["inter/la"]
    assert float(row["difference"]) == pytest.approx(expected.difference)
    assert (float(row["low"]), float(row["high"])) == pytest.approx((expected.low, expected.high))


def test_the_mean_over_conditions_is_resampled_as_one(store: Path) -> None:
    """Resampling a mean of six differences: the interval is narrower than the mean of six intervals."""
    found = rows(specialists(metric="mae", store=store, format="csv"))
    widths = [
        float(found["mult", home]["high"]) - float(found["mult", home]["low"])
        for home in (*(f"inter/{letters}" for letters in MISSING_CONDITIONS), AVERAGE)
    ]
    assert 0 < widths[-1] < np.mean(widths[:-1])


def test_the_text_counts_who_is_better_where(store: Path) -> None:
    text = specialists(metric="corr", store=store)
    assert "Of 8 comparisons by condition, one for all is better in 1, the specialist in 6, and 1 leave it open" in text
    assert "synth is a generated test bench" in text
    assert specialists(metric="corr", store=store, format="markdown").startswith("### ")
    with pytest.raises(MSABenchError, match="has specialists beside 'lnln'"):
        specialists(store=store, against="lnln")
    with pytest.raises(MSABenchError, match="has specialists; train some"):
        specialists(methods=["prlf"], store=store)
    with pytest.raises(MSABenchError, match="unknown format 'html'"):
        specialists(store=store, format="html")  # type: ignore[arg-type]


def test_a_row_that_is_not_alone_in_its_regime_is_compared_with_nothing(tmp_path: Path) -> None:
    for config in ("one", "two"):
        add_runs(tmp_path, "mult", noisy(1.0), regime="only(l)", config_hash=config, cells=INTER, n=40)
    add_runs(tmp_path, "mult", noisy(1.0), regime="mixed", config_hash="three", cells=INTER, n=40)
    assert list(groups_of(list(jobs_by_row(ResultStore(tmp_path).records())))) == []


def test_specialists_of_different_seeds_have_no_average(tmp_path: Path) -> None:
    for letters in MISSING_CONDITIONS:
        regime, seeds = f"only({letters})", (1, 2) if letters == "l" else (1, 2, 3)
        add_runs(tmp_path, "mult", noisy(1.0), regime=regime, config_hash=regime, cells=INTER, n=40, seeds=seeds)
    add_runs(tmp_path, "mult", noisy(1.0), regime="mixed", config_hash="m", cells=INTER, n=40)
    found = rows(specialists(store=tmp_path, format="csv"))
    assert ("mult", AVERAGE) not in found
    assert len(found) == 6


def test_stored_intervals_serve_where_predictions_are_not(store: Path, tmp_path: Path) -> None:
    for path in store.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(store)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    whole = rows(specialists(metric="corr", store=tmp_path, format="csv"))
    update_intervals(ResultStore(tmp_path))
    for path in (tmp_path / "predictions").rglob("*.parquet"):
        path.unlink()
    kept = rows(specialists(metric="corr", store=tmp_path, format="csv"))
    assert set(kept) == set(whole)
    for name, row in whole.items():
        for bound in ("low", "high"):
            assert float(kept[name][bound]) == pytest.approx(float(row[bound]), abs=5e-5)
    (tmp_path / "synth" / "intervals.csv").unlink()
    assert "No interval: the predictions that it is made of are not here." in specialists(store=tmp_path)


def test_a_specialist_that_was_not_evaluated_at_home_has_no_comparison_and_no_interval(tmp_path: Path) -> None:
    add_runs(tmp_path, "dicmor", noisy(1.0), regime="random-table(0.5)", config_hash="d", cells=INTER, n=80)
    add_runs(tmp_path, "dicmor", noisy(1.0), regime="mixed", config_hash="m", cells=INTER, n=80)
    [said] = update_intervals(ResultStore(tmp_path))
    assert "2 of 3 rows and changes of regime have intervals, 2 new" in said
    with pytest.raises(MSABenchError, match="train some"):
        specialists(store=tmp_path)

"""What seeing missing data in training changes: from records and predictions to tables and pages."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.leaderboard.readme import readme_text
from msabench.leaderboard.site import build_site
from msabench.missingness.conditions import INTER, MISSING_CONDITIONS, distinct, parse_grid
from msabench.results.aggregate import jobs_by_row
from msabench.results.chosen_rows import choose_rows
from msabench.results.paired import paired_differences, resampled
from msabench.results.regime_changes import COMPLETE, identity, pairs_of, regime_changes
from msabench.results.store import ResultStore
from msabench.results.stored_intervals import read_intervals, update_intervals
from msabench.tables.regimes import CELLS, kept_changes, regimes
from tests.support.stored_runs import add_runs, noisy

ROOT = Path(__file__).parents[2]
FEW = list(INTER)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mult`` gains much, ``umdf`` loses a little, ``prlf`` and ``kt`` were not trained under both."""
    folder = tmp_path_factory.mktemp("store")
    for method, regime, noise in (
        ("mult", "complete", 3.0),
        ("mult", "mixed", 0.5),
        ("umdf", "complete", 0.8),
        ("umdf", "mixed", 0.9),
        ("prlf", "mixed", 0.5),
        ("kt", "complete", 0.5),
    ):
        add_runs(folder, method, noisy(noise), regime=regime, config_hash=f"{method}-{regime}", cells=FEW, n=80)
    return folder


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_numbers_are_those_of_the_records_and_intervals_those_of_the_paired_bootstrap(store: Path) -> None:
    found = {(row["method"], row["cell"]): row for row in rows(regimes(metric="corr", store=store, format="csv"))}
    assert set(found) == {(method, cell) for method in ("mult", "umdf") for cell in CELLS}
    frame = ResultStore(store).frame(["synth"])
    (chosen,) = choose_rows(store, ["synth"], ["mult"], "corr")
    regime = {row.regime: place for place, row in enumerate(chosen.table.rows)}
    after, before = (
        resampled(chosen.files(regime[name], store), "sentiment", "corr", list(CELLS)) for name in ("mixed", "complete")
    )
    expected = paired_differences(after, before)
    for cell in CELLS:
        row = found["mult", cell]
        cells = [f"inter/{letters}" for letters in MISSING_CONDITIONS] if cell == "avg_missing" else [cell]
        for name in ("before", "after"):
            mine = frame[(frame["method"] == "mult") & (frame["regime"] == row[name]) & frame["cell"].isin(cells)]
            assert float(row[f"value_{name}"]) == pytest.approx(mine["corr"].mean())
        assert float(row["change"]) == pytest.approx(expected[cell].difference)
        assert (float(row["low"]), float(row["high"])) == pytest.approx((expected[cell].low, expected[cell].high))


def test_who_gains_most_stands_first_whichever_way_the_metric_runs(store: Path) -> None:
    for metric in ("corr", "mae"):
        assert [row["method"] for row in rows(regimes(metric=metric, store=store, format="csv"))] == [
            *("mult", "mult", "umdf", "umdf")
        ]


def test_the_text_says_what_is_shown_and_who_is_left_out(store: Path) -> None:
    text = regimes(metric="corr", store=store)
    (mult,) = [line for line in text.splitlines() if line.startswith("mult ")]
    assert "]*" in mult
    assert "the change in avg leaves out 0 for" in text
    assert "Not trained under both: kt, which has complete; prlf, which has mixed." in text
    assert "synth is a generated test bench" in text
    assert regimes(metric="corr", store=store, format="markdown").startswith("### ")
    with pytest.raises(MSABenchError, match="under both 'complete' and 'lnln'; the regimes held are complete, mixed"):
        regimes(store=store, after="lnln")
    with pytest.raises(MSABenchError, match="unknown format 'html'"):
        regimes(store=store, format="html")  # type: ignore[arg-type]


def test_a_row_that_is_not_alone_in_its_regime_is_no_pair(tmp_path: Path) -> None:
    for config in ("one", "two"):
        add_runs(tmp_path, "mult", noisy(1.0), regime="mixed", config_hash=config, cells=FEW, n=40)
    add_runs(tmp_path, "mult", noisy(1.0), regime="complete", config_hash="three", cells=FEW, n=40)
    by_row = jobs_by_row(ResultStore(tmp_path).records())
    assert list(pairs_of(list(by_row), COMPLETE)) == []
    with pytest.raises(MSABenchError, match="no method has records under both"):
        regimes(store=tmp_path)


def test_stored_intervals_serve_where_predictions_are_not(store: Path, tmp_path: Path) -> None:
    for path in store.rglob("*"):
        target = tmp_path / path.relative_to(store)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    whole = rows(regimes(metric="corr", store=tmp_path, format="csv"))
    assert "8 new" in update_intervals(ResultStore(tmp_path))[0]  # six rows, two changes
    by_row = jobs_by_row(ResultStore(tmp_path).records())
    jobs = [list(by_seed.values()) for by_seed in by_row.values()]
    (pair, _) = pairs_of(list(by_row), COMPLETE)
    assert (identity(jobs[pair[0]], jobs[pair[1]]), "corr", "inter/l") in read_intervals(tmp_path, "synth")
    for path in (tmp_path / "predictions").rglob("*.parquet"):
        path.unlink()
    kept = rows(regimes(metric="corr", store=tmp_path, format="csv"))
    for one, other in zip(whole, kept, strict=True):
        for bound in ("low", "high"):
            assert float(one[bound]) == pytest.approx(float(other[bound]), abs=5e-5)
    (tmp_path / "synth" / "intervals.csv").unlink()
    without = regimes(metric="corr", store=tmp_path)
    assert "No interval: the predictions that it is made of are not here." in without
    assert "[" not in without.split("change = ")[0].split("\n", 1)[1]


def test_readme_and_site_show_stored_intervals_alone(store: Path, tmp_path: Path) -> None:
    """What is committed must not depend on whether predictions are at hand."""
    (chosen,) = choose_rows(store, ["synth"], None, "corr")
    (mult, _) = regime_changes(chosen, CELLS, "complete", "mixed", {}).methods
    assert mult.changes["avg_missing"].interval is None
    assert regime_changes(chosen, CELLS, "complete", "mixed", {}, store).methods[0].changes["inter/lav"].interval
    assert "trained under complete and under mixed" in readme_text(store)
    build_site(tmp_path / "site", store, ROOT / "leaderboard" / "published")
    page = (tmp_path / "site" / "regimes.html").read_text()
    said = ("trained under complete and under mixed", "No interval", "kt, which has complete")
    for words in (*said, "[corr]", "[mae]", "<code>"):
        assert words in page


def test_a_store_with_nothing_to_compare_has_pages_all_the_same(tmp_path: Path) -> None:
    add_runs(tmp_path, "constant", noisy(1.0), cells=FEW, n=40)
    add_runs(tmp_path, "prlf", noisy(1.0), variant="wo_pi", cells=FEW, n=40)
    assert kept_changes(tmp_path, "synth") == []
    assert "trained under" not in readme_text(tmp_path)
    build_site(tmp_path / "site", tmp_path, ROOT / "leaderboard" / "published")
    assert "No method has records under both yet" in (tmp_path / "site" / "regimes.html").read_text()


def test_the_verb_runs_on_the_committed_records(capsys: pytest.CaptureFixture[str]) -> None:
    store = str(ROOT / "leaderboard" / "results")
    assert dispatch(["regimes", "--datasets", "synth", "--metric", "corr", "--store", store]) == 0
    assert "No interval" not in capsys.readouterr().out


def test_cells_of_other_protocols_are_compared_as_well(tmp_path: Path) -> None:
    cells = parse_grid(["random"])
    for regime, noise in (("complete", 3.0), ("mixed", 0.5)):
        add_runs(tmp_path, "mult", noisy(noise), regime=regime, config_hash=regime, cells=distinct(cells), n=80)
    found = rows(regimes(metric="corr", cells=["random/0.3", "avg_random"], store=tmp_path, format="csv"))
    assert [row["cell"] for row in found] == ["random/0.3", "avg_random"]
    assert all(float(row["low"]) > 0 for row in found)

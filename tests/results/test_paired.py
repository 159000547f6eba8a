"""Paired comparisons: resamples, p values, Holm's correction, and what ``msabench compare`` says of them."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.metrics.functional import compute
from msabench.results.paired import holm, paired_differences, two_sided
from msabench.results.resample import clip_counts, seed_shares, seed_values
from msabench.results.store import ResultStore
from msabench.tables.compare import compare
from tests.support.calibration import CELL, made, runs, trial
from tests.support.records import fail
from tests.support.stored_runs import PAPER, add_runs, labels_of, noisy

# Resamples.


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(0, 3))
def test_seeds_are_drawn_so_that_the_mean_varies_as_much_as_it_should(n: int, stream: int) -> None:
    shares = seed_shares(n, 4000, stream)
    assert np.allclose(shares.sum(axis=1), 1)
    values = np.random.default_rng(n).normal(size=n)
    if n == 1:
        assert (shares == 1).all()
    else:
        # The estimated variance of a mean of n values, with n - 1 in the denominator.
        assert (shares @ values).var() == pytest.approx(values.var(ddof=1) / n, rel=0.15)


def test_resamples_of_clips_depend_on_nothing_but_their_number() -> None:
    assert (clip_counts(50, 20) == clip_counts(50, 20)).all()
    assert (clip_counts(50, 20).sum(axis=1) == 50).all()
    assert not np.array_equal(seed_shares(5, 50, 0), seed_shares(5, 50, 1))


def test_a_row_of_ones_is_the_metric_itself() -> None:
    labels = labels_of(40)
    preds = labels + np.random.default_rng(0).normal(size=(3, 40))
    [values] = seed_values(runs(labels, preds), "sentiment", "f1_non0", np.ones((1, 40)), [CELL])[CELL]
    assert values == pytest.approx([compute("sentiment", labels, p.astype(np.float32))["f1_non0"] for p in preds])


# p values.


def test_p_values_by_hand() -> None:
    # 1 of 9 below 0: 2 * (1 + 1) / (1 + 9).
    assert two_sided(np.array([-1.0, *[1.0] * 8])) == pytest.approx(0.4)
    # None below: the least that 9 resamples can show.
    assert two_sided(np.ones(9)) == pytest.approx(0.2)
    # Equal everywhere is no difference at all.
    assert two_sided(np.zeros(9)) == 1.0
    assert math.isnan(two_sided(np.array([1.0, np.nan])))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_p_values_do_not_depend_on_the_sign(values: list[float]) -> None:
    drawn = np.array(values)
    assert two_sided(drawn) == two_sided(-drawn)
    assert 2 / (len(drawn) + 1) <= two_sided(drawn) <= 1


def test_holm_by_hand() -> None:
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1, never falling: .04, .06, .06, .06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    # What is undefined was not tested and does not count.
    corrected = holm([0.01, math.nan, 0.04])
    assert corrected[[0, 2]] == pytest.approx([0.02, 0.04])
    assert math.isnan(corrected[1])
    assert holm([]).shape == (0,)


@pytest.mark.parametrize(("seeds", "spread", "most"), [(5, 0.15, 0.09), (3, 0.15, 0.12)])
def test_methods_that_do_not_differ_are_told_apart_about_as_often_as_promised(
    seeds: int, spread: float, most: float
) -> None:
    """Of pairs without a true difference, about 5 % are found at the level of 5 %.

    With 120 trials and a rate of 5 %, 95 % of all outcomes lie between 1 and 9 %.
    """
    rng = np.random.default_rng(0)
    p_values = np.array([trial(rng, seeds, spread)[0] for _ in range(120)])
    assert 0.0 < (p_values < 0.05).mean() <= most
    assert 0.1 < (p_values < 0.25).mean() < 0.4


def test_the_warnings_about_few_seeds_are_true() -> None:
    """Three seeds that differ much are told apart too often; with one seed, p knows nothing of other trainings."""
    rng = np.random.default_rng(0)
    rates = [np.mean([trial(rng, seeds, 0.4)[0] < 0.05 for _ in range(60)]) for seeds in (3, 1)]
    assert 0.05 < rates[0] < 0.3 < rates[1]


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(1)
    assert np.mean([trial(rng, 5, 0.15, gain=1.0)[0] < 0.05 for _ in range(20)]) > 0.8


# Pairs.


def test_pairs_see_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(2)
    labels = rng.normal(size=150).astype(np.float32)
    base = labels + 1.5 * rng.normal(size=150) + 0.1 * rng.normal(size=(3, 150))
    # The same errors on the same clips, a bit smaller.
    ours = labels + 0.85 * (base - labels)
    together = paired_differences(made(labels, ours, (1, 2, 3), 500), made(labels, base, (1, 2, 3), 500))[CELL]
    apart = paired_differences(made(labels, ours, (1, 2, 3), 500), made(labels, base, (4, 5, 6), 500))[CELL]
    assert together.low > 0
    assert together.p < 0.05
    # Clips are paired in either case; independent seeds add to the spread.
    assert apart.difference == together.difference
    assert together.high - together.low < apart.high - apart.low


def test_the_sign_and_the_means() -> None:
    labels = labels_of(60)
    preds = labels + np.random.default_rng(3).normal(size=(2, 60))
    ours, base = made(labels, preds, (1, 2), 200), made(labels, preds[::-1] * -1, (1, 2), 200)
    found, back = paired_differences(ours, base)[CELL], paired_differences(base, ours)[CELL]
    expected = np.mean([compute("sentiment", labels, p.astype(np.float32))["corr"] for p in preds])
    assert found.value == pytest.approx(expected)
    assert found.difference == pytest.approx(2 * expected)
    assert (back.low, back.high, back.p) == pytest.approx((-found.high, -found.low, found.p))


def test_other_clips_cannot_be_paired() -> None:
    labels = labels_of(30)
    preds = labels + np.zeros((1, 30))
    other = made(labels, preds, (1,), 100)
    with pytest.raises(MSABenchError, match="tested on different clips"):
        paired_differences(made(labels[:20], preds[:, :20], (1,), 100), other)


# The verb.


@pytest.fixture
def store(tmp_path: Path) -> Path:
    add_runs(tmp_path, "mult", noisy(1.5))
    add_runs(tmp_path, "umdf", noisy(0.6))
    add_runs(tmp_path, "lf_dnn", noisy(1.5), seeds=(1, 2))
    return tmp_path


def lines(text: str, kind: str = "difference") -> list[dict[str, str]]:
    return [row for row in csv.DictReader(io.StringIO(text)) if row["kind"] == kind]


def test_what_is_printed_is_what_is_computed(store: Path) -> None:
    rows = lines(compare("mult", ["synth"], "corr", store=store, format="csv", draws=400))
    assert [(row["method"], row["cell"]) for row in rows] == [
        (method, cell) for method in ("lf_dnn", "umdf") for cell in ("avg_missing", "avg_intra")
    ]
    frame = ResultStore(store).frame()
    for row in rows:
        cells = [f"inter/{s}" for s in ("l", "a", "v", "la", "lv", "av")]
        if row["cell"] == "avg_intra":
            cells = ["inter/lav", *(f"intra/0.{i}" for i in range(1, 10))]
        kept = frame[frame["cell"].isin(cells)]
        means = kept.groupby(["method", "seed", "cell"])["corr"].mean().groupby("method").mean()
        assert float(row["value"]) == pytest.approx(means[row["method"]], abs=1e-6)
        assert float(row["baseline_value"]) == pytest.approx(means["mult"], abs=1e-6)
        assert float(row["difference"]) == pytest.approx(float(row["value"]) - float(row["baseline_value"]))
        assert float(row["low"]) < float(row["difference"]) < float(row["high"])
    by_method = {row["method"]: row for row in rows if row["cell"] == "avg_missing"}
    assert float(by_method["umdf"]["low"]) > 0
    assert float(by_method["umdf"]["p_holm"]) < 0.05 < float(by_method["lf_dnn"]["p_holm"])
    assert (by_method["umdf"]["seeds_paired"], by_method["lf_dnn"]["seeds_paired"]) == ("true", "false")
    p_values = [float(row["p"]) for row in rows]
    assert [float(row["p_holm"]) for row in rows] == pytest.approx(list(holm(p_values)))
    assert compare("mult", ["synth"], "corr", store=store, format="csv", draws=400) == compare(
        "mult", ["synth"], "corr", store=store, format="csv", draws=400
    )


def test_few_seeds_small_test_sets_and_the_corpus_are_stated(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--baseline", "mult", "--datasets", "synth", "--metric", "corr", "--store", str(store)]
    for form in ("text", "markdown"):
        assert dispatch([*words, "--draws", "200", "--format", form]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "Few training seeds (fewer than 5): mult 3, lf_dnn 2, umdf 3" in text
        assert "Small test set: 120 clips (fewer than 200)" in text
        assert "synth is a generated test bench" in text
        assert "corrected for the 4 comparisons shown" in text
        assert "3 pairs" in text
        assert "2 and 3" in text
        assert "share models and clips, so they are not independent" in text
    assert "| umdf | mixed | equations | avg_missing |" in text


def test_enough_seeds_and_clips_need_no_warning(tmp_path: Path) -> None:
    for method in ("mult", "umdf"):
        add_runs(tmp_path, method, noisy(1.0), seeds=range(5), n=200, mask_seeds=(0,))
    text = compare("mult", store=tmp_path, draws=200)
    assert "Few training seeds" not in text
    assert "Small test set" not in text
    assert "No ranks: ranks need at least 3 methods" in " ".join(text.split())


def test_protocols_are_never_mixed(store: Path) -> None:
    for change in ({"lengths": "keep"}, {"selection": "test_best"}, {"revision": "another"}):
        add_runs(store, "prlf", noisy(0.1), **change)
    with pytest.raises(MSABenchError, match="baseline 'prlf' has no records beside others under one protocol"):
        compare("prlf", ["synth"], store=store, draws=100)
    text = " ".join(compare("mult", ["synth"], store=store, draws=100).split())
    assert text.count("Not compared, since there are no records of mult under this protocol") == 3
    assert "prlf mixed" not in text


def test_revisions_are_compared_apart_and_ranked_when_one_is_named(store: Path) -> None:
    for method, noise in (("mult", 0.6), ("umdf", 1.5), ("prlf", 0.1)):
        add_runs(store, method, noisy(noise), revision="another")
    options: dict[str, object] = {"datasets": ["synth"], "metric": "corr", "store": store, "draws": 100}
    text = " ".join(compare("mult", **options).split())  # type: ignore[arg-type]
    assert "No ranks: synth has records of 2 revisions, 0123456789ab, another, which are different data" in text
    found = lines(compare("mult", **options, format="csv"))  # type: ignore[arg-type]
    umdf = {row["revision"]: float(row["difference"]) for row in found if row["method"] == "umdf"}
    assert umdf["0123456789ab"] > 0 > umdf["another"]
    printed = compare("mult", **options, format="csv", revision=["another"])  # type: ignore[arg-type]
    assert {row["revision"] for row in (*lines(printed), *lines(printed, "rank"))} == {"another"}
    assert [row["method"] for row in lines(printed, "rank")] == ["prlf", "mult", "umdf"]
    text = " ".join(compare("mult", **options, revision=["another"]).split())  # type: ignore[arg-type]
    assert "(revision another)), 1 is best" in text


def test_collapse_undefined_values_lacking_cells_and_failures_are_visible(store: Path) -> None:
    add_runs(store, "kt", lambda labels, cell, rng: np.full(len(labels), 0.3))
    add_runs(store, "prlf", noisy(0.5), cells=[cell for cell in PAPER if str(cell) != "inter/v"])
    add_runs(store, "my_method", noisy(0.5))
    fail(store=ResultStore(store), dataset="synth", method="recap", seed=9)
    text = compare("mult", metric="corr", store=store, draws=100)
    flat = " ".join(text.split())
    rows = {tuple(line.split()[:4:3]): line for line in text.splitlines() if line.startswith(("kt", "prlf"))}
    assert "nan" in rows["kt", "avg_missing"]
    assert "† 3" in rows["kt", "avg_missing"]
    assert "no records of every seed" in rows["prlf", "avg_missing"]
    assert "no records" not in rows["prlf", "avg_intra"]
    assert "Left out: failed job recap (mixed), seed 9: RuntimeError: out of memory." in flat
    assert "corrected for the 7 comparisons shown that have a p" in flat
    assert "prlf (has 15)" in flat
    assert "unknown = not a registered method" in flat


def test_variants_regimes_and_the_constant_take_part_when_named(store: Path) -> None:
    add_runs(store, "umdf", noisy(1.0), variant="wo_mcim")
    add_runs(store, "umdf", noisy(1.0), regime="complete", config_hash="d" * 12)
    add_runs(store, "constant", lambda labels, cell, rng: np.full(len(labels), 0.2))
    with pytest.raises(MSABenchError, match=r"baseline 'umdf' may be any of .*'umdf \(mixed\)'"):
        compare("umdf", store=store, draws=100)
    rows = lines(compare("umdf (mixed)", store=store, draws=100, format="csv", methods=["umdf"], variants=["wo_mcim"]))
    assert {(row["method"], row["variant"], row["baseline"].endswith("(mixed)")) for row in rows} == {
        ("umdf", "wo_mcim", True)
    }
    assert {row["method"] for row in lines(compare("mult", store=store, draws=100, format="csv"))} == {"lf_dnn", "umdf"}
    named = lines(compare("mult", methods=["constant"], store=store, draws=100, format="csv"))
    assert [row["n_collapsed"] for row in named] == ["3", "3"]
    rows = lines(compare("umdf/wo_mcim", methods=["mult"], cells=["inter"], store=store, draws=100, format="csv"))
    assert [row["cell"] for row in rows] == [f"inter/{s}" for s in ("l", "a", "v", "la", "lv", "av", "lav")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"baseline": "nope"},
            "baseline 'nope' has no records beside others under one protocol; here are: lf_dnn, mult",
        ),
        ({"methods": ["nope"]}, "unknown method 'nope'; allowed: "),
        ({"variants": ["nope"]}, "unknown variant in .* 'nope'; allowed: default"),
        ({"datasets": ["mosy"]}, "unknown dataset 'mosy'; allowed: mosi"),
        ({"datasets": ["mosi"]}, "holds no records of mosi, only of synth; make some with `msabench run"),
        ({"metric": "f2"}, "unknown metric 'f2'"),
        ({"cells": ["avg"]}, "unknown cell 'avg'; allowed: avg_missing, avg_intra"),
        ({"cells": ["inter/x"]}, "unknown modality condition 'x'"),
        ({"draws": 10}, "draws 10 is not allowed; give at least 100"),
        ({"format": "latex"}, "unknown format 'latex'; allowed: text, markdown, csv"),
    ],
)
def test_bad_input_is_one_sentence(store: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(MSABenchError, match=message) as caught:
        compare(**{"baseline": "mult", "draws": 100, **arguments, "store": store})
    assert "\n" not in str(caught.value)


def test_an_empty_store_and_absent_predictions_are_one_sentence(store: Path) -> None:
    with pytest.raises(
        MSABenchError, match=r"there is no store .*none; `msabench run --suite SUITE --store` makes one"
    ):
        compare("mult", store=store / "none")
    (store.parent / "empty").mkdir()
    with pytest.raises(MSABenchError, match=r"holds no records; make some with `msabench run --suite SUITE --store"):
        compare("mult", store=store.parent / "empty")
    for path in (store / "predictions").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(MSABenchError, match=r"there are no predictions .* run the suite into a store of your own"):
        compare("mult", store=store, draws=100)

"""Metrics against scikit-learn, scipy, hand-computed cases and what constants score on the real test splits."""

import doctest
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

from msabench.data.info import EMOTIONS
from msabench.errors import MSABenchError
from msabench.metrics import functional
from msabench.metrics.collection import PredictionMetrics
from msabench.metrics.functional import compute, is_collapsed
from msabench.metrics.spec import DEFAULT_METRIC, METRICS, metric_keys, metric_set_of, metric_spec

SETS = ("sentiment", "sims", "emotions")

scores = st.floats(-4, 4, width=32)


@st.composite
def score_pairs(draw, low=1, high=60):
    n = draw(st.integers(low, high))
    labels = draw(hnp.arrays(np.float32, n, elements=st.one_of(st.sampled_from([-3, -1, 0, 1, 0.5, 2.5]), scores)))
    preds = draw(hnp.arrays(np.float32, n, elements=st.one_of(st.sampled_from([0, 0.5, -0.5, 1.5, 2.5]), scores)))
    return labels, preds


def same(ours, theirs):
    return math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-6)


@given(score_pairs())
def test_sentiment_agrees_with_sklearn(pair):
    labels, preds = pair
    ours = compute("sentiment", labels, preds)
    kept = labels != 0
    assert same(ours["acc2_has0"], accuracy_score(labels >= 0, preds >= 0))
    assert same(ours["f1_has0"], f1_score(labels >= 0, preds >= 0, average="weighted", zero_division=0))
    assert same(ours["f1_has0_swapped"], f1_score(preds >= 0, labels >= 0, average="weighted", zero_division=0))
    if kept.any():
        true, pred = labels[kept] > 0, preds[kept] > 0
        assert same(ours["acc2_non0"], accuracy_score(true, pred))
        assert same(ours["f1_non0"], f1_score(true, pred, average="weighted", zero_division=0))
        assert same(ours["f1_non0_swapped"], f1_score(pred, true, average="weighted", zero_division=0))
    else:
        assert all(math.isnan(ours[key]) for key in ("acc2_non0", "f1_non0", "f1_non0_swapped"))
    for key, bound in (("acc3", 1), ("acc5", 2), ("acc7", 3)):
        classes = [np.round(np.clip(x, -bound, bound)).astype(int) for x in (labels, preds)]
        assert same(ours[key], accuracy_score(*classes))
    assert same(ours["mae"], mean_absolute_error(labels, preds))


@given(score_pairs(low=2))
def test_acc5_is_never_below_acc7(pair):
    values = compute("sentiment", *pair)
    assert values["acc3"] >= values["acc5"] >= values["acc7"]


@given(st.integers(0, 2**32 - 1), st.integers(3, 200), st.floats(0, 2))
def test_correlation_agrees_with_scipy(seed, n, noise):
    generator = np.random.default_rng(seed)
    labels = generator.normal(size=n).astype(np.float32)
    preds = (labels + noise * generator.normal(size=n)).astype(np.float32)
    expected = pearsonr(labels.astype(np.float64), preds.astype(np.float64)).statistic
    assert math.isclose(compute("sentiment", labels, preds)["corr"], expected, abs_tol=1e-9)


def test_correlation_survives_tiny_deviations():
    preds = np.array([1e-170, 2e-170, 3e-170])
    assert compute("sentiment", np.array([1.0, 2.0, 3.0]), preds)["corr"] == pytest.approx(1.0)


@given(score_pairs())
def test_sims_agrees_with_sklearn(pair):
    labels, preds = (x.clip(-1, 1) for x in pair)
    ours = compute("sims", *pair)
    assert same(ours["acc2"], accuracy_score(labels > 0, preds > 0))
    assert same(ours["f1"], f1_score(labels > 0, preds > 0, average="weighted", zero_division=0))
    assert same(ours["f1_swapped"], f1_score(preds > 0, labels > 0, average="weighted", zero_division=0))
    for key, cuts in (("acc3", (-0.1, 0.1)), ("acc5", (-0.7, -0.1, 0.1, 0.7))):
        classes = [sum((x > np.float32(cut)).astype(int) for cut in cuts) for x in (labels, preds)]
        assert same(ours[key], accuracy_score(*classes))
    assert same(ours["mae"], mean_absolute_error(labels, preds))


def test_sims_bins_are_closed_on_the_right():
    edges = np.array([-1.0, -0.7, -0.69, -0.1, -0.09, 0.0, 0.1, 0.11, 0.7, 0.71, 1.0])
    assert functional.binned(edges, (-0.7, -0.1, 0.1, 0.7)).tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    # The field's files hold float32; the nearest float32 to 0.1 is above 0.1, and still belongs to the middle bin.
    assert functional.binned(edges.astype(np.float32), (-0.7, -0.1, 0.1, 0.7)).tolist() == [
        0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4,
    ]  # fmt: skip


def test_sims_clips_before_mae_and_correlation():
    ours = compute("sims", np.array([-1.0, 0.0, 1.0]), np.array([-5.0, 0.0, 5.0]))
    assert ours["mae"] == 0.0
    assert ours["corr"] == pytest.approx(1.0)


def test_hand_computed_sentiment():
    labels = np.array([-2.0, 0.0, 1.0, 3.0, -0.4])
    preds = np.array([-1.5, -0.1, 0.5, -0.2, 0.2])
    ours = compute("sentiment", labels, preds)
    # Without the neutral clip: true -,+,+,- and predicted -,+,-,+: two of four right, F1 of each class 1/2.
    assert ours["acc2_non0"] == 0.5
    assert ours["f1_non0"] == pytest.approx(0.5)
    # With it: true -,+,+,+,-; predicted -,-,+,-,+. F1(+) = 2*1/(3+2), F1(-) = 2*1/(2+3): both 0.4.
    assert ours["acc2_has0"] == pytest.approx(0.4)
    assert ours["f1_has0"] == pytest.approx(0.4)
    # Rounded half to even: labels -2 0 1 3 0; predictions -2 0 0 0 0.
    assert ours["acc7"] == pytest.approx(0.6)
    # Clipped to [-2, 2]: labels -2 0 1 2 0; the same hits.
    assert ours["acc5"] == pytest.approx(0.6)
    # Clipped to [-1, 1]: labels -1 0 1 1 0; predictions -1 0 0 0 0.
    assert ours["acc3"] == pytest.approx(0.6)
    assert ours["mae"] == pytest.approx((0.5 + 0.1 + 0.5 + 3.2 + 0.6) / 5)


def test_rounding_is_half_to_even():
    assert functional.rounded_accuracy(np.array([0.0, 2.0, 2.0, 0.0]), np.array([0.5, 1.5, 2.5, -0.5]), 3) == 1.0


# (set, protocol, negative, zero, positive labels, constant prediction, Acc-2, F1, F1 swapped), all in percent.
CONSTANTS = [
    ("sentiment", "_has0", (379, 30, 277), -1.0, 55.25, 39.32, 71.17),
    ("sentiment", "_has0", (379, 30, 277), 1.0, 44.75, 27.67, 61.83),
    ("sentiment", "_non0", (379, 30, 277), -1.0, 57.77, 42.31, 73.24),
    ("sentiment", "_non0", (379, 30, 277), 1.0, 42.23, 25.07, 59.38),
    ("sentiment", "_has0", (1350, 1025, 2284), 1.0, 71.02, 58.99, 83.06),
    ("sentiment", "_has0", (1350, 1025, 2284), -1.0, 28.98, 13.02, 44.93),
    ("sentiment", "_non0", (1350, 1025, 2284), 1.0, 62.85, 48.51, 77.19),
    ("sentiment", "_non0", (1350, 1025, 2284), -1.0, 37.15, 20.12, 54.17),
    ("sims", "", (248, 69, 140), -1.0, 69.37, 56.82, 81.91),
    ("sims", "", (248, 69, 140), 1.0, 30.63, 14.37, 46.90),
]


@pytest.mark.parametrize(("metric_set", "protocol", "counts", "constant", "acc2", "f1", "swapped"), CONSTANTS)
def test_what_a_constant_scores(metric_set, protocol, counts, constant, acc2, f1, swapped):
    """Constants on the test splits of MOSI (686 clips), MOSEI (4659) and CH-SIMS (457)."""
    labels = np.repeat([-0.8, 0.0, 0.8], counts)
    ours = compute(metric_set, labels, np.full(sum(counts), constant))
    printed = [round(100 * ours[key], 2) for key in (f"acc2{protocol}", f"f1{protocol}", f"f1{protocol}_swapped")]
    assert printed == [acc2, f1, swapped]
    q = ours[f"acc2{protocol}"]
    assert ours[f"f1{protocol}"] == pytest.approx(2 * q * q / (1 + q))
    assert ours[f"f1{protocol}_swapped"] == pytest.approx(2 * q / (1 + q))


def test_317_of_457_non_positive_gives_f1_56_82_and_81_91_swapped():
    """The case behind a published table: one collapsed model, two scores, by the order of two arguments."""
    labels = np.concatenate([np.full(317, -0.4), np.full(140, 0.4)])
    ours = compute("sims", labels, np.zeros(457))
    assert (round(100 * ours["f1"], 2), round(100 * ours["f1_swapped"], 2)) == (56.82, 81.91)


def test_collapsed_sims_model_as_published():
    """MMSA's result table lists a collapsed model with Acc-2 69.37 (317/457) and Acc-3 54.27 (248/457)."""
    ours = compute("sims", np.repeat([-0.8, 0.0, 0.8], (248, 69, 140)), np.full(457, -0.3))
    assert (round(100 * ours["acc2"], 2), round(100 * ours["acc3"], 2)) == (69.37, 54.27)


@given(st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_emotions_agree_with_sklearn(seed, n):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, (n, 4))
    preds = generator.normal(size=(n, 4, 2)).astype(np.float32)
    ours = compute("emotions", labels, preds)
    for column, emotion in enumerate(EMOTIONS):
        true, pred = labels[:, column], preds[:, column].argmax(axis=1)
        assert same(ours[f"acc_{emotion}"], accuracy_score(true, pred))
        assert same(ours[f"f1_{emotion}"], f1_score(true, pred, average="weighted", zero_division=0))
        assert same(ours[f"f1_{emotion}_swapped"], f1_score(pred, true, average="weighted", zero_division=0))
    for kind in ("acc", "f1"):
        assert same(ours[f"{kind}_mean"], sum(ours[f"{kind}_{emotion}"] for emotion in EMOTIONS) / 4)


@pytest.mark.parametrize("metric_set", ["sentiment", "sims"])
def test_constants_give_nan_correlation_in_silence(metric_set):
    varied = np.array([-1.0, 0.5, 1.0], dtype=np.float32)
    constant = np.full(3, 0.1, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(compute(metric_set, varied, constant)["corr"])
        assert math.isnan(compute(metric_set, constant, varied)["corr"])
        assert math.isnan(compute(metric_set, constant[:1], varied[:1])["corr"])
        neutral = compute("sentiment", np.zeros(3), varied)
    assert math.isnan(neutral["f1_non0"])
    assert neutral["acc2_has0"] == pytest.approx(2 / 3)


def test_sims_predictions_beyond_the_range_may_become_constant():
    assert math.isnan(compute("sims", np.array([-1.0, 0.0, 1.0]), np.array([2.0, 3.0, 4.0]))["corr"])


@pytest.mark.parametrize("metric_set", SETS)
def test_keys_are_those_of_the_set(metric_set):
    labels = np.zeros((5, 4), dtype=int) if metric_set == "emotions" else np.linspace(-1, 1, 5)
    preds = np.zeros((5, 4, 2)) if metric_set == "emotions" else np.linspace(-1, 1, 5)
    assert tuple(compute(metric_set, labels, preds)) == metric_keys(metric_set)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    good, broken = np.zeros(3), np.array([0.0, bad, 1.0])
    with pytest.raises(MSABenchError, match="1 of 3 predictions are not finite"):
        compute("sentiment", good, broken)
    with pytest.raises(MSABenchError, match="1 of 3 labels are not finite"):
        compute("sims", broken, good)
    logits = np.zeros((2, 4, 2))
    logits[0, 0, 0] = bad
    with pytest.raises(MSABenchError, match="1 of 16 predictions"):
        compute("emotions", np.zeros((2, 4)), logits)


@pytest.mark.parametrize(
    ("metric_set", "labels", "preds", "message"),
    [
        ("sentiment", np.zeros(2), np.zeros(3), "expected labels of shape"),
        ("sentiment", np.zeros(0), np.zeros(0), "N >= 1"),
        ("sims", np.zeros((2, 1)), np.zeros((2, 1)), r"need \(N,\)"),
        ("emotions", np.zeros((2, 4)), np.zeros((2, 4)), r"need \(N, 4, 2\)"),
        ("emotions", np.full((2, 4), 2), np.zeros((2, 4, 2)), "emotion labels hold 2"),
        ("mosi", np.zeros(2), np.zeros(2), "unknown metric set 'mosi'"),
    ],
)
def test_wrong_input_is_refused(metric_set, labels, preds, message):
    with pytest.raises(MSABenchError, match=message):
        compute(metric_set, labels, preds)


@pytest.mark.parametrize(
    ("metric_set", "labels", "preds", "collapsed"),
    [
        ("sentiment", [-1, 1], [0.1, 2.0], True),
        ("sentiment", [-1, 1], [-0.1, -2.0], True),
        ("sentiment", [-1, 1], [-0.1, 2.0], False),
        ("sentiment", [-1, 1], [0.0, 2.0], True),  # non-negative throughout: a constant under has-0
        ("sentiment", [-1, 1], [0.0, -2.0], True),  # never positive: a constant under non-0
        ("sentiment", [-1, 1, 0], [0.1, 2.0, -1.0], True),  # negative only where the label is 0: the same
        ("sentiment", [-1, 0, 0], [-1.0, 1.0, -1.0], True),  # one clip is left under non-0
        ("sentiment", [0, 0], [-1.0, 1.0], False),  # no clip is left, so non-0 has no value to mark
        ("sims", [-1, 1], [0.0, -0.5], True),
        ("sims", [-1, 1], [0.0, 0.5], False),
        ("sims", [-1, 1], [0.1, 0.5], True),
        ("sims", [-1, 1, 0], [0.1, 0.5, -0.5], False),  # its one protocol keeps labels of 0
    ],
)
def test_collapse_of_scores(metric_set, labels, preds, collapsed):
    assert is_collapsed(metric_set, np.array(labels), np.array(preds)) is collapsed


def test_one_constant_emotion_is_a_collapse():
    labels = np.eye(4, dtype=int)
    logits = np.stack([1 - labels, labels], axis=-1).astype(float)
    assert not is_collapsed("emotions", labels, logits)
    for emotion in range(4):
        for present in (0, 1):
            constant = logits.copy()
            constant[:, emotion] = 0.0
            constant[:, emotion, present] = 1.0
            assert is_collapsed("emotions", labels, constant)


def test_collapse_is_judged_on_valid_predictions_only():
    with pytest.raises(MSABenchError, match="expected labels of shape"):
        is_collapsed("sentiment", np.zeros(2), np.zeros(3))
    with pytest.raises(MSABenchError, match="1 of 2 predictions are not finite"):
        is_collapsed("sims", np.zeros(2), np.array([0.0, np.nan]))


@given(score_pairs(low=2), st.sampled_from(["sentiment", "sims"]))
def test_collapse_means_that_a_constant_scores_the_same(pair, metric_set):
    """Under one of its protocols, in accuracy and F1 at once."""
    labels, preds = pair
    if not is_collapsed(metric_set, labels, preds):
        return
    ours = compute(metric_set, labels, preds)
    protocols = ("_non0", "_has0") if metric_set == "sentiment" else ("",)
    constants = [compute(metric_set, labels, np.full(len(labels), value)) for value in (-1.0, 1.0)]
    assert any(
        all(same(ours[f"{kind}{protocol}"], fixed[f"{kind}{protocol}"]) for kind in ("acc2", "f1"))
        for fixed in constants
        for protocol in protocols
    )


@pytest.mark.parametrize("sizes", [[10], [1, 4, 5], [3, 7]])
@pytest.mark.parametrize("metric_set", SETS)
def test_collection_over_batches_equals_the_whole(metric_set, sizes):
    generator = torch.Generator().manual_seed(0)
    emotions = metric_set == "emotions"
    preds = torch.randn(10, *((4, 2) if emotions else ()), generator=generator)
    labels = torch.randint(0, 2, (10, 4), generator=generator) if emotions else torch.randn(10, generator=generator)
    metrics = PredictionMetrics(metric_set)
    for pred, label in zip(preds.split(sizes), labels.split(sizes), strict=True):
        metrics.update(pred.clone().requires_grad_(), label)
    kept, kept_labels = metrics.predictions()
    assert torch.equal(kept, preds)
    assert torch.equal(kept_labels, labels)
    assert not kept.requires_grad
    assert metrics.compute() == compute(metric_set, labels.numpy(), preds.numpy())
    metrics.reset()
    with pytest.raises(MSABenchError, match="no predictions"):
        metrics.predictions()


def test_collection_takes_half_precision_and_refuses_unknown_sets():
    metrics = PredictionMetrics("sentiment")
    metrics.update(torch.tensor([0.5, -0.5], dtype=torch.bfloat16), torch.tensor([1.0, -1.0]))
    assert metrics.compute()["acc2_non0"] == 1.0
    assert metrics.predictions()[0].dtype == torch.float32
    with pytest.raises(MSABenchError, match="unknown metric set"):
        PredictionMetrics("mosi")


def test_specs():
    assert all(key == spec.key and spec.definitions for key, spec in METRICS.items())
    assert {key for metric_set in SETS for key in metric_keys(metric_set)} == set(METRICS)
    assert all(metric_set_of(metric_keys(metric_set)) == metric_set for metric_set in SETS)
    assert all(metric_spec(key, metric_set).key == key for metric_set, key in DEFAULT_METRIC.items())
    assert METRICS["mae"].direction == "min"
    assert METRICS["f1_non0"].format(0.56824) == "56.82"
    assert METRICS["mae"].format(0.8) == "0.800"
    with pytest.raises(MSABenchError, match=r"'f1_non0' is not one of the sims metrics; allowed: acc2, f1"):
        metric_spec("f1_non0", "sims")
    with pytest.raises(MSABenchError, match="unknown metric 'f2'"):
        metric_spec("f2")
    with pytest.raises(MSABenchError, match="belong to no metric set"):
        metric_set_of(["mae"])


def test_examples_in_docstrings():
    assert doctest.testmod(functional).failed == 0

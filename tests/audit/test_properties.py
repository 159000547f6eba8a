"""Tables printed truthfully raise no proven finding, whatever the confusion matrices behind them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msabench.audit.argument_order import verdicts
from msabench.audit.claims import Claim
from msabench.audit.context import Context
from msabench.audit.envelope import envelope, weighted_f1
from msabench.audit.run import run_audit
from msabench.metrics import functional
from tests.support.printed_tables import INTER_COLUMNS, INTRA_COLUMNS, answers, labels_of, number, row, scores

NEUTRAL = {
    "mosi": {
        "correct": {"f1_neg_pos": "f1_non0", "f1_neg_nonneg": "f1_has0"},
        "swapped": {"f1_neg_pos": "f1_non0_swapped", "f1_neg_nonneg": "f1_has0_swapped"},
    },
    "sims": {"correct": {"f1": "f1"}, "swapped": {"f1": "f1_swapped"}},
}
"""Corpus -> order -> printed name that says nothing about the order -> key."""

PLAIN = {
    "mosi": {
        "correct": {"acc2": "acc2_has0", "f1": "f1_has0"},
        "swapped": {"acc2": "acc2_non0", "f1": "f1_non0_swapped"},
    },
    "sims": {"correct": {"acc2": "acc2", "f1": "f1"}, "swapped": {"acc2": "acc2", "f1": "f1_swapped"}},
}
"""Corpus -> order -> printed name that does not even say which clips count -> key."""

OTHERS = {
    "mosi": {
        **{"acc2_neg_pos": "acc2_non0", "acc2_neg_nonneg": "acc2_has0", "acc2_non0": "acc2_non0"},
        **{"acc2_has0": "acc2_has0", "acc7": "acc7", "acc5": "acc5", "mae": "mae", "corr": "corr"},
    },
    "sims": {"acc2": "acc2", "acc3": "acc3", "acc5": "acc5", "mae": "mae", "corr": "corr"},
}


@pytest.fixture(scope="module", autouse=True)
def no_label_files(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSABENCH_DATA", str(tmp_path_factory.mktemp("data")))
        yield


def metrics_of(dataset, order, naming):
    """Printed name -> key, for F1 in an order and everything else."""
    family = "mosi" if dataset == "mosei" else dataset
    if naming == "neutral":
        return NEUTRAL[family][order] | OTHERS[family]
    if naming == "declared":
        ending = "_swapped" if order == "swapped" else ""
        keys = ("f1_non0", "f1_has0") if family == "mosi" else ("f1",)
        return {f"{key}{ending}": f"{key}{ending}" for key in keys} | OTHERS[family]
    return PLAIN[family][order] | {"acc5": "acc5", "mae": "mae"}


@st.composite
def tables(draw, datasets=("mosi", "mosi", "sims", "sims", "mosei"), orders=("correct", "swapped")):
    """A table of up to three rows: random hits per class, runs, order, names, digits; averages before rounding."""
    dataset = draw(st.sampled_from(datasets))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = labels_of(dataset)
    columns = draw(st.sampled_from([INTER_COLUMNS[:-1], INTRA_COLUMNS[:-1]]))
    runs = draw(st.integers(1, 3))
    paper, naming = draw(st.sampled_from(["mine", "prlf"])), draw(st.sampled_from(["neutral", "declared", "plain"]))
    decimals, drop_zeros = draw(st.integers(0, 3)), draw(st.booleans())
    numbers = []
    for method in draw(st.sampled_from([["prlf"], ["prlf", "base"], ["mine", "a", "b"]])):
        order = draw(st.sampled_from(orders))
        # Some rows collapse, as models do.
        extreme = draw(st.booleans())
        cells = {}
        for cell in columns:
            hits = [rng.random(3).round() if extreme and rng.random() < 0.5 else rng.random(3) for _ in range(runs)]
            cells[cell] = scores(dataset, [answers(labels, share, rng) for share in hits])
        metrics = metrics_of(dataset, order, naming)
        where = {"paper": paper, "dataset": dataset, "method": method}
        numbers += row(defined(cells, metrics), metrics, decimals=decimals, drop_zeros=drop_zeros, **where)
    return numbers


def defined(cells, metrics):
    """Cells without undefined values, which nobody prints."""
    for found in cells.values():
        for key in metrics.values():
            if not np.isfinite(found[key]):
                found[key] = 0.0
    return cells


@given(tables())
@settings(max_examples=80)
def test_truthful_tables_raise_no_proven_finding(numbers):
    assert [f.id for f in run_audit(numbers) if f.certainty == "proven"] == []


@given(tables(orders=("correct",)))
@settings(max_examples=30)
def test_truthful_claims_raise_no_proven_finding(numbers):
    claim = Claim("w", numbers[0].paper, "1", "weighted_f1", *[""] * 7, "", "F1 is weighted")
    assert [f.id for f in run_audit(numbers, [claim]) if f.certainty == "proven"] == []


@given(tables(datasets=("mosi", "sims")))
@settings(max_examples=30)
def test_reprints_with_fewer_digits_raise_no_proven_finding(numbers):
    again = [
        number(
            f"{n.number:.1f}", **{k: getattr(n, k) for k in ("paper", "dataset", "method", "cell", "metric")}, table="2"
        )
        for n in numbers
        if n.percent and len(n.value.partition(".")[2]) > 1
    ]
    assert [f.id for f in run_audit([*numbers, *again]) if f.kind == "contradiction"] == []


@given(tables())
@settings(max_examples=30)
def test_ids_are_unique_and_every_field_is_filled(numbers):
    found = run_audit(numbers)
    assert len({f.id for f in found}) == len(found)
    for finding in found:
        assert finding.printed
        assert finding.rule
        assert finding.proof


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.booleans(),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4),
)
def test_every_mean_of_confusion_matrices_is_in_the_hull(first, second, swapped, shares):
    points = []
    for left, right in shares:
        hits = (round(left * first), round(right * second))
        true = np.repeat([0, 1], [first, second])
        pred = np.concatenate([np.arange(first) >= hits[0], np.arange(second) < hits[1]]).astype(int)
        f1 = functional.weighted_f1(pred, true) if swapped else functional.weighted_f1(true, pred)
        points.append((100 * functional.accuracy(true, pred), 100 * f1))
    accuracy, f1 = np.mean(points, axis=0)
    assert envelope(first, second, swapped).allows((accuracy, accuracy), (f1, f1))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 7), (8, 5), (20, 31)])
def test_hull_is_the_smallest(first, second, swapped):
    scipy = pytest.importorskip("scipy.spatial")
    right = np.arange(second + 1)
    points = np.concatenate(
        [
            np.column_stack([(left + right) / (first + second), weighted_f1(first, second, left, right, swapped)])
            for left in range(first + 1)
        ]
    )
    hull = scipy.ConvexHull(100 * points)
    corners = hull.points[hull.vertices]
    found = envelope(first, second, swapped)
    for x, y in corners:
        low, high = found.f1_range(x, x)
        assert min(abs(y - low), abs(y - high)) < 1e-9
    for boundary in (found.top, found.bottom):
        for x, y in boundary:
            assert (hull.equations @ (x, y, 1)).max() < 1e-6


@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.floats(0, 100))
def test_least_accuracy_is_where_an_f1_becomes_possible(first, second, swapped, f1):
    found = envelope(first, second, swapped)
    least = found.least_accuracy(f1)
    assert found.f1_range(0, least)[1] >= f1 - 1e-6
    if least > 1e-6:
        assert found.f1_range(0, least - 1e-6)[1] < f1 + 1e-3


@given(tables(datasets=("mosi", "sims")))
@settings(max_examples=20)
def test_the_true_order_is_always_possible(numbers):
    for pair in verdicts(Context(numbers)):
        assert any(verdict.correct or verdict.swapped for verdict in pair)

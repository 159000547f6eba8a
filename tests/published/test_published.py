"""Published numbers: what is there, what malformed files are told, and which constants explain a number."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msabench.data.shipped import SHIPPED
from msabench.errors import MSABenchError
from msabench.metrics.functional import compute
from msabench.metrics.spec import METRICS
from msabench.published.constant_scores import constant_scores, explaining, f1_of_constant, swapped_f1_of_constant
from msabench.published.numbers import COLUMNS, PAPERS, PRINTED, load_published, read_numbers
from msabench.published.readings import readings

PUBLISHED = Path(__file__).parents[2] / "leaderboard" / "published"

COUNTS = {
    "prlf": {"1": 144, "2": 56, "3": 50, "4": 40, "5": 40, "6": 24, "text": 20},
    "fsrf": {"I": 144, "II": 18, "text": 2},
    "umdf": {"1": 224, "2": 224, "3": 40},
    "recap": {"1": 192, "2": 72, "3": 60, "text": 23},
    "kt": {"I": 80, "II": 75, "III": 64, "IV": 20, "V": 10},
}
"""Numbers of each table, counted in the papers."""

HEADER = "dataset,method,cell,metric,value"
ROW = "mosi,mult,inter/la,f1,82.58"


@pytest.fixture(scope="module")
def numbers():
    return load_published(PUBLISHED)


def test_every_number_is_there(numbers):
    found = Counter((number.paper, number.table) for number in numbers)
    assert found == {(paper, table): n for paper, tables in COUNTS.items() for table, n in tables.items()}
    assert len(numbers) == 1622
    assert list(dict.fromkeys(number.paper for number in numbers)) == list(PAPERS)


def test_digits_are_kept_as_printed(numbers):
    written = []
    for paper in PAPERS:
        with (PUBLISHED / f"{paper}.csv").open(encoding="utf-8", newline="") as file:
            written += [row["value"] for row in csv.DictReader(file)]
    assert [number.value for number in numbers] == written
    assert {"67.80", "64.3", "0.870", "59"} <= set(written)


def test_keys_are_readings_of_what_is_printed(numbers):
    for number in numbers:
        possible = readings(number.dataset, number.metric.removeprefix("delta_"), number.emotion)
        assert not number.key or number.key in possible, number.where
        assert bool(number.key) == bool(number.evidence)


def file(tmp_path, *lines, header=HEADER):
    path = tmp_path / "mine.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_a_small_file_of_ones_own(tmp_path):
    [first, second] = read_numbers(file(tmp_path, ROW, "mosi,mult,avg_intra,mae,0.9"))
    assert (first.paper, first.table, first.variant, first.protocol) == ("mine", "1", "default", "inter")
    assert second.protocol == "intra_mean"
    assert first.where == "mine table 1, mosi, mult, inter/la, f1"
    path = file(tmp_path, "", f"{ROW},f1_has0,stated", "", header=f"\ufeff{HEADER},key,evidence")
    assert read_numbers(path)[0].key == "f1_has0"


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (f"{HEADER},colour", [], r"mine\.csv has an unknown column 'colour'; allowed: paper, table, dataset"),
        (f"{HEADER},value", [], "has the column 'value' twice"),
        ("dataset,method,cell,metric", [], "lacks the column 'value'; needed: dataset, method, cell, metric, value"),
        ("", [], "lacks the column 'dataset'"),
        (HEADER, ["mosi,mult,inter/la,f1"], "line 2 has 4 fields; expected 5 as in the header"),
        (HEADER, [ROW, f"{ROW},1"], "line 3 has 6 fields; expected 5"),
        (HEADER, ['mosi,"mult,inter/la,f1,82.58'], "cannot be read as CSV: unexpected end of data"),
        (HEADER, ['mosi,"mu"lt,inter/la,f1,82.58'], "cannot be read as CSV: ',' expected after '\"'"),
        (HEADER, [ROW, ROW], "lines 2 and 3 both hold mine table 1, mosi, mult, inter/la, f1"),
        (HEADER, [",mult,inter/la,f1,82.58"], "line 2: dataset is empty"),
        (HEADER, ["mosi,,inter/la,f1,82.58"], "line 2: method is empty"),
        (HEADER, ["mosi,mult,inter/x,f1,82.58"], "line 2: unknown modality condition 'x'; allowed: l, a, v"),
        (HEADER, ["mosi,mult,all,f1,82.58"], "line 2: unknown cell 'all'; allowed: inter/<.*or an average: avg_miss"),
        (HEADER, ["mosi,mult,,f1,82.58"], "line 2: unknown cell ''; allowed: "),
        (HEADER, ["mosi,mult,inter/la,f2,82.58"], "line 2: unknown metric 'f2'; allowed: f1, f1_neg_pos"),
        (HEADER, ["mosi,mult,inter/la,f1,100.01"], "line 2: f1 100.01 is out of range; allowed: 0 to 100"),
        (HEADER, ["mosi,mult,inter/la,acc7,-1"], "line 2: acc7 -1 is out of range; allowed: 0 to 100"),
        (HEADER, ["mosi,mult,inter/la,corr,1.01"], "line 2: corr 1.01 is out of range; allowed: -1 to 1"),
        (HEADER, ["mosi,mult,inter/la,mae,-0.5"], "line 2: mae -0.5 is out of range; allowed: 0 to inf"),
        (HEADER, ["mosi,mult,inter/la,f1,82.58*"], r"value '82\.58\*' is not a plain decimal number such as 82\.58"),
        (HEADER, ["mosi,mult,inter/la,f1,nan"], "value 'nan' is not a plain decimal number"),
        (HEADER, ["mosi,mult,inter/la,f1,٨٢"], "value '٨٢' is not a plain decimal number"),
        (f"{HEADER},features", [f"{ROW},both"], r"unknown features 'both'; allowed: \(empty\), aligned, unaligned"),
        (f"{HEADER},emotion", [f"{ROW},glad"], r"unknown emotion 'glad'; allowed: \(empty\), happy, sad, angry"),
        (f"{HEADER},protocol", [f"{ROW},outer"], "unknown protocol 'outer'; allowed: inter, intra, intra_mean"),
        (f"{HEADER},key,evidence", [f"{ROW},f1_non0,"], "key 'f1_non0' with evidence ''; give both or neither"),
        (f"{HEADER},key,evidence", [f"{ROW},f3,stated"], r"unknown key 'f3'; allowed: \(empty\), acc2_non0"),
        (f"{HEADER},key,evidence", [f"{ROW},f1_non0,hearsay"], r"unknown evidence 'hearsay'; allowed: \(empty\), def"),
        (f"{HEADER},key,evidence", [f"{ROW},mae,stated"], "unknown key of f1 on mosi 'mae'; allowed: f1_non0, f1_has0"),
    ],
)
def test_malformed_files_are_told_what_is_wrong(tmp_path, header, rows, message):
    with pytest.raises(MSABenchError, match=message) as caught:
        read_numbers(file(tmp_path, *rows, header=header))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_no_text(tmp_path):
    with pytest.raises(MSABenchError, match=r"none\.csv cannot be read as CSV: .*No such file"):
        read_numbers(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MSABenchError, match=r"binary\.csv cannot be read as CSV: 'utf-8' codec"):
        read_numbers(tmp_path / "binary.csv")
    with pytest.raises(
        MSABenchError, match=r"there is no folder .*nowhere with published numbers; leave it out for those of msabench"
    ):
        load_published(tmp_path / "nowhere")


def test_prose_may_say_a_thing_twice(tmp_path):
    rows = ["text,mosi,recap,avg_intra,delta_f1,4.05"] * 2
    assert len(read_numbers(file(tmp_path, *rows, header=f"table,{HEADER}"))) == 2


def test_columns_are_documented():
    text = (PUBLISHED / "README.md").read_text(encoding="utf-8")
    for name in COLUMNS:
        assert f"`{name}`" in text


# Readings.


def test_readings_are_what_a_printed_name_can_stand_for():
    assert readings("mosi", "f1_neg_pos") == ("f1_non0", "f1_non0_swapped")
    assert readings("mosei", "f1_neg_nonneg") == ("f1_has0", "f1_has0_swapped")
    assert readings("mosi", "acc2") == ("acc2_non0", "acc2_has0")
    assert readings("sims", "f1") == ("f1", "f1_swapped")
    assert readings("iemocap", "f1", "sad") == ("f1_sad", "f1_sad_swapped")
    assert readings("mosi", "acc7") == ("acc7",)
    assert readings("mosi", "f1_has0_swapped") == ("f1_has0_swapped",)
    assert readings("mosi", "cluster_variance") == ()
    for name in PRINTED:
        for dataset in SHIPPED:
            assert set(readings(dataset, name)) <= set(METRICS)


# Constants.


def test_constants_have_the_known_scores():
    known = {
        ("mosi", "negative", "acc2_has0"): 55.25,
        ("mosi", "negative", "f1_has0"): 39.32,
        ("mosi", "negative", "f1_has0_swapped"): 71.17,
        ("mosi", "non-negative", "f1_has0"): 27.67,
        ("mosi", "negative", "f1_non0"): 42.31,
        ("mosi", "positive", "f1_non0_swapped"): 59.38,
        ("mosei", "non-negative", "acc2_has0"): 71.02,
        ("mosei", "non-negative", "f1_has0"): 58.99,
        ("mosei", "positive", "f1_non0"): 48.51,
        ("mosei", "negative", "f1_non0"): 20.12,
        ("sims", "non-positive", "acc2"): 69.37,
        ("sims", "non-positive", "f1"): 56.82,
        ("sims", "non-positive", "f1_swapped"): 81.91,
        ("sims", "positive", "f1"): 14.37,
    }
    found = {
        (d, s.class_name, s.key): round(s.percent, 2) for d in ("mosi", "mosei", "sims") for s in constant_scores(d)
    }
    assert {place: found[place] for place in known} == known
    assert len(found) == 12 + 12 + 6
    assert constant_scores("iemocap") == []
    assert constant_scores("a_corpus_of_ones_own") == []


counts = st.tuples(st.integers(1, 60), st.integers(0, 30), st.integers(1, 60))


@given(counts, st.sampled_from(["mosi", "sims"]))
def test_constant_scores_are_those_of_constant_predictions(given_counts, dataset):
    metric_set = SHIPPED[dataset].metric_set
    labels = np.repeat([-0.5, 0.0, 0.5], given_counts)
    answers = {"negative": -1.0, "non-positive": -1.0, "non-negative": 1.0, "positive": 1.0}
    for score in constant_scores(dataset, given_counts):
        scored = compute(metric_set, labels, np.full(labels.shape, answers[score.class_name]))
        assert score.value == pytest.approx(scored[score.key], abs=1e-12)


@given(st.floats(0.01, 1))
def test_swapping_never_lowers_a_constants_f1(share):
    assert swapped_f1_of_constant(share) == pytest.approx(f1_of_constant(share) / share)
    assert f1_of_constant(share) <= share + 1e-12
    assert swapped_f1_of_constant(share) >= share - 1e-12


def test_constants_explain_sixteen_printed_numbers(numbers):
    found = Counter()
    for number in numbers:
        for score in explaining(number):
            found[number.paper, number.table, number.dataset, number.method, score.class_name, score.key] += 1
    assert found == {
        ("prlf", "1", "mosi", "tetfn", "negative", "f1_has0"): 3,
        ("prlf", "1", "mosei", "misa", "non-negative", "f1_has0"): 3,
        ("prlf", "1", "mosei", "tetfn", "non-negative", "f1_has0"): 1,
        ("prlf", "2", "sims", "misa", "non-positive", "f1"): 1,
        ("prlf", "2", "sims", "tetfn", "non-positive", "f1"): 3,
        ("prlf", "2", "sims", "almt", "non-positive", "f1_swapped"): 2,
        ("prlf", "2", "sims", "lnln", "non-positive", "f1_swapped"): 3,
    }


def test_only_metrics_that_a_name_can_stand_for_explain_it(tmp_path):
    rows = [
        "mosi,a,inter/l,f1_neg_nonneg,39.32",
        "mosi,b,inter/l,f1_neg_pos,39.32",
        "mosi,c,inter/l,acc7,39.32",
        "mosi,d,inter/l,delta_f1,39.32",
        "mosi,e,inter/l,f1,39.31",
        "mosi,f,inter/l,f1,39.3",
        "mosi,g,inter/l,acc2,55.25",
        "mosi,h,inter/l,f1_has0,39.32",
        "mosi,i,inter/l,f1_has0_swapped,39.32",
    ]
    explained = [number.method for number in read_numbers(file(tmp_path, *rows)) if explaining(number)]
    assert explained == ["a", "g", "h"]

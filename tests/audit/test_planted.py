"""Tables with one planted error each, and with what only looks like one."""

from dataclasses import replace

import pytest

from msabench.audit.finding import Finding
from msabench.audit.run import KINDS, run_audit
from msabench.published.numbers import read_numbers
from tests.support.printed_tables import changed, number, truthful, write


@pytest.fixture(scope="module", autouse=True)
def no_label_files(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSABENCH_DATA", str(tmp_path_factory.mktemp("data")))
        yield


LOUD = ("error", "warning")


def found_in(tmp_path, numbers) -> dict[str, Finding]:
    path = write(tmp_path / "mine.csv", numbers)
    return {finding.id: finding for finding in run_audit(read_numbers(path))}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_truthful_table_is_quiet(tmp_path, seed):
    found = found_in(tmp_path, truthful(seed))
    assert [name for name, finding in found.items() if finding.severity in LOUD] == []


def planted(value, **where):
    """The truthful table with another value somewhere, without the averages that no longer fit."""
    averages = {"cell": "avg_missing", "metric": where["metric"]}
    kept = [n for n in truthful() if any(getattr(n, name) != wanted for name, wanted in averages.items())]
    return changed(kept, value, **where)


def base_row(paper="theirs", **fields):
    return [replace(n, paper=paper, **fields) for n in truthful() if n.method == "base"]


def collapsed(values, metric="f1_neg_nonneg"):
    numbers = [n for n in truthful() if n.metric != metric.replace("f1", "acc2")]
    numbers = [n for n in numbers if not (n.method == "base" and n.metric == metric and n.cell == "avg_missing")]
    for cell, value in zip(("inter/a", "inter/v", "inter/av"), values, strict=True):
        numbers = changed(numbers, value, method="base", metric=metric, cell=cell)
    return numbers


def swapped_row(metric="f1_neg_pos", accuracy="acc2_neg_pos"):
    """One row whose F1, 78.0 at accuracy 70, needs exchanged arguments."""
    numbers = [n for n in truthful() if n.metric not in ("f1_neg_pos", "acc2_neg_pos") and n.cell != "avg_missing"]
    return [*numbers, number("70.00", metric=accuracy), number("78.00", metric=metric)]


def one_order_each():
    pairs = (("base", "70.00", "64.00"), ("ours", "70.00", "78.00"))
    return [
        number(value, metric=metric, method=method)
        for method, accuracy, f1 in pairs
        for metric, value in (("acc2_neg_pos", accuracy), ("f1_neg_pos", f1))
    ]


PLANTED = {
    "average": (
        lambda: changed(truthful(), "70.00", method="base", metric="f1_neg_pos", cell="avg_missing"),
        *("average:mine:1:mosi:base:avg_missing:f1_neg_pos", "proven"),
    ),
    "average of another precision": (
        # Fits 66.52 only if it was printed with one digit on purpose.
        lambda: [
            *(number(v, cell=c, metric="f1") for c, v in {"inter/l": "70.11", "inter/a": "60.12"}.items()),
            *(number(v, cell=c, metric="f1") for c, v in {"inter/v": "60.13", "inter/la": "71.14"}.items()),
            *(number(v, cell=c, metric="f1") for c, v in {"inter/lv": "72.15", "inter/av": "65.46"}.items()),
            *(
                number(v, cell=c, metric="f1", method="b")
                for c, v in {"inter/l": "70.11", "avg_missing": "70.22"}.items()
            ),
            number("66.5", cell="avg_missing", metric="f1"),
        ],
        *("average:mine:1:mosi:ours:avg_missing:f1", "inferred"),
    ),
    "contradiction": (
        lambda: [*truthful(), number("70.00", table="2", method="base", metric="f1_neg_pos")],
        *("contradiction:mine:1:mosi:base:inter/l:f1_neg_pos", "proven"),
    ),
    "contradiction of complete and intra/0.0": (
        lambda: [
            number("70.00", table="1", cell="inter/lav", protocol="complete"),
            number("71.00", table="2", cell="intra/0.0"),
        ],
        *("contradiction:mine:1:mosi:ours:inter/lav:f1_neg_pos", "proven"),
    ),
    "contradiction by one unit": (
        lambda: [number("70.01", table="1"), number("70.02", table="2")],
        *("contradiction:mine:1:mosi:ours:inter/l:f1_neg_pos", "inferred"),
    ),
    "contradiction without a protocol": (
        lambda: [*truthful(), number("50.00", table="2", method="base", metric="f1")],
        *("contradiction:mine:2:mosi:base:inter/l:f1", "inferred"),
    ),
    "disagreement": (
        lambda: [*truthful(), number("70.00", paper="theirs", method="base", metric="f1_neg_pos")],
        *("disagreement:mine:1:mosi:base:inter/l:f1_neg_pos", "inferred"),
    ),
    "accuracy order": (
        lambda: planted("10.00", method="base", metric="acc5", cell="inter/la"),
        *("accuracy_order:mine:1:mosi:base:inter/la:acc5", "proven"),
    ),
    "impossible pair": (
        lambda: planted("95.00", method="base", metric="f1_neg_pos", cell="inter/la"),
        *("impossible_pair:mine:1:mosi:base:inter/la:f1_neg_pos", "proven"),
    ),
    "impossible pair of an open protocol": (
        lambda: [number("60.00", metric="acc2"), number("95.00", metric="f1")],
        *("impossible_pair:mine:1:mosi:ours:inter/l:f1", "inferred"),
    ),
    "argument order of a plain name": (
        swapped_row,
        *("argument_order:mine:1:mosi:ours:inter/l:f1_neg_pos", "inferred"),
    ),
    "argument order of a declared key": (
        lambda: swapped_row("f1_non0", "acc2_non0"),
        *("argument_order:mine:1:mosi:ours:inter/l:f1_non0", "proven"),
    ),
    "argument order of a key that declares the exchange": (
        lambda: [number("70.00", metric="acc2_non0"), number("64.00", metric="f1_non0_swapped")],
        *("argument_order:mine:1:mosi:ours:inter/l:f1_non0_swapped", "proven"),
    ),
    "mixed metric": (one_order_each, *("mixed_metric:mine:1:mosi:f1_neg_pos:order", "inferred")),
    "constant beats": (
        lambda: [
            *(number(v, dataset="sims", metric=m) for m, v in {"acc2": "72.00", "f1": "79.00"}.items()),
            number("71.00", dataset="sims", metric="f1", method="base"),
        ],
        *("constant_beats:mine:1:sims:f1", "inferred"),
    ),
    "constant": (
        lambda: collapsed(("39.32", "60.00", "61.00")),
        *("constant:mine:1:mosi:base:inter/a:f1_neg_nonneg", "inferred"),
    ),
    "constant row": (
        lambda: collapsed(("39.40", "39.60", "40.10")),
        *("constant_row:mine:1:mosi:base", "inferred"),
    ),
    "near a constant": (
        lambda: collapsed(("39.40", "60.00", "61.00")),
        *("constant_near:mine:1:mosi:base:inter/a:f1_neg_nonneg", "inferred"),
    ),
    "worse than a constant": (
        lambda: collapsed(("30.00", "60.00", "61.00")),
        *("worse_than_constant:mine:1:mosi:base", "inferred"),
    ),
    "copy": (lambda: [*truthful(), *base_row()], *("copy:mine:1:theirs:1", "inferred")),
    "repeated row": (
        lambda: [*truthful(), *base_row("mine", table="2", method="other")],
        *("repeated_row:mine:mosi:table:1:mosi:base=table:2:mosi:other", "inferred"),
    ),
    "repeated value": (
        lambda: planted("77.77", metric="f1_neg_pos", cell="inter/l"),
        *("repeated_value:mine:1:mosi:inter/l:f1_neg_pos:77.77:base", "inferred"),
    ),
    "one model": (
        lambda: [
            number(v, table=t, cell=c, variant=w, protocol=p)
            for w, v in (("a", "80.11"), ("b", "81.22"))
            for t, c, p in (("1", "inter/lav", "inter"), ("2", "intra/0.0", "intra"))
        ],
        *("one_model:mine:1:mosi:ours:inter/lav", "inferred"),
    ),
    "better without language": (
        lambda: planted("0.950", method="base", metric="corr", cell="inter/a"),
        *("without_language:mine:1:mosi:base:corr", "inferred"),
    ),
    "an error that is too low": (
        lambda: [
            number(value, metric=metric, variant=variant, protocol="fixed", cell=cell)
            for variant, cell, row in (
                ("default", "inter/lav", {"mae": "0.870", "corr": "0.69", "acc7": "39.0"}),
                ("vision", "inter/v", {"mae": "0.720", "corr": "0.42", "acc7": "34.0"}),
            )
            for metric, value in row.items()
        ],
        *("mae_against_corr:mine:1:mosi:ours/vision:inter/v:mae", "inferred"),
    ),
    "another scale": (
        lambda: [*truthful(), number("0.300", paper="theirs", method="x", metric="mae")],
        *("scale:mine:mosi:inter/l:mae:theirs:mine", "inferred"),
    ),
    "underline": (
        lambda: [
            replace(n, note="underlined (second best)")
            if (n.method, n.cell, n.metric) == ("ours", "inter/l", "mae")
            else n
            for n in planted("0.100", method="ours", metric="mae", cell="inter/l")
        ],
        *("underline:mine:1:mosi:ours:inter/l:mae", "inferred"),
    ),
    "not best": (
        lambda: [replace(n, paper="ours") for n in planted("10.00", method="ours", metric="acc7", cell="inter/l")],
        *("not_best:ours:1:mosi:ours:inter/l:acc7", "inferred"),
    ),
}
"""Planted error -> the table, the id of what must be found, and its certainty."""


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_error_is_found(tmp_path, what):
    numbers, name, certainty = PLANTED[what]
    found = found_in(tmp_path, numbers())
    assert name in found, sorted(found)
    assert found[name].certainty == certainty
    if certainty == "inferred":
        assert [f.id for f in found.values() if f.certainty == "proven"] == []


def test_every_kind_without_claims_is_planted():
    planted = {name.partition(":")[0] for _, name, _ in PLANTED.values()}
    assert planted == set(KINDS) - {"claim", "withdrawn"}


def test_an_average_in_prose_is_held_against_the_table(tmp_path):
    cells = [number(f"{70 + tenth}.10", table="3", cell=f"intra/0.{tenth}", metric="f1") for tenth in range(10)]
    prose = number("74.60", table="text", cell="avg_intra", metric="f1", protocol="intra_mean")
    assert not any(f.kind == "average" for f in found_in(tmp_path, [*cells, prose]).values())
    found = found_in(tmp_path, [*cells, replace(prose, value="75.60")])
    assert found["average:mine:text:mosi:ours:avg_intra:f1"].certainty == "proven"


def test_an_average_that_is_not_printed_with_its_cells_is_passed_over(tmp_path):
    cells = [number("70.00", cell=cell, metric="f1") for cell in ("inter/l", "inter/a")]
    assert found_in(tmp_path, [*cells, number("50.00", cell="avg_missing", metric="f1")]) == {}


@pytest.mark.parametrize(
    "numbers",
    [
        # Printed with fewer digits elsewhere.
        [number("70.04", table="1"), number("70.0", table="2"), number("70", table="3")],
        [number("0.637", table="1", metric="corr"), number("0.64", table="2", metric="corr")],
        # Trained on one set of modalities, or only tested on it.
        [number("70.00", table="1", protocol="fixed"), number("60.00", table="2")],
        # Another alignment, another emotion, prose that restates a table.
        [number("70.00", features="aligned"), number("60.00", features="unaligned")],
        [
            number("70.0", dataset="iemocap", emotion="sad", metric="f1"),
            number("60.0", dataset="iemocap", emotion="happy", metric="f1"),
        ],
        [number("70.00"), number("70.00", table="text")],
        # A difference stated in prose.
        [number("70.00"), number("2.00", table="text", metric="delta_f1_neg_pos")],
    ],
)
def test_what_is_no_contradiction(tmp_path, numbers):
    assert not any(f.kind == "contradiction" for f in found_in(tmp_path, numbers).values())


def test_a_row_with_fewer_digits_is_judged_by_its_own(tmp_path):
    cells = {"inter/l": "70.1", "inter/a": "60.1", "inter/v": "60.1", "inter/la": "71.1", "inter/lv": "70.1"}
    row = [number(value, cell=cell, metric="f1") for cell, value in {**cells, "inter/av": "65.3"}.items()]
    finer = number("66.25", cell="avg_missing", metric="f1", method="other")
    # The mean is 66.13; at two places 66.2 would be 66.20.
    found = found_in(tmp_path, [*row, finer, number("66.2", cell="avg_missing", metric="f1")])
    assert [f.severity for f in found.values() if f.kind == "average"] == ["note"]


def test_a_coarser_number_is_not_called_worse(tmp_path):
    numbers = [number("59", method="mine", metric="acc7"), number("59.30", method="base", metric="acc7")]
    assert not any(f.kind == "not_best" for f in found_in(tmp_path, numbers).values())
    finer = [replace(n, value="59.00") if n.value == "59" else n for n in numbers]
    assert any(f.kind == "not_best" for f in found_in(tmp_path, finer).values())


def test_one_cell_on_a_constant_is_no_collapsed_row(tmp_path):
    assert not any(
        f.kind == "constant_row" for f in found_in(tmp_path, collapsed(("39.32", "60.00", "61.00"))).values()
    )
    twice = found_in(tmp_path, collapsed(("39.32", "60.00", "39.32")))
    assert "constant_row:mine:1:mosi:base" in twice


def test_rounding_may_go_either_way(tmp_path):
    cells = {"inter/l": "70.00", "inter/a": "60.00", "inter/v": "60.00", "inter/la": "71.00", "inter/lv": "70.00"}
    for last, average in (("65.03", "66.00"), ("65.03", "66.01"), ("65.09", "66.02"), ("65.09", "66.01")):
        numbers = [number(value, cell=cell, metric="f1") for cell, value in {**cells, "inter/av": last}.items()]
        found = found_in(tmp_path, [*numbers, number(average, cell="avg_missing", metric="f1")])
        assert not any(f.certainty == "proven" for f in found.values())

"""Claims in prose as data, each kind kept and broken."""

from dataclasses import replace

import pytest

from msabench.audit.claims import CHECKS, CLAIMS_FILE, load_claims
from msabench.audit.run import run_audit
from msabench.errors import MSABenchError
from tests.support.printed_tables import number

HEADER = "name,paper,table,check,dataset,features,cell,emotion,metric,subject,against,stated,text"


def cell(value, method="ours", variant="default", **fields):
    return number(value, method=method, variant=variant, **{"metric": "f1", **fields})


@pytest.fixture(autouse=True)
def no_label_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MSABENCH_DATA", str(tmp_path / "none"))


def claims_of(tmp_path, *lines):
    (tmp_path / CLAIMS_FILE).write_text("\n".join([HEADER, *lines, ""]), encoding="utf-8")
    return load_claims(tmp_path)


TWO = [cell("80.00"), cell("77.50", "base"), cell("79.00", "rival")]
STEPS = [cell("70.00", variant="one"), cell("71.00", variant="two"), cell("72.00")]
DROPS = [cell("80.00"), cell("70.00", variant="wo_a"), cell("75.00", variant="wo_b")]
PAIR = [cell("74.00", metric="acc2_neg_pos"), cell("73.00", metric="f1_neg_pos")]

CASES = {
    "best": (
        *("c,mine,1,best,,,,,,ours,others,,best", TWO, [cell("80.00"), cell("81.50", "base")]),
        *("not_best:mine:1:mosi:ours:inter/l:f1", "proven"),
    ),
    "better": (
        *("c,mine,1,better,mosi,,,,f1,ours,base,,better", TWO, [cell("77.00"), cell("77.50", "base")]),
        *("claim:mine:1:mosi:ours:inter/l:f1:c", "proven"),
    ),
    "gain": (
        *("c,mine,1,gain,mosi,,inter/l,,f1,ours,base,2.50,gains", TWO, [cell("80.00"), cell("77.40", "base")]),
        *("claim:mine:1:mosi:ours:inter/l:f1:c", "proven"),
    ),
    "gain_over_best": (
        "c,mine,1,gain_over_best,mosi,,,,f1,ours,base,2.50,gains",
        [cell("80.00"), cell("77.50", "base"), cell("77.00", "rival")],
        TWO,
        *("claim:mine:1:mosi:ours:inter/l:f1:c", "inferred"),
    ),
    "rising": (
        "c,mine,1,rising,mosi,,,,f1,ours,ours/one ours/two ours/default,,rises",
        STEPS,
        [replace(n, value="73.00") if n.variant == "two" else n for n in STEPS],
        *("claim:mine:1:mosi:ours:inter/l:f1:c", "proven"),
    ),
    "largest_drop": (
        "c,mine,1,largest_drop,mosi,,,,f1,ours/wo_a,ours,,costs most",
        DROPS,
        [replace(n, value="69.00") if n.variant == "wo_b" else n for n in DROPS],
        *("claim:mine:1:mosi:ours/wo_a:inter/l:f1:c", "proven"),
    ),
    "value": (
        *("c,mine,1,value,mosi,,inter/l,,f1,ours,,80,about 80", [cell("79.60")], [cell("79.30")]),
        *("claim:mine:1:mosi:ours:inter/l:f1:c", "proven"),
    ),
    "count": (
        *("c,mine,1,count,,,,,,,ours base,2,two methods", TWO, [cell("80.00"), cell("79.00", "rival")]),
        *("claim:mine:1:c", "proven"),
    ),
    "metric_name": (
        "c,mine,1,metric_name,mosi,,,,,ours,accuracy,80.00,accuracy",
        [cell("80.00", metric="acc2_neg_pos")],
        TWO,
        *("claim:mine:1:mosi:ours:inter/l:f1:c", "inferred"),
    ),
    "sum": (
        *("c,mine,,sum,mosi,,,,,,1284 229 686,2199,clips", TWO, None),
        *("claim:mine:mosi:c", "proven"),
    ),
    "corpus_size": (
        *("c,mine,,corpus_size,mosi,,,,,,,2199,clips", TWO, None),
        *("claim:mine:mosi:c", "inferred"),
    ),
    "significant": (
        "c,mine,1,significant,mosi,,,,f1,ours,base,10,significant",
        [cell("80.00", mark="*"), cell("77.50", "base")],
        [cell("77.55", mark="*"), cell("77.50", "base")],
        *("claim:mine:1:mosi:ours:inter/l:f1:c", "inferred"),
    ),
    "own_runs": (
        "c,mine,1,own_runs,,,,,f1,theirs,base,,own runs",
        [cell(f"7{i}.1{i}", "base", cell=c) for i, c in enumerate(("inter/l", "inter/a", "inter/v"))]
        + [cell(f"7{i}.3{i}", "base", paper="theirs", cell=c) for i, c in enumerate(("inter/l", "inter/a", "inter/v"))],
        [
            cell(f"7{i}.1{i}", "base", paper=paper, cell=c)
            for paper in ("mine", "theirs")
            for i, c in enumerate(("inter/l", "inter/a", "inter/v"))
        ],
        *("claim:mine:1:c", "inferred"),
    ),
    "withdrawn": (
        *("c,mine,1,withdrawn,mosi,,,,f1,ours,80.00,75.00,withdrawn", [cell("75.00")], TWO),
        *("withdrawn:mine:1:mosi:ours:inter/l:f1:c", "inferred"),
    ),
    "weighted_f1": (
        "c,mine,1,weighted_f1,,,,,f1_neg_pos,,,,weighted",
        PAIR,
        [replace(n, value="78.00") if n.metric.startswith("f1") else n for n in PAIR],
        *("argument_order:mine:1:mosi:ours:inter/l:f1_neg_pos", "proven"),
    ),
}
"""Check -> claim, numbers that bear it out, numbers that break it, the id of what is then found, its certainty."""


def test_every_check_has_a_case():
    assert set(CASES) == set(CHECKS)


@pytest.mark.parametrize("check", CASES)
def test_a_claim_is_kept_or_broken(tmp_path, check):
    line, kept, broken, name, certainty = CASES[check]
    if broken is None:
        # About the corpus, not about a table.
        broken, line_broken = kept, line.replace(",2199,", ",2198,")
    else:
        line_broken = line
    assert name not in {f.id for f in run_audit(kept, claims_of(tmp_path, line))}
    found = {f.id: f for f in run_audit(broken, claims_of(tmp_path, line_broken))}
    assert found[name].certainty == certainty
    assert line_broken.rpartition(",")[2] in found[name].rule + found[name].expected or check == "weighted_f1"


def test_swapped_order_is_inferred_where_nothing_is_claimed():
    broken = CASES["weighted_f1"][2]
    found = {f.id: f for f in run_audit(broken)}
    assert found["argument_order:mine:1:mosi:ours:inter/l:f1_neg_pos"].certainty == "inferred"


def test_rounding_keeps_a_gain(tmp_path):
    claims = claims_of(tmp_path, "c,mine,1,gain,mosi,,,,f1,ours,base,2.5,gains")
    for value, expected in (("77.43", True), ("77.44", False), ("77.56", False), ("77.57", True)):
        found = run_audit([cell("80.00"), cell(value, "base")], claims)
        assert any(f.kind == "claim" for f in found) == expected, value


def test_less_error_is_a_gain(tmp_path):
    claims = claims_of(tmp_path, "c,mine,1,gain,mosi,,,,mae,ours,base,0.100,gains")
    assert run_audit([cell("0.800", metric="mae"), cell("0.900", "base", metric="mae")], claims) == []
    assert run_audit([cell("0.900", metric="mae"), cell("0.800", "base", metric="mae")], claims) != []


def test_claims_of_other_papers_are_passed_over(tmp_path):
    claims = claims_of(tmp_path, "c,theirs,1,better,mosi,,,,f1,ours,base,,better")
    assert run_audit([cell("80.00")], claims) == []


def test_a_claim_without_its_numbers_is_an_error(tmp_path):
    claims = claims_of(tmp_path, "c,mine,1,better,mosi,,,,f1,ours,base,,better")
    with pytest.raises(MSABenchError, match="claim 'c' of mine needs row 'base' of table 1; there are none"):
        run_audit([cell("80.00")], claims)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c,mine,1,worse,,,,,,ours,base,,x", "line 2: unknown check 'worse'; allowed: best, better"),
        ("c,mine,1,gain,,,,,,ours,base,much,x", "line 2: stated 'much' is not a plain decimal number"),
        ("c,mine,1,best,,,,,,ours,some,,x", "line 2: unknown against 'some'; allowed: others, all"),
        ("c,mine,1,sum,,,,,,,1 two,3,x", "line 2: against '1 two' is not a list of numbers"),
        (",mine,1,best,,,,,,ours,all,,x", "line 2: name or paper is empty"),
        ("c,mine,1,best", "line 2 has 4 fields; expected 13"),
        ("c,mine,1,best,,,,,,o,all,,x\nc,mine,1,best,,,,,,o,all,,x", "line 3: there is another claim 'c'"),
    ],
)
def test_bad_claims_are_one_sentence(tmp_path, line, message):
    with pytest.raises(MSABenchError, match=message):
        claims_of(tmp_path, line)


def test_bad_claim_files(tmp_path):
    with pytest.raises(MSABenchError, match="cannot be read as CSV"):
        load_claims(tmp_path)
    (tmp_path / CLAIMS_FILE).write_text("name,paper\n", encoding="utf-8")
    with pytest.raises(MSABenchError, match="has the columns name, paper; expected name, paper, table"):
        load_claims(tmp_path)

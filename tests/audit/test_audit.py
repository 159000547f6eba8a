"""What the audit finds in the published numbers, and how the command says it."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from msabench.__main__ import dispatch
from msabench.audit.claims import load_claims
from msabench.audit.command import audit
from msabench.audit.finding import CERTAINTIES, SEVERITIES, Finding
from msabench.audit.run import KINDS, run_audit
from msabench.published.numbers import PAPERS, load_published, read_numbers
from msabench.published.second_hand import SECOND_HAND, load_second_hand
from tests.support.printed_tables import changed, truthful, write

PUBLISHED = Path(__file__).parents[2] / "leaderboard/published"


@pytest.fixture(scope="module", autouse=True)
def no_label_files(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSABENCH_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="module")
def published(no_label_files):
    return load_published(PUBLISHED)


@pytest.fixture(scope="module")
def every_finding(published):
    """Those of the command, which reads second-hand numbers as well."""
    numbers = [*published, *load_second_hand(PUBLISHED)]
    return {finding.id: finding for finding in run_audit(numbers, load_claims(PUBLISHED))}


@pytest.fixture(scope="module")
def findings(published):
    return {finding.id: finding for finding in run_audit(published, load_claims(PUBLISHED))}


def test_counts_per_kind(findings):
    counts = Counter((f.kind, f.certainty) for f in findings.values())
    assert dict(counts) == {
        ("average", "proven"): 2,
        ("average", "inferred"): 2,
        ("contradiction", "proven"): 3,
        ("contradiction", "inferred"): 6,
        ("disagreement", "inferred"): 6,
        ("accuracy_order", "proven"): 2,
        ("argument_order", "proven"): 14,
        ("argument_order", "inferred"): 8,
        ("claim", "proven"): 11,
        ("claim", "inferred"): 7,
        ("withdrawn", "inferred"): 4,
        ("not_best", "proven"): 35,
        ("not_best", "inferred"): 23,
        ("mixed_metric", "proven"): 5,
        ("mixed_metric", "inferred"): 5,
        ("constant_beats", "inferred"): 3,
        ("constant_row", "inferred"): 11,
        ("constant", "inferred"): 16,
        ("constant_near", "inferred"): 81,
        ("worse_than_constant", "inferred"): 16,
        ("copy", "inferred"): 3,
        ("repeated_row", "inferred"): 2,
        ("repeated_value", "inferred"): 15,
        ("one_model", "inferred"): 1,
        ("without_language", "inferred"): 5,
        ("mae_against_corr", "inferred"): 4,
        ("scale", "inferred"): 5,
        ("underline", "inferred"): 3,
    }
    assert {f.kind for f in findings.values()} | {"impossible_pair"} == set(KINDS)


def test_findings_are_complete_and_in_order(findings, published):
    assert len(findings) == 298
    for name, finding in findings.items():
        assert finding.id == name
        assert finding.certainty in CERTAINTIES
        assert finding.severity in SEVERITIES
        assert finding.printed
        assert finding.rule
        assert finding.proof
    papers = [finding.paper for finding in findings.values()]
    assert papers == sorted(papers, key=PAPERS.index)


KNOWN = {
    # Averages.
    "average:prlf:1:mosi:prlf:avg_missing:f1": ("proven", "77.02", "77.11"),
    "average:prlf:2:sims:lnln:avg_missing:f1": ("proven", "80.86", "80.88"),
    "average:prlf:1:mosei:prlf:avg_missing:f1": ("inferred", "76.24", "76.25"),
    "average:prlf:2:sims:emoe:avg_missing:f1": ("inferred", "80.12", "80.13"),
    # One setting, several values.
    "contradiction:prlf:1:mosi:prlf:avg_missing:f1": ("proven", "prlf table 4: 77.11", ""),
    "contradiction:prlf:3:mosi:prlf:intra/0.9:f1": ("proven", "prlf table 3: 58.64; prlf prose: 60", ""),
    "contradiction:kt:II:mosei:aligned:kt:inter/lv:corr": ("proven", "kt table IV: 0.630", ""),
    "contradiction:recap:1:mosi:recap:avg_intra:acc7": ("inferred", "recap table 3: 35.07", ""),
    "contradiction:recap:3:mosi:recap:avg_intra:acc2": ("inferred", "acc2_neg_pos 74.60", ""),
    "disagreement:prlf:text:sims:lnln:avg_intra:f1": ("inferred", "recap table 2: 79.43", ""),
    # Copies and repetitions.
    "copy:fsrf:I:umdf:1": ("inferred", "96 equal values", "as in umdf table 1"),
    "copy:prlf:1:fsrf:I": ("inferred", "32 equal values", "as in fsrf table I"),
    "repeated_row:recap:1:tetfn:table:1:mosi:tetfn=table:1:mosei:tetfn": ("inferred", "6 of 8", "acc5 34.34 and 47.70"),
    "repeated_value:recap:1:tfr_net:avg_intra:acc5:34.67": ("inferred", "34.67", ""),
    "repeated_value:prlf:emoe:inter/l:f1:78.66": ("inferred", "table 2 sims emoe", ""),
    "one_model:prlf:3:mosi:prlf:inter/lav": ("inferred", "step5 84.49", "as in table 4"),
    # Constant answers.
    "constant:prlf:1:mosi:tetfn:inter/av:f1": ("inferred", "39.32", "always negative under f1_has0, 39.32"),
    "constant:prlf:1:mosei:misa:inter/a:f1": ("inferred", "58.99", "always non-negative under f1_has0, 58.99"),
    "constant:prlf:2:sims:tetfn:inter/v:f1": ("inferred", "56.82", "always non-positive under f1, 56.82"),
    "constant:prlf:2:sims:lnln:inter/a:f1": ("inferred", "81.91", "always non-positive under f1_swapped, 81.91"),
    "constant_row:prlf:2:sims:prlf": ("inferred", "inter/av 82.58", "f1_swapped, 81.91"),
    "constant_row:prlf:1:mosei:mmim": ("inferred", "inter/a 59,", "f1_has0, 58.99"),
    "constant_beats:prlf:2:sims:f1": ("inferred", "avg_missing prlf 81.19", "81.91"),
    "constant_beats:recap:2:sims:f1": ("inferred", "lnln 79.43", "81.91"),
    "constant_beats:recap:1:mosei:f1_neg_nonneg": ("inferred", "lnln 79.95", "83.06"),
    "worse_than_constant:prlf:1:mosi:mmim": ("inferred", "inter/v f1 31.53", "39.32"),
    "worse_than_constant:recap:2:sims:cenet": ("inferred", "acc2 68.13", "69.36"),
    "without_language:prlf:2:sims:prlf:f1": ("inferred", "inter/av 82.58", "at least 81.87 in correct order, 70.49"),
    # Argument order.
    "argument_order:recap:2:sims:recap:avg_intra:f1": ("proven", "acc2 74.37, f1 78.58", "to 75.38 in correct order"),
    "argument_order:recap:1:mosi:recap:avg_intra:f1_neg_nonneg": ("proven", "73.41", "to 73.36 in correct order"),
    "argument_order:kt:II:mosei:aligned:kt/vision_only:inter/v:f1": ("inferred", "acc2 66.4, f1 69.3", "to 68.00 in"),
    "mixed_metric:prlf:2:sims:f1:order": ("inferred", "swapped: almt, lnln, emoe, prlf", ""),
    "mixed_metric:prlf:1:mosei:f1:protocol": ("inferred", "has0: misa, tetfn, mmim; non0: self_mm", ""),
    "mixed_metric:recap:2:sims:f1:order": ("proven", "swapped: almt, lnln, recap", ""),
    "mixed_metric:kt:kt:f1:order": ("inferred", "table II mosei kt/vision_only", ""),
    # Other things that cannot be, or look wrong.
    "accuracy_order:recap:1:mosei:misa:avg_intra:acc5": ("proven", "acc5 39.39, acc7 40.84", "at least 40.84"),
    "accuracy_order:recap:1:mosei:tfr_net:avg_intra:acc5": ("proven", "acc5 34.67", "at least 46.83"),
    "mae_against_corr:kt:I:mosi:aligned:kt/vision_only:inter/v:mae": ("inferred", "mae 0.721", "mae 0.870"),
    "scale:umdf:mosei:inter/v:mae:kt:umdf": ("inferred", "at most kt/vision_only 0.756", ""),
    "underline:recap:2:sims:tf_mamba:avg_intra:corr": ("inferred", "lnln 0.397", ""),
    # Claims.
    "not_best:prlf:1:mosi:prlf:inter/la:f1": ("proven", "better: umdf 85.63", "the best"),
    "not_best:prlf:2:sims:prlf:inter/v:f1": ("inferred", "almt 81.91, lnln 81.91", ""),
    "not_best:umdf:2:iemocap:umdf:inter/lav:angry:f1": (
        "proven",
        "self_mm 88.4, cubemlp 87.2, transm 86.1",
        "the best",
    ),
    "not_best:kt:III:iemocap:aligned:kt:inter/lv:sad:f1": ("proven", "mfm 86.1", "the best"),
    "claim:fsrf:I:mosi:aligned:fsrf:inter/v:f1:fsrf-gain-v": ("proven", "fsrf 64.68, corrkd 60.72", "3.96"),
    "claim:fsrf:I:fsrf-five": ("proven", "5 stated", "3: self_mm, cubemlp, dmd"),
    "claim:fsrf:mosei:fsrf-mosei-sum": ("proven", "23454", "22856"),
    "claim:fsrf:I:mosei:aligned:fsrf:inter/lv:f1:fsrf-significant": ("inferred", "81.35*", "at most 0.08"),
    "claim:kt:II:mosei:aligned:kt:inter/lv:mae:kt-full": ("proven", "0.635", "0.623"),
    "claim:prlf:4:mosi:prlf:inter/lv:f1:prlf-steps-inter": ("proven", "prlf/step3 84.27, then prlf 84.13", "a rise"),
    "claim:recap:1:mosi:recap:avg_intra:acc7:recap-acc7-best": ("inferred", "2.71", "lnln 34.31: 1.75"),
    "claim:recap:2:sims:recap:avg_intra:f1:recap-f1-best": ("inferred", "6.38", "lnln 79.43: -0.85"),
    "withdrawn:recap:2:sims:lnln:avg_intra:f1:recap-lnln": ("inferred", "79.43", "69.18"),
}
"""Id -> certainty, and what must stand among the printed and the expected numbers."""


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(findings, name):
    certainty, printed, expected = KNOWN[name]
    finding = findings[name]
    assert finding.certainty == certainty
    assert printed in finding.printed
    assert expected in finding.expected


def test_only_arithmetic_is_proven(findings):
    kinds = {f.kind for f in findings.values() if f.certainty == "proven"}
    assert kinds == {
        *("average", "contradiction", "accuracy_order", "argument_order", "claim", "not_best", "mixed_metric"),
    }


def test_stated_differences_of_the_prose_are_claims(published):
    claims = load_claims(PUBLISHED)
    stated = {(c.paper, c.stated) for c in claims if c.check in ("gain", "gain_over_best")}
    assert {(n.paper, n.value) for n in published if n.is_delta} == stated


def test_proven_keys_of_the_data_are_what_the_pairs_prove(findings, published):
    swapped = {
        n.where for n in published if n.key.endswith("_swapped") and n.evidence == "proven" and n.table != "text"
    }
    found = [f for f in findings.values() if f.kind == "argument_order" and f.certainty == "proven"]
    assert len(swapped) == len(found)
    for number_ in published:
        if number_.where in swapped:
            assert f"argument_order:{number_.paper}:{number_.table}:{number_.dataset}:{number_.method}" in "".join(
                f.id for f in found
            )


# The command.


def run(*words: str, capsys) -> str:
    assert dispatch(["audit", *words]) == 0
    return capsys.readouterr().out


def test_text_starts_with_a_summary_and_is_grouped_by_paper(capsys, every_finding):
    text = run("--published", str(PUBLISHED), "--width", "100", capsys=capsys)
    lines = text.splitlines()
    assert lines[0].startswith("1940 numbers in ")
    severities = Counter(finding.severity for finding in every_finding.values())
    counts = ", ".join(f"{severities[name]} {name}s" for name in SEVERITIES)
    assert f"{len(every_finding)} findings ({counts}), 72 proven." in " ".join(lines[:3])
    heads = [line.partition(":")[0] for line in lines if line.partition(":")[0] in (*PAPERS, *SECOND_HAND)]
    assert heads == list(dict.fromkeys(finding.paper for finding in every_finding.values()))
    assert heads[: len(PAPERS)] == list(PAPERS)
    # Ids are not broken.
    assert all(len(line) <= 100 or len(max(line.split(), key=len)) > 60 for line in lines)
    assert all(finding.id in text for finding in every_finding.values())


def test_json_has_every_field(capsys, every_finding):
    content = json.loads(run("--published", str(PUBLISHED), "--format", "json", capsys=capsys))
    assert content["numbers"] == 1940
    assert content["papers"] == [*PAPERS, *SECOND_HAND]
    assert content["counts"]["average"] == {"proven": 2, "inferred": 2}
    assert [Finding(**entry) for entry in content["findings"]] == list(every_finding.values())


def test_kinds_and_severities_are_chosen(capsys):
    words = ("--published", str(PUBLISHED), "--format", "json", "--kind", "average", "copy")
    entries = json.loads(run(*words, capsys=capsys))["findings"]
    assert Counter(entry["kind"] for entry in entries) == {"average": 4, "copy": 3}
    entries = json.loads(run(*words, "--severity", "error", capsys=capsys))["findings"]
    assert Counter(entry["kind"] for entry in entries) == {"average": 2}


def test_own_numbers_are_compared_with_published_ones(tmp_path, published):
    copied = [replace(n, paper="mine", table="1") for n in published if n.paper == "umdf" and n.table == "1"]
    path = write(tmp_path / "mine.csv", [n for n in copied if n.method == "gcnet"])
    report = json.loads(audit(csv=path, format="json", published=PUBLISHED))
    assert "compared with 1940 numbers of other papers" in report["source"]
    assert {entry["paper"] for entry in report["findings"]} == {"mine"}
    copies = {entry["id"] for entry in report["findings"] if entry["kind"] == "copy"}
    assert copies == {"copy:mine:1:umdf:1", "copy:mine:1:fsrf:I"}


def test_a_version_of_a_paper_stands_for_that_paper(tmp_path, published):
    mine = [n for n in published if n.paper == "umdf" and n.table == "1"]
    path = write(tmp_path / "umdf.csv", changed(mine, "99.99", method="umdf", cell="inter/lav", metric="f1"))
    report = json.loads(audit(csv=path, format="json", published=PUBLISHED))
    assert not any(entry["kind"] == "contradiction" for entry in report["findings"])
    assert {entry["paper"] for entry in report["findings"]} == {"umdf"}


def test_own_numbers_are_compared_without_a_clone(elsewhere, published):
    path = write(elsewhere / "mine.csv", truthful())
    text = " ".join(audit(csv=path, severity="warning").split())
    assert text.startswith(f"{len(truthful())} numbers in ")
    assert f"compared with {len(published) + 318} numbers of other papers in " in text
    assert not [finding for finding in run_audit(read_numbers(path)) if finding.severity != "note"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dataset,method,cell,metric\n", "lacks the column 'value'"),
        ("dataset,method,cell,metric,value,colour\n", "unknown column 'colour'"),
        ("dataset,method,cell,metric,value\n", "holds no numbers"),
        ("dataset,method,cell,metric,value\nmosi,m,inter/l,f1,182\n", "line 2: f1 182 is out of range"),
        ("dataset,method,cell,metric,value\nmosi,m,inter/l,f1,8O.1\n", "line 2: value '8O.1' is not a plain decimal"),
        ("dataset,method,cell,metric,value\nmosi,m,inter/x,f1,80\n", "line 2: unknown modality condition 'x'"),
        ("dataset,method,cell,metric,value\nmosi,m,inter/l,f1,80\nmosi,m,inter/l,f1,81\n", "lines 2 and 3 both hold"),
        ('dataset,method,cell,metric,value\n"mosi,m\n', "cannot be read as CSV"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, content, message, monkeypatch, capsys):
    from msabench import __main__

    path = tmp_path / "bad.csv"
    path.write_text(content, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["msabench", "audit", "--csv", str(path)])
    assert __main__.main() == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("msabench: ")
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--csv", "nowhere.csv"], "nowhere.csv cannot be read as CSV"),
        (["--kind", "foo"], "unknown kind 'foo'; allowed: average, "),
        (["--published", "nowhere"], "there is no folder nowhere with published numbers"),
        (["--csv", "mine.csv", "--published", "nowhere"], "there is no folder nowhere with published numbers"),
        (["--format", "html"], "format"),
        (["--severity", "fatal"], "severity"),
    ],
)
def test_bad_words_are_one_sentence(words, message, monkeypatch, capsys):
    from msabench import __main__

    monkeypatch.setattr("sys.argv", ["msabench", "audit", *words])
    assert __main__.main() == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_audit_needs_neither_torch_nor_pandas():
    import subprocess
    import sys

    code = (
        "import sys; from msabench.audit.command import audit; from pathlib import Path; "
        f"audit(published=Path({str(PUBLISHED)!r})); "
        "print([name for name in ('torch', 'pandas', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

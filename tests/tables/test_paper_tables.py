"""Tables of papers: rebuilt as printed, and what may stand beside a printed number."""

import csv
import io
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.methods.registry import methods
from msabench.published.layouts import PAPER_TABLES, paper_tables
from msabench.published.numbers import PAPERS, load_published
from msabench.published.tables import with_datasets
from msabench.results import build
from msabench.results.places import STORE_VARIABLE
from msabench.results.store import ResultStore
from msabench.tables import reproductions
from msabench.tables.command import table as verb
from msabench.tables.output import FORMATS
from tests.support.html_rows import parsed
from tests.support.records import PAPER, add, fail
from tests.support.simulated_store import CELLS, simulate

REPOSITORY = Path(__file__).parents[2]
PUBLISHED = REPOSITORY / "leaderboard" / "published"
WIDE = 1000
EVERY = [(table.paper, table.label) for table in PAPER_TABLES]
TO_ONE = (*map(str, PAPER), "intra/1.0")


@pytest.fixture(autouse=True)
def no_default_store(monkeypatch):
    monkeypatch.setenv(STORE_VARIABLE, "nowhere")


def table(*arguments, **options):
    return verb(*arguments, **{"published": PUBLISHED, "width": WIDE, **options})


def sentiment(value, **more):
    keys = ("acc2_non0", "acc2_has0", "f1_non0", "f1_has0", "f1_non0_swapped", "f1_has0_swapped", "acc5", "acc7")
    return dict.fromkeys((*keys, "acc3", "mae", "corr"), value) | more


def sims(value, **more):
    return dict.fromkeys(("acc2", "f1", "f1_swapped", "acc3", "acc5", "mae", "corr"), value) | more


def rows_as_printed(paper, label):
    """(dataset, features) -> method and variant -> printed values with their marks, straight from the file."""
    blocks = {}
    with (PUBLISHED / f"{paper}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["table"] == label:
                name = row["method"] if row["variant"] == "default" else f"{row['method']}/{row['variant']}"
                rows = blocks.setdefault((row["dataset"], row["features"]), {})
                rows.setdefault(name, []).append(row["value"] + row["mark"])
    return [[[name, *values] for name, values in rows.items()] for rows in blocks.values()]


# Specifications.


def test_the_papers_tables_are_all_there():
    labels = {paper: [table.label for table in paper_tables(paper)] for paper in PAPERS}
    assert labels == {
        "prlf": ["1", "2", "3", "4", "5", "6"],
        "fsrf": ["I", "II"],
        "umdf": ["1", "2", "3"],
        "recap": ["1", "2", "3"],
        "kt": ["I", "II", "III", "IV", "V"],
    }


@pytest.mark.parametrize("spec", PAPER_TABLES, ids=lambda spec: spec.title)
def test_every_number_has_one_place_in_the_order_of_print(spec):
    printed = [n for n in load_published(PUBLISHED) if (n.paper, n.table) == (spec.paper, spec.label)]
    placed = spec.numbers_in(printed)
    assert sorted(placed) == sorted(spot for block in spec.blocks for spot in block.spots)
    assert len(placed) == len(printed)
    assert [number for block in spec.blocks for number in map(placed.get, block.spots)] == sorted(
        printed, key=lambda n: [(block.dataset, block.features) for block in spec.blocks].index((n.dataset, n.features))
    )
    for names, order in (
        ([(n.method, n.variant) for n in printed], [(r.method, r.variant) for b in spec.blocks for r in b.rows]),
        (
            [(n.emotion, n.cell, n.metric) for n in printed],
            [(c.emotion, b.cell(r, c), c.metric) for b in spec.blocks for r in b.rows for c in b.columns],
        ),
    ):
        assert list(dict.fromkeys(names)) == list(dict.fromkeys(order))


@pytest.mark.parametrize(("paper", "label"), EVERY)
def test_tables_are_rebuilt_as_printed(paper, label):
    expected = rows_as_printed(paper, label)
    for format, read in READERS.items():
        text = table(paper=paper, table=label, show="published", format=format)
        found = read(text)
        assert [[[word.removesuffix("§") for word in row] for row in block] for block in found] == expected, format


def from_text(text):
    parts = [part.split("\n\n")[0] for part in re.split(r"^-{9,}\n", text, flags=re.MULTILINE)[1:]]
    return [[line.split() for line in part.splitlines()] for part in parts]


def from_markdown(text):
    blocks = []
    for part in text.split("### ")[1:]:
        lines = [line for line in part.splitlines() if line.startswith("|")][2:]
        cells = [[word.strip() for word in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        plain = [[re.sub(r"^(\*\*|\*)(.*)\1$", r"\2", word).replace("\\*", "*") for word in row] for row in cells]
        blocks.append(plain)
    return blocks


def from_latex(text):
    blocks = []
    for part in text.split(r"\begin{table*}")[1:]:
        tabulars = re.findall(r"\\midrule\n(.*?)\\bottomrule", part, re.DOTALL)
        rows = {}
        for tabular in tabulars:
            for line in tabular.splitlines():
                name, *words = (word.strip() for word in line.removesuffix(r"\\").split("&"))
                plain = [re.sub(r"\\(?:textbf|underline)\{(.*)\}$", r"\1", word) for word in words]
                rows.setdefault(name.replace(r"\_", "_"), []).extend(
                    word.replace(r"\textsuperscript{\S}", "§") for word in plain
                )
        blocks.append([[name, *words] for name, words in rows.items()])
    return blocks


def from_html(text):
    return [
        [row for row in parsed(part).rows if row[0] != "method" and len(row) > 1][-n:]
        for part, n in ((part, part.count('scope="row"')) for part in text.split("\n\n"))
    ]


def from_csv(text):
    blocks = {}
    for row in csv.DictReader(io.StringIO(text)):
        name = row["method"] if row["variant"] == "default" else f"{row['method']}/{row['variant']}"
        blocks.setdefault((row["dataset"], row["features"]), {}).setdefault(name, []).append(row["printed"])
    return [[[name, *values] for name, values in rows.items()] for rows in blocks.values()]


READERS = {
    "text": from_text,
    "markdown": from_markdown,
    "latex": from_latex,
    "html": from_html,
    "csv": from_csv,
}


def changed(tmp_path, paper, change):
    """A copy of the published numbers with one file changed line by line."""
    shutil.copytree(PUBLISHED, tmp_path / "published")
    path = tmp_path / "published" / f"{paper}.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(filter(None, map(change, lines))) + "\n", encoding="utf-8")
    return tmp_path / "published"


def test_a_number_without_a_place_is_refused(tmp_path):
    numbers = changed(tmp_path, "umdf", lambda line: line.replace("smil", "smile"))
    with pytest.raises(
        MSABenchError, match="UMDF Table 1 has no row and column for umdf table 1, mosi, smile, inter/l"
    ):
        table(paper="umdf", published=numbers)
    assert "SIMS" in table(paper="prlf", table="2", published=numbers)


def test_a_number_that_is_not_there_leaves_a_gap(tmp_path):
    numbers = changed(
        tmp_path, "umdf", lambda line: None if "umdf,3,mosi,,umdf,wo_dfim,inter,inter/a," in line else line
    )
    rows = from_markdown(table(paper="umdf", table="3", format="markdown", published=numbers))[0]
    assert [row.count("") for row in rows] == [0, 0, 0, 0, 1]
    assert rows[-1][2] == ""


def test_published_numbers_alone_need_no_store(capsys):
    text = table(paper="umdf", table="1")
    assert "Nothing of this is reproduced yet; `msabench run --suite umdf`" in text
    assert "reproduced" not in table(paper="umdf", table="1", show="published")
    text = table(paper="umdf", table="1", show="reproduced")
    assert text.startswith("UMDF Table 1: nothing of this is reproduced yet in nowhere; `msabench run --suite")
    for name in PAPERS:
        assert (REPOSITORY / "benchmarks" / "suites" / f"{name}.yaml").is_file()
    code = (
        "import sys; from msabench.tables.command import table; from pathlib import Path; "
        f"table(paper='umdf', show='published', published=Path({str(PUBLISHED)!r})); "
        "assert not {'torch', 'lightning', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


# Beside each other.


def lines_of(text, source, method="umdf"):
    """The lines of a method and source in a text table, as words."""
    words = [line.split() for line in text.splitlines()]
    return [line for line in words if len(line) > 2 and line[0].startswith(method) and line[1] == source]


def test_differences_are_reproduced_minus_published(store, folder):
    for seed, value in ((1, 0.8), (2, 0.82)):
        add(store, lambda cell, mask, v=value: sentiment(v, mae=1 - v), method="umdf", seed=seed)
    text = table(paper="umdf", table="1", datasets=["mosi"], store=folder)
    [published], [reproduced], [difference] = (lines_of(text, s) for s in ("published", "reproduced", "difference"))
    assert published[2:6] == ["0.832", "82.92", "1.056", "67.80"]
    assert reproduced[2:] == ["mixed", "equations", "2", *["0.190±0.014", "81.00±1.41"] * 8]
    assert difference[2:6] == ["-0.642", "-1.92", "-0.866", "+13.20"]
    assert len(difference) == 2 + 16
    assert "?" not in "".join(difference)
    rows = list(csv.DictReader(io.StringIO(table(paper="umdf", table="1", store=folder, format="csv"))))
    mine = [row for row in rows if row["source"] == "reproduced"]
    assert len(rows) == 224 + 16
    assert float(mine[0]["difference"]) == pytest.approx(0.19 - 0.832)
    assert float(mine[1]["difference"]) == pytest.approx(0.81 - 0.8292)
    assert {row["definition"] for row in mine} == {"same"}
    assert {(row["paper"], row["table"]) for row in rows} == {("umdf", "1")}


def test_only_records_of_the_same_thing_stand_beside_a_number(store, folder):
    add(store, lambda cell, mask: sentiment(0.11), dataset="synth", method="fsrf")
    add(store, lambda cell, mask: sentiment(0.22), dataset="mosei_video", method="fsrf")
    add(store, lambda cell, mask: sentiment(0.33), dataset="mosi", method="fsrf", features="mmsa-unaligned")
    add(store, lambda cell, mask: sentiment(0.44), dataset="mosi", method="fsrf", variant="debiased")
    add(store, lambda cell, mask: sentiment(0.55), dataset="mosi", method="mult")
    alone = table(paper="fsrf", table="I", store=folder)
    assert "difference" not in alone
    assert alone.count("Nothing of this is reproduced yet") == 2
    for value in ("11.00", "22.00", "33.00", "44.00", "55.00"):
        assert value not in alone
    add(store, lambda cell, mask: sentiment(0.66), dataset="mosi", method="fsrf")
    both = table(paper="fsrf", table="I", store=folder)
    assert lines_of(both, "reproduced", "fsrf") == [["fsrf", "reproduced", "mixed", "equations", "1", *["66.00"] * 8]]
    # Aligned or not where the paper does not say.
    add(store, lambda cell, mask: sentiment(0.77), dataset="mosi", method="umdf", features="mult-unaligned")
    add(store, lambda cell, mask: sentiment(0.88), dataset="mosi", method="umdf", features="mult-aligned")
    text = table(paper="umdf", table="3", store=folder)
    assert [line[5] for line in lines_of(text, "reproduced")] == ["88.00", "77.00"]
    # Not in one table: their features differ.
    assert text.count("UMDF Table 3: CMU-MOSI") == 2
    assert [len(lines_of(part, "reproduced")) for part in text.split("UMDF Table 3: CMU-MOSI")[1:]] == [1, 1]


def test_cells_are_those_of_the_print(store, folder):
    def value(cell, mask):
        kind, _, rest = cell.partition("/")
        return sentiment(float(rest) / 2 if kind == "intra" else 0.5 + 0.01 * ord(rest[0]) / 10 + len(rest) / 100)

    add(store, value, method="prlf", cell_options={"names": TO_ONE})
    add(store, value, method="fsrf", cell_options={"names": TO_ONE})
    add(store, value, method="kt", features="mult-aligned", cell_options={"names": TO_ONE})
    rates = lines_of(table(paper="prlf", table="3", store=folder), "reproduced", "prlf")[0]
    complete = f"{100 * value('inter/lav', None)['f1_non0']:.2f}"
    assert rates[5:] == [complete, "5.00", "10.00", "15.00", "20.00", "25.00", "30.00", "35.00", "40.00", "45.00"]
    means = lines_of(table(paper="fsrf", table="II", store=folder), "reproduced", "fsrf")[0]
    assert means[5] == f"{5 * sum(range(1, 11)) / 10:.2f}" == "27.50"
    assert means[7] == complete
    # KT's own row has no audio at test.
    text = table(paper="kt", table="I", store=folder)
    assert lines_of(text, "reproduced", "kt")[0][7] == f"{100 * value('inter/lv', None)['f1_non0']:.2f}"
    assert "There at test: lav in rmfn, mfm, raven, mctn, kt/full_modality; v in kt/vision_only; " in text


def test_like_is_compared_with_like(store, folder):
    def value(cell, mask):
        return sims(0.7, f1_swapped=0.8)

    add(store, value, dataset="sims", method="recap", features="mmsa-unaligned")
    text = table(paper="recap", table="2", store=folder)
    [reproduced], [difference] = lines_of(text, "reproduced", "recap"), lines_of(text, "difference", "recap")
    # The published F1 is 78.58 and proven to have its arguments swapped.
    assert (reproduced[8], difference[5]) == ("80.00~", "+1.42")
    assert "~ = under the metric of the published number above it, which is not that of the column." in text
    # One definition in a column where nothing is published beside.
    alone = table(paper="recap", table="2", store=folder, show="reproduced")
    assert next(line for line in alone.splitlines() if line.startswith("recap")).split()[7] == "70.00"
    text = table(paper="recap", table="3", metric="f1_swapped", store=folder)
    assert lines_of(text, "reproduced", "recap")[0][5] == "80.00"
    # The name as printed selects columns, a key also the metric of what is reproduced.
    assert lines_of(table(paper="recap", table="2", metric="f1", store=folder), "difference", "recap")[0][2] == "+1.42"


def test_other_metrics_have_no_difference(store, folder):
    add(store, lambda cell, mask: sentiment(0.7, f1_non0_swapped=0.8), method="recap", features="mmsa-unaligned")
    text = table(paper="recap", table="1", metric="f1_non0", store=folder)
    assert lines_of(text, "reproduced", "recap")[0][5] == "70.00"
    assert lines_of(text, "difference", "recap")[0][2:] == ["n/c"]
    assert "n/c = not comparable: the published number is another metric." in text
    rows = csv.DictReader(io.StringIO(table(paper="recap", table="1", metric="f1_non0", store=folder, format="csv")))
    [mine] = [row for row in rows if row["source"] == "reproduced"]
    assert (mine["definition"], mine["difference"], mine["metric"]) == ("other", "", "f1_non0")


def test_undetermined_metrics_are_said_to_be(store, folder):
    add(store, lambda cell, mask: sentiment(0.8382), method="prlf")
    for format, mark in (("text", "+0.00?"), ("markdown", "0.00?"), ("latex", "0.00?"), ("html", "0.00?")):
        text = table(paper="prlf", table="1", datasets=["mosi"], store=folder, format=format)
        assert mark.removeprefix("+") in text
        assert "? = the paper does not determine the metric of the published number." in text
        assert "f1_non0 (stated) in self" in text.replace("\\_", "_")
        assert "not determined in hrlf, emoe, prlf" in text
    rows = csv.DictReader(io.StringIO(table(paper="prlf", table="1", store=folder, format="csv")))
    assert {row["definition"] for row in rows if row["source"] == "reproduced"} == {"undetermined"}


def test_protocols_stand_apart_and_honest_selection_first(store, folder):
    add(store, lambda cell, mask: sentiment(0.9), method="umdf", selection="test_best")
    add(store, lambda cell, mask: sentiment(0.8), method="umdf", variant="wo_dfim")
    add(store, lambda cell, mask: sentiment(0.7), method="umdf", variant="wo_dfim", regime="complete")
    first, second = table(paper="umdf", table="3", store=folder).split("UMDF Table 3: CMU-MOSI")[1:]
    assert "SELECTED ON TEST" in second
    assert "SELECTED ON TEST" not in first
    assert [line[2] for line in lines_of(first, "reproduced")] == ["complete", "mixed"]
    assert "No records under this protocol: umdf, umdf/wo_fea_loss" in first
    rows = list(csv.DictReader(io.StringIO(table(paper="umdf", table="3", store=folder, format="csv"))))
    # Published numbers are there once.
    assert len([row for row in rows if row["source"] == "published"]) == 40


def test_numbers_that_are_not_the_corpus_are_warned_about(store, folder):
    add(store, lambda cell, mask: sentiment(0.9), method="umdf", cell_options={"n": 20})
    text = table(paper="umdf", table="3", store=folder)
    assert "Warning: records have 20 test clips; CMU-MOSI has 686." in text
    add(store, lambda cell, mask: sentiment(0.9), method="umdf", seed=2, cell_options={"mask_hash": "other"})
    assert "different test masks" in table(paper="umdf", table="3", store=folder)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_shows_what_must_be_marked(store, folder, format, monkeypatch):
    known = methods()
    guess = replace(known["prlf"], fidelity="experimental")
    for module in (build, reproductions):
        monkeypatch.setattr(module, "registered", lambda: known | {"prlf": guess})
    names = ["inter/l", "inter/a"]
    for seed in (1, 2):
        add(store, lambda cell, mask: sentiment(0.7), method="umdf", seed=seed)
    add(store, lambda cell, mask: sentiment(0.7), method="umdf", seed=3, cell_options={"names": names[:1]})
    add(store, lambda cell, mask: sentiment(0.3932), method="constant", cell_options={"collapsed": True})
    add(store, lambda cell, mask: sentiment(0.6), method="prlf", cell_options={"names": names})
    fail(store, method="umdf", seed=9)
    text = table(paper="prlf", table="1", datasets=["mosi"], store=folder, format=format)
    dagger = r"\textsuperscript{\dag}" if format == "latex" else "†"
    double = r"\textsuperscript{\ddag}" if format == "latex" else "‡"
    section = r"\textsuperscript{\S}" if format == "latex" else "§"
    if format == "csv":
        rows = {(r["method"], r["cell"], r["source"]): r["marks"] for r in csv.DictReader(io.StringIO(text))}
        assert rows["constant", "inter/l", "reproduced"] == "collapsed in 1 of 1 seeds; row has 1 of up to 3 seeds"
        assert rows["umdf", "inter/l", "reproduced"] == "1 failed"
        assert rows["umdf", "inter/v", "reproduced"] == "2 of 3 seeds; 1 failed"
        assert rows["prlf", "inter/v", "reproduced"] == "no records; row has 1 of up to 3 seeds; experimental"
        explained = "equals what a constant answer scores: always negative under f1_has0, 39.32"
        assert rows["tetfn", "inter/a", "published"] == explained
        return
    assert f"39.32{dagger}" in text
    assert "= collapsed:" in text
    assert re.search(r"70\.00(±|\$\\pm\$)0\.00\(2\)", text)
    assert f"umdf{double}" in text
    assert "has failed jobs." in text
    assert "umdf (mixed), seed 9: RuntimeError: out of memory" in text
    assert "Fewer training seeds than other rows, which have up to 3: constant (1), prlf (1)." in text
    assert "= no records." in text
    assert "experimental = known by its title alone" in text
    assert f"39.32{section}" in text
    assert "= equals what a constant answer scores: always negative under f1" in text
    assert "A constant answer scores at best: always negative under f1" in text


def test_marks_of_the_paper_are_kept():
    text = table(paper="fsrf", table="I", show="published")
    assert "82.58*" in text
    assert "* stands in the paper." in text
    assert "* stands" not in table(paper="fsrf", table="II", show="published")
    assert r"82.58\*" in table(paper="fsrf", table="I", show="published", format="markdown")


def test_best_of_what_is_shared(store, folder):
    for method, value in (("umdf", 0.7), ("prlf", 0.8), ("constant", 0.1)):
        add(store, lambda cell, mask, v=value: sentiment(v), method=method)
    rows = parsed(table(paper="prlf", table="1", datasets=["mosi"], store=folder, format="html")).rows
    text = table(paper="prlf", table="1", datasets=["mosi"], store=folder, format="html")
    # Published among published, reproduced among reproduced, differences not at all.
    assert "<td><strong>83.82</strong></td>" in text
    assert "<td><u>83.36</u></td>" in text
    assert "<td><strong>80.00</strong></td>" in text
    assert "<td><u>70.00</u></td>" in text
    assert not re.search(r"<(strong|u)>[+-]", text)
    assert rows[1][:5] == ["constant", "reproduced", "mixed", "reference", "1"]


def test_html_of_a_contributor_is_escaped(tmp_path):
    def change(line):
        return line.replace("82.58,*,", "82.58,<i>,") if line.startswith("fsrf,I,mosi") else line

    text = table(paper="fsrf", table="I", format="html", published=changed(tmp_path, "fsrf", change))
    assert "82.58&lt;i&gt;" in text
    assert "<i>" not in text


# What is asked for.


def test_tables_that_have_the_datasets_follow(store, folder):
    add(store, lambda cell, mask: sentiment(0.7), method="umdf")
    text = table(["mosi", "mosei"], store=folder)
    headings = [line for line in text.splitlines() if re.match(r"(PRLF|FSRF|UMDF|RECAP|KT) Table \S+: ", line)]
    named = dict.fromkeys(heading.split(":")[0] for heading in headings)
    assert list(named) == [spec.title for spec in PAPER_TABLES if {"mosi", "mosei"} & set(spec.datasets)]
    assert len(named) == 15
    assert all("CMU-MOS" in heading for heading in headings)
    assert text.index("CMU-MOSI: F1 (non-0)") < text.index(headings[0])
    assert "mosei: no records in" in text
    only = table(["sims"], store=folder)
    assert re.findall(r"^(\w+ Table \w+): (.*)$", only, re.MULTILINE) == [
        ("PRLF Table 2", "CH-SIMS"),
        ("RECAP Table 2", "CH-SIMS"),
        ("RECAP Table 3", "CH-SIMS"),
    ]
    for quiet in (table(["mosi"], store=folder, papers=["none"]), table(store=folder), table(["synth"], store=folder)):
        assert " Table " not in quiet
    assert set(re.findall(r"^(\w+) Table", table(["mosi"], papers=["umdf", "kt"], store=folder), re.MULTILINE)) == {
        "UMDF",
        "KT",
    }
    assert [spec.title for spec in with_datasets(PAPER_TABLES, ["iemocap"])] == ["UMDF Table 2", "KT Table III"]


def test_one_csv_for_everything(store, folder, capsys):
    add(store, lambda cell, mask: sentiment(0.7), method="umdf")
    text = table(["mosi", "mosei"], store=folder, format="csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert text.count("dataset,revision") == 1
    assert None not in {key for row in rows for key in row}
    ours = [row for row in rows if not row["paper"]]
    assert len(ours) == 19
    assert {row["source"] for row in ours} == {"reproduced"}
    published = [row for row in rows if row["source"] == "published"]
    expected = [n for n in load_published(PUBLISHED) if n.table != "text" and n.dataset in ("mosi", "mosei")]
    assert sorted((r["paper"], r["table"], r["printed"]) for r in published) == sorted(
        (n.paper, n.table, n.value + n.mark) for n in expected
    )
    assert "mosei: no records" in capsys.readouterr().err


def test_choice_of_datasets_methods_and_metric(store, folder, monkeypatch):
    rows = from_text(table(paper="umdf", table="1", datasets=["mosei"], methods=["gcnet", "umdf"], metric="mae"))
    assert rows == [
        [
            ["gcnet", "0.602", "1.064", "1.107", "0.586", "0.597", "1.016", "0.829", "0.545"],
            ["umdf", "0.582", "1.050", "1.112", "0.564", "0.573", "1.023", "0.817", "0.556"],
        ]
    ]
    assert table(paper="umdf", metric="mae").count("UMDF Table") == 2
    # A method that only the papers have.
    known = {name: info for name, info in methods().items() if name != "ctc_raven"}
    monkeypatch.setattr("msabench.results.build.registered", lambda: known)
    add(store, lambda cell, mask: sentiment(0.7), method="umdf")
    text = table(["mosi"], methods=["ctc_raven"], store=folder)
    assert re.findall(r"^(\w+ Table \w+): ", text, re.MULTILINE) == ["KT Table I"]
    with pytest.raises(MSABenchError, match="unknown method 'ctc_raven'"):
        table(["mosi"], methods=["ctc_raven"], store=folder, papers=["none"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paper": "umdf2"}, "unknown paper 'umdf2'; allowed: prlf, fsrf, umdf, recap, kt"),
        ({"paper": "umdf", "table": "I"}, "unknown table of umdf 'I'; allowed: 1, 2, 3"),
        ({"table": "1"}, "table '1' needs the paper it stands in, as in: --paper umdf --table 1"),
        ({"paper": "umdf", "grid": ["inter"]}, "grid is about result tables and cannot go with paper 'umdf'"),
        ({"paper": "umdf", "papers": ["kt"]}, "papers is about result tables and cannot go with paper 'umdf'"),
        ({"paper": "umdf", "intervals": True}, "intervals is about result tables and cannot go with paper 'umdf'"),
        ({"paper": "umdf", "datasets": ["sims"]}, "unknown dataset of UMDF 'sims'; allowed: mosi, mosei, iemocap"),
        ({"paper": "umdf", "table": "3", "methods": ["kt"]}, "unknown method of UMDF Table 3 'kt'; allowed: umdf"),
        (
            {"paper": "umdf", "table": "1", "metric": "corr"},
            "unknown metric of UMDF Table 1 'corr'; allowed: f1, mae, f1_non0, f1_has0, f1_non0_swapped, f1_has0_",
        ),
        ({"paper": "umdf", "show": "all"}, "unknown show 'all'; allowed: published, reproduced, both"),
        ({"papers": ["mult"]}, "unknown paper 'mult'; allowed: prlf, fsrf, umdf, recap, kt, none"),
        ({"papers": ["none", "kt"]}, "papers none kt contradict each other"),
        ({"paper": "umdf", "published": Path("nowhere")}, "there is no folder nowhere with published numbers"),
        ({"papers": ["umdf"], "published": Path("nowhere")}, "there is no folder nowhere with published numbers"),
        ({"datasets": ["mosi"], "published": Path("nowhere")}, "there is no folder nowhere with published numbers"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(MSABenchError, match=re.escape(message)):
        table(**options)


def test_published_numbers_are_found_without_a_clone(store, folder, elsewhere):
    add(store, lambda cell, mask: sentiment(0.7), method="umdf")
    text = table(["mosi"], store=folder)
    assert "CMU-MOSI: F1" in text
    assert "UMDF Table 1" in text


def test_on_the_command_line(capsys):
    words = ["table", "--paper", "umdf", "--table", "1", "--datasets", "mosi", "--published", str(PUBLISHED)]
    assert dispatch([*words, "--show", "published", "--format", "csv"]) == 0
    assert capsys.readouterr().out.count("\n") == 1 + 112
    assert dispatch(["table", "--datasets", "sims", "--papers", "recap"]) == 0
    assert "sims: no records in nowhere" in capsys.readouterr().out


# Printed and fast.


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX is installed here")
def test_latex_compiles(store, folder, tmp_path):
    simulate(folder, ["constant", "umdf", "recap", "my_<method>&%"], seeds=(1, 2))
    fail(store, 'Error: 100 % of $x_1^2$ & ~\\{}"#', method="prlf", seed=9)
    own = table(store=folder, format="latex")
    papers = "\n\\clearpage\n".join(table(paper=name, store=folder, format="latex") for name in PAPERS)
    source = (
        "\\documentclass[a4paper]{article}\n\\usepackage[margin=1cm,landscape]{geometry}\n\\usepackage{booktabs}\n"
        f"\\begin{{document}}\n{own}\n\\clearpage\n{papers}\n\\end{{document}}\n"
    )
    (tmp_path / "tables.tex").write_text(source, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "tables.pdf").is_file()


# How long it takes is measured in benchmarks/speed/tables.py; what makes it fast is that a second call opens no record.
COUNTED = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from msabench.__main__ import dispatch
dispatch(sys.argv[1:])
assert not {"torch", "lightning"} & set(sys.modules)
print(sum(path.endswith(".jsonl") for path in opened), file=sys.stderr)
"""


def records_read(*words):
    """How often one call of the command, in a process of its own, opens a file of records."""
    run = [sys.executable, "-c", COUNTED, "table", *map(str, words)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert len(done.stdout) > 10_000
    return int(done.stderr.splitlines()[-1])


def test_tables_of_8500_records_read_each_file_once(folder):
    assert simulate(folder) == 8500
    assert ResultStore(folder).validate() == []
    files = 8500 // len(CELLS)
    assert records_read("--store", folder) == files, "without the derived index"
    assert records_read("--store", folder) == 0
    assert records_read("--store", folder, "--datasets", "mosi", "mosei") == 0
    assert records_read("--store", folder, "--paper", "umdf") == 0

"""Tables: what stands in them, what is said about it, and how it is printed."""

import csv
import io
import math
import re
import sys
from dataclasses import replace
from functools import partial

import pytest

from msabench.__main__ import dispatch, main
from msabench.errors import MSABenchError
from msabench.figures.words import caption
from msabench.leaderboard.groups import build_groups, to_json
from msabench.metrics.functional import compute
from msabench.missingness.conditions import GRIDS, KINDS, LAWS, distinct
from msabench.results import build
from msabench.results.chosen_rows import choose_rows
from msabench.results.comparison import Compared
from msabench.results.table import _PARTS, AVERAGE_COLUMNS, AVERAGE_MEANINGS, BLOCKS, columns_of
from msabench.tables import command, comparison_text
from msabench.tables.output import FORMATS
from msabench.tables.regimes import regimes
from msabench.tables.render import csv_field
from msabench.tables.sheet import ranked
from tests.support.html_rows import parsed
from tests.support.records import add, fail

WIDE = 1000

table = partial(command.table, papers=["none"])
"""Our own result tables alone; tests of the papers' tables have a file of their own."""


def rows_of(text):
    """First word of each line -> the line's words."""
    return {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}


def filled(store):
    for seed in (1, 2, 3):
        add(store, lambda cell, mask, s=seed: 0.7 + 0.01 * s, method="mult", seed=seed)
        add(store, lambda cell, mask: 0.3932, method="constant", seed=seed, cell_options={"collapsed": True})
    add(store, lambda cell, mask: 0.8, method="umdf", seed=1)


def test_columns_of_grids():
    paper = columns_of(["paper"])
    assert [c.header for c in paper] == [
        *("l", "a", "v", "la", "lv", "av", "lav", "avg"),
        *("0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "mean"),
    ]
    assert columns_of(["inter", "intra"]) == columns_of(["intra", "inter", "inter/l"]) == paper
    assert [c.header for c in columns_of(["inter/lav", "intra/0.0"])] == ["lav", "0.0"]
    assert [(c.header, c.block) for c in columns_of(["inter/la+intra/0.3"])] == [("la 0.3", "both")]
    for name, parts in _PARTS.items():
        assert tuple(cell for _, cells in parts for cell in cells) == GRIDS[name]
    with pytest.raises(MSABenchError, match="unknown grid 'all'"):
        columns_of(["all"])
    with pytest.raises(MSABenchError, match=r"missing rate '1\.5'"):
        columns_of(["intra/1.5"])


def test_columns_of_other_protocols():
    random = columns_of(["random"])
    headers = ["0.0", *(f"0.{tenth}" for tenth in range(1, 7)), "0.7 (2/3)", "mean random"]
    assert [column.header for column in random] == headers
    assert [column.key for column in random][::8] == ["inter/lav", "avg_random"]
    both = columns_of(["random-table", "random"])
    assert [column.block for column in both] == ["random"] * 9 + ["random-table"] * 9
    assert both[-1].key == "avg_random_table"
    # Six of seven rates are no average.
    assert [column.key for column in columns_of([f"random/0.{tenth}" for tenth in range(1, 7)])][-1] == "random/0.6"
    assert {column.block for column in columns_of(["stress"])} == set(BLOCKS) - {"words", "both"}
    names = ["noise/a=0.5", "words/0.1", "permute/v", "intra/l=0.2", "inter/la+block/0.3", "random/0.0"]
    assert {(column.header, column.block) for column in columns_of(names)} == {
        *(("a=0.5", "noise"), ("0.1", "words"), ("v", "permute"), ("l=0.2", "rates")),
        *(("inter/la+block/0.3", "combined"), ("0.0", "random")),
    }


def test_blocks_are_the_kinds_of_cells_in_their_order():
    assert tuple(BLOCKS) == KINDS
    for law in LAWS:
        assert "0.7 comes to 2/3" in BLOCKS[law]
    assert [column.key for column in AVERAGE_COLUMNS.values()] == list(AVERAGE_MEANINGS)


def test_rates_of_modalities_have_an_average_of_their_own_and_the_page_says_what_it_is(store, folder):
    names = distinct([*GRIDS["random"], *GRIDS["random-table"]])

    def value(cell, mask_seed):
        return 0.9 if cell == "inter/lav" else (0.2 if "table" in cell else 0.0) + float(cell[-1]) / 10

    add(store, value, cell_options={"names": names}, dataset="synth")
    text = table(["synth"], metric="f1_non0", grid=["random", "random-table"], store=folder, width=WIDE)
    assert "0.7 comes to 2/3" in text
    assert "mean random = mean over the rates 0.1 to 0.7, the complete situation apart" in text
    assert [rows_of(text)["mult"].count(mean) for mean in ("40.00", "60.00", "90.00")] == [3, 3, 3]
    [group] = build_groups(store.records(), [], ["synth"])
    assert "avg_random_table" in {column.key for column in group.table.columns}
    assert any(meaning.startswith("mean random = ") for meaning in to_json([group], {})["averages"])


def test_text_holds_means_spread_and_runs(store, folder):
    filled(store)
    text = table(["mosi"], store=folder, width=WIDE)
    rows = rows_of(text)
    assert rows["mult"][-1] == "72.00±1.00"
    assert "3x2" in rows["mult"]
    assert rows["umdf"][-1] == "80.00"
    assert rows["constant"][-1] == "39.32±0.00†"
    assert len(rows["mult"]) == 4 + 19
    lines = text.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("method"))
    assert lines[header + 2].startswith("constant")
    assert "[f1_non0]: F1 averaged" in text
    assert "f1_score(true, pred)" in text
    assert "† = collapsed: all predictions of a test situation fall into one class, with or without the clips" in text
    assert "selected on validation" in text
    assert "text dropped at level vectors" in text
    assert "avg = mean over l, a, v, la, lv, av" in text


def test_text_fits_the_terminal(store, folder):
    filled(store)
    for width in (80, 100, 120, 160):
        text = table(["mosi"], store=folder, width=width)
        assert max(len(line) for line in text.splitlines()) <= width
        headers = [word for line in text.splitlines() if line.startswith("method ") for word in line.split()]
        labels = ("method", "regime", "fidelity", "runs")
        assert [word for word in headers if word not in labels] == [c.header for c in columns_of(["paper"])]
    two = table(["mosi"], store=folder, width=160)
    assert sum(line.startswith("method ") for line in two.splitlines()) == 2


def test_every_table_says_when_the_clips_are_not_those_of_the_corpus(store, folder, capsys):
    for method in ("mult", "umdf"):
        for regime in ("complete", "mixed"):
            changes = {"method": method, "regime": regime, "cell_options": {"n": 10}}
            add(store, lambda cell, mask, m=method: 0.5 + 0.1 * (m == "umdf"), **changes)
    sentence = "Warning: records have 10 test clips; CMU-MOSI has 686."
    assert sentence in table(["mosi"], store=folder, width=WIDE)
    assert sentence in table(["mosi"], store=folder, format="html")
    assert sentence in regimes(["mosi"], store=folder)
    table(["mosi"], store=folder, format="csv")
    assert f"CMU-MOSI: {sentence}" in capsys.readouterr().err
    (group,) = to_json(build_groups(store.records(), [], ["mosi"]), {})["groups"]
    assert sentence in group["notes"]
    (chosen,) = choose_rows(folder, ["mosi"], None, None)
    assert sentence in caption(chosen, cells=["inter/l"])
    assert sentence in comparison_text._notes(Compared(chosen, chosen.table.rows[0], 1, 10, []))
    add(store, method="mult", seed=2, job={"split_sizes": [12, 5, 7]}, cell_options={"n": 7}, revision="other")
    assert "Warning: records have 12/5/7 clips in train/valid/test; CMU-MOSI has 1284/229/686." in table(
        ["mosi"], store=folder, width=WIDE
    )


def test_numbers_that_rest_on_what_training_never_saw_are_marked_in_every_form(store, folder):
    for regime in ("complete", "mixed"):
        add(store, job={"unseen": ["audio", "vision"]}, cell_options={"blind": 0.25}, regime=regime)
    text = table(["mosi"], store=folder, grid=["inter"], width=WIDE)
    assert rows_of(text)["mult"][-8:] == ["50.00", "50.00¶", "50.00¶", "50.00", "50.00", "50.00¶", "50.00", "50.00¶"]
    assert "Warning: no training clip had audio or vision." in text
    assert "answered blind: 25 % in inter/l, 25 % in inter/a" in text
    assert r"50.00\textsuperscript{\P}" in table(["mosi"], store=folder, grid=["inter"], format="latex")
    assert "¶ = rests on modalities alone that no training clip had" in regimes(["mosi"], store=folder)
    (group,) = to_json(build_groups(store.records(), [], ["mosi"]), {})["groups"]
    assert [count[3] for count in group["rows"][0]["counts"][:7]] == [False, True, True, False, False, True, False]


def test_records_of_before_say_nothing_and_are_not_marked(store, folder):
    path = add(store)
    assert not {"unseen", "split_sizes", "blind"} & set(path.read_text().replace('"', " ").split())
    text = table(["mosi"], store=folder, width=WIDE)
    assert "¶" not in text
    assert "Warning" not in text


def test_missing_numbers_are_dashes_with_their_n(store, folder):
    add(store, method="mult", seed=1)
    add(store, method="mult", seed=2, cell_options={"names": ["inter/l", "inter/a"]})
    add(store, method="umdf", seed=1, cell_options={"names": ["inter/l"]})
    text = table(["mosi"], store=folder, grid=["inter"], width=WIDE)
    rows = rows_of(text)
    assert rows["mult"][3:] == ["2", "50.00±0.00", "50.00±0.00", *["50.00(1)"] * 6]
    assert rows["umdf"][3:] == ["1", "50.00", *["-"] * 7]
    assert "(n) = over n training seeds only." in text
    assert "There are no records of constant" in text


def test_an_average_needs_every_cell_of_one_training_seed(store, folder):
    add(store, method="mult", seed=1, cell_options={"names": ["inter/l", "inter/a", "inter/v"]})
    add(store, method="mult", seed=2, cell_options={"names": ["inter/la", "inter/lv", "inter/av", "inter/lav"]})
    text = table(["mosi"], store=folder, grid=["inter"], width=WIDE)
    assert rows_of(text)["mult"][3:] == ["2", *["50.00(1)"] * 7, "-"]
    for seed in ("1", "2"):
        lines = [line.split() for line in table(["mosi"], store=folder, per_seed=True, width=WIDE).splitlines()]
        [words] = [words for words in lines if words[:1] == ["mult"] and words[3] == seed]
        assert words[4] == "1"


def test_runs_tell_how_many_masks_the_columns_shown_have(store, folder):
    names = ["inter/l", "intra/0.1", "intra/0.2"]
    add(store, method="mult", cell_options={"names": names[:2], "mask_seeds": (0, 1, 2)})
    add(store, method="mult", seed=2, cell_options={"names": names[2:], "mask_seeds": (0,)})
    runs = {}
    for grid in (["intra/0.1"], ["intra/0.1", "intra/0.2"], ["inter/l"]):
        text = table(["mosi"], store=folder, grid=grid, width=WIDE)
        runs[tuple(grid)] = rows_of(text)["mult"][3]
        assert ("fewest-most" in text) is (len(grid) == 2)
    assert list(runs.values()) == ["2x3", "2x1-3", "2"]


def test_undefined_values_and_partial_collapse(store, folder):
    add(store, lambda cell, mask: math.nan, method="mult", seed=1, cell_options={"collapsed": True})
    add(store, method="mult", seed=2)
    text = table(["mosi"], metric="corr", store=folder, width=WIDE)
    assert rows_of(text)["mult"][-1] == "nan†1"
    assert "nan = undefined" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"level": "tokens", "token_fill": "unk"}, "text dropped at level tokens (fill unk)"),
        ({"lengths": "keep"}, "a removed modality shows its length"),
        ({"features": "mmsa-unaligned"}, "features mmsa-unaligned"),
        ({"revision": "ba9876543210"}, "revision ba9876543210"),
        ({"selection": "test_best"}, "SELECTED ON TEST"),
    ],
)
def test_protocols_have_tables_of_their_own(store, folder, change, said):
    add(store, lambda cell, mask: 0.2, method="mult")
    add(store, lambda cell, mask: 0.4, method="umdf", **change)
    for format in ("text", "markdown", "latex"):
        text = table(["mosi"], store=folder, format=format, width=WIDE)
        assert text.count("CMU-MOSI: F1") == 2
        assert said in text
    tables = table(["mosi"], store=folder, width=WIDE).split("CMU-MOSI: F1 (non-0) [f1_non0], percent")[1:]
    assert [("\nmult " in part, "\numdf " in part) for part in tables] in [
        [(True, False), (False, True)],
        [(False, True), (True, False)],
    ]
    if "selection" in change:
        assert "\nmult " in tables[0]


def test_configurations_and_versions_are_rows_of_their_own(store, folder):
    add(store, lambda cell, mask: 0.2, method="mult")
    add(store, lambda cell, mask: 0.4, method="mult", config_hash="dddddddd1234")
    add(store, lambda cell, mask: 0.6, method="umdf", method_version=1)
    add(store, lambda cell, mask: 0.8, method="umdf", method_version=2)
    add(store, lambda cell, mask: 0.9, method="umdf", variant="wo_x")
    text = table(["mosi"], store=folder, grid=["inter/l"], width=WIDE)
    labels = [line.split("  ")[0] for line in text.splitlines() if line.startswith(("mult", "umdf"))]
    assert labels == ["mult #cccccccc", "mult #dddddddd", "umdf v1", "umdf v2", "umdf/wo_x"]
    assert "hash of the configuration" in text


def test_failed_jobs_are_rows_with_a_reason(store, folder):
    filled(store)
    fail(store, "RuntimeError: out of\nmemory", method="lf_dnn", seed=9)
    text = table(["mosi"], store=folder, width=WIDE)
    assert rows_of(text)["lf_dnn‡"][3:] == ["0", *["-"] * 19]
    assert "‡ = has failed jobs." in text
    assert "Failed jobs (left out of means): lf_dnn (mixed), seed 9: RuntimeError: out of memory." in text


def test_markdown_marks_the_best(store, folder):
    add(store, lambda cell, mask: 0.80001, method="mult")
    add(store, lambda cell, mask: 0.80002, method="umdf")
    add(store, lambda cell, mask: 0.9 if cell == "inter/l" else 0.1, method="constant")
    text = table(["mosi"], store=folder, format="markdown", grid=["inter/l", "inter/a"])
    rows = {
        line.split("|")[1].strip(): [w.strip() for w in line.split("|")[-3:-1]]
        for line in text.splitlines()
        if "|" in line
    }
    # The constant is marked where it wins; equal as printed is equal.
    assert rows["constant"] == ["**90.00**", "*10.00*"]
    assert rows["mult"] == ["*80.00*", "**80.00**"]
    assert rows["umdf"] == ["*80.00*", "**80.00**"]
    assert "- bold = best of a column; italics = second best." in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {4 + 2 + 1}


def test_lower_is_better_for_mae(store, folder):
    for method, value in (("mult", 0.5), ("umdf", 0.25)):
        add(store, lambda cell, mask, v=value: {"f1_non0": 0.5, "mae": v}, method=method)
    text = table(["mosi"], metric="mae", store=folder, format="markdown", grid=["inter/l"])
    assert "**0.250**" in text
    assert "percent" not in text
    # Of two, the second best is the worst.
    assert "*0.500*" not in text


def test_the_second_best_is_underlined(store, folder):
    for method, value in (("constant", 0.5), ("mult", 0.7), ("umdf", 0.6)):
        add(store, lambda cell, mask, v=value: {"f1_non0": v, "mae": v}, method=method)
    for format, best, second in (("latex", r"\textbf{%s}", r"\underline{%s}"), ("html", "<strong>%s<", "<u>%s<")):
        text = table(["mosi"], store=folder, format=format, grid=["inter/l"])
        assert (best % "70.00") in text
        assert (second % "60.00") in text
        assert "bold = best of a column; underlined = second best." in text
        text = table(["mosi"], metric="mae", store=folder, format=format, grid=["inter/l"])
        assert (best % "0.500") in text
        assert (second % "0.600") in text
    assert "bold" not in table(["mosi"], store=folder, width=WIDE)


@pytest.mark.parametrize(
    ("numbers", "direction", "ranks"),
    [
        (["1.0", "2.0", "3.0"], "max", [0, 2, 1]),
        (["1.0", "2.0", "3.0"], "min", [1, 2, 0]),
        (["-0.2", "0.1", "-0.5"], "max", [2, 1, 0]),
        (["2.0", "2.0", "1.0"], "max", [1, 1, 2]),
        (["2.0", "1.0"], "max", [1, 0]),
        (["2.0", None, "nan", "1.0"], "max", [1, 0, 0, 0]),
        (["2.0", None], "max", [0, 0]),
        (["2.0", "2.0", "2.0"], "max", [1, 1, 1]),
        ([], "max", []),
    ],
)
def test_ranks(numbers, direction, ranks):
    assert ranked(numbers, direction) == ranks


def test_html_is_an_accessible_table(store, folder):
    filled(store)
    cells = parsed(table(["mosi"], store=folder, format="html", grid=["inter"]))
    header, *rows = cells.rows
    assert header == ["method", "regime", "fidelity", "runs", "l", "a", "v", "la", "lv", "av", "lav", "avg"]
    assert {len(row) for row in rows} == {len(header)}
    assert [row[0] for row in rows] == ["constant", "mult", "umdf"]
    assert cells.heads == ["col"] * len(header) + ["row"] * 3
    assert "CMU-MOSI: F1 (non-0) [f1_non0], percent" in cells.captions
    overview = parsed(table(store=folder, format="html"))
    assert "dataset" in overview.rows[0]


def test_names_are_escaped(store, folder):
    # A name comes from a contributor's records.
    add(store, method="<b>&x_y|z*")
    texts = {format: table(["mosi"], store=folder, format=format, width=WIDE) for format in FORMATS}
    assert "<b>" not in texts["html"]
    assert "&lt;b&gt;&amp;x_y|z*" in texts["html"]
    assert parsed(texts["html"]).rows[1][0] == "<b>&x_y|z*"
    assert r"$<$b$>$\&x\_y$|$z*" in texts["latex"]
    assert r"\<b>&x_y\|z\*" in texts["markdown"]
    assert next(csv.DictReader(io.StringIO(texts["csv"])))["method"] == "<b>&x_y|z*"


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_shows_what_must_be_marked(store, folder, format, monkeypatch):
    known = command_methods()
    guess = replace(known["umdf"], fidelity="experimental")
    monkeypatch.setattr(build, "registered", lambda: known | {"umdf": guess})
    for seed in (1, 2):
        add(store, method="mult", seed=seed)
    add(store, lambda cell, mask: 0.3932, method="constant", cell_options={"collapsed": True})
    add(store, method="umdf", cell_options={"names": ["inter/l", "inter/a"]})
    add(store, method="mult", seed=3, cell_options={"names": ["inter/l"]})
    fail(store, method="lf_dnn", seed=9)
    text = table(["mosi"], store=folder, format=format, width=WIDE, grid=["inter"])
    dagger = r"\textsuperscript{\dag}" if format == "latex" else "†"
    double = r"\textsuperscript{\ddag}" if format == "latex" else "‡"
    if format == "csv":
        rows = {(row["method"], row["column"]): row for row in csv.DictReader(io.StringIO(text))}
        assert rows["constant", "l"]["marks"] == "collapsed in 1 of 1 seeds; row has 1 of up to 3 seeds"
        assert rows["mult", "a"]["marks"] == "2 of 3 seeds"
        assert rows["mult", "l"]["marks"] == ""
        assert rows["umdf", "lv"]["marks"] == "no records; row has 1 of up to 3 seeds; experimental"
        assert rows["lf_dnn", "l"]["marks"] == "no records; row has 0 of up to 3 seeds; 1 failed"
        return
    assert f"39.32{dagger}" in text
    assert "= collapsed:" in text
    assert re.search(r"50\.00(±|\$\\pm\$)0\.00\(2\)", text)
    assert re.search(r"lf(_|\\_)dnn" + re.escape(double), text)
    assert "has failed jobs." in text
    assert "RuntimeError: out of memory" in text
    assert "= no records." in text
    assert "Fewer training seeds than other rows, which have up to 3: constant (1), " in text
    assert "experimental = known by its title alone" in text
    assert text.count("experimental") >= 2


def test_latex_is_balanced_and_escaped(store, folder):
    filled(store)
    add(store, lambda cell, mask: 0.1, method="lf_dnn", config_hash="d" * 12)
    add(store, lambda cell, mask: 0.1, method="lf_dnn", config_hash="e" * 12, cell_options={"names": ["inter/l"]})
    text = table(["mosi"], store=folder, format="latex")
    for name in ("table*", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") > 0
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    assert r"lf\_dnn \#dddddddd" in text
    assert r"\textbf{80.00}" in text
    assert r"\textsuperscript{\dag}" in text
    assert r"72.00$\pm$1.00" in text
    assert not re.search(r"(?<!\\)[_#%]", text)
    assert text.isascii()
    for specification, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {line.count("&") + 1 for line in lines} == {len(specification)}


def test_csv_is_long_and_unrounded(store, folder):
    add(store, lambda cell, mask: 1 / 3, method="mult", seed=1)
    add(store, lambda cell, mask: 2 / 3, method="mult", seed=2, cell_options={"names": ["inter/l"]})
    rows = list(csv.DictReader(io.StringIO(table(["mosi"], store=folder, format="csv"))))
    assert len(rows) == 19
    by_column = {(row["block"], row["column"]): row for row in rows}
    assert float(by_column["inter", "l"]["mean"]) == pytest.approx(0.5, abs=1e-15)
    assert by_column["inter", "a"]["mean"] == repr(1 / 3)
    assert by_column["inter", "a"]["std"] == ""
    assert (by_column["inter", "lav"]["cell"], by_column["intra", "0.0"]["cell"]) == ("inter/lav", "inter/lav")
    assert by_column["inter", "l"]["n_seeds"] == "2"
    assert rows[0]["metric"] == "f1_non0"
    inter = list(
        csv.DictReader(io.StringIO(table(["mosi"], store=folder, format="csv", per_seed=True, grid=["inter"])))
    )
    assert [(r["seed"], r["mean"]) for r in inter if r["column"] == "a"] == [("1", repr(1 / 3)), ("2", "")]


def test_seeds_as_rows(store, folder):
    filled(store)
    text = table(["mosi"], ["mult"], store=folder, per_seed=True, width=WIDE)
    lines = [line.split() for line in text.splitlines() if line.startswith("mult")]
    assert [(words[3], words[-1]) for words in lines] == [("1", "71.00"), ("2", "72.00"), ("3", "73.00")]
    assert "umdf" not in text
    assert "constant" in text
    assert "**" not in table(["mosi"], store=folder, per_seed=True, format="markdown")


def test_the_constant_baseline_and_the_order_of_methods(store, folder):
    filled(store)
    add(store, method="lf_dnn")
    text = table(["mosi"], ["umdf", "mult", "prlf"] if "prlf" in command_methods() else ["umdf", "mult"], store=folder)
    names = [line.split()[0] for line in text.splitlines() if line.startswith(("constant", "umdf", "mult", "lf_dnn"))]
    assert names[:3] == ["constant", "umdf", "mult"]
    assert "lf_dnn" not in names


def command_methods():
    from msabench.methods.registry import methods

    return methods()


def test_nothing_stored_is_said_plainly(store, folder, capsys):
    with pytest.raises(
        MSABenchError, match=r"^there is no store .*results; `msabench run --suite SUITE --store` makes"
    ):
        table(store=folder)
    folder.mkdir()
    with pytest.raises(
        MSABenchError, match=r"results holds no records; make some with `msabench run --suite SUITE --s"
    ):
        table(store=folder)
    filled(store)
    text = table(["mosi", "mosei"], store=folder, width=WIDE)
    assert f"mosei: no records in {folder}; make some with `msabench run" in text
    assert "CMU-MOSI" in text
    assert dispatch(["table", "--datasets", "mosei", "iemocap", "--store", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "mosei: no records" in out
    assert "iemocap: no records" in out
    lines = table(["mosi", "mosei"], store=folder, format="csv").splitlines()
    assert all(line.count(",") == lines[0].count(",") for line in lines)
    assert "mosei: no records" in capsys.readouterr().err
    add(store, dataset="synth", method="umdf")
    assert f"synth: no records of mult in {folder}." in table(["synth"], ["mult"], store=folder)


def test_overview(store, folder):
    filled(store)
    fail(store, method="lf_dnn")
    add(store, dataset="synth", selection="test_best", level="tokens", token_fill="unk")
    text = table(store=folder, width=WIDE)
    overview = text.split("\n\n")[0].splitlines()
    assert overview[0] == f"Records in {folder}"
    counts = {(words[0], words[7]): words[-4:] for words in (line.split() for line in overview[4:])}
    assert counts == {
        ("mosi", "constant"): ["3", "16", "2", "0"],
        ("mosi", "lf_dnn"): ["0", "0", "0", "1"],
        ("mosi", "mult"): ["3", "16", "2", "0"],
        ("mosi", "umdf"): ["1", "16", "2", "0"],
        ("synth", "mult"): ["1", "16", "2", "0"],
    }
    assert text.count("[f1_non0], percent") == 2
    assert table(store=folder, format="markdown").startswith("### Records in")
    assert "Records in" not in table(["mosi"], store=folder)


def test_the_caveat_of_a_corpus_is_printed(store, folder):
    from msabench.data.registry import dataset_info

    add(store, dataset="synth")
    caveat = dataset_info("synth").caveat
    assert caveat
    for format in ("text", "markdown"):
        assert caveat in table(["synth"], store=folder, format=format, width=WIDE)


def test_metric_sets(store, folder):
    import numpy as np

    labels = np.linspace(-1, 1, 9)
    add(store, lambda cell, mask: compute("sims", labels, labels), dataset="sims")
    add(store, lambda cell, mask: compute("sentiment", labels, labels), dataset="mosi")
    add(store, lambda cell, mask: compute("emotions", np.eye(4)[:3], np.zeros((3, 4, 2))), dataset="iemocap")
    text = table(store=folder, width=WIDE)
    assert "[f1], percent" in text
    assert "bins [-1, 0] and (0, 1]" in text
    assert "[f1_mean], percent" in text
    with pytest.raises(MSABenchError, match="sims has no metric 'f1_non0'; allowed: acc2, f1, f1_swapped"):
        table(["mosi", "sims"], metric="f1_non0", store=folder)
    text = table(metric="acc5", store=folder, width=WIDE)
    assert "iemocap: left out, since it has no metric acc5." in text
    assert "clipped to [-2, 2]" in text
    assert "right-closed bins cut at -0.7, -0.1, 0.1, 0.7" in text
    with pytest.raises(MSABenchError, match="iemocap has no metric 'acc7'"):
        table(["iemocap"], metric="acc7", store=folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"datasets": ["mosy"]}, "unknown dataset 'mosy'; allowed: "),
        ({"methods": ["nope"]}, "unknown method 'nope'; allowed: "),
        ({"metric": "f2"}, "unknown metric 'f2'; allowed: acc2_non0"),
        ({"grid": ["inter/x"]}, "unknown|allowed"),
        ({"format": "pdf"}, "unknown format 'pdf'; allowed: text, markdown, latex, csv, html"),
    ],
)
def test_unknown_names_are_refused(store, folder, arguments, message):
    folder.mkdir()
    for _ in range(2):
        with pytest.raises(MSABenchError, match=message):
            table(store=folder, **arguments)
        if not folder.exists():
            filled(store)


def test_different_holes_are_warned_about(store, folder):
    filled(store)
    assert "Warning" not in table(["mosi"], store=folder, width=WIDE)
    add(store, method="lf_dnn", cell_options={"mask_hash": "other"})
    assert "Warning: mosi: records of one protocol have different test masks" in table(
        ["mosi"], store=folder, width=WIDE
    )


def test_chosen_mask_seeds_are_warned_about(store, folder):
    filled(store)
    add(store, method="lf_dnn", cell_options={"mask_seeds": (1,)})
    for format in ("text", "markdown", "latex"):
        text = table(["mosi"], store=folder, format=format, width=WIDE)
        assert "Warning: mosi: records of one protocol have different mask seeds in intra/0.1, intra/0.2" in text


def test_records_of_an_unregistered_corpus_and_method(store, folder):
    add(store, dataset="mine", method="my_method")
    text = table(["mine"], ["my_method"], store=folder, width=WIDE)
    assert "This corpus is not registered." in text
    assert rows_of(text)["my_method"][2] == "unknown"


def test_help_needs_no_pandas():
    assert "pd" not in vars(command)


def test_names_from_records_do_nothing_to_terminals_and_spreadsheets(store, folder, capsys, monkeypatch):
    add(store, method="=cmd|'C calc'!A0", regime="@SUM(1)", variant="-1+2")
    add(store, method="\x1b[31mred\u202e", variant="-")
    assert dispatch(["table", "--store", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "\\x1b[31mred\\u202e" in out
    assert not set("\x1b\u202e") & set(out)
    rows = list(csv.DictReader(io.StringIO(table(store=folder, format="csv"))))
    assert {row["method"] for row in rows} == {"'=cmd|'C calc'!A0", "\x1b[31mred\u202e"}
    assert {row["regime"] for row in rows} == {"'@SUM(1)", "mixed"}
    assert {row["variant"] for row in rows} == {"'-1+2", "-"}
    monkeypatch.setattr(sys, "argv", ["msabench", "table", "--store", "a\x1b[31m"])
    assert main() == 2
    assert capsys.readouterr().err.startswith("msabench: there is no store a\\x1b[31m;")


@pytest.mark.parametrize(
    ("field", "written"),
    [("-0.5", "-0.5"), ("+1e-3", "+1e-3"), ("-", "-"), ("-x", "'-x"), ("=1", "'=1"), ("a=1", "a=1"), (-1.5, "-1.5")],
)
def test_fields_of_a_csv(field, written):
    assert csv_field(field) == written

"""What the committed records show of the five papers' methods; docs/findings.md says the same in words."""

from __future__ import annotations

import csv
import io
import math
import re
from functools import lru_cache
from pathlib import Path

import pytest

from msabench.data.probe import describe
from msabench.data.store import open_corpus
from msabench.methods.registry import methods
from msabench.missingness.conditions import INTER, MISSING_CONDITIONS
from msabench.results.chosen_rows import cells_of, choose_rows
from msabench.results.comparison import rank_rows
from msabench.results.intervals import intervals
from msabench.results.rows import jobs_hash
from msabench.results.store import ResultStore
from msabench.results.stored_intervals import read_intervals
from msabench.runner.suite import read_suite
from msabench.tables.regimes import regimes
from msabench.tables.specialists import specialists

SUITES = Path(__file__).parents[1] / "benchmarks/suites"
STORE = Path(__file__).parents[1] / "leaderboard/results"
QUARTER = "r1-320x60x170-T20"
OTHER_PROTOCOLS = "r1-320x60x340-T20"
REGIMES = {"umdf": "mixed", "fsrf": "mixed_fsrf", "prlf": "intra(0.5)", "recap": "lnln", "kt": "complete"}
"""Method -> regime that its paper trains under."""
READABLE = 0.15
"""Correlation of the ridge probe from which a method is expected to find something."""
NOT_FOUND = {("kt", "a"), ("recap", "a"), ("prlf", "v")}
"""(method, modalities) on synth whose correlation is not shown to be above 0."""


@lru_cache
def files(dataset: str, method: str, regime: str, variant: str = "default") -> tuple[Path, ...]:
    """Stored predictions of a method, one file a training seed."""
    frame = ResultStore(STORE).frame([dataset])
    keep = (frame["method"] == method) & (frame["variant"] == variant) & (frame["regime"] == regime)
    if dataset == "synth":
        keep &= frame["revision"] == QUARTER
    jobs = sorted(frame[keep]["job_id"].unique())
    return tuple(STORE / "predictions" / dataset / method / f"{job}.parquet" for job in jobs)


def with_predictions(dataset: str, method: str, regime: str) -> tuple[Path, ...]:
    """The same, where they are here."""
    found = files(dataset, method, regime)
    assert len(found) == 3
    if not all(path.is_file() for path in found):
        pytest.skip("intervals need predictions, which are not committed; `msabench run` on the suite makes them")
    return found


def bounds(dataset: str, method: str, regime: str, cells: list[str]) -> dict[str, tuple[float, float]]:
    return intervals(with_predictions(dataset, method, regime), "sentiment", "corr", cells)


def mean_over_missing(method: str, regime: str) -> float:
    """Correlation averaged over the six missing conditions and the seeds; a constant answer counts as 0."""
    frame = ResultStore(STORE).frame(["synth"])
    jobs = {path.stem for path in files("synth", method, regime)}
    cells = [f"inter/{letters}" for letters in MISSING_CONDITIONS]
    values = frame[frame["job_id"].isin(jobs) & frame["cell"].isin(cells)]["corr"]
    assert len(values) == 18
    return float(values.fillna(0.0).mean())


def means(dataset: str, method: str, regime: str) -> dict[str, float]:
    """Correlation by cell, averaged over seeds; a constant answer makes it NaN."""
    frame = ResultStore(STORE).frame([dataset])
    mine = frame[frame["job_id"].isin({path.stem for path in files(dataset, method, regime)})]
    return {str(cell): float(values.mean(skipna=False)) for cell, values in mine.groupby("cell")["corr"]}


def lower_bound(r: float, n: int) -> float:
    """95 % bound of a correlation by Fisher's transformation, as if the seeds were one: rougher than the bootstrap."""
    return math.tanh(math.atanh(r) - 1.96 / math.sqrt(n - 3))


@pytest.mark.parametrize("method", REGIMES)
def test_records_alone_say_what_the_intervals_say(method: str) -> None:
    found = means("synth", method, REGIMES[method])
    for cell in INTER:
        if (method, cell.available) not in NOT_FOUND:
            assert lower_bound(found[str(cell)], 170) > 0, cell
    real = means("mosei_video", method, REGIMES[method])
    assert all(lower_bound(real[f"inter/{letters}"], 179) > 0 for letters in ("l", "la", "lv", "lav"))


def test_methods_find_what_a_linear_probe_finds() -> None:
    probe = describe(open_corpus("synth", size=(320, 60, 170), length=20))["probe"]
    readable = [cell.available for cell in INTER if probe[cell.available]["r"] >= READABLE]
    assert len(readable) == 7
    lost = set()
    for method, regime in REGIMES.items():
        found = bounds("synth", method, regime, [f"inter/{letters}" for letters in readable])
        # No interval is a NaN: a constant finds nothing.
        lost |= {(method, letters) for letters in readable if not found[f"inter/{letters}"][0] > 0}
    assert lost == NOT_FOUND


@pytest.mark.parametrize("method", REGIMES)
def test_training_as_the_paper_does_beats_a_plain_model_on_complete_data(method: str) -> None:
    ours, plain = mean_over_missing(method, REGIMES[method]), mean_over_missing("lf_dnn", "complete")
    assert ours > plain


@pytest.mark.parametrize("method", REGIMES)
def test_methods_learn_from_text_on_real_input(method: str) -> None:
    cells = [f"inter/{letters}" for letters in ("l", "la", "lv", "lav")]
    found = bounds("mosei_video", method, REGIMES[method], cells)
    assert min(found[cell][0] for cell in cells) > 0


@pytest.mark.parametrize("method", REGIMES)
def test_every_row_of_the_ablation_tables_is_recorded(method: str) -> None:
    found = read_suite(SUITES / f"{method}_smoke.yaml").jobs
    words = [word for unresolved in found for word in unresolved.overrides]
    variants = {word.partition("=")[2] for word in words if word.startswith("--model.init_args.variant=")}
    assert len(variants) >= 3
    for variant in variants:
        assert len(files("synth", method, REGIMES[method], variant)) == 3, variant


@pytest.mark.parametrize(("dataset", "method"), [("synth", "umdf"), ("synth", "lnln"), ("mosei_video", "mult")])
def test_kept_intervals_are_what_the_code_makes_of_the_predictions(dataset: str, method: str) -> None:
    made = bounds(dataset, method, "mixed", ["inter/a", "inter/lav", "avg_missing"])
    kept, name = read_intervals(STORE, dataset), jobs_hash(path.stem for path in files(dataset, method, "mixed"))
    for cell, interval in made.items():
        assert kept[name, "corr", cell] == pytest.approx(interval, abs=5e-5), cell


def test_a_constant_answer_has_no_correlation() -> None:
    assert math.isnan(means("synth", "kt", "complete")["inter/a"])


BASELINES = (
    *("self_mm", "cubemlp", "dmd", "misa", "mmim", "tetfn", "almt", "emoe"),
    *("mctn", "transm", "smil", "gcnet", "corrkd", "hrlf", "lnln"),
    *("tfn", "lmf", "mfn", "graph_mfn", "mfm", "rmfn", "raven", "ctc_mctn", "ctc_raven"),
    *("cenet", "tfr_net", "tf_mamba", "bi_mamba", "mascf"),
)
COMPLETE_MODALITY = BASELINES[:8]
EVERY = (*BASELINES, "lf_dnn", "mult", *REGIMES)
INCOMPLETE_DATA = {
    **{"mmin": "inter(proper)", "emt_dlfr": "intra(0.5)", "dicmor": "random-table(0.5)", "imder": "random-table(0.5)"},
    **{"shaspec": "inter(all)", "tate": "inter(all)", "mplmm": "inter(all)", "momke": "inter(all)"},
    **{"p_rmf": "lnln", "hme": "random(0.2)"},
}
"""Methods for incomplete data -> regime of their paper; of suites ``incomplete_smoke`` and ``incomplete_video``."""
WITHOUT_TEXT_CONSTANT = {"kt", "raven", "ctc_raven"}


@lru_cache
def all_changes(
    dataset: str, metric: str, cell: str, revision: str = QUARTER, regime: str = "mixed"
) -> dict[str, dict[str, float]]:
    """Method -> change from complete training to a regime, with its stored bounds; ``revision`` is of synth."""
    text = regimes([dataset], metric, cells=[cell], store=STORE, format="csv", after=regime)
    return {
        row["method"]: {name: float(row[name] or "nan") for name in ("value_before", "change", "low", "high")}
        for row in csv.DictReader(io.StringIO(text))
        if dataset != "synth" or row["revision"] == revision
    }


def changes(dataset: str, metric: str, cell: str, revision: str = QUARTER) -> dict[str, dict[str, float]]:
    """The same to mixed training, of the five papers' methods and their baselines."""
    found = all_changes(dataset, metric, cell, revision)
    return {method: change for method, change in found.items() if method in EVERY}


def beyond_chance(dataset: str, metric: str, cell: str) -> set[str]:
    """Methods whose interval leaves out 0."""
    found = changes(dataset, metric, cell)
    return {name for name, change in found.items() if change["low"] > 0 or change["high"] < 0}


def collapsed(dataset: str, regime: str, cell: str, among: tuple[str, ...]) -> set[str]:
    """Methods whose predictions fall into one class under at least one seed."""
    frame = ResultStore(STORE).frame([dataset])
    mine = frame[frame["cell"].eq(cell) & frame["regime"].eq(regime) & frame["method"].isin(among)]
    if dataset == "synth":
        mine = mine[mine["revision"] == QUARTER]
    return set(mine[mine["collapsed"] & mine["variant"].eq("default")]["method"])


@pytest.mark.parametrize("dataset", ["synth", "mosei_video"])
def test_every_method_was_trained_both_ways(dataset: str) -> None:
    assert set(EVERY) == set(methods(external=False)) - {"constant", *INCOMPLETE_DATA}
    assert set(changes(dataset, "corr", "inter/lav")) == set(EVERY)


def test_what_missing_data_in_training_changes_on_synth() -> None:
    found = changes("synth", "corr", "avg_missing")
    rounded = {name: tuple(round(change[of], 3) for of in ("change", "low", "high")) for name, change in found.items()}
    assert (rounded["lmf"], rounded["lf_dnn"]) == ((-0.078, -0.134, -0.022), (0.023, -0.026, 0.083))
    assert round(found["lf_dnn"]["value_before"], 3) == 0.284
    others = [change["change"] for name, change in found.items() if name not in {"lmf", *WITHOUT_TEXT_CONSTANT}]
    assert len(others) == 32
    assert (round(min(others), 3), round(max(others), 3)) == (-0.060, 0.040)
    assert beyond_chance("synth", "corr", "avg_missing") == {"lmf"}
    assert beyond_chance("synth", "corr", "inter/lav") == set()
    assert {name for name, change in found.items() if math.isnan(change["change"])} == WITHOUT_TEXT_CONSTANT
    fallen = {"mfn", "misa", "lnln"}
    assert beyond_chance("synth", "f1_non0", "avg_missing") == fallen
    assert max(changes("synth", "f1_non0", "avg_missing")[name]["high"] for name in fallen) < 0


def test_what_missing_data_in_training_changes_on_real_input() -> None:
    found = changes("mosei_video", "corr", "avg_missing")
    assert tuple(round(found["emoe"][name], 3) for name in ("change", "low", "high")) == (0.077, 0.024, 0.126)
    assert [round(found[name]["change"], 3) for name in ("mult", "self_mm")] == [0.095, 0.089]
    apart = {"emoe", "mult", "self_mm", *WITHOUT_TEXT_CONSTANT}
    others = [change["change"] for name, change in found.items() if name not in apart]
    assert len(others) == 30
    assert (round(min(others), 3), round(max(others), 3)) == (-0.040, 0.060)
    assert beyond_chance("mosei_video", "corr", "avg_missing") == {"emoe"}
    assert beyond_chance("mosei_video", "corr", "inter/lav") == {"tetfn"}
    loss = changes("mosei_video", "corr", "inter/lav")["tetfn"]
    assert tuple(round(loss[name], 3) for name in ("change", "low", "high")) == (-0.077, -0.166, -0.005)
    f1 = changes("mosei_video", "f1_non0", "avg_missing")
    assert beyond_chance("mosei_video", "f1_non0", "avg_missing") == {"bi_mamba", "tetfn", "umdf"}
    assert tuple(round(f1["bi_mamba"][name], 3) for name in ("change", "low", "high")) == (0.071, 0.033, 0.111)
    assert (round(f1["tetfn"]["change"], 3), round(f1["umdf"]["change"], 3)) == (-0.042, -0.024)
    frame = ResultStore(STORE).frame(["mosei_video"])
    text_alone = frame[frame["method"].eq("bi_mamba") & frame["regime"].eq("complete") & frame["cell"].eq("inter/l")]
    assert text_alone[text_alone["collapsed"]]["seed"].nunique() == 2


@pytest.mark.parametrize(("dataset", "counts"), [("synth", (5, 4, 1)), ("mosei_video", (8, 8, 5))])
def test_methods_on_complete_data_collapse_without_text_and_keep_a_correlation(
    dataset: str, counts: tuple[int, ...]
) -> None:
    cells = ("inter/a", "inter/v", "inter/av")
    assert tuple(len(collapsed(dataset, "complete", cell, COMPLETE_MODALITY)) for cell in cells) == counts
    for method in COMPLETE_MODALITY:
        assert means(dataset, method, "complete")["inter/av"] > 0
    # The other regime collapses as well.
    assert len(collapsed(dataset, "mixed", "inter/a", EVERY)) > len(EVERY) / 2


def test_ranks_are_those_of_the_records() -> None:
    tables = choose_rows(STORE, ["synth"], None, "corr")
    chosen_tables = [chosen for chosen in tables if chosen.table.protocol["revision"] == QUARTER]
    ranked = rank_rows(chosen_tables, cells_of(["avg_missing", "avg_intra"])).ranking
    assert len(ranked.names) == 105
    page = (Path(__file__).parents[1] / "docs/findings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\w().]+) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", page, re.MULTILINE)
    printed = [(f"{method} ({regime})", rank) for method, regime, rank, _, _ in rows]
    kept = read_intervals(STORE, "synth")
    for method, regime, _, *shown in rows:
        name = jobs_hash(path.stem for path in files("synth", method, regime))
        assert [f"{bound:.2f}" for bound in kept[name, "corr", "avg_missing"]] == shown
    found = [(name, f"{rank:.2f}") for name, rank in zip(ranked.names, ranked.average, strict=True)]
    assert printed == found[: len(printed)]
    assert len(printed) == 10
    last = dict(found[-10:])
    assert (last["tfn (complete)"], last["rmfn (mixed)"], last["mfm (complete)"]) == ("100.94", "100.06", "99.75")
    assert max(float(low) for *_, low, _ in rows) < min(float(high) for *_, high in rows), "all intervals overlap"
    video = rank_rows(choose_rows(STORE, ["mosei_video"], None, "corr"), cells_of(["avg_missing", "avg_intra"])).ranking
    assert len(video.names) == 105
    first = [(name, f"{rank:.2f}") for name, rank in zip(video.names, video.average, strict=True)][:2]
    assert first == [("smil (mixed)", "4.81"), ("mmin (inter(proper))", "5.31")]


@lru_cache
def to_own(dataset: str, cell: str) -> dict[str, dict[str, float]]:
    """Each method for incomplete data -> change from complete data to the regime of its paper."""
    return {name: all_changes(dataset, "corr", cell, regime=own)[name] for name, own in INCOMPLETE_DATA.items()}


def to_mixed(dataset: str, cell: str) -> dict[str, dict[str, float]]:
    found = all_changes(dataset, "corr", cell)
    return {name: found[name] for name in INCOMPLETE_DATA}


def shown(changes: dict[str, dict[str, float]]) -> dict[str, tuple[float, ...]]:
    """Changes beyond chance, with their bounds."""
    apart = {name: change for name, change in changes.items() if change["low"] > 0 or change["high"] < 0}
    return {name: tuple(round(change[of], 3) for of in ("change", "low", "high")) for name, change in apart.items()}


SITUATIONS = ("avg_missing", "avg_random", "inter/lav")


def test_what_the_regimes_of_methods_for_incomplete_data_change() -> None:
    found = [to_own("synth", cell) for cell in SITUATIONS]
    assert [round(sum(c["change"] for c in each.values()) / 10, 3) for each in found] == [0.027, 0.031, 0.019]
    assert [shown(each) for each in found] == [
        {"imder": (0.081, 0.031, 0.135)},
        {"dicmor": (0.054, 0.001, 0.109), "hme": (0.072, 0.028, 0.122)},
        {},
    ]
    assert [shown(to_mixed("synth", cell)) for cell in SITUATIONS] == [{}, {}, {}]
    best = found[0]["p_rmf"]
    assert max(change["value_before"] for change in found[0].values()) == best["value_before"]
    assert (round(best["value_before"], 3), round(best["value_before"] + best["change"], 3)) == (0.520, 0.517)
    real = [shown(to_own("mosei_video", cell)) for cell in SITUATIONS]
    assert real == [{"tate": (0.081, 0.004, 0.158)}, {}, {"mplmm": (-0.051, -0.101, -0.005)}]
    assert [shown(to_mixed("mosei_video", cell)) for cell in SITUATIONS] == [{"tate": (0.078, 0.022, 0.138)}, {}, {}]


def test_methods_for_incomplete_data_collapse_as_well() -> None:
    def one_class(dataset: str, cell: str) -> set[str]:
        return {name for name, own in INCOMPLETE_DATA.items() if collapsed(dataset, own, cell, (name,))}

    assert one_class("synth", "inter/a") == {"emt_dlfr", "hme", "imder"}
    assert len(one_class("mosei_video", "inter/v")) == 9
    for dataset in ("synth", "mosei_video"):
        assert all("emt_dlfr" in one_class(dataset, cell) for cell in ("inter/a", "inter/v", "inter/av"))


PROTOCOLS = {
    "missing": [f"inter/{letters}" for letters in MISSING_CONDITIONS],
    "random": [f"random/0.{tenth}" for tenth in range(1, 8)],
    "aligned": [f"aligned/0.{tenth}" for tenth in range(1, 10)],
    "block": [f"block/0.{tenth}" for tenth in range(1, 10)],
    "noise": ["noise/0.25", "noise/0.5", "noise/1.0", "noise/2.0"],
    "nothing": ["inter/lav"],
}


def test_what_other_protocols_show() -> None:
    frame = ResultStore(STORE).frame(["synth"])
    mine = frame[frame["revision"].eq(OTHER_PROTOCOLS) & frame["regime"].eq("complete") & frame["method"].isin(EVERY)]
    by_cell = mine.assign(corr=mine["corr"].fillna(0.0)).groupby(["method", "cell"])["corr"].mean().unstack()
    assert len(by_cell) == len(EVERY) == 36
    found = {name: by_cell[cells].mean(axis=1) for name, cells in PROTOCOLS.items()}
    means_of = {name: round(float(values.mean()), 3) for name, values in found.items()}
    assert means_of == {
        **{"nothing": 0.556, "noise": 0.535, "aligned": 0.473, "block": 0.453, "random": 0.444, "missing": 0.352}
    }
    assert round(float((by_cell["aligned/0.5"] - by_cell["block/0.5"]).mean()), 3) == 0.025
    ranks = {name: values.rank() for name, values in found.items()}
    assert round(float(ranks["aligned"].corr(ranks["block"])), 2) == 0.95
    assert round(float(ranks["missing"].corr(ranks["block"])), 2) == 0.70
    assert {values.idxmax() for values in found.values()} == {"lnln"}


def test_what_missing_data_in_training_changes_under_other_protocols() -> None:
    moved: dict[str, dict[str, float]] = {}
    for cell in ("avg_random", "avg_aligned", "avg_block"):
        found = changes("synth", "corr", cell, OTHER_PROTOCOLS)
        assert set(found) == set(EVERY)
        assert not any(math.isnan(change["low"]) for change in found.values())
        apart = {name for name, change in found.items() if change["low"] > 0 or change["high"] < 0}
        moved[cell] = {name: round(found[name]["change"], 3) for name in apart}
    assert moved == {
        "avg_random": {"cenet": -0.059},
        "avg_aligned": {"graph_mfn": 0.074, "ctc_raven": 0.070, "lmf": 0.048},
        "avg_block": {"graph_mfn": 0.093, "ctc_raven": 0.071, "fsrf": 0.050, "self_mm": -0.033},
    }
    cenet = changes("synth", "corr", "avg_random", OTHER_PROTOCOLS)["cenet"]
    assert (round(cenet["low"], 3), round(cenet["high"], 3)) == (-0.120, -0.004)


@pytest.mark.parametrize(
    ("regime", "means_by_kind", "gains", "losses"),
    [
        (
            "mixed",
            (-0.029, -0.018),
            set(),
            {
                *(("almt", "inter/l"), ("almt", "inter/v"), ("almt", "inter/av"), ("almt", "random/0.1")),
                *(("lf_dnn", "inter/l"), ("mult", "inter/la")),
            },
        ),
        (
            "random(0-0.7)",
            (-0.009, 0.004),
            {
                *(("corrkd", "inter/la"), ("corrkd", "inter/lv"), ("corrkd", "inter/lav")),
                *(("lnln", "inter/av"), ("almt", "random/0.5")),
            },
            {("almt", "inter/av"), ("lf_dnn", "inter/la")},
        ),
    ],
)
def test_one_model_for_all_conditions_beside_one_for_each(
    regime: str,
    means_by_kind: tuple[float, float],
    gains: set[tuple[str, str]],
    losses: set[tuple[str, str]],
) -> None:
    text = specialists(["synth"], "corr", against=regime, store=STORE, format="csv", revision=[OTHER_PROTOCOLS])
    rows = [row for row in csv.DictReader(io.StringIO(text)) if not row["home"].startswith("avg")]
    differences = [
        [float(row["difference"]) for row in rows if row["home"].startswith(kind)] for kind in ("inter", "random")
    ]
    assert [len(found) for found in differences] == [42, 24]
    assert tuple(round(sum(found) / len(found), 3) for found in differences) == means_by_kind
    assert {(row["method"], row["home"]) for row in rows if float(row["low"]) > 0} == gains
    assert {(row["method"], row["home"]) for row in rows if float(row["high"]) < 0} == losses

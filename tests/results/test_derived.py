"""Areas, shares and spreads: by hand, what is left out, the same numbers from records and from predictions."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest

from msabench.errors import MSABenchError
from msabench.metrics import functional
from msabench.metrics.spec import metric_spec
from msabench.missingness.conditions import INTER, INTRA, Cell
from msabench.results.aggregate import over_seeds
from msabench.results.chosen_rows import cells_of
from msabench.results.derived import DERIVED, SUMMARY, derived, made_of, put_together
from msabench.results.intervals import intervals
from msabench.results.paired import paired_differences, resampled
from msabench.results.places import predictions_file
from msabench.results.resample import clip_counts, read_runs, seed_values
from msabench.results.store import ResultStore
from msabench.tables.command import table
from msabench.tables.compare import compare
from tests.support.records import PAPER, add
from tests.support.stored_runs import add_runs, noisy

ONE = Cell.parse("intra/1.0")
NAMES = [*DERIVED, "relative:inter/av", "relative:avg_intra_to_1"]

BY_HAND = {
    **{"inter/l": 0.6, "inter/a": 0.2, "inter/v": 0.3},
    **{"inter/la": 0.7, "inter/lv": 0.65, "inter/av": 0.35, "inter/lav": 0.8},
    **{"intra/0.1": 0.8, "intra/0.2": 0.7, "intra/0.3": 0.7, "intra/0.4": 0.6, "intra/0.5": 0.6},
    **{"intra/0.6": 0.5, "intra/0.7": 0.4, "intra/0.8": 0.4, "intra/0.9": 0.2, "intra/1.0": 0.1},
}
EXPECTED = {
    # Half of .8 and .6, and .8 .7 .7 .6 between them, times .1.
    "auilc_0.5": 0.35,
    # Half of .8 and .2, and 4.7 between them.
    "auilc_0.9": 0.52,
    "auilc_1.0": 0.535,
    # Text, audio and vision alone and in pairs sum to 2.8.
    "relative:avg_missing": 2.8 / 6 / 0.8,
    "relative:avg_intra": 0.57 / 0.8,
    "retention_0.5": 0.75,
    # .8 falls to .35 without text, to .7 without vision.
    "spread_lost": 0.35,
    "spread_alone": 0.4,
    "relative:inter/av": 0.4375,
    "relative:avg_intra_to_1": 0.5 / 0.8,
}


def value_of(name: str, values: dict[str, float]) -> float:
    return float(put_together(name, {cell: np.array(value) for cell, value in values.items()}))


def rows(text: str) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["method"], row["cell"]): row for row in csv.DictReader(io.StringIO(text))}


# The quantities.


@pytest.mark.parametrize("name", NAMES)
def test_by_hand(name: str) -> None:
    assert value_of(name, BY_HAND) == pytest.approx(EXPECTED[name], abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_counts_and_no_other(name: str) -> None:
    """A part that is forgotten, or one more, would show."""
    for cell in BY_HAND:
        other = value_of(name, BY_HAND | {cell: BY_HAND[cell] + (0.9 if cell != "inter/av" else -0.9)})
        # The middle one of three changes a spread once it is an end.
        assert (other != pytest.approx(EXPECTED[name], abs=1e-12)) == (cell in made_of(name)), cell


@pytest.mark.parametrize("name", NAMES)
def test_scale_and_shift(name: str) -> None:
    quantity = derived(name)
    assert quantity is not None
    scaled = value_of(name, {cell: 3 * value for cell, value in BY_HAND.items()})
    shifted = value_of(name, {cell: value + 0.5 for cell, value in BY_HAND.items()})
    mirrored = value_of(name, {cell: -value for cell, value in BY_HAND.items()})
    if quantity.kind == "relative":
        assert scaled == pytest.approx(EXPECTED[name])
        assert math.isnan(mirrored)
    else:
        assert scaled == pytest.approx(3 * EXPECTED[name])
    if quantity.kind == "area":
        assert shifted - EXPECTED[name] == pytest.approx(0.5 * float(name.removeprefix("auilc_")))
        assert mirrored == pytest.approx(-EXPECTED[name])
    if quantity.kind == "spread":
        # What is lost does not depend on what is compared with, nor on whether more or less is better.
        assert shifted == pytest.approx(EXPECTED[name])
        assert mirrored == pytest.approx(EXPECTED[name])


@pytest.mark.parametrize("order", ["lva", "alv", "avl", "vla", "val"])
def test_spreads_do_not_know_which_modality_is_which(order: str) -> None:
    to = str.maketrans("lav", order)

    def renamed(cell: str) -> str:
        letters = sorted(cell.removeprefix("inter/").translate(to), key="lav".index)
        return f"inter/{''.join(letters)}"

    values = {renamed(cell) if cell.startswith("inter") else cell: value for cell, value in BY_HAND.items()}
    for name in ("spread_lost", "spread_alone", "relative:avg_missing"):
        assert value_of(name, values) == pytest.approx(EXPECTED[name])


def test_a_rising_curve_and_a_flat_one() -> None:
    assert value_of("auilc_1.0", dict.fromkeys(BY_HAND, 0.7)) == pytest.approx(0.7), "a mean over the rates 0 to 1"
    assert value_of("auilc_0.9", dict.fromkeys(BY_HAND, 1.0)) == pytest.approx(0.9), "not divided by its width"
    assert value_of("retention_0.5", BY_HAND | {"intra/0.5": 1.0}) == pytest.approx(1.25), "more than all is possible"
    assert value_of("retention_0.5", BY_HAND | {"intra/0.5": -0.4}) == pytest.approx(-0.5)


@pytest.mark.parametrize("whole", [0.0, -0.2, math.nan])
def test_nothing_is_a_share_of_what_is_not_above_0(whole: float) -> None:
    values = BY_HAND | {"inter/lav": whole}
    assert math.isnan(value_of("retention_0.5", values))
    assert math.isnan(value_of("relative:avg_missing", values))
    assert value_of("spread_lost", values) == pytest.approx(EXPECTED["spread_lost"])


def test_names() -> None:
    assert derived("inter/la") is derived("avg_missing") is derived("auilc_0.7") is None
    assert cells_of(["spread_lost", "relative:intra/0.50", "inter/la"], quantities=True) == (
        *("spread_lost", "relative:intra/0.5", "inter/la"),
    )
    with pytest.raises(MSABenchError, match=r"unknown cell 'auilc_0.8'.*auilc_0.9"):
        cells_of(["auilc_0.8"], quantities=True)
    with pytest.raises(MSABenchError, match="unknown modality condition 'x'"):
        cells_of(["relative:inter/x"], quantities=True)
    with pytest.raises(MSABenchError, match="unknown cell 'spread_lost'"):
        cells_of(["spread_lost"])


# From records.


def test_the_quantity_is_taken_for_each_seed_then_the_mean(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for seed, half in ((1, 0.4), (2, 0.1)):
        values = BY_HAND | {"intra/0.5": half, "inter/lav": 0.2 * seed}
        add(store, lambda cell, mask, of=values: of[cell] + 0.02 * (mask or 0), seed=seed)
    summary = over_seeds(store.records(), "f1_non0", quantities=["retention_0.5", "auilc_0.9", "auilc_1.0"])
    found = {record["cell"]: record for record in summary}
    # Two test masks: .41 of .2 and .11 of .4, not .26 of .3.
    assert found["retention_0.5"]["mean"] == pytest.approx((0.41 / 0.2 + 0.11 / 0.4) / 2)
    assert found["retention_0.5"]["std"] == pytest.approx((0.41 / 0.2 - 0.11 / 0.4) / math.sqrt(2))
    assert (found["retention_0.5"]["n_seeds"], found["retention_0.5"]["n_mask_seeds"]) == (2, 2)
    assert "auilc_1.0" not in found, "intra/1.0 is not recorded, and nothing is extrapolated"
    plain = over_seeds(store.records(), "f1_non0")
    assert plain == [r for r in summary if r["cell"] not in DERIVED]


def test_what_lacks_a_cell_has_no_number(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    hole = [cell for cell in PAPER if str(cell) != "intra/0.4"]
    add(store, lambda cell, mask: BY_HAND[cell], seed=1)
    add(store, lambda cell, mask: BY_HAND[cell], seed=2, cell_options={"names": hole})
    add(store, lambda cell, mask: BY_HAND[cell], method="umdf", cell_options={"names": hole})
    found = rows(table(metric="f1_non0", store=tmp_path, format="csv", summary=True))
    assert found["umdf", "auilc_0.9"]["mean"] == ""
    assert "not to be derived" in found["umdf", "auilc_0.9"]["marks"]
    assert float(found["umdf", "retention_0.5"]["mean"]) == pytest.approx(0.75)
    # Of one seed only, and it says so.
    assert float(found["mult", "auilc_0.9"]["mean"]) == pytest.approx(0.52)
    assert (found["mult", "auilc_0.9"]["n_seeds"], found["mult", "retention_0.5"]["n_seeds"]) == ("1", "2")
    assert "1 of 2 seeds" in found["mult", "auilc_0.9"]["marks"]


def test_collapse_in_any_part_is_marked(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    add(store, lambda cell, mask: BY_HAND[cell], seed=1)
    add(store, lambda cell, mask: 0.4, seed=2, cell_options={"collapsed": True})
    add(store, lambda cell, mask: 0.4, method="constant", cell_options={"collapsed": True})
    found = rows(table(metric="f1_non0", store=tmp_path, format="csv", summary=True))
    for quantity in SUMMARY:
        if quantity.key != "auilc_1.0":
            assert found["mult", quantity.key]["n_collapsed"] == "1"
            assert found["constant", quantity.key]["n_collapsed"] == "1"
    text = table(metric="f1_non0", store=tmp_path, format="markdown", summary=True, grid=["inter/lav"])
    (constant,) = [line for line in text.splitlines() if line.startswith("| constant ")]
    # All of its little is kept and nothing is spread, and yet none of that is best.
    assert "100.0†" in constant
    assert "| 0.00† | 0.00† |" in constant


def test_shares_are_of_what_is_above_0_and_of_metrics_of_which_more_is_better(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for seed, sign in ((1, 1), (2, -1)):
        values = BY_HAND | {"inter/lav": sign * 0.3}
        add(store, lambda cell, mask, of=values: {"corr": of[cell], "mae": 1.0}, seed=seed)
    found = rows(table(metric="corr", store=tmp_path, format="csv", summary=True))
    # A mean over the seed that has one would flatter.
    assert found["mult", "retention_0.5"]["mean"] == ""
    assert float(found["mult", "spread_alone"]["mean"]) == pytest.approx(0.4)
    found = rows(table(metric="mae", store=tmp_path, format="csv", summary=True))
    assert found["mult", "retention_0.5"]["mean"] == ""
    assert float(found["mult", "auilc_0.9"]["mean"]) == pytest.approx(0.9)
    text = table(metric="mae", store=tmp_path, summary=True, grid=["inter/lav"], width=200)
    assert "- = a cell that it is made of has no records" in text
    assert "- = no records." not in text


def test_an_undefined_part_makes_the_whole_undefined(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    add(store, lambda cell, mask: math.nan if cell in ("intra/0.5", "inter/a") else BY_HAND[cell])
    found = rows(table(metric="corr", store=tmp_path, format="csv", summary=True))
    for name in ("auilc_0.9", "retention_0.5", "spread_alone"):
        assert found["mult", name]["mean"] == ""
        assert "undefined" in found["mult", name]["marks"]
    assert float(found["mult", "spread_lost"]["mean"]) == pytest.approx(0.35)


def test_a_table_ends_in_their_block_and_says_what_they_are(tmp_path: Path) -> None:
    add(ResultStore(tmp_path), lambda cell, mask: BY_HAND[cell], cell_options={"names": [*PAPER, ONE]})
    text = table(metric="f1_non0", store=tmp_path, summary=True, grid=["inter/lav"], width=200)
    (line,) = [line.split() for line in text.splitlines() if line.startswith("mult")]
    assert line[-8:] == ["80.00", "52.00", "53.50", "58.3", "71.2", "75.0", "35.00", "40.00"]
    words = " ".join(text.split())
    assert "auilc_0.9 = area under the metric over the rates 0.0, 0.1 to 0.9" in words
    assert "0.5/0.0 (retention_0.5) = intra/0.5 in percent of the value of complete clips" in words
    assert "auilc" not in table(metric="f1_non0", store=tmp_path)
    with pytest.raises(MSABenchError, match="summary is about result tables"):
        table(paper="umdf", store=tmp_path, summary=True)


# From predictions.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("store")
    cells = [*INTER, *INTRA[1:], ONE]
    add_runs(place, "mult", noisy(1.0), cells=cells, n=60)
    add_runs(place, "umdf", noisy(0.4), cells=cells, n=60)
    return place


def files(folder: Path, method: str) -> dict[int, Path]:
    jobs = [job for job in ResultStore(folder).jobs() if job.key.method == method]
    return {job.key.seed: predictions_file(folder, "synth", method, job.key.job_id) for job in jobs}


def test_predictions_give_what_records_give(folder: Path) -> None:
    records = ResultStore(folder).records().of(method="mult")
    summary = over_seeds(records, "corr", keep_seeds=True, quantities=NAMES)
    runs = read_runs([path for _, path in sorted(files(folder, "mult").items())])
    values = seed_values(runs, "sentiment", "corr", np.ones((1, 60)), NAMES)
    assert list(values) == NAMES
    for name in NAMES:
        expected = {line["seed"]: line["mean"] for line in summary if line["cell"] == name}
        assert values[name][0] == pytest.approx([expected[seed] for seed in sorted(expected)], rel=1e-6)
    shares = {name for name in NAMES if derived(name).kind == "relative"}  # type: ignore[union-attr]
    assert set(seed_values(runs, "sentiment", "mae", np.ones((1, 60)), NAMES)) == set(NAMES) - shares


def test_a_resample_is_the_quantity_of_the_clips_drawn(folder: Path) -> None:
    """By the long way: clips repeated as often as they were drawn, each cell's metric over them, then the quantity."""
    runs = read_runs([path for _, path in sorted(files(folder, "umdf").items())])
    counts = clip_counts(60, 5)
    found = seed_values(runs, "sentiment", "f1_non0", counts, NAMES)
    for draw, seed in ((0, 0), (3, 2)):
        clips = np.repeat(np.arange(60), counts[draw])
        by_cell = {
            cell: np.mean(
                [functional.compute("sentiment", runs.labels[clips], mask[clips])["f1_non0"] for mask in preds[seed]]
            )
            for cell, preds in runs.cells.items()
        }
        for name in NAMES:
            assert found[name][draw, seed] == pytest.approx(value_of(name, by_cell), rel=1e-6), name


def test_paired_differences_have_intervals_around_them(folder: Path) -> None:
    ours, theirs = (
        resampled(files(folder, method), "sentiment", "corr", NAMES, draws=200) for method in ("umdf", "mult")
    )
    for name, found in paired_differences(ours, theirs).items():
        assert found.low < found.high, name
        assert found.value == pytest.approx(float(ours.estimates[name].mean()))
    nothing = paired_differences(ours, ours)
    assert all((found.difference, found.low, found.high, found.p) == (0, 0, 0, 1) for found in nothing.values())
    # Less noise keeps more where frames are missing.
    assert paired_differences(ours, theirs)["auilc_1.0"].low > 0


def test_compare_prints_them(folder: Path) -> None:
    cells = ["relative:avg_missing", "spread_lost", "auilc_0.9"]
    text = " ".join(compare("mult", metric="corr", cells=cells, store=folder, draws=100).split())
    assert "avg/lav (relative:avg_missing) = avg_missing in percent of the value of complete clips." in text
    assert "more is better or less is better" in text
    lines = csv.DictReader(
        io.StringIO(compare("mult", metric="corr", cells=cells, store=folder, format="csv", draws=100))
    )
    found = {line["cell"]: line for line in lines if line["kind"] == "difference"}
    bounds = {
        cell: (float(line["low"]), float(line["difference"]), float(line["high"])) for cell, line in found.items()
    }
    assert list(bounds) == cells
    assert all(low < value < high for low, value, high in bounds.values())
    text = compare("mult", metric="mae", cells=["retention_0.5", "auilc_0.9"], store=folder, draws=100)
    (lacking,) = [line for line in text.splitlines() if "retention_0.5" in line and line.startswith("umdf")]
    assert lacking.endswith("not of this metric")


def test_a_table_has_their_intervals(folder: Path) -> None:
    found = rows(table(metric="corr", store=folder, format="csv", summary=True, intervals=True))
    expected = intervals([*files(folder, "umdf").values()], "sentiment", "corr", ["spread_alone"])["spread_alone"]
    row = found["umdf", "spread_alone"]
    assert (float(row["low"]), float(row["high"])) == pytest.approx(expected)


def test_only_areas_are_ranked(folder: Path) -> None:
    text = table(metric="f1_non0", store=folder, format="markdown", summary=True, grid=["inter/lav"])
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    places = {head.strip(" |"): number for number, head in enumerate(lines[0])}
    for quantity in SUMMARY:
        emphasised = any("*" in line[places[quantity.header]] for line in lines[1:])
        assert emphasised == (quantity.kind == "area"), quantity.key


def test_specs_say_how_a_number_is_printed() -> None:
    metric = metric_spec("corr")
    assert derived("retention_0.5").spec(metric).format(0.755) == "75.5"  # type: ignore[union-attr]
    assert derived("auilc_0.9").spec(metric).format(0.5) == metric.format(0.5)  # type: ignore[union-attr]
    assert derived("spread_lost").spec(metric).direction == "min"  # type: ignore[union-attr]

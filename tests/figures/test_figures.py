"""Figures: what is in them, what is marked, what is refused, and that their bytes are reproducible."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.evaluation import representations
from msabench.figures import confusion, cost, curves, embedding, sheet
from msabench.figures.command import OPTIONS, figures
from msabench.figures.rank_diagram import MOST_RANKED
from msabench.figures.words import COLLAPSED
from msabench.metrics.functional import compute
from msabench.missingness.conditions import INTER, INTRA, Cell
from msabench.results import predictions
from msabench.results.chosen_rows import ChosenRows, choose_rows
from msabench.results.predictions import CellPredictions, Evaluation
from msabench.results.record import JobRecord
from msabench.results.resample import Runs
from msabench.results.store import ResultStore
from tests.support.records import add, fail
from tests.support.stored_runs import PAPER, add_runs, noisy


def pricey(job: JobRecord) -> None:
    job.n_params, job.train_seconds = 1000 + job.key.seed, 10.0 * job.key.seed
    job.provenance = {"device_name": "Some CPU", "threads": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods and the constant, with predictions."""
    folder = tmp_path_factory.mktemp("made")
    add_runs(folder, "mult", noisy(1.5), record=pricey)
    add_runs(folder, "umdf", noisy(0.6), record=pricey)
    add_runs(folder, "constant", lambda labels, cell, rng: np.full(len(labels), 0.4), record=pricey)
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(made, tmp_path / "results"))


def selected(store: Path, metric: str = "f1_non0", **options: object) -> ChosenRows:
    [found] = choose_rows(store, ["synth"], None, metric, constant=True, **options)  # type: ignore[arg-type]
    return found


def words_of(figure: object) -> str:
    """Every text in a figure."""
    from matplotlib.text import Text

    return " ".join(" ".join(text.get_text().split()) for text in figure.findobj(Text))  # type: ignore[attr-defined]


# Curves and bars.


def test_a_curve_is_the_table(store: Path) -> None:
    chosen = selected(store, intervals=True)
    with sheet.drawing():
        picture = curves.robustness(chosen, [chosen], "intervals")
    [axes] = picture.figure.axes
    for row, container in zip(chosen.table.rows, axes.containers, strict=True):
        line = container.lines[0]
        expected = [100 * row.entries[str(cell)].mean for cell in INTRA]
        assert line.get_ydata() == pytest.approx(expected)
        # Points stand beside each other, but nearer to their rate than to the next.
        assert np.abs(line.get_xdata() - np.arange(10) / 10).max() < 0.05
        bars = [segment[:, 1] for segment in container.lines[2][0].get_segments()]
        bounds = [[100 * bound for bound in row.entries[str(cell)].interval] for cell in INTRA]
        assert np.sort(bars, axis=1) == pytest.approx(np.array(bounds))
    text = words_of(picture.figure)
    assert "synth is a generated test bench" in text
    assert "Training seeds: 3." in text
    assert f"{COLLAPSED}: predictions collapsed" in text
    assert "95 % bootstrap interval" in text
    assert picture.stem == "robustness_synth_f1_non0"


def test_lines_can_be_told_apart_without_colour(store: Path) -> None:
    for number, method in enumerate(("kt", "fsrf", "prlf", "recap", "lf_dnn")):
        add(ResultStore(store), lambda cell, mask, n=number: n / 10, dataset="synth", method=method)
    rows = selected(store).table.rows
    found = sheet.styles(rows)
    looks = [(style["marker"], style["linestyle"]) for style in found]
    assert len(set(looks)) == len(rows)
    assert len({style["color"] for style in found}) == len(rows)


def test_gaps_are_not_bridged_and_undefined_points_are_not_drawn(store: Path) -> None:
    add_runs(store, "kt", noisy(0.5), cells=[cell for cell in PAPER if str(cell) not in ("intra/0.3", "inter/v")])
    chosen = selected(store, "corr")
    with sheet.drawing():
        picture = curves.robustness(chosen, [chosen], "std")
        bars = curves.conditions(chosen, [chosen], "std")
    lines = {c.get_label(): c.lines[0].get_ydata() for c in picture.figure.axes[0].containers}
    assert set(lines) == {"kt", "mult", "umdf"}
    assert [i for i, value in enumerate(lines["kt"]) if math.isnan(value)] == [3]
    # The constant has no correlation at all.
    assert "Undefined or without records at every rate: constant." in words_of(picture.figure)
    notes = [text.get_text() for text in bars.figure.axes[0].texts]
    assert notes.count("-") == 1
    assert notes.count("nan") == 7
    assert "-: no records; nan: undefined" in words_of(bars.figure)


def test_collapse_fidelity_seeds_and_failures_are_marked(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_runs(store, "kt", noisy(0.5), seeds=(1,))
    fail(ResultStore(store), dataset="synth", method="recap", seed=9)
    from matplotlib.collections import PathCollection

    chosen = selected(store)
    for row in chosen.table.rows:
        object.__setattr__(row, "fidelity", "experimental" if row.method == "umdf" else row.fidelity)
    with sheet.drawing():
        picture = curves.robustness(chosen, [chosen], "std")
        bars = curves.conditions(chosen, [chosen], "std")
    for figure in (picture.figure, bars.figure):
        text = words_of(figure)
        assert "umdf* (n=3)" in text
        assert "kt (n=1)" in text
        assert "Training seeds: 1 to 3 (n)." in text
        assert "* experimental = known by its title alone" in text
        assert "Left out: failed job recap (mixed), seed 9: RuntimeError: out of memory." in text
    marks = [part for part in picture.figure.axes[0].collections if isinstance(part, PathCollection)]
    [crosses, *others] = [part for part in marks if len(part.get_offsets())]
    # Only the constant collapses, in every rate.
    assert len(crosses.get_offsets()) == 10
    assert not others


def test_protocols_have_figures_of_their_own(store: Path, tmp_path: Path) -> None:
    add_runs(store, "mult", noisy(1.0), selection="test_best")
    out = figures("robustness", ["synth"], store=store, out=tmp_path / "out", band="none").splitlines()
    assert sorted(Path(path).name for path in out) == [
        f"robustness_synth_{chosen}_f1_non0.{suffix}" for chosen in ("test_best", "val") for suffix in ("pdf", "png")
    ]
    chosen_tables = choose_rows(store, ["synth"], None, None)
    with sheet.drawing():
        texts = [words_of(curves.robustness(s, chosen_tables, "none").figure) for s in chosen_tables]
    assert ["SELECTED ON TEST" in text for text in texts] == [False, True]


def test_text_is_never_smaller_than_promised_and_fits(store: Path) -> None:
    from matplotlib.text import Text

    chosen = selected(store)
    with sheet.drawing():
        for picture in (
            curves.robustness(chosen, [chosen], "std"),
            curves.conditions(chosen, [chosen], "std"),
            confusion.confusion(chosen, [chosen], ["intra/0.5"], store),
        ):
            figure = picture.figure
            figure.draw_without_rendering()
            width, height = figure.get_size_inches()
            assert width in (sheet.COLUMN, sheet.PAGE)
            assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7
            box = figure.get_tightbbox()
            assert -0.01 <= box.x0 <= box.x1 <= width + 0.01
            assert -0.01 <= box.y0 <= box.y1 <= height + 0.01


@pytest.mark.parametrize("kind", ["robustness", "confusion", "cost", "ranks"])
def test_the_same_store_gives_the_same_bytes(store: Path, tmp_path: Path, kind: str) -> None:
    add_runs(store, "kt", noisy(0.8), record=pricey)
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        paths = [Path(line) for line in figures(kind, ["synth"], store=store, out=folder).splitlines()]  # type: ignore[arg-type]
        assert [path.suffix for path in paths] == [".pdf", ".png"]
        assert sorted(folder.iterdir()) == sorted(paths)
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"%PDF")
    assert b"CreationDate" not in contents[0][0]
    assert contents[0][1].startswith(b"\x89PNG")


# Confusion.


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_the_diagonal_of_a_confusion_matrix_is_the_accuracy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for metric_set, key, spread in (("sentiment", "acc7", 3.0), ("sims", "acc5", 1.0)):
        labels = (rng.uniform(-spread, spread, 30)).astype(np.float32)
        preds = (labels + rng.normal(size=(2, 30))).astype(np.float32)
        runs = Runs([str(i) for i in range(30)], labels, {"inter/l": [preds, preds[:1]]}, 2)
        counts = confusion.confusion_counts(runs, metric_set, "inter/l")
        assert counts.sum() == 90
        expected = sum(compute(metric_set, labels, pred)[key] for pred in (*preds, preds[0])) / 3
        assert np.trace(counts) / 90 == pytest.approx(expected)


def test_rows_of_a_confusion_matrix_are_the_true_classes() -> None:
    runs = Runs(["a", "b"], np.array([-3.0, 2.0], np.float32), {"inter/l": [np.array([[1.0, 9.0]], np.float32)]}, 1)
    counts = confusion.confusion_counts(runs, "sentiment", "inter/l")
    assert counts[0, 4] == 1
    assert counts[5, 6] == 1


# Representations.


def test_cluster_variance_by_hand() -> None:
    x = np.array([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0], [12.0, 0.0]])
    # Within: 4 times 1; total around 6: 36 + 16 + 16 + 36.
    assert embedding.within_share(x, np.array([0, 0, 1, 1])) == pytest.approx((4 / 104, 2 / 3))
    assert embedding.within_share(x, np.zeros(4))[0] == pytest.approx(1.0)
    assert embedding.within_share(x, np.arange(4))[0] == pytest.approx(0.0)
    assert math.isnan(embedding.within_share(np.ones((4, 2)), np.array([0, 0, 1, 1]))[0])


def test_cluster_variance_of_labels_dealt_at_random_is_as_stated() -> None:
    rng = np.random.default_rng(0)
    x, classes = rng.normal(size=(40, 5)), rng.integers(0, 3, 40)
    shares = [embedding.within_share(x, rng.permutation(classes))[0] for _ in range(400)]
    assert np.mean(shares) == pytest.approx(embedding.within_share(x, classes)[1], abs=0.005)
    # Neither scale nor place matters.
    assert embedding.within_share(7 * x + 3, classes)[0] == pytest.approx(embedding.within_share(x, classes)[0])


def keep_representations(store: Path, method: str, apart: float, seed: int = 1) -> None:
    """Representations of a method in which classes stand ``apart`` from each other."""
    [job] = [job for job in ResultStore(store).jobs() if (job.key.method, job.key.seed) == (method, seed)]
    stored = predictions.read(predictions.path_of(store, job.key))
    labels, n = stored[0].labels, len(stored[0].ids)
    kept = np.random.default_rng(0).normal(size=(n, 6)) + apart * np.sign(labels)[:, None]
    cell = CellPredictions(Cell.parse("intra/0.5"), 0, np.zeros(n, np.float32), "", {}, kept.astype(np.float32))
    evaluation = Evaluation("sentiment", stored[0].ids, labels, [cell], 0.0)
    representations.write(representations.beside(predictions.path_of(store, job.key)), evaluation)


def test_tsne_states_how_far_apart_classes_are(store: Path, tmp_path: Path) -> None:
    keep_representations(store, "mult", 0.0)
    keep_representations(store, "umdf", 4.0, seed=2)
    [chosen] = choose_rows(store, ["synth"], ["mult", "umdf"], None)
    with sheet.drawing():
        picture = embedding.tsne(chosen, [chosen], ["intra/0.5"], store)
    text = words_of(picture.figure)
    titles = [axes.get_title() for axes in picture.figure.axes if axes.get_title()]
    shares = [float(title.split("V = ")[1].split()[0]) for title in titles]
    assert shares[0] > 0.9
    assert shares[1] < 0.2
    assert "of one training (seed 1 or 2)" in text
    assert "share of the representation's variance within negative, neutral and positive clips" in text
    points = [axes.collections[0].get_offsets() for axes in picture.figure.axes[:2]]
    assert [len(p) for p in points] == [120, 120]
    out = figures("tsne", ["synth"], ["umdf"], store=store, out=tmp_path / "out")
    assert "tsne_synth_intra-0.5.png" in out


def test_tsne_of_what_was_not_kept_is_one_sentence(store: Path) -> None:
    with pytest.raises(MSABenchError, match=r"there are no representations .* `msabench evaluate .*--keep represent"):
        figures("tsne", ["synth"], ["mult"], store=store)
    keep_representations(store, "mult", 0.0)
    with pytest.raises(MSABenchError, match=r"holds no representations of cell inter/l, only of intra/0\.5"):
        figures("tsne", ["synth"], ["mult"], cells=["inter/l"], store=store)


# Cost, ranks, importance.


def test_revisions_have_diagrams_of_their_own(store: Path, tmp_path: Path) -> None:
    for revision in ("0123456789ab", "another"):
        for number in range(3):
            add(ResultStore(store), dataset="synth", method=f"made_{number}", revision=revision)
    with pytest.raises(MSABenchError, match="synth has records of 2 revisions, 0123456789ab, another"):
        figures("ranks", store=store, out=tmp_path / "out")
    paths = [
        Path(figures("ranks", store=store, out=tmp_path / "out", revision=[revision]).splitlines()[0]).name
        for revision in ("0123456789ab", "another")
    ]
    assert paths == [f"ranks_synth_{revision}_f1_non0.pdf" for revision in ("0123456789ab", "another")]


def test_derived_quantities_are_ranked_over_what_they_are_made_of(store: Path, tmp_path: Path) -> None:
    for method in ("mult", "umdf"):
        add_runs(store, method, noisy(0.9), variant="wo_x", seeds=(1,), n=120)
    options = {"store": store, "variants": ["default", "wo_x"], "metric": "mae"}
    pairs = [(["auilc_0.9"], ["intra"]), (["spread_lost", "spread_alone"], list(map(str, INTER[:-1])))]
    for quantities, cells in pairs:
        one, other = (
            figures("ranks", cells=given, out=tmp_path / str(number), **options)  # type: ignore[arg-type]
            for number, given in enumerate((quantities, cells))
        )
        for mine, theirs in zip(one.splitlines(), other.splitlines(), strict=True):
            assert Path(mine).read_bytes() == Path(theirs).read_bytes(), quantities


def test_cost_stands_where_the_records_say(store: Path) -> None:
    chosen = selected(store, "mae")
    jobs = {job.key.job_id: job for job in ResultStore(store).jobs()}
    with sheet.drawing():
        picture = cost.cost(chosen, [chosen], jobs, "seconds", "std")
    [axes] = picture.figure.axes
    points = [container.lines[0].get_xydata()[0] for container in axes.containers]
    rows = [row for row in chosen.table.rows if row.method != "constant"]
    # Seeds 1, 2, 3 took 10, 20, 30 seconds.
    assert points == [pytest.approx((20.0, row.entries["avg_intra"].mean)) for row in rows]
    assert "less is better" in axes.get_ylabel()
    assert "Trained on Some CPU, 1 thread." in words_of(picture.figure)
    assert axes.get_xlabel() == "seconds of training (mean over seeds)"
    for job in jobs.values():
        job.provenance["device"] = "cpu"
        job.train_processor_seconds, job.eval_processor_seconds = float(job.key.seed), 1.0
    with sheet.drawing():
        picture = cost.cost(chosen, [chosen], jobs, "seconds", "std")
    [axes] = picture.figure.axes
    assert axes.containers[0].lines[0].get_xydata()[0][0] == pytest.approx(2.0)
    assert axes.get_xlabel() == "processor seconds of training (mean over seeds)"
    assert "what else the machine did" not in words_of(picture.figure)


def test_importance_over_epochs(tmp_path: Path) -> None:
    from msabench.figures.importance import importance
    from msabench.methods.prlf import PRLF
    from msabench.testing.corpora import data_module, quiet_trainer, random_corpus

    torch.manual_seed(0)
    data = data_module(random_corpus(), batch_size=8)
    method = PRLF(data.spec, **PRLF.info.smoke)
    trainer = quiet_trainer(tmp_path, 3)
    trainer.fit(method, datamodule=data)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    with sheet.drawing():
        picture = importance([tmp_path / "best.ckpt"])
    [axes] = picture.figure.axes
    assert [line.get_label() for line in axes.lines] == ["text", "audio", "vision"]
    history = method.importance_history().float().numpy()
    for number, line in enumerate(axes.lines):
        assert line.get_xdata().tolist() == [1, 2, 3]
        assert line.get_ydata() == pytest.approx(np.nanmedian(history[:, :, number], axis=1), abs=1e-3)
    assert figures("importance", checkpoints=[str(tmp_path / "best.ckpt")], out=tmp_path / "out").endswith(".png")


def test_importance_of_what_keeps_none_is_one_sentence(tmp_path: Path) -> None:
    from msabench.methods.lf_dnn import LFDNN
    from msabench.testing.corpora import data_module, quiet_trainer, random_corpus

    data = data_module(random_corpus(), batch_size=8)
    trainer = quiet_trainer(tmp_path, 1)
    trainer.fit(LFDNN(data.spec, **LFDNN.info.smoke), datamodule=data)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    with pytest.raises(MSABenchError, match="is of lf_dnn, which keeps no importance; give checkpoints of prlf"):
        figures("importance", checkpoints=[str(tmp_path / "best.ckpt")], out=tmp_path / "out")
    with pytest.raises(
        MSABenchError, match=r"give some with --checkpoints, which `msabench run .* --keep-checkpoints`"
    ):
        figures("importance", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The verb.


def test_what_cannot_be_drawn_is_said_and_the_rest_is_drawn(store: Path, tmp_path: Path) -> None:
    add_runs(store, "mult", noisy(1.0), cells=PAPER[:7], revision="small")
    words = ["figures", "--kind", "robustness", "--datasets", "synth", "--band", "std", "--store", str(store)]
    assert dispatch([*words, "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 2
    said = figures("robustness", ["synth"], band="std", store=store, out=tmp_path / "out")
    assert "not drawn: synth has records of 1 rates, and a curve needs two" in said


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("pie", {}, "unknown kind of figure 'pie'; allowed: robustness, conditions"),
        ("ranks", {"band": "std"}, "band means nothing to figures of kind ranks; it takes datasets"),
        ("ranks", {}, "ranks need at least 3 methods"),
        ("robustness", {"datasets": ["mosi"]}, "holds no records of mosi, only of synth; make some with `msabench run"),
        ("robustness", {"datasets": ["mosy"]}, "unknown dataset 'mosy'"),
        ("robustness", {"methods": ["nope"]}, "unknown method 'nope'"),
        ("robustness", {"metric": "f2"}, "unknown metric 'f2'"),
        ("conditions", {"variants": ["nope"]}, "unknown variant in"),
        ("confusion", {"cells": ["intra/0.95"]}, r"has no predictions in cell intra/0\.95; it has inter/l"),
        ("confusion", {"cells": ["auilc_0.9"]}, "unknown cell 'auilc_0.9'; allowed: inter, intra, paper, random"),
        ("tsne", {"cells": ["avg_missing"]}, "unknown cell 'avg_missing'; allowed: inter, intra, paper, random"),
        (
            "robustness",
            {"cells": ["auilc_0.9"]},
            "cells means nothing to figures of kind robustness; it takes datasets",
        ),
        (
            "ranks",
            {"cells": ["auilc"]},
            "unknown cell 'auilc'; allowed: avg_missing, .*auilc_0.5, auilc_0.9, auilc_1.0",
        ),
        ("confusion", {"cells": ["paper"]}, "make 32 panels, and 12 fit on a page"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    store: Path, tmp_path: Path, kind: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(MSABenchError, match=message) as caught:
        figures(kind, **{"store": store, "out": tmp_path / "out", **options})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_records_alone_need_the_spread_of_seeds(store: Path, tmp_path: Path) -> None:
    for path in (store / "predictions").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(MSABenchError, match="there are no predictions"):
        figures("robustness", store=store, out=tmp_path / "out")
    with pytest.raises(MSABenchError, match="there are no predictions"):
        figures("confusion", store=store, out=tmp_path / "out")
    assert len(figures("robustness", store=store, out=tmp_path / "out", band="std").splitlines()) == 2


def test_more_lines_than_can_be_told_apart_are_refused(store: Path, tmp_path: Path) -> None:
    for number in range(sheet.MOST_ROWS):
        add(ResultStore(store), dataset="synth", method=f"made_{number}")
    with pytest.raises(
        MSABenchError, match=r"12 rows cannot be told apart in one figure .* name at most 10 with --methods"
    ):
        figures("robustness", store=store, out=tmp_path / "out", band="std")


def test_more_ranks_than_can_be_told_apart_are_refused(store: Path, tmp_path: Path) -> None:
    for number in range(MOST_RANKED):
        add(ResultStore(store), dataset="synth", method=f"made_{number:02}")
    with pytest.raises(
        MSABenchError, match=r"\d\d rows cannot be told apart in one diagram of ranks .* name at most 30 with --methods"
    ):
        figures("ranks", store=store, out=tmp_path / "out")


def test_every_option_belongs_to_a_kind() -> None:
    import inspect

    given = set(inspect.signature(figures).parameters) - {"kind", "store", "committed", "out"}
    assert given == {name for names in OPTIONS.values() for name in names}


def test_drawing_needs_no_torch(store: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom msabench.__main__ import dispatch\nassert dispatch(sys.argv[1:]) == 0\n"
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules), 'heavy import'"
    )
    words = ["figures", "--kind", "conditions", "--store", str(store), "--out", str(tmp_path / "out")]
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("kind", "library"), [("conditions", "matplotlib"), ("ranks", "scikit_posthocs")])
def test_a_missing_library_is_one_sentence(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, library: str
) -> None:
    add_runs(store, "kt", noisy(0.8))
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MSABenchError, match=rf'{library} .*install it with `pip install "msabench\[report\]"`'):
        figures(kind, store=store, out=tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()

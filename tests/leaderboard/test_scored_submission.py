"""Predictions from elsewhere on the leaderboard: the checks that admit them, and how pages show them."""

import json
import re

import pytest

from msabench.errors import MSABenchError
from msabench.leaderboard.admit import admit
from msabench.leaderboard.readme import readme_text
from msabench.leaderboard.site import build_site
from msabench.missingness.conditions import Cell
from msabench.packaged import PUBLISHED, packaged
from msabench.results import predictions
from msabench.results.predictions import CellPredictions, Evaluation
from msabench.results.record import EXTERNAL_ORIGIN, JobRecord
from msabench.results.scored import Scored, content_hash
from msabench.results.store import ResultStore
from msabench.results.table import CONSTANT
from tests.support import contributed
from tests.support.contributed import contribute, edit, files_of
from tests.support.records import PAPER, add, key

SAID = Scored("My <b>model</b>", "a" * 64, "Asked in words.", "https://example.org/mine")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MSABENCH_DATA", str(tmp_path_factory.mktemp("no_corpora")))
        yield


def contribute_scored(folder, *, said=SAID, shift=0.0, holes=None, **changes):
    """A store with one job as ``msabench score`` writes it: the predictions of a trained one, moved by ``shift``."""
    trained = contribute(folder / "trained", cells=contributed.CELLS, holes=holes)
    stored = predictions.read(predictions.path_of(folder / "trained", trained.key))
    [(_, record)] = ResultStore(folder / "trained").files()
    entries = [
        CellPredictions(Cell.parse(e.cell), e.mask_seed, e.preds + shift, known.mask_hash, known.dropped)
        for e, known in zip(stored, record.cells, strict=True)
    ]
    made = Evaluation("sentiment", stored[0].ids, stored[0].labels, entries, 0.0)
    job_key = key(
        **{
            **{name: getattr(trained.key, name) for name in ("dataset", "revision", "features")},
            "method": said.slug,
            "regime": "unknown",
            "seed": 0,
            "config_hash": content_hash(made.ids, [(str(e.cell), e.mask_seed, e.preds) for e in entries]),
            "origin": EXTERNAL_ORIGIN,
            **changes,
        }
    )
    job = JobRecord(
        job_key,
        provenance={"git_commit": "0" * 40, "git_dirty": False, **said.provenance()},
        config={"data": {"size": list(contributed.SIZE), "length": contributed.LENGTH}},
        mask_seeds=[0, 1],
        metric_set="sentiment",
    )
    given = folder / "given"
    predictions.write(predictions.path_of(given, job_key), made)
    ResultStore(given).add(job, made.records(job_key.job_id))
    return given, job


def refused(given, store, *words):
    with pytest.raises(MSABenchError) as caught:
        admit(given, store)
    for word in words:
        assert word in str(caught.value), caught.value
    assert not store.exists()


def test_scored_predictions_enter_by_the_same_checks(tmp_path):
    given, job = contribute_scored(tmp_path)
    said = admit(given, tmp_path / "store")
    assert "test masks of synth: as in the corpus" in said
    assert "clips and labels of synth: as in the corpus" in said
    assert files_of(tmp_path / "store") == files_of(given)
    assert ResultStore(tmp_path / "store").has(job.key.job_id)
    with pytest.raises(MSABenchError, match="admitted already"):
        admit(given, tmp_path / "store")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "gpt"}, "it stands under 'gpt', its title 'My <b>model</b>' gives 'my_b_model_b'"),
        ({"said": Scored("UMDF", "a" * 64)}, "is a method of msabench"),
        ({"said": Scored("Mine", "a" * 64, url="javascript:x")}, "is no address"),
        ({"config_hash": "c" * 12}, "its key is of other predictions: config_hash 'cccccccccccc'"),
        ({"regime": "best of all"}, "regime 'best of all' is no name"),
        ({"selection": "mine"}, "selection 'mine' is not allowed"),
        ({"level": "words"}, "has level 'words'; allowed: vectors, tokens"),
        ({"token_fill": "unk"}, "has token_fill 'unk'; allowed: (empty)"),
        ({"dataset": "custom"}, "'custom' is no corpus that others have"),
        ({"features": "mine"}, "unknown features of synth 'mine'"),
        ({"holes": {("intra/0.5", 1): "f" * 16}}, "the masks of intra/0.5 with mask seed 1 have the hash ffff"),
    ],
)
def test_what_is_refused(changes, words, tmp_path):
    given, _ = contribute_scored(tmp_path, **changes)
    refused(given, tmp_path / "store", words)


@pytest.mark.parametrize(
    ("line", "change", "words"),
    [
        (0, {"n_params": 7}, "n_params is 7, which nobody here can know"),
        (0, {"train_seconds": 1.5}, "train_seconds is 1.5"),
        (0, {"eval_processor_seconds": 1.5}, "eval_processor_seconds is 1.5"),
        (0, {"config": {"model": {"class_path": "os.system"}}}, "its config says more than how the corpus was opened"),
        (0, {"config": {"data": {"path": "/home/me"}}}, "its config says more than how the corpus was opened"),
        (0, {"provenance": {}}, "does not say what was scored"),
        (0, {"mask_seeds": [0]}, "has the mask seeds 0, 1, the job says 0"),
        (1, {"n": 19}, "says 19 clips"),
    ],
)
def test_records_that_were_tampered_with(line, change, words, tmp_path):
    given, job = contribute_scored(tmp_path)
    edit(given, job, lambda entry: entry.update(change), line)
    refused(given, tmp_path / "store", words)


def test_predictions_that_were_exchanged(tmp_path):
    given, job = contribute_scored(tmp_path)
    _, other = contribute_scored(tmp_path / "other", shift=0.1)
    source = predictions.path_of(tmp_path / "other" / "given", other.key)
    predictions.path_of(given, job.key).write_bytes(source.read_bytes())
    refused(given, tmp_path / "store", "is damaged: it is not the file that its record has the checksum of")


def test_a_method_of_ours_does_not_pass_as_scored_to_escape_its_checks(tmp_path):
    job = contribute(tmp_path / "given", method="umdf")
    edit(tmp_path / "given", job, lambda line: line.update(origin="external"))
    refused(tmp_path / "given", tmp_path / "store", "but its key fields give")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site of two trained methods and predictions from elsewhere that beat them."""
    folder = tmp_path_factory.mktemp("site")
    store = ResultStore(folder / "store")
    cells = {"names": PAPER}
    for method, level in (("umdf", 0.6), ("mult", 0.5), (CONSTANT, 0.4)):
        add(store, lambda *_, level=level: level, method=method, cell_options=cells)
    more = {"job": {"provenance": SAID.provenance()}, "origin": EXTERNAL_ORIGIN, "cell_options": cells}
    add(store, lambda *_: 0.9, method=SAID.slug, **more)
    build_site(folder / "out", folder / "store", packaged(PUBLISHED))
    return folder


def test_pages_show_them_under_their_mark(site):
    text = (site / "out/data/results.js").read_text(encoding="utf-8")
    [group] = json.loads(text.partition("= ")[2].rstrip(";\n"))["groups"]
    rows = {row["method"]: row for row in group["rows"]}
    assert {name: (row["scored"], row["constant"]) for name, row in rows.items()} == {
        "umdf": (False, False),
        "mult": (False, False),
        "constant": (False, True),
        SAID.slug: (True, False),
    }
    assert rows[SAID.slug]["fidelity"] == "scored"
    assert any("only scored here" in note for note in group["notes"])
    page = (site / "out/methods" / rows[SAID.slug]["page"]).read_text(encoding="utf-8")
    assert "My &lt;b&gt;model&lt;/b&gt;" in page
    assert "<b>model" not in page
    assert "made elsewhere and only scored here" in page
    assert 'href="https://example.org/mine"' in page
    assert "there is nothing to run again here" in page
    assert "msabench run --suite" not in page
    assert re.search(r"<h2>Cost</h2>\s*<p>No finished job of it is recorded here", page)
    assert '<select name="origin">' in (site / "out/results.html").read_text(encoding="utf-8")


def test_the_readme_never_prints_them_bold(site):
    lines = [line for line in readme_text(site / "store").splitlines() if line.startswith("|")]
    [mine] = [line for line in lines if line.startswith(f"| {SAID.slug}")]
    [best] = [line for line in lines if line.startswith("| umdf")]
    assert "90.0" in mine
    assert "**" not in mine
    assert "**60.0" in best

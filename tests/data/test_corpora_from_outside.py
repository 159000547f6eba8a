"""Corpora from outside: found by plug-in and entry point, read by readers of their own, and through every verb."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from msabench.__main__ import dispatch, with_plugins
from msabench.data.commands import data_fetch, data_list, data_verify
from msabench.data.registry import corpora, dataset_info, recorded_info
from msabench.data.store import open_corpus
from msabench.errors import MSABenchError
from msabench.evaluation.command import evaluate_checkpoint
from msabench.methods.registry import add_plugins
from msabench.plugins import PLUGINS_VARIABLE
from msabench.published.numbers import read_numbers
from msabench.results.store import ResultStore
from tests.support.corpora import Content, write_npz
from tests.support.outside_folder import OUTSIDE, outside_folder, plug_in

REPOSITORY = Path(__file__).parents[2]
TEXT = (OUTSIDE / "my_corpus.py").read_text()

folder = pytest.fixture(outside_folder)
pytestmark = pytest.mark.usefixtures("folder")


def write_arrays(path: str = "data/my_clips/clips.npz") -> Content:
    def narrow(content: Content) -> None:
        content["regression_labels"] /= 3

    return write_npz(Path(path), change=narrow)


def write_columns(path: str = "data/my_clips/clips.csv", n: int = 60) -> None:
    """Clips whose label stands in the first text feature; two of three train, and none validates."""
    rng = np.random.default_rng(0)
    lines = []
    for row in range(n):
        split = "test" if row % 3 == 2 else "train"
        label = rng.uniform(-1, 1)
        features = ",".join(f"{value:.4f}" for value in (label, *rng.standard_normal(4)))
        lines.append(f"{split}{row // 6}$_${row},{split},{label:.4f},{features}\n")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(lines))


def refused(text: str, name: str = "broken.py") -> str:
    with pytest.raises(MSABenchError) as caught:
        add_plugins([plug_in(name, text)])
    return str(caught.value)


def shown(*words: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert dispatch(with_plugins([*words])) == 0
    return out.getvalue()


# Found.


def test_a_plug_in_brings_a_corpus_and_is_not_imported_to_be_listed() -> None:
    add_plugins([plug_in("my_corpus.py")])
    assert list(corpora())[-1] == "my_clips", "behind those of msabench"
    info = dataset_info("my_clips")
    assert (info.title, info.label_range, [file.features for file in info.files]) == (
        *("My clips", (-1.0, 1.0)),
        ["arrays", "columns"],
    )
    assert recorded_info("my_clips") == info
    listed = data_list()
    assert f"my_clips: from outside msabench, my_corpus:info in {Path('my_corpus.py').resolve()}" in listed
    assert "my_clips: My clips are few." in listed
    assert "my_corpus" not in sys.modules


def test_what_is_not_named_is_unknown() -> None:
    with pytest.raises(MSABenchError, match="unknown dataset 'my_clips'; allowed: mosi, mosei, sims"):
        dataset_info("my_clips")
    assert recorded_info("my_clips") is None


def test_an_entry_point_is_found_and_a_bad_one_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = Path("site/my_ext-2.1.dist-info")
    facts.mkdir(parents=True)
    for name, text in {
        "my_corpus": TEXT,
        "taken": TEXT.replace('name="my_clips"', 'name="mosi"'),
        "other": TEXT.replace('name="my_clips"', 'name="other_clips"').replace("info = Data", "CLIPS = Data"),
    }.items():
        Path("site", f"{name}.py").write_text(text)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-ext\nVersion: 2.1\n")
    points = "mine = my_corpus\ntaken = taken:info\nother = other:CLIPS\nno = other:INFO\nlost = no_such\n"
    (facts / "entry_points.txt").write_text(f"[msabench.datasets]\n{points}")
    monkeypatch.syspath_prepend(str(Path("site").resolve()))
    with pytest.warns(UserWarning, match="is left out") as warned:
        found = corpora()
    assert list(found)[-2:] == ["my_clips", "other_clips"]
    assert found["mosi"].title == "CMU-MOSI"
    said = " / ".join(str(warning.message) for warning in warned)
    assert "entry point lost of my-ext is left out: entry point lost of my-ext names module no_such, and" in said
    assert "entry point no of my-ext names other:INFO, which is no DatasetInfo(...)" in said
    assert "taken:info is left out: one of msabench's own is called mosi, too" in said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('name="my_clips"', 'name="sims"'), "cannot be the corpus sims: one of msabench's own has that name; rename"),
        (('name="my_clips"', 'name="My clips"'), "corpus name 'My clips' is not allowed; give small letters, digits"),
        (('name="my_clips"', "name=NAME"), "broken.py: info = DatasetInfo(...) cannot be read: line 18 is no literal"),
        (('title="My clips"', "title=5"), "cannot be read: title is 5; expected str"),
        (('title="My clips"', 'titel="My clips"'), "unexpected keyword argument 'titel'"),
        (('metric_set="sims"', 'metric_set="simms"'), "unknown metric_set 'simms'; allowed: sentiment, sims, emotions"),
        (('metric_set="sims"', 'task="emotions"'), "metric_set sentiment is not allowed for task emotions"),
        (("(-1.0, 1.0)", "(1.0, 1.0)"), "label_range (1.0, 1.0) is not allowed; give the lowest and the highest"),
        (('reader="npz"', 'reader="nzp"'), "unknown reader 'nzp'; allowed: mmsa, mult, npz, or a function, my_package"),
        (('reader="npz"', 'reader="generator"'), "reader generator is msabench's own; read a file"),
        (('features="columns"', 'features="arrays"'), "needs files, each with features of its own name"),
        (('features="columns"', 'features="a/b"'), "features 'a/b' are not allowed; give letters, digits, dots"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_refused_in_a_sentence(change: tuple[str, str], sentence: str) -> None:
    said = refused(TEXT.replace(*change))
    assert sentence in said
    assert "\n" not in said


def test_two_corpora_of_one_name_are_refused() -> None:
    add_plugins([plug_in("my_corpus.py")])
    assert "broken:info cannot be the corpus my_clips: my_corpus:info has that name" in refused(TEXT)


# Read.


def test_a_file_of_our_layout_needs_no_code() -> None:
    add_plugins([plug_in("my_corpus.py")])
    written = write_arrays()
    corpus = open_corpus("my_clips")
    assert (corpus.features, corpus.info.title) == ("arrays", "My clips")
    test = written["split"] == "test"
    assert np.array_equal(corpus.splits["test"].features["vision"], written["vision"][test])
    assert "my_corpus" not in sys.modules
    moved = Path("data/my_clips/clips.npz").rename("elsewhere.npz")
    assert open_corpus("my_clips", path=moved).revision == corpus.revision
    with pytest.raises(MSABenchError, match="msabench data fetch my_clips --features arrays"):
        open_corpus("my_clips")


def test_a_reader_of_ones_own_returns_what_our_npz_would_hold() -> None:
    add_plugins([plug_in("my_corpus.py")])
    write_columns()
    corpus = open_corpus("my_clips", "columns", valid_share=0.2)
    assert corpus.revision.endswith("-valid0.2")
    assert corpus.unseen == ("vision",)
    (first, *_) = corpus.splits["test"].ids
    assert first == "test0$_$2"
    assert corpus.splits["test"].features["text"][0, 0, 0] == pytest.approx(float(corpus.splits["test"].labels[0]))
    assert "My clips, columns" in data_verify("my_clips", "columns", valid_share=0.2)


def test_another_reader_reads_the_file_again_and_a_version_is_a_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    write_columns()
    add_plugins([plug_in("my_corpus.py")])
    first = open_corpus("my_clips", "columns", valid_share=0.2)
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    changed = TEXT.replace("frames[:, None, :3]", "-frames[:, None, :3]").replace("my_corpus:", "broken:")
    changed = changed.replace('clips.csv"', 'clips.csv", reader_version=2')
    add_plugins([plug_in("broken.py", changed)])
    second = open_corpus("my_clips", "columns", valid_share=0.2)
    assert second.splits["test"].features["text"][0, 0, 0] == -first.splits["test"].features["text"][0, 0, 0]
    assert second.revision == first.revision.replace("-valid", "-r2-valid")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return [1]", "reader broken:read returned a list; expected a mapping of names to arrays, as in our npz"),
        ("return {'id': ['a']}", "clips.csv has no array 'split' (it has id); expected id, split, regression_labels"),
        ("return {'text': [[1], [1, 2]]}", "text, which reader broken:read returned, is no array"),
        ("raise OSError('no')", "clips.csv: reader broken:read failed (OSError: no)"),
        ("return int('x')", "reader broken:read failed (ValueError: invalid literal for int()"),
    ],
)
def test_what_a_reader_of_ones_own_gets_wrong_is_one_sentence(body: str, sentence: str) -> None:
    write_columns()
    text = TEXT.replace("my_corpus:", "broken:").replace("    with path.open", f"    {body}\n    with path.open")
    add_plugins([plug_in("broken.py", text)])
    with pytest.raises(MSABenchError) as caught:
        open_corpus("my_clips", "columns", valid_share=0.2)
    assert sentence in str(caught.value)
    assert not list(Path("cache").glob("msabench/stores/*/*"))


def test_a_reader_that_is_not_there_is_named() -> None:
    write_columns()
    add_plugins([plug_in("broken.py", TEXT.replace("my_corpus:read", "broken:reed"))])
    with pytest.raises(MSABenchError, match="corpus my_clips names broken:reed, which cannot be imported"):
        open_corpus("my_clips", "columns", valid_share=0.2)


def test_what_stands_in_two_splits_is_refused() -> None:
    add_plugins([plug_in("my_corpus.py")])

    def doubled(content: Content) -> None:
        content["regression_labels"] /= 3
        content["id"][content["split"] == "test"] = content["id"][content["split"] == "train"][:7]

    write_npz(Path("data/my_clips/clips.npz"), change=doubled)
    with pytest.raises(MSABenchError, match="stand in train and in test; expected every clip in one split only"):
        open_corpus("my_clips")


def test_how_to_get_it_is_what_its_author_says(capsys: pytest.CaptureFixture[str]) -> None:
    add_plugins([plug_in("my_corpus.py")])
    assert data_fetch("my_clips", "arrays") == 1
    steps = capsys.readouterr().out
    assert "1. Ask me.\n2. Put it at data/my_clips/clips.npz.\n3. msabench data verify my_clips" in steps


# Through the verbs.

CONFIG = (
    "trainer: {max_epochs: 2, enable_progress_bar: false, accelerator: cpu}\n"
    "data: {dataset: my_clips, features: columns, valid_share: 0.2, missing: {regime: bad_audio}}\n"
    "model:\n  class_path: lf_dnn\n  init_args: {hidden_text: 8, hidden_audio: 8, hidden_vision: 8}\n"
)


def test_a_corpus_goes_through_every_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    given = ("--plugins", plug_in("my_corpus.py"))
    write_columns()
    Path("lf_dnn_my_clips.yaml").write_text(CONFIG.replace("class_path: lf_dnn", "class_path: LFDNN"))
    # Trained and evaluated here, and from the file's next place.
    shown("fit", "--config", "lf_dnn_my_clips.yaml", *given)
    (checkpoint,) = Path("runs/fit/my_clips").rglob("best.ckpt")
    moved = Path("data/my_clips/clips.csv").rename("moved.csv")
    with pytest.raises(MSABenchError, match=r"there is no file data/my_clips/clips.csv with the columns features"):
        evaluate_checkpoint(checkpoint, grid=["inter/la"])
    assert "recorded: " in evaluate_checkpoint(checkpoint, path=moved, store=Path("fitted"))
    Path("root/my_clips").mkdir(parents=True)
    moved.rename("root/my_clips/clips.csv")
    assert "inter/la" in evaluate_checkpoint(checkpoint, grid=["inter/la"], root=Path("root"))
    # Trained by a suite, in processes of their own.
    Path("suite.yaml").write_text(
        "name: mine\nconfigs: .\ngrid: [inter, intra/0.5]\nseeds: [1]\nmask_seeds: [0]\n"
        "overrides: {data.root: root}\njobs:\n- {method: lf_dnn, dataset: my_clips}\n"
    )
    assert "done in" in shown("run", "--suite", "suite.yaml", "--slots", "1", "--store", "store", *given)

    (job,) = ResultStore(Path("store")).jobs()
    assert (job.key.dataset, job.key.features, job.key.regime) == ("my_clips", "columns", "external(bad_audio)")
    (fitted,) = ResultStore(Path("fitted")).jobs()
    for source in (job.provenance["corpus"], fitted.provenance["corpus"]):
        assert (source["object"], source["reader"]) == ("my_corpus:info", "my_corpus:read")
        assert source["sha256"] == source["reader_sha256"]
        assert len(source["sha256"]) == 64
    assert "method" not in job.provenance, "lf_dnn is msabench's own"

    table = shown("table", "--datasets", "my_clips", "--store", "store")
    assert "My clips: F1 [f1], percent" in table
    assert "My clips are few." in table
    assert "Warning: no training clip had vision." in table
    assert "my_clips" in shown("metrics", "--store", "store")
    published = str(REPOSITORY / "leaderboard/published")
    shown("leaderboard", "build", "--store", "store", "--out", "site", "--published", published)
    page = Path("site/index.html").read_text()
    assert page.index("CH-SIMS") < page.index("My clips")
    assert "sentiment scores from -1 to 1; features arrays, columns." in page
    # Whoever only reads the records need not have it.
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    bare = shown("table", "--datasets", "my_clips", "--store", "store")
    assert "This corpus is not registered." in bare
    row = next(line for line in table.splitlines() if line.startswith("lf_dnn "))
    assert row in bare


def test_published_numbers_may_be_of_a_corpus_from_outside() -> None:
    header, row = (REPOSITORY / "leaderboard/published/prlf.csv").read_text().splitlines()[:2]
    assert ",mosi," in row
    assert ",f1,f1_non0," in row
    Path("mine.csv").write_text(f"{header}\n{row.replace(',mosi,', ',my_clips,')}\n")
    (number,) = read_numbers(Path("mine.csv"))
    assert number.key == "f1_non0", "nothing is known of the corpus"
    add_plugins([plug_in("my_corpus.py")])
    with pytest.raises(MSABenchError, match="unknown key of f1 on my_clips 'f1_non0'; allowed: f1"):
        read_numbers(Path("mine.csv"))


def test_listing_corpora_of_a_plug_in_that_imports_torch_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    plug_in("my_corpus.py", "import torch\n" + TEXT)
    code = (
        "import sys\n"
        "from msabench.__main__ import dispatch, with_plugins\n"
        "dispatch(with_plugins(['data', 'list', '--plugins', 'my_corpus.py']))\n"
        "assert not {'torch', 'my_corpus'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "my_clips" in done.stdout

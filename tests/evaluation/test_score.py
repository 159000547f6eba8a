"""From exported masks over somebody else's program to a record: the numbers of evaluation, or one sentence."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from msabench.__main__ import arguments_of, dispatch
from msabench.data.datamodule import MSADataModule
from msabench.data.needs import PLAIN
from msabench.errors import MSABenchError
from msabench.evaluation.evaluate import predict_grid
from msabench.evaluation.mask_manifest import read_manifest
from msabench.evaluation.masks_command import export
from msabench.evaluation.score import score
from msabench.missingness.conditions import GRIDS, Cell, distinct, parse_grid
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import mask_hash
from msabench.results import predictions, scored_file
from msabench.results.record import SCORED, CellRecord
from msabench.results.store import ResultStore
from msabench.testing.corpora import data_module, random_corpus
from tests.support.outside import files_alone

REPOSITORY = Path(__file__).parents[2]
PROGRAM = Path(files_alone.__file__)
SIZE, LENGTH = [24, 12, 20], 8
GRID = ["inter/l", "inter/av", "inter/lav", "intra/0.5"]
SMALL = {"dataset": "synth", "size": SIZE, "length": LENGTH}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data():
    return MSADataModule("synth", size=tuple(SIZE), length=LENGTH)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.npy"
    np.save(path, np.random.default_rng(0).normal(scale=0.3, size=768 + 5 + 20).astype(np.float32))
    return path


class Network:
    """The network of ``files_alone`` where msabench makes the batches."""

    name, needs = "network", PLAIN

    def __init__(self, weights):
        self.weights = np.load(weights)

    def __call__(self, batch, cell):
        features, observed = ({m: t.numpy() for m, t in part.items()} for part in (batch.features, batch.observed))
        return torch.from_numpy(files_alone.network(self.weights, features, observed)), None


@pytest.fixture(scope="module")
def evaluation(data, weights):
    return predict_grid(Network(weights), data, distinct(GRIDS["paper"]))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """Masks of a small grid, exported."""
    folder = tmp_path_factory.mktemp("exported") / "masks"
    export(**SMALL, out=folder, grid=GRID, mask_seeds=[0, 1])
    return folder


@pytest.fixture(scope="module")
def small(data, weights):
    return predict_grid(Network(weights), data, parse_grid(GRID), (0, 1))


def given_to(tmp_path, made, edit=lambda rows: rows):
    """A CSV with predictions, after an edit of its rows."""
    path = tmp_path / "preds.csv"
    scored_file.write(path, made)
    edit(pd.read_csv(path, dtype={"mask_seed": "Int64"})).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_a_program_elsewhere_gets_the_numbers_of_evaluate_to_the_last_digit(
    form, evaluation, weights, tmp_path, capsys
):
    folder, preds, store = tmp_path / "masks", tmp_path / "preds.csv", tmp_path / "store"
    sizes = ["--size", *map(str, SIZE), "--length", str(LENGTH)]
    words = ["masks", "export", "--dataset", "synth", *sizes, "--corrupted", "--format", form, "--out", str(folder)]
    assert dispatch(words) == 0
    subprocess.run([sys.executable, "-I", PROGRAM, folder, weights, preds], check=True)
    words = ["score", str(preds), "--dataset", "synth", "--name", "My network", "--masks", str(folder)]
    assert dispatch([*words, "--store", str(store)]) == 0
    assert "recorded: " in capsys.readouterr().out
    [(_, record)] = ResultStore(store).files()
    assert record.cells == evaluation.records(record.job.key.job_id)
    assert len(record.cells) == 7 + 9 * 3
    stored = predictions.read(predictions.path_of(store, record.job.key))
    for ours, theirs in zip(evaluation.cells, stored, strict=True):
        assert ours.preds.tobytes() == theirs.preds.tobytes()


def test_the_page_s_program_does_what_the_page_says(tmp_path):
    page = (REPOSITORY / "docs/predictions.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "predict.py").write_text(program, encoding="utf-8")
    export(**SMALL, out=tmp_path / "masks", corrupted=True, grid=GRID, mask_seeds=[0])
    subprocess.run([sys.executable, "-I", "predict.py"], cwd=tmp_path, check=True)
    said = score(tmp_path / "preds.csv", **SMALL, name="My model", masks=tmp_path / "masks", store=tmp_path / "store")
    assert "recorded: " in said


def test_emotions(tmp_path, monkeypatch):
    monkeypatch.setattr("msabench.data.datamodule.open_corpus", lambda *_, **__: random_corpus("emotions"))
    data = data_module(random_corpus("emotions"))
    rng = np.random.default_rng(0)

    class Guess:
        name, needs = "guess", PLAIN

        def __call__(self, batch, cell):
            return torch.from_numpy(rng.normal(size=(batch.size, 4, 2)).astype(np.float32)), None

    made = predict_grid(Guess(), data, parse_grid(["inter/l", "intra/0.3"]), (0, 1))
    path, store = tmp_path / "preds.csv", tmp_path / "store"
    scored_file.write(path, made)
    options = {"dataset": "custom", "name": "Mine", "grid": ["inter/l", "intra/0.3"], "mask_seeds": [0, 1]}
    said = score(path, **options, task="emotions", store=store)
    assert "f1_mean" in said
    assert "outside of the labels" not in said
    [(_, record)] = ResultStore(store).files()
    assert record.metric_set == "emotions"
    assert record.cells == made.records(record.job.key.job_id)
    pd.read_csv(path).drop(columns="pred_sad_1").to_csv(path, index=False)
    with pytest.raises(MSABenchError, match="has no column 'pred_sad_1', which custom needs"):
        score(path, **options, task="emotions")


def test_the_export_holds_what_methods_see_and_no_label(data, masks, tmp_path):
    manifest = read_manifest(masks)
    assert read_manifest(masks / "manifest.json") == manifest
    assert manifest.protocol == {
        "dataset": "synth",
        "revision": data.corpus.revision,
        "features": "synth",
        "level": "vectors",
        "lengths": "hide",
        "token_fill": "",
    }
    split = data.corpus.splits["test"]
    assert manifest.ids == split.ids
    assert [(entry.cell, entry.mask_seed) for entry in manifest.cells] == [
        *(("inter/l", None), ("inter/av", None), ("inter/lav", None), ("intra/0.5", 0), ("intra/0.5", 1))
    ]
    for entry in manifest.cells:
        path = masks / entry.file
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
        arrays = np.load(path)
        expected = data.cell_masks(Cell.parse(entry.cell), entry.mask_seed or 0)
        assert entry.mask_hash == mask_hash(expected)
        assert list(arrays["id"]) == split.ids
        for modality in ("text", "audio", "vision"):
            assert np.array_equal(arrays[f"observed_{modality}"], expected.observed[modality].numpy())
            assert np.array_equal(arrays[f"valid_{modality}"], expected.valid[modality].numpy())
        assert {*arrays} == {
            "id",
            *(f"{kind}_{m}" for kind in ("observed", "valid") for m in ("text", "audio", "vision")),
        }
    assert {path.name for path in masks.iterdir()} == {"manifest.json", *(entry.file for entry in manifest.cells)}
    # The same export is the same bytes.
    export(**SMALL, out=tmp_path / "again", grid=GRID, mask_seeds=[0, 1])
    assert all((tmp_path / "again" / path.name).read_bytes() == path.read_bytes() for path in masks.iterdir())


def test_corrupted_features_are_the_corpus_s_own_where_observed_and_0_elsewhere(data, tmp_path):
    export(**SMALL, out=tmp_path / "masks", grid=["inter/l+intra/0.3"], mask_seeds=[2], corrupted=True)
    [entry] = read_manifest(tmp_path / "masks").cells
    arrays = np.load(tmp_path / "masks" / entry.file)
    for modality, raw in data.corpus.splits["test"].features.items():
        observed = arrays[f"observed_{modality}"]
        assert np.array_equal(arrays[modality], raw.numpy() * observed[:, :, None])
        assert observed.any() == (modality == "text")
    assert "tokens" not in arrays


def test_cells_that_change_values_are_exported_with_them_or_not_at_all(data, tmp_path):
    for cell in ("noise/0.5", "permute/a"):
        with pytest.raises(MSABenchError, match=f"cell {cell} alters values, which masks do not tell.*--corrupted"):
            export(**SMALL, out=tmp_path / "masks", grid=[cell])
    with pytest.raises(MSABenchError, match="words before the text encoder"):
        export(**SMALL, out=tmp_path / "masks", grid=["words/0.3"], corrupted=True)
    assert not (tmp_path / "masks").exists()
    names = ["noise/a=0.5,v=0.5", "permute/a", "random/0.5"]
    export(**SMALL, out=tmp_path / "masks", grid=names, mask_seeds=[2], corrupted=True)
    for entry in read_manifest(tmp_path / "masks").cells:
        arrays = np.load(tmp_path / "masks" / entry.file)
        [batch] = data.cell_batches(Cell.parse(entry.cell), 2, batch_size=20)
        for modality, values in batch.features.items():
            assert np.array_equal(arrays[modality], values.numpy())


def test_predictions_of_cells_that_change_values_need_an_export_of_the_values(data, weights, tmp_path):
    grid = ["noise/a=0.5", "inter/lav"]
    made = predict_grid(Network(weights), data, parse_grid(grid), (0,))
    preds, options = given_to(tmp_path, made), {**SMALL, "name": "net", "grid": grid, "mask_seeds": [0]}
    export(**SMALL, out=tmp_path / "lav", grid=["inter/lav"])
    for masks in (None, tmp_path / "lav"):
        with pytest.raises(MSABenchError, match=r"cell noise/a=0.5 alters values.*masks export --corrupted"):
            score(preds, masks=masks, **options)
    export(**SMALL, out=tmp_path / "values", grid=grid, mask_seeds=[0], corrupted=True)
    assert "noise/a=0.5" in score(preds, masks=tmp_path / "values", **options)


def test_records_of_modalities_removed_by_chance_count_what_was_left(data, weights, tmp_path):
    made = predict_grid(Network(weights), data, parse_grid(["random/0.7", "inter/la"]), (0,))
    plain, chance = made.records("job")
    assert (plain.missing_pairs, plain.subsets) == (None, None)
    assert not {"missing_pairs", "subsets"} & plain.to_json().keys()
    assert chance.missing_pairs == pytest.approx(2 / 3)
    assert sum(chance.subsets[letter] for letter in "lav") == sum(chance.subsets.values()) == 20
    assert CellRecord.from_json(chance.to_json()) == chance


def test_at_level_tokens_the_corrupted_tokens_stand_in_for_text(data, tmp_path):
    export(**SMALL, out=tmp_path / "masks", grid=["intra/0.5"], mask_seeds=[0], corrupted=True, level="tokens")
    manifest = read_manifest(tmp_path / "masks")
    assert manifest.protocol["token_fill"] == "unk"
    arrays = np.load(tmp_path / "masks" / manifest.cells[0].file)
    assert "text" not in arrays
    complete = data.corpus.splits["test"].tokens.numpy()
    hidden = arrays["valid_text"] & ~arrays["observed_text"]
    some = arrays["observed_text"].any(1)
    assert hidden[some].any()
    assert (arrays["tokens"][some, 0][hidden[some]] == 100).all()
    assert np.array_equal(arrays["tokens"][:, 0][~hidden], complete[:, 0][~hidden])


def test_an_export_is_whole_or_not_there(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(MSABenchError, match="is there already; name a folder that is new or empty"):
        export(**SMALL, out=tmp_path / "full", grid=["inter/l"])
    monkeypatch.setattr("msabench.evaluation.mask_export.shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(MSABenchError, match=r"may need .*, and 0 bytes are free there"):
        export(**SMALL, out=tmp_path / "new", grid=["inter/l"])
    monkeypatch.undo()
    monkeypatch.setattr("msabench.evaluation.mask_export.sha256_of", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(**SMALL, out=tmp_path / "new", grid=["inter/l"])
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_large_exports_say_their_size_before(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("msabench.evaluation.mask_export.LARGE", 1000)
    export(**SMALL, out=tmp_path / "masks", grid=["inter/l"], corrupted=True)
    # 20 clips of 8 steps: two flags a step, and 768 + 5 + 20 floats.
    assert f"writing up to {20 * 8 * (6 + 4 * 793) / 1e6:.1f} MB into" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask_seeds": []}, "mask seeds [] are not allowed"),
        ({"mask_seeds": [1, 1]}, "mask seeds [1, 1] are not allowed"),
        ({"size": [1, 2]}, "size [1, 2] is not allowed"),
        ({"grid": ["outer"]}, "unknown grid 'outer'"),
        ({"format": "mat"}, "unknown format 'mat'; allowed: npz, parquet"),
    ],
)
def test_settings_of_an_export_that_are_not_allowed(changes, words, tmp_path):
    with pytest.raises(MSABenchError) as caught:
        export(**{**SMALL, "out": tmp_path / "masks", **changes})
    assert words in str(caught.value)


def test_a_record_says_what_is_known_and_nothing_else(small, masks, tmp_path):
    path, store = given_to(tmp_path, small), tmp_path / "store"
    said = score(path, **SMALL, name="GPT-4o (zero-shot)", masks=masks, store=store, about="Asked in words.")
    assert "GPT-4o (zero-shot) on synth (generated): 20 clips, masks as by the column mask_hash and" in said
    [job] = ResultStore(store).jobs()
    key = job.key
    assert (key.method, key.origin, key.regime, key.selection, key.seed) == (
        "gpt_4o_zero_shot",
        "external",
        "unknown",
        "unknown",
        0,
    )
    assert (key.level, key.lengths, key.token_fill, key.features) == ("vectors", "hide", "", "synth")
    about = job.provenance[SCORED]
    assert about == {
        "title": "GPT-4o (zero-shot)",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "about": "Asked in words.",
        "url": "",
    }
    assert job.provenance["msabench"]
    assert "device" not in job.provenance
    assert job.config == {"data": {"size": SIZE, "length": LENGTH}}
    assert job.mask_seeds == [0, 1]
    for name in ("n_params", "epochs", "best_epoch", "val_task", "train_seconds", "eval_seconds", "peak_memory_bytes"):
        assert getattr(job, name) is None
    assert job.unseen is None
    assert ResultStore(store).validate() == []


def test_the_same_predictions_are_recorded_once_whatever_file_they_come_in(small, masks, tmp_path):
    store, options = tmp_path / "store", {**SMALL, "name": "Mine", "masks": masks}
    score(given_to(tmp_path, small), **options, store=store)
    scored_file.write(tmp_path / "again.parquet", small)
    with pytest.raises(MSABenchError, match="is recorded already"):
        score(tmp_path / "again.parquet", **options, store=store)
    other = given_to(tmp_path, small, lambda rows: rows.assign(pred=rows["pred"] + 0.01))
    score(other, **options, store=store)
    assert len(ResultStore(store).jobs()) == 2


def test_predictions_that_evaluate_stored_are_scored_as_they_are(small, masks, tmp_path):
    path, store = tmp_path / "stored.parquet", tmp_path / "store"
    predictions.write(path, small)
    score(path, **SMALL, name="Mine", masks=masks, store=store)
    [(_, record)] = ResultStore(store).files()
    assert record.cells == small.records(record.job.key.job_id)
    small_elsewhere = tmp_path / "other.parquet"
    frame = pd.read_parquet(path)
    frame.assign(label=frame["label"].iloc[::-1].to_numpy()).to_parquet(small_elsewhere)
    with pytest.raises(MSABenchError, match="has labels in cell inter/l that are not those of synth"):
        score(small_elsewhere, **SMALL, name="Mine", masks=masks)


def test_without_a_manifest_the_file_says_protocol_and_masks(small, tmp_path, data):
    protocol = {name: data.protocol()[name] for name in scored_file.PROTOCOL_KEYS}
    path = tmp_path / "preds.parquet"
    scored_file.write(path, small, protocol)
    assert "Mine on synth" in score(path, **SMALL, name="Mine", grid=GRID, mask_seeds=[0, 1])
    scored_file.write(path, small, {**protocol, "lengths": "keep"})
    said = score(path, **SMALL, name="Mine", grid=GRID, mask_seeds=[0, 1], store=tmp_path / "store")
    assert "recorded" in said
    assert ResultStore(tmp_path / "store").jobs()[0].key.lengths == "keep"


def shifted(hashes):
    """The mask hash of each cell, moved to the next one."""
    return lambda rows: rows.assign(mask_hash=np.roll(rows["mask_hash"], hashes))


@pytest.mark.parametrize(
    ("edit", "options", "words"),
    [
        (lambda rows: rows.drop(columns="mask_hash"), {"masks": None}, "does not say on which masks"),
        (shifted(20), {}, "was predicted on other masks in cell inter/l: its mask_hash says"),
        (lambda rows: rows.replace({"mask_seed": {1: 2}}), {}, "mask_seed 2 in cell intra/0.5; asked for: 0 1"),
        (lambda rows: rows[rows["cell"] != "inter/av"], {}, "lacks 1 of 5 test situations, e.g. cell inter/av"),
        (lambda rows: rows.drop(7), {}, "lacks predictions of test clips of synth: 1, e.g. of clip"),
        (lambda rows: pd.concat([rows, rows.iloc[[3]]]), {}, "has predictions more than once: 1"),
        (lambda rows: rows.assign(id=rows["id"] + "x"), {}, "not in the test split of synth: 20"),
        (lambda rows: rows.assign(pred=np.nan), {}, "empty or not finite: 100"),
        (lambda rows: rows, {"level": "tokens"}, "--level says level 'tokens', "),
        (lambda rows: rows, {"lengths": "keep"}, "--lengths says lengths 'keep', "),
        (lambda rows: rows, {"size": [24, 12, 21]}, "are of revision 'r1-24x12x20-T8', and the data opened here have"),
        (lambda rows: rows, {"grid": ["inter"]}, "which is not in the grid"),
        (lambda rows: rows, {"mask_seeds": [0]}, "mask_seed 1 in cell intra/0.5; asked for: 0"),
        (lambda rows: rows, {"name": "MulT"}, "which is a method of msabench"),
        (lambda rows: rows, {"name": ""}, "title '' is empty"),
        (lambda rows: rows, {"regime": "of my own"}, "regime 'of my own' is no name"),
        (lambda rows: rows, {"seed": -1}, "seed -1 is not allowed"),
        (lambda rows: rows, {"url": "here"}, "url 'here' is no address"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(edit, options, words, small, masks, tmp_path):
    path, store = given_to(tmp_path, small, edit), tmp_path / "store"
    with pytest.raises(MSABenchError) as caught:
        score(path, **{**SMALL, "name": "Mine", "masks": masks, **options}, store=store)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not store.exists()


def test_predictions_on_masks_of_another_protocol_do_not_pass(data, weights, masks, tmp_path):
    other = MSADataModule("synth", size=tuple(SIZE), length=LENGTH, missing=MissingConfig(level="tokens"))
    made = predict_grid(Network(weights), data, parse_grid(GRID), (0, 1))
    for entry in made.cells:
        entry.mask_hash = mask_hash(other.cell_masks(entry.cell, entry.mask_seed or 0))
    with pytest.raises(MSABenchError, match=r"was predicted on other masks in cell intra/0.5 with mask seed 0"):
        score(given_to(tmp_path, made), **SMALL, name="Mine", masks=masks)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda text: text[: len(text) // 2], "is no manifest of `msabench masks export`"),
        (lambda text: text.replace("msabench masks", "pictures"), "its kind and version are"),
        (lambda text: text.replace('"level": "vectors"', '"level": 1'), "level is 1; expected text"),
        (lambda text: text.replace('"cell": "inter/l"', '"cell": "inter/x"'), "unknown modality condition 'x'"),
        (lambda text: text.replace('"ids"', '"names"'), "no 'ids'"),
        (lambda text: "[" * 100_000, "is no manifest"),
    ],
)
def test_a_manifest_that_is_none(edit, words, small, masks, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(edit((masks / "manifest.json").read_text()))
    with pytest.raises(MSABenchError) as caught:
        score(given_to(tmp_path, small), **SMALL, name="Mine", masks=path)
    assert words in str(caught.value)


def test_a_manifest_on_other_masks_is_found(small, masks, tmp_path):
    content = json.loads((masks / "manifest.json").read_text())
    content["cells"][3]["mask_hash"] = "0" * 16
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    path = given_to(tmp_path, small, lambda rows: rows.drop(columns="mask_hash"))
    with pytest.raises(MSABenchError, match=r"in cell intra/0.5 with mask seed 0: the manifest says 0000"):
        score(path, **SMALL, name="Mine", masks=tmp_path)


def test_what_lies_beyond_the_labels_range_is_said(small, masks, tmp_path):
    path = given_to(tmp_path, small, lambda rows: rows.assign(pred=rows["pred"] * 100 + 1000))
    assert "note: 100 predictions lie outside of the labels' range from -3 to 3" in score(
        path, **SMALL, name="Mine", masks=masks
    )


def test_the_file_stands_first_on_the_command_line_and_nothing_else_does():
    from msabench.evaluation import masks_command

    words = ["preds.csv", "--dataset", "mosi", "--name", "Mine", "--mask_seeds", "0", "1"]
    given = arguments_of("score", score, words)
    assert (given["predictions"], given["name"], given["mask_seeds"]) == (Path("preds.csv"), "Mine", [0, 1])
    given = arguments_of("masks export", masks_command.export, ["--dataset", "mosi", "--out", "masks"])
    assert (given["dataset"], given["out"], given["grid"]) == ("mosi", Path("masks"), ["paper"])
    with pytest.raises(MSABenchError, match="msabench masks export"):
        arguments_of("masks export", masks_command.export, ["mosi", "--out", "masks"])


def test_a_file_of_ones_own_without_a_validation_split(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    arrays = {m: rng.normal(size=(20, 3, 4)) for m in ("text", "audio", "vision")}
    ids = [f"v{row // 2}$_${row}" for row in range(20)]
    np.savez("own.npz", id=ids, split=["train"] * 14 + ["test"] * 6, regression_labels=rng.normal(size=20), **arrays)
    given = ["--dataset", "custom", "--path", "own.npz", "--valid_share", "0.3", "--corpus_name", "mine"]
    assert dispatch(["masks", "export", *given, "--grid", "inter/la", "--out", "masks"]) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"{' '.join(given)} --name NAME --masks masks`\n")
    rows = "".join(f"{clip},inter/la,,{row / 10}\n" for row, clip in enumerate(ids[14:]))
    Path("predictions.csv").write_text(f"id,cell,mask_seed,pred\n{rows}")
    words = ["score", "predictions.csv", *given, "--name", "Theirs", "--masks", "masks", "--store", "store"]
    assert dispatch(words) == 0
    [job] = ResultStore(Path("store")).jobs()
    assert job.key.dataset == "custom-mine"
    assert job.key.revision.endswith("-valid0.3")
    assert job.config == {"data": {"valid_share": 0.3}}


def test_a_record_that_cannot_be_written_leaves_no_predictions(small, masks, tmp_path, monkeypatch):
    path, store = given_to(tmp_path, small), tmp_path / "store"

    def full(*_):
        raise OSError("no room")

    monkeypatch.setattr(ResultStore, "add", full)
    with pytest.raises(OSError, match="no room"):
        score(path, **SMALL, name="Theirs", masks=masks, store=store)
    assert [*store.rglob("*.parquet")] == []

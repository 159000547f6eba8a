"""Corpora that users bring: what is not there is not seen, said, recorded and marked."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msabench.__main__ import dispatch
from msabench.data.commands import data_verify
from msabench.data.datamodule import MSADataModule
from msabench.data.needs import Needs
from msabench.data.probe import data_describe, leak_suspected
from msabench.data.store import open_corpus
from msabench.errors import MSABenchError
from msabench.evaluation.command import evaluate_checkpoint
from msabench.missingness.conditions import Cell
from msabench.missingness.config import UNK, MissingConfig
from msabench.missingness.patterns import dropped_share, mask_hash
from msabench.results.job_identity import config_hash, job_key
from msabench.results.store import ResultStore
from msabench.tables.command import table
from msabench.training.build import resolve
from tests.support.corpora import MODALITIES, SPLITS, Change, Content, write_mmsa, write_mult, write_npz

CONFIGS = Path(__file__).parents[2] / "configs"


pytestmark = pytest.mark.usefixtures("elsewhere")


def own(change: Change | None = None, path: str = "own.npz", **settings: Any) -> Content:
    return write_npz(Path(path), change=change, **settings)


def opened(path: str = "own.npz", **settings: Any) -> MSADataModule:
    return MSADataModule("custom", path=Path(path), **settings)


def refused(change: Change) -> str:
    own(change)
    with pytest.raises(MSABenchError) as caught:
        open_corpus("custom", path=Path("own.npz"))
    return str(caught.value)


def keep(content: Content, modality: str) -> None:
    for key in [key for key in content if key.startswith(modality)]:
        del content[key]


# Masks of frames.


def masked(content: Content) -> None:
    steps = np.arange(content["audio"].shape[1])
    content["audio_observed"] = (steps % 3 != 1) & (steps < content["audio_lengths"][:, None])


def test_frames_that_were_never_observed_are_seen_by_nothing() -> None:
    written = own(masked, steps=dict.fromkeys(MODALITIES, 9))
    data = opened(missing=MissingConfig(regime="mixed"))
    mask = torch.tensor(written["audio_observed"])
    for split in SPLITS:
        rows = torch.tensor(np.flatnonzero(written["split"] == split))
        for cell in (Cell(), Cell("a"), Cell("lav", "0.4")):
            batch = next(data.cell_batches(cell, 1, split=split))
            assert not batch.observed["audio"][~mask[rows]].any()
            assert not batch.features["audio"][~mask[rows]].any()
    train = torch.arange(12)
    for batch in (data.training_batch(train, 3), data.training_batch(train, 3, needs=Needs(complete=True)).complete):
        assert batch is not None
        assert not batch.observed["audio"][:, 1::3].any()
    # Nor do they count as dropped, and the statistics are of the others.
    clips = data._split_on("test", "cpu").clips
    assert dropped_share(data.cell_masks(Cell(), 0), clips)["audio"] == 0
    _ = next(data.cell_batches(Cell(), 0))
    seen = written["audio"][(written["split"] == "train")][mask[torch.tensor(written["split"] == "train")].numpy()]
    assert data._scale is not None
    np.testing.assert_allclose(data._scale["audio"][0], seen.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(data._scale["audio"][1], seen.std(axis=0), atol=1e-5)


def test_words_that_were_never_observed_reach_no_text_encoder() -> None:
    def hidden(content: Content) -> None:
        content["text_observed"] = np.ones(content["text"].shape[:2], dtype=bool) & (
            np.arange(content["text"].shape[1]) < content["text_lengths"][:, None]
        )
        content["text_observed"][:, 2] = False

    own(hidden, tokens=True)
    batch = next(opened().cell_batches(Cell(), 0, needs=Needs(tokens=True)))
    assert batch.tokens is not None
    inner = batch.tokens[:, 1, 3] == 1
    assert inner.any()
    assert (batch.tokens[inner, 0, 2] == UNK).all()
    assert (batch.tokens[inner, 0, 1] == 2000).all()


def test_masks_of_another_form_are_refused() -> None:
    def short(content: Content) -> None:
        content["audio_observed"] = np.ones((24, 2), dtype=bool)

    def beyond(content: Content) -> None:
        content["audio_observed"] = np.ones(content["audio"].shape[:2], dtype=bool)

    assert "audio_observed has shape (12, 2)" in refused(short)
    assert "audio_observed is true for padding of clip" in refused(beyond)


# Padding.


def fronted(content: Content) -> None:
    content["audio"] = content["audio"][:, ::-1].copy()


def test_padding_in_front_is_named_or_refused() -> None:
    sentence = refused(fronted)
    assert "audio_lengths is " in sentence
    assert sentence.endswith(
        "expected padding at the end; name the side in audio_padding (front or end), or the frames that exist in "
        "audio_observed"
    )

    def declared(content: Content) -> None:
        fronted(content)
        content["audio_padding"] = np.array("front")

    def side_alone(content: Content) -> None:
        declared(content)
        del content["audio_lengths"]

    written = own(declared)
    own(side_alone, "alone.npz")
    for path in ("own.npz", "alone.npz"):
        corpus = open_corpus("custom", path=Path(path))
        assert corpus.padding == {"text": "end", "audio": "front", "vision": "end"}
        train = written["split"] == "train"
        assert corpus.splits["train"].lengths["audio"].tolist() == written["audio_lengths"][train].tolist()
        assert np.array_equal(corpus.splits["train"].features["audio"], written["audio"][train])

    def left(content: Content) -> None:
        content["audio_padding"] = np.array("left")

    assert "audio_padding is 'left'; expected front or end" in refused(left)


def test_frames_scattered_over_the_steps_are_refused_with_the_way_out() -> None:
    def scattered(content: Content) -> None:
        content["audio"][:, 1::2] = 0
        content["audio"][:, ::2] = 1
        content["audio_lengths"][:] = 5

    assert "2 of whose frames lie in the padding while 2 of its steps are all 0" in refused(scattered)


def test_zero_frames_at_the_ends_are_said_to_exist_where_nothing_says_otherwise() -> None:
    def no_lengths(content: Content) -> None:
        content["audio"][:, :2] = 0

    own(no_lengths, lengths=False)
    text = data_verify("custom", path=Path("own.npz"))
    assert "train/audio: 12 clips begin and 0 end with frames that are all 0, which exist since there is" in text


# What is not there.


def test_clips_that_are_all_zero_are_named_and_absent_when_asked() -> None:
    def silent(content: Content) -> None:
        test = np.flatnonzero(content["split"] == "test")
        content["audio"][test[:2]] = 0
        content["audio"][test[2]] = np.nan

    written = own(silent, lengths=False)
    silent_ids = written["id"][written["split"] == "test"][:3].tolist()
    text = data_verify("custom", path=Path("own.npz"))
    assert f"all 0: audio of 3 test clips in every frame ({', '.join(silent_ids)}); --data.all_zero absent" in text
    plain, absent = opened(), opened(all_zero="absent")
    assert plain.cell_masks(Cell("a"), 0).observed["audio"].all()
    masks = absent.cell_masks(Cell("a"), 0)
    assert not masks.observed["audio"][:3].any()
    assert masks.observed["audio"][3:].all()
    assert masks.valid["audio"].all(), "hidden with its length, as a removed modality"
    assert absent.corpus.revision == f"{plain.corpus.revision}-zero-absent", "other test masks, another table"
    with pytest.raises(MSABenchError, match="unknown all_zero 'yes'; allowed: absent, null"):
        opened(all_zero="yes")


def test_a_modality_that_the_corpus_lacks_is_declared() -> None:
    sentence = refused(lambda content: keep(content, "vision"))
    assert sentence.endswith("a corpus without vision says so by absent=['vision'] beside its other arrays")

    def declared(content: Content) -> None:
        keep(content, "vision")
        content["absent"] = np.array(["vision"])

    own(declared)
    corpus = open_corpus("custom", path=Path("own.npz"))
    assert corpus.unseen == ("vision",)
    assert corpus.splits["test"].features["vision"].shape == (7, 6, 1)
    assert "train/vision: the corpus has none (absent)" in data_verify("custom", path=Path("own.npz"))

    def unknown(content: Content) -> None:
        content["absent"] = np.array(["video"])

    def narrow(content: Content) -> None:
        content["vision"] = content["vision"][:, :, :0]

    assert "npz/absent names 'video'; expected some of text, audio, vision" in refused(unknown)
    assert "npz/vision has no features; expected some; a modality that the corpus lacks is named in absent" in (
        refused(narrow)
    )


def without_vision_in_training(content: Content) -> None:
    train = content["split"] == "train"
    content["vision"][train] = 0
    content["vision_lengths"][train] = 0
    test = np.flatnonzero(content["split"] == "test")
    content["vision"][test[:4]] = 0
    content["vision_lengths"][test[:4]] = 0


def notes_of(shown: str) -> dict[str, str]:
    """Cell -> its line in the first block of what ``evaluate`` prints, which has the notes."""
    lines = shown.partition("\n\n")[0].splitlines()
    return {line.split()[0]: line for line in lines if line.startswith(("inter", "intra"))}


def test_what_training_never_saw_is_said_recorded_and_marked(capsys: pytest.CaptureFixture[str]) -> None:
    own(without_vision_in_training)
    fit = ["--data.path=own.npz", "--data.name=mine", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    assert dispatch(["fit", "--config", str(CONFIGS / "constant_custom.yaml"), *fit]) == 0
    assert (
        "msabench: warning: no training clip of custom-mine has a frame of vision that is not 0, so that no method "
        "learns anything from it; scores that rest on it alone are marked in tables"
    ) in capsys.readouterr().err
    (checkpoint,) = Path("runs").rglob("best.ckpt")
    assert "/custom-mine/" in str(checkpoint)
    notes = notes_of(evaluate_checkpoint(checkpoint, store=Path("store")))
    assert "collapsed, never seen in training, 57% of clips without input" in notes["inter/v"]
    assert "never seen" not in notes["inter/av"]

    frame = ResultStore(Path("store")).frame()
    assert set(frame["dataset"]) == {"custom-mine"}
    assert set(frame["unseen"]) == {"v"}
    assert set(frame["split_sizes"]) == {"12/5/7"}
    blind = frame.set_index("cell")["blind"]
    assert blind["inter/v"] == pytest.approx(4 / 7)
    assert blind["inter/av"] == 0
    (line, *_) = next(Path("store").rglob("*.jsonl")).read_text().splitlines()
    assert json.loads(line)["unseen"] == ["vision"]

    text = table(["custom-mine"], store=Path("store"), grid=["inter"], width=300)
    row = next(line for line in text.splitlines() if line.startswith("constant")).split()
    marked = [
        header
        for header, word in zip(("l", "a", "v", "la", "lv", "av", "lav", "avg"), row[-8:], strict=True)
        if "¶" in word
    ]
    assert marked == ["v", "avg"]
    assert "¶ = rests on modalities alone that no training clip had" in text
    assert "Warning: no training clip had vision." in text
    assert "are answered blind: 57 % in inter/v" in text
    assert text.startswith("mine (own file): ")
    csv = table(["custom-mine"], store=Path("store"), grid=["inter/v"], format="csv")
    assert "modalities never seen in training" in csv


def test_a_corpus_that_lacks_a_modality_trains_and_is_evaluated() -> None:
    def declared(content: Content) -> None:
        keep(content, "text")
        content["absent"] = np.array(["text"])

    own(declared)
    words = ["--data.path=own.npz", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    assert dispatch(["fit", "--config", str(CONFIGS / "lf_dnn_custom.yaml"), *words]) == 0
    (checkpoint,) = Path("runs").rglob("best.ckpt")
    notes = notes_of(evaluate_checkpoint(checkpoint, grid=["inter"]))
    assert "never seen in training, 100% of clips without input" in notes["inter/l"]
    assert "never seen" not in notes["inter/la"]


def without_vision(content: Content) -> None:
    """Two modalities; the text tells the labels."""
    keep(content, "vision")
    content["absent"] = ["vision"]
    content["text"][:, :, 0] += content["regression_labels"][:, None]


def test_cells_that_differ_in_what_is_absent_are_the_same_and_the_others_are_learnt() -> None:
    own(without_vision, sizes=(200, 40, 60), steps=dict.fromkeys(MODALITIES, 4), lengths=False)
    words = ["--data.path=own.npz", "--trainer.max_epochs=4", "--trainer.accelerator=cpu"]
    words += ["--data.missing.regime=inter"]
    assert dispatch(["fit", "--config", str(CONFIGS / "lf_dnn_custom.yaml"), *words]) == 0
    (checkpoint,) = Path("runs").rglob("best.ckpt")
    evaluate_checkpoint(checkpoint, store=Path("store"))
    frame = ResultStore(Path("store")).frame().drop_duplicates("cell").set_index("cell")
    for two, one in (("inter/lv", "inter/l"), ("inter/av", "inter/a"), ("inter/lav", "inter/la")):
        assert frame.loc[two, "corr"] == frame.loc[one, "corr"]
        assert frame.loc[two, "mask_hash"] == frame.loc[one, "mask_hash"]
    assert frame.loc["inter/l", "corr"] > 0.5
    assert frame.loc["inter/v", "blind"] == 1
    text = table(["custom"], store=Path("store"), grid=["inter/l", "inter/a", "inter/la"], width=300)
    assert "¶" not in text
    assert "Warning: no training clip had vision." in text


def test_a_single_modality_is_a_corpus(capsys: pytest.CaptureFixture[str]) -> None:
    def alone(content: Content) -> None:
        keep(content, "audio")
        keep(content, "vision")
        content["absent"] = ["audio", "vision"]

    own(alone)
    corpus = open_corpus("custom", path=Path("own.npz"))
    assert corpus.unseen == ("audio", "vision")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        described = data_describe("custom", path=Path("own.npz"))
    rows = {line.split()[0]: line.split()[1:4] for line in described.splitlines()[-7:]}
    assert rows["l"] == rows["lav"]
    words = ["--data.path=own.npz", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    assert dispatch(["fit", "--config", str(CONFIGS / "mult_custom.yaml"), *words]) == 0
    (checkpoint,) = Path("runs").rglob("best.ckpt")
    assert "inter/l" in notes_of(evaluate_checkpoint(checkpoint, grid=["inter"]))


def test_a_method_that_cannot_do_without_a_modality_says_so() -> None:
    def declared(content: Content) -> None:
        keep(content, "text")
        content["absent"] = ["text"]

    own(declared, steps=dict.fromkeys(MODALITIES, 6))
    words = ["--data.path=own.npz", "--data.name=mine", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    with pytest.raises(MSABenchError) as caught:
        dispatch(["fit", "--config", str(CONFIGS / "raven_custom.yaml"), *words])
    assert str(caught.value) == (
        "raven reads nothing where there is no text, and no training clip of custom-mine has any; choose another method"
    )
    assert not list(Path("runs").rglob("*.ckpt"))


def pickled(path: str, absent: Any, task: str = "regression", aligned: bool = False) -> Content:
    """A user's own pickle without the arrays of what is absent, which it names if ``absent`` is a list."""

    def change(content: Content) -> None:
        for split in SPLITS:
            for key in [key for key in content[split] if key.startswith(tuple(absent))]:
                del content[split][key]
        if isinstance(absent, list):
            content["absent"] = absent

    steps, dims = dict.fromkeys(MODALITIES, 6), {"text": 8, "audio": 3, "vision": 4}
    if task == "emotions":
        return write_mult(Path(path), "iemocap", steps=steps, dims=dims, change=change)
    return write_mmsa(Path(path), aligned=aligned, steps=steps, dims=dims, change=change)


@pytest.mark.parametrize("absent", [["vision"], ["text"], ["text", "audio"]])
@pytest.mark.parametrize("task", ["regression", "emotions"])
@pytest.mark.parametrize("aligned", [True, False])
def test_a_pickle_names_what_it_lacks_beside_its_splits(absent: list[str], task: str, aligned: bool) -> None:
    written = pickled("own.pkl", absent, task, aligned)
    corpus = open_corpus("custom", path=Path("own.pkl"), task=task)
    assert corpus.unseen == tuple(absent)
    test = corpus.splits["test"]
    for modality in MODALITIES:
        if modality in absent:
            assert test.features[modality].shape == (7, 6, 1)
            assert not test.lengths[modality].any()
        else:
            assert np.array_equal(test.features[modality], written["test"][modality])
            assert test.lengths[modality].all()
    assert f"test/{absent[0]}: the corpus has none (absent)" in data_verify("custom", path=Path("own.pkl"), task=task)


@pytest.mark.parametrize(
    ("absent", "sentence"),
    [
        ([], "train has no key 'vision' (it has annotations, audio, audio_lengths, id, raw_text, regression_labels, "),
        ([], "a corpus without vision says so by absent=['vision'] beside its other arrays"),
        ("audio", "pickle/absent names 'audio'; expected some of"),
        (["video"], "pickle/absent names 'video'; expected some of text, audio, vision, not all, and none that the"),
        ([*MODALITIES], "pickle/absent names 'text'; expected some of text, audio, vision, not all"),
        ([{"text": 1}], "pickle/absent is a list; expected names of modalities"),
    ],
)
def test_what_a_pickle_gets_wrong_is_one_sentence(absent: list[Any] | str, sentence: str) -> None:
    content = pickled("own.pkl", ("vision",))
    for split in SPLITS:
        for name in (*MODALITIES, "text_bert") if len(absent) == len(MODALITIES) else ():
            content[split].pop(name, None)
    if absent:
        Path("own.pkl").write_bytes(pickle.dumps({**content, "absent": absent}))
    with pytest.raises(MSABenchError) as caught:
        open_corpus("custom", path=Path("own.pkl"))
    assert sentence in str(caught.value)


# Names.


def test_a_name_is_in_the_key_and_moves_no_hash() -> None:
    config = CONFIGS / "lf_dnn_custom.yaml"
    plain, given = resolve([config], []), resolve([config], ["--data.name=mine"])
    assert config_hash(plain) == config_hash(given)
    assert job_key(plain, "r").dataset == "custom"
    assert job_key(given, "r").dataset == "custom-mine"
    own()
    one, other = opened(), opened(name="mine")
    assert mask_hash(one.cell_masks(Cell("la"), 0)) == mask_hash(other.cell_masks(Cell("la"), 0))
    assert (one.protocol()["dataset"], other.protocol()["dataset"]) == ("custom", "custom-mine")
    assert MSADataModule.from_state(other.state_dict()).protocol()["dataset"] == "custom-mine"
    with pytest.raises(MSABenchError, match=r"name 'a/b' is not allowed; give up to 40 letters, digits, dots and"):
        opened(name="a/b")
    with pytest.raises(MSABenchError, match="name 'mine' is not allowed for synth, which has one"):
        MSADataModule("synth", name="mine")


# Files that have moved.


def test_evaluate_finds_a_file_that_has_moved_and_knows_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    own(path="data/own.npz")
    own(path="data/other.npz", seed=1)
    words = ["--data.path=data/own.npz", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    assert dispatch(["fit", "--config", str(CONFIGS / "constant_custom.yaml"), *words]) == 0
    (checkpoint,) = (path.absolute() for path in Path("runs").rglob("best.ckpt"))
    there = Path("data/own.npz").absolute()
    Path("deep").mkdir()
    monkeypatch.chdir("deep")
    shown = evaluate_checkpoint(checkpoint, grid=["inter/la"])
    assert evaluate_checkpoint(checkpoint, grid=["inter/la"], path=there) == shown
    moved = there.rename(there.with_name("moved.npz"))

    def sentence(**places: Path) -> str:
        with pytest.raises(MSABenchError) as caught:
            evaluate_checkpoint(checkpoint, grid=["inter/la"], **places)
        return str(caught.value)

    assert sentence().startswith(
        f"{there}, the file of the training, is not there; give its present place with --path (its sha256 begins with "
    )
    assert evaluate_checkpoint(checkpoint, grid=["inter/la"], path=moved) == shown
    assert "the checkpoint was trained on custom with revision" in sentence(path=there.with_name("other.npz"))
    assert sentence(root=there.parent).startswith(
        f"root {there.parent} is of no use for custom, whose file has no usual"
    )
    assert "contradict each other" in sentence(root=there.parent, path=moved)
    assert "path must name the custom features of custom: --path, or --data.path in fit" in sentence(path=there)


# Leaks.


def leaking(path: str, seen: float, unseen: float) -> str:
    """Describe a file whose text tells labels apart with one strength in train and valid, with another in test."""
    rng = np.random.default_rng(0)

    def change(content: Content) -> None:
        strength = np.where(content["split"] == "test", unseen, seen) * content["regression_labels"]
        noise = 2.0 * rng.standard_normal(content["text"].shape)
        direction = rng.standard_normal(content["text"].shape[2])
        direction /= np.linalg.norm(direction)
        content["text"] = (noise + strength[:, None, None] * direction).astype(np.float32)

    own(change, path, sizes=(600, 100, 300), steps=dict.fromkeys(MODALITIES, 1), lengths=False)
    return data_describe("custom", path=Path(path))


def test_features_of_a_network_that_saw_the_labels_are_suspected() -> None:
    assert "leaked" not in leaking("honest.npz", 0.85, 0.85)
    train, every = leaking("train.npz", 1.3, 0.65), leaking("all.npz", 3.5, 3.5)
    assert "warning: labels may have leaked into text: r = 0.7" in train
    assert " within the training split stands against 0.4" in train
    assert "warning: labels may have leaked into text: r = 0.9" in every
    assert "is more than frozen features are known to give (0.8)" in every


@pytest.mark.parametrize(
    ("within", "test", "n_train", "n_test", "suspected"),
    [
        (0.87, 0.61, 634, 179, True),  # a network trained on the labels
        (0.61, 0.78, 634, 179, True),  # the same on the test split's
        (0.671, 0.577, 634, 179, False),  # MOSEI-video-898, text
        (0.428, 0.376, 220, 80, False),  # ICT-MMMO, audio
        (0.5, 0.3, 220, 80, False),  # chance
        (float("nan"), 0.9, 634, 179, False),  # nothing in training
    ],
)
def test_what_is_suspected(within: float, test: float, n_train: int, n_test: int, suspected: bool) -> None:
    assert bool(leak_suspected(within, test, n_train, n_test)) == suspected

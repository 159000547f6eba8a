"""Predictions for one's own clips: those of the benchmark's cells, to the last bit."""

from __future__ import annotations

import io
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from msabench.__main__ import dispatch
from msabench.data.datamodule import MSADataModule
from msabench.errors import MSABenchError
from msabench.evaluation.clips import predict_clips
from msabench.evaluation.evaluate import evaluate_grid
from msabench.methods.base import MSAMethod
from msabench.metrics.functional import rounded_accuracy
from msabench.missingness.conditions import GRIDS, LETTERS, Cell
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import random_corpus
from tests.support.saved_checkpoints import arrays_of, data_over, saved
from tests.support.small_bert import save_small_bert

pytestmark = pytest.mark.usefixtures("elsewhere")

REPOSITORY = Path(__file__).parents[2]


def without(arrays: dict[str, Any], cell: Cell, *, lengths: bool) -> dict[str, Any]:
    """The arrays of a cell's modalities, and the lengths of the others if they are to be known."""
    gone = [modality for letter, modality in LETTERS.items() if letter not in cell.available]
    kept = {key: value for key, value in arrays.items() if key.split("_")[0] not in gone}
    return kept | {f"{m}_lengths": arrays[f"{m}_lengths"] for m in gone if lengths}


def agree(method: MSAMethod, data: MSADataModule, path: Path, *, lengths: bool, tokens: bool = False) -> None:
    cells = evaluate_grid(method, data, GRIDS["inter"]).cells
    arrays = arrays_of(data, tokens=tokens)
    assert len({entry.preds.tobytes() for entry in cells}) > 1
    for entry in cells:
        found = predict_clips(path, without(arrays, entry.cell, lengths=lengths), device="cpu")
        assert np.array_equal(found.preds, entry.preds), entry.cell
        assert found.ids == list(data.corpus.splits["test"].ids)


@pytest.mark.parametrize("name", ["lf_dnn", "mult", "gcnet", "umdf"])
@pytest.mark.parametrize("protocol", ["hide", "keep"])
def test_test_clips_get_the_predictions_of_every_cell(name: str, protocol: Any, elsewhere: Path) -> None:
    data = data_over(random_corpus(), normalise="zscore", missing=MissingConfig(lengths=protocol))
    method = saved(elsewhere / "best.ckpt", name, data)
    agree(method, data, elsewhere / "best.ckpt", lengths=protocol == "keep")


def test_so_they_do_where_the_corpus_is_padded_in_front(elsewhere: Path) -> None:
    corpus = random_corpus()
    for split in corpus.splits.values():
        for modality, values in split.features.items():
            steps = torch.arange(values.shape[1])
            order = (steps + split.lengths[modality][:, None]) % values.shape[1]
            split.features[modality] = values[torch.arange(len(values))[:, None], order]
    data = data_over(replace(corpus, padding=dict.fromkeys(corpus.padding, "front")), normalise="none")
    method = saved(elsewhere / "best.ckpt", "mult", data)
    agree(method, data, elsewhere / "best.ckpt", lengths=False)
    # Whatever side the clips themselves are padded on.
    arrays = arrays_of(data)
    turned = {**arrays, **{f"{m}_padding": "end" for m in corpus.padding}}
    for modality in corpus.padding:
        shift = arrays[f"{modality}_lengths"]
        place = (np.arange(arrays[modality].shape[1]) - shift[:, None]) % arrays[modality].shape[1]
        turned[modality] = arrays[modality][np.arange(len(shift))[:, None], place]
    one, other = (predict_clips("best.ckpt", given, device="cpu").preds for given in (arrays, turned))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("protocol", ["hide", "keep"])
@pytest.mark.parametrize("level", ["vectors", "tokens"])
def test_token_ids_are_read_by_methods_with_a_text_encoder(level: Any, protocol: Any, elsewhere: Path) -> None:
    data = data_over(random_corpus(), normalise="none", missing=MissingConfig(level=level, lengths=protocol))
    method = saved(elsewhere / "best.ckpt", "lf_dnn", data, text_encoder=save_small_bert(elsewhere / "bert"))
    agree(method, data, elsewhere / "best.ckpt", lengths=protocol == "keep", tokens=True)
    arrays = arrays_of(data)
    with pytest.raises(MSABenchError, match="lf_dnn was trained with a text encoder, which reads token ids; give text"):
        predict_clips("best.ckpt", arrays)


def test_conversations_are_named_by_ids_or_by_an_array(elsewhere: Path) -> None:
    data = data_over(random_corpus(), normalise="none")
    saved(elsewhere / "best.ckpt", "gcnet", data)
    arrays = arrays_of(data)
    by_ids = predict_clips("best.ckpt", arrays, device="cpu")
    videos = [name.partition("$_$")[0] for name in arrays["id"]]
    by_array = predict_clips("best.ckpt", {**arrays, "id": np.arange(10), "conversation": videos}, device="cpu")
    assert np.array_equal(by_ids.preds, by_array.preds)
    alone = predict_clips("best.ckpt", {**arrays, "id": np.arange(10)}, device="cpu")
    assert not np.allclose(alone.preds, by_ids.preds)
    assert any("here every clip is one of its own" in note for note in alone.notes)
    assert not any("conversation" in note for note in by_ids.notes)


def test_modalities_that_are_zero_throughout_are_absent_if_they_were_in_training(elsewhere: Path) -> None:
    data = data_over(random_corpus(), normalise="none")
    data._open["all_zero"] = "absent"
    saved(elsewhere / "best.ckpt", "lf_dnn", data)
    arrays = arrays_of(data)
    lacking = predict_clips("best.ckpt", without(arrays, Cell("la"), lengths=False), device="cpu")
    zero = predict_clips("best.ckpt", {**arrays, "vision": np.zeros_like(arrays["vision"])}, device="cpu")
    assert np.array_equal(lacking.preds, zero.preds)


def test_a_clip_alone_is_predicted_as_among_others(elsewhere: Path) -> None:
    data = data_over(random_corpus(), normalise="zscore")
    saved(elsewhere / "best.ckpt", "mult", data)
    arrays = arrays_of(data)
    together = predict_clips("best.ckpt", arrays, device="cpu")
    alone = {key: value if key.endswith("padding") else value[3:4] for key, value in arrays.items()}
    np.testing.assert_allclose(predict_clips("best.ckpt", alone).preds, together.preds[3:4], atol=1e-6)
    parts = predict_clips("best.ckpt", arrays, batch_size=4, device="cpu")
    np.testing.assert_allclose(parts.preds, together.preds, atol=1e-6)


def test_classes_are_those_of_acc3_and_emotions_have_probabilities(elsewhere: Path) -> None:
    data = data_over(random_corpus(), normalise="none")
    saved(elsewhere / "scores.ckpt", "lf_dnn", data)
    frame = predict_clips("scores.ckpt", arrays_of(data)).frame()
    assert list(frame) == ["id", "score", "class"]
    numbers = frame["class"].map({"negative": -1.0, "neutral": 0.0, "positive": 1.0}).to_numpy()
    assert rounded_accuracy(numbers, frame["score"].to_numpy(), 1) == 1
    data = data_over(random_corpus("emotions"), normalise="none")
    saved(elsewhere / "emotions.ckpt", "lf_dnn", data)
    found = predict_clips("emotions.ckpt", arrays_of(data))
    frame = found.frame()
    assert list(frame)[:3] == ["id", "happy", "is_happy"]
    shares = torch.from_numpy(found.preds).softmax(2)[:, :, 1].numpy()
    for column, emotion in enumerate(("happy", "sad", "angry", "neutral")):
        np.testing.assert_allclose(frame[emotion], shares[:, column], atol=1e-6)
        assert (frame[f"is_{emotion}"] == (frame[emotion] > 0.5)).all()


def test_what_does_not_fit_is_refused_and_what_is_not_seen_is_said(elsewhere: Path) -> None:
    data = data_over(random_corpus(), normalise="none")
    saved(elsewhere / "best.ckpt", "raven", data)
    arrays = arrays_of(data)
    with pytest.raises(MSABenchError, match="clips: audio has 3 features, and raven was trained on 5 "):
        predict_clips("best.ckpt", {"audio": np.ones((1, 2, 3))})
    with pytest.raises(MSABenchError, match="clips: text of clip 'x' has 9 steps, and the training had 8"):
        predict_clips("best.ckpt", {"id": ["x"], "text": np.ones((1, 9, 12))})
    with pytest.raises(MSABenchError, match="raven was trained on text features; give text"):
        predict_clips("best.ckpt", arrays_of(data, tokens=True))
    with pytest.raises(MSABenchError, match="batch_size 0 is not allowed"):
        predict_clips("best.ckpt", arrays, batch_size=0)
    with pytest.raises(MSABenchError, match="device 'moon' cannot be used"):
        predict_clips("best.ckpt", arrays, device="moon")
    arrays["audio_lengths"] = np.where(np.arange(10) == 4, 0, arrays["audio_lengths"])
    found = predict_clips("best.ckpt", {key: value for key, value in arrays.items() if not key.startswith("text")})
    assert "no clip has text: predicted without" in found.notes
    assert "1 of 10 clips have no audio: predicted without" in found.notes
    assert any("raven reads nothing of a clip without text" in note for note in found.notes)
    assert not found.blind.any()


def test_the_command_prints_a_table_or_writes_a_file(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_over(random_corpus(), normalise="none")
    saved(elsewhere / "best.ckpt", "lf_dnn", data)
    arrays = without(arrays_of(data), Cell("lv"), lengths=False)
    np.savez("clips.npz", **arrays, regression_labels=np.zeros(10))
    words = ["predict", "--checkpoint", "best.ckpt", "--input", "clips.npz"]
    assert dispatch(words) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["id", "score", "class"]
    assert len(out.splitlines()) == 11
    assert err.splitlines() == [
        "msabench: not read: regression_labels",
        "msabench: no clip has audio: predicted without",
    ]
    dispatch([*words, "--format", "csv"])
    printed = capsys.readouterr().out
    dispatch([*words, "--out", "preds.csv"])
    assert capsys.readouterr().out == "10 predictions: preds.csv\n"
    assert printed == Path("preds.csv").read_text()
    frame = pd.read_csv(io.StringIO(printed), dtype={"score": np.float32})
    found = predict_clips("best.ckpt", "clips.npz")
    assert np.array_equal(frame["score"], found.preds), "a score in a file is the score"
    with pytest.raises(MSABenchError, match=r"preds\.csv is there already and is not overwritten"):
        dispatch([*words, "--out", "preds.csv"])
    with pytest.raises(MSABenchError, match="there is no folder none"):
        dispatch([*words, "--out", "none/preds.csv"])


@pytest.mark.parametrize("words", [["--input", "c.npz", "--config", "x.yaml"], ["--checkpoint=a", "--ckpt_path=b"]])
def test_options_of_both_kinds_of_predict_are_refused(words: list[str]) -> None:
    with pytest.raises(MSABenchError, match=f"msabench predict takes {words[0].partition('=')[0]} or --"):
        dispatch(["predict", *words])


def test_without_either_option_it_says_what_it_needs() -> None:
    with pytest.raises(MSABenchError, match="arguments are required: checkpoint, input"):
        dispatch(["predict"])


def test_the_page_on_predicting_is_true(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (REPOSITORY / "docs/predicting.md").read_text(encoding="utf-8")
    small = ["--data.size=[24,8,10]", "--data.length=12", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    names: dict[str, Any] = {}
    commands = 0
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        if kind == "python":
            exec(block, names)
            continue
        for line in block.splitlines():
            words = shlex.split(line.replace("configs/", f"{REPOSITORY}/configs/"))[1:]
            # Somebody's repository on the hub: tests/evaluation/test_export.py has one of its own.
            if "@" not in line:
                assert dispatch([*words, *(small if words[0] == "fit" else ())]) == 0, line
                commands += 1
    assert commands == 7
    assert len(pd.read_csv("predictions.csv")) == 2
    assert [path.name for path in Path("lf_dnn-synth").iterdir() if f"`{path.name}`" not in page] == []
    assert "verified: every file is as it was exported" in capsys.readouterr().out

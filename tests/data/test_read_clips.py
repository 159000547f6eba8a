"""Clips to predict as they are read: what is there, what is not, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msabench.data.clip_arrays import fitted_clips
from msabench.data.info import DataSpec
from msabench.data.read_clips import read_clips
from msabench.errors import MSABenchError
from msabench.missingness.config import UNK

RNG = np.random.default_rng(0)
SPEC = DataSpec(feature_dims={"text": 4, "audio": 2, "vision": 3}, seq_lens={"text": 5, "audio": 6, "vision": 7})
ENDS = {"text": "end", "audio": "end", "vision": "end"}


def refused(arrays: dict[str, Any], tmp_path: Path | None = None) -> str:
    source: Any = arrays
    if tmp_path is not None:
        source = tmp_path / "clips.npz"
        np.savez(source, **arrays)
    with pytest.raises(MSABenchError) as caught:
        read_clips(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_one_modality_without_ids_is_enough(tmp_path: Path) -> None:
    audio = RNG.normal(size=(3, 6, 2)).astype(np.float32)
    np.savez(tmp_path / "clips.npz", audio=audio)
    read = read_clips(tmp_path / "clips.npz")
    assert read.ids == ["0", "1", "2"]
    assert list(read.features) == ["audio"]
    assert np.array_equal(read.features["audio"], audio)
    assert read.lengths["audio"].tolist() == [6, 6, 6]
    assert read.notes == []


def test_labels_and_splits_are_not_read_which_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", audio=np.ones((1, 2, 2)), regression_labels=[9.0], split=["test"], vizion=[1])
    assert read_clips(tmp_path / "c.npz").notes == ["not read: regression_labels, split, vizion"]
    # Nor are objects in them.
    np.savez(tmp_path / "d.npz", audio=np.ones((1, 2, 2)), labels=np.array([{}], dtype=object))
    assert read_clips(tmp_path / "d.npz").notes == ["not read: labels"]


def test_arrays_in_memory_are_read_alike(tmp_path: Path) -> None:
    arrays = {"text": RNG.normal(size=(2, 5, 4)), "text_lengths": [5, 3], "id": ["a", "b"]}
    np.savez(tmp_path / "c.npz", **arrays)
    one, other = read_clips(arrays), read_clips(tmp_path / "c.npz")
    assert one.ids == other.ids == ["a", "b"]
    assert np.array_equal(one.features["text"], other.features["text"])
    assert not one.features["text"][1, 3:].any()
    assert arrays["text"][1, 3:].any(), "what the caller gave is left as it is"


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"id": ["a"]}, "has none of the arrays text, audio, vision, text_bert (it has id)"),
        ({"audio": np.ones((2, 3))}, "clips/audio has shape (2, 3); expected numbers of shape (2, T, D)"),
        ({"audio": np.ones((2, 3, 1)), "id": ["a"]}, "clips/audio has shape (2, 3, 1); expected a row for each clip"),
        ({"audio": np.ones((2, 3, 1)), "id": ["a", "a"]}, "clips/id has 'a' 2 times"),
        ({"audio": np.ones((0, 3, 1))}, "clips/audio has no rows; expected at least one clip"),
        ({"audio": np.ones((1, 3, 1)), "audio_lengths": [4]}, "clips/audio_lengths has the length 4"),
        ({"audio": np.array([[["x"]]])}, "clips/audio holds no numbers"),
        ({"audio": np.ones((1, 3, 1)), "audio_padding": "left"}, "clips/audio_padding is 'left'"),
        ({"text_bert": np.ones((1, 3))}, "clips/text_bert has shape (1, 3)"),
        ({"text_bert": np.ones((1, 2, 4))}, "expected ids, attention mask and token types of shape (1, 3, 4)"),
        ({"text": [[1.0], [1.0, 2.0]]}, "clips: text is no array"),
    ],
)
def test_what_is_wrong_is_one_sentence(arrays: dict[str, Any], said: str) -> None:
    assert said in refused(arrays)


def test_pickled_arrays_and_other_files_are_refused(tmp_path: Path) -> None:
    assert "arrays of Python objects" in refused({"audio": np.array([[[{}]]], dtype=object)}, tmp_path)
    (tmp_path / "x.npz").write_bytes(b"not a zip")
    with pytest.raises(MSABenchError, match="not a readable npz"):
        read_clips(tmp_path / "x.npz")
    with pytest.raises(MSABenchError, match="there is no file"):
        read_clips(tmp_path / "none.npz")


def test_clips_get_the_steps_and_the_side_of_the_training() -> None:
    audio = np.arange(1, 9, dtype=np.float32).reshape(1, 4, 2)
    read = read_clips({"audio": audio, "audio_lengths": [3]})
    ends = fitted_clips(read, SPEC, ENDS, cut=False, name="c")
    assert np.array_equal(ends.features["audio"][0], [[1, 2], [3, 4], [5, 6], [0, 0], [0, 0], [0, 0]])
    fronts = fitted_clips(read, SPEC, {**ENDS, "audio": "front"}, cut=False, name="c")
    assert np.array_equal(fronts.features["audio"][0], [[0, 0], [0, 0], [0, 0], [1, 2], [3, 4], [5, 6]])
    # And from the front to the end.
    read = read_clips({"audio": fronts.features["audio"], "audio_lengths": [3], "audio_padding": "front"})
    again = fitted_clips(read, SPEC, ENDS, cut=False, name="c")
    assert np.array_equal(again.features["audio"], ends.features["audio"])
    assert again.lengths["audio"].tolist() == [3]


def test_masks_of_frames_move_with_them() -> None:
    audio = np.ones((1, 4, 2), dtype=np.float32)
    read = read_clips({"audio": audio, "audio_lengths": [3], "audio_observed": [[True, False, True, False]]})
    made = fitted_clips(read, SPEC, {**ENDS, "audio": "front"}, cut=False, name="c")
    assert made.observed["audio"].tolist() == [[False, False, False, True, False, True]]
    assert made.features["audio"][0, :, 0].tolist() == [0, 0, 0, 1, 0, 1]


def test_longer_clips_are_refused_or_cut_to_their_first_steps() -> None:
    audio = np.arange(1, 17, dtype=np.float32).reshape(1, 8, 2)
    with pytest.raises(MSABenchError, match="c: audio of clip '0' has 8 steps, and the training had 6"):
        fitted_clips(read_clips({"audio": audio}), SPEC, ENDS, cut=False, name="c")
    for side in ("end", "front"):
        read = read_clips({"audio": audio, "audio_padding": side, "audio_lengths": [8]})
        made = fitted_clips(read, SPEC, ENDS, cut=True, name="c")
        assert np.array_equal(made.features["audio"], audio[:, :6])
        assert made.lengths["audio"].tolist() == [6]
        assert read.notes == ["audio of 1 clips was cut to its first 6 steps"]
    # Padding beyond the training's steps is no frame.
    read = read_clips({"audio": audio, "audio_lengths": [2]})
    assert fitted_clips(read, SPEC, ENDS, cut=False, name="c").lengths["audio"].tolist() == [2]


def test_a_cut_sentence_ends_with_sep_and_a_missing_one_says_nothing() -> None:
    words = np.array([[101, 7, 8, 9, 10, 11, 102, 0], [101, 7, 102, 0, 0, 0, 0, 0]])
    bert = np.stack([words, words > 0, words * 0], axis=1)
    read = read_clips({"text_bert": bert})
    assert read.lengths["text"].tolist() == [7, 3]
    tokens = fitted_clips(read, SPEC, ENDS, cut=True, name="c").tokens
    assert tokens is not None
    assert tokens[0, 0].tolist() == [101, 7, 8, 9, 102]
    assert tokens[1].tolist() == [[101, 7, 102, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    lacking = read_clips({"audio": np.ones((2, 3, 2)), "text_lengths": [4, 0]})
    tokens = fitted_clips(lacking, SPEC, ENDS, cut=False, name="c").tokens
    assert tokens is not None
    assert tokens[:, 0].tolist() == [[101, UNK, UNK, 102, 0], [101, 102, 0, 0, 0]]


def test_token_ids_that_end_before_the_steps_without_lengths_are_remarked_on() -> None:
    bert = np.array([[[101, 102, 0], [1, 1, 0], [0, 0, 0]]])
    read = read_clips({"text": np.ones((1, 3, 4)), "text_bert": bert})
    assert read.lengths["text"].tolist() == [3]
    assert "text: all steps exist since there is neither text_lengths" in read.notes[0]

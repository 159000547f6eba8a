"""Readers: what they take from files in the field's layouts, what they mend, what they refuse."""

import collections
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msabench.data.files import feature_file
from msabench.data.info import EMOTIONS
from msabench.data.read_mmsa import read_mmsa
from msabench.data.read_mult import MULT_EMOTIONS, read_mult
from msabench.data.read_npz import read_npz
from msabench.data.registry import dataset_info
from msabench.errors import MSABenchError
from tests.support.corpora import MODALITIES, SIZES, SPLITS, python2_pickle, write_mmsa, write_mult, write_npz

SMALL_STEPS = {"text": 8, "audio": 11, "vision": 9}
SMALL_DIMS = {"text": 6, "audio": 3, "vision": 4}
SMALL = {"steps": SMALL_STEPS, "dims": SMALL_DIMS}
ALIGNED = {"steps": dict.fromkeys(MODALITIES, 8), "dims": SMALL_DIMS}


def mmsa(path, dataset="mosi", aligned=False, **settings):
    write_mmsa(path, dataset, aligned, **settings)
    info = dataset_info(dataset)
    return read_mmsa(path, info, info.file("mmsa-aligned" if aligned else "mmsa-unaligned"))


def mult(path, dataset="mosi", aligned=False, **settings):
    write_mult(path, dataset, aligned, **settings)
    info = dataset_info(dataset)
    return read_mult(path, info, info.file("mult-aligned" if aligned else "mult-unaligned"))


def npz(path, task="regression", **settings):
    write_npz(path, task=task, **settings)
    return read_npz(path, *feature_file("custom", path=path, task=task))


# MMSA.


@pytest.mark.parametrize(
    ("dataset", "aligned"), [("mosi", True), ("mosi", False), ("mosei", True), ("mosei", False), ("sims", False)]
)
def test_mmsa_files_in_their_real_shapes(tmp_path, dataset, aligned):
    content = write_mmsa(tmp_path / "a.pkl", dataset, aligned)
    info = dataset_info(dataset)
    file = info.file("mmsa-aligned" if aligned else "mmsa-unaligned")
    raw = read_mmsa(tmp_path / "a.pkl", info, file)
    assert list(raw.splits) == list(SPLITS)
    assert raw.ids_from_file
    assert set(raw.padding.values()) == {"end"}
    for name, n in zip(SPLITS, SIZES, strict=True):
        split, written = raw.splits[name], content[name]
        for m in MODALITIES:
            assert split.features[m].shape == (n, file.lengths[m], file.dims[m])
            assert split.features[m].dtype == np.float32
            np.testing.assert_array_equal(split.features[m], written[m])
        np.testing.assert_array_equal(split.labels, written["regression_labels"])
        assert split.tokens.dtype == np.int64
        np.testing.assert_array_equal(split.tokens, written["text_bert"])
        np.testing.assert_array_equal(split.lengths["text"], written["text_bert"][:, 1].sum(axis=1))
        for m in ("audio", "vision"):
            expected = split.lengths["text"] if aligned else written[f"{m}_lengths"]
            np.testing.assert_array_equal(split.lengths[m], expected)
            assert split.lengths[m].dtype == np.int64
        assert split.ids == written["id"]
    assert raw.notes == [
        f"the splits have 12/5/7 clips; {'/'.join(map(str, info.split_sizes))} are listed for {dataset}"
    ]


def test_mmsa_takes_lists_and_other_number_kinds(tmp_path):
    plain = mmsa(tmp_path / "a.pkl", **SMALL)

    def as_lists(content):
        for split in content.values():
            for key in ("text", "audio", "regression_labels", "audio_lengths"):
                split[key] = list(split[key])
            split["vision"] = split["vision"].astype(np.float64)
            split["text_bert"] = split["text_bert"].astype(np.int32).tolist()
            split["id"] = np.array(split["id"])
            split["vision_lengths"] = np.array(split["vision_lengths"], dtype=np.float64)
            split["regression_labels"] = np.array(split["regression_labels"], dtype=object)[:, None]

    other = mmsa(tmp_path / "b.pkl", **SMALL, change=as_lists)
    for name in SPLITS:
        a, b = plain.splits[name], other.splits[name]
        assert a.ids == b.ids
        for m in MODALITIES:
            np.testing.assert_array_equal(a.features[m], b.features[m])
            np.testing.assert_array_equal(a.lengths[m], b.lengths[m])
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.tokens, b.tokens)


def test_read_only_arrays_can_be_cleaned(tmp_path):
    def plant(content):
        content["train"]["audio"][0, 0, 0] = -np.inf

    # Protocol 5 gives arrays over read-only bytes.
    raw = mmsa(tmp_path / "a.pkl", **SMALL, protocol=5, change=plant)
    assert raw.splits["train"].features["audio"][0, 0, 0] == 0


def test_values_that_are_not_finite_are_counted_and_zeroed(tmp_path):
    def plant(content):
        audio = content["train"]["audio"]
        audio[0, 0], audio[1, 0, 0] = -np.inf, np.nan
        content["test"]["vision"][:, 0, 1] = np.inf

    raw = mmsa(tmp_path / "a.pkl", **SMALL, change=plant)
    assert "train/audio: 4 values were not finite and are 0 now" in raw.notes
    assert "test/vision: 7 values were not finite and are 0 now" in raw.notes
    assert not raw.splits["train"].features["audio"][0, 0].any()
    for split in raw.splits.values():
        assert all(np.isfinite(split.features[m]).all() for m in MODALITIES)


def test_numbers_beyond_float32_are_not_finite(tmp_path):
    def plant(content):
        content["train"]["audio"] = content["train"]["audio"].astype(np.float64)
        content["train"]["audio"][0, 0, 0] = 1e300

    assert (
        "train/audio: 1 values were not finite and are 0 now" in mmsa(tmp_path / "a.pkl", **SMALL, change=plant).notes
    )


def test_frames_beyond_the_length_are_zeroed_and_counted(tmp_path):
    def plant(content):
        content["train"]["audio_lengths"][:2] = [3, 0]
        content["train"]["audio"][:] = 1.0

    raw = mmsa(tmp_path / "a.pkl", **SMALL, change=plant)
    split = raw.splits["train"]
    exists = np.arange(SMALL_STEPS["audio"]) < split.lengths["audio"][:, None]
    np.testing.assert_array_equal(split.features["audio"].any(axis=2), exists)
    beyond = int((~exists).sum())
    assert f"train/audio: {beyond} frames beyond their clip's length were not 0 and are 0 now" in raw.notes
    assert "train/audio: 1 clips have no frame" in raw.notes
    assert split.lengths["audio"][1] == 0


def test_lengths_that_the_file_lacks_end_at_the_last_frame(tmp_path):
    def without(content):
        for split in content.values():
            del split["audio_lengths"]

    content = write_mmsa(tmp_path / "a.pkl", **SMALL)
    raw = mmsa(tmp_path / "b.pkl", **SMALL, change=without)
    np.testing.assert_array_equal(raw.splits["test"].lengths["audio"], content["test"]["audio_lengths"])
    assert any("there is no audio_lengths" in note for note in raw.notes)


def test_differences_from_the_listing_are_notes_naming_both(tmp_path):
    notes = mmsa(tmp_path / "a.pkl", **SMALL).notes
    assert "audio has 11 steps; 375 are listed for mosi mmsa-unaligned" in notes
    assert "text has 6 features; 768 are listed for mosi mmsa-unaligned" in notes


def set_train(key, value):
    def change(content):
        content["train"][key] = value(content["train"][key]) if callable(value) else value

    return change


def put(key, index, value, split="train"):
    def change(content):
        content[split][key][index] = value

    return change


def drop(key, split="train"):
    return lambda content: content[split].pop(key)


def doubled(depth, width=100):
    """Nested lists that stand for ``width ** depth`` numbers, in a few hundred bytes of a pickle."""
    value = [0.5] * width
    for _ in range(depth - 1):
        value = [value] * width
    return value


MMSA_ERRORS = {
    "no split": (lambda c: c.pop("test"), r"no split 'test' \(it has train, valid\); expected train, valid, test"),
    "split kind": (lambda c: c.update(test=[1, 2]), r"split 'test' is a list; expected a dict"),
    "no audio": (
        drop("audio"),
        r"train has no key 'audio' \(it has annotations, audio_lengths, id, raw_text, regression_labels, text, "
        r"text_bert, vision, vision_lengths\); expected numbers of shape \(12, T, D\)",
    ),
    "odd keys": (
        lambda c: c.__setitem__("train", {"a\nb": 1, "\x1b[31m": 2, "x" * 1000: 3}),
        r"train has no key 'regression_labels' \(it has '\\x1b\[31m', 'a\\nb', x{60}\.\.\.\); expected one number",
    ),
    "no labels": (drop("regression_labels", "test"), r"test has no key 'regression_labels'"),
    "no ids": (drop("id"), r"train has no key 'id'.*expected 12 ids"),
    "two dims": (set_train("audio", lambda x: x[:, 0]), r"train/audio has shape \(12, 3\); expected .*\(12, T, D\)"),
    "fewer clips": (
        set_train("vision", lambda x: x[:-1]),
        r"train/vision has shape \(11, 9, 4\); expected .*\(12, T, D\)",
    ),
    "no steps": (set_train("vision", lambda x: x[:, :0]), r"train/vision has shape \(12, 0, 4\)"),
    "text": (set_train("audio", [["a"]] * 12), r"train/audio holds no numbers \(it has a str\)"),
    "text array": (set_train("audio", np.array([["a"]] * 12)), r"train/audio holds no numbers \(dtype <U1\)"),
    "object text": (
        set_train("audio", np.array(["1"] * 12, dtype=object)),
        r"train/audio holds no numbers \(it has a str\)",
    ),
    "ragged": (set_train("audio", [[[1.0]], [[1.0], [2.0]]] * 6), r"train/audio is ragged, or holds no numbers"),
    "nothing": (set_train("audio", None), r"train/audio has shape \(\)"),
    "complex": (set_train("audio", lambda x: x * 1j), r"train/audio holds no numbers \(dtype complex"),
    "other width": (
        set_train("audio", lambda x: x[:, :, :2]),
        r"valid/audio has 11 steps of 3 features; expected 11 of 2",
    ),
    "other steps": (
        set_train("vision", lambda x: np.pad(x, ((0, 0), (0, 1), (0, 0)))),
        r"valid/vision has 9 steps of 4",
    ),
    "nan label": (put("regression_labels", 2, np.nan), r"train/regression_labels is nan for clip 'video0_train\$_\$2'"),
    "inf label": (put("regression_labels", 2, np.inf), r"is inf for clip .*expected a number in \[-3, 3\] for mosi"),
    "label range": (
        put("regression_labels", 1, -3.5, "test"),
        r"test/regression_labels is -3.5 for clip 'video0_test\$_\$1'",
    ),
    "label range of one": (
        put("regression_labels", 1, 10 / 3),
        r"is 3.33333 for clip .*; expected a number in \[-3, 3\] for mosi; "
        r"--data.clip_labels true \(--clip_labels of msabench data\) would clip 1 such labels and say so$",
    ),
    "label shape": (
        set_train("regression_labels", lambda x: np.stack([x, x], 1)),
        r"regression_labels has shape \(12, 2\)",
    ),
    "no clips": (set_train("regression_labels", []), r"train/regression_labels has shape \(0,\)"),
    "twice": (
        put("id", 3, "video0_train$_$0"),
        r"train/id has 'video0_train\$_\$0' 2 times; expected ids that are unique",
    ),
    "ids of dicts": (put("id", 3, {"a": 1}), r"train/id has a dict in row 3; expected text, bytes or numbers"),
    "ids without end": (put("id", 3, list(range(17))), r"train/id has a list in row 3; expected text"),
    "objects": (
        set_train("audio", np.array([{}] * 12)),
        r"train/audio holds no numbers \(it has a dict\)",
    ),
    "numbers without end": (
        set_train("audio", lambda x: doubled(6)[:12]),
        r"train/audio is nested far deeper, or stands for far more numbers, than the file holds; expected numbers of",
    ),
    "axes without end": (set_train("audio", doubled(40, 2)), r"train/audio is nested far deeper, or stands for"),
    "ids short": (set_train("id", lambda x: x[1:]), r"train/id has 11 ids; expected 12"),
    "ids kind": (set_train("id", "abcdefghijkl"), r"train/id is a str; expected 12 ids"),
    "beyond": (put("audio_lengths", 4, 12), r"train/audio_lengths has the length 12 in row 4; expected .* 0 to 11"),
    "negative": (put("vision_lengths", 4, -1), r"train/vision_lengths holds values that are no whole numbers"),
    "half": (put("vision_lengths", 4, 1.5), r"train/vision_lengths holds values that are no whole numbers"),
    "lengths short": (set_train("audio_lengths", [1, 2]), r"train/audio_lengths has shape \(2,\)"),
    "tokens shape": (
        set_train("text_bert", lambda x: x[:, :, 1:]),
        r"train/text_bert has shape \(12, 3, 7\); expected .*3, 8",
    ),
    "mask gap": (put("text_bert", (0, 1, 1), 0), r"attention mask of another form; expected ones followed by zeros"),
    "mask two": (put("text_bert", (0, 1, 0), 2), r"attention mask of another form"),
    "half token": (put("text_bert", (0, 0, 0), 0.5), r"text_bert holds values that are no whole numbers"),
}


@pytest.mark.parametrize("defect", MMSA_ERRORS)
def test_mmsa_defects_are_one_sentence(tmp_path, defect):
    change, words = MMSA_ERRORS[defect]
    with pytest.raises(MSABenchError, match=words) as caught:
        mmsa(tmp_path / "a.pkl", **SMALL, change=change)
    assert str(caught.value).startswith(str(tmp_path / "a.pkl"))
    assert "\n" not in str(caught.value)


def test_mmsa_is_a_dict_of_splits(tmp_path):
    (tmp_path / "a.pkl").write_bytes(python2_pickle([1, 2]))
    info = dataset_info("mosi")
    with pytest.raises(MSABenchError, match="holds a list; expected a dict with the keys train, valid, test"):
        read_mmsa(tmp_path / "a.pkl", info, info.file())


def test_aligned_files_have_as_many_steps_in_all_modalities(tmp_path):
    def shorten(content):
        content["train"]["audio"] = content["train"]["audio"][:, 1:]

    with pytest.raises(MSABenchError, match="train/audio has 7 steps; expected 8 as text in aligned files"):
        mmsa(tmp_path / "a.pkl", aligned=True, **ALIGNED, change=shorten)


def test_sims_labels_lie_between_minus_one_and_one(tmp_path):
    with pytest.raises(MSABenchError, match=r"is 1.5 for clip .*\[-1, 1\] for sims"):
        mmsa(tmp_path / "a.pkl", "sims", **SMALL, change=put("regression_labels", 0, 1.5))


def test_keys_that_nobody_reads_may_hold_anything(tmp_path):
    """As MMSA-FET writes them: dicts, None and ragged sequences in arrays of objects."""
    ragged = np.empty(12, dtype=object)
    ragged[:] = [np.zeros(n) for n in range(12)]

    def add(content):
        content["train"].update(
            align=np.array([{"word": "a", "start": 0.5}, None] * 6, dtype=object),
            annotations=np.array(["Positive", None] * 6, dtype=object),
            raw_audio=ragged,
            spectra=np.ones((12, 2), dtype=complex),
        )
        content["meta"] = collections.defaultdict(list, a=[1])

    for protocol in (2, 4, 5):
        raw = mmsa(tmp_path / "a.pkl", **SMALL, protocol=protocol, change=add)
        np.testing.assert_array_equal(
            raw.splits["train"].features["audio"], mmsa(tmp_path / "b.pkl", **SMALL).splits["train"].features["audio"]
        )


def test_mmsa_without_tokens_takes_lengths_from_the_frames(tmp_path):
    def without(content):
        for split in content.values():
            del split["text_bert"]

    content = write_mmsa(tmp_path / "a.pkl", **SMALL)
    raw = mmsa(tmp_path / "b.pkl", **SMALL, change=without)
    for name in SPLITS:
        assert raw.splits[name].tokens is None
        np.testing.assert_array_equal(raw.splits[name].lengths["text"], content[name]["text_bert"][:, 1].sum(axis=1))
    assert (
        "train/text: there is no text_bert and no text_lengths; lengths end at the last frame that is not zero"
        in raw.notes
    )

    def silent_ends(content):
        without(content)
        # A word without a vector is still a word where another modality has a frame.
        content["train"]["text"][:, -4:] = 0

    content = write_mmsa(tmp_path / "c.pkl", aligned=True, **ALIGNED)
    raw = mmsa(tmp_path / "d.pkl", aligned=True, **ALIGNED, change=silent_ends)
    for m in MODALITIES:
        np.testing.assert_array_equal(
            raw.splits["train"].lengths[m], content["train"]["text_bert"][:, 1].sum(axis=1).astype(int)
        )


@pytest.mark.parametrize("layout", ["mmsa", "mult", "npz"])
def test_labels_are_clipped_on_request_only_and_counted(tmp_path, layout):
    def beyond(content):
        labels = (
            content["train"]["regression_labels"]
            if layout == "mmsa"
            else (content["train"]["labels"] if layout == "mult" else content["regression_labels"])
        )
        rows = [0, 1] if layout != "npz" else np.flatnonzero(content["split"] == "train")[:2]
        labels[rows[0]], labels[rows[1]] = 10 / 3, -3.5

    path = tmp_path / ("a.npz" if layout == "npz" else "a.pkl")
    write, read = {"mmsa": (write_mmsa, read_mmsa), "mult": (write_mult, read_mult), "npz": (write_npz, read_npz)}[
        layout
    ]
    write(path, change=beyond, **SMALL)
    if layout == "npz":
        info, file = feature_file("custom", path=path)
    else:
        info = dataset_info("mosi")
        file = info.file(f"{layout}-unaligned")
    with pytest.raises(MSABenchError, match=r"would clip 2 such labels and say so$"):
        read(path, info, file)
    raw = read(path, info, file, clip_labels=True)
    assert raw.splits["train"].labels[:2].tolist() == [3.0, -3.0]
    key = "labels" if layout == "mult" else "regression_labels"
    assert f"train/{key}: 2 labels beyond [-3, 3] (-3.5 the farthest) were clipped" in raw.notes


def test_labels_that_are_no_numbers_cannot_be_clipped(tmp_path):
    write_mmsa(tmp_path / "a.pkl", **SMALL, change=put("regression_labels", 2, np.nan))
    info = dataset_info("mosi")
    with pytest.raises(MSABenchError, match=r"regression_labels is nan for clip .*for mosi$"):
        read_mmsa(tmp_path / "a.pkl", info, info.file("mmsa-unaligned"), clip_labels=True)


GBK = ["\u4f60\u597d".encode("gbk"), "\u4f60\u574f".encode("gbk"), b"\xff", b"\xfe", "caf\u00e9".encode(), b"plain"]
SEEN = [r"\xc4\xe3\xba\xc3", r"\xff", r"\xfe", "café", "plain"]


@pytest.mark.parametrize("layout", ["mmsa", "mult", "npz"])
def test_ids_of_any_bytes_stay_apart(tmp_path, layout):
    def mark(content):
        if layout == "npz":
            rows = np.flatnonzero(content["split"] == "train")[: len(GBK)]
            content["id"] = content["id"].astype("S8")
            content["id"][rows] = GBK
        else:
            content["train"]["id"] = [*GBK, "half \ud83d", "half \ud83e", *map(str, range(4))]

    if layout == "npz":
        raw = npz(tmp_path / "a.npz", change=mark)
    else:
        raw = (mmsa if layout == "mmsa" else mult)(tmp_path / "a.pkl", **SMALL, change=mark)
    ids = raw.splits["train"].ids
    assert len(set(ids)) == 12
    assert ids[0] == SEEN[0]
    assert ids[2:6] == SEEN[1:]
    assert all(name.encode("utf-8").decode("utf-8") == name for name in ids)
    if layout != "npz":
        assert ids[6:8] == [r"half \ud83d", r"half \ud83e"]


# MulT.


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "iemocap"])
@pytest.mark.parametrize("aligned", [True, False])
def test_mult_files_in_their_real_shapes(tmp_path, dataset, aligned):
    content = write_mult(tmp_path / "a.pkl", dataset, aligned)
    info = dataset_info(dataset)
    file = info.file("mult-aligned" if aligned else "mult-unaligned")
    raw = read_mult(tmp_path / "a.pkl", info, file)
    assert set(raw.padding.values()) == {"front"}
    assert raw.ids_from_file == (dataset != "iemocap")
    for name, n in zip(SPLITS, SIZES, strict=True):
        split, written = raw.splits[name], content[name]
        for m in MODALITIES:
            assert split.features[m].shape == (n, file.lengths[m], file.dims[m])
            exists = np.arange(file.lengths[m]) >= file.lengths[m] - split.lengths[m][:, None]
            np.testing.assert_array_equal(exists, written[m].any(axis=2))
        assert split.tokens is None
        if dataset == "iemocap":
            assert split.ids == [str(row) for row in range(n)]
        else:
            assert split.labels.dtype == np.float32
            np.testing.assert_array_equal(split.labels, written["labels"].ravel())
            assert split.ids[:2] == [f"{name}0$_$0.25-1.5", f"{name}0$_$1.25-2.5"]


def test_iemocap_emotions_are_reordered(tmp_path):
    content = write_mult(tmp_path / "a.pkl", "iemocap", True)
    info = dataset_info("iemocap")
    raw = read_mult(tmp_path / "a.pkl", info, info.file())
    assert MULT_EMOTIONS == ("neutral", "happy", "sad", "angry")
    for name in SPLITS:
        labels = raw.splits[name].labels
        assert labels.dtype == np.int64
        for column, emotion in enumerate(EMOTIONS):
            one_hot = content[name]["labels"][:, MULT_EMOTIONS.index(emotion)]
            np.testing.assert_array_equal(labels[:, column], one_hot[:, 1])


@pytest.mark.parametrize("front", [(), ("text",), ("audio", "vision"), MODALITIES])
def test_padding_sides_are_found_for_each_modality(tmp_path, front):
    raw = mult(tmp_path / "a.pkl", front=front, **SMALL)
    assert raw.padding == {m: "front" if m in front else "end" for m in MODALITIES}


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=6),
    st.booleans(),
)
def test_lengths_follow_from_zero_frames(tmp_path_factory, spans, front):
    steps = 6
    present = np.zeros((len(spans), steps), dtype=bool)
    for row, (length, hole) in enumerate(spans):
        present[row, :length] = True
        # A zero frame inside a clip is a frame.
        if 0 < hole < length - 1:
            present[row, hole] = False
    if front:
        present = present[:, ::-1]

    def change(content):
        for split in content.values():
            split["audio"] = np.repeat(present[:, :, None], 2, axis=2).astype(np.float32)

    path = tmp_path_factory.getbasetemp() / "lengths.pkl"
    sizes = (len(spans),) * 3
    raw = mult(path, sizes=sizes, steps={"text": 4, "audio": steps, "vision": 5}, dims=SMALL_DIMS, change=change)
    lengths = [length for length, _ in spans]
    np.testing.assert_array_equal(raw.splits["test"].lengths["audio"], lengths)
    if any(0 < length < steps for length in lengths):
        assert raw.padding["audio"] == ("front" if front else "end")


def test_aligned_frames_exist_where_any_modality_has_them(tmp_path):
    def hide(content):
        for split in content.values():
            split["vision"][:, :-1] = 0.0
            split["text"][0] = 0.0

    path = tmp_path / "a.pkl"
    content = write_mult(path, aligned=True, **ALIGNED, change=hide)
    info = dataset_info("mosi")
    raw = read_mult(path, info, info.file("mult-aligned"))
    expected = content["train"]["audio"].any(axis=2).sum(axis=1)
    for m in MODALITIES:
        np.testing.assert_array_equal(raw.splits["train"].lengths[m], expected)
        assert raw.padding[m] == "front"


def test_mult_ids_that_repeat_are_not_used(tmp_path):
    def repeat(content):
        content["valid"]["id"] = ["same"] * 5

    raw = mult(tmp_path / "a.pkl", **SMALL, change=repeat)
    assert not raw.ids_from_file
    assert raw.splits["train"].ids[:3] == ["0", "1", "2"]
    assert "valid/id: only 1 of 5 ids are different; they are not used" in raw.notes
    assert any("every clip is its own conversation" in note for note in raw.notes)


def test_mult_takes_one_id_for_each_clip_and_mixed_rows(tmp_path):
    def single(content):
        for name, split in content.items():
            split["id"] = np.array([f"{name}{i}".encode() for i in range(len(split["id"]))])
        content["test"]["id"] = np.array([["v", 0.5, i] for i in range(7)], dtype=object)

    raw = mult(tmp_path / "a.pkl", **SMALL, change=single)
    assert raw.splits["train"].ids[1] == "train1"
    assert raw.splits["test"].ids[1] == "v$_$0.5-1"


def test_mult_pickles_of_python_2(tmp_path):
    content = write_mult(
        tmp_path / "a.pkl", **SMALL, change=lambda c: c["train"]["audio"].__setitem__((0, -1, 0), -np.inf)
    )
    (tmp_path / "a.pkl").write_bytes(python2_pickle(content))
    info = dataset_info("mosi")
    raw = read_mult(tmp_path / "a.pkl", info, info.file("mult-unaligned"))
    assert raw.splits["train"].features["audio"][0, -1, 0] == 0
    np.testing.assert_array_equal(raw.splits["test"].features["text"], content["test"]["text"])
    assert "train/audio: 1 values were not finite and are 0 now" in raw.notes


MULT_ERRORS = {
    "no labels": ("mosi", drop("labels"), r"train has no key 'labels'"),
    "emotions in mosi": ("mosi", set_train("labels", np.zeros((12, 4, 2))), r"train/labels has shape \(12, 4, 2\)"),
    "scores in iemocap": ("iemocap", set_train("labels", np.zeros((12, 1, 1))), r"train/labels has shape \(12, 1, 1\)"),
    "not one-hot": ("iemocap", put("labels", (0, 0), [1, 1]), r"train/labels is not one-hot"),
    "range": ("mosi", put("labels", 0, 4.0), r"train/labels is 4 for clip 'train0\$_\$0.25-1.5'"),
    "nan": ("mosi", put("labels", 0, np.nan), r"train/labels is nan for clip"),
    "clips": (
        "mosi",
        set_train("text", lambda x: x[1:]),
        r"train/text has shape \(11, 8, 6\); expected .*\(12, T, D\)",
    ),
    "ids": ("mosi", set_train("id", lambda x: x[1:]), r"train/id has 11 ids"),
}


@pytest.mark.parametrize("defect", MULT_ERRORS)
def test_mult_defects_are_one_sentence(tmp_path, defect):
    dataset, change, words = MULT_ERRORS[defect]
    with pytest.raises(MSABenchError, match=words) as caught:
        mult(tmp_path / "a.pkl", dataset, **SMALL, change=change)
    assert str(caught.value).startswith(str(tmp_path / "a.pkl"))


def test_aligned_mult_files_share_their_steps(tmp_path):
    with pytest.raises(MSABenchError, match="expected as many in each, in aligned files"):
        mult(tmp_path / "a.pkl", aligned=True, **SMALL)


# npz.


@pytest.mark.parametrize("task", ["regression", "emotions"])
def test_npz_splits_are_taken_apart(tmp_path, task):
    content = write_npz(tmp_path / "a.npz", task=task, tokens=True)
    raw = read_npz(tmp_path / "a.npz", *feature_file("custom", path=tmp_path / "a.npz", task=task))
    for name, n in zip(SPLITS, SIZES, strict=True):
        rows = content["split"] == name
        split = raw.splits[name]
        assert split.ids == content["id"][rows].tolist()
        assert len(split.ids) == n
        key = "emotion_labels" if task == "emotions" else "regression_labels"
        np.testing.assert_array_equal(split.labels, content[key][rows])
        np.testing.assert_array_equal(split.tokens, content["text_bert"][rows])
        for m in MODALITIES:
            np.testing.assert_array_equal(split.features[m], content[m][rows])
            np.testing.assert_array_equal(split.lengths[m], content[f"{m}_lengths"][rows])
    assert raw.notes == []


def test_npz_without_lengths_has_all_steps(tmp_path):
    raw = npz(tmp_path / "a.npz", lengths=False)
    assert (raw.splits["train"].lengths["audio"] == 9).all()
    assert raw.splits["train"].tokens is None


def set_to(key, value):
    def change(content):
        content[key] = value(content[key])

    return change


NPZ_ERRORS = {
    "no text": (
        lambda c: c.pop("text"),
        r"has no array 'text' \(it has .*\); expected id, split, regression_labels, text",
    ),
    "split name": (
        set_to("split", lambda x: np.where(x == "valid", "dev", x)),
        r"split names 'dev'; expected one of train",
    ),
    "no test": (set_to("split", lambda x: np.where(x == "test", "valid", x)), r"names no clip 'test'"),
    "rows": (set_to("audio", lambda x: x[1:]), r"audio has shape \(23, 9, 3\); expected 24 rows"),
    "dims": (set_to("audio", lambda x: x[:, 0]), r"train/audio has shape \(12, 3\)"),
    "objects": (set_to("id", lambda x: np.array([{}] * 24, dtype=object)), r"is not a readable npz"),
    "nan": (set_to("regression_labels", lambda x: x * np.nan), r"train/regression_labels is nan for clip 'clip"),
    "twice": (set_to("id", lambda x: np.repeat("same", 24)), r"train/id has 'same' 12 times"),
    "beyond": (set_to("text_lengths", lambda x: x + 6), r"train/text_lengths has the length"),
}


@pytest.mark.parametrize("defect", NPZ_ERRORS)
def test_npz_defects_are_one_sentence(tmp_path, defect):
    change, words = NPZ_ERRORS[defect]
    with pytest.raises(MSABenchError, match=words) as caught:
        npz(tmp_path / "a.npz", change=change)
    assert str(caught.value).startswith(str(tmp_path / "a.npz"))


def test_emotions_of_an_npz_are_zero_or_one(tmp_path):
    with pytest.raises(
        MSABenchError, match=r"emotion_labels has shape \(12, 4\) and goes to 2; expected 0 or 1 for happy"
    ):
        npz(tmp_path / "a.npz", task="emotions", change=set_to("emotion_labels", lambda x: x + 1))


def test_an_npz_that_claims_more_than_it_holds_is_refused_at_once(tmp_path):
    path = tmp_path / "a.npz"
    content = write_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in content.items():
            whole = io.BytesIO()
            np.save(whole, value)
            header = str(value.shape).encode()
            claim = whole.getvalue()
            if key == "text":
                # As long as the true header, and 400 TB.
                claim = claim.replace(header, str((10**12, *value.shape[1:])).encode(), 1)
                claim = claim.replace(b" " * (len(str(10**12)) - len(str(value.shape[0]))) + b"\n", b"\n", 1)
            archive.writestr(f"{key}.npy", claim)
    with pytest.raises(MSABenchError, match=r"not a readable npz \(.*text claims the shape \(1000000000000, 6, 8\)"):
        read_npz(path, *feature_file("custom", path=path))


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "npy"])
def test_broken_npz_is_said(tmp_path, kind):
    path = tmp_path / "a.npz"
    write_npz(path)
    if kind == "npy":
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
    else:
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not found"}[kind])
    with pytest.raises(MSABenchError, match=r"a\.npz (is not a readable npz|holds a single array)"):
        read_npz(path, *feature_file("custom", path=path))


# The real file.


@pytest.mark.real
@pytest.mark.skipif("MSABENCH_DATA" not in os.environ, reason="MSABENCH_DATA does not name a folder with real data")
def test_real_mosei_video():
    info = dataset_info("mosei_video")
    path = Path(os.environ["MSABENCH_DATA"]) / info.file().filename
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    raw = read_npz(path, info, info.file())
    counts = {
        name: (len(s.ids), int((s.labels > 0).sum()), int((s.labels < 0).sum()), int((s.labels == 0).sum()))
        for name, s in raw.splits.items()
    }
    assert counts == {"train": (634, 402, 200, 32), "valid": (85, 59, 20, 6), "test": (179, 118, 50, 11)}
    assert raw.notes == []
    assert {m: x.shape[1:] for m, x in raw.splits["test"].features.items()} == {
        "text": (1, 768),
        "audio": (1, 39),
        "vision": (1, 33),
    }


def test_a_clip_in_two_splits_of_ones_own_file_is_refused(tmp_path):
    path = tmp_path / "mine.npz"

    def share(content):
        train, test = (np.flatnonzero(content["split"] == name)[0] for name in ("train", "test"))
        content["id"][test] = content["id"][train]

    write_npz(path, change=share)
    with pytest.raises(MSABenchError, match="stand in train and in test; expected every clip in one split only"):
        read_npz(path, *feature_file("custom", path=path))

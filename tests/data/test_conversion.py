"""Conversion in blocks: the same stores as from arrays held whole, and little memory beside the largest array."""

import hashlib
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from msabench import files
from msabench.data import file_arrays
from msabench.data.commands import data_verify
from msabench.data.feature_rows import FeatureRows
from msabench.data.file_arrays import FileArray, SourceFile, StoredBytes, StoredText
from msabench.data.files import feature_file
from msabench.data.readers import read_corpus
from msabench.data.store import open_corpus
from msabench.data.tensor_file import save_file
from msabench.data.unpickle import load
from msabench.data.valid_share import ValidShare
from msabench.errors import MSABenchError
from tests.support.corpora import MODALITIES, SPLITS, python2_pickle

STEPS = {"text": 8, "audio": 11, "vision": 9}
DIMS = {"text": 6, "audio": 3, "vision": 4}
SIZES = {"train": 13, "valid": 4, "test": 7}


def numbers(*shape):
    """Numbers that no version of NumPy draws in another way, some of them 0 and -0."""
    n = int(np.prod(shape))
    values = ((np.arange(n) * 7919 % 1009) - 500) / 64
    values[::11] = 0.0
    values[::13] = -0.0
    return values.reshape(shape)


def mmsa(aligned=False, dtype=np.float32, order="C"):
    content = {}
    for name, n in SIZES.items():
        words = 2 + np.arange(n) % 7
        mask = np.arange(8) < words[:, None]
        steps = dict.fromkeys(MODALITIES, 8) if aligned else STEPS
        split = {m: np.array(numbers(n, steps[m], DIMS[m]), dtype=dtype, order=order) for m in MODALITIES}
        split["audio"][0, 0, 0], split["vision"][2, 1] = np.nan, -np.inf
        split["vision"][3] = 0
        split["text_bert"] = np.stack([mask * 2000, mask, mask * 0], axis=1).astype(np.float32)
        split["id"] = [f"{name}{row // 3}$_${row % 3}" for row in range(n)]
        split["regression_labels"] = (np.arange(n) % 7 - 3).astype(dtype)
        if not aligned:
            split["audio_lengths"] = [1 + row % 11 for row in range(n)]
        content[name] = split
    return content


def mult(dtype=np.float64):
    content = {}
    for name, n in SIZES.items():
        split = {m: numbers(n, STEPS[m], DIMS[m]).astype(dtype) for m in MODALITIES}
        for values in split.values():
            values[:, :2] = 0
        split["labels"] = (np.arange(n) % 7 - 3.0).reshape(n, 1, 1)
        split["id"] = np.array([[f"{name}{row}", f"{row}.25"] for row in range(n)]).astype("S16")
        content[name] = split
    return content


def own(dtype=np.float32, order="C"):
    n = 24
    content = {m: np.array(numbers(n, STEPS[m], DIMS[m]), dtype=dtype, order=order) for m in MODALITIES}
    content["audio"][5, 1, 0] = np.inf
    content["id"] = np.array([f"v{row // 2}$_${row % 2}" for row in range(n)])
    content["split"] = np.array([("train", "test", "train", "valid", "train", "train")[row % 6] for row in range(n)])
    content["regression_labels"] = np.arange(n) % 7 - 3
    content["audio_lengths"] = 1 + np.arange(n) % 11
    content["vision_lengths"] = np.full(n, 9)
    content["vision_observed"] = np.arange(n * 9).reshape(n, 9) % 5 > 0
    return content


def put(path, content, protocol=4):
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        path.write_bytes(python2_pickle(content) if protocol == "python 2" else pickle.dumps(content, protocol))
    return path


LAYOUTS = {
    "mmsa-unaligned": (mmsa, "mosi", "a.pkl"),
    "mmsa-aligned": (lambda **settings: mmsa(aligned=True, **settings), "mosi", "a.pkl"),
    "mult-unaligned": (mult, "mosi", "a.pkl"),
    "custom": (own, "custom", "a.npz"),
}

GOLDEN = {
    "mmsa-unaligned": ["50e02bd05999", "486d4b616148", "d5177f5759f1"],
    "mmsa-aligned": ["848c7ecd2e7f", "9ebcf54036a1", "4d710c0098ad"],
    "mult-unaligned": ["608bb0816fc6", "702f721b9499", "415c78e5cf46"],
    "custom": ["f9adaf1748e5", "3dc2f810af6d", "f334f25e8468"],
}
"""Layout -> the start of the sha256 of its splits' files, as they were when arrays were held whole."""


def converted(tmp_path, layout, content, **settings):
    """The start of the sha256 of each file of tensors in the store, and the corpus."""
    make, dataset, name = LAYOUTS[layout]
    path = put(tmp_path / name, make() if content is None else content, **settings)
    features = None if dataset == "custom" else layout
    cache = tmp_path / "cache"
    corpus = open_corpus(dataset, features, path=path, cache=cache)
    (folder,) = (cache / "stores").iterdir()
    hashes = [hashlib.sha256((folder / f"{split}.safetensors").read_bytes()).hexdigest()[:12] for split in SPLITS]
    return hashes, corpus


@pytest.fixture
def in_file(monkeypatch):
    """Arrays of a few bytes stay in their file, and are read in very small blocks."""
    monkeypatch.setattr(file_arrays, "LARGE", 64)
    monkeypatch.setattr(file_arrays, "BLOCK", 700)
    monkeypatch.setattr(file_arrays, "SCATTERED_BLOCK", 900)


def content_of(layout, dtype, order):
    return mult(dtype) if layout.startswith("mult") else LAYOUTS[layout][0](dtype=dtype, order=order)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stores_are_as_ever(tmp_path, layout):
    assert converted(tmp_path, layout, None)[0] == GOLDEN[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_stays_in_the_file_makes_the_same_store(tmp_path, in_file, layout, dtype, order):
    assert converted(tmp_path, layout, content_of(layout, dtype, order))[0] == GOLDEN[layout]


@pytest.mark.parametrize("layout", ["mmsa-unaligned", "mmsa-aligned", "mult-unaligned"])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5, "python 2"])
def test_every_protocol_makes_the_same_store(tmp_path, in_file, layout, protocol):
    assert converted(tmp_path, layout, None, protocol=protocol)[0] == GOLDEN[layout]


def test_notes_and_verdicts_do_not_tell_where_arrays_are(tmp_path, monkeypatch):
    def said():
        raw = [converted(tmp_path / f"{layout}{file_arrays.LARGE}", layout, None)[1].notes for layout in LAYOUTS]
        return raw, [data_verify("custom", path=tmp_path / f"custom{file_arrays.LARGE}/a.npz")]

    for layout in LAYOUTS:
        for large in (file_arrays.LARGE, 64):
            (tmp_path / f"{layout}{large}").mkdir()
    in_memory = said()
    monkeypatch.setattr(file_arrays, "LARGE", 64)
    assert str(said()).replace(f"custom{64}/", "").replace(f"aligned{64}/", "") == str(in_memory).replace(
        f"custom{1 << 24}/", ""
    ).replace(f"aligned{1 << 24}/", "")


@pytest.mark.parametrize("layout", ["mmsa-unaligned", "custom"])
def test_a_validation_split_is_taken_from_what_stays_in_the_file(tmp_path, monkeypatch, layout):
    make, dataset, name = LAYOUTS[layout]
    content = make()
    if layout == "custom":
        content["split"][content["split"] == "valid"] = "train"
    else:
        del content["valid"]
    path = put(tmp_path / name, content)
    info, file = feature_file(dataset, None if dataset == "custom" else layout, path=path)

    def features():
        raw = read_corpus(path, info, file, valid=ValidShare(0.3))
        return {(split, m): raw.splits[split].features[m] for split in SPLITS for m in MODALITIES}

    in_memory = features()
    monkeypatch.setattr(file_arrays, "LARGE", 64)
    for key, values in features().items():
        assert isinstance(values, FeatureRows)
        assert isinstance(in_memory[key], np.ndarray)
        assert values[:].tobytes() == in_memory[key].tobytes()


# Memory.


def traced(call):
    """What a call takes of memory at its peak, in bytes; arrays are counted."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["mine.pkl", "mine.npz"])
@pytest.mark.parametrize(("dtype", "order"), [(np.float32, "C"), (np.float64, "C"), (np.float64, "F")])
def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch, name, dtype, order):
    monkeypatch.setattr(file_arrays, "LARGE", 1 << 16)
    monkeypatch.setattr(file_arrays, "BLOCK", 1 << 18)
    monkeypatch.setattr(file_arrays, "SCATTERED_BLOCK", 1 << 20)
    monkeypatch.setattr(file_arrays, "_SLAB", 1 << 18)
    monkeypatch.setattr(file_arrays, "_SHORT", 1 << 14)
    monkeypatch.setattr(files, "_BLOCK", 1 << 18)
    n, steps, dims = 600, 20, dict(zip(MODALITIES, (200, 40, 10), strict=True))
    text = np.asarray(np.ones((n, steps, 200)), dtype=dtype, order=order)
    splits = {
        split: {m: text[: n // part, :, : dims[m]].copy(order) for m in MODALITIES}
        | {"id": [f"{split}{row}" for row in range(n // part)], "regression_labels": np.zeros(n // part)}
        for split, part in (("train", 1), ("valid", 4), ("test", 2))
    }
    if name.endswith("npz"):
        whole = {m: np.concatenate([splits[split][m] for split in SPLITS]) for m in MODALITIES}
        whole = {m: np.asarray(values, order=order) for m, values in whole.items()}
        whole["id"] = np.array([clip for split in SPLITS for clip in splits[split]["id"]])
        whole["split"] = np.repeat(SPLITS, [len(splits[split]["id"]) for split in SPLITS])
        whole["regression_labels"] = np.zeros(len(whole["id"]))
        put(tmp_path / name, whole)
    else:
        put(tmp_path / name, splits)
    open_corpus("synth", size=(2, 1, 1), length=8, cache=tmp_path / "first")
    largest, allowed = text.nbytes, 4 << 20
    assert allowed < largest / 2
    assert traced(lambda: open_corpus("custom", path=tmp_path / name, cache=tmp_path / "cache")) < allowed
    assert traced(lambda: data_verify("custom", path=tmp_path / name, cache=tmp_path / "cache")) < allowed
    # The measure sees arrays: held whole, they take what the file has.
    monkeypatch.setattr(file_arrays, "LARGE", 1 << 40)
    assert traced(lambda: data_verify("custom", path=tmp_path / name, cache=tmp_path / "cache")) > 1.5 * largest


# Files that are not as they claim, or do not stay as they were.


@pytest.mark.parametrize("change", ["cut", "written over"])
def test_a_file_that_changes_while_the_store_is_written_is_refused(tmp_path, in_file, monkeypatch, change):
    from msabench.data import store as store_module

    path, save_files = tmp_path / "a.pkl", store_module.save_file

    def slowly(arrays, target):
        if change == "cut":
            path.write_bytes(path.read_bytes()[:500])
        else:
            path.write_bytes(path.read_bytes())
        save_files(arrays, target)

    monkeypatch.setattr(store_module, "save_file", slowly)
    with pytest.raises(MSABenchError, match=r"a\.pkl changed while it was read; try again when it is complete"):
        converted(tmp_path, "mmsa-unaligned", None)
    assert list((tmp_path / "cache/stores").iterdir()) == []


def test_another_file_of_the_same_name_does_not_mix_in(tmp_path, in_file):
    path = put(tmp_path / "a.pkl", np.arange(100.0))
    found = load(path, in_file=True)
    put(tmp_path / "b.pkl", np.zeros(100)).replace(path)
    np.testing.assert_array_equal(found[:], np.arange(100.0))


def test_a_damaged_array_of_an_npz_is_found_in_the_file(tmp_path, in_file):
    path = put(tmp_path / "a.npz", own())
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("text.npy")
    damaged = bytearray(path.read_bytes())
    damaged[member.header_offset + member.file_size // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(MSABenchError, match=r"is not a readable npz .*Bad CRC-32"):
        open_corpus("custom", path=path, cache=tmp_path / "cache")


def test_compressed_arrays_make_the_same_store(tmp_path, in_file):
    np.savez_compressed(tmp_path / "a.npz", **own())
    open_corpus("custom", path=tmp_path / "a.npz", cache=tmp_path / "cache")
    (folder,) = (tmp_path / "cache/stores").iterdir()
    found = [hashlib.sha256((folder / f"{split}.safetensors").read_bytes()).hexdigest()[:12] for split in SPLITS]
    assert found == GOLDEN["custom"]


# Arrays in files.


def array_in(tmp_path, values, protocol):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(values, protocol))
    return load(tmp_path / "a.pkl", in_file=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
def test_rows_are_those_of_the_array(tmp_path, in_file, monkeypatch, protocol, axes):
    values = np.arange(3 * 40 * 7, dtype=np.float64).reshape(3, 40, 7).transpose(axes)
    for short in (1 << 13, 8):
        monkeypatch.setattr(file_arrays, "_SHORT", short)
        monkeypatch.setattr(file_arrays, "_SLAB", 2000)
        found = array_in(tmp_path, values, protocol)
        # What NumPy writes in the order C anew stays in the file; text in UTF-8 only if it can be read in one go.
        assert protocol == 2 or isinstance(found, FileArray)
        assert found.shape == values.shape
        for start, stop in ((0, 0), (0, 1), (1, 3), (0, len(values)), (len(values) - 1, len(values))):
            np.testing.assert_array_equal(found[start:stop], values[start:stop])
        rows = np.array([0, 2]) if len(values) < 7 else np.array([0, 1, 4, 6])
        np.testing.assert_array_equal(found.picked(rows) if isinstance(found, FileArray) else found[rows], values[rows])


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_one_array_under_two_names_is_read_twice(tmp_path, in_file, protocol):
    values = np.arange(100.0)
    found = array_in(tmp_path, {"a": values, "b": [values, values[:50]]}, protocol)
    assert found["a"] is found["b"][0]
    np.testing.assert_array_equal(found["a"][:], values)
    np.testing.assert_array_equal(np.asarray(found["b"][1]), values[:50])


def test_an_array_that_is_elsewhere_before_it_has_content_is_one_object(tmp_path, in_file):
    """No pickler writes that, but a pickle may say it."""
    data = pickle.dumps(np.arange(100.0), protocol=3)
    call = data.index(b"R")
    # The new array goes into a list of the memo before it is filled.
    start = data[:2] + b"]r\xff\x00\x00\x000" + data[2 : call + 1]
    memo = data[call + 1 : call + 3]
    assert memo[:1] == pickle.BINPUT
    middle = memo + b"j\xff\x00\x00\x00h" + memo[1:] + b"a0"
    (tmp_path / "a.pkl").write_bytes(start + middle + data[call + 3 : -1] + b"0j\xff\x00\x00\x00.")
    for found in (load(tmp_path / "a.pkl"), load(tmp_path / "a.pkl", in_file=True)):
        (array,) = found
        np.testing.assert_array_equal(array, np.arange(100.0))


def test_bytes_and_text_that_are_no_arrays_come_through(tmp_path, in_file):
    values = {
        "blob": b"ab" * 50,
        "words": "é" * 90,
        "wide": "\u4f60" * 90,
        "list": [b"x" * 80],
        "bytearray": bytearray(99),
    }
    for protocol in (3, 4, 5):
        found = array_in(tmp_path, values, protocol)
        assert {key: file_arrays.loaded(value) for key, value in found.items() if key != "list"} == {
            key: value for key, value in values.items() if key != "list"
        }
        assert file_arrays.loaded(found["list"][0]) == b"x" * 80
        keys = array_in(tmp_path, {b"k" * 80: {"t" * 80}}, protocol)
        assert keys == {b"k" * 80: {"t" * 80}}


def test_text_is_read_from_any_place(tmp_path, monkeypatch):
    monkeypatch.setattr(file_arrays, "BLOCK", 7)
    content = bytes(range(256)) * 3
    (tmp_path / "a").write_bytes(b"before" + content.decode("latin1").encode() + b"after")
    text = StoredText.of(SourceFile(tmp_path / "a"), 6, len(content.decode("latin1").encode()))
    assert len(text) == len(content)
    for start, stop in ((0, 768), (3, 4), (120, 140), (255, 600), (767, 768)):
        part = np.empty(stop - start, dtype=np.uint8)
        text.as_bytes().read_into(start, part)
        assert part.tobytes() == content[start:stop]
    for other in ("\u4f60".encode() * 9, b"\xff" * 9, b"abc\xc3"):
        (tmp_path / "a").write_bytes(other)
        assert StoredText.of(SourceFile(tmp_path / "a"), 0, len(other)) is None


def test_a_source_that_became_shorter_is_said(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    with pytest.raises(MSABenchError, match=r"a changed while it was read"):
        StoredBytes(SourceFile(tmp_path / "a"), 1, 5).loaded()


def test_tensor_files_are_those_of_the_library(tmp_path):
    arrays = {
        "text": numbers(3, 4, 5).astype(np.float32),
        "labels": np.arange(3.0, dtype=np.float32),
        "audio_observed": np.arange(12).reshape(3, 4) % 2 > 0,
        "audio_lengths": np.arange(3)[::-1],
        "tokens": np.asfortranarray(np.arange(18).reshape(3, 3, 2)),
        "nothing": np.zeros((0, 4), dtype=np.float32),
    }
    save_file(arrays, tmp_path / "a")
    library = save({name: torch.from_numpy(array.copy()).contiguous() for name, array in arrays.items()})
    assert (tmp_path / "a").read_bytes() == library
    rows = {**arrays, "text": FeatureRows(arrays["text"])}
    save_file(rows, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == library
    with pytest.raises(FileExistsError):
        save_file(arrays, tmp_path / "a")

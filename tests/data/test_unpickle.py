"""The restricted unpickler: what the field's files hold comes through, what runs code does not."""

import argparse
import collections
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from msabench.data.unpickle import load
from msabench.errors import MSABenchError
from tests.support import hostile_pickles
from tests.support.corpora import MODALITIES, python2_pickle, write_mmsa

PLAIN = {
    "features": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(20)[::2],
    "strings": np.array(["a", "bé"]),
    "bytes": np.array([b"a", b"bc"]),
    "objects": np.array(["a", 1, 2.5, b"x"], dtype=object),
    "scalar": np.float32(2.5),
    "ids": ["v$_$1", "v$_$2"],
    "tuple": (1, 2.5, None, True, b"raw", bytearray(b"raw")),
    "set": {1, 2},
    "ordered": collections.OrderedDict(a=1),
}


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_content_comes_through_in_every_protocol(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(PLAIN, protocol=protocol))
    assert same(load(path), PLAIN)


@pytest.mark.parametrize("old", [True, False])
def test_both_spellings_of_numpy_modules(tmp_path, old):
    data = pickle.dumps(PLAIN["features"], protocol=2)
    new_name, old_name = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    data = data.replace(new_name, old_name) if old else data.replace(old_name, new_name)
    (tmp_path / "a.pkl").write_bytes(data)
    np.testing.assert_array_equal(load(tmp_path / "a.pkl"), PLAIN["features"])


def test_pickles_of_python_2(tmp_path):
    values = {"audio": np.array([[0.1, -np.inf], [3.0, -200.0]]), "id": np.array([[b"v1", b"0.5"]]), "name": b"caf\xe9"}
    (tmp_path / "a.pkl").write_bytes(python2_pickle(values))
    found = load(tmp_path / "a.pkl")
    np.testing.assert_array_equal(found["audio"], values["audio"])
    np.testing.assert_array_equal(found["id"], values["id"])
    assert found["name"] == "café"


@given(
    hnp.arrays(st.sampled_from([np.float32, np.float64, np.int64, np.bool_]), hnp.array_shapes(min_side=0, max_dims=4)),
    st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_arrays_round_trip(tmp_path_factory, array, protocol):
    path = tmp_path_factory.getbasetemp() / "round.pkl"
    path.write_bytes(pickle.dumps(array, protocol=protocol))
    found = load(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


class Planted:
    """Creates a file when it is unpickled in the ordinary way."""

    def __init__(self, call, *arguments):
        self.call = (call, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda flag: Planted(os.system, f"touch {flag}"), "system"),
        (lambda flag: Planted(eval, f"open({str(flag)!r}, 'w')"), "eval"),
        (lambda flag: Planted(subprocess.Popen, ["touch", str(flag)]), "Popen"),
        (lambda flag: Planted(open, str(flag), "w"), "open"),
        (lambda flag: Planted(getattr, "", "join"), "getattr"),
        (lambda flag: Planted(np.load, str(flag)), "numpy"),
        (lambda flag: argparse.Namespace(a=1), "(Namespace|_reconstructor)"),
    ],
    ids=["system", "eval", "popen", "open", "getattr", "numpy.load", "class"],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_is_not_run(tmp_path, call, name, protocol):
    flag, path = tmp_path / "flag", tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"train": [np.zeros(3), call(flag)]}, protocol=protocol))
    with pytest.raises(MSABenchError, match=rf"evil.pkl tries to load .*{name}.*only NumPy arrays"):
        load(path)
    assert not flag.exists()


def test_code_hidden_in_an_object_array_is_not_run(tmp_path):
    flag, path = tmp_path / "flag", tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(np.array([Planted(os.system, f"touch {flag}")], dtype=object)))
    with pytest.raises(MSABenchError, match="system"):
        load(path)
    assert not flag.exists()


@given(st.data())
def test_truncated_pickles_are_named(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "cut.pkl"
    whole = pickle.dumps(PLAIN, protocol=data.draw(st.integers(2, pickle.HIGHEST_PROTOCOL)))
    path.write_bytes(whole[: data.draw(st.integers(1, len(whole) - 1))])
    with pytest.raises(MSABenchError, match=r"cut\.pkl is (truncated|not a readable pickle).*get the file again$"):
        load(path)


def test_half_a_feature_file_is_called_truncated(tmp_path):
    whole = pickle.dumps(PLAIN["features"].repeat(1000), protocol=4)
    (tmp_path / "cut.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MSABenchError, match="is truncated"):
        load(tmp_path / "cut.pkl")


@given(st.binary(min_size=1, max_size=200))
def test_garbage_gives_one_sentence_or_a_value(tmp_path_factory, garbage):
    path = tmp_path_factory.getbasetemp() / "garbage.pkl"
    path.write_bytes(garbage)
    try:
        load(path)
    except MSABenchError as error:
        assert "garbage.pkl" in str(error)  # noqa: PT017 (a value is fine as well)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>quota exceeded", r"not a readable pickle \(it starts with b'<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a readable pickle"),
        (b"PK\x03\x04 a zip", "not a readable pickle"),
    ],
    ids=["empty", "html", "lfs", "zip"],
)
def test_what_is_no_pickle_is_said(tmp_path, data, words):
    (tmp_path / "a.pkl").write_bytes(data)
    with pytest.raises(MSABenchError, match=words):
        load(tmp_path / "a.pkl")


def read_in_a_process(folder, *large):
    """What came of each file of a folder, for ``load`` and two readers, in one process with bounded memory."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.hostile_pickles", str(folder), *large]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = {name: outcomes for name, *outcomes in (line.split("\t") for line in done.stdout.split("\n")[:-1])}
    files = sorted(path.name for path in folder.iterdir())
    assert list(said) == files, (
        f"ended with {done.returncode} at {files[min(len(said), len(files) - 1)]}: {done.stderr[-500:]}"
    )
    assert done.returncode == 0
    assert not [name for name, outcomes in said.items() if "MemoryError" in "".join(outcomes)]
    return said


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a limit of the address space")
def test_admitted_names_cannot_crash_the_process_or_fill_its_memory(tmp_path):
    for name, value in hostile_pickles.CRASHES.items():
        (tmp_path / name).write_bytes(hostile_pickles.whole(value))
    outcomes = read_in_a_process(tmp_path)
    assert read_in_a_process(tmp_path, "64") == outcomes, "as if arrays stayed in the file"
    said = {name: words[0] for name, words in outcomes.items()}
    kinds = "only booleans, numbers, strings and plain Python objects are read"
    assert said["objects from a structured dtype"] == f"has an array of dtype 'V8'; {kinds}"
    assert said["objects from a structured dtype without flags"] == f"has an array of dtype 'V8'; {kinds}"
    assert said["objects from a subarray"] == f"has an array of dtype 'V8'; {kinds}"
    assert said["objects from a plain dtype's fields"] == "has an array of structured items, which is not read"
    assert "an array of objects without as many objects" in said["objects from raw bytes"]
    assert "an array of objects without as many objects" in said["objects from raw bytes without flags"]
    assert "bytes in place of objects" in said["objects from a buffer"]
    assert said["sets without end"] == "asks for far more memory than its size calls for"
    assert said["copies of copies"] == "asks for far more memory than its size calls for"
    assert said["marks without end"] == "nests more than 1,000 values into each other"
    assert said["arrays in arrays"] == "has arrays that hold themselves, or more than 20 in each other"
    assert said["an array that holds itself"] == said["arrays in arrays"]
    assert said["bytes that are not there"].startswith("is truncated")
    assert said["a state of a dict"].startswith("sets the state of a dict; only NumPy arrays")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a limit of the address space")
def test_mutated_pickles_are_read_or_refused(tmp_path):
    content = write_mmsa(tmp_path / "mosi.pkl", steps=dict.fromkeys(MODALITIES, 4), dims=dict.fromkeys(MODALITIES, 2))
    (tmp_path / "mosi.pkl").unlink()
    content["train"]["align"] = np.array([{"a": 1}, None], dtype=object)
    values = (PLAIN, content)
    originals = [pickle.dumps(value, protocol) for value in values for protocol in (0, 2, 4, 5)]
    small = [value for value in hostile_pickles.CRASHES.values() if len(value) < 1000]
    originals = 4 * originals + list(map(hostile_pickles.whole, small))
    for number, mutant in enumerate(hostile_pickles.mutants(originals, 1000, seed=0)):
        (tmp_path / f"{number:04}.pkl").write_bytes(mutant)
    said = read_in_a_process(tmp_path)
    assert read_in_a_process(tmp_path, "64") == said, "as if arrays stayed in the file"
    loaded, mmsa, _ = zip(*said.values(), strict=True)
    assert min(loaded.count("read"), sum("truncated" in words for words in loaded), mmsa.count("read")) > 10

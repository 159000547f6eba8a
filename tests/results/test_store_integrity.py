"""What a store does about bits that flipped, files that are none, and what killed processes left."""

import hashlib
import json
import os
import random
import re
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.missingness.conditions import parse_grid
from msabench.results import predictions
from msabench.results.index import INDEX_NAME, index_is_damaged
from msabench.results.places import COMMITTED_STORE, STORE_VARIABLE, default_store, store_to_read, store_to_write
from msabench.results.store import STALE_SECONDS, ResultStore
from msabench.results.verify import verify
from msabench.tables.command import table
from tests.support.records import add, fail, rewrite
from tests.support.stored_runs import add_runs, noisy

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def job(folder):
    [job] = add_runs(folder, "mult", noisy(0.3), seeds=(1,), n=12, cells=parse_grid(["inter/la", "intra/0.5"]))
    return job


def record_of(folder, job):
    return folder / job.key.dataset / job.key.method / f"{job.key.job_id}.jsonl"


def flips(content, n, seed=0):
    """The content with one bit flipped, at ``n`` seeded places."""
    rng = random.Random(seed)
    for place in rng.sample(range(8 * len(content)), n):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        yield bytes(changed)


def damaged(folder):
    try:
        verify(folder)
    except MSABenchError as error:
        return str(error)
    return ""


def test_every_flipped_bit_of_predictions_is_found(folder, job):
    path = predictions.path_of(folder, job.key)
    content = path.read_bytes()
    for changed in flips(content, 150):
        path.write_bytes(changed)
        with pytest.raises(MSABenchError, match=r"\.parquet is damaged: it is not the file that its record has the ch"):
            predictions.read(path)
        assert f"- {path} is damaged" in damaged(folder)
    path.write_bytes(content)
    assert predictions.read(path)
    assert damaged(folder) == ""


def test_a_flipped_bit_of_a_record_is_found_or_changes_nothing(folder, job):
    path = record_of(folder, job)
    content = path.read_bytes()
    store = ResultStore(folder, indexed=False)
    frame, [first] = store.frame(), store.jobs()
    found = 0
    for changed in flips(content, 300):
        path.write_bytes(changed)
        [said] = store.validate() or [""]
        if not said:
            assert store.frame().equals(frame), changed
            assert store.jobs() == [first], changed
            continue
        found += 1
        assert str(path) in said
        assert f"- {said}" in damaged(folder)
        with pytest.raises(MSABenchError, match=re.escape(said)):
            table(store=folder)
    assert found > 290


def test_a_flipped_bit_of_the_index_is_rebuilt(folder, job):
    add(ResultStore(folder))
    truth = ResultStore(folder).frame()
    index = folder / INDEX_NAME
    content = index.read_bytes()
    for changed in flips(content, 20):
        index.write_bytes(changed)
        assert index_is_damaged(folder)
        assert f"{index} is damaged or of another version; it is rebuilt" in verify(folder)
        assert ResultStore(folder).frame().equals(truth)
        assert index.read_bytes() == content
    assert not index_is_damaged(folder)


@pytest.mark.parametrize(
    ("about", "change"),
    [
        ({"version": 2, "files": ["x"]}, {}),
        ({"version": "2", "files": {}}, {}),
        ([2], {}),
        (None, {"seed": ["1"] * 3, "n": [[1]] * 3}),
        (None, {"collapsed": [1.5] * 3, "job_id": [7] * 3}),
    ],
)
def test_an_index_of_odd_types_is_rebuilt(folder, job, about, change):
    truth = ResultStore(folder).frame()
    index = folder / INDEX_NAME
    written = pq.read_table(pa.BufferReader(index.read_bytes()[32:]))
    about = json.dumps(about).encode() if about else written.schema.metadata[b"msabench"]
    odd = pa.Table.from_pandas(pd.DataFrame({**written.to_pydict(), **change}), preserve_index=False)
    sink = pa.BufferOutputStream()
    pq.write_table(odd.replace_schema_metadata({b"msabench": about}), sink)
    content = sink.getvalue().to_pybytes()
    index.write_bytes(hashlib.sha256(content).digest() + content)
    assert ResultStore(folder).frame().equals(truth)


def test_an_index_is_not_believed_where_it_was_not_written_here(folder, job):
    first = ResultStore(folder).frame()
    index = folder / INDEX_NAME
    content = index.read_bytes()
    add(ResultStore(folder))
    assert len(ResultStore(folder, indexed=False).frame()) > len(first)
    assert index.read_bytes() == content


def test_what_store_verify_says(folder, job, capsys, monkeypatch):
    fail(ResultStore(folder))
    assert dispatch(["store", "verify", "--store", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: 2 records, 1 files of predictions; 0 damaged\n"
    lone = folder / "predictions" / "synth" / "mult" / "0123456789abcdef.parquet"
    lone.write_bytes(b"")
    path = add(ResultStore(folder), seed=5)
    path.write_bytes(path.read_bytes().replace(b'"corr":0.5', b'"corr":0.9', 1))
    with pytest.raises(MSABenchError) as caught:
        dispatch(["store", "verify", "--store", str(folder)])
    assert str(caught.value).splitlines() == [
        f"{folder}: 3 records, 1 files of predictions; 1 damaged",
        f"- {path} is damaged: its cell lines are not those of its checksum; restore it, or delete it and run the job "
        "again (`msabench store verify` says what else is damaged)",
        f"- {lone} belongs to no record",
    ]
    with pytest.raises(MSABenchError, match="there is no store nowhere"):
        dispatch(["store", "verify", "--store", "nowhere"])


def test_records_from_before_checksums_are_read_and_called_unverified(folder, job):
    path = record_of(folder, job)
    truth = ResultStore(folder, indexed=False).frame()
    first, *rest = path.read_text().splitlines()
    old = json.loads(first) | {"schema_version": 1}
    del old["checksums"]
    path.write_text("\n".join([json.dumps(old), *rest]) + "\n")
    assert ResultStore(folder, indexed=False).frame().equals(truth)
    assert predictions.read(predictions.path_of(folder, job.key))
    assert verify(folder).endswith("0 damaged; 2 unverified, since they were written before there were checksums")
    # A record of today cannot pass for one of then.
    old["schema_version"] = 2
    path.write_text("\n".join([json.dumps(old), *rest]) + "\n")
    with pytest.raises(MSABenchError, match=r"line 1 has checksums = None; expected those of cells, job, predictions"):
        ResultStore(folder, indexed=False).frame()


def test_the_committed_records_are_readable():
    found = [entry for _, entry in ResultStore(REPOSITORY / COMMITTED_STORE).files()]
    assert len(found) > 500
    assert not [entry for entry in found if isinstance(entry, MSABenchError)]


@pytest.mark.parametrize("name", ["synth/mult/0123456789abcdef.jsonl", INDEX_NAME])
def test_a_pipe_in_a_store_does_not_hang(folder, job, name):
    ResultStore(folder).frame()
    path = folder / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if name == INDEX_NAME:
        assert len(ResultStore(folder).frame()) == 3
        return
    with pytest.raises(MSABenchError, match=r"jsonl is a pipe, folder or device, not a file; take it out of the store"):
        table(store=folder)


def test_hostile_records_are_refused_in_a_sentence(folder, job):
    path = record_of(folder, job)
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(300 << 20)
    with pytest.raises(MSABenchError, match=r"has 314572800 bytes; a record has at most 16777216"):
        ResultStore(folder).frame()
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(MSABenchError, match="line 1 is not valid JSON"):
        ResultStore(folder).frame()
    path.write_bytes(content.replace(b'"epochs":null', b'"val_task":1e999'))
    with pytest.raises(MSABenchError, match="line 1 "):
        ResultStore(folder).frame()
    path.write_bytes(content)
    rewrite(path, lambda line: line.update(n=2**70), 1)
    with pytest.raises(MSABenchError, match=f"line 2 has n = {2**70}; expected int"):
        ResultStore(folder).frame()


@pytest.mark.parametrize("name", ["", "..", "a/b", "../../x", "a\\b"])
def test_names_that_are_no_folders_are_refused(folder, name):
    for field in ("dataset", "method"):
        with pytest.raises(MSABenchError, match=f"{re.escape(repr(name))} of job .* cannot be the name of a folder"):
            add(ResultStore(folder), **{field: name})
    assert not list(folder.rglob("*.jsonl"))


def test_what_a_killed_process_left_is_swept_once_it_is_old(folder, job):
    kept = predictions.path_of(folder, job.key)
    old, young, foreign = (
        kept.with_name(name) for name in (f".{kept.name}.{'a' * 16}", f".{kept.name}.{'b' * 16}", ".x")
    )
    index = folder / f"{INDEX_NAME}.{'c' * 16}.tmp"
    record = record_of(folder, job).with_name(f".{job.key.job_id}.jsonl.{'d' * 16}.tmp")
    for path in (old, young, foreign, index, record):
        path.write_bytes(b"half")
    then = time.time() - STALE_SECONDS - 10
    for path in (old, foreign, index, record, kept):
        os.utime(path, (then, then))
    assert sorted(ResultStore(folder).sweep()) == sorted([old, index, record])
    assert {path.exists() for path in (young, foreign, kept)} == {True}
    assert ResultStore(folder / "nowhere").sweep() == []


def test_which_store_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    assert str(default_store()) == "runs/store"
    monkeypatch.setenv(STORE_VARIABLE, "mine")
    assert (
        default_store()
        == store_to_write(None)
        == store_to_read(None)
        == tmp_path.joinpath("mine").relative_to(tmp_path)
    )
    with pytest.raises(MSABenchError, match=r"^store x and committed cannot both be given; leave one out$"):
        store_to_read(tmp_path.relative_to(tmp_path) / "x", committed=True)
    with pytest.raises(
        MSABenchError, match=r"^there is no store leaderboard/results; go to the root of a clone of msabe"
    ):
        store_to_read(None, committed=True)
    COMMITTED_STORE.mkdir(parents=True)
    assert store_to_read(None, committed=True) == COMMITTED_STORE
    for given in (COMMITTED_STORE, tmp_path / "leaderboard" / "x" / ".." / "results"):
        with pytest.raises(
            MSABenchError, match="holds the committed records, which `msabench leaderboard add` alone adds"
        ):
            store_to_write(given)
    with pytest.raises(
        MSABenchError, match=r"^mine holds no records; make some with .*; --committed reads those in a clo"
    ):
        table()

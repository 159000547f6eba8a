"""The store: round trip, atomicity, uniqueness, index, and what it says about broken files."""

import json
import math
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from msabench.errors import MSABenchError
from msabench.results.index import COLUMNS, INDEX_NAME
from msabench.results.record import CellRecord, JobRecord
from msabench.results.store import ResultStore
from tests.support.records import PAPER, add, cells, fail, key, rewrite


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "results")


def files(store):
    return sorted(p.relative_to(store.folder).as_posix() for p in store.folder.rglob("*") if p.is_file())


def edit(path, number, change):
    rewrite(path, lambda line: line.update(change), number - 1)


def test_round_trip(store):
    job = JobRecord(
        key(),
        config={"lr": 1e-3, "path": Path("a/b"), "clip": math.inf, "rates": (0.1, 0.9)},
        val_task=math.nan,
        n_params=7,
        suites=["demo"],
        mask_seeds=[0, 1],
    )
    path = store.add(job, cells(job.key, lambda cell, seed: math.nan if cell == "inter/a" else 0.1 + 0.2))
    assert path == store.folder / "mosi" / "mult" / f"{job.key.job_id}.jsonl"
    assert store.has(job.key.job_id)
    [read] = store.jobs()
    assert read.key == job.key
    assert (read.n_params, read.suites, read.val_task) == (7, ["demo"], None)
    assert read.config == {"lr": 1e-3, "path": "a/b", "clip": "inf", "rates": [0.1, 0.9]}
    frame = store.frame()
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == 7 + 9 * 2
    assert set(frame["job_id"]) == {job.key.job_id}
    values = frame.set_index("cell")["f1_non0"]
    assert values["inter/l"] == 0.1 + 0.2
    assert math.isnan(values["inter/a"])
    assert frame["acc2"].isna().all()
    assert sorted(frame["mask_seed"].dropna().unique()) == [0, 1]
    assert frame.loc[frame["cell"] == "inter/l", "mask_seed"].isna().all()
    assert store.validate() == []


def test_files_are_strict_json(store):
    path = add(store, lambda cell, seed: math.nan)
    text = path.read_text()
    assert "NaN" not in text
    assert json.loads(text.splitlines()[1])["metrics"]["corr"] is None


def test_an_absent_store_is_empty_and_stays_absent(store):
    assert store.frame().empty
    assert tuple(store.frame().columns) == COLUMNS
    assert store.jobs() == store.failures() == store.validate() == []
    assert not store.has("0" * 16)
    assert not store.folder.exists()


def test_a_finished_job_is_never_replaced(store):
    path = add(store)
    before = path.read_bytes()
    with pytest.raises(MSABenchError, match="is recorded already in"):
        add(store, lambda cell, seed: 0.9)
    assert path.read_bytes() == before
    assert files(store) == [path.relative_to(store.folder).as_posix()]


def test_failures(store):
    first = fail(store, seed=1)
    second = fail(store, "second attempt", seed=1)
    assert first != second  # two attempts within a second
    assert not store.has(key(seed=1).job_id)
    assert [job.error for job in store.failures()] == ["second attempt"]
    assert store.frame().empty
    add(store, seed=1)
    assert store.failures() == []
    assert sorted(job.status for job in store.jobs()) == ["failed", "failed", "ok"]
    assert store.validate() == []


def test_wrong_records_are_refused_and_leave_nothing(store):
    job = JobRecord(key())
    good = cells(job.key)
    for bad, message in [
        ([], "at least one cell line"),
        ([good[0], good[0]], "repeats cell inter/l"),
        (cells(key(seed=2)), "belongs to job"),
        ([CellRecord(**{**vars(good[0]), "cell": "intra/0.0"})], "its name is 'inter/lav'"),
        ([CellRecord(**{**vars(good[0]), "cell": "inter/x"})], "unknown|allowed"),
        ([CellRecord(**{**vars(good[0]), "metrics": {"f2": 0.1}})], "unknown metric 'f2'"),
        ([CellRecord(**{**vars(good[0]), "metrics": {"mae": math.inf}})], "expected a finite number or null"),
        ([CellRecord(**{**vars(good[0]), "n": 1.5})], "n = 1.5; expected int"),
    ]:
        with pytest.raises(MSABenchError, match=message):
            store.add(job, bad)
    with pytest.raises(MSABenchError, match="has status 'failed'; add takes ok"):
        store.add(JobRecord(key(), status="failed"), good)
    with pytest.raises(MSABenchError, match="has status 'ok'; add_failure"):
        store.add_failure(job)
    with pytest.raises(MSABenchError, match=r"job\.config\.model is a object"):
        store.add(JobRecord(key(), config={"model": object()}), good)
    assert not store.folder.exists()


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (1, {"seed": 7}, "line 1 has job_id"),
        (1, {"seed": "7"}, "line 1 has seed = '7'; expected int"),
        (1, {"seed": True}, "line 1 has seed = True; expected int"),
        (1, {"schema_version": 99}, "line 1 has schema version 99"),
        (1, {"status": "fine"}, "status 'fine'; allowed: ok, failed"),
        (1, {"kind": "cell"}, "line 1 has kind 'cell'"),
        (3, {"kind": "job"}, "line 3 has kind 'job'"),
        (3, {"cell": "inter/l"}, r"line 3 repeats cell inter/l with mask seed None of line 2"),
        (3, {"n": None}, "line 3 has n = None; expected int"),
        (3, {"collapsed": 1}, "line 3 has collapsed = 1; expected bool"),
        (3, {"metrics": {"corr": "high"}}, "line 3 has corr = 'high'"),
        (3, {"dropped": {"smell": 0.1}}, "line 3 holds the unknown modality 'smell'"),
    ],
)
def test_broken_lines_are_named(store, number, change, message):
    path = add(store)
    edit(path, number, change)
    with pytest.raises(MSABenchError, match=message) as error:
        store.frame()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert store.validate() == [str(error.value)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"{", "line 1 is not valid JSON"),
        (b"[1]\n", "line 1 holds a list"),
        (b"\xff\n", "cannot be read"),
    ],
)
def test_broken_files_are_named(store, content, message):
    add(store)
    path = store.folder / "mosi" / "mult" / f"{'0' * 16}.jsonl"
    path.write_bytes(content)
    with pytest.raises(MSABenchError, match=message):
        store.frame()
    [problem] = store.validate()
    assert path.name in problem


def test_a_truncated_line_and_nan_are_named(store):
    path = add(store)
    whole = path.read_text()
    path.write_text(whole[:-20])
    with pytest.raises(MSABenchError, match=f"line {1 + len(whole.splitlines()) - 1} is not valid JSON"):
        store.frame()
    path.write_text(whole.replace('"corr":0.5', '"corr":NaN'))
    with pytest.raises(MSABenchError, match="NaN is not JSON"):
        store.frame()


def test_misplaced_copies_are_refused(store):
    path = add(store)
    elsewhere = store.folder / "mosi" / "umdf"
    elsewhere.mkdir()
    (elsewhere / path.name).write_bytes(path.read_bytes())
    with pytest.raises(MSABenchError, match="holds a record that belongs in mosi/mult/"):
        store.frame()
    (elsewhere / path.name).rename(path.with_name(f"{'1' * 16}.jsonl"))
    assert "belongs in mosi/mult/" in store.validate()[0]


def test_index_follows_the_files(store, monkeypatch):
    path = add(store, lambda cell, seed: 0.1, seed=1)
    add(store, lambda cell, seed: 0.2, seed=2)
    assert len(store.frame()) == 50
    assert (store.folder / INDEX_NAME).is_file()
    read = []
    original = ResultStore._read
    monkeypatch.setattr(ResultStore, "_read", lambda self, name, **o: read.append(name) or original(self, name, **o))
    first, second = store.frame(), ResultStore(store.folder).frame()
    assert read == []
    assert first.equals(second)
    # Only a new file is read.
    added = add(store, lambda cell, seed: 0.3, seed=3, dataset="sims")
    assert len(store.frame()) == 75
    assert read == [added.relative_to(store.folder).as_posix()]
    assert set(store.frame(["sims"])["seed"]) == {3}
    assert store.frame(["iemocap"]).empty
    # A changed and a deleted file are noticed.
    edit(path, 2, {"n": 7})
    assert 7 in set(store.frame()["n"])
    path.unlink()
    assert set(store.frame()["seed"]) == {2, 3}
    # The index may be damaged or deleted, and gives the same frame.
    whole = store.frame()
    (store.folder / INDEX_NAME).write_bytes(b"not parquet")
    assert store.frame().equals(whole)
    (store.folder / INDEX_NAME).unlink()
    assert store.frame().equals(whole)
    assert store.frame().dtypes.equals(whole.dtypes)


def test_index_is_not_needed(store, monkeypatch):
    add(store)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    assert len(store.frame()) == 25
    assert not (store.folder / INDEX_NAME).exists()


def test_other_files_are_left_alone(store):
    add(store)
    folder = store.folder / "predictions" / "mosi" / "mult"
    folder.mkdir(parents=True)
    (folder / "x.jsonl").write_text("not a record")
    (store.folder / "mosi" / "mult" / ".half.jsonl.tmp").write_text("left by a killed process")
    assert store.validate() == []
    assert len(store.frame()) == 25


@pytest.mark.parametrize("failing", ["fsync", "link"])
def test_a_full_disk_leaves_nothing(store, monkeypatch, failing):
    add(store, seed=1)
    before = files(store)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    if failing == "link":
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(MSABenchError, match=r"could not be recorded in .*results: No space left on device") as error:
        add(store, seed=2)
    assert "\n" not in str(error.value)
    assert files(store) == before
    monkeypatch.undo()
    add(store, seed=2)
    assert store.validate() == []


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_a_really_full_disk_leaves_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        store = ResultStore(disk / "results")
        add(store, seed=1)
        job = JobRecord(key(seed=2), config={"filler": "x" * 2_000_000})
        before = files(store)
        with pytest.raises(MSABenchError, match="No space left on device"):
            store.add(job, cells(job.key))
        assert files(store) == before
        assert store.validate() == []
        assert len(store.frame()) == 25
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_without_hard_links(store, monkeypatch):
    def unsupported(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", unsupported)
    path = add(store)
    with pytest.raises(MSABenchError, match="is recorded already"):
        add(store)
    assert files(store) == [path.relative_to(store.folder).as_posix()]
    lock = path.with_name(f".{key(seed=2).job_id}.jsonl.lock")
    lock.touch()
    with pytest.raises(MSABenchError, match="delete the stale lock"):
        add(store, seed=2)
    assert store.validate() == []


def _race(folder, start, outcomes):
    store = ResultStore(folder)
    start.wait()
    for seed in range(20):
        try:
            add(store, lambda cell, mask_seed: os.getpid() / 1e9, seed=seed)
            outcomes.put(seed)
        except MSABenchError as error:
            # Anything else ends the process with an error.
            if "is recorded already" not in str(error):
                raise


def test_processes_that_add_the_same_jobs(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, outcomes = context.Event(), context.Queue()
    workers = [context.Process(target=_race, args=(tmp_path, start, outcomes)) for _ in range(3)]
    for worker in workers:
        worker.start()
    start.set()
    added = [outcomes.get(timeout=600) for _ in range(20)]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sorted(added) == list(range(20))
    assert outcomes.empty()
    store = ResultStore(tmp_path)
    frame = store.frame()
    assert len(frame) == 20 * (7 + 9 * 2)
    # Every job comes whole from one process.
    assert (frame.groupby("job_id")["f1_non0"].nunique() == 1).all()
    assert not [name for name in files(store) if name.endswith((".tmp", ".lock"))]


def test_cells_of_the_paper_grid_are_all_kept(store):
    add(store)
    assert set(store.frame()["cell"]) == {str(cell) for cell in PAPER}


def test_reading_needs_no_torch(store, tmp_path):
    add(ResultStore(tmp_path))
    code = (
        "import sys; from msabench.results.store import ResultStore; from msabench.tables.command import table; "
        "from pathlib import Path; "
        f"ResultStore({str(tmp_path)!r}).frame(); table(store=Path({str(tmp_path)!r})); "
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_processor_seconds_are_kept_and_older_records_are_written_as_before(tmp_path):
    store = ResultStore(tmp_path)
    old, new = (
        add(store, seed=seed, job={"train_seconds": 9.0, "eval_seconds": 3.0} | more)
        for seed, more in ((1, {}), (2, {"train_processor_seconds": 2.0, "eval_processor_seconds": 1.0}))
    )
    without, with_them = (json.loads(path.read_text().splitlines()[0]) for path in (old, new))
    assert with_them.keys() - without.keys() == {"train_processor_seconds", "eval_processor_seconds"}
    first, second = sorted(store.jobs(), key=lambda job: job.key.seed)
    assert (first.train_processor_seconds, first.eval_processor_seconds, first.processor_seconds) == (None, None, None)
    assert (second.train_processor_seconds, second.eval_processor_seconds) == (2.0, 1.0)
    # What is read is written back as it was.
    assert first.to_json() == {name: value for name, value in without.items() if name != "checksums"}
    rewrite(new, lambda line: line.update(train_processor_seconds="2"))
    with pytest.raises(MSABenchError, match=r"train_processor_seconds = '2'; expected float \| None"):
        store.jobs()

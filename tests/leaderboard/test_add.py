"""Admission of contributed records: what is checked, what is refused, and that nothing enters by halves."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.leaderboard import admit as admission
from msabench.leaderboard.admit import admit
from msabench.leaderboard.own_form import form_problems
from msabench.results import predictions
from msabench.results.places import COMMITTED_STORE
from msabench.results.store import ResultStore
from tests.support import contributed
from tests.support.contributed import contribute, edit, files_of
from tests.support.records import add, fail


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MSABENCH_DATA", str(tmp_path_factory.mktemp("no_corpora")))
        yield


@pytest.fixture
def given_(tmp_path):
    return tmp_path / "given"


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def refused(given_, store, *words):
    """Admission fails, says every word, and leaves no trace."""
    before = files_of(store) if store.exists() else {}
    with pytest.raises(MSABenchError) as caught:
        admit(given_, store)
    for word in words:
        assert word in str(caught.value), caught.value
    assert (files_of(store) if store.exists() else {}) == before
    return str(caught.value)


def test_good_records_enter_byte_for_byte(given_, store, capsys):
    jobs = [contribute(given_, seed=seed) for seed in (1, 2)]
    assert dispatch(["leaderboard", "add", str(given_), "--store", str(store)]) == 0
    said = capsys.readouterr().out
    assert "admitted 2 jobs with 8 records" in said
    assert "test masks of synth: as in the corpus" in said
    assert "clips and labels of synth: as in the corpus" in said
    assert "NOT CHECKED" not in said
    assert "warning" not in said
    assert files_of(store) == files_of(given_)
    assert all(ResultStore(store).has(job.key.job_id) for job in jobs)


def test_a_duplicate_is_refused_and_takes_the_rest_along(given_, store, tmp_path):
    contribute(given_, seed=1)
    admit(given_, store)
    contribute(given_, seed=2)
    said = refused(given_, store, "admitted already", "problems: 1\n")
    assert "seed 1" in said
    assert "seed 2" not in said


@pytest.mark.parametrize(
    ("line", "change", "words"),
    [
        (1, {"metrics": {"mae": 0.0}}, ["has mae 0.0, its predictions give 0."]),
        (1, {"n": 19}, ["says 19 clips, its predictions have 20"]),
        (1, {"collapsed": True}, ["says collapsed True, its predictions say False"]),
        (1, {"mask_hash": "f" * 16}, ["the masks of inter/l", "f" * 16, "those of the protocol have"]),
        (0, {"mask_seeds": [0, 1, 2]}, ["intra/0.5 has the mask seeds 0, 1, the job says 0, 1, 2"]),
    ],
)
def test_a_record_that_does_not_follow_from_its_predictions(given_, store, line, change, words):
    job = contribute(given_)
    contribute(given_, seed=7)

    def damage(entry):
        for key, value in change.items():
            entry[key] = entry[key] | value if isinstance(value, dict) else value

    edit(given_, job, damage, line)
    refused(given_, store, "constant on synth, seed 1111", *words)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_metric_of_any_record_that_is_off_is_found(tmp_path_factory, data):
    given_ = tmp_path_factory.mktemp("given")
    job = contribute(given_)
    line = data.draw(st.integers(1, 4))
    shift = data.draw(st.floats(1e-6, 10) | st.floats(-10, -1e-6))
    named = []

    def damage(entry):
        named.append(data.draw(st.sampled_from(sorted(entry["metrics"]))))
        entry["metrics"][named[0]] += shift

    edit(given_, job, damage, line)
    assert f"has {named[0]} " in refused(given_, given_ / "store", "problems: 1\n")


def test_rounding_of_another_machine_is_no_error(given_, store):
    job = contribute(given_)
    edit(given_, job, lambda entry: entry["metrics"].update(mae=entry["metrics"]["mae"] * (1 + 1e-14)), 1)
    assert "admitted 1 jobs" in admit(given_, store)


def test_metrics_that_are_lacking_or_foreign(given_, store):
    job = contribute(given_)
    edit(given_, job, lambda entry: entry["metrics"].pop("mae"), 1)
    edit(given_, job, lambda entry: entry["metrics"].update(f1_mean=0.5), 2)
    refused(given_, store, "inter/l lacks metric mae", "inter/lav has no place for metric f1_mean")


def test_labels_and_clips_are_those_of_the_corpus(given_, store, tmp_path):
    contribute(given_, labels=np.linspace(-1, 1, 20).astype(np.float32))
    refused(given_, store, "come with other labels than those of the corpus")
    other = tmp_path / "other"
    job = contribute(other)
    path = predictions.path_of(other, job.key)
    stored = predictions.read(path)
    with pytest.MonkeyPatch.context() as patch:
        for entry in stored:
            entry.ids[0] = "somebody"
        patch.setattr(predictions, "read", lambda path: stored)
        refused(other, store, "not of the clips of the corpus")


def test_predictions_that_are_missing_or_of_other_cells(given_, store, tmp_path):
    job = contribute(given_)
    predictions.path_of(given_, job.key).unlink()
    refused(given_, store, "there are no predictions")
    less = tmp_path / "less"
    job = contribute(less, cells=("inter/l",))
    more = contribute(tmp_path / "more", cells=("inter/l", "inter/a"))
    predictions.path_of(tmp_path / "more", more.key).replace(predictions.path_of(less, job.key))
    refused(less, store, "is damaged: it is not the file that its record has the checksum of")
    edit(less, job, lambda entry: None)
    refused(less, store, "there are predictions, but no record of inter/a")


def test_keys_that_are_not_registered_or_not_those_of_the_config(given_, store, tmp_path):
    folders = iter([given_, *(tmp_path / str(number) for number in range(4))])
    add(ResultStore(folder := next(folders)), method="nobody", dataset="synth")
    refused(folder, store, "method 'nobody' is not registered")
    add(ResultStore(folder := next(folders)), method="constant", method_version=99, variant="mine")
    refused(folder, store, "version 99 of constant", "has no variant 'mine'; allowed: default")
    add(ResultStore(folder := next(folders)), method="constant", dataset="custom")
    refused(folder, store, "'custom' is no corpus that others have; allowed: mosi,")
    job = contribute(folder := next(folders))
    edit(folder, job, lambda entry: entry["config"]["trainer"].update(max_epochs=2))
    refused(folder, store, "its key has config_hash", "its config gives")


def test_malformed_records_are_refused_with_the_sentence_of_the_store(given_, store):
    job = contribute(given_)
    path = given_ / "synth" / "constant" / f"{job.key.job_id}.jsonl"
    path.write_text(path.read_text() + "{}\n")
    refused(given_, store, "problems: 1\n", "line 6 has kind None")
    path.rename(path.with_name("0" * 16 + ".jsonl"))
    refused(given_, store, "belongs in")


def test_without_the_corpus_admitted_records_decide(given_, store, tmp_path):
    contribute(given_, "mosi", seed=1)
    said = admit(given_, store)
    assert "NOT CHECKED: test masks of mosi, since neither the corpus nor admitted records of this protocol" in said
    assert "NOT CHECKED: clips and labels of mosi" in said
    second = tmp_path / "second"
    contribute(second, "mosi", seed=2)
    said = admit(second, store)
    assert "test masks of mosi: as in admitted records" in said
    assert "clips and labels of mosi: as in admitted records" in said
    third = tmp_path / "third"
    contribute(third, "mosi", seed=3, holes={("intra/0.5", 1): "other"})
    refused(third, store, "the masks of intra/0.5 with mask seed 1 (other) are not those of admitted records")
    fourth = tmp_path / "fourth"
    contribute(fourth, "mosi", seed=4, labels=np.zeros(20, dtype=np.float32) + 1)
    refused(fourth, store, "other labels than those of admitted records")
    fifth = tmp_path / "fifth"
    contribute(fifth, "mosi", seed=5, cells=("inter/l", "inter/a"))
    assert "NOT CHECKED: test masks of mosi" in admit(fifth, store)


def test_records_that_disagree_among_themselves(given_, store, tmp_path):
    contribute(given_, "mosi", seed=1)
    contribute(given_, "mosi", seed=2, holes={("inter/l", None): "other"})
    refused(given_, store, "mosi: records of one protocol have different test masks in inter/l")
    chosen = tmp_path / "chosen"
    contribute(chosen, seed=1)
    admit(chosen, store)
    other = tmp_path / "other"
    contribute(other, seed=2, mask_seeds=(1,))
    refused(other, store, "synth: records of one protocol have different mask seeds in intra/0.5")


def test_what_is_said_but_admitted(given_, store):
    contribute(given_, seed=1, provenance={"git_commit": "a" * 40, "git_dirty": True})
    contribute(given_, seed=2, provenance={})
    fail(ResultStore(given_), dataset="synth", method="constant", seed=3)
    said = admit(given_, store).splitlines()
    assert sum(line.startswith("warning: ") for line in said) == 2
    assert any("seed 1) was run on code with uncommitted changes" in line for line in said)
    assert any("seed 2) does not say which commit" in line for line in said)
    assert any(line.startswith("left out: 1 failed attempts") for line in said)
    assert len(ResultStore(store).jobs()) == 2


@pytest.mark.parametrize("stage", ["predictions", "records"])
def test_a_full_disk_half_way_leaves_nothing(given_, store, tmp_path, monkeypatch, stage):
    first = tmp_path / "first"
    contribute(first, seed=9)
    admit(first, store)
    for seed in (1, 2, 3):
        contribute(given_, seed=seed)
    calls = []

    def failing(real):
        def call(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            return real(*arguments)

        return call

    if stage == "predictions":
        monkeypatch.setattr(admission.shutil, "copyfileobj", failing(admission.shutil.copyfileobj))
    else:
        monkeypatch.setattr(ResultStore, "add", failing(ResultStore.add))
    refused(given_, store, "nothing was admitted", "No space left on device")
    assert len(calls) == 2


def test_an_interrupt_half_way_leaves_nothing(given_, store, monkeypatch):
    for seed in (1, 2):
        contribute(given_, seed=seed)
    real, calls = ResultStore.add, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(ResultStore, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        admit(given_, store)
    assert files_of(store) == {}


def test_another_process_that_adds_the_same_job_meanwhile_keeps_its_files(given_, store, monkeypatch):
    job = contribute(given_, seed=1)
    real = ResultStore.add

    def race(self, *arguments):
        monkeypatch.setattr(ResultStore, "add", real)
        real(self, *arguments)
        return real(self, *arguments)

    monkeypatch.setattr(ResultStore, "add", race)
    with pytest.raises(MSABenchError, match="recorded already"):
        admit(given_, store)
    assert ResultStore(store).has(job.key.job_id)
    assert predictions.path_of(store, job.key).is_file()


def test_nothing_to_admit(given_, store, tmp_path):
    with pytest.raises(MSABenchError, match="holds no finished jobs"):
        admit(given_, store)
    contribute(given_)
    with pytest.raises(MSABenchError, match="is the store itself"):
        admit(given_, tmp_path / "x" / ".." / "given")


# Hostile submissions.


def replace_predictions(given_, job, columns, **options):
    """Put a parquet file in place of a job's predictions, with a record that fits it."""
    pq.write_table(pa.table(columns), predictions.path_of(given_, job.key), **options)
    edit(given_, job, lambda entry: None)


def words(*values):
    return pa.DictionaryArray.from_arrays(pa.array([0] * len(values), pa.int32()), [values[0]] if values else [])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({}, "it has 0 rows; allowed are 1 to 5000000"),
        ({"pred": pa.array(["high"])}, "mask_seed (int64), label (float), pred (string)"),
        ({"pred": pa.array([0.5], pa.float64())}, "mask_seed (int64), label (float), pred (double)"),
        ({"id": pa.array(["clip"])}, "its columns are id (string), cell (dictionary<values=string, indices=int32"),
        ({"more": pa.array([1.0], pa.float32())}, "pred (float), more (float)"),
        ({"pred": pa.array([None], pa.float32())}, "pred is empty in 1 rows"),
        ({"id": words("clip").take(pa.array([None], pa.int32()))}, "id is empty in 1 rows"),
        ({"id": words("x" * 5000)}, "it has a name of 5000 characters; allowed are 1000"),
    ],
)
def test_predictions_that_are_none(given_, store, columns, said):
    job = contribute(given_)
    empty = not columns
    columns = {
        "id": words("clip"),
        "cell": words("inter/l"),
        "mask_seed": pa.array([None], pa.int64()),
        "label": pa.array([1.0], pa.float32()),
        "pred": pa.array([1.0], pa.float32()),
        **columns,
    }
    if empty:
        columns = {name: column.slice(0, 0) for name, column in columns.items()}
    replace_predictions(given_, job, columns)
    whole = refused(given_, store, "problems: 1\n", ".parquet holds no predictions of msabench (", said)
    assert whole.count("\n") == 1


def test_predictions_of_millions_of_rows_are_refused_unread(given_, store, monkeypatch):
    job = contribute(given_)
    path = predictions.path_of(given_, job.key)
    million = pq.read_table(path).take(pa.array(np.zeros(1_000_000, np.int64)))
    with pq.ParquetWriter(path, million.schema, compression="zstd") as writer:
        for _ in range(6):
            writer.write_table(million)
    edit(given_, job, lambda entry: None)
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(predictions.pq.ParquetFile, "read", None)
    refused(given_, store, "problems: 1\n", "it has 6000000 rows; allowed are 1 to 5000000")


def test_predictions_that_unpack_to_gigabytes_are_refused_unread(given_, store, monkeypatch):
    job = contribute(given_)
    monkeypatch.setattr(predictions, "MAX_BYTES", 100_000)
    monkeypatch.setattr(predictions.pq.ParquetFile, "read", None)
    columns = {
        "id": pa.DictionaryArray.from_arrays(pa.array(np.arange(2), pa.int32()), ["x" * 80_000, "y" * 80_000]),
        "cell": words("inter/l", "inter/l"),
        "mask_seed": pa.nulls(2, pa.int64()),
        "label": pa.array([1.0, 1.0], pa.float32()),
        "pred": pa.array([1.0, 1.0], pa.float32()),
    }
    replace_predictions(given_, job, columns, compression="zstd", write_statistics=False)
    refused(given_, store, "problems: 1\n", "it unpacks to ", " bytes; allowed are 100000")


def test_a_record_of_300_megabytes_is_refused_unread(given_, store):
    job = contribute(given_)
    with (given_ / "synth" / "constant" / f"{job.key.job_id}.jsonl").open("r+b") as file:
        file.truncate(300 << 20)
    refused(given_, store, "problems: 1\n", "has 314572800 bytes; a record has at most 16777216")


FOREIGN = {"class_path": "evil.RichProgressBar", "init_args": {}}


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        (
            "trainer",
            {"logger": {"class_path": "evil.Logger"}},
            "trainer.logger {'class_path': 'evil.Logger'} is not all",
        ),
        (
            "trainer",
            {"logger": "evil.Logger"},
            "trainer.logger 'evil.Logger' is not allowed in records; allowed: null, T",
        ),
        ("trainer", {"profiler": "simple"}, "trainer.profiler 'simple' is not allowed in records; allowed: null"),
        (
            "trainer",
            {"profiler": {"class_path": "evil.P"}},
            "class 'evil.P' is from elsewhere; allowed: msabench, lightn",
        ),
        ("trainer", {"default_root_dir": "/home/x"}, "trainer.default_root_dir '/home/x' is a place on one machine"),
        ("trainer", {"model_registry": "x"}, "trainer.model_registry 'x' is not allowed in records; allowed: null"),
        (
            "trainer",
            {"strategy": {"class_path": "evil.S"}},
            "trainer.strategy {'class_path': 'evil.S'} is not allowed; g",
        ),
        ("trainer", {"accelerator": "evil.Accelerator"}, "class 'evil.Accelerator' is from elsewhere"),
        ("trainer", {"plugins": ["evil.Plugin"]}, "class 'evil.Plugin' is from elsewhere"),
        ("trainer", {"callbacks": [FOREIGN]}, "class 'evil.RichProgressBar' is from elsewhere"),
        ("trainer", {"callbacks": ["evil.RichProgressBar"]}, "class 'evil.RichProgressBar' is from elsewhere"),
        (
            "trainer",
            {
                "callbacks": [
                    {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"x": "os.abort"}}
                ]
            },
            "class 'os.abort' is from elsewhere",
        ),
        (
            "trainer",
            {"callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"d": "/etc"}}]},
            "trainer holds '/etc', a place on one machine",
        ),
        ("data", {"cache": "/tmp/x"}, "data.cache '/tmp/x' is a place on one machine, which records leave out"),
        (
            "data",
            {"grid": [{"class_path": "evil.Grid"}]},
            "data.grid [{'class_path': 'evil.Grid'}] is not allowed; give",
        ),
        (None, {"wandb": True}, "wandb True is not allowed in records; allowed: null, False"),
        (
            "model.init_args",
            {"text_encoder": "/home/x/bert"},
            "text_encoder '/home/x/bert' is not allowed; allowed: a na",
        ),
        (
            "model.init_args",
            {"backbone": "/home/x/pretrain.ckpt"},
            "backbone '/home/x/pretrain.ckpt' is not allowed; allowed",
        ),
        (
            "model.init_args",
            {"spec": {"class_path": "evil.Spec"}},
            "model.init_args.spec {'class_path': 'evil.Spec'} is",
        ),
    ],
)
def test_a_config_that_may_not_be_published(given_, store, section, change, said):
    config = contributed.config_of("synth", "umdf", 1)
    place = config
    for word in section.split(".") if section else ():
        place = place[word]
    place.update(change)
    contribute(given_, method="umdf", seed=1, config=config)
    refused(given_, store, "its config is not as records keep it: ", said)


def test_what_a_config_may_hold(given_, store):
    config = contributed.config_of("synth", "umdf", 1)
    stop = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/task"}}
    bar = {"class_path": "lightning.pytorch.callbacks.RichProgressBar", "init_args": {}}
    config["trainer"] |= {"callbacks": [stop, bar], "logger": False, "strategy": "ddp", "devices": [0, 1]}
    config["model"]["init_args"] |= {"text_encoder": "bert-base-uncased@0123456789ab"}
    config["model"]["init_args"] |= {"backbone": "pretrain.ckpt@0123456789ab"}
    contribute(given_, method="umdf", seed=1, config=config)
    assert "admitted 1 jobs" in admit(given_, store)


def test_the_committed_configs_have_the_form_that_is_asked_for():
    jobs = ResultStore(Path(__file__).parents[2] / COMMITTED_STORE).jobs()
    assert [problem for job in jobs for problem in form_problems(job.config)] == []

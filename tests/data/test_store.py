"""Opening corpora: converted once, mapped ever after, whole or not there; and the data verbs."""

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from msabench.__main__ import dispatch
from msabench.data import manifest as manifest_module
from msabench.data import store as store_module
from msabench.data import synthetic
from msabench.data.commands import data_convert, data_list, data_verify
from msabench.data.corpus import clip_uids
from msabench.data.datamodule import MSADataModule
from msabench.data.files import cache_folder, data_folder
from msabench.data.needs import Needs
from msabench.data.probe import data_describe
from msabench.data.registry import dataset_info
from msabench.data.shipped import SHIPPED
from msabench.data.store import open_corpus
from msabench.errors import MSABenchError
from msabench.files import HashMemory, Stamp, format_size, locked, replacing
from tests.support.corpora import MODALITIES, SIZES, SPLITS, write_mmsa, write_mult, write_npz

STEPS = {"text": 8, "audio": 11, "vision": 9}
DIMS = {"text": 6, "audio": 3, "vision": 4}

pytestmark = pytest.mark.filterwarnings("ignore:.*published is:UserWarning")


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Data and cache folders, given by the environment as users do."""
    data, cache = tmp_path / "data", tmp_path / "home"
    monkeypatch.setenv("MSABENCH_DATA", str(data))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return data, cache / "msabench"


def mosi(data, **settings):
    return write_mmsa(data / "mosi/unaligned_50.pkl", steps=STEPS, dims=DIMS, **settings)


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def same_corpus(a, b):
    assert a.padding == b.padding
    assert a.notes == b.notes
    assert a.revision == b.revision
    for name in SPLITS:
        x, y = a.splits[name], b.splits[name]
        assert x.ids == y.ids
        for m in MODALITIES:
            assert torch.equal(x.features[m], y.features[m])
            assert torch.equal(x.lengths[m], y.lengths[m])
        assert torch.equal(x.labels, y.labels)
        assert torch.equal(x.uid, y.uid)


def test_a_corpus_has_what_the_file_has(places):
    content = mosi(places[0])
    corpus = open_corpus("mosi", "mmsa-unaligned")
    sha256 = hashlib.sha256((places[0] / "mosi/unaligned_50.pkl").read_bytes()).hexdigest()
    assert corpus.revision == sha256[:12]
    assert corpus.features == "mmsa-unaligned"
    assert corpus.info is dataset_info("mosi")
    for name, n in zip(SPLITS, SIZES, strict=True):
        split = corpus.splits[name]
        assert len(split) == n
        for m in MODALITIES:
            assert split.features[m].dtype == torch.float32
            np.testing.assert_array_equal(split.features[m].numpy(), content[name][m])
            assert split.lengths[m].dtype == torch.int64
        assert split.labels.dtype == torch.float32
        assert split.tokens.dtype == torch.int64
        assert split.tokens.shape == (n, 3, STEPS["text"])
        assert torch.equal(split.uid, clip_uids("mosi", name, content[name]["id"]))


def test_the_second_opening_reads_the_store_only(places, monkeypatch):
    mosi(places[0])
    first = open_corpus("mosi", "mmsa-unaligned")

    def fail(*_, **__):
        raise AssertionError("the source was read again")

    monkeypatch.setattr(store_module, "read_corpus", fail)
    monkeypatch.setattr(store_module, "sha256_of", fail)
    before = {path: path.stat().st_mtime_ns for path in files_in(places[1])}
    same_corpus(first, open_corpus("mosi", "mmsa-unaligned"))
    assert before == {path: path.stat().st_mtime_ns for path in files_in(places[1])}


def test_tensors_are_mapped_and_private(places):
    mosi(places[0])
    changed = open_corpus("mosi", "mmsa-unaligned")
    changed.splits["train"].features["text"].fill_(7.0)
    fresh = open_corpus("mosi", "mmsa-unaligned")
    assert not (fresh.splits["train"].features["text"] == 7.0).all()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to see resident memory")
def test_opening_does_not_read_all_data(places):
    dims = {"text": 768, "audio": 5, "vision": 20}
    steps = dict.fromkeys(MODALITIES, 50)
    write_mmsa(places[0] / "mosi/aligned_50.pkl", aligned=True, sizes=(600, 5, 5), dims=dims, steps=steps)
    open_corpus("mosi", "mmsa-aligned")
    program = (
        "import torch\n"
        "from msabench.data.store import open_corpus\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "open_corpus('synth', size=(2, 1, 1), length=8)\n"
        "before = resident()\n"
        "corpus = open_corpus('mosi', 'mmsa-aligned')\n"
        "opened = resident() - before\n"
        "corpus.splits['train'].features['text'].sum()\n"
        "print(opened, resident() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    opened, read = map(int, done.stdout.split())
    size = 600 * 50 * 768 * 4
    assert read > 0.9 * size
    assert opened < 0.1 * size


def test_a_changed_source_makes_another_store(places):
    mosi(places[0])
    first = open_corpus("mosi", "mmsa-unaligned")
    mosi(places[0], seed=1)
    second = open_corpus("mosi", "mmsa-unaligned")
    assert first.revision != second.revision
    assert len(list((places[1] / "stores").iterdir())) == 2


def test_a_changed_converter_makes_another_store(places, monkeypatch):
    mosi(places[0])
    open_corpus("mosi", "mmsa-unaligned")
    monkeypatch.setattr(manifest_module, "CONVERTER", manifest_module.CONVERTER + 1)
    open_corpus("mosi", "mmsa-unaligned")
    assert len(list((places[1] / "stores").iterdir())) == 2


@pytest.mark.parametrize("damage", ["shorten", "remove", "manifest"])
def test_a_damaged_store_is_made_again(places, damage):
    mosi(places[0])
    first = open_corpus("mosi", "mmsa-unaligned")
    expected = first.splits["train"].features["text"].clone()
    (folder,) = (places[1] / "stores").iterdir()
    file = folder / ("manifest.json" if damage == "manifest" else "train.safetensors")
    if damage == "remove":
        file.unlink()
    else:
        # Replaced rather than cut in place: the first corpus still maps the old file.
        shorter = file.read_bytes()[:-10]
        file.unlink()
        file.write_bytes(shorter)
    again = open_corpus("mosi", "mmsa-unaligned")
    assert torch.equal(again.splits["train"].features["text"], expected)
    assert [path.name for path in (places[1] / "stores").iterdir()] == [folder.name]


def replace_bytes(file, change):
    """Change a file in place of itself, as another file: what is mapped elsewhere stays."""
    content = bytearray(file.read_bytes())
    change(content)
    file.unlink()
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("train.safetensors", lambda c: c.__delitem__(slice(-10, None))),
        ("train.safetensors", lambda c: c.__setitem__(3, c[3] ^ 64)),
        ("train.safetensors", lambda c: c.__setitem__(-1, c[-1] ^ 1)),
        ("manifest.json", lambda c: c.__setitem__(c.index(b"video0_train") + 5, ord("9"))),
        ("manifest.json", lambda c: c.__setitem__(slice(None), json.dumps({"files": {}, "ids": {}}).encode())),
    ],
    ids=["truncated", "header", "last bit", "an id", "an earlier version"],
)
def test_a_damaged_store_is_made_again_with_a_notice(places, capsys, name, change):
    mosi(places[0])
    first = open_corpus("mosi", "mmsa-unaligned")
    (folder,) = (places[1] / "stores").iterdir()
    replace_bytes(folder / name, change)
    capsys.readouterr()
    same_corpus(first, open_corpus("mosi", "mmsa-unaligned"))
    assert capsys.readouterr().err == (
        f"msabench: {folder / name} is damaged or of an earlier version; converting unaligned_50.pkl again\n"
    )
    same_corpus(first, open_corpus("mosi", "mmsa-unaligned"))
    assert capsys.readouterr().err == ""


def test_verify_reads_the_converted_copy_in_full(places):
    mosi(places[0], sizes=(400, 5, 5))
    open_corpus("mosi", "mmsa-unaligned")
    (folder,) = (places[1] / "stores").iterdir()
    assert data_verify("mosi", "mmsa-unaligned").endswith(f"converted copy {folder}: as it was written")
    file = folder / "train.safetensors"
    n_bytes = file.stat().st_size
    last = n_bytes - 4096
    # A byte that lies in none of the blocks that opening looks at.
    sampled = {start + byte for number in range(64) for start in [last * number // 63] for byte in range(4096)}
    missed = next(byte for byte in range(n_bytes) if byte not in sampled)
    replace_bytes(file, lambda content: content.__setitem__(missed, content[missed] ^ 1))
    assert manifest_module.damage(folder) is None
    said = data_verify("mosi", "mmsa-unaligned")
    assert said.endswith("train.safetensors is DAMAGED; the copy will be made again when it is next used")
    open_corpus("mosi", "mmsa-unaligned")
    assert data_verify("mosi", "mmsa-unaligned").endswith("as it was written")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a umask")
@pytest.mark.parametrize("mask", [0o022, 0o007])
def test_cache_files_have_the_mode_that_the_umask_leaves(places, mask):
    mosi(places[0])
    before = os.umask(mask)
    try:
        open_corpus("mosi", "mmsa-unaligned")
    finally:
        os.umask(before)
    kinds = {True: 0o777 & ~mask, False: 0o666 & ~mask}
    for path in (places[1], *places[1].rglob("*")):
        assert path.stat().st_mode & 0o777 == kinds[path.is_dir()], path


def test_content_reaches_the_disk_before_its_name(places, monkeypatch):
    mosi(places[0])
    done = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda f: done.append(Path(f"/proc/self/fd/{f}").resolve().name) or fsync(f))
    monkeypatch.setattr(Path, "rename", lambda a, b: done.append(f"renamed {b.name}") or rename(a, b))
    open_corpus("mosi", "mmsa-unaligned")
    (folder,) = (places[1] / "stores").iterdir()
    named = done.index(f"renamed {folder.name}")
    assert {"train.safetensors", "valid.safetensors", "test.safetensors"} <= set(done[:named])
    assert any(name.startswith(".manifest.json.") for name in done[:named])
    assert "stores" in done[named:]


def test_a_file_of_the_same_size_and_time_is_another_file(places, tmp_path):
    """Replaced by a rename, and written over in place with the time set back."""
    path = tmp_path / "mine.npz"
    write_npz(path)
    os.utime(path, ns=(10**18, 10**18))
    first = open_corpus("custom", path=path)

    def changed(content):
        content["text"][content["text"] != 0] += 1

    write_npz(tmp_path / "other.npz", change=changed)
    assert (tmp_path / "other.npz").stat().st_size == path.stat().st_size
    os.utime(tmp_path / "other.npz", ns=(10**18, 10**18))
    original = path.read_bytes()
    (tmp_path / "other.npz").replace(path)
    second = open_corpus("custom", path=path)
    assert second.revision != first.revision
    assert not torch.equal(first.splits["train"].features["text"], second.splits["train"].features["text"])
    path.write_bytes(original)
    os.utime(path, ns=(10**18, 10**18))
    assert open_corpus("custom", path=path).revision == first.revision
    for corpus in (data_convert("custom", path=path), data_verify("custom", path=path)):
        assert first.revision in corpus


def test_a_file_that_changes_while_it_is_read_is_refused(places, monkeypatch):
    path = places[0] / "mosi/unaligned_50.pkl"
    mosi(places[0])
    read = store_module.read_corpus

    def slowly(*args, **settings):
        raw = read(*args, **settings)
        path.write_bytes(path.read_bytes() + b"more")
        return raw

    monkeypatch.setattr(store_module, "read_corpus", slowly)
    with pytest.raises(MSABenchError, match=r"unaligned_50.pkl changed while it was read; try again when it is comp"):
        open_corpus("mosi", "mmsa-unaligned")
    assert files_in(places[1]) == []


def test_clipped_labels_are_another_revision(places):
    def beyond(content):
        content["train"]["regression_labels"][0] = 10 / 3

    mosi(places[0], change=beyond)
    with pytest.raises(MSABenchError, match="would clip 1 such labels and say so"):
        open_corpus("mosi", "mmsa-unaligned")
    clipped = open_corpus("mosi", "mmsa-unaligned", clip_labels=True)
    assert clipped.splits["train"].labels[0] == 3.0
    assert clipped.revision.endswith("-clipped")
    note = "train/regression_labels: 1 labels beyond [-3, 3] (3.33333 the farthest) were clipped"
    assert note in clipped.notes
    assert note in data_verify("mosi", "mmsa-unaligned", clip_labels=True)
    assert note in data_convert("mosi", "mmsa-unaligned", clip_labels=True)


def test_clipping_stays_with_the_checkpoint(places):
    def beyond(content):
        content["train"]["regression_labels"][0] = 10 / 3

    mosi(places[0], change=beyond)
    module = MSADataModule("mosi", "mmsa-unaligned", clip_labels=True)
    again = MSADataModule.from_state(module.state_dict())
    assert again.corpus.revision == module.corpus.revision == again.protocol()["revision"]
    assert again.corpus.revision.endswith("-clipped")


def test_a_file_without_tokens_serves_methods_on_vectors_only(places):
    def without(content):
        for split in content.values():
            del split["text_bert"]

    mosi(places[0], change=without)
    module = MSADataModule("mosi", "mmsa-unaligned")
    rows = torch.arange(4)
    assert module.training_batch(rows, 0).text.shape == (4, STEPS["text"], DIMS["text"])
    with pytest.raises(MSABenchError, match="the feature file has no token ids for the method's text encoder; choose"):
        module.training_batch(rows, 0, needs=Needs(tokens=True))


def test_describe_takes_the_task_of_a_custom_file(places, tmp_path, capsys):
    path = tmp_path / "mine.npz"
    write_npz(path, sizes=(30, 10, 10), task="emotions")
    assert dispatch(["data", "describe", "custom", "--path", str(path), "--task", "emotions"]) == 0
    assert "angry" in capsys.readouterr().out
    with pytest.raises(MSABenchError, match="has no array 'regression_labels'"):
        data_describe("custom", path=path)


def test_ids_of_any_bytes_reach_store_and_verify_alike(places, tmp_path):
    """The three verbs agree: half a character once passed verify and stopped convert."""

    def mark(content):
        content["train"]["id"][:2] = ["half \ud83d".encode("utf-8", "surrogatepass"), "half \ud83e"]
        content["train"]["id"][2:4] = ["\u4f60".encode("gbk"), b"\xc4\xe4"]

    mosi(places[0], change=mark)
    data_verify("mosi", "mmsa-unaligned")
    data_convert("mosi", "mmsa-unaligned")
    split = open_corpus("mosi", "mmsa-unaligned").splits["train"]
    assert len({tuple(uid) for uid in split.uid.tolist()}) == len(split)
    assert split.ids[1:4] == [r"half \ud83e", r"\xc4\xe3", r"\xc4\xe4"]


def test_an_unknown_hash_warns_once_and_stays_in_the_notes(places):
    mosi(places[0])
    published = dataset_info("mosi").file("mmsa-unaligned").sha256
    own = hashlib.sha256((places[0] / "mosi/unaligned_50.pkl").read_bytes()).hexdigest()
    with pytest.warns(UserWarning, match=f"sha256 {own}, published is {published}"):
        first = open_corpus("mosi", "mmsa-unaligned")
    assert any(own in note and published in note for note in first.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same_corpus(first, open_corpus("mosi", "mmsa-unaligned"))


def test_the_published_hash_does_not_warn(places, monkeypatch):
    mosi(places[0])
    own = hashlib.sha256((places[0] / "mosi/unaligned_50.pkl").read_bytes()).hexdigest()
    file = dataclasses.replace(dataset_info("mosi").file("mmsa-unaligned"), sha256=own)
    monkeypatch.setitem(SHIPPED, "mosi", dataclasses.replace(dataset_info("mosi"), files=(file,)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any("published" in note for note in open_corpus("mosi").notes)


def test_root_cache_and_path_override_the_environment(places, tmp_path):
    content = write_mmsa(tmp_path / "mine.pkl", steps=STEPS, dims=DIMS)
    corpus = open_corpus("mosi", "mmsa-unaligned", path=tmp_path / "mine.pkl", cache=tmp_path / "other")
    assert corpus.splits["test"].ids == content["test"]["id"]
    assert files_in(tmp_path / "other")
    assert not files_in(places[1])
    write_mult(tmp_path / "root/mosi/mosi_data.pkl", aligned=True, steps=dict.fromkeys(MODALITIES, 8), dims=DIMS)
    corpus = open_corpus("mosi", "mult-aligned", root=tmp_path / "root")
    assert corpus.padding == dict.fromkeys(MODALITIES, "front")


def test_iemocap_keeps_its_labels_and_lack_of_ids(places):
    write_mult(places[0] / "iemocap/iemocap_data_noalign.pkl", "iemocap", steps=STEPS, dims=DIMS)
    corpus = open_corpus("iemocap", "mult-unaligned")
    assert not corpus.ids_from_file
    assert corpus.splits["train"].labels.dtype == torch.int64
    assert corpus.splits["train"].labels.shape == (12, 4)
    assert corpus.splits["train"].tokens is None


@pytest.mark.parametrize(
    ("name", "task"), [("a.npz", "regression"), ("a.npz", "emotions"), ("a.pkl", "regression"), ("a.pkl", "emotions")]
)
def test_custom_files(places, tmp_path, name, task):
    path = tmp_path / name
    if name == "a.npz":
        write_npz(path, task=task)
    elif task == "emotions":
        write_mult(path, "iemocap", steps=STEPS, dims=DIMS)
    else:
        write_mmsa(path, steps=STEPS, dims=DIMS)
    corpus = open_corpus("custom", path=path, task=task)
    assert corpus.info.task == task
    assert corpus.info.metric_set == ("emotions" if task == "emotions" else "sentiment")
    assert corpus.info.normalise == "zscore"
    assert corpus.splits["train"].labels.shape == ((12, 4) if task == "emotions" else (12,))
    assert corpus.features == "custom"


def test_a_custom_npz_with_both_kinds_of_labels_can_be_opened_as_either(places, tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, change=lambda c: c.update(emotion_labels=np.zeros((24, 4), dtype=int)))
    assert open_corpus("custom", path=path).splits["test"].labels.ndim == 1
    assert open_corpus("custom", path=path, task="emotions").splits["test"].labels.ndim == 2


def test_aligned_custom_pickles_take_the_text_lengths(places, tmp_path):
    steps = dict.fromkeys(MODALITIES, 8)
    write_mmsa(tmp_path / "a.pkl", aligned=True, steps=steps, dims=DIMS)
    split = open_corpus("custom", path=tmp_path / "a.pkl").splits["train"]
    assert torch.equal(split.lengths["audio"], split.lengths["text"])


def test_synth_is_generated_once(places, monkeypatch):
    first = open_corpus("synth", size=(6, 3, 4), length=8)
    assert first.revision == synthetic.revision((6, 3, 4), 8)
    assert [len(first.splits[name]) for name in SPLITS] == [6, 3, 4]
    monkeypatch.setattr(synthetic, "generate", None)
    same_corpus(first, open_corpus("synth", size=(6, 3, 4), length=8))
    with pytest.raises(TypeError):
        open_corpus("synth", size=(6, 3, 5), length=8)


# Errors; after each of them the cache is as before.

ERRORS = {
    "planted code": (lambda p: p.write_bytes(pickle.dumps({"train": print})), "tries to load builtins.print"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-2000]), "is truncated"),
    "keys": (lambda p: write_mult(p, steps=STEPS, dims=DIMS), "train has no key 'regression_labels'"),
    "dims": (lambda p: _rewrite(p, "audio", lambda x: x[0]), r"train/audio has shape \(11, 3\)"),
    "nan": (lambda p: _rewrite(p, "regression_labels", lambda x: x * np.nan), "regression_labels is nan for clip"),
    "ids": (lambda p: _rewrite(p, "id", lambda x: x[:1] * 12), "12 times; expected ids that are unique"),
    "lengths": (lambda p: _rewrite(p, "audio_lengths", lambda x: [99] * 12), "has the length 99"),
    "missing": (
        lambda p: p.unlink(),
        r"there is no file .*unaligned_50.pkl .*msabench data fetch mosi --features mmsa-",
    ),
}


def _rewrite(path, key, change):
    content = pickle.loads(path.read_bytes())
    content["train"][key] = change(content["train"][key])
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("defect", ERRORS)
def test_errors_are_one_sentence_and_leave_nothing(places, defect):
    mosi(places[0])
    damage, words = ERRORS[defect]
    path = places[0] / "mosi/unaligned_50.pkl"
    damage(path)
    with pytest.raises(MSABenchError, match=words) as caught:
        open_corpus("mosi", "mmsa-unaligned")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files_in(places[1]) == []


def test_a_missing_file_says_what_to_do(places):
    with pytest.raises(MSABenchError) as caught:
        open_corpus("sims")
    for words in (
        str(places[0] / "sims/unaligned_39.pkl"),
        "data fetch sims --features mmsa-unaligned",
        "MSABENCH_DATA",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dataset": "mosey"}, "unknown dataset 'mosey'; allowed: mosi, mosei, sims"),
        (
            {"dataset": "sims", "features": "mult-aligned"},
            "unknown features of sims 'mult-aligned'; allowed: mmsa-unal",
        ),
        ({"dataset": "custom"}, "custom needs path"),
        ({"dataset": "custom", "path": Path("a.csv")}, "path a.csv is not allowed for custom"),
        ({"dataset": "custom", "path": Path("no.npz")}, "there is no file no.npz; path must name"),
        ({"dataset": "custom", "path": Path("no.npz"), "task": "ranking"}, "unknown task 'ranking'"),
        ({"dataset": "mosi", "path": Path("/")}, "/ is a folder"),
        ({"dataset": "mosi", "size": (1, 1, 1)}, "size is only allowed for synth, not for mosi"),
        ({"dataset": "mosi", "length": 9}, "length is only allowed for synth"),
        ({"dataset": "mosi", "task": "emotions"}, "task emotions is not allowed for mosi"),
        ({"dataset": "synth", "size": (0, 1, 1)}, "size"),
        ({"dataset": "synth", "clip_labels": True}, "clip_labels is not allowed for synth, whose labels are generated"),
        ({"dataset": "iemocap", "clip_labels": True}, "clip_labels is not allowed for iemocap, whose labels are emo"),
    ],
)
def test_wrong_settings_are_one_sentence(places, settings, words):
    with pytest.raises(MSABenchError, match=words):
        open_corpus(**settings)
    assert files_in(places[1]) == []


@pytest.mark.parametrize("part", ["tensors", "manifest"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(places, monkeypatch, part):
    mosi(places[0])
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_, **__):
        raise full

    if part == "tensors":
        save = store_module.save_file

        def half(tensors, path):
            save(tensors, path)
            if path.name.startswith("valid"):
                raise full

        monkeypatch.setattr(store_module, "save_file", half)
    else:
        monkeypatch.setattr(manifest_module, "replacing", fail)
    with pytest.raises(
        MSABenchError, match=r"cannot write the converted unaligned_50.pkl to .*No space left.*free space"
    ):
        open_corpus("mosi", "mmsa-unaligned")
    assert files_in(places[1]) == []
    assert list((places[1] / "stores").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_file_system_that_refuses_to_write_leaves_nothing(places):
    mosi(places[0])
    program = (
        "import resource, signal\n"
        "from msabench.data.store import open_corpus\n"
        "from msabench.errors import MSABenchError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n    open_corpus('mosi', 'mmsa-unaligned')\n"
        "except MSABenchError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "cannot write the converted unaligned_50.pkl" in done.stdout
    assert files_in(places[1]) == []


def test_a_cache_that_cannot_be_made_is_one_sentence(places, tmp_path):
    mosi(places[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(MSABenchError, match="cannot create the cache folder"):
        open_corpus("mosi", "mmsa-unaligned", cache=tmp_path / "file")


def test_two_processes_can_convert_at_once(places, tmp_path):
    """With the lock, and where locking does not work."""
    mosi(places[0], sizes=(400, 50, 50))
    program = (
        "import contextlib, pathlib, sys, time\n"
        "from msabench.data import store\n"
        "folder, me = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "def open_together(name):\n"
        "    (folder / f'{name}-{me}').touch()\n"
        "    while len(list(folder.glob(f'{name}-*'))) < 2: time.sleep(0.0005)\n"
        "    corpus = store.open_corpus('mosi', 'mmsa-unaligned', cache=folder / f'cache_{name}')\n"
        "    print(corpus.revision, float(corpus.splits['train'].features['text'].double().sum()))\n"
        "open_together('lock')\n"
        "store.locked = lambda path: contextlib.nullcontext()\n"
        "open_together('none')\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program, str(tmp_path), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    try:
        said = [process.communicate(timeout=600) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said
    lines = [line for out, _ in said for line in out.splitlines()]
    assert len(lines) == 4
    assert len(set(lines)) == 1
    for name in ("lock", "none"):
        (store,) = (tmp_path / f"cache_{name}/stores").iterdir()
        assert json.loads((store / "manifest.json").read_text())["ids"]["train"]


# Files and hashes.


def test_places_default_to_the_environment(monkeypatch):
    monkeypatch.delenv("MSABENCH_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_folder() == Path("data")
    assert cache_folder() == Path.home() / ".cache/msabench"
    monkeypatch.setenv("MSABENCH_DATA", "~/corpora")
    assert data_folder() == Path.home() / "corpora"
    assert data_folder(Path("/elsewhere")) == Path("/elsewhere")


def test_hashes_are_remembered_until_the_file_changes(tmp_path):
    memory, path = HashMemory(tmp_path / "hashes"), tmp_path / "a"
    path.write_text("one")
    assert memory.recall(Stamp.of(path)) is None
    memory.remember(Stamp.of(path), "f" * 64)
    assert memory.recall(Stamp.of(path)) == "f" * 64
    os.utime(path, ns=(1, 1))
    assert memory.recall(Stamp.of(path)) is None
    memory.remember(Stamp.of(path), "f" * 64)
    (tmp_path / "b").write_text("two")
    os.utime(tmp_path / "b", ns=(1, 1))
    (tmp_path / "b").replace(path)
    assert memory.recall(Stamp.of(path)) is None, "another file of the same size and time"
    memory.remember(Stamp.of(path), "f" * 64)
    for entry in (tmp_path / "hashes").iterdir():
        entry.write_text("[]")
    assert memory.recall(Stamp.of(path)) is None


def test_a_hash_that_cannot_be_remembered_is_no_error(tmp_path):
    (tmp_path / "a").write_text("one")
    HashMemory(tmp_path / "a" / "b").remember(Stamp.of(tmp_path / "a"), "f" * 64)


def test_files_are_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(TypeError), replacing(path) as stream:
        stream.writelines([b"new", None])
    assert path.read_text() == "old"
    with replacing(path) as stream:
        stream.write(b"new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_goes_with_its_block(tmp_path):
    with pytest.raises(ValueError, match="inside"), locked(tmp_path / "a.lock"):
        raise ValueError("inside")
    assert list(tmp_path.iterdir()) == []


def test_one_at_a_time_holds_a_lock_whose_file_comes_and_goes(tmp_path):
    inside, most = [], []

    def work(me):
        for _ in range(8):
            with locked(tmp_path / "a.lock"):
                inside.append(me)
                time.sleep(0.002)
                most.append(len(inside))
                inside.remove(me)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert set(most) == {1}
    assert len(most) == 32
    assert list(tmp_path.iterdir()) == []


def test_where_locking_does_not_work_the_block_runs_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").touch()
    (tmp_path / "a.lock").symlink_to(tmp_path / "elsewhere")
    with locked(tmp_path / "a.lock"):
        ran = "where the file is refused"
    assert ran
    fcntl = pytest.importorskip("fcntl", reason="no locks here")
    for code in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):

        def refuse(*_, code=code):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", refuse)
        ran = ""
        with locked(tmp_path / "b.lock"), locked(tmp_path / "b.lock"):
            ran = "where the file system has no locks"
        assert ran


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(13_700_000_000, "13.7 GB"), (600_000_000, "0.6 GB"), (2_800_000, "2.8 MB"), (12, "12 bytes")]
)
def test_sizes_for_people(n_bytes, text):
    assert format_size(n_bytes) == text


# The verbs.


def test_listing_and_verifying_need_no_torch():
    program = "import sys, msabench.data.commands, msabench.data.fetch; print(msabench.data.commands.data_list()); "
    program += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_list_shows_every_file_and_every_caveat(places):
    mosi(places[0])
    text = data_list()
    for info in SHIPPED.values():
        assert info.caveat in text
        for file in info.files:
            assert file.filename in text
    row = next(line for line in text.splitlines() if "mosi/unaligned_50.pkl" in line)
    assert "kB" in row
    assert "msabench data fetch mosi --features mmsa-unaligned" in row


def test_convert_says_what_was_done(places):
    mosi(places[0])
    text = data_convert("mosi", "mmsa-unaligned")
    assert "12/5/7 clips" in text
    assert "published is" in text
    assert files_in(places[1])


def test_verify_counts_and_compares(places):
    def plant(content):
        content["train"]["audio"][0, 0, 0] = np.nan
        content["test"]["regression_labels"] = np.array([-1, -1, 0, 1, 1, 1, 2.0])

    mosi(places[0], change=plant)
    text = data_verify("mosi", "mmsa-unaligned")
    assert "DIFFERS from the published 78e0f8b5" in text
    assert "test: 7 clips, negative/zero/positive 2/1/4" in text
    assert "test labels negative/zero/positive: 2/1/4, but 379/30/277 are known" in text
    assert "shapes: text 12x8x6, audio 12x11x3, vision 12x9x4, tokens 12x3x8" in text
    assert "padding: text end, audio end, vision end" in text
    assert "note: train/audio: 1 values were not finite and are 0 now" in text
    assert files_in(places[1]) == []


def test_verify_counts_emotions(places):
    content = write_mult(places[0] / "iemocap/iemocap_data.pkl", "iemocap", True)
    text = data_verify("iemocap")
    assert f"neutral {content['test']['labels'][:, 0, 1].sum()}" in text
    assert "none is published" in text
    assert "padding: text front, audio front, vision front" in text
    assert "ids: none in the file" in text


def test_verify_of_what_is_generated_says_so(places):
    assert "generated" in data_verify("synth")


# Facts.


@pytest.mark.parametrize("info", SHIPPED.values(), ids=SHIPPED)
def test_facts_agree_with_each_other(info):
    assert info.files
    assert len({file.features for file in info.files}) == len(info.files)
    if info.test_counts is not None:
        assert sum(info.test_counts) == info.split_sizes[2]
    for file in info.files:
        assert file.sha256 == "" or len(file.sha256) == 64
        assert file.how_to_get
        assert set(file.dims) in ({*MODALITIES}, set())
    low, high = info.label_range
    assert low < high


def test_small_corpora_say_what_they_are():
    video, synth = SHIPPED["mosei_video"], SHIPPED["synth"]
    assert video.title == "MOSEI-video-898 (pooled)"
    for words in ("sequence length 1", "179", ".07", "cannot rank methods", "not CMU-MOSEI"):
        assert words in video.caveat
    assert "never evidence" in synth.caveat
    assert (video.normalise, SHIPPED["custom"].normalise, SHIPPED["mosi"].normalise) == ("zscore", "zscore", "none")
    assert (SHIPPED["sims"].default_metric, SHIPPED["iemocap"].default_metric) == ("f1", "f1_mean")

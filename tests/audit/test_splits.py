"""Class counts are recounted where label files are at hand."""

import numpy as np
import pytest

from msabench.audit import splits
from msabench.audit.run import run_audit
from msabench.audit.splits import split_facts
from msabench.data.info import EMOTIONS
from msabench.data.registry import dataset_info
from msabench.metrics.functional import compute
from tests.support.corpora import write_mult, write_npz
from tests.support.printed_tables import number

SMALL = {"text": 1, "audio": 1, "vision": 1}


def npz(tmp_path, labels):
    """MOSEI-video-898 with other test labels."""

    def change(content):
        content["regression_labels"][content["split"] == "test"] = labels

    path = tmp_path / "data" / dataset_info("mosei_video").files[0].filename
    write_npz(path, (634, 85, len(labels)), steps=SMALL, change=change)
    return tmp_path / "data"


def test_counts_without_files(tmp_path):
    facts = split_facts("mosi", tmp_path, tmp_path)
    assert facts.classes == {
        "has0": {"negative": 379, "non-negative": 307},
        "non0": {"negative": 379, "positive": 277},
        "gt0": {"non-positive": 409, "positive": 277},
    }
    assert facts.mae is None
    assert "as published" in facts.source
    assert split_facts("sims", tmp_path, tmp_path).classes == {"sims": {"non-positive": 317, "positive": 140}}
    assert split_facts("iemocap", tmp_path, tmp_path) is None
    assert split_facts("synth", tmp_path, tmp_path) is None
    assert split_facts("mine", tmp_path, tmp_path) is None


def test_labels_are_recounted_from_the_source_or_the_store(tmp_path, monkeypatch):
    labels = np.repeat([-1.0, 0.0, 0.5, 2.0], [60, 20, 59, 40]).astype(np.float32)
    root = npz(tmp_path, labels)
    facts = split_facts("mosei_video", root, tmp_path / "cache")
    assert facts.classes["has0"] == {"negative": 60, "non-negative": 119}
    assert facts.classes["non0"] == {"negative": 60, "positive": 99}
    assert facts.mae == pytest.approx(np.abs(labels - np.median(labels)).mean())
    assert "recounted" in facts.source

    from msabench.data.store import open_corpus

    def unread(*_: object) -> None:
        raise AssertionError("the source is read")

    with pytest.warns(UserWarning, match="another release"):
        open_corpus("mosei_video", root=root, cache=tmp_path / "cache")
    monkeypatch.setattr(splits, "read_splits", unread)
    assert split_facts("mosei_video", root, tmp_path / "cache") == facts
    # A store that is not whole is passed over; then the source is read.
    store = next((tmp_path / "cache" / "stores").glob("mosei_video-*"))
    (store / "test.safetensors").write_bytes(b"")
    with pytest.raises(AssertionError, match="the source is read"):
        split_facts("mosei_video", root, tmp_path / "cache")


def test_another_test_split_says_nothing(tmp_path):
    root = npz(tmp_path, np.ones(10, dtype=np.float32))
    assert split_facts("mosei_video", root, tmp_path).classes["non0"] == {"negative": 50, "positive": 118}


def test_a_split_of_one_class_has_no_constant(tmp_path):
    root = npz(tmp_path, np.ones(179, dtype=np.float32))
    assert split_facts("mosei_video", root, tmp_path).classes == {}


def test_large_sources_are_not_read(tmp_path, monkeypatch):
    root = npz(tmp_path, np.ones(179, dtype=np.float32))
    monkeypatch.setattr(splits, "READ_AT_MOST", 10)
    assert "as published" in split_facts("mosei_video", root, tmp_path).source


def test_emotions_are_counted_one_by_one(tmp_path):
    info = dataset_info("iemocap")
    path = tmp_path / info.file("mult-aligned").filename
    content = write_mult(path, "iemocap", True, (2, 2, 938), steps=SMALL, dims=SMALL, ids=False)
    facts = split_facts("iemocap", tmp_path, tmp_path)
    # The file has neutral, happy, sad, angry; each as a pair of logits.
    present = content["test"]["labels"].argmax(-1).sum(0)[[1, 2, 3, 0]]
    assert facts.classes == {
        name: {f"not {name}": 938 - int(n), name: int(n)} for name, n in zip(EMOTIONS, present, strict=True)
    }
    share = facts.classes["sad"]["sad"] / 938
    scores = {(s.class_name, s.key): s.value for s in facts.scores}
    assert scores["sad", "acc_sad"] == pytest.approx(share)
    assert scores["sad", "f1_sad"] == pytest.approx(2 * share**2 / (1 + share))


def test_errors_above_a_constants_are_found_with_labels(tmp_path, monkeypatch):
    labels = np.repeat([-1.0, 0.0, 0.5, 2.0], [60, 20, 59, 40]).astype(np.float32)
    numbers = [number("1.500", dataset="mosei_video", metric="mae", cell="inter/a")]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MSABENCH_DATA", str(tmp_path / "nowhere"))
    assert run_audit(numbers) == []
    monkeypatch.setenv("MSABENCH_DATA", str(npz(tmp_path, labels)))
    (found,) = run_audit(numbers)
    best = np.abs(labels - np.median(labels)).mean()
    assert found.kind == "worse_than_constant"
    assert f"mae {best:.3f}" in found.expected
    assert run_audit([number(f"{best - 0.01:.3f}", dataset="mosei_video", metric="mae", cell="inter/a")]) == []


def test_constants_of_the_counts_are_what_the_metrics_give(tmp_path):
    for dataset in ("mosi", "sims"):
        info = dataset_info(dataset)
        below, zero, above = info.test_counts
        labels = np.repeat([-0.5, 0.0, 0.5], [below, zero, above])
        values = {sign: compute(info.metric_set, labels, np.full(labels.shape, sign)) for sign in (-0.5, 0.5)}
        for score in split_facts(dataset, tmp_path, tmp_path).scores:
            if score.protocol != "gt0":
                sign = -0.5 if score.class_name in ("negative", "non-positive") else 0.5
                assert values[sign][score.key] == pytest.approx(score.value)

"""The synthetic corpus and the probe that it is calibrated with."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msabench.data import synthetic
from msabench.data.corpus import Corpus, SplitData, clip_uids
from msabench.data.probe import data_describe, describe, pool, render, ridge_probe
from msabench.data.raw import RawCorpus
from msabench.data.registry import dataset_info
from msabench.errors import MSABenchError

SMALL = (7, 3, 5)


def to_corpus(raw: RawCorpus, size, length) -> Corpus:
    splits = {
        name: SplitData(
            features={m: torch.from_numpy(x) for m, x in split.features.items()},
            lengths={m: torch.from_numpy(x) for m, x in split.lengths.items()},
            labels=torch.from_numpy(split.labels),
            ids=split.ids,
            uid=clip_uids("synth", name, split.ids),
            tokens=torch.from_numpy(split.tokens),
        )
        for name, split in raw.splits.items()
    }
    return Corpus(dataset_info("synth"), "synth", synthetic.revision(size, length), splits)


def content_hash(raw: RawCorpus) -> str:
    digest = hashlib.sha256()
    for split in raw.splits.values():
        for arrays in (split.features, split.lengths, {"labels": split.labels, "tokens": split.tokens}):
            for name in sorted(arrays):
                digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
        digest.update("\n".join(split.ids).encode())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def default_raw() -> RawCorpus:
    return synthetic.generate()


@pytest.fixture(scope="module")
def facts(default_raw) -> dict:
    return describe(to_corpus(default_raw, synthetic.DEFAULT_SIZE, synthetic.DEFAULT_LENGTH))


def test_parameters_are_frozen():
    # A change here is a new revision: see docs/synth.md.
    assert synthetic.REVISION == "r1"
    assert synthetic.LATENT.sha256() == "204520e82db64a525f22986d8c9da354c4003d43a6237d964f556c19e245e029"


def test_content_is_frozen():
    expected = "31fd0d68165bbc5e8b0edb94fd39db1bb87ae0e00d9d284b8d89927ec3fd106a"
    assert content_hash(synthetic.generate(SMALL, 12)) == expected


def test_shares_of_variance_sum_to_one():
    latent = synthetic.LATENT
    private = sum(latent.channel(modality).private for modality in synthetic.MODALITIES)
    assert latent.shared + latent.unseen + private == pytest.approx(1.0)


def test_same_bytes_whatever_the_global_state():
    np.random.seed(1)  # noqa: NPY002 - the global generator must not matter
    torch.manual_seed(1)
    first = content_hash(synthetic.generate(SMALL, 12))
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert content_hash(synthetic.generate(SMALL, 12)) == first
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 40)] * 3),
    length=st.integers(synthetic.MIN_LENGTH, 60),
)
def test_layout(size, length):
    raw = synthetic.generate(size, length)
    cues = synthetic.cue_frames(size, length)
    assert list(raw.splits) == ["train", "valid", "test"]
    assert raw.padding == dict.fromkeys(("text", "audio", "vision"), "end")
    steps = np.arange(length)
    for (name, split), n in zip(raw.splits.items(), size, strict=True):
        assert split.labels.shape == (n,)
        assert split.labels.dtype == np.float32
        assert np.abs(split.labels).max() <= 3
        assert len(set(split.ids)) == len(split.ids) == n
        assert all(re.fullmatch(r"[a-z]+\d{3}\$_\$\d+", clip) for clip in split.ids)
        for modality, dim in synthetic.DIMS.items():
            x, lengths = split.features[modality], split.lengths[modality]
            assert x.shape == (n, length, dim)
            assert x.dtype == np.float32
            assert lengths.dtype == np.int64
            assert np.isfinite(x).all()
            assert lengths.min() >= 3
            assert lengths.max() <= length
            existing = steps < lengths[:, None]
            assert np.array_equal(np.abs(x).sum(axis=2) > 0, existing)
            carries = cues[name][modality]
            assert carries.any(axis=1).all()
            assert not (carries & ~existing).any()
        ids, mask, types = split.tokens.transpose(1, 0, 2)
        lengths = split.lengths["text"]
        assert split.tokens.dtype == np.int64
        assert np.array_equal(mask, (steps < lengths[:, None]).astype(np.int64))
        assert not types.any()
        assert (ids[:, 0] == synthetic.CLS).all()
        assert (ids[np.arange(n), lengths - 1] == synthetic.SEP).all()
        words = ids[(steps > 0) & (steps < lengths[:, None] - 1)]
        assert words.min() >= 1000
        assert words.max() < 30522
        assert not ids[mask == 0].any()
        assert not cues[name]["text"][:, 0].any()


def test_splits_share_no_clip_and_no_video(default_raw):
    videos = [{clip.split("$_$")[0] for clip in split.ids} for split in default_raw.splits.values()]
    assert not (videos[0] & videos[1] | videos[0] & videos[2] | videos[1] & videos[2])
    first = [split.features["audio"][0] for split in default_raw.splits.values()]
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[1], first[2])


def test_labels_are_rater_means_with_mosis_neutral_share(default_raw):
    for split in default_raw.splits.values():
        fifths = split.labels.astype(np.float64) * 5
        assert np.allclose(fifths, np.rint(fifths), atol=1e-5)
    labels = default_raw.splits["test"].labels
    assert 0.03 <= np.mean(labels == 0) <= 0.06  # 30 of 686 in CMU-MOSI
    assert 0.48 <= np.mean(labels < 0) <= 0.60  # 379 of 686


def test_lengths_tell_nothing(default_raw):
    cues = synthetic.cue_frames()
    for name, split in default_raw.splits.items():
        if name == "valid":
            continue  # 229 clips cannot resolve a correlation of .1
        for modality, lengths in split.lengths.items():
            for number in (lengths, cues[name][modality].sum(axis=1)):
                assert abs(np.corrcoef(number, split.labels)[0, 1]) < 0.1
        for a, b in (("text", "audio"), ("text", "vision"), ("audio", "vision")):
            assert np.mean(split.lengths[a] != split.lengths[b]) > 0.9


def test_tokens_tell_the_valence(default_raw):
    base, per_bin = synthetic.CUE_IDS
    split = default_raw.splits["test"]
    ids, carries = split.tokens[:, 0], synthetic.cue_frames()["test"]["text"]
    assert np.array_equal(ids >= base, carries)
    valence = np.where(carries, (ids - base) // per_bin - 4, 0).sum(axis=1) / carries.sum(axis=1)
    assert np.corrcoef(valence, split.labels)[0, 1] > 0.6


def test_calibration(facts):
    for condition, target in synthetic.TARGETS.items():
        assert facts["probe"][condition]["r"] == pytest.approx(target, abs=synthetic.TOLERANCE)


@pytest.mark.parametrize("condition", ["a", "v"])
def test_knowing_the_cue_frames_helps(facts, condition):
    assert facts["cue_probe"][condition]["r"] >= facts["probe"][condition]["r"] + synthetic.ORACLE_GAIN


def test_modalities_complement_each_other(facts):
    for probe in (facts["probe"], facts["cue_probe"]):
        assert probe["lav"]["r"] > probe["l"]["r"] > probe["av"]["r"] > max(probe["a"]["r"], probe["v"]["r"])


@pytest.mark.parametrize("modality", ["audio", "vision"])
def test_cue_frames_can_be_found_by_their_content(default_raw, modality):
    cues = synthetic.cue_frames()
    frames = {}
    for name in ("train", "test"):
        split = default_raw.splits[name]
        existing = np.arange(synthetic.DEFAULT_LENGTH) < split.lengths[modality][:, None]
        frames[name] = split.features[modality][existing].astype(np.float64), cues[name][modality][existing]
    x, carries = frames["train"]
    weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))], carries.astype(np.float64), rcond=None)[0]
    x, carries = frames["test"]
    score = x @ weights[:-1]
    rank = np.argsort(np.argsort(score))[carries].sum()
    n = carries.sum()
    auc = (rank - n * (n - 1) / 2) / (n * (len(score) - n))
    assert auc > 0.9


def test_a_missing_modality_can_be_inferred_in_part(default_raw):
    cues = synthetic.cue_frames()

    def pooled(name, modality):
        return pool(default_raw.splits[name].features[modality], cues[name][modality])

    def strongest(name):
        return default_raw.splits[name].labels.astype(np.float64)

    text = {
        name: ridge_probe(
            *(([pooled(s, "text")], strongest(s)) for s in ("train", "valid")),
            ([pooled(name, "text")], strongest(name)),
        ).predictions
        for name in synthetic.SPLITS
    }
    others = ridge_probe(*(([pooled(s, "audio"), pooled(s, "vision")], text[s]) for s in synthetic.SPLITS))
    assert 0.2 < others.r < 0.7


def test_no_single_word_state_tells_the_sentiment(default_raw, facts):
    data = [
        ([split.features["text"][:, 0].astype(np.float64)], split.labels.astype(np.float64))
        for split in default_raw.splits.values()
    ]
    assert ridge_probe(*data).r < facts["probe"]["l"]["r"] - 0.1


@pytest.mark.parametrize(
    ("size", "length", "value"),
    [((0, 1, 1), 50, "0, 1, 1"), ((5, 5), 50, "5, 5"), ((5, 5, 5), 7, "length 7")],
)
def test_impossible_sizes_are_refused(size, length, value):
    for function in (synthetic.generate, synthetic.cue_frames):
        with pytest.raises(MSABenchError, match=value):
            function(size, length)


def test_revision_names_the_size():
    assert synthetic.revision() == "r1-1284x229x686-T50"
    assert synthetic.revision((320, 60, 170), 20) == "r1-320x60x170-T20"


@pytest.mark.parametrize(("n", "dim"), [(60, 7), (20, 50)])
def test_ridge_agrees_with_the_normal_equations(n, dim):
    random = np.random.RandomState(0)
    data = [([random.randn(m, dim)], random.randn(m)) for m in (n, 15, 15)]
    (x,), y = data[0]
    mean, scale = x.mean(axis=0), x.std(axis=0) * np.sqrt(dim)
    z = (x - mean) / scale
    weights = np.linalg.solve(z.T @ z + 0.5 * np.eye(dim), z.T @ (y - y.mean()))
    expected = (data[2][0][0] - mean) / scale @ weights + y.mean()
    found = ridge_probe(*data, alphas=[0.5])
    assert np.allclose(found.predictions, expected)
    assert found.r == pytest.approx(np.corrcoef(expected, data[2][1])[0, 1])


def test_ridge_chooses_the_penalty_on_valid_alone():
    random = np.random.RandomState(0)
    x = random.randn(200, 3)
    y = x @ np.array([1.0, -2.0, 0.5])
    assert ridge_probe(([x], y), ([x[:50]], y[:50]), ([x], -y)).alpha == pytest.approx(1e-3)
    assert ridge_probe(([x], y), ([x[:50]], -y[:50]), ([x], y)).alpha == pytest.approx(1e6)


def test_ridge_survives_constant_features_and_labels():
    x = np.ones((10, 2))
    assert np.isnan(ridge_probe(([x], np.arange(10.0)), ([x], np.arange(10.0)), ([x], np.arange(10.0))).r)


def test_pool_averages_kept_frames_over_chunks():
    random = np.random.RandomState(0)
    x = random.randn(300, 4, 3).astype(np.float32)
    keep = random.rand(300, 4) < 0.5
    keep[0] = False
    keep[1] = [True, False, False, True]
    pooled = pool(x, keep)
    assert not pooled[0].any()
    assert np.allclose(pooled[1], (x[1, 0] + x[1, 3]) / 2, atol=1e-6)
    assert np.allclose(pooled[-1], x[-1][keep[-1]].mean(axis=0) if keep[-1].any() else 0, atol=1e-6)


def test_description_prints_targets_and_sizes(facts):
    text = render(facts)
    assert "r1-1284x229x686-T50" in text
    assert "never evidence" in text
    for part in ("1284", "229", "686", "negative", "zero", "positive", "cue frames", "0.65", "0.70"):
        assert part in text
    assert sum(line.split()[:1] == [subset] for line in text.splitlines() for subset in facts["probe"]) == 7


def test_description_of_a_corpus_padded_in_front_and_with_emotions():
    corpus = to_corpus(synthetic.generate((40, 20, 20), 10), (40, 20, 20), 10)
    corpus.info = dataset_info("iemocap")
    corpus.padding = dict.fromkeys(synthetic.MODALITIES, "front")
    for split in corpus.splits.values():
        for modality, x in split.features.items():
            rolled = torch.stack([c.roll(10 - int(n), 0) for c, n in zip(x, split.lengths[modality], strict=True)])
            split.features[modality] = rolled
    front = describe(corpus)
    assert "cue_probe" not in front
    corpus.info = dataset_info("synth")
    corpus.padding = dict.fromkeys(synthetic.MODALITIES, "end")
    for split in corpus.splits.values():
        for modality, x in split.features.items():
            split.features[modality] = torch.stack(
                [c.roll(int(n) - 10, 0) for c, n in zip(x, split.lengths[modality], strict=True)]
            )
    end = describe(corpus)
    for subset in end["probe"]:
        assert end["probe"][subset]["r"] == pytest.approx(front["probe"][subset]["r"], abs=1e-4)

    for split in corpus.splits.values():
        split.labels = torch.stack([split.labels > edge for edge in (-1, 0, 0.5, 1)], dim=1).long()
    corpus.info = dataset_info("iemocap")
    emotions = describe(corpus)
    assert set(emotions["splits"]["train"]["labels"]) == {"happy", "sad", "angry", "neutral"}
    assert "happy" in render(emotions)


def test_data_describe(tmp_path):
    pytest.importorskip("msabench.data.store")
    text = data_describe("synth", cache=tmp_path, size=[40, 20, 20], length=10)
    assert "r1-40x20x20-T10" in text
    with pytest.raises(MSABenchError, match=r"\[40, 20\]"):
        data_describe("synth", cache=tmp_path, size=[40, 20])

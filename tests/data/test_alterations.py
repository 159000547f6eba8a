"""Noise, other words, exchanged modalities; and that a removed modality tells nothing whatever else is done."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from msabench.data.alterations import SPECIAL, Alterations, vocabulary_of
from msabench.data.apply import build_batch
from msabench.data.normalise import deviations, statistics
from msabench.errors import MSABenchError
from msabench.missingness.clip_draws import donors
from msabench.missingness.conditions import GRIDS, LETTERS, MODALITIES, Cell
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import cell_masks, inner_steps
from msabench.testing.corpora import data_module, random_corpus
from tests.data.test_apply import SCALE, TOKENS, bits, tensors, with_other
from tests.support.small_split import END, FRONT, small_split

KEEP = MissingConfig(lengths="keep")
KINDS = ("intra/0.5", "aligned/0.5", "block/0.5", "block-aligned/0.5", "noise/a=0.5,v=1.0", "words/0.5", "permute")
GOLDEN_NOISE = [-0.2746755, -0.0958342, 1.5133179, 0.6226207, 0.100896, -1.358218]
SPREAD = deviations(small_split(split="train"), END)
VOCABULARY = vocabulary_of(small_split(split="train"), END)


def altered(cell, split, seed=3):
    return Alterations.of(cell, seed, split.uid, lambda: SPREAD, lambda: VOCABULARY)


def batch_of(name, config=KEEP, index=slice(None), split=None, with_tokens=False, scale=None, padding="end", seed=3):
    cell, split = Cell.parse(name), split or small_split(padding=padding)
    masks = cell_masks(cell, config, split.clips(END if padding == "end" else FRONT), seed)
    options = {"config": config, "with_tokens": with_tokens, "scale": scale}
    return build_batch(split, masks, index, **options, alterations=altered(cell, split, seed))


# Noise.


def test_noise_is_normal_with_the_deviation_of_the_feature():
    deviation = torch.tensor([0.5, 2.0, 0.0])
    noise = Alterations(Cell.parse("noise/a=0.5"), 1, deviation={"audio": deviation})
    drawn = noise.noise("audio", small_split(400).uid, 20)
    assert drawn.shape == (400, 20, 3)
    assert drawn.dtype == torch.float32
    assert not drawn[..., 2].any()
    for feature in (0, 1):
        values = (drawn[..., feature] / deviation[feature]).flatten().numpy()
        assert stats.kstest(values, stats.norm.cdf).pvalue > 1e-4
    one, two = drawn[..., 0].flatten().numpy(), drawn[..., 1].flatten().numpy()
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(len(one))
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 5 / np.sqrt(len(one))
    assert noise.noise("text", small_split().uid, 20) is None


def test_noise_is_frozen():
    noise = Alterations(Cell.parse("noise/v=1.0"), 5, deviation={"vision": torch.ones(3)})
    values = noise.noise("vision", torch.tensor([[1, 2]]), 2)[0]
    assert values.flatten().tolist() == pytest.approx(GOLDEN_NOISE, abs=1e-6)


@pytest.mark.parametrize("width", [1, 3, 4, 5, 8, 33])
def test_noise_of_some_steps_is_that_of_all(width):
    drawn = Alterations(Cell.parse("noise/a=0.5"), 1, deviation={"audio": torch.rand(width) + 0.1})
    uid, observed = small_split(40).uid, torch.rand(40, 7) < 0.4
    every, some = drawn.noise("audio", uid, 7), drawn.noise("audio", uid, 7, observed)
    assert every.all()
    assert torch.equal(some[observed], every[observed])
    assert not some[~observed].any()
    # Numbers are counted through steps: those of one wide step are those of several narrow ones.
    wide = Alterations(drawn.cell, 1, deviation={"audio": drawn.deviation["audio"].repeat(7)})
    assert torch.equal(wide.noise("audio", uid, 1).view(40, 7, width), every)


@pytest.mark.parametrize("scale", [None, SCALE])
def test_noise_is_added_before_scaling_and_only_where_something_is_observed(scale):
    plain, noisy = (batch_of(f"{noise}intra/0.3", scale=scale) for noise in ("", "noise/a=0.5,v=2.0+"))
    for modality, multiple in (("text", 0.0), ("audio", 0.5), ("vision", 2.0)):
        observed = plain.observed[modality]
        assert torch.equal(noisy.observed[modality], observed)
        assert torch.equal(noisy.valid[modality], plain.valid[modality])
        assert torch.equal(noisy.last[modality], plain.last[modality])
        assert not noisy.features[modality][~observed].any()
        moved = noisy.features[modality][observed] - plain.features[modality][observed]
        if not multiple:
            assert not moved.any()
            continue
        expected = multiple * SPREAD[modality] / (1 if scale is None else scale[modality][1])
        assert moved.std(0) == pytest.approx(expected, rel=0.35)


def test_constant_features_get_no_noise_though_they_are_scaled_by_one():
    split = small_split()
    split.features["audio"][..., 1] = 4.0
    assert deviations(split, END)["audio"][1] == 0
    mean, deviation = statistics(split, END)["audio"]
    assert deviation[1] == 1
    assert torch.equal(deviations(split, END)["audio"][[0, 2]], deviation[[0, 2]])
    assert mean[1] == 4


def test_noise_on_text_is_refused_where_tokens_are_read():
    with pytest.raises(MSABenchError, match=r"noise/a=0\.5,v=0\.5"):
        batch_of("noise/0.5", with_tokens=True)
    batch_of("noise/a=0.5,v=0.5", with_tokens=True)
    batch_of("inter/av+noise/0.5", with_tokens=True)


# Words.


@pytest.mark.parametrize("padding", ["end", "front"])
def test_words_are_replaced_by_other_words_of_the_training_split(padding):
    split = small_split(60, padding=padding)
    batch = batch_of("words/0.4", TOKENS, split=split, with_tokens=True, padding=padding)
    valid = split.clips(END if padding == "end" else FRONT).valid("text")
    words = inner_steps(valid)
    before, after = split.tokens[:, 0], batch.tokens[:, 0]
    changed = before != after
    assert not changed[~words].any()
    assert torch.equal(batch.tokens[:, 1:], split.tokens[:, 1:])
    assert torch.isin(after[changed], VOCABULARY).all()
    assert not torch.isin(after[changed], torch.tensor(SPECIAL)).any()
    share = float(changed[words].double().mean())
    assert abs(share - 0.4) < 4 * np.sqrt(0.24 / int(words.sum()))
    complete = batch_of("inter/lav", TOKENS, split=split, with_tokens=True, padding=padding)
    for name in ("observed", "valid", "last"):
        for modality in MODALITIES:
            assert torch.equal(getattr(batch, name)[modality], getattr(complete, name)[modality])


def test_replaced_words_are_nested_over_rates_and_all_are_at_one():
    split = small_split(40)
    found = {
        rate: batch_of(f"words/{rate}", TOKENS, split=split, with_tokens=True).tokens[:, 0]
        for rate in ("0.2", "0.6", "1.0")
    }
    before = split.tokens[:, 0]
    few, many = (found[rate] != before for rate in ("0.2", "0.6"))
    assert bool((few <= many).all())
    assert torch.equal(found["0.2"][few], found["0.6"][few])
    words = inner_steps(split.clips(END).valid("text"))
    assert torch.equal(found["1.0"] != before, words)


def test_every_other_word_is_as_likely_as_any():
    cell, vocabulary = Cell.parse("words/1.0"), torch.tensor([110, 120, 130, 140])
    uid = small_split(3000).uid
    changes = Alterations(cell, 2, vocabulary=vocabulary)
    for own in (120, 125):
        tokens = torch.full((3000, 3, 4), own)
        changes.replace_words(tokens, uid, torch.ones(3000, 4, dtype=torch.bool))
        found = torch.bincount(tokens[:, 0].flatten(), minlength=141)[vocabulary]
        others = found[vocabulary != own]
        assert int(found.sum()) == int(others.sum()) == 12000
        assert stats.chisquare(others.numpy()).pvalue > 1e-4


def test_special_ids_stay_as_they_are():
    split = small_split()
    split.tokens[:, 0, 1] = 100
    batch = batch_of("words/1.0", TOKENS, split=split, with_tokens=True)
    assert (batch.tokens[:, 0, 1] == 100).all()
    assert not torch.isin(vocabulary_of(split, END), torch.tensor(SPECIAL)).any()


def test_a_vocabulary_takes_token_ids_and_two_words():
    with pytest.raises(MSABenchError, match="no token ids"):
        vocabulary_of(replace(small_split(), tokens=None), END)
    split = small_split()
    split.tokens[:, 0] = 100
    with pytest.raises(MSABenchError, match="0 different words"):
        vocabulary_of(split, END)


# Exchanges.


@pytest.mark.parametrize("letter", LETTERS)
def test_a_modality_comes_from_another_clip_whole(letter):
    split, cell = small_split(), Cell(permuted=letter)
    [(modality, rows)] = donors(cell, split.uid, 3).items()
    plain, batch = (batch_of(name, TOKENS, with_tokens=True) for name in ("inter/lav", str(cell)))
    features, given = (batch_of(name) for name in ("inter/lav", str(cell)))
    for m in MODALITIES:
        source = rows if m == modality else torch.arange(12)
        assert torch.equal(given.features[m], features.features[m][source])
        assert torch.equal(batch.valid[m], plain.valid[m][source])
        assert torch.equal(batch.last[m], plain.last[m][source])
    assert torch.equal(batch.tokens, plain.tokens[rows if letter == "l" else torch.arange(12)])
    assert torch.equal(batch.labels, plain.labels)


# What holds of all.


def names(modality_gone):
    """Every kind with one modality removed, by the level it goes at."""
    letters = "".join(letter for letter, known in LETTERS.items() if known != modality_gone)
    for kind in KINDS:
        if kind.startswith("words") and "l" not in letters:
            continue
        part = f"permute/{letters[0]}" if kind == "permute" else kind
        if kind.startswith("noise"):
            part = f"noise/{letters[-1]}=0.5"
        yield f"inter/{letters}+{part}", TOKENS if kind.startswith("words") else MissingConfig()


@pytest.mark.parametrize("padding", ["end", "front"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_a_removed_modality_tells_nothing_in_any_kind(modality, padding):
    split = small_split(padding=padding)
    other = with_other(split, {modality}, 5, padding)
    for name, config in names(modality):
        options = {"config": config, "with_tokens": config.level == "tokens", "scale": SCALE, "padding": padding}
        before, after = (dict(bits(batch_of(name, split=some, **options))) for some in (split, other))
        assert before.keys() == after.keys()
        for field, value in before.items():
            assert torch.equal(value, after[field]), (name, field)


@pytest.mark.parametrize("name", ["random/0.5", "random-table/0.5"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_a_modality_removed_by_chance_tells_nothing_in_the_clips_that_lose_it(name, modality):
    split = small_split()
    other = with_other(split, {modality}, 5, "end")
    config = MissingConfig()
    before, after = (batch_of(name, config, split=some, scale=SCALE, with_tokens=True) for some in (split, other))
    lost = ~before.observed[modality].any(1)
    assert 0 < int(lost.sum()) < 12
    for (field, value), (_, theirs) in zip(bits(before), bits(after), strict=True):
        assert torch.equal(value[lost], theirs[lost]), field


@settings(max_examples=20)
@given(
    st.sampled_from(["noise/a=0.5,v=1.0", "words/0.5", "permute/a", "noise/a=1.0+permute/a", "words/0.5+permute/l"]),
    st.permutations(range(12)),
    st.integers(1, 12),
)
def test_batch_size_and_order_do_not_matter(name, order, size):
    options = {"config": TOKENS, "with_tokens": True}
    whole = dict(tensors(batch_of(name, **options)))
    for start in range(0, 12, size):
        index = torch.tensor(order[start : start + size])
        for field, value in tensors(batch_of(name, index=index, **options)):
            assert torch.equal(value, index if field == "index" else whole[field][index]), field


@pytest.mark.parametrize("name", ["noise/0.5", "permute/l", "words/1.0+permute/l"])
def test_nothing_is_written_into_the_split(name):
    split, untouched = small_split(), small_split()
    tokens = "words" in name
    for index in (slice(None), torch.arange(12)):
        batch = batch_of(name, TOKENS if tokens else KEEP, index, split=split, with_tokens=tokens)
        for _, value in tensors(replace(batch, index=None)):
            value.fill_(1)
    assert torch.equal(split.tokens, untouched.tokens)
    for modality in MODALITIES:
        assert torch.equal(split.features[modality], untouched.features[modality])


@pytest.mark.parametrize("normalise", ["none", "zscore"])
def test_a_data_module_takes_spread_and_words_from_the_training_split(normalise):
    data = data_module(random_corpus())
    data.normalise = normalise
    rows = torch.arange(10)
    plain, noisy = (data.cell_batch(Cell.parse(name), rows) for name in ("inter/lav", "noise/a=0.5"))
    spread = 1 if normalise == "zscore" else deviations(data.corpus.splits["train"], data.corpus.padding)["audio"]
    moved = (noisy.audio - plain.audio)[plain.observed["audio"]] / spread
    assert float(moved.std()) == pytest.approx(0.5, rel=0.15)
    [whole] = data.cell_batches(Cell.parse("noise/a=0.5"), 0)
    assert torch.equal(whole.audio, noisy.audio)


def test_a_data_module_refuses_cells_of_another_level():
    from msabench.data.datamodule import MSADataModule

    with pytest.raises(MSABenchError, match="set level to 'tokens'"):
        MSADataModule("synth", grid=["words/0.3"])
    for level in ("tokens", "vectors"):
        assert MSADataModule("synth", grid=["stress"], missing=MissingConfig(level=level)).cells
    assert len(GRIDS["stress"]) == len(set(GRIDS["stress"]))

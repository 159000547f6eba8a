import math
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from msabench.errors import MSABenchError
from msabench.missingness import philox
from msabench.missingness.conditions import GRIDS, MODALITIES, SUBSETS, Cell, distinct
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import (
    Purpose,
    cell_masks,
    complete_masks,
    dropped_share,
    inner_steps,
    mask_hash,
    training_masks,
    training_patterns,
    validation_masks,
)
from tests.support.drawn_masks import (
    TOKENS,
    VECTORS,
    assert_parts_are_drawn_as_the_whole,
    assert_seeds_epochs_and_views_differ,
    flat,
    golden_training,
    golden_validation,
    many_clips,
    rates,
    same,
    small_clips,
)
from tests.support.small_split import STEPS

KEEP = MissingConfig(lengths="keep")
REGIMES = {
    "complete": MissingConfig("complete"),
    "intra": MissingConfig("intra"),
    "intra_fixed": MissingConfig("intra", rate=(0.4, 0.4)),
    "intra_per_modality": MissingConfig("intra", rate=(0.0, 1.0), per="modality"),
    "inter": MissingConfig("inter"),
    "inter_proper": MissingConfig("inter", subsets="proper"),
    "mixed": MissingConfig("mixed"),
    "mixed_fsrf": MissingConfig("mixed_fsrf"),
    "lnln": MissingConfig("lnln"),
}
CELLS = ("inter/lav", "inter/l", "inter/av", "intra/0.1", "intra/0.5", "intra/0.9", "intra/1.0", "inter/la+intra/0.3")


# The protocol, frozen.

GOLDEN_TRAINING = {
    "complete": ("f8d7afc07965c5d1", "f8d7afc07965c5d1"),
    "intra": ("5e77dd417e858bbf", "ee478f9867dc154f"),
    "intra_fixed": ("9084250b5fccead4", "8cc96e87f1555982"),
    "intra_per_modality": ("b55f6129f39d6298", "9aa0a3ee5bf229fc"),
    "inter": ("a9e154568c3db1cc", "bb7f5994c3c13f27"),
    "inter_proper": ("345027f9eb9c5ce5", "12fd6d8e2a2bf2b9"),
    "mixed": ("59721e065cf66eb8", "6ea66631baa284a1"),
    "mixed_fsrf": ("3d3bcd993f1efca9", "b7cb870cc0b54f11"),
    "lnln": ("8ea0d92aac9f24a7", "6664aa731e1bd123"),
}
GOLDEN_VALIDATION = {
    "complete": "f8d7afc07965c5d1",
    "intra": "8ae1742bbeee2ec8",
    "intra_fixed": "4f8215b1e7107d30",
    "intra_per_modality": "43a215d03d667b2a",
    "inter": "22404da58daed1e3",
    "inter_proper": "81d2b9fa60e4162e",
    "mixed": "7c64cbcb0032dd52",
    "mixed_fsrf": "dd6ff46b9588d96c",
    "lnln": "bfdef80302216c71",
}
GOLDEN_CELLS = {
    "inter/lav": ("f8d7afc07965c5d1", "f8d7afc07965c5d1", "f8d7afc07965c5d1", "1a53ae0b445540e1"),
    "inter/l": ("2ca5d14e831ef715", "2ca5d14e831ef715", "2ca5d14e831ef715", "9d808c61bb43a591"),
    "inter/av": ("f6fe152155f99225", "f6fe152155f99225", "f6fe152155f99225", "cdc2c2c418d2ad6a"),
    "intra/0.1": ("87fb1e971731712b", "7bbb35daaa702876", "79ae3af38bf33b36", "72150ac82919f3f9"),
    "intra/0.5": ("227dd5421c3072b3", "3c74f9efeba87c5f", "2c1673a2bc5d874b", "19ea5f1fff428bf6"),
    "intra/0.9": ("f3be9f80e53a628d", "8ecf4be9f769cd66", "88b9569a08dc027f", "ffce616b2e95d3e3"),
    "intra/1.0": ("a02d551e971cbd60", "a02d551e971cbd60", "a02d551e971cbd60", "a02d551e971cbd60"),
    "inter/la+intra/0.3": ("6dc05be507419e8c", "2b88b2eadd3b285f", "8cb8de7984cb7aae", "0c57794e8355b686"),
}


@pytest.mark.parametrize("name", REGIMES)
def test_golden_training(name):
    assert golden_training(REGIMES[name]) == GOLDEN_TRAINING[name]


@pytest.mark.parametrize("name", REGIMES)
def test_golden_validation(name):
    assert golden_validation(REGIMES[name]) == GOLDEN_VALIDATION[name]


@pytest.mark.parametrize("name", CELLS)
def test_golden_cells(name):
    cell = Cell.parse(name)
    hashes = (
        mask_hash(cell_masks(cell, VECTORS, small_clips(), mask_seed=0)),
        mask_hash(cell_masks(cell, VECTORS, small_clips(), mask_seed=2**40)),
        mask_hash(cell_masks(cell, TOKENS, small_clips(), mask_seed=0)),
        mask_hash(cell_masks(cell, VECTORS, small_clips(padding="front"), mask_seed=0)),
    )
    assert hashes == GOLDEN_CELLS[name]


def test_purposes_are_frozen():
    assert [int(purpose) for purpose in Purpose] == list(range(13))
    assert [purpose.name for purpose in Purpose][:3] == ["TEST_FRAMES", "VALIDATION_FRAMES", "VALIDATION_CLIPS"]


@pytest.mark.parametrize("rate", ["0.0", "0.3", "0.7", "1.0"])
def test_cells_follow_the_definition(rate):
    clips = small_clips()
    masks = cell_masks(Cell("lv", rate), KEEP, clips, mask_seed=77)
    for number, (modality, T) in enumerate(STEPS.items()):
        for row in range(len(clips.uid)):
            for frame in range(T):
                low, high = clips.uid[row].tolist()
                counter = (low, high, frame >> 2, int(Purpose.TEST_FRAMES) << 28 | number << 24)
                word = philox.philox4x32(tuple(torch.tensor(c) for c in counter), (77, 0))[frame & 3]
                observed = (
                    modality != "audio"
                    and frame < clips.lengths[modality][row]
                    and Fraction(int(word) >> 8, 2**24) >= Fraction(rate)
                )
                assert bool(masks.observed[modality][row, frame]) == observed


# What masks may depend on.


@settings(max_examples=15)
@given(st.sampled_from(sorted(REGIMES)), st.permutations(range(12)), st.integers(3, 12), st.integers(1, 64))
def test_order_batch_size_and_chunks_do_not_matter(name, order, size, budget):
    cells = [(Cell("lav", "0.4"), REGIMES[name])]
    assert_parts_are_drawn_as_the_whole([REGIMES[name]], cells, order, size, budget)


def test_process_and_thread_count_do_not_matter():
    program = (
        "import torch; torch.set_num_threads(3)\n"
        "from tests.missingness.test_patterns import *\n"
        "print(mask_hash(training_masks(REGIMES['mixed'], many_clips(3000, 20), 1, 2)[0]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert run.stdout.strip() == mask_hash(training_masks(REGIMES["mixed"], many_clips(3000, 20), 1, 2)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", REGIMES)
def test_devices_agree(name):
    clips = small_clips(200)
    here = training_masks(REGIMES[name], clips, 1, 2, n_views=2)
    there = training_masks(REGIMES[name], clips.to("cuda"), 1, 2, n_views=2)
    assert [mask_hash(view) for view in here] == [mask_hash(view) for view in there]


@pytest.mark.parametrize("name", REGIMES)
def test_first_view_does_not_depend_on_the_number_of_views(name):
    (alone,) = training_masks(REGIMES[name], small_clips(), 1, 2)
    assert same(alone, training_masks(REGIMES[name], small_clips(), 1, 2, n_views=2)[0])


@pytest.mark.parametrize("name", [name for name in REGIMES if name != "complete"])
def test_training_depends_on_seed_and_epoch_and_validation_on_the_mask_seed(name):
    assert_seeds_epochs_and_views_differ(REGIMES[name])


def test_cells_do_not_depend_on_the_training_regime():
    hashes = {mask_hash(cell_masks(Cell("la", "0.4"), c, small_clips(), 3)) for c in REGIMES.values()}
    assert len(hashes) == 1


def test_masks_are_independent_streams():
    config, cell = MissingConfig("intra", rate=(0.5, 0.5)), Cell("lav", "0.5")
    clips, other_split = many_clips(3000, 12), many_clips(3000, 12, split="test")
    streams = [cell_masks(cell, VECTORS, clips, 1).observed[m] for m in MODALITIES]
    streams += [cell_masks(cell, VECTORS, clips, 2).observed["text"]]
    streams += [cell_masks(cell, VECTORS, other_split, 1).observed["text"]]
    streams += [validation_masks(config, clips, 1).observed["text"]]
    streams += [view.observed["text"] for view in training_masks(config, clips, 1, 0, n_views=2)]
    streams += [training_masks(config, clips, 1, 1)[0].observed["text"]]
    off_diagonal = np.corrcoef(torch.stack([s.ravel() for s in streams]).float().numpy()) - np.eye(len(streams))
    assert np.abs(off_diagonal).max() < 5 / math.sqrt(streams[0].numel())


@pytest.mark.parametrize("make", [training_masks, validation_masks, cell_masks])
def test_seeds_out_of_range_are_refused(make):
    arguments = {
        training_masks: (REGIMES["intra"], small_clips(), -1, 0),
        validation_masks: (REGIMES["intra"], small_clips(), 2**64),
        cell_masks: (Cell("lav", "0.5"), VECTORS, small_clips(), -1),
    }[make]
    with pytest.raises(MSABenchError, match="seed"):
        make(*arguments)


def test_number_of_views():
    with pytest.raises(ValueError, match="n_views"):
        training_masks(VECTORS, small_clips(), 1, 0, n_views=3)


# Rates.


@given(rates, rates, st.sampled_from(["hide", "keep"]), st.sampled_from(["tokens", "vectors"]), st.integers(0, 99))
def test_masks_are_nested_over_rates(one, other, lengths, level, mask_seed):
    low, high = sorted((one, other))
    config, clips = MissingConfig(lengths=lengths, level=level), small_clips()
    more = cell_masks(Cell("lav", low), config, clips, mask_seed)
    fewer = cell_masks(Cell("lav", high), config, clips, mask_seed)
    assert bool((flat(fewer) <= flat(more)).all())


@given(rates, st.sampled_from(SUBSETS), st.integers(0, 99))
def test_an_unavailable_modality_leaves_the_others_alone(rate, subset, mask_seed):
    clips = small_clips()
    part = cell_masks(Cell(subset, rate), VECTORS, clips, mask_seed)
    whole = cell_masks(Cell("lav", rate), VECTORS, clips, mask_seed)
    for modality in MODALITIES:
        if modality in Cell(subset).modalities:
            assert torch.equal(part.observed[modality], whole.observed[modality])
        else:
            assert not part.observed[modality].any()


@pytest.mark.parametrize("rate", ["0.0", "0.001", "0.1", "0.25", "0.3", "0.5", "0.7", "0.9", "0.999", "1.0"])
def test_dropped_share_is_the_rate(rate):
    clips = many_clips(1500, 40)
    frames = 1500 * 40
    tolerance = 5 * math.sqrt(float(rate) * (1 - float(rate)) / frames)
    for share in dropped_share(cell_masks(Cell("lav", rate), VECTORS, clips, 11), clips).values():
        assert abs(share - float(rate)) <= tolerance


def test_dropped_share_counts_existing_frames_only():
    clips = small_clips()
    assert dropped_share(complete_masks(clips), clips) == dict.fromkeys(MODALITIES, 0.0)
    shares = dropped_share(cell_masks(Cell("l"), VECTORS, clips, 0), clips)
    assert shares == {"text": 0.0, "audio": 1.0, "vision": 1.0}
    nothing = replace(clips, lengths={m: torch.zeros_like(n) for m, n in clips.lengths.items()})
    assert dropped_share(complete_masks(nothing), nothing)["text"] == 0.0


def test_keeping_cls_and_sep_lowers_the_share_of_dropped_tokens():
    clips = many_clips(2000, 24)
    nominal, kept = 0.9, 2 / 24
    share = dropped_share(cell_masks(Cell("lav", "0.9"), TOKENS, clips, 1), clips)["text"]
    without_words = nominal**22  # then [CLS] and [SEP] go as well
    assert share == pytest.approx(nominal * (1 - kept) + kept * without_words, abs=0.005)


# Removed modalities, lengths, padding.


@given(
    rate=rates,
    subset=st.sampled_from(SUBSETS),
    lengths=st.sampled_from(["hide", "keep"]),
    level=st.sampled_from(["tokens", "vectors"]),
    padding=st.sampled_from(["end", "front"]),
    own=st.lists(st.integers(0, 8), min_size=3, max_size=3),
)
def test_rule_for_removed_modalities(rate, subset, lengths, level, padding, own):
    config = MissingConfig(lengths=lengths, level=level)
    split_lengths = {m: torch.tensor([T, n, n]) for (m, T), n in zip(STEPS.items(), own, strict=True)}
    clips = small_clips(3, padding, lengths=split_lengths)
    masks = cell_masks(Cell(subset, rate), config, clips, 4)
    for modality, T in STEPS.items():
        valid = clips.valid(modality)
        for row in range(3):
            n = int(split_lengths[modality][row])
            frames = range(T - n, T) if padding == "front" else range(n)
            assert valid[row].nonzero().ravel().tolist() == list(frames)
            removed = not masks.observed[modality][row].any()
            if removed and lengths == "hide":
                assert masks.valid[modality][row].all()
                assert masks.last[modality][row] == T - 1
            else:
                assert torch.equal(masks.valid[modality][row], valid[row])
                assert masks.last[modality][row] == (T - 1 if padding == "front" else max(n - 1, 0))
            if not removed:
                assert bool((masks.observed[modality][row] <= valid[row]).all())
            if modality not in Cell(subset).modalities or n == 0:
                assert removed


@given(rates, st.sampled_from(["end", "front"]))
def test_level_tokens_keeps_the_marks_of_texts_that_keep_a_word(rate, padding):
    clips = small_clips(12, padding)
    of_tokens = cell_masks(Cell("lav", rate), TOKENS, clips, 8)
    of_vectors = cell_masks(Cell("lav", rate), replace(TOKENS, level="vectors"), clips, 8)
    valid = clips.valid("text")
    words = inner_steps(valid)
    surviving = of_vectors.observed["text"] & words
    expected = (surviving | (valid & ~words)) & surviving.any(1, keepdim=True)
    assert torch.equal(of_tokens.observed["text"], expected)
    assert torch.equal(of_tokens.observed["audio"], of_vectors.observed["audio"])


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_text_without_words_counts_as_removed_at_level_tokens(length):
    clips = small_clips(2, lengths={m: torch.tensor([length, T]) for m, T in STEPS.items()})
    masks = complete_masks(clips, TOKENS)
    assert masks.observed["text"].any(1).tolist() == [False, True]
    assert masks.observed["audio"].any(1).tolist() == [length > 0, True]


def test_inner_steps():
    valid = torch.tensor([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [1] * 5])
    inner = [[0] * 5, [0] * 5, [0] * 5, [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 1, 1, 0]]
    assert inner_steps(valid.bool()).long().tolist() == inner


def test_complete_masks_are_those_of_the_complete_cell_and_regime():
    clips = small_clips()
    assert same(complete_masks(clips), cell_masks(Cell(), VECTORS, clips, 9))
    assert same(complete_masks(clips), training_masks(VECTORS, clips, 1, 2)[0])
    assert all(torch.equal(complete_masks(clips).observed[m], clips.valid(m)) for m in MODALITIES)


def test_masks_do_not_share_memory_with_clips():
    clips = small_clips()
    before = {m: length.clone() for m, length in clips.lengths.items()}
    masks = complete_masks(clips)
    for modality in MODALITIES:
        masks.last[modality].fill_(-5)
        assert masks.observed[modality].data_ptr() != masks.valid[modality].data_ptr()
        assert torch.equal(clips.lengths[modality], before[modality])


def test_hash_tells_masks_apart():
    hashes = {mask_hash(cell_masks(cell, VECTORS, small_clips(), 0)) for cell in distinct(GRIDS["paper"])}
    assert len(hashes) == 16
    masks = complete_masks(small_clips())
    before = mask_hash(masks)
    assert len(before) == 16
    masks.observed["vision"][-1, 0] = ~masks.observed["vision"][-1, 0]
    assert mask_hash(masks) != before


# Regimes. Categories: the subset of available modalities, and whether frames are dropped.

N = 30000
ALL = 2**24


def categories(pattern):
    """Category of each clip: 2 * position in SUBSETS + (any rate above 0)."""
    code = {tuple(letter in subset for letter in "lav"): 2 * i for i, subset in enumerate(SUBSETS)}
    subset = torch.tensor([code[tuple(row)] for row in pattern.available.tolist()])
    return subset + (pattern.threshold > 0).any(1)


def assert_frequencies(found, expected):
    """Chi-square test of category counts; categories that are not expected must not occur."""
    counts = torch.bincount(found, minlength=14)
    probabilities = np.zeros(14)
    for category, probability in expected.items():
        probabilities[category] = float(probability)
    assert counts[probabilities == 0].sum() == 0
    observed = counts.numpy()[probabilities > 0]
    if len(observed) > 1:
        assert stats.chisquare(observed, probabilities[probabilities > 0] * len(found)).pvalue > 1e-4


COMPLETE, DROPPED = 12, 13
MIXED = {COMPLETE: Fraction(1, 3), DROPPED: Fraction(1, 3)} | {2 * i: Fraction(1, 18) for i in range(6)}
FSRF = {category: Fraction(1, 14) for category in range(14)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("complete", {COMPLETE: 1}),
        ("intra", {DROPPED: 1}),
        ("inter", {2 * i: Fraction(1, 7) for i in range(7)}),
        ("inter_proper", {2 * i: Fraction(1, 6) for i in range(6)}),
        ("mixed", MIXED),
        ("mixed_fsrf", FSRF),
        ("lnln", {COMPLETE: Fraction(1, 8), DROPPED: Fraction(7, 8)}),
    ],
)
def test_frequencies(name, expected):
    for pattern in training_patterns(REGIMES[name], many_clips(N, 1), 3, 4, n_views=1 if "mixed" in name else 2):
        assert_frequencies(categories(pattern), expected)


@pytest.mark.parametrize(("name", "marginal"), [("mixed", MIXED), ("mixed_fsrf", FSRF)])
def test_second_view_is_drawn_as_if_redrawn_until_it_differs(name, marginal):
    first, second = map(categories, training_patterns(REGIMES[name], many_clips(4 * N, 1), 3, 4, n_views=2))
    assert_frequencies(first, marginal)
    for category in marginal:
        given_first = second[first == category]
        repeats = category % 2 == 1  # two versions with frames dropped differ anyway
        left = {c: p for c, p in marginal.items() if repeats or c != category}
        assert_frequencies(given_first, {c: p / sum(left.values()) for c, p in left.items()})


@pytest.mark.parametrize(("name", "low", "high"), [("intra", 0.1, 0.9), ("mixed", 0.1, 0.9), ("mixed_fsrf", 0.0, 0.9)])
def test_rate_of_a_clip_is_uniform_and_shared_by_its_modalities(name, low, high):
    for pattern in training_patterns(REGIMES[name], many_clips(N, 1), 3, 4, n_views=2):
        assert torch.equal(pattern.threshold, pattern.threshold[:, :1].expand(-1, 3))
        drawn = pattern.threshold[pattern.threshold[:, 0] > 0, 0].numpy() / ALL
        assert stats.kstest(drawn, stats.uniform(low, high - low).cdf).pvalue > 1e-4


def test_rates_per_modality_are_uniform_and_independent():
    (pattern,) = training_patterns(REGIMES["intra_per_modality"], many_clips(N, 1), 3, 4)
    for column in pattern.threshold.T.numpy():
        assert stats.kstest(column / ALL, stats.uniform(0, 1).cdf).pvalue > 1e-4
    assert np.abs(np.corrcoef(pattern.threshold.T.numpy()) - np.eye(3)).max() < 5 / math.sqrt(N)


def test_lnln_rates():
    (pattern,) = training_patterns(REGIMES["lnln"], many_clips(N, 1), 3, 4)
    dropped = pattern.threshold > 0
    assert_frequencies((dropped.long() * torch.tensor([4, 2, 1])).sum(1), {c: Fraction(1, 8) for c in range(8)})
    for column in range(3):
        drawn = pattern.threshold[dropped[:, column], column].numpy() / ALL
        assert stats.kstest(drawn, stats.uniform(0, 1).cdf).pvalue > 1e-4


def test_a_fixed_rate_drops_like_the_cell():
    (pattern,) = training_patterns(MissingConfig("intra", rate=(0.3, 0.3)), many_clips(50, 1), 3, 4)
    assert pattern.threshold.unique().tolist() == [Cell("lav", "0.3").threshold]


@given(st.integers(0, 11), st.integers(0, 7))
def test_a_frame_is_observed_when_its_draw_equals_the_threshold(row, frame):
    clips = many_clips(12, 8)
    purpose = Purpose.TRAINING_FRAMES_VIEW0
    draw = int(philox.draws24(3, purpose, 4, clips.uid, clips.seq_lens)["audio"][row, frame])
    for threshold, observed in ((draw, True), (draw + 1, False)):
        config = MissingConfig("intra", rate=(threshold / ALL, threshold / ALL))
        (masks,) = training_masks(config, clips, 3, 4)
        assert bool(masks.observed["audio"][row, frame]) == observed


@given(st.floats(0, 1), st.floats(0, 1))
def test_thresholds_stay_within_the_range_of_rates(one, other):
    low, high = sorted((one, other))
    (pattern,) = training_patterns(MissingConfig("intra", rate=(low, high)), many_clips(50, 1), 3, 4)
    assert math.ceil(low * ALL) <= int(pattern.threshold.min())
    assert int(pattern.threshold.max()) <= math.ceil(high * ALL)


@pytest.mark.parametrize("name", ["intra", "mixed", "mixed_fsrf", "lnln"])
def test_masks_realise_their_patterns(name):
    clips = many_clips(2000, 60)
    config = REGIMES[name]
    (pattern,) = training_patterns(config, clips, 3, 4)
    (masks,) = training_masks(config, clips, 3, 4)
    for column, modality in enumerate(MODALITIES):
        available = pattern.available[:, column]
        assert not masks.observed[modality][~available].any()
        expected = 1 - pattern.threshold[available, column].double() / ALL
        surprise = masks.observed[modality][available].double().mean(1) - expected
        assert abs(float(surprise.mean())) < 5 * 0.5 / math.sqrt(60 * len(surprise))
        assert float(surprise.abs().max()) < 6 * 0.5 / math.sqrt(60)

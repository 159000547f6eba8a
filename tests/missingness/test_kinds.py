"""Cells and regimes beyond subsets and independent frames: laws of modalities, common steps, runs, exchanges."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msabench.errors import MSABenchError
from msabench.missingness import clip_draws, dropping, philox
from msabench.missingness.clip_draws import TABLE, donors
from msabench.missingness.conditions import DROPS, LAWS, LETTERS, MODALITIES, SUBSETS, TENTHS, Cell
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import (
    cell_masks,
    cell_pattern,
    dropped_share,
    inner_steps,
    mask_hash,
    training_patterns,
)
from msabench.missingness.purposes import Purpose
from msabench.missingness.realised import Realised
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

REGIMES = {
    "random": MissingConfig("random", rate=(0.3, 0.3)),
    "random_range": MissingConfig("random", rate=(0, 0.7)),
    "random_table": MissingConfig("random_table", rate=(0.4, 0.4)),
    "only": MissingConfig("only", only="la"),
    "aligned": MissingConfig("aligned"),
    "block": MissingConfig("block"),
    "block_per_modality": MissingConfig("block", per="modality"),
    "per_modality": MissingConfig("per_modality", rates="l=0.2,a=0.5"),
}
CELLS = (
    *("random/0.3", "random/0.7", "random-table/0.5", "intra/l=0.2,a=0.5", "aligned/0.4", "block/0.4"),
    *("block-aligned/0.4", "inter/la+aligned/0.4", "inter/av+block/0.3", "random/0.4+block-aligned/0.5"),
)

GOLDEN_CELLS = {
    "random/0.3": ("9984e50cf088f7b6", "3e8100eb397c9d11", "aff12815283d97ec"),
    "random/0.7": ("e531b8cba32e180b", "cf7cb1fa1751476f", "22bf47070fabdfdd"),
    "random-table/0.5": ("13b59cc4e7a9bb00", "be7b242b3641f07b", "c4bf0638e92d85a8"),
    "intra/l=0.2,a=0.5": ("d9186b98b71807ae", "3f15ee184394a539", "564f21cda8e47de3"),
    "aligned/0.4": ("939b5a38926d13f2", "11acce9d977450f1", "7bbb5dc5f73974d6"),
    "block/0.4": ("935df90c568375e2", "7f761b34dbecd6ea", "a932d7648a57af99"),
    "block-aligned/0.4": ("8327c81efb39c4d7", "8f063648bdfffca6", "f99a7a04139b29b4"),
    "inter/la+aligned/0.4": ("a7a2d50e19827e9b", "f97a2df5f9ad1714", "2645d1a5df85bb98"),
    "inter/av+block/0.3": ("48672f48e80527d5", "08a39edb51142b97", "05a2c9fe44a31a01"),
    "random/0.4+block-aligned/0.5": ("5562669be3b6444a", "0593ced45a7c2c58", "1ecd9de0e75a2dce"),
    "permute/a": ("6ed74863e0a13ca8", "20e394872710383e", "ee9dd84777574a1b"),
}
GOLDEN_TRAINING = {
    "random": ("de3851c7261c76f7", "3f8db8d677dc2b32"),
    "random_range": ("1b24731207af55dd", "4eaf7bde52c13633"),
    "random_table": ("0c3f30d2e1f8473e", "ecd9f094171b976f"),
    "only": ("436d30019ff7a3fc", "436d30019ff7a3fc"),
    "aligned": ("63e1995c852e7319", "266457f6199415a2"),
    "block": ("7887d7d1d78a0309", "38e513f5f5102e74"),
    "block_per_modality": ("e71b9224e66c592e", "c04404267595c0c6"),
    "per_modality": ("956b47ffedf134bc", "49a08aee3e7d5933"),
}
GOLDEN_VALIDATION = {
    "random": "8d609baf05a523dd",
    "random_range": "6f6e4dd680d6f5ec",
    "random_table": "0f62970fbdc5d046",
    "only": "436d30019ff7a3fc",
    "aligned": "95c798902cdb1b9a",
    "block": "6278542b9dae13bf",
    "block_per_modality": "3be838500eb40d85",
    "per_modality": "cc1049896f6c260d",
}


@pytest.mark.parametrize("name", [*CELLS, "permute/a"])
def test_golden_cells(name):
    cell = Cell.parse(name)
    hashes = (
        mask_hash(cell_masks(cell, VECTORS, small_clips(), mask_seed=0)),
        mask_hash(cell_masks(cell, TOKENS, small_clips(), mask_seed=2**40)),
        mask_hash(cell_masks(cell, VECTORS, small_clips(padding="front"), mask_seed=0)),
    )
    assert hashes == GOLDEN_CELLS[name]


@pytest.mark.parametrize("name", REGIMES)
def test_golden_regimes(name):
    assert golden_training(REGIMES[name]) == GOLDEN_TRAINING[name]
    assert golden_validation(REGIMES[name]) == GOLDEN_VALIDATION[name]


# What masks may depend on.


@settings(max_examples=15)
@given(st.permutations(range(12)), st.integers(3, 12), st.integers(1, 64), st.sampled_from([VECTORS, TOKENS]))
def test_order_batch_size_and_chunks_do_not_matter(order, size, budget, config):
    cells = [(Cell.parse(name), config) for name in CELLS]
    assert_parts_are_drawn_as_the_whole(REGIMES.values(), cells, order, size, budget)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", [*CELLS, "permute/a"])
def test_devices_agree(name):
    clips, cell = small_clips(200), Cell.parse(name)
    assert mask_hash(cell_masks(cell, VECTORS, clips, 1)) == mask_hash(cell_masks(cell, VECTORS, clips.to("cuda"), 1))


@pytest.mark.parametrize("name", [name for name in REGIMES if name != "only"])
def test_training_depends_on_seed_epoch_and_view_and_validation_on_the_mask_seed(name):
    assert_seeds_epochs_and_views_differ(REGIMES[name])


# Modalities removed by chance.


@given(st.sampled_from(LAWS), st.sampled_from(TENTHS), st.integers(0, 999))
def test_a_modality_always_stays_and_more_go_at_higher_rates(law, rate, mask_seed):
    clips = many_clips(200, 4)
    here = cell_pattern(Cell(removal=f"{law}/{rate}"), clips, mask_seed).available
    assert here.any(1).all()
    for other in (other for other in TENTHS if other > rate):
        more = cell_pattern(Cell(removal=f"{law}/{other}"), clips, mask_seed).available
        assert bool((more <= here).all())


def test_the_rate_of_seven_tenths_leaves_one_modality():
    for law in LAWS:
        available = cell_pattern(Cell(removal=f"{law}/0.7"), many_clips(500, 2), 3).available
        assert available.sum(1).unique().tolist() == [1]


def weights(law, rate):
    """Probabilities of one, two and three modalities."""
    if law == "random":
        q = 1 - Fraction(3, 2) * Fraction(rate)
        q = max(q, Fraction(0))
        return (1 - q) ** 2, 2 * q * (1 - q), q**2
    two, one = TABLE[round(10 * float(rate))]
    return two, one, 1 - two - one


@pytest.mark.parametrize("rate", TENTHS)
@pytest.mark.parametrize("law", LAWS)
def test_shares_of_clips_are_those_of_the_law(law, rate):
    n = 20000
    available = cell_pattern(Cell(removal=f"{law}/{rate}"), many_clips(n, 1), 4).available
    for count, expected in zip((1, 2, 3), weights(law, rate), strict=True):
        p = float(expected)
        assert abs(float((available.sum(1) == count).double().mean()) - p) <= 4 * math.sqrt(p * (1 - p) / n)
    missing = min(float(rate), 2 / 3)
    for column in available.T:
        assert abs(float((~column).double().mean()) - missing) <= 4 * math.sqrt(missing * (1 - missing) / n)


def test_rates_are_exact_on_the_definition():
    clips = many_clips(400, 1)
    draws = clip_draws.clip_draws(clips.uid, 9, Purpose.TEST_CLIPS, 0, 8).tolist()
    found = {
        name: cell_pattern(Cell.parse(name), clips, 9).available.tolist() for name in ("random/0.3", "random-table/0.4")
    }
    for row, (case, rate, _, _, _, *coins) in enumerate(draws):
        kept = case * 3 >> 24
        lost = [m != kept and Fraction(coins[m], 2**24) < Fraction(9, 20) for m in range(3)]
        assert found["random/0.3"][row] == [not gone for gone in lost]
        u = Fraction(rate, 2**24)
        count = 2 if u < Fraction(1, 2) else 1 if u < Fraction(7, 10) else 0
        first = sorted((m for m in range(3) if m != kept), key=lambda m: (coins[m], m))[:count]
        assert found["random-table/0.4"][row] == [m not in first for m in range(3)]


@pytest.mark.parametrize("rate", ["0.1", "0.4", "0.7"])
@pytest.mark.parametrize("law", LAWS)
def test_a_mean_over_clips_is_a_mixture_of_the_seven_subsets(law, rate):
    n, seeds = 686, 30
    clips = many_clips(n, 1)
    # Any score that a clip has under each subset, e.g. whether it is classified rightly.
    scores = torch.rand(n, 8, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 2, 8)
    code = torch.tensor([4, 2, 1])
    means = []
    for seed in range(seeds):
        subset = (cell_pattern(Cell(removal=f"{law}/{rate}"), clips, seed).available.long() * code).sum(1)
        means.append(float(scores.gather(1, subset.unsqueeze(1)).mean()))
    single, pair, full = (float(weight) for weight in weights(law, rate))
    of_subset = scores.mean(0)
    expected = single * float(of_subset[[4, 2, 1]].mean()) + pair * float(of_subset[[6, 5, 3]].mean())
    expected += full * float(of_subset[7])
    assert abs(np.mean(means) - expected) < 4 * float(scores.std()) / math.sqrt(n * seeds)


def test_a_range_of_rates_is_uniform():
    (pattern,) = training_patterns(MissingConfig("random", rate=(0, 0.7)), many_clips(30000, 1), 3, 4)
    # E min(1, 1.5 R) for R uniform in [0, .7]: two of three modalities go at this rate.
    gone = (0.5 * 2 / 3 + 0.7 - 2 / 3) / 0.7
    share = float((~pattern.available).double().mean())
    assert share == pytest.approx(2 / 3 * gone, abs=0.006)
    assert pattern.available.any(1).all()


@pytest.mark.parametrize("law", LAWS)
def test_regimes_remove_as_the_cells_do(law):
    config = MissingConfig(law.replace("-", "_"), rate=(0.4, 0.4))
    n = 20000
    for pattern in training_patterns(config, many_clips(n, 1), 3, 4, n_views=2):
        for count, expected in zip((1, 2, 3), weights(law, "0.4"), strict=True):
            p = float(expected)
            assert abs(float((pattern.available.sum(1) == count).double().mean()) - p) <= 4 * math.sqrt(p * (1 - p) / n)


def test_what_was_realised_is_counted():
    lengths = {m: torch.tensor([0, 3, 4, 5]) for m in STEPS}
    clips = small_clips(4, lengths=lengths)
    cell = Cell.parse("random/0.5")
    masks = cell_masks(cell, VECTORS, clips, 1)
    found = Realised.of(cell, masks, clips)
    assert found is not None
    seen = [tuple(bool(masks.observed[m][row].any()) for m in MODALITIES) for row in range(4)]
    assert found.missing == 1 - sum(map(sum, seen)) / 9
    assert sum(found.subsets.values()) == 3  # the clip without any frame has no subset
    for subset in SUBSETS:
        assert found.subsets[subset] == seen.count(tuple(letter in subset for letter in LETTERS))
    assert Realised.of(Cell.parse("inter/la"), masks, clips) is None


# Frames.


@given(st.sampled_from(DROPS), rates, rates, st.sampled_from([VECTORS, TOKENS]), st.sampled_from(["end", "front"]))
def test_holes_are_nested_over_rates(drop, one, other, config, padding):
    low, high = sorted((one, other))
    clips = small_clips(padding=padding)
    more, fewer = (cell_masks(Cell("lav", rate, drop), config, clips, 3) for rate in (low, high))
    assert bool((flat(fewer) <= flat(more)).all())


@pytest.mark.parametrize("rate", ["0.1", "0.3", "0.5", "0.9"])
@pytest.mark.parametrize("drop", DROPS)
def test_dropped_share_is_the_rate(drop, rate):
    n, length = 3000, 13
    clips = many_clips(n, length)
    p = float(rate)
    # Of runs only the rounding of their lengths is left to chance.
    spread = math.sqrt(p * (1 - p) / (n * length)) if drop in ("intra", "aligned") else 0.5 / length / math.sqrt(n)
    for share in dropped_share(cell_masks(Cell("lav", rate, drop), VECTORS, clips, 11), clips).values():
        assert abs(share - p) <= 5 * spread


def test_rates_by_modality():
    clips = many_clips(2000, 20)
    cell, plain = Cell.parse("intra/l=0.2,a=0.5"), {rate: Cell("lav", rate) for rate in ("0.2", "0.5")}
    masks = cell_masks(cell, VECTORS, clips, 2)
    assert torch.equal(masks.observed["text"], cell_masks(plain["0.2"], VECTORS, clips, 2).observed["text"])
    assert torch.equal(masks.observed["audio"], cell_masks(plain["0.5"], VECTORS, clips, 2).observed["audio"])
    assert masks.observed["vision"].all()
    (pattern,) = training_patterns(REGIMES["per_modality"], clips, 1, 0)
    assert pattern.threshold.unique(dim=0).tolist() == [list(cell.thresholds)]
    (gone,) = training_patterns(MissingConfig("per_modality", rates="l=1.0,a=0.5"), clips, 1, 0)
    assert gone.available.unique(dim=0).tolist() == [[False, True, True]]


def test_common_steps_are_the_same_ones_where_lengths_are_equal():
    steps = dict.fromkeys(STEPS, 9)
    lengths = {m: torch.arange(3, 10) for m in STEPS}
    for padding in ("end", "front"):
        clips = small_clips(7, padding, steps=steps, lengths=lengths)
        for name in ("aligned/0.5", "block-aligned/0.5"):
            masks = cell_masks(Cell.parse(name), MissingConfig(lengths="keep"), clips, 3)
            for modality in ("audio", "vision"):
                assert torch.equal(masks.observed[modality], masks.observed["text"])
        apart = cell_masks(Cell("lav", "0.5"), MissingConfig(lengths="keep"), clips, 3)
        assert not torch.equal(apart.observed["audio"], apart.observed["text"])


@pytest.mark.parametrize("padding", ["end", "front"])
def test_common_steps_cover_the_same_time_where_lengths_differ(padding):
    clips = small_clips(30, padding)
    cell = Cell.parse("aligned/0.4")
    masks = cell_masks(cell, MissingConfig(lengths="keep"), clips, 3)
    draws = philox.draws24(3, Purpose.TEST_FRAMES, 0, clips.uid, {"text": 13})["text"].tolist()
    for row in range(30):
        counts = {m: int(clips.lengths[m][row]) for m in MODALITIES}
        cells = min(counts.values())
        for modality, count in counts.items():
            first = STEPS[modality] - count if padding == "front" else 0
            expected = [draws[row][step * cells // count] >= cell.threshold for step in range(count)]
            assert masks.observed[modality][row, first : first + count].tolist() == expected


def test_a_modality_that_is_not_there_has_no_say_in_the_common_steps():
    clips = small_clips()
    other = replace(clips, lengths={**clips.lengths, "vision": torch.full_like(clips.lengths["vision"], 1)})
    for name in ("inter/la+aligned/0.4", "inter/la+block-aligned/0.4"):
        one, two = (cell_masks(Cell.parse(name), VECTORS, some, 3) for some in (clips, other))
        assert same(one, two)


def runs_of(row):
    """Start and length of each run of True."""
    edges = np.flatnonzero(np.diff(np.r_[0, row.long().numpy(), 0]))
    return list(zip(edges[::2].tolist(), (edges[1::2] - edges[::2]).tolist(), strict=True))


@pytest.mark.parametrize("config", [MissingConfig(lengths="keep"), MissingConfig(level="tokens", lengths="keep")])
@pytest.mark.parametrize("padding", ["end", "front"])
def test_a_run_is_one_run_of_the_share(config, padding):
    clips = small_clips(40, padding)
    masks = cell_masks(Cell("lav", "0.4", "block"), config, clips, 3)
    for modality in MODALITIES:
        valid = clips.valid(modality)
        places = inner_steps(valid) if modality == "text" and config.level == "tokens" else valid
        for row in range(40):
            count = int(places[row].sum())
            lost = places[row] & ~masks.observed[modality][row]
            runs = runs_of(lost)
            assert len(runs) <= 1
            assert (
                int(lost.sum()) in (math.floor(0.4 * count), math.ceil(0.4 * count))
                or not masks.observed[modality][row].any()
            )


def test_places_of_runs_are_uniform_and_lengths_right_on_average():
    n = 40000
    draws = [torch.randint(1 << 24, (n,), generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    first, end = dropping.run(torch.tensor(7), torch.tensor(Cell("lav", "0.3").threshold), *draws)
    length = end - first
    assert length.unique().tolist() == [2, 3]
    assert float(length.double().mean()) == pytest.approx(2.1, abs=4 * 0.3 / math.sqrt(n))
    for size in (2, 3):
        counts = torch.bincount(first[length == size]).double()
        assert len(counts) == 7 - size + 1
        assert float((counts / counts.mean() - 1).abs().max()) < 5 / math.sqrt(float(counts.mean()))


@given(st.integers(0, 60), st.integers(0, 2**24), st.integers(0, 2**24), *[st.integers(0, 2**24 - 1)] * 2)
def test_runs_stay_within_the_clip_and_hold_those_of_lower_rates(count, one, other, start, rounding):
    def run(threshold):
        numbers = (count, threshold, start, rounding)
        return tuple(int(bound) for bound in dropping.run(*map(torch.tensor, numbers)))

    (low_first, low_end), (first, end) = map(run, sorted((one, other)))
    assert 0 <= first <= end <= count
    assert low_first == low_end or first <= low_first <= low_end <= end


# Exchanges.


@given(st.integers(2, 40), st.integers(0, 99), st.sampled_from("lav"))
def test_exchanges_are_one_cycle_without_fixed_points_whatever_the_order(n, mask_seed, letter):
    clips, cell = many_clips(n, 1), Cell(permuted=letter)
    [(modality, rows)] = donors(cell, clips.uid, mask_seed).items()
    assert modality == LETTERS[letter]
    place, seen = 0, []
    for _ in range(n):
        place = int(rows[place])
        seen.append(place)
    assert sorted(seen) == list(range(n))
    assert not (rows == torch.arange(n)).any()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    shuffled = donors(cell, clips.uid[order], mask_seed)[modality]
    assert torch.equal(clips.uid[order][shuffled], clips.uid[rows][order])


def test_exchanges_differ_by_seed_and_modality():
    uid = many_clips(50, 1).uid
    found = {tuple(rows.tolist()) for c in "lav" for s in (0, 1) for rows in donors(Cell(permuted=c), uid, s).values()}
    assert len(found) == 6


def test_masks_lengths_and_padding_go_with_the_clip():
    clips = small_clips()
    cell = Cell.parse("permute/a+intra/0.3")
    plain, masks = cell_masks(Cell("lav", "0.3"), VECTORS, clips, 4), cell_masks(cell, VECTORS, clips, 4)
    rows = donors(cell, clips.uid, 4)["audio"]
    for name in ("observed", "valid", "last"):
        assert torch.equal(getattr(masks, name)["audio"], getattr(plain, name)["audio"][rows])
        for modality in ("text", "vision"):
            assert torch.equal(getattr(masks, name)[modality], getattr(plain, name)[modality])


def test_one_clip_has_nobody_to_exchange_with():
    with pytest.raises(MSABenchError, match="there is one clip"):
        cell_masks(Cell.parse("permute/l"), VECTORS, small_clips(1), 0)


# Settings.


def test_labels():
    assert {name: config.label for name, config in REGIMES.items()} == {
        "random": "random(0.3)",
        "random_range": "random(0-0.7)",
        "random_table": "random-table(0.4)",
        "only": "only(la)",
        "aligned": "aligned(0.1-0.9)",
        "block": "block(0.1-0.9,sample)",
        "block_per_modality": "block(0.1-0.9,modality)",
        "per_modality": "per-modality(l=0.2,a=0.5)",
    }
    assert MissingConfig("per_modality", rates="a=0.50,l=0.2").label == "per-modality(l=0.2,a=0.5)"
    assert MissingConfig("only", only="v").label == "only(v)"
    assert MissingConfig("block", rate=(0.5, 0.5)).label == "block(0.5)"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"regime": "random"}, r"rates up to 0\.7"),
        ({"regime": "random_table", "rate": (0.1, 0.3)}, "the same rate twice"),
        ({"regime": "random_table", "rate": (0.25, 0.25)}, "one of 0.1, 0.2"),
        ({"regime": "only"}, "what regime only keeps"),
        ({"regime": "only", "only": "lav"}, "what regime only keeps"),
        ({"regime": "per_modality"}, "data.missing.rates"),
        ({"regime": "per_modality", "rates": "l=0.2,x=0.5"}, "one for each of some"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, sentence):
    with pytest.raises(MSABenchError, match=sentence):
        MissingConfig(**settings)


def test_settings_of_other_regimes_do_not_enter_a_label():
    assert MissingConfig("mixed", only="la", rates="l=0.2").label == "mixed"


@pytest.mark.parametrize(
    ("cell", "config", "sentence"),
    [
        ("words/0.3", VECTORS, "set level to 'tokens'"),
        ("noise/0.5", TOKENS, "set level to 'vectors'"),
        ("noise/l=0.5", TOKENS, "set level to 'vectors'"),
    ],
)
def test_cells_that_need_another_level_are_refused(cell, config, sentence):
    with pytest.raises(MSABenchError, match=sentence):
        cell_masks(Cell.parse(cell), config, small_clips(), 0)
    for fine in ("noise/a=0.5", "inter/av+noise/0.5", "words/0.3"):
        cell_masks(Cell.parse(fine), TOKENS, small_clips(), 0)

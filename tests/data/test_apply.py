from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msabench.data.apply import CLS, SEP, UNK, build_batch
from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES, SUBSETS, Cell
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import cell_masks, complete_masks, inner_steps
from tests.support.small_split import DIMS, END, FRONT, STEPS, small_split

TOKENS = MissingConfig(level="tokens")
ZEROED = MissingConfig(level="tokens", token_fill="zero_embedding")
SCALE = {m: (torch.linspace(-1, 1, D), torch.linspace(0.5, 2, D)) for m, D in DIMS.items()}
configs = st.builds(
    MissingConfig,
    level=st.sampled_from(["vectors", "tokens"]),
    token_fill=st.sampled_from(["unk", "zero_embedding"]),
    lengths=st.sampled_from(["hide", "keep"]),
)
cells = st.builds(Cell, st.sampled_from(SUBSETS), st.sampled_from(["0.0", "0.3", "0.7", "1.0"]))
paddings = st.sampled_from(["end", "front"])


def masks_of(split, cell, config, padding="end", seed=3):
    return cell_masks(cell, config, split.clips(END if padding == "end" else FRONT), seed)


def batch_of(cell, config, index=slice(None), with_tokens=False, scale=None, split=None, padding="end"):
    split = split or small_split(padding=padding)
    masks = masks_of(split, cell, config, padding)
    return build_batch(split, masks, index, config=config, with_tokens=with_tokens, scale=scale)


def tensors(batch):
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, torch.Tensor):
            yield field.name, value
        elif isinstance(value, dict):
            yield from ((f"{field.name}.{name}", tensor) for name, tensor in value.items())


def assert_same(one, other, ignore=()):
    ours, theirs = dict(tensors(one)), dict(tensors(other))
    assert ours.keys() - set(ignore) == theirs.keys() - set(ignore)
    for name in ours.keys() - set(ignore):
        assert ours[name].dtype == theirs[name].dtype, name
        assert torch.equal(ours[name], theirs[name]), name


@given(cells, paddings, st.booleans(), st.lists(st.integers(0, 11), min_size=1, max_size=14))
def test_features_are_normalised_and_zero_where_not_observed(cell, padding, scaled, rows):
    split = small_split(padding=padding)
    index = torch.tensor(rows)
    batch = batch_of(cell, MissingConfig(), index, scale=SCALE if scaled else None, padding=padding)
    for modality, (mean, deviation) in SCALE.items():
        picked = split.features[modality][index]
        normalised = (picked - mean) / deviation if scaled else picked
        expected = torch.where(batch.observed[modality].unsqueeze(-1), normalised, 0.0)
        assert torch.equal(batch.features[modality], expected)
        assert batch.features[modality].dtype == torch.float32
    assert torch.equal(batch.labels, split.labels[index])
    assert torch.equal(batch.index, index)
    assert batch.complete is None
    assert batch.views is None


@given(cells, configs, st.booleans(), st.integers(0, 11), st.integers(1, 12))
def test_slices_and_index_tensors_give_the_same_batch(cell, config, scaled, start, size):
    with_tokens = config.level == "tokens"
    options = {"with_tokens": with_tokens, "scale": SCALE if scaled else None}
    by_slice = batch_of(cell, config, slice(start, start + size), **options)
    rows = torch.arange(12)[start : start + size]
    by_index = batch_of(cell, config, rows, **options)
    assert by_slice.index is None
    assert_same(by_slice, by_index, ignore=["index"])
    assert_same(by_index, batch_of(cell, config, rows.to(torch.int32), **options))


@given(cells, configs, st.permutations(range(12)), st.integers(1, 12))
def test_batch_size_and_order_do_not_matter(cell, config, order, size):
    options = {"with_tokens": config.level == "tokens"}
    whole = dict(tensors(batch_of(cell, config, **options)))
    for start in range(0, 12, size):
        index = torch.tensor(order[start : start + size])
        for name, value in tensors(batch_of(cell, config, index, **options)):
            assert torch.equal(value, index if name == "index" else whole[name][index])


@pytest.mark.parametrize("index", [slice(None), slice(2, 7), torch.arange(12)])
@pytest.mark.parametrize("config", [MissingConfig(), TOKENS, ZEROED])
@pytest.mark.parametrize("scale", [None, SCALE])
@pytest.mark.parametrize("cell", [Cell(), Cell("a", "0.5")])
def test_nothing_is_written_into_the_split_or_the_masks(index, config, scale, cell):
    split, untouched = small_split(), small_split()
    masks, untouched_masks = masks_of(split, cell, config), masks_of(split, cell, config)
    with_tokens = config.level == "tokens"
    batch = build_batch(split, masks, index, config=config, with_tokens=with_tokens, scale=scale)
    for _, value in tensors(replace(batch, index=None)):
        value.fill_(1)
    for modality in MODALITIES:
        assert torch.equal(split.features[modality], untouched.features[modality])
        for name in ("observed", "valid", "last"):
            assert torch.equal(getattr(masks, name)[modality], getattr(untouched_masks, name)[modality])
    assert torch.equal(split.tokens, untouched.tokens)
    assert torch.equal(split.labels, untouched.labels)


def test_emotion_labels_pass_through():
    split = small_split()
    split.labels = torch.arange(48).reshape(12, 4) % 2
    batch = batch_of(Cell(), MissingConfig(), torch.tensor([3, 1]), split=split)
    assert batch.labels.dtype == torch.int64
    assert torch.equal(batch.labels, split.labels[[3, 1]])


def test_a_corpus_without_tokens_is_refused_where_tokens_are_read():
    split = small_split()
    split.tokens = None
    with pytest.raises(MSABenchError, match=r"no token ids.*mmsa.*precomputed"):
        batch_of(Cell(), MissingConfig(), with_tokens=True, split=split)


def test_level_tokens_needs_a_method_that_reads_tokens():
    with pytest.raises(MSABenchError, match=r"level to 'vectors' or give the method a text encoder"):
        batch_of(Cell(), TOKENS)


# Tokens.


@given(cells, paddings, st.sampled_from(["hide", "keep"]), st.sampled_from(["unk", "zero_embedding"]))
def test_dropped_tokens(cell, padding, lengths, fill):
    config = MissingConfig(level="tokens", lengths=lengths, token_fill=fill)
    split = small_split(padding=padding)
    batch = batch_of(cell, config, with_tokens=True, padding=padding)
    assert set(batch.features) == {"audio", "vision"}
    own_valid = split.clips(END if padding == "end" else FRONT).valid("text")
    for row in range(12):
        ids, attention, types = split.tokens[row]
        removed = not batch.observed["text"][row].any()
        if removed and lengths == "hide":
            dropped = torch.tensor([False] + [True] * (STEPS["text"] - 2) + [False])
            ids, attention, types = torch.full_like(ids, UNK), torch.ones_like(ids), torch.zeros_like(ids)
            ids[0], ids[-1] = CLS, SEP
        else:
            dropped = inner_steps(own_valid[row : row + 1])[0] & ~batch.observed["text"][row]
            ids = ids.masked_fill(dropped, UNK)
        assert torch.equal(batch.tokens[row], torch.stack([ids, attention, types]))
        if fill == "zero_embedding":
            assert torch.equal(batch.token_keep[row], ~dropped)
    assert (batch.token_keep is None) == (fill == "unk")


@given(cells, st.sampled_from(["unk", "zero_embedding"]))
def test_tokens_are_complete_at_level_vectors_unless_text_is_removed(cell, fill):
    split = small_split()
    batch = batch_of(cell, MissingConfig(token_fill=fill), with_tokens=True)
    removed = ~batch.observed["text"].any(1)
    assert torch.equal(batch.tokens[~removed], split.tokens[~removed])
    silence = torch.tensor([[CLS] + [UNK] * 8 + [SEP], [1] * 10, [0] * 10])
    assert torch.equal(batch.tokens[removed], silence.expand(int(removed.sum()), 3, 10))
    assert batch.token_keep is None


@pytest.mark.parametrize("level", ["tokens", "vectors"])
def test_kept_lengths_leave_the_frame_of_a_removed_text(level):
    config = MissingConfig(level=level, lengths="keep")
    split = small_split()
    batch = batch_of(Cell("av"), config, with_tokens=True)
    for row in range(12):
        length = int(split.lengths["text"][row])
        assert batch.tokens[row, 0].tolist() == [CLS] + [UNK] * (length - 2) + [SEP] + [0] * (10 - length)
        assert torch.equal(batch.tokens[row, 1:], split.tokens[row, 1:])


# A removed modality tells nothing.


def with_other(split, modalities, lengths, padding):
    """The same clips with another content, length and token count in some modalities."""
    changed = {m: torch.full_like(n, min(lengths, STEPS[m])) for m, n in split.lengths.items()}
    donor = small_split(padding=padding, lengths=changed)
    spoiled = {m: x * -3 for m, x in donor.features.items()}
    spoiled["audio"][0, 0, 0], spoiled["vision"][1, 0, 0] = float("inf"), float("nan")
    return replace(
        split,
        features={m: (spoiled if m in modalities else split.features)[m] for m in MODALITIES},
        lengths={m: (donor.lengths if m in modalities else split.lengths)[m] for m in MODALITIES},
        tokens=donor.tokens if "text" in modalities else split.tokens,
    )


def bits(batch):
    for name, value in tensors(batch):
        yield name, value.view(torch.int32) if value.is_floating_point() else value


@given(
    subset=st.sampled_from(SUBSETS[:-1]),
    rate=st.sampled_from(["0.0", "0.5"]),
    level=st.sampled_from(["vectors", "tokens", "vectors_with_tokens"]),
    fill=st.sampled_from(["unk", "zero_embedding"]),
    padding=paddings,
    length=st.integers(0, 13),
    scaled=st.booleans(),
)
def test_a_removed_modality_tells_nothing(subset, rate, level, fill, padding, length, scaled):
    config = MissingConfig(level=level.split("_")[0], token_fill=fill)
    options = {"with_tokens": level != "vectors", "scale": SCALE if scaled else None, "padding": padding}
    cell, split = Cell(subset, rate), small_split(padding=padding)
    gone = set(MODALITIES) - set(cell.modalities)
    other = with_other(split, gone, length, padding)
    before = dict(bits(batch_of(cell, config, torch.arange(12), split=split, **options)))
    after = dict(bits(batch_of(cell, config, torch.arange(12), split=other, **options)))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


@given(st.integers(3, 7), st.sampled_from(["tokens", "vectors"]))
def test_kept_lengths_tell_the_length_but_not_the_content(length, level):
    config = MissingConfig(level=level, lengths="keep")
    split = small_split()
    options = {"with_tokens": True, "index": torch.arange(12)}
    whole = batch_of(Cell("v"), config, split=split, **options)
    other = batch_of(Cell("v"), config, split=with_other(split, {"text", "audio"}, length, "end"), **options)
    assert torch.equal(whole.features["audio"], other.features["audio"])
    assert not torch.equal(whole.valid["text"], other.valid["text"])
    assert not torch.equal(whole.last["audio"], other.last["audio"])
    assert not torch.equal(whole.tokens, other.tokens)
    same_length = split.lengths["text"] == length
    assert torch.equal(whole.tokens[same_length], other.tokens[same_length])


def test_complete_batch_of_a_clip_that_never_had_a_modality():
    split = small_split(3, lengths={m: torch.tensor([0, 3, T]) for m, T in STEPS.items()})
    batch = build_batch(split, complete_masks(split.clips(END)), slice(None), config=MissingConfig(), with_tokens=True)
    assert batch.valid["audio"].sum(1).tolist() == [13, 3, 13]
    assert batch.observed["audio"].sum(1).tolist() == [0, 3, 13]
    assert batch.tokens[0, 0].tolist() == [CLS] + [UNK] * 8 + [SEP]

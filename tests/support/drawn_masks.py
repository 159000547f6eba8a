"""Clips whose masks are drawn, and what must hold for the masks of every regime and cell."""

from dataclasses import replace

import pytest
import torch
from hypothesis import strategies as st

from msabench.data.corpus import clip_uids
from msabench.missingness import philox
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import Clips, cell_masks, mask_hash, training_masks, validation_masks
from tests.support.small_split import END, FRONT, small_split

VECTORS = MissingConfig()
TOKENS = MissingConfig(level="tokens")
rates = st.integers(0, 1000).map(lambda thousandths: f"{thousandths / 1000:.3f}")


def small_clips(n=12, padding="end", **options):
    return small_split(n, padding=padding, **options).clips(END if padding == "end" else FRONT)


def many_clips(n, length, split="train"):
    uid = clip_uids("synth", split, [f"clip{i}" for i in range(n)])
    full = {m: torch.full((n,), length) for m in MODALITIES}
    return Clips(uid, full, dict.fromkeys(MODALITIES, length), END)


def taken(clips, rows):
    return replace(clips, uid=clips.uid[rows], lengths={m: length[rows] for m, length in clips.lengths.items()})


def same(one, other, rows=slice(None)):
    return all(
        torch.equal(getattr(one, name)[m], getattr(other, name)[m][rows])
        for name in ("observed", "valid", "last")
        for m in MODALITIES
    )


def flat(masks):
    return torch.cat([masks.observed[m].ravel() for m in MODALITIES])


def golden_training(config):
    """Hashes of two views, as they are frozen."""
    return tuple(mask_hash(view) for view in training_masks(config, small_clips(), seed=1111, epoch=3, n_views=2))


def golden_validation(config):
    return mask_hash(validation_masks(config, small_clips(), mask_seed=2))


def assert_parts_are_drawn_as_the_whole(regimes, cells, order, size, budget):
    """Neither the order of clips, nor how many are drawn at once, nor in which chunks, matters.

    Args:
        regimes: Regimes.
        cells: Pairs of a cell and the config that says how its masks apply.
        order: The places of twelve clips.
        size: Clips of a part.
        budget: Blocks of random numbers that are made at once.
    """
    clips = small_clips()

    def drawn(some):
        views = [view for regime in regimes for view in training_masks(regime, some, 5, 6, n_views=2)]
        held_out = [validation_masks(regime, some, 5) for regime in regimes]
        return [*views, *held_out, *(cell_masks(cell, config, some, 5) for cell, config in cells)]

    whole = drawn(clips)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(philox, "_CPU_BLOCKS", budget)
        for start in range(0, 12, size):
            rows = order[start : start + size]
            assert all(same(part, all_, rows) for part, all_ in zip(drawn(taken(clips, rows)), whole, strict=True))


def assert_seeds_epochs_and_views_differ(config):
    """Training masks depend on seed, epoch and view, validation masks on the mask seed; no two of them are alike."""
    clips = small_clips(60)
    drawn = [
        *training_masks(config, clips, 1, 0, n_views=2),
        *training_masks(config, clips, 1, 1, n_views=2),
        *training_masks(config, clips, 2, 0, n_views=2),
        *(validation_masks(config, clips, seed) for seed in (1, 2)),
    ]
    assert len(set(map(mask_hash, drawn))) == 8

"""A clip's own draws: which modalities it loses, at which rates, and where its runs of dropped frames lie.

They are frames of modality text under a purpose of their own. Their order is part of the protocol and grows at the end.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from msabench.errors import MSABenchError
from msabench.missingness import amounts
from msabench.missingness.conditions import LAWS, LETTERS, MODALITIES, Cell
from msabench.missingness.philox import DRAW_BITS, draws24
from msabench.missingness.purposes import Purpose

CASE, RATE, RATES, COINS = 0, slice(1, 2), slice(2, 5), slice(5, 8)
"""Which case of a regime; the clip's rate; the rates, then the coins, of text, audio, vision."""

STARTS, ROUNDINGS = slice(8, 11), slice(11, 14)
"""Where the runs of text, audio, vision start, and whether their lengths are rounded up."""

ORDER = slice(14, 20)
"""Places of text, audio, vision in the order by which clips exchange them, two draws each."""

N_CASES, N_RUNS, N_ALL = 8, 14, 20
"""Draws that end before the runs, with the runs, and all of them."""

_ONE = 1 << DRAW_BITS

TABLE = {
    rate: (Fraction(two, 10), Fraction(one, 10))
    for rate, two, one in zip(range(1, 8), (1, 2, 3, 5, 7, 9, 10), (1, 2, 3, 2, 1, 0, 0), strict=True)
}
"""Tenths of the law ``random-table`` -> shares of clips with two modalities missing and with one (DiCMoR, IMDer)."""


def clip_draws(uid: Tensor, seed: int, purpose: int, epoch: int, count: int) -> Tensor:
    """The first draws of clips, int64 ``(N, count)`` in [0, 2**24), for keys ``uid`` int64 ``(N, 2)``."""
    return draws24(seed, purpose, epoch, uid, {MODALITIES[0]: count})[MODALITIES[0]]


def left_by_chance(law: str, low: Fraction, high: Fraction, draws: Tensor) -> Tensor:
    """Which modalities clips keep when whole modalities are removed at a rate.

    One modality, uniform over the three, always stays. By ``random`` each of the two others is removed with
    probability 1.5 times the rate, by ``random-table`` both or one of them are with the probabilities of ``TABLE``.

    Args:
        law: One of ``LAWS``.
        low: Lowest rate, in [0, 0.7].
        high: Highest rate, likewise; the law ``random`` draws a clip's rate uniformly between them, ``random-table``
            takes equal ones.
        draws: A clip's own draws, int64 ``(N, 8)`` or more.

    Returns:
        bool ``(N, 3)``: text, audio, vision.
    """
    columns = torch.arange(len(MODALITIES), device=draws.device)
    kept = (draws[:, CASE] * len(MODALITIES) >> DRAW_BITS).unsqueeze(1)
    coins = draws[:, COINS]
    if law == LAWS[0]:
        first, last = (amounts.threshold(Fraction(3, 2) * rate) for rate in (low, high))
        removed = coins < first + (draws[:, RATES][:, :1] * (last - first) >> DRAW_BITS)
    else:
        two, one = TABLE[round(10 * low)]
        both, any_ = amounts.threshold(two), amounts.threshold(two + one)
        count = (draws[:, RATE] < both).long() + (draws[:, RATE] < any_)
        # Of the others the one with the smaller coin goes first, the lower column where coins are equal.
        place = torch.where(columns == kept, _ONE, coins).argsort(dim=1, stable=True).argsort(dim=1)
        removed = place < count
    return ~removed | (columns == kept)


def donors(cell: Cell, uid: Tensor, mask_seed: int) -> dict[str, Tensor]:
    """From which clip each takes the modality that a cell exchanges.

    Args:
        cell: The test situation.
        uid: int64 ``(N, 2)`` keys of all clips of the split.
        mask_seed: In [0, 2**64).

    Returns:
        Modality -> int64 ``(N,)`` rows, none of them at its own place; empty where nothing is exchanged.

    Raises:
        MSABenchError: There is a single clip.
    """
    if not cell.permuted:
        return {}
    if len(uid) == 1:
        raise MSABenchError(f"cell {cell} exchanges a modality among clips, and there is one clip; leave the cell out")
    draws = clip_draws(uid, mask_seed, Purpose.TEST_CLIPS, 0, N_ALL)
    column = list(LETTERS).index(cell.permuted)
    return {MODALITIES[column]: _exchanged(uid, draws, column)}


def _exchanged(uid: Tensor, draws: Tensor, column: int) -> Tensor:
    """From which clip each takes a modality: one cycle through all clips, uniform over such cycles.

    Clips are put into an order by two draws of 24 bits each (by their keys where these are equal), and each takes from
    the next one, the last from the first. So no clip keeps its own. The order of the rows does not matter, but which
    other clips there are does.

    Args:
        uid: int64 ``(N, 2)`` keys of the clips.
        draws: Their own draws, int64 ``(N, 20)``.
        column: Column of the modality.

    Returns:
        int64 ``(N,)`` rows.
    """
    places = draws[:, ORDER][:, 2 * column] << DRAW_BITS | draws[:, ORDER][:, 2 * column + 1]
    order = torch.arange(len(uid), device=uid.device)
    for key in (uid[:, 0], uid[:, 1], places):
        order = order[key[order].argsort(stable=True)]
    donors = torch.empty_like(order)
    donors[order] = order.roll(-1)
    return donors

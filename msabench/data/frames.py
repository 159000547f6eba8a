"""Which frames of padded clips exist, and on which side the padding is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def existing(lengths: Ints, steps: int, side: str) -> Bools:
    """Bool ``(N, T)``, True on frames that are not padding."""
    place = np.arange(steps)
    return place >= steps - lengths[:, None] if side == "front" else place < lengths[:, None]


def zero_frames(present: Bools) -> tuple[Ints, Ints]:
    """Leading and trailing absent frames of each clip, int64 ``(N,)`` each; both are T where all frames are absent."""
    steps = present.shape[1]
    none = ~present.any(axis=1)
    leading = np.where(none, steps, present.argmax(axis=1)).astype(np.int64)
    trailing = np.where(none, steps, present[:, ::-1].argmax(axis=1)).astype(np.int64)
    return leading, trailing


def detect_padding(presences: Mapping[str, list[Bools]]) -> tuple[str, dict[str, Ints]]:
    """Find the padded side of a modality, or of several that share their time line, and the clips' lengths.

    The side is the one with more all-zero frames over all clips. A frame exists from the first (padding in front) or up
    to the last (padding at the end) that is not zero in any of the arrays.

    Args:
        presences: split -> bool ``(N, T)`` for each modality that shares the time line.

    Returns:
        The side, and split -> int64 ``(N,)``.
    """
    zeros = {name: zero_frames(np.logical_or.reduce(arrays)) for name, arrays in presences.items()}
    steps = {name: arrays[0].shape[1] for name, arrays in presences.items()}
    leading, trailing = (
        sum(int(zero[side][zero[side] < steps[name]].sum()) for name, zero in zeros.items()) for side in (0, 1)
    )
    side = "front" if leading > trailing else "end"
    return side, {name: steps[name] - zero[0 if side == "front" else 1] for name, zero in zeros.items()}

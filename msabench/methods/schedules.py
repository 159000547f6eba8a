"""Learning rates over the epochs, for methods that override ``lr_multiplier``."""

from __future__ import annotations

import math


def warmup_cosine(epoch: int, warmup: int, epochs: int) -> float:
    """Linear rise from 0, then half a cosine towards 0: the schedule of ALMT, LNLN, TF-Mamba and RECAP.

    The rise reaches 1 in epoch ``warmup`` and the cosine begins at 1 in the epoch after, as in their training scripts;
    with a warm-up the first epoch trains with rate 0, which fills Adam's moments only.

    Args:
        epoch: Epoch from 0.
        warmup: Epochs of the rise, at least 0.
        epochs: Epochs in all.

    Returns:
        Factor in [0, 1].
    """
    if warmup and epoch <= warmup:
        return epoch / warmup
    start = warmup + 1 if warmup else 0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - start) / max(1, epochs - warmup))))

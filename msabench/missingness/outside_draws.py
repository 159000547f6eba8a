"""Draws of training regimes from outside: uniform numbers go in, patterns come out, and what comes out is checked."""

from __future__ import annotations

import torch
from torch import Tensor

from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.philox import DRAW_BITS, draws24
from msabench.missingness.regimes import RegimeInfo
from msabench.plugins import imported

_CHECKED = 64
"""Clips that a regime is asked about a second time."""


def drawn_outside(info: RegimeInfo, uid: Tensor, seed: int, purpose: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Draw patterns of clips under a regime from outside.

    Args:
        info: The regime.
        uid: int64 ``(N, 2)``, the clips' keys, on the CPU: nobody knows what its function rounds differently elsewhere.
        seed: In [0, 2**64).
        purpose: What the draws are for.
        epoch: In [0, 2**24).

    Returns:
        Which modalities are kept, bool ``(N, 3)``; below which 24-bit draw a frame is dropped, int64 ``(N, 3)`` in
        [0, 2**24].

    Raises:
        MSABenchError: Its function cannot be imported, fails, returns anything else than it should, or draws a clip in
            another way among other clips.
    """
    # A clip's own draws are frames of modality text under a purpose of their own, as for msabench's regimes.
    draws = draws24(seed, purpose, epoch, uid, {MODALITIES[0]: info.draws})[MODALITIES[0]]
    uniform = draws.double() / (1 << DRAW_BITS)
    drawn = _drawn(info, uniform)
    if len(uniform) > 1:
        # The others must not matter, neither their number nor their order.
        for rows in (torch.arange(first, min(len(uniform), _CHECKED), 2).flip(0) for first in (0, 1)):
            if not all(map(torch.equal, _drawn(info, uniform[rows]), (part[rows] for part in drawn))):
                raise MSABenchError(
                    f"training regime {info.name}: {info.draw} draws a clip in another way among other clips; each row "
                    "of what it returns must follow from the same row of what it is given"
                )
    available, rate = drawn
    return available, (rate * (1 << DRAW_BITS)).ceil().long()


def _drawn(info: RegimeInfo, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """What a regime from outside draws: bool and float64, ``(N, 3)`` each."""
    where = f"training regime {info.name}"
    function = imported(info.draw, where)
    shape = (len(uniform), len(MODALITIES))
    try:
        # A copy, since it may write into what it is given.
        found = function(uniform.clone())
    except MSABenchError:
        raise
    except Exception as error:
        # Whatever somebody's own function raises.
        raise MSABenchError(f"{where}: {info.draw} failed ({type(error).__name__}: {error})") from error
    tensors = found if isinstance(found, tuple) and len(found) == 2 else (None, None)
    available, rate = (part if isinstance(part, Tensor) and part.shape == shape else None for part in tensors)
    if available is None or rate is None or available.dtype != torch.bool or not rate.is_floating_point():
        raise MSABenchError(
            f"{where}: {info.draw} must return two tensors of shape {shape}, bool for what is kept and float for rates"
        )
    rate = rate.double()
    if not available.any(1).all():
        raise MSABenchError(f"{where}: {info.draw} leaves a clip without any modality; keep one at least")
    if not ((rate >= 0) & (rate <= 1)).all():
        raise MSABenchError(f"{where}: {info.draw} draws rates beyond [0, 1]")
    return available, rate

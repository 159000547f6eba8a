"""Where to compute."""

from __future__ import annotations

import torch

from msabench.errors import MSABenchError


def usable_device(name: str | None) -> torch.device:
    """A device that works.

    Args:
        name: In torch's notation, e.g. ``cpu`` or ``cuda:0``; None for the GPU if there is one.

    Raises:
        MSABenchError: It cannot be used here.
    """
    try:
        place = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise MSABenchError(
            f"device {name!r} cannot be used; give cpu, or a GPU of this machine, e.g. cuda:0"
        ) from error
    return place

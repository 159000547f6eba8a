"""On which side of a sequence padding stands, for networks that read all stored steps and are read at the last one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import one_of

SIDES = ("front", "stored")


def padding_side(spec: DataSpec, side: str | None) -> str:
    """Where padding stands for a method whose reference reads it like any step.

    A recurrent network forgets a clip while it runs over the padding behind it. MMSA's files pad at the end and its
    numbers come from that, so there a file is read as it is. Nothing else speaks for it: MulT's files pad in front, and
    of any other the batch knows which steps exist.

    Args:
        spec: What the data look like.
        side: ``front`` or ``stored`` if the user chose; None for the rule.

    Returns:
        ``stored`` on MMSA's feature families, ``front`` elsewhere, or what was chosen.

    Raises:
        MSABenchError: There is no such side.
    """
    if side is None:
        return "stored" if (spec.features or "").startswith("mmsa-") else "front"
    if side not in SIDES:
        raise one_of("padding", side, SIDES)
    return side


def padded(x: Tensor, valid: Tensor, side: str) -> Tensor:
    """A modality with its padding on a side.

    Args:
        x: float ``(B, T, D)``.
        valid: bool ``(B, T)``, one contiguous span per clip; all True for a removed modality.
        side: ``stored`` leaves everything where it is; ``front`` moves each clip's existing steps to the end, in order,
            whichever side its file pads on, and has zeros before them.

    Returns:
        float ``(B, T, D)``.
    """
    if side == "stored":
        return x
    steps = torch.arange(valid.shape[1], device=valid.device)
    behind = (valid * (steps + 1)).amax(1, keepdim=True)
    order = (steps + behind) % len(steps)
    clips = torch.arange(len(x), device=x.device).unsqueeze(1)
    rows = (order + len(steps) * clips).flatten()
    # Whole rows are copied; gathering each feature by an index of its own takes seven times as long.
    moved = x.flatten(0, 1).index_select(0, rows)
    empty = ~valid.flatten()[rows]
    if x.device.type == "cpu" and not has_torch_function((x, valid)):
        # Writes to these rows alone. An accelerator would wait for their number, and several seeds in one pass, which
        # is where torch's functions are called by others, do not have the same.
        moved.index_fill_(0, empty.nonzero().squeeze(1), 0.0)
    else:
        moved.masked_fill_(empty.unsqueeze(1), 0.0)
    return moved.view_as(x)


def all_padded(batch: Batch, text: Tensor, side: str) -> dict[str, Tensor]:
    """All modalities of a batch with their padding on a side, each by its own length.

    Args:
        batch: The batch.
        text: Its text, float ``(B, T_l, D_l)``.
        side: As for ``padded``.

    Returns:
        modality -> float ``(B, T_m, D_m)``.
    """
    features = {"text": text, "audio": batch.audio, "vision": batch.vision}
    return {m: padded(x, batch.valid[m], side) for m, x in features.items()}

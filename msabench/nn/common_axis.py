"""One time axis for three modalities, for methods that concatenate their channels step by step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.missingness.conditions import MODALITIES


@dataclass(frozen=True)
class CommonAxis:
    """The steps that a batch's modalities share: the text's T steps. B is the number of clips.

    Attributes:
        valid: bool ``(B, T)``, the steps that exist; at least one per clip.
        keys: modality -> bool ``(B, T)``, the steps at which a modality has content to attend to; at least one per
            clip.
        last: int64 ``(B,)``, index of the last step that exists.
    """

    valid: Tensor
    keys: dict[str, Tensor]
    last: Tensor


def common_axis(batch: Batch) -> CommonAxis:
    """Find the steps shared by the modalities of a batch.

    Modalities with as many steps as the text are aligned with it. A step exists if it does in any aligned modality
    that has an observed frame; a *removed* modality has no say, so that neither its length nor the padding behind the
    clip enters. If all aligned modalities are removed, the text's own mask holds (all steps, unless the protocol
    keeps lengths). A removed modality, and one that has to be brought onto the axis, is attended to at every step
    that exists.
    """
    text_valid = batch.valid["text"]
    aligned = [m for m in MODALITIES if batch.valid[m].shape[1] == text_valid.shape[1]]
    present = {m: batch.observed[m].any(1, keepdim=True) for m in aligned}
    valid = torch.stack([batch.valid[m] & present[m] for m in aligned]).any(0)
    valid = torch.where(valid.any(1, keepdim=True), valid, text_valid)
    valid = valid | ~valid.any(1, keepdim=True)  # attention and softmax over no step at all would be NaN
    keys = {m: torch.where(present[m], batch.valid[m], valid) if m in present else valid for m in MODALITIES}
    steps = torch.arange(valid.shape[1], device=valid.device)
    return CommonAxis(valid, keys, last=(valid * steps).argmax(1))


def onto_axis(x: Tensor, valid: Tensor, axis_valid: Tensor) -> Tensor:
    """Stretch or shrink each clip's existing steps linearly onto the existing steps of another axis.

    Per clip the same as ``torch.nn.functional.interpolate(mode="linear", align_corners=False)`` from one span to the
    other. Interpolating whole padded sequences instead would shift modalities against each other, by an amount that
    depends on padding.

    Args:
        x: float ``(B, S, D)``.
        valid: bool ``(B, S)``, one contiguous span per clip.
        axis_valid: bool ``(B, T)``, one contiguous span per clip.

    Returns:
        float ``(B, T, D)``. Outside the span it repeats the value at the nearer end.
    """
    start, count = _span(valid)
    axis_start, axis_count = _span(axis_valid)
    steps = torch.arange(axis_valid.shape[1], device=x.device)
    position = ((steps - axis_start + 0.5) * (count / axis_count) - 0.5).clamp(min=0).minimum(count - 1.0)
    low = position.floor().long()
    weight = (position - low).unsqueeze(2).to(x.dtype)
    clips = torch.arange(len(x), device=x.device).unsqueeze(1)
    below, above = x[clips, start + low], x[clips, start + (low + 1).minimum(count - 1)]
    return torch.lerp(below, above, weight)


def from_first_step(valid: Tensor) -> tuple[Tensor, Tensor]:
    """Let every clip begin at step 0, whichever side its file pads on: for what reads sequences from their start.

    Args:
        valid: bool ``(B, T)``, one contiguous span per clip.

    Returns:
        The order in which to take each clip's steps, int64 ``(B, T)``: those of the span, then the others; and the
        length of the span, int64 ``(B,)``.
    """
    steps = torch.arange(valid.shape[1], device=valid.device)
    first, count = _span(valid)
    return (first + steps) % len(steps), count.squeeze(1)


def on_common_axis(batch: Batch, features: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Bring modalities onto the steps that they share, each clip beginning at step 0.

    Args:
        batch: Says which steps exist.
        features: modality -> float ``(B, T_m, D_m)``; those of the batch, or others of as many steps. Where T_m is not
            that of the text, existing steps are interpolated.

    Returns:
        modality -> float ``(B, T, D_m)``, 0 at interpolated steps past a clip's length; and the lengths, int64
        ``(B,)``, from 1 to T.
    """
    valid = common_axis(batch).valid
    order, lengths = from_first_step(valid)
    streams = {m: at_steps(batch, m, x, valid).take_along_dim(order.unsqueeze(2), 1) for m, x in features.items()}
    return streams, lengths


def at_steps(batch: Batch, modality: str, x: Tensor, valid: Tensor) -> Tensor:
    """A modality ``(B, T_m, D_m)`` on the steps ``valid``, bool ``(B, T)``.

    Returns:
        float ``(B, T, D_m)``: as it is if T_m is T; else its existing steps interpolated, 0 where no step is.
    """
    if x.shape[1] == valid.shape[1]:
        return x
    return onto_axis(x, batch.valid[modality], valid).masked_fill(~valid.unsqueeze(2), 0.0)


def _span(valid: Tensor) -> tuple[Tensor, Tensor]:
    return valid.int().argmax(1, keepdim=True), valid.sum(1, keepdim=True).clamp(min=1)

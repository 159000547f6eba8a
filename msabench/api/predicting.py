"""``msabench.predict``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msabench.evaluation.clips import ClipPredictions, predict_clips


def predict(
    checkpoint: str | Path,
    clips: str | Path | Mapping[str, Any],
    *,
    cut: bool = False,
    batch_size: int | None = None,
    device: str | None = None,
) -> ClipPredictions:
    """Predict clips of one's own from features alone, as ``msabench predict`` does: no labels, no splits, no corpus.

    Args:
        checkpoint: Checkpoint of a training, exported folder, or ``owner/name@revision`` on the hub.
        clips: An npz, or its arrays by name: ``text``, ``audio``, ``vision``, float ``(N, T_m, D_m)``, any of them,
            with the D_m features of the training; see docs/predicting.md for the optional ones.
        cut: Whether clips of more steps than the training had are cut to their first ones instead of refused.
        batch_size: Clips per forward pass; None for 96.
        device: Where to compute, e.g. ``cpu`` or ``cuda:0``; None for the GPU if there is one.

    Returns:
        The predictions in the order of the clips; ``frame()`` is a table of them, ``notes`` says what was not seen.

    Raises:
        MSABenchError: The checkpoint or the clips cannot be read, they do not fit each other, or a prediction is not
            finite.

    Example:
        >>> predictions = predict("runs/fit/synth/umdf/seed_1111/version_0/best.ckpt", "clips.npz")
        >>> predictions.frame()
    """
    return predict_clips(checkpoint, clips, cut=cut, batch_size=batch_size, device=device)

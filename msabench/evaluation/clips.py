"""Predictions for clips of one's own, from a checkpoint and features alone: no labels, no splits, no corpus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from msabench.data.batches import CorpusBatches
from msabench.data.clip_arrays import fitted_clips
from msabench.data.conversations import Conversations
from msabench.data.corpus import Corpus, SplitData, clip_uids, with_zeros_absent
from msabench.data.info import CUSTOM, EMOTIONS, DatasetInfo, DataSpec
from msabench.data.normalise import Scale
from msabench.data.read_clips import RawClips, read_clips
from msabench.errors import MSABenchError
from msabench.evaluation.device import usable_device
from msabench.interruption import check
from msabench.methods.base import MSAMethod
from msabench.methods.checkpoint import load_checkpoint
from msabench.metrics.functional import score_class
from msabench.missingness.conditions import MODALITIES, Cell
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import Masks

CLASSES = ("negative", "neutral", "positive")
"""Classes of scores, those of Acc-3."""

BATCH = 96
"""Clips per forward pass, as ``evaluate`` has it on a CPU."""


@dataclass(frozen=True)
class ClipPredictions:
    """What a method predicts of N clips.

    Attributes:
        ids: Clip ids, in the order of the clips.
        preds: float32 ``(N,)`` scores in label units, or ``(N, 4, 2)`` logits of the emotions (absent, present).
        metric_set: What the predictions are: ``sentiment``, ``sims`` or ``emotions``.
        blind: bool ``(N,)``, True for clips of which the method saw nothing.
        notes: What was cleaned, cut, not there or not read, one sentence each.
    """

    ids: list[str]
    preds: NDArray[np.float32]
    metric_set: str
    blind: NDArray[np.bool_]
    notes: list[str] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """The predictions as a table.

        Returns:
            A row for each clip: ``id``; for scores ``score`` (float32) and ``class`` (negative, neutral or positive, as
            Acc-3 of the metric set has it); for emotions the probability of each (float32 in [0, 1]), and
            ``is_<emotion>`` (bool), whether it is the likelier.
        """
        if self.metric_set != "emotions":
            classes = [CLASSES[number] for number in score_class(self.metric_set, self.preds)]
            return pd.DataFrame({"id": self.ids, "score": self.preds, "class": classes})
        # The share of the second of two logits.
        present = 1 / (1 + np.exp(self.preds[:, :, 0] - self.preds[:, :, 1]))
        found = self.preds.argmax(axis=2) == 1
        columns: dict[str, Any] = {"id": self.ids}
        for column, emotion in enumerate(EMOTIONS):
            columns |= {emotion: present[:, column], f"is_{emotion}": found[:, column]}
        return pd.DataFrame(columns)


class _ClipData(CorpusBatches):
    """Batches of the clips, treated as the data of the training were.

    Args:
        split: The clips.
        padding: modality -> padded side.
        missing: Missingness protocol of the training.
        scale: Statistics of the training; None where features are used as they are.
    """

    def __init__(self, split: SplitData, padding: dict[str, str], missing: MissingConfig, scale: Scale | None) -> None:
        normalise = "none" if scale is None else "zscore"
        super().__init__(missing=missing, seed=0, mask_seed=0, selection="val", normalise=normalise)
        self._scale = scale
        self._corpus = Corpus(DatasetInfo(CUSTOM, "clips of one's own"), "clips", "", {"test": split}, padding)

    @property
    def corpus(self) -> Corpus:
        """The clips as a corpus of one split."""
        return self._corpus


def predict_clips(
    checkpoint: str | Path,
    clips: str | Path | Mapping[str, Any],
    *,
    batch_size: int | None = None,
    device: str | None = None,
    cut: bool = False,
) -> ClipPredictions:
    """Predict clips of one's own.

    The clips are treated as those of the training were: standardised with its statistics, with all of its steps,
    padded on its side. What a clip lacks is not observed, as in the cells of the benchmark: the prediction of a clip
    without vision is that of the cell ``inter/la``. The corpus of the training need not be there.

    Args:
        checkpoint: Checkpoint of a training, exported folder, or ``owner/name@revision`` on the hub.
        clips: An npz, or its arrays by name, see ``data.read_clips``: ``text``, ``audio``, ``vision``, float
            ``(N, T_m, D_m)``, any of them, with the features D_m of the training; optional ids, lengths, token ids.
        batch_size: Clips per forward pass; None for 96. Predictions do not depend on it, up to rounding.
        device: Where to compute, e.g. ``cpu`` or ``cuda:0``; None for the GPU if there is one.
        cut: Whether clips of more steps than the training had are cut to their first ones instead of refused.

    Returns:
        The predictions, in the order of the clips.

    Raises:
        MSABenchError: The checkpoint or the clips cannot be read; the features are of other sizes than those of the
            training; a clip is longer; the method reads tokens and there are text features alone, or the reverse; the
            device is not usable; a prediction is not finite.
    """
    if batch_size is not None and batch_size < 1:
        raise MSABenchError(f"batch_size {batch_size} is not allowed; give a positive number")
    place = usable_device(device)
    method, data_state = load_checkpoint(Path(checkpoint))
    read = read_clips(clips if isinstance(clips, Mapping) else Path(clips).expanduser())
    name = "clips" if isinstance(clips, Mapping) else str(clips)
    data = _data_of(read, method, data_state, cut=cut, name=name)
    method.to(place)
    masks = data.cell_masks(Cell(), 0, device=place)
    needs = method.data_needs
    parts = []
    with torch.no_grad():
        for batch in data.cell_batches(
            Cell(), 0, needs=needs, batch_size=batch_size or BATCH, device=place, masks=masks
        ):
            check()
            parts.append(method(batch.for_inference().in_type(cast(torch.dtype, method.dtype))).pred)
    preds = data.in_file_order(torch.cat(parts), needs=needs).float().cpu().numpy()
    if not np.isfinite(preds).all():
        row = int(np.argmax(~np.isfinite(preds).reshape(len(preds), -1).all(axis=1)))
        raise MSABenchError(f"{method.info.name} predicts a value that is not finite for clip {read.ids[row]!r}")
    blind = _blind(masks)
    notes = [*read.notes, *_absences(method, masks, blind)]
    return ClipPredictions(read.ids, preds, method.spec.metric_set, blind, notes)


def _data_of(read: RawClips, method: MSAMethod, data_state: dict[str, Any], *, cut: bool, name: str) -> _ClipData:
    """The clips as a data module of the training would have them.

    Raises:
        MSABenchError: They do not fit the training.
    """
    spec, init_args = method.spec, data_state["init_args"]
    with_tokens = method.data_needs.tokens
    _require_fitting(read, spec, with_tokens, method.info.name, name)
    # Checkpoints did not always say on which side their corpus was padded; then the clips' own side stays.
    padding = data_state.get("padding") or read.padding
    arrays = fitted_clips(read, spec, padding, cut=cut, name=name)
    ids = read.ids
    if read.conversations is not None:
        ids = [f"{conversation}$_${row}" for row, conversation in enumerate(read.conversations)]
    split = SplitData(
        features={m: torch.from_numpy(values) for m, values in arrays.features.items()},
        lengths={m: torch.from_numpy(lengths) for m, lengths in arrays.lengths.items()},
        labels=torch.zeros(len(ids)),
        ids=ids,
        uid=clip_uids(CUSTOM, "clips", ids),
        tokens=torch.from_numpy(arrays.tokens) if with_tokens or read.tokens is not None else None,
        observed={m: torch.from_numpy(mask) for m, mask in arrays.observed.items()},
    )
    if init_args.get("all_zero") == "absent":
        split = with_zeros_absent(split)
    if method.data_needs.conversations and len(Conversations.of(ids)) == len(ids) > 1:
        read.notes.append(
            f"{method.info.name} reads clips in their conversation, and here every clip is one of its own: name them "
            "in an array conversation, or by ids such as video$_$2"
        )
    missing = MissingConfig(**{**init_args["missing"], "rate": tuple(init_args["missing"]["rate"])})
    scale = {m: (mean, std) for m, (mean, std) in data_state["scale"].items()} or None
    return _ClipData(split, padding, missing, scale)


def _require_fitting(read: RawClips, spec: DataSpec, with_tokens: bool, method: str, name: str) -> None:
    for modality, values in read.features.items():
        if with_tokens and modality == "text":
            continue
        wanted, found = spec.feature_dims[modality], values.shape[2]
        if found != wanted:
            raise MSABenchError(
                f"{name}: {modality} has {found} features, and {method} was trained on {wanted} "
                f"({spec.features or 'of its corpus'}); give features that were extracted as those of the training"
            )
    if with_tokens and read.tokens is None and "text" in read.features:
        raise MSABenchError(
            f"{name} has text features, but {method} was trained with a text encoder, which reads token ids; give "
            "text_bert, or leave text out"
        )
    if not with_tokens and read.tokens is not None and "text" not in read.features:
        raise MSABenchError(
            f"{name} has token ids (text_bert), but {method} was trained on text features; give text, "
            f"(N, T, {spec.feature_dims['text']}), or leave both out"
        )


def _blind(masks: Masks) -> NDArray[np.bool_]:
    seen = torch.stack([masks.observed[modality].any(1) for modality in MODALITIES]).any(0)
    return (~seen).cpu().numpy()


def _absences(method: MSAMethod, masks: Masks, blind: NDArray[np.bool_]) -> list[str]:
    """What the method did not see, in words."""
    total = len(blind)
    lacking = {m: int((~masks.observed[m].any(1)).sum()) for m in MODALITIES}
    notes = [
        f"{'no clip has' if count == total else f'{count:,} of {total:,} clips have no'} {modality}: predicted without"
        for modality, count in lacking.items()
        if count
    ]
    for modality in method.info.needs:
        if lacking[modality]:
            notes.append(
                f"{method.info.name} reads nothing of a clip without {modality}, so {lacking[modality]:,} predictions "
                "are those of an empty clip"
            )
    if blind.any():
        notes.append(f"{int(blind.sum()):,} clips have no observed frame at all: their predictions say nothing of them")
    return notes

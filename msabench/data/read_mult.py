"""The reader of MulT's pickles.

Layout: https://github.com/yaohungt/Multimodal-Transformer (``src/dataset.py``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from msabench.data.frames import Bools, Ints, detect_padding
from msabench.data.info import EMOTIONS, DatasetInfo, FeatureFile
from msabench.data.raw import RawCorpus, RawSplit
from msabench.data.raw_checks import checked_corpus
from msabench.data.split_arrays import SplitArrays, absent_of_pickle, splits_of_pickle
from msabench.data.unpickle import load
from msabench.missingness.conditions import MODALITIES

MULT_EMOTIONS = ("neutral", "happy", "sad", "angry")
"""Emotions in the order of the MulT files (``src/eval_metrics.py`` of its repository)."""


def read_mult(path: Path, info: DatasetInfo, file: FeatureFile, *, clip_labels: bool = False) -> RawCorpus:
    """Read a pickle in the layout of MulT.

    The files have no lengths; they are found from all-zero frames on the padded side. In aligned files a frame exists
    where any modality has it, since a word without vector or face is still a word. IEMOCAP's labels are reordered from
    ``MULT_EMOTIONS`` to ``EMOTIONS``. ``absent`` beside the splits names modalities that the corpus does not have.

    Args:
        path: The pickle.
        info: The corpus, for task, label range and split sizes.
        file: What is listed of the file.
        clip_labels: Clip labels beyond the corpus's range, and note how many, instead of refusing the file.

    Returns:
        Splits without tokens; without ``valid`` if the file has none. Without usable ids (IEMOCAP), ids are row
        numbers.

    Raises:
        MSABenchError: The file is damaged or not in this layout; labels are wrong.
    """
    splits: dict[str, RawSplit] = {}
    notes: list[str] = []
    ids_from_file = True
    present: dict[str, dict[str, Bools]] = {}
    content = load(path, in_file=True)
    found = splits_of_pickle(path, content, clip_labels)
    absent = absent_of_pickle(path, content, found)
    here = tuple(modality for modality in MODALITIES if modality not in absent)
    for name, split in found.items():
        scores = None if info.task == "emotions" else split.scores("labels", info)
        labels = _emotions(split) if scores is None else scores
        n_clips = len(labels)
        ids = split.ids("id", n_clips) if "id" in split.arrays else []
        if len(set(ids)) < n_clips:
            if ids:
                split.note("id", f"only {len(set(ids)):,} of {n_clips:,} ids are different; they are not used")
            ids_from_file = False
            ids = [str(row) for row in range(n_clips)]
        if scores is not None:
            split.check_scores("labels", scores, ids, info)
        features = split.all_features(n_clips, absent)
        present[name] = {modality: values.present for modality, values in features.items()}
        splits[name] = RawSplit({m: values.settled() for m, values in features.items()}, {}, labels, ids)
    if not ids_from_file:
        for raw in splits.values():
            raw.ids = [str(row) for row in range(len(raw.ids))]

    padding = dict.fromkeys(MODALITIES, "end")
    for raw in splits.values():
        raw.lengths.update({modality: np.zeros(len(raw.ids), dtype=np.int64) for modality in absent})
    groups = [here] if file.features.endswith("-aligned") else [(modality,) for modality in here]
    for group in groups:
        presences = {}
        for name, raw in splits.items():
            steps = {modality: raw.features[modality].shape[1] for modality in group}
            if len(set(steps.values())) > 1:
                raise found[name].error(
                    "text, audio, vision", f"have {steps} steps", "as many in each, in aligned files"
                )
            presences[name] = [present[name][modality] for modality in group]
        side, lengths = detect_padding(presences)
        for modality in group:
            padding[modality] = side
            for name, raw in splits.items():
                raw.lengths[modality] = lengths[name].copy()
    for name, raw in splits.items():
        for modality in here:
            if empty := int((raw.lengths[modality] == 0).sum()):
                found[name].note(modality, f"{empty:,} clips have no frame")
        notes += found[name].notes
    return checked_corpus(path, file, info, splits, notes, padding, ids_from_file)


def _emotions(split: SplitArrays) -> Ints:
    """IEMOCAP's one-hot labels ``(N, 4, 2)`` as int64 ``(N, 4)`` in the order of ``EMOTIONS``."""
    expected = "one-hot labels of shape (N, 4, 2)"
    values = split.numbers("labels", expected)
    if values.ndim != 3 or values.shape[1:] != (len(MULT_EMOTIONS), 2) or len(values) == 0:
        raise split.error("labels", f"has shape {values.shape}", expected)
    if not (np.isin(values, (0.0, 1.0)).all() and (values.sum(axis=2) == 1.0).all()):
        raise split.error("labels", "is not one-hot", expected)
    order = [MULT_EMOTIONS.index(emotion) for emotion in EMOTIONS]
    labels: Ints = values.argmax(axis=2)[:, order].astype(np.int64)
    return labels

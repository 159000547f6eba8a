"""The reader of MMSA's pickles.

Layout: https://github.com/thuiar/MMSA (README, "Datasets").
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from msabench.data.frames import present_frames, zero_frames
from msabench.data.info import DatasetInfo, FeatureFile
from msabench.data.raw import RawCorpus, RawSplit
from msabench.data.raw_checks import checked_corpus
from msabench.data.split_arrays import splits_of_pickle
from msabench.data.unpickle import load
from msabench.missingness.conditions import MODALITIES


def read_mmsa(path: Path, info: DatasetInfo, file: FeatureFile, *, clip_labels: bool = False) -> RawCorpus:
    """Read a pickle in the layout of MMSA.

    The number of words is that of the attention mask in ``text_bert``. In aligned files audio and vision have a frame
    for each token, so that they take the text's length; in others their lengths are ``audio_lengths`` and
    ``vision_lengths``, or, where a file lacks these, end at the last frame that is not all zero. Where there is no
    ``text_bert``, text is treated as the others are, and in aligned files a frame exists up to the last that is not
    zero in all modalities. Padding is at the end.

    Args:
        path: The pickle.
        info: The corpus, for label range and split sizes.
        file: What is listed of the file.
        clip_labels: Clip labels beyond the corpus's range, and note how many, instead of refusing the file.

    Returns:
        Splits, with tokens where the file has them.

    Raises:
        MSABenchError: The file is damaged or not in this layout; labels, ids or lengths are wrong.
    """
    splits: dict[str, RawSplit] = {}
    notes: list[str] = []
    for name, split in splits_of_pickle(path, load(path), clip_labels).items():
        labels = split.scores("regression_labels", info)
        n_clips = len(labels)
        ids = split.ids("id", n_clips)
        split.check_unique("id", ids)
        split.check_scores("regression_labels", labels, ids, info)
        features = {modality: split.features(modality, n_clips) for modality in MODALITIES}
        steps = {modality: values.shape[1] for modality, values in features.items()}
        tokens = split.tokens(n_clips, steps["text"]) if "text_bert" in split.arrays else None
        aligned = file.features.endswith("-aligned") or (
            file.features == "custom" and "audio_lengths" not in split.arrays and len(set(steps.values())) == 1
        )
        if aligned:
            for modality in ("audio", "vision"):
                if steps[modality] != steps["text"]:
                    raise split.error(
                        modality, f"has {steps[modality]} steps", f"{steps['text']} as text in aligned files"
                    )
        lengths = {} if tokens is None else {"text": tokens[:, 1].sum(axis=1)}
        if aligned and tokens is None:
            present = np.logical_or.reduce([present_frames(values) for values in features.values()])
            lengths["text"] = steps["text"] - zero_frames(present)[1]
            split.note(
                "text", "there is no text_bert; lengths end at the last frame that is not zero in all modalities"
            )
        for modality in MODALITIES:
            if modality in lengths:
                continue
            if aligned:
                lengths[modality] = lengths["text"].copy()
            elif f"{modality}_lengths" in split.arrays:
                lengths[modality] = split.lengths(f"{modality}_lengths", n_clips, steps[modality])
            else:
                lengths[modality] = steps[modality] - zero_frames(present_frames(features[modality]))[1]
                absent = "text_bert and no text_lengths" if modality == "text" else f"{modality}_lengths"
                split.note(modality, f"there is no {absent}; lengths end at the last frame that is not zero")
        for modality in MODALITIES:
            split.zero_padding(modality, features[modality], lengths[modality])
        splits[name] = RawSplit(features, lengths, labels, ids, tokens)
        notes += split.notes
    return checked_corpus(path, file, info, splits, notes)

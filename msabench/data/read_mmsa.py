"""The reader of MMSA's pickles.

Layout: https://github.com/thuiar/MMSA (README, "Datasets").
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from msabench.data.frames import zero_frames
from msabench.data.info import DatasetInfo, FeatureFile
from msabench.data.raw import RawCorpus, RawSplit
from msabench.data.raw_checks import checked_corpus
from msabench.data.split_arrays import absent_of_pickle, splits_of_pickle
from msabench.data.unpickle import load
from msabench.missingness.conditions import MODALITIES


def read_mmsa(path: Path, info: DatasetInfo, file: FeatureFile, *, clip_labels: bool = False) -> RawCorpus:
    """Read a pickle in the layout of MMSA.

    The number of words is that of the attention mask in ``text_bert``. In aligned files audio and vision have a frame
    for each token, so that they take the text's length; in others their lengths are ``audio_lengths`` and
    ``vision_lengths``, or, where a file lacks these, end at the last frame that is not all zero. Where there is no
    ``text_bert``, text is treated as the others are, and in aligned files a frame exists up to the last that is not
    zero in all modalities. Padding is at the end. ``absent`` beside the splits names modalities that the corpus does
    not have.

    Args:
        path: The pickle.
        info: The corpus, for label range and split sizes.
        file: What is listed of the file.
        clip_labels: Clip labels beyond the corpus's range, and note how many, instead of refusing the file.

    Returns:
        Splits, with tokens where the file has them; without ``valid`` if the file has none.

    Raises:
        MSABenchError: The file is damaged or not in this layout; labels, ids or lengths are wrong.
    """
    splits: dict[str, RawSplit] = {}
    notes: list[str] = []
    content = load(path, in_file=True)
    found = splits_of_pickle(path, content, clip_labels)
    absent = absent_of_pickle(path, content, found)
    here = [modality for modality in MODALITIES if modality not in absent]
    for name, split in found.items():
        labels = split.scores("regression_labels", info)
        n_clips = len(labels)
        ids = split.ids("id", n_clips)
        split.check_unique("id", ids)
        split.check_scores("regression_labels", labels, ids, info)
        features = split.all_features(n_clips, absent)
        steps = {modality: values.shape[1] for modality, values in features.items()}
        tokens = split.tokens(n_clips, steps["text"]) if "text_bert" in split.arrays else None
        aligned = file.features.endswith("-aligned") or (
            not file.features.endswith("-unaligned")
            and "audio_lengths" not in split.arrays
            and len({steps[modality] for modality in here}) == 1
        )
        if aligned:
            for modality in here[1:]:
                if steps[modality] != steps[here[0]]:
                    raise split.error(
                        modality, f"has {steps[modality]} steps", f"{steps[here[0]]} as {here[0]} in aligned files"
                    )
        lengths = {} if tokens is None else {"text": tokens[:, 1].sum(axis=1)}
        if aligned and tokens is None:
            present = np.logical_or.reduce([features[modality].present for modality in here])
            lengths[here[0]] = steps[here[0]] - zero_frames(present)[1]
            split.note(
                here[0], "there is no text_bert; lengths end at the last frame that is not zero in all modalities"
            )
        for modality in absent:
            lengths[modality] = np.zeros(n_clips, dtype=np.int64)
        for modality in here:
            if modality in lengths:
                continue
            if aligned:
                lengths[modality] = lengths[here[0]].copy()
            elif f"{modality}_lengths" in split.arrays:
                lengths[modality] = split.lengths(f"{modality}_lengths", n_clips, steps[modality])
            else:
                lengths[modality] = steps[modality] - zero_frames(features[modality].present)[1]
                lacking = "text_bert and no text_lengths" if modality == "text" else f"{modality}_lengths"
                split.note(modality, f"there is no {lacking}; lengths end at the last frame that is not zero")
        for modality in here:
            split.zero_padding(modality, features[modality], lengths[modality])
        settled = {modality: values.settled() for modality, values in features.items()}
        splits[name] = RawSplit(settled, lengths, labels, ids, tokens)
        notes += split.notes
    return checked_corpus(path, file, info, splits, notes)

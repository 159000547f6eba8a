"""Readers of feature files: MMSA pickles, MulT pickles and our npz. Free of torch.

Every reader checks what it reads and says in one sentence which file, split and key is wrong and what was expected.
What it can mend it mends and counts in the notes: values that are not finite become 0, frames beyond a clip's length
become 0. What it cannot mend is an error: labels that are missing or out of range, ids that occur twice, lengths beyond
the steps. A length of 0 is allowed and kept: the modality has no frame in that clip, and is treated as removed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msabench.data.info import DatasetInfo, FeatureFile
from msabench.data.raw import RawCorpus
from msabench.data.read_mmsa import read_mmsa
from msabench.data.read_mult import read_mult
from msabench.data.read_npz import read_npz
from msabench.data.read_own import read_own
from msabench.data.valid_share import ValidShare, with_valid

READERS: dict[str, Callable[..., RawCorpus]] = {
    "mmsa": read_mmsa,
    "mult": read_mult,
    "npz": read_npz,
}
"""``FeatureFile.reader`` -> function of path, corpus, file and, by name, ``clip_labels``; others are somebody's own."""


def read_splits(path: Path, info: DatasetInfo, file: FeatureFile, *, clip_labels: bool = False) -> RawCorpus:
    """Read the splits that a feature file has; ``valid`` may be lacking.

    Args:
        path: The file.
        info: The corpus.
        file: What is listed of the file, its reader for one.
        clip_labels: Clip labels beyond the corpus's range, and note how many, instead of refusing the file.

    Raises:
        MSABenchError: The file is damaged or not in its layout; labels, ids or lengths are wrong.
    """
    return READERS.get(file.reader, read_own)(path, info, file, clip_labels=clip_labels)


def read_corpus(
    path: Path,
    info: DatasetInfo,
    file: FeatureFile,
    *,
    clip_labels: bool = False,
    valid: ValidShare | None = None,
) -> RawCorpus:
    """Read a feature file with all three splits.

    Args:
        path: The file.
        info: The corpus.
        file: What is listed of the file, its reader for one.
        clip_labels: Clip labels beyond the corpus's range, and note how many, instead of refusing the file.
        valid: What to take from the training split, for a file without a validation split.

    Returns:
        The splits train, valid and test.

    Raises:
        MSABenchError: The file is damaged or not in its layout; labels, ids or lengths are wrong; a split is missing,
            or ``valid`` is given for a file that has one.
    """
    return with_valid(path, read_splits(path, info, file, clip_labels=clip_labels), valid)

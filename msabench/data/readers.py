"""Readers of feature files: MMSA pickles, MulT pickles and our npz. Free of torch.

Every reader checks what it reads and says in one sentence which file, split and key is wrong and what was expected.
What it can mend it mends and counts in the notes: values that are not finite become 0, frames beyond a clip's length
become 0. What it cannot mend is an error: labels that are missing or out of range, ids that occur twice, lengths beyond
the steps. A length of 0 is allowed and kept: the modality has no frame in that clip, and is treated as removed.
"""

from __future__ import annotations

from collections.abc import Callable

from msabench.data.raw import RawCorpus
from msabench.data.read_mmsa import read_mmsa
from msabench.data.read_mult import read_mult
from msabench.data.read_npz import read_npz

READERS: dict[str, Callable[..., RawCorpus]] = {
    "mmsa": read_mmsa,
    "mult": read_mult,
    "npz": read_npz,
}
"""``FeatureFile.reader`` -> function of path, corpus, file and, by name, ``clip_labels``."""

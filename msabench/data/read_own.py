"""Readers of somebody's own: functions that take a file and return what our npz would hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msabench.data.info import DatasetInfo, FeatureFile
from msabench.data.raw import RawCorpus
from msabench.data.read_npz import corpus_of_arrays
from msabench.errors import MSABenchError
from msabench.plugins import imported


def read_own(path: Path, info: DatasetInfo, file: FeatureFile, *, clip_labels: bool = False) -> RawCorpus:
    """Read a file by the function that ``FeatureFile.reader`` names.

    Args:
        path: The file.
        info: The corpus, for task, label range and split sizes.
        file: What is listed of the file.
        clip_labels: Clip labels beyond the corpus's range, and note how many, instead of refusing the file.

    Returns:
        The splits, checked as those of an npz are.

    Raises:
        MSABenchError: The function cannot be imported or fails, or returns anything else than the arrays of our npz.
    """
    function = imported(file.reader, f"corpus {info.name}")
    try:
        content = function(path)
    except MSABenchError:
        raise
    except Exception as error:
        # Whatever somebody's own function raises.
        raise MSABenchError(f"{path}: reader {file.reader} failed ({type(error).__name__}: {error})") from error
    if not isinstance(content, Mapping):
        raise MSABenchError(
            f"{path}: reader {file.reader} returned a {type(content).__name__}; expected a mapping of names to arrays, "
            "as in our npz"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for key, value in content.items():
        try:
            arrays[str(key)] = np.asarray(value)
        except ValueError as error:
            raise MSABenchError(f"{path}: {key}, which reader {file.reader} returned, is no array ({error})") from error
    return corpus_of_arrays(path, arrays, info, file, clip_labels=clip_labels)

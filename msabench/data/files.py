"""Which file holds a corpus, and where it lies. Free of torch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from msabench.data.info import TASKS, DatasetInfo, FeatureFile
from msabench.data.registry import dataset_info
from msabench.errors import MSABenchError, one_of

DATA_VARIABLE = "MSABENCH_DATA"
"""Environment variable that names the data folder."""


def data_folder(root: Path | None = None) -> Path:
    """The folder with feature files: ``root``, else the one that MSABENCH_DATA names, else ``data``."""
    return Path(root or os.environ.get(DATA_VARIABLE) or "data").expanduser()


def cache_folder(cache: Path | None = None) -> Path:
    """The folder of converted files: ``cache``, else ``msabench`` in XDG_CACHE_HOME, else in ``~/.cache``."""
    if cache is not None:
        return Path(cache).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "msabench"


def feature_file(
    dataset: str, features: str | None = None, *, path: Path | None = None, task: str = "regression"
) -> tuple[DatasetInfo, FeatureFile]:
    """Facts of a corpus and of the file to read; for ``custom`` they follow from ``path`` and ``task``.

    Raises:
        MSABenchError: Unknown dataset, features or task; ``path`` ends in neither .npz nor .pkl.
    """
    info = dataset_info(dataset)
    file = info.file(features)
    if task not in TASKS:
        raise one_of("task", task, TASKS)
    if dataset != "custom":
        if task == "emotions" and info.task != task:
            raise MSABenchError(f"task emotions is not allowed for {dataset}, whose labels are {info.task} labels")
        return info, file
    if task == "emotions":
        info = replace(info, task=task, metric_set="emotions", label_range=(0.0, 1.0), default_metric="f1_mean")
    suffix = "" if path is None else Path(path).suffix
    if suffix in (".pkl", ".pickle"):
        file = replace(file, reader="mult" if task == "emotions" else "mmsa")
    elif suffix not in ("", ".npz"):
        raise MSABenchError(f"path {path} is not allowed for custom; give a file that ends in .npz, .pkl or .pickle")
    return info, file


def find_source(info: DatasetInfo, file: FeatureFile, root: Path | None = None, path: Path | None = None) -> Path:
    """The resolved path of a feature file that exists.

    Args:
        info: The corpus.
        file: Its feature file.
        root: Data folder; see ``data_folder``.
        path: The file itself, instead of its usual place below the data folder.

    Raises:
        MSABenchError: There is no such file; says what was looked for, where, and how to get it.
    """
    if path is None and not file.filename:
        raise MSABenchError(
            f"{info.name} needs path, the feature file to read (.npz or .pkl): --path, or --data.path in fit, "
            "validate, test and predict"
        )
    source = data_folder(root) / file.filename if path is None else Path(path).expanduser()
    if source.is_file():
        return source.resolve()
    problem = f"{source} is a folder, not a feature file" if source.is_dir() else f"there is no file {source}"
    if path is not None:
        raise MSABenchError(
            f"{problem}; path must name the {file.features} features of {info.name}: --path, or --data.path in fit, "
            "validate, test and predict"
        )
    raise MSABenchError(
        f"{problem} with the {file.features} features of {info.name}; get it with "
        f"`msabench data fetch {info.name} --features {file.features}`, or let {DATA_VARIABLE} name the folder that "
        f"holds {file.filename}"
    )

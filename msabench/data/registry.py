"""Finds corpora by name: those that msabench knows, those from outside, and users' own files. Free of torch.

A corpus from outside is a literal ``DatasetInfo(...)`` in a plug-in, or behind an entry point of the group
``msabench.datasets``; see ``msabench.plugins``.
"""

from __future__ import annotations

import re
from dataclasses import replace

from msabench.data.info import CUSTOM, GENERATOR, DatasetInfo, FeatureFile
from msabench.data.shipped import SHIPPED
from msabench.errors import MSABenchError, one_of
from msabench.plugins import Found, Outside

GROUP = "msabench.datasets"
"""Group of entry points."""

_OUTSIDE = Outside("corpus", GROUP, DatasetInfo, (FeatureFile,))
_OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]{0,39}")


def corpora() -> dict[str, DatasetInfo]:
    """Name -> facts of every corpus: those of msabench, then those from outside.

    Raises:
        MSABenchError: A plug-in cannot be read, a corpus in it cannot be used, or two corpora have one name.
    """
    return {**SHIPPED, **{name: found.info for name, found in _external().items()}}


def external_corpus(name: str) -> Found[DatasetInfo] | None:
    """A corpus from outside, with the place that it comes from; None for others.

    Raises:
        MSABenchError: As ``corpora``.
    """
    return _external().get(name)


def _external() -> dict[str, Found[DatasetInfo]]:
    found = _OUTSIDE.found(SHIPPED)
    for name, corpus in found.items():
        families = [file.features for file in corpus.info.files]
        if not families or len(set(families)) < len(families):
            raise MSABenchError(f"{corpus.object_path}: corpus {name} needs files, each with features of its own name")
        for features in families:
            if not _OWN_NAME.fullmatch(features.replace("-", "_")):
                raise MSABenchError(
                    f"{corpus.object_path}: features {features!r} are not allowed; give letters, digits, dots, dashes "
                    "and underscores, a letter or digit first"
                )
        if any(file.reader == GENERATOR for file in corpus.info.files):
            raise MSABenchError(f"{corpus.object_path}: reader {GENERATOR} is msabench's own; read a file")
    return found


def dataset_info(name: str) -> DatasetInfo:
    """Facts of one corpus.

    Raises:
        MSABenchError: No corpus has this name.
    """
    known = corpora()
    if name not in known:
        raise one_of("dataset", name, known)
    return known[name]


def named(info: DatasetInfo, name: str | None) -> DatasetInfo:
    """Facts of an own file under the name that its user gave it, so that two of them never share a table.

    Args:
        info: Facts of the corpus that was asked for.
        name: The name, or None for none.

    Returns:
        The facts; with a name they are called ``custom-<name>``, as in keys of records.

    Raises:
        MSABenchError: The corpus is not ``custom``, or the name cannot be part of a file's path everywhere.
    """
    if name is None:
        return info
    if info.name != CUSTOM:
        raise MSABenchError(
            f"name {name!r} is not allowed for {info.name}, which has one; only custom files take a name"
        )
    if not _OWN_NAME.fullmatch(name):
        raise MSABenchError(
            f"name {name!r} is not allowed; give up to 40 letters, digits, dots and underscores, no dot or underscore "
            "first"
        )
    return replace(info, name=f"{CUSTOM}-{name}", title=f"{name} (own file)")


def recorded_info(name: str) -> DatasetInfo | None:
    """Facts of a corpus as records name it; None if it is not registered."""
    kind, dash, own = name.partition("-")
    if kind == CUSTOM and dash and _OWN_NAME.fullmatch(own):
        return named(SHIPPED[CUSTOM], own)
    return corpora().get(name)

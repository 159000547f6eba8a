"""The verbs ``msabench data list``, ``fetch``, ``convert`` and ``verify``. Only ``convert`` needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from msabench.data.feature_rows import FeatureRows
from msabench.data.files import data_folder, feature_file, find_source
from msabench.data.info import EMOTIONS, SPLITS, DatasetInfo, FeatureFile
from msabench.data.manifest import MANIFEST, damage, store_of
from msabench.data.raw import RawCorpus
from msabench.data.readers import read_corpus
from msabench.data.registry import corpora, dataset_info, external_corpus
from msabench.data.valid_share import ValidShare
from msabench.files import format_size, sha256_of
from msabench.missingness.conditions import MODALITIES

NAMED_CLIPS = 5
"""Clips that are named where a modality is 0 in every frame; more are counted."""


def data_list(root: Path | None = None) -> str:
    """List corpora, their feature files, which of them are here and how to get the others.

    Args:
        root: Data folder; $MSABENCH_DATA or ./data if not given.
    """
    rows = [("dataset", "features", "file", "here", "to get it")]
    for info in corpora().values():
        for file in info.files:
            rows.append((info.name, file.features, file.filename or "-", *_state(info, file, root)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    caveats = [f"{info.name}: {info.caveat}" for info in corpora().values() if info.caveat]
    for name in corpora():
        if (outside := external_corpus(name)) is not None:
            caveats.append(f"{name}: from outside msabench, {outside.object_path} in {outside.source.path}")
    folder = data_folder(root)
    return "\n".join(
        [f"data folder: {folder.resolve()}{'' if folder.is_dir() else ' (not there)'}", *lines, "", *caveats]
    )


def _state(info: DatasetInfo, file: FeatureFile, root: Path | None) -> tuple[str, str]:
    """Whether a file is here, and how to get it."""
    if not file.filename:
        return ("built in", "-") if file.reader == "generator" else ("-", "your own file: give its path")
    path = data_folder(root) / file.filename
    here = format_size(path.stat().st_size) if path.is_file() else "no"
    command = f"msabench data fetch {info.name} --features {file.features}"
    return here, command if file.hub_repo else f"{command} (prints the steps)"


def data_fetch(dataset: str, features: str | None = None, root: Path | None = None) -> int:
    """Download a feature file to its place below the data folder, or print the exact steps to get it by hand.

    Args:
        dataset: Name of the corpus, e.g. mosi.
        features: Feature family, e.g. mmsa-unaligned; the corpus's first if not given.
        root: Data folder; $MSABENCH_DATA or ./data if not given.

    Returns:
        0 if the file is there now, 1 if steps by hand remain.

    Raises:
        MSABenchError: Unknown names, no network, a damaged download, no space.
    """
    from msabench.data.fetch import fetch

    fetched = fetch(dataset, features, root)
    print(fetched.message)
    nothing_to_get = dataset_info(dataset).file(features).reader == "generator"
    return 0 if fetched.path is not None or nothing_to_get else 1


def data_convert(
    dataset: str,
    features: str | None = None,
    root: Path | None = None,
    cache: Path | None = None,
    path: Path | None = None,
    task: Literal["regression", "emotions"] = "regression",
    clip_labels: bool = False,
    valid_share: float | None = None,
    valid_seed: int | None = None,
) -> str:
    """Convert a feature file into the fast store, as the first training on it would.

    Args:
        dataset: Name of the corpus, e.g. mosi.
        features: Feature family, e.g. mmsa-unaligned; the corpus's first if not given.
        root: Data folder; $MSABENCH_DATA or ./data if not given.
        cache: Folder for converted files; $XDG_CACHE_HOME/msabench or ~/.cache/msabench if not given.
        path: Feature file, for the dataset custom or in place of the default location.
        task: Kind of labels of a custom file.
        clip_labels: Clip labels beyond the corpus's range and count them, instead of refusing the file.
        valid_share: Share of the training clips that becomes the validation split of a file without one, e.g. 0.1;
            whole conversations are taken.
        valid_seed: Which of them; 0 if not given.

    Raises:
        MSABenchError: Unknown names; the file is missing, damaged or in another layout; no space in the cache.
    """
    from msabench.data.store import open_corpus

    corpus = open_corpus(
        dataset,
        features,
        root=root,
        cache=cache,
        path=path,
        task=task,
        clip_labels=clip_labels,
        valid_share=valid_share,
        valid_seed=valid_seed,
    )
    sizes = "/".join(str(len(corpus.splits[name])) for name in SPLITS)
    head = f"{corpus.info.name} ({corpus.features}), revision {corpus.revision}: {sizes} clips, ready in the cache"
    return "\n".join([head, *(f"  {note}" for note in corpus.notes)])


def data_verify(
    dataset: str,
    features: str | None = None,
    root: Path | None = None,
    cache: Path | None = None,
    path: Path | None = None,
    task: Literal["regression", "emotions"] = "regression",
    clip_labels: bool = False,
    valid_share: float | None = None,
    valid_seed: int | None = None,
) -> str:
    """Read a feature file, check all of it, and say what is in it and what was found wrong and cleaned.

    Its converted copy, if there is one, is compared with the checksums of its writing, byte for byte.

    Args:
        dataset: Name of the corpus, e.g. mosi.
        features: Feature family, e.g. mmsa-unaligned; the corpus's first if not given.
        root: Data folder; $MSABENCH_DATA or ./data if not given.
        cache: Folder for converted files; $XDG_CACHE_HOME/msabench or ~/.cache/msabench if not given.
        path: Feature file, for the dataset custom or in place of the default location.
        task: Kind of labels of a custom file.
        clip_labels: Clip labels beyond the corpus's range and count them, instead of refusing the file.
        valid_share: Share of the training clips that becomes the validation split of a file without one, e.g. 0.1;
            whole conversations are taken.
        valid_seed: Which of them; 0 if not given.

    Raises:
        MSABenchError: Unknown names; the file is missing, damaged or in another layout.
    """
    info, file = feature_file(dataset, features, path=path, task=task)
    if file.reader == "generator":
        return file.how_to_get
    source = find_source(info, file, root, path)
    sha256 = sha256_of(source)
    valid = ValidShare.of(valid_share, valid_seed)
    raw = read_corpus(source, info, file, clip_labels=clip_labels, valid=valid)
    lines = [f"{source} ({format_size(source.stat().st_size)}): {info.title}, {file.features}"]
    if not file.sha256:
        lines.append(f"sha256 {sha256} (none is published)")
    elif sha256 == file.sha256:
        lines.append(f"sha256 {sha256}, as published")
    else:
        lines.append(f"sha256 {sha256} DIFFERS from the published {file.sha256}: another release, or damaged")
    lines += [line for name in SPLITS for line in _split_lines(raw, name)]
    if info.test_counts is not None:
        counts = _signs(raw.splits["test"].labels)
        agree = "as known" if counts == info.test_counts else f"but {_slashed(info.test_counts)} are known"
        lines.append(f"test labels negative/zero/positive: {_slashed(counts)}, {agree}")
    lines.append("padding: " + ", ".join(f"{modality} {raw.padding[modality]}" for modality in MODALITIES))
    lines.append(f"ids: {'in the file' if raw.ids_from_file else 'none in the file, rows stand in for them'}")
    lines += _absences(raw)
    lines += [f"note: {note}" for note in raw.notes] or ["nothing had to be cleaned"]
    lines += _copy_lines(store_of(info, file, sha256, cache=cache, clip_labels=clip_labels, valid=valid))
    return "\n".join(lines)


def _copy_lines(store: Path) -> list[str]:
    """How the converted copy is; without its manifest, a damaged one is made again when it is next used."""
    if not store.is_dir():
        return []
    damaged = damage(store, in_full=True)
    if damaged is None:
        return [f"converted copy {store}: as it was written"]
    (store / MANIFEST).unlink(missing_ok=True)
    return [f"converted copy {store}: {damaged} is DAMAGED; the copy will be made again when it is next used"]


def _absences(raw: RawCorpus) -> list[str]:
    """Modalities that training never sees, and clips whose modality is 0 in every frame."""
    train = raw.splits["train"]
    lines = [
        f"warning: no training clip has a frame of {m} that is not 0"
        for m in MODALITIES
        if not (train.observed[m] if m in train.observed else train.lengths[m]).any()
        or len(train.all_zero(m)) == len(train.ids)
    ]
    for name in SPLITS:
        for modality in MODALITIES:
            clips = raw.splits[name].all_zero(modality)
            if clips:
                more = f" and {len(clips) - NAMED_CLIPS:,} more" if len(clips) > NAMED_CLIPS else ""
                lines.append(
                    f"all 0: {modality} of {len(clips):,} {name} clips in every frame ({', '.join(clips[:NAMED_CLIPS])}"
                    f"{more}); --data.all_zero absent treats them as clips without {modality}"
                )
    return lines


def _split_lines(raw: RawCorpus, name: str) -> list[str]:
    split = raw.splits[name]
    shapes = ", ".join(f"{modality} {_shape(split.features[modality])}" for modality in MODALITIES)
    tokens = "" if split.tokens is None else f", tokens {_shape(split.tokens)}"
    spans = ", ".join(f"{m} {n.min()}/{n.mean():.1f}/{n.max()}" for m, n in split.lengths.items())
    if split.labels.ndim == 2:
        counts = ", ".join(f"{emotion} {n}" for emotion, n in zip(EMOTIONS, split.labels.sum(axis=0), strict=True))
    else:
        counts = f"negative/zero/positive {_slashed(_signs(split.labels))}"
    return [
        f"{name}: {len(split.ids)} clips, {counts}",
        f"  shapes: {shapes}{tokens}",
        f"  lengths, least/mean/most: {spans}",
    ]


def _signs(labels: NDArray[Any]) -> tuple[int, int, int]:
    return int((labels < 0).sum()), int((labels == 0).sum()), int((labels > 0).sum())


def _shape(array: NDArray[Any] | FeatureRows) -> str:
    return "x".join(map(str, array.shape))


def _slashed(counts: tuple[int, ...]) -> str:
    return "/".join(map(str, counts))

"""Opening corpora: a feature file is converted once into memory-mappable safetensors, and mapped ever after.

A store is a folder in the cache with one safetensors file for each split and a manifest. Its name holds the sha256 of
the source and ``CONVERTER``, so that another source or a changed converter makes another store. It is written into a
temporary folder and renamed, so that it is whole or not there. A store that is damaged (``manifest``) is made again.
Tensors are mapped privately: pages are read when they are touched, and writing to a tensor changes this process's copy
only.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors
from numpy.typing import NDArray

from msabench.data.corpus import Corpus, SplitData, all_zero_as_absent, clip_uids
from msabench.data.feature_rows import FeatureRows
from msabench.data.files import cache_folder, feature_file, find_source
from msabench.data.info import SPLITS, DatasetInfo, FeatureFile
from msabench.data.manifest import CONVERTER, damage, read_manifest, revision_of, store_of, write_manifest
from msabench.data.raw import RawCorpus, RawSplit
from msabench.data.readers import read_corpus
from msabench.data.tensor_file import save_file
from msabench.data.valid_share import ValidShare
from msabench.errors import MSABenchError
from msabench.files import HashMemory, Stamp, format_size, locked, sha256_of, sync
from msabench.missingness.conditions import MODALITIES

_LARGE = 100_000_000


def open_corpus(
    dataset: str,
    features: str | None = None,
    *,
    root: Path | None = None,
    cache: Path | None = None,
    path: Path | None = None,
    task: str = "regression",
    size: tuple[int, int, int] | None = None,
    length: int | None = None,
    clip_labels: bool | None = None,
    all_zero: str | None = None,
    valid_share: float | None = None,
    valid_seed: int | None = None,
    splits: Sequence[str] = SPLITS,
) -> Corpus:
    """Open a corpus; convert its feature file first if that has not been done.

    Args:
        dataset: Name of the corpus.
        features: Feature family and alignment; None for the corpus's first.
        root: Data folder; None for the one that MSABENCH_DATA names, else ``data``.
        cache: Folder of converted files; None for ``msabench`` in XDG_CACHE_HOME or ``~/.cache``.
        path: The feature file, instead of its usual place below ``root``; required for ``custom``.
        task: Kind of labels of a ``custom`` file, ``regression`` or ``emotions``.
        size: Clips in train, valid and test; ``synth`` only.
        length: Steps per clip; ``synth`` only.
        clip_labels: Clip labels beyond the corpus's range and note how many, where the file is refused otherwise. The
            revision then says so.
        all_zero: ``absent`` treats a modality that is zero in all frames of a clip as not there; None as zeros.
        valid_share: Share of the training clips, in (0, 1), that become the validation split of a file without one,
            whole conversations at a time. The revision then says so.
        valid_seed: Which of them; None for 0.
        splits: The splits to open. Of a corpus that was converted before, the files of the others are not looked at.

    Returns:
        The corpus with these splits, its tensors mapped from the store.

    Raises:
        MSABenchError: Unknown names; the file is missing, damaged or in another layout; no space in the cache.
    """
    info, file = feature_file(dataset, features, path=path, task=task)
    folder = cache_folder(cache)
    if clip_labels and (dataset == "synth" or info.task == "emotions"):
        labels = "generated" if dataset == "synth" else "emotions"
        raise MSABenchError(f"clip_labels is not allowed for {dataset}, whose labels are {labels}")
    valid = ValidShare.of(valid_share, valid_seed)
    if dataset == "synth" and valid is not None:
        raise MSABenchError(f"valid_share {valid_share} is not allowed for synth, which has a validation split")
    if dataset == "synth":
        return _open_generated(info, file, folder / "stores", size, length, splits)
    if size is not None or length is not None:
        given = "size" if size is not None else "length"
        raise MSABenchError(f"{given} is only allowed for synth, not for {dataset}")
    source = find_source(info, file, root, path)
    memory = HashMemory(folder / "hashes")
    stamp = Stamp.of(source)
    sha256 = memory.recall(stamp)
    known = sha256 is not None
    if sha256 is None:
        _tell(source, "hashing")
        sha256 = sha256_of(source)
    clip = bool(clip_labels)
    store = store_of(info, file, sha256, cache=cache, clip_labels=clip, valid=valid)

    def read() -> RawCorpus:
        _tell(source, f"converting into {store}, once")
        raw = read_corpus(source, info, file, clip_labels=clip, valid=valid)
        if file.sha256 and sha256 != file.sha256:
            difference = f"{source} has sha256 {sha256}, published is {file.sha256}: another release, or damaged"
            warnings.warn(difference, stacklevel=4)
            raw.notes.append(difference)
        return raw

    def check() -> None:
        if Stamp.of(source) != stamp:
            raise MSABenchError(f"{source} changed while it was read; try again when it is complete")

    _ensure(store, source.name, read, check, splits)
    if not known:
        memory.remember(stamp, sha256)
    revision = revision_of(sha256, clip_labels=clip, valid=valid, reader_version=file.reader_version)
    corpus = _load(store, info, file.features, revision, splits)
    return corpus if all_zero is None else all_zero_as_absent(corpus)


def _open_generated(
    info: DatasetInfo,
    file: FeatureFile,
    stores: Path,
    size: tuple[int, int, int] | None,
    length: int | None,
    splits: Sequence[str],
) -> Corpus:
    from msabench.data import synthetic

    clips = synthetic.DEFAULT_SIZE if size is None else size
    steps = synthetic.DEFAULT_LENGTH if length is None else length
    revision = synthetic.revision(clips, steps)
    # The parameters' hash keeps apart what is generated while a new revision is being worked on.
    store = stores / f"{info.name}-{revision}-{synthetic.LATENT.sha256()[:8]}-v{CONVERTER}"
    _ensure(store, f"synth {revision}", lambda: synthetic.generate(clips, steps), lambda: None, splits)
    return _load(store, info, file.features, revision, splits)


def _file_of(split: str) -> str:
    return f"{split}.safetensors"


def _tell(source: Path, what: str) -> None:
    size = source.stat().st_size
    if size >= _LARGE:
        print(f"msabench: {what}: {source} ({format_size(size)})", file=sys.stderr, flush=True)


def _ensure(
    store: Path, what: str, read: Callable[[], RawCorpus], check: Callable[[], None], splits: Sequence[str]
) -> None:
    """Make sure that a whole store is there; several processes may try at once.

    Args:
        store: The folder.
        what: What is converted, for messages.
        read: Makes what the store is to hold; large arrays may be read from the source while the store is written.
        check: Fails if the source has changed meanwhile.
        splits: The splits that are going to be opened.
    """
    files = [_file_of(split) for split in splits]
    if damage(store, files=files) is None:
        return
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MSABenchError(f"cannot create the cache folder {store.parent} ({error}); choose another one") from error
    if not os.access(store.parent, os.W_OK):
        raise MSABenchError(f"the cache folder {store.parent} may not be written; choose another one")
    with locked(store.with_name(f"{store.name}.lock")):
        damaged = damage(store, files=files)
        if damaged is None:
            return
        if store.is_dir():
            place = store / damaged
            if place.exists() and not os.access(place, os.R_OK):
                raise MSABenchError(f"{place} may not be read; let its owner allow it, or choose another cache folder")
            reason = f"{place} is damaged or of an earlier version"
            print(f"msabench: {reason}; converting {what} again", file=sys.stderr, flush=True)
        _convert(store, what, read(), check)


def _convert(store: Path, what: str, raw: RawCorpus, check: Callable[[], None]) -> None:
    temporary = store.with_name(f".{store.name}.{secrets.token_hex(8)}")
    try:
        temporary.mkdir()
        ids = {name: split.ids for name, split in raw.splits.items()}
        for name in SPLITS:
            file = temporary / _file_of(name)
            save_file(_arrays(raw.splits.pop(name)), file)
            sync(file)
        check()
        write_manifest(
            temporary,
            {
                "source": what,
                "padding": raw.padding,
                "ids_from_file": raw.ids_from_file,
                "notes": raw.notes,
                "ids": ids,
            },
        )
        if store.exists() and damage(store) is not None:
            shutil.rmtree(store, ignore_errors=True)
        try:
            temporary.rename(store)
        except OSError:
            # Another process was faster, and its store is as good.
            if damage(store) is not None:
                raise
        sync(store.parent)
    except OSError as error:
        free = format_size(shutil.disk_usage(store.parent).free)
        raise MSABenchError(
            f"cannot write the converted {what} to {store.parent} ({error}; {free} free); free space there or choose "
            f"another cache folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _arrays(split: RawSplit) -> dict[str, NDArray[Any] | FeatureRows]:
    arrays: dict[str, NDArray[Any] | FeatureRows] = {**split.features, "labels": split.labels}
    arrays.update({f"{modality}_lengths": lengths for modality, lengths in split.lengths.items()})
    arrays.update({f"{modality}_observed": mask for modality, mask in split.observed.items()})
    if split.tokens is not None:
        arrays["tokens"] = split.tokens
    return arrays


def _load(store: Path, info: DatasetInfo, features: str, revision: str, names: Sequence[str]) -> Corpus:
    manifest = read_manifest(store)
    splits = {}
    for name in names:
        with safetensors.safe_open(store / _file_of(name), framework="pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}
        ids = manifest["ids"][name]
        splits[name] = SplitData(
            features={modality: tensors[modality] for modality in MODALITIES},
            lengths={modality: tensors[f"{modality}_lengths"] for modality in MODALITIES},
            labels=tensors["labels"],
            ids=ids,
            uid=clip_uids(info.name, name, ids),
            tokens=tensors.get("tokens"),
            observed={m: tensors[f"{m}_observed"] for m in MODALITIES if f"{m}_observed" in tensors},
        )
    return Corpus(
        info=info,
        features=features,
        revision=revision,
        splits=splits,
        padding=manifest["padding"],
        ids_from_file=manifest["ids_from_file"],
        notes=manifest["notes"],
    )

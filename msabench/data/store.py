"""Opening corpora: a feature file is converted once into memory-mappable safetensors, and mapped ever after.

A store is a folder in the cache with one safetensors file for each split and a manifest. Its name holds the sha256 of
the source and ``CONVERTER``, so that another source or a changed converter makes another store. It is written into a
temporary folder and renamed, so that it is whole or not there. Tensors are mapped privately: pages are read when they
are touched, and writing to a tensor changes this process's copy only.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from msabench.data.batch import MODALITIES
from msabench.data.corpus import SPLITS, Corpus, SplitData, clip_uids
from msabench.data.files import (
    HashMemory,
    Stamp,
    cache_folder,
    feature_file,
    find_source,
    format_size,
    locked,
    sha256_of,
)
from msabench.data.info import DatasetInfo, FeatureFile
from msabench.data.raw import RawCorpus, RawSplit
from msabench.data.readers import READERS
from msabench.errors import MSABenchError

CONVERTER = 1
"""Version of readers and store format. Raise it when the same source would give other tensors."""

_MANIFEST = "manifest.json"
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

    Returns:
        The corpus, its tensors mapped from the store.

    Raises:
        MSABenchError: Unknown names; the file is missing, damaged or in another layout; no space in the cache.
    """
    info, file = feature_file(dataset, features, path=path, task=task)
    folder = cache_folder(cache)
    if dataset == "synth":
        return _open_generated(info, file, folder / "stores", size, length)
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
    # A user's own file can be read in several ways.
    family = f"{file.reader}-{task}" if dataset == "custom" else file.features
    store = folder / "stores" / f"{dataset}-{family}-{sha256[:16]}-v{CONVERTER}"

    def read() -> RawCorpus:
        _tell(source, f"converting into {store}, once")
        raw = READERS[file.reader](source, info, file)
        if file.sha256 and sha256 != file.sha256:
            difference = f"{source} has sha256 {sha256}, published is {file.sha256}: another release, or damaged"
            warnings.warn(difference, stacklevel=4)
            raw.notes.append(difference)
        return raw

    _ensure(store, source.name, read)
    if not known:
        memory.remember(stamp, sha256)
    # Other tensors from the same file are another revision: their results must not share a key.
    suffix = "" if CONVERTER == 1 else f"-v{CONVERTER}"
    return _load(store, info, file.features, sha256[:12] + suffix)


def _open_generated(
    info: DatasetInfo, file: FeatureFile, stores: Path, size: tuple[int, int, int] | None, length: int | None
) -> Corpus:
    from msabench.data import synthetic

    clips = synthetic.DEFAULT_SIZE if size is None else size
    steps = synthetic.DEFAULT_LENGTH if length is None else length
    revision = synthetic.revision(clips, steps)
    # The parameters' hash keeps apart what is generated while a new revision is being worked on.
    store = stores / f"{info.name}-{revision}-{synthetic.LATENT.sha256()[:8]}-v{CONVERTER}"
    _ensure(store, f"synth {revision}", lambda: synthetic.generate(clips, steps))
    return _load(store, info, file.features, revision)


def _tell(source: Path, what: str) -> None:
    size = source.stat().st_size
    if size >= _LARGE:
        print(f"msabench: {what}: {source} ({format_size(size)})", file=sys.stderr, flush=True)


def _ensure(store: Path, what: str, read: Callable[[], RawCorpus]) -> None:
    """Make sure that a whole store is there; several processes may try at once."""
    if _is_whole(store):
        return
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MSABenchError(f"cannot create the cache folder {store.parent} ({error}); choose another one") from error
    with locked(store.with_name(f"{store.name}.lock")):
        if not _is_whole(store):
            _convert(store, what, read())


def _is_whole(store: Path) -> bool:
    """Whether the manifest is there and every file has the size it names."""
    try:
        files = json.loads((store / _MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((store / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _convert(store: Path, what: str, raw: RawCorpus) -> None:
    temporary = store.with_name(f".{store.name}.{secrets.token_hex(8)}")
    try:
        temporary.mkdir()
        ids = {name: split.ids for name, split in raw.splits.items()}
        for name in SPLITS:
            save_file(_tensors(raw.splits.pop(name)), temporary / f"{name}.safetensors")
        manifest = {
            "source": what,
            "padding": raw.padding,
            "ids_from_file": raw.ids_from_file,
            "notes": raw.notes,
            "ids": ids,
            "files": {file.name: file.stat().st_size for file in sorted(temporary.iterdir())},
        }
        (temporary / _MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
        if store.exists() and not _is_whole(store):
            shutil.rmtree(store, ignore_errors=True)
        try:
            temporary.rename(store)
        except OSError:
            # Another process was faster, and its store is as good.
            if not _is_whole(store):
                raise
    except (OSError, safetensors.SafetensorError) as error:
        free = format_size(shutil.disk_usage(store.parent).free)
        raise MSABenchError(
            f"cannot write the converted {what} to {store.parent} ({error}; {free} free); free space there or choose "
            f"another cache folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _tensors(split: RawSplit) -> dict[str, Tensor]:
    arrays: dict[str, Any] = {**split.features, "labels": split.labels}
    arrays.update({f"{modality}_lengths": lengths for modality, lengths in split.lengths.items()})
    if split.tokens is not None:
        arrays["tokens"] = split.tokens
    return {name: torch.from_numpy(array).contiguous() for name, array in arrays.items()}


def _load(store: Path, info: DatasetInfo, features: str, revision: str) -> Corpus:
    manifest = json.loads((store / _MANIFEST).read_text(encoding="utf-8"))
    splits = {}
    for name in SPLITS:
        with safetensors.safe_open(store / f"{name}.safetensors", framework="pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}
        ids = manifest["ids"][name]
        splits[name] = SplitData(
            features={modality: tensors[modality] for modality in MODALITIES},
            lengths={modality: tensors[f"{modality}_lengths"] for modality in MODALITIES},
            labels=tensors["labels"],
            ids=ids,
            uid=clip_uids(info.name, name, ids),
            tokens=tensors.get("tokens"),
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

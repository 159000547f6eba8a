"""Whether a converted store is what was written: sizes and checksums of its files. Free of torch.

On opening, every file's size and a sample of its blocks are checked, in milliseconds for files of any size, and the
small manifest is checked in full; ``msabench data verify`` checks every byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from msabench.data.files import cache_folder
from msabench.data.info import CUSTOM, DatasetInfo, FeatureFile
from msabench.data.valid_share import ValidShare
from msabench.files import replacing, sha256_of
from msabench.plugins import hash_of_module

CONVERTER = 1
"""Version of readers and store format. Raise it when the same source would give other tensors."""

MANIFEST = "manifest.json"

VERSION = 2
"""Version of the manifest; stores with another one are converted again. 1 had no checksums."""

_BLOCK, _SAMPLES = 4096, 64


def store_of(
    info: DatasetInfo,
    file: FeatureFile,
    sha256: str,
    *,
    cache: Path | None = None,
    clip_labels: bool = False,
    valid: ValidShare | None = None,
) -> Path:
    """The folder of a feature file's converted copy.

    Args:
        info: The corpus.
        file: Its feature file.
        sha256: Hash of the file as it is.
        cache: Folder of converted files; see ``cache_folder``.
        clip_labels: Whether labels beyond the range are clipped.
        valid: What is taken from the training split, if the file has no validation split.
    """
    # A user's own file can be read in several ways.
    family = f"{file.reader}-{info.task}" if info.name == CUSTOM else file.features
    if file.is_own_reader:
        # While a reader is being written, one file gives other arrays every time.
        family += f"-{hash_of_module(file.reader)[:8]}"
    treated = _treatment(clip_labels, valid)
    return cache_folder(cache) / "stores" / f"{info.name}-{family}-{sha256[:16]}-v{CONVERTER}{treated}"


def revision_of(
    sha256: str, *, clip_labels: bool = False, valid: ValidShare | None = None, reader_version: int = 1
) -> str:
    """What results on a feature file are told apart by: other tensors from the same file are another revision."""
    converter = "" if CONVERTER == 1 else f"-v{CONVERTER}"
    reader = "" if reader_version == 1 else f"-r{reader_version}"
    return f"{sha256[:12]}{converter}{reader}{_treatment(clip_labels, valid)}"


def _treatment(clip_labels: bool, valid: ValidShare | None) -> str:
    return ("-clipped" if clip_labels else "") + (valid.suffix if valid else "")


def write_manifest(store: Path, content: dict[str, Any]) -> None:
    """Write a store's manifest over the files that lie in it.

    Args:
        store: The folder.
        content: What else the manifest is to hold, as plain values.
    """
    files = sorted(store.iterdir())
    manifest = {
        **content,
        "version": VERSION,
        # As in version 1, whose readers can open this one.
        "files": {file.name: file.stat().st_size for file in files},
        "sha256": {file.name: sha256_of(file) for file in files},
        "sample": {file.name: sample_of(file) for file in files},
    }
    with replacing(store / MANIFEST) as stream:
        stream.write(json.dumps({**manifest, "checksum": _checksum(manifest)}, ensure_ascii=False).encode())


def read_manifest(store: Path) -> dict[str, Any]:
    """What ``write_manifest`` wrote.

    Raises:
        ValueError: It is damaged or has another version.
        OSError: It cannot be read.
    """
    manifest: dict[str, Any] = json.loads((store / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or manifest.pop("checksum", None) != _checksum(manifest):
        raise ValueError(f"{store / MANIFEST} is not as it was written")
    if manifest["version"] != VERSION:
        raise ValueError(f"{store / MANIFEST} has version {manifest['version']}")
    return manifest


def damage(store: Path, *, in_full: bool = False, files: Collection[str] | None = None) -> str | None:
    """The first file of a store that is not as it was written.

    Args:
        store: The folder.
        in_full: Whether to read all of each file rather than a sample.
        files: Names of the files to look at, besides the manifest; None for all.

    Returns:
        The file's name; None if all is well.
    """
    try:
        manifest = read_manifest(store)
    except (OSError, ValueError):
        return MANIFEST
    for name, size in manifest["files"].items():
        if files is not None and name not in files:
            continue
        file = store / name
        try:
            whole = file.stat().st_size == size and (
                sha256_of(file) == manifest["sha256"][name] if in_full else sample_of(file) == manifest["sample"][name]
            )
        except OSError:
            whole = False
        if not whole:
            return str(name)
    return None


def sample_of(file: Path) -> str:
    """The sha256 of a file's first block, its last, and up to 62 between at equal distances."""
    size = file.stat().st_size
    last = max(0, size - _BLOCK)
    starts = sorted({last * number // (_SAMPLES - 1) for number in range(_SAMPLES)})
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for start in starts:
            stream.seek(start)
            digest.update(stream.read(_BLOCK))
    return digest.hexdigest()


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

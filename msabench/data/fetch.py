"""Downloading feature files that have a public mirror on the Hugging Face hub. Free of torch."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msabench.data.files import data_folder
from msabench.data.info import DatasetInfo, FeatureFile
from msabench.data.registry import dataset_info
from msabench.errors import MSABenchError
from msabench.files import format_size, replacing, sha256_of, sync

_BLOCK = 1 << 22
_REPO_TYPES = ("dataset", "model")


@dataclass(frozen=True)
class Fetched:
    """What came of a fetch.

    Attributes:
        path: The feature file, or None where it has to be brought by hand.
        message: What was done, or the exact steps to take.
    """

    path: Path | None
    message: str


@dataclass(frozen=True)
class _Part:
    """One file on the hub; the hub knows the sha256 of large files only."""

    name: str
    size: int
    sha256: str | None


def fetch(
    dataset: str, features: str | None = None, root: Path | None = None, *, endpoint: str | None = None
) -> Fetched:
    """Bring a feature file to its place below the data folder, or say how to.

    The parts on the hub are downloaded beside the target (an interrupted download is taken up again), checked against
    the hub's hashes, joined, checked against the published hash and renamed.

    Args:
        dataset: Name of the corpus.
        features: Feature family; None for the corpus's first.
        root: Data folder; None for the one that MSABENCH_DATA names, else ``data``.
        endpoint: Address of the hub; None for the hub itself (or HF_ENDPOINT, as huggingface_hub has it).

    Returns:
        The file's path, or manual steps where there is no public mirror.

    Raises:
        MSABenchError: Unknown names; no network; a damaged or wrong download; no space.
    """
    info = dataset_info(dataset)
    file = info.file(features)
    if not file.filename:
        return Fetched(None, file.how_to_get or f"{info.name} has no usual place; give the file with --path")
    target = data_folder(root) / file.filename
    if target.exists():
        return Fetched(target, f"{target} is there already{_verdict(file, sha256_of(target))}")
    if not file.hub_repo:
        return Fetched(None, manual_steps(info, file, target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sha256 = _download(file, target, endpoint)
    except OSError as error:
        raise MSABenchError(f"cannot write {target} ({error}); free space or name another data folder") from error
    size = format_size(target.stat().st_size)
    return Fetched(target, f"downloaded {target} ({size}){_verdict(file, sha256)}")


def manual_steps(info: DatasetInfo, file: FeatureFile, target: Path) -> str:
    """The steps to take by hand for a file without a public mirror."""
    last = max((int(number) for number in re.findall(r"^(\d+)\.", file.how_to_get, re.MULTILINE)), default=0)
    checksum = f" (published sha256 {file.sha256})" if file.sha256 else ""
    return (
        f"The {file.features} features of {info.name} have no public mirror that could be fetched. By hand:\n"
        f"{file.how_to_get or 'Nothing is said of where it is.'}\n"
        f"{last + 1}. Put it at {target}{checksum}.\n"
        f"{last + 2}. msabench data verify {info.name} --features {file.features}"
    )


def _verdict(file: FeatureFile, sha256: str) -> str:
    if not file.sha256:
        return f"; sha256 {sha256} (none is published)"
    if sha256 == file.sha256:
        return "; its sha256 is the published one"
    return f"; its sha256 {sha256} is not the published {file.sha256}: another release, or damaged"


def _download(file: FeatureFile, target: Path, endpoint: str | None) -> str:
    """Download, check, join and put in place; returns the sha256."""
    folder = target.with_name(f".{target.name}.download")
    repo_type, revision, parts = _list_parts(file, endpoint)
    total = sum(part.size for part in parts)
    # Parts are joined while they still lie there.
    needed = total if len(parts) == 1 else 2 * total
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    free = shutil.disk_usage(target.parent).free + present
    if free < needed:
        raise MSABenchError(
            f"{target.parent} has {format_size(free)} free, fetching {target.name} needs {format_size(needed)}"
        )
    paths = [_download_part(file, part, repo_type, revision, folder, endpoint) for part in parts]
    digest = hashlib.sha256()
    try:
        if len(parts) == 1:
            for block in _checked_blocks(paths[0], parts[0]):
                digest.update(block)
            sync(paths[0])
            paths[0].replace(target)
            sync(target.parent)
        else:
            with replacing(target) as joined:
                for path, part in zip(paths, parts, strict=True):
                    for block in _checked_blocks(path, part):
                        digest.update(block)
                        joined.write(block)
                if file.sha256 not in ("", digest.hexdigest()):
                    raise MSABenchError(
                        f"the {len(parts)} parts of {target.name} in {file.hub_repo} join to sha256 "
                        f"{digest.hexdigest()}, published is {file.sha256}; nothing was kept"
                    )
    except MSABenchError:
        # Wrong bytes would be taken for finished parts next time.
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
    return digest.hexdigest()


def _checked_blocks(path: Path, part: _Part) -> Iterator[bytes]:
    """The bytes of a downloaded part; raises at its end if their hash is not the hub's."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            yield block
    if part.sha256 not in (None, digest.hexdigest()):
        raise MSABenchError(
            f"{part.name} arrived with sha256 {digest.hexdigest()}, the hub names {part.sha256}; nothing was kept, "
            "fetch again"
        )


def _list_parts(file: FeatureFile, endpoint: str | None) -> tuple[str, str, list[_Part]]:
    """Type and revision of the repository, and the files to join, in order."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi(endpoint=endpoint)
    for repo_type in _REPO_TYPES:
        try:
            found = api.repo_info(file.hub_repo, repo_type=repo_type, files_metadata=True)
            break
        except RepositoryNotFoundError:
            continue
        except Exception as error:
            raise _unreachable(file.hub_repo, error) from error
    else:
        raise MSABenchError(
            f"the hub has no repository {file.hub_repo} any more, so {file.filename} has to come by hand"
        )
    siblings = {item.rfilename: item for item in getattr(found, "siblings", None) or []}
    parts = []
    for wanted in file.hub_files:
        below = sorted((name for name in siblings if name.startswith(wanted)), key=_natural)
        for name in below if wanted.endswith("/") else [wanted]:
            if name not in siblings:
                raise MSABenchError(
                    f"{file.hub_repo} has no file {name} any more; it has {', '.join(sorted(siblings))}"
                )
            lfs = siblings[name].lfs
            parts.append(_Part(name, siblings[name].size or 0, lfs.sha256 if lfs else None))
    if not parts:
        raise MSABenchError(f"{file.hub_repo} has no files {', '.join(file.hub_files)} any more")
    return repo_type, str(found.sha), parts


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which part_2 comes before part_10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def _download_part(
    file: FeatureFile, part: _Part, repo_type: str, revision: str, folder: Path, endpoint: str | None
) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(
            file.hub_repo,
            part.name,
            repo_type=repo_type,
            revision=revision,
            local_dir=folder,
            endpoint=endpoint,
        )
    except Exception as error:
        raise _unreachable(file.hub_repo, error) from error
    return Path(path)


def _unreachable(repo: str, error: Exception) -> MSABenchError:
    # The hub client's exceptions differ between its versions (requests, httpx), hence no narrower class.
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return MSABenchError(f"cannot download from {repo} on the hub ({reason}); try again, what arrived is kept")

"""Where a checkpoint lies: a file, the folder that one was exported to, or such a folder on the hub. Free of torch."""

from __future__ import annotations

import re
from pathlib import Path

from msabench.errors import MSABenchError
from msabench.methods.engine.exported import FILES, MANIFEST, WEIGHTS

_ON_HUB = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)@(?P<revision>[\w./-]+)")


def located(given: Path, *, endpoint: str | None = None) -> Path:
    """The file of a checkpoint's weights; what else is known of it lies beside it.

    Args:
        given: A checkpoint of ``fit`` or ``run``; an exported folder, or its weights; or ``owner/name@revision``, a
            repository on the hub that holds the files of such a folder, which is downloaded into the hub's cache.
        endpoint: Address of the hub; None for the hub itself (or HF_ENDPOINT, as huggingface_hub has it).

    Raises:
        MSABenchError: There is no such file, folder or repository, or the hub cannot be reached.
    """
    path = given.expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise MSABenchError(
                f"{given} is a folder without {MANIFEST}, so no exported checkpoint; give its best.ckpt, or a folder "
                "made by msabench checkpoint export"
            )
        return path / WEIGHTS
    if found := _ON_HUB.fullmatch(given.as_posix()):
        return _fetched(found["repo"], found["revision"], endpoint) / WEIGHTS
    raise MSABenchError(
        f"there is no checkpoint {given}; give a file such as runs/.../best.ckpt, an exported folder, or "
        "owner/name@revision on the hub"
    )


def _fetched(repo: str, revision: str, endpoint: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        # Nothing else of the repository is taken.
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(FILES), endpoint=endpoint))
    except RepositoryNotFoundError as error:
        raise MSABenchError(
            f"the hub has no repository {repo} that may be read; give owner/name@revision, or a local file or folder"
        ) from error
    except RevisionNotFoundError as error:
        raise MSABenchError(
            f"{repo} on the hub has no revision {revision!r}; give a branch, a tag or a commit of it"
        ) from error
    except Exception as error:
        # The hub client's exceptions differ between its versions (requests, httpx), hence no narrower class.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MSABenchError(f"cannot download {repo}@{revision} from the hub ({reason}); try again") from error
    if not (folder / MANIFEST).is_file():
        raise MSABenchError(
            f"{repo}@{revision} on the hub has no {MANIFEST}, so it is no checkpoint exported by msabench"
        )
    return folder

"""Where a number comes from: code, versions, machine, and a config's hash. Imports neither torch nor lightning."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from msabench import __version__
from msabench.data.registry import external_corpus
from msabench.files import sha256_of
from msabench.methods import registry
from msabench.missingness.regimes import external_regime
from msabench.plugins import Source, hash_of_module
from msabench.results.record import CORPUS, REGIME

PACKAGES = ("torch", "lightning", "torchmetrics", "transformers", "numpy", "pandas", "pyarrow", "safetensors")
"""Packages whose versions are recorded."""


def collect(device: str = "cpu") -> dict[str, Any]:
    """Describe code, versions and machine.

    Args:
        device: Device of the computation in torch's notation, e.g. ``cpu`` or ``cuda:0``.

    Returns:
        Plain data: ``git_commit`` and ``git_dirty`` (None outside a git checkout), ``msabench``, ``versions``,
        ``python``, ``platform``, ``cpu``, ``device``, ``device_name``, ``threads`` (None unless torch is loaded) and
        ``date`` (UTC, ISO 8601, seconds).
    """
    commit, dirty = _git_state(Path(__file__).parents[1])
    # Read from a loaded torch only: loading it here would cost seconds in commands that do without.
    torch = sys.modules.get("torch")
    gpu = device.startswith("cuda") and torch is not None
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "msabench": __version__,
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "device": device.partition(":")[0],
        "device_name": torch.cuda.get_device_name(device) if gpu and torch else _cpu_model(),
        "threads": torch.get_num_threads() if torch else None,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def source_of(method: str) -> dict[str, str] | None:
    """What a record says of the code of a method from outside; None for those of msabench.

    Args:
        method: Its name.

    Returns:
        ``class_path`` and ``sha256`` of its file; ``distribution`` and ``version`` if an installed package brought it;
        ``git_commit`` if its file stands in a checkout, ending in ``+`` if it was changed there since.

    Raises:
        MSABenchError: No method has this name.
    """
    entry = registry.entry_of(method)
    if not entry.external:
        return None
    return {"class_path": entry.class_path, **_brought_by(Source(entry.module, entry.path))}


def sources_of_data(dataset: str, features: str | None, regime: str) -> dict[str, dict[str, str]]:
    """What a record says of a corpus and of a training regime from outside.

    Args:
        dataset: Name of the corpus.
        features: Its feature family; None for its first.
        regime: Name of the training regime.

    Returns:
        ``CORPUS`` and ``REGIME``, each only if it is from outside -> ``object`` (``module:attribute``) and what
        ``source_of`` says of a file; of a corpus with a reader of somebody's own also ``reader`` and ``reader_sha256``;
        of a regime also ``draw`` and ``draw_sha256``.

    Raises:
        MSABenchError: A name is unknown.
    """
    found = {}
    corpus, drawn = external_corpus(dataset), external_regime(regime)
    if corpus is not None:
        found[CORPUS] = {"object": corpus.object_path, **_brought_by(corpus.source)}
        file = corpus.info.file(features)
        if file.is_own_reader:
            found[CORPUS] |= {"reader": file.reader, "reader_sha256": hash_of_module(file.reader)}
    if drawn is not None:
        found[REGIME] = {"object": drawn.object_path, **_brought_by(drawn.source)}
        found[REGIME] |= {"draw": drawn.info.draw, "draw_sha256": hash_of_module(drawn.info.draw)}
    return found


def _brought_by(source: Source) -> dict[str, str]:
    found = {"sha256": sha256_of(source.path)}
    for name in metadata.packages_distributions().get(source.module.partition(".")[0], [])[:1]:
        found |= {"distribution": name, "version": metadata.version(name)}
    commit, dirty = _git_state(source.path)
    return found | ({"git_commit": commit + "+" * bool(dirty)} if commit else {})


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(place: Path) -> tuple[str | None, bool | None]:
    """The commit of a package's or a file's checkout, and whether it was changed since; None outside of any."""
    folder, file = (place, "__init__.py") if place.is_dir() else (place.parent, place.name)
    # An installed copy may lie inside somebody else's checkout, which does not track it.
    if _git(folder, "ls-files", "--error-unmatch", file) is None:
        return None, None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    return commit, bool(_git(folder, "status", "--porcelain", "--", "." if place.is_dir() else file))


def _git(folder: Path, *words: str) -> str | None:
    # Another repository's GIT_DIR may be set, e.g. in a hook.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False, timeout=20, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

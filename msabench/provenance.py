"""Where a number comes from: code, versions, machine, and a config's hash. Imports neither torch nor lightning."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from msabench import __version__, registry
from msabench.data.files import Stamp
from msabench.data.info import dataset_info, named
from msabench.errors import MSABenchError
from msabench.evaluation.record import JobKey, canonical_hash
from msabench.missingness.config import MissingConfig

PACKAGES = ("torch", "lightning", "torchmetrics", "transformers", "numpy", "pandas", "pyarrow", "safetensors")
"""Packages whose versions are recorded."""

MAX_SEED = 2**32 - 1
"""What Lightning takes as a seed."""

PATH_KEYS = {"data": ("path", "root", "cache"), "trainer": ("default_root_dir",)}
"""Settings that name places on one machine. Left out of hashes and of records."""

CALL_KEYS = ("ckpt_path", "weights_only", "verbose", "return_predictions")
"""How fit, validate, test and predict are called. Left out of hashes and of records: a training goes on from a
checkpoint only under the settings that made it (``msabench.cli.KeepBest``), so it is the same training."""

IGNORED_KEYS: dict[str, tuple[str, ...]] = {
    # Seeds are in the job's key, loggers only write.
    "": ("seed_everything", "config", "wandb", *CALL_KEYS),
    "data": (
        *PATH_KEYS["data"],
        "seed",
        "grid",
        "size",  # in the revision of a generated corpus
        "length",  # likewise
        "name",  # in the key
    ),
    "trainer": (
        *PATH_KEYS["trainer"],
        "accelerator",
        "devices",
        "num_nodes",
        "strategy",
        "use_distributed_sampler",  # the data module shares out batches itself
        "logger",
        "log_every_n_steps",
        "profiler",
        "enable_progress_bar",
        "enable_model_summary",
        "enable_checkpointing",
        "enable_autolog_hparams",
        "model_registry",
        "detect_anomaly",
        # Validation checks and evaluation loops that no record comes from.
        "num_sanity_val_steps",
        "limit_test_batches",
        "limit_predict_batches",
        "inference_mode",
    ),
    "model.init_args": ("spec",),  # follows from the data
}
"""Settings that do not change what is trained, by section (``""`` is the top level): they are not hashed."""

ENCODER_FILES = ("config.json", "model*.safetensors", "pytorch_model*.bin")
"""Files of a text encoder's folder that decide what it computes."""

DISPLAY_CALLBACKS = (
    "DeviceStatsMonitor",
    "LearningRateMonitor",
    "ModelSummary",
    "RichModelSummary",
    "RichProgressBar",
    "TQDMProgressBar",
)
"""Callbacks that only show something; they are not hashed."""

CALLBACKS = "lightning.pytorch.callbacks"
"""Module of ``DISPLAY_CALLBACKS``."""


def collect(device: str = "cpu") -> dict[str, Any]:
    """Describe code, versions and machine.

    Args:
        device: Device of the computation in torch's notation, e.g. ``cpu`` or ``cuda:0``.

    Returns:
        Plain data: ``git_commit`` and ``git_dirty`` (None outside a git checkout), ``msabench``, ``versions``,
        ``python``, ``platform``, ``cpu``, ``device``, ``device_name``, ``threads`` (None unless torch is loaded) and
        ``date`` (UTC, ISO 8601, seconds).
    """
    commit, dirty = _git_state(Path(__file__).parent)
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


def config_hash(config: dict[str, Any]) -> str:
    """Hash what a resolved config says about the training.

    Two configs that train the same model on the same data get the same hash.

    Args:
        config: As from ``msabench.cli.resolve``.

    Returns:
        First 12 hex digits of the sha256 of the canonical JSON of ``what_is_trained``.

    Raises:
        MSABenchError: The config names an unknown dataset, features or method.
    """
    return canonical_hash(what_is_trained(config), 12)


def what_is_trained(config: dict[str, Any]) -> dict[str, Any]:
    """What a resolved config says about the training.

    ``IGNORED_KEYS`` and ``DISPLAY_CALLBACKS`` are left out; settings that are None are left out, so that a new option
    with that default changes no hash; the method's class path becomes its name; ``features`` and ``normalise`` become
    what the corpus makes of None; missingness becomes the regime's label and the protocol, so that rates which a regime
    ignores do not count; a folder with a text encoder becomes its name and a hash of its files.

    Args:
        config: As from ``msabench.cli.resolve``.

    Returns:
        Plain data.

    Raises:
        MSABenchError: The config names an unknown dataset, features or method.
    """
    data, trainer, model = (dict(config.get(name) or {}) for name in ("data", "trainer", "model"))
    missing = missing_config(config)
    info = dataset_info(data["dataset"])
    data["features"] = _features(config)
    data["normalise"] = data.get("normalise") or info.normalise
    data["clip_labels"] = data.get("clip_labels") or None
    data["missing"] = {"regime": missing.label, **_protocol(missing)}
    if trainer.get("callbacks"):
        given = trainer["callbacks"] if isinstance(trainer["callbacks"], list) else [trainer["callbacks"]]
        trainer["callbacks"] = [c for c in given if not is_display(c)] or None
    return {
        **_without(config, (*IGNORED_KEYS[""], "data", "trainer", "model")),
        "data": _without(data, IGNORED_KEYS["data"]),
        "trainer": _without(trainer, IGNORED_KEYS["trainer"]),
        "model": {
            "method": method_name(config),
            "init_args": _without(_portable_arguments(model.get("init_args") or {}), IGNORED_KEYS["model.init_args"]),
        },
    }


def job_key(config: dict[str, Any], revision: str, features: str | None = None) -> JobKey:
    """The key of the training that a resolved config describes.

    Args:
        config: As from ``msabench.cli.resolve``.
        revision: Revision of the data.
        features: Feature family that the corpus reports; None to take it from the config.

    Raises:
        MSABenchError: The config names an unknown dataset, features or method.
    """
    missing = missing_config(config)
    method = method_name(config)
    return JobKey(
        dataset=named(dataset_info(config["data"]["dataset"]), config["data"].get("name")).name,
        revision=revision,
        features=features or _features(config),
        method=method,
        method_version=registry.method_info(method).method_version,
        variant=(config["model"].get("init_args") or {}).get("variant") or "default",
        regime=missing.label,
        **_protocol(missing),
        selection=config["data"].get("selection") or "val",
        seed=config["seed_everything"],
        config_hash=config_hash(config),
    )


def method_name(config: dict[str, Any]) -> str:
    """Registry name of a resolved config's method.

    Raises:
        MSABenchError: Its class is not a registered method.
    """
    given = str(config["model"]["class_path"])
    for name in registry.methods():
        path = registry.class_path(name)
        if given in (name, path, path.rpartition(".")[2]):
            return name
    raise MSABenchError(f"unknown method class {given!r}; msabench methods lists what there is")


def missing_config(config: dict[str, Any]) -> MissingConfig:
    """The missingness settings of a resolved config."""
    given = dict((config["data"] or {}).get("missing") or {})
    if "rate" in given:
        given["rate"] = tuple(given["rate"])
    return MissingConfig(**given)


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """A resolved config without the places of one machine, as records keep it.

    ``PATH_KEYS`` and ``CALL_KEYS`` are left out; a folder with a text encoder becomes ``<name>@<hash>``, its name and
    the first 12 hex digits of the sha256 over its ``ENCODER_FILES``.
    """
    cut = {name: _without(config[name], keys, keep_none=True) for name, keys in PATH_KEYS.items() if config.get(name)}
    if (config.get("model") or {}).get("init_args"):
        cut["model"] = {**config["model"], "init_args": _portable_arguments(config["model"]["init_args"])}
    return _without({**config, **cut}, CALL_KEYS, keep_none=True)


def _portable_arguments(init_args: dict[str, Any]) -> dict[str, Any]:
    encoder = init_args.get("text_encoder")
    if not encoder or not Path(encoder).is_dir():
        return init_args
    folder = Path(encoder).resolve()
    files = sorted({path for pattern in ENCODER_FILES for path in folder.glob(pattern)})
    # Suites ask once per job, and weights are large. Hubs link to files elsewhere; the names here are what counts.
    signature = tuple((path.name, Stamp.of(path)) for path in files)
    return {**init_args, "text_encoder": f"{folder.name}@{_hash_of_files(signature)}"}


@lru_cache
def _hash_of_files(signature: tuple[tuple[str, Stamp], ...]) -> str:
    digest = hashlib.sha256()
    for name, stamp in signature:
        digest.update(f"{name}/{stamp.size}/".encode())
        with Path(stamp.path).open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:12]


def _protocol(missing: MissingConfig) -> dict[str, str]:
    token_fill = missing.token_fill if missing.level == "tokens" else ""
    return {"level": missing.level, "lengths": missing.lengths, "token_fill": token_fill}


def _features(config: dict[str, Any]) -> str:
    info, features = dataset_info(config["data"]["dataset"]), config["data"].get("features")
    if not info.files:
        return features or info.name
    return info.file(features).features


def _without(section: dict[str, Any], keys: tuple[str, ...], keep_none: bool = False) -> dict[str, Any]:
    return {k: v for k, v in section.items() if k not in keys and (keep_none or v is not None)}


def is_display(callback: Any) -> bool:
    """Whether a callback of a resolved config is one of Lightning's that only show something."""
    path = callback.get("class_path", "") if isinstance(callback, dict) else callback
    module, _, name = str(path).rpartition(".")
    # Lightning's own modules may be named in full; a class of the same name from elsewhere may do anything.
    return name in DISPLAY_CALLBACKS and (not module or f"{module}.".startswith(f"{CALLBACKS}."))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    # An installed copy may lie inside somebody else's checkout, which does not track it.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    return commit, bool(_git(folder, "status", "--porcelain", "--", "."))


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


def first_difference(theirs: Any, ours: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Compare plain values; lists and tuples are alike, since config files know no tuples.

    Returns:
        Dotted name, their and our value of the first difference; None if there is none.
    """
    if isinstance(theirs, dict) and isinstance(ours, dict):
        pairs = [
            first_difference(theirs.get(key), ours.get(key), f"{name}.{key}" if name else key)
            for key in dict.fromkeys((*ours, *theirs))
        ]
        return next((pair for pair in pairs if pair), None)
    if isinstance(theirs, list | tuple) and isinstance(ours, list | tuple):
        alike = len(theirs) == len(ours) and not any(map(first_difference, theirs, ours))
        return None if alike else (name, list(theirs), list(ours))
    return None if theirs == ours else (name, theirs, ours)

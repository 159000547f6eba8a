"""What makes a training that training: which settings count, their hash, and the key of its record. Free of torch."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from msabench.data.registry import dataset_info, named
from msabench.files import Stamp, sha256_of
from msabench.methods import registry
from msabench.missingness.config import MissingConfig
from msabench.results.record import JobKey, canonical_hash

MAX_SEED = 2**32 - 1
"""What Lightning takes as a seed."""

PATH_KEYS = {"data": ("path", "root", "cache"), "trainer": ("default_root_dir",)}
"""Settings that name places on one machine. Left out of hashes and of records."""

CALL_KEYS = ("ckpt_path", "weights_only", "verbose", "return_predictions")
"""How fit, validate, test and predict are called. Left out of hashes and of records: a training goes on from a
checkpoint only under the settings that made it (``training.keep_best.KeepBest``), so it is the same training."""

IGNORED_KEYS: dict[str, tuple[str, ...]] = {
    # Seeds are in the job's key, loggers only write. What is compiled is rounded otherwise, as on another device, and
    # stands in the provenance as that does.
    "": ("seed_everything", "config", "wandb", "compile", *CALL_KEYS),
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
"""Files of a text encoder's folder that decide what it computes; weights of an exported checkpoint's."""

FILE_ARGUMENTS = ("text_encoder", "backbone")
"""Arguments of methods that name a file or folder of weights, or a model on a hub."""

READ_BY_FIT_ALONE = ("backbone",)
"""Those of them whose weights a checkpoint has taken over, so that nothing else reads the file or folder."""

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


def config_hash(config: dict[str, Any]) -> str:
    """Hash what a resolved config says about the training.

    Two configs that train the same model on the same data get the same hash.

    Args:
        config: As from ``msabench.training.build.resolve``.

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
    ignores do not count; a file or folder of weights (``FILE_ARGUMENTS``) becomes its name and a hash of its content.

    Args:
        config: As from ``msabench.training.build.resolve``.

    Returns:
        Plain data.

    Raises:
        MSABenchError: The config names an unknown dataset, features or method.
    """
    data, trainer, model = (dict(config.get(name) or {}) for name in ("data", "trainer", "model"))
    missing, method = missing_config(config), method_name(config)
    info = dataset_info(data["dataset"])
    data["features"] = _features(config)
    data["normalise"] = data.get("normalise") or info.normalise
    data["clip_labels"] = data.get("clip_labels") or None
    data["valid_seed"] = data.get("valid_seed") or None
    data["missing"] = {"regime": missing.label, **_protocol(missing)}
    if trainer.get("callbacks"):
        given = trainer["callbacks"] if isinstance(trainer["callbacks"], list) else [trainer["callbacks"]]
        trainer["callbacks"] = [c for c in given if not is_display(c)] or None
    return {
        **_without(config, (*IGNORED_KEYS[""], "data", "trainer", "model")),
        "data": _without(data, IGNORED_KEYS["data"]),
        "trainer": _without(trainer, IGNORED_KEYS["trainer"]),
        "model": {
            "method": method,
            # Anybody may call a method of theirs by a name that others use as well.
            **({"class_path": registry.class_path(method)} if registry.is_external(method) else {}),
            "init_args": _without(portable_arguments(model.get("init_args") or {}), IGNORED_KEYS["model.init_args"]),
        },
    }


def job_key(config: dict[str, Any], revision: str, features: str | None = None, tuning: str = "") -> JobKey:
    """The key of the training that a resolved config describes.

    Args:
        config: As from ``msabench.training.build.resolve``.
        revision: Revision of the data.
        features: Feature family that the corpus reports; None to take it from the config.
        tuning: As ``JobKey.tuning``; no config says it.

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
        tuning=tuning,
    )


def method_name(config: dict[str, Any]) -> str:
    """Registry name of a resolved config's method.

    Raises:
        MSABenchError: Its class is not a registered method.
    """
    return registry.name_of(str(config["model"]["class_path"]))


def missing_config(config: dict[str, Any]) -> MissingConfig:
    """The missingness settings of a resolved config."""
    given = dict((config["data"] or {}).get("missing") or {})
    if "rate" in given:
        given["rate"] = tuple(given["rate"])
    return MissingConfig(**given)


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """A resolved config without the places of one machine, as records keep it.

    ``PATH_KEYS`` and ``CALL_KEYS`` are left out. Of ``FILE_ARGUMENTS`` a file becomes ``<name>@<hash>``, its name and
    the first 12 hex digits of its sha256, and a folder likewise by the sha256 over its ``ENCODER_FILES``.
    """
    cut = {name: _without(config[name], keys, keep_none=True) for name, keys in PATH_KEYS.items() if config.get(name)}
    if (config.get("model") or {}).get("init_args"):
        cut["model"] = {**config["model"], "init_args": portable_arguments(config["model"]["init_args"])}
    return _without({**config, **cut}, CALL_KEYS, keep_none=True)


def portable_arguments(init_args: dict[str, Any]) -> dict[str, Any]:
    """A method's arguments without the places of one machine, see ``portable``."""
    named = weights_of(init_args)
    return {**init_args, **named} if named else init_args


def weights_of(init_args: dict[str, Any]) -> dict[str, str]:
    """What stands for the files and folders of weights among a method's arguments, see ``portable``.

    Args:
        init_args: The method's arguments.

    Returns:
        Those of ``FILE_ARGUMENTS`` that are given -> ``<name>@<hash>``; as given where there is no such file or folder.
    """
    return {name: _named_by_content(str(init_args[name])) for name in FILE_ARGUMENTS if init_args.get(name)}


def _named_by_content(place: str) -> str:
    """``<name>@<hash>`` of a file or folder that is here; anything else as it is, such as a name on a hub."""
    path = Path(place).expanduser()
    if path.is_file():
        return f"{path.name}@{_hash_of_file(Stamp.of(path))}"
    if not path.is_dir():
        return place
    folder = path.resolve()
    files = sorted({path for pattern in ENCODER_FILES for path in folder.glob(pattern)})
    # Suites ask once per job, and weights are large. Hubs link to files elsewhere; the names here are what counts.
    signature = tuple((path.name, Stamp.of(path)) for path in files)
    return f"{folder.name}@{_hash_of_files(signature)}"


@lru_cache
def _hash_of_file(stamp: Stamp) -> str:
    return sha256_of(Path(stamp.path))[:12]


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

"""Rebuilds a method from its checkpoint alone, without unpickling code."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.base import MSAMethod
from msabench.methods.engine.checkpoints import CHECKPOINT_KEY
from msabench.methods.engine.exported import WEIGHTS, read_exported
from msabench.methods.engine.located import located
from msabench.methods.registry import method_class, name_of
from msabench.nn.text import encoder_of_size

DATA_KEY = "MSADataModule"


def refused(path: Path | str) -> MSABenchError:
    """The error for a file that torch does not read as plain values, in place of its advice to unpickle it."""
    return MSABenchError(
        f"{path} is not a checkpoint of msabench: it is damaged, or holds more than tensors and plain values, which "
        "could run code and is not loaded"
    )


def load_checkpoint(path: Path) -> tuple[MSAMethod, dict[str, Any]]:
    """Rebuild a trained method.

    Args:
        path: Checkpoint written by ``msabench fit`` or ``msabench run``; or what ``msabench checkpoint export`` made of
            one, a folder or ``owner/name@revision`` on the hub.

    Returns:
        The method in evaluation mode on the CPU, and the data module's state for ``MSADataModule.from_state``.

    Raises:
        MSABenchError: There is no such file, it is no checkpoint of msabench, it was changed since it was exported, or
            it was made by another version of the method.
    """
    path = located(path)
    checkpoint, sizes = checkpoint_content(path)
    made_by, data_state = checkpoint[CHECKPOINT_KEY], checkpoint[DATA_KEY]
    cls = method_class(_name_of(made_by, path))
    if cls.info.method_version != made_by["method_version"]:
        raise MSABenchError(
            f"{path} was made by version {made_by['method_version']} of {cls.info.name}; "
            f"this is version {cls.info.method_version}"
        )
    spec = made_by["spec"]
    with nullcontext() if sizes is None else encoder_of_size(sizes):
        method = cls(DataSpec(**{**spec, "label_range": tuple(spec["label_range"])}), **made_by["init_args"])
    method.on_load_checkpoint(checkpoint)
    method.require_last_stage(str(path))
    method.load_state_dict(checkpoint["state_dict"])
    return method.eval(), data_state


def checkpoint_content(path: Path) -> tuple[dict[str, Any], dict[str, int | float | str] | None]:
    """What a checkpoint holds, in either form.

    Args:
        path: ``best.ckpt``, or ``model.safetensors`` in an exported folder.

    Returns:
        The content in the form of the former, with at least the method's and the data module's entry and the state
        dict; and the sizes of the text encoder, where these stand for its files.

    Raises:
        MSABenchError: It is no checkpoint of msabench, is damaged, or was changed since it was exported.
    """
    if path.name == WEIGHTS:
        manifest, state, extra = read_exported(path)
        scale = {m: [torch.tensor(pair["mean"]), torch.tensor(pair["std"])] for m, pair in manifest["scale"].items()}
        content = {CHECKPOINT_KEY: manifest["method"], DATA_KEY: {**manifest["data"], "scale": scale}}
        return {**extra, **content, "state_dict": state}, manifest["text_encoder"]
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, KeyError, ValueError) as error:
        raise refused(path) from error
    for key in (CHECKPOINT_KEY, DATA_KEY, "state_dict"):
        if not isinstance(checkpoint, dict) or key not in checkpoint:
            raise MSABenchError(f"{path} is not a checkpoint of msabench (it lacks {key!r})")
    return checkpoint, None


def part_of(backbone: str, method: MSAMethod, part: str, same: tuple[str, ...]) -> dict[str, Tensor]:
    """Weights of a part of a method from another fit of it, on whatever corpus.

    Args:
        backbone: Checkpoint of ``msabench fit`` or ``msabench run``, also of an early stage; or the folder that one was
            exported to.
        method: Who asks.
        part: Attribute of the method that holds the part.
        same: Arguments of the constructor that must be the same in both, since the part depends on them.

    Returns:
        The state dict of the part, on the CPU.

    Raises:
        MSABenchError: There is no such file or folder, it is no checkpoint of msabench, or it is of another method,
            another version, or other arguments.
    """
    place, name = Path(backbone).expanduser(), method.info.name
    if not place.exists():
        # What a repository on the hub holds may change under its name, and is not in the job's hash.
        raise MSABenchError(
            f"there is no backbone {backbone}; give a checkpoint of {name}, a file or an exported folder"
        )
    content, _ = checkpoint_content(located(place))
    made_by = content[CHECKPOINT_KEY]
    if (made_by["method"], made_by["method_version"]) != (name, method.info.method_version):
        raise MSABenchError(
            f"backbone {backbone} is of {made_by['method']} version {made_by['method_version']}; give a checkpoint of "
            f"{name} version {method.info.method_version}"
        )
    for argument in same:
        theirs, ours = made_by["init_args"][argument], method.init_args[argument]
        if theirs != ours:
            raise MSABenchError(f"backbone {backbone} has {argument} {theirs}, the config says {ours}; give the same")
    prefix = f"{part}."
    state = content["state_dict"]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _name_of(made_by: dict[str, Any], path: Path) -> str:
    """The name of the method that made a checkpoint; one from outside is looked for on the path."""
    if "class_path" not in made_by:
        return str(made_by["method"])
    try:
        return name_of(made_by["class_path"])
    except MSABenchError as error:
        raise MSABenchError(
            f"{path} is of method {made_by['method']}, class {made_by['class_path']}, which is not on the path; "
            "name its file or module with --plugins"
        ) from error

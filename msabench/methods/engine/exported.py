"""The form in which checkpoints are passed on: a folder of safetensors and JSON, each file held by its sha256.

``checkpoint.json`` says what the method is, how its data were treated, and the sha256 of every other file; its own
``sha256`` is over all of that, so that one number stands for the folder. It shows damage and careless changes; whoever
changes a file on purpose can make the numbers fit, so compare that one with what the sender says it is. Free of torch
but where tensors themselves are read or written.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msabench.errors import MSABenchError
from msabench.files import naming, sha256_of, sync, text_of, write_text

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "checkpoint.json"
WEIGHTS = "model.safetensors"
FINISHED = "finished.json"
JOB = "job.json"
CARD = "README.md"

HELD = (WEIGHTS, FINISHED, JOB)
"""Files whose sha256 stands in the manifest. The card is for people to add to."""

FILES = (MANIFEST, *HELD, CARD)
"""All files of an exported folder."""

FORMAT = 1
"""Version of the form. Raise it when an older msabench would misread a folder."""

_KEYS = ("format", "msabench", "method", "data", "scale", "extra", "text_encoder", "files", "sha256")

_TENSOR, _TUPLE = "__tensor__", "__tuple__"
"""Marks of values that JSON does not have."""


def manifest_of(weights: Path) -> dict[str, Any]:
    """What the manifest beside exported weights says, after every file was held against it.

    Args:
        weights: ``model.safetensors`` in an exported folder.

    Returns:
        ``method``, as checkpoints have it; ``data``, the data module's state without its statistics; ``scale``,
        modality -> ``mean`` and ``std``, lists of D_m numbers; ``extra``, what the method keeps besides its weights;
        ``text_encoder``, the sizes of its BERT or None; ``files``, name -> sha256; ``sha256``, over all of this;
        ``msabench`` and ``format``, versions.

    Raises:
        MSABenchError: A file is missing, damaged, or not what was exported; or a newer msabench made the folder.
    """
    path = weights.parent / MANIFEST
    if not path.is_file():
        raise MSABenchError(f"there is no {MANIFEST} beside {weights}, so nothing says what the weights are of")
    try:
        manifest: dict[str, Any] = json.loads(text_of(path))
        found = dict(manifest)
        told, version, files = found.pop("sha256"), found["format"], found["files"]
        complete = set(manifest) == set(_KEYS) and set(files) == set(HELD)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MSABenchError(f"{path} is damaged ({error!r}); get the folder again") from error
    if version != FORMAT:
        raise MSABenchError(f"{path} has the format {version!r}; this msabench reads {FORMAT}, so take the other's")
    if not complete or _digest(found) != told:
        raise MSABenchError(f"{path} is not as it was exported (its sha256 does not fit); get the folder again")
    for name, sha256 in files.items():
        file = path.with_name(name)
        if not file.is_file():
            raise MSABenchError(f"there is no {file}, which {MANIFEST} names; get the folder again")
        if (is_now := sha256_of(file)) != sha256:
            raise MSABenchError(
                f"{file} is not as it was exported (sha256 {is_now[:12]}..., {MANIFEST} says {str(sha256)[:12]}...); "
                "get the folder again"
            )
    return {**manifest, "method": _restored(manifest["method"], {})}


def read_exported(weights: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Read an exported folder.

    Args:
        weights: ``model.safetensors`` in it.

    Returns:
        The manifest; the method's state dict, on the CPU; and what the method keeps besides, as in its checkpoint.

    Raises:
        MSABenchError: As ``manifest_of``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest = manifest_of(weights)
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise MSABenchError(f"{weights} is no safetensors file ({error}); get the folder again") from error
    extra = _restored(manifest["extra"], tensors)
    return manifest, tensors, extra


def write_exported(
    folder: Path,
    *,
    method: dict[str, Any],
    data: dict[str, Any],
    scale: dict[str, Any],
    extra: dict[str, Any],
    text_encoder: dict[str, Any] | None,
    state: dict[str, Tensor],
    version: str,
    texts: dict[str, str],
) -> str:
    """Write an exported folder; it appears whole, or not at all, and never in the place of another.

    Args:
        folder: Its path; the folder above must be there.
        method: What checkpoints say of their method.
        data: The data module's state without its statistics.
        scale: Its statistics.
        extra: What the method keeps besides its weights: plain values and tensors.
        text_encoder: Sizes of its BERT.
        state: The method's state dict.
        version: Version of msabench.
        texts: ``finished.json``, ``job.json`` and the card.

    Returns:
        The sha256 that stands for the folder, 64 hex digits.

    Raises:
        MSABenchError: There is something of this name; or a value is neither plain nor a tensor.
        OSError: It cannot be written.
    """
    from safetensors.torch import save_file

    if folder.exists() or folder.is_symlink():
        raise MSABenchError(f"{folder} is there already and is not overwritten; give another name with --out")
    # Tied weights share their memory, which the format does not know: each gets its own.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    content: dict[str, Any] = {
        "format": FORMAT,
        "msabench": version,
        "method": _plain(method, "method", tensors),
        "data": data,
        "scale": scale,
        "extra": _plain(extra, "extra", tensors),
        "text_encoder": text_encoder,
    }
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    try:
        with naming(folder):
            temporary.mkdir()
            for name, text in texts.items():
                write_text(temporary / name, text)
            # The library makes files that only their owner can read: one that was there keeps the umask's mode.
            (temporary / WEIGHTS).touch()
            mode = (temporary / WEIGHTS).stat().st_mode
            save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
            (temporary / WEIGHTS).chmod(mode)
            sync(temporary / WEIGHTS)
            content["files"] = {name: sha256_of(temporary / name) for name in HELD}
            content["sha256"] = _digest(content)
            write_text(temporary / MANIFEST, json.dumps(content, indent=2) + "\n")
            temporary.rename(folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return str(content["sha256"])


def _digest(content: dict[str, Any]) -> str:
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError) as error:
        raise MSABenchError(f"the checkpoint holds a value that JSON does not have ({error})") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value of a checkpoint as JSON has it; tensors go to the others, under a name of their own."""
    import torch

    if isinstance(value, torch.Tensor):
        tensors[f"msabench.{name}"] = value.detach().cpu().clone().contiguous()
        return {_TENSOR: f"msabench.{name}"}
    if isinstance(value, tuple | list):
        items = [_plain(item, f"{name}.{place}", tensors) for place, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{name}.{key}", tensors) for key, item in value.items()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise MSABenchError(
        f"{name} of the checkpoint is a {type(value).__name__}, which cannot be exported; numbers, text, tensors, "
        "lists and dicts of them can"
    )


def _restored(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restored(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {_TENSOR}:
        return tensors.pop(value[_TENSOR])
    if set(value) == {_TUPLE}:
        return tuple(_restored(item, tensors) for item in value[_TUPLE])
    return {key: _restored(item, tensors) for key, item in value.items()}

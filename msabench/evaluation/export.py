"""Exports a checkpoint as a folder that can be passed on: weights, and all that a record or a prediction needs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from msabench import __version__
from msabench.data.datamodule import MSADataModule
from msabench.errors import MSABenchError
from msabench.evaluation.model_card import model_card
from msabench.evaluation.origin import Origin, origin
from msabench.methods.base import MSAMethod
from msabench.methods.checkpoint import load_checkpoint
from msabench.methods.engine.checkpoints import CHECKPOINT_KEY, RANDOM_KEY
from msabench.methods.engine.exported import CARD, JOB, WEIGHTS, write_exported
from msabench.methods.engine.located import located
from msabench.nn.text import sizes_of
from msabench.results.job_identity import PATH_KEYS, portable, portable_arguments
from msabench.training.finished import FINISHED


def export_checkpoint(checkpoint: Path, out: Path | None = None) -> tuple[Path, str]:
    """Export a checkpoint.

    The folder names no place of this machine: neither where the corpus lies, nor a text encoder's folder, whose name
    and hash stand in their place. The encoder's weights are among those of the method.

    Args:
        checkpoint: Checkpoint of a training that ended, in its run folder.
        out: The folder to make; None for ``<corpus>_<method>_seed_<seed>`` in the working folder.

    Returns:
        The folder, and the sha256 that stands for it, 64 hex digits.

    Raises:
        MSABenchError: There is no such checkpoint; its training did not end, or the files beside it are missing or
            contradict it; there is something of the folder's name, or nothing above it.
        OSError: The folder cannot be written.
    """
    weights = located(checkpoint)
    for names in ((FINISHED,), (JOB, "config.yaml")):
        if not any((weights.parent / name).is_file() for name in names):
            raise MSABenchError(
                f"there is no {' or '.join(names)} beside {weights}, so it cannot be said how it was trained; export a "
                "checkpoint in the run folder of a training that ended"
            )
    method, data_state = load_checkpoint(weights)
    data = MSADataModule.from_state(data_state)
    made_by = origin(weights, method, data)
    folder = (out or Path(f"{made_by.key.dataset}_{made_by.key.method}_seed_{made_by.key.seed}")).expanduser()
    if not folder.absolute().parent.is_dir():
        raise MSABenchError(f"there is no folder {folder.parent} to make {folder.name} in")
    kept: dict[str, Any] = {}
    method.on_save_checkpoint(kept)
    del kept[RANDOM_KEY]
    said = kept.pop(CHECKPOINT_KEY)
    scale = {m: {"mean": mean.tolist(), "std": std.tolist()} for m, (mean, std) in data_state["scale"].items()}
    places = dict.fromkeys(PATH_KEYS["data"])
    sha256 = write_exported(
        folder,
        method={
            **said,
            "init_args": portable_arguments(made_by.finished.named(said["init_args"])),
            "spec": {**said["spec"], "label_range": list(said["spec"]["label_range"])},
        },
        data={
            **{name: value for name, value in data_state.items() if name != "scale"},
            "init_args": {**data_state["init_args"], **places},
        },
        scale=scale,
        extra=kept,
        text_encoder=sizes_of(method),
        state=method.state_dict(),
        version=__version__,
        texts=_texts(made_by, method, data),
    )
    return folder, sha256


def _texts(made_by: Origin, method: MSAMethod, data: MSADataModule) -> dict[str, str]:
    job = {
        "key": asdict(made_by.key),
        "config": portable(made_by.config),
        "grid": [str(cell) for cell in made_by.cells],
        "mask_seeds": list(made_by.mask_seeds),
    }
    finished = replace(made_by.finished, checkpoint=WEIGHTS)
    return {
        JOB: json.dumps({"job": job}, indent=2) + "\n",
        FINISHED: json.dumps(asdict(finished), indent=2) + "\n",
        CARD: model_card(made_by, method, data.info),
    }

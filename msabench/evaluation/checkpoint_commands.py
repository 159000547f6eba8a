"""The verbs ``msabench checkpoint export`` and ``info``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msabench.errors import MSABenchError
from msabench.files import format_size, sha256_of
from msabench.methods.engine.exported import JOB, WEIGHTS, manifest_of
from msabench.methods.engine.located import located
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.results.record import JobKey
from msabench.training.finished import FINISHED, FinishedTraining


def checkpoint_export(checkpoint: Path, out: Path | None = None) -> str:
    """Export a checkpoint as a folder to pass on: safetensors and JSON, no pickle, no paths of this machine.

    Args:
        checkpoint: Checkpoint of msabench fit or msabench run, e.g. runs/.../best.ckpt.
        out: Folder to make; if not given, <corpus>_<method>_seed_<seed> in the working folder. Nothing is overwritten.

    Raises:
        MSABenchError: The checkpoint is not usable, its training did not end, or the folder is there already.
    """
    from msabench.evaluation.export import export_checkpoint

    folder, sha256 = export_checkpoint(checkpoint, out)
    size = format_size(sum(path.stat().st_size for path in folder.iterdir()))
    return f"exported: {folder} ({size}), sha256 {sha256}\nnext: msabench checkpoint info {folder}"


def checkpoint_info(checkpoint: Path) -> str:
    """Say what a checkpoint is, and whether it is as it was exported.

    Args:
        checkpoint: Checkpoint of msabench fit or msabench run, exported folder, or owner/name@revision on the hub.

    Raises:
        MSABenchError: There is no such checkpoint, or it is damaged or was changed.
    """
    path = located(checkpoint)
    facts = _exported(path) if path.name == WEIGHTS else _trained(path)
    return "\n".join(f"{name + ':':<12} {text}" for name, text in _rows(facts))


@dataclass(frozen=True)
class _Facts:
    """What is known of a checkpoint in either form: its own two entries, and what lies beside it."""

    method: dict[str, Any]
    data: dict[str, Any]
    finished: FinishedTraining | None
    job_id: str | None
    weights: str
    sha256: str


def _exported(path: Path) -> _Facts:
    # Without torch: tensors are hashed, not read.
    manifest = manifest_of(path)
    try:
        key = JobKey(**json.loads((path.parent / JOB).read_text(encoding="utf-8"))["job"]["key"])
    except (ValueError, KeyError, TypeError) as error:
        raise MSABenchError(f"{path.parent / JOB} is broken ({error!r}); get the folder again") from error
    return _Facts(
        method=manifest["method"],
        data=manifest["data"],
        finished=FinishedTraining.read(path),
        job_id=key.job_id,
        weights=f"{path} ({format_size(path.stat().st_size)}), exported by msabench {manifest['msabench']}",
        sha256=f"{manifest['sha256']}; verified: every file is as it was exported",
    )


def _trained(path: Path) -> _Facts:
    from msabench.methods.checkpoint import DATA_KEY, checkpoint_content
    from msabench.methods.engine.checkpoints import CHECKPOINT_KEY

    content, _ = checkpoint_content(path)
    job = path.parent / JOB
    key = json.loads(job.read_text(encoding="utf-8"))["job"]["key"] if job.is_file() else None
    return _Facts(
        method=content[CHECKPOINT_KEY],
        data=content[DATA_KEY],
        finished=FinishedTraining.read(path) if (path.parent / FINISHED).is_file() else None,
        job_id=JobKey(**key).job_id if key else None,
        weights=f"{path} ({format_size(path.stat().st_size)})",
        sha256=f"{sha256_of(path)}; of the file, which holds none to compare it with",
    )


def _rows(facts: _Facts) -> list[tuple[str, str]]:
    method, given = facts.method, facts.data["init_args"]
    spec, finished = method["spec"], facts.finished
    missing = MissingConfig(**{**given["missing"], "rate": tuple(given["missing"]["rate"])})
    variant = method["init_args"].get("variant", "default")
    shapes = ", ".join(f"{m} {spec['seq_lens'][m]} x {spec['feature_dims'][m]}" for m in MODALITIES)
    low, high = spec["label_range"]
    predicts = "four emotions" if spec["task"] == "emotions" else f"scores in [{low:g}, {high:g}]"
    corpus = f"{given['dataset']}{'-' + given['name'] if given.get('name') else ''}"
    scaled = "standardised" if given["normalise"] == "zscore" else "as they are"
    rows = [
        ("method", f"{method['method']}, variant {variant}, version {method['method_version']}"),
        ("corpus", f"{corpus}, revision {facts.data['revision']}, {spec['n_train']:,} training clips"),
        ("features", f"{facts.data['features']}, {scaled}: {shapes} (steps x features)"),
        ("predicts", predicts),
        ("regime", f"{missing.label}; text level {missing.level}, lengths {missing.lengths}"),
        ("seed", str(given["seed"])),
    ]
    if "class_path" in method:
        rows.insert(1, ("class", f"{method['class_path']}, from outside msabench"))
    if finished is None:
        rows.append(("training", f"did not end as far as is known: there is no {FINISHED} beside the checkpoint"))
    else:
        loss = "not known" if finished.val_task is None else f"{finished.val_task:.4f}"
        rows += [
            ("epoch", f"{finished.best_epoch} of {finished.epochs} (counted from 0)"),
            ("val/task", f"{loss}, on the split that selected it ({given['selection']})"),
            ("parameters", f"{finished.n_params:,} trainable"),
        ]
    if facts.job_id is not None:
        rows.append(("job", facts.job_id))
    return [*rows, ("weights", facts.weights), ("sha256", facts.sha256)]

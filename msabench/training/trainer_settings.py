"""Our settings of the trainer, and those under which no epoch could be selected: refused before anything starts.

Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msabench.errors import MSABenchError

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 50,
    "default_root_dir": "runs/fit",
    # PRLF takes gradients in its forward pass, which inference mode forbids for good.
    "inference_mode": False,
    "num_sanity_val_steps": 0,
    "deterministic": "warn",
    "enable_model_summary": False,
}
"""Defaults of Lightning's settings that are not Lightning's."""

DEFAULT_SEED = 1111

OWN_SETTINGS: dict[str, tuple[str, Any, str]] = {
    "early_stop": ("int | None", None, "Epochs without a better val/task before stopping."),
    "compile": (
        "default | reduce-overhead | aot_eager | eager | None",
        None,
        "Compile the training pass with torch.compile; results move by rounding.",
    ),
    "wandb": ("bool", False, "Log to Weights & Biases, offline."),
}
"""Settings besides Lightning's -> type, default, help."""


def require_selection(trainer: Mapping[str, Any], keeps: bool = True) -> None:
    """Refuse settings under which a training would end without a checkpoint.

    What depends on the number of batches or on a method's stages is refused by ``training.keep_best.KeepBest``.

    Args:
        trainer: Settings of the trainer.
        keeps: Whether the checkpoint is needed, so that a trial run without one is refused as well.

    Raises:
        MSABenchError: Nothing would be trained, validated or kept.
    """
    for name, kept in (("enable_checkpointing", True), ("barebones", False)):
        if trainer[name] is (not kept):
            raise MSABenchError(
                f"trainer.{name} {str(not kept).lower()} keeps no checkpoint, and best.ckpt is what a training is for; "
                "leave it out"
            )
    if trainer["fast_dev_run"]:
        if keeps:
            raise MSABenchError("trainer.fast_dev_run keeps no checkpoint to evaluate; it is for msabench fit alone")
        return
    for name in ("max_epochs", "max_steps"):
        value = trainer[name]
        if value is not None and value != -1 and value < 1:
            raise MSABenchError(f"trainer.{name} {value} trains nothing; give at least 1, or -1 for no limit")
    if not trainer["overfit_batches"]:
        for name, lack in (
            ("limit_train_batches", "batch to train on"),
            ("limit_val_batches", "validation to select an epoch by"),
        ):
            if trainer[name] == 0:
                raise MSABenchError(f"trainer.{name} 0 leaves no {lack}; leave it out")
    _require_validation(trainer)


def _require_validation(trainer: Mapping[str, Any]) -> None:
    epochs, every, interval = (
        trainer[name] for name in ("max_epochs", "check_val_every_n_epoch", "val_check_interval")
    )
    if interval == 0:
        raise MSABenchError(
            f"trainer.val_check_interval {interval} is not allowed; give a share of an epoch up to 1.0, or batches"
        )
    if every is None:
        return
    if every < 1:
        raise MSABenchError(f"trainer.check_val_every_n_epoch {every} is not allowed; give at least 1")
    if epochs is not None and 0 < epochs < every:
        raise MSABenchError(
            f"trainer.check_val_every_n_epoch {every} leaves trainer.max_epochs {epochs} without a validation to "
            f"select an epoch by; give at most {epochs}"
        )

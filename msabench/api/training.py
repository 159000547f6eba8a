"""``msabench.train``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msabench.api.loading import load
from msabench.api.scores import Scores
from msabench.api.undisturbed import undisturbed
from msabench.data.datamodule import MSADataModule
from msabench.errors import MSABenchError
from msabench.evaluation.evaluate import evaluate_grid
from msabench.evaluation.origin import STORED_GRID, STORED_MASK_SEEDS, origin
from msabench.evaluation.recording import add_record, record_of
from msabench.methods import registry
from msabench.methods.base import MSAMethod
from msabench.methods.checkpoint import load_checkpoint
from msabench.missingness.conditions import Cell, checked_mask_seeds, distinct, parse_grid
from msabench.missingness.named import naming
from msabench.packaged import config_file
from msabench.results.claims import require_writable
from msabench.results.job_identity import job_key, method_name
from msabench.results.places import store_to_write
from msabench.results.record import JobKey, JobRecord
from msabench.results.store import ResultStore
from msabench.training.build import Built, build
from msabench.training.config_words import as_words
from msabench.training.finished import FINISHED


@dataclass(frozen=True, repr=False)
class TrainingResult:
    """A training that ended, and what its checkpoint scores.

    Attributes:
        checkpoint: The selected checkpoint, as ``msabench evaluate`` takes it; an absolute path.
        folder: Its folder, with config and log.
        key: The job's key; ``key.job_id`` names it in stores.
        record: What is recorded of it, or would be.
        scores: Metrics and predictions over the grid.
        method: The trained method, from the checkpoint, in evaluation mode.
        data: Its data, with the settings that it was trained with.
        recorded: The record's file; None if no store was given.
    """

    checkpoint: Path
    folder: Path
    key: JobKey
    record: JobRecord
    scores: Scores
    method: MSAMethod
    data: MSADataModule
    recorded: Path | None = None

    def __repr__(self) -> str:
        return f"job {self.key.job_id}, checkpoint {self.checkpoint}\n{self.scores!r}"


@naming()
def train(
    method: str | type[MSAMethod],
    data: MSADataModule | str | Path | None = None,
    *,
    config: str | Path | None = None,
    seed: int | None = None,
    variant: str | None = None,
    max_epochs: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    grid: str | Sequence[str] = "paper",
    mask_seeds: Sequence[int] = STORED_MASK_SEEDS,
    store: str | Path | None = None,
    folder: str | Path | None = None,
    accelerator: str = "auto",
    progress: bool = False,
) -> TrainingResult:
    """Train a method and evaluate it: what ``msabench fit`` and ``msabench evaluate`` do.

    The same seed gives the same weights, predictions and key as on the command line. One device is used. Random states,
    torch's deterministic settings and signal handlers are afterwards as they were.

    Args:
        method: Name of a method (``msabench methods``), the class path of one's own, or the class itself, which has to
            stand in a module on the path: what is trained must be found again from its checkpoint.
        data: From ``load``, or what it takes. What the caller of ``load`` named wins over the config; everything else
            (features, batch size, regime, ...) is as the config has it. A ``MSADataModule`` that was made in another
            way wins in all its settings. None for the data of ``config``.
        config: A config file, or the name of one of msabench's. None for ``<method>_<corpus>``, as ``umdf_mosi``,
            ``<method>_custom`` for an own file; a method from outside that has none there is trained with the defaults
            of its class.
        seed: Training seed; None for the config's, 1111 unless it says otherwise.
        variant: ``default`` or one of the method's variants; None for the config's.
        max_epochs: Epochs, at least 1; None for the config's.
        overrides: Further settings by dotted key of the config, as in suites:
            ``{"model.init_args.lr": 1e-3, "early_stop": 8}``. They win over everything else.
        grid: Grids ({grids})
            and cells to evaluate.
        mask_seeds: Seeds of the test masks.
        store: Result store to add record and predictions to; the grid and the mask seeds must then hold ``paper`` and
            0, 1, 2.
        folder: Where checkpoint, config and log go; None for a new folder below ``runs/fit`` in the working folder.
        accelerator: Lightning's: ``auto``, ``cpu``, ``gpu``, ...
        progress: Whether to show a progress bar.

    Returns:
        The checkpoint with its scores.

    Raises:
        MSABenchError: A name or setting is not allowed, the data cannot be opened, the store has the job already or
            cannot be written, or the grid has a cell that the data or the method do not allow (all before anything is
            trained), or no epoch was trained.

    Example:
        >>> data = load("synth", size=(24, 8, 10), length=8)
        >>> result = train("lf_dnn", data, seed=1111, max_epochs=2)
        >>> result.scores.mean.loc["inter/lav", "f1_non0"]
    """
    cells, seeds = distinct(parse_grid(grid)), checked_mask_seeds(mask_seeds)
    if store is not None:
        store = store_to_write(Path(store).expanduser())
        _require_storable(cells, seeds)
    name = _method_name(method)
    settings = _data_settings(data)
    file = _config(name, config, settings)
    words: dict[str, Any] = {} if file else {"model": registry.class_path(name)}
    words |= {f"data.{key}": value for key, value in settings.items()}
    words |= {"trainer.devices": 1, "trainer.accelerator": accelerator, "trainer.enable_progress_bar": progress}
    chosen = {"seed_everything": seed, "model.init_args.variant": variant, "trainer.max_epochs": max_epochs}
    words |= {key: value for key, value in chosen.items() if value is not None}
    words |= {key: _plain(key, value) for key, value in (overrides or {}).items()}
    # Twice, since what is evaluated draws as well when it is rebuilt, and is evaluated under the caller's settings.
    with undisturbed():
        with undisturbed():
            built = build([file] if file else [], list(as_words(words)), Path(folder) if folder is not None else None)
            _require_trainable(built, name, file)
            built.datamodule.require(cells, built.model.data_needs)
            if store is not None:
                _require_new(store, built)
            built.trainer.fit(built.model, datamodule=built.datamodule, weights_only=True)
        return _evaluated(built, name, cells, seeds, store)


def _evaluated(
    built: Built, name: str, cells: Sequence[Cell], mask_seeds: Sequence[int], store: Path | None
) -> TrainingResult:
    """What ``msabench evaluate`` makes of the folder of a training."""
    folder = built.folder.path.absolute()
    if not (folder / FINISHED).is_file():
        raise MSABenchError(f"no epoch was trained, so there is no checkpoint in {folder}")
    checkpoint = folder / "best.ckpt"
    method, data_state = load_checkpoint(checkpoint)
    datamodule = MSADataModule.from_state(data_state)
    made_by = origin(checkpoint, method, datamodule)
    device = built.trainer.strategy.root_device
    evaluation = evaluate_grid(method, datamodule, cells, mask_seeds, device=device)
    record = record_of(made_by, method, datamodule, evaluation, mask_seeds)
    recorded = None
    if store is not None:
        recorded = add_record(store, record, evaluation.records(made_by.key.job_id), evaluation)
    return TrainingResult(
        checkpoint=checkpoint,
        folder=folder,
        key=made_by.key,
        record=record,
        scores=Scores.of(evaluation, datamodule, name),
        method=method,
        data=datamodule,
        recorded=recorded,
    )


def _method_name(method: str | type[MSAMethod]) -> str:
    if isinstance(method, str):
        return registry.name_of(method) if "." in method else registry.entry_of(method).info.name
    if not (isinstance(method, type) and issubclass(method, MSAMethod)):
        raise MSABenchError(f"{method!r} is no method; give its name, its class path, or a class that derives from it")
    if method.__module__ == "__main__" or "<locals>" in method.__qualname__:
        raise MSABenchError(
            f"{method.__qualname__} stands in {method.__module__}, where no checkpoint finds it again; put the class "
            "into a file of its own and import it from there"
        )
    return registry.name_of(f"{method.__module__}.{method.__qualname__}")


def _data_settings(data: MSADataModule | str | Path | None) -> dict[str, Any]:
    """What the caller said of the data, by dotted key of a config's data section."""
    if data is None:
        return {}
    if not isinstance(data, MSADataModule):
        data = load(data)
    if data.given is None:
        own = data.state_dict()["init_args"]
        settings = {key: value for key, value in own.items() if key not in ("missing", "seed", "grid")}
        settings |= {f"missing.{key}": value for key, value in own["missing"].items()}
    else:
        settings = {key: value for key, value in data.given.items() if key not in ("seed", "grid")}
    return {
        key: str(value) if isinstance(value, Path) else value for key, value in settings.items() if value is not None
    }


def _config(name: str, given: str | Path | None, settings: Mapping[str, Any]) -> Path | None:
    """The config to train with; None for a method from outside that has none."""
    if given is not None:
        return config_file(given)
    if "dataset" not in settings:
        raise MSABenchError(f"there is nothing to train {name} on; give data, or a config that names some")
    usual = f"{name}_{settings['dataset']}"
    try:
        return config_file(usual)
    except MSABenchError as error:
        if registry.is_external(name):
            return None
        raise MSABenchError(f"there is no config {usual} for {name} on {settings['dataset']}; give config") from error


def _plain(key: str, value: Any) -> Any:
    value = str(value) if isinstance(value, Path) else value
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise MSABenchError(
            f"setting {key} is a {type(value).__name__}, {value!r}; give a number, text, or a list or mapping of them"
        ) from error
    return value


def _require_storable(cells: Sequence[Cell], mask_seeds: Sequence[int]) -> None:
    lacking = [f"cell {cell}" for cell in distinct(parse_grid(STORED_GRID)) if cell not in cells]
    lacking += [f"mask seed {seed}" for seed in STORED_MASK_SEEDS if seed not in mask_seeds]
    if lacking:
        raise MSABenchError(
            f"a record needs the grid paper and mask seeds 0 1 2, and {lacking[0]} is left out; give them all, or "
            "leave store out"
        )


def _require_trainable(built: Built, name: str, file: Path | None) -> None:
    found = method_name(built.config)
    if found != name:
        raise MSABenchError(f"{file} is a config of {found}, not of {name}")
    if built.trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise MSABenchError("trainer.fast_dev_run keeps nothing, so there is nothing to evaluate; leave it out")
    if built.trainer.world_size > 1:
        raise MSABenchError(
            f"train uses one device, and the settings ask for {built.trainer.world_size}; train on several with "
            "msabench fit"
        )


def _require_new(store: Path, built: Built) -> None:
    corpus = built.datamodule.corpus
    key = job_key(built.config, corpus.revision, corpus.features)
    if ResultStore(store).has(key.job_id):
        raise MSABenchError(f"job {key.job_id} is recorded already in {store}; records are never replaced")
    require_writable(store, key)

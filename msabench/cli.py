"""Training verbs: fit, validate, test, predict, as Lightning's command line over our two base classes.

``build`` and ``resolve`` give the runner the same objects from the same configs, so that a suite and
``msabench fit --config ...`` cannot drift apart.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import set_dumper
from lightning.pytorch.callbacks import BasePredictionWriter, Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from msabench import registry
from msabench.data.datamodule import MSADataModule
from msabench.data.files import text_of
from msabench.errors import MSABenchError
from msabench.evaluation.evaluate import CellPredictions, Evaluation
from msabench.evaluation.origin import FINISHED, FinishedTraining
from msabench.evaluation.predictions import write as write_predictions
from msabench.methods.base import MSAMethod
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import Clips, dropped_share, mask_hash
from msabench.parser_messages import sentence
from msabench.provenance import collect, config_hash

MONITOR = "val/task"
SECONDS = "msabench_seconds"
TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 50,
    "default_root_dir": "runs/fit",
    # PRLF takes gradients in its forward pass, which inference mode forbids for good.
    "inference_mode": False,
    "num_sanity_val_steps": 0,
    "deterministic": "warn",
    "enable_model_summary": False,
}


@dataclass
class Built:
    """Everything a training needs.

    Attributes:
        model: The method.
        datamodule: Its data.
        trainer: Trainer with checkpoint on ``val/task`` and CSV log.
        config: Resolved config as plain data.
    """

    model: MSAMethod
    datamodule: MSADataModule
    trainer: pl.Trainer
    config: dict[str, Any]


class StopEarly(EarlyStopping):
    """Stops after epochs without a better ``val/task`` in a method's last stage."""

    def __init__(self, patience: int) -> None:
        super().__init__(MONITOR, mode="min", patience=patience)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the last stage's epochs only."""
        if isinstance(pl_module, MSAMethod) and pl_module.in_last_stage:
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the last stage's epochs only."""
        if isinstance(pl_module, MSAMethod) and pl_module.in_last_stage:
            super().on_train_epoch_end(trainer, pl_module)


class KeepBest(ModelCheckpoint):
    """Keeps ``best.ckpt``, the epoch with the lowest ``val/task``, and says in ``finished.json`` that training ended.

    Of a method that trains in stages it is an epoch of the last one. Each earlier stage leaves ``<stage>.ckpt``, from
    which ``msabench fit --ckpt_path`` goes on.

    Args:
        dirpath: Folder of both.
        config: Resolved config of the training.
    """

    def __init__(self, dirpath: Path, config: dict[str, Any]) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=MONITOR,
            mode="min",
            save_top_k=1,
            enable_version_counter=False,
        )
        self.config = config
        self._started = 0.0
        self._seconds_before = 0.0
        self._n_params = 0
        self._provenance: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take an earlier training's end out of the folder; note time and code, which may change meanwhile."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero:
            assert self.dirpath is not None
            (Path(self.dirpath) / FINISHED).unlink(missing_ok=True)
            self._provenance = collect(str(trainer.strategy.root_device))
            self._started = time.perf_counter()
            # Now, because later stages freeze some.
            self._n_params = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)

    def state_dict(self) -> dict[str, Any]:
        """Add how long the training took so far."""
        return {**super().state_dict(), SECONDS: self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count the time of what the checkpoint's training did."""
        self._seconds_before = state_dict.pop(SECONDS, 0.0)
        super().load_state_dict(state_dict)

    @property
    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Select among the last stage's epochs only."""
        if isinstance(pl_module, MSAMethod) and pl_module.in_last_stage:
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what a stage before the last ends with."""
        assert isinstance(pl_module, MSAMethod)
        if pl_module.in_last_stage:
            super().on_train_epoch_end(trainer, pl_module)
        elif pl_module.ends_a_stage and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(Path(self.dirpath or ".") / f"{pl_module.stage}.ckpt")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save methods without an optimiser, which Lightning skips, and write ``finished.json``.

        Raises:
            MSABenchError: No epoch was validated, so there is nothing to select.
        """
        assert isinstance(pl_module, MSAMethod)
        assert self.dirpath is not None
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            # Lightning saves nothing then.
            return
        val_task = self.best_model_score
        # A resumed training brings the path of its predecessor along.
        if not self.best_model_path or Path(self.best_model_path).parent != Path(self.dirpath):
            if pl_module.configure_optimizers() is not None:
                raise MSABenchError(
                    f"training of {pl_module.info.name} ended without a validation, so no epoch was selected; "
                    "validate at least once (trainer.check_val_every_n_epoch, trainer.limit_val_batches)"
                )
            self.best_model_path = str(Path(self.dirpath) / "best.ckpt")
            trainer.save_checkpoint(self.best_model_path)
            val_task = trainer.callback_metrics.get(MONITOR)
        if trainer.is_global_zero:
            self._finish(trainer, pl_module, None if val_task is None else float(val_task))

    def _finish(self, trainer: pl.Trainer, method: MSAMethod, val_task: float | None) -> None:
        train_seconds = self._seconds
        checkpoint = Path(self.best_model_path)
        selected = None
        if self.best_model_score is not None:
            selected = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["epoch"]
        finished = FinishedTraining(
            checkpoint=checkpoint.name,
            epochs=trainer.current_epoch,
            best_epoch=selected,
            val_task=val_task,
            train_seconds=train_seconds,
            n_params=self._n_params,
            peak_memory_bytes=_peak_memory(trainer.strategy.root_device),
            provenance=self._provenance,
            # A class of somebody's own trains as well, but has no key to be recorded under.
            config_hash=config_hash(self.config) if method.info.name in registry.methods() else "",
        )
        finished.write(checkpoint.parent)


class SavePredictions(BasePredictionWriter):
    """Writes what ``predict`` predicted to ``predictions.parquet`` in the run's folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(write_interval="epoch")
        self.path = folder / "predictions.parquet"

    def write_on_epoch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, predictions: Any, batch_indices: Any
    ) -> None:
        """Write all cells' predictions, in the form of the result store."""
        data: MSADataModule = trainer.datamodule  # type: ignore[attr-defined]
        by_cell = predictions if len(data.cells) > 1 else [predictions]
        split = data.corpus.splits["test"]
        clips = Clips.of(split, data.corpus.padding)
        entries = []
        for cell, parts in zip(data.cells, by_cell, strict=True):
            masks = data.cell_masks(cell, data.mask_seed)
            seed = data.mask_seed if cell.is_random else None
            whole: bool = pl_module.needs_conversations  # type: ignore[assignment]
            preds = data.in_file_order(torch.cat(parts), whole_conversations=whole).float().cpu().numpy()
            entries.append(CellPredictions(cell, seed, preds, mask_hash(masks), dropped_share(masks, clips)))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        labels = split.labels.cpu().numpy()
        write_predictions(self.path, Evaluation(data.corpus.info.metric_set, list(split.ids), labels, entries, 0.0))


class MSACLI(LightningCLI):
    """Lightning's command line with our links and defaults."""

    def __init__(self, **kwargs: Any) -> None:
        quiet()
        registry.import_all()
        super().__init__(
            MSAMethod,
            MSADataModule,
            subclass_mode_model=True,
            # A stray --optimizer would replace a method's own groups.
            auto_configure_optimizers=False,
            seed_everything_default=1111,
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"exit_on_error": False},
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our own settings and what is derived rather than given."""
        parser.add_argument(
            "--early_stop", type=int | None, default=None, help="Epochs without a better val/task before stopping."
        )
        parser.add_argument("--wandb", type=bool, default=False, help="Log to Weights & Biases, offline.")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=_as_seed)
        parser.link_arguments("data.spec", "model.init_args.spec", compute_fn=asdict, apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Refuse to evaluate a network that nobody trained.

        Raises:
            MSABenchError: The verb needs a checkpoint and there is none.
        """
        if self.subcommand not in ("validate", "test", "predict"):
            return
        given = self.config[self.subcommand]["ckpt_path"]
        if given is None:
            raise MSABenchError(f"msabench {self.subcommand} needs --ckpt_path, the best.ckpt of a training")
        # Lightning would go on with an untrained network after a mere warning for some words, e.g. last.
        if not Path(given).is_file():
            raise MSABenchError(f"there is no checkpoint {given}; give --ckpt_path a file such as runs/.../best.ckpt")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add checkpoint, early stopping and loggers."""
        config = self.config_init
        if self.subcommand is not None:
            config = self.config_init[self.subcommand]
            # Lightning would unpickle anything by default.
            config["weights_only"] = True
        settings = config["trainer"]
        root = Path(settings["default_root_dir"] or "runs/fit")
        model = type(self.model).info.name
        name = f"{self.datamodule.info.name}/{model}/seed_{self.datamodule.seed}"
        loggers: list[Logger] = [CSVLogger(root, name=name)]
        folder = Path(loggers[0].log_dir or root)
        if config["wandb"]:
            folder.mkdir(parents=True, exist_ok=True)
            loggers.append(
                WandbLogger(
                    project="msabench",
                    name=f"{model}-seed{self.datamodule.seed}",
                    group=self.datamodule.info.name,
                    job_type="fit",
                    save_dir=folder,
                    offline=True,
                    log_model=False,
                )
            )
        resolved = _plain(self._parser(self.subcommand), self.config.get(str(self.subcommand), self.config))
        callbacks: list[Callback] = [KeepBest(folder, resolved), SavePredictions(folder)]
        if config["early_stop"] is not None:
            callbacks.append(StopEarly(config["early_stop"]))
        given = settings["callbacks"] or []
        kwargs["callbacks"] = [*callbacks, *(given if isinstance(given, list) else [given])]
        if settings["logger"] in (None, True):
            kwargs["logger"] = loggers
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """Say where the checkpoint lies and what can be done with it."""
        best = self.trainer.checkpoint_callback
        if isinstance(best, KeepBest) and best.best_model_path:
            print(f"best epoch's checkpoint: {best.best_model_path}")
            print(f"next: msabench evaluate --checkpoint {best.best_model_path} --store leaderboard/results")

    def after_predict(self) -> None:
        """Say where the predictions lie."""
        print(f"predictions: {next(c.path for c in self.trainer.callbacks if isinstance(c, SavePredictions))}")  # type: ignore[attr-defined]

    def after_test(self) -> None:
        """Print metrics by cell."""
        results = self.model.test_results
        keys = list(next(iter(results.values()), {}))
        print(f"{'cell':<12}" + "".join(f"{key:>18}" for key in keys))
        for cell, values in results.items():
            print(f"{cell:<12}" + "".join(f"{values[key]:>18.4f}" for key in keys))


def _as_seed(seed: int | bool) -> int:
    if isinstance(seed, bool):
        raise MSABenchError(f"seed_everything {seed} is not allowed; give a number, so that the run can be repeated")
    return seed


class _QuotingDumper(yaml.SafeDumper):
    """Quotes text that the parser would read back as a number, such as a folder named 1e5."""


_QuotingDumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"), list("-+0123456789")
)


def _dump(data: Any) -> str:
    return yaml.dump(data, Dumper=_QuotingDumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


set_dumper("yaml", _dump)


def main(arguments: list[str]) -> int:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        arguments: Command line, beginning with the verb.
    """
    for option, value in pairwise([word for given in arguments for word in given.split("=", 1)]):
        if option == "--config" and Path(value).is_file():
            text_of(Path(value))
    with _one_sentence():
        MSACLI(args=_with_class_paths(arguments))
    return 0


def build(config_files: list[Path], overrides: list[str]) -> Built:
    """Instantiate method, data module and trainer as ``msabench fit`` would.

    Args:
        config_files: Config files, later ones override earlier ones.
        overrides: Command-line style settings, e.g. ``--trainer.max_epochs=8``.

    Raises:
        MSABenchError: A file is missing, a key unknown, a value not allowed.
    """
    with _one_sentence():
        cli = MSACLI(args=_arguments(config_files, overrides), run=False)
    return Built(cli.model, cli.datamodule, cli.trainer, _plain(cli.parser, cli.config))


def resolve(config_files: list[Path], overrides: list[str]) -> dict[str, Any]:
    """The resolved config as plain data, without instantiating anything.

    Raises:
        MSABenchError: A file is missing, a key unknown, a value not allowed.
    """
    with _one_sentence():
        parser = _ParserOnly(run=False).parser
        return _plain(parser, parser.parse_args(_arguments(config_files, overrides)))


class _ParserOnly(MSACLI):
    """Stops after setting up the parser."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.get_defaults()

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        pass


def _arguments(config_files: list[Path], overrides: list[str]) -> list[str]:
    for path in config_files:
        if not path.is_file():
            raise MSABenchError(f"there is no config {path}")
        text_of(path)
    return [word for path in config_files for word in ("--config", str(path))] + _with_class_paths(overrides)


def _with_class_paths(words: list[str]) -> list[str]:
    """The same words where ``--model`` names a class, also if a method's name was given."""
    option = re.compile(r"(--model(?:\.class_path)?)(?:=(\w+))?")
    changed = list(words)
    for place, word in enumerate(words):
        found = option.fullmatch(word)
        if found and found[2] in registry.methods():
            changed[place] = f"{found[1]}={registry.class_path(found[2])}"
        elif found and found[2] is None and place + 1 < len(words) and words[place + 1] in registry.methods():
            changed[place + 1] = registry.class_path(words[place + 1])
    return changed


def _plain(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    text = parser.dump(config, skip_unset=False)
    plain: dict[str, Any] = yaml.safe_load(text)
    plain.pop("config", None)
    return plain


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def quiet() -> None:
    """Silence advice that does not apply: our loaders have no workers, our logs are flushed once an epoch."""
    for message in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*LightningCLI's args parameter.*",
        ".*LeafSpec.*is deprecated.*",
        ".*returned `None`, this fit will run with no optimizer.*",
        ".*exists and is not empty.*",
        ".*The dirpath has changed from.*",
        ".*infer the batch indices fetched from your dataloader.*",
        ".*deprecated in v4.49.0.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)


@contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except (argparse.ArgumentError, ValueError) as error:
        cause: BaseException | None = error
        while cause is not None:
            # The parser wraps what constructors raise; the sentence for the user is the innermost.
            if isinstance(cause, MSABenchError):
                raise cause from error
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, ValueError) and "Does not validate" not in str(error):
            raise
        raise MSABenchError(sentence(str(error), _settings())) from error


def _settings() -> list[str]:
    """Every option of the training verbs, to tell what a mistyped one was meant to be."""
    sections: dict[str, Callable[..., Any]] = {
        "data": MSADataModule.__init__,
        "data.missing": MissingConfig,
        "trainer": pl.Trainer.__init__,
    }
    names = [f"{at}.{name}" for at, function in sections.items() for name in inspect.signature(function).parameters]
    return ["config", "seed_everything", "early_stop", "wandb", "ckpt_path", "model", "data", "trainer", *names]

"""Method, data module and trainer from configs, by Lightning's parser over our two base classes.

The runner, the regression of F1 and ``msabench fit`` build through here, so that they cannot drift apart.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import pickle
import re
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from jsonargparse import Namespace, set_dumper
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, WandbLogger

from msabench.data.datamodule import MSADataModule
from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.methods.base import MSAMethod
from msabench.methods.checkpoint import refused
from msabench.missingness.config import MissingConfig
from msabench.packaged import config_file
from msabench.plugins import plugins
from msabench.results.job_identity import MAX_SEED
from msabench.results.places import default_store
from msabench.training.callbacks import OwnSignals, SaveConfig, SavePredictions, StopEarly
from msabench.training.cluster import with_environment
from msabench.training.compiled import Compile, compile_training
from msabench.training.config_files import config_of
from msabench.training.finished import FINISHED
from msabench.training.keep_best import KeepBest
from msabench.training.memory_fill import UnfilledMemory
from msabench.training.parser_messages import sentence
from msabench.training.run_folder import RunFolder, RunLogger
from msabench.training.trainer_settings import DEFAULT_SEED, OWN_SETTINGS, TRAINER_DEFAULTS, require_selection

_OWN_TYPES: dict[str, Any] = {"early_stop": int | None, "compile": Compile | None, "wandb": bool}


@dataclass
class Built:
    """Everything a training needs.

    Attributes:
        model: The method.
        datamodule: Its data.
        trainer: Trainer with checkpoint on ``val/task`` and CSV log.
        config: Resolved config as plain data.
        folder: Where checkpoint, log and config go.
    """

    model: MSAMethod
    datamodule: MSADataModule
    trainer: pl.Trainer
    config: dict[str, Any]
    folder: RunFolder


class _Parser(LightningArgumentParser):
    """Reads every config with its base."""

    def parse_path(self, path: str | PathLike[str], **kwargs: Any) -> Namespace:
        """Parse what a config and its base say together.

        Raises:
            MSABenchError: One of the files is missing or says nothing that is understood.
        """
        parsed: Namespace = self.parse_string(_dump(config_of(Path(path))), **kwargs)
        return parsed


class MSACLI(LightningCLI):
    """Lightning's command line with our links and defaults.

    Args:
        folder: Where checkpoint, log and config go; None reserves a new folder below ``trainer.default_root_dir``.
        data: Class of the data module.
        kwargs: Arguments of Lightning's.
    """

    def __init__(self, folder: Path | None = None, data: type[MSADataModule] = MSADataModule, **kwargs: Any) -> None:
        self._given_folder = folder
        quiet()
        registry.import_all()
        super().__init__(
            MSAMethod,
            data,
            subclass_mode_model=True,
            # A stray --optimizer would replace a method's own groups.
            auto_configure_optimizers=False,
            seed_everything_default=DEFAULT_SEED,
            trainer_defaults=TRAINER_DEFAULTS,
            save_config_callback=SaveConfig,
            parser_class=_Parser,
            parser_kwargs={"exit_on_error": False},
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our own settings and what is derived rather than given."""
        for name, (_, default, text) in OWN_SETTINGS.items():
            parser.add_argument(f"--{name}", type=_OWN_TYPES[name], default=default, help=text)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=_as_seed)
        parser.link_arguments("data.spec", "model.init_args.spec", compute_fn=asdict, apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Refuse to train without an end, and to evaluate a network that nobody trained.

        Raises:
            MSABenchError: No epoch could be selected; or the verb needs a checkpoint and there is none.
        """
        if self.subcommand not in ("validate", "test", "predict"):
            config = self.config.get(str(self.subcommand), self.config)
            require_selection(config["trainer"], keeps=self.subcommand is None)
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
        model = type(self.model).info.name
        below = Path(settings["default_root_dir"] or "runs/fit") / self.datamodule.info.name / model
        self.folder = RunFolder(below / f"seed_{self.datamodule.seed}", self._given_folder)
        loggers: list[Logger] = [RunLogger(self.folder)]
        if config["wandb"]:
            loggers.append(
                WandbLogger(
                    project="msabench",
                    name=f"{model}-seed{self.datamodule.seed}",
                    group=self.datamodule.info.name,
                    job_type="fit",
                    save_dir=self.folder.path,
                    offline=True,
                    log_model=False,
                )
            )
        resolved = _plain(self._parser(self.subcommand), self.config.get(str(self.subcommand), self.config))
        callbacks: list[Callback] = [
            KeepBest(self.folder, resolved),
            SavePredictions(self.folder),
            OwnSignals(),
            UnfilledMemory(),
        ]
        if config["early_stop"] is not None:
            callbacks.append(StopEarly(config["early_stop"]))
        given = settings["callbacks"] or []
        kwargs["callbacks"] = [*callbacks, *(given if isinstance(given, list) else [given])]
        kwargs["plugins"] = with_environment(settings)
        if settings["logger"] is not False:
            others = [] if settings["logger"] in (None, True) else settings["logger"]
            kwargs["logger"] = [*loggers, *(others if isinstance(others, list) else [others])]
        self.save_config_kwargs = {"folder": self.folder}
        if config["compile"] is not None:
            compile_training(self.model, config["compile"])
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """Say where the checkpoint lies and what can be done with it.

        Raises:
            MSABenchError: The training ended before it began, e.g. because the training split has no clips.
        """
        if not self.trainer.is_global_zero:
            return
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print("trial run of training and validation went through; nothing is kept")
            return
        if not (self.folder.path / FINISHED).is_file():
            raise MSABenchError(f"no epoch was trained, so there is no checkpoint in {self.folder.path}")
        best = self.trainer.checkpoint_callback
        if isinstance(best, KeepBest) and best.best_model_path:
            print(f"best epoch's checkpoint: {best.best_model_path}")
            place = f"--checkpoint {shlex.quote(best.best_model_path)} --store {shlex.quote(str(default_store()))}"
            given = f" --plugins {shlex.quote(','.join(plugins()))}" if plugins() else ""
            print(f"next: msabench evaluate {place}{given}")

    def after_predict(self) -> None:
        """Say where the predictions lie."""
        print(f"predictions: {next(c.path for c in self.trainer.callbacks if isinstance(c, SavePredictions))}")  # type: ignore[attr-defined]

    def after_test(self) -> None:
        """Print metrics by cell."""
        results = self.model.test_results
        keys = list(next(iter(results.values()), {}))
        print(f"{'cell':<12}" + "".join(f"{key:>20}" for key in keys))
        for cell, values in results.items():
            print(f"{cell:<12}" + "".join(f"{values[key]:>20.4f}" for key in keys))


def _as_seed(seed: int | bool) -> int:
    if not isinstance(seed, bool) and not 0 <= seed <= MAX_SEED:
        raise MSABenchError(f"seed_everything {seed} is not allowed; give a number from 0 to {MAX_SEED}")
    if isinstance(seed, bool):
        raise MSABenchError(f"seed_everything {seed} is not allowed; give a number, so that the run can be repeated")
    return seed


# The same as in Python, some times faster, where YAML was built with it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _QuotingDumper(_Dumper):  # type: ignore[misc, valid-type]
    """Quotes text that the parser would read back as a number, such as a folder named 1e5."""


_QuotingDumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"), list("-+0123456789")
)


def _dump(data: Any) -> str:
    return yaml.dump(data, Dumper=_QuotingDumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


set_dumper("yaml", _dump)


def build(
    config_files: list[Path],
    overrides: list[str],
    folder: Path | None = None,
    data: type[MSADataModule] = MSADataModule,
) -> Built:
    """Instantiate method, data module and trainer as ``msabench fit`` would.

    Args:
        config_files: Config files, or names of msabench's configs; later ones override earlier ones.
        overrides: Command-line style settings, e.g. ``--trainer.max_epochs=8``.
        folder: Where checkpoint, log and config go; None reserves a new folder below ``trainer.default_root_dir``
            once training starts.
        data: Class of the data module.

    Raises:
        MSABenchError: A file is missing, a key unknown, a value not allowed.
    """
    with one_sentence():
        cli = MSACLI(folder, data, args=_arguments(config_files, overrides), run=False)
    return Built(cli.model, cli.datamodule, cli.trainer, _plain(cli.parser, cli.config), cli.folder)


def resolve(config_files: list[Path], overrides: list[str]) -> dict[str, Any]:
    """The resolved config as plain data, without instantiating anything.

    Raises:
        MSABenchError: A file is missing, a key unknown, a value not allowed.
    """
    with one_sentence():
        parser = _parser_only()
        config = _plain(parser, parser.parse_args(_arguments(config_files, overrides)))
    require_selection(config["trainer"])
    return config


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


@cache
def _parser_only() -> LightningArgumentParser:
    """A parser for ``resolve``; to make one takes as long as to parse, and parsing leaves nothing in it."""
    return _ParserOnly(run=False).parser


def _arguments(config_files: list[Path], overrides: list[str]) -> list[str]:
    found = [config_file(path) for path in config_files]
    return [word for path in found for word in ("--config", str(path))] + with_class_paths(overrides)


def with_config_files(words: list[str]) -> list[str]:
    """The same words where ``--config`` names a file, also if a config of msabench's was given by its name.

    Raises:
        MSABenchError: There is no such config.
    """
    changed = list(words)
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option not in ("-c", "--config"):
            continue
        if not equals and place + 1 < len(words) and _may_be_file(words[place + 1]):
            changed[place + 1] = str(config_file(words[place + 1]))
        elif equals and _may_be_file(value):
            changed[place] = f"{option}={config_file(value)}"
    return changed


def _may_be_file(value: str) -> bool:
    # The parser takes settings themselves as well: --config '{trainer: {max_epochs: 3}}'.
    return Path(value).is_file() or not (value.startswith("-") or ":" in value)


def with_class_paths(words: list[str]) -> list[str]:
    """The same words where ``--model`` names a class, also if a method's name was given."""
    option = re.compile(r"(--model(?:\.class_path)?)(?:=(\w+))?")
    methods = registry.methods()
    changed = list(words)
    for place, word in enumerate(words):
        found = option.fullmatch(word)
        if found and found[2] in methods:
            changed[place] = f"{found[1]}={registry.class_path(found[2])}"
        elif found and found[2] is None and place + 1 < len(words) and words[place + 1] in methods:
            changed[place + 1] = registry.class_path(words[place + 1])
    return changed


def _plain(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    # Parsing has validated it.
    text = parser.dump(config, skip_unset=False, skip_validation=True)
    plain: dict[str, Any] = yaml.load(text, _Loader)
    plain.pop("config", None)
    return plain


def quiet() -> None:
    """Silence advice that does not apply: our loaders have no workers, our logs are flushed once an epoch."""
    for message in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*LightningCLI's args parameter.*",
        ".*LeafSpec.*is deprecated.*",
        ".*returned `None`, this fit will run with no optimizer.*",
        ".*exists and is not empty.*",
        ".*infer the batch indices fetched from your dataloader.*",
        ".*deprecated in v4.49.0.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn what the parser raises in the block into one sentence.

    Raises:
        MSABenchError: A file is missing, a key unknown, a value not allowed.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise refused("the file given as ckpt_path") from error
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

"""What ``msabench fit --help`` prints, and that of the other verbs that are Lightning's. Free of torch and Lightning.

To import Lightning takes seconds, and its own help, behind ``--help-all``, has six hundred lines. So settings are read
here where they are defined, in signatures and docstrings, through ``ast`` and without importing anything.
"""

from __future__ import annotations

import ast
import importlib.util
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docstring_parser import parse

from msabench.training.trainer_settings import DEFAULT_SEED, OWN_SETTINGS, TRAINER_DEFAULTS

FULL = "--help-all"
"""Option that asks for every setting."""

NOTHING = ast.Constant(...)
"""In place of the default of a setting without one."""

SHOWN_OF_TRAINER = (
    "max_epochs",
    "accelerator",
    "devices",
    "precision",
    "gradient_clip_val",
    "accumulate_grad_batches",
    "limit_train_batches",
    "fast_dev_run",
    "deterministic",
    "enable_progress_bar",
    "default_root_dir",
)
"""Lightning's settings that are asked for most; the others are in the full help."""

_CHECKPOINT = {
    "fit": "Checkpoint to go on from.",
    "validate": "The best.ckpt of a training.",
    "test": "The best.ckpt of a training.",
    "predict": "The best.ckpt of a training.",
}


@dataclass(frozen=True)
class Setting:
    """One setting of the training verbs.

    Attributes:
        name: Its option without the dashes, e.g. ``data.batch_size``.
        kind: Its type as the source has it.
        default: Its default; ``...`` if it has to be given.
        help: What the docstring says of it, on one line.
    """

    name: str
    kind: str
    default: Any
    help: str


def short_help(verb: str) -> str:
    """The text for one verb.

    Args:
        verb: ``fit``, ``validate``, ``test`` or ``predict``.
    """
    lines = [
        f"usage: msabench {verb} --config NAME_OR_FILE [--SETTING VALUE ...]",
        "",
        "A config is a file, or the name of one of ours (msabench configs lists them); several add up.",
        "Whatever a config says may be changed by an option, written --data.batch_size 16 or --data.batch_size=16.",
        "",
        *_block(Setting("ckpt_path", "file", None if verb == "fit" else ..., _CHECKPOINT[verb])),
    ]
    for setting in settings():
        lines += _block(setting)
    return "\n".join(
        [
            *lines,
            "  --model METHOD, --model.ARGUMENT VALUE",
            "        The method (msabench methods lists them), and its own arguments, which its file documents.",
            "  --print_config",
            "        Print the settings that result, and do nothing else.",
            "",
            f"msabench {verb} {FULL} has every setting, those of Lightning's trainer among them.",
        ]
    )


def settings() -> list[Setting]:
    """The settings that are shown, apart from the method's and the checkpoint."""
    package = Path(__file__).parents[1]
    found = [
        Setting("seed_everything", "int", DEFAULT_SEED, "Seed of initialisation, training order and training masks."),
        *(Setting(name, kind, default, text) for name, (kind, default, text) in OWN_SETTINGS.items()),
    ]
    for setting in _of(package / "data" / "datamodule.py", "MSADataModule", "data"):
        if setting.name == "data.missing":
            found += _of(package / "missingness" / "config.py", "MissingConfig", "data.missing")
        elif setting.name != "data.seed":
            # It follows seed_everything.
            found.append(setting)
    trainer = {setting.name: setting for setting in _of(_lightning(), "Trainer", "trainer")}
    for name in SHOWN_OF_TRAINER:
        setting = trainer[f"trainer.{name}"]
        default = TRAINER_DEFAULTS.get(name, setting.default)
        found.append(Setting(setting.name, setting.kind, default, setting.help))
    return found


def _lightning() -> Path:
    """The file of Lightning's trainer, found without importing it."""
    spec = importlib.util.find_spec("lightning")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pytorch" / "trainer" / "trainer.py"


def _of(path: Path, name: str, section: str) -> Iterator[Setting]:
    """The settings that a class takes, by its file: arguments of its ``__init__``, or fields of a dataclass."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    [found] = [node for node in body if isinstance(node, ast.ClassDef) and node.name == name]
    functions = (node for node in found.body if isinstance(node, ast.FunctionDef))
    init = next((node for node in functions if node.name == "__init__"), None)
    documented = ast.get_docstring(found) or ""
    arguments: list[tuple[str, ast.expr | None, ast.expr]]
    if init is None:
        fields = [node for node in found.body if isinstance(node, ast.AnnAssign)]
        arguments = [(ast.unparse(node.target), node.annotation, node.value or NOTHING) for node in fields]
    else:
        documented += "\n" + (ast.get_docstring(init) or "")
        arguments = list(_arguments(init.args))
    helps = {item.arg_name: " ".join((item.description or "").split()) for item in parse(documented).params}
    for argument, annotation, default in arguments:
        try:
            value = ast.literal_eval(default)
        except ValueError:
            # An object: a section of its own.
            value = None
        kind = "" if annotation is None else ast.unparse(annotation)
        yield Setting(f"{section}.{argument}", kind, value, helps.get(argument, ""))


def _arguments(given: ast.arguments) -> Iterator[tuple[str, ast.expr | None, ast.expr]]:
    lacking = len(given.args) - len(given.defaults)
    for argument, default in zip(given.args[1:], [*[NOTHING] * lacking, *given.defaults][1:], strict=True):
        yield argument.arg, argument.annotation, default
    for argument, keyword in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield argument.arg, argument.annotation, keyword or NOTHING


def _block(setting: Setting) -> list[str]:
    value = " (required)" if setting.default is ... else f" = {_written(setting.default)}"
    indented = textwrap.wrap(setting.help, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return [f"  --{setting.name}{value}", *indented]


def _written(value: Any) -> str:
    """A default as a config has it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    words = "null" if value is None else str(value)
    return words.lower() if isinstance(value, bool) else words

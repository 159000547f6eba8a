"""``msabench methods new``: the files of a method of one's own, ready to train. Free of torch."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
from contextlib import suppress
from pathlib import Path

from msabench.errors import MSABenchError
from msabench.files import creating
from msabench.methods.registry import GROUP, METHODS_FOLDER, methods
from msabench.packaged import SPACES
from msabench.plugins import NAME, NAME_RULE

TEMPLATE = METHODS_FOLDER / "_template.py"
"""What every new method begins as, in here as well as outside."""

_CONFIG = """\
# {title}
early_stop: 8  # epochs without a better val/task
trainer:
  max_epochs: {epochs}
data:
  dataset: {dataset}
  features: {features}
  batch_size: 32
  missing: {{regime: mixed}}  # what is missing in training: complete, intra, inter, mixed, mixed_fsrf or lnln
model:
  class_path: {class_path}
  init_args:
    hidden: 64
    lr: 1.0e-3
"""

_SPACE = """\
# What may be tuned in {class_name}; a study's first trial has the settings of the config.
model.init_args.lr: {{low: 1.0e-4, high: 1.0e-2, log: true}}
model.init_args.weight_decay: {{choices: [0.0, 1.0e-5, 1.0e-4, 1.0e-3]}}
model.init_args.hidden: {{choices: [32, 64, 128]}}
data.batch_size: {{choices: [16, 32, 64]}}
"""

_TEST = '''\
"""What msabench requires of every method, for {class_name}; one report for each check."""

from msabench.testing import method_tests
from {name} import {class_name}

test_{name} = method_tests({class_name})
'''

_PACKAGE = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{distribution}"
version = "0.1.0"
dependencies = ["msabench"]

# Where msabench looks for methods: once installed, this one needs no --plugins.
[project.entry-points."{group}"]
{name} = "{name}:{class_name}"

[tool.setuptools]
py-modules = ["{name}"]
"""


def new(name: str, out: Path = Path(), package: bool = False) -> str:
    """Write a method of one's own: a file with its class, which trains as it is, configs, a search space, and a test.

    Args:
        name: What it is called: small letters, digits and _.
        out: Folder for the files; made if there is none. Nothing in it is overwritten.
        package: Write a pyproject.toml as well, with which pip installs it and msabench finds it.

    Returns:
        The text to print: what was written, and the commands to try it by.

    Raises:
        MSABenchError: The name is not allowed or in use, a file is there already, or the folder cannot be written.
    """
    class_name = _class_name(name)
    if name in methods():
        raise MSABenchError(f"there is a method {name} already; `msabench methods` lists them; choose another name")
    texts = {
        f"{name}.py": method_source(name, class_name),
        **{f"{name}_{dataset}.yaml": text for dataset, text in _configs(name, class_name).items()},
        f"{SPACES}/{name}.yaml": _SPACE.format(class_name=class_name),
        f"test_{name}.py": _TEST.format(name=name, class_name=class_name),
    }
    if package:
        distribution = name.replace("_", "-")
        facts = {"distribution": distribution, "group": GROUP, "name": name, "class_name": class_name}
        texts["pyproject.toml"] = _PACKAGE.format(**facts)
    _refuse_what_is_there(name, out, [*texts])
    _write(out, texts)
    return _said(name, out, [*texts], package)


def method_source(name: str, class_name: str) -> str:
    """The template under another name.

    Args:
        name: Of the method.
        class_name: Of its class.
    """
    text = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\bTemplate\b", class_name, text).replace('name="_template"', f'name="{name}"')


def _class_name(name: str) -> str:
    """The class of a method, e.g. ``MyNet`` of ``my_net``.

    Raises:
        MSABenchError: The name cannot be that of a method, a module and a class.
    """
    if not NAME.fullmatch(name):
        raise MSABenchError(f"method name {name!r} is not allowed; {NAME_RULE}")
    class_name = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    used = re.findall(r"\w+", TEMPLATE.read_text(encoding="utf-8"))
    if keyword.iskeyword(name) or keyword.iskeyword(class_name) or class_name in used:
        raise MSABenchError(
            f"method name {name!r} is not allowed, since {name} or its class {class_name} means something else in "
            "Python or in the file; choose another name"
        )
    return class_name


def _configs(name: str, class_name: str) -> dict[str, str]:
    """Corpus -> config."""
    corpora = {
        "synth": ("the embedded corpus: a test bench that needs no download", "synth", 20),
        "mosi": ("CMU-MOSI: `msabench data fetch mosi` says how to get it", "mmsa-unaligned", 100),
    }
    return {
        dataset: _CONFIG.format(
            title=f"{class_name} on {about}.",
            epochs=epochs,
            dataset=dataset,
            features=features,
            class_path=f"{name}.{class_name}",
        )
        for dataset, (about, features, epochs) in corpora.items()
    }


def _refuse_what_is_there(name: str, out: Path, names: list[str]) -> None:
    if out.exists() and not out.is_dir():
        raise MSABenchError(f"{out} is no folder; give --out another one")
    there = next((out / file for file in names if (out / file).exists()), None)
    if there is not None:
        raise MSABenchError(f"{there} exists already; nothing is overwritten, so choose another name or another --out")
    taken = importlib.util.find_spec(name)
    if taken is not None and taken.origin is not None:
        raise MSABenchError(
            f"method name {name!r} is not allowed, since a module of that name is here: {taken.origin}; choose another "
            "name"
        )


def _write(out: Path, texts: dict[str, str]) -> None:
    """Write all files, or none."""
    written: list[Path] = []
    made: list[Path] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            if not (out / file).parent.is_dir():
                (out / file).parent.mkdir()
                made.append((out / file).parent)
            with creating(out / file) as stream:
                stream.write(text.encode())
            written.append(out / file)
    except BaseException as error:
        for path in written:
            with suppress(OSError):
                path.unlink()
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise MSABenchError(f"{out} cannot be written: {error.strerror or error}") from error
        raise


def _said(name: str, out: Path, files: list[str], package: bool) -> str:
    method, config, test = (
        shlex.quote(str(out / file)) for file in (f"{name}.py", f"{name}_synth.yaml", f"test_{name}.py")
    )
    plugins = "" if package else f" --plugins {method}"
    return "\n".join(
        [
            *(f"wrote {out / file}" for file in files),
            "next:",
            *([f"  pip install --editable {shlex.quote(str(out))}"] if package else []),
            f"  pytest {test}",
            f"  msabench fit --config {config}{plugins}",
            f"then change forward in {out / f'{name}.py'}; its docstrings say what goes where",
        ]
    )

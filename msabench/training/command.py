"""``msabench configs``. Free of torch."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml

from msabench.errors import MSABenchError, nearest
from msabench.files import creating, text_of
from msabench.methods import registry
from msabench.packaged import CONFIGS, SUFFIX, names, packaged
from msabench.training.config_files import config_of, files_of


def configs(name: str | None = None, out: Path | None = None, merged: bool = False) -> str:
    """List the configs that come with msabench, print one, or copy some.

    A config of one's own may build on one of them without a copy: base: umdf_synth.yaml.

    Args:
        name: The config to print or copy, e.g. umdf_synth; umdf is what all configs of UMDF share. If not given, all
            are listed, or copied.
        out: Folder to copy to, together with the files that the config builds on. No file is replaced.
        merged: Print one file with the settings of those that it builds on, without their comments.

    Returns:
        The text to print.

    Raises:
        MSABenchError: There is no such config, options contradict each other, or a file that would be replaced is
            another one.
    """
    if merged and (name is None or out is not None):
        raise MSABenchError(
            "merged prints one config; give its name and no folder, as in: msabench configs umdf_synth --merged"
        )
    if out is not None:
        return _copied_one(_file(name), out) if name else f"copied {len(_copy(_all(), out))} files to {out}"
    if name is None:
        return _listed()
    if merged:
        text: str = yaml.safe_dump(config_of(_file(name)), sort_keys=False, allow_unicode=True)
    else:
        text = text_of(_file(name))
    return text.rstrip("\n")


def _file(name: str) -> Path:
    plain = name.removeprefix(f"{CONFIGS}/").removesuffix(SUFFIX)
    if plain not in names(CONFIGS):
        close = nearest(plain, names(CONFIGS))
        hint = f"did you mean {close}?" if close else "msabench configs lists them"
        raise MSABenchError(f"no config that comes with msabench is called {name}; {hint}")
    return packaged(CONFIGS) / f"{plain}{SUFFIX}"


def _listed() -> str:
    """A line per method with the corpora that it has configs for."""
    corpora: dict[str, list[str]] = {}
    methods = registry.methods(external=False)
    for name in names(CONFIGS):
        # mosei_video has an underscore as well.
        method = max((each for each in methods if f"{name}_".startswith(f"{each}_")), key=len, default=name)
        corpora.setdefault(method, []).extend(filter(None, [name.removeprefix(method).removeprefix("_")]))
    width = max(map(len, corpora)) + 2
    return "\n".join(
        [
            "A config is called <method>_<corpus>, e.g. umdf_synth, and trained by: msabench fit --config umdf_synth",
            "",
            *(f"{method:<{width}}{' '.join(sorted(each))}".rstrip() for method, each in sorted(corpora.items())),
            "",
            "msabench configs umdf_synth prints one, --out FOLDER copies it with the files that it builds on.",
        ]
    )


def _all() -> list[Path]:
    return [_file(name) for name in names(CONFIGS)]


def _copied_one(config: Path, out: Path) -> str:
    new = ", ".join(path.name for path in _copy(files_of(config), out))
    said = f"copied {new} to {out}" if new else f"{out} has it already"
    return f"{said}\nnext: msabench fit --config {shlex.quote(str(out / config.name))}"


def _copy(files: list[Path], out: Path) -> list[Path]:
    """Copy files of ours to another folder; returns those that were not there already."""
    targets = {path: out / path.relative_to(packaged(CONFIGS)) for path in files}
    for path, target in targets.items():
        if target.exists() and (not target.is_file() or target.read_bytes() != path.read_bytes()):
            raise MSABenchError(
                f"{target} exists and is another file than {path.name} of msabench; name another folder"
            )
    new = [path for path, target in targets.items() if not target.exists()]
    for path in new:
        targets[path].parent.mkdir(parents=True, exist_ok=True)
        with creating(targets[path]) as stream:
            stream.write(path.read_bytes())
    return new

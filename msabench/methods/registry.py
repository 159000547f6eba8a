"""Finds methods by looking; nobody keeps a list.

A method is a class with a literal ``info = MethodInfo(...)``, read through ``ast`` without importing its file, so that
listing methods needs no torch. There are four places to look:

- ``msabench/methods/``, one file a method;
- entry points of installed packages in the group ``msabench.methods``, e.g. ``my_net = "my_package.net:MyNet"``;
- plug-ins: files or modules that ``--plugins`` or MSABENCH_PLUGINS names;
- the class path in a config.

Methods from the last three places are *external*: they go through every verb like the others, and whatever shows them
says so.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msabench.errors import MSABenchError, one_of
from msabench.methods.info import EXTERNAL, MethodInfo
from msabench.plugins import NAME, NAME_RULE, Source, in_entry_points, name_plugins, plugin, plugins, source_of_module

if TYPE_CHECKING:
    from msabench.methods.base import MSAMethod

METHODS_FOLDER = Path(__file__).parent
PACKAGE = "msabench.methods"

GROUP = "msabench.methods"
"""Group of entry points."""

_NOT_METHODS = ("base", "checkpoint", "info", "new", "recovering", "registry", "schedules")


@dataclass(frozen=True)
class Entry:
    """Where a method stands.

    Attributes:
        info: Its facts.
        module: Name of its module.
        class_name: Name of its class.
        path: Its file.
        external: Whether it comes from outside msabench.
    """

    info: MethodInfo
    module: str
    class_name: str
    path: Path
    external: bool = False

    @property
    def class_path(self) -> str:
        """Import path of the class, e.g. ``msabench.methods.umdf.UMDF``."""
        return f"{self.module}.{self.class_name}"


_found_by_path: dict[str, Entry] = {}
"""Class path -> external method that a config named."""


@lru_cache(maxsize=1)
def _built_in() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for path in sorted(METHODS_FOLDER.glob("[a-z]*.py")):
        if path.stem in _NOT_METHODS:
            continue
        try:
            entries = _entries(f"{PACKAGE}.{path.stem}", path)
            if len(entries) != 1:
                raise ValueError(f"{len(entries)} classes in it have info = MethodInfo(...), expected one")
            [entry] = entries
            if entry.info.name != path.stem:
                raise ValueError(f"info.name is {entry.info.name!r}, expected the file's name {path.stem!r}")
        except (SyntaxError, ValueError, TypeError, MSABenchError) as error:
            warnings.warn(f"{path.name} is left out of the methods: {error}", stacklevel=2)
            continue
        found[entry.info.name] = entry
    return found


def _entries(module: str, path: Path, external: bool = False) -> list[Entry]:
    """The methods in a file; a plug-in may have none, since it may bring something else."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef) or (call := _info_of(node)) is None:
            continue
        literals = {keyword.arg: _literal(keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg}
        if external:
            # How faithful somebody else's code is cannot be told here.
            literals["fidelity"] = EXTERNAL
        found.append(Entry(MethodInfo(**literals), module, node.name, path, external))
    return found


def _literal(name: str, value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        raise ValueError(f"{name} of info in line {value.lineno} is no literal, such as a text or a number") from None


def _info_of(node: ast.ClassDef) -> ast.Call | None:
    for statement in node.body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign):
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if any(isinstance(target, ast.Name) and target.id == "info" for target in targets):
            if not isinstance(statement.value, ast.Call):
                raise ValueError("info is not a MethodInfo(...) call")
            return statement.value
    return None


# From outside.


def _external(source: Source, where: str) -> list[Entry]:
    """The methods of a module that need not be imported for it.

    Args:
        source: Its file.
        where: Who names it, for messages.

    Raises:
        MSABenchError: A method's facts cannot be read.
    """
    try:
        entries = _entries(source.module, source.path, external=True)
    except (SyntaxError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise MSABenchError(
            f"{where} names module {source.module}, whose methods cannot be read from {source.path}: {error}"
        ) from error
    for entry in entries:
        if not NAME.fullmatch(entry.info.name):
            raise MSABenchError(f"{source.path}: method name {entry.info.name!r} is not allowed; {NAME_RULE}")
    return entries


def _of_entry_point(point: metadata.EntryPoint, source: Source, where: str) -> list[Entry]:
    found = [entry for entry in _external(source, where) if not point.attr or entry.class_name == point.attr]
    if not found:
        raise MSABenchError(f"{where} names {point.value}, which has no info = MethodInfo(...)")
    return found


@lru_cache(maxsize=1)
def _installed() -> dict[str, Entry]:
    """The methods of msabench and of installed packages."""
    found = dict(_built_in())
    for entry in in_entry_points(GROUP, _of_entry_point, "left out of the methods"):
        same = found.setdefault(entry.info.name, entry)
        if same != entry:
            said = f"{entry.class_path} is left out: {same.class_path} is called {entry.info.name}, too"
            warnings.warn(said, stacklevel=2)
    return found


def add_plugins(names: Sequence[str]) -> None:
    """Name further plug-ins, for this process and those that it starts.

    Args:
        names: Python files, or names of modules on the path. Each brings methods, corpora, training regimes, or
            several of them.

    Raises:
        MSABenchError: A file is missing or its name is taken by another module, a plug-in brings nothing, or brings
            something under a name in use.
    """
    # Here, since most calls name no plug-in and need not wait for these.
    from msabench.data.registry import corpora
    from msabench.missingness.regimes import regimes

    name_plugins(names)
    methods()
    corpora()
    regimes()


def import_folders() -> list[str]:
    """Folders that what comes from outside is imported from, for processes that have another path.

    Raises:
        MSABenchError: A plug-in cannot be read, or two methods have one name.
    """
    known = set(map(str, (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))))
    sources = [*map(plugin, plugins()), *(Source(e.module, e.path) for e in _all().values() if e.external)]
    folders: dict[str, None] = {}
    for source in sources:
        above = source.module.count(".") + (source.path.name == "__init__.py")
        folders[str(source.path.resolve().parents[above])] = None
    return [folder for folder in folders if folder not in known]


def import_from(folders: Sequence[str]) -> None:
    """Look for modules in further folders, after those that are searched anyway.

    Args:
        folders: As from ``import_folders``, perhaps of another process.
    """
    # Last, so that a file of somebody's never hides a library.
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    importlib.invalidate_caches()


@lru_cache
def _from_plugin(name: str) -> list[Entry]:
    return _external(plugin(name), f"plug-in {name}")


def _all() -> dict[str, Entry]:
    found = _installed().copy()
    named = [entry for name in plugins() for entry in _from_plugin(name)]
    for entry in (*named, *_found_by_path.values()):
        same = found.setdefault(entry.info.name, entry)
        if same.class_path != entry.class_path:
            raise MSABenchError(
                f"two methods are called {entry.info.name}: {same.class_path} and {entry.class_path}; rename the "
                "external one"
            )
    return found


# Asking.


def methods(external: bool = True) -> dict[str, MethodInfo]:
    """Name -> facts of every method: those of msabench by name, then those from outside.

    Args:
        external: Whether to list methods from outside as well.

    Raises:
        MSABenchError: A plug-in cannot be read, or two methods have one name.
    """
    return {name: entry.info for name, entry in (_all() if external else _built_in()).items()}


def method_info(name: str) -> MethodInfo:
    """Facts of one method.

    Raises:
        MSABenchError: No method has this name.
    """
    return entry_of(name).info


def is_external(name: str) -> bool:
    """Whether a method comes from outside msabench.

    Raises:
        MSABenchError: No method has this name.
    """
    return entry_of(name).external


def class_path(name: str) -> str:
    """Import path of a method's class, e.g. ``msabench.methods.umdf.UMDF``.

    Raises:
        MSABenchError: No method has this name.
    """
    return entry_of(name).class_path


def method_class(name: str) -> type[MSAMethod]:
    """Import a method's class.

    Raises:
        MSABenchError: No method has this name, or its class is no MSAMethod.
    """
    entry = entry_of(name)
    found: type[MSAMethod] = getattr(importlib.import_module(entry.module), entry.class_name)
    return found


def arguments_of(name: str) -> tuple[str, ...]:
    """What a method's constructor takes besides ``spec``; imports the method.

    Raises:
        MSABenchError: No method has this name.
    """
    parameters = inspect.signature(method_class(name).__init__).parameters
    return tuple(argument for argument in parameters if argument not in ("self", "spec"))


def import_all() -> None:
    """Import every method, so that configs may use short class names."""
    for name in methods():
        method_class(name)


def entry_of(name: str) -> Entry:
    """Where a method stands.

    Raises:
        MSABenchError: No method has this name.
    """
    known = _all()
    if name not in known:
        raise one_of("method", name, known)
    return known[name]


def name_of(given: str) -> str:
    """The name of the method that a config's class path, class name or method name means.

    A class from outside is a method from then on.

    Raises:
        MSABenchError: It is no method's.
    """
    for name, entry in _all().items():
        if given in (name, entry.class_path, entry.class_name):
            return name
    module, _, class_name = given.rpartition(".")
    if module and not module.startswith("msabench"):
        where = f"class path {given}"
        for entry in _external(source_of_module(module, where), where):
            if entry.class_name == class_name:
                _found_by_path[given] = entry
                return name_of(given)
    raise MSABenchError(f"unknown method class {given!r}; msabench methods lists what there is")

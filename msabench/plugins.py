"""What comes from outside msabench: methods, corpora and training regimes, found without being imported.

There are two places to look for all of them: entry points of installed packages, and plug-ins, files or modules that
``--plugins`` or MSABENCH_PLUGINS names. Their sources are read through ``ast``, so that listing what there is runs
nobody's code and needs no torch; facts are therefore written as literals.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from msabench.errors import MSABenchError

PLUGINS_VARIABLE = "MSABENCH_PLUGINS"
"""Environment variable with plug-ins, separated as in PATH; processes that a verb starts inherit it."""

NAME = re.compile(r"[a-z][a-z0-9_]*")
"""What names from outside look like: they become parts of keys, folders and options."""

NAME_RULE = "give small letters, digits and _, beginning with a letter"

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""How a function of somebody's own is named, ``my_package.module:function``."""

_KINDS = ("MethodInfo", "DatasetInfo", "RegimeInfo")
"""Classes whose literals make a file a plug-in."""

_PLAIN = {"str": str, "int": int}


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)
U = TypeVar("U")


@dataclass(frozen=True)
class Source:
    """A Python file that can be imported, and need not be.

    Attributes:
        module: Name of its module.
        path: The file.
    """

    module: str
    path: Path

    def tree(self) -> ast.Module:
        """Its content.

        Raises:
            SyntaxError: It is no Python.
            UnicodeDecodeError: It is no UTF-8.
        """
        return ast.parse(self.path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Found(Generic[T]):
    """Something from outside.

    Attributes:
        info: Its facts.
        source: Where it stands.
        attribute: Its name there.
    """

    info: T
    source: Source
    attribute: str

    @property
    def object_path(self) -> str:
        """``module:attribute``."""
        return f"{self.source.module}:{self.attribute}"


# Sources.


def source_of_module(module: str, where: str) -> Source:
    """Find a module on the path.

    Args:
        module: Its name.
        where: Who names it, for messages.

    Raises:
        MSABenchError: There is no such Python file.
    """
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise MSABenchError(f"{where} names module {module}, which cannot be imported ({error})") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise MSABenchError(f"{where} names module {module}, and there is no such Python file on the path")
    return Source(module, Path(spec.origin))


def plugins() -> list[str]:
    """What MSABENCH_PLUGINS names: files or modules."""
    return [name for name in os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep) if name]


def name_plugins(names: Sequence[str]) -> None:
    """Name further plug-ins, for this process and those that it starts.

    Args:
        names: Python files, or names of modules on the path.
    """
    given = [str(Path(name).resolve()) if name.endswith(".py") else name for name in names]
    os.environ[PLUGINS_VARIABLE] = os.pathsep.join(dict.fromkeys([*plugins(), *given]))


def plugin(name: str) -> Source:
    """Find a plug-in, and make it possible to import it.

    Args:
        name: A Python file, or the name of a module on the path.

    Raises:
        MSABenchError: There is none, its name is taken by another module, or it holds neither method, corpus nor
            training regime.
    """
    where = f"plug-in {name}"
    source = _plugin_file(Path(name), where) if name.endswith(".py") else source_of_module(name, where)
    try:
        kinds = _kinds_in(source.tree())
    except (SyntaxError, ValueError) as error:
        raise MSABenchError(f"{where} cannot be read from {source.path}: {error}") from error
    if not kinds:
        raise MSABenchError(
            f"{where} brings nothing: no class in it has info = MethodInfo(...), and nothing in it is a "
            "DatasetInfo(...) or a RegimeInfo(...)"
        )
    return source


def _plugin_file(path: Path, where: str) -> Source:
    if not path.is_file():
        raise MSABenchError(f"there is no plug-in {path}; give a Python file or the name of a module")
    if not path.stem.isidentifier():
        raise MSABenchError(f"{where} cannot be imported under the name {path.stem!r}; rename the file")
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        # Last, so that a file of somebody's never hides a library.
        sys.path.append(folder)
        importlib.invalidate_caches()
    spec = importlib.util.find_spec(path.stem)
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != path.resolve():
        taken = spec.origin if spec is not None else "nothing"
        raise MSABenchError(
            f"{where} cannot be imported as {path.stem}: that name is taken by {taken}; rename the file"
        )
    return Source(path.stem, path)


def _kinds_in(tree: ast.Module) -> set[str]:
    """Which of ``_KINDS`` a file has."""
    kinds = {_called(call) for call in _assigned(tree.body).values()} & set(_KINDS)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return kinds | {_KINDS[0] for node in classes if "info" in _assigned(node.body)}


def _assigned(body: Iterable[ast.stmt]) -> dict[str, ast.Call]:
    """Name -> the call whose result it is given."""
    found = {}
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update({target.id: node.value for target in targets if isinstance(target, ast.Name)})
    return found


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


# Literals of facts.


@dataclass(frozen=True)
class Outside(Generic[T]):
    """All that there is of one kind from outside msabench.

    Attributes:
        what: What one of them is called in messages, e.g. ``corpus``.
        group: Group of entry points; they name ``module:attribute``, or a module whose attribute is ``info``.
        kind: Class of its facts, a dataclass.
        parts: Further dataclasses that stand in its literals.
    """

    what: str
    group: str
    kind: type[T]
    parts: tuple[type, ...] = ()

    def found(self, taken: Collection[str]) -> dict[str, Found[T]]:
        """Name -> what is found, entry points first.

        Args:
            taken: Names that msabench's own have.

        Raises:
            MSABenchError: A plug-in cannot be read, or two things have one name.
        """
        found: dict[str, Found[T]] = {}
        owners = dict.fromkeys(taken, "one of msabench's own")
        for entry in _of_entry_points(self):
            owner = owners.setdefault(entry.info.name, entry.object_path)
            if owner == entry.object_path:
                found[entry.info.name] = entry
            else:
                said = f"{entry.object_path} is left out: {owner} is called {entry.info.name}, too"
                warnings.warn(said, stacklevel=2)
        for entry in (entry for name in plugins() for entry in _of_plugin(self, name)):
            owner = owners.setdefault(entry.info.name, entry.object_path)
            if owner != entry.object_path:
                raise MSABenchError(
                    f"{entry.object_path} cannot be the {self.what} {entry.info.name}: {owner} has that name; rename it"
                )
            found[entry.info.name] = entry
        return found


@lru_cache
def _of_plugin(outside: Outside[Any], name: str) -> list[Found[Any]]:
    return _in_source(outside, plugin(name))


@lru_cache
def _of_entry_points(outside: Outside[Any]) -> list[Found[Any]]:
    def read(point: metadata.EntryPoint, source: Source, where: str) -> list[Found[Any]]:
        named = [entry for entry in _in_source(outside, source) if entry.attribute == (point.attr or "info")]
        if not named:
            raise MSABenchError(f"{where} names {point.value}, which is no {outside.kind.__name__}(...)")
        return named

    return in_entry_points(outside.group, read, "left out")


def in_entry_points(group: str, read: Callable[[metadata.EntryPoint, Source, str], list[U]], left_out: str) -> list[U]:
    """What the entry points of installed packages lead to; one that is broken is left out with a warning.

    Args:
        group: Group of entry points.
        read: Takes an entry point, the file of its module, and what messages call it; returns what is found there, or
            raises ``MSABenchError``.
        left_out: What is said of a broken one, e.g. ``left out of the methods``.
    """
    found: list[U] = []
    for point in metadata.entry_points(group=group):
        where = f"entry point {point.name} of {point.dist.name if point.dist else 'a package'}"
        try:
            found += read(point, source_of_module(point.module, where), where)
        except MSABenchError as error:
            # Whoever installed a broken package can still use everything else.
            warnings.warn(f"{where} is {left_out}: {error}", stacklevel=3)
    return found


def _in_source(outside: Outside[Any], source: Source) -> list[Found[Any]]:
    """The things of one kind that a file assigns to names of its own."""
    kind = outside.kind.__name__
    try:
        calls = _assigned(source.tree().body)
    except (SyntaxError, ValueError) as error:
        raise MSABenchError(f"{source.path} cannot be read: {error}") from error
    constructors = {part.__name__: part for part in (outside.kind, *outside.parts)}
    found = []
    for attribute, call in calls.items():
        if _called(call) != kind:
            continue
        try:
            info = _value(call, constructors)
        except (ValueError, TypeError, MSABenchError) as error:
            raise MSABenchError(f"{source.path}: {attribute} = {kind}(...) cannot be read: {error}") from error
        if not NAME.fullmatch(info.name):
            raise MSABenchError(f"{source.path}: {outside.what} name {info.name!r} is not allowed; {NAME_RULE}")
        found.append(Found(info, source, attribute))
    return found


def _value(node: ast.expr, constructors: Mapping[str, type]) -> Any:
    """A literal in which some classes may be called; lists become tuples."""
    if isinstance(node, ast.Call):
        name = _called(node)
        if name not in constructors:
            raise ValueError(
                f"line {node.lineno} is no literal; expected strings, numbers and {', '.join(constructors)}"
            )
        if node.args or any(keyword.arg is None for keyword in node.keywords):
            raise ValueError(f"line {node.lineno} gives {name} arguments without names")
        made = constructors[name](**{str(word.arg): _value(word.value, constructors) for word in node.keywords})
        for part in fields(made):
            expected, value = _PLAIN.get(str(part.type)), getattr(made, part.name)
            if expected is not None and type(value) is not expected:
                raise ValueError(f"{part.name} is {value!r}; expected {expected.__name__}")
        return made
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(item, constructors) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _no_literal(node, constructors) from None


def _no_literal(node: ast.expr, constructors: Mapping[str, type]) -> ValueError:
    return ValueError(f"line {node.lineno} is no literal; expected strings, numbers and {', '.join(constructors)}")


def hash_of_module(path: str) -> str:
    """The sha256 of the file that an import path leads to.

    Args:
        path: ``my_package.module:function``.

    Raises:
        MSABenchError: There is no such file.
    """
    # Here, since listing hashes nothing.
    from msabench.files import sha256_of

    return sha256_of(source_of_module(path.partition(":")[0], path).path)


def imported(path: str, where: str) -> Any:
    """What an import path names.

    Args:
        path: ``my_package.module:function``.
        where: Who names it, for messages.

    Raises:
        MSABenchError: It cannot be imported, or is not callable.
    """
    module, _, name = path.partition(":")
    source_of_module(module, where)
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        # Whatever somebody's own module raises on import.
        raise MSABenchError(
            f"{where} names {path}, which cannot be imported ({type(error).__name__}: {error})"
        ) from error
    if not callable(found):
        raise MSABenchError(f"{where} names {path}, which is no function")
    return found

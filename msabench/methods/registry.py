"""Finds methods by scanning a folder; nobody keeps a list.

A method is a file in ``msabench/methods/`` with a literal ``info = MethodInfo(...)`` in a class. The literal is read
through ``ast``, without importing the file, so that listing methods needs no torch.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from msabench.errors import MSABenchError, one_of
from msabench.methods.info import MethodInfo

if TYPE_CHECKING:
    from msabench.methods.base import MSAMethod

METHODS_FOLDER = Path(__file__).parent
_NOT_METHODS = ("base", "checkpoint", "info", "registry", "schedules")


@lru_cache(maxsize=1)
def _scan() -> dict[str, tuple[MethodInfo, str, str]]:
    found: dict[str, tuple[MethodInfo, str, str]] = {}
    for path in sorted(METHODS_FOLDER.glob("[a-z]*.py")):
        if path.stem in _NOT_METHODS:
            continue
        try:
            class_name, info = _read_info(path)
        except (SyntaxError, ValueError, TypeError, MSABenchError) as error:
            warnings.warn(f"{path.name} is left out of the methods: {error}", stacklevel=2)
            continue
        found[info.name] = (info, f"msabench.methods.{path.stem}", class_name)
    return found


def _read_info(path: Path) -> tuple[str, MethodInfo]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for statement in node.body:
            if not isinstance(statement, ast.Assign | ast.AnnAssign):
                continue
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(target, ast.Name) and target.id == "info" for target in targets):
                call = statement.value
                if not isinstance(call, ast.Call):
                    raise ValueError("info is not a MethodInfo(...) call")
                literals = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
                info = MethodInfo(**literals)
                if info.name != path.stem:
                    raise ValueError(f"info.name is {info.name!r}, expected the file's name {path.stem!r}")
                return node.name, info
    raise ValueError("no class in it has info = MethodInfo(...)")


def methods() -> dict[str, MethodInfo]:
    """Name -> facts of every registered method, by name."""
    return {name: info for name, (info, _, _) in _scan().items()}


def method_info(name: str) -> MethodInfo:
    """Facts of one method.

    Raises:
        MSABenchError: No method has this name.
    """
    return _entry(name)[0]


def class_path(name: str) -> str:
    """Import path of a method's class, e.g. ``msabench.methods.umdf.UMDF``."""
    _, module, class_name = _entry(name)
    return f"{module}.{class_name}"


def method_class(name: str) -> type[MSAMethod]:
    """Import a method's class."""
    _, module, class_name = _entry(name)
    found: type[MSAMethod] = getattr(importlib.import_module(module), class_name)
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


def _entry(name: str) -> tuple[MethodInfo, str, str]:
    if name not in _scan():
        raise one_of("method", name, _scan())
    return _scan()[name]

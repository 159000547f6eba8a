"""The package's order: what may import what, what does without torch, and how long a file may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import msabench

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "msabench"

ORDER = (
    "__init__",
    "errors",
    "files",
    "optional",
    "packaged",
    "plugins",
    "interruption",
    "missingness",
    "data",
    "metrics",
    "nn",
    "losses",
    "methods",
    "results",
    "published",
    "audit",
    "training",
    "evaluation",
    "tables",
    "figures",
    "leaderboard",
    "tuning",
    "runner",
    "testing",
    "api",
    "cli",
    "__main__",
)
"""Rooms and top-level files, from the ground up: each may import from those before it alone."""

WITHOUT_TORCH = ("results", "tables", "published", "audit", "leaderboard")

MOST_LINES = 400
LONG_FILES = {
    f"methods/{name}.py": reason
    for name, reason in {
        "recap": "one method in two stages with generators, critics, reconstructor, and the official code's form",
        "prlf": "one method with 21 equations, its ablations, and what the paper leaves open",
        "kt": "one method with its teacher's stage and the eleven variants of the paper's tables",
        "hrlf": "one method: teacher, student, discriminators, and five loss terms",
        "mmin": "one method: teacher and imagination, encoders of sequences and of vectors, and where two codes differ",
    }.items()
}
"""File -> why it is longer."""

MOST_LINES_OF_BASE = 300


def imported(source: str) -> Iterator[str]:
    """Every module of the package that a source names in an import, wherever the import stands."""
    yield from _imported(ast.walk(ast.parse(source)))


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level:
            yield "relative"
        elif isinstance(node, ast.ImportFrom) and node.module == "msabench":
            names = [f"msabench.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name.split(".")[0] == "msabench")


def room_of(module: str) -> str:
    """The part of the package that a module stands in, e.g. ``data`` of ``msabench.data.batch``."""
    name = [*module.split("."), "__init__"][1]
    # What ``msabench`` offers stands elsewhere; ``from msabench import __version__`` names no module.
    name = msabench._HOMES.get(name, f"msabench.{name}").split(".")[1]
    return name if name in ORDER else "__init__"


def eager(source: str) -> Iterator[str]:
    """Modules of the package that ``msabench/__init__.py`` imports otherwise than for type checkers."""
    nodes = [node for node in ast.parse(source).body if ast.unparse(node).partition("\n")[0] != "if TYPE_CHECKING:"]
    yield from _imported(inner for node in nodes for inner in ast.walk(node))


def running_up(package: Path) -> list[str]:
    """Imports against ``ORDER``, one phrase each."""
    found = []
    for path in sorted(package.rglob("*.py")):
        here = path.relative_to(package).with_suffix("")
        room = here.parts[0]
        assert room in ORDER, f"{here} has no place in the order"
        names = eager if here.as_posix() == "__init__" else imported
        for name in names(path.read_text(encoding="utf-8")):
            if name == "relative" or ORDER.index(room_of(name)) > ORDER.index(room):
                found.append(f"{here} imports {name}")
    return found


def test_nothing_runs_up() -> None:
    assert running_up(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data/batch.py", "from msabench.methods.base import MSAMethod"),
        ("results/store.py", "def late() -> None:\n    from msabench.tables import render"),
        ("methods/info.py", "if TYPE_CHECKING:\n    import msabench.training.build"),
        ("runner/suite.py", "from msabench import cli"),
        ("nn/text.py", "from ..losses import margin"),
        ("figures/words.py", "from msabench import train"),
        ("runner/job.py", "from msabench.api.scores import Scores"),
        ("__init__.py", "from msabench.api.loading import load"),
        ("__init__.py", "def load() -> None:\n    import msabench.api.loading"),
        ("__init__.py", "if not TYPE_CHECKING:\n    import msabench.api.loading"),
    ],
)
def test_a_planted_import_is_found(file: str, line: str, tmp_path: Path) -> None:
    planted = tmp_path / "msabench" / file
    planted.parent.mkdir(parents=True)
    allowed = "from msabench.errors import MSABenchError"
    if file == "__init__.py":
        allowed = f"if TYPE_CHECKING:\n    {allowed}"
    planted.write_text(f"{allowed}\n{line}\n")
    assert len(running_up(tmp_path / "msabench")) == 1


def test_what_the_package_offers_is_typed_listed_and_imported_when_asked_for() -> None:
    [typed] = [
        node
        for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    homes = {alias.name: node.module for node in typed.body for alias in node.names}
    assert homes == msabench._HOMES
    assert set(msabench.__all__) == {"__version__", *homes}
    assert dir(msabench) == sorted(msabench.__all__)
    code = (
        "import sys, msabench\n"
        "assert not {'torch', 'pandas', 'numpy', 'lightning', 'msabench.api'} & set(sys.modules)\n"
        "assert not hasattr(msabench, 'lode')\n"
        "msabench.MSABenchError\n"
        "assert not {'torch', 'pandas', 'numpy', 'lightning', 'msabench.api'} & set(sys.modules)\n"
        "msabench.table\n"
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_reporting_needs_no_torch() -> None:
    modules = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for room in WITHOUT_TORCH
        for path in sorted((PACKAGE / room).rglob("*.py"))
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
        "    assert not {'torch', 'lightning', 'transformers'} & set(sys.modules), name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for room in WITHOUT_TORCH:
        for path in (PACKAGE / room).rglob("*.py"):
            assert not {"torch", "lightning"} & set(_top_level_names(path)), path


def _top_level_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0]


def test_the_page_on_the_architecture_is_true() -> None:
    page = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    tree, ways = page.split("```")[1:]
    # Each line begins with one or more names, e.g. ``nn/, losses/``.
    lines = [re.match(r"  ((?:\w+(?:/|\.py)(?:, )?)+) ", line) for line in tree.splitlines()]
    listed = [name.rstrip("/").removesuffix(".py") for found in lines if found for name in found[1].split(", ")]
    assert listed == [name for name in ORDER if name != "__init__"]
    assert all((PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file() for name in listed)
    modules = re.findall(r"`(\w+)\.(\w+)`", ways)
    assert len(modules) > 10
    for room, name in modules:
        if room in ORDER:
            assert (PACKAGE / room / f"{name}.py").is_file(), f"{room}.{name}"


def test_no_file_is_long_without_a_reason() -> None:
    lines = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    long = {name for name, count in lines.items() if count > MOST_LINES}
    assert long == LONG_FILES.keys(), {name: lines[name] for name in long ^ LONG_FILES.keys()}
    assert all(LONG_FILES.values())
    assert lines["methods/base.py"] <= MOST_LINES_OF_BASE

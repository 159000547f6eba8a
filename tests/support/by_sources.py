"""Tests marked ``by_sources`` do not run again where they passed before with everything that they follow from.

``@pytest.mark.by_sources(*places, method="name", processes=True)``, all of it optional:

- ``places``: files and folders that it reads besides what it and its conftests import, relative to the repository.
- ``method``: the parameter that names the one method that takes part; without it all of msabench's do.
- ``processes``: the test starts processes, which run nothing but its sources.

Such a test follows from these sources, the settings of pytest, the libraries and the processor alone. One hash is made
of them, and the hashes with which a test passed are kept in a file of its own. Whatever the hash may not tell is not
kept: a test that failed, was skipped or draws other examples every time; one that opened another file of the
repository, data, or what is cached, or started processes and does not say so; any test once a source is newer than
this process. Not watched are what started processes read, whether files exist, variables of the environment and time: a
test that turns on one of these is not to be marked.

``MSABENCH_TESTS_ANEW=1`` runs every test, and keeps what passes.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from msabench.data.files import cache_folder, data_folder
from msabench.files import replacing, sha256_of
from msabench.methods import registry
from msabench.plugins import plugins
from msabench.results.record import canonical_hash
from msabench.runner.measured_before import (
    changed_since_the_start,
    files_of,
    sources,
    surroundings,
    with_what_they_import,
)

ANEW_VARIABLE = "MSABENCH_TESTS_ANEW"
MARKER = "by_sources"
PACKAGES = ("msabench", "tests")

KEPT = 8
"""Hashes of a test that are kept, e.g. of several branches; the latest ones."""

STARTS = frozenset({"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"})
"""Python's audit events of what starts a process."""

_RECALLED = (MARKER, "recalled")
_NOT_KEPT = f"{MARKER}: not kept"
_HASH = pytest.StashKey[str | None]()
_PASSED = pytest.StashKey[bool]()
_SEEN = pytest.StashKey[set[str]]()


def anew() -> bool:
    """Whether every test is to run, whatever is known of earlier runs."""
    return bool(os.environ.get(ANEW_VARIABLE))


class _Watch:
    """Which files this process opens, and how it starts others; Python tells it for the rest of the process's life."""

    def __init__(self) -> None:
        self._watching: list[set[str]] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event in STARTS:
            heard = event
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            heard = os.fsdecode(arguments[0])
            with contextlib.suppress(OSError):  # the working folder may be gone
                heard = os.path.abspath(heard)  # noqa: PTH100, since pathlib takes long where this is heard often
        else:
            return
        for seen in self._watching:
            seen.add(heard)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[set[str]]:
        """A set that fills with paths, and with events of ``STARTS``, as long as the block runs."""
        seen: set[str] = set()
        self._watching.append(seen)
        try:
            yield seen
        finally:
            self._watching = [other for other in self._watching if other is not seen]


@cache
def _watch() -> _Watch:
    return _Watch()


class BySources:
    """The plug-in of pytest; see the module.

    Args:
        repository: Folder with ``msabench``, ``tests`` and ``pyproject.toml``.
        folder: Where verdicts are kept; made when there are some.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        self._repository = repository
        self._folder = folder
        # Those of the user: tests set other ones.
        self._watched_places = tuple(map(_absolute, (repository, data_folder(None), cache_folder())))
        self._seen: dict[str, set[str]] = {}
        self._sets: dict[tuple[Any, ...], tuple[frozenset[Path], str] | None] = {}
        self._of_methods: dict[str, list[Path]] = {}

    # What tests open.

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None, Any, Any]:
        with _watch()() as seen:
            report = yield
        if isinstance(collector, pytest.Module):
            self._note(collector.nodeid, seen)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        with _watch()() as seen:
            value = yield
        self._note(fixturedef.argname, seen)
        return value

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        # Before anything is watched, since to tell the machine starts a process.
        item.stash[_HASH] = self.hash_of(item) if item.get_closest_marker(MARKER) else None
        with _watch()() as seen:
            value = yield
        item.stash[_SEEN] = seen
        return value

    def _note(self, whose: str, seen: set[str]) -> None:
        self._seen.setdefault(whose, set()).update(name for name in seen if name in STARTS or self._is_watched(name))

    def _is_watched(self, name: str) -> bool:
        """Whether a file is one that a hash should tell; import also tries to open what is none."""
        path = Path(name)
        inside = any(path.is_relative_to(place) for place in self._watched_places)
        other = any(path.is_relative_to(place) for place in (self._folder, _absolute(Path(sys.prefix))))
        return inside and not other and path.is_file()

    # Verdicts.

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Pass without a call where it is known how the call would end."""
        known = pyfuncitem.stash[_HASH]
        if anew() or known is None or known not in self._kept(pyfuncitem):
            return None
        pyfuncitem.user_properties.append(_RECALLED)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        report = yield
        if item.get_closest_marker(MARKER) is None:
            return report
        if report.failed:
            item.stash[_PASSED] = False
            self._file(item).unlink(missing_ok=True)
        elif report.when == "call" and _RECALLED not in item.user_properties:
            item.stash[_PASSED] = report.passed and not hasattr(report, "wasxfail")
        elif report.when == "teardown" and item.stash.get(_PASSED, False) and (why_not := self._keep(item)):
            report.user_properties.append((_NOT_KEPT, why_not))
        return report

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say how many did not run; unless the run is quiet, also which marks are in vain."""
        said = self.summary(terminalreporter.stats, terminalreporter.config.get_verbosity() >= 0)
        for line in said:
            terminalreporter.write_line(line)

    @staticmethod
    def summary(stats: dict[str, list[Any]], all_of_it: bool = True) -> list[str]:
        """What a run says at its end.

        Args:
            stats: Outcome -> reports, as pytest's terminal has them; those of setups and teardowns under ``""``.
            all_of_it: Name marked tests that will run again although they passed, and why.
        """
        recalled = [report for report in stats.get("passed", []) if _RECALLED in map(tuple, report.user_properties)]
        lines = [f"{len(recalled)} verdicts from earlier runs of the same sources; {ANEW_VARIABLE}=1 runs all"]
        in_vain: dict[str, list[str]] = {}
        for report in stats.get("", []):
            for name, reason in report.user_properties:
                if name == _NOT_KEPT:
                    in_vain.setdefault(reason, []).append(report.nodeid)
        for reason, tests in in_vain.items() if all_of_it else ():
            lines.append(f"{len(tests)} marked {MARKER} will run again, e.g. {tests[0]}: {reason}")
        return lines if recalled else lines[1:]

    def hash_of(self, item: pytest.Function) -> str | None:
        """The hash of everything that a test follows from, 32 hex digits; None if it is not marked or cannot be told.

        Raises:
            pytest.UsageError: The mark names a file, folder or parameter that is not there.
        """
        found = self._inputs(item)
        return None if found is None else canonical_hash([item.nodeid, found[1]], 32)

    def _inputs(self, item: pytest.Function) -> tuple[frozenset[Path], str] | None:
        """A test's files, and the hash of these and all else; None as of ``hash_of``."""
        mark = item.get_closest_marker(MARKER)
        if mark is None or plugins() or getattr(item.obj, "is_hypothesis_test", False):
            return None
        method = None
        if "method" in mark.kwargs:
            method = getattr(item, "callspec", None) and item.callspec.params.get(mark.kwargs["method"])
            if method not in registry.methods(external=False):
                raise pytest.UsageError(f"{item.nodeid}: parameter {mark.kwargs['method']} names no method")
        key = (item.path, method, mark.args, tuple(item.config.getoption("pythonwarnings") or ()))
        if key not in self._sets:
            files = frozenset(self._files(*key[:3]))
            told = {path.relative_to(self._repository).as_posix(): _sha256(path) for path in sorted(files)}
            whole = canonical_hash([told, surroundings(), _python(), key[3]], 64)
            self._sets[key] = None if changed_since_the_start(files) else (files, whole)
        return self._sets[key]

    def _files(self, test: Path, method: str | None, places: Sequence[str]) -> Iterator[Path]:
        root = self._repository
        below = test.relative_to(root)
        begin = [*files_of(".".join(below.with_suffix("").parts), root)]
        begin += [path for folder in below.parents if (path := root / folder / "conftest.py").is_file()]
        for name in places:
            if not (place := root / name).exists():
                raise pytest.UsageError(f"{below}: the mark {MARKER} names {name}, which is not there")
            inside = [path for path in place.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
            begin += [path for path in (inside if place.is_dir() else [place]) if path.suffix == ".py"]
            yield from inside if place.is_dir() else [place]
        yield from with_what_they_import(begin, root, PACKAGES)
        for name in [method] if method else sorted(registry.methods(external=False)):
            if name not in self._of_methods:
                self._of_methods[name] = sources(name, root / "msabench")
            yield from self._of_methods[name]
        yield root / "pyproject.toml"

    def _keep(self, item: pytest.Function) -> str:
        """Keep that a test passed, or say why not."""
        found, known = self._inputs(item), item.stash[_HASH]
        if found is None or known is None or changed_since_the_start(found[0]):
            return ""
        if more := self._more_than(found[0], item):
            return f"its hash does not tell {', '.join(more)}"
        others = [other for other in self._kept(item) if other != known]
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._file(item), durable=False) as stream:
                lines = [item.nodeid, *[*others, known][-KEPT:]]
                stream.write("".join(f"{line}\n" for line in lines).encode())
        return ""

    def _more_than(self, files: frozenset[Path], item: pytest.Function) -> list[str]:
        """What a test, its module and its fixtures have opened or started that is not among its sources."""
        whose = [parent.nodeid for parent in item.listchain()] + list(item.fixturenames)
        seen = {name for name in item.stash[_SEEN] if name in STARTS or self._is_watched(name)}
        seen = seen.union(*(self._seen.get(name, ()) for name in whose))
        if item.get_closest_marker(MARKER).kwargs.get("processes"):
            seen -= STARTS
        # The registry reads the facts of all methods out of their files; it imports those that are asked for.
        methods = self._repository / "msabench/methods"
        found = {name if name in STARTS else _source(Path(name)) for name in seen}
        rest = [path for path in found if path not in files and getattr(path, "parent", None) != methods]
        return sorted(map(str, rest))

    def _kept(self, item: pytest.Item) -> list[str]:
        """The hashes with which a test passed, latest last."""
        with contextlib.suppress(OSError, ValueError):
            nodeid, *hashes = self._file(item).read_text(encoding="utf-8").splitlines()
            return hashes if nodeid == item.nodeid else []
        return []

    def _file(self, item: pytest.Item) -> Path:
        return self._folder / canonical_hash(item.nodeid, 32)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100, as names of opened files: links are not followed


def _source(path: Path) -> Path:
    """The source of a compiled module, other files as they are."""
    if path.parent.name != "__pycache__":
        return path
    return path.parent.with_name(f"{path.name.partition('.')[0]}.py")


@cache
def _sha256(path: Path) -> str:
    return sha256_of(path)


@cache
def _python() -> list[Any]:
    """How Python runs, and every library that it has."""
    libraries = sorted({f"{found.name} {found.version}" for found in metadata.distributions()})
    return [repr(sys.flags), list(sys.warnoptions), libraries]

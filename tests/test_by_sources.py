"""A marked test runs again after any change of what it follows from, and only then."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from msabench.plugins import PLUGINS_VARIABLE
from msabench.runner import measured_before
from tests.support import by_sources
from tests.support.by_sources import ANEW_VARIABLE, KEPT, BySources
from tests.support.outside_folder import OUTSIDE

REPOSITORY = Path(__file__).parents[1]
LONG_AGO = 1_000_000_000

HEAD = """
import os, subprocess, sys
from pathlib import Path
import pytest

HERE = Path(__file__).parents[1]

def ran(name):
    with (HERE.parent / "ran").open("a") as log:
        log.write(name + " ")

def imports():
    from msabench import helper
    from tests.support.shared import shared
"""

FILES = {
    "pyproject.toml": "",
    "msabench/__init__.py": "",
    "msabench/helper.py": "from msabench.nn import blocks",
    "msabench/nn/__init__.py": "",
    "msabench/nn/blocks.py": "",
    "msabench/data/reader.py": "",
    "msabench/methods/mult.py": "from msabench import losses",
    "msabench/methods/umdf.py": "",
    "msabench/losses.py": "",
    "msabench/tables.py": "",
    "tests/support/__init__.py": "",
    "tests/support/shared.py": "import tests.support.below",
    "tests/support/below.py": "",
    "tests/support/other.py": "",
    "checks/conftest.py": "",
    "checks/kept/numbers.json": "{}",
    "checks/another.json": "{}",
}
"""A small repository; its tests stand in ``checks``, since ``tests`` is the name of a package that is loaded."""


class Small:
    """A repository with tests of its own, which can be run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "repository"
        self.verdicts = folder / "verdicts"
        for name, content in FILES.items():
            self.write(name, content)

    def write(self, name: str, content: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.utime(path, (LONG_AGO, LONG_AGO))

    def test(self, body: str, name: str = "test_some") -> None:
        self.write(f"checks/{name}.py", HEAD + body)

    def change(self, name: str) -> None:
        self.write(name, (self.folder / name).read_text() + "\n")

    def run(self, *words: str) -> list[str]:
        """What its tests said of themselves, in order."""
        log = self.folder.parent / "ran"
        log.write_text("")
        recorded = Recorded()
        # The last one collects garbage at every end, which takes longer than all else.
        without = ("cacheprovider", "xdist", "faulthandler", "threadexception", "unraisableexception")
        quiet = [word for name in without for word in ("-p", f"no:{name}")]
        place = ["--rootdir", str(self.folder), "-c", str(self.folder / "pyproject.toml"), "--import-mode=importlib"]
        words = (str(self.folder / "checks"), *quiet, *place, "--capture=no", *words)
        pytest.main([*words], plugins=[BySources(self.folder, self.verdicts), recorded])
        for module in [name for name in sys.modules if name.partition(".")[0] == "checks"]:
            del sys.modules[module]
        self.outcomes = recorded.outcomes
        return log.read_text().split()


class Recorded:
    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2]
        if report.when == "call" or not report.passed:
            self.outcomes[name] = report.outcome


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    # Its files are changed within the resolution of the times by which compiled ones are known.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    # None of them is needed, and to look for them takes long.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv(ANEW_VARIABLE, raising=False)
    # Made once, it would not see what a test changes.
    monkeypatch.setattr(by_sources, "_sha256", by_sources.sha256_of)
    return Small(tmp_path)


ONE = """
@pytest.mark.by_sources("checks/kept", method="name")
@pytest.mark.parametrize("name", ["mult"])
def test_one(name):
    ran(name)
"""


def test_what_passed_does_not_run_again_and_passes(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    small.test(ONE + "def test_unmarked():\n    ran('unmarked')\n")
    assert small.run() == ["mult", "unmarked"]
    assert "verdict" not in capsys.readouterr().out
    assert small.run() == ["unmarked"]
    assert small.outcomes == {"test_one[mult]": "passed", "test_unmarked": "passed"}
    said = f"1 verdicts from earlier runs of the same sources; {ANEW_VARIABLE}=1 runs all"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "checks/test_some.py",
        "checks/conftest.py",
        "checks/kept/numbers.json",
        "pyproject.toml",
        "tests/support/__init__.py",
        "tests/support/shared.py",
        "tests/support/below.py",
        "msabench/__init__.py",
        "msabench/helper.py",
        "msabench/nn/blocks.py",
        "msabench/losses.py",
        # Taken as a whole, whether imported or not.
        "msabench/data/reader.py",
        "msabench/methods/mult.py",
    ],
)
def test_a_byte_in_any_source_makes_it_run(name: str, small: Small) -> None:
    small.test(ONE)
    assert small.run() == ["mult"]
    small.change(name)
    assert small.run() == ["mult"]
    assert small.run() == []


def test_what_is_no_source_changes_nothing(small: Small) -> None:
    small.test(ONE)
    small.test("", "test_others")
    assert small.run() == ["mult"]
    for name in ("msabench/methods/umdf.py", "msabench/tables.py", "tests/support/other.py", "checks/another.json"):
        small.change(name)
    small.change("checks/test_others.py")
    assert small.run() == []
    small.write("checks/kept/more.json", "{}")
    assert small.run() == ["mult"]


def test_without_a_parameter_all_methods_take_part(small: Small) -> None:
    small.test("@pytest.mark.by_sources\ndef test_one():\n    ran('one')\n")
    assert small.run() == ["one"]
    assert small.run() == []
    small.change("msabench/methods/umdf.py")
    assert small.run() == ["one"]


def test_each_of_several_parameters_has_a_verdict_of_its_own(small: Small) -> None:
    small.test(
        """
@pytest.mark.by_sources(method="name")
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", ["mult", "umdf"])
def test_pair(name, number):
    ran(f"{name}{number}")
    assert (name, number) != ("umdf", 2)
"""
    )
    assert small.run("-k", "mult") == ["mult1", "mult2"]
    assert small.run() == ["umdf1", "umdf2"]
    assert small.run() == ["umdf2"]
    assert small.outcomes == {f"test_pair[{name}]": "passed" for name in ("mult-1", "mult-2", "umdf-1")} | {
        "test_pair[umdf-2]": "failed"
    }
    small.change("msabench/methods/mult.py")
    assert small.run() == ["mult1", "mult2", "umdf2"]


@pytest.mark.parametrize(
    "body",
    [
        "def test_one():\n    ran('one')\n    assert False",
        "def test_one():\n    ran('one')\n    pytest.skip('not here')",
        "@pytest.mark.xfail\ndef test_one():\n    ran('one')\n    assert False",
        "@pytest.mark.xfail\ndef test_one():\n    ran('one')",
        "@pytest.fixture\ndef breaks():\n    yield\n    raise ValueError\n\ndef test_one(breaks):\n    ran('one')",
    ],
    ids=["failed", "skipped", "expected to fail", "unexpectedly passed", "torn down with an error"],
)
def test_only_what_passed_is_kept(body: str, small: Small) -> None:
    small.test(f"pytestmark = pytest.mark.by_sources\n{body}\n")
    assert small.run() == ["one"]
    assert small.run() == ["one"]


def test_other_examples_every_time_are_drawn_every_time(small: Small) -> None:
    small.test(
        """
from hypothesis import given, settings, strategies

@pytest.mark.by_sources
@settings(max_examples=1, database=None)
@given(strategies.just("one"))
def test_one(drawn):
    ran(drawn)
"""
    )
    assert small.run() == ["one"]
    assert small.run() == ["one"]


READS = {
    "in a call": """
@pytest.mark.by_sources
def test_one():
    ran("one")
    (HERE / "checks/another.json").read_text()
""",
    "in a fixture": """
@pytest.fixture(scope="module")
def content():
    return (HERE / "checks/another.json").read_text()

@pytest.mark.by_sources
def test_one(content):
    ran("one")
""",
    "in an import": """
CONTENT = (HERE / "checks/another.json").read_text()

@pytest.mark.by_sources
def test_one():
    ran("one")
""",
}


@pytest.mark.parametrize("how", READS)
def test_a_file_that_is_read_is_named_or_nothing_is_kept(
    how: str, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    small.test(READS[how])
    assert small.run() == ["one"]
    file = small.folder / "checks/another.json"
    assert (
        f"1 marked by_sources will run again, e.g. checks/test_some.py::test_one: its hash does not tell {file}"
        in capsys.readouterr().out
    )
    assert small.run() == ["one"]
    small.test(READS[how].replace("by_sources", "by_sources('checks/another.json')"))
    assert small.run() == ["one"]
    assert small.run() == []


@pytest.mark.parametrize("place", ["MSABENCH_DATA", "XDG_CACHE_HOME"])
def test_data_and_what_is_cached_are_no_sources(
    place: str, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(place, str(tmp_path / "place"))
    (tmp_path / "place/msabench").mkdir(parents=True)
    (tmp_path / "place/msabench/file").write_text("")
    small.test(
        "@pytest.mark.by_sources\ndef test_one():\n    ran('one')\n"
        f"    Path(r'{tmp_path}/place/msabench/file').read_text()\n"
    )
    assert small.run() == ["one"]
    assert small.run() == ["one"]


def test_processes_are_allowed_where_the_mark_says_so(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    body = "@pytest.mark.by_sources\ndef test_one():\n    ran('one')\n    subprocess.run([sys.executable, '-c', ''])\n"
    small.test(body)
    assert small.run() == ["one"]
    assert "test_one: its hash does not tell subprocess.Popen" in capsys.readouterr().out
    assert small.run() == ["one"]
    small.test(body.replace("by_sources", "by_sources(processes=True)"))
    assert small.run() == ["one"]
    assert small.run() == []


def test_another_machine_another_library_and_stricter_warnings_are_another_hash(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.test(ONE)
    assert small.run() == ["mult"]
    assert small.run("-W", "error") == ["mult"]
    found = by_sources.surroundings()
    for change in ({"cpu": "another"}, {"threads": 64}, {"versions": {**found["versions"], "torch": "1.0"}}):
        monkeypatch.setattr(by_sources, "surroundings", lambda change=change: {**found, **change})
        assert small.run() == ["mult"]
    python = by_sources._python()
    monkeypatch.setattr(by_sources, "surroundings", lambda: found)
    assert small.run() == []
    monkeypatch.setattr(by_sources, "_python", lambda: [*python, "another 1.0"])
    assert small.run() == ["mult"]


def test_sources_newer_than_the_process_and_code_from_outside_are_never_known(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.test(ONE)
    os.utime(small.folder / "msabench/helper.py")
    assert small.run() == ["mult"]
    assert small.run() == ["mult"]
    os.utime(small.folder / "msabench/helper.py", (LONG_AGO, LONG_AGO))
    assert small.run() == ["mult"]
    assert small.run() == []
    monkeypatch.setenv(PLUGINS_VARIABLE, str(OUTSIDE / "my_net.py"))
    assert small.run() == ["mult"]


def test_sources_edited_while_a_test_runs_keep_nothing(small: Small) -> None:
    small.test("@pytest.mark.by_sources\ndef test_one():\n    ran('one')\n    os.utime(HERE / 'msabench/helper.py')\n")
    assert small.run() == ["one"]
    os.utime(small.folder / "msabench/helper.py", (LONG_AGO, LONG_AGO))
    assert small.run() == ["one"]


def test_anew_runs_all_and_a_failure_takes_the_verdict_back(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    small.test("@pytest.mark.by_sources\ndef test_one():\n    ran('one')\n    assert 'FAILS' not in os.environ\n")
    assert small.run() == ["one"]
    with monkeypatch.context() as patch:
        patch.setenv(ANEW_VARIABLE, "1")
        assert small.run() == ["one"]
        assert small.outcomes == {"test_one": "passed"}
    assert small.run() == []
    with monkeypatch.context() as patch:
        patch.setenv(ANEW_VARIABLE, "1")
        patch.setenv("FAILS", "1")
        assert small.run() == ["one"]
        assert small.outcomes == {"test_one": "failed"}
    assert small.run() == ["one"]
    assert small.run() == []


@pytest.mark.parametrize(
    "damage", [lambda text: "", lambda text: text[:-5], lambda text: "x" + text, lambda _: "\udcff"]
)
def test_a_damaged_file_is_no_verdict(damage: Callable[[str], str], small: Small) -> None:
    small.test(ONE)
    small.run()
    [file] = small.verdicts.iterdir()
    file.write_text(damage(file.read_text()), errors="surrogateescape")
    assert small.run() == ["mult"]
    assert small.run() == []


def test_the_latest_hashes_are_kept(small: Small) -> None:
    small.test(ONE)
    for number in range(KEPT + 1):
        small.write("msabench/helper.py", f"NUMBER = {number}")
        assert small.run() == ["mult"]
    [file] = small.verdicts.iterdir()
    assert len(file.read_text().splitlines()) == 1 + KEPT
    small.write("msabench/helper.py", "NUMBER = 1")
    assert small.run() == []
    small.write("msabench/helper.py", "NUMBER = 0")
    assert small.run() == ["mult"]


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("'checks/nowhere'", "the mark by_sources names checks/nowhere, which is not there"),
        ("method='nowhere'", "parameter nowhere names no method"),
        ("method='number'", "parameter number names no method"),
    ],
)
def test_a_mark_that_names_nothing_is_an_error(
    mark: str, said: str, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    small.test(
        f"@pytest.mark.by_sources({mark})\n"
        "@pytest.mark.parametrize('number', [1])\ndef test_one(number):\n    ran('one')\n"
    )
    assert small.run() == []
    assert small.outcomes == {"test_one[1]": "failed"}
    assert said in capsys.readouterr().out


def test_the_sources_of_a_methods_tests_are_those_of_its_f1_and_their_own(tmp_path: Path) -> None:
    test = REPOSITORY / "tests/methods/test_precision.py"
    found = set(BySources(REPOSITORY, tmp_path)._files(test, "mult", ()))
    assert found >= set(measured_before.sources("mult"))
    own = (
        "tests/methods/conftest.py",
        "tests/conftest.py",
        "tests/support/by_sources.py",
        "msabench/testing/corpora.py",
    )
    assert found >= {test, *(REPOSITORY / name for name in own)}
    methods = {path.stem for path in found if path.parent == REPOSITORY / "msabench/methods"}
    assert "mult" in methods
    assert not methods & {"umdf", "misa", "lf_dnn"}
    assert not found & set((REPOSITORY / "msabench/leaderboard").rglob("*"))

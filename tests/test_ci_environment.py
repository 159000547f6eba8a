"""What a run of .ci/run installed is there for the next, in other clones, and no clone disturbs another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PROGRAM = "import lib, sys; print(sys.prefix, *lib.NAMES)\n"
PIP = """
import pathlib, sys
if "fails" in pathlib.Path("pyproject.toml").read_text():
    sys.exit("cannot be installed")
pathlib.Path(__file__).parents[1].joinpath("msabench-1.dist-info").write_text(" ".join(sys.argv[1:]))
"""
"""Stands for pip, and leaves what it was asked for where pip notes what is installed."""

pytestmark = pytest.mark.skipif(os.name != "posix" or shutil.which("bash") is None, reason="a script for bash")


def clone(folder: Path, requirements: str = "") -> Path:
    """A folder with what the script reads of a clone."""
    (folder / ".ci").mkdir(parents=True)
    shutil.copy(REPOSITORY / ".ci/environment", folder / ".ci")
    for name in ("constraints.txt", "setup.py", "Makefile"):
        shutil.copy(REPOSITORY / name, folder)
    (folder / "pyproject.toml").write_text(requirements)
    return folder


def installed(folder: Path) -> Path:
    """The clone, after a ``make install``."""
    venv.create(folder / ".venv", with_pip=False, symlinks=True)
    packages = site(folder)
    (packages / "pip").mkdir()
    (packages / "pip/__main__.py").write_text(PIP)
    (packages / "lib.py").write_text("NAMES = ['as', 'installed']\n")
    (packages / "msabench-1.dist-info").write_text("of the first clone")
    for name in ("program", "msabench"):
        path = folder / ".venv/bin" / name
        path.write_text(f"#!{folder}/.venv/bin/python3\n{PROGRAM}")
        path.chmod(0o755)
    (folder / ".venv/.ready").touch()
    return folder


def site(folder: Path) -> Path:
    [packages] = folder.glob(".venv/lib/python*/site-packages")
    return packages


def begun(folder: Path, verb: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder.parent / "cache"), "PYTHON": sys.executable}
    words = [str(folder / ".ci/environment"), verb]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def called(folder: Path, verb: str) -> tuple[int, str]:
    process = begun(folder, verb)
    said, _ = process.communicate()
    return process.returncode, said


def said_by(folder: Path) -> str:
    """What the program of a clone's environment says: whose it is, and what its library holds."""
    return subprocess.run([folder / ".venv/bin/program"], capture_output=True, text=True, check=True).stdout.strip()


def kept(folder: Path) -> list[Path]:
    return sorted((folder.parent / "cache/msabench/ci/environments").iterdir())


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A clone whose environment has been kept."""
    folder = installed(clone(tmp_path / "first"))
    assert called(folder, "keep") == (0, "")
    return folder


def test_another_clone_gets_an_environment_of_its_own(first: Path) -> None:
    second = clone(first.parent / "second")
    assert called(second, "take") == (0, "")
    assert said_by(second) == f"{second}/.venv as installed"
    assert said_by(first) == f"{first}/.venv as installed"
    assert (second / ".venv/.ready").is_file()
    # The clone itself is installed anew, and only that.
    assert (site(second) / "msabench-1.dist-info").read_text().endswith("--no-deps --no-build-isolation --editable .")
    assert (site(first) / "msabench-1.dist-info").read_text() == "of the first clone"
    assert str(second) in (second / ".venv/bin/activate").read_text()
    assert str(first) not in (second / ".venv/bin/activate").read_text()
    # Installers remove a file and write another.
    library = site(second) / "lib.py"
    library.unlink()
    library.write_text("NAMES = ['updated']\n")
    third = clone(first.parent / "third")
    assert called(third, "take") == (0, "")
    found = [said_by(folder).partition(" ")[2] for folder in (first, third)]
    assert found == ["as installed"] * 2
    assert said_by(second).endswith("/.venv updated")
    assert {path.name for path in second.iterdir()} == {path.name for path in third.iterdir()} >= {".venv"}


def test_several_runs_at_once_come_to_the_same(tmp_path: Path) -> None:
    makers = [installed(clone(tmp_path / f"maker_{number}")) for number in range(3)]
    keeping = [begun(folder, "keep") for folder in makers]
    assert [process.communicate() and process.returncode for process in keeping] == [0] * 3
    assert len(kept(makers[0])) == 1
    takers = [clone(tmp_path / f"taker_{number}") for number in range(3)]
    taking = [begun(folder, "take") for folder in takers]
    assert [process.communicate() and process.returncode for process in taking] == [0] * 3
    assert [said_by(folder) for folder in takers] == [f"{folder}/.venv as installed" for folder in takers]


def test_what_was_changed_in_place_is_not_used(first: Path) -> None:
    # A clone's file is the kept one under another name.
    with (site(first) / "lib.py").open("a") as stream:
        stream.write("NAMES = ['tried']\n")
    second = clone(first.parent / "second")
    code, said = called(second, "take")
    assert code == 0
    assert "were changed; it is not used" in said
    assert not (second / ".venv").exists()
    assert kept(first) == []


def test_what_is_half_made_is_not_used(first: Path) -> None:
    [environment] = kept(first)
    (environment / ".complete").unlink()
    second = clone(first.parent / "second")
    assert called(second, "take") == (0, "")
    assert not (second / ".venv").exists()
    shutil.rmtree(first / ".venv")
    assert called(installed(first), "keep") == (0, "")
    assert called(second, "take") == (0, "")
    assert said_by(second).endswith("as installed")


def test_nothing_is_left_of_what_cannot_be_finished(tmp_path: Path) -> None:
    first = installed(clone(tmp_path / "first", "fails"))
    assert called(first, "keep") == (0, "")
    second = clone(tmp_path / "second", "fails")
    code, said = called(second, "take")
    assert code != 0
    assert "cannot be installed" in said
    assert not list(second.glob(".venv*"))
    # One that is not ready is not kept.
    third = installed(clone(tmp_path / "third", "another"))
    (third / ".venv/.ready").unlink()
    assert called(third, "keep") == (0, "")
    assert len(kept(first)) == 1


def test_other_requirements_are_installed_anew(first: Path) -> None:
    second = clone(first.parent / "second", "dependencies = ['one more']")
    assert called(second, "take") == (0, "")
    assert not (second / ".venv").exists()
    assert called(installed(second), "keep") == (0, "")
    assert len(kept(first)) == 2


def test_an_environment_that_is_there_stays(first: Path) -> None:
    second = installed(clone(first.parent / "second"))
    (site(second) / "lib.py").write_text("NAMES = ['own']\n")
    assert called(second, "take") == (0, "")
    assert said_by(second) == f"{second}/.venv own"
    assert called(second, "keep") == (0, "")
    third = clone(first.parent / "third")
    assert called(third, "take") == (0, "")
    assert said_by(third) == f"{third}/.venv as installed"

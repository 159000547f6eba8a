"""The wheel, built from the sdist and used as a newcomer does: outside of any checkout, with a method of one's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from msabench.packaged import FOLDERS

REPOSITORY = Path(__file__).parents[1]
NET = (REPOSITORY / "tests/support/outside/my_net.py").read_text()
SMALL = "--data.size=[24,8,10] --data.length=8 --trainer.accelerator=cpu --trainer.enable_progress_bar=false"

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "my-ext"
version = "2.1"

[project.entry-points."msabench.methods"]
my_net = "my_ext:MyNet"

[tool.setuptools]
py-modules = ["my_ext"]
"""
CONFIG = """
trainer: {max_epochs: 1, enable_progress_bar: false, accelerator: cpu}
data: {dataset: synth, size: [24, 8, 10], length: 8, missing: {regime: mixed}}
model: {class_path: CLASS, init_args: {hidden: 8}}
"""
SUITE = """
name: mine
grid: [inter/l, intra/0.5]
seeds: [1]
mask_seeds: [0]
overrides: {data.size: [24, 8, 10], data.length: 8, data.missing.regime: mixed, trainer.max_epochs: 1}
jobs:
- {method: my_net, dataset: synth}
- {method: my_plain, dataset: synth}
- {method: mult, dataset: synth}
- {method: constant, dataset: synth}
"""

SESSION = """
import shlex, sys
from msabench.__main__ import main
for line in sys.stdin:
    print("$", line.strip(), flush=True)
    sys.argv = shlex.split(line)
    if code := main():
        sys.exit(f"{line.strip()} ended with {code}")
print("$ heavy:", *sorted({"torch", "lightning", "transformers"} & set(sys.modules)))
"""
"""Runs command lines as the console script does, in one process: importing torch takes longer than most of them."""


README = (
    (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("## Install\n")[2].split("```\n")[1].splitlines()
)
"""The lines that README begins with."""
PIP, *LIGHT, FIT, DEMO, RESULTS, PAPER = README


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and an empty folder to use it from."""

    wheel: Path
    sdist: Path
    source: Path
    environment: Path
    folder: Path

    def run(self, *words: str, given: str = "") -> str:
        """Run a program of the environment; what it prints, errors included."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MSABENCH_", "PYTHON"))}
        done = subprocess.run(
            [str(self.environment / "bin" / words[0]), *words[1:]],
            cwd=self.folder,
            env={**clean, "XDG_CACHE_HOME": str(self.folder.parent / "cache"), "OMP_NUM_THREADS": "1"},
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    def session(self, lines: list[str]) -> list[str]:
        """What each of some command lines prints, and at last which heavy modules are loaded."""
        out = self.run("python", "-W", "ignore", "-c", SESSION, given="\n".join(lines))
        return [part.partition("\n")[2] for part in f"\n{out}".split("\n$ ")[1:-1]] + [out.rpartition("\n$ heavy:")[2]]

    def files(self) -> dict[Path, int]:
        """Files of the installed package and when they were written; the interpreter's own aside."""
        found = (path for path in self.package.rglob("*") if path.is_file() and path.suffix != ".pyc")
        return {path: path.stat().st_mtime_ns for path in found}

    @property
    def package(self) -> Path:
        """Where the wheel was unpacked to."""
        return next(self.environment.glob("lib/*/site-packages/msabench"))


def call(*words: str | Path, cwd: Path) -> None:
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """sdist, wheel from the sdist, and an environment that has it, a package my_ext, and the tests' dependencies."""
    place = tmp_path_factory.mktemp("wheel")
    source, out, environment, folder = (place / name for name in ("source", "out", "environment", "empty"))
    # A build leaves files behind; the checkout stays clean, and what runs left in it stays out.
    left = shutil.ignore_patterns("__pycache__", ".*", "predictions")
    for name in ("msabench", *FOLDERS):
        shutil.copytree(REPOSITORY / name, source / name, ignore=left)
    for name in (
        "setup.py",
        "pyproject.toml",
        "MANIFEST.in",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "constraints.txt",
    ):
        shutil.copy(REPOSITORY / name, source)
    call("-c", f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})", cwd=source)
    [sdist] = out.glob("msabench-*.tar.gz")
    extension = place / "my_ext"
    extension.mkdir()
    (extension / "pyproject.toml").write_text(PROJECT)
    (extension / "my_ext.py").write_text(NET)
    offline = ("--quiet", "--no-deps", "--no-index")
    call("-m", "pip", "wheel", *offline, "--no-build-isolation", "-w", out, sdist, extension, cwd=place)
    venv.create(environment, with_pip=False)
    call("-m", "pip", "--python", environment / "bin/python", "install", *offline, *out.glob("*.whl"), cwd=place)
    # Dependencies come from the environment of the tests, behind the wheel. Its own .pth files are not read, so that
    # an editable msabench there stays out of reach.
    [site] = environment.glob("lib/*/site-packages")
    dependencies = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    folder.mkdir()
    [wheel] = out.glob("msabench-*.whl")
    return Installed(wheel, sdist, source, environment, folder)


def test_sdist_and_wheel_hold_what_stands_once_in_the_repository(installed: Installed) -> None:
    expected = {
        path.relative_to(installed.source).as_posix(): path.read_bytes()
        for folder in FOLDERS
        for path in (installed.source / folder).rglob("*")
        if path.is_file()
    }
    assert len(expected) > 300
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = set(wheel.namelist())
        found = {name.removeprefix("msabench/_data/"): wheel.read(name) for name in names if "/_data/" in name}
    assert found == expected
    assert names >= {"msabench/py.typed", "msabench/leaderboard/templates/base.html", "msabench/methods/umdf.py"}
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"msabench"}
    with tarfile.open(installed.sdist) as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    assert packed >= {*expected, "setup.py", "MANIFEST.in", "LICENSE", "msabench/py.typed"}


def test_a_newcomer_finds_everything_by_name_and_without_torch(installed: Installed) -> None:
    there = set(installed.folder.iterdir())
    imported = installed.run("python", "-c", "import msabench; print(msabench.__file__)")
    assert imported.startswith(str(installed.package))
    loaded = installed.run("python", "-X", "importtime", "-c", "import msabench")
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in loaded.splitlines()}
    assert "msabench" in names
    assert not names & {"torch", "lightning", "pandas", "numpy", "jsonargparse", "yaml"}
    assert installed.run("msabench", "--version").split() == [installed.wheel.name.split("-")[1]]
    *said, heavy = installed.session(
        [
            *LIGHT,
            PAPER,
            "msabench suites",
            "msabench configs umdf_synth",
            "msabench audit",
            "msabench table --datasets mosi --papers umdf",
        ]
    )
    assert heavy.strip() == ""
    methods, configs, table, suites, config, audit, following = said
    assert "external" in next(line for line in methods.splitlines() if line.startswith("my_net "))
    assert "\ndemo: 8 jobs, " in suites
    assert "\numdf  " in configs
    assert "base: umdf.yaml" in config
    assert "UMDF Table 1: CMU-MOSI" in table
    assert audit.startswith("1940 numbers in msabench's leaderboard/published: ")
    assert "mosi: no records in runs/store" in following
    assert "UMDF Table 1: CMU-MOSI" in following
    assert set(installed.folder.iterdir()) == there


def test_ones_own_method_goes_from_training_to_the_site(installed: Installed) -> None:
    before = installed.files()
    folder = installed.folder
    (folder / "my_plain.py").write_text(NET.replace('name="my_net"', 'name="my_plain"'))
    for name, path in (("my_net", "my_ext.MyNet"), ("my_plain", "my_plain.MyNet")):
        (folder / f"{name}_synth.yaml").write_text(CONFIG.replace("CLASS", path))
    (folder / "suite.yaml").write_text(SUITE)
    assert PIP == f'pip install "{installed.wheel.name}[report]"'
    best = "runs/fit/synth/{}/seed_1111/version_0/best.ckpt"
    plugged = "--plugins my_plain.py"
    umdf, plan, regress, *_, run, table, compare, site, _ = installed.session(
        [
            f"{FIT} --trainer.max_epochs=1 {SMALL}",
            f"{DEMO} --dry-run",
            "msabench regress --methods constant",
            "msabench fit --config my_net_synth.yaml",
            f"msabench evaluate --checkpoint {best.format('my_net')} --store runs/store",
            f"msabench fit --config my_plain_synth.yaml {plugged}",
            f"msabench evaluate --checkpoint {best.format('my_plain')} --store runs/store {plugged}",
            f"msabench run --suite suite.yaml --store store --slots 2 {plugged}",
            f"{RESULTS} --store store",
            "msabench compare --baseline constant --datasets synth --store store",
            "msabench leaderboard build --store store --out site",
        ]
    )
    assert f"next: msabench evaluate --checkpoint {folder}/runs/fit/synth/umdf/" in umdf
    assert "8 jobs" in plan
    assert "(same method in msabench's benchmarks/costs, scaled by clips x epochs, from 1 record, wall time)" in plan
    assert "constant    ok, 8 cells within tolerance" in regress
    assert run.startswith("4 jobs, 0 done already, 4 to run")
    assert len(list(folder.glob("store/synth/*/*.jsonl"))) == 4
    assert len(list(folder.glob("runs/store/synth/my_*/*.jsonl"))) == 2
    for name in ("my_net", "my_plain"):
        assert " external " in next(line for line in table.splitlines() if line.startswith(f"{name} "))
        assert name in compare
        assert "external" in (folder / f"site/methods/{name}.html").read_text()
    assert "mult" in compare
    assert (folder / "site/published.html").is_file()
    assert "site" in site
    # Nothing is written into an installed package.
    assert installed.files() == before

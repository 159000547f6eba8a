"""F1 is taken from an earlier measurement only where nothing that can move it has changed."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from msabench.errors import MSABenchError
from msabench.methods.registry import methods
from msabench.plugins import PLUGINS_VARIABLE
from msabench.runner import measured_before
from msabench.runner import regress as regression
from msabench.runner.measured_before import PACKAGE, inputs, keep, recall, sources
from tests.support.outside_folder import OUTSIDE

REPOSITORY = PACKAGE.parent
CONFIGS = REPOSITORY / "configs"
NAMES = sorted(methods())
SOME = ("constant", "mult", "umdf")
SHARED = (
    "nn/mamba.py",
    "losses/transport.py",
    "data/batches.py",
    "missingness/patterns.py",
    "methods/base.py",
    "methods/engine/steps.py",
    "metrics/functional.py",
    "training/keep_best.py",
    "evaluation/predictor.py",
    "runner/short_training.py",
    "__init__.py",
)
SHOWING = ("leaderboard/site.py", "tables/render.py", "api/training.py", "runner/regress.py", "__main__.py")
RUNS = [{"inter/l": 0.1 + 0.2, "inter/a": 0.5}, {"inter/l": 1 / 3, "inter/a": 0.25}]
LONG_AGO = 1_000_000_000


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's sources, all of them written long ago."""
    package = tmp_path_factory.mktemp("sources") / "msabench"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in package.rglob("*.py"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    return package


@pytest.fixture
def changed(copy: Path) -> Iterator[Any]:
    """Which methods' inputs another byte in a file changes."""
    restored = {}

    def change(name: str) -> set[str]:
        path = copy / name
        before = {method: inputs(method, (1, 2), CONFIGS, copy) for method in SOME}
        assert None not in before.values()
        content = path.read_bytes()
        restored.setdefault(path, content)
        path.write_bytes(content + b"\n")
        os.utime(path, (LONG_AGO, LONG_AGO))
        return {method for method in SOME if inputs(method, (1, 2), CONFIGS, copy) != before[method]}

    yield change
    for path, content in restored.items():
        path.write_bytes(content)
        os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.fixture
def known() -> dict[str, Any]:
    found = inputs("mult", (1, 2), CONFIGS)
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_method_depends_on_its_file_and_what_all_share(name: str) -> None:
    found = set(sources(name))
    assert found >= {PACKAGE / f"methods/{name}.py", *(PACKAGE / file for file in SHARED)}
    assert not found & {PACKAGE / file for file in SHOWING}
    built_on = {"ctc_mctn": {"mctn"}, "ctc_raven": {"raven"}}.get(name, set())
    assert {path.stem for path in found if path.parent.name == "methods"} & set(NAMES) == {name, *built_on}


@pytest.mark.parametrize("name", SHARED)
def test_a_byte_in_what_all_methods_share_changes_the_inputs_of_all(name: str, changed: Any) -> None:
    assert changed(name) == set(SOME)


def test_a_byte_in_a_methods_file_changes_those_that_import_it(changed: Any, copy: Path) -> None:
    assert changed("methods/umdf.py") == {"umdf"}
    assert changed("methods/mult.py") == {"mult"}
    (copy / "methods/mult.py").write_text("def teacher():\n    from msabench.methods import umdf\n    return umdf\n")
    os.utime(copy / "methods/mult.py", (LONG_AGO, LONG_AGO))
    assert changed("methods/umdf.py") == {"umdf", "mult"}
    assert "mult" not in changed("methods/misa.py")


def test_what_only_type_checkers_import_is_no_source(copy: Path) -> None:
    place = copy / "nn/checked.py"
    place.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from msabench.api import training\n"
        "else:\n    from msabench.tables import render\n"
    )
    found = sources("mult", copy)
    place.unlink()
    assert copy / "tables/render.py" in found
    assert copy / "api/training.py" not in found


@pytest.mark.parametrize("name", SHOWING)
def test_a_byte_in_what_only_shows_changes_nothing(name: str, changed: Any) -> None:
    assert changed(name) == set()


def test_a_training_loads_no_module_that_is_not_among_its_sources(tmp_path: Path) -> None:
    """Also none that is looked up by name while it runs; other methods and what these import aside."""
    code = """
import sys
from pathlib import Path
from msabench.runner import short_training
small = ("--data.size=[24,8,10]", "--data.length=8", "--trainer.max_epochs=1")
short_training.OVERRIDES = (*short_training.OVERRIDES, *small)
short_training.measure("mult", 1, Path(sys.argv[1]))
print(*(m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] == "msabench" and m.__file__), sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(CONFIGS)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = {Path(line) for line in done.stdout.splitlines() if line.endswith(".py")}
    others = {path for path in loaded if path.parent == PACKAGE / "methods"}
    assert PACKAGE / "training/build.py" in loaded
    assert loaded - others - set(sources("mult")) == set()


def test_every_library_that_the_sources_import_is_among_the_inputs() -> None:
    distributions = metadata.packages_distributions()
    imported = set()
    for path in {*sources("mult"), *(PACKAGE / "methods").glob("*.py")}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    outside = imported - set(sys.stdlib_module_names) - {"msabench"}
    assert {"torch", "numpy", "sklearn"} <= outside
    libraries = {name.lower().replace("-", "_") for name in measured_before.LIBRARIES}
    for name in outside:
        owners = {owner.lower().replace("-", "_") for owner in distributions.get(name, [name])}
        assert owners & libraries, name


def test_versions_processor_and_threads_are_among_the_inputs(
    known: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert known["versions"]["torch"] == metadata.version("torch")
    assert known["cpu"]
    assert known["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert known["config"]["model"]["class_path"] == "MulT"
    assert known["config"]["data"]["dataset"] == "synth"
    assert inputs("mult", (1, 3), CONFIGS) != known
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: known["threads"] + 1)
        assert inputs("mult", (1, 2), CONFIGS) != known
    with monkeypatch.context() as patch:
        patch.setenv("MKL_CBWR", "COMPATIBLE")
        assert inputs("mult", (1, 2), CONFIGS) != known
    for name in ("mult.yaml", "mult_synth.yaml"):
        shutil.copy(CONFIGS / name, tmp_path)
    assert inputs("mult", (1, 2), tmp_path) == known
    (tmp_path / "mult.yaml").write_text((CONFIGS / "mult.yaml").read_text() + "\nunknown: 3\n")
    assert inputs("mult", (1, 2), tmp_path) != known


def test_sources_newer_than_the_process_and_code_from_outside_are_never_known(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copy / "nn/mamba.py"
    os.utime(place)
    assert inputs("mult", (1, 2), CONFIGS, copy) is None
    os.utime(place, (LONG_AGO, LONG_AGO))
    assert inputs("mult", (1, 2), CONFIGS, copy) is not None
    monkeypatch.setenv(PLUGINS_VARIABLE, str(OUTSIDE / "my_net.py"))
    assert inputs("mult", (1, 2), CONFIGS, copy) is None


def test_what_is_kept_is_recalled_to_the_last_bit(known: dict[str, Any], tmp_path: Path) -> None:
    assert recall("mult", known, tmp_path) is None
    keep("mult", known, RUNS, tmp_path)
    assert recall("mult", known, tmp_path) == RUNS
    [file] = tmp_path.iterdir()
    content = json.loads(file.read_text())
    assert content["f1"] == {"1": RUNS[0], "2": RUNS[1]}
    assert content["inputs"] == known
    assert recall("mult", {**known, "threads": 64}, tmp_path) is None
    assert recall("misa", known, tmp_path) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("0.25", "0.75"),
        lambda text: text.replace('"threads": ', '"threads": 1'),
        lambda text: "[1, 2]",
        lambda text: "null",
        lambda text: "{}",
        lambda text: json.dumps({**json.loads(text), "f1": {"1": RUNS[0]}}),
        lambda text: "\udcff",
    ],
)
def test_a_damaged_or_foreign_file_is_nothing(damage: Any, known: dict[str, Any], tmp_path: Path) -> None:
    keep("mult", known, RUNS, tmp_path)
    [file] = tmp_path.iterdir()
    text = file.read_text()
    file.write_text(damage(text), errors="surrogateescape")
    assert file.read_text(errors="surrogateescape") != text
    assert recall("mult", known, tmp_path) is None


def test_an_entry_under_another_ones_name_is_nothing(known: dict[str, Any], tmp_path: Path) -> None:
    other = {**known, "threads": 64}
    for each in (known, other):
        keep("mult", each, RUNS, tmp_path)
    first, second = sorted(tmp_path.iterdir())
    first.write_bytes(second.read_bytes())
    assert [recall("mult", each, tmp_path) for each in (known, other)].count(None) == 1


def test_only_the_latest_are_kept(known: dict[str, Any], tmp_path: Path) -> None:
    keep("mult_other", known, RUNS, tmp_path)
    for number in range(measured_before.KEPT + 2):
        keep("mult", {**known, "threads": number}, RUNS, tmp_path)
        for file in tmp_path.iterdir():
            status = file.stat()
            os.utime(file, (status.st_atime, status.st_mtime - 10))
    found = [recall("mult", {**known, "threads": number}, tmp_path) for number in range(measured_before.KEPT + 2)]
    assert found == [None, None, *[RUNS] * measured_before.KEPT]
    assert recall("mult_other", known, tmp_path) == RUNS


def test_a_cache_that_cannot_be_written_is_no_error(known: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keep("mult", known, RUNS, tmp_path / "file")
    assert recall("mult", known, tmp_path / "file") is None


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds that were trained, in place of a training; the cache is a folder of its own."""
    trained: list[int] = []

    def measure(method: str, seed: int, configs: Path) -> dict[str, float]:
        trained.append(seed)
        return {"inter/l": 0.5 + seed / 100}

    monkeypatch.setattr(regression, "measure", measure)
    monkeypatch.setattr(measured_before, "cache_folder", lambda: tmp_path / "cache")
    return trained


def expectation(folder: Path, f1: float) -> Path:
    path = folder / "expected.json"
    regression._write(path, {"mult": {"inter/l": {"f1": f1, "tolerance": 0.01}}})
    return path


def test_cached_trains_once_and_compares_every_time(
    tmp_path: Path, measured: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    right, settings = expectation(tmp_path, 0.515), {"configs": CONFIGS, "cached": True}
    assert regression.regress(["mult"], expected=right, **settings) == 0
    assert measured == [1, 2]
    assert regression.regress(["mult"], expected=right, **settings) == 0
    assert measured == [1, 2]
    assert capsys.readouterr().out.splitlines()[-1] == "mult        ok, 1 cells within tolerance, as measured before"
    # What is not as expected is measured again before it is told.
    assert regression.regress(["mult"], expected=expectation(tmp_path, 0.6), **settings) == 1
    assert measured == [1, 2, 1, 2]
    assert "inter/l: F1 0.5150, expected 0.6000" in capsys.readouterr().out


def test_a_failure_is_not_kept(tmp_path: Path, measured: list[int]) -> None:
    for _ in range(2):
        assert regression.regress(["mult"], expected=expectation(tmp_path, 0.6), configs=CONFIGS, cached=True) == 1
    assert measured == [1, 2, 1, 2]
    assert not list(tmp_path.glob("cache/**/*.json"))


def test_without_cached_nothing_is_read_or_written(tmp_path: Path, measured: list[int], known: dict[str, Any]) -> None:
    right = expectation(tmp_path, 0.515)
    assert regression.regress(["mult"], expected=right, configs=CONFIGS) == 0
    assert not (tmp_path / "cache").exists()
    keep("mult", known, [{"inter/l": 0.7}] * 2)
    assert regression.regress(["mult"], expected=expectation(tmp_path, 0.7), configs=CONFIGS) == 1
    assert measured == [1, 2, 1, 2]


def test_sources_edited_during_a_training_keep_nothing(
    tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_before, "inputs", lambda *given: {"seeds": [1, 2], "trained before": len(measured)})
    assert regression.regress(["mult"], expected=expectation(tmp_path, 0.515), configs=CONFIGS, cached=True) == 0
    assert measured == [1, 2]
    assert not (tmp_path / "cache").exists()


def test_cached_and_update_exclude_each_other() -> None:
    with pytest.raises(MSABenchError, match="--cached is not allowed with --update"):
        regression.regress(["mult"], update=True, cached=True)

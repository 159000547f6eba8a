"""A method is one file and one config: nothing else is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from msabench.methods.new import method_source

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with one more method: the template under another name."""
    copy = tmp_path_factory.mktemp("repository")
    for folder in ("msabench", "tests", "configs"):
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", copy)
    (copy / "msabench/methods/newcomer.py").write_text(method_source("newcomer", "Newcomer"))
    (copy / "configs/newcomer_synth.yaml").write_text(
        "seed_everything: 1111\n"
        "trainer: {max_epochs: 2, enable_progress_bar: false, accelerator: cpu}\n"
        "data: {dataset: synth, features: synth, size: [24, 8, 10], length: 8, missing: {regime: mixed}}\n"
        "model:\n  class_path: Newcomer\n  init_args: {hidden: 16}\n"
    )
    return copy


RUN = """
import sys, pytest
from msabench.__main__ import dispatch
print("$ listed", flush=True)
assert dispatch(["methods"]) == 0
print("$ trained", flush=True)
assert dispatch(["fit", "--config", "configs/newcomer_synth.yaml"]) == 0
print("$ tested", flush=True)
sys.exit(pytest.main(["tests/methods/test_methods.py", "-k", "newcomer", "-p", "no:cacheprovider", "-vv"]))
"""


@pytest.fixture(scope="module")
def said(copy: Path) -> dict[str, str]:
    """What each of three commands prints; in one process, since importing Lightning takes longer than they do."""
    result = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "XDG_CACHE_HOME": str(copy / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    parts = (part.partition("\n") for part in f"\n{result.stdout}".split("\n$ ")[1:])
    return {name: text for name, _, text in parts}


def test_it_is_listed(said: dict[str, str]) -> None:
    assert "newcomer" in said["listed"]


def test_it_trains_from_its_config(said: dict[str, str], copy: Path) -> None:
    assert "best.ckpt" in said["trained"]
    assert list(copy.glob("runs/fit/synth/newcomer/seed_1111/*/best.ckpt"))


def test_it_gets_the_shared_tests(said: dict[str, str]) -> None:
    out = said["tested"]
    assert "test_method[newcomer-removed_modality_tells_nothing-text] PASSED" in out
    assert "failed" not in out

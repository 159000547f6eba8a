"""The benchmark for GPUs runs, at toy size and without one; what it prints then is no measurement."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks/speed/gpu.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("speed_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "speed_gpu", module)
    spec.loader.exec_module(module)
    yield module
    torch._dynamo.reset()


def test_every_part_that_needs_no_other_process_runs(benchmark: ModuleType) -> None:
    run = benchmark.Run("cpu", benchmark.TOY, ("lmf",), math.inf)
    page = benchmark.report(run, ["fit", "seeds", "grid"])
    assert "Toy, no measurement" in page
    assert "Error" not in page
    rows = [line for line in page.splitlines() if line.startswith("| lmf |")]
    assert len(rows) == 3
    assert all(row.count("x |") >= 1 for row in rows)


def test_a_part_that_fails_says_so_and_the_others_go_on(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(run: object) -> Iterator[tuple[str, ...]]:
        """Breaks."""
        yield ("method", "value")
        raise RuntimeError("no such kernel")

    def whole(run: object) -> Iterator[tuple[str, ...]]:
        """Holds."""
        yield ("method", "value")
        yield ("lmf", "1")

    monkeypatch.setattr(benchmark, "PARTS", {"broken": broken, "whole": whole})
    page = benchmark.report(benchmark.Run("cpu", benchmark.TOY, (), math.inf), ["broken", "whole"])
    assert "This part ended: RuntimeError: no such kernel" in page
    assert page.endswith("| lmf | 1 |")
    capsys.readouterr()


def test_what_fails_in_turns_fails_alone(benchmark: ModuleType) -> None:
    def fails() -> None:
        raise ValueError("not here\nmore")

    run = benchmark.Run("cpu", benchmark.TOY, (), math.inf)
    found = benchmark.in_turns(run, {"bad": fails, "good": lambda: None})
    assert found["bad"] == "ValueError: not here"
    assert found["good"] >= 0
    assert benchmark.ratio(found["bad"], found["good"]) == "-"


def test_no_method_is_begun_when_the_time_is_over(benchmark: ModuleType) -> None:
    run = benchmark.Run("cpu", benchmark.TOY, ("lmf", "tfn"), -math.inf)
    assert list(run.of(())) == []

"""The regression of F1: passes as shipped, and fails on planted bugs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from msabench.data import batches
from msabench.errors import MSABenchError
from msabench.methods.registry import methods
from msabench.missingness.patterns import Masks
from msabench.runner import measured_before
from msabench.runner import regress as regression
from tests.support.by_sources import anew

REPOSITORY = Path(__file__).parents[2]
EXPECTED = REPOSITORY / "benchmarks/regression/expected.json"
CONFIGS = REPOSITORY / "configs"


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method_is_where_it_was(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = regression.regress([name], expected=EXPECTED, configs=CONFIGS, cached=not anew())
    assert code == 0, capsys.readouterr().out


def masks_on_the_wrong_modality(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text loses what audio should lose, and the other way round, in evaluation."""
    original = batches.cell_masks

    def swapped(*given: Any) -> Masks:
        masks = original(*given)
        fields = [{**f, "text": f["audio"], "audio": f["text"]} for f in (masks.observed, masks.valid, masks.last)]
        return Masks(*fields)

    monkeypatch.setattr(batches, "cell_masks", swapped)


def flipped_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and selection see labels of the wrong sign."""
    original = batches.build_batch

    def flipped(*given: Any, **settings: Any) -> Any:
        batch = original(*given, **settings)
        return replace(batch, labels=-batch.labels)

    monkeypatch.setattr(batches, "build_batch", flipped)


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimisation steps change nothing."""

    def nothing(self: torch.optim.Adam, closure: Callable[[], Any]) -> None:
        closure()

    monkeypatch.setattr(torch.optim.Adam, "step", nothing)


@pytest.mark.parametrize("plant", [masks_on_the_wrong_modality, flipped_labels, no_training])
def test_a_planted_bug_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where F1 was measured before: what is patched in the process, no source tells."""
    monkeypatch.setattr(measured_before, "cache_folder", lambda: tmp_path)
    known = measured_before.inputs("lf_dnn", regression.CHECK_SEEDS, CONFIGS)
    assert known is not None
    right = {cell: entry["f1"] for cell, entry in json.loads(EXPECTED.read_text())["methods"]["lf_dnn"].items()}
    measured_before.keep("lf_dnn", known, [right, right])
    [kept] = tmp_path.glob("**/*.json")
    before = kept.read_bytes()
    plant(monkeypatch)
    assert regression.regress(["lf_dnn"], expected=EXPECTED, configs=CONFIGS) == 1
    assert "F1 has moved: lf_dnn" in capsys.readouterr().out
    assert list(tmp_path.glob("**/*.json")) == [kept]
    assert kept.read_bytes() == before


def test_tolerance_comes_from_the_spread_over_seeds() -> None:
    runs = [{"inter/l": f1} for f1 in (0.70, 0.74, 0.66, 0.72, 0.68)]
    entry = regression._expectation(runs)["inter/l"]
    assert entry["f1"] == pytest.approx(0.72)
    assert entry["std_over_seeds"] == pytest.approx(0.0316228, abs=1e-6)
    assert entry["tolerance"] == pytest.approx(3 * 0.0316228, abs=1e-5)
    assert regression.compare({"inter/l": entry}, [{"inter/l": 0.72 + 0.09}]) == []
    assert len(regression.compare({"inter/l": entry}, [{"inter/l": 0.72 + 0.1}])) == 1
    assert len(regression.compare({"inter/l": entry}, [{"inter/l": float("nan")}])) == 1
    assert len(regression.compare({}, [{"inter/l": 0.72}])) == 1


def test_a_method_without_expectation_fails_and_update_adds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(regression, "measure", lambda method, seed, configs: {"inter/l": 0.5 + seed / 100})
    path = tmp_path / "expected.json"
    with pytest.raises(MSABenchError, match="there is no file of expectations"):
        regression.regress(["constant"], expected=path)
    assert regression.regress(["constant"], update=True, expected=path) == 0
    assert regression.regress(["constant"], expected=path) == 0
    assert regression.regress(["constant", "mult"], expected=path) == 1
    assert "mult        no expectation" in capsys.readouterr().out
    assert json.loads(path.read_text())["methods"]["constant"]["inter/l"]["f1"] == 0.515
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "metric": "f1_has0"}))
    with pytest.raises(MSABenchError, match="was made with metric f1_has0, now it is f1_non0"):
        regression.regress(["constant"], expected=path)
    path.write_text("{")
    with pytest.raises(MSABenchError, match="is no file of expectations"):
        regression.regress(["constant"], expected=path)


def test_unknown_method_is_refused() -> None:
    with pytest.raises(MSABenchError, match="unknown method 'nobody'"):
        regression.regress(["nobody"], expected=EXPECTED)

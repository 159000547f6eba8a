"""Deterministic mode without writing NaN into new tensors, for as long as a trainer runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.utils.deterministic as settings
from torch import Tensor

from msabench.evaluation.evaluate import evaluate_grid
from msabench.methods import registry
from msabench.methods.base import MSAMethod
from msabench.missingness.conditions import GRIDS
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from msabench.training.build import build
from msabench.training.memory_fill import UnfilledMemory, unfilled_memory


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """Deterministic mode with torch's defaults; off afterwards."""
    assert settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    settings.fill_uninitialized_memory = True


def is_filled() -> bool:
    """Whether torch writes into new tensors."""
    # Memory that was written to last comes first: what an earlier look left there says nothing.
    torch.zeros(1000)
    return bool(torch.empty(1000).isnan().all())


class Look(pl.Callback):
    """Notes the setting in training and in validation, and fails on request."""

    def __init__(self, fail: bool = False) -> None:
        self.fail, self.seen = fail, set[bool]()

    def on_train_batch_start(self, *_: object) -> None:
        self.seen.add(settings.fill_uninitialized_memory)

    def on_validation_start(self, *_: object) -> None:
        self.seen.add(settings.fill_uninitialized_memory)
        if self.fail:
            raise RuntimeError("planted")


def test_new_tensors_are_left_alone_in_the_block_only() -> None:
    assert is_filled()
    with unfilled_memory():
        assert not is_filled()
        with unfilled_memory():
            pass
        assert not is_filled()
    assert is_filled()
    with pytest.raises(RuntimeError), unfilled_memory():
        raise RuntimeError
    assert is_filled()


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize("fail", [True, False])
def test_a_trainer_puts_the_setting_back_as_it_ends_or_fails(tmp_path: Path, chosen: bool, fail: bool) -> None:
    settings.fill_uninitialized_memory = chosen
    data, look = data_module(random_corpus()), Look(fail)
    trainer = quiet_trainer(tmp_path, 1, callbacks=[UnfilledMemory(), look], deterministic="warn")
    method = registry.method_class("lf_dnn")(data.spec)
    if fail:
        with pytest.raises(RuntimeError, match="planted"):
            trainer.fit(method, datamodule=data)
    else:
        trainer.fit(method, datamodule=data)
        trainer.test(method, datamodule=data, verbose=False)
    assert look.seen == {False}
    assert settings.fill_uninitialized_memory is chosen


def test_what_is_built_from_a_config_has_it(tmp_path: Path) -> None:
    small = ["--data.size=[8,8,8]", "--data.length=8", f"--trainer.default_root_dir={tmp_path}"]
    built = build([Path("lf_dnn_synth")], small)
    assert any(isinstance(callback, UnfilledMemory) for callback in built.trainer.callbacks)


def test_a_grid_is_predicted_without_filling(monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_module(random_corpus())
    method, seen = registry.method_class("lf_dnn")(data.spec), []
    forward = type(method).forward
    monkeypatch.setattr(type(method), "forward", lambda *given: (seen.append(is_filled()), forward(*given))[1])
    evaluate_grid(method, data, GRIDS["paper"][:2])
    assert set(seen) == {False}
    assert is_filled()


def trained(name: str, folder: Path, *callbacks: pl.Callback) -> tuple[MSAMethod, dict[str, Tensor], list[bytes]]:
    """A method after two epochs: its weights, and its predictions as bytes."""
    data = data_module(random_corpus(), batch_size=5, missing=MissingConfig(regime="mixed"))
    torch.manual_seed(0)
    method = registry.method_class(name)(data.spec, **registry.method_info(name).smoke)
    epochs = 2 + sum(method.stage_epochs.values())
    quiet_trainer(folder, epochs, callbacks=list(callbacks), deterministic="warn").fit(method, datamodule=data)
    evaluation = evaluate_grid(method, data, GRIDS["paper"], (0,))
    return method, method.state_dict(), [cell.preds.tobytes() for cell in evaluation.cells]


@pytest.mark.parametrize("name", ["lf_dnn", "lmf", "tfn", "mult", "misa", "umdf", "prlf", "gcnet", "almt", "tf_mamba"])
def test_filling_changes_no_byte(name: str, tmp_path: Path) -> None:
    _, filled, predicted = trained(name, tmp_path)
    _, unfilled, same = trained(name, tmp_path, UnfilledMemory())
    assert all(torch.equal(filled[key], unfilled[key]) for key in filled)
    assert predicted == same

"""The optimiser's fused form: when it is taken, that it learns the same, and that older checkpoints go on in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods import registry
from msabench.methods.base import MSAMethod, Output
from msabench.methods.info import MethodInfo
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus


class OwnAdam(torch.optim.Adam):
    """An optimiser of somebody's own, which may not know of fused steps."""


class Linear(MSAMethod):
    """A linear model."""

    info = MethodInfo(name="linear", title="t", venue="v", year=2026, url="u", fidelity="reference")

    def __init__(self, spec: DataSpec, *, variant: str = "default", own: bool = False, **settings: Any) -> None:
        super().__init__(spec, variant=variant, lr=0.01, **settings)
        self.head = nn.Linear(spec.feature_dims["text"], 1)
        if own:
            self.optimizer_class = OwnAdam

    def forward(self, batch: Batch) -> Output:
        return Output(pred=self.head(batch.text.mean(1)).squeeze(-1))


def made(**settings: Any) -> Linear:
    torch.manual_seed(0)
    return Linear(data_module(random_corpus()).spec, **settings)


def optimizers(method: MSAMethod) -> Sequence[torch.optim.Optimizer]:
    configured = method.configure_optimizers()
    return [entry["optimizer"] for entry in (configured if isinstance(configured, list) else [configured])]


def fit(method: MSAMethod, folder: Path, epochs: int, resume: Path | None = None, **settings: Any) -> Any:
    trainer = quiet_trainer(folder, epochs, **settings)
    data = data_module(random_corpus(), batch_size=5)
    trainer.fit(method, datamodule=data, ckpt_path=resume, weights_only=True)
    return trainer


def not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MSAMethod, "_may_fuse", lambda self, groups: False)


@pytest.mark.parametrize("name", sorted(set(registry.methods()) - {"constant"}))
def test_every_method_steps_fused_in_every_stage(name: str) -> None:
    data = data_module(random_corpus())
    method = registry.method_class(name)(data.spec, **registry.method_info(name).smoke)
    for stage in method.stages:
        method.enter_stage(stage)
        method._trainer = quiet_trainer(Path(), 2 + sum(method.stage_epochs.values()))
        for optimizer in optimizers(method):
            assert all(group["fused"] is True for group in optimizer.param_groups)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("clip", [{}, {"gradient_clip": 0.1}, {"gradient_clip": 0.01, "clip_by": "value"}])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_fused_steps_are_those_of_the_plain_optimiser(
    optimizer: str, clip: dict[str, Any], accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"optimizer": optimizer, "accumulate": accumulate, "weight_decay": 0.1, "lr_patience": 0, **clip}
    fused, plain = made(**settings), made(**settings)
    start = {name: value.clone() for name, value in fused.state_dict().items()}
    one = fit(fused, tmp_path, 5)
    with monkeypatch.context() as patch:
        not_fused(patch)
        other = fit(plain, tmp_path, 5)
    (a,), (b,) = one.optimizers, other.optimizers
    assert (a.defaults["fused"], b.defaults["fused"]) == (True, None)
    assert a.param_groups[0]["lr"] == b.param_groups[0]["lr"]
    for name, value in fused.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], atol=1e-6, rtol=0)
        assert not torch.allclose(value, start[name], atol=1e-3)


def test_not_in_mixed_precision_and_not_for_unknown_optimisers(tmp_path: Path) -> None:
    # Lightning refuses to clip the gradients of a fused optimiser in mixed precision.
    mixed = fit(made(), tmp_path, 1, precision="bf16-mixed", gradient_clip_val=0.5)
    own = fit(made(own=True), tmp_path, 1)
    for trainer in (mixed, own):
        (optimizer,) = trainer.optimizers
        assert not optimizer.defaults["fused"]
        assert optimizer.state
    for precision in ("64-true", "bf16-true"):
        assert fit(made(), tmp_path, 1, precision=precision).optimizers[0].defaults["fused"] is True


def test_gradients_that_lie_otherwise_in_memory_are_laid_out() -> None:
    """The fused kernel on a CPU takes numbers in the order in which they lie there."""
    wanted = torch.arange(4.0).view(2, 2) + 1
    steps = []
    for gradient in (wanted, wanted.t().contiguous().t()):
        method = made()
        weight = torch.nn.Parameter(torch.zeros(2, 2))
        optimizer = method.optimizer_of([{"params": [weight], "lr": 1.0, "betas": (0.0, 0.0), "eps": 10.0}])
        assert optimizer.defaults["fused"] is True
        weight.grad = gradient
        optimizer.step()
        steps.append(weight.detach())
    torch.testing.assert_close(steps[0], -wanted / (wanted + 10.0))
    torch.testing.assert_close(steps[1], steps[0])


def as_saved_before(path: Path) -> None:
    """A checkpoint of a fused training, made into what one saved before optimisers were fused."""
    checkpoint = torch.load(path, weights_only=True)
    (state,) = checkpoint["optimizer_states"]
    for group in state["param_groups"]:
        group["fused"] = None
    for values in state["state"].values():
        values["step"] = torch.tensor(float(values["step"]))
    torch.save(checkpoint, path)


@pytest.mark.parametrize("saved", [None, False, "without the key"])
def test_a_state_by_hand_goes_on_fused(saved: object) -> None:
    method = made()
    (optimizer,) = optimizers(method)
    weight, bias = method.head.weight, method.head.bias
    moments = {
        number: {"exp_avg": torch.full_like(p, 0.5), "exp_avg_sq": torch.full_like(p, 2.0)}
        for number, p in enumerate((weight, bias))
    }
    # Adam's step number was float64 where that was the default type, as in double precision.
    state = {number: {"step": torch.tensor(3.0, dtype=torch.float64), **values} for number, values in moments.items()}
    group = {**optimizer.state_dict()["param_groups"][0], "lr": 0.25, "fused": saved}
    if saved == "without the key":
        del group["fused"]
    optimizer.load_state_dict({"state": state, "param_groups": [group]})
    assert [(g["fused"], g["lr"]) for g in optimizer.param_groups] == [(True, 0.25)]
    for parameter in (weight, bias):
        assert optimizer.state[parameter]["step"].dtype == torch.float32
        parameter.grad = torch.ones_like(parameter)
    before = weight.detach().clone()
    optimizer.step()
    # The fourth step of Adam by its formula.
    first, second = 0.9 * 0.5 + 0.1, 0.999 * 2.0 + 0.001
    step = 0.25 * (first / (1 - 0.9**4)) / ((second / (1 - 0.999**4)) ** 0.5 + 1e-8)
    torch.testing.assert_close(weight.detach(), before - step)
    assert [optimizer.state[p]["step"].item() for p in (weight, bias)] == [4.0, 4.0]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_training_goes_on_from_an_older_checkpoint(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        not_fused(patch)
        whole = made()
        fit(whole, tmp_path, 4)
    half = made()
    fit(half, tmp_path, 2).save_checkpoint(tmp_path / "half.ckpt")
    if precision == "32-true":
        as_saved_before(tmp_path / "half.ckpt")
    rest = made()
    trainer = fit(rest, tmp_path, 4, tmp_path / "half.ckpt", precision=precision)
    (optimizer,) = trainer.optimizers
    # Either way it steps as this trainer should, whatever stepped before.
    assert [bool(group["fused"]) for group in optimizer.param_groups] == [precision == "32-true"]
    assert optimizer.state[rest.head.weight]["step"].item() == trainer.global_step
    tolerance = 1e-6 if precision == "32-true" else 1e-2
    torch.testing.assert_close(rest.head.weight, whole.head.weight, atol=tolerance, rtol=0)

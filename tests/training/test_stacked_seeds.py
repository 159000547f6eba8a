"""Seeds that are trained in one pass are each what they would be alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from msabench.errors import MSABenchError
from msabench.evaluation.evaluate import evaluate_grid
from msabench.methods.checkpoint import load_checkpoint
from msabench.methods.registry import method_info
from msabench.missingness.conditions import GRIDS
from msabench.testing.corpora import data_module, random_corpus
from msabench.training import seed_stack, seed_streams, stacked_fit
from msabench.training.build import Built, build
from msabench.training.finished import FinishedTraining
from msabench.training.seed_stack import SeedStack, joined, limit
from msabench.training.stackable import why_alone
from msabench.training.stacked_fit import STACKED, build_seeds, fit_stacked
from tests.methods.test_steps import Grouped

ROOT = Path(__file__).parents[2]
SEEDS = (1, 2, 3)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def training(method: str, seed: int, folder: Path, *more: str) -> Built:
    """A training of three epochs on a few clips with holes."""
    smoke = method_info(method).smoke.items()
    settings = [
        *(f"--model.init_args.{name}={list(value) if isinstance(value, tuple) else value}" for name, value in smoke),
        "--data.size=[20,12,8]",
        "--data.length=8",
        "--data.batch_size=8",
        "--data.missing.regime=mixed",
        "--trainer.max_epochs=3",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.enable_progress_bar=false",
        f"--seed_everything={seed}",
    ]
    return build([ROOT / f"configs/{method}_synth.yaml"], [*settings, *more], folder / f"{seed}")


def stacked(method: str, folder: Path, *more: str, seeds: Sequence[int] = SEEDS) -> dict[int, str]:
    return fit_stacked(build_seeds([partial(training, method, seed, folder, *more) for seed in seeds]))


def alone(method: str, folder: Path, *more: str, seeds: Sequence[int] = SEEDS) -> None:
    for seed in seeds:
        built = training(method, seed, folder, *more)
        built.trainer.fit(built.model, datamodule=built.datamodule)


def distance(one: Path, other: Path) -> float:
    """Largest difference of two checkpoints' weights and buffers."""
    ours, theirs = (torch.load(path, weights_only=True)["state_dict"] for path in (one, other))
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours)


NORM = ("--trainer.gradient_clip_val=0.05",)
HARD = (
    "--trainer.gradient_clip_val=null",
    "--trainer.gradient_clip_algorithm=null",
    "--model.init_args.gradient_clip=0.05",
    "--model.init_args.accumulate=2",
    "--model.init_args.lr_patience=0",
    "--model.init_args.lr=0.002",
)
"""Limits on each value, sums of losses, and a schedule that meets each seed at another time."""


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("lf_dnn", ()),  # recurrent network, normalisation over the batch, dropout
        ("tfn", ("--early_stop=1", "--trainer.max_epochs=6")),
        ("lmf", ()),
        ("mult", NORM),  # dropout on attention, the trainer's limit
        ("mult", HARD),
        ("bi_mamba", ()),
    ],
)
def test_each_seed_is_what_it_is_alone(method: str, more: tuple[str, ...], tmp_path: Path) -> None:
    assert stacked(method, tmp_path / "stacked", *more) == {}
    alone(method, tmp_path / "alone", *more)
    ended = set()
    for seed in SEEDS:
        ours, theirs = (tmp_path / place / f"{seed}" / "best.ckpt" for place in ("stacked", "alone"))
        if method != "mult":
            # The bias of attention's keys has no gradient but rounding, of which Adam makes whole steps.
            assert distance(ours, theirs) < 2e-5
        one, other = (FinishedTraining.read(path) for path in (ours, theirs))
        for name in ("epochs", "best_epoch", "n_params", "config_hash"):
            assert getattr(one, name) == getattr(other, name), name
        assert one.val_task == pytest.approx(other.val_task, abs=1e-5)
        assert one.provenance[STACKED]["seeds"] == list(SEEDS)
        assert one.provenance.keys() - other.provenance.keys() == {STACKED}
        contents = [torch.load(path, weights_only=True) for path in (ours, theirs)]
        first, second = (content["msabench_random_state"]["cpu"] for content in contents)
        assert torch.equal(first, second), "dropout has drawn something else"
        assert contents[0]["global_step"] == contents[1]["global_step"]
        logs = [pd.read_csv(path.with_name("metrics.csv")) for path in (ours, theirs)]
        columns = ["epoch", "step", "train/loss", "val/task", "val/mae"]
        pd.testing.assert_frame_equal(logs[0][columns], logs[1][columns], atol=1e-5)
        ended.add(one.epochs)
    if method == "tfn":
        assert len(ended) > 1, "the seeds are to stop at different times"


def test_a_checkpoint_of_a_stack_is_like_any_other(tmp_path: Path) -> None:
    stacked("lf_dnn", tmp_path / "stacked", seeds=(1, 2))
    alone("lf_dnn", tmp_path / "alone", seeds=(2,))
    found = []
    for place in ("stacked", "alone"):
        method, state = load_checkpoint(tmp_path / place / "2" / "best.ckpt")
        built = training("lf_dnn", 2, tmp_path / "data")
        built.datamodule.load_state_dict(state)
        found.append(evaluate_grid(method, built.datamodule, GRIDS["inter"], (0,)))
    for one, other in zip(found[0].cells, found[1].cells, strict=True):
        assert one.preds == pytest.approx(other.preds, abs=1e-5)
    again = training("lf_dnn", 2, tmp_path / "again", "--trainer.max_epochs=9")
    path = tmp_path / "stacked" / "2" / "best.ckpt"
    with pytest.raises(MSABenchError, match="several seeds at once, which keeps no optimiser"):
        again.trainer.fit(again.model, datamodule=again.datamodule, ckpt_path=path, weights_only=True)


def _one_stream(generators: Sequence[torch.Generator], seed: Tensor) -> seed_streams.SeedStreams:
    return seed_streams.SeedStreams([generators[0]] * len(generators), seed)


def _limit_of_all(gradients: Sequence[Tensor], most: float, by: str) -> None:
    torch.nn.utils.clip_grads_with_norm_(
        [_with_gradient(gradient) for gradient in gradients],
        most,
        torch.nn.utils.get_total_norm(list(gradients)),
    )


def _with_gradient(gradient: Tensor) -> Tensor:
    parameter = torch.nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient
    return parameter


@pytest.mark.parametrize(
    ("name", "bug", "method", "more"),
    [
        ("SeedStreams", _one_stream, "lmf", ("--model.init_args.dropout_audio=0.5",)),
        ("limit", _limit_of_all, "mult", NORM),
    ],
)
def test_what_seeds_must_not_share_is_seen(
    name: str,
    bug: Callable[..., object],
    method: str,
    more: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(stacked_fit, "require_stackable", lambda builts: None)
    monkeypatch.setattr(seed_stack, name, bug)
    stacked(method, tmp_path / "stacked", *more, seeds=(1, 2))
    alone(method, tmp_path / "alone", *more, seeds=(2,))
    assert distance(tmp_path / "stacked" / "2" / "best.ckpt", tmp_path / "alone" / "2" / "best.ckpt") > 1e-4


def test_limits_are_of_each_seed() -> None:
    gradients = [torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([4.0, 0.4])]
    limit(gradients, 1.0, "norm")
    torch.testing.assert_close(gradients[0], torch.tensor([[0.6, 0.0], [0.3, 0.0]]))
    torch.testing.assert_close(gradients[1], torch.tensor([0.8, 0.4]))
    limit(gradients, 0.5, "value")
    torch.testing.assert_close(gradients[0], torch.tensor([[0.5, 0.0], [0.3, 0.0]]))


def test_limits_are_of_each_group_of_each_seed() -> None:
    data = data_module(random_corpus())
    rows = torch.arange(12).chunk(2)
    batches = [data.training_batch(own, 0) for own in rows]
    methods = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        methods.append(Grouped(data.spec))
    stack = SeedStack(
        methods,
        [torch.Generator() for _ in methods],
        device=torch.device("cpu"),
        gradient_clip=0.05,
        clip_by="group",
        epochs=1,
    )
    stack.add_gradients(joined(batches), "main", first=True)
    for place, (method, batch) in enumerate(zip(methods, batches, strict=True)):
        method.loss(method(batch), batch)["task"].backward()
        for part in (method.side, method.head):
            assert torch.nn.utils.clip_grad_norm_(part.parameters(), 0.05) > 0.05
        for name, parameter in method.named_parameters():
            stacked_gradient = stack.parameters[name].grad
            assert stacked_gradient is not None
            torch.testing.assert_close(stacked_gradient[place], parameter.grad, atol=1e-6, rtol=1e-5)


def test_a_seed_that_fails_harms_no_other(tmp_path: Path) -> None:
    seeds = build_seeds([partial(training, "lmf", seed, tmp_path / "stacked") for seed in SEEDS])
    broken = seeds[1][0].model
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    failures = fit_stacked(seeds)
    assert list(failures) == [2]
    assert failures[2] == "train/loss of lmf is nan in epoch 0"
    assert not (tmp_path / "stacked" / "2" / "finished.json").exists()
    alone("lmf", tmp_path / "alone", seeds=(3,))
    assert distance(tmp_path / "stacked" / "3" / "best.ckpt", tmp_path / "alone" / "3" / "best.ckpt") < 1e-5


@pytest.mark.parametrize(
    ("method", "more", "reason"),
    [
        ("constant", (), "has no weights to train"),
        ("kt", ("--trainer.max_epochs=9",), "trains in the stages teacher, task"),
        ("mmim", (), "steps in a way of its own (gradients, on_train_epoch_start)"),
        ("self_mm", (), "computes what cannot be computed for several seeds in one pass (vmap: We do not support"),
        ("lmf", ("--trainer.precision=bf16-mixed",), "is trained with trainer.precision 'bf16-mixed'"),
        ("lmf", ("--trainer.accumulate_grad_batches=2",), "is trained with trainer.accumulate_grad_batches 2"),
        ("lmf", ("--compile=eager",), "is compiled (eager)"),
        ("lmf", (), ""),
    ],
)
def test_what_cannot_be_stacked_is_said(method: str, more: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    built = training(method, 1, tmp_path, *more)
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    drawn = torch.get_rng_state()
    said = why_alone(built)
    assert said.startswith(reason)
    assert bool(said) == bool(reason)
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in built.model.state_dict().items())


def test_a_method_that_computes_something_else_in_one_pass_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = training("lmf", 1, tmp_path)
    monkeypatch.setattr(seed_stack, "SeedStreams", _one_stream)
    assert why_alone(built).startswith("computes something else in one pass with other seeds")


def test_only_seeds_may_differ(tmp_path: Path) -> None:
    one, same, other = (training("lmf", 1, tmp_path, f"--model.init_args.lr={lr}") for lr in (0.1, 0.1, 0.2))
    state = torch.get_rng_state()
    with pytest.raises(MSABenchError, match=r"repeat one"):
        fit_stacked([(one, state), (same, state)])
    other.datamodule.seed = 2
    with pytest.raises(MSABenchError, match=r"in the seed alone are stacked; \S*lr is 0\.1 and 0\.2"):
        fit_stacked([(one, state), (other, state)])
    assert not list(tmp_path.glob("*/finished.json"))


def test_what_a_stack_costs_is_shared_out(tmp_path: Path) -> None:
    stacked("lmf", tmp_path, seeds=(1, 2))
    found = [json.loads((tmp_path / f"{seed}" / "finished.json").read_text()) for seed in (1, 2)]
    whole = found[0]["provenance"][STACKED]["train_seconds"]
    assert sum(one["train_seconds"] for one in found) == pytest.approx(whole)

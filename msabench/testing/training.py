"""What a method's training must do: lower a finite loss, reach every parameter, leave a checkpoint that says it all."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch

from msabench.data.datamodule import MSADataModule
from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.methods.base import MSAMethod
from msabench.methods.checkpoint import load_checkpoint
from msabench.missingness.conditions import MODALITIES, Cell
from msabench.missingness.config import MissingConfig
from msabench.missingness.regimes import BUILT_IN
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from msabench.testing.subject import build, during, fresh, hold, losses, predict, training_batch

STEPS = 20


def every_variant(cls: type[MSAMethod], folder: Path) -> None:
    """Every variant trains in all its stages and turns, and predicts."""
    data = data_module(random_corpus(), missing=MissingConfig(regime="mixed"))
    for variant in cls.info.variants:
        with during(f"variant {variant}"):
            method = build(cls, data, variant=variant)
            batch = training_batch(method, data)
            for stage in method.stages:
                method.enter_stage(stage)
                for turn in method.turns:
                    method.turn = turn
                    losses(method, batch)
            hold(torch.isfinite(predict(method, data, Cell("la"))).all(), "predictions are not finite")


def gradient_reaches_every_parameter(cls: type[MSAMethod], folder: Path, regime: str) -> None:
    """Under a regime the loss is finite, and every parameter that is trained gets a gradient in a stage or turn."""
    data = data_module(random_corpus(), missing=MissingConfig(regime=regime, **_settings(regime)))
    with torch.random.fork_rng(), during(f"regime {regime}"):
        silent = _without_gradient(_moved(cls, data), data)
    hold(
        not silent,
        f"regime {regime}: no gradient reaches {', '.join(sorted(silent))}; what is not trained is a buffer, is frozen "
        "by prepare_stage, or goes",
    )


def specialist_trains_what_it_reads(cls: type[MSAMethod], folder: Path, only: str) -> None:
    """Where training clips have one modality alone, every parameter that the task term reads gets a gradient.

    What is there for the two other modalities gets none, by what the regime is. Such parameters are told by this: the
    task term of any training batch stays as it is when they are changed.
    """
    data = data_module(random_corpus(), missing=MissingConfig(regime="only", only=only))
    with torch.random.fork_rng(), during(f"regime only({only})"):
        method = _moved(cls, data)
        silent = _without_gradient(method, data)
        before = _task_terms(method, data)
        torch.manual_seed(2)
        read = []
        for key, parameter in method.named_parameters():
            if key in silent:
                kept = parameter.detach().clone()
                with torch.no_grad():
                    parameter.add_(0.1 * torch.randn_like(parameter))
                read += [key] if not torch.equal(_task_terms(method, data), before) else []
                with torch.no_grad():
                    parameter.copy_(kept)
    hold(
        not read,
        f"regime only({only}): the task term reads {', '.join(sorted(read))}, which no gradient reaches; what is not "
        "trained is a buffer, or is frozen by prepare_stage",
    )


def _settings(regime: str) -> dict[str, Any]:
    """Settings of a regime under which every modality is there, and is lacking or has gaps, in some clips."""
    return {"rates": "l=0.2,a=0.5,v=0.3"} if regime == "per_modality" else dict(BUILT_IN[regime].example)


def _moved(cls: type[MSAMethod], data: MSADataModule) -> MSAMethod:
    """A method before its training, a little away from where its parameters begin; then the seed is 0."""
    method = fresh(cls, data).train()
    torch.manual_seed(1)
    with torch.no_grad():  # a LayerNorm's gain gets no gradient as long as what it normalises is all ones
        for parameter in method.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    torch.manual_seed(0)
    return method


def _task_terms(method: MSAMethod, data: MSADataModule) -> torch.Tensor:
    """The task term of the epochs that ``_without_gradient`` looks at, in the last stage and turn; ``(3,)``."""
    torch.manual_seed(0)
    # With gradients, since a method may take a step of its own within its loss.
    terms = [losses(method, training_batch(method, data, rows=11, epoch=epoch)) for epoch in range(3)]
    return torch.stack([term["task"].detach() for term in terms])


def _without_gradient(method: MSAMethod, data: MSADataModule) -> set[str]:
    silent = set(dict(method.named_parameters()))
    terms = {}
    for stage in method.stages:
        method.enter_stage(stage)
        for turn in method.turns:
            method.turn = turn
            # ReLUs may be dead for a batch; over three epochs of masks every parameter must have moved.
            for epoch in range(3):
                # An odd number of clips: L1's gradients are signs, and an even number of them can cancel exactly.
                terms = losses(method, training_batch(method, data, rows=11, epoch=epoch))
                total = torch.stack(list(terms.values())).sum()
                if total.requires_grad:
                    torch.autograd.backward(total)
            served = {id(p) for group in method.param_groups() for p in group["params"]}
            for key, parameter in method.named_parameters():
                if id(parameter) in served and parameter.requires_grad and parameter.grad is not None:
                    silent -= {key} if parameter.grad.any() else set()
            method.zero_grad()
        if stage == method.stages[0]:
            silent -= {key for key, parameter in method.named_parameters() if not parameter.requires_grad}
    hold("task" in terms, f"the loss of the last stage has no term task, but {', '.join(terms)}")
    return silent


def twenty_steps_lower_the_loss(cls: type[MSAMethod], folder: Path, task: str) -> None:
    """Twenty steps of Adam on one batch lower the task term; a method without parameters has nothing to lower."""
    data = data_module(random_corpus(task))
    method = build(cls, data).train()
    parameters = [p for group in method.param_groups() for p in group["params"]]  # those of the turn
    if not parameters:
        return
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    batch = training_batch(method, data, rows=24)
    course = []
    with torch.random.fork_rng(), during("training"):
        torch.manual_seed(0)
        for _ in range(STEPS):
            optimizer.zero_grad()
            terms = losses(method, batch)
            torch.autograd.backward(torch.stack(list(terms.values())).sum())
            optimizer.step()
            course.append(terms["task"].item())
    first, last = sum(course[:3]) / 3, sum(course[-3:]) / 3
    hold(last < first, f"{STEPS} steps on one batch take the task term from {first:.3f} to {last:.3f}: it must fall")


def batch_of_one(cls: type[MSAMethod], folder: Path) -> None:
    """A batch of a single clip gives a finite loss."""
    data = data_module(random_corpus())
    method = build(cls, data).train()
    with during("a batch of one clip"):
        losses(method, training_batch(method, data, rows=1))


def modality_missing_for_a_whole_batch(cls: type[MSAMethod], folder: Path) -> None:
    """A batch in which no clip has a modality gives a finite loss."""
    corpus = random_corpus()
    method = build(cls, data_module(corpus)).train()
    for modality in MODALITIES:
        without = copy.deepcopy(corpus)
        without.splits["train"].features[modality].zero_()
        without.splits["train"].lengths[modality].zero_()
        with during(f"a batch without {modality}"):
            losses(method, training_batch(method, data_module(without)))


def checkpoint_round_trip(cls: type[MSAMethod], folder: Path) -> None:
    """A fit's checkpoint alone rebuilds the method, to the same predictions; another method refuses it."""
    data = data_module(random_corpus(), batch_size=12)
    # Not from ``build``: what a last stage freezes stays frozen, and a fit begins with the first stage.
    method = fresh(cls, data)
    trainer = quiet_trainer(folder, 1 + sum(method.stage_epochs.values()))
    checkpoint = folder / "checkpoint.ckpt"
    with during("a fit"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
        trainer.fit(method, datamodule=data)
        trainer.save_checkpoint(checkpoint)
    with during("rebuilding from a checkpoint"):
        loaded, _ = load_checkpoint(checkpoint)
        hold(type(loaded) is cls, f"it is a {type(loaded).__qualname__}")
        before, after = predict(method, data, Cell("l")), predict(loaded, data, Cell("l"))
        hold(
            torch.equal(before, after),
            "it predicts something else; what a training changes must be a parameter or a buffer",
        )
    stranger = build(registry.method_class("lf_dnn" if cls.info.name != "lf_dnn" else "constant"), data)
    try:
        stranger.on_load_checkpoint(torch.load(checkpoint, weights_only=True))
    except MSABenchError:
        return
    raise AssertionError(f"{stranger.info.name} takes the checkpoint for one of its own")

"""Which trainings can be stacked: one sentence says why others cannot.

Settings and hooks are looked at; whether one pass computes what S passes would is tried on a few clips, on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.errors import MSABenchError, first_difference
from msabench.methods.base import MSAMethod
from msabench.results.job_identity import what_is_trained
from msabench.training.build import Built
from msabench.training.seed_stack import SeedStack, joined, own_buffers

PLAIN_TRAINER: dict[str, tuple[Any, ...]] = {
    "precision": (None, 32, "32", "32-true"),
    "accumulate_grad_batches": (1,),
    "limit_train_batches": (None, 1.0),
    "limit_val_batches": (None, 1.0),
    "val_check_interval": (None, 1.0),
    "check_val_every_n_epoch": (1,),
    "overfit_batches": (0.0,),
    "max_steps": (-1,),
    "min_epochs": (None,),
    "min_steps": (None,),
    "max_time": (None,),
    "callbacks": (None, []),
    "fast_dev_run": (False,),
    "reload_dataloaders_every_n_epochs": (0,),
    "num_nodes": (1,),
}
"""Settings of the trainer -> the values under which trainings can be stacked."""

OWN_WAYS = (
    "gradients",
    "training_step",
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_epoch_end",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_epoch_end",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "on_save_checkpoint",
    "on_load_checkpoint",
    "configure_optimizers",
    "optimizer_step",
    "validation_step",
)
"""Hooks that a stack of seeds calls for none of them: a method that writes one of its own is trained alone."""

AMPLIFIES = {"cubemlp": "8e-5"}
"""Methods that rounding moves by more than 1e-5 in an epoch or two -> how far ``val/task`` was apart after three."""

CLIPS = 6
"""Clips that the trial takes."""

TOLERANCE = 1e-4
"""Largest error of a gradient in the trial, as a share of the largest gradient."""


def why_alone(built: Built) -> str:
    """Why a training cannot be stacked with other seeds of it, in words that follow its name; empty if it can be.

    Args:
        built: The training, before it begins, with its method on the CPU; it is left as it is.
    """
    method, config = built.model, built.config
    for name, allowed in PLAIN_TRAINER.items():
        if config["trainer"].get(name) not in allowed:
            return f"is trained with trainer.{name} {config['trainer'][name]!r}, which seeds in one pass do not know"
    if method.info.name in AMPLIFIES:
        return f"amplifies rounding, so that its seeds would not come out as alone ({AMPLIFIES[method.info.name]})"
    if config["compile"]:
        return f"is compiled ({config['compile']}), which passes over several seeds are not"
    if config["wandb"]:
        return "is logged to Weights & Biases, which has one run a process"
    if built.trainer.world_size > 1:
        return f"is trained on {built.trainer.world_size} devices"
    if (built.trainer.max_epochs or -1) < 1:
        return "is trained without a limit of epochs"
    if len(method.stages) > 1:
        return f"trains in the stages {', '.join(method.stages)}"
    if not method.trains_anything:
        return "has no weights to train"
    own = [name for name in OWN_WAYS if getattr(type(method), name) is not getattr(MSAMethod, name)]
    if own:
        return f"steps in a way of its own ({', '.join(own)})"
    if method.data_needs.conversations:
        return "reads whole conversations, so that the batches of different seeds differ in size"
    if method.data_needs.passes > 1:
        return f"goes over its clips {method.data_needs.passes} times an epoch"
    return _why_not_in_one_pass(built)


def require_stackable(builts: Sequence[Built]) -> None:
    """Refuse trainings that cannot be stacked.

    Raises:
        MSABenchError: They differ in more than the seed, a seed stands twice, or ``why_alone`` says why.
    """
    first = builts[0]
    numbers = [built.datamodule.seed for built in builts]
    if len(set(numbers)) < len(numbers):
        raise MSABenchError(f"the seeds {numbers} repeat one; give each once")
    for other in builts[1:]:
        different = first_difference(what_is_trained(first.config), what_is_trained(other.config))
        if different:
            name, one, two = different
            raise MSABenchError(
                f"only trainings that differ in the seed alone are stacked; {name} is {one!r} and {two!r}"
            )
    reason = why_alone(first)
    if reason:
        raise MSABenchError(f"{first.model.info.name} {reason}; train its seeds one by one")


def _why_not_in_one_pass(built: Built) -> str:
    """Try one pass with two seeds of the same weights, and compare it with a pass of each."""
    method, data = built.model, built.datamodule
    rows = torch.arange(min(2 * CLIPS, len(data.corpus.splits["train"]) // 2 * 2)).chunk(2)
    if len(rows) < 2:
        return f"has too few training clips ({len(data.corpus.splits['train'])}) to try it"
    batches = [data.training_batch(own, 0, needs=method.data_needs) for own in rows]
    shown = batches[0].for_inference()
    for turn in method.turns:
        alone = [_alone(method, batch, turn, place) for place, batch in enumerate(batches)]
        stack = SeedStack(
            [method, method],
            [torch.Generator().manual_seed(place) for place in (0, 1)],
            device=torch.device("cpu"),
            gradient_clip=None,
            clip_by="norm",
            epochs=1,
        )
        try:
            predictions = stack.predictions(shown)
            terms = stack.add_gradients(joined(batches), turn, first=True)
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            said = " ".join(str(error).split()).partition(". ")[0]
            return f"computes what cannot be computed for several seeds in one pass ({said})"
        together = {
            **terms,
            **stack.buffers,
            **{name: p.grad for name, p in stack.parameters.items() if p.grad is not None},
        }
        with torch.no_grad():
            gap = float((predictions - method.eval()(shown).pred).abs().max())
        for place, found in enumerate(alone):
            resized = [name for name, value in found.items() if together[name][place].shape != value.shape]
            if resized:
                return f"keeps values whose number changes ({resized[0]})"
            largest = max(float(value.abs().max()) for value in found.values() if value.numel())
            gap = max(gap, *(float((together[n][place] - v).abs().max()) for n, v in found.items() if v.numel()))
            if not gap <= TOLERANCE * max(largest, 1.0):
                return f"computes something else in one pass with other seeds (by {gap / max(largest, 1.0):.1g})"
    return ""


def _alone(method: MSAMethod, batch: Batch, turn: str, place: int) -> dict[str, Tensor]:
    """Loss terms, gradients and buffers after a step's pass; the method is left as it was."""
    before = {name: (buffer, buffer.clone()) for name, buffer in method.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(place)
        method.train()
        method.turn = turn
        terms = method.loss(method.training_forward(batch), batch)
    total = torch.stack(list(terms.values())).sum()
    trained = [(name, p) for name, p in method.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(total, [p for _, p in trained], allow_unused=True)
    found = {name: term.detach() for name, term in terms.items()}
    turns = {id(p) for group in method.param_groups() for p in group["params"]}
    found |= {n: g for (n, p), g in zip(trained, gradients, strict=True) if g is not None and id(p) in turns}
    found |= {name: buffer.clone() for name, buffer in own_buffers(method).items()}
    with torch.no_grad():
        for name, (buffer, value) in before.items():
            owner, _, leaf = name.rpartition(".")
            method.get_submodule(owner)._buffers[leaf] = buffer.copy_(value)
    return found

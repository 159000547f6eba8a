"""How losses become gradients, and gradients steps."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.engine.epoch_means import EpochMeans
from msabench.methods.engine.gathering import Gathering
from msabench.methods.engine.stages import Stages

_FUSED = (torch.optim.Adam, torch.optim.AdamW)
"""Optimisers that have a fused form."""


class Steps(Stages, Gathering):
    """Takes the steps of each turn, with its optimiser and its schedule, and logs the loss terms.

    The attributes are arguments of ``MSAMethod``. ``turns_of``, ``gradients`` and ``steps_after`` are for methods whose
    official code steps in a way of its own.
    """

    lr: float
    weight_decay: float
    lr_patience: int | None
    lr_factor: float
    optimizer_class: type[torch.optim.Adam]
    gradient_clip: float | None
    clip_by: Literal["norm", "value", "group"]
    accumulate: int

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self._epoch_means = EpochMeans()

    # What a method may do in its own way.

    def lr_multiplier(self, epoch: int, epochs: int) -> float:
        """Factor on the learning rate, for methods with a schedule of their own.

        Args:
            epoch: Epoch within the stage, from 0.
            epochs: Epochs of the stage.
        """
        return 1.0

    def turns_of(self, number: int, batches: int) -> dict[str, int]:
        """The turns that a batch of an epoch takes, in order, and its place from 0 among the batches of each.

        Args:
            number: Number of the batch in the epoch, from 0.
            batches: Batches of the epoch.
        """
        return dict.fromkeys(self.turns, number)

    def steps_after(self, place: int) -> int:
        """How many steps follow the gradients of a batch.

        Args:
            place: Its place from 0 among the batches of its turn.
        """
        return int((place + 1) % self.accumulate == 0)

    def gradients(self, optimizer: Any, batch: Batch, *, first: bool) -> None:
        """Gradients of the current turn's loss, limited; the parameters of other turns are frozen meanwhile.

        Args:
            optimizer: Optimiser of the turn.
            batch: The batch.
            first: Whether what has added up is forgotten before.
        """
        # With one turn there is nothing to freeze.
        alone = len(self.turns) == 1
        if not alone:
            self.toggle_optimizer(optimizer)
        if first:
            optimizer.zero_grad()
        self.manual_backward(self.turn_loss(batch))
        if self.gradient_clip is not None and self.clip_by == "group":
            for group in optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], self.gradient_clip)
        elif self.gradient_clip is not None:
            self.clip_gradients(optimizer, self.gradient_clip, self.clip_by)
        if not alone:
            self.untoggle_optimizer(optimizer)

    # The steps.

    @property
    def automatic_optimization(self) -> bool:
        """Whether Lightning steps the optimiser: it cannot take turns, sum over batches, or optimise nothing."""
        one_turn = all(len(turns) == 1 for turns in self.schedule.values())
        return one_turn and self.accumulate == 1 and self.gradient_clip is None and self.trains_anything

    @automatic_optimization.setter
    def automatic_optimization(self, automatic: bool) -> None:
        raise AttributeError("it follows from the schedule")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One optimisation step's loss; with several turns, a step of each."""
        if self.automatic_optimization:
            return self.turn_loss(batch)
        if not self.trains_anything:
            self.turn_loss(batch)
            return None
        optimizers = dict(zip(self.turns, _as_list(self.optimizers()), strict=True))
        for turn, place in self.turns_of(batch_idx, int(self.trainer.num_training_batches)).items():
            self.turn = turn
            self.gradients(optimizers[turn], batch, first=place % self.accumulate == 0)
            for _ in range(self.steps_after(place)):
                optimizers[turn].step()
        return None

    def turn_loss(self, batch: Batch) -> Tensor:
        """Sum of the loss terms of the current turn, over the global batch; notes them for the log."""
        terms = self.loss(*self.gathered(self.training_forward(batch), batch))
        total = torch.stack(list(terms.values())).sum()
        prefix = "loss" if len(self.turns) == 1 else f"loss_{self.turn}"
        self._epoch_means.add({prefix: total, **{f"{prefix}_{name}": term for name, term in terms.items()}}, batch.size)
        return total

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean of every loss term; a loss that is not finite ends the run."""
        means = {f"train/{name}": mean for name, mean in self._epoch_means.take().items()}
        for name, value in means.items():
            if not torch.isfinite(value):
                raise MSABenchError(f"{name} of {self.info.name} is {value.item()} in epoch {self.current_epoch}")
        self.log_dict(means)
        if not self.automatic_optimization:
            for scheduler in _as_list(self.lr_schedulers()):
                if not isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step()

    def step_plateaus(self, val_task: Tensor) -> None:
        """Step the schedules that watch the validation, where Lightning does not.

        Args:
            val_task: ``val/task``, a scalar.
        """
        if not self.automatic_optimization and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            for scheduler in _as_list(self.lr_schedulers()):
                if isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step(float(val_task))

    # Optimisers.

    def configure_optimizers(self) -> Any:
        """An optimiser for each turn of the stage, over ``param_groups()``, and its learning rate's schedule."""
        made: list[dict[str, Any]] = []
        for turn in self.turns:
            self.turn = turn
            groups = [group for group in self.param_groups() if group["params"]]
            if not groups:
                return None
            optimizer = self.optimizer_of(groups)
            made.append({"optimizer": optimizer, **self._scheduled(optimizer)})
        return made[0] if len(made) == 1 else made

    def optimizer_of(self, groups: list[dict[str, Any]]) -> torch.optim.Adam:
        """The method's optimiser of some groups of parameters, in its fused form where that can be had."""
        settings: dict[str, Any] = {"fused": True} if self._may_fuse(groups) else {}
        optimizer = self.optimizer_class(groups, lr=self.lr, weight_decay=self.weight_decay, **settings)
        if self.optimizer_class in _FUSED:
            optimizer.register_load_state_dict_pre_hook(_keep_fused)
        if settings:
            optimizer.register_step_pre_hook(_lay_out)
        return optimizer

    def _may_fuse(self, groups: list[dict[str, Any]]) -> bool:
        """Whether one kernel may update all parameters of a device, which saves most of what a small step costs."""
        # In mixed precision Lightning refuses to clip gradients for a fused optimiser, which unscales them itself.
        mixed = self._trainer is not None and isinstance(self.trainer.precision_plugin, MixedPrecision)
        parameters = [parameter for group in groups for parameter in group["params"]]
        return (
            self.optimizer_class in _FUSED
            and not mixed
            and all(p.device.type in ("cpu", "cuda") for p in parameters)
            and all(p.is_floating_point() and p.is_contiguous() for p in parameters)
        )

    def _scheduled(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        if self.lr_patience is not None:
            plateau = ReduceLROnPlateau(optimizer, mode="min", factor=self.lr_factor, patience=self.lr_patience)
            # Lightning steps it, and so needs to know what to watch, only where it also steps the optimiser.
            watched = {"monitor": "val/task"} if self.automatic_optimization else {}
            return {"lr_scheduler": {"scheduler": plateau, **watched}}
        if type(self).lr_multiplier is Steps.lr_multiplier:
            return {}
        epochs = self.stage_epochs.get(self.stage, 0)
        if self.in_last_stage:
            epochs = (self.trainer.max_epochs or 0) - sum(self.stage_epochs.values())
        return {"lr_scheduler": LambdaLR(optimizer, lambda epoch: self.lr_multiplier(epoch, epochs))}

    # What is refused before the first step.

    def on_train_start(self) -> None:
        """Refuse what would train nothing, and what would give other losses on several devices than on one."""
        self._require_steps()
        if self.trainer.world_size > 1 and (len(self.stages) > 1 or not self.automatic_optimization):
            settings = getattr(self.trainer.strategy, "_ddp_kwargs", {"find_unused_parameters": True})
            if not settings.get("find_unused_parameters"):
                raise MSABenchError(
                    f"{self.info.name} does not train all of its parameters in every step; on several devices it needs "
                    "--trainer.strategy=ddp_find_unused_parameters_true"
                )
        unsynchronised = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
        if self.trainer.world_size > 1 and any(isinstance(module, unsynchronised) for module in self.modules()):
            raise MSABenchError(
                f"{self.info.name} normalises over its batch, which {self.trainer.world_size} devices do not share; "
                "train it on one device, or on GPUs with --trainer.sync_batchnorm=true"
            )

    def _require_steps(self) -> None:
        """Refuse a training in which an optimiser would never step."""
        if not self.trains_anything or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        total = int(self.trainer.num_training_batches)
        needed = next((place + 1 for place in range(self.accumulate) if self.steps_after(place)), self.accumulate)
        taken = [self.turns_of(number, total) for number in range(total)]
        for turn in self.turns:
            found = sum(turn in turns for turns in taken)
            if found < needed:
                ways = ["a smaller data.batch_size"]
                ways += ["a smaller model.init_args.accumulate"] if needed > 1 else []
                ways += ["a larger trainer.limit_train_batches"] if total < len(self.trainer.train_dataloader) else []  # type: ignore[arg-type]
                raise MSABenchError(
                    f"{self.info.name} takes its first step after {needed} batches, but "
                    f"{'an epoch' if found == total else f'turn {turn!r} of an epoch'} has {found}, so it would never "
                    f"take one; give {' or '.join(ways)}"
                )


def _keep_fused(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A saved state with this optimiser's way of stepping: torch would go on in that of the one that saved."""
    fused = optimizer.defaults["fused"]
    return {**state, "param_groups": [{**group, "fused": fused} for group in state["param_groups"]]}


def _lay_out(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Lay gradients out as their parameters are: torch's fused kernel on a CPU reads both as they lie in memory.

    Autograd does so itself; a gradient that somebody has set need not be.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and not parameter.grad.is_contiguous():
                parameter.grad = parameter.grad.contiguous()


def _as_list(value: Any) -> list[Any]:
    """Lightning gives None, one thing, or a list of several."""
    return value if isinstance(value, list) else [] if value is None else [value]

"""The contract of a method, and everything that all methods share."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.data.needs import Needs
from msabench.errors import MSABenchError, first_difference, one_of
from msabench.methods.info import MethodInfo
from msabench.metrics.collection import PredictionMetrics
from msabench.nn.text import parameter_groups

CHECKPOINT_KEY = "msabench"
RANDOM_KEY = "msabench_random_state"


@dataclass
class Output:
    """What a forward pass returns. B is the number of clips.

    Attributes:
        pred: float32 ``(B,)``, score in label units; for IEMOCAP logits ``(B, 4, 2)``.
        logits: float32 ``(B, C)`` where the task head classifies; None otherwise.
        unimodal: modality -> float32 ``(B,)``, scores of unimodal heads.
        representation: float32 ``(B, H)``, the joint representation, for figures; None if there is none.
        aux: Whatever ``loss`` needs besides; nothing outside the method reads it. The first axis is the batch.
    """

    pred: Tensor
    logits: Tensor | None = None
    unimodal: dict[str, Tensor] = field(default_factory=dict)
    representation: Tensor | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)


class MSAMethod(pl.LightningModule, ABC):
    """Base of all methods.

    A method writes ``info``, ``__init__``, ``forward`` and ``loss``; the base owns the steps, optimisation, logging,
    metrics and selection. Validation, test and prediction are never overridden, so every number in a table went
    through the same lines.

    Most methods train one thing from the first epoch to the last. Where a paper trains in several ways, ``schedule``
    says so. *Stages* follow one another within one fit: all but the last take the epochs in ``stage_epochs``, and only
    epochs of the last one are selected. *Turns* alternate within every batch, each with an optimiser of its own.

    Args:
        spec: What the data look like; filled in from the data module.
        variant: ``default`` or one of ``info.variants``.
        lr: Learning rate of Adam.
        weight_decay: L2 weight decay of Adam.
        task_loss: Task loss for scores: ``l1`` or ``mse``. IEMOCAP's emotions always use cross-entropy.
        lr_patience: Epochs without a better ``val/task`` after which the learning rate is multiplied by
            ``lr_factor``; None keeps it constant.
        lr_factor: See ``lr_patience``.
        optimizer: ``adam``, or ``adamw`` with decoupled weight decay.
        gradient_clip: Limit of a step's gradient, see ``clip_by``; None for none. Methods with one turn a batch and
            ``accumulate`` 1 may also leave it to the trainer.
        clip_by: Whether ``gradient_clip`` limits the norm of all gradients or the size of each.
        accumulate: Batches whose losses are summed, not averaged, before a step; batches left over at the end of an
            epoch are dropped, and an epoch of fewer is refused. So do several official codes; the trainer's
            ``accumulate_grad_batches`` averages, and steps at the end of an epoch whatever is left.

    Attributes:
        schedule: Stage -> its turns, in order. A method may set another one in its constructor.
        stage_epochs: Stage -> epochs, for every stage but the last; set in the constructor.
        text_lr: Learning rate of a trained text encoder; set in the constructor of methods that take one.
        padding: Where padding stands when the method reads clips, ``front`` or ``stored``; set in the constructor of
            methods that have the choice, else empty; kept in records.
        complete_stages: Stages that train on complete data alone, whatever the regime, such as a teacher's; what they
            end with can be shared by jobs that differ in the regime only.
        turns_alternate: Whether each ``batch`` gets a step of every turn, or each turn makes a ``pass`` of its own over
            the training split within every epoch; the latter for methods with one stage.
        pass_share: Turn -> share in (0, 1] of its pass after which it stops, where turns alternate by passes; 1 if a
            turn is not named.
        turns_alone: Whether the parameters of other turns are frozen in a turn. If not, they get gradients, which count
            in the norm that is clipped, but no step.
    """

    info: ClassVar[MethodInfo]
    schedule: Mapping[str, tuple[str, ...]] = MappingProxyType({"task": ("main",)})
    complete_stages: ClassVar[tuple[str, ...]] = ()
    text_lr: float | None = None
    padding: str = ""
    turns_alternate: ClassVar[Literal["batch", "pass"]] = "batch"
    pass_share: Mapping[str, float] = MappingProxyType({})
    turns_alone: ClassVar[bool] = True
    init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> MSAMethod:
        """Remember the constructor's arguments: checkpoints carry them as plain values and load without pickle."""
        self = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        bound.apply_defaults()
        if isinstance(bound.arguments.get("spec"), dict):
            # The command line builds a DataSpec where the constructor says that it takes one.
            raise MSABenchError(
                f"{cls.__name__}.__init__ takes spec without its type; write spec: DataSpec, from msabench.data.info"
            )
        given = {name: value for name, value in bound.arguments.items() if name not in ("self", "spec")}
        object.__setattr__(self, "init_args", given)
        return self

    def __init__(
        self,
        spec: DataSpec,
        *,
        variant: str = "default",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        task_loss: Literal["l1", "mse"] = "l1",
        lr_patience: int | None = None,
        lr_factor: float = 0.1,
        optimizer: Literal["adam", "adamw"] = "adam",
        gradient_clip: float | None = None,
        clip_by: Literal["norm", "value"] = "norm",
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        if accumulate < 1:
            raise MSABenchError(f"accumulate {accumulate} is not allowed; give at least 1")
        if variant not in ("default", *self.info.variants):
            raise one_of(f"variant of {self.info.name}", variant, ("default", *self.info.variants))
        if spec.task not in self.info.tasks:
            raise one_of(f"task for {self.info.name}", spec.task, self.info.tasks)
        self.spec = spec
        self.variant = variant
        self.lr = lr
        self.weight_decay = weight_decay
        self.criterion = task_loss
        self.lr_patience = lr_patience
        self.lr_factor = lr_factor
        self.optimizer_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
        self.gradient_clip = gradient_clip
        self.clip_by = clip_by
        self.accumulate = accumulate
        self.stage_epochs: dict[str, int] = {}
        self._stage = ""
        self._turn = ""
        self._frozen: list[nn.Module] = []
        self._random_state: dict[str, Tensor] | None = None
        self._random_state_before = torch.get_rng_state()
        self._epoch_sums: dict[str, Tensor] = {}
        self._epoch_clips: dict[str, int] = {}
        self._val_metrics = PredictionMetrics(spec.metric_set)
        self._test_metrics: dict[int, PredictionMetrics] = {}
        self.test_results: dict[str, dict[str, float]] = {}

    # What a method writes.

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Predict from what a deployed model sees. Reads features, masks and tokens of ``batch``, nothing else."""

    def training_forward(self, batch: Batch) -> Output:
        """Forward pass in training; may read ``batch.views`` and ``batch.complete``."""
        return self(batch)

    @abstractmethod
    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Named loss terms of the current stage and turn, already weighted; the base sums them.

        On several devices ``out`` and the batch's labels, index, masks and complete version have been gathered, so
        means and batch-level losses are over the global batch.
        """

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser of the current turn.

        All that is trained, and a trained text encoder at its own learning rate ``text_lr``.
        """
        return parameter_groups(self, self.text_lr)

    def prepare_stage(self, stage: str) -> None:
        """Freeze what a stage does not train. Called on entering it, also from a checkpoint, so at times twice.

        What is frozen once stays frozen: several devices agree at the start on what is trained.
        """

    def freeze_parts(self, *parts: nn.Module | None) -> None:
        """Stop training parts for the rest of the fit, for use in ``prepare_stage``; None stands for a part left out.

        They get no gradients and stay in evaluation mode, without dropout, when the trainer puts the method as a whole
        into training mode.
        """
        for part in parts:
            if part is not None:
                part.requires_grad_(False).eval()
                self._frozen.append(part)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def lr_multiplier(self, epoch: int, epochs: int) -> float:
        """Factor on the learning rate, for methods with a schedule of their own.

        Args:
            epoch: Epoch within the stage, from 0.
            epochs: Epochs of the stage.
        """
        return 1.0

    @property
    def data_needs(self) -> Needs:
        """What batches must bring: tokens if a part reads them, and what ``info.trains_with`` names.

        A method that needs more replaces a field, e.g. ``replace(super().data_needs, conversations=True)``.
        """
        return Needs(
            tokens=any(getattr(module, "reads_tokens", False) for module in self.modules() if module is not self),
            views="views" in self.info.trains_with,
            complete="complete" in self.info.trains_with,
            passes=self.passes,
        )

    # What training batches bring, for methods whose ``info.trains_with`` asks for it.

    def views_of(self, batch: Batch) -> tuple[Batch, Batch]:
        """The two corrupted versions of a training batch.

        Raises:
            MSABenchError: It has none.
        """
        if batch.views is None:
            raise MSABenchError(
                f"{self.info.name} trains on two corrupted versions of each clip and the batch has none; "
                "take batches from a data module that knows the method needs views"
            )
        return batch.views

    def complete_of(self, batch: Batch) -> Batch:
        """The complete version of a training batch.

        Raises:
            MSABenchError: It has none.
        """
        if batch.complete is None:
            raise MSABenchError(
                f"{self.info.name} trains on complete clips and the batch has no complete version; "
                "take batches from a data module that knows the method needs it"
            )
        return batch.complete

    # Task head.

    @property
    def n_outputs(self) -> int:
        """Width of the last layer: 1 score, or 4 emotions x 2 logits."""
        return 8 if self.spec.task == "emotions" else 1

    def to_pred(self, outputs: Tensor) -> Tensor:
        """Shape the last layer's ``(B, n_outputs)`` as predictions: ``(B,)`` or ``(B, 4, 2)``."""
        return outputs.view(-1, 4, 2) if self.spec.task == "emotions" else outputs.squeeze(-1)

    def task_loss(self, pred: Tensor, labels: Tensor) -> Tensor:
        """The task term: L1 or MSE of the score, or cross-entropy averaged over clips and emotions.

        Args:
            pred: ``(B,)`` or ``(B, 4, 2)``.
            labels: ``(B,)`` float or ``(B, 4)`` int64.
        """
        if self.spec.task == "emotions":
            return F.cross_entropy(pred.reshape(-1, 2), labels.reshape(-1))
        return F.l1_loss(pred, labels) if self.criterion == "l1" else F.mse_loss(pred, labels)

    # Stages and turns.

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in order."""
        return tuple(self.schedule)

    @property
    def stage(self) -> str:
        """The current stage."""
        return self._stage or self.stages[0]

    @property
    def in_last_stage(self) -> bool:
        """Whether this is the stage whose epochs are selected from and evaluated."""
        return self.stage == self.stages[-1]

    @property
    def turns(self) -> tuple[str, ...]:
        """The turns of the current stage."""
        return self.schedule[self.stage]

    @property
    def turn(self) -> str:
        """The current turn."""
        return self._turn or self.turns[0]

    @turn.setter
    def turn(self, turn: str) -> None:
        if turn not in self.turns:
            raise one_of(f"turn of {self.info.name} in stage {self.stage!r}", turn, self.turns)
        self._turn = turn

    @property
    def automatic_optimization(self) -> bool:
        """Whether Lightning steps the optimiser: it cannot take turns, sum over batches, or optimise nothing."""
        one_turn = all(len(turns) == 1 for turns in self.schedule.values())
        return one_turn and self.accumulate == 1 and self.gradient_clip is None and self._trains_anything

    @automatic_optimization.setter
    def automatic_optimization(self, automatic: bool) -> None:
        raise AttributeError("it follows from the schedule")

    @property
    def passes(self) -> int:
        """Passes over the training split in an epoch."""
        return len(self.turns) if self.turns_alternate == "pass" else 1

    @property
    def _trains_anything(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())

    def enter_stage(self, stage: str) -> None:
        """Go to a stage.

        Raises:
            MSABenchError: The method has no such stage.
        """
        if stage not in self.schedule:
            raise one_of(f"stage of {self.info.name}", stage, self.stages)
        self._stage, self._turn = stage, ""
        self.prepare_stage(stage)

    def configure_callbacks(self) -> list[pl.Callback]:
        """Note where random draws have come to: on several devices Lightning then goes back to the seed."""
        self._random_state_before = torch.get_rng_state()
        return []

    def setup(self, stage: str) -> None:
        """Begin a fit in the first stage, unless a checkpoint says otherwise; draw on as one device would.

        Raises:
            MSABenchError: The trainer's epochs leave none for the last stage, or several devices have nothing to train.
        """
        if stage != "fit":
            return
        if self.trainer.world_size > 1 and not self._trains_anything:
            raise MSABenchError(
                f"{self.info.name} has no weights that {self.trainer.world_size} devices could train; fit it on one"
            )
        if self.trainer.world_size > 1:
            torch.set_rng_state(self.trainer.strategy.broadcast(self._random_state_before))
        before, epochs = sum(self.stage_epochs.values()), self.trainer.max_epochs
        if epochs is not None and 0 <= epochs <= before and len(self.stages) > 1:
            raise MSABenchError(
                f"trainer.max_epochs {epochs} is too few for {self.info.name}: the stages before {self.stages[-1]!r} "
                f"take {before} ({self.stage_epochs}); give more"
            )
        self.enter_stage(self.stages[0])

    def on_train_epoch_start(self) -> None:
        """Go to the next stage when it is due, with optimisers of its own; draw on from where a checkpoint was made."""
        if self._random_state is not None:
            torch.set_rng_state(self._random_state["cpu"].cpu())
            if "cuda" in self._random_state and self.device.type == "cuda":
                torch.cuda.set_rng_state(self._random_state["cuda"].cpu(), self.device)
            self._random_state = None
        due = self._stage_at(self.current_epoch)
        if due != self.stage:
            self.enter_stage(due)
            self.trainer.strategy.setup_optimizers(self.trainer)

    @property
    def ends_a_stage(self) -> bool:
        """Whether the current epoch is the last one of a stage before the last."""
        return self._stage_at(self.current_epoch + 1) != self.stage

    def _stage_at(self, epoch: int) -> str:
        for stage in self.stages[:-1]:
            epoch -= self.stage_epochs[stage]
            if epoch < 0:
                return stage
        return self.stages[-1]

    def require_last_stage(self, what: str) -> None:
        """Refuse to evaluate what was saved before the last stage.

        Args:
            what: The checkpoint in words, for the message.

        Raises:
            MSABenchError: The method is in an earlier stage.
        """
        if not self.in_last_stage:
            raise MSABenchError(
                f"{what} was saved in stage {self.stage!r} of {self.info.name}; "
                f"give the best.ckpt of a training that reached stage {self.stages[-1]!r}"
            )

    # Steps.

    @property
    def batches_before_a_step(self) -> int:
        """Batches of a turn after which its optimiser steps for the first time."""
        return self.accumulate

    def _require_steps(self) -> None:
        """Refuse a training in which an optimiser would never step."""
        if not self._trains_anything or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        total, needed = int(self.trainer.num_training_batches), self.batches_before_a_step
        of_pass = -(-total // self.passes)
        for number, turn in enumerate(self.turns if self.passes > 1 else ("",)):
            before_it_stops = math.ceil(self.pass_share.get(turn, 1.0) * of_pass)
            found = max(min(total - number * of_pass, before_it_stops), 0)
            if found < needed:
                ways = ["a smaller data.batch_size"]
                ways += ["a smaller model.init_args.accumulate"] if needed > 1 else []
                ways += ["a larger trainer.limit_train_batches"] if total < len(self.trainer.train_dataloader) else []  # type: ignore[arg-type]
                raise MSABenchError(
                    f"{self.info.name} takes its first step after {needed} batches, but "
                    f"{f'pass {turn!r} of an epoch' if turn else 'an epoch'} has {found}, so it would never take one; "
                    f"give {' or '.join(ways)}"
                )

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

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One optimisation step's loss; with several turns, a step of each."""
        if self.automatic_optimization:
            return self._loss_of_turn(batch)
        if not self._trains_anything:
            self._loss_of_turn(batch)
            return None
        batches = -(-int(self.trainer.num_training_batches) // self.passes)
        in_pass, number = divmod(batch_idx, batches)
        for turn, optimizer in zip(self.turns, _as_list(self.optimizers()), strict=True):
            due = turn == self.turns[in_pass] and number < self.pass_share.get(turn, 1.0) * batches
            if due or self.turns_alternate == "batch":
                self.turn = turn
                self._step(optimizer, batch, number)
        return None

    def _step(self, optimizer: Any, batch: Batch, number: int) -> None:
        """Gradients of one batch, the ``number``-th of its pass, and a step where one is due."""
        if self.turns_alone:
            self.toggle_optimizer(optimizer)
        if number % self.accumulate == 0:
            (optimizer if self.turns_alone else self).zero_grad()
        self.manual_backward(self._loss_of_turn(batch))
        if self.gradient_clip is not None:
            if self.turns_alone:
                self.clip_gradients(optimizer, self.gradient_clip, self.clip_by)
            elif self.clip_by == "norm":
                torch.nn.utils.clip_grad_norm_(self.parameters(), self.gradient_clip)
            else:
                torch.nn.utils.clip_grad_value_(self.parameters(), self.gradient_clip)
        if (number + 1) % self.accumulate == 0:
            optimizer.step()
        if self.turns_alone:
            self.untoggle_optimizer(optimizer)

    def _loss_of_turn(self, batch: Batch) -> Tensor:
        terms = self.loss(*self._gathered(self.training_forward(batch), batch))
        total = torch.stack(list(terms.values())).sum()
        prefix = "loss" if len(self.turns) == 1 else f"loss_{self.turn}"
        self._accumulate({prefix: total, **{f"{prefix}_{name}": term for name, term in terms.items()}}, batch.size)
        return total

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean of every loss term; a loss that is not finite ends the run."""
        means = {f"train/{name}": value / self._epoch_clips[name] for name, value in self._epoch_sums.items()}
        self._epoch_sums, self._epoch_clips = {}, {}
        for name, value in means.items():
            if not torch.isfinite(value):
                raise MSABenchError(f"{name} of {self.info.name} is {value.item()} in epoch {self.current_epoch}")
        self.log_dict(means)
        if not self.automatic_optimization:
            for scheduler in _as_list(self.lr_schedulers()):
                if not isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Predict one validation batch."""
        assert batch.labels is not None
        self._val_metrics.update(self(batch.for_inference()).pred, batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/task`` (the selection criterion) and all metrics over the whole split."""
        pred, labels = self._val_metrics.predictions()
        val_task = self.task_loss(pred, labels)
        self.log("val/task", val_task, prog_bar=True)
        self.log_dict({f"val/{key}": value for key, value in self._val_metrics.compute().items()})
        self._val_metrics.reset()
        if not self.automatic_optimization and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            for scheduler in _as_list(self.lr_schedulers()):
                if isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step(float(val_task))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Predict one test batch; one data loader per cell."""
        assert batch.labels is not None
        metrics = self._test_metrics.setdefault(dataloader_idx, PredictionMetrics(self.spec.metric_set))
        metrics.update(self(batch.for_inference()).pred, batch.labels)

    def on_test_epoch_end(self) -> None:
        """Compute every cell's metrics; loggers get them as ``test/<cell>/<metric>``."""
        cells = self.trainer.datamodule.cells  # type: ignore[attr-defined]
        self.test_results = {str(cells[i]): metrics.compute() for i, metrics in sorted(self._test_metrics.items())}
        self._test_metrics = {}
        flat = {f"test/{cell}/{key}": v for cell, values in self.test_results.items() for key, v in values.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(flat)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Predictions of one batch."""
        return self(batch.for_inference()).pred

    def configure_optimizers(self) -> Any:
        """An optimiser for each turn of the stage, over ``param_groups()``, and its learning rate's schedule."""
        made: list[dict[str, Any]] = []
        for turn in self.turns:
            self.turn = turn
            groups = [group for group in self.param_groups() if group["params"]]
            if not groups:
                return None
            optimizer = self.optimizer_class(groups, lr=self.lr, weight_decay=self.weight_decay)
            made.append({"optimizer": optimizer, **self._scheduled(optimizer)})
        return made[0] if len(made) == 1 else made

    def _scheduled(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        if self.lr_patience is not None:
            plateau = ReduceLROnPlateau(optimizer, mode="min", factor=self.lr_factor, patience=self.lr_patience)
            # Lightning steps it, and so needs to know what to watch, only where it also steps the optimiser.
            watched = {"monitor": "val/task"} if self.automatic_optimization else {}
            return {"lr_scheduler": {"scheduler": plateau, **watched}}
        if type(self).lr_multiplier is MSAMethod.lr_multiplier:
            return {}
        epochs = self.stage_epochs.get(self.stage, 0)
        if self.in_last_stage:
            epochs = (self.trainer.max_epochs or 0) - sum(self.stage_epochs.values())
        return {"lr_scheduler": LambdaLR(optimizer, lambda epoch: self.lr_multiplier(epoch, epochs))}

    # Checkpoints.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the method, as plain values."""
        checkpoint[CHECKPOINT_KEY] = {
            "method": self.info.name,
            "method_version": self.info.method_version,
            "init_args": self.init_args,
            "spec": asdict(self.spec),
            "stage": self.stage,
        }
        # Dropout draws from its device's global generator: a fit that goes on from here is to draw what it would have
        # drawn.
        checkpoint[RANDOM_KEY] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            checkpoint[RANDOM_KEY]["cuda"] = torch.cuda.get_rng_state(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another method or variant, or of another version, other arguments or other data.

        Go to the stage it was saved in; only a fit may go on from one before the last.
        """
        made_by = checkpoint.get(CHECKPOINT_KEY, {})
        theirs = (made_by.get("method"), made_by.get("init_args", {}).get("variant", "default"))
        if theirs != (self.info.name, self.variant):
            raise MSABenchError(
                f"the checkpoint is of method {theirs[0]!r} (variant {theirs[1]!r}); "
                f"expected {self.info.name!r} (variant {self.variant!r})"
            )
        self.enter_stage(made_by.get("stage", self.stage))
        if self._trainer is not None and self.trainer.state.fn != "fit":
            self.require_last_stage("the checkpoint")
        self._random_state = checkpoint.get(RANDOM_KEY)
        ours: dict[str, Any] = {}
        self.on_save_checkpoint(ours)
        if "features" not in made_by.get("spec", {}):
            # It is younger than some checkpoints; the data module compares it, too.
            del ours[CHECKPOINT_KEY]["spec"]["features"]
        difference = first_difference(made_by, ours[CHECKPOINT_KEY])
        if difference:
            name, their_value, our_value = difference
            raise MSABenchError(f"the checkpoint was made with {name} {their_value!r}, the config says {our_value!r}")

    # Bookkeeping.

    def _accumulate(self, values: Mapping[str, Tensor], clips: int) -> None:
        # Logging once an epoch: a self.log call per step and term costs more than a step of a small method.
        for name, value in values.items():
            weighted = value.detach() * clips
            self._epoch_sums[name] = self._epoch_sums[name] + weighted if name in self._epoch_sums else weighted
            self._epoch_clips[name] = self._epoch_clips.get(name, 0) + clips

    def _gathered(self, out: Output, batch: Batch) -> tuple[Output, Batch]:
        if self._trainer is None or self.trainer.world_size == 1:
            return out, batch
        sizes = self.device_shares(batch.size)

        def gather(value: Any) -> Any:
            if isinstance(value, Tensor):
                return self.gather_rows(value, sizes)
            if isinstance(value, dict):
                return {key: gather(item) for key, item in value.items()}
            if isinstance(value, Batch):
                return replace(value, **{f.name: gather(getattr(value, f.name)) for f in fields(value)})
            return value

        everything = Output(**{f.name: gather(getattr(out, f.name)) for f in fields(out)})
        for_loss = ("labels", "index", "valid", "observed", "complete")
        # Views stay behind: a loss that needs more of them than its own output must put it into ``aux``.
        return everything, replace(batch, views=None, **{name: gather(getattr(batch, name)) for name in for_loss})

    def device_shares(self, clips: int) -> list[int]:
        """How many clips of the global batch each device holds.

        Args:
            clips: How many this one does.
        """
        if self._trainer is None or self.trainer.world_size == 1:
            return [clips]
        sizes = self.all_gather(torch.tensor(clips, device=self.device))
        assert isinstance(sizes, Tensor)
        return sizes.tolist()

    def gather_rows(self, rows: Tensor, sizes: list[int]) -> Tensor:
        """The rows of all clips of the global batch, with gradients, from those of the clips of each device.

        Args:
            rows: ``(B, ...)``, a row for each clip of this device.
            sizes: ``device_shares(B)``.
        """
        if len(sizes) == 1:
            return rows
        # Devices may hold different numbers of clips in the last batch: pad, gather, cut.
        padding = rows.new_zeros(max(sizes) - len(rows), *rows.shape[1:])
        gathered = self.all_gather(torch.cat([rows, padding]), sync_grads=rows.requires_grad)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])


def _as_list(value: Any) -> list[Any]:
    """Lightning gives None, one thing, or a list of several."""
    return value if isinstance(value, list) else [] if value is None else [value]

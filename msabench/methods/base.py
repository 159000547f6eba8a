"""The contract of a method: what one writes, and what it may use. How it is trained is in ``engine``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.data.needs import Needs
from msabench.errors import MSABenchError, one_of
from msabench.methods.engine.checkpoints import Checkpoints
from msabench.methods.engine.evaluation import EvaluationSteps
from msabench.methods.info import MethodInfo
from msabench.nn.text import parameter_groups


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


class MSAMethod(EvaluationSteps, Checkpoints):
    """Base of all methods.

    A method writes ``info``, ``__init__`` and ``forward``, and ``loss`` where it has more than the task term; the
    engine owns the steps, optimisation, logging, metrics and selection. Validation, test and prediction are never
    overridden, so every number in a table went through the same lines.

    Most methods train one thing from the first epoch to the last. Where a paper trains in several ways, ``schedule``
    says so. *Stages* follow one another within one fit: all but the last take the epochs in ``stage_epochs``, and only
    epochs of the last one are selected. *Turns* alternate within every batch, each with an optimiser of its own;
    ``stage`` and ``turn`` say where the training is.

    The engine has hooks of its own: ``lr_multiplier``, a schedule of the learning rate; and, where an official code
    steps in a way of its own, ``turns_of``, ``gradients`` and ``steps_after``. On several devices, a method that looks
    at the whole batch before its loss does so with ``device_shares`` and ``gather_rows``.

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
        clip_by: Whether ``gradient_clip`` limits the norm of all gradients, the size of each (``value``), or the norm
            of those of each ``group`` of ``param_groups``.
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
    """

    info: ClassVar[MethodInfo]
    schedule: Mapping[str, tuple[str, ...]] = MappingProxyType({"task": ("main",)})
    complete_stages: ClassVar[tuple[str, ...]] = ()
    text_lr: float | None = None
    padding: str = ""

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
        clip_by: Literal["norm", "value", "group"] = "norm",
        accumulate: int = 1,
    ) -> None:
        super().__init__(spec)
        if accumulate < 1:
            raise MSABenchError(f"accumulate {accumulate} is not allowed; give at least 1")
        if variant not in ("default", *self.info.variants):
            raise one_of(f"variant of {self.info.name}", variant, ("default", *self.info.variants))
        if spec.task not in self.info.tasks:
            raise one_of(f"task for {self.info.name}", spec.task, self.info.tasks)
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

    # What a method writes.

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Predict from what a deployed model sees. Reads features, masks and tokens of ``batch``, nothing else."""

    def training_forward(self, batch: Batch) -> Output:
        """Forward pass in training; may read ``batch.views`` and ``batch.complete``."""
        return self(batch)

    def loss(self, out: Output, batch: Batch) -> dict[str, Tensor]:
        """Named loss terms of the current stage and turn, already weighted, which are summed; here the task term alone.

        On several devices ``out`` and the batch's labels, index, masks and complete version have been gathered, so
        means and batch-level losses are over the global batch.
        """
        assert batch.labels is not None
        return {"task": self.task_loss(out.pred, batch.labels)}

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser of the current turn.

        All that is trained, and a trained text encoder at its own learning rate ``text_lr``.
        """
        return parameter_groups(self, self.text_lr)

    def prepare_stage(self, stage: str) -> None:
        """Freeze what a stage does not train, by ``freeze_parts``.

        Called on entering it, also from a checkpoint, so at times twice. What is frozen once stays frozen: several
        devices agree at the start on what is trained.
        """

    @property
    def data_needs(self) -> Needs:
        """What batches must bring: tokens if a part reads them, and what ``info.trains_with`` names.

        A method that needs more replaces a field, e.g. ``replace(super().data_needs, conversations=True)``.
        """
        return Needs(
            tokens=any(getattr(module, "reads_tokens", False) for module in self.modules() if module is not self),
            views="views" in self.info.trains_with,
            complete="complete" in self.info.trains_with,
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

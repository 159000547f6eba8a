"""Stages follow one another within a fit, turns alternate within a stage."""

from __future__ import annotations

from typing import Self

from torch import nn

from msabench.data.info import DataSpec
from msabench.errors import MSABenchError, one_of
from msabench.methods.engine.random_state import RandomState


class Stages(RandomState):
    """Knows the stage and the turn, and goes to the next stage when it is due.

    Attributes:
        stage_epochs: Stage -> epochs, for every stage but the last; set in the constructor of the method.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.stage_epochs: dict[str, int] = {}
        self._stage = ""
        self._turn = ""
        self._frozen: list[nn.Module] = []

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

    def enter_stage(self, stage: str) -> None:
        """Go to a stage.

        Raises:
            MSABenchError: The method has no such stage.
        """
        if stage not in self.schedule:
            raise one_of(f"stage of {self.info.name}", stage, self.stages)
        self._stage, self._turn = stage, ""
        self.prepare_stage(stage)

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

    def setup(self, stage: str) -> None:
        """Begin a fit in the first stage, unless a checkpoint says otherwise.

        Raises:
            MSABenchError: The trainer's epochs leave none for the last stage, or several devices have nothing to train.
        """
        super().setup(stage)
        if stage != "fit":
            return
        if self.trainer.world_size > 1 and not self.trains_anything:
            raise MSABenchError(
                f"{self.info.name} has no weights that {self.trainer.world_size} devices could train; fit it on one"
            )
        before, epochs = sum(self.stage_epochs.values()), self.trainer.max_epochs
        if epochs is not None and 0 <= epochs <= before and len(self.stages) > 1:
            raise MSABenchError(
                f"trainer.max_epochs {epochs} is too few for {self.info.name}: the stages before {self.stages[-1]!r} "
                f"take {before} ({self.stage_epochs}); give more"
            )
        self.enter_stage(self.stages[0])

    def on_train_epoch_start(self) -> None:
        """Go to the next stage when it is due, with optimisers of its own."""
        super().on_train_epoch_start()
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

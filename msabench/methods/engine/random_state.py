"""Where random draws have come to. Dropout draws from its device's global generator."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import Tensor

from msabench.data.info import DataSpec
from msabench.methods.engine.hooks import Hooks


class RandomState(Hooks):
    """Several devices draw on as one would; a fit that goes on from a checkpoint draws what it would have drawn."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self._random_state: dict[str, Tensor] | None = None
        self._random_state_before = torch.get_rng_state()

    def configure_callbacks(self) -> list[pl.Callback]:
        """Note where random draws have come to: on several devices Lightning then goes back to the seed."""
        self._random_state_before = torch.get_rng_state()
        return []

    def setup(self, stage: str) -> None:
        """Draw on in a fit as one device would."""
        if stage == "fit" and self.trainer.world_size > 1:
            torch.set_rng_state(self.trainer.strategy.broadcast(self._random_state_before))

    def on_train_epoch_start(self) -> None:
        """Draw on from where a checkpoint was made, in the first epoch after it."""
        if self._random_state is not None:
            torch.set_rng_state(self._random_state["cpu"].cpu())
            if "cuda" in self._random_state and self.device.type == "cuda":
                torch.cuda.set_rng_state(self._random_state["cuda"].cpu(), self.device)
            self._random_state = None

    def random_state(self) -> dict[str, Tensor]:
        """The generators' states, for a checkpoint: uint8, ``cpu`` and, on a GPU, ``cuda``."""
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

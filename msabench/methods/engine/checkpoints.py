"""What a checkpoint says of its method, and which checkpoints a method goes on from."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Any, Self

from msabench.errors import MSABenchError, first_difference
from msabench.methods.engine.stages import Stages

BUILT_IN = "msabench.methods"
"""Package of the methods that every installation has."""

CHECKPOINT_KEY = "msabench"
RANDOM_KEY = "msabench_random_state"


class Checkpoints(Stages):
    """Checkpoints rebuild a method from plain values, without pickle.

    Attributes:
        init_args: What the constructor was called with, defaults included, without ``spec``.
    """

    init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the method, as plain values, and to draw on."""
        checkpoint[CHECKPOINT_KEY] = {
            "method": self.info.name,
            "method_version": self.info.method_version,
            "init_args": self.init_args,
            "spec": asdict(self.spec),
            "stage": self.stage,
        }
        if not type(self).__module__.startswith(f"{BUILT_IN}."):
            # The registry may not know where it stands.
            checkpoint[CHECKPOINT_KEY]["class_path"] = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint[RANDOM_KEY] = self.random_state()

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
        # The class is the same, wherever its file lies now.
        says = (made_by, ours[CHECKPOINT_KEY])
        made_by, mine = ({name: value for name, value in one.items() if name != "class_path"} for one in says)
        difference = first_difference(made_by, mine)
        if difference:
            name, their_value, our_value = difference
            raise MSABenchError(f"the checkpoint was made with {name} {their_value!r}, the config says {our_value!r}")

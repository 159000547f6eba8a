"""Short fits of several methods, one after another, in one process or in several.

``python -m tests.support.ddp_fits OUT WORLD NAME ...`` writes what each process saw to ``OUT.<rank>``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus


class Watch(pl.Callback):
    """Notes the losses and the masks of every step."""

    def __init__(self, method: Any) -> None:
        self.losses: list[float] = []
        self.masks: list[list[Any]] = []
        turn_loss = method.turn_loss

        def watched(batch: Any) -> torch.Tensor:
            total = turn_loss(batch)
            self.losses.append(float(total))
            return total

        method.turn_loss = watched

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.masks.append([batch.observed[m].int().tolist() for m in MODALITIES])


def fit(name: str, world: int, folder: Path) -> dict[str, Any]:
    """Fit a method without dropout on 21 clips, in batches of 11 and 10, whose shares are uneven."""
    data = data_module(random_corpus(sizes=(21, 8, 10)), batch_size=11, missing=MissingConfig(regime="mixed"))
    pl.seed_everything(5, verbose=False)
    method = registry.method_class(name)(data.spec, **registry.method_info(name).smoke)
    for module in method.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for key, value in vars(module).items():
            if "dropout" in key and isinstance(value, float):
                setattr(module, key, 0.0)
    watch = Watch(method)
    # Two of the last stage: memories over the training set, such as PRLF's traces, count from the second on.
    epochs = 2 + sum(method.stage_epochs.values())
    several = {"strategy": "ddp_find_unused_parameters_true"} if world > 1 else {}
    try:
        quiet_trainer(folder, epochs, devices=world, callbacks=[watch], **several).fit(method, datamodule=data)
    except MSABenchError as error:
        return {"refused": str(error)}
    weights = [parameter.double().sum().item() for parameter in method.parameters()]
    return {"losses": watch.losses, "masks": watch.masks, "weights": weights}


if __name__ == "__main__":
    out, world, *names = sys.argv[1:]
    torch.set_num_threads(1)
    found = {name: fit(name, int(world), Path(out).parent) for name in names}
    rank = torch.distributed.get_rank()
    Path(f"{out}.{rank}").write_text(json.dumps(found))

"""Two processes give the masks and losses of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import json, sys
import lightning.pytorch as pl, torch
from msabench import registry
from msabench.missingness.config import MissingConfig
from tests.fakes import data_module, random_corpus

name, world, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
data = data_module(random_corpus(sizes=(21, 8, 10)), batch_size=8, missing=MissingConfig(regime="mixed"))
pl.seed_everything(5)
method = registry.method_class(name)(data.spec, **registry.method_info(name).smoke)
for module in method.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
    for key, value in vars(module).items():
        if "dropout" in key and isinstance(value, float):
            setattr(module, key, 0.0)


class Watch(pl.Callback):
    def __init__(self):
        self.losses, self.masks = [], []
        loss_of_turn = method._loss_of_turn

        def watched(batch):
            total = loss_of_turn(batch)
            self.losses.append(float(total))
            return total

        method._loss_of_turn = watched

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.masks.append([batch.observed[m].int().tolist() for m in ("text", "audio", "vision")])


watch = Watch()
several = len(method.stages) > 1
strategy = "ddp_find_unused_parameters_true" if several else "ddp"
trainer = pl.Trainer(
    max_epochs=2 + sum(method.stage_epochs.values()), devices=world, accelerator="cpu",
    strategy=strategy if world > 1 else "auto", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, callbacks=[watch],
)
trainer.fit(method, datamodule=data)
with open(f"{out}.{trainer.global_rank}", "w") as file:
    json.dump({"losses": watch.losses, "masks": watch.masks,
               "weights": [p.double().sum().item() for p in method.parameters()]}, file)
"""


def fit(name: str, world: int, folder: Path) -> list[dict]:
    script, out = folder / "fit.py", folder / f"{name}-{world}"
    script.write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, str(script), name, str(world), str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(world)]


@pytest.mark.parametrize(
    ("name", "losses"),
    # Two epochs of three batches. RECAP trains an epoch in three turns before them.
    [("umdf", 6), ("mult", 6), ("recap", 9 + 6)],
)
def test_two_processes_give_the_masks_and_losses_of_one(name: str, losses: int, tmp_path: Path) -> None:
    one = fit(name, 1, tmp_path)[0]
    two = fit(name, 2, tmp_path)
    # 21 clips in batches of 8: the last batch has 5, so shares are uneven, and the losses include MMD.
    assert len(one["losses"]) == losses
    for rank in two:
        assert torch.allclose(torch.tensor(rank["losses"]), torch.tensor(one["losses"]), atol=1e-5, rtol=0)
        assert torch.allclose(torch.tensor(rank["weights"]), torch.tensor(one["weights"]), atol=1e-3, rtol=0)
    for step, masks in enumerate(one["masks"]):
        for modality in range(3):
            assert two[0]["masks"][step][modality] + two[1]["masks"][step][modality] == masks[modality]


def test_a_method_that_normalises_over_its_batch_is_refused_on_two_devices(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="lf_dnn normalises over its batch, which 2 devices do not share"):
        fit("lf_dnn", 2, tmp_path)

"""Two processes give the masks and losses of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from msabench.methods import registry
from tests.support.ddp_fits import fit

BATCH_NORM = ("ctc_raven", "emt_dlfr", "lf_dnn", "lmf", "raven", "tfn", "tfr_net")
REFUSED = {
    "constant": "constant has no weights that 2 devices could train; fit it on one",
    **{
        name: f"{name} normalises over its batch, which 2 devices do not share; train it on one device, "
        "or on GPUs with --trainer.sync_batchnorm=true"
        for name in BATCH_NORM
    },
}


def two_processes(names: list[str], folder: Path) -> list[dict[str, Any]]:
    """What each of them saw, by method: one start for all, since importing the libraries takes longer than the fits."""
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.ddp_fits", str(folder / "two"), "2", *names],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads((folder / f"two.{rank}").read_text()) for rank in range(2)]


@pytest.mark.by_sources(processes=True)
def test_two_processes_give_the_masks_and_losses_of_one(tmp_path: Path) -> None:
    names = sorted(registry.methods())
    two = two_processes(names, tmp_path)
    for name in names:
        if name in REFUSED:
            assert [of_rank[name] for of_rank in two] == [{"refused": REFUSED[name]}] * 2
            continue
        one = fit(name, 1, tmp_path)
        assert one["losses"], name
        for of_rank in two:
            # Sums of weights: Adam takes full steps along gradients that are nothing but rounding.
            for key, near in (("losses", 1e-5), ("weights", 3e-3)):
                found, expected = torch.tensor(of_rank[name][key]), torch.tensor(one[key])
                assert torch.allclose(found, expected, atol=near, rtol=near), f"{key} of {name}"
        for step, masks in enumerate(one["masks"]):
            for modality in range(3):
                shares = [of_rank[name]["masks"][step][modality] for of_rank in two]
                assert shares[0] + shares[1] == masks[modality], name

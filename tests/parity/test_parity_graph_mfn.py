"""Graph-MFN against MMSA. MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from msabench.methods.graph_mfn import GraphMFN
from tests.parity.mmsa_memory import assert_same_training, loaded, mmsa
from tests.support.golden_cases import CASES, Case, batch_of, build, kept

GOLDEN = ("graph_mfn_mmsa", "graph_mfn_mmsa_pooled")
_MOSI = {
    **{"hidden_text": 256, "hidden_audio": 32, "hidden_vision": 256, "memory": 300, "node_width": 64},
    **{"propose_width": 32, "retain_width": 128, "update_width": 64, "out_width": 256},
}
_SIMS = {
    **{"hidden_text": 256, "hidden_audio": 32, "hidden_vision": 256, "memory": 64, "node_width": 128},
    **{"propose_width": 256, "retain_width": 32, "update_width": 32, "out_width": 256},
}
SHAPES = {
    **{name: CASES[name] for name in GOLDEN},
    "mosi": Case("graph_mfn", (768, 5, 20), (50, 50, 50), settings=_MOSI),
    "sims": Case("graph_mfn", (768, 33, 709), (39, 400, 55), settings=_SIMS),
}
NO_DROPOUT = dict.fromkeys((f"{name}_dropout" for name in ("propose", "retain", "update", "out")), 0.0)
NODES = tuple(f"graph.nodes.{node}." for node in ("la", "lv", "av", "lav"))


@pytest.mark.parametrize("shape", SHAPES)
def test_mmsa_gives_the_same_numbers(shape: str) -> None:
    case = SHAPES[shape]
    ours, batch = build(case), batch_of(case)
    assert isinstance(ours, GraphMFN)
    theirs = mmsa(case, ours)
    seen: list[Tensor] = []
    ours.graph.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[1]))
    read: list[Tensor] = []
    theirs.out_fc1.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with torch.no_grad():
        expected, out = theirs(*loaded(case, batch)), ours(batch)
    pairs = [
        (out.pred, expected["M"].squeeze(1)),
        (out.representation, read[0]),
        (seen[0], torch.from_numpy(np.stack(expected["Efficacies"], axis=1))),
    ]
    if shape in GOLDEN:
        pairs += [(kept(shape)["pred"], pairs[0][1]), (kept(shape)["representation"], read[0])]
    for found, there in pairs:
        torch.testing.assert_close(found, there, atol=1e-5, rtol=0)
    difference = max(float((found - there).abs().max()) for found, there in pairs)
    print(f"{shape}: {difference:.1e}, predictions {out.pred.tolist()}")


def test_training_gives_the_same_weights(tmp_path: Path) -> None:
    """With ``register_nodes`` off; the networks that MMSA does not register stay as they were."""
    settings = {**CASES["graph_mfn_mmsa"].settings, **NO_DROPOUT, "register_nodes": False}
    case = Case("graph_mfn", (0, 0, 0), (0, 0, 0), settings=settings)
    difference = assert_same_training(case, NODES, tmp_path)
    print(f"weights after training: {difference:.1e}")

"""RMFN's cell and variant ``sdk`` against the authors' SDK; the rest of the network has no official code.

MSABENCH_PARITY_SDK: clone of https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK (4f2eadc).
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType
from typing import Any

import torch

from msabench.missingness.conditions import MODALITIES
from tests.parity.clones import clone, importing
from tests.support.golden_cases import Case, batch_of, build

WIDTHS = {"hidden_text": 6, "hidden_audio": 4, "hidden_vision": 5}
CASE = Case("rmfn", (16, 5, 7), (9, 9, 9), settings={**WIDTHS, "shared": 3, "stages": 3, "variant": "sdk"})


def test_the_sdk_steps_through_the_same_states() -> None:
    with importing(clone("MSABENCH_PARITY_SDK") / "mmsdk/mmmodelsdk", "modules", "fusion"):
        moves: Any = ModuleType("six.moves")
        moves.reduce = functools.reduce
        sys.modules["six"], sys.modules["six.moves"] = ModuleType("six"), moves
        cell_class = importlib.import_module("modules.LSTHM.LSTHM").LSTHM
        fusion_class = importlib.import_module("fusion.recurrent_fusion.model").RecurrentFusion
    ours, batch = build(CASE), batch_of(CASE)
    cells = {}
    for m in MODALITIES:
        cells[m] = cell_class(WIDTHS[f"hidden_{m}"], CASE.spec.feature_dims[m], 3)
        names = {"W": "input", "U": "recurrent", "V": "hybrid"}
        weights = ours.cells[m].state_dict()
        cells[m].load_state_dict({name: weights[f"{names[name[0]]}{name[1:]}"] for name in cells[m].state_dict()})
    fusion = fusion_class(list(WIDTHS.values()), sum(WIDTHS.values()))
    weights = ours.fusion.fuse.state_dict()
    fusion.model.load_state_dict({name: weights[name.removesuffix("_l0")] for name in fusion.model.state_dict()})
    with torch.no_grad():
        h = {m: torch.zeros(batch.size, WIDTHS[f"hidden_{m}"]) for m in MODALITIES}
        c, z = dict(h), torch.zeros(batch.size, 3)
        for t in range(9):
            for m in MODALITIES:
                c[m], h[m] = cells[m].step(batch.features[m][:, t], c[m], h[m], z)
            stages, _, _ = fusion([h[m] for m in MODALITIES], steps=3)
            z = ours.fusion.to_z(stages.transpose(0, 1).flatten(1))
        expected = torch.cat([z, *(h[m] for m in MODALITIES)], dim=1)
        out = ours(batch)
    assert out.representation is not None
    torch.testing.assert_close(out.representation, expected, atol=1e-5, rtol=0)

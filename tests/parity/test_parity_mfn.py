"""MFN against MMSA. MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.parity.mmsa_memory import assert_same_training, loaded, mmsa
from tests.support.golden_cases import CASES, Case, batch_of, build, kept

GOLDEN = ("mfn_mmsa", "mfn_mmsa_averaged", "mfn_mmsa_pooled")
_MOSI = {
    **{"hidden_text": 256, "hidden_audio": 32, "hidden_vision": 256, "memory": 400},
    **{"attend_width": 32, "propose_width": 64, "retain_width": 256, "update_width": 32, "out_width": 128},
}
_SIMS = {
    **{"hidden_text": 64, "hidden_audio": 16, "hidden_vision": 64, "memory": 64},
    **{"attend_width": 128, "propose_width": 128, "retain_width": 64, "update_width": 64, "out_width": 64},
}
SHAPES = {
    **{name: CASES[name] for name in GOLDEN},
    "mosi": Case("mfn", (768, 5, 20), (50, 50, 50), settings={**_MOSI, "av_time_average": True}),
    "mosi_sequences": Case("mfn", (768, 5, 20), (50, 50, 50), settings=_MOSI, gain=2.0),
    "sims": Case("mfn", (768, 33, 709), (39, 400, 55), settings={**_SIMS, "av_time_average": True}),
    "sims_sequences": Case("mfn", (768, 33, 709), (39, 400, 55), settings=_SIMS, gain=2.0),
}
NO_DROPOUT = dict.fromkeys((f"{name}_dropout" for name in ("attend", "propose", "retain", "update", "out")), 0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_mmsa_gives_the_same_numbers(shape: str) -> None:
    case = SHAPES[shape]
    ours, batch = build(case), batch_of(case)
    theirs = mmsa(case, ours)
    with torch.no_grad():
        expected, out = theirs(*loaded(case, batch)), ours(batch)
    difference = 0.0
    for found in ({"pred": out.pred, "representation": out.representation}, kept(shape) if shape in GOLDEN else {}):
        for key, there in {"pred": expected["M"].squeeze(1), "representation": expected["L"]}.items():
            if key in found:
                torch.testing.assert_close(found[key], there, atol=1e-5, rtol=0)
                difference = max(difference, float((found[key] - there).abs().max()))
    print(f"{shape}: {difference:.1e}, predictions {out.pred.tolist()}")


@pytest.mark.parametrize("av_time_average", [False, True])
def test_training_gives_the_same_weights(av_time_average: bool, tmp_path: Path) -> None:
    settings = {**CASES["mfn_mmsa"].settings, **NO_DROPOUT, "av_time_average": av_time_average}
    difference = assert_same_training(Case("mfn", (0, 0, 0), (0, 0, 0), settings=settings), (), tmp_path)
    print(f"weights after training: {difference:.1e}")

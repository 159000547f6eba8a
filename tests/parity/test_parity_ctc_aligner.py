"""The CTC aligner against that of MMSA, which has it from MulT.

MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from msabench.missingness.conditions import MODALITIES
from msabench.nn.ctc_aligner import ALIGNED, AlignToText
from tests.parity.clones import clone, importing
from tests.support.golden_cases import Case, batch_of, fill

SHAPES = {
    "mosi": Case("ctc_raven", (768, 5, 20), (50, 375, 500)),
    "mosei": Case("ctc_raven", (300, 74, 35), (50, 500, 500)),
    "sims": Case("ctc_raven", (768, 33, 709), (39, 400, 55)),
    "small": Case("ctc_raven", (12, 5, 7), (9, 20, 13)),
}


PLACES = {"audio": "a", "vision": "v"}


def official(case: Case) -> Any:
    """MMSA's aligner of all three modalities."""
    with importing(clone("MSABENCH_PARITY_MMSA") / "src", "MMSA", "MMSA.models", "MMSA.models.subNets"):
        module = importlib.import_module("MMSA.models.subNets.AlignNets")
    return module.AlignSubNet(SimpleNamespace(feature_dims=case.dims, seq_lens=case.steps), "ctc").eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_aligned_sequences_are_the_same(shape: str) -> None:
    case = SHAPES[shape]
    theirs = official(case)
    ours = AlignToText(case.spec).eval()
    fill(ours)
    for m in ALIGNED:
        there = getattr(theirs, f"ctc_{PLACES[m]}")
        there.pred_output_position_inclu_blank.load_state_dict(ours.aligners[m].position.state_dict())
    batch = batch_of(case)
    with torch.no_grad():
        aligned, _ = ours(batch)
        given = theirs(*(batch.features[m] for m in MODALITIES))
    for m, expected in zip(MODALITIES, given, strict=True):
        print(f"{shape} {m} {(aligned.features[m] - expected).abs().max():.1e}", end=" ")
        torch.testing.assert_close(aligned.features[m], expected, atol=1e-5, rtol=0)
        assert expected.std() > 0.01

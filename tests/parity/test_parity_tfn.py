"""TFN against MMSA and the code that MMSA follows.

MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)
MSABENCH_PARITY_TFN: clone of https://github.com/Justin1904/TensorFusionNetworks (ef0e78b)
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from tests.parity.clones import clone, importing
from tests.parity.mmsa_subnets import assert_kept, assert_same_training, compared, pooled
from tests.support.golden_cases import CASES, Case, batch_of, build

CASE = CASES["tfn_mmsa"]
_MOSI = {"hidden_text": 128, "hidden_audio": 32, "hidden_vision": 128, "out_text": 32, "fusion_width": 64}
_SIMS = {**_MOSI, "out_text": 256, "fusion_width": 32}
SHAPES = {
    "tfn_mmsa": CASE,
    "emotions": Case("tfn", CASE.dims, CASE.steps, task="emotions", settings=CASE.settings, gain=2.5),
    "mosi": Case("tfn", (768, 5, 20), (50, 375, 500), settings=_MOSI, gain=2.5),
    "sims": Case("tfn", (768, 33, 709), (39, 400, 55), settings=_SIMS, gain=2.0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_mmsa_gives_the_same_numbers(shape: str) -> None:
    ours, batch, expected, difference = compared(SHAPES[shape])
    with torch.no_grad():
        product = ours.product(batch)
    torch.testing.assert_close(product, expected["Feature_f"], atol=1e-5, rtol=0)
    if shape == "tfn_mmsa":
        assert_kept(shape, expected)
    print(f"{shape}: {max(difference, float((product - expected['Feature_f']).abs().max())):.1e}")


def test_mmsa_trains_to_the_same_weights(tmp_path: Path) -> None:
    no_dropout = dict.fromkeys(("dropout_audio", "dropout_vision", "fusion_dropout"), 0.0)
    case = Case("tfn", CASE.dims, CASE.steps, settings=CASE.settings | no_dropout)
    untrained = {"output_range", "output_shift"}
    difference = assert_same_training(case, {"lr": 2e-3}, {"learning_rate": 2e-3}, untrained, tmp_path)
    print(f"training: {difference:.1e}")


def test_the_other_code_gives_the_same_numbers() -> None:
    with importing(clone("MSABENCH_PARITY_TFN")):
        module = importlib.import_module("model")
    ours, batch, chosen = build(CASE), batch_of(CASE), CASE.settings
    text, audio, vision = CASE.dims
    hidden = tuple(chosen[f"hidden_{m}"] for m in ("audio", "vision", "text"))
    dropouts = (0.3, 0.3, 0.3, 0.3)
    theirs = module.TFN((audio, vision, text), hidden, chosen["out_text"], dropouts, chosen["fusion_width"]).eval()
    theirs.load_state_dict(ours.state_dict())
    words, *means = pooled(batch)
    with torch.no_grad():
        expected, found = theirs(*(mean.squeeze(1) for mean in means), words).squeeze(1), ours(batch).pred
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    print(f"the other code: {(found - expected).abs().max():.1e}")

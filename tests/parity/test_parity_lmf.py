"""LMF against its official code and MMSA's port.

MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)
MSABENCH_PARITY_LMF: clone of https://github.com/Justin1904/Low-rank-Multimodal-Fusion (ea47551)
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from tests.parity.clones import clone, importing
from tests.parity.mmsa_subnets import assert_kept, assert_same_training, compared, pooled
from tests.support.golden_cases import CASES, Case, batch_of, build, kept

CASE = CASES["lmf_mmsa"]
_MOSI = {"hidden_text": 128, "hidden_audio": 16, "hidden_vision": 128, "rank": 3}
_SIMS = {"hidden_text": 64, "hidden_audio": 16, "hidden_vision": 64, "rank": 4}
SHAPES = {
    "lmf_mmsa": CASE,
    "lmf_mmsa_emotions": CASES["lmf_mmsa_emotions"],
    "mosi": Case("lmf", (768, 5, 20), (50, 375, 500), settings=_MOSI, gain=2.0),
    "sims": Case("lmf", (768, 33, 709), (39, 400, 55), settings=_SIMS, gain=2.0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_mmsa_gives_the_same_numbers(shape: str) -> None:
    ours, batch, expected, difference = compared(SHAPES[shape])
    with torch.no_grad():
        ranks = ours(batch).representation
    torch.testing.assert_close(ranks, expected["Feature_f"].flatten(1), atol=1e-5, rtol=0)
    if shape.startswith("lmf_mmsa"):
        assert_kept(shape, expected)
        torch.testing.assert_close(kept(shape)["representation"], ranks, atol=1e-5, rtol=0)
    print(f"{shape}: {max(difference, float((ranks - expected['Feature_f'].flatten(1)).abs().max())):.1e}")


def test_mmsa_trains_to_the_same_weights_without_the_fusion_weights(tmp_path: Path) -> None:
    fixed = {"dropout_audio": 0.0, "dropout_vision": 0.0, "train_fusion_weights": False}
    case = Case("lmf", CASE.dims, CASE.steps, settings=CASE.settings | fixed)
    rates = {"lr": 2e-3, "factor_lr": 5e-4, "weight_decay": 1e-2}
    theirs = {"learning_rate": 2e-3, "factor_lr": 5e-4, "weight_decay": 1e-2}
    difference = assert_same_training(case, rates, theirs, {"fusion_weights", "fusion_bias"}, tmp_path)
    print(f"training: {difference:.1e}")


@pytest.mark.filterwarnings("ignore:.*xavier_normal:FutureWarning")
def test_official_code_gives_the_same_numbers() -> None:
    with importing(clone("MSABENCH_PARITY_LMF")):
        module = importlib.import_module("model")
    ours, batch, chosen = build(CASE), batch_of(CASE), CASE.settings
    text, audio, vision = CASE.dims
    hidden = tuple(chosen[f"hidden_{m}"] for m in ("audio", "vision", "text"))
    dropouts = (0.3, 0.3, 0.3, 0.3)
    theirs = module.LMF((audio, vision, text), hidden, chosen["hidden_text"] // 2, dropouts, 1, 3).eval()
    theirs.load_state_dict(ours.state_dict())
    words, *means = pooled(batch)
    with torch.no_grad():
        expected, found = theirs(*(mean.squeeze(1) for mean in means), words).squeeze(1), ours(batch).pred
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    print(f"official: {(found - expected).abs().max():.1e}")

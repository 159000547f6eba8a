"""LF-DNN against MMSA. MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import torch

from tests.parity.clones import clone, importing
from tests.support.golden_cases import CASES, batch_of, build, kept


def test_mmsa_gives_the_same_numbers() -> None:
    case = CASES["lf_dnn_mmsa"]
    with importing(clone("MSABENCH_PARITY_MMSA") / "src", "MMSA", "MMSA.models", "MMSA.models.singleTask"):
        module = importlib.import_module("MMSA.models.singleTask.LF_DNN")
    chosen = case.settings
    theirs = module.LF_DNN(
        SimpleNamespace(
            feature_dims=list(case.dims),
            hidden_dims=[chosen["hidden_text"], chosen["hidden_audio"], chosen["hidden_vision"]],
            text_out=chosen["out_text"],
            post_fusion_dim=chosen["fusion_width"],
            dropouts=[0.2, 0.2, 0.2, 0.2],
            train_mode="regression",
        )
    ).eval()
    ours = build(case)
    theirs.load_state_dict(ours.state_dict())
    batch = batch_of(case)
    with torch.no_grad():
        # MMSA's loader averages audio and vision over all stored steps and keeps an axis of one step.
        pooled = batch.audio.mean(1, keepdim=True), batch.vision.mean(1, keepdim=True)
        expected = theirs(batch.text, *pooled)
        out = ours(batch)
    joint = torch.cat([expected["Feature_a"], expected["Feature_v"], expected["Feature_t"]], dim=1)
    assert out.representation is not None
    for found in ({"pred": out.pred, "representation": out.representation}, kept("lf_dnn_mmsa")):
        torch.testing.assert_close(found["pred"], expected["M"].squeeze(1), atol=1e-5, rtol=0)
        torch.testing.assert_close(found["representation"], joint, atol=1e-5, rtol=0)
        torch.testing.assert_close(found["representation"], expected["Feature_f"], atol=1e-5, rtol=0)

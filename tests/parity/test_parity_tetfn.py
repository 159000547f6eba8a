"""TETFN against MMSA. MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from tests.parity.clones import clone, importing
from tests.parity.mmsa_trainer import (
    LETTERS,
    assert_same_outputs,
    assert_same_training,
    head_name,
    head_settings,
    model_class,
    run,
)
from tests.support.golden_cases import CASES, Case, batch_of, build, kept

GOLDEN = ("tetfn_mmsa", "tetfn_mmsa_pooled")
MOSI = {"hidden_audio": 16, "hidden_vision": 64, "fusion_width": 64, "width_text": 32}
SIMS = {**MOSI, "kernel_size_text": 3, "kernel_size_audio": 5, "width_text": 64}
SHAPES = {
    **{name: CASES[name] for name in GOLDEN},
    "mosi": Case("tetfn", (768, 5, 20), (50, 50, 50), settings=MOSI),
    "sims": Case("tetfn", (768, 33, 709), (39, 400, 55), settings=SIMS),
}
REST = {"width_audio": 32, "width_vision": 16}
DROPOUTS = ("attn_dropout", "attn_dropout_a", "attn_dropout_v", "relu_dropout", "embed_dropout", "res_dropout")


def official(case: Case, ours: nn.Module) -> nn.Module:
    """Their model with our weights."""
    chosen = {**REST, **case.settings}
    settings = {
        **head_settings(chosen),
        **dict.fromkeys(DROPOUTS, 0.0),
        "feature_dims": list(case.dims),
        "dst_feature_dims": chosen.get("dim", 50),
        "nheads": chosen.get("heads", 5),
        "conv1d_kernel_size_l": chosen.get("kernel_size_text", 1),
        "conv1d_kernel_size_a": chosen.get("kernel_size_audio", 1),
    }
    theirs = model_class("TETFN")(SimpleNamespace(**settings)).eval()
    renamed = {short_name(key): value for key, value in ours.named_parameters()}
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all(name.endswith(("version", "_float_tensor")) for name in missing)
    return theirs


def short_name(name: str) -> str:
    """Name there of one of our weights."""
    replacements = {"project_text.conv.": "proj_l.", "audio_from_vision.": "trans_a_with_v."}
    replacements |= {"vision_from_audio.": "trans_v_with_a.", "lower.": "lower_mha.", "upper.": "upper_mha."}
    for ours, there in {"audio": "audio_model", "vision": "video_model"}.items():
        replacements |= {f"{ours}.rnn.": f"{there}.rnn.", f"{ours}.project.conv.": f"{there}.conv."}
    for target, letter in SHORT.items():
        replacements[f"memory.{target}."] = f"trans_{letter}_mem."
        replacements |= {f"cross.{target}_from_{m}.": f"trans_{letter}_with_{other}." for m, other in SHORT.items()}
    for ours, there in replacements.items():
        name = name.replace(ours, there)
    return head_name(name)


SHORT = {**LETTERS, "text": "l"}


def pooled(case: Case, batch: Batch) -> Batch:
    """Audio and vision brought to the length of the text by MMSA."""
    with importing(clone("MSABENCH_PARITY_MMSA") / "src", "MMSA", "MMSA.models", "MMSA.models.subNets"):
        module = importlib.import_module("MMSA.models.subNets.AlignNets")
    align = module.AlignSubNet(SimpleNamespace(feature_dims=list(case.dims), seq_lens=case.steps), "avg_pool")
    text, audio, vision = align(batch.text, batch.audio, batch.vision)
    return replace(batch, features={"text": text, "audio": audio, "vision": vision})


@pytest.mark.parametrize("shape", SHAPES)
def test_mmsa_gives_the_same_numbers(shape: str) -> None:
    case = SHAPES[shape]
    ours, batch = build(case), batch_of(case)
    theirs = official(case, ours)
    with torch.no_grad():
        expected: dict[str, Tensor] = run(theirs, pooled(case, batch))
    difference = assert_same_outputs(expected, ours, batch)
    print(f"{shape}: {difference:.1e}")
    if shape in GOLDEN:
        golden = kept(shape)
        torch.testing.assert_close(golden["pred"], expected["M"].squeeze(1), atol=1e-5, rtol=0)
        torch.testing.assert_close(golden["representation"], expected["Feature_f"], atol=1e-5, rtol=0)


def test_training_gives_the_same_weights_and_labels(tmp_path: Path) -> None:
    no_dropout = dict.fromkeys(("attn_dropout_text", "attn_dropout_vision", "res_dropout"), 0.0)
    case = replace(CASES["tetfn_mmsa"], settings=CASES["tetfn_mmsa"].settings | no_dropout | {"dim": 8, "heads": 2})
    difference = assert_same_training("TETFN", case, official, short_name, tmp_path)
    print(f"weights after training: {difference:.1e}")

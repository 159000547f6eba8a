"""MulT against its official code and MMSA's port.

MSABENCH_PARITY_MULT: clone of https://github.com/yaohungt/Multimodal-Transformer (a670936)
MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import MODALITIES
from tests.golden_cases import CASES, Case, batch_of, build, kept
from tests.parity.clones import clone, importing

LETTERS = dict(zip("lav", MODALITIES, strict=True))
OFFICIAL = [name for name in CASES if name.startswith("mult_official")]


def copy_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy ours into theirs by name; everything of ours has a place, and what is left of theirs is known unused."""
    renamed = {}
    for name, value in ours.state_dict().items():
        for letter, modality in LETTERS.items():
            name = name.replace(f"project.{modality}.conv.", f"proj_{letter}.")
            name = name.replace(f"memory.{modality}.", f"trans_{letter}_mem.")
            for other, source in LETTERS.items():
                name = name.replace(f"cross.{modality}_from_{source}.", f"trans_{letter}_with_{other}.")
        renamed[name] = value
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert not unexpected
    tables = ("version", "_float_tensor")
    skipped = ("proj_l.weight",)  # of the same width on both sides, hence never called
    unused = {name for name in missing if not name.endswith(tables) and name not in skipped}
    assert all("_mem." in name for name in unused)


def hyper_parameters(case: Case, **more: object) -> SimpleNamespace:
    dropouts = ("attn_dropout", "attn_dropout_a", "attn_dropout_v", "relu_dropout", "res_dropout", "embed_dropout")
    return SimpleNamespace(**dict.fromkeys(dropouts, 0.0), attn_mask=True, **more)


def assert_same(case_name: str, pred: Tensor, joint: Tensor) -> None:
    """The official outputs are ours, and those that the repository keeps."""
    case = CASES[case_name]
    with torch.no_grad():
        ours = build(case)(batch_of(case))
    assert ours.representation is not None
    torch.testing.assert_close(ours.pred, pred.reshape(ours.pred.shape), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.representation, joint, atol=1e-5, rtol=0)
    golden = kept(case_name)
    torch.testing.assert_close(golden["pred"], pred.reshape(ours.pred.shape), atol=1e-5, rtol=0)
    torch.testing.assert_close(golden["representation"], joint, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_code_gives_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    with importing(clone("MSABENCH_PARITY_MULT")):
        models = importlib.import_module("src.models")
        positions = importlib.import_module("modules.position_embedding")
    # Recent PyTorch wants the index contiguous before it is flattened.
    looked_up = positions.make_positions
    monkeypatch.setattr(positions, "make_positions", lambda *a: looked_up(*a).contiguous())
    only = case.settings.get("variant", "lav")
    settings = hyper_parameters(
        case,
        **{f"orig_d_{letter}": size for letter, size in zip("lav", case.dims, strict=True)},
        **{f"{letter}only": letter in only.removesuffix("only") for letter in "lav"},
        num_heads=5,
        layers=case.settings["layers"],
        out_dropout=0.0,
        output_dim=8 if case.task == "emotions" else 1,
    )
    theirs = models.MULTModel(settings).eval()
    copy_weights(build(case), theirs)
    batch = batch_of(case)
    with torch.no_grad():
        pred, joint = theirs(batch.text, batch.audio, batch.vision)
    assert_same(name, pred, joint)


def mmsa(case: Case, ours: nn.Module) -> nn.Module:
    """MMSA's model with our weights."""
    with importing(clone("MSABENCH_PARITY_MMSA") / "src", "MMSA", "MMSA.models", "MMSA.models.singleTask"):
        module = importlib.import_module("MMSA.models.singleTask.MULT")
    settings = hyper_parameters(
        case,
        use_bert=False,
        dst_feature_dim_nheads=[case.settings["dim"], case.settings["heads"]],
        feature_dims=list(case.dims),
        nlevels=case.settings["layers"],
        output_dropout=0.0,
        text_dropout=0.0,
        train_mode="regression",
        num_classes=3,
        **{f"conv1d_kernel_size_{letter}": case.settings[f"kernel_size_{m}"] for letter, m in LETTERS.items()},
    )
    theirs: nn.Module = module.MULT(settings).eval()
    copy_weights(ours, theirs)
    return theirs


def test_mmsa_gives_the_same_numbers() -> None:
    case = CASES["mult_mmsa"]
    theirs, batch = mmsa(case, build(case)), batch_of(case)
    with torch.no_grad():
        out = theirs(batch.text, batch.audio, batch.vision)
    assert_same("mult_mmsa", out["M"], out["Feature_f"])
    by_modality = torch.cat([out["Feature_t"], out["Feature_a"], out["Feature_v"]], dim=1)
    assert_same("mult_mmsa", out["M"], by_modality)

"""MulT against its official code and MMSA's port.

MSABENCH_PARITY_MULT: clone of https://github.com/yaohungt/Multimodal-Transformer (a670936)
MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.mult import MulT
from msabench.missingness.conditions import MODALITIES
from tests.parity.clones import clone, importing
from tests.parity.mmsa_single import trainer_module
from tests.parity.mmsa_trainer import Named, Recorded
from tests.parity.recorded import fit_recorded
from tests.support.golden_cases import CASES, Case, batch_of, build, kept

LETTERS = dict(zip("lav", MODALITIES, strict=True))
OFFICIAL = [name for name in CASES if name.startswith("mult_official")]


def short_name(name: str) -> str:
    """Name there of one of our weights."""
    for letter, modality in LETTERS.items():
        name = name.replace(f"project.{modality}.conv.", f"proj_{letter}.")
        name = name.replace(f"memory.{modality}.", f"trans_{letter}_mem.")
        for other, source in LETTERS.items():
            name = name.replace(f"cross.{modality}_from_{source}.", f"trans_{letter}_with_{other}.")
    return name


def copy_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy ours into theirs by name; everything of ours has a place, and what is left of theirs is known unused."""
    renamed = {short_name(name): value for name, value in ours.state_dict().items()}
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


def sample_of(batch: Batch) -> dict[str, Any]:
    """What their train loader gives for a batch."""
    return {**batch.features, "labels": {"M": batch.labels}}


def test_mmsa_trains_to_the_same_weights(tmp_path: Path) -> None:
    """Three epochs of six batches: the running sum of four is clipped after each, and two are left over."""
    off = {name: 0.0 for name in MulT.__init__.__kwdefaults__ if "dropout" in name}
    settings = {**CASES["mult_mmsa"].settings, **off, "dim": 9, "layers": 1, "gradient_clip": 0.05, "accumulate": 4}
    method, before, epochs = fit_recorded("mult", settings, {"lr": 2e-4}, tmp_path)
    shapes = (tuple(of[m] for m in MODALITIES) for of in (method.spec.feature_dims, method.spec.seq_lens))
    theirs = mmsa(Case("mult", *shapes, settings=settings), before)  # type: ignore[arg-type]
    module = trainer_module("MULT")
    # It passes an argument that PyTorch no longer has; no epoch is better here, and the rate stays as it is.
    module.ReduceLROnPlateau = lambda *args, **more: SimpleNamespace(step=lambda value: None)
    asked = {"train_mode": "regression", "dataset_name": "mosi", "device": "cpu", "KeyEval": "Loss"}
    asked |= {"learning_rate": 2e-4, "update_epochs": 4, "grad_clip": 0.05, "patience": 5}
    asked |= {"early_stop": len(epochs) - 1, "model_save_path": tmp_path / "model.pt", "model_name": "mult"}
    trainer = module.MULT(SimpleNamespace(**asked, cur_seed=1))
    trainer.do_test = lambda *args, **more: {"Loss": 1.0}
    trainer.do_train(Named(theirs), {"train": Recorded(epochs, sample_of), "valid": None})
    after, largest = dict(theirs.named_parameters()), 0.0
    for (name, ours), start in zip(method.named_parameters(), before.parameters(), strict=True):
        found, expected = ours.detach(), after[short_name(name)].detach()
        assert not torch.equal(found, start)
        if name.endswith("in_proj_bias"):
            # A bias of the keys shifts all scores alike: its gradient is rounding noise, which Adam makes full steps.
            found, expected = (torch.cat([bias.chunk(3)[i] for i in (0, 2)]) for bias in (found, expected))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        largest = max(largest, float((found - expected).abs().max()))
    print(f"weights after training: {largest:.1e}")

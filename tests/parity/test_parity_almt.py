"""ALMT against its official code and MMSA's port.

MSABENCH_PARITY_ALMT: clone of https://github.com/Haoyu-ha/ALMT (da94610)
MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)
"""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from msabench.methods.schedules import warmup_cosine
from tests.parity.clones import clone, importing
from tests.parity.token_names import einops, renamed
from tests.support.golden_cases import CASES, Case, batch_of, build, kept

# Their BERT is replaced by its output, so the parameters are those without BERT.
SHAPES = {
    "mosi": (Case("almt", (768, 5, 20), (50, 375, 500)), 2_603_649),
    "mosei": (Case("almt", (768, 74, 35), (50, 500, 500), settings={"fusion_layers": 4}), 3_223_041),
    "sims": (Case("almt", (768, 33, 709), (39, 400, 55), settings={"fusion_layers": 4}), 3_232_897),
}
PLACES = (
    (r"^fusion\.language\.", "l_encoder."),
    (r"^fusion\.layers\.", "h_hyper_layer.layers."),
    (r"^fusion\.fusion\.", "fusion_layer."),
    (r"^head\.", "regression_layer.0."),
)
MMSA_PLACES = ((r"^proj_", "embedding_"), (r"^regression_layer\.0\.", "regression_head."))


def official(case: Case, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setitem(sys.modules, "einops", einops())
    with importing(clone("MSABENCH_PARITY_ALMT")):
        module = importlib.import_module("models.almt")
    monkeypatch.setattr(module, "BertTextEncoder", lambda **_: nn.Identity())
    dim, heads = case.settings.get("dim", 128), case.settings.get("heads", 8)
    widths = dict.fromkeys(("l_proj_dst_dim", "a_proj_dst_dim", "v_proj_dst_dim", "token_dim", "proj_input_dim"), dim)
    hidden = dict.fromkeys(("proj_mlp_dim", "l_enc_mlp_dim", "fusion_mlp_dim"), dim)
    all_heads = dict.fromkeys(("proj_heads", "l_enc_heads", "ahl_heads", "fusion_heads"), heads)
    settings = SimpleNamespace(
        **{f"{m}_input_dim": size for m, size in zip("lav", case.dims, strict=True)},
        **{f"{m}_input_length": size for m, size in zip("lav", case.steps, strict=True)},
        **widths,
        **hidden,
        **all_heads,
        bert_pretrained="",
        token_len=8,
        token_length=8,
        proj_depth=1,
        AHL_depth=3,
        ahl_dim_head=dim // heads,
        ahl_droup=0.0,
        fusion_layer_depth=case.settings.get("fusion_layers", 2),
    )
    return module.build_model(SimpleNamespace(model=settings)).eval()


def mmsa(case: Case, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setitem(sys.modules, "einops", einops())
    packages = ("MMSA", "MMSA.models", "MMSA.models.singleTask")
    with importing(clone("MSABENCH_PARITY_MMSA") / "src", *packages):
        module = importlib.import_module("MMSA.models.singleTask.ALMT")
    monkeypatch.setattr(module, "BertTextEncoder", lambda **_: nn.Identity())
    settings = SimpleNamespace(
        use_bert=True,
        use_finetune=True,
        transformers="bert",
        pretrained="",
        feature_dims=list(case.dims),
        feature_length=list(case.steps),
        dst_feature_dims=128,
        dst_feature_hidden_dims=128,
        dst_embedding_length=8,
        embedding_depth=[1, 1, 1],
        embedding_heads=[8, 8, 8],
        l_encoder_heads=8,
        AHL_depth=3,
        h_hyper_layer_heads=8,
        fusion_hidden_d=128,
        fusion_heads=8,
        fusion_layer_depth=2,
    )
    return module.ALMT(settings).eval()


def assert_same(case: Case, theirs: nn.Module, *places: tuple[str, str], order: str, golden: str = "") -> None:
    """Outputs, intermediate features and, for shapes of a corpus, gradients of a squared error are the same."""
    ours, batch = build(case), batch_of(case)
    theirs.load_state_dict(renamed(ours.state_dict(), *PLACES, *places))
    inputs = {"l": batch.text, "a": batch.audio, "v": batch.vision}
    seen: dict[str, torch.Tensor] = {}
    for name in ("l_encoder", "h_hyper_layer", "fusion_layer"):
        getattr(theirs, name).register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
    expected = theirs(*(inputs[m] for m in order))
    h = ours.embed(batch)
    states = ours.fusion.language.states(h["text"])
    for found, state in zip(states, seen["l_encoder"], strict=True):
        torch.testing.assert_close(found, state, atol=1e-5, rtol=0)
    out = ours(batch)
    assert out.representation is not None
    found = {"pred": out.pred, "representation": out.representation}
    for pair in (found, kept(golden) if golden else found):
        torch.testing.assert_close(pair["pred"], expected.squeeze(1), atol=1e-5, rtol=0)
        torch.testing.assert_close(pair["representation"], seen["fusion_layer"][:, 0], atol=1e-5, rtol=0)
    labels = torch.linspace(-3, 3, len(expected))
    (out.pred - labels).square().mean().backward()
    (expected.squeeze(1) - labels).square().mean().backward()
    gradients = renamed({name: p.grad for name, p in ours.named_parameters()}, *PLACES, *places)
    for name, parameter in theirs.named_parameters():
        scale = max(1.0, float(parameter.grad.abs().max()))
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4 * scale, rtol=0)


def test_official_code_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["almt_official"]
    assert_same(case, official(case, monkeypatch), order="val", golden="almt_official")


@pytest.mark.parametrize("corpus", SHAPES)
def test_official_code_gives_the_same_numbers_for_shapes_of(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, parameters = SHAPES[corpus]
    theirs = official(case, monkeypatch)
    assert sum(p.numel() for p in theirs.parameters()) == parameters
    assert_same(case, theirs, order="val")


def test_mmsa_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["almt_mmsa"]
    assert_same(case, mmsa(case, monkeypatch), *MMSA_PLACES, order="lav", golden="almt_mmsa")


def test_learning_rates_are_those_of_the_official_schedule() -> None:
    with importing(clone("MSABENCH_PARITY_ALMT")):
        scheduler = importlib.import_module("core.scheduler")
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1e-4)
    schedule = scheduler.get_scheduler(optimizer, SimpleNamespace(base=SimpleNamespace(n_epochs=200)))
    for epoch in range(200):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * warmup_cosine(epoch, 20, 200), abs=1e-12)
        optimizer.step()
        schedule.step()

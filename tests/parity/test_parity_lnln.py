"""LNLN against its official code.

MSABENCH_PARITY_LNLN: clone of https://github.com/Haoyu-ha/LNLN (80a052c)
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from msabench.data.batch import Batch
from msabench.missingness.conditions import MODALITIES
from tests.parity.clones import clone, importing
from tests.parity.token_names import einops, renamed
from tests.support.golden_cases import CASES, Case, batch_of, build, kept, numbers

# Their BERT is replaced by its output, so the parameters are those without BERT.
SHAPES = {
    "mosi": (Case("lnln", (768, 5, 20), (50, 375, 500)), 6_483_012),
    "mosei": (Case("lnln", (768, 74, 35), (50, 500, 500), settings={"fusion_layers": 4}), 7_102_404),
    "sims": (
        Case("lnln", (768, 33, 709), (39, 400, 55), settings={"fusion_layers": 4, "lambda_adversarial": 0.6}),
        7_112_260,
    ),
}
PLACES = (
    (r"^fusion\.language\.", "dmml.0."),
    (r"^fusion\.layers\.", "dmml.1.layers."),
    (r"^fusion\.fusion\.", "dmml.2."),
    (r"^head\.", "dmml.3."),
    (r"^completeness\.", "completeness_check.0."),
    (r"^completeness_head\.", "completeness_check.1."),
    (r"^proxy$", "h_p"),
    (r"^proxy_generator\.", "proxy_dominate_modality_generator."),
    (r"^discriminator\.", "effective_discriminator."),
    (r"^reconstructors\.audio\.", "reconstructor.0."),
    (r"^reconstructors\.vision\.", "reconstructor.1."),
    (r"^reconstructors\.text\.", "reconstructor.2."),
)


def official(case: Case, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, nn.Module]:
    """Their network and their loss."""
    monkeypatch.setitem(sys.modules, "einops", einops())
    with importing(clone("MSABENCH_PARITY_LNLN")):
        module = importlib.import_module("models.lnln")
        losses = importlib.import_module("core.losses")
    monkeypatch.setattr(module, "BertTextEncoder", lambda **_: nn.Identity())

    def part(**more: Any) -> dict[str, Any]:
        return {"depth": 2, "heads": 8, "input_dim": 128, "hidden_dim": 128, **more}

    dims, steps = ([of[i] for i in (0, 2, 1)] for of in (case.dims, case.steps))
    extractor = {"bert_pretrained": "", "input_dims": dims, "input_length": steps, "depth": 2, "heads": 8}
    settings = {
        "base": {"alpha": 0.9, "beta": case.settings.get("lambda_adversarial", 0.8), "gamma": 0.1, "sigma": 1.0},
        "model": {
            "feature_extractor": {**extractor, "token_length": [8] * 3, "hidden_dims": [128] * 3},
            "dmc": {
                "proxy_dominant_feature_generator": part(input_length=24, token_length=8),
                "effectiveness_discriminator": {"input_dim": 128, "hidden_dim": 64, "out_dim": 2},
                "completeness_check": part(input_length=8, token_length=1),
            },
            "reconstructor": part(input_length=8),
            "dmml": {
                "language_encoder": part(input_length=8),
                "hyper_modality_learning": part(depth=3),
                "fuison_transformer": part(source_length=8, tgt_length=8, depth=case.settings.get("fusion_layers", 2)),
                "regression": {"input_dim": 128, "out_dim": 1},
            },
        },
    }
    return module.build_model(settings).eval(), losses.MultimodalLoss(settings)


def training_batch(case: Case) -> Batch:
    """The clips of the case and, beside them, complete ones."""
    batch, spec = batch_of(case), case.spec
    features = {
        m: numbers((batch.size, spec.seq_lens[m], spec.feature_dims[m]), key) * 3
        for key, m in enumerate(MODALITIES, start=101)
    }
    complete = replace(batch, features=features, observed=batch.valid)
    return replace(batch, labels=torch.linspace(-3, 3, batch.size), complete=complete)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("corpus", ["", *SHAPES])
def test_official_code_gives_the_same_numbers_for_shapes_of(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, parameters = SHAPES[corpus] if corpus else (CASES["lnln_official"], 0)
    (theirs, their_loss), ours = official(case, monkeypatch), build(case)
    assert not corpus or sum(p.numel() for p in theirs.parameters()) == parameters
    theirs.load_state_dict(renamed(ours.state_dict(), *PLACES))
    batch = training_batch(case)
    assert batch.complete is not None
    corrupted, whole = ((b.vision, b.audio, b.text) for b in (batch, batch.complete))

    deployed = ours(batch)
    for found in (vars(deployed), kept("lnln_official") if not corpus else vars(deployed)):
        fused: list[torch.Tensor] = []
        hook = theirs.dmml[2].register_forward_hook(lambda _, __, out, seen=fused: seen.append(out))
        with torch.no_grad():
            assert_close(found["pred"], theirs((None, None, None), corrupted)["sentiment_preds"].squeeze(1))
        assert_close(found["representation"], fused[0][:, 1:].mean(1))
        hook.remove()

    out, expected = ours.training_forward(batch), theirs(whole, corrupted)
    order = torch.arange(24).view(3, 8)[[1, 2, 0]].flatten()  # theirs are audio, vision, text
    assert_close(out.pred, expected["sentiment_preds"].squeeze(1))
    assert_close(out.aux["completeness"], expected["w"].squeeze(1))
    assert_close(out.aux["reconstructed"][:, order], expected["rec_feats"])
    assert_close(out.aux["complete"][:, order], expected["complete_feats"])
    by_version = torch.cat(out.aux["judged"].chunk(2, dim=1)).flatten(0, 1)
    assert_close(by_version, expected["effectiveness_discriminator_out"])

    terms = ours.loss(out, batch)
    n = 8 * batch.size
    their_terms = their_loss(
        expected,
        {
            "sentiment_labels": batch.labels.unsqueeze(1),
            "completeness_labels": out.aux["kept"].unsqueeze(1),
            "effectiveness_labels": torch.cat([torch.ones(n), torch.zeros(n)]).long(),
        },
    )
    total = torch.stack(list(terms.values())).sum()
    torch.testing.assert_close(total, their_terms["loss"], atol=1e-5, rtol=1e-6)
    total.backward()
    their_terms["loss"].backward()
    gradients = renamed({name: p.grad for name, p in ours.named_parameters()}, *PLACES)
    for name, parameter in theirs.named_parameters():
        scale = max(1.0, float(parameter.grad.abs().max()))
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4 * scale, rtol=0)

"""P-RMF against two copies of the authors' code, which itself could not be had.

MSABENCH_PARITY_P_RMF: folder P-RMF of a clone of https://github.com/1579364808/PRD-Net (cdb0039)
MSABENCH_PARITY_P_RMF_HARDNESS: clone of https://github.com/MJ-0515/Hardness (b68706f)

The first clamps means and log-variances to [-10, 10], which none of those compared reaches.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.p_rmf import PRMF
from msabench.missingness.conditions import MODALITIES
from tests.parity.clones import clone, importing
from tests.parity.test_parity_text_encoder import padded_clips
from tests.parity.token_names import einops, renamed
from tests.support.golden_cases import CASES, Case, batch_of, build, kept, numbers
from tests.support.small_bert import save_small_bert

COPIES = ("MSABENCH_PARITY_P_RMF", "MSABENCH_PARITY_P_RMF_HARDNESS")
SHAPES = {
    "mosi": (Case("p_rmf", (768, 5, 20), (50, 375, 500)), 7_828_097),
    "mosei": (Case("p_rmf", (768, 74, 35), (50, 500, 500)), 7_854_849),
    "sims": (Case("p_rmf", (768, 33, 709), (39, 400, 55), settings={"tokens": 39}), 7_888_513),
}
_VAE = r"^autoencoders\.(text|audio|image)\."
_INJECTION = "crossmodal_encoder.encoderlayer."
PLACES = (
    (r"^autoencoders\.vision\.", "autoencoders.image."),
    (_VAE + r"to_encoder\.", r"generate_proxy_modality.\1_VAE.encoder.fc1."),
    (_VAE + r"mean\.", r"generate_proxy_modality.\1_VAE.encoder.fc2_mu."),
    (_VAE + r"log_variance\.", r"generate_proxy_modality.\1_VAE.encoder.fc2_log_var."),
    (_VAE + r"to_decoder\.", r"generate_proxy_modality.\1_VAE.decoder.fc1."),
    (_VAE + r"out\.", r"generate_proxy_modality.\1_VAE.decoder.fc_out."),
    (_VAE + r"(encoder|decoder)\.", r"generate_proxy_modality.\1_VAE.\2.\2.0."),
    (r"^injection\.attention\.([tav])[a-z]+\.norm_q\.", _INJECTION + r"cma_\1.modality1_ln."),
    (r"^injection\.attention\.([tav])[a-z]+\.norm_kv\.", _INJECTION + r"cma_\1.modality2_ln."),
    (r"^injection\.attention\.([tav])[a-z]+\.to_q\.", _INJECTION + r"cma_\1.proj_modality1."),
    (r"^injection\.attention\.([tav])[a-z]+\.to_([kv])\.", _INJECTION + r"cma_\1.proj_modality2_\2."),
    (r"^injection\.attention\.([tav])[a-z]+\.to_out\.", _INJECTION + r"cma_\1.proj."),
    (r"^injection\.norm\.", _INJECTION + "layernorm."),
    (r"^injection\.linear\.", _INJECTION + "fc."),
    (r"^head\.0\.", "fc1."),
    (r"^head\.3\.", "fc2."),
    (r"^reconstructors\.audio\.", "reconstructor.0."),
    (r"^reconstructors\.vision\.", "reconstructor.1."),
    (r"^reconstructors\.text\.", "reconstructor.2."),
)


class Read(nn.Module):
    """In place of BERT: what is read is the states."""

    def forward(self, states: Tensor) -> Tensor:
        return states


def official(
    variable: str, case: Case, monkeypatch: pytest.MonkeyPatch, bert: nn.Module | None = None
) -> tuple[Any, nn.Module]:
    """A copy's network in evaluation mode, around our BERT if one is given, and its loss."""
    monkeypatch.setitem(sys.modules, "einops", einops())
    with monkeypatch.context() as patched:
        for kind in (transformers.BertModel, transformers.BertTokenizer):
            patched.setattr(kind, "from_pretrained", lambda _: bert)
        with importing(clone(variable), "models", "core"):
            module = importlib.import_module("models.P_RMF")
            losses = importlib.import_module("core.losses")
        if bert is None:
            monkeypatch.setattr(module, "BertTextEncoder", lambda **_: Read())
        dim, heads, tokens = (case.settings.get(*of) for of in (("dim", 128), ("heads", 8), ("tokens", 8)))
        dims, steps = ([of[i] for i in (0, 2, 1)] for of in (case.dims, case.steps))
        part = {"input_length": 8, "depth": 2, "heads": heads, "input_dim": dim, "hidden_dim": dim}
        settings = {
            "base": {"gamma": 0.1, "sigma": 1.0, "kl": 0.5},
            "model": {
                "feature_extractor": {
                    **{"transformers": "bert", "bert_pretrained": "", "input_dims": dims, "input_length": steps},
                    **{"token_length": [tokens] * 3, "hidden_dims": [dim] * 3, "depth": 2, "heads": heads},
                },
                "vae": part,
                "reconstructor": part,
                "generate_proxy": {"input_dim": dim, "hidden_dim": dim, "out_dim": dim},
                "crossmodal_encoder": {
                    **{"proxy_dim": dim, "hidden_dims": [dim] * 3, "embed_dim": dim},
                    **{"num_layers": 4, "attn_dropout": 0.5},
                },
                "regression": {"attn_dropout": 0.5, "input_dim": dim, "hidden_dim": dim, "out_dim": 1},
            },
        }
        return module.build_model(settings).eval(), losses.MultimodalLoss(settings)


def load(theirs: nn.Module, ours: nn.Module) -> None:
    """Our weights but those of a text encoder; theirs repeats one layer under four names."""
    weights = {name: value for name, value in ours.state_dict().items() if not name.startswith("embed.text.")}
    missing, unexpected = theirs.load_state_dict(renamed(weights, *PLACES), strict=False)
    assert not unexpected
    assert all(name.startswith(("bertmodel.", "crossmodal_encoder.layers.")) for name in missing)


def fresh(case: Case, **settings: Any) -> PRMF:
    """The method as it is initialised, its dropout off, with no weight at a value that hides it."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        method = PRMF(case.spec, **case.settings, **settings).eval()
        for name, weight in method.named_parameters():
            if not name.startswith("embed.text."):
                weight.add_((0.02 if weight.dim() > 1 else 0.1) * torch.randn_like(weight))
    return method


def complete_of(case: Case, batch: Batch) -> Batch:
    spec = case.spec
    features = {
        m: numbers((batch.size, spec.seq_lens[m], spec.feature_dims[m]), key) * 3
        for key, m in enumerate(MODALITIES, start=101)
    }
    return replace(batch, features=features, observed=batch.valid)


def assert_close(found: Tensor, expected: Tensor, scale: float = 1.0) -> float:
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=0)
    return float((found - expected).detach().abs().max())


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("shape", ["p_rmf_official", "p_rmf_official_context", *SHAPES])
def test_the_copies_give_the_same_numbers(shape: str, copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prediction, weights, proxy, tokens, every term of the loss, and all gradients."""
    case, parameters = SHAPES.get(shape) or (CASES[shape], None)
    (theirs, their_loss), ours = official(copy, case, monkeypatch), fresh(case)
    assert parameters in (None, sum(p.numel() for p in theirs.parameters()), sum(p.numel() for p in ours.parameters()))
    load(theirs, ours)
    batch = batch_of(case)
    batch = replace(batch, labels=torch.linspace(-3, 3, batch.size), complete=complete_of(case, batch))
    assert batch.complete is not None
    corrupted, whole = ((b.vision, b.audio, b.text) for b in (batch, batch.complete))
    seen: dict[str, Any] = {}
    theirs.generate_proxy_modality.register_forward_hook(lambda _, __, out: seen.update(proxy=out))
    theirs.crossmodal_encoder.register_forward_hook(lambda _, __, out: seen.update(joint=out))
    ours.injection.register_forward_pre_hook(lambda _, args: seen.update(ours=args))

    with torch.no_grad():
        deployed = theirs((None, None, None), corrupted)["sentiment_preds"].squeeze(1)
        found = ours(batch.for_inference())
        worst = {"deployed": assert_close(found.pred, deployed)}
        assert found.representation is not None
        worst["joint"] = assert_close(found.representation, seen["joint"].mean(1))

    draws = 3 * batch.size * 8 * case.settings.get("dim", 128)
    noise = torch.randn(draws, generator=torch.Generator().manual_seed(0)).view(3, batch.size, 8, -1)
    by_theirs = iter(noise[[0, 2, 1]])  # theirs are text, vision, audio
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randn_like", lambda x: next(by_theirs) if x.dim() == 3 else noise.transpose(0, 1))
        out, expected = ours.training_forward(batch), theirs(whole, corrupted)
    _, proxy, weights = seen["proxy"]
    worst["proxy"] = assert_close(seen["ours"][0], proxy)
    worst["weights"] = assert_close(seen["ours"][2].transpose(0, 1), weights[[0, 2, 1]])
    worst["pred"] = assert_close(out.pred, expected["sentiment_preds"].squeeze(1))
    for name, there in (("reconstructed", "rec_feats"), ("complete", "complete_feats")):  # theirs: audio, vision, text
        worst[name] = assert_close(out.aux[name][:, [1, 2, 0]].flatten(1, 2), expected[there])
    assert bool(out.aux["log_variance"].abs().max() < 10)
    assert bool(out.aux["mean"].abs().max() < 10)

    terms = ours.loss(out, batch)
    assert batch.labels is not None
    named = their_loss(expected, {"sentiment_labels": batch.labels.unsqueeze(1)})
    for term, there, weight in (("task", "l_sp", 1.0), ("reconstruction", "l_rec", 0.1), ("variational", "l_kl", 0.5)):
        worst[term] = assert_close(terms[term], weight * named[there], max(1.0, float(terms[term].detach())))
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    named["loss"].backward()
    gradients = renamed({name: p.grad for name, p in ours.named_parameters() if p.grad is not None}, *PLACES)
    reached = set()
    for name, parameter in theirs.named_parameters():
        if name in gradients:
            reached.add(name)
            scale = max(1.0, float(parameter.grad.abs().max()))
            worst["gradient"] = max(worst.get("gradient", 0), assert_close(gradients[name], parameter.grad, scale))
        else:
            assert name.startswith("reconstructor.")
    assert reached == set(gradients)
    print(f"{shape}, {copy}:", ", ".join(f"{name} {value:.0e}" for name, value in worst.items()))


@pytest.mark.parametrize("name", ["p_rmf_official", "p_rmf_official_context"])
@pytest.mark.parametrize("copy", COPIES)
def test_what_is_kept_is_what_the_copies_give(name: str, copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, batch = CASES[name], batch_of(CASES[name])
    theirs, _ = official(copy, case, monkeypatch)
    load(theirs, build(case))
    joint: list[Tensor] = []
    theirs.crossmodal_encoder.register_forward_hook(lambda _, __, out: joint.append(out.mean(1)))
    with torch.no_grad():
        pred = theirs((None, None, None), (batch.vision, batch.audio, batch.text))["sentiment_preds"].squeeze(1)
    assert_close(kept(name)["pred"], pred)
    assert_close(kept(name)["representation"], joint[0])


@pytest.mark.parametrize("copy", COPIES)
def test_the_copies_give_the_same_numbers_from_tokens(
    copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded clips of unequal length, read through the same BERT on both sides."""
    from transformers import BertModel

    case = replace(CASES["p_rmf_official"], dims=(16, 5, 7))
    folder = save_small_bert(tmp_path, 16)
    ours = fresh(case, text_encoder=folder, finetune=True)
    theirs, _ = official(copy, case, monkeypatch, BertModel.from_pretrained(folder).eval())
    load(theirs, ours)
    batch = padded_clips(case)
    with torch.no_grad():
        pred = theirs((None, None, None), (batch.vision, batch.audio, batch.tokens))["sentiment_preds"].squeeze(1)
        assert_close(ours(batch).pred, pred)


@pytest.mark.parametrize("copy", COPIES)
def test_the_rate_follows_the_copies_schedule(copy: str) -> None:
    with importing(clone(copy), "core"):
        scheduler = importlib.import_module("core.scheduler")
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = scheduler.get_scheduler(optimizer, {"base": {"n_epochs": 100}})
    ours = PRMF(CASES["p_rmf_official"].spec, **CASES["p_rmf_official"].settings)
    for epoch in range(100):
        assert ours.lr_multiplier(epoch, 100) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        schedule.step()

"""What is LNLN's own; its blocks are in test_hyper_modality.py, what every method must hold in test_methods.py."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods import lnln
from msabench.methods.almt import ALMT
from msabench.methods.base import MSAMethod
from msabench.methods.lnln import LNLN, kept_words
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.nn import text
from msabench.testing.corpora import data_module, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, fill

CASE = CASES["lnln_official"]
SMALL = {**LNLN.info.smoke, "layers": 2}


def make_batch(rows: int = 7, regime: str = "lnln", **missing: str) -> Batch:
    data = data_module(random_corpus(), missing=MissingConfig(regime=regime, **missing))
    with_tokens = missing.get("level") == "tokens"
    return data.training_batch(torch.arange(rows), 0, needs=Needs(complete=True, tokens=with_tokens))


def make(**arguments: object) -> LNLN:
    method = LNLN(data_module(random_corpus()).spec, **{**SMALL, **arguments}).eval()
    fill(method)
    return method


def gradients(method: LNLN, batch: Batch, *names: str) -> dict[str, Tensor]:
    """Gradient of the sum of some terms, by parameter."""
    method.zero_grad()
    terms = method.loss(method.training_forward(batch), batch)
    torch.stack([terms[name] for name in names]).sum().backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def test_outputs_are_those_of_the_official_code() -> None:
    assert_as_kept("lnln_official")


@pytest.mark.parametrize(
    ("dims", "steps", "depth", "parameters"),
    [
        ((768, 5, 20), (50, 375, 500), 2, 6_483_012),  # MOSI
        ((768, 74, 35), (50, 500, 500), 4, 7_102_404),  # MOSEI
        ((768, 33, 709), (39, 400, 55), 4, 7_112_260),  # SIMS
    ],
)
def test_sizes_are_those_of_the_official_code(
    dims: tuple[int, int, int], steps: tuple[int, int, int], depth: int, parameters: int
) -> None:
    method = LNLN(replace(CASE, dims=dims, steps=steps).spec, fusion_layers=depth)
    assert sum(p.numel() for p in method.parameters()) == parameters
    assert torch.equal(method.proxy, torch.ones(1, 8, 128))


@torch.no_grad()
def test_dominant_modality_is_language_and_proxy_by_completeness() -> None:
    method, batch = make(), make_batch()
    h = method.embed(batch)
    start = method.proxy.expand(7, -1, -1)
    # The generator's own tokens come first, then the proxy's start, audio and vision.
    proxy = method.proxy_generator(torch.cat([start, h["audio"], h["vision"]], dim=1))[:, :3]
    out = method(batch)
    w = out.aux["completeness"].view(7, 1, 1)
    assert 0 < w.min() < w.max() < 1
    torch.testing.assert_close(out.aux["dominant"], (1 - w) * proxy + w * h["text"])
    fused = method.fusion(out.aux["dominant"], h["audio"], h["vision"])[:, 1:].mean(1)
    torch.testing.assert_close(out.representation, fused)
    torch.testing.assert_close(out.pred, fused @ method.head.weight[0] + method.head.bias)
    last = method.completeness_head[2]
    for bias, expected in ((50.0, h["text"]), (-50.0, proxy)):
        last.bias.fill_(bias)
        torch.testing.assert_close(method(batch).aux["dominant"], expected)


@torch.no_grad()
def test_completeness_is_read_at_the_token_of_the_check() -> None:
    method, batch = make(), make_batch()
    token = method.completeness(method.embed(batch)["text"])[:, 0]
    first, slope, second = method.completeness_head
    hidden = token @ first.weight.T + first.bias
    logit = torch.where(hidden > 0, hidden, 0.1 * hidden) @ second.weight.T + second.bias
    assert slope.negative_slope == 0.1
    torch.testing.assert_close(method(batch).aux["completeness"], 1 / (1 + (-logit.squeeze(1)).exp()))


@torch.no_grad()
def test_loss_by_hand() -> None:
    method, batch = make(), make_batch()
    out = method.training_forward(batch)
    assert batch.complete is not None
    assert batch.labels is not None
    h, target = method.embed(batch), method.embed(batch.complete)

    words = batch.complete.valid["text"]
    share = torch.tensor([float((o & v).sum() / v.sum()) for o, v in zip(batch.observed["text"], words, strict=True)])
    completeness = ((out.aux["completeness"] - share) ** 2).mean()

    cross_entropy = []
    for tokens, truth in ((out.aux["dominant"], 1), (target["text"], 0)):
        for logits in method.discriminator(tokens.reshape(-1, 8)):
            cross_entropy.append(math.log(sum(math.exp(x) for x in logits.tolist())) - logits[truth].item())

    error = [(method.reconstructors[m](h[m]) - target[m]).square() for m in MODALITIES]
    terms = method.loss(out, batch)
    assert list(terms) == ["task", "completeness", "adversarial", "reconstruction"]
    assert terms["task"].item() == pytest.approx(((out.pred - batch.labels) ** 2).mean().item(), rel=1e-5)
    assert terms["completeness"].item() == pytest.approx(0.9 * completeness.item(), rel=1e-5)
    assert terms["adversarial"].item() == pytest.approx(0.8 * sum(cross_entropy) / len(cross_entropy), rel=1e-5)
    assert terms["reconstruction"].item() == pytest.approx(0.1 * torch.cat(error).mean().item(), rel=1e-5)
    weights = {"lambda_completeness": 0.2, "lambda_adversarial": 1.6, "lambda_reconstruction": 0.0}
    other = make(**weights).loss(out, batch)
    for name, factor in (("completeness", 0.2 / 0.9), ("adversarial", 2.0), ("reconstruction", 0.0)):
        assert other[name].item() == pytest.approx(factor * terms[name].item(), rel=1e-5)


@pytest.mark.parametrize("variant", ["default", "adv_only"])
@pytest.mark.parametrize("term", ["task", "adversarial"])
def test_signs_of_gradients(variant: str, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy and generator get the reversed gradient, of the task too unless ``adv_only``; nothing else does."""
    method, batch = make(variant=variant), make_batch()
    found = gradients(method, batch, term)
    monkeypatch.setattr(lnln, "reverse_gradient", lambda x: x)
    plain = gradients(method, batch, term)
    reversed_ = term == "adversarial" or variant == "default"
    through_generator = ("proxy", "proxy_generator.")
    for name, gradient in found.items():
        both_ways = name.startswith(("embed.tokens.audio", "embed.tokens.vision"))
        if name.startswith(through_generator) or (both_ways and term == "adversarial"):
            # Audio and vision reach the discriminator through the generator alone, the task also past it.
            torch.testing.assert_close(gradient, -plain[name] if reversed_ else plain[name], atol=1e-6, rtol=1e-4)
        elif both_ways and reversed_:
            assert not name.endswith("project.weight") or not torch.allclose(gradient, plain[name], atol=1e-4)
        else:
            torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-4)
    assert any(found[name].abs().max() > 1e-5 for name in found if name.startswith(through_generator))


def test_variants_predict_the_same() -> None:
    batch = make_batch()
    assert torch.equal(make()(batch).pred, make(variant="adv_only")(batch).pred)


def test_complete_clips_are_not_constant_to_the_gradient() -> None:
    """Complete language helps the discriminator, and embeddings come to meet the reconstruction."""
    method, batch = make(), make_batch()
    assert batch.complete is not None
    for m in MODALITIES:
        batch.complete.features[m].requires_grad_()
    terms = method.loss(method.training_forward(batch), batch)
    for name, reached in (("adversarial", ("text",)), ("reconstruction", MODALITIES), ("task", ())):
        inputs = [batch.complete.features[m] for m in MODALITIES]
        got = torch.autograd.grad(terms[name], inputs, retain_graph=True, allow_unused=True)
        moved = {m for m, g in zip(MODALITIES, got, strict=True) if g is not None and g.abs().max() > 0}
        assert moved == set(reached)


@torch.no_grad()
def test_prediction_in_training_is_that_of_the_corrupted_clip() -> None:
    method, batch = make(), make_batch()
    assert batch.complete is not None
    torch.testing.assert_close(method.training_forward(batch).pred, method(batch.for_inference()).pred)
    assert not torch.allclose(method(batch).pred, method(batch.complete).pred, atol=1e-4)


def test_kept_words_of_vectors() -> None:
    batch = make_batch(24, regime="intra")
    assert batch.complete is not None
    share = kept_words(batch)
    for row in range(24):
        words = int(batch.complete.valid["text"][row].sum())
        assert share[row].item() == pytest.approx(int(batch.observed["text"][row].sum()) / words)
    assert share.dtype == torch.float32
    assert share.unique().numel() > 3
    assert torch.equal(kept_words(batch.complete), torch.ones(24))


def test_kept_words_of_removed_text_is_zero() -> None:
    batch = make_batch(24, regime="inter")
    removed = ~batch.observed["text"].any(1)
    assert removed.any()
    assert torch.equal(kept_words(batch), (~removed).float())


def test_kept_words_of_tokens_leaves_out_what_is_never_dropped() -> None:
    batch = make_batch(24, regime="intra", level="tokens")
    assert batch.complete is not None
    assert batch.tokens is not None
    share = kept_words(batch)
    assert batch.complete.tokens is not None
    for row in range(24):
        ids = [i for i in batch.complete.tokens[row, 0].tolist() if i > 102]
        kept = [i for i in batch.tokens[row, 0].tolist() if i > 102]
        assert share[row].item() == pytest.approx(len(kept) / max(1, len(ids)))


@pytest.mark.parametrize("method_class", [LNLN, ALMT])
def test_a_text_encoder_is_trained_on_corrupted_tokens(
    method_class: type[MSAMethod], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    monkeypatch.setattr(text, "_load_bert", lambda name: BertModel(config, add_pooling_layer=False))
    spec = data_module(random_corpus()).spec
    method = method_class(spec, **method_class.info.smoke, text_encoder="bert", finetune=True).eval()
    assert method.data_needs.tokens
    assert [group.get("lr", method.lr) for group in method.param_groups()] == [1e-4, 1e-4]
    batch = make_batch(24, regime="intra", level="tokens")
    terms = method.loss(method.training_forward(batch), batch)
    torch.stack(list(terms.values())).sum().backward()
    encoder = method.get_submodule("embed.text.encoder")
    words = encoder.get_submodule("embeddings.word_embeddings").weight.grad
    assert words[100].any()  # [UNK], which only the corrupted clips have
    assert batch.complete is not None
    assert batch.complete.tokens is not None
    # Whole clips are read beside them, in training alone and where the paper does so.
    dropped = set(batch.complete.tokens[:, 0].flatten().tolist()) - set(batch.tokens[:, 0].flatten().tolist())
    assert dropped
    assert all(bool(words[i].any()) == (method_class is LNLN) for i in dropped)


def test_complete_clips_are_needed_in_training() -> None:
    with pytest.raises(MSABenchError, match="lnln trains on complete clips"):
        make().training_forward(make_batch().for_inference())


def test_negative_weights_are_refused() -> None:
    with pytest.raises(MSABenchError, match=r"weights \[0.9, -1, 0.1\] of the loss are not allowed"):
        make(lambda_adversarial=-1)


def test_learning_rate_is_the_official_one() -> None:
    """Values of the official schedule in epochs 1, 2, 21, 22, 112 and 200 of 200."""
    method = LNLN(CASE.spec)
    factors = [method.lr_multiplier(epoch - 1, 200) for epoch in (1, 2, 21, 22, 112, 200)]
    assert factors == pytest.approx([0, 0.05, 1, 1, 0.5, 3.046e-4], abs=1e-7)
    assert method.optimizer_class is torch.optim.AdamW

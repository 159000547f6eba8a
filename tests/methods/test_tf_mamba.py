"""What is TF-Mamba's own; its blocks are in test_selective_scan.py, what every method must hold in test_methods.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods.tf_mamba import TFMamba
from msabench.missingness.config import MissingConfig
from msabench.nn import text
from msabench.nn.text_steps import TextSteps
from msabench.testing.corpora import data_module, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build, fill, numbers

CASE = CASES["tf_mamba_official"]


def make_batch(rows: int = 7, regime: str = "lnln", **missing: str) -> Batch:
    data = data_module(random_corpus(), missing=MissingConfig(regime=regime, **missing))
    with_tokens = missing.get("level") == "tokens"
    return data.training_batch(torch.arange(rows), 0, needs=Needs(complete=True, tokens=with_tokens))


def make(**arguments: object) -> TFMamba:
    method = TFMamba(data_module(random_corpus()).spec, **{**TFMamba.info.smoke, "reconstruct": "missing", **arguments})
    fill(method)
    return method.eval()


def normed(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias


def test_outputs_are_those_of_the_official_code() -> None:
    assert_as_kept("tf_mamba_official")


@pytest.mark.parametrize(
    ("dims", "steps", "settings", "parameters"),
    [
        ((768, 5, 20), (50, 375, 500), {"state": 12, "query_layers": 1}, 1_813_209),  # MOSI
        ((768, 74, 35), (50, 500, 500), {}, 2_164_081),  # MOSEI
        ((768, 33, 709), (39, 400, 55), {"expand": 2}, 1_526_927),  # SIMS
    ],
)
def test_sizes_are_those_of_the_official_code(
    dims: tuple[int, int, int], steps: tuple[int, int, int], settings: dict[str, int], parameters: int
) -> None:
    method = TFMamba(replace(CASE, dims=dims, steps=steps).spec, **settings)
    assert sum(p.numel() for p in method.parameters()) == parameters


@torch.no_grad()
def test_projections_are_on_the_steps_of_the_text() -> None:
    method, batch = build(CASE), batch_of(CASE)
    embed = method.get_submodule("embed")
    assert isinstance(embed, TextSteps)
    found = embed(batch)
    assert {m: x.shape for m, x in found.items()} == dict.fromkeys(("text", "audio", "vision"), (4, 9, 20))
    first, linear = embed.project["text"]
    torch.testing.assert_close(found["text"], linear(normed(batch.text, first)), atol=1e-5, rtol=1e-5)
    share = embed.align["audio"].position(batch.audio)[0].softmax(2)
    # Column 0 is the blank; what a target step gets is not divided by the sum of its shares.
    aligned = torch.stack([sum(share[:, s, 1 + t, None] * batch.audio[:, s] for s in range(20)) for t in range(9)], 1)
    first, linear, last = embed.project["audio"]
    torch.testing.assert_close(found["audio"], normed(linear(normed(aligned, first)), last), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_enhancement_takes_up_what_is_more_similar_than_the_average() -> None:
    enhance = make().enhance["audio"]
    x, words = numbers((2, 5, 6), 1), numbers((2, 5, 6), 2)
    enhance.log_scale.fill_(1.3)
    expected = x.clone()
    taken = 0
    for b in range(2):
        for i in range(5):
            cosine = [torch.dot(x[b, i], w) / (x[b, i].norm() * w.norm()) for w in words[b]]
            shares = (torch.stack(cosine) * 2.718281828**1.3).softmax(0)
            for share, word in zip(shares, words[b], strict=True):
                if share > 1 / 5:
                    expected[b, i] += share * word
                    taken += 1
    torch.testing.assert_close(enhance(x, words), expected, atol=1e-6, rtol=1e-5)
    assert 10 < taken < 40
    assert torch.isfinite(enhance(torch.zeros(1, 5, 6), torch.zeros(1, 5, 6))).all()
    torch.testing.assert_close(enhance(x[:, :1], words[:, :1]), x[:, :1])  # of one step, none is above the average


@torch.no_grad()
def test_text_is_the_mean_of_both_pairs_and_then_asks() -> None:
    method, batch = make(query_layers=1), make_batch()
    h = method.embed(batch)
    audio, vision = (method.enhance[m](h[m], h["text"]) for m in ("audio", "vision"))
    pairs = method.context[0].pairs
    audio, first = pairs["audio"](audio, h["text"])
    vision, second = pairs["vision"](vision, h["text"])
    asking, both = (first + second) / 2, torch.cat([audio, vision], dim=1)
    query = method.query[0]
    asked = asking + normed(method.attention(asking, both, both), method.attention_norm)
    steps = asked + normed(query.mamba(asked), query.norms[0])
    out = method(batch)
    torch.testing.assert_close(out.representation, steps.amax(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.pred, steps.amax(1) @ method.head.weight[0] + method.head.bias, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("reconstruct", ["missing", "all"])
def test_loss_by_hand(reconstruct: str) -> None:
    method, batch = make(reconstruct=reconstruct, lambda_reconstruction=0.4), make_batch()
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    assert batch.complete is not None
    rebuilt, total, values = method.rebuild(method.embed(batch)["text"]), 0.0, 0
    for row in range(batch.size):
        for step in range(8):
            gone = not batch.observed["text"][row, step]
            if batch.complete.observed["text"][row, step] and (gone or reconstruct == "all"):
                for error in (rebuilt - batch.complete.text)[row, step].abs().tolist():
                    total += 0.5 * error**2 if error < 1 else error - 0.5
                    values += 1
    assert values > 0
    assert list(terms) == ["task", "reconstruction"]
    assert terms["task"].item() == pytest.approx((out.pred - batch.labels).square().mean().item(), rel=1e-5)
    assert terms["reconstruction"].item() == pytest.approx(0.4 * total / values, rel=1e-5)


def test_nothing_is_rebuilt_of_complete_clips() -> None:
    batch = make_batch(regime="complete")
    terms = make().loss(make().training_forward(batch), batch)
    assert terms["reconstruction"].item() == 0


def test_without_reconstruction_the_complete_clip_is_not_needed() -> None:
    method, batch = make(variant="wo_reconstruction"), replace(make_batch(), complete=None)
    assert list(method.loss(method.training_forward(batch), batch)) == ["task"]
    assert not any(name.startswith("rebuild") for name, _ in method.named_parameters())
    with pytest.raises(MSABenchError, match="tf_mamba trains on complete clips"):
        make().training_forward(batch)


def test_of_tokens_words_are_rebuilt_and_a_trained_encoder_learns_from_both_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    monkeypatch.setattr(text, "_load_bert", lambda name: BertModel(config, add_pooling_layer=False))
    method = make(text_encoder="bert", finetune=True)
    assert method.data_needs.tokens
    assert [group.get("lr", method.lr) for group in method.param_groups()] == [1e-4, 1e-4]
    batch = make_batch(24, regime="inter", level="tokens")
    assert batch.complete is not None
    out = method.training_forward(batch)
    found = method.loss(out, batch)["reconstruction"]
    words = batch.complete.observed["text"] & ~batch.observed["text"]
    words[:, 0] = False  # [CLS]
    words[torch.arange(24), batch.complete.last["text"]] = False  # [SEP]
    error = torch.nn.functional.smooth_l1_loss(out.aux["rebuilt"][words], out.aux["complete"][words])
    assert words.any()
    torch.testing.assert_close(found, 0.7 * error)
    found.backward()
    gradient = method.get_submodule("embed.text.encoder.embeddings.word_embeddings").weight.grad
    dropped = batch.complete.tokens[:, 0][words]
    assert gradient[100].any()  # [UNK], which only the corrupted clips have
    assert all(gradient[int(i)].any() for i in dropped)


def test_learning_rate_and_optimiser_are_the_official_ones() -> None:
    method = TFMamba(CASE.spec)
    factors = [method.lr_multiplier(epoch - 1, 200) for epoch in (1, 2, 21, 22, 112, 200)]
    assert factors == pytest.approx([0, 0.05, 1, 1, 0.5, 3.046e-4], abs=1e-7)
    assert method.optimizer_class is torch.optim.AdamW
    (group, encoder) = method.param_groups()
    assert len(group["params"]) == len(list(method.parameters()))
    assert encoder["params"] == []


def test_values_outside_their_range_are_refused() -> None:
    with pytest.raises(MSABenchError, match="reconstruct 'none'"):
        make(reconstruct="none")
    with pytest.raises(MSABenchError, match="lambda_reconstruction -1 is not allowed; give a number from 0 up"):
        make(lambda_reconstruction=-1)

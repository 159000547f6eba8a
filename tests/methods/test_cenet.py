"""What is CENET's own; how it enters a BERT is in test_text_encoder.py, what every method holds in test_methods.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.corpus import Corpus
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods.cenet import CENET, _Enhancement
from msabench.missingness.conditions import Cell
from msabench.missingness.config import MissingConfig
from msabench.nn import text
from msabench.testing.corpora import data_module, random_corpus, with_other_content
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build, numbers

CASE = CASES["cenet_mmsa"]
TOKENS = MissingConfig(level="tokens")
BERT: dict[str, Any] = {"text_encoder": "bert", "finetune": True}


@pytest.fixture
def bert(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called a BERT has three small layers."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=200, max_position_embeddings=32, **sizes)
    monkeypatch.setattr(text, "_load_bert", lambda name: BertModel(config, add_pooling_layer=False))


def with_bert(**settings: Any) -> CENET:
    """A method that reads tokens, whose new weights are large enough to be seen in a score."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = CENET(data_module(random_corpus()).spec, **BERT | settings)
        for part in (method.enhance, method.head):
            for parameter in part.parameters():
                parameter.data.normal_(std=0.3)
    return method.eval()


def clips(cell: str = "inter/lav", corpus: Corpus | None = None, missing: MissingConfig = TOKENS) -> Batch:
    data = data_module(corpus or random_corpus(), missing=missing)
    return next(data.cell_batches(Cell.parse(cell), 0, needs=Needs(tokens=True)))


def loss_of(method: CENET, batch: Batch) -> Tensor:
    method.train()
    return method.loss(method.training_forward(batch), batch)["task"]


def test_outputs_are_those_of_mmsa() -> None:
    assert_as_kept("cenet_mmsa")


def test_words_are_shifted_by_what_they_attend_to() -> None:
    """Word by word, in double precision."""
    block = _Enhancement(4, {"vision": 3, "audio": 2}, sharpness=8.0)
    weights = {}
    with torch.no_grad():
        for key, (name, parameter) in enumerate(block.named_parameters(), start=1):
            parameter.copy_(numbers(parameter.shape, key) * 0.8)
            weights[name] = parameter.double()
    words, frames = numbers((2, 3, 4), 90), {"vision": numbers((2, 5, 3), 91), "audio": numbers((2, 6, 2), 92)}
    found = block(words, frames)

    def linear(name: str, x: Tensor) -> Tensor:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    for clip in range(2):
        for step in range(3):
            word, answers = words[clip, step].double(), []
            for m in ("vision", "audio"):
                hidden = [linear(f"transform.{m}.0", x.double()).clamp(min=0) for x in frames[m][clip]]
                sources = [linear(f"transform.{m}.2", x) for x in hidden]
                query = linear(f"query.{m}", word)
                odds = [math.exp(8 * float(query @ linear(f"key.{m}", x))) for x in sources]
                values = [linear(f"value.{m}", x) * weight for x, weight in zip(sources, odds, strict=True)]
                answers.append(torch.stack(values).sum(0) / sum(odds))
            expected = word + linear("join", torch.cat(answers))
            torch.testing.assert_close(found[clip, step].double(), expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_frames_that_are_all_zero_shift_every_word_alike() -> None:
    method = CENET(CASE.spec, **CASE.settings)
    batch = batch_of(CASE)
    words, silence = numbers((4, 9, 12), 1), {m: torch.zeros_like(batch.features[m]) for m in ("audio", "vision")}
    assert torch.equal(method.enhance(words, silence), words)  # biases begin at 0
    for parameter in method.enhance.parameters():
        parameter.normal_()
    shift = method.enhance(words, silence) - words
    assert shift.abs().max() > 0.1
    torch.testing.assert_close(shift, shift[:1, :1].expand_as(shift), atol=1e-5, rtol=0)


@pytest.mark.parametrize("modality", ["audio", "vision"])
@torch.no_grad()
def test_zero_frames_among_others_are_attended_to(modality: str) -> None:
    """Padding and dropped frames, as in MMSA."""
    method, batch = build(CASE), batch_of(CASE)
    method.enhance.sharpness = 0.5  # with 8 and these weights nearly all attention is on one frame
    stored = batch.features[modality]
    longer = {**batch.features, modality: torch.cat([stored, torch.zeros_like(stored)], dim=1)}
    assert (method(batch).pred - method(replace(batch, features=longer)).pred).abs().max() > 1e-3


@pytest.mark.usefixtures("bert")
@pytest.mark.parametrize("injection", [0, 1, 2])
@torch.no_grad()
def test_enhancement_enters_the_bert_before_its_layer(injection: int) -> None:
    method, batch = with_bert(injection=injection), clips()
    assert batch.tokens is not None
    ids, mask, types = batch.tokens.unbind(1)
    assert not mask.all()
    encoder: Any = method.text.encoder
    states, blocked = encoder.embeddings(ids, token_type_ids=types), (1.0 - mask)[:, None, None] * -10000.0
    for number, layer in enumerate(encoder.encoder.layer):
        if number == injection:
            states = method.enhance(states, batch.features)
        states = layer(states, blocked)
        states = states[0] if isinstance(states, tuple) else states
    out = method(batch)
    assert out.representation is not None
    torch.testing.assert_close(out.representation, states[:, 0], atol=1e-5, rtol=1e-5)
    hidden = F.linear(states[:, 0], *method.head[1].parameters()).tanh()
    torch.testing.assert_close(out.pred, F.linear(hidden, *method.head[4].parameters())[:, 0], atol=1e-5, rtol=1e-5)
    pooled = with_bert(injection=injection, text_vector="mean")(batch).representation
    expected = (states * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("bert")
@pytest.mark.parametrize("level", ["tokens", "vectors"])
@torch.no_grad()
def test_removed_modalities_tell_nothing_to_a_bert_and_the_others_are_read(level: str) -> None:
    corpus, missing = random_corpus(), MissingConfig(level=level)
    method = with_bert()
    for cell, present in (("inter/l", "text"), ("inter/a", "audio"), ("inter/v", "vision")):
        before = method(clips(cell, corpus, missing)).pred
        for modality in ("text", "audio", "vision"):
            after = method(clips(cell, with_other_content(corpus, modality), missing)).pred
            if modality == present:
                assert (before - after).abs().max() > 1e-4
            else:
                assert torch.equal(before, after)


@torch.no_grad()
def test_padding_of_text_features_is_not_attended_to() -> None:
    method, batch = build(CASE), batch_of(CASE)
    valid = {**batch.valid, "text": torch.arange(9) < torch.tensor([9, 4, 1, 0])[:, None]}
    padded = replace(batch, valid=valid)
    changed = replace(padded, features={**batch.features, "text": batch.text.where(valid["text"].unsqueeze(2), 5.0)})
    before, after = method(padded).pred, method(changed).pred
    assert torch.isfinite(after).all()
    torch.testing.assert_close(before[:3], after[:3], atol=1e-6, rtol=0)
    assert abs(before[3] - after[3]) > 1e-4  # a text without any step: all of it is read
    assert (before[1:3] - method(batch).pred[1:3]).abs().min() > 1e-4


@torch.no_grad()
def test_order_of_words_is_told() -> None:
    method, batch = build(CASE), batch_of(CASE)
    method.text_vector = "mean"
    turned = replace(batch, features={**batch.features, "text": batch.text.flip(1)})
    assert (method(batch).pred[0] - method(turned).pred[0]).abs() > 1e-4


@pytest.mark.parametrize(
    ("audio", "vision", "enhancement"), [(5, 20, 5_925_888), (74, 35, 5_990_400), (33, 709, 6_476_544)]
)
def test_sizes_are_those_of_mmsa(audio: int, vision: int, enhancement: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """MOSI, MOSEI and SIMS; counted without memory for weights."""
    from transformers import BertConfig, BertModel

    monkeypatch.setattr(text, "_load_bert", lambda name: BertModel(BertConfig(), add_pooling_layer=False))
    with torch.device("meta"):
        method = CENET(replace(CASE, dims=(768, audio, vision)).spec, **BERT)
    assert sum(p.numel() for p in method.enhance.parameters()) == enhancement
    assert sum(p.numel() for p in method.head.parameters()) == 591_361
    pooler, unused_tables = 768 * 768 + 768, 10_752
    everything = 116_010_241 - 5_925_888 + enhancement - pooler - unused_tables
    assert sum(p.numel() for p in method.parameters()) == everything


def test_new_weights_begin_as_berts() -> None:
    for width, std in ((768, 0.02), (48, 0.08)):
        method = CENET(CASE.spec, dim=width, heads=12)
        for parameter in (method.enhance.join.weight, method.head[1].weight, method.layers.layers[0].linear1.weight):
            assert parameter.std().item() == pytest.approx(std, rel=0.05)
        gains = {id(part.weight) for part in method.modules() if isinstance(part, nn.LayerNorm)}
        for parameter in method.parameters():
            if parameter.ndim == 1:
                assert torch.equal(parameter, torch.full_like(parameter, float(id(parameter) in gains)))


@pytest.mark.usefixtures("bert")
def test_parameter_groups_are_those_of_mmsa() -> None:
    method = with_bert(lr=1e-3, text_lr=1e-4, weight_decay=0.1, adam_eps=3e-8)
    named = {id(parameter): name for name, parameter in method.named_parameters()}
    optimizer = method.configure_optimizers()["optimizer"]
    assert type(optimizer) is torch.optim.Adam
    seen = {}
    for group in optimizer.param_groups:
        assert group["eps"] == 3e-8
        for parameter in group["params"]:
            name = named[id(parameter)]
            undecayed = not name.startswith("enhance.") and ("bias" in name or "LayerNorm.weight" in name)
            assert group["weight_decay"] == (0.0 if undecayed else 0.1), name
            assert group["lr"] == (1e-4 if name.startswith("text.") else 1e-3), name
            seen[name] = undecayed
    assert set(seen) == {name for name in named.values() if ".embeddings." not in name}
    assert 0 < sum(seen.values()) < len(seen)


@pytest.mark.usefixtures("bert")
def test_what_is_trained_of_a_bert() -> None:
    data = data_module(random_corpus())
    batch = data.training_batch(torch.arange(8), 0, needs=Needs(tokens=True))

    def reached(**settings: Any) -> set[str]:
        method = with_bert(**settings)
        loss_of(method, batch).backward()
        return {name for name, parameter in method.named_parameters() if parameter.grad is not None}

    everything = {name for name, _ in with_bert().named_parameters()}
    embeddings = {name for name in everything if name.startswith("text.encoder.embeddings.")}
    assert reached() == everything - embeddings
    assert reached(freeze_embeddings=False) == everything
    assert reached(finetune=False) == {name for name in everything if not name.startswith("text.")}


def test_loss_is_the_mean_absolute_error_and_the_gradient_is_clipped() -> None:
    method, batch = build(CASE), batch_of(CASE)
    out = replace(method(batch), pred=torch.tensor([1.0, 0.0, -2.0, 0.5]))
    terms = method.loss(out, replace(batch, labels=torch.tensor([0.0, 2.0, -2.0, 1.0])))
    assert {name: term.item() for name, term in terms.items()} == {"task": pytest.approx((1 + 2 + 0 + 0.5) / 4)}
    assert (method.gradient_clip, method.clip_by, method.automatic_optimization) == (2.0, "norm", False)


@pytest.mark.usefixtures("bert")
@pytest.mark.parametrize("injection", [-1, 3])
def test_injection_outside_the_layers_is_refused(injection: int) -> None:
    with pytest.raises(MSABenchError, match=rf"injection {injection} is not allowed; the text has layers 0 to 2"):
        with_bert(injection=injection)
    with pytest.raises(MSABenchError, match=r"layers 0 to 2"):
        CENET(CASE.spec, layers=3, injection=injection)


def test_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(MSABenchError, match="dim 10 with 4 heads"):
        CENET(CASE.spec, dim=10, heads=4)

"""Text input from precomputed features and from a tiny random BERT."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.datamodule import MSADataModule
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.methods.base import MSAMethod
from msabench.methods.mult import MulT
from msabench.missingness.conditions import Cell
from msabench.missingness.config import MissingConfig
from msabench.nn.text import TextInput
from msabench.testing.corpora import DIMS, data_module, random_corpus, with_other_content
from tests.support.small_bert import HIDDEN, save_small_bert


def _arguments(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(registry.method_class(name).__init__).parameters


# The methods whose official code reads BERT's states over the padding; RECAP builds on LNLN's.
KEEP_PADDING = ("almt", "cubemlp", "dmd", "emoe", "lnln", "mult", "p_rmf", "recap", "tetfn", "tf_mamba", "tfr_net")
# Those whose official code reads [CLS] or a mean over the words, so that padding cannot count.
READ_NO_PADDING = ("emt_dlfr", "misa", "mmim", "self_mm")
READ_TEXT = sorted(name for name in registry.methods() if "text_encoder" in _arguments(name))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_small_bert(tmp_path_factory.mktemp("bert"))


def clips(data: MSADataModule, cell: str = "inter/lav") -> Batch:
    return next(data.cell_batches(Cell.parse(cell), 0, needs=Needs(tokens=True)))


def states(text: TextInput, batch: Batch) -> Tensor:
    with torch.no_grad():
        return text.eval()(batch)


def test_precomputed_features_pass_through() -> None:
    data = data_module(random_corpus())
    text = TextInput(data.spec)
    batch = next(data.cell_batches(Cell(), 0))
    assert text(batch) is batch.text
    assert (text.width, text.steps, text.reads_tokens) == (12, 8, False)
    assert not list(text.parameters())


def test_complete_text_gives_berts_states(bert: str) -> None:
    from transformers import BertModel

    data = data_module(random_corpus(), missing=MissingConfig(level="tokens"))
    text, batch = TextInput(data.spec, bert), clips(data)
    assert (text.width, text.steps, text.reads_tokens) == (HIDDEN, 8, True)
    reference = BertModel.from_pretrained(bert).eval()

    def expected(batch: Batch) -> Tensor:
        assert batch.tokens is not None
        ids, mask, types = batch.tokens.unbind(1)
        with torch.no_grad():
            return reference(input_ids=ids, attention_mask=mask.float(), token_type_ids=types).last_hidden_state

    assert torch.allclose(states(text, batch), expected(batch), atol=1e-6)
    batch = clips(data_module(random_corpus()))
    found, valid = states(text, batch), batch.valid["text"]
    assert torch.allclose(found[valid], expected(batch)[valid], atol=1e-6)
    assert not found[~valid].any()


def bert_states(bert: str, batch: Batch) -> Tensor:
    """What BERT itself gives for the tokens, as official codes call it."""
    from transformers import BertModel

    assert batch.tokens is not None
    ids, mask, types = batch.tokens.unbind(1)
    with torch.no_grad():
        encoder = BertModel.from_pretrained(bert).eval()
        return encoder(input_ids=ids, attention_mask=mask.float(), token_type_ids=types).last_hidden_state


@pytest.mark.parametrize("lengths", ["hide", "keep"])
def test_states_at_padding_are_kept_where_asked(bert: str, lengths: str) -> None:
    data = data_module(random_corpus(), missing=MissingConfig(lengths=lengths))
    text = TextInput(data.spec, bert, keep_padding=True)
    for cell in ("inter/lav", "intra/0.5"):
        batch = clips(data, cell)
        valid, observed = batch.valid["text"], batch.observed["text"]
        there = observed.any(1)
        assert (~valid[there]).any()
        found, expected = states(text, batch)[there], bert_states(bert, batch)[there]
        gone = (valid & ~observed)[there]
        assert gone.any() == (cell != "inter/lav")
        assert not found[gone].any()
        assert found[~valid[there]].abs().min() > 0
        torch.testing.assert_close(found[~gone], expected[~gone], atol=1e-6, rtol=0)
    assert not states(text, clips(data, "inter/av")).any()
    assert not states(text, clips(data, "intra/1.0")).any()


def seeded(name: str, data: MSADataModule, **changes: object) -> MSAMethod:
    """A tiny instance of a method, ready to predict."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = registry.method_class(name)(data.spec, **{**registry.method_info(name).smoke, **changes})
    method.enter_stage(method.stages[-1])
    return method.eval()


@pytest.mark.parametrize("name", [*KEEP_PADDING, *READ_NO_PADDING])
def test_through_the_encoder_a_method_reads_what_official_code_does(bert: str, name: str) -> None:
    """Clips of unequal length, nothing missing: BERT's states, not masked by anybody, are the text."""
    data = data_module(random_corpus(dims={**DIMS, "text": HIDDEN}))
    given, reading = seeded(name, data), seeded(name, data, text_encoder=bert)
    missing, unexpected = reading.load_state_dict(given.state_dict(), strict=False)
    assert not unexpected
    assert all("text.encoder." in key for key in missing)
    batch = clips(data)
    batch.features["text"] = bert_states(bert, batch)
    zeroed = batch.text.masked_fill(~batch.valid["text"].unsqueeze(2), 0.0)
    assert not torch.equal(zeroed, batch.text)
    without = replace(batch, features={**batch.features, "text": zeroed})
    with torch.no_grad():
        expected, found = given(batch).pred, reading(batch).pred
        assert torch.allclose(given(without).pred, expected, atol=1e-6) == (name in READ_NO_PADDING)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_with_nothing_missing_cenet_is_the_same_at_both_levels(bert: str) -> None:
    """What is zeroed where audio and vision enter is masked inside of BERT."""
    corpus = random_corpus()
    method = seeded("cenet", data_module(corpus), text_encoder=bert, injection=0)
    batches = [clips(data_module(corpus, missing=MissingConfig(level=level))) for level in ("vectors", "tokens")]
    at_vectors, at_tokens = (method(batch.for_inference()).pred for batch in batches)
    with_words = batches[1].observed["text"].any(1)
    assert (~batches[0].valid["text"][with_words]).any()
    torch.testing.assert_close(at_vectors[with_words], at_tokens[with_words], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", READ_TEXT)
@torch.no_grad()
def test_removed_text_tells_nothing_through_the_encoder(bert: str, name: str) -> None:
    corpus = random_corpus(steps={"text": 8, "audio": 11, "vision": 9})
    layer = {"injection": 0} if name == "cenet" else {}  # the small BERT has one layer
    method = seeded(name, data_module(corpus), text_encoder=bert, **layer)
    other = with_other_content(corpus, "text")
    for level in ("vectors", "tokens"):
        missing = MissingConfig(level=level)
        before, after = (clips(data_module(version, missing=missing), "inter/av") for version in (corpus, other))
        assert torch.equal(method(before.for_inference()).pred, method(after.for_inference()).pred)


def test_level_vectors_zeroes_states_and_level_tokens_does_not(bert: str) -> None:
    corpus = random_corpus()
    for level in ("vectors", "tokens"):
        data = data_module(corpus, missing=MissingConfig(level=level))
        batch = clips(data, "intra/0.5")
        found = states(TextInput(data.spec, bert), batch)
        gone = batch.valid["text"] & ~batch.observed["text"]
        assert gone.any()
        assert bool(found[gone].any()) == (level == "tokens")


@pytest.mark.parametrize("level", ["vectors", "tokens"])
@pytest.mark.parametrize("token_fill", ["unk", "zero_embedding"])
def test_removed_text_tells_nothing(bert: str, level: str, token_fill: str) -> None:
    corpus = random_corpus()
    config = MissingConfig(level=level, token_fill=token_fill)
    text = TextInput(data_module(corpus).spec, bert)
    before = states(text, clips(data_module(corpus, missing=config), "inter/av"))
    other = data_module(with_other_content(corpus, "text"), missing=config)
    assert torch.equal(before, states(text, clips(other, "inter/av")))
    assert torch.equal(before, before[:1].expand_as(before))


def test_dropped_embeddings_are_zeroed(bert: str) -> None:
    data = data_module(random_corpus(), missing=MissingConfig(level="tokens", token_fill="zero_embedding"))
    text, batch = TextInput(data.spec, bert), clips(data, "intra/0.5")
    assert batch.token_keep is not None
    assert batch.tokens is not None
    ids = batch.tokens.clone()
    ids[:, 0][~batch.token_keep] = 150
    assert torch.equal(states(text, batch), states(text, replace(batch, tokens=ids)))


@pytest.mark.parametrize("level", ["vectors", "tokens"])
@torch.no_grad()
def test_what_enters_at_a_layer_gets_its_input_and_gives_it_another(bert: str, level: str) -> None:
    data = data_module(random_corpus(), missing=MissingConfig(level=level))
    text, batch = TextInput(data.spec, bert).eval(), clips(data, "intra/0.5")
    assert text.layers == 1
    assert batch.tokens is not None
    encoder: Any = text.encoder
    ids, mask, types = batch.tokens.unbind(1)
    words = encoder.embeddings(ids, token_type_ids=types)
    if level == "vectors":  # dropped before what enters, not after the encoder
        words = words * batch.observed["text"].unsqueeze(2)
    seen: list[Tensor] = []

    def change(x: Tensor) -> Tensor:
        seen.append(x)
        return 2 * x + 1

    found, valid = text.injected(batch, 0, change), mask.bool()
    assert torch.equal(seen[0], words)
    blocked = (1.0 - mask)[:, None, None] * -10000.0
    expected = encoder.encoder.layer[0](2 * words + 1, blocked)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(found[valid], expected[valid], atol=1e-5, rtol=1e-5)
    if level == "tokens":
        torch.testing.assert_close(text.injected(batch, 0, lambda x: x), text(batch), atol=1e-6, rtol=0)


def test_nothing_stays_in_the_encoder(bert: str) -> None:
    data = data_module(random_corpus())
    text, batch = TextInput(data.spec, bert), clips(data)
    before = states(text, batch)

    def fail(x: Tensor) -> Tensor:
        raise ValueError(f"{x.shape}")

    with pytest.raises(ValueError, match="torch"):
        text.injected(batch, 0, fail)
    assert torch.equal(states(text, batch), before)


def test_gradient_passes_through_a_frozen_encoder_to_what_enters(bert: str) -> None:
    data = data_module(random_corpus())
    text, shift = TextInput(data.spec, bert), torch.zeros(HIDDEN, requires_grad=True)
    text.injected(clips(data), 0, lambda x: x + shift).square().sum().backward()
    assert shift.grad is not None
    assert shift.grad.any()
    assert all(parameter.grad is None for parameter in text.parameters())


def test_frozen_encoder_stays_in_evaluation_mode_and_gets_no_gradient(bert: str) -> None:
    data = data_module(random_corpus())
    text = TextInput(data.spec, bert).train()
    assert text.encoder is not None
    assert not text.encoder.training
    out = text(clips(data))
    assert not out.requires_grad
    assert not any(parameter.requires_grad for parameter in text.parameters())


def test_finetuned_encoder_trains_at_its_own_rate(bert: str) -> None:
    data = data_module(random_corpus())
    method = MulT(data.spec, dim=8, heads=2, layers=1, text_encoder=bert, finetune=True, text_lr=2e-5, lr=1e-3)
    assert method.data_needs.tokens
    rest, encoder = method.param_groups()
    assert encoder["lr"] == 2e-5
    assert sum(p.numel() for p in encoder["params"]) == sum(p.numel() for p in method.text.parameters())
    assert len(rest["params"]) + len(encoder["params"]) == len(list(method.parameters()))
    batch = data.training_batch(torch.arange(8), 0, needs=Needs(tokens=True))
    method.train().loss(method(batch), batch)["task"].backward()
    silent = [name for name, p in method.named_parameters() if p.grad is None]
    assert silent == []
    frozen = MulT(data.spec, dim=8, heads=2, layers=1, text_encoder=bert)
    assert frozen.param_groups()[1]["params"] == []
    method.text_lr = None
    [everything] = method.param_groups()
    assert len(everything["params"]) == len(list(method.parameters()))
    assert "lr" not in everything


def test_missing_weights_name_the_three_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    spec = data_module(random_corpus()).spec
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "nowhere"), str(tmp_path / "empty"), "msabench/no-such-bert"):
        with pytest.raises(MSABenchError) as raised:
            TextInput(spec, name)
        for way in (repr(name), "text_encoder=null", "local folder", "hub cache"):
            assert way in str(raised.value)


def test_the_hub_is_asked_once_where_there_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    asked = []

    def unreachable(self: object, name: str, **settings: object) -> None:
        asked.append(name)
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits {seconds} s to ask again"))
    spec = data_module(random_corpus()).spec
    with pytest.raises(MSABenchError, match="text_encoder 'msabench/no-such-bert' cannot be loaded"):
        TextInput(spec, "msabench/no-such-bert")
    assert asked == ["msabench/no-such-bert"]


def test_folder_without_or_with_broken_weights_is_refused(bert: str, tmp_path: Path) -> None:
    spec = data_module(random_corpus()).spec
    (tmp_path / "config.json").write_text((Path(bert) / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(MSABenchError, match="cannot be loaded"):
        TextInput(spec, str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(MSABenchError, match="cannot be loaded"):
        TextInput(spec, str(tmp_path))


def test_incomplete_weights_are_refused(bert: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(Path(bert) / "model.safetensors")
    weights = {name: value for name, value in weights.items() if not name.endswith("query.weight")}
    (tmp_path / "config.json").write_text((Path(bert) / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MSABenchError, match=r"no weights for .*query\.weight"):
        TextInput(data_module(random_corpus()).spec, str(tmp_path))


def test_encoders_that_cannot_read_the_tokens_are_refused(bert: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}), encoding="utf-8")
    data = data_module(random_corpus())
    with pytest.raises(MSABenchError, match="is a roberta"):
        TextInput(data.spec, str(tmp_path))
    with pytest.raises(MSABenchError, match="at most 32 tokens, the clips have 50"):
        TextInput(replace(data.spec, seq_lens={**data.spec.seq_lens, "text": 50}), bert)
    batch = clips(data)
    assert batch.tokens is not None
    batch.tokens[0, 0, 1] = 5000
    with pytest.raises(MSABenchError, match="token id 5000 is outside the text encoder's vocabulary of 200"):
        TextInput(data.spec, bert)(batch)

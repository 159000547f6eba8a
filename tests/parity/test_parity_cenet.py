"""CENET against MMSA. MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.cenet import CENET
from msabench.nn import text
from tests.parity import mmsa
from tests.parity.mmsa_trainer import Named, Recorded
from tests.parity.recorded import fit_recorded
from tests.support.golden_cases import CASES, CLIPS, Case, batch_of, build, kept

SHAPES = {"mosi": ((768, 5, 20), (50, 375, 500)), "sims": ((768, 33, 709), (39, 400, 55))}
PLACES = (
    (r"^text\.encoder\.", "bert."),
    (r"^layers\.layers\.", "bert.encoder.layer."),
    (r"\.self_attn\.out_proj\.", ".attention.output.dense."),
    (r"\.norm1\.", ".attention.output.LayerNorm."),
    (r"\.linear1\.", ".intermediate.dense."),
    (r"\.linear2\.", ".output.dense."),
    (r"\.norm2\.", ".output.LayerNorm."),
    (r"^enhance\.", "bert.encoder.CE."),
    (r"transform\.vision", "visual_transform"),
    (r"transform\.audio", "acoustic_transform"),
    (r"(query|key|value)\.(vision|audio)\.", lambda found: f"h{found[2][0]}.W{found[1][0]}."),
    (r"CE\.join", "CE.cat_connect"),
    (r"^head\.1\.", "classifier.dense."),
    (r"^head\.4\.", "classifier.out_proj."),
)


class _Pretrained(nn.Module):
    """In place of the library's base class; weights are ours anyway."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.config = config

    def init_weights(self) -> None: ...


def official_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Their file, with four names in place of a library that is no longer maintained."""
    library: Any = ModuleType("pytorch_transformers")
    library.BertConfig, library.BERT_PRETRAINED_MODEL_ARCHIVE_MAP = object, {}
    utils: Any = ModuleType("pytorch_transformers.modeling_utils")
    utils.PreTrainedModel, utils.prune_linear_layer = _Pretrained, None
    monkeypatch.setitem(sys.modules, "pytorch_transformers", library)
    monkeypatch.setitem(sys.modules, "pytorch_transformers.modeling_utils", utils)
    return mmsa.model_module("singleTask", "CENET")


def official(ours: CENET, monkeypatch: pytest.MonkeyPatch, **config: int) -> nn.Module:
    """Their model with our weights."""
    constants = {"num_labels": 1, "output_attentions": False, "output_hidden_states": False, "hidden_act": "gelu"}
    rates = {"layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {"vocab_size": 1, "max_position_embeddings": 1, "type_vocab_size": 2, "initializer_range": 0.02, **config}
    dims = [sizes["hidden_size"], ours.spec.feature_dims["audio"], ours.spec.feature_dims["vision"]]
    settings = SimpleNamespace(**constants, **rates, **sizes)
    theirs = official_module(monkeypatch).CENET(settings, args=SimpleNamespace(feature_dims=dims)).eval()
    missing, unexpected = theirs.load_state_dict(dict(renamed(ours, "layers.project", "layers.norm")), strict=False)
    assert not unexpected
    unused = "bert.pooler." if ours.text.encoder is not None else ("bert.pooler.", "bert.embeddings.")
    assert all(name.startswith(unused) for name in missing)
    return theirs


def renamed(ours: CENET, *left_out: str) -> Iterator[tuple[str, Tensor]]:
    """Our weights by their names, with attention's projections apart."""
    for name, value in ours.named_parameters():
        if name.startswith(left_out or "none"):
            continue
        for ours_is, theirs_is in PLACES:
            name = re.sub(ours_is, theirs_is, name)
        if ".self_attn.in_proj_" in name:
            for part, rows in zip(("query", "key", "value"), value.detach().chunk(3), strict=True):
                yield name.replace("self_attn.in_proj_", f"attention.self.{part}."), rows
        else:
            yield name, value.detach()


def bert_of(monkeypatch: pytest.MonkeyPatch, **sizes: int) -> dict[str, int]:
    """Let ``text_encoder`` be a random BERT without dropout; returns its sizes."""
    from transformers import BertConfig, BertModel

    sizes = {"max_position_embeddings": 64, "vocab_size": 200, **sizes}
    config = BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    monkeypatch.setattr(text, "_load_bert", lambda name: BertModel(config, add_pooling_layer=False))
    return sizes


def states_seen(theirs: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Their score, what their enhancement gives, and their last states."""
    seen: dict[str, Tensor] = {}
    hook = theirs.bert.encoder.CE.register_forward_hook(lambda _, __, out: seen.__setitem__("enhanced", out))
    theirs.bert.encoder.register_forward_hook(lambda _, __, out: seen.__setitem__("states", out[0]))
    assert batch.tokens is not None
    (pred,) = theirs(batch.tokens.float(), batch.audio, batch.vision)
    hook.remove()
    return pred.squeeze(1), seen["enhanced"], seen["states"]


@torch.no_grad()
def test_mmsa_gives_the_same_numbers_on_given_states(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["cenet_mmsa"]
    ours, batch = build(case), batch_of(case)
    assert isinstance(ours, CENET)
    sizes = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 48}
    theirs: Any = official(ours, monkeypatch, **sizes)
    length = torch.tensor([9, 5, 1, 9])
    batch.valid["text"] = torch.arange(9) < length[:, None]
    largest = 0.0
    for part in (batch, batch_of(case)):
        mask = (~part.valid["text"])[:, None, None, :] * -10000.0
        embedded = ours.layers.embed(part.text)
        states, *_ = theirs.bert.encoder(embedded, part.vision, part.audio, None, None, mask, [None] * 3)
        out = ours(part)
        expected = {"pred": theirs.classifier(states).squeeze(1), "representation": states[:, 0]}
        assert out.representation is not None
        for name, value in {"pred": out.pred, "representation": out.representation}.items():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=0)
            largest = max(largest, float((value - expected[name]).abs().max()))
    print(f"given states: {largest:.1e}")
    for key, value in kept("cenet_mmsa").items():
        torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize("corpus", SHAPES)
def test_mmsa_gives_the_same_numbers_for_shapes_of(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 768, "num_hidden_layers": 3, "num_attention_heads": 12, "intermediate_size": 64}
    sizes = bert_of(monkeypatch, **sizes)
    dims, steps = SHAPES[corpus]
    case = Case("cenet", dims, steps, settings={"text_encoder": "bert", "finetune": True, "dropout": 0.0})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = CENET(case.spec, **case.settings).eval()
        for parameter in ours.parameters():
            if parameter.ndim == 1:  # biases begin at 0
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    theirs: Any = official(ours, monkeypatch, **sizes)
    batch = batch_of(case)
    present = torch.arange(steps[0]) < torch.tensor([steps[0], 20, steps[0], 3])[:, None]
    ids = torch.randint(103, 200, (CLIPS, steps[0]), generator=torch.Generator().manual_seed(0)) * present
    batch.tokens = torch.stack([ids, present.long(), torch.zeros_like(ids)], dim=1)
    batch.valid["text"], batch.text_level = present, "tokens"
    expected, enhanced, states = states_seen(theirs, batch)
    seen: list[Tensor] = []
    ours.enhance.register_forward_hook(lambda _, __, out: seen.append(out))
    out = ours(batch)
    assert out.representation is not None
    pairs = [(out.pred, expected), (seen[0], enhanced), (out.representation, states[:, 0])]
    for found, there in pairs:
        torch.testing.assert_close(found, there, atol=1e-5, rtol=0)
    print(f"{corpus}: {max(float((found - there).detach().abs().max()) for found, there in pairs):.1e}")
    labels = torch.linspace(-3, 3, CLIPS)
    (out.pred - labels).square().mean().backward()
    (expected - labels).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert all(gradients[name] is None for name in gradients if name.startswith(("bert.embeddings", "bert.pooler")))
    largest = 0.0
    ours_by_their_name = zip(renamed(ours), ours.parameters(), strict=True)
    for (name, _), parameter in ours_by_their_name:
        there = gradients[name]
        assert (parameter.grad is None) == (there is None)
        if there is not None and parameter.grad is not None:
            scale = max(1.0, float(there.abs().max()))
            torch.testing.assert_close(parameter.grad, there, atol=1e-4 * scale, rtol=0)
            largest = max(largest, float((parameter.grad - there).abs().max()) / scale)
    print(f"{corpus}, gradients: {largest:.1e}")


def test_training_gives_the_same_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three epochs of six batches, ours through data module and base, theirs through their trainer."""
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    sizes = bert_of(monkeypatch, **small)
    rates = {"lr": 1e-3, "text_lr": 1e-3, "weight_decay": 0.1, "adam_eps": 1e-3, "gradient_clip": 2.0}
    settings = {"text_encoder": "bert", "finetune": True, "dropout": 0.0}
    method, before, epochs = fit_recorded("cenet", settings, rates, tmp_path)
    assert isinstance(method, CENET)
    assert isinstance(before, CENET)
    theirs = official(before, monkeypatch, **sizes)

    clip, norms = nn.utils.clip_grad_norm_, []
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *given: norms.append(clip(*given)))
    monkeypatch.setattr("transformers.BertTokenizer.from_pretrained", lambda name: None)
    module = mmsa.trainer_module("singleTask", "CENET")
    asked = {"train_mode": "regression", "dataset_name": "mosi", "device": "cpu", "pretrained": "", "KeyEval": "Loss"}
    trainer = module.CENET(
        SimpleNamespace(
            **asked,
            model_name="cenet",
            learning_rate=rates["lr"],
            weight_decay=rates["weight_decay"],
            adam_epsilon=rates["adam_eps"],
            early_stop=len(epochs) - 1,
            model_save_path=tmp_path / "model.pt",
        )
    )
    trainer.do_test = lambda *args, **more: {"Loss": 1.0}
    trainer.do_train(Named(theirs), {"train": Recorded(epochs, sample_of), "valid": None})
    assert max(norms) > 2 > min(norms)

    after, largest = dict(theirs.named_parameters()), 0.0
    for (name, ours), (_, start) in zip(renamed(method), renamed(before), strict=True):
        assert torch.equal(ours, start) == name.startswith("bert.embeddings.")
        torch.testing.assert_close(ours, after[name].detach(), atol=1e-5, rtol=0)
        largest = max(largest, float((ours - after[name].detach()).abs().max()))
    print(f"weights after training: {largest:.1e}")


def sample_of(batch: Batch) -> dict[str, Any]:
    """What their train loader gives for a batch."""
    assert batch.tokens is not None
    features = {"text": batch.tokens.float(), "audio": batch.audio, "vision": batch.vision}
    return {**features, "labels": {"M": batch.labels}}

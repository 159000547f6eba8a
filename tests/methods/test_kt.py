"""KT: its equations against literal computations from the module's own weights, its stages, what it never reads."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods.base import Output
from msabench.methods.checkpoint import load_checkpoint
from msabench.methods.kt import KT
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.nn.crossmodal import position_codes
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus

DIMS = {"text": 6, "audio": 3, "vision": 4}
ALIGNED = dict.fromkeys(MODALITIES, 7)
UNALIGNED = {"text": 5, "audio": 11, "vision": 8}
PLAIN = ("vision_only", "language_only", "language_vision", "full_modality")
RECONSTRUCTING = tuple(v for v in ("default", *KT.info.variants) if v not in PLAIN)
TWO_STAGES = tuple(v for v in RECONSTRUCTING if v not in ("target_random", "target_raw"))


def build(steps=ALIGNED, task="regression", stage="task", **arguments):
    torch.manual_seed(0)
    spec = DataSpec(DIMS, dict(steps), task=task, metric_set="emotions" if task == "emotions" else "sentiment")
    method = KT(spec, **{"dim": 8, "heads": 2, "layers": 2, "teacher_epochs": 1, **arguments})
    with torch.no_grad():  # leave no weight at a value that hides it
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    method.enter_stage(stage)
    return method.eval()


def make_batch(n=5, steps=ALIGNED, removed=(), seed=0, task="regression"):
    """Clips of ragged length, end-padded; ``removed`` modalities look as the protocol ``hide`` makes them look."""
    features, valid, observed, last = {}, {}, {}, {}
    for m, T in steps.items():
        length = 2 + torch.arange(n) * T // (2 * n) + T // 3
        exists = torch.arange(T) < length[:, None]
        content = torch.randn(n, T, DIMS[m], generator=torch.Generator().manual_seed(seed + len(m)))
        features[m], valid[m], observed[m], last[m] = content * exists[:, :, None], exists, exists, length - 1
        if m in removed:
            features[m], valid[m] = torch.zeros_like(features[m]), torch.ones_like(exists)
            observed[m], last[m] = torch.zeros_like(exists), torch.full((n,), T - 1)
    labels = torch.linspace(-3, 3, n)
    if task == "emotions":
        labels = torch.stack([labels > cut for cut in (-2, -1, 0, 1)], 1).long()
    return Batch(features, valid, observed, last, labels=labels)


def training_batch(removed=(), **settings):
    return replace(make_batch(removed=removed, **settings), complete=make_batch(**settings))


def literal_encoder(encoder, target, source=None, *, zero_is_pad=False, future_mask=True):
    """The stack of MulT with torch's own attention."""

    def embedded(x):
        codes = position_codes(x.shape[1], x.shape[2], x.device)
        return math.sqrt(x.shape[2]) * x + codes * ((x[..., :1] != 0) if zero_is_pad else 1)

    hidden = embedded(target)
    keys = None if source is None else embedded(source)
    q, k = hidden.shape[1], (hidden if keys is None else keys).shape[1]
    ahead = torch.arange(k)[None, :] - torch.arange(q)[:, None] > abs(k - q)
    for layer in encoder.layers:
        attention = nn.MultiheadAttention(hidden.shape[2], layer.self_attn.heads, batch_first=True)
        attention.load_state_dict(layer.self_attn.state_dict())
        normed = layer.layer_norms[0](hidden)
        seen = normed if keys is None else layer.layer_norms[0](keys)
        hidden = hidden + attention(normed, seen, seen, attn_mask=ahead if future_mask else None)[0]
        hidden = hidden + layer.fc2(F.relu(layer.fc1(layer.layer_norms[1](hidden))))
    return encoder.layer_norm(hidden)


def literal_encodings(encoders, features):
    return {
        m: literal_encoder(
            encoders.encode[m], features[m] @ encoders.project[m].conv.weight.squeeze(2).T, zero_is_pad=True
        )
        for m in encoders.project
    }


def literal_fusion(fusion, f, targets):
    """Every target attends to the others in the order text, audio, vision; last steps are joined."""
    last = []
    for target in targets:
        streams = [
            literal_encoder(fusion.cross[f"{target}_from_{source}"], f[target], f[source])
            for source in MODALITIES
            if source in f and source != target
        ]
        joined = torch.cat(streams, 2) if streams else f[target]
        last.append(literal_encoder(fusion.memory[target], joined)[:, -1])
    joint = torch.cat(last, 1)
    inner = F.relu(F.linear(joint, fusion.proj1.weight, fusion.proj1.bias))
    residual = F.linear(inner, fusion.proj2.weight, fusion.proj2.bias)
    return F.linear(joint + residual, fusion.out_layer.weight, fusion.out_layer.bias), joint


@pytest.mark.parametrize("steps", [ALIGNED, UNALIGNED], ids=["aligned", "unaligned"])
def test_eq_2_translators_and_merged_reconstruction(steps):
    method = build(steps)
    batch = training_batch(steps=steps)
    f = literal_encodings(method.encoders, {m: batch.features[m] for m in ("text", "vision")})
    guesses = {}
    for source in ("text", "vision"):
        translator = method.transfer.translate[source]
        guess = literal_encoder(translator.blocks, f[source])
        if steps is UNALIGNED:
            queries = translator.queries.expand(5, -1, -1)
            assert queries.shape == (5, 11, 8)
            guess = literal_encoder(translator.read, queries, guess, future_mask=False)
        guesses[source] = guess
    merge = method.transfer.merge
    merged = guesses["text"] @ merge.weight[:, :8].T + guesses["vision"] @ merge.weight[:, 8:].T + merge.bias
    out, aux = method.transfer({m: x.detach() for m, x in f.items()})
    torch.testing.assert_close(out, literal_encoder(method.transfer.delta, merged), atol=1e-5, rtol=1e-5)
    training = method.training_forward(batch)
    for source in ("text", "vision"):
        torch.testing.assert_close(aux[source], guesses[source], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(training.aux[f"from_{source}"], guesses[source], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", ["default", "target_language", "target_audio", "target_vision"])
def test_eq_3_and_4_fusion_puts_the_reconstruction_in_the_place_of_the_audio(variant):
    method = build(variant=variant)
    batch = make_batch()
    f = literal_encodings(method.encoders, {m: batch.features[m] for m in ("text", "vision")})
    with torch.no_grad():
        f["audio"] = method.transfer(f)[0]
    targets = {"target_language": ["text"], "target_audio": ["audio"], "target_vision": ["vision"]}
    outputs, joint = literal_fusion(method.fusion, f, targets.get(variant, MODALITIES))
    out = method(batch)
    torch.testing.assert_close(out.pred, outputs.squeeze(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.representation, joint, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("variant", "modalities"),
    [
        ("vision_only", ("vision",)),
        ("language_only", ("text",)),
        ("language_vision", ("text", "vision")),
        ("full_modality", MODALITIES),
    ],
)
def test_variants_without_reconstruction_are_the_plain_network(variant, modalities):
    method = build(variant=variant)
    batch = training_batch()
    f = literal_encodings(method.encoders, {m: batch.features[m] for m in modalities})
    outputs, joint = literal_fusion(method.fusion, f, modalities)
    out = method.training_forward(batch)
    torch.testing.assert_close(out.pred, outputs.squeeze(1), atol=1e-5, rtol=1e-5)
    assert joint.shape[1] == {1: 8, 2: 16, 3: 48}[len(modalities)]
    assert method.stages == ("task",)
    assert method.teacher is None
    assert set(method.loss(out, batch)) == {"task"}


def test_last_step_is_read_even_where_it_is_padding():
    method = build(variant="language_only")
    batch = make_batch()
    f = literal_encodings(method.encoders, {"text": batch.text})["text"]
    memory = literal_encoder(method.fusion.memory["text"], f)
    torch.testing.assert_close(method(batch).representation, memory[:, -1], atol=1e-5, rtol=1e-5)
    assert not batch.valid["text"][:, -1].any()


def literal_target(method, features):
    encoded = literal_encodings(method.teacher.encoders, {m: features[m] for m in MODALITIES})[method.missing]
    return (encoded - encoded.mean(2, keepdim=True)) / (encoded.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize(("variant", "power"), [("default", 2), ("l1_loss", 1)])
def test_eq_1_compares_with_the_frozen_encoding_of_the_complete_audio(variant, power):
    method = build(UNALIGNED, variant=variant, lambda_va=0.3, lambda_la=0.7)
    batch = training_batch(removed=("audio",), steps=UNALIGNED)
    out = method.training_forward(batch)
    target = literal_target(method, batch.complete.features)
    torch.testing.assert_close(out.aux["target"], target, atol=1e-5, rtol=1e-5)
    assert not out.aux["target"].requires_grad
    terms = method.loss(out, batch)
    exists = batch.complete.valid["audio"]
    for source, weight in (("vision", 0.3), ("text", 0.7)):  # lambda_va weighs theta, which reads the vision
        difference = (out.aux[f"from_{source}"] - target)[exists].abs() ** power
        torch.testing.assert_close(terms[f"from_{source}"], weight * difference.mean(), atol=1e-5, rtol=1e-5)


def test_eq_5_and_6_are_the_sum_of_weighted_terms_by_hand():
    method = build(lambda_va=0.5, lambda_la=2.0)
    batch = replace(training_batch(n=2), labels=torch.tensor([1.0, -1.0]))
    batch.complete.valid["audio"] = torch.tensor([[True] * 2 + [False] * 5, [True] + [False] * 6])
    nought = torch.zeros(2, 7, 8)
    out = Output(torch.tensor([0.5, 1.0]), aux={"from_text": nought + 1, "from_vision": nought - 3, "target": nought})
    terms = method.loss(out, batch)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"task": (0.5 + 2) / 2, "from_text": 2.0 * 1, "from_vision": 0.5 * 9}
    )
    out.aux["from_text"][0, 1, 0] = 5.0  # one of 3 frames x 8 channels is off by 5 rather than 1
    assert method.loss(out, batch)["from_text"].item() == pytest.approx(2.0 * (1 + 24 / 24))
    out.aux["from_text"][0, 2:] = 99.0
    assert method.loss(out, batch)["from_text"].item() == pytest.approx(2.0 * (1 + 24 / 24))


def test_emotions_have_cross_entropy():
    method = build(task="emotions")
    batch = training_batch(task="emotions")
    out = method.training_forward(batch)
    assert out.pred.shape == (5, 4, 2)
    expected = torch.stack([F.cross_entropy(out.pred[:, e], batch.labels[:, e]) for e in range(4)]).mean()
    torch.testing.assert_close(method.loss(out, batch)["task"], expected)
    with pytest.raises(MSABenchError, match="no score to make classes of"):
        build(task="emotions", variant="ce")


@pytest.mark.parametrize("stage", ["teacher", "task"])
def test_ce_classifies_rounded_scores_and_predicts_the_expectation(stage):
    method = build(variant="ce", stage=stage)
    batch = replace(training_batch(), labels=torch.tensor([-2.6, -0.4, 0.0, 1.2, 3.0]))
    out = method.training_forward(batch)
    assert out.logits.shape == (5, 7)
    torch.testing.assert_close(out.pred, out.logits.softmax(1) @ torch.arange(-3.0, 4.0))
    expected = -out.logits.log_softmax(1)[torch.arange(5), torch.tensor([0, 3, 3, 4, 6])].mean()
    torch.testing.assert_close(method.loss(out, batch)["task"], expected)


def test_target_random_is_a_fixed_projection_of_the_frames():
    method = build(variant="target_random")
    assert method.stages == ("task",)
    assert not method.target.weight.requires_grad
    batch = training_batch(removed=("audio",))
    projected = batch.complete.audio @ method.target.weight.T
    expected = (projected - projected.mean(2, keepdim=True)) / (
        projected.var(2, unbiased=False, keepdim=True) + 1e-5
    ) ** 0.5
    torch.testing.assert_close(method.training_forward(batch).aux["target"], expected, atol=1e-5, rtol=1e-4)


def test_target_raw_is_the_frames_standardised_feature_by_feature():
    method = build(variant="target_raw", lambda_va=1.0, lambda_la=0.0)
    assert method.stages == ("task",)
    batch = training_batch(removed=("audio",))
    batch.complete.features["audio"] = batch.complete.audio * torch.tensor([1e3, 1e-3, 0.0]) + 5
    out = method.training_forward(batch)
    exists = batch.complete.valid["audio"]
    frames = batch.complete.audio[exists].double()
    deviation = frames.std(0, correction=0)
    target = (frames - frames.mean(0)) / torch.where(deviation > 0, deviation, 1.0)
    assert target[:, :2].std(0, correction=0).tolist() == pytest.approx([1, 1])
    with torch.no_grad():
        f = method.encoders({m: batch.features[m] for m in ("text", "vision")})
        guess = method.readout["vision"](method.transfer(f)[1]["vision"])
    assert guess.shape == (5, 7, 3)
    expected = (guess[exists] - target).square().mean()
    assert method.loss(out, batch)["from_vision"].item() == pytest.approx(expected.item(), rel=1e-3)


def test_teacher_stage_trains_the_full_model_on_complete_clips():
    method = build(stage="teacher")
    assert method.stages == ("teacher", "task")
    assert method.stage_epochs == {"teacher": 1}
    batch = training_batch(removed=("text", "audio"))
    f = literal_encodings(method.teacher.encoders, batch.complete.features)
    outputs, _ = literal_fusion(method.teacher.fusion, f, MODALITIES)
    out = method.training_forward(batch)
    torch.testing.assert_close(out.pred, outputs.squeeze(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(method(batch.complete).pred, outputs.squeeze(1), atol=1e-5, rtol=1e-5)
    terms = method.loss(out, batch)
    assert set(terms) == {"task"}
    terms["task"].backward()
    trained = {id(p) for group in method.param_groups() for p in group["params"]}
    reached = {id(p) for p in method.parameters() if p.grad is not None}
    assert trained == reached == {id(p) for p in method.teacher.parameters()}


def test_task_stage_leaves_the_teacher_alone_and_its_dropout_off():
    method = build().train()
    for _ in range(2):
        method.enter_stage("task")  # as on loading a checkpoint: again
    assert not any(p.requires_grad for p in method.teacher.parameters())
    batch = training_batch()
    first, second = method.training_forward(batch), method.training_forward(batch)
    assert torch.equal(first.aux["target"], second.aux["target"])
    assert not torch.equal(first.pred, second.pred)
    torch.stack(list(method.loss(first, batch).values())).sum().backward()
    trained = {id(p) for group in method.param_groups() for p in group["params"]}
    assert trained == {id(p) for p in method.parameters() if p.grad is not None}
    assert not trained & {id(p) for p in method.teacher.parameters()}


def test_reconstruction_losses_reach_the_encoders_of_the_observed_modalities():
    method = build()
    batch = training_batch()
    terms = method.loss(method.training_forward(batch), batch)
    terms["from_vision"].backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name.split(".")[0] for name in reached} == {"encoders", "transfer"}
    assert all("vision" in name for name in reached)


@pytest.mark.parametrize("steps", [ALIGNED, UNALIGNED], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("missing", MODALITIES)
@pytest.mark.parametrize("variant", RECONSTRUCTING)
def test_nothing_of_the_missing_modality_is_read(variant, missing, steps):
    method = build(steps, variant=variant, missing=missing, layers=1)
    here, gone = make_batch(steps=steps), make_batch(steps=steps, removed=(missing,))
    poisoned = replace(here, features={**here.features, missing: torch.full_like(here.features[missing], torch.nan)})
    nothing = torch.zeros_like(here.valid[missing])
    never = replace(poisoned, valid={**here.valid, missing: nothing}, observed={**here.observed, missing: nothing})
    with torch.no_grad():
        before = method(here).pred
        for batch in (gone, poisoned, never):
            assert torch.equal(method(batch).pred, before)
        for m in MODALITIES:
            if m != missing:
                changed = replace(here, features={**here.features, m: here.features[m] * 2})
                assert (method(changed).pred - before).abs().min() > 1e-6


@pytest.mark.parametrize("missing", MODALITIES)
def test_another_modality_can_be_the_missing_one(missing):
    observed = tuple(m for m in MODALITIES if m != missing)
    method = build(UNALIGNED, missing=missing, lambda_va=0.3, lambda_la=0.7)
    batch = training_batch(removed=(missing,), steps=UNALIGNED)
    out = method.training_forward(batch)
    target = literal_target(method, batch.complete.features)
    assert target.shape == (5, UNALIGNED[missing], 8)
    torch.testing.assert_close(out.aux["target"], target, atol=1e-5, rtol=1e-5)
    terms = method.loss(out, batch)
    exists = batch.complete.valid[missing]
    for source, weight in zip(observed, (0.7, 0.3), strict=True):
        squares = (out.aux[f"from_{source}"] - target)[exists].square()
        torch.testing.assert_close(terms[f"from_{source}"], weight * squares.mean(), atol=1e-5, rtol=1e-5)
    assert set(terms) == {"task", *(f"from_{source}" for source in observed)}


def test_a_wholly_missing_observed_modality_has_one_encoding_at_all_steps():
    method = build()
    gone, here = make_batch(removed=("vision",)), make_batch()
    with torch.no_grad():
        encoded = method.encoders.one("vision", gone.vision)
        torch.testing.assert_close(encoded, encoded[:, :1].expand_as(encoded), atol=1e-5, rtol=0)
        assert (method.encoders.one("vision", here.vision).std(1) > 1e-2).any()


def test_codes_are_left_out_at_zeros_in_the_encoders_of_the_modalities_only():
    method = build(UNALIGNED)
    leaves_out = {name for name, part in method.named_modules() if getattr(part, "zero_is_pad", False)}
    encoders = {f"encoders.encode.{m}" for m in ("text", "vision")}
    assert leaves_out == encoders | {f"teacher.encoders.encode.{m}" for m in MODALITIES}


def test_masks_are_not_read_in_prediction():
    method = build()
    batch = make_batch()
    others = {name: {m: ~mask for m, mask in getattr(batch, name).items()} for name in ("valid", "observed")}
    assert torch.equal(method(replace(batch, **others)).pred, method(batch).pred)


def test_training_without_complete_clips_is_refused():
    with pytest.raises(MSABenchError, match="trains on complete clips"):
        build().training_forward(make_batch())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"missing": "smell"}, "smell"),
        ({"missing": "text", "variant": "language_only"}, "language_only"),
        ({"missing": "vision", "variant": "language_vision"}, "language_vision"),
        ({"missing": "text", "text_encoder": "bert", "finetune": True}, "must not move"),
        ({"layers": 0}, "layers 0"),
        ({"teacher_epochs": 0}, "teacher_epochs 0"),
        ({"heads": 3}, "heads"),
        ({"kernel_size": 0}, "kernel of 0"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, words):
    with pytest.raises(MSABenchError, match=words):
        build(**arguments)


@pytest.mark.parametrize("variant", RECONSTRUCTING)
def test_clips_without_any_frame_of_audio_give_finite_losses_and_gradients(variant):
    method = build(UNALIGNED, variant=variant).train()
    batch = training_batch(steps=UNALIGNED)
    batch.complete.features["audio"].zero_()
    batch.complete.valid["audio"].zero_()
    terms = method.loss(method.training_forward(batch), batch)
    assert terms["from_text"].item() == terms["from_vision"].item() == 0
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_wider_kernels_keep_the_frames():
    out = build(kernel_size=3).training_forward(training_batch())
    assert out.aux["target"].shape == out.aux["from_text"].shape == (5, 7, 8)


def test_fit_trains_the_teacher_first_and_then_the_rest(tmp_path: Path) -> None:
    class Watch(pl.Callback):
        def __init__(self):
            self.weights, self.stages = [], []

        def on_train_epoch_start(self, trainer, module):
            self.stages.append(module.stage)
            self.weights.append({name: p.detach().clone() for name, p in module.named_parameters()})

    data = data_module(random_corpus(), batch_size=12, missing=MissingConfig(regime="complete"))
    torch.manual_seed(0)
    method = KT(data.spec, dim=8, heads=2, layers=1, teacher_epochs=2)
    watch = Watch()
    trainer = quiet_trainer(tmp_path, 4, callbacks=[watch], gradient_clip_val=0.8)
    trainer.fit(method, datamodule=data)
    assert method.stage == "task"

    def changed(a, b):
        return {name.split(".")[0] for name in a if not torch.equal(a[name], b[name])}

    start, teacher, rest = watch.weights[0], watch.weights[2], dict(method.named_parameters())
    assert changed(start, teacher) == {"teacher"}
    assert changed(teacher, rest) == {"encoders", "transfer", "fusion"}
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded, _ = load_checkpoint(tmp_path / "a.ckpt")
    assert loaded.stage == "task"
    batch = data.validation_batch(torch.arange(8))
    assert torch.equal(loaded(batch).pred, method.eval()(batch).pred)


def small_bert(name: str) -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=200, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    return BertModel(config, add_pooling_layer=False)


@pytest.mark.parametrize(("missing", "finetune"), [("audio", True), ("audio", False), ("text", False)])
def test_text_encoder_is_shared_and_trained_in_both_stages_if_at_all(missing, finetune, monkeypatch):
    monkeypatch.setattr("msabench.nn.text._load_bert", small_bert)
    data = data_module(random_corpus())
    torch.manual_seed(0)
    settings = {"dim": 8, "heads": 2, "layers": 1, "missing": missing, "text_encoder": "bert", "finetune": finetune}
    method = KT(data.spec, **settings).train()
    assert method.data_needs.tokens
    batch = data.training_batch(torch.arange(11), 0, needs=Needs(complete=True, tokens=True))
    for stage in method.stages:
        method.enter_stage(stage)
        method.zero_grad()
        torch.stack(list(method.loss(method.training_forward(batch), batch).values())).sum().backward()
        encoder = method.param_groups()[1]
        assert bool(encoder["params"]) == finetune
        assert encoder["lr"] == 5e-5
        assert all(p.grad is not None for p in encoder["params"])

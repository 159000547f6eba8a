"""TransM: its layers against NumPy, sizes of the original, losses by hand, both kinds of sequences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.transm import TransM, _Attention, _ContextEncoder, _dense, _Layer, _Stack
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.nn.common_axis import common_axis, onto_axis
from msabench.nn.positions import sinusoidal_positions
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus

DIMS = {"text": 6, "audio": 3, "vision": 4}
ALIGNED = dict.fromkeys(MODALITIES, 7)
UNALIGNED = {"text": 7, "audio": 11, "vision": 9}
SMALL = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "dim": 10,
    "heads": 2,
    "gru_width": 5,
    "feedforward_vision": 12,
    "feedforward_audio": 9,
}
TRANSLATIONS = ("vision", "audio", "text_from_vision", "text_from_audio")


def spread(module, size=0.1):
    """Leave no weight at a value that hides it."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module.eval()


def build(steps=ALIGNED, dims=DIMS, **arguments):
    torch.manual_seed(0)
    return spread(TransM(DataSpec(dims, dict(steps)), **{**SMALL, **arguments}))


def make_batch(n=4, steps=ALIGNED, dims=DIMS, removed=(), padding=0, front=False, lengths=None):
    """Ragged clips; ``removed`` modalities look as the protocol ``hide`` makes them look."""
    features, valid, observed, last, full = {}, {}, {}, {}, {}
    lengths = torch.tensor(lengths) if lengths is not None else 3 + torch.arange(n) % 4
    everything = {}
    for m, T in steps.items():
        length = lengths if T == steps["text"] else lengths + 2
        content = torch.randn(n, T, dims[m], generator=torch.Generator().manual_seed(len(m)))
        exists = torch.arange(T + padding) < length[:, None]
        content = torch.nn.functional.pad(content, (0, 0, 0, padding)) * exists[:, :, None]
        if front:
            exists = exists.flip(1)
            content = torch.stack([x.roll(T + padding - int(k), 0) for x, k in zip(content, length, strict=True)])
        everything[m], full[m] = content, exists
        gone = m in removed
        features[m] = torch.zeros_like(content) if gone else content
        valid[m] = torch.ones_like(exists) if gone else exists
        observed[m] = torch.zeros_like(exists) if gone else exists
        last[m] = torch.full((n,), T + padding - 1) if gone or front else length - 1
    complete = Batch(everything, full, dict(full), dict(last), labels=torch.linspace(-2.5, 2.5, n))
    return Batch(features, valid, observed, last, labels=complete.labels, complete=complete)


def rows(batch, index):
    changes = {}
    for name in ("features", "valid", "observed", "last"):
        changes[name] = {m: x[index] for m, x in getattr(batch, name).items()}
    for name in ("labels", "conversation", "turn"):
        value = getattr(batch, name)
        changes[name] = None if value is None else value[index]
    changes["complete"] = None if batch.complete is None else rows(batch.complete, index)
    return replace(batch, **changes)


def array(tensor):
    return tensor.detach().double().numpy()


def np_dense(x, linear, part=slice(None)):
    return x @ array(linear.weight)[part].T + array(linear.bias)[part]


def np_attention(attention, x, memory, exists):
    """One clip: a ReLU on queries, keys, values and output, heads one by one, softmax over existing steps."""
    d = x.shape[1]
    q = np.maximum(np_dense(x, attention.query), 0)
    k = np.maximum(np_dense(memory, attention.key_value, slice(0, d)), 0)
    v = np.maximum(np_dense(memory, attention.key_value, slice(d, 2 * d)), 0)
    width = d // attention.heads
    heads = []
    for head in range(attention.heads):
        at = slice(head * width, (head + 1) * width)
        weights = np.exp(q[:, at] @ k[:, at].T / math.sqrt(width)) * exists
        heads.append(weights / weights.sum(1, keepdims=True) @ v[:, at])
    return np.maximum(np_dense(np.concatenate(heads, 1), attention.out), 0)


def np_norm(x, norm):
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    return x * array(norm.weight) + array(norm.bias)


def np_layer(layer, x, exists, memory=None):
    norms = list(layer.norms)
    x = np_norm(x + np_attention(layer.attend_self, x, x, exists), norms.pop(0))
    if memory is not None:
        x = np_norm(x + np_attention(layer.attend_memory, x, memory, exists), norms.pop(0))
    first, _, second = layer.feed_forward
    x = np_norm(x + np_dense(np.maximum(np_dense(x, first), 0), second), norms.pop(0))
    assert not norms
    return x


@pytest.mark.parametrize("reads_memory", [False, True])
def test_a_layer_against_numpy(reads_memory):
    torch.manual_seed(1)
    layer = spread(_Layer(20, 5, 30, 0.5, reads_memory=reads_memory))
    x, memory = torch.randn(3, 6, 20), torch.randn(3, 6, 20)
    valid = torch.arange(6) < torch.tensor([[6], [4], [1]])
    got = layer(x, valid, memory if reads_memory else None)
    for clip in range(3):
        heard = array(memory[clip]) if reads_memory else None
        expected = np_layer(layer, array(x[clip]), array(valid[clip]), heard)
        np.testing.assert_allclose(array(got[clip]), expected, atol=2e-6)


def test_dropout_acts_on_every_sublayer_and_not_on_attention_weights():
    torch.manual_seed(1)
    layer = _Layer(20, 5, 30, 0.5, reads_memory=True).train()
    x, memory, valid = torch.randn(2, 6, 20), torch.randn(2, 6, 20), torch.ones(2, 6, dtype=torch.bool)
    seen = []
    layer.dropout.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    assert not torch.equal(layer(x, valid, memory), layer(x, valid, memory))
    assert len(seen) == 2 * 3
    torch.testing.assert_close(seen[0][0], seen[3][0])  # the first sublayer's output, before its dropout
    for before, after in seen:
        assert torch.equal(after[after != 0], 2 * before[after != 0])


def test_a_stack_adds_unscaled_positions_once():
    torch.manual_seed(2)
    stack = spread(_Stack(2, 10, 2, 12, 0.5, reads_memory=True))
    x, memory, valid = torch.randn(2, 5, 10), torch.randn(2, 5, 10), torch.ones(2, 5, dtype=torch.bool)
    expected = x + sinusoidal_positions(5, 10)
    for layer in stack.layers:
        expected = layer(expected, valid, memory)
    torch.testing.assert_close(stack(x, valid, memory), expected)
    table = sinusoidal_positions(5, 10)
    assert table[0].tolist() == [0, 1] * 5
    assert table[3, 2].item() == pytest.approx(math.sin(3 / 10000 ** (2 / 10)))
    assert table[3, 3].item() == pytest.approx(math.cos(3 / 10000 ** (2 / 10)))


def test_context_encoder_step_by_step():
    torch.manual_seed(3)
    encoder = spread(_ContextEncoder(3, 4, 6, 0.5, 0.3), 0.3)
    x, lengths = torch.randn(2, 5, 3), torch.tensor([5, 3])
    got = encoder(x, lengths)

    def gru(steps, suffix):
        """Gates r, z, n; n takes r times the whole recurrent part, its bias included."""
        w, u, b, c = (
            array(getattr(encoder.gru, f"{kind}_l0{suffix}"))
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h, states = np.zeros(4), []
        for step in steps:
            (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(w @ step + b, 3), np.split(u @ h + c, 3)
            r, z = 1 / (1 + np.exp(-(r_x + r_h))), 1 / (1 + np.exp(-(z_x + z_h)))
            h = (1 - z) * np.tanh(n_x + r * n_h) + z * h
            states.append(h)
        return np.stack(states)

    for clip, length in enumerate(lengths.tolist()):
        steps = array(x[clip, :length])
        states = np.concatenate([gru(steps, ""), gru(steps[::-1], "_reverse")[::-1]], 1)
        np.testing.assert_allclose(array(got[clip, :length]), np.tanh(np_dense(states, encoder.dense)), atol=1e-6)


def test_input_dropout_drops_a_feature_for_the_whole_sequence():
    encoder = _ContextEncoder(30, 4, 6, 0.5, 0.0).train()
    seen = []
    encoder.gru.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].data.clone()))
    encoder(torch.ones(1, 5, 30), torch.tensor([5]))
    assert set(seen[0].unique().tolist()) == {0.0, 2.0}
    assert (seen[0] == seen[0][0]).all()


def test_start_weights_are_those_of_keras():
    torch.manual_seed(4)
    method = TransM(DataSpec(DIMS, ALIGNED), **SMALL)
    assert not any(p.any() for name, p in method.named_parameters() if "bias" in name)
    for encoder in method.encoders.values():
        state = encoder.gru.weight_hh_l0
        torch.testing.assert_close(state.T @ state, torch.eye(5), atol=1e-5, rtol=0)
    packed = _dense(100, 100, parts=2).weight
    limit = math.sqrt(6 / 200)  # each part is a map of its own
    assert 0.99 * limit < packed.abs().max().item() <= limit


PAPER = {"text": 300, "audio": 74, "vision": 35}


@pytest.fixture(scope="module")
def paper():
    torch.manual_seed(0)
    return TransM(DataSpec(PAPER, dict.fromkeys(MODALITIES, 20))).eval()


def test_sizes_of_the_original(paper):
    parameters = sum(p.numel() for p in paper.parameters())
    assert paper.classifier.in_features == 700
    # Two classes in place of one score; torch's GRUs have one more bias per gate.
    assert parameters - 701 + 1402 == 7_815_911 == 7_810_511 + 3 * 2 * 3 * 300
    for cell in paper.cells.values():
        assert [len(s.layers) for s in (cell.encoder_forth, cell.decoder_forth)] == [10, 5]
        assert [len(s.layers) for s in (cell.encoder_back, cell.decoder_back)] == [10, 5]
        assert {a.heads for a in cell.modules() if isinstance(a, _Attention)} == {5}
    assert {layer.feed_forward[0].out_features for layer in paper.cells["vision"].encoder_back.layers} == {200}
    assert {layer.feed_forward[0].out_features for layer in paper.cells["audio"].decoder_forth.layers} == {120}


def test_shapes_of_the_original(paper):
    valid = torch.ones(2, 20, dtype=torch.bool)
    inputs = {m: torch.randn(2, 20, width) for m, width in PAPER.items()}
    joint, translated = paper._fuse(inputs, valid, torch.tensor([20, 20]), translate=True)
    assert joint.shape == (2, 20, 700)
    shapes = {name: x.shape[2] for name, x in translated.items()}
    assert shapes == {"vision": 35, "audio": 74, "text_from_vision": 300, "text_from_audio": 300}


def fused(method, batch, **settings):
    sequences = method._sequences(batch)
    inputs = {m: sequences.of(batch, m)[0] for m in MODALITIES}
    return method._fuse(inputs, sequences.valid, sequences.lengths, **settings)


def test_the_network_part_by_part():
    method = build()
    batch = make_batch()
    valid = batch.valid["text"]
    h = {m: method.encoders[m](batch.features[m], batch.last[m] + 1) for m in MODALITIES}
    codes = sinusoidal_positions(7, 10)
    streams, expected = [], {}

    def through(stack, x, *memory):
        x = x + codes
        for layer in stack.layers:
            x = layer(x, valid, *(memory or (None,)))
        return x

    for m in ("vision", "audio"):
        cell = method.cells[m]
        forth = through(cell.encoder_forth, h["text"])
        d_1 = through(cell.decoder_forth, h[m], forth)
        back = through(cell.encoder_back, d_1)
        d_2 = through(cell.decoder_back, h["text"], back)
        streams += [forth, back]
        expected |= {m: cell.to_other(d_1), f"text_from_{m}": cell.to_text(d_2)}
    joint, translated = fused(method, batch, translate=True)
    torch.testing.assert_close(joint, torch.cat([*streams, h["text"], h["audio"], h["vision"]], 2))
    torch.testing.assert_close(translated, expected)
    pooled = torch.stack([joint[i, : 3 + i].mean(0) for i in range(4)])
    out = method(batch)
    torch.testing.assert_close(out.representation, pooled)
    torch.testing.assert_close(out.pred, method.classifier(pooled).squeeze(1))


def test_the_way_back_reads_the_decoder_and_not_the_translation():
    method = build()
    batch = make_batch()
    before, _ = fused(method, batch)
    with torch.no_grad():
        for cell in method.cells.values():
            for part in (cell.to_other, cell.to_text):
                part.weight.zero_()
                part.bias.zero_()
    assert torch.equal(before, fused(method, batch)[0])
    with torch.no_grad():  # D_1 of vision, and with it E_vt, but no other part
        method.cells["vision"].decoder_forth.layers[-1].norms[-1].bias[:5] += 1
    after, _ = fused(method, batch)
    changed = [not torch.equal(a, b) for a, b in zip(before.split(10, 2), after.split(10, 2), strict=True)]
    assert changed == [False, True, False, False, False, False, False]


def test_losses_by_hand():
    method = build(lambda_translation=3.0)
    batch = make_batch(removed=("vision",))
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    _, translated = fused(method, batch, translate=True)
    assert set(terms) == {"task", *TRANSLATIONS}
    for name, guess in translated.items():
        m = name.split("_")[0]
        errors = [
            abs(guess[i, t, j] - batch.complete.features[m][i, t, j]).item()
            for i in range(4)
            for t in range(3 + i)
            for j in range(DIMS[m])
        ]
        assert terms[name].item() == pytest.approx(3 * sum(errors) / len(errors), rel=1e-4)
    assert terms["task"].item() == pytest.approx((out.pred - batch.labels).abs().mean().item())
    torch.testing.assert_close(out.pred, method(batch).pred)
    assert all(value.shape == (4,) for value in out.aux.values())


def test_targets_are_the_complete_features():
    method = build()
    batch = make_batch(removed=("vision", "audio"))
    before = method.loss(method.training_forward(batch), batch)
    for m in MODALITIES:
        other = {**batch.complete.features, m: batch.complete.features[m] + 1}
        changed = replace(batch, complete=replace(batch.complete, features=other))
        after = method.loss(method.training_forward(changed), changed)
        assert {name for name in before if not torch.equal(before[name], after[name])} == {
            name for name in TRANSLATIONS if name.startswith(m)
        }
    with pytest.raises(MSABenchError, match="no complete version"):
        method.training_forward(replace(batch, complete=None))


def test_translations_and_task_train_everything_jointly():
    method = build()
    batch = make_batch()
    terms = method.loss(method.training_forward(batch), batch)

    def reached(term):
        method.zero_grad()
        term.backward(retain_graph=True)
        return {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}

    back = reached(terms["text_from_audio"])
    for part in ("encoders.text.gru", "encoders.audio.gru", "cells.audio.encoder_forth", "cells.audio.encoder_back"):
        assert any(name.startswith(part) for name in back), part
    assert not any(name.startswith(("cells.vision", "cells.audio.to_other", "classifier")) for name in back)
    task = reached(terms["task"])
    assert any(name.startswith("cells.vision.decoder_forth") for name in task)
    assert not any("decoder_back" in name or "to_other" in name or "to_text" in name for name in task)


def test_relu_output():
    batch = make_batch()
    plain, clipped = (fused(build(relu_output=on), batch, translate=True)[1] for on in (False, True))
    for name, guess in plain.items():
        assert (guess < 0).any()
        torch.testing.assert_close(clipped[name], guess.relu())


@pytest.mark.parametrize("steps", [ALIGNED, UNALIGNED])
@pytest.mark.parametrize("front", [False, True])
def test_padding_is_not_seen(steps, front):
    method = build(steps)
    plain, padded = make_batch(steps=steps), make_batch(steps=steps, padding=5, front=front)
    before, after = method.training_forward(plain), method.training_forward(padded)
    torch.testing.assert_close(before.pred, after.pred, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before.representation, after.representation, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before.aux, after.aux, atol=1e-4, rtol=1e-4)
    for i in range(4):
        torch.testing.assert_close(method(rows(plain, [i])).pred, before.pred[[i]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gone", MODALITIES)
def test_a_missing_modality_is_not_padding(gone):
    method = build()
    batch = make_batch(lengths=[6, 6, 6, 6])
    removed = make_batch(lengths=[6, 6, 6, 6], removed=(gone,))
    pred = method(removed).pred
    assert torch.isfinite(pred).all()
    assert not torch.isclose(pred, method(batch).pred, atol=1e-6).any()
    shorter = rows(removed, slice(None))
    for m in MODALITIES:
        if m != gone:
            exists = torch.arange(7) < 4
            shorter.features[m] = shorter.features[m] * exists[:, None]
            shorter.valid[m], shorter.observed[m] = shorter.valid[m] & exists, shorter.observed[m] & exists
            shorter.last[m] = torch.full((4,), 3)
    holes = replace(shorter, valid=removed.valid, last=removed.last)  # as many steps, of which two are missing
    assert not torch.isclose(method(shorter).pred, method(holes).pred, atol=1e-6).any()


def test_unaligned_modalities_are_brought_onto_the_steps_of_the_text():
    method = build(UNALIGNED)
    batch = make_batch(steps=UNALIGNED)
    axis = common_axis(batch)
    sequences = method._sequences(batch)
    assert torch.equal(sequences.valid, batch.valid["text"])
    for m in ("audio", "vision"):
        x, exists = sequences.of(batch.complete, m)
        assert torch.equal(exists, batch.valid["text"])
        torch.testing.assert_close(x, onto_axis(batch.features[m], batch.valid[m], axis.valid))
    nothing = torch.zeros_like(batch.valid["audio"])
    complete = replace(batch.complete, valid={**batch.complete.valid, "audio": nothing})
    assert not sequences.of(complete, "audio")[1].any()  # the file has no audio to translate into


def test_steps_that_the_network_was_not_told_of_are_no_targets():
    method = build()
    batch = make_batch(removed=("text",), lengths=[4, 4, 4, 4])
    longer = {**batch.complete.valid, "text": (torch.arange(7) < 6).expand(4, -1)}  # than what is left
    sequences = method._sequences(batch)
    _, exists = sequences.of(replace(batch.complete, valid=longer), "text")
    assert exists.sum(1).tolist() == [4] * 4


def conversations():
    """Six clips of two videos, in no order."""
    batch = make_batch(6, lengths=[3, 4, 5, 6, 7, 2])
    place = {"conversation": torch.tensor([4, 2, 4, 4, 2, 4]), "turn": torch.tensor([3, 0, 1, 0, 2, 2])}
    return replace(batch, **place, complete=replace(batch.complete, **place))


def test_conversations_are_sequences_of_mean_vectors():
    method = build(sequence="conversation")
    batch = conversations()
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    error, count = dict.fromkeys(TRANSLATIONS, 0.0), 0
    for members in ([3, 2, 5, 0], [1, 4]):  # in order of time; of the second video one clip is not here
        vectors = {
            m: torch.stack([batch.features[m][i][batch.valid[m][i]].mean(0) for i in members])[None] for m in MODALITIES
        }
        U = len(members)
        joint, translated = method._fuse(vectors, torch.ones(1, U, dtype=torch.bool), torch.tensor([U]), translate=True)
        torch.testing.assert_close(out.representation[members], joint[0])
        torch.testing.assert_close(out.pred[members], method.classifier(joint[0]).squeeze(1))
        count += U
        for name, guess in translated.items():
            error[name] += (guess - vectors[name.split("_")[0]]).abs().mean(2).sum().item()
    for name in TRANSLATIONS:
        assert terms[name].item() == pytest.approx(10 * error[name] / count, rel=1e-4)


def test_a_clip_depends_on_its_conversation_alone_and_not_on_the_order_of_rows():
    method = build(sequence="conversation")
    batch = conversations()
    pred = method(batch).pred
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    torch.testing.assert_close(method(rows(batch, order)).pred, pred[order])
    torch.testing.assert_close(method(rows(batch, [1, 4])).pred, pred[[1, 4]])
    assert not torch.isclose(method(rows(batch, [4])).pred, pred[4], atol=1e-6)
    alone = replace(batch, conversation=None, turn=None)
    each = torch.cat([method(rows(alone, [i])).pred for i in range(6)])
    torch.testing.assert_close(method(alone).pred, each)
    in_frames = build()(batch).pred
    torch.testing.assert_close(in_frames, build()(alone).pred)  # there, no clip has neighbours


def test_a_modality_removed_from_an_utterance_is_a_zero_vector():
    method = build(sequence="conversation")
    batch = conversations()
    here = torch.ones(6, 1, dtype=torch.bool)
    here[2] = False
    audio = {
        "features": {**batch.features, "audio": batch.features["audio"] * here.unsqueeze(2)},
        "valid": {**batch.valid, "audio": batch.valid["audio"] | ~here},
        "observed": {**batch.observed, "audio": batch.observed["audio"] & here},
    }
    removed = replace(batch, **audio)
    sequences = method._sequences(removed)
    vectors, _ = sequences.of(removed, "audio")
    assert not vectors[1, 1].any()  # the second clip of the second video
    assert sequences.valid[1].tolist() == [True] * 4
    assert not torch.isclose(method(removed).pred[0], method(batch).pred[0], atol=1e-6)
    terms = method.loss(method.training_forward(removed), removed)
    assert all(torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize("sequence", ["frames", "conversation"])
@pytest.mark.parametrize("task", ["regression", "emotions"])
def test_both_kinds_of_sequences_train(tmp_path, sequence, task):
    data = data_module(random_corpus(task), batch_size=2, missing=MissingConfig(regime="mixed"))
    torch.manual_seed(0)
    method = TransM(data.spec, **{**SMALL, "sequence": sequence, "encoder_layers": 1})
    assert method.data_needs.conversations == (sequence == "conversation")
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    trainer = quiet_trainer(tmp_path, 1)
    trainer.fit(method, datamodule=data)
    assert torch.isfinite(trainer.callback_metrics["val/task"])
    assert all(torch.isfinite(p).all() for p in method.parameters())
    assert sum(torch.equal(before[name], p) for name, p in method.named_parameters()) == 0
    assert trainer.global_step == (2 if sequence == "conversation" else 12)  # 3 videos, 24 clips


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequence": "video"}, "unknown sequence"),
        ({"dim": 10, "heads": 3}, "dim 10 with 3 heads"),
        ({"encoder_layers": 0}, "at least 1"),
        ({"decoder_layers": 0}, "at least 1"),
        ({"lambda_translation": -1.0}, "lambda_translation -1.0"),
        ({"variant": "light"}, "unknown variant"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(MSABenchError, match=message):
        build(**arguments)

"""MCTN: cells and decoder against NumPy, what is translated into what, and which modalities a prediction reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods.mctn import MCTN, _Decoder, _Encoder, _Recurrent, _Regressor
from msabench.missingness.conditions import INTER, MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.nn.common_axis import common_axis, onto_axis
from msabench.nn.packed import run_packed
from msabench.testing.corpora import DIMS, data_module, random_corpus
from tests.support import teacher_student as ts

B, T, H = 4, 3, 5


def shaken(module, scale=0.3, seed=0):
    """The module in evaluation mode with no weight at a value that hides it."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module.eval()


def build(data, **arguments):
    torch.manual_seed(0)
    return shaken(MCTN(data.spec, **{"hidden": 6, **arguments}))


def training_data(regime="mixed", **corpus):
    return data_module(random_corpus(**corpus), missing=MissingConfig(regime=regime))


def training_batch(data, rows=11, epoch=0):
    return data.training_batch(torch.arange(rows), epoch, needs=Needs(complete=True))


def predictions(method, data):
    """Predictions under the seven conditions, by name."""
    with torch.no_grad():
        return {str(c): torch.cat([method(b.for_inference()).pred for b in data.cell_batches(c, 0)]) for c in INTER}


# A second account of the layers, in NumPy and clip by clip.


def array(x):
    return x.detach().double().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def hard_sigmoid(x):
    return np.minimum(np.maximum(0.2 * x + 0.5, 0), 1)


def weights_of(recurrent):
    """Input kernel, recurrent kernel and the sum of biases."""
    rnn = recurrent.rnn
    if isinstance(rnn, torch.nn.LSTM):
        w, u, b_w, b_u = (
            array(getattr(rnn, f"{name}_l0")) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        return w, u, b_w + b_u
    return array(rnn.input.weight), array(rnn.recurrent.weight), array(rnn.input.bias)


def step(role, keras, weights, x, h, c):
    """One step for one clip, from the official description (or a textbook's LSTM)."""
    w, u, b = weights
    z0, z1, z2, z3 = np.split(w @ x + u @ h + b, 4)
    if not keras:
        c = sigmoid(z1) * c + sigmoid(z0) * np.tanh(z2)
        return sigmoid(z3) * np.tanh(c), c
    if role == "encoder":
        c = np.tanh(hard_sigmoid(z1) * c + hard_sigmoid(z0) * np.tanh(z2))
        return z3 * c, c
    forget = hard_sigmoid(z0) if role == "decoder" else hard_sigmoid(z1)
    c = forget * c + hard_sigmoid(z0) * np.tanh(z2)
    return hard_sigmoid(z3) * np.tanh(c), c


def run(role, keras, weights, xs):
    h = c = np.zeros(weights[1].shape[1])
    states = []
    for x in xs:
        h, c = step(role, keras, weights, x, h, c)
        states.append(h)
    return np.array(states)


def softmax(scores):
    e = np.exp(scores - scores.max())
    return e / e.sum()


@pytest.mark.parametrize("keras", [False, True])
@pytest.mark.parametrize("role", ["encoder", "decoder", "regressor"])
def test_cells_for_three_steps(role, keras):
    torch.manual_seed(1)
    layer = shaken(_Recurrent(4, H, role, keras))
    x = 3 * torch.randn(B, T, 4)
    expected = np.array([run(role, keras, weights_of(layer), array(clip)) for clip in x])
    np.testing.assert_allclose(array(layer(x)), expected, atol=1e-6)


@pytest.mark.parametrize("keras", [False, True])
def test_encoder_sums_both_directions_of_what_exists(keras):
    torch.manual_seed(1)
    encoder = shaken(_Encoder(4, H, keras))
    x, lengths = 3 * torch.randn(B, T, 4), [3, 1, 2, 3]
    got = array(encoder(x, torch.tensor(lengths)))
    for clip, n in enumerate(lengths):
        xs = array(x[clip, :n])
        from_start = run("encoder", keras, weights_of(encoder.from_start), xs)
        from_end = run("encoder", keras, weights_of(encoder.from_end), xs[::-1])[::-1]
        np.testing.assert_allclose(got[clip, :n], from_start + from_end, atol=1e-6)


def test_encoder_agrees_with_a_packed_lstm():
    encoder = shaken(_Encoder(4, H, False))
    both = torch.nn.LSTM(4, H, bidirectional=True, batch_first=True)
    own = {**encoder.from_start.rnn.state_dict()}
    own |= {f"{name}_reverse": value for name, value in encoder.from_end.rnn.state_dict().items()}
    both.load_state_dict(own)
    x, lengths = torch.randn(B, 9, 4), torch.tensor([9, 1, 5, 8])
    states, _ = run_packed(both, x, lengths)
    exists = torch.arange(9) < lengths[:, None]
    torch.testing.assert_close(encoder(x, lengths)[exists], (states[..., :H] + states[..., H:])[exists])


@pytest.mark.parametrize("role", ["encoder", "decoder", "regressor"])
def test_official_cells_differ_from_an_lstm(role):
    weights = weights_of(shaken(_Recurrent(4, H, role, True), scale=1.0))
    x = np.linspace(-3, 3, 12).reshape(T, 4)
    assert np.abs(run(role, True, weights, x) - run(role, False, weights, x)).max() > 0.02


@pytest.mark.parametrize("role", ["encoder", "decoder", "regressor"])
def test_only_the_official_decoder_has_an_unused_forget_slice(role):
    layer, x = shaken(_Recurrent(4, H, role, True)), torch.randn(B, T, 4)
    before = layer(x)
    with torch.no_grad():
        layer.rnn.input.weight[H : 2 * H] += 1.0
    assert torch.equal(before, layer(x)) == (role == "decoder")


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("keras", [False, True])
def test_decoder(keras, bounded):
    """Attention written out officially: a score reads the decoder's state and has a bias, anew in each step."""
    torch.manual_seed(2)
    decoder = shaken(_Decoder(H, 7, keras, bounded))
    encoded, lengths = torch.randn(B, T, H), [3, 1, 2, 3]
    got = decoder(encoded, torch.tensor(lengths))
    assert got.shape == (B, T, 7)
    weights = weights_of(decoder.rnn)
    from_state, bias = np.random.default_rng(0).normal(size=H), 0.7
    for clip, n in enumerate(lengths):
        x = array(encoded[clip, :n])
        h = c = np.zeros(H)
        for t in range(T):
            scores = np.array([array(decoder.score.weight)[0] @ x_j + from_state @ c + bias for x_j in x])
            context = softmax(scores) @ x
            h, c = step("decoder", keras, weights, context, h, c)
            y = array(decoder.output.weight) @ h + array(decoder.output.bias)
            np.testing.assert_allclose(array(got[clip, t]), np.tanh(y) if bounded else y, atol=1e-6)


@pytest.mark.parametrize("keras", [False, True])
def test_regressor(keras):
    torch.manual_seed(3)
    regressor = shaken(_Regressor(H, 2, keras))
    encoded, lengths = torch.randn(B, T, H), [3, 1, 2, 3]
    outputs, joint = regressor(encoded, torch.tensor(lengths))
    for clip, n in enumerate(lengths):
        states = run("regressor", keras, weights_of(regressor.rnn), array(encoded[clip, :n]))
        scores = np.tanh(states @ array(regressor.score.weight)[0] + array(regressor.score.bias))
        expected = softmax(scores) @ states
        np.testing.assert_allclose(array(joint[clip]), expected, atol=1e-6)
        head = array(regressor.head.weight) @ expected + array(regressor.head.bias)
        np.testing.assert_allclose(array(outputs[clip]), head, atol=1e-6)


@pytest.mark.parametrize("keras", [False, True])
def test_initial_values(keras):
    method = MCTN(DataSpec(DIMS, dict.fromkeys(MODALITIES, 8)), hidden=6, keras_compat_cell=keras)
    encoders = [part for e in (method.encode_1, method.encode_2) for part in (e.from_start, e.from_end)]
    for part in (*encoders, method.decode_1.rnn, method.decode_2.rnn, method.regress.rnn):
        w, u, b = weights_of(part)
        np.testing.assert_allclose(u.T @ u, np.eye(6), atol=1e-6)
        assert np.abs(w).max() <= (6 / sum(w.shape)) ** 0.5
        expected = np.zeros(24)
        expected[6:12] = part is method.regress.rnn
        np.testing.assert_array_equal(b, expected)
    assert not method.regress.head.bias.any()


def test_size():
    """The paper's features side by side make frames of 409, and the network of 0.17 M."""
    spec = DataSpec({"text": 300, "audio": 74, "vision": 35}, dict.fromkeys(MODALITIES, 20))
    assert MCTN(spec).width == 409
    assert sum(p.numel() for p in MCTN(spec).parameters()) == pytest.approx(0.17e6, rel=0.05)
    assert MCTN(spec, variant="text").width == 300


# What is read, and what is translated into what.


def test_default_reads_everything_that_is_there_side_by_side():
    data = training_data()
    method = build(data)
    batch = training_batch(data)
    source, lengths = method._source(batch)
    assert torch.equal(source, torch.cat([batch.text, batch.audio, batch.vision], 2))
    assert lengths.tolist() == (common_axis(batch).last + 1).tolist()
    seen = []
    hook = method.encode_1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    out = method.training_forward(batch)
    hook.remove()
    assert torch.equal(seen[0], source)  # corrupted
    assert torch.equal(seen[1], out.aux["vision"])  # and the decoded vision on the way back
    torch.testing.assert_close(out.pred, method(batch.for_inference()).pred)


def test_targets_of_the_default_are_complete():
    data = training_data()
    batch = training_batch(data)
    targets, _ = build(data)._targets(batch.complete)
    whole = batch.complete
    vision = torch.cat([torch.zeros_like(whole.text), torch.zeros_like(whole.audio), whole.vision], 2)
    assert torch.equal(targets["vision"], vision)
    assert torch.equal(targets["cycle"], torch.cat([whole.text, whole.audio, whole.vision], 2))
    assert torch.equal(targets["audio"], whole.audio)
    assert not torch.equal(whole.audio, batch.audio)


@pytest.mark.parametrize("variant", ["text", "bimodal"])
def test_targets_of_the_official_network_are_padded_to_the_widest(variant):
    data = training_data(dims={"text": 4, "audio": 9, "vision": 6})
    method = build(data, variant=variant)
    width = 9 if variant == "text" else 6
    assert method.width == width
    batch = training_batch(data)
    targets, _ = method._targets(batch.complete)
    of = {"vision": "vision", "cycle": "text", "audio": "audio"}
    assert set(targets) == ({*of} if variant == "text" else {"vision", "cycle"})
    for name, target in targets.items():
        own = batch.complete.features[of[name]]
        assert torch.equal(target[..., : own.shape[2]], own)
        assert not target[..., own.shape[2] :].any()
        assert target.shape[2] == width
    out = method.training_forward(batch)
    assert {name: x.shape for name, x in out.aux.items()} == {name: x.shape for name, x in targets.items()}
    assert all(x.abs().max() <= 1 for x in out.aux.values())


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("variant", ["default", "text", "bimodal"])
def test_loss_terms(variant, mask_padding):
    data = training_data()
    weights = {"vision": 0.5, "cycle": 2.0, "audio": 3.0}
    arguments = {f"lambda_{name}": weight for name, weight in weights.items()}
    method = build(data, variant=variant, mask_padding=mask_padding, lambda_l2=0.25, **arguments)
    batch = training_batch(data)
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    targets, _ = method._targets(batch.complete)
    assert set(terms) == {"task", "l2", *targets}
    torch.testing.assert_close(terms["task"], (out.pred - batch.labels).abs().mean())
    torch.testing.assert_close(terms["l2"], 0.25 * method.regress.head.weight.square().sum())
    valid = batch.complete.valid
    # Ends of padded files: what exists is where any modality does, or the text in a network that reads nothing else.
    exists = torch.stack([valid[m] for m in MODALITIES]).any(0) if variant == "default" else valid["text"]
    exists = exists if mask_padding else torch.ones_like(exists)
    for name, target in targets.items():
        error = (out.aux[name] - target)[exists].square().mean()
        torch.testing.assert_close(terms[name], weights[name] * error)


def test_default_weights_are_official():
    data = training_data()
    method = MCTN(data.spec)
    assert (method.weights, method.lambda_l2, method.lr) == ({"vision": 0.1, "cycle": 0.1, "audio": 0.1}, 0.01, 1e-4)


def reached(method, term):
    method.zero_grad()
    term.backward(retain_graph=True)
    return {n.split(".")[0] for n, p in method.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("variant", ["default", "text"])
def test_which_term_trains_what(variant):
    data = training_data()
    method = build(data, variant=variant)
    batch = training_batch(data)
    terms = method.loss(method.training_forward(batch), batch)
    assert reached(method, terms["task"]) == {"encode_1", "encode_2", "regress"}
    assert reached(method, terms["vision"]) == {"encode_1", "decode_1"}
    assert reached(method, terms["cycle"]) == {"encode_1", "decode_1"}
    assert reached(method, terms["audio"]) == {"encode_1", "encode_2", "decode_2"}
    assert reached(method, terms["l2"]) == {"regress"}


def test_bimodal_predicts_from_the_first_level():
    data = training_data()
    method = build(data, variant="bimodal")
    batch = training_batch(data)
    assert {n.split(".")[0] for n, _ in method.named_parameters()} == {"encode_1", "decode_1", "regress"}
    out = method.training_forward(batch)
    lengths = batch.valid["text"].sum(1)
    text = F.pad(batch.text, (0, method.width - batch.text.shape[2]))
    outputs, _ = method.regress(method.encode_1(text, lengths), lengths)
    torch.testing.assert_close(out.pred, outputs.squeeze(1))


@pytest.mark.parametrize("steps", [8, 13])
@pytest.mark.parametrize("variant", ["text", "bimodal"])
def test_official_network_reads_nothing_but_text(variant, steps):
    data = data_module(random_corpus(steps={"text": 8, "audio": steps, "vision": steps - 1}))
    pred = predictions(build(data, variant=variant), data)
    with_text = [p for name, p in pred.items() if "l" in name.removeprefix("inter/")]
    without = [p for name, p in pred.items() if "l" not in name.removeprefix("inter/")]
    assert (len(with_text), len(without)) == (4, 3)
    assert all(torch.equal(p, with_text[0]) for p in with_text)
    assert with_text[0].std() > 1e-3
    for p in without:
        assert torch.equal(p, without[0])
        torch.testing.assert_close(p, p[:1].expand_as(p), atol=1e-6, rtol=0)


def test_default_tells_all_seven_conditions_apart():
    data = data_module(random_corpus())
    pred = list(predictions(build(data), data).values())
    for i, one in enumerate(pred):
        assert one.std() > 1e-3
        assert all(not torch.allclose(one, other, atol=1e-4) for other in pred[:i])


# Padding and time.


def with_padding(batch: Batch, front: int, behind: int) -> Batch:
    features = {m: F.pad(x, (0, 0, front, behind)) for m, x in batch.features.items()}
    valid, observed = (
        {m: F.pad(x, (front, behind)) for m, x in masks.items()} for masks in (batch.valid, batch.observed)
    )
    last = {m: x + front for m, x in batch.last.items()}
    return replace(batch, features=features, valid=valid, observed=observed, last=last, complete=None)


@pytest.mark.parametrize("keras", [False, True])
@pytest.mark.parametrize("variant", ["default", "text"])
def test_padding_on_either_side_is_not_seen(variant, keras):
    data = training_data()
    method = build(data, variant=variant, keras_compat_cell=keras)
    batch = training_batch(data)
    # Corrupted, a removed modality would be there over the whole length, padding included.
    batch = replace(batch.complete, complete=batch.complete)
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    for front, behind in ((0, 4), (3, 0), (2, 2)):
        other = with_padding(batch, front, behind)
        other.complete = with_padding(batch.complete, front, behind)
        out_other = method.training_forward(other)
        torch.testing.assert_close(out_other.pred, out.pred, atol=1e-5, rtol=1e-5)
        for name, term in method.loss(out_other, other).items():
            torch.testing.assert_close(term, terms[name], atol=1e-5, rtol=1e-5)


def test_without_mask_padding_all_steps_are_read():
    data = training_data(regime="complete")
    method = build(data, mask_padding=False)
    batch = training_batch(data)
    source = torch.cat([batch.text, batch.audio, batch.vision], 2)
    everything = torch.full((11,), 8)
    e_2 = method.encode_2(method.encode_1(source, everything), everything)
    torch.testing.assert_close(method(batch).pred, method.regress(e_2, everything)[0].squeeze(1))
    assert not torch.allclose(method(batch).pred, build(data)(batch).pred, atol=1e-3)
    behind = with_padding(batch, 0, 3)
    assert not torch.allclose(method(behind).pred, method(batch).pred, atol=1e-4)


@pytest.mark.parametrize("variant", ["default", "text", "bimodal"])
def test_other_rates_are_brought_onto_the_steps_of_the_text(variant):
    torch.manual_seed(0)
    spec = DataSpec(ts.DIMS, ts.STEPS)
    method = shaken(MCTN(spec, variant=variant, hidden=6))
    batch = ts.training_batch()
    targets, lengths = method._targets(batch.complete)
    assert lengths.tolist() == batch.valid["text"].sum(1).tolist()
    own = ts.DIMS["vision"]
    vision = targets["vision"][..., -own:] if variant == "default" else targets["vision"][..., :own]
    expected = onto_axis(batch.complete.vision, batch.complete.valid["vision"], batch.valid["text"])
    exists = batch.valid["text"]
    torch.testing.assert_close(vision[exists], expected[exists])
    terms = method.loss(method.training_forward(batch), batch)
    assert all(torch.isfinite(t) for t in terms.values())


# Training.


@pytest.mark.parametrize("variant", ["default", "text"])
def test_translations_are_learnt(variant):
    data = training_data()
    method = MCTN(data.spec, hidden=16, variant=variant)
    batch = training_batch(data, rows=24)
    batch.complete.features = {m: x.clamp(-0.8, 0.8) for m, x in batch.complete.features.items()}
    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    history = []
    for _ in range(60):
        terms = method.loss(method.training_forward(batch), batch)
        history.append({name: term.item() for name, term in terms.items()})
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    assert all(history[-1][name] < 0.8 * history[0][name] for name in ("vision", "cycle", "audio"))


def test_emotions_are_trained_by_cross_entropy():
    data = data_module(random_corpus("emotions"))
    method = build(data)
    batch = training_batch(data)
    out = method.training_forward(batch)
    assert out.pred.shape == (11, 4, 2)
    task = method.loss(out, batch)["task"]
    torch.testing.assert_close(task, F.cross_entropy(out.pred.flatten(0, 1), batch.labels.flatten()))


def test_user_errors():
    data = training_data()
    with pytest.raises(MSABenchError, match="hidden 0"):
        MCTN(data.spec, hidden=0)
    with pytest.raises(MSABenchError, match="complete"):
        build(data).training_forward(data.training_batch(torch.arange(3), 0))

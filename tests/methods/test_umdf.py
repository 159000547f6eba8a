"""UMDF: every equation against a literal computation from the module's own weights, and its promises on masks."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.losses.alignment import mmd2
from msabench.losses.distillation import js_divergence
from msabench.methods.base import Output
from msabench.methods.umdf import UMDF
from msabench.missingness.conditions import MODALITIES
from msabench.nn.common_axis import common_axis, onto_axis
from msabench.nn.positions import SinusoidalPositions, sinusoidal_positions

DIMS = {"text": 6, "audio": 3, "vision": 4}
ALIGNED = dict.fromkeys(MODALITIES, 7)
UNALIGNED = {"text": 7, "audio": 19, "vision": 12}
VARIANTS = ("default", "wo_fea_loss", "wo_logits_loss", "wo_mcim", "wo_dfim")
L, A, V = range(3)


def build(steps=ALIGNED, task="regression", seed=0, **arguments):
    torch.manual_seed(seed)
    spec = DataSpec(DIMS, dict(steps), task=task, metric_set="emotions" if task == "emotions" else "sentiment")
    method = UMDF(spec, **{"dim": 8, "heads": 2, "layers": 2, "encoder_layers": 1, **arguments})
    with torch.no_grad():  # leave no weight at a value that hides it
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method.eval()


def make_batch(n=5, steps=ALIGNED, lengths=None, removed=(), drop=0.0, seed=0, task="regression"):
    """Clips of ragged length, end-padded; ``removed`` modalities look as the protocol ``hide`` makes them look."""
    generator = torch.Generator().manual_seed(seed)
    features, valid, observed, last = {}, {}, {}, {}
    for m, T in steps.items():
        length = (lengths or {}).get(m, 2 + torch.arange(n) * T // (2 * n) + T // 3)
        exists = torch.arange(T) < length[:, None]
        seen = exists & (torch.rand(n, T, generator=generator) >= drop)
        seen[:, 0] |= exists[:, 0]
        if m in removed:
            exists, seen, length = torch.ones_like(exists), torch.zeros_like(seen), torch.full((n,), T)
        content = torch.randn(n, T, DIMS[m], generator=torch.Generator().manual_seed(seed + len(m)))
        features[m], valid[m], observed[m], last[m] = content * seen[:, :, None], exists, seen, length - 1
    labels = torch.linspace(-3, 3, n)
    if task == "emotions":
        labels = torch.stack([labels > cut for cut in (-2, -1, 0, 1)], 1).long()
    return Batch(features, valid, observed, last, labels=labels)


def rows(batch, index):
    def pick(tensors):
        return {m: x[index] for m, x in tensors.items()}

    return replace(
        batch,
        features=pick(batch.features),
        valid=pick(batch.valid),
        observed=pick(batch.observed),
        last=pick(batch.last),
        labels=batch.labels[index],
    )


def with_views(batch, a, b):
    return replace(batch, views=(a, b))


def multi_head(attention, group, source, target, keys):
    """(7) for one of the attentions, head by head, clip by clip, from its weights."""
    d = target.shape[-1]
    width = d // attention.heads
    w_q, w_kv = attention.query.weight[group], attention.key_value.weight[group]
    w_k, w_v = w_kv[:, :d], w_kv[:, d:]
    out = torch.zeros_like(target)
    for clip in range(len(target)):
        s, t = source[clip][keys[clip]], target[clip]
        for head in range(attention.heads):
            part = slice(head * width, (head + 1) * width)
            weights = torch.softmax((t @ w_q[:, part]) @ (s @ w_k[:, part]).T / math.sqrt(width), dim=1)
            out[clip, :, part] = weights @ (s @ w_v[:, part])
    return out @ attention.out.weight[group] + attention.out.bias[group]


def add_norm(norm, group, branch, x):
    return F.layer_norm(branch + x, x.shape[-1:], norm.weight[group, 0, 0], norm.bias[group, 0, 0])


def feed_forward(module, group, x):
    hidden = torch.relu(x @ module.widen.weight[group] + module.widen.bias[group])
    return hidden @ module.narrow.weight[group] + module.narrow.bias[group]


def ragged_keys(n, steps, groups=3):
    generator = torch.Generator().manual_seed(3)
    keys = torch.rand(groups, n, steps, generator=generator) < 0.6
    keys[:, :, 0] = True
    return keys


def test_eq_7_cross_attention():
    attention = build().interaction[0].attend_pair
    source, target = torch.randn(6, 4, 9, 8), torch.randn(6, 4, 5, 8)
    keys = ragged_keys(4, 9, groups=6)
    got = attention(source, target, keys)
    for group in range(6):
        expected = multi_head(attention, group, source[group], target[group], keys[group])
        torch.testing.assert_close(got[group], expected, atol=1e-6, rtol=1e-5)


def test_eq_7_with_one_head_and_no_output_map_is_the_printed_formula():
    attention = build(heads=1).interaction[0].attend_all
    with torch.no_grad():
        attention.out.weight.copy_(torch.eye(8).expand(3, -1, -1))
        attention.out.bias.zero_()
    s, t = torch.randn(3, 1, 9, 8), torch.randn(3, 1, 5, 8)
    got = attention(s, t, torch.ones(3, 1, 9, dtype=torch.bool))
    w_q, w_k, w_v = attention.query.weight, attention.key_value.weight[..., :8], attention.key_value.weight[..., 8:]
    printed = torch.softmax((t[:, 0] @ w_q) @ (s[:, 0] @ w_k).mT / math.sqrt(8), -1) @ (s[:, 0] @ w_v)
    torch.testing.assert_close(got[:, 0], printed, atol=1e-6, rtol=1e-5)


def literal_layer(layer, z, keys):
    """One layer of MCIM, target by target, as printed around (8) and (9)."""
    z_l, z_a, z_v = z
    z_lav, key_lav = torch.cat([z_l, z_a, z_v], 1), torch.cat([keys[L], keys[A], keys[V]], 1)
    out = []
    for m, (first, second) in {L: (A, V), A: (L, V), V: (L, A)}.items():
        coarse = add_norm(layer.norm_all, m, multi_head(layer.attend_all, m, z_lav, z[m], key_lav), z[m])  # (8)
        fine = 0
        for position, other in enumerate((first, second)):
            group = 2 * m + position
            pair, pair_keys = torch.cat([z[m], z[other]], 1), torch.cat([keys[m], keys[other]], 1)
            attended = multi_head(layer.attend_pair, group, pair, coarse, pair_keys)
            fine = fine + add_norm(layer.norm_pair, group, attended, coarse)  # (9)
        out.append(add_norm(layer.norm_out, m, feed_forward(layer.feed_forward, m, fine), fine))
    return torch.stack(out)


def test_eq_8_and_9_crossmodal_interaction():
    layer = build().interaction[0]
    z, keys = torch.randn(3, 4, 6, 8), ragged_keys(4, 6)
    torch.testing.assert_close(layer(z, keys), literal_layer(layer, z, keys), atol=2e-6, rtol=1e-5)


def test_wo_mcim_attends_to_the_target_only():
    layer = build(variant="wo_mcim").interaction[0]
    z, keys = torch.randn(3, 4, 6, 8), ragged_keys(4, 6)
    got = layer(z, keys)
    for m in (L, A, V):
        coarse = add_norm(layer.norm_all, m, multi_head(layer.attend_all, m, z[m], z[m], keys[m]), z[m])
        fine = sum(
            add_norm(layer.norm_pair, g, multi_head(layer.attend_pair, g, coarse, coarse, keys[m]), coarse)
            for g in (2 * m, 2 * m + 1)
        )
        expected = add_norm(layer.norm_out, m, feed_forward(layer.feed_forward, m, fine), fine)
        torch.testing.assert_close(got[m], expected, atol=2e-6, rtol=1e-5)
    changed = z.clone()
    changed[A] += 1
    torch.testing.assert_close(layer(changed, keys)[[L, V]], got[[L, V]])


def test_step_scores_weigh_existing_steps_and_uniform_scores_are_the_identity():
    fusion = build().fusion
    h, valid = torch.randn(3, 6, 24), torch.arange(6) < torch.tensor([[2], [6], [1]])
    got = fusion.weigh(h, valid)
    for clip in range(3):
        n = int(valid[clip].sum())
        score = torch.softmax(h[clip, :n] @ fusion.score.weight[0], 0)
        torch.testing.assert_close(got[clip, :n], n * score[:, None] * h[clip, :n], atol=1e-5, rtol=1e-5)
        assert not got[clip, n:].any()
    with torch.no_grad():
        fusion.score.weight.zero_()
    torch.testing.assert_close(fusion.weigh(h, valid), h * valid[:, :, None])


def test_eq_10_and_11_gate_and_mixture():
    fusion = build().fusion
    valid = torch.ones(2, 6, dtype=torch.bool)
    h_a, h_b = torch.randn(2, 6, 24), torch.randn(2, 6, 24)
    a, b = fusion.weigh(h_a, valid), fusion.weigh(h_b, valid)
    both = F.pad(torch.cat([a, b], 2), (0, 0, 1, 1))
    mu = torch.empty(2, 6, 24)
    for t in range(6):  # kernel 3 over time, 6d to 3d channels
        window = both[:, t : t + 3]
        mu[:, t] = torch.sigmoid(torch.einsum("nkc,ock->no", window, fusion.gate.weight) + fusion.gate.bias)  # (10)
    expected = mu * a + (1 - mu) * b  # (11)
    torch.testing.assert_close(fusion(h_a, valid, h_b, valid), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("task", ["regression", "emotions"])
@pytest.mark.parametrize("variant", ["default", "wo_mcim", "wo_dfim"])
def test_inference_with_a_clip_in_both_streams_equals_the_single_stream(variant, task):
    method = build(variant=variant, task=task)
    batch = make_batch(removed=("audio",), drop=0.4)
    with torch.no_grad():
        both = method.training_forward(with_views(batch, batch, batch))
        torch.testing.assert_close(both.pred, method(batch).pred, atol=1e-6, rtol=0)


def test_forward_is_the_chain_of_its_parts():
    method = build()
    batch = make_batch(drop=0.3)
    axis = common_axis(batch)
    z = []
    for m in MODALITIES:
        conv = method.convolutions[m]
        padded = F.pad(batch.features[m], (0, 0, 1, 1))
        steps = [torch.einsum("nkc,ock->no", padded[:, t : t + 3], conv.weight) + conv.bias for t in range(7)]
        z.append(8**0.5 * torch.stack(steps, 1) + sinusoidal_positions(7, 8))
    z = torch.stack(z)
    keys = torch.stack([batch.valid[m] for m in MODALITIES])
    for layer in method.interaction:
        z = literal_layer(layer, z, keys)
    h = literal_encoder(method.encoder, torch.cat([z[L], z[A], z[V]], 2), axis.valid)
    fused = literal_encoder(method.fused_encoder, method.fusion.weigh(h, axis.valid), axis.valid)
    last = torch.stack([fused[i, int(axis.valid[i].sum()) - 1] for i in range(5)])
    first, _, second = method.predictor
    expected = torch.relu(last @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(method(batch).pred, expected.squeeze(1), atol=1e-5, rtol=1e-5)


def literal_encoder(encoder, x, valid):
    for i, (attention, ffn) in enumerate(zip(encoder.attentions, encoder.feed_forwards, strict=True)):
        x = add_norm(encoder.norms[2 * i], 0, multi_head(attention, 0, x, x, valid), x)
        x = add_norm(encoder.norms[2 * i + 1], 0, feed_forward(ffn, 0, x), x)
    return x


def output(n=6, task="regression", seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 4, 2) if task == "emotions" else (n,)
    pred, f_a, f_b = (torch.randn(shape, generator=generator) for _ in range(3))
    h_a, h_b = (torch.randn(n, 24, generator=generator) for _ in range(2))
    return Output(pred, aux={"h_a": h_a, "h_b": h_b, "f_a": f_a, "f_b": f_b})


def test_eq_6_regression_losses_hand_computed():
    method = build(lambda_fea=0.3, lambda_logits=0.2)
    out = output(2)
    out.pred = torch.tensor([1.0, -2.0])
    out.aux["f_a"], out.aux["f_b"] = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 1.0])
    terms = method.loss(out, replace(make_batch(2), labels=torch.tensor([0.0, 1.0])))
    assert terms["task"].item() == pytest.approx((1 + 9) / 2)
    assert terms["logits"].item() == pytest.approx(0.2 * (1 + 0.25) / 2)
    assert terms["fea"].item() == pytest.approx(0.3 * mmd2(out.aux["h_a"], out.aux["h_b"]).item())
    assert set(terms) == {"task", "fea", "logits"}


def test_eq_4_and_5_emotion_losses_are_summed_over_emotions():
    method = build(task="emotions", lambda_logits=0.5)
    out, batch = output(6, "emotions"), make_batch(6, task="emotions")
    terms = method.loss(out, batch)
    cross_entropy = sum(F.cross_entropy(out.pred[:, e], batch.labels[:, e]) for e in range(4))
    divergence = sum(js_divergence(out.aux["f_a"][:, e], out.aux["f_b"][:, e]) for e in range(4))
    torch.testing.assert_close(terms["task"], cross_entropy)
    torch.testing.assert_close(terms["logits"], 0.5 * divergence)


@pytest.mark.parametrize(("variant", "dropped"), [("wo_fea_loss", "fea"), ("wo_logits_loss", "logits")])
def test_ablations_of_losses_drop_their_term(variant, dropped):
    out, batch = output(), make_batch(6)
    full = build().loss(out, batch)
    kept = build(variant=variant).loss(out, batch)
    assert set(full) - set(kept) == {dropped}
    assert all(torch.equal(kept[name], full[name]) for name in kept)


def test_training_reads_last_elements_of_both_versions_from_shared_weights():
    method = build()
    a, b = make_batch(removed=("text",)), make_batch(drop=0.5, removed=("vision",))
    out = method.training_forward(with_views(a, a, b))
    axis_a, axis_b = common_axis(a), common_axis(b)
    alone = {}
    for name, view, axis in (("a", a, axis_a), ("b", b, axis_b)):
        h, _, last = method._encode(view)
        assert torch.equal(last, axis.last)
        alone[name] = torch.stack([h[i, last[i]] for i in range(5)])
    same = torch.allclose(out.aux["h_a"], alone["a"], atol=1e-5)  # or the other way round: the order is drawn
    first, second = ("a", "b") if same else ("b", "a")
    torch.testing.assert_close(out.aux["h_a"], alone[first], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.aux["h_b"], alone[second], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.aux["f_b"], method.predictor(alone[second]).squeeze(1), atol=1e-5, rtol=1e-5)


def test_training_without_views_is_refused():
    with pytest.raises(MSABenchError, match="two corrupted versions"):
        build().training_forward(make_batch())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"dim": 9, "heads": 2}, "dim 9"), ({"kernel_size": 2}, "kernel_size 2"), ({"layers": 0}, "layers 0")],
)
def test_arguments_outside_their_range_are_refused(arguments, words):
    with pytest.raises(MSABenchError, match=words):
        build(**arguments)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("modality", "steps"),
    [*((m, ALIGNED) for m in MODALITIES), ("audio", UNALIGNED), ("vision", UNALIGNED)],
    ids=["text", "audio", "vision", "audio-unaligned", "vision-unaligned"],
)
def test_the_length_of_a_removed_modality_is_not_read(modality, steps, variant):
    # Not even where the mask tells it. Only the length of a removed unaligned text is read, as nothing else gives the
    # number of steps of the common axis; the protocol hides it.
    method = build(steps, variant=variant)
    batch = make_batch(4, steps, removed=(modality,))
    told = torch.arange(steps[modality]) < torch.tensor([[1], [4], [2], [6]])
    with torch.no_grad():
        hidden = method(batch).pred
        shown = method(replace(batch, valid={**batch.valid, modality: told})).pred
    torch.testing.assert_close(shown, hidden, atol=1e-6, rtol=0)


def test_prediction_depends_on_every_present_modality():
    method = build(UNALIGNED)
    batch = make_batch(4, UNALIGNED)
    with torch.no_grad():
        before = method(batch).pred
        for m in MODALITIES:
            changed = {**batch.features, m: batch.features[m] * 2}
            assert (method(replace(batch, features=changed)).pred - before).abs().min() > 1e-5


def padded(batch, extra):
    """The same clips with more padding behind; a removed modality stays valid over the whole (now longer) length."""

    def longer(tensors, value):
        return {m: F.pad(x, (0, 0) * (x.dim() - 2) + (0, extra), value=value) for m, x in tensors.items()}

    valid = longer(batch.valid, False)
    for m, seen in batch.observed.items():
        valid[m] |= ~seen.any(1, keepdim=True)
    last = {m: v.shape[1] - 1 - v.int().flip(1).argmax(1) for m, v in valid.items()}
    return replace(
        batch, features=longer(batch.features, 0.0), valid=valid, observed=longer(batch.observed, False), last=last
    )


@pytest.mark.parametrize("variant", ["default", "wo_mcim", "wo_dfim"])
@pytest.mark.parametrize("removed", [(), ("text",), ("audio", "vision")])
def test_more_padding_changes_nothing(removed, variant):
    method = build(variant=variant)
    batch = make_batch(drop=0.3, removed=removed)
    with torch.no_grad():
        torch.testing.assert_close(method(padded(batch, 6)).pred, method(batch).pred, atol=1e-5, rtol=1e-5)
        other = make_batch(drop=0.6, seed=4)
        pair = with_views(batch, batch, other)
        longer = with_views(batch, padded(batch, 6), padded(other, 6))
        torch.manual_seed(0)
        short_pred = method.training_forward(pair).pred
        torch.manual_seed(0)
        torch.testing.assert_close(method.training_forward(longer).pred, short_pred, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [ALIGNED, UNALIGNED], ids=["aligned", "unaligned"])
def test_prediction_does_not_depend_on_the_rest_of_the_batch(steps):
    method = build(steps)
    batch = make_batch(6, steps, drop=0.4)
    with torch.no_grad():
        together = method(batch).pred
        for i in range(6):
            alone = method(rows(batch, [i])).pred
            torch.testing.assert_close(alone, together[[i]], atol=1e-5, rtol=1e-5)


def test_one_step_per_clip_and_one_clip():
    steps = dict.fromkeys(MODALITIES, 1)
    method = build(steps, kernel_size=1)
    lengths = {m: torch.ones(1, dtype=torch.long) for m in MODALITIES}
    batch = make_batch(1, steps, lengths)
    out = method.training_forward(with_views(batch, batch, make_batch(1, steps, lengths, removed=("text",))))
    assert torch.isfinite(torch.stack(list(method.loss(out, batch).values()))).all()
    assert method(batch).pred.shape == (1,)


@pytest.mark.parametrize("steps", [ALIGNED, UNALIGNED], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("removed", [("text",), ("audio",), ("text", "vision"), MODALITIES], ids=",".join)
def test_modalities_missing_for_a_whole_batch_give_finite_losses_and_gradients(removed, steps):
    method = build(steps).train()
    batch = make_batch(4, steps, removed=removed)
    out = method.training_forward(with_views(batch, batch, make_batch(4, steps, removed=removed, seed=3)))
    torch.stack(list(method.loss(out, batch).values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters())


def test_clips_without_any_valid_step_give_finite_predictions():
    # Possible when the protocol keeps the lengths of empty clips.
    for steps in (ALIGNED, UNALIGNED):
        none = {m: torch.zeros(2, dtype=torch.long) for m in MODALITIES}
        batch = make_batch(2, steps, none)
        assert torch.isfinite(build(steps)(batch).pred).all()


def test_emotions_have_four_pairs_of_logits():
    method = build(task="emotions")
    batch = make_batch(task="emotions")
    out = method.training_forward(with_views(batch, batch, make_batch(drop=0.5, task="emotions")))
    assert out.pred.shape == out.aux["f_a"].shape == (5, 4, 2)
    assert method(batch).representation.shape == (5, 24)


def test_common_axis_ignores_removed_modalities():
    lengths = {"text": torch.tensor([3, 2]), "audio": torch.tensor([4, 5]), "vision": torch.tensor([4, 1])}
    axis = common_axis(make_batch(2, ALIGNED, lengths))
    assert axis.valid.sum(1).tolist() == [4, 5]
    assert axis.last.tolist() == [3, 4]
    assert axis.keys["text"].sum(1).tolist() == [3, 2]
    axis = common_axis(make_batch(2, ALIGNED, lengths, removed=("audio",)))
    assert axis.valid.sum(1).tolist() == [4, 2]
    assert axis.keys["audio"].sum(1).tolist() == [4, 2]
    axis = common_axis(make_batch(2, ALIGNED, lengths, removed=MODALITIES))
    assert axis.valid.all()


def test_common_axis_of_unaligned_clips_is_the_text():
    lengths = {"text": torch.tensor([3, 2]), "audio": torch.tensor([15, 19]), "vision": torch.tensor([4, 1])}
    axis = common_axis(make_batch(2, UNALIGNED, lengths))
    assert axis.valid.sum(1).tolist() == [3, 2]
    assert all(torch.equal(keys, axis.valid) for keys in axis.keys.values())
    assert common_axis(make_batch(2, UNALIGNED, lengths, removed=("text",))).valid.all()


def test_common_axis_of_front_padded_clips():
    batch = make_batch(2, ALIGNED, {m: torch.tensor([3, 7]) for m in MODALITIES})
    flipped = {m: valid.flip(1) for m, valid in batch.valid.items()}
    axis = common_axis(replace(batch, valid=flipped, observed=dict(flipped)))
    assert axis.last.tolist() == [6, 6]
    assert axis.valid.sum(1).tolist() == [3, 7]


@pytest.mark.parametrize(("count", "target"), [(9, 4), (3, 6), (5, 5), (1, 4), (8, 1)])
def test_onto_axis_interpolates_span_to_span(count, target):
    x = torch.randn(2, 11, 3)
    valid = torch.zeros(2, 11, dtype=torch.bool)
    axis_valid = torch.zeros(2, 7, dtype=torch.bool)
    valid[0, :count], valid[1, 11 - count :] = True, True
    axis_valid[0, :target], axis_valid[1, 7 - target :] = True, True
    got = onto_axis(x, valid, axis_valid)
    for clip in range(2):
        expected = F.interpolate(x[clip][valid[clip]].T[None], target, mode="linear", align_corners=False)[0].T
        torch.testing.assert_close(got[clip][axis_valid[clip]], expected, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(got).all()


def test_positions():
    table = sinusoidal_positions(5, 6)
    for t in range(5):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert sinusoidal_positions(4, 5).shape == (4, 5)
    module = SinusoidalPositions(6, length=3)
    assert module.state_dict() == {}
    torch.testing.assert_close(module(torch.zeros(2, 5, 6)), table.expand(2, -1, -1))

"""FSRF: every equation against literal or independent computations, and its promises on masks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine, jensenshannon
from scipy.stats import multivariate_normal
from torch import nn
from torch.nn import functional as F

from msabench.data.batch import Batch, stacked
from msabench.data.info import DataSpec
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.losses.transport import sinkhorn_divergence
from msabench.methods.base import Output
from msabench.methods.fsrf import FSRF, homo_hetero_loss, noise_pair_loss, noise_shape_loss
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.nn.positions import sinusoidal_positions
from msabench.testing.corpora import data_module, random_corpus

DIMS = {"text": 6, "audio": 3, "vision": 4}
STEPS = {"text": 7, "audio": 19, "vision": 12}
VARIANTS = ("default", *FSRF.info.variants)
D = 8
PAIRS = [(a, b) for a in range(3) for b in range(3) if a != b]


def build(variant="default", metric_set="sentiment", steps=STEPS, **arguments):
    torch.manual_seed(0)
    label_range = (-1.0, 1.0) if metric_set == "sims" else (-3.0, 3.0)
    spec = DataSpec(DIMS, dict(steps), task="regression", metric_set=metric_set, label_range=label_range)
    method = FSRF(spec, variant=variant, **{"dim": D, "heads": 2, "layers": 2, **arguments})
    with torch.no_grad():  # leave no weight at a value that hides it
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method.eval()


def make_batch(n=5, steps=STEPS, removed=(), drop=0.0, seed=0, lengths=None):
    """Clips of ragged length, end-padded; ``removed`` modalities look as the protocol ``hide`` makes them look."""
    generator = torch.Generator().manual_seed(seed)
    features, valid, observed, last = {}, {}, {}, {}
    for m, T in steps.items():
        length = (lengths or {}).get(m, T // 3 + torch.arange(n) * T // (2 * n) + 1)
        exists = torch.arange(T) < length[:, None]
        seen = exists & (torch.rand(n, T, generator=generator) >= drop)
        if m in removed:
            exists, seen, length = torch.ones_like(exists), torch.zeros_like(seen), torch.full((n,), T)
        features[m] = torch.randn(n, T, DIMS[m], generator=generator) * seen[:, :, None]
        valid[m], observed[m], last[m] = exists, seen, (length - 1).clamp(min=0)
    return Batch(features, valid, observed, last, labels=torch.linspace(-3, 3, n))


def with_views(p, q):
    return replace(p, views=(p, q))


def random_parts(n=5, versions=2, seed=0):
    return [torch.randn(versions, n, 3, D, generator=torch.Generator().manual_seed(seed + k)) for k in range(3)]


def linear(layer, x):
    return x @ layer.weight.T + layer.bias


def mlp(module, x):
    return linear(module[2], torch.relu(linear(module[0], x)))


# Encoders.


def test_text_is_the_mean_over_existing_words_with_missing_ones_as_zeros():
    method = build("wo_dhf")
    batch = make_batch(drop=0.5)
    z, _ = method._encode(batch)
    h = []
    for clip in range(5):
        words = int(batch.valid["text"][clip].sum())
        c_l = sum(batch.text[clip, t] for t in range(words) if batch.observed["text"][clip, t]) / words
        c = {"text": c_l}
        for m, encoder in method.sequences.items():
            c[m] = encoder(batch.features[m], batch.valid[m], batch.last[m])[clip]
        h.append(torch.cat([linear(method.embed[m], c[m]) for m in MODALITIES]))
    torch.testing.assert_close(z, linear(method.merge, torch.stack(h)))


@pytest.mark.parametrize("layers", [1, 3])
def test_sequence_encoder_is_the_last_element_of_torchs_transformer(layers):
    encoder = build(layers=layers).sequences["audio"]
    reference = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(D, 2, 4 * D, 0.1, batch_first=True), layers, enable_nested_tensor=False
    ).eval()
    names = {
        "self_attn": "attention",
        "norm1": "attention_norm",
        "norm2": "out_norm",
        "linear1": "widen",
        "linear2": "narrow",
    }
    for theirs, ours in zip(reference.layers, encoder.layers, strict=True):
        for name, mine in names.items():
            getattr(theirs, name).load_state_dict(getattr(ours, mine).state_dict())
    batch = make_batch(drop=0.3)
    x, valid = batch.audio, batch.valid["audio"]
    inputs = math.sqrt(D) * linear(encoder.project, x) + sinusoidal_positions(19, D)
    states = reference(inputs, src_key_padding_mask=~valid)
    expected = torch.stack([states[i, int(valid[i].sum()) - 1] for i in range(5)])
    torch.testing.assert_close(encoder(x, valid, batch.last["audio"]), expected, atol=1e-5, rtol=1e-5)


def test_parts_and_their_sum_without_noise():
    method = build()
    batch = make_batch(drop=0.3)
    z, parts = method._encode(batch)
    expected = 0
    c = {"text": batch.text.sum(1) / batch.valid["text"].sum(1, keepdim=True)}
    for m, encoder in method.sequences.items():
        c[m] = encoder(batch.features[m], batch.valid[m], batch.last[m])
    for k, m in enumerate(MODALITIES):
        h = linear(method.embed[m], c[m])
        homo = mlp(method.factorise.homo, h)  # one encoder for all modalities
        hetero = mlp(method.factorise.hetero[m], torch.cat([h, homo], 1))
        noise = mlp(method.factorise.noise[m], h)
        torch.testing.assert_close(parts["homo"][:, k], homo)
        torch.testing.assert_close(parts["hetero"][:, k], hetero)
        torch.testing.assert_close(parts["noise"][:, k], noise)
        expected = expected + homo + hetero - noise
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(method(batch).representation, expected)


# Losses of DHF.


def test_eq_1_homo_hetero_loss():
    homo, hetero, _ = random_parts()
    tau = 0.5

    def g(x, y):
        return math.exp(-cosine(x.double(), y.double()) / tau)  # SciPy's cosine is 1 - cos

    total = 0.0
    for o, e in zip(homo.flatten(0, 1), hetero.flatten(0, 1), strict=True):
        total += -sum(math.log(g(o[a], o[b]) / (g(o[a], o[b]) + g(o[a], e[a]))) for a, b in PAIRS) / 6
    assert homo_hetero_loss(homo, hetero, tau).item() == pytest.approx(total / 10, rel=1e-5)


def test_eq_1_hand_computed():
    # Shared parts all alike, own parts orthogonal to them: D = 0 and 1, each term log(1 + exp(-1 / tau)).
    homo = torch.tensor([2.0, 0.0]).expand(1, 3, 2)
    hetero = torch.tensor([0.0, 5.0]).expand(1, 3, 2)
    assert homo_hetero_loss(homo, hetero, 0.5).item() == pytest.approx(math.log(1 + math.exp(-2)))
    # Exchanged, shared parts are unlike the own parts but have nothing in common with each other either: log 2 each.
    apart = torch.eye(3)[None]
    assert homo_hetero_loss(apart, apart.roll(1, 2), 0.5).item() == pytest.approx(math.log(2))


def literal_noise_pairs(noise, margin):
    n = len(noise)
    noise = noise.double()
    alike = sum(cosine(noise[i, m], noise[j, m]) for i in range(n) for j in range(n) if i != j for m in range(3))
    unlike = sum(max(margin - cosine(noise[i, a], noise[i, b]), 0) for i in range(n) for a, b in PAIRS)
    return (alike / (3 * n * (n - 1)) if n > 1 else 0.0) + unlike / (6 * n)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_eq_2_noise_pairs(n):
    noise = random_parts(n)[2] + 0.8
    expected = np.mean([literal_noise_pairs(version, 0.5) for version in noise])
    assert noise_pair_loss(noise, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_eq_2_hand_computed():
    # Two clips with orthogonal noise (D = 1) that is the same in all modalities (D = 0, each short of the margin).
    noise = torch.eye(2)[:, None, :].expand(2, 3, 2)
    assert noise_pair_loss(noise, 0.3).item() == pytest.approx(1 + 0.3)


@pytest.mark.parametrize("n", [6, 20])
def test_eq_3_and_4_noise_shape(n):
    noise = random_parts(n)[2] * 1.7 + 0.4
    terms = []
    for rows in noise.transpose(1, 2).flatten(0, 1).double().numpy():
        covariance = np.cov(rows, rowvar=False) + 0.01 * np.eye(D)
        entropy = multivariate_normal(np.zeros(D), covariance).entropy() / D
        terms.append(entropy + (rows**2).mean() + ((rows.var(0, ddof=1) - 1) ** 2).mean())
    assert noise_shape_loss(noise, 0.01).item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_diagonal_covariance_has_no_correlations():
    noise = random_parts(20)[2].double() @ torch.randn(D, D, dtype=torch.float64)
    terms = []
    for rows in noise.transpose(1, 2).flatten(0, 1).numpy():
        variance = rows.var(0, ddof=1)
        entropy = 0.5 * np.log(2 * np.pi * np.e * (variance + 0.01)).mean()
        terms.append(entropy + (rows**2).mean() + ((variance - 1) ** 2).mean())
    value = noise_shape_loss(noise, 0.01, diagonal=True).item()
    assert value == pytest.approx(np.mean(terms), rel=1e-6)
    assert value > noise_shape_loss(noise, 0.01).item() + 0.1  # Hadamard's inequality


def test_a_batch_of_one_has_noise_without_variance():
    noise = random_parts(1)[2].requires_grad_()
    value = noise_shape_loss(noise, 0.01)
    value.backward()
    expected = 0.5 * math.log(2 * math.pi * math.e * 0.01) + noise.detach().square().mean().item() + 1
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(noise.grad).all()


# The whole loss.


def trained(method, n=6, seed=0):
    """Output of training with random content, by version on the second axis, and labels."""
    generator = torch.Generator().manual_seed(seed)
    parts = {name: torch.randn(n, 2, 3, D, generator=generator) for name in ("homo", "hetero", "noise")}
    z, logits = torch.randn(n, 2, D, generator=generator), torch.randn(n, 2, method.classes.n, generator=generator)
    labels = torch.linspace(-3, 3, n)
    return Output(torch.zeros(n), aux={"z": z, "logits": logits, **parts}), replace(make_batch(n), labels=labels)


def test_every_term_has_its_weight_and_reads_its_versions():
    ot = pytest.importorskip("ot")
    method = build(
        lambda_dhf=0.3, lambda_das=0.7, temperature=0.4, margin=0.6, shrinkage=0.05, sinkhorn_iterations=2000
    )
    out, batch = trained(method)
    terms = method.loss(out, batch)
    assert set(terms) == {"task", "homo_hetero", "noise_pairs", "noise_shape", "feat", "logits"}
    aux = out.aux
    p, q = aux["logits"].double().softmax(2).unbind(1)
    scores = [(version * torch.arange(-3.0, 4.0)).sum(1) for version in (p, q)]
    expected = sum((score - batch.labels).square().mean() for score in scores) / 2
    assert terms["task"].item() == pytest.approx(expected.item(), rel=1e-5)
    each = [(aux["homo"][:, v], aux["hetero"][:, v], aux["noise"][:, v]) for v in (0, 1)]
    dhf = {
        "homo_hetero": np.mean([homo_hetero_loss(o, e, 0.4).item() for o, e, _ in each]),
        "noise_pairs": np.mean([literal_noise_pairs(noise, 0.6) for _, _, noise in each]),
        "noise_shape": np.mean([noise_shape_loss(noise, 0.05).item() for _, _, noise in each]),
    }
    for name, value in dhf.items():
        assert terms[name].item() == pytest.approx(0.3 * value, rel=1e-5)
    z_p, z_q = aux["z"].double().unbind(1)
    cost = ((z_p[:, None] - z_q[None]) ** 2).sum(2).numpy()
    plan = ot.sinkhorn([], [], cost, 0.05 * cost.mean(), method="sinkhorn_log", numItermax=2000)
    assert terms["feat"].item() == pytest.approx(0.7 * (plan * cost).sum(), rel=1e-4)  # (5)-(7)
    divergence = (jensenshannon(p.numpy(), q.numpy(), axis=1) ** 2).mean()
    assert terms["logits"].item() == pytest.approx(0.7 * divergence, rel=1e-5)  # (8)


def test_debiased_takes_the_sinkhorn_divergence():
    out, batch = trained(build())
    terms, full = build("debiased").loss(out, batch), build().loss(out, batch)
    z_p, z_q = out.aux["z"].unbind(1)
    torch.testing.assert_close(terms.pop("feat"), 0.1 * sinkhorn_divergence(z_p, z_q))
    assert all(torch.equal(value, full[name]) for name, value in terms.items())


def test_ce_takes_the_class_of_the_label():
    method = build("ce")
    out, batch = trained(method)
    classes = (batch.labels.round() + 3).long()
    expected = sum(F.cross_entropy(out.aux["logits"][:, v], classes) for v in (0, 1)) / 2
    torch.testing.assert_close(method.loss(out, batch)["task"], expected)


def test_diagonal_changes_the_entropy_only():
    out, batch = trained(build())
    terms, full = build("diagonal").loss(out, batch), build().loss(out, batch)
    changed = {name for name in full if not torch.equal(terms[name], full[name])}
    assert changed == {"noise_shape"}


def test_wo_dhf_concatenates_the_modalities():
    method = build("wo_dhf")
    out = method.training_forward(with_views(make_batch(), make_batch(drop=0.5)))
    assert set(out.aux) == {"z", "logits"}
    assert set(method.loss(out, make_batch())) == {"task", "feat", "logits"}


def test_wo_das_trains_on_one_version():
    method = build("wo_das")
    p, q = make_batch(), make_batch(drop=0.5, seed=3)
    out = method.training_forward(with_views(p, q))
    assert out.aux["z"].shape == (5, 1, D)
    terms = method.loss(out, p)
    assert set(terms) == {"task", "homo_hetero", "noise_pairs", "noise_shape"}
    torch.testing.assert_close(terms["task"], F.mse_loss(method(p).pred, p.labels))


def test_sims_has_its_five_bins():
    method = build(metric_set="sims")
    assert method.classes.n == 5
    assert method(make_batch()).pred.abs().max() < 0.9


# Versions and masks.


@pytest.mark.parametrize("variant", ["default", "wo_dhf"])
def test_both_versions_are_encoded_as_a_test_clip_is(variant):
    method = build(variant)
    p, q = make_batch(removed=("text",)), make_batch(drop=0.5, removed=("vision",), seed=4)
    out = method.training_forward(with_views(p, q))
    for version, batch in enumerate((p, q)):
        alone = method(batch)
        torch.testing.assert_close(out.aux["z"][:, version], alone.representation, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.aux["logits"][:, version], alone.logits, atol=1e-5, rtol=1e-5)
        for name, part in method._encode(batch)[1].items():
            torch.testing.assert_close(out.aux[name][:, version], part, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.pred, method(p).pred, atol=1e-5, rtol=1e-5)
    assert all(len(x) == 5 for x in out.aux.values())  # clips first: they are gathered over devices


def test_prediction_is_the_expected_score():
    out = build()(make_batch())
    torch.testing.assert_close(out.pred, (out.logits.softmax(1) * torch.arange(-3.0, 4.0)).sum(1))


def test_more_padding_changes_nothing():
    method = build()
    batch = make_batch(drop=0.3)

    def longer(tensors):
        return {m: F.pad(x, (0, 0) * (x.dim() - 2) + (0, 6)) for m, x in tensors.items()}

    padded = Batch(longer(batch.features), longer(batch.valid), longer(batch.observed), batch.last)
    torch.testing.assert_close(method(padded).pred, method(batch).pred, atol=1e-5, rtol=1e-5)


def test_every_present_modality_is_read():
    method = build()
    batch = make_batch()
    before = method(batch).pred
    for m in MODALITIES:
        changed = {**batch.features, m: batch.features[m] * 2}
        assert (method(replace(batch, features=changed)).pred - before).abs().min() > 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("removed", [(), ("text",), MODALITIES], ids=["complete", "av", "nothing"])
def test_losses_and_gradients_are_finite(variant, n, removed):
    method = build(variant).train()
    batch = make_batch(n, removed=removed)
    out = method.training_forward(with_views(batch, make_batch(n, removed=removed, seed=3)))
    torch.stack(list(method.loss(out, batch).values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters())


def test_clips_without_any_valid_step_give_finite_predictions():
    # Possible when the protocol keeps the lengths of empty clips.
    none = {m: torch.zeros(2, dtype=torch.long) for m in MODALITIES}
    method = build().train()
    batch = make_batch(2, lengths=none)
    out = method.training_forward(with_views(batch, batch))
    torch.stack(list(method.loss(out, batch).values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters())


def test_training_without_views_is_refused():
    with pytest.raises(MSABenchError, match="two corrupted versions"):
        build().training_forward(make_batch())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dim": 9}, "dim 9"),
        ({"layers": 0}, "layers 0"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"shrinkage": 0.0}, "shrinkage"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, words):
    with pytest.raises(MSABenchError, match=words):
        build(**arguments)


# Text encoder.


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("level", ["vectors", "tokens"])
def test_text_encoder_reads_both_versions(bert, level):
    data = data_module(random_corpus(), missing=MissingConfig(regime="mixed_fsrf", level=level))
    method = FSRF(data.spec, dim=D, heads=2, text_encoder=bert, finetune=True, text_lr=3e-5).eval()
    batch = data.training_batch(torch.arange(9), 0, needs=Needs(views=True, tokens=True))
    out = method.training_forward(batch)
    for version, view in enumerate(batch.views):
        torch.testing.assert_close(out.aux["z"][:, version], method(view).representation, atol=1e-5, rtol=1e-5)
    torch.stack(list(method.loss(out, batch).values())).sum().backward()
    rest, encoder = method.param_groups()
    assert encoder["lr"] == 3e-5
    assert all(p.grad is not None for p in rest["params"])
    assert any(p.grad.any() for p in encoder["params"])


def test_stacked_keeps_everything_that_forward_may_read():
    corpus = random_corpus()
    config = MissingConfig(regime="mixed_fsrf", level="tokens", token_fill="zero_embedding")
    batch = data_module(corpus, missing=config).training_batch(
        torch.arange(4), 0, needs=Needs(views=True, complete=True, tokens=True)
    )
    p, q = batch.views
    both = stacked(p, q)
    assert (both.size, both.text_level) == (8, "tokens")
    assert set(both.features) == {"audio", "vision"}
    for name in ("features", "valid", "observed", "last"):
        for m, value in getattr(both, name).items():
            assert torch.equal(value, torch.cat([getattr(p, name)[m], getattr(q, name)[m]]))
    assert torch.equal(both.tokens, torch.cat([p.tokens, q.tokens]))
    assert torch.equal(both.token_keep, torch.cat([p.token_keep, q.token_keep]))
    assert both.labels is both.index is both.complete is both.views is None

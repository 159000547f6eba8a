"""SMIL: imagined features, perturbations and the inner step against numbers worked out otherwise, and its stages."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch.nn import functional as F

from msabench.data.info import DataSpec
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods.checkpoint import load_checkpoint
from msabench.methods.smil import SMIL, _Head, cluster_centres, draw_missing
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.support import teacher_student as ts

SUBSETS = [[True, False, False], [False, True, False], [False, False, True]]
SUBSETS += [[not here for here in subset] for subset in SUBSETS]


def build(task="regression", stage="meta", **arguments):
    """A small instance in evaluation mode, without weights at values that hide them."""
    torch.manual_seed(0)
    spec = DataSpec(ts.DIMS, dict(ts.STEPS), task=task, metric_set="emotions" if task == "emotions" else "sentiment")
    method = SMIL(spec, **{"dim": 8, "heads": 2, "hidden": 6, "clusters": 3, "warmup_epochs": 1, **arguments})
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    method.enter_stage(stage)
    return method.eval()


def softplus(x):
    return np.log1p(np.exp(x))


def linear(module, x):
    return x @ module.weight.detach().double().numpy().T + module.bias.detach().double().numpy()


def literal(method, f, available, noise="mul"):
    """One clip in NumPy: f ``(3, d)``, available three bools; x, h_0, h_1 and the outputs, without e."""
    f = f.detach().double().numpy()
    centres = method.centres.double().numpy()
    x, z = [], []
    for m, target in enumerate(MODALITIES):
        z.append(f[m] if available[m] else np.zeros_like(f[m]))
        if available[m]:
            x.append(f[m])
            continue
        mixtures = []
        for n, source in enumerate(MODALITIES):
            if available[n]:
                w = softplus(linear(method.mixers[f"{source}_to_{target}"], f[n]))
                mixtures.append(sum(w[k] * centres[m, k] for k in range(len(w))) / w.sum())
        x.append(np.mean(mixtures, axis=0) if mixtures else centres[m].mean(0))
    x, z = np.concatenate(x), np.concatenate(z)

    def changed(h, r):
        if all(available):
            return h
        return h * softplus(r) if noise == "mul" else h + softplus(r)

    head = method.head
    h0 = changed(x, linear(head.perturb0, z))
    h1 = changed(np.maximum(linear(head.fc1, h0), 0), linear(head.perturb1, h0))
    return x, h0, h1, linear(head.fc2, h1)


@pytest.mark.parametrize("noise", ["mul", "add"])
def test_every_pattern_by_hand(noise):
    method = build(noise=noise)
    f = torch.randn(8, 3, 8)
    available = torch.tensor([*SUBSETS, [True] * 3, [False] * 3])
    x, z, missing = method.imagine(f, available)
    h0, h1, outputs = method.head(x, z, missing, noisy=False)
    assert missing[:, 0].tolist() == [True] * 6 + [False, True]
    for clip in range(8):
        expected = literal(method, f[clip], available[clip].tolist(), noise)
        for got, wanted in zip((x, h0, h1, outputs), expected, strict=True):
            np.testing.assert_allclose(got[clip].detach().numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(h0[6], f[6].flatten())


def test_forward_is_that_of_its_parts_and_draws_nothing():
    method = build()
    batch = ts.training_batch()  # the first clip lacks audio
    f = method.extract(batch)
    for m, name in enumerate(MODALITIES):
        hidden = method.encoders[name](batch.features[name], batch.valid[name])
        for clip in range(1, 6):
            mean = hidden[clip, : int(batch.last[name][clip]) + 1].mean(0)
            torch.testing.assert_close(f[clip, m], mean, atol=1e-5, rtol=1e-5)
    out = method(batch)
    for clip in range(6):
        available = [True, clip > 0, True]
        _, _, h1, outputs = literal(method, f[clip], available)
        np.testing.assert_allclose(out.representation[clip].numpy(), h1, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.pred[clip].item(), outputs[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(out.pred, method(batch).pred)


def test_what_is_imagined_lies_between_the_centres():
    method = build(dim=2, clusters=5)
    f = 5 * torch.randn(40, 3, 2)
    available = torch.tensor(SUBSETS).repeat(7, 1)[:40]
    x = method.imagine(f, available)[0].view(40, 3, 2).detach().double().numpy()
    checked = 0
    for clip, modality in (~available).nonzero().tolist():
        centres = method.centres[modality].double().numpy()
        system = np.vstack([centres.T, np.ones(5)])
        found = linprog(np.zeros(5), A_eq=system, b_eq=[*x[clip, modality], 1.0], bounds=(0, 1))
        assert found.success, (clip, modality)
        checked += 1
    assert checked > 50
    outside = linprog(np.zeros(5), A_eq=system, b_eq=[1e3, 0.0, 1.0], bounds=(0, 1))
    assert not outside.success


def test_features_of_a_missing_modality_do_not_matter():
    method = build()
    f = torch.randn(6, 3, 8, requires_grad=True)
    available = torch.tensor(SUBSETS)
    head = method.head(*method.imagine(f, available), noisy=False)[2]
    other = torch.where(available.unsqueeze(2), f, 100 * torch.randn_like(f))
    assert torch.equal(head, method.head(*method.imagine(other, available), noisy=False)[2])
    (grad,) = torch.autograd.grad(head.sum(), f)
    assert torch.equal(grad.abs().sum(2) > 0, available)


def test_e_is_drawn_only_where_asked_and_only_on_incomplete_clips():
    head = _Head(4, 3, 1, dropout=0.0, noise="mul")
    x, z = torch.randn(5000, 4), torch.randn(1, 4).expand(5000, -1)
    missing = torch.arange(5000).unsqueeze(1) % 2 == 0
    h0, _, _ = head(x, z, missing, noisy=True)
    assert torch.equal(h0[1::2], x[1::2])
    # Undo x * softplus(r + e): what is left is e.
    e = (h0[::2] / x[::2]).double().expm1().log() - head.perturb0(z[::2])
    e = e[torch.isfinite(e)]
    assert e.mean().item() == pytest.approx(0, abs=0.05)
    assert e.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(head(x, z, missing, False)[0], head(x, z, missing, False)[0])


def test_second_order_gradient_by_hand():
    # One unit, y = c a x with fc1 = a and fc2 = c and no biases, on clips that miss nothing. A step of s up y gives
    # a' = a + s c x, c' = c + s a x and the biases s c and s, so for another clip, x', y' = c' (a' x' + s c) + s: a
    # polynomial in a, c and x, whose derivatives follow.
    head = _Head(1, 1, 1, dropout=0.0, noise="mul")
    method = build(inner_lr=0.1)
    method.head = head
    a, c, x, other, s = 0.7, 1.3, 2.0, 3.0, 0.1
    with torch.no_grad():
        for parameter, value in ((head.fc1.weight, a), (head.fc2.weight, c), (head.fc1.bias, 0), (head.fc2.bias, 0)):
            parameter.fill_(value)
    feature = torch.tensor([[x]], requires_grad=True)
    none = torch.zeros(1, 1, dtype=torch.bool)
    stepped = method.inner_step(10 - head(feature, feature, none, False)[2].sum())
    a1, c1, b1, b2 = a + s * c * x, c + s * a * x, s * c, s
    for name, value in (("fc1.weight", a1), ("fc2.weight", c1), ("fc1.bias", b1), ("fc2.bias", b2)):
        assert stepped[name].item() == pytest.approx(value)
    tried = torch.tensor([[other]])
    outputs = torch.func.functional_call(head, stepped, (tried, tried, none), {"noisy": False})[2]
    assert outputs.item() == pytest.approx(c1 * (a1 * other + b1) + b2)
    (-outputs.sum()).backward()
    # d/da: da' = 1, dc' = s x; d/dc: dc' = 1, da' = s x, db1' = s; d/dx: da' = s c, dc' = s a.
    inner = a1 * other + b1
    assert head.fc1.weight.grad.item() == pytest.approx(-(s * x * inner + c1 * other), rel=1e-5)
    assert head.fc2.weight.grad.item() == pytest.approx(-(inner + c1 * (s * x * other + s)), rel=1e-5)
    assert feature.grad.item() == pytest.approx(-(s * a * inner + c1 * s * c * other), rel=1e-5)


def quiet(method):
    """The method with e = 0 and the first of the subsets always drawn, so that its training can be recomputed."""
    method.head._perturbed = lambda h, r, noisy: h * F.softplus(r)
    return method


@pytest.mark.parametrize("n", [1, 4, 5])
def test_terms_of_the_meta_stage(n, monkeypatch):
    def text_only(available):
        only = torch.tensor([[True, False, False]]).expand_as(available)
        return torch.where(available.all(1, keepdim=True), only, available)

    monkeypatch.setattr("msabench.methods.smil.draw_missing", text_only)
    method = quiet(build(inner_lr=0.3, lambda_hidden=0.5, lambda_complete=2.0))
    batch = ts.training_batch(n=n)
    out = method.training_forward(batch)
    terms = method.loss(out, batch)

    seen, whole = method.extract(batch), method.extract(batch.complete)
    here = torch.tensor([[True, False, True]] + [[True, False, False]] * (n - 1))
    everything = torch.ones(n, 3, dtype=torch.bool)
    first = torch.arange(n) < n // 2
    pred, train, complete = torch.zeros(n), torch.zeros(n), torch.zeros(n)
    gaps = torch.zeros(2, n)
    for one in (first, ~first) if n > 1 else (~first,):
        rows = one.nonzero()[:, 0]
        other = (~one).nonzero()[:, 0] if n > 1 else rows
        twin = build(inner_lr=0.3)
        told = twin.head(*twin.imagine(seen[rows].detach(), here[rows]), noisy=False)[2][:, 0]
        loss = (told - batch.labels[rows]).abs().mean()
        train[rows] = told.detach()
        gradients = torch.autograd.grad(loss, [p for k, p in twin.head.named_parameters() if k.startswith("fc")])
        with torch.no_grad():
            names = [k for k, _ in twin.head.named_parameters() if k.startswith("fc")]
            for name, gradient in zip(names, gradients, strict=True):
                twin.head.get_parameter(name).sub_(0.3 * gradient)
            left = twin.head(*twin.imagine(whole[other], text_only(everything[other])), noisy=False)
            right = twin.head(*twin.imagine(whole[other], everything[other]), noisy=False)
        pred[other], complete[other] = left[2][:, 0], right[2][:, 0]
        for i in range(2):
            gaps[i, other] = (left[i] - right[i]).square().mean(1)
    y = batch.labels
    torch.testing.assert_close(out.pred.detach(), pred)
    expected = {
        "task": (pred - y).abs().mean(),
        "train": (train - y).abs().mean(),
        "complete": 2 * (complete - y).abs().mean(),
        "gap0": 0.5 * gaps[0].mean(),
        "gap1": 0.5 * gaps[1].mean(),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].detach(), value, msg=lambda text, name=name: f"{name}: {text}")


def test_inner_step_changes_what_is_learnt():
    methods = []
    for inner_lr in (0.0, 0.5):
        method, batch = build(inner_lr=inner_lr), ts.training_batch()
        torch.manual_seed(1)  # the same patterns and e: only the step differs
        method.loss(method.training_forward(batch), batch)["task"].backward()
        methods.append({name: p.grad for name, p in method.named_parameters()})
    plain, stepped = methods
    assert not torch.allclose(plain["head.fc1.weight"], stepped["head.fc1.weight"])
    assert not torch.allclose(plain["head.perturb0.weight"], stepped["head.perturb0.weight"])


@pytest.mark.parametrize("term", ["train", "task", "gap0"])
def test_both_phi_learn_before_and_after_the_inner_step(term):
    method, batch = build(), ts.training_batch(n=48)  # enough for every subset to be drawn
    torch.manual_seed(1)
    method.loss(method.training_forward(batch), batch)[term].backward()
    phi = {k: p.grad for k, p in method.named_parameters() if k.startswith(("mixers", "head.perturb0"))}
    assert len(phi) == 14
    assert all(grad is not None and grad.any() for grad in phi.values())


def test_complete_clips_teach_phi_only_through_the_step():
    for inner_lr in (0.0, 0.5):
        method, batch = build(inner_lr=inner_lr), ts.training_batch(n=12)
        torch.manual_seed(1)
        method.loss(method.training_forward(batch), batch)["complete"].backward()
        grad = method.head.perturb0.weight.grad
        assert (grad is not None and bool(grad.any())) == (inner_lr > 0)


def test_drawn_subsets_are_uniform_over_the_six_and_spare_incomplete_clips():
    torch.manual_seed(0)
    drawn = draw_missing(torch.ones(6000, 3, dtype=torch.bool))
    counts = Counter(tuple(row) for row in drawn.tolist())
    assert set(counts) == {tuple(subset) for subset in SUBSETS}
    assert all(850 < count < 1150 for count in counts.values())
    given = torch.tensor([*SUBSETS, [False] * 3])
    assert torch.equal(draw_missing(given), given)


def test_warmup_learns_from_complete_clips_alone():
    method, batch = build(stage="warmup"), ts.training_batch(n=5)  # signs of an odd number of errors do not cancel
    out = method.training_forward(batch)
    torch.testing.assert_close(out.pred, method(batch.complete).pred)
    assert not torch.allclose(out.pred[0], method(batch).pred[0])
    terms = method.loss(out, batch)
    assert set(terms) == {"task"}
    torch.testing.assert_close(terms["task"], (out.pred - batch.labels).abs().mean())
    terms["task"].backward()
    silent = {k.rsplit(".", 1)[0] for k, p in method.named_parameters() if p.grad is None or not p.grad.any()}
    phi = {f"mixers.{name}" for name in method.mixers} | {"head.perturb0", "head.perturb1"}
    assert silent == phi
    served = {id(p) for group in method.param_groups() for p in group["params"]}
    assert {k.rsplit(".", 1)[0] for k, p in method.named_parameters() if id(p) not in served} == phi


def test_emotions_have_four_questions():
    method, batch = build(task="emotions"), ts.training_batch(task="emotions")
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    assert out.pred.shape == out.aux["train"].shape == (6, 4, 2)
    expected = torch.stack([F.cross_entropy(out.pred[:, e], batch.labels[:, e]) for e in range(4)]).mean()
    torch.testing.assert_close(terms["task"], expected)
    assert set(terms) == {"task", "train", "complete", "gap0", "gap1"}


def fitted(folder: Path, epochs: int, checkpoint: Path | None = None, corpus=None):
    data = data_module(corpus or random_corpus(), batch_size=8, missing=MissingConfig(regime="mixed"))
    torch.manual_seed(0)
    method = SMIL(data.spec, dim=8, heads=2, hidden=6, clusters=3, warmup_epochs=2)
    start = method.centres.clone()
    watch = ts.Weights()
    trainer = quiet_trainer(folder, epochs, callbacks=[watch])
    trainer.fit(method, datamodule=data, ckpt_path=checkpoint, weights_only=False)
    return method, data, trainer, watch, start


def test_centres_are_those_of_the_features_when_the_warmup_ends(tmp_path: Path) -> None:
    method, data, trainer, watch, start = fitted(tmp_path, 4)
    assert method.stage == "meta"
    moved = ts.changed(watch.at[0], watch.at[2])
    assert moved == {"encoders", "head"}
    assert torch.equal(watch.at[0]["head.perturb0.weight"], watch.at[2]["head.perturb0.weight"])
    last = {name: p.detach() for name, p in method.named_parameters()}
    assert ts.changed(watch.at[2], last) == {"encoders", "mixers", "head"}
    # Centres from the weights at the end of the warm-up: each is the mean of the features nearest to it.
    with torch.no_grad():
        after = method.centres.clone()
        for name, parameter in method.named_parameters():
            parameter.copy_(watch.at[2][name])
        method.eval()
        complete = data.training_batch(torch.arange(24), 0, needs=Needs(complete=True)).complete
        f = method.extract(complete)
    assert not torch.equal(after, start)
    for m in range(3):
        nearest = torch.cdist(f[:, m], after[m]).argmin(1)
        for k in range(3):
            torch.testing.assert_close(after[m, k], f[nearest == k, m].mean(0), atol=1e-5, rtol=1e-5)
    # They are kept in checkpoints, and going on from one does not look for them again.
    trainer.save_checkpoint(tmp_path / "meta.ckpt")
    assert torch.equal(load_checkpoint(tmp_path / "meta.ckpt")[0].centres, after)
    resumed, *_ = fitted(tmp_path, 5, tmp_path / "meta.ckpt")
    assert torch.equal(resumed.centres, after)


def test_clips_without_a_modality_do_not_shape_its_centres(tmp_path: Path) -> None:
    corpus = random_corpus()
    corpus.splits["train"].features["audio"].zero_()
    corpus.splits["train"].lengths["audio"].zero_()
    method, _, _, _, start = fitted(tmp_path, 3, corpus=corpus)
    changed = [not torch.equal(method.centres[m], start[m]) for m in range(3)]
    assert changed == [True, False, True]


def test_padding_is_not_seen():
    ts.check_padding_is_not_seen(build())


def test_a_batch_without_its_complete_version_is_refused():
    batch = replace(ts.training_batch(), complete=None)
    with pytest.raises(MSABenchError, match="trains on complete clips"):
        build().training_forward(batch)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"warmup_epochs": 0}, "warmup_epochs 0"),
        ({"clusters": 0}, "clusters 0"),
        ({"noise": "div"}, "unknown noise"),
        ({"inner_lr": -1.0}, "inner_lr -1.0"),
        ({"lambda_complete": -0.1}, "lambda_complete -0.1"),
        ({"heads": 3}, "3 heads"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, words):
    with pytest.raises(MSABenchError, match=words):
        build(**arguments)


def test_centres_of_separate_clouds_are_their_means_whatever_the_global_state() -> None:
    corners = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    points = corners[torch.arange(60) % 3] + torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([points[i::3].mean(0) for i in range(3)])
    found = cluster_centres(points, 3)
    order = torch.cdist(expected, found).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    torch.testing.assert_close(found[order], expected)
    before = torch.get_rng_state()
    assert torch.equal(cluster_centres(points, 7), cluster_centres(points, 7))
    assert torch.equal(torch.get_rng_state(), before)


def test_fewer_distinct_features_than_centres() -> None:
    found = cluster_centres(torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]), 5)
    assert found.shape == (5, 2)
    assert {tuple(row) for row in found.tolist()} == {(1.0, 2.0), (3.0, 4.0)}

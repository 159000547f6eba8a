"""CorrKD: its three distillations against numbers worked out otherwise, its stages, its variants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from msabench.errors import MSABenchError
from msabench.methods.corrkd import CorrKD, prototype_gap, response_parts, sample_contrast
from msabench.missingness.conditions import MODALITIES
from tests.support import teacher_student as ts


def test_network_is_mean_of_each_stream_joined_and_classified():
    method = ts.build(CorrKD)
    batch = ts.training_batch()
    network, parts = method.student, []
    for m in MODALITIES:
        h = network.encoders[m](batch.features[m], batch.valid[m])
        parts.append(torch.stack([h[i][batch.valid[m][i]].mean(0) for i in range(6)]))
    joint = torch.cat(parts, 1)
    first, _, second = network.classifier
    assert first.weight.shape == (24, 24)
    logits = F.linear(F.linear(joint, first.weight, first.bias).relu(), second.weight, second.bias)
    out = method(batch)
    torch.testing.assert_close(out.representation, joint)
    torch.testing.assert_close(out.logits, logits)
    p = logits.softmax(1)
    torch.testing.assert_close(out.pred, (p[:, 1] - p[:, 0]) * 1.5)


def test_score_is_scaled_by_the_labels_seen_in_training():
    method = ts.build(CorrKD, stage="teacher")
    batch = ts.training_batch()
    out = method.training_forward(batch)
    for _ in range(200):
        method.loss(out, batch)
    p = method(batch.complete).logits.softmax(1)
    size = batch.labels.abs().mean()
    torch.testing.assert_close(method(batch.complete).pred, (p[:, 1] - p[:, 0]) * size, atol=1e-2, rtol=1e-2)


def test_sample_contrast_pair_by_pair():
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64)
    expected = 0.0
    for i in range(4):
        for j in range(4):
            if i != j:
                own = (student[i] - teacher[i]).norm() ** 2
                other = max(torch.tensor(0.0), 2.5 - (student[i] - teacher[j]).norm()) ** 2
                expected = expected + (own + other) / 12
    assert sample_contrast(student, teacher, 2.5).item() == pytest.approx(expected.item())
    assert expected > 0


def test_sample_contrast_is_zero_for_equal_sides_that_are_far_apart_and_has_finite_gradients():
    rows = 2 * torch.eye(4)
    assert sample_contrast(rows, rows, 2.8).item() == 0
    assert sample_contrast(rows, rows, 3.0).item() == pytest.approx((3 - 8**0.5) ** 2, rel=1e-4)
    same = torch.zeros(3, 4, requires_grad=True)
    sample_contrast(same, torch.zeros(3, 4), 1.0).backward()
    assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize("squared", [False, True])
def test_prototype_gap_clip_by_clip(squared):
    student, teacher = torch.randn(2, 5, 3, dtype=torch.float64)
    labels = torch.tensor([0, 2, 2, 0, 3])  # nobody is of class 1
    members = F.one_hot(labels, 4).double()
    differences = []
    for i in range(5):
        for k in (0, 2, 3):
            ours, theirs = (F.cosine_similarity(x[i], x[labels == k].mean(0), dim=0).item() for x in (student, teacher))
            differences.append(abs(ours - theirs) ** (2 if squared else 1))
    expected = sum(differences) / 15
    assert prototype_gap(student, teacher, members, squared=squared).item() == pytest.approx(expected)
    assert prototype_gap(7 * student, 0.1 * teacher, members, squared=squared).item() == pytest.approx(expected)
    assert prototype_gap(student, student, members).item() == 0


def test_prototypes_of_the_student_pass_gradients():
    student = torch.randn(3, 4, requires_grad=True)
    gap = prototype_gap(student, torch.randn(3, 4), torch.ones(3, 1))
    (moving,) = torch.autograd.grad(gap, student)
    rows = F.normalize(student, dim=1)
    fixed = rows @ F.normalize(student.detach().mean(0), dim=0)
    assert not torch.allclose(moving, torch.autograd.grad(fixed.mean(), student)[0], atol=1e-4)


def test_parts_of_the_responses():
    logits = torch.tensor([[[0.2, 0.5, 0.3]], [[0.1, 0.1, 0.8]]]).log()
    target, others = response_parts(logits, torch.tensor([[1], [2]]))
    torch.testing.assert_close(target, torch.tensor([[0.5], [0.8]]))
    torch.testing.assert_close(others, torch.tensor([[0.4, 0.6], [0.5, 0.5]]))
    logits = torch.tensor([[[0.2, 0.8], [0.7, 0.3]], [[0.4, 0.6], [0.1, 0.9]]]).log()
    target, others = response_parts(logits, torch.tensor([[1, 1], [0, 1]]))
    torch.testing.assert_close(target, torch.tensor([[0.8, 0.3], [0.4, 0.9]]))
    torch.testing.assert_close(others, 1 - target)


@pytest.mark.parametrize("variant", ["default", "wo_scd", "wo_cpd", "wo_rcd", "rcd_kl", "score_classes"])
def test_terms_and_their_weights(variant):
    method = ts.build(CorrKD, variant=variant, lambda_scd=0.5, lambda_cpd=2.0, lambda_rcd=3.0, margin=1.7)
    batch = ts.training_batch()
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    classes = (batch.labels.round() + 3).long() if variant == "score_classes" else (batch.labels >= 0).long()
    student, teacher, response = out.representation, out.aux["teacher"], out.aux["response"]
    with torch.no_grad():
        joint, logits = method.teacher(batch.complete)
    assert torch.equal(joint, teacher)
    assert torch.equal(logits, response)
    expected = {
        "task": F.cross_entropy(out.logits, classes),
        "scd": 0.5 * sample_contrast(student, teacher, 1.7),
        "cpd": 2.0 * prototype_gap(student, teacher, F.one_hot(classes, out.logits.shape[1]).float()),
    }
    if variant == "rcd_kl":
        p, q = response[:, 0].softmax(1), out.logits.softmax(1)
        expected["rcd"] = 3.0 * (p * (p / q).log()).sum(1).mean()
    elif variant != "wo_rcd":
        expected["rcd"] = torch.tensor(0.0)
        ours, theirs = (response_parts(x, classes[:, None]) for x in (out.logits.unsqueeze(1), response))
        for critic, x, y in zip(method.critics, theirs, ours, strict=True):
            hidden = torch.cat([x[:, None].expand(-1, 6, -1), y[None].expand(6, -1, -1)], 2)
            scores = critic.last(critic.first(hidden).relu()).squeeze(2)
            own, other = F.softplus(-scores.diagonal()).mean(), F.softplus(scores)[~torch.eye(6).bool()].mean()
            expected["rcd"] = expected["rcd"] + 3.0 * (own + other)
    dropped = {"wo_scd": "scd", "wo_cpd": "cpd"}.get(variant)
    expected.pop(dropped, None)
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_options_of_the_distances():
    batch = ts.training_batch()
    plain = ts.build(CorrKD)
    terms = plain.loss(plain.training_forward(batch), batch)
    other = ts.build(CorrKD, scd_normalise=True, cpd_squared=True)
    out = other.training_forward(batch)
    changed = other.loss(out, batch)
    unit = [F.normalize(out.aux[name], dim=1) for name in ("joint", "teacher")]
    torch.testing.assert_close(changed["scd"], sample_contrast(*unit, 1.2))
    assert not torch.allclose(changed["scd"], terms["scd"])
    assert changed["cpd"] < terms["cpd"]
    torch.testing.assert_close(changed["task"], terms["task"])


def test_distillation_of_representations_leaves_the_classifier_alone():
    method = ts.build(CorrKD)
    batch = ts.training_batch()
    terms = method.loss(method.training_forward(batch), batch)
    classifier = list(method.student.classifier.parameters())
    for name in ("scd", "cpd"):
        grads = torch.autograd.grad(terms[name], classifier, allow_unused=True, retain_graph=True)
        assert grads == (None,) * 4
    assert all(g.any() for g in torch.autograd.grad(terms["rcd"], classifier))


def test_emotions_are_four_questions():
    method = ts.build(CorrKD, task="emotions")
    batch = ts.training_batch(task="emotions")
    out = method.training_forward(batch)
    assert out.pred.shape == (6, 4, 2)
    terms = method.loss(out, batch)
    expected = torch.stack([F.cross_entropy(out.pred[:, e], batch.labels[:, e]) for e in range(4)]).mean()
    torch.testing.assert_close(terms["task"], expected)
    members = torch.stack([batch.labels[:, e] == k for e in range(4) for k in range(2)], 1).float()
    torch.testing.assert_close(terms["cpd"], prototype_gap(out.representation, out.aux["teacher"], members))
    with pytest.raises(MSABenchError, match="no score to make classes of"):
        ts.build(CorrKD, task="emotions", variant="score_classes")


def test_a_batch_of_one_and_a_batch_of_one_class():
    method = ts.build(CorrKD)
    assert set(_finite_terms(method, ts.training_batch(n=1))) == {"task", "cpd"}
    batch = ts.training_batch()
    batch = replace(batch, labels=batch.labels.abs())
    assert set(_finite_terms(method, batch)) == {"task", "scd", "cpd", "rcd"}


def _finite_terms(method, batch):
    terms = method.loss(method.training_forward(batch), batch)
    method.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    return terms


def test_teacher_stage():
    method = ts.build(CorrKD, stage="teacher")
    ts.check_teacher_learns_from_complete_clips(method)
    assert set(method.loss(method.training_forward(ts.training_batch()), ts.training_batch())) == {"task"}


def test_student_stage_leaves_the_teacher_alone():
    ts.check_teacher_is_frozen(ts.build(CorrKD, dropout=0.2))


def test_padding_is_not_seen():
    ts.check_padding_is_not_seen(ts.build(CorrKD))


def test_fit_trains_the_teacher_first_and_predicts_without_it(tmp_path: Path) -> None:
    ts.fit_two_stages(CorrKD, tmp_path, {"student", "critics"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"teacher_epochs": 0}, "teacher_epochs 0"), ({"margin": -1.0}, "margin -1"), ({"heads": 3}, "3 heads")],
)
def test_arguments_outside_their_range_are_refused(arguments, words):
    with pytest.raises(MSABenchError, match=words):
        ts.build(CorrKD, **arguments)


def test_training_without_complete_clips_is_refused():
    with pytest.raises(MSABenchError, match="trains on complete clips"):
        ts.build(CorrKD).training_forward(ts.training_batch().complete)

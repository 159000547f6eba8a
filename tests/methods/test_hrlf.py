"""HRLF: its equations against numbers worked out otherwise, its stages and turns, its variants."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional as F

from msabench.errors import MSABenchError
from msabench.losses.information import jensen_shannon
from msabench.methods.hrlf import HRLF, swap_error
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.support import teacher_student as ts


def mlp(network, x):
    first, _, second = network
    return F.linear(F.linear(x, first.weight, first.bias).relu(), second.weight, second.bias)


def literal(network, batch):
    """Z, Q, U and the layers of the bottleneck, modality by modality."""
    z, q, u = {}, {}, {}
    for m in MODALITIES:
        h = network.encoders[m](batch.features[m], batch.valid[m])
        z[m] = torch.stack([h[i, int(batch.last[m][i])] for i in range(batch.size)])
        q[m], u[m] = mlp(network.sentiment[m], z[m]), mlp(network.modality[m], z[m])
    layers = [torch.cat([part for m in MODALITIES for part in (q[m], u[m])], 1)]
    for number, layer in enumerate(network.refine):
        x = F.linear(layers[-1], layer.weight, layer.bias)
        layers.append(x.relu() if number < 3 else x)
    return z, q, u, layers


@pytest.mark.parametrize("scales", ["mean", "concat"])
def test_network(scales):
    method = ts.build(HRLF, scales=scales)
    batch = ts.training_batch()
    z, q, u, (h, i_1, i_2, i_3, refined) = literal(method.student, batch)
    assert [x.shape[1] for x in (h, i_1, i_2, i_3, refined)] == [24, 16, 8, 16, 24]
    assert q["text"].shape == u["audio"].shape == (6, 4)
    encoded = method.student(batch)
    for got, parts in ((encoded.z, z), (encoded.q, q), (encoded.u, u)):
        torch.testing.assert_close(got, torch.stack([parts[m] for m in MODALITIES], 1))
    torch.testing.assert_close(encoded.refined, refined)
    if scales == "mean":
        expected = ((h + refined) / 2, (i_1 + i_3) / 2, i_2)
    else:
        expected = (torch.cat([h, refined], 1), torch.cat([i_1, i_3], 1), i_2)
    torch.testing.assert_close(encoded.scales, expected)
    logits = F.linear(refined, method.student.classifier.weight, method.student.classifier.bias)
    p = logits.softmax(1)
    torch.testing.assert_close(method(batch).pred, (p[:, 1] - p[:, 0]) * 1.5)
    torch.testing.assert_close(method(batch).representation, refined)


def test_factorisation_pair_by_pair():
    method = ts.build(HRLF)
    network = method.student
    z, q, u, _ = literal(network, ts.training_batch())
    swapped = {(a, b): mlp(network.decoder, torch.cat([q[a], u[b]], 1)) for a in MODALITIES for b in MODALITIES}
    own = sum((swapped[a, a] - z[a]).norm(dim=1) for a in MODALITIES) / 3
    cross = sum((swapped[a, b] - z[b]).norm(dim=1) for a in MODALITIES for b in MODALITIES if a != b) / 6
    again = {(a, b): mlp(network.sentiment[a], swapped[b, a]) for a in MODALITIES for b in MODALITIES}
    recovered = sum((again[a, b] - q[a]).norm(dim=1) for a in MODALITIES for b in MODALITIES) / 9
    expected = own + cross + recovered
    out = method.training_forward(ts.training_batch())
    torch.testing.assert_close(out.aux["frf"], expected)
    torch.testing.assert_close(method.loss(out, ts.training_batch())["frf"], expected.mean())


def test_swap_error_by_hand_and_its_gradient_at_zero():
    z = torch.randn(2, 3, 5)
    perfect = z.unsqueeze(1).expand(-1, 3, -1, -1).clone().requires_grad_()
    assert swap_error(perfect, z).tolist() == [0, 0]
    swap_error(perfect, z).sum().backward()
    assert torch.isfinite(perfect.grad).all()
    off = torch.zeros(1, 3, 3, 4)
    off[0, 1, 1] = 3.0  # a length of 6
    off[0, 0, 2] = 1.5  # a length of 3
    assert swap_error(off, torch.zeros(1, 3, 4)).item() == pytest.approx(6 / 3 + 3 / 6)


@pytest.mark.parametrize("detach", [True, False])
def test_targets_of_the_factorisation(detach):
    method = ts.build(HRLF, frf_detach=detach)
    encoded = method.student(ts.training_batch())
    q, u = encoded.q.detach(), encoded.u.detach()
    encoded.q, encoded.u = q, u  # what is left of Z is what it is as a target
    loss = method.student.factorisation(encoded).sum()
    (grad,) = torch.autograd.grad(loss, encoded.z, allow_unused=True)
    assert (grad is None) == detach


def test_terms_of_the_student():
    method = ts.build(HRLF, lambda_frf=0.5, lambda_hmi=2.0, lambda_hal=3.0, lambda_kl=4.0)
    batch = ts.training_batch()
    out = method.training_forward(batch)
    with torch.no_grad():
        told = method.teacher(batch.complete)
    ours = method.student(batch)
    terms = method.loss(out, batch)
    hmi, hal = 0.0, 0.0
    for critic, judge, s, t in zip(method.critics, method.discriminators, ours.scales, told.scales, strict=True):
        pairs = torch.cat([t[:, None].expand(-1, 6, -1), s[None].expand(6, -1, -1)], 2)
        hmi = hmi - jensen_shannon(critic.last(critic.first(pairs).relu()).squeeze(2))
        hal = hal + torch.log(1 - torch.sigmoid(mlp(judge, s))).mean()
    p, q = told.outputs.softmax(1), ours.outputs.softmax(1)
    expected = {
        "task": F.cross_entropy(ours.outputs, (batch.labels >= 0).long()),
        "frf": 0.5 * out.aux["frf"].mean(),
        "hmi": 2 * hmi,
        "hal": 3 * hal,
        "kl": 4 * (p * (p / q).log()).sum(1).mean(),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=lambda text, name=name: f"{name}: {text}")
    other = ts.build(HRLF, hal="nonsaturating")
    deceived = other.loss(other.training_forward(batch), batch)["hal"]
    literally = sum(
        -torch.log(torch.sigmoid(mlp(j, s))).mean() for j, s in zip(method.discriminators, ours.scales, strict=True)
    )
    torch.testing.assert_close(deceived, literally)


def test_discriminators_maximise_what_the_student_minimises():
    method = ts.build(HRLF, turn="discriminators")
    batch = ts.training_batch()
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    expected = 0.0
    with torch.no_grad():
        told, ours = method.teacher(batch.complete), method.student(batch)
    for judge, s, t in zip(method.discriminators, ours.scales, told.scales, strict=True):
        real, fake = torch.sigmoid(mlp(judge, t)), torch.sigmoid(mlp(judge, s))
        expected = expected - (torch.log(1 - fake) + torch.log(real)).mean()
    assert set(terms) == {"hal"}
    torch.testing.assert_close(terms["hal"], expected)
    terms["hal"].backward()
    reached = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
    assert reached == {"discriminators"}
    served = {id(p) for group in method.param_groups() for p in group["params"]}
    assert served == {id(p) for p in method.discriminators.parameters()}
    method.turn = "student"
    served = {id(p) for group in method.param_groups() for p in group["params"]}
    assert served == {id(p) for part in (method.student, method.critics) for p in part.parameters()}


def test_in_its_turn_the_student_is_pulled_where_discriminators_take_it_for_the_teacher():
    method = ts.build(HRLF, variant="default")
    batch = ts.training_batch()
    before = method._judged("student", method.training_forward(batch)).mean()
    optimizer = torch.optim.SGD(method.student.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        method.loss(method.training_forward(batch), batch)["hal"].backward()
        optimizer.step()
    assert method._judged("student", method.training_forward(batch)).mean() > before


def test_information_rises_as_critics_and_student_learn_it():
    method = ts.build(HRLF)
    batch = ts.training_batch(n=24)
    parameters = [*method.student.parameters(), *method.critics.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        term = method.loss(method.training_forward(batch), batch)["hmi"]
        term.backward()
        optimizer.step()
        values.append(term.item())
    assert values[-1] < values[0] - 0.5


@pytest.mark.parametrize(
    ("variant", "missing"), [("wo_frf", {"frf"}), ("wo_hmi", {"hmi"}), ("wo_hal", {"hal"}), ("score_classes", set())]
)
def test_variants_drop_their_term(variant, missing):
    method = ts.build(HRLF, variant=variant)
    batch = ts.training_batch()
    assert set(method.loss(method.training_forward(batch), batch)) == {"task", "frf", "hmi", "hal", "kl"} - missing
    assert method.turns == (("student",) if variant == "wo_hal" else ("discriminators", "student"))
    assert (method.student.decoder is None) == (method.teacher.decoder is None) == (variant == "wo_frf")
    parts = {"wo_hmi": "critics", "wo_hal": "discriminators"}
    for name in ("critics", "discriminators"):
        assert (getattr(method, name) is None) == (parts.get(variant) == name)
    if variant == "score_classes":
        out = method(batch)
        torch.testing.assert_close(out.pred, out.logits.softmax(1) @ torch.arange(-3.0, 4.0))


def test_regression_has_squared_errors():
    method = ts.build(HRLF, variant="regression")
    batch = ts.training_batch()
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    assert out.logits is None
    torch.testing.assert_close(out.pred, method.student(batch).outputs[:, 0])
    torch.testing.assert_close(terms["task"], (out.pred - batch.labels).square().mean())
    told = method.teacher(batch.complete).outputs[:, 0]
    torch.testing.assert_close(terms["kl"], (out.pred - told).square().mean())
    with pytest.raises(MSABenchError, match="needs scores"):
        ts.build(HRLF, task="emotions", variant="regression")


def test_emotions_are_four_questions():
    method = ts.build(HRLF, task="emotions")
    batch = ts.training_batch(task="emotions")
    out = method.training_forward(batch)
    terms = method.loss(out, batch)
    assert out.pred.shape == (6, 4, 2)
    expected = torch.stack([F.cross_entropy(out.pred[:, e], batch.labels[:, e]) for e in range(4)]).mean()
    torch.testing.assert_close(terms["task"], expected)
    p, q = method.teacher(batch.complete).outputs.view(6, 4, 2).softmax(2), out.pred.softmax(2)
    torch.testing.assert_close(terms["kl"], (p * (p / q).log()).sum(2).mean())


@pytest.mark.parametrize("teacher_frf", [True, False])
def test_teacher_stage(teacher_frf):
    method = ts.build(HRLF, stage="teacher", teacher_frf=teacher_frf)
    ts.check_teacher_learns_from_complete_clips(method)
    batch = ts.training_batch()
    terms = method.loss(method.training_forward(batch), batch)
    assert set(terms) == ({"task", "frf"} if teacher_frf else {"task"})
    assert (method.teacher.decoder is None) != teacher_frf
    assert method.student.decoder is not None


def test_student_stage_leaves_the_teacher_alone():
    ts.check_teacher_is_frozen(ts.build(HRLF, dropout=0.2))


def test_a_batch_of_one_has_no_information_term():
    method = ts.build(HRLF)
    batch = ts.training_batch(n=1)
    terms = method.loss(method.training_forward(batch), batch)
    assert set(terms) == {"task", "frf", "hal", "kl"}
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    method.turn = "discriminators"
    assert torch.isfinite(method.loss(method.training_forward(batch), batch)["hal"])


def test_padding_is_not_seen():
    ts.check_padding_is_not_seen(ts.build(HRLF))


def test_fit_trains_the_teacher_first_and_predicts_without_it(tmp_path: Path) -> None:
    ts.fit_two_stages(HRLF, tmp_path, {"student", "critics", "discriminators"})


def test_turns_step_one_after_the_other_and_freeze_each_other(tmp_path: Path) -> None:
    seen: list[tuple[str, bool, bool]] = []

    class Watched(HRLF):
        def loss(self, out, batch):
            if self.stage == "student":
                frozen = [not next(part.parameters()).requires_grad for part in (self.student, self.discriminators)]
                seen.append((self.turn, *frozen))
            return super().loss(out, batch)

    data = data_module(random_corpus(), batch_size=12, missing=MissingConfig(regime="mixed"))
    method = Watched(data.spec, dim=8, heads=2, layers=1, teacher_epochs=1)
    trainer: pl.Trainer = quiet_trainer(tmp_path, 2)
    trainer.fit(method, datamodule=data)
    assert seen == [("discriminators", True, False), ("student", False, True)] * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"teacher_epochs": 0}, "teacher_epochs 0"),
        ({"dim": 9, "heads": 3}, "dim 9 even"),
        ({"heads": 3}, "3 heads"),
        ({"scales": "sum"}, "unknown scales"),
        ({"hal": "wgan"}, "unknown hal"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, words):
    with pytest.raises(MSABenchError, match=words):
        ts.build(HRLF, **arguments)

"""MMIN: what teacher and imagination read, what each loss reaches, its stages and its recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.info import DataSpec
from msabench.errors import MSABenchError
from msabench.methods.checkpoint import load_checkpoint
from msabench.methods.mmin import MMIN, Imagination, Stream, TextCNN
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept
from tests.support.small_bert import save_small_bert
from tests.support.teacher_student import DIMS, STEPS, Weights, changed, training_batch

SMALL: dict[str, Any] = {**MMIN.info.smoke, "blocks": 3}
NETWORKS = ("encoders.audio", "encoders.text", "encoders.vision", "imagine", "imagine_back", "classifier")


def method(stage: str = "task", task: str = "regression", **settings: Any) -> MMIN:
    """A small instance in evaluation mode, E apart from T."""
    torch.manual_seed(0)
    spec = DataSpec(DIMS, dict(STEPS), task=task, metric_set="emotions" if task == "emotions" else "sentiment")
    made = MMIN(spec, **{**SMALL, **settings})
    made.enter_stage(stage)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def network_of(name: str) -> str:
    return next((network for network in NETWORKS if name.startswith(f"{network}.")), name.split(".")[0])


def reached(made: MMIN, term: Tensor) -> set[str]:
    made.zero_grad()
    term.backward(retain_graph=True)
    return {network_of(n) for n, p in made.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("mmin")])
def test_outputs_are_those_of_the_codes(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(
    ("dims", "reads", "size"),
    [
        ((768, 5, 20), "sequence", 4_821_761),
        ((1024, 512, 1024), "vector", 3_873_665),
    ],
)
def test_size_is_that_of_the_codes(dims: tuple[int, int, int], reads: Any, size: int) -> None:
    spec = replace(CASES["mmin_official"].spec, feature_dims=dict(zip(MODALITIES, dims, strict=True)))
    made = MMIN(spec, reads=reads)
    made.enter_stage("task")
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == size


# What is read.


def test_what_is_missing_is_compared_with_the_teacher_and_what_is_there_with_its_word_on_nothing() -> None:
    made, batch = method(reads="vector"), training_batch()
    assert batch.complete is not None
    target = made.training_forward(batch).aux["target"].split(8, dim=1)
    teacher = made.teacher.encoders
    for m, found in zip(("audio", "text", "vision"), target, strict=True):
        nothing = teacher[m](torch.zeros(1, DIMS[m]))
        frames = batch.complete.valid[m].sum(1, keepdim=True)
        said = teacher[m](batch.complete.features[m].sum(1) / frames)
        expected = nothing.expand(len(found), -1).clone()
        if m == "audio":  # the first clip lacks it
            expected[0] = said[0]
        torch.testing.assert_close(found, expected)
        assert not torch.allclose(nothing, said, atol=1e-2)


@pytest.mark.parametrize("reads", ["sequence", "vector"])
def test_under_complete_every_target_is_the_word_on_nothing(reads: Any) -> None:
    made, batch = method(reads=reads), training_batch()
    complete = batch.complete
    assert complete is not None
    target = made.training_forward(replace(complete, complete=complete)).aux["target"]
    torch.testing.assert_close(target, target[:1].expand_as(target))


def test_observed_part_and_complement_add_up_to_the_clip() -> None:
    made, batch = method(), training_batch()
    complete = batch.complete
    assert complete is not None
    drop = torch.zeros_like(batch.observed["text"])
    drop[:, 1] = batch.observed["text"][:, 1]
    features = {**batch.features, "text": batch.text * ~drop.unsqueeze(2)}
    partly = replace(batch, features=features, observed={**batch.observed, "text": batch.observed["text"] & ~drop})
    seen, lost = made._observed(partly), made._complement(partly, complete)
    for m in MODALITIES:
        assert torch.equal(seen[m].features + lost[m].features, complete.features[m])
        assert not (seen[m].there & lost[m].there).any()
        # What lost nothing has a complement of full length, so that it always says the same.
        whole = ~lost[m].there.any(1)
        assert lost[m].valid[whole].all()
        assert torch.equal(lost[m].valid[~whole], complete.valid[m][~whole])
    assert lost["text"].features[2, 1].any()
    assert not lost["text"].features[2, 0].any()


def test_a_text_that_lost_tokens_before_its_encoder_has_no_complement(tmp_path: Path) -> None:
    data = data_module(random_corpus(), missing=MissingConfig(regime="inter", level="tokens"))
    torch.manual_seed(0)
    made = MMIN(data.spec, **SMALL, text_encoder=save_small_bert(tmp_path))
    made.enter_stage("task")
    batch = data.training_batch(torch.arange(12), 0, needs=made.data_needs)
    complete = batch.complete
    assert complete is not None
    removed = ~batch.observed["text"].any(1)
    assert 0 < removed.sum() < 12
    rest = batch.observed["text"].clone()
    rest[:, 1] = False
    partly = replace(batch, observed={**batch.observed, "text": rest}, text_level="tokens")
    lost = made._complement(partly, complete)["text"]
    assert not lost.features[~removed].any()
    states = made.text(complete) * complete.observed["text"].unsqueeze(2)
    assert torch.equal(lost.features[removed], states[removed])
    assert not made._observed(partly)["text"].features[removed].any()
    vectors = made._complement(replace(partly, text_level="vectors"), complete)["text"]
    assert vectors.features[~removed, 1].any()


def test_a_frozen_encoder_reads_complete_tokens_for_the_teacher(tmp_path: Path) -> None:
    data = data_module(random_corpus(), missing=MissingConfig(regime="mixed"))
    made = MMIN(data.spec, **SMALL, text_encoder=save_small_bert(tmp_path))
    batch = data.training_batch(torch.arange(12), 0, needs=made.data_needs)
    for stage in made.stages:
        made.enter_stage(stage)
        torch.stack(list(made.loss(made.training_forward(batch), batch).values())).sum().backward()
    assert made.text.encoder is not None
    assert all(p.grad is None for p in made.text.encoder.parameters())


@pytest.mark.parametrize("reads", ["sequence", "vector"])
def test_padding_is_not_seen(reads: Any) -> None:
    made = method(reads=reads)
    with torch.no_grad():
        before, after = (made(training_batch(padding=padding).complete).pred for padding in (0, 6))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)
    if reads == "sequence":
        read = method(mask_padding=False)
        with torch.no_grad():
            before, after = (read(training_batch(padding=padding).complete).pred for padding in (0, 6))
        assert (before - after).abs().max() > 1e-3


@pytest.mark.parametrize("front", [False, True])
@pytest.mark.parametrize("length", [1, 2, 4, 5, 7])
def test_convolutions_see_a_text_and_the_zeros_that_a_short_one_needs(length: int, front: bool) -> None:
    """Maxima over windows, written out; a text of fewer steps than the widest kernel gets zeros behind it."""
    torch.manual_seed(0)
    cnn = TextCNN(3, 4, 5, dropout=0.5, mask_padding=True).eval()
    text = torch.randn(length, 3)
    padded = F.pad(text, (0, 0, *((9 - length, 0) if front else (0, 9 - length)))).unsqueeze(0)
    valid = padded.any(2)
    found = cnn.of(Stream(padded, valid, valid))
    alone = F.pad(text, (0, 0, 0, max(0, 5 - length)))
    maxima = []
    for convolution in cnn.convolutions:
        width = convolution.kernel_size[0]  # type: ignore[index]
        windows = [alone[i : i + width] for i in range(len(alone) - width + 1)]
        scores = [torch.einsum("cdk,kd->c", convolution.weight, w) + convolution.bias for w in windows]  # type: ignore[arg-type]
        maxima.append(torch.stack(scores).clamp(min=0).amax(0))
    torch.testing.assert_close(found[0], torch.relu(cnn.out(torch.cat(maxima))), atol=1e-6, rtol=1e-5)


def test_the_cascade_adds_what_each_block_decodes() -> None:
    torch.manual_seed(0)
    cascade = Imagination(6, 2, (5, 3))
    f = torch.randn(4, 6)

    def layers(parts: nn.Module, x: Tensor, slope: float) -> Tensor:
        first, _, second = parts.children()
        return second(F.leaky_relu(first(x), slope))

    state, codes = f, []
    for i in range(2):
        codes.append(layers(cascade.encode[i], state, 0.01))
        state = state + layers(cascade.decode[i], codes[-1], 0.0)
    imagined, found = cascade(f)
    torch.testing.assert_close(found, torch.cat(codes, dim=1))
    torch.testing.assert_close(imagined, layers(cascade.transition, state, 0.0))


# What each loss reaches.


def test_terms_of_the_loss_are_weighted_means_and_reach_what_they_should() -> None:
    made, batch = method(lambda_imagination=3.0, lambda_cycle=0.5), training_batch()
    out = made.training_forward(batch)
    terms = made.loss(out, batch)
    aux = out.aux
    assert batch.labels is not None
    torch.testing.assert_close(terms["task"], (out.pred - batch.labels).square().mean())
    torch.testing.assert_close(terms["imagination"], 3 * (aux["imagined"] - aux["target"]).square().mean())
    torch.testing.assert_close(terms["cycle"], 0.5 * (aux["back"] - aux["began"]).square().mean())
    encoders = set(NETWORKS[:3])
    assert reached(made, terms["task"]) == {*encoders, "imagine", "classifier"}
    assert reached(made, terms["imagination"]) == {*encoders, "imagine"}
    assert reached(made, terms["cycle"]) == {*encoders, "imagine", "imagine_back"}
    assert not aux["target"].requires_grad
    assert not aux["began"].requires_grad


def test_variants() -> None:
    batch = training_batch()
    without, shared = method(variant="wo_cycle"), method(variant="shared")
    assert set(without.loss(without.training_forward(batch), batch)) == {"task", "imagination"}
    terms = shared.loss(shared.training_forward(batch), batch)
    assert reached(shared, terms["cycle"]) == {*NETWORKS[:3], "imagine"}
    assert [made.imagine_back for made in (without, shared)] == [None, None]
    aux = shared.training_forward(batch).aux
    torch.testing.assert_close(aux["back"], shared.imagine(aux["imagined"])[0])


def test_nothing_but_what_is_observed_is_predicted_from() -> None:
    """With another complete version, and none at all, the prediction is the same; without it there is no training."""
    made, batch = method(), training_batch()
    with torch.no_grad():
        one = made.training_forward(batch).pred
        other = made.training_forward(replace(batch, complete=training_batch(seed=3).complete)).pred
        assert torch.equal(one, other)
        assert torch.equal(one, made(batch.for_inference()).pred)
    with pytest.raises(MSABenchError, match="complete"):
        made.training_forward(replace(batch, complete=None))


# Stages and recipe.


def test_the_teacher_learns_from_complete_clips_alone() -> None:
    made, batch = method("teacher"), training_batch()
    for parameter in made.parameters():
        parameter.requires_grad_(True)
    assert batch.complete is not None
    out = made.training_forward(batch)
    torch.testing.assert_close(out.pred, made(batch.complete).pred)
    assert not torch.allclose(out.pred[0], made(batch).pred[0])
    terms = made.loss(out, batch)
    assert set(terms) == {"task"}
    assert reached(made, terms["task"]) == {"teacher"}


def test_imagination_starts_from_the_teacher_and_what_it_learns_survives_a_second_call() -> None:
    made = method("teacher")
    made.enter_stage("task")
    for a, b in zip(made.encoders.parameters(), made.teacher.encoders.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a is not b
    with torch.no_grad():
        made.encoders["text"].out.weight.add_(1.0)
    made.enter_stage("task")
    assert not torch.equal(made.encoders["text"].out.weight, made.teacher.encoders["text"].out.weight)
    made.train()
    assert not any(part.training for part in made.teacher.modules())
    assert not any(p.requires_grad for p in made.teacher.parameters())


def test_a_fit_trains_the_teacher_then_the_rest(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=8, missing=MissingConfig(regime="inter", subsets="proper"))
    torch.manual_seed(0)
    made = MMIN(data.spec, **{**SMALL, "teacher_epochs": 2})
    watch = Weights()
    trainer = quiet_trainer(tmp_path, 4, callbacks=[watch])
    trainer.fit(made, datamodule=data)
    after = {name: p.detach() for name, p in made.named_parameters()}
    assert changed(watch.at[0], watch.at[2]) == {"teacher"}
    assert changed(watch.at[2], after) == {"encoders", "imagine", "imagine_back", "classifier"}
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded, _ = load_checkpoint(tmp_path / "a.ckpt")
    batch = data.validation_batch(torch.arange(8)).for_inference()
    with torch.no_grad():
        for name, parameter in loaded.named_parameters():
            if name.startswith(("teacher", "imagine_back")):
                parameter.fill_(torch.nan)
    assert torch.equal(loaded.eval()(batch).pred, made.eval()(batch).pred)


@pytest.mark.parametrize(("stage", "beta"), [("teacher", 0.9), ("task", 0.5)])
def test_every_network_is_a_group_with_the_momentum_of_its_stage(stage: str, beta: float) -> None:
    made = method("teacher")
    made.enter_stage(stage)
    groups = made.param_groups()
    assert [group["betas"] for group in groups] == [(beta, 0.999)] * (4 if stage == "teacher" else 6)
    names = {id(p): name for name, p in made.named_parameters()}
    found = [{network_of(names[id(p)].removeprefix("teacher.")) for p in group["params"]} for group in groups]
    if stage == "teacher":
        assert found == [{network} for network in (*NETWORKS[:3], "classifier")]
    else:
        assert sorted(map(sorted, found)) == sorted([network] for network in NETWORKS)
    assert (made.gradient_clip, made.clip_by) == (5.0, "group")


def test_the_learning_rate_is_full_for_a_fifth_and_then_falls_in_a_line() -> None:
    made = method()
    assert [made.lr_multiplier(epoch, 100) for epoch in (0, 19)] == [1, 1]
    assert made.lr_multiplier(20, 100) == pytest.approx(80 / 81)
    assert made.lr_multiplier(99, 100) == pytest.approx(1 / 81)
    half = method(constant_share=0.5)
    assert [half.lr_multiplier(epoch, 60) for epoch in (29, 30)] == [1, pytest.approx(30 / 31)]
    assert method(constant_share=1.0).lr_multiplier(9, 10) == 1


def test_questions_are_predicted_side_by_side() -> None:
    made, batch = method(task="emotions"), training_batch(task="emotions")
    out = made.training_forward(batch)
    assert out.pred.shape == (6, 4, 2)
    assert batch.labels is not None
    expected = F.cross_entropy(out.pred.flatten(0, 1), batch.labels.flatten())
    torch.testing.assert_close(made.loss(out, batch)["task"], expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_epochs": 0}, "teacher_epochs 0"),
        ({"blocks": 0}, "blocks 0"),
        ({"block_widths": ()}, "block_widths"),
        ({"block_widths": (4, 0)}, "block_widths"),
        ({"reads": "frames"}, "sequence"),
        ({"init": "xavier"}, "kaiming"),
        ({"text_vector": "last"}, "mean"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"constant_share": 1.5}, "constant_share 1.5"),
    ],
)
def test_arguments_outside_their_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MSABenchError, match=message):
        method(**settings)

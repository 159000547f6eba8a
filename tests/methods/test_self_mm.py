"""What is Self-MM's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from msabench.data.batch import Batch
from msabench.methods.base import MSAMethod
from msabench.methods.self_mm import SelfMM
from msabench.missingness.conditions import MODALITIES
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build

CASE = CASES["self_mm_mmsa"]
SMOKE = SelfMM.info.smoke


def test_outputs_are_those_of_the_official_code() -> None:
    assert_as_kept("self_mm_mmsa")


@pytest.mark.parametrize(
    ("dims", "settings", "parameters"),
    [
        ((768, 5, 20), {}, 159_332),  # MOSI
        ((768, 74, 35), {}, 165_668),  # MOSEI
        ((768, 33, 709), {"hidden_vision": 64, "width_text": 64}, 381_380),  # SIMS
    ],
)
def test_sizes_are_those_of_mmsa(dims: tuple[int, ...], settings: dict[str, int], parameters: int) -> None:
    method = SelfMM(replace(CASE.spec, feature_dims=dict(zip(MODALITIES, dims, strict=True))), **settings)
    assert sum(p.numel() for p in method.parameters()) == parameters


def clips(rows: int = 12, **settings: Any) -> tuple[SelfMM, Batch]:
    data = data_module(random_corpus())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = SelfMM(data.spec, **{**SMOKE, **settings})
    return method, data.training_batch(torch.arange(rows), 0)


def test_sequences_end_at_their_last_step() -> None:
    method, batch = build(CASE), batch_of(CASE)
    batch = replace(batch, last={**batch.last, "audio": torch.tensor([19, 3, 0, 12])})
    changed = batch.audio.clone()
    for row, last in enumerate(batch.last["audio"].tolist()):
        changed[row, last + 1 :] = 7.0
    with torch.no_grad():
        before = method(batch)
        after = method(replace(batch, features={**batch.features, "audio": changed}))
        changed[1, 3] = 7.0
        moved = method(replace(batch, features={**batch.features, "audio": changed}))
    assert torch.equal(before.pred, after.pred)
    assert not torch.equal(before.pred[1], moved.pred[1])
    assert torch.equal(before.unimodal["audio"][2], moved.unimodal["audio"][2])


def test_text_is_read_at_its_first_step_or_as_a_mean() -> None:
    method, batch = clips()
    words = batch.text.clone()
    words[:, 1:] += 1.0
    elsewhere = replace(batch, features={**batch.features, "text": words})
    mean, _ = clips(text_vector="mean")
    mean.load_state_dict(method.state_dict())
    method.eval()
    mean.eval()
    with torch.no_grad():
        assert torch.equal(method(batch).pred, method(elsewhere).pred)
        assert not torch.equal(mean(batch).pred, mean(elsewhere).pred)


def test_each_modality_predicts_alone() -> None:
    method, batch = clips()
    method.eval()
    with torch.no_grad():
        before = method(batch).unimodal
        for changed in MODALITIES:
            features = {**batch.features, changed: batch.features[changed] + 1.0}
            after = method(replace(batch, features=features)).unimodal
            assert {m for m in MODALITIES if not torch.equal(before[m], after[m])} == {changed}


def test_unimodal_tasks_begin_in_the_second_epoch() -> None:
    method, batch = clips()
    first = method.loss(method(batch), batch)
    assert list(first) == ["task", "text", "audio", "vision"]
    assert all(first[m] == 0 for m in MODALITIES)
    assert torch.equal(first["task"], (method(batch).pred - batch.labels).abs().mean())
    # In the second epoch labels move after the loss was taken; the third is the first to be trained on moved ones.
    second = method.loss(method(batch), batch)
    assert all(second[m] == 0 for m in MODALITIES)
    out = method(batch)
    memory = method.pseudo_labels
    assert memory is not None
    expected = {
        m: (
            torch.tanh((memory.branches[m].labels[:12] - batch.labels).abs())
            * (out.unimodal[m] - memory.branches[m].labels[:12]).abs()
        ).mean()
        for m in MODALITIES
    }
    third = method.loss(out, batch)
    for m in MODALITIES:
        assert third[m] > 0
        assert torch.equal(third[m], expected[m])
    # Gradients of a unimodal task reach its encoder and no other.
    third["vision"].backward()
    assert all(p.grad is not None and p.grad.any() for p in method.vision.parameters())
    assert all(p.grad is None for p in (*method.audio.parameters(), *method.joint_head.parameters()))


def test_what_is_remembered_does_not_change_predictions() -> None:
    method, batch = clips()
    with torch.no_grad():
        before = method.eval()(batch).pred
        method.loss(method(batch), batch)
        assert torch.equal(before, method(batch).pred)


def test_joint_task_alone() -> None:
    method, batch = clips(variant="wo_unimodal")
    assert set(method.loss(method(batch), batch)) == {"task"}
    assert not list(method.buffers())
    data = data_module(random_corpus("emotions"))
    emotions = SelfMM(data.spec, **SMOKE)
    batch = data.training_batch(torch.arange(12), 0)
    out = emotions(batch)
    assert set(emotions.loss(out, batch)) == {"task"}
    assert (out.pred.shape, out.unimodal) == ((12, 4, 2), {})


def test_rates_of_the_parts() -> None:
    method, _ = clips(audio_lr=0.1, audio_weight_decay=0.2, vision_lr=0.3, vision_weight_decay=0.0, lr=0.5)
    optimizer = method.configure_optimizers()["optimizer"]
    counts = [sum(1 for _ in part.parameters()) for part in (method.audio, method.vision)]
    rest = len(list(method.parameters())) - sum(counts)
    found = [(len(group["params"]), group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert found == [(counts[0], 0.1, 0.2), (counts[1], 0.3, 0.0), (rest, 0.5, 1e-3)]
    assert SelfMM(method.spec).accumulate == 4


def test_resumed_training_goes_on_with_the_same_labels(tmp_path: Path) -> None:
    data = data_module(random_corpus(), batch_size=6)
    fitted: list[MSAMethod] = []
    initial = clips()[0].state_dict()
    for epochs, checkpoint in ((4, None), (2, None), (4, tmp_path / "half.ckpt")):
        method = SelfMM(data.spec, **{**SMOKE, "dropout_text": 0.0, "dropout_audio": 0.0})
        method.load_state_dict(initial)
        trainer = quiet_trainer(tmp_path, epochs)
        trainer.fit(method, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / "half.ckpt")
        fitted.append(method)
    whole, _, resumed = (method.state_dict() for method in fitted)
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    assert not torch.allclose(whole["pseudo_labels.branches.text.labels"], whole["pseudo_labels.branches.joint.labels"])

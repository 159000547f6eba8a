"""Batches and checks for methods that train a teacher and then a student."""

from __future__ import annotations

from dataclasses import replace

import lightning.pytorch as pl
import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.base import MSAMethod
from msabench.methods.checkpoint import load_checkpoint
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus

DIMS = {"text": 6, "audio": 3, "vision": 4}
STEPS = {"text": 7, "audio": 9, "vision": 5}


def build(cls, task="regression", stage="student", turn=None, **arguments):
    """A small instance in evaluation mode, without weights at values that hide them."""
    torch.manual_seed(0)
    spec = DataSpec(DIMS, dict(STEPS), task=task, metric_set="emotions" if task == "emotions" else "sentiment")
    method = cls(spec, **{"dim": 8, "heads": 2, "layers": 1, "teacher_epochs": 1, **arguments})
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    method.enter_stage(stage)
    method.turn = turn or method.turns[-1]
    return method.eval()


def training_batch(n=6, task="regression", seed=0, padding=0):
    """Ragged clips, the audio of the first one removed; ``padding`` steps are added behind all others."""
    generator = torch.Generator().manual_seed(seed)
    features, valid, last = {}, {}, {}
    for m, T in STEPS.items():
        length = 2 + torch.arange(n) % (T - 1)
        valid[m] = torch.arange(T + padding) < length[:, None]
        content = torch.randn(n, T, DIMS[m], generator=generator)
        features[m] = torch.nn.functional.pad(content, (0, 0, 0, padding)) * valid[m].unsqueeze(2)
        last[m] = length - 1
    labels = torch.linspace(-2.5, 2.5, n)
    if task == "emotions":
        labels = torch.stack([labels > cut for cut in (-2, -1, 0, 1)], 1).long()
    complete = Batch(features, valid, dict(valid), last, labels=labels)
    here = torch.ones(n, 1, dtype=torch.bool)
    here[0] = False
    removed = {
        "features": {**features, "audio": features["audio"] * here.unsqueeze(2)},
        "observed": {**valid, "audio": valid["audio"] & here},
        "valid": {**valid, "audio": valid["audio"] | ~here},
        "last": {**last, "audio": torch.where(here[:, 0], last["audio"], STEPS["audio"] + padding - 1)},
    }
    return replace(complete, **removed, complete=complete)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Parts of a method in which a parameter differs."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


class Weights(pl.Callback):
    """Keeps the parameters at the start of every epoch."""

    def __init__(self) -> None:
        self.at: list[dict[str, Tensor]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.at.append({name: p.detach().clone() for name, p in module.named_parameters()})


def fit_two_stages(cls: type[MSAMethod], folder, student_parts: set[str], **arguments) -> None:
    """Two epochs of each stage: each trains its parts; a student reloaded without its teacher predicts the same."""
    data = data_module(random_corpus(), batch_size=8, missing=MissingConfig(regime="mixed"))
    torch.manual_seed(0)
    method = cls(data.spec, **{"dim": 8, "heads": 2, "layers": 1, "teacher_epochs": 2, **arguments})
    watch = Weights()
    trainer = quiet_trainer(folder, 4, callbacks=[watch])
    trainer.fit(method, datamodule=data)
    assert method.stage == "student"
    after = {name: p.detach() for name, p in method.named_parameters()}
    assert changed(watch.at[0], watch.at[2]) == {"teacher"}
    assert changed(watch.at[2], after) == student_parts
    trainer.save_checkpoint(folder / "a.ckpt")
    loaded, _ = load_checkpoint(folder / "a.ckpt")
    batch = data.validation_batch(torch.arange(8)).for_inference()
    expected = method.eval()(batch).pred
    with torch.no_grad():
        for name, parameter in loaded.named_parameters():
            if not name.startswith("student."):
                parameter.fill_(torch.nan)
    assert torch.equal(loaded.eval()(batch).pred, expected)


def check_teacher_is_frozen(method: MSAMethod) -> None:
    """In training mode and stage ``student``: no gradient reaches the teacher, and its dropout is off."""
    batch = training_batch()
    method.train()
    for _ in range(2):
        method.enter_stage("student")  # as on loading a checkpoint: again
    method.turn = method.turns[-1]
    first, second = method.training_forward(batch), method.training_forward(batch)
    theirs = [name for name in first.aux if name.startswith(("teacher", "response", "told"))]
    assert theirs
    for name in theirs:
        assert torch.equal(first.aux[name], second.aux[name])
        assert not first.aux[name].requires_grad
    assert not torch.equal(first.pred, second.pred)
    torch.stack(list(method.loss(first, batch).values())).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    served = {id(p) for group in method.param_groups() for p in group["params"]}
    assert not served & {id(p) for p in method.teacher.parameters()}
    assert all(p.grad is not None for group in method.param_groups() for p in group["params"])


def check_teacher_learns_from_complete_clips(method: MSAMethod) -> None:
    """In stage ``teacher`` predictions come from complete clips alone, and gradients reach the teacher alone."""
    batch = training_batch()
    out = method.training_forward(batch)
    torch.testing.assert_close(out.pred, method(batch.complete).pred)
    assert not torch.allclose(out.pred[0], method(batch).pred[0])
    torch.stack(list(method.loss(out, batch).values())).sum().backward()
    served = {id(p) for group in method.param_groups() for p in group["params"]}
    reached = {id(p) for p in method.parameters() if p.grad is not None}
    assert served == reached == {id(p) for p in method.teacher.parameters()}


def check_padding_is_not_seen(method: MSAMethod) -> None:
    """Steps behind the last existing one change nothing, for clips of which nothing was removed."""
    with torch.no_grad():
        before, after = method(training_batch().complete), method(training_batch(padding=6).complete)
    torch.testing.assert_close(before.pred, after.pred, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before.representation, after.representation, atol=1e-5, rtol=1e-5)
    assert set(STEPS) == set(MODALITIES)

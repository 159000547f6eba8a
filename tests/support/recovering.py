"""Batches and checks for methods that recover missing modalities after a training on complete clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.methods.recovering import Recovering
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.testing import build, data_module, quiet_trainer, random_corpus
from tests.support.teacher_student import Weights, changed

DIMS = {"text": 12, "audio": 5, "vision": 7}
MISSING = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=torch.bool)
"""What the clips of ``training_batch`` miss."""
SMALL = {"dim": 8, "accumulate": 1}
"""As far as a method has these."""


def built(cls: type[Recovering], **arguments: object) -> Recovering:
    """A small instance in stage ``task`` and evaluation mode, without weights at values that hide them."""
    settings = {key: value for key, value in {**SMALL, **arguments}.items() if key in cls.__init__.__kwdefaults__}
    method = build(cls, data_module(random_corpus()), **settings).eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def training_batch(missing: Tensor = MISSING) -> Batch:
    """Clips of 8 steps that miss some modalities, complete ones beside them."""
    generator = torch.Generator().manual_seed(0)
    n = len(missing)
    whole = torch.ones(n, 8, dtype=torch.bool)
    features = {m: torch.randn(n, 8, size, generator=generator) for m, size in DIMS.items()}
    masks, last = dict.fromkeys(MODALITIES, whole), dict.fromkeys(MODALITIES, torch.full((n,), 7))
    complete = Batch(features, masks, masks, last, labels=torch.linspace(-2.7, 2.6, n))
    there = {m: ~missing[:, column, None] & whole for column, m in enumerate(MODALITIES)}
    kept = {m: x * there[m].unsqueeze(2) for m, x in features.items()}
    return replace(complete, features=kept, observed=there, complete=complete)


def reached(method: Recovering, term: Tensor) -> set[str]:
    """Parts that a term of the loss reaches."""
    method.zero_grad(set_to_none=True)
    term.backward(retain_graph=True)
    return {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}


def in_stage(method: Recovering, stage: str) -> Recovering:
    """The method in another stage."""
    method.enter_stage(stage)
    return method


def size(cls: type[Recovering], audio: int, vision: int, **settings: object) -> int:
    """Parameters on aligned files of MMSA."""
    spec = DataSpec({"text": 768, "audio": audio, "vision": vision}, dict.fromkeys(MODALITIES, 50))
    return sum(p.numel() for p in cls(spec, **settings).parameters())


def check_recovery(cls: type[Recovering]) -> None:
    """What is there is read as it is, what is missing is refined guesses, a clip without anything stays as it is."""
    method, batch = built(cls), training_batch()
    streams = method._streams(batch)
    nothing = torch.cat([MISSING, torch.ones(1, 3, dtype=torch.bool)])
    all_gone = training_batch(nothing)
    recovered = method._recovered(streams, MISSING)
    for column, m in enumerate(MODALITIES):
        gone = MISSING[:, column]
        assert torch.equal(recovered[m][~gone], streams[m][~gone])
        assert not streams[m][gone].any()
        there = {n: x[gone] for n, x in streams.items()}
        torch.testing.assert_close(recovered[m][gone], method.refine[m](method.guess(m, there, ~MISSING[gone])))
    torch.testing.assert_close(method(batch).pred, method.head(recovered)[0].squeeze(1))
    empty = {m: torch.zeros_like(x[:1]) for m, x in streams.items()}
    torch.testing.assert_close(method(all_gone).pred[-1:], method.head(empty)[0].squeeze(1))
    out = method.training_forward(all_gone)
    assert not out.aux["missing"][-1].any()


def check_idle_recovery(cls: type[Recovering], parts: set[str]) -> None:
    """Where nothing is missing, recovery learns from subsets in turn, if asked to; predictions stay the same."""
    whole = training_batch(torch.zeros_like(MISSING))
    method, resting = built(cls), built(cls, idle_recovery=False)
    out, rested = method.training_forward(whole), resting.training_forward(whole)
    assert torch.equal(out.pred, rested.pred)
    assert not rested.aux["missing"].any()
    assert not resting.loss(rested, whole)["rec"]
    assert len(out.aux["missing"][:6].unique(dim=0)) == 6
    assert set(out.aux["missing"].sum(1).tolist()) == {1, 2}
    assert reached(method, method.loss(out, whole)["rec"]) == parts & {"refine", "merge"}


def check_fit(cls: type[Recovering], parts: set[str], folder: Path) -> None:
    """Stage ``complete`` trains what reads complete clips, stage ``task`` all but text and projections."""
    data = data_module(random_corpus(), batch_size=8, missing=MissingConfig(regime="inter"))
    torch.manual_seed(0)
    settings = {**cls.info.smoke, "complete_epochs": 2}
    method = cls(data.spec, **settings)
    watch = Weights()
    quiet_trainer(folder, 4, callbacks=[watch]).fit(method, datamodule=data)
    after = {name: p.detach() for name, p in method.named_parameters()}
    assert changed(watch.at[0], watch.at[2]) == {"project", "head"}
    assert changed(watch.at[2], after) == parts
    assert not any(p.requires_grad for p in method.project.parameters())

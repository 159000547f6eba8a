"""A compiled training pass is the pass: what is compiled changes the speed and the rounding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from msabench.errors import MSABenchError
from msabench.methods.registry import method_class, method_info
from msabench.missingness.config import MissingConfig
from msabench.results.job_identity import config_hash
from msabench.testing.corpora import data_module, random_corpus
from msabench.testing.subject import build as subject
from msabench.testing.subject import training_batch
from msabench.training.build import build, resolve
from msabench.training.compiled import compile_training
from msabench.training.finished import FinishedTraining

CONFIG = [Path(__file__).parents[2] / "configs/lmf_synth.yaml"]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("method", ["lf_dnn", "lmf", "mult", "self_mm"])
def test_losses_and_gradients_are_those_of_the_plain_pass(method: str) -> None:
    data = data_module(random_corpus(), missing=MissingConfig(regime="mixed"))
    found = []
    for how in (None, "eager"):
        one = subject(method_class(method), data).train()
        if how:
            compile_training(one, "eager")
        torch.manual_seed(3)
        batch = training_batch(one, data)
        terms = one.loss(one.training_forward(batch), batch)
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        found.append((total.detach(), {name: p.grad for name, p in one.named_parameters() if p.grad is not None}))
    (ours, compiled), (theirs, plain) = found
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert compiled.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, atol=1e-5, rtol=1e-4)


def test_what_is_compiled_is_the_same_job_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain, compiled = (resolve(CONFIG, words) for words in ([], ["--compile=default"]))
    assert compiled["compile"] == "default"
    assert config_hash(plain) == config_hash(compiled)
    smoke = [f"--model.init_args.{name}={value}" for name, value in method_info("lmf").smoke.items()]
    small = ["--data.size=[8,4,4]", "--data.length=8", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    built = build(CONFIG, [*smoke, *small, "--trainer.enable_progress_bar=false", "--compile=eager"], tmp_path / "run")
    built.trainer.fit(built.model, datamodule=built.datamodule)
    finished = FinishedTraining.read(tmp_path / "run" / "best.ckpt")
    assert finished.provenance["compile"] == "eager"
    names = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in names if "orig_mod" in name]


def test_where_nothing_can_be_compiled_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("no compiler is here")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: real(function, backend=broken))
    data = data_module(random_corpus())
    method = subject(method_class("lmf"), data)
    compile_training(method, "default")
    with pytest.raises(MSABenchError, match=r"lmf cannot be compiled here \(.+\); leave --compile out"):
        method.training_forward(training_batch(method, data))

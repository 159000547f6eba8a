"""``msabench.train`` is ``fit`` and ``evaluate``: the same weights, predictions and records; and it leaves no trace."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import msabench as mb
from msabench.__main__ import dispatch
from msabench.methods import registry
from msabench.methods.base import MSAMethod
from msabench.methods.checkpoint import load_checkpoint
from msabench.packaged import config_file
from msabench.results.store import ResultStore

OUTSIDE = Path(__file__).parents[1] / "support/outside"
SMALL: dict[str, Any] = {"size": (24, 8, 10), "length": 8}


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoint)[0].state_dict()


def recorded(store: Path) -> tuple[dict[str, Any], list[dict[str, Any]], bytes]:
    """The one job of a store, its cells, and its predictions."""
    [job] = ResultStore(store).jobs()
    [predictions] = store.rglob("*.parquet")
    return job.to_json(), ResultStore(store).frame().to_dict("records"), predictions.read_bytes()


@pytest.mark.parametrize("method", ["lf_dnn", "constant"])
def test_it_is_what_the_command_line_does(method: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--seed_everything=7", "--trainer.max_epochs=2", "--data.size=[24,8,10]", "--data.length=8"]
    settings += ["--data.missing.regime=intra", "--data.missing.rate=[0.2,0.6]", "--trainer.accelerator=cpu"]
    config = config_file(f"{method}_synth")
    dispatch(["fit", "--config", str(config), *settings, "--trainer.enable_progress_bar=false"])
    [theirs] = Path("runs").rglob("best.ckpt")
    dispatch(["evaluate", "--checkpoint", str(theirs), "--store", "theirs", "--device", "cpu"])

    data = mb.load("synth", regime="intra", rate=(0.2, 0.6), **SMALL)
    capsys.readouterr()
    result = mb.train(method, data, seed=7, max_epochs=2, store="mine", accelerator="cpu")
    assert capsys.readouterr().out == ""
    assert result.checkpoint.parent == result.folder != theirs.parent.absolute()
    expected = weights(theirs)
    for found in (weights(result.checkpoint), result.method.state_dict()):
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    (job, cells, predictions), (their_job, their_cells, their_predictions) = (
        recorded(Path("mine")),
        recorded(Path("theirs")),
    )
    assert predictions == their_predictions
    assert str(cells) == str(their_cells)
    measured = (
        *("train_seconds", "train_processor_seconds", "eval_seconds", "eval_processor_seconds"),
        *("peak_memory_bytes", "provenance", "config", "checksums", "date"),
    )
    assert [n for n in job if job[n] != their_job[n] and n not in measured] == []
    assert result.key.job_id == ResultStore("theirs").jobs()[0].key.job_id
    assert (result.record.key, result.recorded.parents[2].name) == (result.key, "mine")
    assert len(result.scores.frame) == len(cells)
    assert not result.method.training
    assert (result.data.seed, result.data.missing.label) == (7, "intra(0.2-0.6,sample)")


def test_settings_of_the_config_hold_unless_the_caller_named_them(elsewhere: Path) -> None:
    Path("mine.yaml").write_text(
        "model: {class_path: LFDNN}\ntrainer: {max_epochs: 1}\n"
        "data: {dataset: synth, batch_size: 7, normalise: zscore, missing: {regime: mixed}}\n"
    )
    given = {"config": "mine.yaml", "grid": "inter/la"}
    of_config = mb.train("lf_dnn", mb.load("synth", **SMALL), **given).data
    assert (of_config.batch_size, of_config.normalise, of_config.missing.regime) == (7, "zscore", "mixed")
    named = mb.train("lf_dnn", mb.load("synth", batch_size=32, regime="complete", **SMALL), **given).data
    assert (named.batch_size, named.normalise, named.missing.regime) == (32, "zscore", "complete")
    made = mb.train("lf_dnn", mb.MSADataModule("synth", **SMALL), **given).data
    assert (made.batch_size, made.normalise, made.missing.regime) == (32, "none", "complete")
    last = mb.train("lf_dnn", mb.load("synth", batch_size=5, **SMALL), overrides={"data.batch_size": 3}, **given)
    assert (last.data.batch_size, last.recorded) == (3, None)


def test_a_class_from_outside_by_path_and_as_it_is(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    monkeypatch.setattr(registry, "_found_by_path", {})
    data = mb.load("synth", **SMALL)
    results = [mb.train("my_net.MyNet", data, max_epochs=1, overrides={"model.init_args.hidden": 8}, store="store")]
    from my_net import MyNet

    with pytest.raises(mb.MSABenchError, match="recorded already"):
        mb.train(MyNet, data, max_epochs=1, overrides={"model.init_args.hidden": 8}, store="store")
    Path("my_net_synth.yaml").write_text("model: {class_path: my_net.MyNet, init_args: {hidden: 4}}\n")
    results.append(mb.train(MyNet, data, max_epochs=1))
    assert [result.method.net[0].out_features for result in results] == [8, 4]
    assert mb.table("store").index[0][:4] == ("my_net", "default", "complete", "external")
    sys.modules.pop("my_net")


def state_of_the_process() -> list[Any]:
    return [
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_rng_state().tolist(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        {name: value for name, value in os.environ.items() if name.startswith(("PL_", "CUBLAS"))},
        list(warnings.filters),
        logging.getLogger("lightning.pytorch").level,
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        Path.cwd(),
        torch.is_grad_enabled(),
    ]


def test_the_process_is_left_as_it_was(data: mb.MSADataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    mb.train("constant", data, max_epochs=1, grid="inter/la")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    before = state_of_the_process()
    mb.train("lf_dnn", data, max_epochs=1, grid="inter/la")
    assert state_of_the_process() == before
    with pytest.raises(mb.MSABenchError):
        mb.train("lf_dnn", data, overrides={"model.init_args.lr": "fast"})
    assert state_of_the_process() == before


def test_an_interrupted_training_ends_no_process(data: mb.MSADataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry.method_class("lf_dnn"), "on_train_epoch_end", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        mb.train("lf_dnn", data, max_epochs=1)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "umdv"}, "unknown method 'umdv'.*did you mean umdf"),
        ({"method": "my_nets.MyNet"}, "my_nets"),
        ({"method": dict}, "is no method"),
        ({"method": type("Mine", (MSAMethod,), {"__module__": "__main__"})}, "Mine stands in __main__"),
        ({"data": None}, "nothing to train lf_dnn on"),
        ({"data": "synht"}, "'synht'"),
        ({"config": "umdf_synth"}, "is a config of umdf, not of lf_dnn"),
        ({"config": "nothing"}, "there is no config nothing"),
        ({"seed": -1}, "seed_everything -1"),
        ({"variant": "shallow"}, "'shallow'"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"overrides": {"model.init_args.size": 3}}, "size"),
        ({"overrides": {"model.init_args.lr": object()}}, "model.init_args.lr is a object"),
        ({"overrides": {"trainer.fast_dev_run": True}}, "fast_dev_run"),
        ({"grid": "all"}, "'all'"),
        ({"grid": ["inter", "words/0.3"]}, "cell words/0.3 replaces words before the text encoder"),
        ({"grid": "inter", "store": "store"}, "cell intra/0.1 is left out"),
        ({"mask_seeds": [0], "store": "store"}, "mask seed 1 is left out"),
        ({"mask_seeds": [0, 0]}, "mask seeds"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    arguments: dict[str, Any], words: str, data: mb.MSADataModule, elsewhere: Path
) -> None:
    with pytest.raises(mb.MSABenchError, match=words) as caught:
        mb.train(**{"method": "lf_dnn", "data": data} | arguments)
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()
    assert not Path("store").exists()


def test_a_method_without_a_config_for_the_corpus_says_so(data: mb.MSADataModule) -> None:
    data.given = {"dataset": "iemocap"}
    with pytest.raises(mb.MSABenchError, match="there is no config fsrf_iemocap for fsrf on iemocap; give config"):
        mb.train("fsrf", data)

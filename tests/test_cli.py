"""The command line as users meet it: verbs, help, and one clear sentence for bad input."""

from __future__ import annotations

import argparse
import inspect
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

import msabench
from msabench.__main__ import TRAINING_VERBS, VERBS, Verb, arguments_of, dispatch, main, overview
from msabench.errors import MSABenchError
from msabench.evaluation.command import evaluate_checkpoint
from msabench.methods.lf_dnn import LFDNN
from msabench.missingness.conditions import AVERAGES, GRIDS
from msabench.results.derived import DERIVED
from msabench.results.store import ResultStore
from msabench.training.build import build, resolve
from msabench.training.cluster import with_environment
from msabench.training.config_files import config_of
from msabench.training.run_folder import RunFolder, reserve
from tests.support.corpora import write_mult

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "configs"
TINY = ["--data.size=[24,8,10]", "--data.length=8", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


pytestmark = pytest.mark.usefixtures("elsewhere")


def refused(*words: str) -> str:
    """The sentence with which a command line is refused."""
    with pytest.raises(MSABenchError) as caught:
        dispatch(list(words))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def fit(config: str, *words: str) -> int:
    return dispatch(["fit", "--config", str(CONFIGS / config), *words])


def test_overview_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in [*TRAINING_VERBS, *VERBS])
    assert out.strip() == overview()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_each_of_its_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        dispatch([*verb.split(), "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert VERBS[verb].help in " ".join(text.split())
    for line in text.splitlines():
        # An option whose line ends right after its metavariable has no help of its own.
        assert not line.rstrip().endswith("(required)"), line


def test_help_and_docstrings_name_every_grid_and_average() -> None:
    words = " ".join
    of_verbs = {verb: VERBS[verb].load() for verb in VERBS}
    of_package = {name: getattr(msabench, name) for name in ("evaluate", "load", "table", "train")}
    explained = {
        name: words((function.__doc__ or "").split())
        for name, function in (of_verbs | of_package).items()
        if {"grid", "cells"} & set(inspect.signature(function).parameters)
    }
    assert {"evaluate", "masks export", "score", "table", "compare", "regimes", "figures", "load"} <= set(explained)
    for name, text in explained.items():
        assert ", ".join(GRIDS) in text, name
        assert ("Averages" in text) == (", ".join(AVERAGES) in text), name
        assert not re.search(r"\{\w+\}", text), name
    assert ", ".join(DERIVED) in explained["compare"]


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["methods"],
        ["table", "--store", str(REPOSITORY / "leaderboard/results")],
        ["suites", "--help"],
        ["data", "list"],
        ["run", "--help"],
        ["evaluate", "--help"],
    ],
)
def test_light_verbs_do_not_import_torch(words: list[str]) -> None:
    code = (
        "import sys\nfrom msabench.__main__ import dispatch\n"
        "try:\n    dispatch(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'lightning', 'transformers'} & set(sys.modules), 'heavy import'"
    )
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


STORE = ["--store", str(REPOSITORY / "leaderboard/results")]
READING_RECORDS = (
    *(["table", *STORE], ["table", *STORE, "--datasets", "synth", "mosi", "--summary", "--per-seed"]),
    *(["table", *STORE, "--paper", "umdf"], ["costs", *STORE], ["regimes", *STORE]),
)
"""Calls that read records out of a store with an index; to make one takes pandas."""


@pytest.mark.parametrize(
    ("calls", "allowed"),
    [
        ([["fit", "--help"], ["validate", "--help"], ["test", "--help"], ["predict", "--config", "x", "--help"]], []),
        ([[*verb.split(), "--help"] for verb in VERBS], []),
        ([["methods"], ["suites"], ["configs"], ["data", "list"], ["store", "verify", *STORE]], []),
        (READING_RECORDS, []),
    ],
)
def test_large_libraries_are_imported_by_those_who_need_them(calls: list[list[str]], allowed: list[str]) -> None:
    ResultStore(STORE[1]).records()
    large = ["torch", "lightning", "torchmetrics", "transformers", "pandas", "scipy", "sklearn", "matplotlib", "wandb"]
    code = (
        "import json, sys\nfrom msabench.__main__ import dispatch\n"
        "calls, large = json.loads(sys.argv[1])\n"
        "for words in calls:\n"
        "    try:\n        dispatch(words)\n    except SystemExit as ended:\n        assert not ended.code, words\n"
        "    assert not set(large) & set(sys.modules), (words, set(large) & set(sys.modules))\n"
    )
    given = json.dumps([calls, [name for name in large if name not in allowed]])
    run = subprocess.run([sys.executable, "-c", code, given], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_unknown_verb_names_the_allowed_ones() -> None:
    assert refused("tabel").startswith("unknown verb 'tabel'; allowed: fit, validate, test, predict, evaluate")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data.dataset=mosy"], "mosei_video, synth, custom; did you mean mosi?"),
        (["--model.init_args.variant=wo_all"], "unknown variant of umdf 'wo_all'; allowed: default, wo_fea_loss"),
        (["--data.missing.regime=some"], "unknown training regime 'some'; allowed: complete, intra, inter"),
        (["--data.missing.rate=[0.2,1.2]"], r"missing rate range [0.2, 1.2] is not allowed; give 0 <= low"),
        (["--data.grid=[inter/xy]"], "unknown modality condition 'xy'; allowed: l, a, v"),
        (["--data.batchsize=3"], "there is no option --data.batchsize; did you mean --data.batch_size?"),
        (["--trainer.max_epoks=3"], "there is no option --trainer.max_epoks; did you mean --trainer.max_epochs?"),
        (["--early_stopp=3"], "there is no option --early_stopp; did you mean --early_stop?"),
        (["--qqq=3"], "there is no option --qqq; see --help for those there are"),
        (["--model.init_args.dropuot=.1"], "umdf has no argument dropuot; did you mean dropout?"),
        (["--model.hiden_text=3"], "umdf has no argument hiden_text; it has: variant, dim, heads"),
        (["--model.dim=wide"], "umdf: dim 'wide' is not allowed; expected int"),
        (["--model", "umdf", "--model.dimm=3"], "umdf has no argument dimm; did you mean dim?"),
        (
            ["--data.grid=[intar/0.5]"],
            "several joined by + such as inter/<letters>+intra/<rate>; did you mean intra/0.5?",
        ),
        (["--trainer.max_epochs=many"], "trainer.max_epochs 'many' is not allowed; expected int or null"),
        (["--model=Umdv"], "unknown method class 'Umdv'; allowed: ALMT, BIMamba"),
        (["--model=Umdv"], "; did you mean UMDF?"),
    ],
)
def test_a_bad_setting_is_one_sentence_and_writes_nothing(words: list[str], sentence: str, elsewhere: Path) -> None:
    assert sentence in refused("fit", "--config", str(CONFIGS / "umdf_synth.yaml"), *TINY, *words)
    assert not (elsewhere / "runs").exists()


def test_an_unknown_key_in_a_config_is_named(elsewhere: Path) -> None:
    config = config_of(CONFIGS / "umdf_synth.yaml")
    config["model"]["init_args"]["headz"] = 3
    (elsewhere / "bad.yaml").write_text(yaml.safe_dump(config))
    assert "headz" in refused("fit", "--config", "bad.yaml")
    assert refused("fit", "--config", "missing.yaml").count("missing.yaml") >= 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"modle": 3}, "there is no setting modle; did you mean model?"),
        ({"data": {"bach_size": 3}}, "there is no setting data.bach_size; did you mean data.batch_size?"),
        (
            {"model": {"class_path": "UMDF", "init_args": {"headz": 3}}},
            "umdf has no argument headz; did you mean heads?",
        ),
        (
            {"model": {"class_path": "UMDF", "init_args": {"lr": "fast"}}},
            "umdf: lr 'fast' is not allowed; expected float",
        ),
    ],
)
def test_a_mistyped_key_of_a_config_is_guessed(change: dict[str, object], sentence: str, elsewhere: Path) -> None:
    config = config_of(CONFIGS / "umdf_synth.yaml")
    (elsewhere / "bad.yaml").write_text(yaml.safe_dump({**config, **change}))
    assert refused("fit", "--config", "bad.yaml") == sentence


def test_a_method_may_be_named_as_everywhere_else() -> None:
    config = [CONFIGS / "umdf_synth.yaml"]
    by_class = resolve(config, [*TINY, "--model=UMDF", "--model.dim=20"])
    assert resolve(config, [*TINY, "--model=umdf", "--model.dim=20"]) == by_class
    assert resolve(config, [*TINY, "--model", "umdf", "--model.dim=20"]) == by_class
    assert by_class["model"]["class_path"] == "msabench.methods.umdf.UMDF"


@pytest.mark.parametrize("name", ["1e5", "123", "true", "-2.5E-3"])
def test_a_name_that_looks_like_a_number_stays_text(name: str) -> None:
    resolved = resolve([CONFIGS / "lf_dnn_synth.yaml"], [*TINY, f"--model.init_args.text_encoder={name}"])
    assert resolved["model"]["init_args"]["text_encoder"] == name


def test_a_class_that_does_not_type_its_spec_is_told_how(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "untyped.py").write_text(
        "from msabench.methods.umdf import UMDF\n"
        "class Mine(UMDF):\n    def __init__(self, spec, *, variant='default'):\n        self.task = spec.task\n"
    )
    monkeypatch.syspath_prepend(str(elsewhere))
    sentence = refused("fit", "--config", str(CONFIGS / "umdf_synth.yaml"), *TINY, "--model=untyped.Mine")
    assert sentence == "Mine.__init__ takes spec without its type; write spec: DataSpec, from msabench.data.info"


def test_a_config_or_suite_in_another_encoding_is_named(elsewhere: Path) -> None:
    (elsewhere / "latin.yaml").write_bytes("# déjà vu\nseed_everything: 3\n".encode("latin-1"))
    sentence = "latin.yaml is no UTF-8 text (byte 0xe9 at 3); save it as UTF-8"
    assert refused("fit", "--config", "latin.yaml") == sentence
    assert refused("fit", "--config=latin.yaml") == sentence
    assert refused("run", "--suite", "latin.yaml") == sentence


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        (["leaderboard", "biuld"], "unknown verb 'leaderboard biuld'; allowed: leaderboard build, leaderboard add, "),
        (["data", "verifi"], "did you mean data verify?"),
        (["table", "--metod", "umdf"], "msabench table: there is no option --metod; did you mean --methods?"),
        (["table", "--metric", "cor"], "did you mean corr?"),
        (["table", "--format", "latx"], "format 'latx' is not allowed; allowed: text, markdown, latex, csv, html"),
        (["run", "--suite", "x.yaml", "--sloths", "2"], "there is no option --sloths; did you mean --slots?"),
    ],
)
def test_a_mistyped_word_of_a_plain_verb_is_guessed(words: list[str], ending: str) -> None:
    assert ending in refused(*words)


def test_a_kernel_longer_than_the_sequence_is_refused() -> None:
    words = [*TINY, "--model.init_args.kernel_sizes=[9,1,1]"]
    assert "kernel" in refused("fit", "--config", str(CONFIGS / "mult_synth.yaml"), *words)


def test_fit_test_predict_and_evaluate_run_alone(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("lf_dnn_synth.yaml", *TINY, "--trainer.max_epochs=1", "--early_stop=null") == 0
    out = capsys.readouterr().out
    best = next(elsewhere.glob("runs/fit/synth/lf_dnn/seed_1111/*/best.ckpt"))
    assert str(best.relative_to(elsewhere)) in out
    assert (best.parent / "config.yaml").is_file()

    config = str(CONFIGS / "lf_dnn_synth.yaml")
    grid = "--data.grid=[inter/l,intra/0.5]"
    assert dispatch(["test", "--config", config, *TINY, grid, "--ckpt_path", str(best)]) == 0
    tested = capsys.readouterr().out
    assert "inter/l" in tested
    assert "intra/0.5" in tested
    assert dispatch(["validate", "--config", config, *TINY, "--ckpt_path", str(best)]) == 0
    assert dispatch(["predict", "--config", config, *TINY, grid, "--ckpt_path", str(best)]) == 0
    assert list(elsewhere.glob("runs/**/predictions.parquet"))

    assert dispatch(["evaluate", "--checkpoint", str(best), "--grid", "paper", "--store", "store"]) == 0
    (record,) = ResultStore("store").jobs()
    finished = json.loads((best.parent / "finished.json").read_text())
    for name in ("epochs", "best_epoch", "val_task", "train_seconds", "n_params", "peak_memory_bytes", "provenance"):
        assert getattr(record, name) == finished[name]
    assert record.train_processor_seconds == finished["train_processor_seconds"] > 0
    assert record.eval_processor_seconds > 0
    assert (record.epochs, record.best_epoch, record.key.config_hash) == (1, 0, finished["config_hash"])
    assert record.padding == "front"
    assert min(record.val_task, record.train_seconds, record.n_params, record.peak_memory_bytes) > 0
    assert dispatch(["table", "--datasets", "synth", "--store", "store"]) == 0
    assert "lf_dnn" in capsys.readouterr().out


def test_a_checkpoint_of_another_method_is_refused(elsewhere: Path) -> None:
    assert fit("constant_synth.yaml", *TINY) == 0
    best = str(next(elsewhere.glob("runs/fit/synth/constant/*/*/best.ckpt")))
    sentence = refused("test", "--config", str(CONFIGS / "lf_dnn_synth.yaml"), *TINY, "--ckpt_path", best)
    assert sentence == (
        "the checkpoint is of method 'constant' (variant 'default'); expected 'lf_dnn' (variant 'default')"
    )
    (elsewhere / "broken.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    assert "broken.ckpt" in refused("evaluate", "--checkpoint", "broken.ckpt")


def test_a_checkpoint_that_could_run_code_is_refused_without_advice_to_load_it(elsewhere: Path) -> None:
    torch.save({"state_dict": argparse.Namespace()}, "code.ckpt")
    rest = (
        "is not a checkpoint of msabench: it is damaged, or holds more than tensors and plain values, which could run"
    )
    assert refused("evaluate", "--checkpoint", "code.ckpt").startswith(f"code.ckpt {rest}")
    config = ["--config", str(CONFIGS / "lf_dnn_synth.yaml"), *TINY, "--ckpt_path", "code.ckpt"]
    for verb in ("fit", "validate"):
        said = refused(verb, *config)
        assert said.startswith(f"the file given as ckpt_path {rest}")
        assert "weights_only" not in said


def test_numbers_that_cannot_be_are_refused_early(elsewhere: Path) -> None:
    config = [CONFIGS / "lf_dnn_synth.yaml"]
    with pytest.raises(
        MSABenchError, match=f"^seed_everything {2**70} is not allowed; give a number from 0 to 42949672"
    ):
        resolve(config, [f"--seed_everything={2**70}"])
    assert refused("fit", "--config", str(config[0]), "--data.size=[0,0,0]").startswith(
        "size [0, 0, 0] of synth is not"
    )


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_an_untrained_network_is_not_evaluated(verb: str) -> None:
    words = [verb, "--config", str(CONFIGS / "lf_dnn_synth.yaml"), *TINY]
    assert refused(*words) == f"msabench {verb} needs --ckpt_path, the best.ckpt of a training"
    assert refused(*words, "--ckpt_path", "last").startswith("there is no checkpoint last")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a training that ended."""
    folder = tmp_path_factory.mktemp("trained")
    places = [f"--trainer.default_root_dir={folder}", f"--data.cache={folder / 'cache'}"]
    assert fit("lf_dnn_synth.yaml", *TINY, *places, "--trainer.max_epochs=1", "--early_stop=null") == 0
    return next(folder.glob("**/best.ckpt")).parent


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model.init_args.hidden_text=64"], "init_args.hidden_text 128, the config says 64"),
        (["--data.normalise=zscore"], "data.normalise 'none', the config says 'zscore'"),
        (["--data.missing.lengths=keep"], "data.missing.lengths 'hide', the config says 'keep'"),
        (["--data.missing.level=tokens"], "data.missing.level 'vectors', the config says 'tokens'"),
        (["--data.size=[26,8,10]"], "spec.n_train 24, the config says 26"),
        (["--data.size=[24,8,12]"], "revision"),
    ],
)
def test_a_checkpoint_under_other_settings_is_refused(words: list[str], sentence: str, trained: Path) -> None:
    config = str(CONFIGS / "lf_dnn_synth.yaml")
    found = refused("test", "--config", config, *TINY, *words, "--ckpt_path", str(trained / "best.ckpt"))
    assert found.startswith("the checkpoint was ")
    assert sentence in found


def test_a_checkpoint_of_another_version_is_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = LFDNN.info.method_version
    monkeypatch.setattr(LFDNN, "info", replace(LFDNN.info, method_version=99))
    words = ["--config", str(CONFIGS / "lf_dnn_synth.yaml"), *TINY, "--ckpt_path", str(trained / "best.ckpt")]
    assert f"method_version {version}, the config says 99" in refused("validate", *words)


def test_only_what_fits_together_is_recorded(trained: Path, elsewhere: Path) -> None:
    folder = elsewhere / "copy"
    shutil.copytree(trained, folder)
    best = folder / "best.ckpt"

    def refusal(**settings: object) -> str:
        with pytest.raises(MSABenchError) as caught:
            evaluate_checkpoint(best, **{"store": elsewhere / "store", "device": "cpu", **settings})
        assert not (elsewhere / "store").exists()
        return str(caught.value)

    assert "cell intra/0.1 is left out" in refusal(grid=["inter"])
    assert "mask seed 2 is left out" in refusal(mask_seeds=[0, 1])
    assert "batch_size 0 is not allowed" in refusal(batch_size=0)
    assert "device 'gpu' cannot be used" in refusal(device="gpu")
    text = (folder / "config.yaml").read_text()
    for path, value, sentence in (
        ("seed_everything", 7, "seed of "),
        ("model/init_args/hidden_text", 64, "hidden_text, config_hash of "),
        ("trainer/max_epochs", 2, "config_hash of "),
    ):
        config = yaml.safe_load(text)
        *sections, name = path.split("/")
        place = config
        for section in sections:
            place = place[section]
        place[name] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        assert refusal().startswith(sentence)
    (folder / "config.yaml").write_text(text)
    best.rename(folder / "other.ckpt")
    best = folder / "other.ckpt"
    assert "is about best.ckpt, not other.ckpt" in refusal()


class BreakOff(pl.Callback):
    """Ends a training in its second epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("the power is gone")


def test_a_training_that_was_broken_off_is_not_recorded(elsewhere: Path) -> None:
    built = build([CONFIGS / "lf_dnn_synth.yaml"], [*TINY, "--trainer.max_epochs=3", "--early_stop=null"])
    folder = built.folder.path
    (folder / "finished.json").write_text("{}")
    (folder / "config.yaml").write_text(yaml.safe_dump(built.config))
    built.trainer.callbacks.append(BreakOff())
    with pytest.raises(RuntimeError, match="power"):
        built.trainer.fit(built.model, datamodule=built.datamodule)
    assert (folder / "best.ckpt").is_file()
    with pytest.raises(MSABenchError, match=r"there is no finished\.json beside .* so its training did not end"):
        evaluate_checkpoint(folder / "best.ckpt", store=elsewhere / "store", device="cpu")
    assert not (elsewhere / "store").exists()
    assert "inter/la" in evaluate_checkpoint(folder / "best.ckpt", ["inter/la"], device="cpu")


def test_a_training_without_validation_selects_nothing(elsewhere: Path) -> None:
    words = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=5", "--early_stop=null"]
    sentence = refused("fit", "--config", str(CONFIGS / "lf_dnn_synth.yaml"), *TINY, *words)
    assert sentence == (
        "trainer.check_val_every_n_epoch 5 leaves trainer.max_epochs 1 without a validation to select an epoch by; "
        "give at most 1"
    )
    assert not list(elsewhere.glob("runs/**/best.ckpt"))
    assert not list(elsewhere.glob("runs/**/finished.json"))
    assert fit("constant_synth.yaml", *TINY) == 0
    finished = json.loads(next(elsewhere.glob("runs/**/constant/**/finished.json")).read_text())
    assert finished["best_epoch"] is None
    assert finished["val_task"] > 0


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("max_epochs=0", "trainer.max_epochs 0 trains nothing; give at least 1, or -1 for no limit"),
        ("max_epochs=-3", "trainer.max_epochs -3 trains nothing; give at least 1, or -1 for no limit"),
        ("max_steps=0", "trainer.max_steps 0 trains nothing; give at least 1, or -1 for no limit"),
        ("limit_train_batches=0", "trainer.limit_train_batches 0 leaves no batch to train on; leave it out"),
        (
            "limit_val_batches=0.0",
            "trainer.limit_val_batches 0 leaves no validation to select an epoch by; leave it out",
        ),
        (
            "enable_checkpointing=false",
            "trainer.enable_checkpointing false keeps no checkpoint, and best.ckpt is what a training is for; leave it",
        ),
        (
            "barebones=true",
            "trainer.barebones true keeps no checkpoint, and best.ckpt is what a training is for; leave it out",
        ),
        (
            "val_check_interval=0",
            "trainer.val_check_interval 0 is not allowed; give a share of an epoch up to 1.0, or batches",
        ),
        ("check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch 0 is not allowed; give at least 1"),
        (
            "check_val_every_n_epoch=99",
            "99 leaves trainer.max_epochs 20 without a validation to select",
        ),
    ],
)
def test_a_training_without_an_end_is_refused_at_once_and_in_plans(word: str, sentence: str, elsewhere: Path) -> None:
    config, setting = CONFIGS / "lf_dnn_synth.yaml", [f"--trainer.{word}", "--trainer.enable_progress_bar=false"]
    with pytest.raises(MSABenchError) as caught:
        resolve([config], [*setting])
    assert sentence in str(caught.value)
    if word in ("max_epochs=0", "limit_val_batches=0.0", "enable_checkpointing=false"):
        assert refused("fit", "--config", str(config), *TINY, *setting) == str(caught.value)
        with pytest.raises(MSABenchError) as caught:
            build([config], [*TINY, *setting])
        assert sentence in str(caught.value)
    assert not (elsewhere / "runs").exists()


def test_a_trial_run_keeps_nothing_and_says_so(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = ["--trainer.fast_dev_run=true", "--trainer.limit_val_batches=0"]
    assert fit("lf_dnn_synth.yaml", *TINY, *trial) == 0
    assert capsys.readouterr().out == "trial run of training and validation went through; nothing is kept\n"
    assert not (elsewhere / "runs").exists()
    with pytest.raises(
        MSABenchError, match="fast_dev_run keeps no checkpoint to evaluate; it is for msabench fit alone"
    ):
        resolve([CONFIGS / "lf_dnn_synth.yaml"], trial)


def test_the_last_stage_must_be_validated() -> None:
    words = ["--model.init_args.teacher_epochs=3", "--trainer.max_epochs=5", "--trainer.check_val_every_n_epoch=3"]
    assert refused("fit", "--config", str(CONFIGS / "corrkd_synth.yaml"), *TINY, "--early_stop=null", *words) == (
        "trainer.check_val_every_n_epoch 3 leaves the last stage of corrkd, epochs 4 to 5, without a validation to "
        "select an epoch by; give at most 2"
    )


def reserve_20(below: Path, both: Any, names: Any) -> None:
    """What each of two processes does at the same time."""
    both.wait(timeout=600)
    names.put([reserve(below).name for _ in range(20)])


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_no_two_runs_reserve_the_same_folder(kind: str, elsewhere: Path) -> None:
    below = elsewhere / "runs" / "seed_1"
    (below / "version_2").mkdir(parents=True)
    (below / "version_4").write_text("in the way")
    if kind == "threads":
        with ThreadPoolExecutor(8) as pool:
            found = [path.name for path in pool.map(reserve, [below] * 40)]
    else:
        # Forked, since each would spend seconds on importing Lightning, and this is about a folder.
        forking = multiprocessing.get_context("fork")
        both, names = forking.Barrier(2), forking.Queue()
        workers = [forking.Process(target=reserve_20, args=(below, both, names)) for _ in range(2)]
        for worker in workers:
            worker.start()
        found = [name for _ in workers for name in names.get(timeout=600)]
        for worker in workers:
            worker.join()
    assert len(found) == len(set(found)) == 40
    assert set(found) == {f"version_{number}" for number in range(5, 45)}


def test_two_fits_at_once_keep_apart_whatever_their_logger(elsewhere: Path) -> None:
    words = [*TINY, "--trainer.max_epochs=1", "--early_stop=null"]
    # Both are there before one of them has written anything.
    logged, silent = (
        build([CONFIGS / "lf_dnn_synth.yaml"], [*words, f"--model.init_args.lr={lr}", f"--trainer.logger={logger}"])
        for lr, logger in ((0.001, "true"), (0.002, "false"))
    )
    for built, lr, log in ((silent, 0.002, False), (logged, 0.001, True)):
        built.trainer.fit(built.model, datamodule=built.datamodule)
        folder = built.folder.path
        names = {path.name for path in folder.iterdir()}
        assert names == {"best.ckpt", "config.yaml", "finished.json", *(["metrics.csv"] if log else [])}
        assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["lr"] == lr
        assert "inter/l" in evaluate_checkpoint(folder / "best.ckpt", ["inter/l"], [0], device="cpu")
    assert [built.folder.path.name for built in (silent, logged)] == ["version_0", "version_1"]
    assert [path.name for path in (elsewhere / "runs/fit").iterdir()] == ["synth"]


def test_other_devices_follow_the_first(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Strategy:
        def broadcast(self, path: Path) -> Path:
            assert not path.exists(), "a device after the first reserved a folder"
            return elsewhere / "version_7"

    class Trainer:
        strategy = Strategy()

    monkeypatch.setattr("msabench.training.run_folder.rank_zero_only.rank", 1)
    folder = RunFolder(elsewhere / "seed_1")
    assert folder.share(Trainer()) == folder.path == elsewhere / "version_7"


ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}


def test_a_training_in_an_allocation_is_one_process(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in ALLOCATION.items():
        monkeypatch.setenv(name, value)
    words = [*TINY, "--trainer.max_epochs=1", "--early_stop=null", "--trainer.devices=1"]
    assert fit("constant_synth.yaml", *words) == 0
    assert "best.ckpt" in capsys.readouterr().out
    # What the runner's worker trains with.
    trainer = build([CONFIGS / "constant_synth.yaml"], words).trainer
    assert (trainer.world_size, trainer.is_global_zero) == (1, True)


def test_srun_starts_the_processes_that_a_training_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ALLOCATION.items():
        monkeypatch.setenv(name, value)

    def own(devices: object, nodes: int = 1, plugins: object = None) -> bool:
        trainer = {"devices": devices, "num_nodes": nodes, "accelerator": "cpu", "plugins": plugins}
        return with_environment(trainer) != plugins

    assert all(own(devices) for devices in (1, "1", [0], "auto", 4))
    assert not own(2, nodes=2)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert all(own(devices) for devices in (1, "auto", 2))
    assert not any(own(devices) for devices in (4, "4", "0,1,2,3", [0, 1, 2, 3]))
    monkeypatch.delenv("SLURM_NTASKS")
    assert not own(4)


def test_going_on_is_the_same_training(trained: Path, elsewhere: Path) -> None:
    words = ["--config", str(CONFIGS / "lf_dnn_synth.yaml"), *TINY, "--trainer.max_epochs=2", "--early_stop=null"]
    resume = ["--ckpt_path", str(trained / "best.ckpt"), "--weights_only=true"]
    assert dispatch(["fit", *words, *resume]) == 0
    (finished,) = elsewhere.glob("runs/**/finished.json")
    assert fit("lf_dnn_synth.yaml", *words[2:], "--trainer.default_root_dir=whole") == 0
    whole, resumed = (json.loads(path.read_text()) for path in (*elsewhere.glob("whole/**/finished.json"), finished))
    same = ("epochs", "best_epoch", "val_task", "n_params", "config_hash")
    assert {name: resumed[name] for name in same} == {name: whole[name] for name in same}
    logs = [pd.read_csv(path.parent / "metrics.csv") for path in (*elsewhere.glob("whole/**/finished.json"), finished)]
    last = [log[log["epoch"] == 1]["train/loss"].dropna().tolist() for log in logs]
    # Dropout draws what it would have drawn.
    assert last[0] == last[1] != []
    assert yaml.safe_load((finished.parent / "config.yaml").read_text())["ckpt_path"] == resume[1]
    for word, sentence in (
        ("--data.batch_size=7", "data.batch_size 64, the config says 7"),
        ("--trainer.precision=bf16-mixed", "trainer.precision None, the config says 'bf16-mixed'"),
        ("--data.missing.regime=inter", "data.missing.regime 'complete', the config says 'inter(all)'"),
        ("--seed_everything=7", "seed_everything 1111, the config says 7"),
    ):
        assert refused("fit", *words, *resume, word) == (
            f"the checkpoint was trained with {sentence}; a training goes on under its own settings"
        )


def call_main(words: list[str], environment: dict[str, str], said: Path) -> None:
    """What another process does in place of the console script."""
    os.environ.update({"PYTHONPATH": str(REPOSITORY), **environment})
    # A process that a shell starts in the background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Threads of OpenMP do not survive a fork.
    torch.set_num_threads(1)
    sys.argv = ["msabench", *words]
    with Path(os.devnull).open("w") as sys.stdout, said.open("w") as sys.stderr:
        sys.exit(main())


def ended(words: list[str], number: signal.Signals, begun: str, environment: dict[str, str]) -> tuple[int, str]:
    """Send a signal to a command once a file is there; its code and what it says on stderr."""
    said = Path("said")
    # Forked where that works, since a fresh process would spend most of its time on importing Lightning.
    can_fork = sys.platform == "linux" and not torch.cuda.is_available()
    another = multiprocessing.get_context("fork" if can_fork else "spawn")
    process = another.Process(target=call_main, args=(words, environment, said))
    process.start()
    try:
        while process.is_alive() and not list(Path().glob(begun)):
            time.sleep(0.05)
        os.kill(process.pid, number)
        process.join()
        return process.exitcode, said.read_text()
    finally:
        process.kill()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "code", "environment"), [(signal.SIGTERM, 143, ALLOCATION), (signal.SIGINT, 130, {})]
)
def test_a_signal_ends_a_training_with_its_code(
    number: signal.Signals, code: int, environment: dict[str, str], elsewhere: Path
) -> None:
    words = ["fit", "--config", str(CONFIGS / "lf_dnn_synth.yaml"), *TINY, "--trainer.max_epochs=5000"]
    found, said = ended([*words, "--early_stop=null"], number, "runs/**/best.ckpt", environment)
    assert (found, said.splitlines()[-1]) == (code, f"msabench: fit was ended by {number.name} before it was done")
    assert not list(elsewhere.glob("runs/**/finished.json"))


class LosesSignals(Callback):
    """Sends a signal where Python drops what its handler raises, and another where a library does."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch
        self.batches = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        """Count the batches that are begun after the signal."""
        self.batches += trainer.current_epoch >= self.epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Send it."""
        if trainer.current_epoch == self.epoch:
            Path("batches").write_text(str(self.batches))
            finalizer = Finalizer()
            del finalizer


class Finalizer:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_is_lost_ends_a_training_at_the_next_batch(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--config", str(CONFIGS / "lf_dnn_synth.yaml"), *TINY, "--trainer.max_epochs=3"]
    callback = "--trainer.callbacks+=tests.test_cli.LosesSignals"
    monkeypatch.setattr(sys, "argv", ["msabench", *words, "--data.batch_size=8", callback])
    assert main() == 143
    assert Path("batches").read_text() == "1"
    assert not list(elsewhere.glob("runs/**/finished.json"))
    assert "fit was ended by SIGTERM before it was done" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("swallowed", [False, True])
def test_a_signal_ends_every_verb_with_its_code(
    number: signal.Signals,
    code: int,
    swallowed: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work() -> str:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            # As a library might; Lightning exits with 1.
            if not swallowed:
                raise
        return "done"

    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Verb, "load", lambda self: work)
    monkeypatch.setattr(sys, "argv", ["msabench", "methods"])
    try:
        assert main() == code
        assert signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        signal.signal(signal.SIGINT, before[0])
    assert capsys.readouterr().err == f"msabench: methods was ended by {number.name} before it was done\n"


def test_umdf_on_mosei_runs_alone_once_the_file_is_there(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(CONFIGS, elsewhere / "configs")
    command = ["fit", "--config", "configs/umdf_mosei.yaml", "--trainer.accelerator=cpu"]
    sentence = refused(*command)
    assert "data/mosei/mosei_senti_data.pkl" in sentence
    assert "msabench data fetch mosei --features mult-aligned" in sentence
    assert "MSABENCH_DATA" in sentence
    monkeypatch.setenv("MSABENCH_DATA", str(elsewhere / "corpora"))
    (elsewhere / "corpora/mosei").mkdir(parents=True)
    write_mult(elsewhere / "corpora/mosei/mosei_senti_data.pkl", "mosei", aligned=True, sizes=(20, 6, 8))
    # The published hash belongs to the published file; a difference is a warning, not an error.
    assert dispatch([*command, "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]) == 0
    assert "best.ckpt" in capsys.readouterr().out


def test_table_of_corpora_that_the_store_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["table", "--datasets", "mosi", "mosei"]) == 0
    out = capsys.readouterr().out
    assert "mosi: no records" in out
    assert "mosei: no records" in out


def test_errors_leave_no_traceback_unless_asked_for(elsewhere: Path) -> None:
    words = [sys.executable, "-m", "msabench", "table", "--datasets", "mosy"]
    plain = subprocess.run(words, capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert plain.stderr.count("\n") == 1
    debug = subprocess.run([*words, "--debug"], capture_output=True, text=True, check=False)
    assert debug.returncode == 2
    assert "Traceback" in debug.stderr


def test_arguments_reach_their_function_under_their_own_names() -> None:
    function = VERBS["regress"].load()
    given = arguments_of("regress", function, ["--methods", "mult", "umdf", "--update"])
    assert given["update"] is True
    assert given["methods"] == ["mult", "umdf"]
    assert arguments_of("regress", function, [])["update"] is False
    assert set(given) == {"methods", "update", "expected", "configs", "cached"}

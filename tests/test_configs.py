"""Every shipped config parses, names what it is called after, and builds."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from msabench.data.info import DataSpec
from msabench.data.registry import dataset_info
from msabench.data.shipped import SHIPPED
from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.nn import text
from msabench.runner.suite import read_suite
from msabench.training.build import resolve
from msabench.training.config_files import config_of
from tests.support.resolved import Resolve

REPOSITORY = Path(__file__).parents[1]
FILES = sorted((REPOSITORY / "configs").glob("*.yaml"))
SHARED = [path for path in FILES if path.stem in registry.methods()]
"""What the configs of a method build on; none of them can be trained."""
CONFIGS = [path for path in FILES if path not in SHARED]
SHIPPED_FOR = ("mosi", "mosei", "sims", "iemocap", "mosei_video", "synth", "custom")


SEVERAL_BATCHES_A_STEP = {"dmd": 10, "emoe": 10, "self_mm": 4, "tetfn": 4, "tfr_net": 4}
"""What configs for own files keep of the authors' code, against the rule for all others."""

_MMSA_BERT = {"finetune": True, "text_encoder": "bert-base-uncased"}
_MMSA_BERT_CHINESE = {"finetune": True, "text_encoder": "bert-base-chinese"}
_MULT_PAPER = {"data.features": "mult-aligned", "dim": 40, "layers": 4, "out_dropout": 0.1}
# What the sources named in the configs train, and how; all of MMSA's settings are compared by a parity test.
RECIPES = {
    # config_regression.json and trains/singleTask/MISA.py of MMSA; declare-lab/MISA trains at the same rate.
    "misa_mosi": {**_MMSA_BERT, "text_lr": 1e-4, "lr": 1e-4, "gradient_clip": 0.8, "accumulate": 2},
    "misa_mosei": {**_MMSA_BERT, "text_lr": 1e-4, "lr": 1e-4, "gradient_clip": 0.8, "accumulate": 2},
    "misa_sims": {**_MMSA_BERT_CHINESE, "text_lr": 1e-4, "lr": 1e-4, "gradient_clip": 1.0, "accumulate": 2},
    # src/config.py of declare-lab/Multimodal-Infomax; MMSA's for CH-SIMS.
    "mmim_mosi": {**_MMSA_BERT, "text_lr": 5e-5, "lr": 1e-3, "weight_decay": 1e-4, "gradient_clip": 1.0},
    "mmim_mosei": {**_MMSA_BERT, "text_lr": 5e-5, "lr": 1e-3, "weight_decay": 1e-4, "gradient_clip": 1.0},
    "mmim_sims": {**_MMSA_BERT_CHINESE, "text_lr": 5e-5, "lr": 1e-3, "weight_decay": 1e-4, "gradient_clip": 1.0},
    # Table 5 of MulT's paper (ACL 2019), by columns.
    "mult_mosei": {
        **_MULT_PAPER,
        **{"data.batch_size": 16, "lr": 1e-3, "heads": 8, "kernel_size_audio": 3, "kernel_size_vision": 3},
        **{"dropout_text": 0.3, "attn_dropout_text": 0.1},
        **{"trainer.gradient_clip_val": 1.0, "trainer.max_epochs": 20},
    },
    "mult_mosi": {
        **_MULT_PAPER,
        **{"data.batch_size": 128, "lr": 1e-3, "heads": 10, "kernel_size_audio": 3, "kernel_size_vision": 3},
        **{"dropout_text": 0.2, "attn_dropout_text": 0.2},
        **{"trainer.gradient_clip_val": 0.8, "trainer.max_epochs": 100},
    },
    "mult_iemocap": {
        **_MULT_PAPER,
        **{"data.batch_size": 32, "lr": 2e-3, "heads": 10, "kernel_size_audio": 5, "kernel_size_vision": 3},
        **{"kernel_size_text": 3, "dropout_text": 0.3, "attn_dropout_text": 0.25},
        **{"trainer.gradient_clip_val": 0.8, "trainer.max_epochs": 30},
    },
    # config_regression.json and trains/singleTask/MULT.py of MMSA: the running sum of 8 batches is clipped after each.
    "mult_sims": {
        **{"data.features": "mmsa-unaligned", "data.batch_size": 16, "lr": 2e-3, "text_encoder": None},
        **{"gradient_clip": 0.6, "accumulate": 8},
        **{"trainer.gradient_clip_val": None, "trainer.accumulate_grad_batches": 1},
    },
    # config_regression.json of MMSA.
    "tfr_net_mosei": {**_MMSA_BERT, "text_lr": 1e-5, "lambda_similarity": 5.0, "accumulate": 4},
    "tfr_net_sims": {**_MMSA_BERT_CHINESE, "text_lr": 1e-5, "lambda_similarity": 5.0, "accumulate": 4},
}


@pytest.fixture(scope="module")
def bert() -> Any:
    """A BERT of bert-base's width and length; to draw its weights takes longer than to build a method around it."""
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(vocab_size=8, num_hidden_layers=2, intermediate_size=8), add_pooling_layer=False)


@pytest.fixture
def small_bert(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What configs call bert-base is a BERT of its width and length, without a download."""
    monkeypatch.setattr(text, "_load_bert", lambda name: deepcopy(bert))


@pytest.mark.usefixtures("small_bert")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_parses_and_its_method_builds(path: Path, resolved: Resolve) -> None:
    config = resolved([path], [])
    module = config["model"]["class_path"].rpartition(".")[0]
    method = module.rpartition(".")[2]
    dataset = config["data"]["dataset"]
    assert path.stem == f"{method}_{dataset}"
    info = dataset_info(dataset)
    file = info.file(config["data"]["features"])
    spec = DataSpec(
        feature_dims=file.dims or {"text": 768, "audio": 5, "vision": 20},
        seq_lens=file.lengths or dict.fromkeys(("text", "audio", "vision"), 50),
        task=info.task,
        metric_set=info.metric_set,
        label_range=info.label_range,
        n_train=100,
    )
    built = registry.method_class(method)(spec, **config["model"]["init_args"])
    assert built.n_outputs == (8 if info.task == "emotions" else 1)


@pytest.mark.parametrize("name", RECIPES)
def test_config_trains_as_its_source_does(name: str, resolved: Resolve) -> None:
    config = resolved([REPOSITORY / "configs" / f"{name}.yaml"], [])
    found = {}
    for setting in RECIPES[name]:
        section, _, key = setting.rpartition(".")
        found[setting] = (config[section] if section else config["model"]["init_args"])[key]
    assert found == RECIPES[name]


@pytest.mark.parametrize("method", sorted(registry.methods()))
def test_every_method_has_a_config_for_every_corpus_it_applies_to(method: str) -> None:
    tasks = registry.method_info(method).tasks
    names = {path.stem for path in CONFIGS}
    expected = {f"{method}_{name}" for name in SHIPPED_FOR if SHIPPED[name].task in tasks}
    assert expected <= names


@pytest.mark.parametrize("method", sorted(set(registry.methods()) - {"constant"}))
def test_configs_for_own_files_follow_the_rule_that_is_documented(method: str, resolved: Resolve) -> None:
    config = resolved([REPOSITORY / f"configs/{method}_custom.yaml"], [])
    init_args = config["model"]["init_args"]
    before = sum(
        init_args.get(f"{stage}_epochs", 0) for stage in ("teacher", "completion", "warmup", "pretrain", "complete")
    )
    assert (config["data"]["batch_size"], config["early_stop"]) == (32, 10)
    assert config["trainer"]["max_epochs"] == 50 + before
    assert before in (0, 10, 50)
    assert init_args.get("text_encoder") is None
    assert (init_args.get("accumulate") or 1) == SEVERAL_BATCHES_A_STEP.get(method, 1)


def test_no_config_is_left_over() -> None:
    known = {f"{method}_{dataset}" for method in registry.methods(external=False) for dataset in SHIPPED_FOR}
    assert {path.stem for path in CONFIGS} <= known


@pytest.mark.parametrize("shared", SHARED, ids=lambda path: path.stem)
def test_what_configs_share_names_the_method_and_no_corpus(shared: Path) -> None:
    config = config_of(shared)
    assert registry.class_path(shared.stem).endswith(f".{config['model']['class_path']}")
    assert "dataset" not in config["data"]
    its = {f"{shared.stem}_{dataset}" for dataset in SHIPPED_FOR}
    building_on_it = {path.stem for path in CONFIGS if f"\nbase: {shared.name}\n" in f"\n{path.read_text()}"}
    assert building_on_it == its & {path.stem for path in CONFIGS}
    with pytest.raises(MSABenchError, match=r"nothing sets data\.dataset.*configs/<method>_<dataset>\.yaml"):
        resolve([shared], [])


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks/suites").glob("*.yaml")), ids=lambda path: path.stem)
def test_suite_parses(path: Path) -> None:
    suite = read_suite(path)
    assert suite.name == path.stem

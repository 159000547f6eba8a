"""Every shipped config parses, names what it is called after, and builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from msabench import registry
from msabench.cli import resolve
from msabench.data.info import DATASETS, DataSpec, dataset_info
from msabench.nn import text
from msabench.runner.suite import read_suite

REPOSITORY = Path(__file__).parents[1]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
SHIPPED_FOR = ("mosi", "mosei", "sims", "iemocap", "mosei_video", "synth")


@pytest.fixture
def small_bert(monkeypatch: pytest.MonkeyPatch) -> None:
    """What configs call bert-base is a BERT of its width and length, without a download."""
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=8, num_hidden_layers=2, intermediate_size=8)
    monkeypatch.setattr(text, "_load_bert", lambda name: BertModel(config, add_pooling_layer=False))


@pytest.mark.usefixtures("small_bert")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_parses_and_its_method_builds(path: Path) -> None:
    config = resolve([path], [])
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


@pytest.mark.parametrize("method", sorted(registry.methods()))
def test_every_method_has_a_config_for_every_corpus_it_applies_to(method: str) -> None:
    tasks = registry.method_info(method).tasks
    names = {path.stem for path in CONFIGS}
    expected = {f"{method}_{name}" for name in SHIPPED_FOR if DATASETS[name].task in tasks}
    assert expected <= names


def test_no_config_is_left_over() -> None:
    known = {f"{method}_{dataset}" for method in registry.methods() for dataset in SHIPPED_FOR}
    assert {path.stem for path in CONFIGS} <= known


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks/suites").glob("*.yaml")), ids=lambda path: path.stem)
def test_suite_parses(path: Path) -> None:
    suite = read_suite(path)
    assert suite.name == path.stem

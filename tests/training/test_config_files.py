"""Configs that build on others: what the files say together, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.training.build import resolve
from msabench.training.config_files import config_of

SHARED: dict[str, Any] = {
    "early_stop": 10,
    "trainer": {"max_epochs": 3, "enable_progress_bar": False},
    "data": {"missing": {"regime": "intra", "rate": [0.1, 0.2]}},
    "model": {"class_path": "LFDNN", "init_args": {"hidden_text": 8, "lr": 1e-3}},
}
OWN: dict[str, Any] = {
    "base": "shared.yaml",
    "early_stop": None,
    "data": {"dataset": "synth", "features": "synth", "size": [8, 4, 4], "length": 8, "missing": {"rate": [0.3, 0.3]}},
    "model": {"init_args": {"lr": 2e-3}},
}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``shared.yaml`` and ``own.yaml``, which builds on it."""
    write(tmp_path / "shared.yaml", SHARED)
    write(tmp_path / "own.yaml", OWN)
    return tmp_path


def test_a_file_wins_over_its_base_key_by_key(folder: Path) -> None:
    assert config_of(folder / "own.yaml") == {
        "early_stop": None,
        "trainer": {"max_epochs": 3, "enable_progress_bar": False},
        "data": {
            "missing": {"regime": "intra", "rate": [0.3, 0.3]},
            "dataset": "synth",
            "features": "synth",
            "size": [8, 4, 4],
            "length": 8,
        },
        "model": {"class_path": "LFDNN", "init_args": {"hidden_text": 8, "lr": 2e-3}},
    }


def test_a_base_may_have_a_base_and_lie_elsewhere(folder: Path) -> None:
    outer = write(folder / "mine/outer.yaml", {"base": "../own.yaml", "model": {"init_args": {"hidden_text": 16}}})
    assert config_of(outer)["model"] == {"class_path": "LFDNN", "init_args": {"hidden_text": 16, "lr": 2e-3}}
    assert config_of(write(folder / "same.yaml", "base: own.yaml")) == config_of(folder / "own.yaml")
    assert config_of(write(folder / "whole.yaml", f"base: {folder / 'own.yaml'}")) == config_of(folder / "own.yaml")


def test_names_of_files_are_looked_up_beside_the_file_that_says_them(folder: Path) -> None:
    write(folder / "far/data/corpus.yaml", {"dataset": "synth", "missing": "training.yaml"})
    write(folder / "far/data/training.yaml", {"regime": "inter"})
    write(folder / "far/shared.yaml", {**SHARED, "data": "data/corpus.yaml"})
    outer = write(folder / "outer.yaml", {"base": "far/shared.yaml", "data": {"batch_size": 5}})
    found = resolve([outer], [])["data"]
    assert (found["dataset"], found["missing"]["regime"], found["batch_size"]) == ("synth", "inter", 5)


def test_values_are_read_as_the_parser_reads_them(folder: Path) -> None:
    write(folder / "values.yaml", "lr: 1e-3\nday: 2020-01-01\nname: '1e5'\n")
    assert config_of(folder / "values.yaml") == {"lr": 0.001, "day": "2020-01-01", "name": "1e5"}
    text_encoder = "model: {init_args: {text_encoder: '1e5'}}"
    outer = write(folder / "text.yaml", f"base: own.yaml\n{text_encoder}\n")
    assert resolve([outer], [])["model"]["init_args"]["text_encoder"] == "1e5"


def test_it_trains_as_the_same_settings_in_one_file(folder: Path) -> None:
    whole = write(folder / "whole.yaml", config_of(folder / "own.yaml"))
    assert resolve([folder / "own.yaml"], []) == resolve([whole], [])
    assert "base" not in resolve([folder / "own.yaml"], [])


def test_later_configs_win_over_earlier_ones_with_their_bases(folder: Path) -> None:
    later = write(folder / "later.yaml", {"base": "own.yaml", "trainer": {"max_epochs": 5}})
    plain = write(folder / "plain.yaml", {"early_stop": 2, "data": {"batch_size": 4}})
    found = resolve([plain, later], [])
    assert (found["early_stop"], found["trainer"]["max_epochs"]) == (None, 5)
    assert found["data"]["batch_size"] == 4
    found = resolve([later, plain], ["--trainer.max_epochs=6"])
    assert (found["early_stop"], found["trainer"]["max_epochs"]) == (2, 6)
    assert found["model"]["init_args"]["hidden_text"] == 8


def test_what_is_resolved_belongs_to_the_caller(folder: Path) -> None:
    first = resolve([folder / "own.yaml"], [])
    first["data"]["missing"]["rate"].append(7)
    first["trainer"]["max_epochs"] = 99
    resolve([folder / "own.yaml"], ["--trainer.max_epochs=8", "--model=UMDF"])
    again = resolve([folder / "own.yaml"], [])
    assert (again["data"]["missing"]["rate"], again["trainer"]["max_epochs"]) == ([0.3, 0.3], 3)
    assert again["model"]["class_path"].endswith("LFDNN")


@pytest.mark.parametrize("option", ["--config", "-c"])
def test_the_command_line_prints_and_saves_what_the_files_say_together(
    option: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):
        dispatch(["fit", option, "own.yaml", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert "base" not in printed
    assert (printed["early_stop"], printed["model"]["init_args"]["hidden_text"]) == (None, 8)
    assert dispatch(["fit", option, "own.yaml", "--trainer.accelerator=cpu"]) == 0
    (saved,) = folder.glob("runs/fit/synth/lf_dnn/*/*/config.yaml")
    kept = yaml.safe_load(saved.read_text())
    assert "base" not in kept
    assert kept["model"]["init_args"]["lr"] == 2e-3
    assert dispatch(["validate", option, "own.yaml", "--ckpt_path", str(saved.with_name("best.ckpt"))]) == 0


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"x": {"base": "none.yaml"}}, "there is no file {}/none.yaml, which config {}/x.yaml names as its base"),
        ({"x": {"base": ["own.yaml"]}}, "base of config {}/x.yaml must be the name of one file, not ['own.yaml']"),
        ({"x": {"base": None}}, "base of config {}/x.yaml must be the name of one file, not None"),
        (
            {"x": {"base": "list.yaml"}, "list": [1]},
            "{}/list.yaml, the base of config {}/x.yaml, must be a mapping of settings, not list",
        ),
        ({"x": [1]}, "config {}/x.yaml must be a mapping of settings to values, not list"),
        ({"x": {"base": "x.yaml"}}, "config {}/x.yaml -> {}/x.yaml leads back to itself by base or file name"),
        (
            {"x": {"base": "y.yaml"}, "y": {"base": "z.yaml"}, "z": {"base": "y.yaml"}},
            "config {}/x.yaml -> {}/y.yaml -> {}/z.yaml -> {}/y.yaml leads back to itself by base or file name",
        ),
        ({"x": {"data": "x.yaml"}}, "config {}/x.yaml -> {}/x.yaml leads back to itself by base or file name"),
        ({"x": {"base": "own.yaml", "epochs": 3}}, "there is no setting epochs; see --help for those there are"),
        (
            {"x": {"base": "own.yaml", "data": {"base": "y"}}},
            "there is no setting base; see --help for those there are",
        ),
        ({"x": {"base": "y.yaml"}, "y": {"base": "own.yaml", "wandbb": 1}}, "no setting wandbb; did you mean wandb?"),
        (
            {"x": {"base": "y.yaml"}, "y": {"base": "own.yaml", "model": {"init_args": {"hidden_txt": 1}}}},
            "lf_dnn has no argument hidden_txt; did you mean hidden_text?",
        ),
        (
            {"x": {"base": "shared.yaml", "seed_everything": 1}},
            "nothing sets data.dataset, which is needed; "
            "configs/<method>.yaml is only what the configs/<method>_<dataset>.yaml share",
        ),
    ],
)
def test_what_cannot_be_read_is_named_in_one_sentence(files: dict[str, Any], sentence: str, folder: Path) -> None:
    for name, content in files.items():
        write(folder / f"{name}.yaml", content)
    with pytest.raises(MSABenchError) as caught:
        resolve([folder / "x.yaml"], [])
    assert sentence.replace("{}", str(folder)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_base_that_is_no_text_or_no_yaml_is_named(folder: Path) -> None:
    (folder / "shared.yaml").write_bytes("# déjà vu\n".encode("latin-1"))
    with pytest.raises(MSABenchError, match=r"shared\.yaml is no UTF-8 text"):
        resolve([folder / "own.yaml"], [])
    write(folder / "shared.yaml", "early_stop: [")
    with pytest.raises(MSABenchError, match=r"shared\.yaml is not valid YAML"):
        resolve([folder / "own.yaml"], [])

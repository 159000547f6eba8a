"""``msabench methods new``: what it writes works as it says, and nothing is overwritten."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from msabench.__main__ import dispatch, with_plugins
from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.methods.new import TEMPLATE, method_source, new
from msabench.training.build import resolve
from msabench.training.config_words import as_words
from msabench.training.search_space import draw, space_of

REPOSITORY = Path(__file__).parents[2]
FILES = ["my_net.py", "my_net_mosi.yaml", "my_net_synth.yaml", "spaces/my_net.yaml", "test_my_net.py"]
SMALL = ("--data.size=[24,8,10]", "--data.length=8", "--trainer.max_epochs=1", "--trainer.accelerator=cpu")


def written(folder: Path) -> list[str]:
    assert folder.is_dir()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def commands(said: str) -> list[list[str]]:
    """Words of the commands that a text tells its reader to go on with."""
    lines = re.findall(r"^(?:  |next: )((?:pytest|pip|msabench) .*)$", said, re.MULTILINE)
    return [shlex.split(line) for line in lines]


def test_the_printed_commands_work_as_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["methods", "new", "my_net", "--out", "my folder"]) == 0
    assert written(folder / "my folder") == FILES
    tested, fit = commands(capsys.readouterr().out)
    done = subprocess.run(
        [sys.executable, "-m", *tested, "-p", "no:cacheprovider", "-vv", "-W", "error::DeprecationWarning"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"test_my_net\.py::test_my_net\[removed_modality_tells_nothing-text\] .*PASSED", done.stdout)
    assert dispatch(with_plugins([*fit[1:], *SMALL])) == 0
    [evaluate] = commands(capsys.readouterr().out)
    assert evaluate[1] == "evaluate"
    assert dispatch(with_plugins(evaluate[1:])) == 0
    assert "my_net" in capsys.readouterr().out


def test_the_config_for_a_real_corpus_is_understood(folder: Path) -> None:
    new("my_net")
    registry.add_plugins(["my_net.py"])
    config = resolve([Path("my_net_mosi.yaml")], [])
    assert (config["data"]["dataset"], config["data"]["missing"]["regime"]) == ("mosi", "mixed")
    assert config["model"]["init_args"] == {"variant": "default", "hidden": 64, "lr": 1e-3, "weight_decay": 0.0}


def test_the_search_space_is_found_beside_the_configs_and_fits_the_method(folder: Path) -> None:
    new("my_net", Path("mine"))
    registry.add_plugins(["mine/my_net.py"])
    space = space_of("my_net", Path("mine"))
    drawn = draw(space, seed=1, number=1)
    config = resolve([Path("mine/my_net_synth.yaml")], list(as_words(drawn)))
    arguments = {f"model.init_args.{name}": value for name, value in config["model"]["init_args"].items()}
    assert drawn.items() <= {**arguments, "data.batch_size": config["data"]["batch_size"]}.items()
    with pytest.raises(MSABenchError, match=r"my_net has no search space; write configs/spaces/my_net\.yaml"):
        space_of("my_net")


def test_a_package_has_the_entry_point(folder: Path) -> None:
    said = new("my_net", Path("my_net-package"), package=True)
    facts = tomllib.loads(Path("my_net-package/pyproject.toml").read_text())
    assert facts["project"]["entry-points"]["msabench.methods"] == {"my_net": "my_net:MyNet"}
    assert facts["project"]["name"] == "my-net"
    install, _, fit = commands(said)
    assert install == ["pip", "install", "--editable", "my_net-package"]
    assert "--plugins" not in fit


def test_it_is_the_template_of_methods_in_here() -> None:
    text = TEMPLATE.read_text()
    assert method_source("_template", "Template") == text
    assert "Template" not in method_source("my_net", "MyNet").replace("MyNet", "")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("My-Net", "method name 'My-Net' is not allowed; give small letters, digits and _, beginning with a letter"),
        ("../net", "method name '../net' is not allowed"),
        ("umdf", "there is a method umdf already"),
        ("json", "method name 'json' is not allowed, since a module of that name is here"),
        ("class", "method name 'class' is not allowed, since class or its class Class means something else"),
        ("true", "its class True means something else"),
        ("output", "its class Output means something else in Python or in the file"),
    ],
)
def test_a_name_that_cannot_be_is_refused(folder: Path, name: str, sentence: str) -> None:
    with pytest.raises(MSABenchError) as caught:
        new(name)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert written(folder) == []


@pytest.mark.parametrize("there", FILES)
def test_nothing_is_overwritten(folder: Path, there: str) -> None:
    (folder / there).parent.mkdir(exist_ok=True)
    (folder / there).write_text("mine")
    with pytest.raises(MSABenchError, match=rf"{re.escape(there)} exists already; nothing is overwritten"):
        new("my_net")
    assert written(folder) == [there]
    assert (folder / there).read_text() == "mine"


def test_nothing_is_left_half_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from msabench.methods import new as module

    original = module.creating

    def full(path: Path) -> object:
        if path.name.startswith("test"):
            raise OSError(28, "No space left on device")
        return original(path)

    monkeypatch.setattr(module, "creating", full)
    with pytest.raises(MSABenchError, match="cannot be written: No space left on device"):
        new("my_net", Path("there"))
    assert [*(folder / "there").iterdir()] == []


def test_the_listing_stands_beside_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["methods"]) == 0
    assert dispatch(["methods", "--format", "csv"]) == 0
    assert capsys.readouterr().out.count("umdf") >= 2
    with pytest.raises(SystemExit):
        dispatch(["methods", "--help"])
    assert "methods new" in capsys.readouterr().out
    with pytest.raises(MSABenchError, match="unknown verb 'methods nwe'; allowed: methods, methods new"):
        dispatch(["methods", "nwe"])

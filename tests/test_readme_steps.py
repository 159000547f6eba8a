"""Running README's steps fills the user's store and leaves a clone as it was."""

import csv
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from msabench.__main__ import dispatch, with_plugins
from msabench.results.places import COMMITTED_STORE, STORE_VARIABLE
from msabench.results.store import ResultStore
from tests.support.outside_folder import outside_folder

REPOSITORY = Path(__file__).parents[1]
SMALL = "--data.size=[24,8,10] --data.length=8 --trainer.accelerator=cpu --trainer.enable_progress_bar=false"
SUITE = """
name: steps
grid: [inter/l, inter/lav]
mask_seeds: [0]
seeds: [1]
overrides: {data.size: [24, 8, 10], data.length: 8}
jobs:
  - {method: constant, dataset: synth}
"""


def steps():
    """README's commands from training to tables, on the embedded corpus and with the method that takes no time.

    Comparisons need several methods.
    """
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    part = text[text.index("## A real corpus, step by step") : text.index("Anything in a config can be changed")]
    for line in re.findall(r"^msabench (?!data|compare|regimes).*$", part, flags=re.MULTILINE):
        adapted = line.replace("mosei_video", "synth").replace("mosei", "synth").replace("umdf", "constant")
        yield adapted + (f" {SMALL}" if " fit " in line else "")


folder = pytest.fixture(outside_folder)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    for name in (".gitignore", "configs", "leaderboard/results/synth/constant", "leaderboard/published"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, target)
        else:
            shutil.copy(REPOSITORY / name, target)
    suites = tmp_path / "benchmarks" / "suites"
    suites.mkdir(parents=True)
    (suites / "synth.yaml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / "cache"))
    git("init", "--quiet")
    git("add", "--all")
    git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "--message", "as cloned")
    return tmp_path


def git(*words):
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout


def test_readmes_steps_leave_the_clone_clean(clone, capsys):
    committed = len(ResultStore(COMMITTED_STORE, indexed=False).jobs())
    lines = list(steps())
    assert [line.split()[1] for line in lines] == ["fit", "evaluate", "table", "suites", "run", "run", "table", "table"]
    for line in lines:
        assert dispatch(shlex.split(line)[1:]) == 0, line
        out = capsys.readouterr().out
        if " fit " in line:
            assert re.search(
                r"^next: msabench evaluate --checkpoint \S+best.ckpt --store runs/store$", out, re.MULTILINE
            )
        if "--dry-run" in line:
            assert "1 jobs" in out
        if " table " in line:
            assert "constant" in out
    assert len(ResultStore("runs/store").jobs()) == 2
    assert len(ResultStore(COMMITTED_STORE, indexed=False).jobs()) == committed
    assert git("status", "--porcelain") == ""


def test_readmes_own_things_work(folder, capsys):
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("## Bring your own\n")[2]
    lines = text.split("```\n")[1].splitlines()
    assert [line.split()[1] for line in lines] == ["methods", "fit", "predict", "checkpoint", "masks", "score"]
    features = {"text": np.ones((2, 8, 768), np.float32), "vision": np.ones((2, 3, 20), np.float32)}
    np.savez("clips.npz", **features)
    for line in lines:
        if " score " in line:
            answer_all(Path("masks"))
        small = {"fit": f" {SMALL} --trainer.max_epochs=1", "masks": " --size 24 8 10 --length 8"}
        given = line + small.get(line.split()[1], "")
        given = given.replace("best.ckpt", "runs/fit/synth/foo/seed_1111/version_0/best.ckpt")
        assert dispatch(with_plugins(shlex.split(given)[1:])) == 0, line
        printed, said = capsys.readouterr()
        if " predict " in line:
            assert "no clip has audio" in said
            assert len(re.findall(r"negative|neutral|positive", printed)) == 2
    assert "inter/la" in printed
    assert (folder / "passed_on/model.safetensors").is_file()
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert "intra/0.9" in capsys.readouterr().out


def answer_all(masks):
    """What a program of somebody's own does: a number for every clip in every file."""
    manifest = json.loads((masks / "manifest.json").read_text())
    with Path("predictions.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", "cell", "mask_seed", "pred"])
        for entry in manifest["cells"]:
            place = entry["cell"], entry["mask_seed"]
            rows.writerows([clip, *place, number / 5 - 1] for number, clip in enumerate(manifest["ids"]))

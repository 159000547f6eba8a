"""Methods from outside: found by plug-in, entry point and class path, and through every verb."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from msabench.__main__ import dispatch, with_plugins
from msabench.errors import MSABenchError
from msabench.leaderboard.reproduce import STORE
from msabench.methods import registry
from msabench.plugins import PLUGINS_VARIABLE
from msabench.results.store import ResultStore
from msabench.runner import regress as regression
from msabench.runner import worker
from msabench.runner.executor import RECORDED_FAILURE, Task
from msabench.runner.stages import fit_hash
from msabench.runner.suite import expand, read_suite
from msabench.training.build import build
from tests.support.worker_scripts import job

REPOSITORY = Path(__file__).parents[2]
NET = (REPOSITORY / "tests/support/outside/my_net.py").read_text()
CONFIG = (
    "trainer: {max_epochs: 2, enable_progress_bar: false, accelerator: cpu}\n"
    "data: {dataset: synth, size: [24, 8, 10], length: 8, missing: {regime: mixed}}\n"
    "model:\n  class_path: NAME\n  init_args: {hidden: 8}\n"
)


def plugin(folder: Path, name: str = "my_net.py", text: str = NET) -> str:
    (folder / name).write_text(text)
    return name


def refused(names: list[str]) -> str:
    with pytest.raises(MSABenchError) as caught:
        registry.add_plugins(names)
    return str(caught.value)


def test_a_file_is_a_plug_in_and_is_not_imported_to_be_listed(folder: Path) -> None:
    registry.add_plugins([plugin(folder)])
    info = registry.method_info("my_net")
    assert (info.title, info.fidelity) == ("My net", "external")
    assert registry.class_path("my_net") == "my_net.MyNet"
    assert "my_net" not in sys.modules
    assert "my_net" not in registry.methods(external=False)
    assert registry.method_class("my_net").__name__ == "MyNet"


def test_an_entry_point_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = folder / "site"
    facts = site / "my_ext-2.1.dist-info"
    facts.mkdir(parents=True)
    plugin(site, "taken.py", NET.replace('name="my_net"', 'name="umdf"'))
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-ext\nVersion: 2.1\n")
    (facts / "top_level.txt").write_text("my_net\n")
    points = "my_net = my_net:MyNet\nbroken = no_such:Net\ntaken = taken:MyNet\n"
    (facts / "entry_points.txt").write_text(f"[msabench.methods]\n{points}")
    plugin(site)
    monkeypatch.syspath_prepend(str(site))
    with pytest.warns(UserWarning, match="is left out") as warned:
        assert registry.is_external("my_net")
    said = " / ".join(str(warning.message) for warning in warned)
    assert "entry point broken of my-ext is left out of the methods" in said
    assert "taken.MyNet is left out: msabench.methods.umdf.UMDF is called umdf, too" in said
    assert not registry.is_external("umdf")
    from msabench.results.provenance import source_of

    source = source_of("my_net")
    assert source is not None
    assert (source["class_path"], source["distribution"], source["version"]) == ("my_net.MyNet", "my-ext", "2.1")
    assert len(source["sha256"]) == 64
    assert source_of("umdf") is None


def test_a_class_path_in_a_config_is_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(folder)
    monkeypatch.syspath_prepend(str(folder))
    assert registry.name_of("my_net.MyNet") == "my_net"
    assert registry.method_info("my_net").fidelity == "external"
    with pytest.raises(MSABenchError, match=r"unknown method class 'my_net.Other'"):
        registry.name_of("my_net.Other")
    with pytest.raises(MSABenchError, match=r"class path no_module\.Net names module no_module, and there is no such"):
        registry.name_of("no_module.Net")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("json.py", NET, "that name is taken by"),
        ("my-net.py", NET, "cannot be imported under the name 'my-net'; rename the file"),
        ("my_net.py", "class Net:\n    pass\n", "no class in it has info = MethodInfo(...)"),
        ("my_net.py", "def broken(:\n", "cannot be read from"),
        ("my_net.py", NET.replace('name="my_net"', 'name="umdf"'), "two methods are called umdf"),
        ("my_net.py", NET.replace('name="my_net"', 'name="../x"'), "method name '../x' is not allowed"),
        ("my_net.py", NET.replace('venue=""', "venue=VENUE"), "whose methods cannot be read from"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_refused_in_a_sentence(
    folder: Path, name: str, text: str, sentence: str
) -> None:
    assert sentence in refused([plugin(folder, name, text)])


def test_a_missing_plug_in_is_named(folder: Path) -> None:
    assert refused(["nowhere.py"]).startswith(f"there is no plug-in {folder / 'nowhere.py'}")


def shown(*words: str) -> str:
    """What a verb prints, called as on the command line."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert dispatch(with_plugins([*words])) == 0
    return out.getvalue()


def sentence(*words: str) -> str:
    """With which a verb refuses."""
    with pytest.raises(MSABenchError) as caught:
        dispatch(with_plugins([*words]))
    return str(caught.value)


def test_a_bare_file_goes_through_every_verb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(folder)
    Path("my_net_synth.yaml").write_text(CONFIG.replace("NAME", "my_net.MyNet"))
    for name in ("constant.yaml", "constant_synth.yaml"):
        shutil.copy(REPOSITORY / "configs" / name, folder)
    Path("suite.yaml").write_text(
        "name: mine\nconfigs: .\ngrid: [inter, intra/0.5]\nseeds: [1111]\nmask_seeds: [0, 1, 2]\n"
        "overrides: {data.size: [24, 8, 10], data.length: 8, data.missing.regime: mixed}\n"
        "jobs:\n- {method: my_net, dataset: synth, regimes: [mixed]}\n- {method: constant, dataset: synth}\n"
    )
    given = ("--plugins", "my_net.py")
    said = shown("fit", "--config", "my_net_synth.yaml", "--data.missing.regime=complete", *given)
    [checkpoint] = folder.glob("runs/fit/synth/my_net/seed_1111/version_0/best.ckpt")
    [following] = re.findall(r"^next: msabench (.*)$", said, re.MULTILINE)
    assert following == f"evaluate --checkpoint {checkpoint} --store runs/store --plugins {folder / 'my_net.py'}"
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    shown(*shlex.split(following))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    assert "2 jobs" in shown("run", "--suite", "suite.yaml", "--slots", "2", *given)
    # Whoever only reads the records need not have it.
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    monkeypatch.setattr(registry, "_found_by_path", {})
    assert "my_net" not in shown("methods")
    for words in ((), given):
        table = shown("table", "--datasets", "synth", *words)
        row = next(line for line in table.splitlines() if line.startswith("my_net "))
        assert " external " in row
        assert "external = from outside msabench" in " ".join(table.split())
    assert "external" in next(line for line in shown("methods").splitlines() if line.startswith("my_net "))
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    job = next(job for job in ResultStore("runs/store").jobs() if job.key.method == "my_net")
    source = job.provenance["method"]
    assert (source["class_path"], len(source["sha256"])) == ("my_net.MyNet", 64)
    assert "my_net" in shown("compare", "--baseline", "constant", "--datasets", "synth")
    assert "external" in next(line for line in shown("regimes").splitlines() if "my_net" in line)
    assert "my_net" in shown("costs")
    assert "my_net" in shown("metrics", "--datasets", "synth", "--metric", "mae")
    shown("figures", "--kind", "conditions", "--datasets", "synth", "--out", "figures")
    # A leaderboard of one's own.
    add = ("leaderboard", "add", "runs/store", "--store")
    assert "method 'my_net' is from outside msabench; name its file" in sentence(*add, "private")
    committed = sentence(*add, "leaderboard/results", *given)
    assert "leaderboard/results takes those that anybody can run; add its file to msabench first" in committed
    assert not Path("leaderboard").exists()
    assert "admitted 3 jobs" in shown(*add, "private", *given)
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    published = str(REPOSITORY / "leaderboard/published")
    shown("leaderboard", "build", "--store", "private", "--out", "site", "--published", published)
    page = Path("site/methods/my_net.html").read_text()
    assert "external" in page
    assert f".yaml --store {STORE} --plugins my_net.py" in page


def test_a_worker_finds_what_the_environment_does_not_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = folder / "away"
    away.mkdir()
    plugin(away)
    (folder / "my_net_synth.yaml").write_text(CONFIG.replace("NAME", "my_net.MyNet"))
    suite = {"name": "mine", "configs": ".", "grid": ["inter/l"], "seeds": [1], "mask_seeds": [0]}
    Path("suite.yaml").write_text(json.dumps({**suite, "jobs": [{"method": "my_net", "dataset": "synth"}]}))
    registry.add_plugins(["away/my_net.py"])
    [planned] = expand(read_suite(Path("suite.yaml")))
    task = pickle.loads(pickle.dumps(Task(planned, Path("run"), Path("store"))))
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    monkeypatch.setattr(sys, "path", [name for name in sys.path if name != str(away)])
    sys.modules.pop("my_net")
    task.prepare()
    monkeypatch.setattr(registry, "_found_by_path", {})
    registry._from_plugin.cache_clear()
    assert worker.main(["run/job.json", "--accelerator", "cpu"]) == 0
    assert [job.key.method for job in ResultStore("store").jobs()] == ["my_net"]


def test_a_plug_in_that_a_worker_does_not_have_is_its_recorded_failure(folder: Path) -> None:
    task = Task(job(), Path("run"), Path("store"), plugins=("/no/where.py",))
    task.prepare()
    assert worker.main(["run/job.json"]) == RECORDED_FAILURE
    [failure] = ResultStore("store").failures()
    assert failure.error.startswith("there is no plug-in /no/where.py")


def test_a_changed_file_makes_a_training_another(folder: Path) -> None:
    registry.add_plugins([plugin(folder)])
    Path("my_net_synth.yaml").write_text(CONFIG.replace("NAME", "my_net.MyNet"))
    built = build([Path("my_net_synth.yaml")], [])
    task = Task(job(), folder, folder)
    before = fit_hash(built, task)
    assert fit_hash(built, task) == before
    plugin(folder, text=NET + "\n# Changed.\n")
    assert fit_hash(built, task) != before


def test_f1_of_ones_own_method_is_held_to_expectations_of_ones_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regression, "SPREAD_SEEDS", (1, 2))
    (folder / "lib").mkdir()
    plugin(folder / "lib")
    monkeypatch.syspath_prepend(str(folder / "lib"))
    # The class path in its config is all that names it.
    Path("my_net_synth.yaml").write_text(CONFIG.replace("NAME", "my_net.MyNet"))
    asked = ("regress", "--methods", "my_net", "--configs", ".", "--expected", "mine.json")
    assert "my_net" in shown(*asked, "--update")
    assert "ok, 8 cells within tolerance" in shown(*asked)
    known = json.loads(Path("mine.json").read_text())
    known["methods"]["my_net"]["inter/l"]["f1"] = 2.0
    Path("mine.json").write_text(json.dumps(known))
    assert dispatch([*asked]) == 1


def test_the_class_path_counts_in_the_hash(folder: Path) -> None:
    from msabench.results.job_identity import config_hash

    registry.add_plugins([plugin(folder)])
    config = {"data": {"dataset": "synth"}, "trainer": {}, "model": {"class_path": "my_net.MyNet"}}
    first = config_hash(config)
    os.environ[PLUGINS_VARIABLE] = ""
    registry.add_plugins([plugin(folder, "other_net.py")])
    assert config_hash({**config, "model": {"class_path": "other_net.MyNet"}}) != first

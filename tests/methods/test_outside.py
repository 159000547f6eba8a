"""Methods from outside: found by plug-in, entry point and class path, and through every verb."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from msabench.__main__ import dispatch, with_plugins
from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.plugins import PLUGINS_VARIABLE
from msabench.results.store import ResultStore

REPOSITORY = Path(__file__).parents[2]
NET = (REPOSITORY / "tests/support/outside/my_net.py").read_text()
CONFIG = (
    "trainer: {max_epochs: 2, enable_progress_bar: false, accelerator: cpu}\n"
    "data: {dataset: synth, size: [24, 8, 10], length: 8, missing: {regime: mixed}}\n"
    "model:\n  class_path: NAME\n  init_args: {hidden: 8}\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder that nothing is remembered of; modules of earlier tests are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    # Set, not deleted, so that what a test adds goes with it.
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    monkeypatch.setattr(registry, "_found_by_path", {})
    for cached in (registry._from_plugin, registry._installed):
        cached.cache_clear()
    yield tmp_path
    for cached in (registry._from_plugin, registry._installed):
        cached.cache_clear()
    for name in ("my_net", "other_net"):
        sys.modules.pop(name, None)


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


def run(*words: str, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(Path("cache").resolve())}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "msabench", *words],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def shown(*words: str) -> str:
    """What a verb that needs no process of its own prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert dispatch(with_plugins([*words])) == 0
    return out.getvalue()


def test_a_bare_file_goes_through_every_verb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(folder)
    Path("my_net_synth.yaml").write_text(CONFIG.replace("NAME", "my_net.MyNet"))
    for name in ("constant.yaml", "constant_synth.yaml"):
        shutil.copy(REPOSITORY / "configs" / name, folder)
    Path("suite.yaml").write_text(
        "name: mine\nconfigs: .\ngrid: [inter, intra/0.5]\nseeds: [1]\nmask_seeds: [0]\n"
        "overrides: {data.size: [24, 8, 10], data.length: 8, data.missing.regime: mixed}\n"
        "jobs:\n- {method: my_net, dataset: synth}\n- {method: constant, dataset: synth}\n"
    )
    given = ("--plugins", "my_net.py")
    said = run("fit", "--config", "my_net_synth.yaml", *given)
    [checkpoint] = folder.glob("runs/fit/synth/my_net/seed_1111/version_0/best.ckpt")
    assert f"next: msabench evaluate --checkpoint {checkpoint}" in said
    run("evaluate", "--checkpoint", str(checkpoint), "--store", "fitted", *given)
    assert "2 jobs" in run("run", "--suite", "suite.yaml", "--slots", "2", "--store", "store", *given)
    # Whoever only reads the records need not have it.
    assert "my_net" not in shown("methods")
    for words in ((), given):
        table = shown("table", "--datasets", "synth", "--store", "store", *words)
        row = next(line for line in table.splitlines() if line.startswith("my_net "))
        assert " external " in row
        assert "external = from outside msabench" in " ".join(table.split())
    assert "external" in next(line for line in shown("methods").splitlines() if line.startswith("my_net "))
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    [job] = [job for job in ResultStore("store").jobs() if job.key.method == "my_net"]
    source = job.provenance["method"]
    assert (source["class_path"], len(source["sha256"])) == ("my_net.MyNet", 64)
    assert "my_net" in shown("compare", "--baseline", "constant", "--store", "store", "--datasets", "synth")
    assert "my_net" in shown("costs", "--store", "store")
    shown("figures", "--kind", "conditions", "--datasets", "synth", "--store", "store", "--out", "figures")
    published = str(REPOSITORY / "leaderboard/published")
    shown("leaderboard", "build", "--store", "store", "--out", "site", "--published", published)
    assert "external" in Path("site/methods/my_net.html").read_text()


def test_the_class_path_counts_in_the_hash(folder: Path) -> None:
    from msabench.results.job_identity import config_hash

    registry.add_plugins([plugin(folder)])
    config = {"data": {"dataset": "synth"}, "trainer": {}, "model": {"class_path": "my_net.MyNet"}}
    first = config_hash(config)
    os.environ[PLUGINS_VARIABLE] = ""
    registry.add_plugins([plugin(folder, "other_net.py")])
    assert config_hash({**config, "model": {"class_path": "other_net.MyNet"}}) != first

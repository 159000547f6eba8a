"""What comes with msabench is found by name from any folder, and a file of one's own wins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from msabench import packaged as packaged_module
from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.packaged import CONFIGS, COSTS, FOLDERS, SUITES, config_file, packaged, suite_file
from msabench.results.job_identity import config_hash
from msabench.runner import command as run_command
from msabench.runner import regress as regression
from msabench.runner.command import suites
from msabench.runner.suite import read_suite
from msabench.training.build import resolve
from msabench.training.config_files import config_of, files_of

REPOSITORY = Path(__file__).parents[1]


def test_a_checkout_has_them_at_its_root() -> None:
    assert [packaged(folder) for folder in FOLDERS] == [REPOSITORY / folder for folder in FOLDERS]


def test_an_installed_package_has_its_own_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages/msabench"
    (package / "_data/configs").mkdir(parents=True)
    (tmp_path / "site-packages/configs").mkdir()
    monkeypatch.setattr(packaged_module, "_roots", lambda: (package / "_data", package.parent))
    assert packaged(CONFIGS) == package / "_data/configs"
    with pytest.raises(MSABenchError, match=r"lacks its folder benchmarks/suites; install it again"):
        packaged(SUITES)


@pytest.mark.parametrize("given", ["umdf_synth", "umdf_synth.yaml", "configs/umdf_synth.yaml", "configs/umdf_synth"])
def test_a_config_is_found_by_its_name_unless_one_of_ones_own_has_it(given: str, elsewhere: Path) -> None:
    assert config_file(given) == packaged(CONFIGS) / "umdf_synth.yaml"
    Path(CONFIGS).mkdir()
    below = Path(CONFIGS, "umdf_synth.yaml")
    below.write_text("base: umdf.yaml\n")
    assert config_file(given) == below
    if "/" not in given:
        beside = Path("umdf_synth.yaml")
        beside.write_text("base: umdf.yaml\n")
        assert config_file(given) == beside
        assert config_file(elsewhere / given) == elsewhere / beside


@pytest.mark.parametrize(
    ("find", "given", "sentence"),
    [
        (config_file, "umdf_synht", r"there is no config umdf_synht, neither .* msabench; did you mean umdf_synth\?"),
        (config_file, "qqq", r"there is no config qqq, .*; msabench configs lists these"),
        (config_file, "mine/umdf_synth.yaml", r"there is no config mine/umdf_synth\.yaml"),
        (config_file, "../configs/umdf_synth.yaml", r"there is no config \.\./configs/umdf_synth\.yaml"),
        (config_file, "", r"there is no config ,"),
        (config_file, ".", r"there is no config \.,"),
        (config_file, "..", r"there is no config \.\.,"),
        (suite_file, "dmeo", r"there is no suite dmeo, .* did you mean demo\?"),
        (suite_file, "configs/umdf_synth.yaml", r"there is no suite configs/umdf_synth\.yaml"),
    ],
)
def test_what_is_nowhere_is_named(find, given: str, sentence: str, elsewhere: Path) -> None:
    with pytest.raises(MSABenchError, match=sentence) as caught:
        find(given)
    assert "\n" not in str(caught.value)


def test_a_config_by_name_trains_as_the_same_file(elsewhere: Path) -> None:
    by_name = resolve([Path("umdf_synth")], [])
    assert by_name == resolve([REPOSITORY / "configs/umdf_synth.yaml"], [])
    assert config_hash(by_name) == config_hash(resolve([Path("configs/umdf_synth.yaml")], []))


@pytest.mark.parametrize(
    "words", [["--config", "constant_synth"], ["--config=configs/constant_synth.yaml"], ["-c", "constant_synth"]]
)
def test_fit_takes_names_files_and_settings(
    words: list[str], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        dispatch(["fit", *words, "--config", "{trainer: {max_epochs: 3}}", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["class_path"].endswith("Constant")
    assert printed["trainer"]["max_epochs"] == 3
    with pytest.raises(MSABenchError, match=r"there is no config constant_snyth, .* did you mean constant_synth\?"):
        dispatch(["fit", "--config", "constant_snyth"])


def test_a_base_is_looked_up_beside_the_file_and_then_among_ours(elsewhere: Path) -> None:
    mine = Path("mine.yaml")
    mine.write_text("base: umdf_synth.yaml\ntrainer: {max_epochs: 2}\n")
    theirs = config_of(packaged(CONFIGS) / "umdf_synth.yaml")
    assert config_of(mine) == {**theirs, "trainer": {**theirs["trainer"], "max_epochs": 2}}
    assert [path.name for path in files_of(mine)] == ["mine.yaml", "umdf_synth.yaml", "umdf.yaml"]
    Path("umdf_synth.yaml").write_text("early_stop: 3\n")
    assert config_of(mine) == {"early_stop": 3, "trainer": {"max_epochs": 2}}
    mine.write_text("base: configs/umdf_synth.yaml\n")
    with pytest.raises(
        MSABenchError, match=r"there is no file configs/umdf_synth\.yaml, which config mine\.yaml names"
    ):
        config_of(mine)


def test_a_suite_of_ones_own_needs_configs_for_what_is_its_own_alone(elsewhere: Path) -> None:
    suite = Path("suite.yaml")
    job, ours = "{method: mult, dataset: synth}", packaged(CONFIGS)
    suite.write_text(f"name: mine\njobs:\n- {job}\n- {{method: umdf, dataset: synth}}\n")
    assert [job.config_file for job in read_suite(suite).jobs] == [ours / "mult_synth.yaml", ours / "umdf_synth.yaml"]
    Path(CONFIGS).mkdir()
    shutil.copy(ours / "mult_synth.yaml", CONFIGS)
    assert [job.config_file for job in read_suite(suite).jobs] == [
        elsewhere / "configs/mult_synth.yaml",
        ours / "umdf_synth.yaml",
    ]
    suite.write_text(f"name: mine\nconfigs: .\njobs:\n- {job}\n")
    assert read_suite(suite).jobs[0].config_file == ours / "mult_synth.yaml"
    suite.write_text("name: mine\njobs:\n- {method: mult, dataset: synth, config: ../mult_synth.yaml}\n")
    with pytest.raises(MSABenchError, match=r"there is no config .*mult_synth\.yaml for job 1 of suite suite\.yaml"):
        read_suite(suite)


def test_a_suite_of_ones_own_may_include_ours(elsewhere: Path) -> None:
    suite = Path("suite.yaml")
    demo = read_suite(suite_file("demo"))
    suite.write_text(
        f"name: mine\ngrid: {list(demo.grid)}\nmask_seeds: {list(demo.mask_seeds)}\ninclude: [demo.yaml]\n"
    )
    assert read_suite(suite).jobs == demo.jobs


def test_suites_are_listed_by_name_where_there_are_none_of_ones_own(elsewhere: Path) -> None:
    listed = suites().partition("\n\n")[0].splitlines()
    assert [line.partition(":")[0] for line in listed] == [
        path.stem for path in sorted(packaged(SUITES).glob("*.yaml"))
    ]
    Path(SUITES).mkdir(parents=True)
    Path(SUITES, "mine.yaml").write_text("name: mine\njobs: [{method: mult, dataset: synth}]\n")
    assert suites().startswith("benchmarks/suites/mine.yaml: 1 jobs, 1 methods, 1 datasets\n\n")


def test_costs_that_come_with_msabench_are_known_everywhere(elsewhere: Path) -> None:
    def last() -> Path:
        return run_command.stores_at_hand(Path("suite.yaml"), Path("store"))[-1].folder

    assert last() == packaged(COSTS)
    Path(COSTS).mkdir(parents=True)
    assert last() == Path(COSTS)


def test_regress_updates_a_file_in_the_working_folder(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = packaged("benchmarks/regression") / "expected.json"
    before = shipped.read_bytes()
    known = {cell: value["f1"] for cell, value in regression._read(shipped, missing_is_empty=False)["constant"].items()}
    monkeypatch.setattr(regression, "measure", lambda method, seed, configs: known)
    assert regression.regress(["constant"]) == 0
    assert regression.regress(["constant"], update=True) == 0
    here = elsewhere / "benchmarks/regression/expected.json"
    assert (
        regression._read(here, missing_is_empty=False).keys()
        == regression._read(shipped, missing_is_empty=False).keys()
    )
    # What is here is what counts from now on.
    here.write_text(here.read_text().replace('"constant"', '"constant_"'))
    assert regression.regress(["constant"]) == 1
    assert shipped.read_bytes() == before


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert dispatch(["configs", *words]) == 0
    return capsys.readouterr().out


def test_configs_are_listed_by_method(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys).splitlines()
    assert "umdf       custom iemocap mosei mosei_video mosi sims synth" in lines
    assert sum(len(line.split()) - 1 for line in lines if line.split()[1:2] == ["custom"]) == len(
        [path for path in packaged(CONFIGS).glob("*_*.yaml") if "dataset:" in path.read_text()]
    )


def test_a_printed_config_is_one(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = packaged(CONFIGS) / "umdf_synth.yaml"
    assert said(capsys, "umdf_synth") == shipped.read_text()
    for words in (["umdf_synth"], ["configs/umdf_synth.yaml", "--merged"]):
        Path("mine.yaml").write_text(said(capsys, *words))
        assert config_of(Path("mine.yaml")) == config_of(shipped)
    assert "base" not in yaml.safe_load(Path("mine.yaml").read_text())


def test_a_config_is_copied_with_what_it_builds_on_and_replaces_nothing(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = said(capsys, "umdf_synth", "--out", "my configs")
    assert out == (
        "copied umdf_synth.yaml, umdf.yaml to my configs\nnext: msabench fit --config 'my configs/umdf_synth.yaml'\n"
    )
    copied = Path("my configs/umdf_synth.yaml")
    assert {path.parent for path in files_of(copied)} == {copied.parent}
    assert config_of(copied) == config_of(packaged(CONFIGS) / copied.name)
    # The base is there already, and the same.
    assert said(capsys, "umdf_mosi", "--out", "my configs").startswith("copied umdf_mosi.yaml to my configs\n")
    assert said(capsys, "umdf_mosi", "--out", "my configs").startswith("my configs has it already\n")
    changed = copied.with_name("umdf.yaml")
    changed.write_text("early_stop: 3\n")
    with pytest.raises(
        MSABenchError, match=r"my configs/umdf\.yaml exists and is another file than umdf\.yaml of msabench"
    ):
        dispatch(["configs", "umdf_sims", "--out", "my configs"])
    assert changed.read_text() == "early_stop: 3\n"
    assert not copied.with_name("umdf_sims.yaml").exists()
    everything = said(capsys, "--out", "all")
    assert everything == f"copied {len(list(packaged(CONFIGS).glob('*.yaml')))} files to all\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["umdf_synht"], r"no config that comes with msabench is called umdf_synht; did you mean umdf_synth\?"),
        (["../pyproject"], r"no config that comes with msabench is called \.\./pyproject; msabench configs lists them"),
        (["--merged"], r"merged prints one config; give its name"),
        (["umdf_synth", "--merged", "--out", "x"], r"merged prints one config; give its name"),
        (["umdf_synth", "umdf_mosi"], r"umdf_mosi"),
    ],
)
def test_what_configs_cannot_do_is_refused(words: list[str], sentence: str, elsewhere: Path) -> None:
    with pytest.raises(MSABenchError, match=sentence):
        dispatch(["configs", *words])
    assert not list(elsewhere.iterdir())

"""Suite files: what they expand into, and what is refused."""

import json
from pathlib import Path

import pytest
import yaml

from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.published.numbers import load_published
from msabench.runner import suite as suite_module
from msabench.runner.command import suites
from msabench.runner.suite import Job, expand, read_suite, select

SHIPPED = Path(__file__).parents[2] / "benchmarks" / "suites"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "configs").mkdir()
    for name in ("constant_synth", "constant_mosi", "umdf_synth"):
        (tmp_path / "configs" / f"{name}.yaml").write_text("")
    (tmp_path / "suites").mkdir()
    return tmp_path


def written(folder, **changes):
    content = {"name": "s", "jobs": [{"method": "constant", "dataset": "synth"}], **changes}
    path = folder / "suites" / "s.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
    return path


def fake_resolver(calls):
    """Reads what the words say instead of parsing configs."""

    def resolve(config_files, overrides):
        calls.append((config_files, tuple(overrides)))
        method, _, dataset = config_files[0].stem.partition("_")
        settings = dict(word.removeprefix("--").split("=", 1) for word in overrides)
        return {
            "seed_everything": 1,
            "trainer": {"max_epochs": 3},
            "data": {"dataset": dataset, "missing": {"regime": settings.get("data.missing.regime", "complete")}},
            "model": {
                "class_path": {"constant": "Constant", "umdf": "UMDF"}[method],
                "init_args": {"variant": settings.get("model.init_args.variant", "default")},
            },
        }

    return resolve


@pytest.fixture
def here(monkeypatch):
    """All data are here."""
    monkeypatch.setattr(suite_module, "open_data", lambda data, splits: ("r", None, ""))


@pytest.mark.usefixtures("here")
def test_an_entry_expands_into_seeds_variants_and_regimes(folder):
    jobs = [
        {"method": "umdf", "dataset": "synth", "variants": ["default", "wo_mcim"], "regimes": ["complete", "mixed"]},
        {"method": "constant", "dataset": "synth", "seeds": [5]},
    ]
    suite = read_suite(written(folder, seeds=[1, 2], jobs=jobs, grid=["inter"], mask_seeds=[4]))
    calls = []
    expanded = expand(suite, fake_resolver(calls))
    assert [(j.key.method, j.key.variant, j.key.regime, j.key.seed) for j in expanded] == [
        ("umdf", variant, regime, seed)
        for variant in ("default", "wo_mcim")
        for regime in ("complete", "mixed")
        for seed in (1, 2)
    ] + [("constant", "default", "complete", 5)]
    assert len(calls) == 5, "a config is resolved once for all seeds"
    assert not any("seed" in word for _, words in calls for word in words)
    assert all(job.overrides[-1] == f"--seed_everything={job.key.seed}" for job in expanded)
    assert {(job.grid, job.mask_seeds, job.suites) for job in expanded} == {(("inter",), (4,), ("s",))}
    assert all(job.config["data"]["seed"] == job.config["seed_everything"] == job.key.seed for job in expanded)


def test_overrides_of_an_entry_win_and_values_become_words(folder):
    suite = read_suite(
        written(
            folder,
            overrides={"trainer.max_epochs": 8, "data.size": [3, 2, 1], "data.root": None, "wandb": False},
            jobs=[
                {
                    "method": "constant",
                    "dataset": "synth",
                    "overrides": {"trainer.max_epochs": 2, "data.normalise": "none"},
                    "regimes": [{"regime": "intra", "rate": [0.5, 0.5]}],
                }
            ],
        )
    )
    assert suite.jobs[0].overrides == (
        "--trainer.max_epochs=2",
        "--data.size=[3, 2, 1]",
        "--data.root=null",
        "--wandb=false",
        "--data.normalise=none",
        "--data.missing.regime=intra",
        "--data.missing.rate=[0.5, 0.5]",
    )


def test_specialists_are_the_regimes_of_the_cells_of_a_grid(folder):
    entry = {"method": "constant", "dataset": "synth", "regimes": ["mixed"], "specialists": ["inter", "random/0.3"]}
    suite = read_suite(written(folder, jobs=[entry], grid=["inter", "random/0.3"]))
    missing = [tuple(word.removeprefix("--data.missing.") for word in job.overrides) for job in suite.jobs]
    assert missing == [
        ("regime=mixed",),
        *(("regime=only", f"only={letters}") for letters in ("l", "a", "v", "la", "lv", "av")),
        ("regime=complete",),
        ("regime=random", "rate=[0.3, 0.3]"),
    ]
    with pytest.raises(MSABenchError, match=r"no regime of the one situation intra/0\.5"):
        read_suite(written(folder, jobs=[{**entry, "specialists": ["intra/0.5"]}]))
    with pytest.raises(MSABenchError, match=r"specialists of job 1 of suite s\.yaml must be a list"):
        read_suite(written(folder, jobs=[{**entry, "specialists": "inter"}]))


def test_a_specialist_whose_home_is_not_tested_is_refused(folder):
    entry = {"method": "constant", "dataset": "synth", "specialists": ["inter", "random/0.3", "random/0.7"]}
    with pytest.raises(
        MSABenchError,
        match=r"^specialists of job 2 of suite s\.yaml are at home in random/0\.3, random/0\.7, which the suite's grid",
    ):
        read_suite(written(folder, jobs=[{"method": "constant", "dataset": "synth"}, entry]))
    assert len(read_suite(written(folder, jobs=[entry], grid=["paper", "random"])).jobs) == 9
    # A situation has one name, whichever grid it is of.
    complete = {**entry, "specialists": ["random/0.0"]}
    assert len(read_suite(written(folder, jobs=[complete], grid=["intra/0.0"])).jobs) == 1


@pytest.mark.usefixtures("here")
def test_equal_trainings_are_one_job_and_jobs_survive_json(folder):
    entry = {"method": "constant", "dataset": "synth"}
    suite = read_suite(written(folder, jobs=[entry, {**entry, "regimes": ["complete"]}]))
    assert len(suite.jobs) == 2
    (job,) = expand(suite, fake_resolver([]))
    again = Job.from_json(json.loads(json.dumps(job.to_json())))
    assert again == job
    assert again.config == job.config


def test_a_job_without_data_is_planned_with_its_reason(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MSABENCH_DATA", str(tmp_path / "nowhere"))
    suite = read_suite(written(folder, jobs=[{"method": "constant", "dataset": "mosi"}]))
    (job,) = expand(suite, fake_resolver([]))
    assert "there is no file" in job.problem
    assert job.key.revision == "missing"


@pytest.mark.usefixtures("here")
def test_a_config_of_another_method_is_refused(folder):
    suite = read_suite(written(folder, jobs=[{"method": "constant", "dataset": "synth", "config": "umdf_synth.yaml"}]))
    with pytest.raises(MSABenchError, match=r"config of umdf on synth.*expects constant"):
        expand(suite, fake_resolver([]))


def test_filters_keep_what_is_named_and_refuse_what_is_not_there(folder):
    jobs = [{"method": "constant", "dataset": "synth"}, {"method": "umdf", "dataset": "synth"}]
    suite = read_suite(written(folder, seeds=[1, 2], jobs=jobs))
    kept = select(suite, methods=["umdf"], seeds=[2])
    assert [(d.method, d.seed) for d in kept.jobs] == [("umdf", 2)]
    assert select(suite).jobs == suite.jobs
    with pytest.raises(MSABenchError, match="unknown dataset of suite s 'mosi'; allowed: synth"):
        select(suite, datasets=["mosi"])


ENTRY = {"method": "constant", "dataset": "synth"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, "unknown key in suite s.yaml 'epochs'; allowed: name, description, grid"),
        ({"jobs": [{**ENTRY, "variant": "x"}]}, "unknown key in job 1 of suite s.yaml 'variant'; allowed: method"),
        ({"jobs": [{"method": "constant"}]}, "job 1 of suite s.yaml lacks the key 'dataset'"),
        ({"jobs": None}, "suite s.yaml lacks the key 'jobs'"),
        ({"jobs": []}, "jobs of suite s.yaml must be a list"),
        ({"jobs": ["constant"]}, "job 1 of suite s.yaml must be a mapping"),
        ({"jobs": [{**ENTRY, "method": "nobody"}]}, "unknown method 'nobody'"),
        ({"jobs": [{**ENTRY, "dataset": "nowhere"}]}, "unknown dataset 'nowhere'"),
        ({"jobs": [{**ENTRY, "variants": ["wo_x"]}]}, "unknown variant of constant in job 1"),
        ({"jobs": [{**ENTRY, "variants": "wo_x"}]}, "variants of job 1 of suite s.yaml must be a list"),
        ({"jobs": [{**ENTRY, "regimes": ["none"]}]}, "unknown training regime 'none'"),
        ({"jobs": [{**ENTRY, "regimes": "mixed"}]}, "regimes of job 1 of suite s.yaml must be a list"),
        ({"jobs": [{**ENTRY, "regimes": [{"ratio": 1}]}]}, "unknown key in regimes of job 1 of suite s.yaml 'ratio'"),
        ({"jobs": [{**ENTRY, "config": "no.yaml"}]}, "there is no config .*no.yaml for job 1"),
        ({"overrides": [1]}, "overrides of suite s.yaml must be a mapping"),
        ({"grid": ["none"]}, "unknown grid 'none'"),
        ({"grid": "paper"}, "grid of suite s.yaml must be a list"),
        ({"seeds": []}, "seeds of suite s.yaml must be distinct numbers"),
        ({"seeds": [2**70]}, f"seeds of suite s.yaml must be distinct numbers from 0 to 4294967295, .* not .{2**70}."),
        ({"seeds": [1, 1]}, "seeds of suite s.yaml must be distinct numbers"),
        ({"seeds": [True]}, "seeds of suite s.yaml must be a list of int"),
        ({"mask_seeds": [-1]}, "mask_seeds of suite s.yaml must be distinct numbers from 0 to"),
        ({"configs": "nowhere"}, "there is no config folder"),
    ],
)
def test_mistakes_are_named_in_one_sentence(folder, changes, message):
    with pytest.raises(MSABenchError, match=message) as caught:
        read_suite(written(folder, **changes))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_suites(folder):
    with pytest.raises(MSABenchError, match="there is no suite"):
        read_suite(folder / "suites" / "other.yaml")
    broken = folder / "suites" / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(MSABenchError, match="not valid YAML"):
        read_suite(broken)


def test_listing_suites_counts_jobs_and_shows_broken_ones(folder):
    written(folder, seeds=[1, 2], description="two seeds")
    (folder / "suites" / "t.yaml").write_text("name: t\njobs: 1\n")
    one, two = suites(folder / "suites").partition("\n\n")[0].splitlines()
    assert one.endswith("s.yaml: 2 jobs, 1 methods, 1 datasets; two seeds")
    assert "jobs of suite t.yaml must be a list" in two
    with pytest.raises(MSABenchError, match="there are no suites"):
        suites(folder)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_suites_resolve(path, resolved):
    suite = read_suite(path)
    assert suite.name == path.stem
    jobs = expand(suite, resolved)
    # Those of tuned settings are known when their studies are complete.
    assert len(jobs) == sum(unresolved.budget is None for unresolved in suite.jobs)
    assert len({job.key.job_id for job in jobs}) == len(jobs)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("paper", ["umdf", "fsrf", "prlf", "recap"])
def test_every_row_of_a_papers_tables_is_a_job_under_one_protocol(paper, resolved):
    jobs = [job.key for job in expand(read_suite(SHIPPED / f"{paper}_tables.yaml"), resolved)]
    printed = [number for number in load_published() if number.paper == paper and number.table != "text"]
    rows = {(number.dataset, number.method, number.variant) for number in printed}
    assert {method for _, method, _ in rows} <= set(registry.methods())
    assert rows <= {(key.dataset, key.method, key.variant) for key in jobs}
    for dataset, method, _ in rows:
        if method != paper:
            regimes = {key.regime for key in jobs if (key.dataset, key.method) == (dataset, method)}
            assert regimes >= {"complete", "mixed"}
    # What stands in one table of theirs stands in one of ours.
    for dataset in {key.dataset for key in jobs}:
        assert len({(key.features, key.level, key.lengths) for key in jobs if key.dataset == dataset}) == 1


@pytest.mark.usefixtures("here")
def test_a_suite_may_include_others_with_their_settings(folder):
    inner = {"name": "inner", "overrides": {"trainer.max_epochs": 7}, "seeds": [5, 6]}
    (folder / "suites" / "inner.yaml").write_text(
        yaml.safe_dump({**inner, "jobs": [{"method": "umdf", "dataset": "synth", "variants": ["wo_mcim"]}]})
    )
    suite = read_suite(written(folder, include=["inner.yaml"], seeds=[1]))
    assert [(unresolved.method, unresolved.seed) for unresolved in suite.jobs] == [
        ("umdf", 5),
        ("umdf", 6),
        ("constant", 1),
    ]
    assert suite.jobs[0].overrides == ("--trainer.max_epochs=7", "--model.init_args.variant=wo_mcim")
    assert suite.jobs[2].overrides == ()
    only = read_suite(written(folder, include=["inner.yaml"], jobs=None))
    assert len(only.jobs) == 2


WORDS = r"^cell words/0\.3 replaces words before the text encoder, which level 'vectors' does not reach; set level to "


def test_a_grid_that_the_level_of_a_job_does_not_allow_is_refused_when_it_is_planned(folder, here):
    entry = {"method": "constant", "dataset": "synth"}
    path = written(folder, grid=["inter", "words/0.3"], jobs=[entry])
    with pytest.raises(MSABenchError, match=WORDS):
        expand(read_suite(path), resolver_with_level(None))
    (job,) = expand(read_suite(path), resolver_with_level("tokens"))
    assert job.grid == ("inter", "words/0.3")
    path = written(folder, grid=["noise"], jobs=[entry])
    assert len(expand(read_suite(path), resolver_with_level("vectors"))) == 1
    with pytest.raises(
        MSABenchError, match=r"cell noise/0\.25 adds noise to text, which is token ids at level 'tokens'"
    ):
        expand(read_suite(path), resolver_with_level("tokens"))


def resolver_with_level(level):
    def resolve(config_files, overrides):
        config = fake_resolver([])(config_files, overrides)
        config["data"]["missing"] |= {} if level is None else {"level": level}
        return config

    return resolve


def test_a_dry_run_refuses_them_as_well(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "s",
                "grid": ["words"],
                "overrides": {"data.size": [8, 4, 4], "data.length": 4},
                "jobs": [{"method": "constant", "dataset": "synth"}],
            }
        )
    )
    with pytest.raises(MSABenchError, match=r"^cell words/0\.1 replaces words"):
        dispatch(["run", "--suite", "s.yaml", "--store", "store", "--dry-run"])
    assert not (tmp_path / "store").exists()


def test_includes_that_cannot_be_followed_are_refused(folder):
    with pytest.raises(MSABenchError, match=r"suite s.yaml includes s.yaml, which includes it in turn"):
        read_suite(written(folder, include=["s.yaml"]))
    with pytest.raises(MSABenchError, match="there is no suite"):
        read_suite(written(folder, include=["elsewhere.yaml"]))
    (folder / "suites" / "inner.yaml").write_text(
        yaml.safe_dump({"name": "i", "grid": ["inter"], "jobs": [{"method": "constant", "dataset": "synth"}]})
    )
    with pytest.raises(MSABenchError, match=r"has grid \['paper'\] and includes inner.yaml with \['inter'\]"):
        read_suite(written(folder, include=["inner.yaml"]))

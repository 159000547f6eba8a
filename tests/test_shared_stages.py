"""A teacher that several jobs share is the teacher that each would have trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from msabench.cli import build
from msabench.evaluation.predictions import path_of
from msabench.registry import method_info
from msabench.runner.executor import Task, run_folder
from msabench.runner.job import run_job
from msabench.runner.stages import FOLDER, SharedStage
from msabench.runner.suite import Job, expand, read_suite

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def jobs(folder: Path, method: str, *regimes: str, **overrides: object) -> list[Job]:
    """A method's jobs on a few clips, one per regime."""
    init_args = {f"model.init_args.{name}": value for name, value in method_info(method).smoke.items()}
    suite = {
        "name": "shared",
        "configs": str(ROOT / "configs"),
        "grid": ["inter/l", "inter/lav"],
        "mask_seeds": [0],
        "seeds": [1],
        "overrides": {
            **init_args,
            "trainer.max_epochs": 4,
            "data.size": [24, 12, 12],
            "data.length": 8,
            **overrides,
        },
        "jobs": [{"method": method, "dataset": "synth", "regimes": list(regimes)}],
    }
    folder.mkdir(exist_ok=True)
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    return expand(read_suite(folder / "suite.yaml"))


def run(folder: Path, job: Job) -> bytes:
    """Run a job in this process; its file of predictions."""
    task = Task(job, run_folder(folder / "runs", job), folder / "store")
    task.prepare()
    run_job(task, "cpu")
    return path_of(task.store, job.key).read_bytes()


@pytest.mark.parametrize("method", ["corrkd", "hrlf", "kt", "smil"])
def test_a_shared_teacher_changes_no_number(method: str, tmp_path: Path) -> None:
    complete, mixed = jobs(tmp_path, method, "complete", "mixed")
    run(tmp_path, complete)
    (shared,) = (tmp_path / "runs" / "synth" / method / FOLDER).iterdir()
    made = shared.stat().st_mtime_ns
    with_shared = run(tmp_path, mixed)
    assert list(shared.parent.iterdir()) == [shared]
    assert shared.stat().st_mtime_ns == made, "the teacher was trained again"
    alone = jobs(tmp_path / "alone", method, "mixed")[0]
    assert alone.key == mixed.key
    assert run(tmp_path / "alone", alone) == with_shared
    ours, theirs = (
        next((folder / "runs" / "synth" / method / FOLDER).iterdir()) for folder in (tmp_path, tmp_path / "alone")
    )
    one, other = (torch.load(path, weights_only=True)["state_dict"] for path in (ours, theirs))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_changes_the_teacher_changes_its_name(tmp_path: Path) -> None:
    def path(**changes: object) -> Path | None:
        (job,) = jobs(tmp_path, "corrkd", "mixed", **changes)
        task = Task(job, run_folder(tmp_path / "runs", job), tmp_path / "store")
        stage = SharedStage.of(build(list(job.config_files), list(job.overrides)), task)
        return stage.path if stage else None

    plain = path()
    assert plain == path()
    for changes in ({"data.length": 9}, {"model.init_args.lr": 0.5}, {"data.normalise": "zscore"}):
        assert path(**changes) not in (plain, None)
    assert path(**{"model.init_args.lr_patience": 2}) is None, "a plateau is looked for under the regime"

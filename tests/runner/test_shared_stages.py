"""A teacher that several jobs share is the teacher that each would have trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from msabench.methods.registry import method_info
from msabench.results.predictions import path_of
from msabench.runner.executor import Task, run_folder
from msabench.runner.job import run_job
from msabench.runner.stages import FOLDER, SharedStage
from msabench.runner.suite import Job, expand, read_suite
from msabench.training.build import build

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize("method", ["corrkd", "hrlf", "kt", "mmin", "momke", "mplmm", "smil", "tate"])
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


def test_what_an_earlier_attempt_left_is_no_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Jobs are killed, code changes in between, disks fill up: numbers stay those of a clean run."""
    complete, mixed, inter = jobs(tmp_path, "hrlf", "complete", "mixed", "inter")
    folder = tmp_path / "runs" / "synth" / "hrlf"
    clean = {job.key.job_id: run(tmp_path / "clean", job) for job in (mixed, inter)}
    run(tmp_path, complete)
    (shared,) = (folder / FOLDER).iterdir()
    kept, other = shared.read_bytes(), torch.load(shared, weights_only=True)
    for weights in other["state_dict"].values():
        weights.zero_()
    # A job was killed after its teacher.
    left = run_folder(tmp_path / "runs", mixed)
    left.mkdir()
    torch.save(other, left / "teacher.ckpt")
    foreign = (left / "teacher.ckpt").read_bytes()
    assert run(tmp_path, mixed) == clean[mixed.key.job_id]
    assert [path.read_bytes() for path in (folder / FOLDER).iterdir()] == [kept]

    for content in (kept[: len(kept) // 2], foreign):
        shared.write_bytes(content)
        capsys.readouterr()
        again = Task(inter, run_folder(tmp_path / "runs", inter), tmp_path / f"store{len(content)}")
        again.prepare()
        run_job(again, "cpu")
        assert f"{shared} is damaged, so stage teacher is not taken from there" in capsys.readouterr().out
        assert path_of(again.store, inter.key).read_bytes() == clean[inter.key.job_id]
        (shared,) = (folder / FOLDER).iterdir()
        assert shared.read_bytes() != content


def test_only_what_loads_and_belongs_to_the_stage_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = SharedStage("teacher", tmp_path / FOLDER, "0" * 16)
    for content, problem in (({"msabench": {"stage": "task"}}, "it was saved in stage 'task'"), (b"PK", "")):
        left = tmp_path / "teacher.ckpt"
        left.write_bytes(content) if isinstance(content, bytes) else torch.save(content, left)
        stage.keep(tmp_path)
        assert stage.trained() is None
        assert f"{left} is not kept for other jobs: {problem}" in capsys.readouterr().out


def test_what_changes_the_teacher_changes_its_name(tmp_path: Path) -> None:
    def key(**changes: object) -> str | None:
        (job,) = jobs(tmp_path, "corrkd", "mixed", **changes)
        task = Task(job, run_folder(tmp_path / "runs", job), tmp_path / "store")
        stage = SharedStage.of(build(list(job.config_files), list(job.overrides)), task)
        return stage.key if stage else None

    plain = key()
    assert plain == key()
    for changes in ({"data.length": 9}, {"model.init_args.lr": 0.5}, {"data.normalise": "zscore"}):
        assert key(**changes) not in (plain, None)
    assert key(**{"model.init_args.lr_patience": 2}) is None, "a plateau is looked for under the regime"
